//! [`Client`]: everything that a program needs to send streams through the network.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Context;
use std::time::Duration;

use cepa_common::cell::message::{EndReason, SpecialName};
use cepa_common::dir::{Consensus, ConsensusConflict, NetworkFile};
use cepa_common::ids::RelayId;
use cepa_common::net::directory::NetworkHandle;
use cepa_common::net::tasks::Stopper;
use cepa_common::onion::Suite;
use cepa_common::stream::{StreamError, StreamHost, StreamTarget};
use cepa_common::sync::lock;
use cepa_common::world::World;
use tokio::io::AsyncWrite;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::StreamIo;
use crate::circuit::isolation::{IsolateBy, Isolation};
use crate::circuit::pool::Pool;
use crate::circuit::{CircuitError, Circuits, Multipath, Wanted};
use crate::dir::{Directory, NoConsensus, WrongClock};
use crate::events::{ClientEvent, Reporter, Warning};
use crate::names::Names;
use crate::path::{ExitTarget, PathError, PeerRules, RuleError};
use cepa_common::net::skew::ClockSkew;

/// The time within which a stream must be open, over all tries.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);
/// The time that one circuit has to open a stream before another is tried.
pub(crate) const TRY_TIMEOUT: Duration = Duration::from_secs(20);
/// Number of circuits that are tried for one stream.
const CONNECT_TRIES: usize = 8;
/// Exits that may say that they do not carry a stream before that is believed. Whoever chooses a destination (a page in
/// a browser does) can choose one that exits refuse, and so has the client ask as many.
const REFUSING_EXITS: usize = 3;
/// Exits that may say that a destination is not reached before that is believed.
const FAILING_EXITS: usize = 2;

/// What a client may hold if its owner says nothing (bytes).
const MEMORY_BYTES: usize = 256 << 20;

/// What a client is started with.
pub struct ClientOptions {
    /// The network, as it is known now.
    pub network: NetworkHandle,
    /// The file that the network was read from. The client notices when its owner puts a later revision there.
    pub network_file: Option<PathBuf>,
    /// Directory that keeps the newest consensus and the guards between runs. The directory must exist. With `None`
    /// nothing is kept.
    pub state_dir: Option<PathBuf>,
    /// What keeps streams on different circuits.
    pub isolate_by: IsolateBy,
    /// What the owner decides about paths.
    pub peers: PeerRules,
    /// When a circuit gets a second circuit that carries its streams with it.
    pub multipath: Multipath,
    /// What circuits, streams and queues may hold together (bytes). Over it, streams end: first, of those whose bytes
    /// nobody reads, the one that holds most.
    pub memory_bytes: usize,
    /// Believe exits that tell private addresses of names. This is meant for networks on one machine only.
    pub allow_private: bool,
    /// The world that the client lives in: [`World::default`] for the real one.
    pub world: World,
}

impl ClientOptions {
    /// The options of a client of `network` that keeps nothing on disk.
    pub fn new(network: impl Into<NetworkHandle>) -> Self {
        Self {
            network: network.into(),
            network_file: None,
            state_dir: None,
            isolate_by: IsolateBy::default(),
            peers: PeerRules::default(),
            multipath: Multipath::default(),
            memory_bytes: MEMORY_BYTES,
            allow_private: false,
            world: World::default(),
        }
    }
}

/// Why a client did not start.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No authority or cache gave a valid consensus.
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
    /// The name is none of the DNS, so that no exit could look it up (docs/protocol.md, 5.3).
    #[error("the name is passed on to nobody: {0}")]
    Special(SpecialName),
    /// There is no consensus that may be used: it has expired, or the clock is wrong.
    #[error(transparent)]
    NoConsensus(#[from] NoConsensus),
    /// There is no circuit.
    #[error(transparent)]
    Circuit(#[from] CircuitError),
    /// The exit, or the circuit, ended the stream.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The deadline has passed.
    #[error("the stream was not open in time")]
    TimedOut,
}

/// What the clones of a client share.
pub(crate) struct ClientInner {
    pub(crate) network: NetworkHandle,
    pub(crate) pool: Arc<Pool>,
    /// The pool, as programs that embed the client may see it.
    pub(crate) circuits: Circuits,
    pub(crate) directory: Directory,
    pub(crate) names: Names,
    pub(crate) skew: ClockSkew,
    pub(crate) reporter: Reporter,
    pub(crate) isolate_by: IsolateBy,
    pub(crate) sessions: AtomicU64,
    /// Numbers listeners.
    pub(crate) fronts: AtomicU64,
    /// Numbers streams, if each is to be alone on its circuit.
    pub(crate) streams: AtomicU64,
}

/// A client of a network. Clones share its circuits; clients from [`Client::isolated`] share none of them.
#[derive(Clone)]
pub struct Client {
    pub(crate) inner: Arc<ClientInner>,
    pub(crate) session: u64,
    pub(crate) stopper: Arc<std::sync::Mutex<Option<Stopper>>>,
}

/// A hop of a circuit, as [`Client::trace`] measured it.
#[derive(Clone, Debug)]
pub struct HopReport {
    /// Identity of the relay.
    pub identity: RelayId,
    /// Is this hop the guard at which the client's circuits begin?
    pub is_guard: bool,
    /// Nickname of the relay.
    pub nickname: String,
    /// Address of the relay, by the consensus.
    pub address: SocketAddr,
    /// Suite of the hop's layer.
    pub suite: Suite,
    /// The time from sending CREATE or EXTEND until the keys are there.
    pub handshake: Duration,
    /// The round trip from the client to this hop.
    pub rtt: Duration,
}

impl Client {
    /// A client on the same network that shares no circuit with any other client. Such a client costs nothing until it
    /// is used.
    ///
    /// ```no_run
    /// # async fn example(client: cepa_client::Client) -> Result<(), cepa_client::ConnectError> {
    /// // No exit sees both of these, though they go to one host.
    /// let anna = client.isolated().connect("example.org:443").await?;
    /// let bert = client.isolated().connect("example.org:443").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn isolated(&self) -> Self {
        let session = self.inner.sessions.fetch_add(1, Ordering::Relaxed);
        Self {
            session,
            ..self.clone()
        }
    }

    /// The newest revision of the network's file.
    pub fn network(&self) -> Arc<NetworkFile> {
        self.inner.network.newest()
    }

    /// All revisions of the network's file that are held.
    pub fn networks(&self) -> &NetworkHandle {
        &self.inner.network
    }

    /// The newest consensus, while it may be used.
    pub fn consensus(&self) -> Option<Arc<Consensus>> {
        self.inner.pool.consensus()
    }

    /// How wrong this computer's clock seems to be, by the relays that the client has links to.
    pub fn clock_skew(&self) -> &ClockSkew {
        &self.inner.skew
    }

    /// Follows the alarm about two valid consensuses for one time, with the authorities that signed both.
    pub fn alarm(&self) -> watch::Receiver<Option<ConsensusConflict>> {
        self.inner.directory.alarm()
    }

    /// The client's circuits, to count, to name, and to have one for streams of its own.
    pub fn circuits(&self) -> &Circuits {
        &self.inner.circuits
    }

    /// Opens a stream to `host:port`; the exit resolves the name. While the client is starting, the call waits for
    /// that.
    ///
    /// ```no_run
    /// # async fn example(client: cepa_client::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use tokio::io::{AsyncReadExt, AsyncWriteExt};
    ///
    /// let mut stream = client.connect("example.org:80").await?;
    /// stream.write_all(b"GET / HTTP/1.0\r\nHost: example.org\r\n\r\n").await?;
    /// let mut page = String::new();
    /// stream.read_to_string(&mut page).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ConnectError`]: within 60 s, after other circuits and exits were tried where that could help.
    pub async fn connect(&self, target: &str) -> Result<StreamIo, ConnectError> {
        let target =
            parse_target(target).ok_or_else(|| ConnectError::BadTarget(target.to_owned()))?;
        self.connect_with(target, Isolation::session(self.session), &[])
            .await
    }

    /// Opens a stream to `target` with the switches of [`ClientOptions::isolate_by`], on a circuit that only streams
    /// with an equal `isolation` share. `early` travels with the BEGIN, to one exit and once: with `early` nothing else
    /// is tried when that exit or its circuit fails.
    pub async fn connect_with(
        &self,
        target: StreamTarget,
        isolation: Isolation,
        early: &[u8],
    ) -> Result<StreamIo, ConnectError> {
        self.connect_by(self.inner.isolate_by, target, isolation, early)
            .await
    }

    /// Opens a stream to `target` like [`Client::connect_with`], but with switches of the caller's own.
    pub(crate) async fn connect_by(
        &self,
        by: IsolateBy,
        target: StreamTarget,
        isolation: Isolation,
        early: &[u8],
    ) -> Result<StreamIo, ConnectError> {
        refuse_special(&target)?;
        let isolation = match &target {
            StreamTarget::Host(host, port) => self.key(by, isolation, host, *port),
            StreamTarget::Directory | StreamTarget::Resolver => {
                isolation.of_identity(self.inner.pool.identity())
            }
        };
        let opened = self.open(&target, &isolation, early, None).await;
        opened.map(|(stream, _)| stream)
    }

    /// The whole key of a stream that is asked for now, or of a question about its host.
    pub(crate) fn key(
        &self,
        by: IsolateBy,
        isolation: Isolation,
        host: &StreamHost,
        port: u16,
    ) -> Isolation {
        let number = self.inner.streams.fetch_add(1, Ordering::Relaxed);
        let isolation = isolation.of_identity(self.inner.pool.identity());
        isolation.with_target(by, host, port, number)
    }

    /// Opens a stream to `target` for a whole key, at an exit that is not `avoid`. Says which exit it is.
    pub(crate) async fn open(
        &self,
        target: &StreamTarget,
        isolation: &Isolation,
        early: &[u8],
        avoid: Option<RelayId>,
    ) -> Result<(StreamIo, RelayId), ConnectError> {
        let all_tries = async {
            // A client that is still starting is worth a wait.
            self.until_joined().await?;
            self.try_connect(target, isolation, early, avoid).await
        };
        timeout(CONNECT_TIMEOUT, all_tries)
            .await
            .unwrap_or_else(|_| Err(self.timed_out()))
    }

    /// Waits until the client has a consensus that may be used, if it is still starting.
    pub(crate) async fn until_joined(&self) -> Result<(), NoConsensus> {
        self.inner.directory.use_now();
        match self.inner.reporter.has_joined() {
            true => Ok(()),
            false => self.until_usable().await,
        }
    }

    pub(crate) fn timed_out(&self) -> ConnectError {
        match self.inner.reporter.has_joined() {
            true => ConnectError::TimedOut,
            false => self.no_consensus().into(),
        }
    }

    /// Waits for a consensus that may be used.
    ///
    /// # Errors
    /// [`NoConsensus`] at once when it is known that this computer's clock is wrong: nothing is to be had before its
    /// owner sets it.
    async fn until_usable(&self) -> Result<(), NoConsensus> {
        let mut events = self.inner.reporter.subscribe();
        let wrong_clock = async {
            while let Some(event) = events.next().await {
                match event {
                    ClientEvent::Warning(Warning::ClockSkew { .. }) => return,
                    ClientEvent::Waiting { why, .. } if why.is_clock_behind() => return,
                    _ => {}
                }
            }
            core::future::pending().await
        };
        tokio::select! {
            biased;
            // A directory that has stopped is noticed by whoever looks for a circuit.
            _ = self.inner.directory.usable() => Ok(()),
            () = wrong_clock => Err(self.no_consensus()),
        }
    }

    /// Why there is no consensus, with what is known of this computer's clock.
    pub(crate) fn no_consensus(&self) -> NoConsensus {
        let why = self.inner.directory.why_none();
        NoConsensus {
            skew: why
                .skew
                .or_else(|| self.inner.skew.wrong_by().map(WrongClock::by)),
            ..why
        }
    }

    fn wanted(&self, target: &StreamTarget) -> Wanted {
        Wanted {
            target: wanted(target),
            rule: self.inner.pool.rules().rule_for(target),
            exit: None,
        }
    }

    async fn try_connect(
        &self,
        target: &StreamTarget,
        isolation: &Isolation,
        early: &[u8],
        avoided: Option<RelayId>,
    ) -> Result<(StreamIo, RelayId), ConnectError> {
        let wanted = self.wanted(target);
        let mut refused: Vec<RelayId> = Vec::new();
        let mut last = ConnectError::TimedOut;
        for _ in 0..CONNECT_TRIES {
            let avoid = |relay: &RelayId| refused.contains(relay) || avoided == Some(*relay);
            let circuit = self.inner.pool.circuit_for(isolation, wanted, &avoid).await;
            let circuit = match circuit {
                Ok(circuit) => circuit,
                // Only the owner's list can be changed, so the error names it.
                Err(error @ CircuitError::Path(PathError::Rule(_))) => return Err(error.into()),
                // If every exit has refused, the refusal says more than the missing path.
                Err(CircuitError::Path(_)) if !refused.is_empty() => return Err(last),
                Err(CircuitError::NoConsensus) => {
                    return Err(self.no_consensus().into());
                }
                Err(error) => return Err(error.into()),
            };
            let exit = circuit.exit().identity;
            let Some(mut stream) = circuit.open_in_turn(target.clone()).await else {
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
                    return Ok((stream, exit));
                }
                Err(error) => {
                    last = error.into();
                    // One exit has read what was said, and nobody knows what had an effect. A question has none.
                    let has_effect = !early.is_empty() && *target != StreamTarget::Resolver;
                    if has_effect || is_final(error, refused.len()) {
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

    /// Builds a circuit that could carry a stream to `target`, or to any target, and measures each hop as it is added.
    pub async fn trace(&self, target: Option<&str>) -> Result<Vec<HopReport>, ConnectError> {
        let wanted = match target {
            Some(text) => {
                let bad = || ConnectError::BadTarget(text.to_owned());
                self.wanted(&parse_target(text).ok_or_else(bad)?)
            }
            None => ExitTarget::Any.into(),
        };
        let path = self.inner.pool.maker().choose(wanted, &|_| false)?;
        let hops: Vec<_> = path.hops().cloned().collect();
        self.measure(&hops, hops.len() > 1).await
    }

    /// Retires all circuits at once, those of [`Client::isolated`] clients too: no stream that is opened from now on
    /// shares a circuit with those before. Open streams go on where they are. The guards stay.
    ///
    /// Returns how many circuits were retired. Each costs the network a new one, so call this only if somebody really
    /// becomes somebody else.
    pub fn new_identity(&self) -> usize {
        self.inner.pool.new_identity()
    }

    /// What the owner decides about paths.
    pub fn rules(&self) -> Arc<PeerRules> {
        self.inner.pool.rules()
    }

    /// Would these rules leave something to choose?
    ///
    /// # Errors
    /// [`RuleError`] names what the rules leave without a relay.
    pub fn check_rules(&self, rules: &PeerRules) -> Result<(), RuleError> {
        self.inner.pool.check_other(Arc::new(rules.clone()))
    }

    /// Chooses paths by other lists of relays from now on. Everything else in `rules` must be as it was at the start.
    /// The guards stay in their order, and those that the lists refuse are passed over. All circuits are retired as by
    /// [`Self::new_identity`], whose result this is too; open streams go on where they are.
    pub fn set_rules(&self, rules: PeerRules) -> usize {
        self.inner.pool.set_rules(Arc::new(rules))
    }

    /// Gives circuits a second one at another time from now on, as [`ClientOptions::multipath`] does.
    pub fn set_multipath(&self, multipath: Multipath) {
        self.inner.pool.set_multipath(multipath);
    }

    /// Sets another bound on what circuits, streams and queues hold together (bytes), as
    /// [`ClientOptions::memory_bytes`] is. If more is held, streams end.
    pub fn set_memory(&self, bytes: usize) {
        self.inner.pool.maker().memory_limit().set_limit(bytes);
    }

    /// Ends all circuits and links, and waits until they have ended.
    pub async fn shutdown(self) {
        self.inner.pool.stop();
        self.inner.pool.guards().save().await;
        let stopper = lock(&self.stopper).take();
        if let Some(stopper) = stopper {
            stopper.stop().await;
        }
    }
}

/// Writes as many bytes as the stream's buffer takes at once. Returns the rest.
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

fn wanted(target: &StreamTarget) -> ExitTarget {
    match target {
        StreamTarget::Directory => ExitTarget::Any,
        StreamTarget::Resolver => ExitTarget::Resolver,
        StreamTarget::Host(StreamHost::Name(_), port) => ExitTarget::Name(*port),
        StreamTarget::Host(StreamHost::Ip(IpAddr::V4(_)), port) => ExitTarget::V4(*port),
        StreamTarget::Host(StreamHost::Ip(IpAddr::V6(_)), port) => ExitTarget::V6(*port),
    }
}

/// Refuses a name that the DNS does not have, of which no exit shall hear.
pub(crate) fn refuse_special(target: &StreamTarget) -> Result<(), ConnectError> {
    match target {
        StreamTarget::Host(StreamHost::Name(name), _) => {
            SpecialName::of(name).map_or(Ok(()), |special| Err(ConnectError::Special(special)))
        }
        _ => Ok(()),
    }
}

pub(crate) fn parse_target(text: &str) -> Option<StreamTarget> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return StreamTarget::address(address);
    }
    let (host, port) = text.rsplit_once(':')?;
    StreamTarget::name(host, port.parse().ok()?)
}

/// Would another exit, or this exit on another circuit, give the same answer? `refusals` exits have refused before.
fn is_final(error: StreamError, refusals: usize) -> bool {
    match error {
        // The circuit died: another one may succeed.
        StreamError::CircuitLost => false,
        // This exit refuses.
        StreamError::Ended(EndReason::Policy | EndReason::Resource) => {
            refusals + 1 >= REFUSING_EXITS
        }
        // The cause may be this exit's resolver or its way to the destination.
        StreamError::Ended(
            EndReason::Timeout | EndReason::Unresolvable | EndReason::Unreachable,
        ) => refusals + 1 >= FAILING_EXITS,
        // The destination itself has answered.
        StreamError::Ended(EndReason::Refused | EndReason::Done | EndReason::Reset)
        | StreamError::Memory => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 7.16: how many exits the answers of exits, and so whoever chooses the destination, can have a client ask.
    #[test]
    fn few_exits_are_asked_whatever_they_answer() {
        use EndReason as E;
        let asked = |reason| {
            let is_over = |before: &usize| is_final(StreamError::Ended(reason), *before);
            1 + (0..CONNECT_TRIES).find(is_over).unwrap_or(CONNECT_TRIES)
        };
        for (reason, exits) in [
            (E::Policy, 3),
            (E::Resource, 3),
            (E::Timeout, 2),
            (E::Unresolvable, 2),
            (E::Unreachable, 2),
            (E::Refused, 1),
            (E::Reset, 1),
        ] {
            assert_eq!(asked(reason), exits, "{reason:?}");
        }
        assert!(!is_final(StreamError::CircuitLost, CONNECT_TRIES));
    }
}
