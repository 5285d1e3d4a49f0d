//! Starts and stops the rooms of a relay.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use cepa_common::budget::Budget;
use cepa_common::dir::{ExitPolicy, Flags, Params, RelayDescriptor, Signer};
use cepa_common::handshake::{CIRCUIT_VERSION, RelayParams};
use cepa_common::ids::{NetworkId, RelayId};
use cepa_common::net::directory::{Dial, NetworkHandle, Reviser, RevisionStore, revise};
use cepa_common::net::limit::RateLimit;
use cepa_common::net::tasks::{Stopper, Tasks, tasks};
use cepa_common::net::tls::{Tls, TlsSetupError};
use cepa_common::state::StateError;
use cepa_common::sync::lock;
use cepa_common::world::Clock;
use cepa_common::world::random;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::admission::{Memory, keep_within_budget};
use crate::authority::{
    self, AuthorityHandle, AuthorityQueue, AuthorityTask, FileSigningRecord, KnowledgeOptions,
    MeasureOptions, OperatorRules, VotingKeyFile, authority_queue, follow_voting_key,
};
use crate::circuit::{HandshakePool, Sets};
use crate::directory::{ConsensusFiles, DirectoryServer, Publisher, Refresher, publish, refresh};
use crate::exit::{ExitConnector, Outside, ResolverError};
use crate::keys::RelayIdentity;
use crate::keys::ring::{OnionKeyOptions, OnionKeys, OnionRing};
use crate::keys::watch::{KeyWatch, watch as watch_keys};
use crate::link::{Admission, Links, listen};

/// Everything that a relay is started with.
pub struct RelayOptions {
    /// The network that it is part of, as it is known now.
    pub network: NetworkHandle,
    /// The file that the network was read from, to notice when its owner puts a later revision there.
    pub network_file: Option<PathBuf>,
    /// Who it is, and the key of its links.
    pub identity: RelayIdentity,
    /// Its onion keys.
    pub onion_keys: OnionKeyOptions,
    /// Where it listens for links and directory requests.
    pub listen: SocketAddr,
    /// Where others reach it; port 0 means the one that it listens on.
    pub advertised: Vec<SocketAddr>,
    /// Its name for people.
    pub nickname: String,
    /// Whether it publishes a descriptor.
    pub publish: bool,
    /// What it says that it carries, KiB a second; without it what is usual, or its limit if that is lower.
    pub claim_kib: Option<u32>,
    /// Present if it connects streams to the outside.
    pub exit: Option<ExitOptions>,
    /// Present if it is a directory authority.
    pub authority: Option<AuthorityOptions>,
    /// Threads for circuit handshakes.
    pub threads: usize,
    /// Where it keeps directory documents.
    pub cache_dir: PathBuf,
    /// How much of the machine it may take.
    pub limits: Limits,
}

/// How a relay connects streams to the outside.
pub struct ExitOptions {
    /// Which addresses and ports.
    pub policy: ExitPolicy,
    /// The DNS server that it asks; the system's if there is none here.
    pub resolver: Option<SocketAddr>,
}

/// How a relay is a directory authority.
pub struct AuthorityOptions {
    /// Signs its votes and consensuses.
    pub signing_key: Signer,
    /// Where that key came from, to notice when it is renewed.
    pub signing_key_file: Option<VotingKeyFile>,
    /// Where it records what it has signed.
    pub state_dir: PathBuf,
    /// What its operator says of relays.
    pub rules: OperatorRules,
    /// How it measures relays, if it does.
    pub measure: Option<MeasureOptions>,
}

/// How much of the machine a relay may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of memory for queues.
    pub memory_bytes: u64,
    /// Connections that it accepts at once.
    pub connections: u32,
    /// What its links may move in each direction, KiB a second; zero: as much as they can.
    pub bandwidth_kib: u32,
}

/// Why a relay did not start.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The port can't be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The port.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// TLS could not be set up.
    #[error(transparent)]
    Tls(#[from] TlsSetupError),
    /// Names could not be resolved.
    #[error(transparent)]
    Resolver(#[from] ResolverError),
    /// An onion key can't be used or made.
    #[error(transparent)]
    State(#[from] StateError),
    /// A thread or a file could not be had.
    #[error("{what}: {source}")]
    Io {
        /// What for.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

/// What all rooms of a relay share.
pub(crate) struct Core {
    pub(crate) network: NetworkId,
    pub(crate) identity: RelayId,
    pub(crate) tls: Tls,
    /// The onion keys accepted now. Reading takes a lock that is held only to copy or to swap a pointer.
    pub(crate) onion_keys: watch::Receiver<OnionKeys>,
    pub(crate) directory: Arc<DirectoryServer>,
    pub(crate) links: Links,
    pub(crate) pool: HandshakePool,
    /// What all queues and buffers of the relay hold.
    pub(crate) budget: Arc<Budget>,
    /// Whose they are.
    pub(crate) memory: Memory,
    /// Circuits that carry streams together.
    pub(crate) sets: Sets,
    pub(crate) exit: Option<ExitConnector>,
    /// What all links together may move, if there is a limit.
    pub(crate) limit: Option<Arc<RateLimit>>,
    /// Gone when the relay stops, so that nothing new starts.
    tasks: Mutex<Option<Tasks>>,
}

impl Core {
    /// The relay's tasks, unless it is stopping.
    pub(crate) fn tasks(&self) -> Option<Tasks> {
        lock(&self.tasks).clone()
    }

    /// The network's parameters by the newest consensus.
    pub(crate) fn params(&self) -> Params {
        let store = self.directory.snapshot();
        store
            .newest()
            .map_or_else(|| self.directory.network().params(), |c| c.params().clone())
    }

    /// What this relay answers clients about pacing.
    pub(crate) fn relay_params(&self) -> RelayParams {
        let params = self.params();
        let narrow = |value: u32| u16::try_from(value).unwrap_or(u16::MAX);
        let window = narrow(params.circuit_window_cells);
        RelayParams {
            circuit_window_cells: window,
            mark_interval_cells: narrow(params.mark_interval_cells).min(window / 2),
            stream_window_bytes: params.stream_window_bytes,
            version: CIRCUIT_VERSION,
        }
    }

    /// Cells that one circuit may have waiting in one direction: its window,
    /// and what no window counts.
    pub(crate) fn queue_bound_cells(&self) -> usize {
        let params = self.params();
        params.circuit_window_cells as usize + params.circuit_queue_cells as usize
    }
}

/// A relay.
pub struct Relay;

/// A relay that runs.
pub struct RelayHandle {
    core: Option<Arc<Core>>,
    identity: RelayId,
    local_addr: SocketAddr,
    stopper: Stopper,
}

impl Relay {
    /// Starts a relay on the runtime that this is called on.
    ///
    /// It listens when this returns; it is part of the network when the
    /// authorities have found it reachable.
    pub async fn start(options: RelayOptions) -> Result<RelayHandle, RelayError> {
        let network = options.network.clone();
        let network_id = network.network_id();
        let identity = options.identity.identity();
        let listener = TcpListener::bind(options.listen).await;
        let listener = listener.map_err(|source| RelayError::Listen {
            address: options.listen,
            source,
        })?;
        let io = |what| move |source| RelayError::Io { what, source };
        let local_addr = listener
            .local_addr()
            .map_err(io("the port has no address"))?;
        let tls = Tls::relay(options.identity.link_key())?;
        let clock = Clock::system();
        let mut ring = OnionRing::load(options.onion_keys.clone(), clock.now_secs())?;
        // No consensus is held yet: this makes a key where one is due, and erases what its age ends.
        ring.turn(
            clock.now_secs(),
            &network.newest().params(),
            &mut random::rng(),
        )?;
        let (onion_keys_sender, onion_keys) = watch::channel(ring.snapshot());
        let queue = options.authority.as_ref().map(|_| authority_queue());
        let (handle, queue) = queue.unzip();
        let directory = DirectoryServer::new(network.clone(), clock.clone(), handle.clone());
        let files = ConsensusFiles::new(&options.cache_dir, &directory);
        files.load(&directory).await;
        let policy = options.exit.as_ref().map(|exit| exit.policy.clone());
        let exit = match &options.exit {
            Some(exit) => Some(ExitConnector::new(
                Arc::new(Outside {
                    rules: exit.policy.clone(),
                    directory: directory.clone(),
                }),
                exit.resolver,
            )?),
            None => None,
        };
        let (tasks, stopper) = tasks();
        let core = Arc::new(Core {
            network: network_id,
            identity,
            tls: tls.clone(),
            onion_keys,
            directory: directory.clone(),
            links: Links::new(identity, network_id, tls.clone(), directory),
            pool: HandshakePool::start(options.threads).map_err(io("no thread"))?,
            budget: Budget::new(usize::try_from(options.limits.memory_bytes).unwrap_or(usize::MAX)),
            memory: Memory::default(),
            sets: Sets::default(),
            exit,
            limit: RateLimit::new(options.limits.bandwidth_kib, tokio::time::Instant::now())
                .map(Arc::new),
            tasks: Mutex::new(Some(tasks.clone())),
        });
        tasks.spawn(keep_within_budget(
            Arc::downgrade(&core),
            core.budget.clone(),
        ));
        tasks.spawn(files.follow(core.directory.clone()));
        let dial: Arc<dyn Dial> = Arc::new(tls);
        if let (Some(authority), Some(queue)) = (&options.authority, queue) {
            start_authority(&core, &tasks, &dial, authority, queue);
        }
        tasks.spawn(refresh(Refresher {
            server: core.directory.clone(),
            dial: dial.clone(),
            identity,
        }));
        let descriptor = options
            .publish
            .then(|| {
                let dial = dial.clone();
                start_publisher(&core, &tasks, dial, handle, &options, policy, local_addr)
            })
            .flatten();
        start_reviser(&core, &tasks, dial, &options);
        tasks.spawn(watch_keys(KeyWatch {
            network: network_id,
            clock,
            identity: options.identity,
            ring,
            keys: onion_keys_sender,
            consensus: core.directory.subscribe(),
            params: network.newest().params(),
            descriptor,
            told: Default::default(),
        }));
        let admission = Admission::new(options.limits.connections);
        tasks.spawn(listen(listener, Arc::downgrade(&core), admission));
        Ok(RelayHandle {
            core: Some(core),
            identity,
            local_addr,
            stopper,
        })
    }
}

fn start_authority(
    core: &Arc<Core>,
    tasks: &Tasks,
    dial: &Arc<dyn Dial>,
    options: &AuthorityOptions,
    queue: AuthorityQueue,
) {
    let renewals = options.signing_key_file.clone().map(|file| {
        let (sender, receiver) = watch::channel(options.signing_key.clone());
        let clock = core.directory.clock().clone();
        tasks.spawn(follow_voting_key(file, clock, sender));
        receiver
    });
    let task = AuthorityTask {
        identity: core.identity,
        signing_key: options.signing_key.clone(),
        renewals,
        params: Default::default(),
        dial: dial.clone(),
        probe: Some(Arc::new(dial.clone())),
        directory: core.directory.clone(),
        record: Arc::new(FileSigningRecord::new(options.state_dir.join("signed"))),
        knowledge: KnowledgeOptions {
            file: Some(options.state_dir.join("relays")),
            rules: options.rules.clone(),
            measure: options.measure.clone(),
        },
    };
    tasks.spawn(async move {
        if let Err(error) = authority::run(task, queue).await {
            tracing::error!(%error, "this authority votes no more: its record of what it signed can't be used");
        }
    });
}

/// Has later revisions of the network's file noticed and kept beside the other directory documents.
fn start_reviser(core: &Arc<Core>, tasks: &Tasks, dial: Arc<dyn Dial>, options: &RelayOptions) {
    let directory = core.directory.clone();
    tasks.spawn(revise(Reviser {
        network: core.directory.networks().clone(),
        dial,
        clock: core.directory.clock().clone(),
        consensus: Box::new(move || directory.snapshot().newest().cloned()),
        may_ask: Box::new(|_| true),
        asks_authorities: true,
        store: Some(RevisionStore::new(&options.cache_dir, &core.network)),
        file: options.network_file.clone(),
    }));
}

fn start_publisher(
    core: &Arc<Core>,
    tasks: &Tasks,
    dial: Arc<dyn Dial>,
    authority: Option<AuthorityHandle>,
    options: &RelayOptions,
    policy: Option<ExitPolicy>,
    local_addr: SocketAddr,
) -> Option<watch::Sender<RelayDescriptor>> {
    let listed = |address: &SocketAddr| match address.port() {
        0 => SocketAddr::new(address.ip(), local_addr.port()),
        _ => *address,
    };
    let addresses = match &options.advertised[..] {
        [] => vec![local_addr],
        some => some.iter().map(listed).collect(),
    };
    let onion = core.onion_keys.borrow().last()?.public();
    let network = core.directory.network().network_id();
    let family = options.identity.family(&network).unwrap_or_else(|error| {
        tracing::warn!(%error, "this relay is in no family");
        None
    });
    let clock = core.directory.clock().clone();
    let descriptor = RelayDescriptor {
        identity: core.identity,
        key_cert: options.identity.key_cert(),
        onion_key: onion.key,
        suite: onion.suite,
        addresses,
        published: clock.now_secs(),
        bandwidth: claim(options),
        offers: Flags::GUARD | Flags::HSDIR,
        policy: policy.unwrap_or_else(ExitPolicy::reject_all).summary(),
        family,
        nickname: options.nickname.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let (sender, receiver) = watch::channel(descriptor);
    let publisher = Publisher {
        network: core.directory.networks().clone(),
        clock,
        dial,
        key: options.identity.link_key().clone(),
        descriptor: receiver,
        consensus: core.directory.subscribe(),
        local: authority.map(|handle| (core.identity, handle)),
    };
    tasks.spawn(publish(publisher));
    Some(sender)
}

/// What a relay says that it can carry until its bandwidth is measured (KiB a second).
const DEFAULT_BANDWIDTH_KIB: u32 = 10_000;

fn claim(options: &RelayOptions) -> u32 {
    let usual = match options.limits.bandwidth_kib {
        0 => DEFAULT_BANDWIDTH_KIB,
        limit => limit.min(DEFAULT_BANDWIDTH_KIB),
    };
    options.claim_kib.unwrap_or(usual)
}

impl RelayHandle {
    /// Who the relay is.
    pub fn identity(&self) -> RelayId {
        self.identity
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Stops accepting, ends all links and circuits, and waits until all tasks have ended.
    pub async fn shutdown(mut self) {
        if let Some(core) = self.core.take() {
            lock(&core.tasks).take();
        }
        self.stopper.stop().await;
    }
}
