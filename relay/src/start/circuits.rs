//! The fourth step: links and circuits, within what the owner allows.

use std::sync::Arc;

use cepa_common::budget::Budget;
use cepa_common::net::limit::Traffic;
use tokio::time::Instant;

use super::directory::Directory;
use super::error::RelayError;
use super::ground::Ground;
use super::keys::Keys;
use super::owner::{Bounds, ExitOwner};
use crate::admission::{Admission, JobQueue, LinkAdmission, Memory, keep_within_budget};
use crate::circuit::{EndContext, HandshakePool, Prober, Responder, Sets};
use crate::exit::{ExitConnector, ExitLoad, OpenStreams, Outside, ResolverError, Rules};
use crate::link::{LinkContext, PeerLinks};
use crate::options::RelayOptions;

/// Links to others, the workers that answer CREATE, and the bound on connections.
pub(super) struct Circuits {
    /// Keeps links.
    pub(super) links: Arc<PeerLinks>,
    /// Bounds the connections that are accepted.
    pub(super) admission: LinkAdmission,
    /// Answers CREATEs.
    pub(super) handshakes: HandshakePool,
    /// Finds out whether other relays run.
    pub(super) prober: Arc<Prober>,
    /// The streams of the exit, if this relay is one.
    pub(super) streams: Option<Arc<OpenStreams>>,
    /// What the exit has open, if this relay is one.
    pub(super) load: Option<ExitLoad>,
    /// What links, circuits and streams hold.
    pub(super) memory: Arc<Memory>,
    /// The CREATEs that wait.
    pub(super) creates: Arc<JobQueue>,
    /// What all links move.
    pub(super) traffic: Arc<Traffic>,
    /// What the owner may change of all that.
    pub(super) bounds: Bounds,
}

impl Circuits {
    /// Starts the workers, and the watch over memory.
    ///
    /// # Errors
    /// Names cannot be resolved, or the system gives no thread.
    pub(super) fn start(
        options: &RelayOptions,
        ground: &Ground,
        keys: &Keys,
        directory: &Directory,
    ) -> Result<Self, RelayError> {
        let Admission {
            links: admission,
            creates,
            memory,
            traffic,
        } = Admission::new(options.limits, Instant::now());
        let owned = exit(options, ground, directory, memory.budget())?;
        let bounds = Bounds {
            links: admission.clone(),
            memory: memory.clone(),
            traffic: traffic.clone(),
            exit: owned.clone(),
        };
        let exit = owned.map(|owned| owned.connector);
        let streams = exit.as_ref().map(|exit| exit.open_streams().clone());
        let load = exit.as_ref().map(|exit| exit.load());
        let waiting = creates.clone();
        let held = memory.clone();
        let (params, tasks) = (&directory.params, &ground.work.tasks);
        let links = Arc::new(PeerLinks::new(
            ground.identity,
            ground.tls.clone(),
            directory.server.clone(),
            LinkContext {
                params: params.clone(),
                memory: memory.clone(),
                creates: creates.clone(),
                traffic: traffic.clone(),
                tasks: tasks.clone(),
            },
        ));
        let responder = Responder {
            network: options.network.network_id(),
            onion_keys: keys.follow(),
            ends: Arc::new(EndContext {
                identity: ground.identity,
                params: params.clone(),
                memory: memory.clone(),
                directory: directory.server.clone(),
                exit,
                links: links.clone(),
                refusals: ground.events.refusals().clone(),
                sets: Sets::default(),
                tasks: tasks.clone(),
            }),
        };
        let prober = Arc::new(Prober::new(responder.network, responder.ends.clone()));
        let handshakes = HandshakePool::start(options.workers, creates, &responder, &ground.events);
        let handshakes = handshakes.map_err(|source| RelayError::Io {
            what: "no thread",
            source,
        })?;
        tasks.spawn(keep_within_budget(memory, ground.events.clone()));
        Ok(Self {
            links,
            admission,
            handshakes,
            prober,
            streams,
            load,
            memory: held,
            creates: waiting,
            traffic,
            bounds,
        })
    }
}

/// What connects streams to the outside, if this relay is an exit.
fn exit(
    options: &RelayOptions,
    ground: &Ground,
    directory: &Directory,
    budget: &Arc<Budget>,
) -> Result<Option<ExitOwner>, ResolverError> {
    let Some(exit) = &options.exit else {
        return Ok(None);
    };
    let mut own = vec![options.listen.ip(), ground.local_addr.ip()];
    own.extend(options.advertised.iter().map(|address| address.ip()));
    let policy = Arc::new(Outside::new(
        Rules::new(
            exit.policy.clone(),
            exit.udp_policy.clone(),
            own,
            options.world.sockets.clone(),
        ),
        directory.server.clone(),
    ));
    let connector = ExitConnector::new(
        policy.clone(),
        exit.resolver,
        &options.world,
        budget,
        ground.events.clone(),
    )?;
    let most = options.limits.associations();
    Ok(Some(ExitOwner {
        outside: policy,
        connector: Arc::new(connector.with_associations(most)),
    }))
}
