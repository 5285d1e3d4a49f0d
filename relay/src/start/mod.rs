//! Starts the rooms of a relay in order, and stops them with the sources of work first.
//!
//! A start is a sequence of steps. Each step is a type that the next steps take: [`ground`], [`keys`], [`directory`],
//! [`circuits`], [`speakers`], and at the end the listener.

mod circuits;
mod directory;
mod error;
mod ground;
mod keys;
mod missing;
mod owner;
mod speakers;
mod view;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cepa_common::ids::RelayId;
use cepa_common::net::tasks::Stopper;
use tokio::time::timeout;

pub use self::error::RelayError;
pub use self::missing::{MissingFlag, WhyMissing};
use self::owner::InForce;
pub use self::owner::{Ended, Owner};
pub use self::view::{ConsensusSays, ExitSnapshot, OwnEntry, RelayLoad, RelaySnapshot, RelayView};

use self::circuits::Circuits;
use self::directory::Directory;
use self::ground::Ground;
use self::keys::Keys;
use self::speakers::Speakers;
use self::view::Seen;
use crate::admission::Memory;
use crate::authority::AuthorityHandle;
use crate::circuit::HandshakePool;
use crate::descriptor::{OFFERS, addresses};
use crate::events::{RelayEvent, RelayEvents, Reporter};
use crate::exit::OpenStreams;
use crate::link::{Doors, LinkListener, listen};
use crate::options::RelayOptions;

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
    /// The streams that leave the network here, if the relay is an exit.
    streams: Option<Arc<OpenStreams>>,
    /// What links, circuits and streams hold.
    memory: Arc<Memory>,
    view: RelayView,
    /// Changes settings.
    owner: Owner,
    /// Links, circuits and streams.
    work: Stopper,
}

impl Relay {
    /// Starts a relay on the runtime that this is called on.
    ///
    /// The relay listens when this returns. The relay is part of the network when the authorities have found it
    /// reachable.
    ///
    /// # Errors
    /// [`RelayError`]; nothing runs then.
    pub async fn start(options: RelayOptions) -> Result<RelayHandle, RelayError> {
        let ground = Ground::prepare(&options).await?;
        let keys = Keys::load(&options, &ground)?;
        let mut directory = Directory::load(&options, &ground).await;
        let circuits = Circuits::start(&options, &ground, &keys, &directory)?;
        directory.keep(&ground);
        let in_force = InForce::at_start(&options);
        let held = in_force.clone();
        let view = view(&options, &ground, &keys, &directory, &circuits, held);
        let speakers = Speakers::new(&ground, &directory, circuits.prober.clone());
        let word = speakers.start(&options, directory.queue.take());
        let descriptor = speakers.publish(&options, &keys, &ground, directory.authority.take());
        let owner = Owner {
            bounds: circuits.bounds.clone(),
            descriptor: descriptor.clone(),
            word,
            in_force,
        };
        keys.look_after(options, &ground, &directory, descriptor);
        Ok(open(ground, directory, circuits, view, owner))
    }
}

/// What shows how the relay does.
fn view(
    options: &RelayOptions,
    ground: &Ground,
    keys: &Keys,
    directory: &Directory,
    circuits: &Circuits,
    in_force: Arc<Mutex<InForce>>,
) -> RelayView {
    RelayView(Arc::new(Seen {
        identity: ground.identity,
        local_addr: ground.local_addr,
        addresses: addresses(&options.advertised, ground.local_addr),
        offers: OFFERS,
        in_force,
        events: ground.events.clone(),
        exit: circuits.load.clone(),
        memory: circuits.memory.clone(),
        connections: circuits.admission.clone(),
        creates: circuits.creates.clone(),
        traffic: circuits.traffic.clone(),
        directory: directory.server.clone(),
        keys: keys.shown(),
        authority: directory.authority.as_ref().map(AuthorityHandle::asks),
    }))
}

/// The last step: lets connections in.
fn open(
    ground: Ground,
    directory: Directory,
    circuits: Circuits,
    view: RelayView,
    owner: Owner,
) -> RelayHandle {
    let doors = Doors {
        links: circuits.links,
        directory: directory.server.clone(),
    };
    ground.sources.tasks.spawn(listen(LinkListener {
        socket: ground.socket,
        admission: circuits.admission,
        params: directory.params,
        doors,
        tasks: ground.work.tasks,
        events: ground.events.clone(),
    }));
    ground
        .events
        .report(RelayEvent::Listening(ground.local_addr));
    RelayHandle {
        identity: ground.identity,
        local_addr: ground.local_addr,
        events: ground.events,
        sources: ground.sources.stop,
        handshakes: circuits.handshakes,
        streams: circuits.streams,
        memory: circuits.memory,
        view,
        owner,
        work: ground.work.stop,
    }
}

impl RelayHandle {
    /// Who the relay is.
    pub fn identity(&self) -> RelayId {
        self.identity
    }

    /// Where the relay listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// What the relay tells of itself: how things stand first, then what happens.
    pub fn events(&self) -> RelayEvents {
        self.events.subscribe()
    }

    /// What shows how the relay does, while it runs.
    pub fn view(&self) -> RelayView {
        self.view.clone()
    }

    /// What changes the relay's settings while it runs.
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// How many streams leave the network here now.
    pub fn open_streams(&self) -> usize {
        self.streams.as_ref().map_or(0, |streams| streams.count())
    }

    /// What links, circuits, streams and queues are charged together (bytes), which `limits.memory_bytes` bounds.
    pub fn held_bytes(&self) -> usize {
        self.memory.budget().used()
    }

    /// How many links and circuits the relay has now, and what of the directory it has served since its start.
    pub fn load(&self) -> RelayLoad {
        self.view.load()
    }

    /// Stops accepting, ends all links and circuits, and waits until all tasks have ended.
    pub async fn shutdown(self) {
        self.drain(Duration::ZERO).await;
    }

    /// Stops as [`Self::shutdown`] does, but lets the streams that leave the network here end by themselves first, for
    /// `limit` at most. Meanwhile the relay takes no link, no circuit and no stream; what it has goes on. Dropping the
    /// future stops the relay at once.
    pub async fn drain(self, limit: Duration) {
        let Self {
            sources,
            handshakes,
            streams,
            work,
            ..
        } = self;
        sources.stop().await;
        drop(handshakes);
        if let Some(streams) = streams {
            // Streams that are left when the time is over end with their circuits.
            let _ = timeout(limit, streams.drain()).await;
        }
        work.stop().await;
    }
}
