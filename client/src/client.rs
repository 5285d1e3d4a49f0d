//! [`Client`]: everything that a program needs to send streams through the network.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Context;
use std::time::Duration;

use cepa_common::cell::message::EndReason;
use cepa_common::dir::{
    Clock, Consensus, ConsensusConflict, Dial, NetworkFile, NetworkHandle, Reviser, RevisionStore,
    revise,
};
use cepa_common::ids::RelayId;
use cepa_common::net::circuit_io::StreamIo;
use cepa_common::net::tasks::{Stopper, tasks};
use cepa_common::net::tls::Tls;
use cepa_common::onion::Suite;
use cepa_common::stream::{StreamError, Target as StreamTarget, TargetHost};
use tokio::io::AsyncWrite;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::circuit::dir_streams::PoolStreams;
use crate::circuit::isolation::{IsolateBy, Isolation};
use crate::circuit::links::Links;
use crate::circuit::pool::{CircuitError, Pool, Wanted};
use crate::dir::{BootstrapProgress, Directory, DirectoryConfig, NoConsensus, directory};
use crate::front::{self, ConnectRequest, Connector, Failure, FrontOptions, Host};
use crate::guard::Keeper;
use crate::path::{PathError, PeerRules, RuleError, Target};
use crate::skew::ClockSkew;

/// A consensus must be there within this time.
const BOOTSTRAP_TIMEOUT: Duration = Duration::from_secs(60);
/// A stream must be open within this time, over all tries.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);
/// One circuit has this time to open a stream before another is tried.
pub(crate) const TRY_TIMEOUT: Duration = Duration::from_secs(20);
/// Circuits tried for one stream.
const CONNECT_TRIES: usize = 8;

/// What a client is started with.
pub struct ClientOptions {
    /// The network, as it is known now.
    pub network: NetworkHandle,
    /// The file that the network was read from, to notice when its owner puts a later revision there.
    pub network_file: Option<PathBuf>,
    /// Where the newest consensus and the guards are kept between runs; it must exist. `None` keeps nothing.
    pub state_dir: Option<PathBuf>,
    /// What keeps streams on different circuits.
    pub isolate_by: IsolateBy,
    /// What the owner decides of paths.
    pub peers: PeerRules,
    /// Hears how far the start has come.
    pub progress: Option<watch::Sender<BootstrapProgress>>,
}

impl ClientOptions {
    /// A client of `network` that keeps nothing on disk.
    pub fn new(network: impl Into<NetworkHandle>) -> Self {
        Self {
            network: network.into(),
            network_file: None,
            state_dir: None,
            isolate_by: IsolateBy::default(),
            peers: PeerRules::default(),
            progress: None,
        }
    }
}

/// Why a client did not start.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No authority or cache gave a consensus that holds.
    #[error("no consensus could be had from any authority or cache: {0}")]
    NoConsensus(String),
    /// The owner's rules for paths cannot be kept, or leave nothing to choose in this network.
    #[error(transparent)]
    Rules(#[from] RuleError),
}

/// Why a stream was not opened.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The target is not `host:port`.
    #[error("{0:?} is not a host and a port")]
    BadTarget(String),
    /// No consensus may be used: expired, or a clock that is off.
    #[error(transparent)]
    NoConsensus(#[from] NoConsensus),
    /// There is no circuit.
    #[error(transparent)]
    Circuit(#[from] CircuitError),
    /// The exit, or the circuit, ended the stream.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// It took too long.
    #[error("the stream was not open in time")]
    TimedOut,
}

struct Shared {
    network: NetworkHandle,
    pool: Arc<Pool>,
    directory: Directory,
    skew: ClockSkew,
    isolate_by: IsolateBy,
    sessions: AtomicU64,
    /// Numbers streams, where each is to be alone.
    streams: AtomicU64,
}

/// A client of a network. Clones share its circuits; those from
/// [`Client::isolated`] share none of them.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    session: u64,
    stopper: Arc<std::sync::Mutex<Option<Stopper>>>,
}

/// A hop of a circuit, as [`Client::trace`] measured it.
#[derive(Clone, Debug)]
pub struct HopReport {
    /// Who it is.
    pub identity: RelayId,
    /// Is it the guard, that the client's circuits begin at?
    pub is_guard: bool,
    /// Its name for people.
    pub nickname: String,
    /// Where it is reached, by the consensus.
    pub address: SocketAddr,
    /// The suite of its layer.
    pub suite: Suite,
    /// From sending CREATE or EXTEND to the keys.
    pub handshake: Duration,
    /// From the client to this hop and back.
    pub rtt: Duration,
}

impl Client {
    /// Joins the network: done once a consensus is held that holds.
    pub async fn bootstrap(options: ClientOptions) -> Result<Self, ClientError> {
        let network = options.network;
        let rules = Arc::new(options.peers);
        rules.check()?;
        if rules.hops == 1 {
            tracing::warn!(
                "circuits have 1 hop: that relay knows both who asks and for what, and is no guard; there is no anonymity"
            );
        }
        let store = options
            .state_dir
            .as_deref()
            .map(|directory| RevisionStore::new(directory, &network.network_id()));
        let tls = Tls::client();
        let (tasks, stopper) = tasks();
        let dial: Arc<dyn Dial> = Arc::new(tls.clone());
        let (task, directory) = directory(DirectoryConfig {
            network: network.clone(),
            dial: dial.clone(),
            clock: Clock::system(),
            cache: options.state_dir.clone(),
        });
        tasks.spawn(task.run());
        let newest = directory.consensus();
        tasks.spawn(revise(Reviser {
            network: network.clone(),
            dial,
            clock: Clock::system(),
            consensus: Box::new(move || newest.borrow().clone()),
            asks_authorities: false,
            store,
            file: options.network_file,
        }));
        if let Some(progress) = options.progress {
            let mut steps = directory.progress();
            tasks.spawn(async move {
                while steps.changed().await.is_ok() {
                    let step = steps.borrow_and_update().clone();
                    if progress.send(step).is_err() {
                        return;
                    }
                }
            });
        }
        match timeout(BOOTSTRAP_TIMEOUT, directory.usable()).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(ClientError::NoConsensus(error.to_string())),
            Err(_) => return Err(ClientError::NoConsensus(directory.why_none().to_string())),
        }
        let (network_id, state_dir) = (network.network_id(), options.state_dir);
        let load = move || Keeper::load(network_id, state_dir.as_deref(), Clock::system());
        let guards = tokio::task::spawn_blocking(load).await;
        let guards = guards.unwrap_or_else(|_| Keeper::load(network_id, None, Clock::system()));
        let guards = Arc::new(guards.with_rules(rules.clone()));
        tasks.spawn(guards.clone().write_changes());
        let links = Links::new(network.network_id(), tls, tasks.clone());
        let skew = links.skew().clone();
        let pool = Pool::new(
            network.network_id(),
            links,
            tasks.clone(),
            directory.consensus(),
            guards,
            rules,
        );
        if let Err(error) = pool.check_rules() {
            stopper.stop().await;
            return Err(error.into());
        }
        tasks.spawn(pool.clone().look_after());
        directory.use_circuits(Arc::new(PoolStreams::new(&pool)));
        let shared = Arc::new(Shared {
            network,
            pool,
            directory,
            skew,
            isolate_by: options.isolate_by,
            sessions: AtomicU64::new(1),
            streams: AtomicU64::new(0),
        });
        let stopper = Arc::new(std::sync::Mutex::new(Some(stopper)));
        Ok(Self {
            shared,
            session: 0,
            stopper,
        })
    }

    /// A client on the same network that shares no circuit with any other.
    pub fn isolated(&self) -> Self {
        let session = self.shared.sessions.fetch_add(1, Ordering::Relaxed);
        Self {
            session,
            ..self.clone()
        }
    }

    /// The newest revision of the network's file.
    pub fn network(&self) -> Arc<NetworkFile> {
        self.shared.network.newest()
    }

    /// All revisions of the network's file that are held.
    pub fn networks(&self) -> &NetworkHandle {
        &self.shared.network
    }

    /// The newest consensus, while it may be used.
    pub fn consensus(&self) -> Option<Arc<Consensus>> {
        self.shared.pool.consensus()
    }

    /// How wrong this computer's clock seems to be, by the relays that the client has links to.
    pub fn clock_skew(&self) -> &ClockSkew {
        &self.shared.skew
    }

    /// Follows the alarm: two valid consensuses for one time, and the authorities that signed both.
    pub fn alarm(&self) -> watch::Receiver<Option<ConsensusConflict>> {
        self.shared.directory.alarm()
    }

    /// The circuits.
    pub fn circuits(&self) -> &Arc<Pool> {
        &self.shared.pool
    }

    /// Opens a stream to `host:port`; the exit resolves the name.
    pub async fn connect(&self, target: &str) -> Result<StreamIo, ConnectError> {
        let target =
            parse_target(target).ok_or_else(|| ConnectError::BadTarget(target.to_owned()))?;
        self.connect_with(target, Isolation::session(self.session), &[])
            .await
    }

    /// Opens a stream to `target` on a circuit that only streams with an equal `isolation` share. `early` travels with
    /// the BEGIN.
    pub async fn connect_with(
        &self,
        target: StreamTarget,
        mut isolation: Isolation,
        early: &[u8],
    ) -> Result<StreamIo, ConnectError> {
        if let StreamTarget::Host(host, port) = &target {
            let number = self.shared.streams.fetch_add(1, Ordering::Relaxed);
            isolation = isolation.with_target(self.shared.isolate_by, host, *port, number);
        }
        let all_tries = self.try_connect(&target, &isolation, early);
        timeout(CONNECT_TIMEOUT, all_tries)
            .await
            .unwrap_or(Err(ConnectError::TimedOut))
    }

    fn wanted(&self, target: &StreamTarget) -> Wanted {
        Wanted {
            target: wanted(target),
            rule: self.shared.pool.rules().rule_for(target),
        }
    }

    async fn try_connect(
        &self,
        target: &StreamTarget,
        isolation: &Isolation,
        early: &[u8],
    ) -> Result<StreamIo, ConnectError> {
        let wanted = self.wanted(target);
        let mut refused: Vec<RelayId> = Vec::new();
        let mut last = ConnectError::TimedOut;
        for _ in 0..CONNECT_TRIES {
            let avoid = |relay: &RelayId| refused.contains(relay);
            let circuit = self
                .shared
                .pool
                .circuit_for(isolation, wanted, &avoid)
                .await;
            let circuit = match circuit {
                Ok(circuit) => circuit,
                // The owner's list, or its absence, is what there is to change.
                Err(error @ CircuitError::Path(PathError::Rule(_))) => return Err(error.into()),
                // Where every exit has refused, the refusal says more.
                Err(CircuitError::Path(_)) if !refused.is_empty() => return Err(last),
                Err(CircuitError::NoConsensus) => {
                    return Err(self.shared.directory.why_none().into());
                }
                Err(error) => return Err(error.into()),
            };
            let exit = circuit.exit().identity;
            let Some(mut stream) = circuit.open(target.clone()) else {
                continue;
            };
            let rest = write_early(&mut stream, early);
            let opened = timeout(TRY_TIMEOUT, stream.opened()).await;
            match opened.unwrap_or(Err(StreamError::Ended(EndReason::Timeout))) {
                Ok(()) => {
                    if !rest.is_empty() {
                        use tokio::io::AsyncWriteExt;
                        let wrote = stream.write_all(rest).await;
                        wrote.map_err(|_| StreamError::CircuitLost)?;
                    }
                    return Ok(stream);
                }
                Err(error) => {
                    last = error.into();
                    if is_final(error, refused.len()) {
                        return Err(last);
                    }
                    if error != StreamError::CircuitLost {
                        refused.push(exit);
                    }
                }
            }
        }
        Err(last)
    }

    /// Builds a circuit that could carry a stream to `target`, or any, and
    /// measures each hop as it is added.
    pub async fn trace(&self, target: Option<&str>) -> Result<Vec<HopReport>, ConnectError> {
        let wanted = match target {
            Some(text) => {
                let bad = || ConnectError::BadTarget(text.to_owned());
                self.wanted(&parse_target(text).ok_or_else(bad)?)
            }
            None => Target::Any.into(),
        };
        let path = self.shared.pool.choose(wanted, &|_| false)?;
        let hops: Vec<_> = path.hops().cloned().collect();
        self.measure(&hops, hops.len() > 1).await
    }

    /// Lets programs in at `listener`, until the front is shut down.
    pub fn serve_front(&self, listener: TcpListener, options: FrontOptions) -> Front {
        let connector = Arc::new(ClientConnector(self.clone()));
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(front::serve(listener, connector, options, async move {
            // Told to stop, or dropped: both mean the same.
            let _ = stopped.await;
        }));
        Front { stop, task }
    }

    /// Ends all circuits; streams opened later go through new ones.
    pub fn new_identity(&self) {
        self.shared.pool.new_identity();
    }

    /// Ends all circuits and links, and waits until they have ended.
    pub async fn shutdown(self) {
        self.shared.pool.stop();
        self.shared.pool.guards().save().await;
        let stopper = self
            .stopper
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take();
        if let Some(stopper) = stopper {
            stopper.stop().await;
        }
    }
}

/// A front end that runs.
pub struct Front {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Front {
    /// Stops accepting and ends what is open.
    pub async fn shutdown(self) {
        let _ = self.stop.send(());
        let _ = self.task.await;
    }
}

/// Writes what the stream's buffer takes at once; returns the rest.
fn write_early<'a>(stream: &mut StreamIo, early: &'a [u8]) -> &'a [u8] {
    if early.is_empty() {
        return early;
    }
    let mut cx = Context::from_waker(std::task::Waker::noop());
    match Pin::new(stream).poll_write(&mut cx, early) {
        std::task::Poll::Ready(Ok(wrote)) => &early[wrote..],
        _ => early,
    }
}

fn wanted(target: &StreamTarget) -> Target {
    match target {
        StreamTarget::Directory => Target::Any,
        StreamTarget::Host(TargetHost::Name(_), port) => Target::Name(*port),
        StreamTarget::Host(TargetHost::Ip(IpAddr::V4(_)), port) => Target::V4(*port),
        StreamTarget::Host(TargetHost::Ip(IpAddr::V6(_)), port) => Target::V6(*port),
    }
}

fn parse_target(text: &str) -> Option<StreamTarget> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return StreamTarget::address(address);
    }
    let (host, port) = text.rsplit_once(':')?;
    StreamTarget::name(host, port.parse().ok()?)
}

/// Would another exit, or the same on another circuit, say the same?
fn is_final(error: StreamError, refusals: usize) -> bool {
    match error {
        // The circuit died under it, or this exit will not: another may do.
        StreamError::CircuitLost | StreamError::Ended(EndReason::Policy | EndReason::Resource) => {
            false
        }
        // It may be this exit's resolver, or its way there. Two that agree are believed.
        StreamError::Ended(
            EndReason::Timeout | EndReason::Unresolvable | EndReason::Unreachable,
        ) => refusals > 0,
        // The destination itself has answered.
        StreamError::Ended(EndReason::Refused | EndReason::Done | EndReason::Reset) => true,
    }
}

struct ClientConnector(Client);

impl Connector for ClientConnector {
    type Stream = StreamIo;

    async fn connect(&self, request: ConnectRequest) -> Result<StreamIo, Failure> {
        let port = request.target.port;
        let target = match request.target.host {
            Host::Ip4(ip) => StreamTarget::address(SocketAddr::from((ip, port))),
            Host::Ip6(ip) => StreamTarget::address(SocketAddr::from((ip, port))),
            Host::Name(name) => StreamTarget::name(&name, port),
        };
        let target = target.ok_or(Failure::GeneralFailure)?;
        let isolation = Isolation::session(self.0.session)
            .with_front(self.0.shared.isolate_by, request.isolation);
        let opened = self.0.connect_with(target, isolation, &request.early).await;
        opened.map_err(|error| {
            if let ConnectError::NoConsensus(why) = &error {
                // Every stream fails until someone acts: said where people look.
                tracing::warn!(%why, "a stream was refused");
            }
            if let ConnectError::Circuit(CircuitError::Path(PathError::Rule(why))) = &error {
                tracing::warn!(%why, "a stream was refused");
            }
            tracing::debug!(%error, "a stream was not opened");
            failure(&error)
        })
    }
}

fn failure(error: &ConnectError) -> Failure {
    match error {
        ConnectError::BadTarget(_) => Failure::GeneralFailure,
        ConnectError::NoConsensus(_) => Failure::NoConsensus,
        ConnectError::Circuit(CircuitError::Path(_)) => Failure::NotAllowed,
        ConnectError::Circuit(_) => Failure::NetworkUnreachable,
        ConnectError::TimedOut => Failure::TimedOut,
        ConnectError::Stream(StreamError::CircuitLost) => Failure::GeneralFailure,
        ConnectError::Stream(StreamError::Ended(reason)) => match reason {
            EndReason::Refused => Failure::Refused,
            EndReason::Unreachable => Failure::HostUnreachable,
            EndReason::Policy => Failure::NotAllowed,
            EndReason::Unresolvable => Failure::Unresolvable,
            EndReason::Timeout => Failure::TimedOut,
            EndReason::Done | EndReason::Reset | EndReason::Resource => Failure::GeneralFailure,
        },
    }
}
