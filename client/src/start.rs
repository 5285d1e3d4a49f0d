//! How a client starts: tasks first, then a consensus, then a first circuit.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use cepa_common::net::directory::{Asker, Dial, Reviser, RevisionStore, revise};
use cepa_common::net::tasks::tasks;
use cepa_common::net::tls::Tls;
use cepa_common::world::blocking;
use tokio::time::timeout;

use crate::circuit::Circuits;
use crate::circuit::dir_streams::CircuitStreams;
use crate::circuit::links::GuardLinks;
use crate::circuit::maker::MakerConfig;
use crate::circuit::memory::{MemoryLimit, keep_within_budget};
use crate::circuit::pool::Pool;
use crate::circuit::report::Announcer;
use crate::client::{Client, ClientError, ClientInner, ClientOptions};
use crate::dir::{DirStreams, DirectoryConfig, directory};
use crate::events::{ClientEvent, ClientEvents, Reporter, Warning};
use crate::guard::Keeper;
use crate::names::Names;
use crate::time_sources::TimeSources;

/// The time within which a consensus must be there.
const BOOTSTRAP_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the start waits for a first circuit. Without a first circuit, each stream that is opened builds its own.
const FIRST_CIRCUIT_TIMEOUT: Duration = Duration::from_secs(10);

impl Client {
    /// Joins the network. Completes when a valid consensus is held and a first circuit is built or has been tried.
    ///
    /// [`Client::start`] shows how far the client is.
    ///
    /// # Errors
    /// [`ClientError::NoConsensus`] after 60 s without a consensus, with what seems to be wrong. The client is gone
    /// then.
    pub async fn bootstrap(options: ClientOptions) -> Result<Self, ClientError> {
        let (client, _) = Self::start(options).await;
        client.ready().await?;
        Ok(client)
    }

    /// Begins to join the network, and returns at once. The client works on by itself, and streams that are opened
    /// meanwhile wait for it. As long as the client lives, the events tell how far it is and what troubles it.
    ///
    /// The client takes nothing of the process but tasks of the tokio runtime in which it is started, which may have
    /// one thread or many. The tasks end with the last clone of the client. The time and the I/O of the runtime must be
    /// enabled.
    ///
    /// ```no_run
    /// # async fn example(network: cepa_common::dir::NetworkFile) -> Result<(), cepa_client::ClientError> {
    /// use cepa_client::{Client, ClientOptions};
    ///
    /// let (client, mut events) = Client::start(ClientOptions::new(network)).await;
    /// tokio::spawn(async move {
    ///     while let Some(event) = events.next().await {
    ///         eprintln!("{:?} % {event}", event.percent());
    ///     }
    /// });
    /// client.ready().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn start(options: ClientOptions) -> (Self, ClientEvents) {
        let network = options.network;
        let rules = Arc::new(options.peers);
        if rules.hops == 1 {
            tracing::warn!(
                "circuits have 1 hop: that relay is no guard, and knows both who asks and for what: no anonymity"
            );
        }
        let store = options.state_dir.as_deref().map(|directory| {
            RevisionStore::new(&options.world.disk, directory, &network.network_id())
        });
        let tls = Tls::client().over(options.world.sockets.clone());
        let clock = options.world.clock.clone();
        let (tasks, stopper) = tasks();
        let reporter = Reporter::default();
        let events = reporter.subscribe();
        let dial: Arc<dyn Dial> = Arc::new(tls.clone());
        let (task, directory) = directory(DirectoryConfig {
            network: network.clone(),
            dial: dial.clone(),
            clock: clock.clone(),
            cache: options.state_dir.clone(),
            disk: options.world.disk.clone(),
            reporter: reporter.clone(),
        });
        let disk = options.world.disk.clone();
        let (network_id, state_dir) = (network.network_id(), options.state_dir);
        let world = options.world.clone();
        let load = move || Keeper::load(network_id, state_dir.as_deref(), &world);
        let guards = blocking::run(load).await;
        let guards = guards.unwrap_or_else(|_| Keeper::load(network_id, None, &options.world));
        let guards = Arc::new(guards.with_rules(rules.clone()));
        tasks.spawn(guards.clone().write_changes());
        let memory = MemoryLimit::new(options.memory_bytes);
        let links = GuardLinks::new(
            network.network_id(),
            tls.clone(),
            options.world,
            tasks.clone(),
            memory.clone(),
        );
        let names = Names::new(options.allow_private, tasks.clone(), memory.budget());
        tasks.spawn(keep_within_budget(memory, reporter.clone()));
        let skew = links.skew().clone();
        let times = TimeSources {
            network: network.clone(),
            tls,
            clock: clock.clone(),
            skew: skew.clone(),
            reporter: reporter.clone(),
        };
        tasks.spawn(times.ask_while_failing(directory.progress()));
        let pool = Pool::new(MakerConfig {
            network: network.network_id(),
            links,
            tasks: tasks.clone(),
            consensus: directory.consensus(),
            announcer: Announcer {
                consensus: directory.consensus(),
                guards: guards.clone(),
                reporter: reporter.clone(),
                has_guards: rules.hops > 1,
            },
            guards,
            rules,
            multipath: options.multipath,
        });
        tasks.spawn(task.run());
        tasks.spawn(pool.clone().look_after());
        let circuits = Arc::new(CircuitStreams::new(pool.maker()));
        directory.use_circuits(circuits.clone());
        let newest = directory.consensus();
        tasks.spawn(revise(Reviser {
            network: network.clone(),
            dial,
            clock,
            consensus: Box::new(move || newest.borrow().clone()),
            asker: Asker::Client(Box::new(move || {
                let stream = circuits.open(&[]);
                Box::pin(async move { Ok(stream.await?.1) })
            })),
            store,
            file: options.network_file,
            disk,
            tell: Box::new({
                let reporter = reporter.clone();
                move |news| reporter.revision(news)
            }),
        }));
        let client = Self {
            inner: Arc::new(ClientInner {
                network,
                circuits: Circuits::new(pool.clone()),
                pool,
                directory,
                names,
                skew,
                reporter,
                isolate_by: options.isolate_by,
                sessions: AtomicU64::new(1),
                fronts: AtomicU64::new(0),
                streams: AtomicU64::new(0),
            }),
            session: 0,
            stopper: Arc::new(std::sync::Mutex::new(Some(stopper))),
        };
        (client, events)
    }

    /// Waits until a usable consensus is held, and then for a first circuit, or for the news that none can be built for
    /// now: streams that are opened then say why. Completes at once if all that is so already.
    ///
    /// # Errors
    /// [`ClientError::NoConsensus`] after 60 s without a consensus, with what seems to be wrong; the client goes on
    /// trying.
    /// [`ClientError::Rules`] if the owner's rules cannot be kept, or leave nothing to choose in this network.
    pub async fn ready(&self) -> Result<(), ClientError> {
        self.inner.pool.rules().check()?;
        let mut events = self.events();
        let usable = timeout(BOOTSTRAP_TIMEOUT, self.inner.directory.usable()).await;
        if !matches!(usable, Ok(Ok(_))) {
            return Err(ClientError::NoConsensus(self.no_consensus().to_string()));
        }
        self.inner.pool.check_rules()?;
        let first_circuit = async {
            while let Some(event) = events.next().await {
                if matches!(event, ClientEvent::Ready | ClientEvent::NoCircuit(_)) {
                    return;
                }
            }
        };
        // The client works without a first circuit too: the first stream builds its own.
        let _ = timeout(FIRST_CIRCUIT_TIMEOUT, first_circuit).await;
        Ok(())
    }

    /// The client's events about its start and its troubles: the present state first, then what changes.
    pub fn events(&self) -> ClientEvents {
        self.inner.reporter.subscribe()
    }

    /// The stage that the client is at.
    pub fn stage(&self) -> ClientEvent {
        self.inner.reporter.present()
    }

    /// The warnings that hold.
    pub fn warnings(&self) -> Vec<Warning> {
        self.inner.reporter.warnings()
    }
}
