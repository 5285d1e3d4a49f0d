//! Starts the rooms of a relay in order, and stops them with the sources of work first.

use std::net::SocketAddr;
use std::sync::Arc;

use cepa_common::dir::RelayDescriptor;
use cepa_common::ids::RelayId;
use cepa_common::net::directory::{Dial, NetworkHandle, Reviser, RevisionStore, revise};
use cepa_common::net::tasks::{Stopper, Tasks, tasks};
use cepa_common::net::tls::{Tls, TlsSetupError};
use cepa_common::state::StateError;
use cepa_common::world::{Clock, World, random};
use tokio::sync::watch;

use crate::admission::{Admission, keep_within_budget};
use crate::authority::{
    self, AuthorityHandle, AuthorityQueue, AuthorityTask, FileSigningRecord, KnowledgeOptions,
    authority_queue, follow_voting_key,
};
use crate::circuit::{EndContext, HandshakePool, Responder, Sets};
use crate::descriptor::own_descriptor;
use crate::directory::{ConsensusFiles, DirectoryServer, Publisher, Refresher, publish, refresh};
use crate::events::{AuthorityFailure, RelayEvent, RelayEvents, Reporter, follow_consensus};
use crate::exit::{ExitConnector, Outside, ResolverError};
use crate::keys::ring::OnionRing;
use crate::keys::watch::{KeyWatch, watch as watch_keys};
use crate::link::{Doors, LinkContext, Listener, PeerLinks, listen};
use crate::options::{AuthorityOptions, ExitOptions, RelayOptions};
use crate::params::ParamsInForce;

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

/// A relay.
pub struct Relay;

/// A relay that runs. Dropping the handle stops the relay without waiting for it.
pub struct RelayHandle {
    identity: RelayId,
    local_addr: SocketAddr,
    events: Reporter,
    /// What brings work in: the listener and all that speaks to authorities.
    sources: Stopper,
    /// The threads that make circuits.
    handshakes: HandshakePool,
    /// Links, circuits and streams.
    work: Stopper,
}

impl Relay {
    /// Starts a relay on the runtime that this is called on.
    ///
    /// The relay listens when this returns. It is part of the network when the authorities have found it reachable.
    ///
    /// # Errors
    /// [`RelayError`]; nothing runs then.
    pub async fn start(options: RelayOptions) -> Result<RelayHandle, RelayError> {
        let io = |what| move |source| RelayError::Io { what, source };
        let listener = options.world.sockets.bind(options.listen).await;
        let socket = listener.map_err(|source| RelayError::Listen {
            address: options.listen,
            source,
        })?;
        let local_addr = socket.local_addr();
        let local_addr = local_addr.map_err(io("the port has no address"))?;
        let identity = options.identity.identity();
        let network = options.network.clone();
        let network_id = network.network_id();
        let tls = Tls::relay(options.identity.link_key())?.over(options.world.sockets.clone());
        let clock = options.world.clock.clone();
        let mut ring = load_ring(&options, &network, &clock)?;
        let (onion_keys_sender, onion_keys) = watch::channel(ring.snapshot());
        let events = Reporter::default();
        if let Some(trouble) = ring.take_trouble() {
            events.report(trouble);
        }
        let (sources, stop_sources) = tasks();
        let (work, stop_work) = tasks();

        let queue = options.authority.as_ref().map(|_| authority_queue());
        let (authority, authority_queue) = queue.unzip();
        let directory = DirectoryServer::reporting(
            network.clone(),
            clock.clone(),
            authority.clone(),
            events.clone(),
        );
        let files = ConsensusFiles::new(&options.cache_dir, &directory);
        files.load(&directory).await;
        let params = ParamsInForce::new(directory.clone());
        let exit = start_exit(options.exit.as_ref(), &options.world, &directory)?;

        let admission = Admission::new(options.limits, tokio::time::Instant::now());
        let (memory, creates) = (admission.memory, admission.creates);
        let links = Arc::new(PeerLinks::new(
            identity,
            tls.clone(),
            directory.clone(),
            LinkContext {
                params: params.clone(),
                memory: memory.clone(),
                creates: creates.clone(),
                bandwidth: admission.bandwidth,
                tasks: work.clone(),
            },
        ));
        let responder = Responder {
            network: network_id,
            onion_keys: onion_keys.clone(),
            ends: Arc::new(EndContext {
                identity,
                params: params.clone(),
                memory: memory.clone(),
                directory: directory.clone(),
                exit,
                links: links.clone(),
                sets: Sets::default(),
                tasks: work.clone(),
            }),
        };
        let handshakes = HandshakePool::start(options.workers, creates, &responder, &events);
        let handshakes = handshakes.map_err(io("no thread"))?;
        work.spawn(keep_within_budget(memory, events.clone()));
        work.spawn(files.follow(directory.clone()));

        let speakers = Speakers {
            identity,
            directory: directory.clone(),
            dial: Arc::new(tls),
            tasks: sources.clone(),
        };
        if let (Some(options), Some(queue)) = (&options.authority, authority_queue) {
            speakers.start_authority(options, queue);
        }
        speakers.start_refresher();
        work.spawn(follow_consensus(
            directory.subscribe(),
            identity,
            events.clone(),
        ));
        let onion = onion_keys.borrow().last().map(|newest| newest.public());
        let descriptor = onion.filter(|_| options.publish).map(|onion| {
            let family = options.identity.family(&network_id);
            let family = family.unwrap_or_else(|error| {
                let reason = error.to_string();
                events.report(RelayEvent::OwnersFile { reason });
                None
            });
            events.report(RelayEvent::Family {
                is_member: family.is_some(),
            });
            let now = clock.now_secs();
            let descriptor = own_descriptor(&options, onion, local_addr, now, family);
            speakers.start_publisher(&options, descriptor, authority)
        });
        speakers.start_reviser(&options);
        sources.spawn(watch_keys(KeyWatch {
            network: network_id,
            clock,
            identity: options.identity,
            ring,
            keys: onion_keys_sender,
            consensus: directory.subscribe(),
            params: network.newest().params(),
            descriptor,
            events: events.clone(),
            told: Default::default(),
        }));
        sources.spawn(listen(Listener {
            socket,
            admission: admission.links,
            params,
            doors: Doors { links, directory },
            tasks: work,
            events: events.clone(),
        }));
        events.report(RelayEvent::Listening(local_addr));
        Ok(RelayHandle {
            identity,
            local_addr,
            events,
            sources: stop_sources,
            handshakes,
            work: stop_work,
        })
    }
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

    /// What the relay tells of itself: how things stand first, then what happens.
    pub fn events(&self) -> RelayEvents {
        self.events.subscribe()
    }

    /// Stops accepting, ends all links and circuits, and waits until all tasks have ended.
    pub async fn shutdown(self) {
        self.sources.stop().await;
        drop(self.handshakes);
        self.work.stop().await;
    }
}

/// Reads the onion keys, makes one where one is due, and erases what its age ends. No consensus is held yet, so that
/// the parameters are those of the network's file.
fn load_ring(
    options: &RelayOptions,
    network: &NetworkHandle,
    clock: &Clock,
) -> Result<OnionRing, StateError> {
    let mut ring = OnionRing::load(options.onion_keys.clone(), clock.now_secs())?;
    let params = network.newest().params();
    ring.turn(clock.now_secs(), &params, &mut random::rng())?;
    Ok(ring)
}

fn start_exit(
    options: Option<&ExitOptions>,
    world: &World,
    directory: &Arc<DirectoryServer>,
) -> Result<Option<Arc<ExitConnector>>, ResolverError> {
    let start = |options: &ExitOptions| {
        let policy = Arc::new(Outside {
            rules: options.policy.clone(),
            directory: directory.clone(),
        });
        ExitConnector::new(policy, options.resolver, world).map(Arc::new)
    };
    options.map(start).transpose()
}

/// Starts the tasks that speak to authorities.
struct Speakers {
    identity: RelayId,
    directory: Arc<DirectoryServer>,
    dial: Arc<dyn Dial>,
    tasks: Tasks,
}

impl Speakers {
    /// Starts this authority's periods.
    fn start_authority(&self, options: &AuthorityOptions, queue: AuthorityQueue) {
        let renewals = options.signing_key_file.clone().map(|file| {
            let (sender, receiver) = watch::channel(options.signing_key.clone());
            let clock = self.directory.clock().clone();
            let events = self.directory.events().clone();
            let follow = follow_voting_key(file, clock, sender, events);
            self.tasks.spawn(follow);
            receiver
        });
        let task = AuthorityTask {
            identity: self.identity,
            signing_key: options.signing_key.clone(),
            renewals,
            params: Default::default(),
            dial: self.dial.clone(),
            probe: Some(Arc::new(self.dial.clone())),
            directory: self.directory.clone(),
            record: Arc::new(FileSigningRecord::new(options.state_dir.join("signed"))),
            knowledge: KnowledgeOptions {
                file: Some(options.state_dir.join("relays")),
                rules: options.rules.clone(),
                measure: options.measure.clone(),
            },
        };
        self.tasks.spawn(async move {
            let events = task.directory.events().clone();
            if let Err(error) = authority::run(task, queue).await {
                events.report(AuthorityFailure::RecordLost.because(&error));
            }
        });
    }

    /// Has the newest consensus fetched.
    fn start_refresher(&self) {
        self.tasks.spawn(refresh(Refresher {
            server: self.directory.clone(),
            dial: self.dial.clone(),
            identity: self.identity,
        }));
    }

    /// Has the relay's descriptor published, and gives what changes it.
    fn start_publisher(
        &self,
        options: &RelayOptions,
        descriptor: RelayDescriptor,
        authority: Option<AuthorityHandle>,
    ) -> watch::Sender<RelayDescriptor> {
        let (sender, receiver) = watch::channel(descriptor);
        self.tasks.spawn(publish(Publisher {
            network: self.directory.networks().clone(),
            clock: self.directory.clock().clone(),
            dial: self.dial.clone(),
            key: options.identity.link_key().clone(),
            descriptor: receiver,
            consensus: self.directory.subscribe(),
            local: authority.map(|handle| (self.identity, handle)),
            events: self.directory.events().clone(),
        }));
        sender
    }

    /// Has later revisions of the network's file noticed, and kept beside the other directory documents.
    fn start_reviser(&self, options: &RelayOptions) {
        let directory = self.directory.clone();
        self.tasks.spawn(revise(Reviser {
            network: self.directory.networks().clone(),
            dial: self.dial.clone(),
            clock: self.directory.clock().clone(),
            consensus: Box::new(move || directory.snapshot().newest().cloned()),
            may_ask: Box::new(|_| true),
            asks_authorities: true,
            store: Some(RevisionStore::new(
                &options.cache_dir,
                &self.directory.network().network_id(),
            )),
            file: options.network_file.clone(),
            tell: Box::new({
                let events = self.directory.events().clone();
                move |news| events.report(RelayEvent::Revision(news))
            }),
        }));
    }
}
