//! What a running relay shows its owner: sums, limits, and what the newest consensus says of it. Nothing of who uses it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use cepa_common::dir::{Consensus, Flags, Lifetime};
use cepa_common::ids::RelayId;
use cepa_common::net::limit::{Direction, Traffic};
use cepa_common::sync::lock;
use tokio::sync::watch;

use super::missing::{self, MissingFlag, Own};
use super::owner::InForce;
use crate::admission::{Counts, JobQueue, Limits, LinkAdmission, Memory};
use crate::authority::{AuthorityAsks, AuthoritySnapshot};
use crate::directory::DirectoryServer;
use crate::events::{Refusal, RelayEvent, Reporter};
use crate::exit::ExitLoad;
use crate::keys::watch::KeysHeld;

/// Shows how a relay does while it runs. Clones show the same relay; none keeps it running.
#[derive(Clone)]
pub struct RelayView(pub(super) Arc<Seen>);

/// All that a view looks at.
pub(super) struct Seen {
    pub(super) identity: RelayId,
    /// What the owner has said last.
    pub(super) in_force: Arc<Mutex<InForce>>,
    pub(super) local_addr: SocketAddr,
    /// Where others reach the relay, as its descriptor says.
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) offers: Flags,
    pub(super) events: Reporter,
    pub(super) exit: Option<ExitLoad>,
    pub(super) memory: Arc<Memory>,
    pub(super) connections: LinkAdmission,
    pub(super) creates: Arc<JobQueue>,
    pub(super) traffic: Arc<Traffic>,
    pub(super) directory: Arc<DirectoryServer>,
    pub(super) keys: watch::Receiver<KeysHeld>,
    pub(super) authority: Option<AuthorityAsks>,
}

/// What a relay carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RelayLoad {
    /// Number of circuits that pass or end here.
    pub circuits: usize,
    /// Number of links to relays.
    pub relay_links: usize,
    /// Number of links of clients, and of whoever is no relay.
    pub other_links: usize,
    /// Bytes of consensuses and differences that were asked for over circuits, since the start.
    pub consensus_bytes_by_circuits: u64,
    /// Bytes of consensuses and differences that were asked for by who dialled the relay, since the start.
    pub consensus_bytes_to_diallers: u64,
}

/// How a relay does.
#[derive(Clone, Debug)]
pub struct RelaySnapshot {
    /// Who the relay is.
    pub identity: RelayId,
    /// Its name for people.
    pub nickname: String,
    /// Where it listens.
    pub local_addr: SocketAddr,
    /// Where others reach it, as its descriptor says.
    pub addresses: Vec<SocketAddr>,
    /// Its links and circuits.
    pub load: RelayLoad,
    /// What it lets out, if it is an exit.
    pub exit: Option<ExitSnapshot>,
    /// Bytes that came in by links and that went out by links since the start, as cells.
    pub moved: [u64; 2],
    /// Bytes of cells that wait for links.
    pub queued_bytes: usize,
    /// CREATEs that wait for an answer.
    pub creates_waiting: usize,
    /// Bytes that links, circuits, streams and queues are charged.
    pub held_bytes: usize,
    /// Connections that are open.
    pub connections: usize,
    /// What its owner allows.
    pub limits: Limits,
    /// What was refused since the start, each reason once.
    pub refusals: Vec<(Refusal, u64)>,
    /// How things stand: the newest event of each matter.
    pub standing: Vec<RelayEvent>,
    /// What the newest consensus says, if one is held.
    pub consensus: Option<ConsensusSays>,
    /// The relay's keys.
    pub keys: KeysHeld,
}

/// What an exit has open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitSnapshot {
    /// Streams that leave the network here.
    pub streams: usize,
    /// Associations for datagrams.
    pub associations: usize,
}

/// What a consensus says of itself and of this relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsensusSays {
    /// Number of relays in it.
    pub relays: usize,
    /// Its times.
    pub lifetime: Lifetime,
    /// This relay's entry, if it is listed.
    pub own: Option<OwnEntry>,
}

/// A relay's entry in a consensus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnEntry {
    /// Flags that it has.
    pub flags: Flags,
    /// Flags that it lacks and could have, and why as far as the relay can tell.
    pub missing: Vec<MissingFlag>,
    /// Its weight (KiB a second).
    pub weight: u32,
    /// The weight of all relays together (KiB a second).
    pub of_weight: u64,
}

impl RelayView {
    /// Who the relay is.
    pub fn identity(&self) -> RelayId {
        self.0.identity
    }

    /// How many links and circuits the relay has now, and what of the directory it has served.
    pub(super) fn load(&self) -> RelayLoad {
        self.load_of(self.0.memory.counts())
    }

    fn load_of(&self, counts: Counts) -> RelayLoad {
        let (streams, others) = self.0.directory.served();
        RelayLoad {
            circuits: counts.circuits,
            relay_links: counts.relay_links,
            other_links: counts.other_links,
            consensus_bytes_by_circuits: streams,
            consensus_bytes_to_diallers: others,
        }
    }

    /// How the relay does now. The call looks at every circuit, so it is not for a thread that carries cells, nor for
    /// asking many times a second.
    pub fn snapshot(&self) -> RelaySnapshot {
        let seen = &*self.0;
        let counts = seen.memory.counts();
        let in_force = lock(&seen.in_force).clone();
        let consensus = seen.directory.snapshot().newest().cloned();
        let own = Own {
            identity: seen.identity,
            offers: seen.offers,
            exits: in_force.exits,
        };
        let count = |refusal| {
            let counted = seen.events.refusals().count(refusal);
            match refusal {
                Refusal::CreatesWaiting => counted + seen.creates.refused(),
                _ => counted,
            }
        };
        RelaySnapshot {
            identity: seen.identity,
            nickname: in_force.nickname.clone(),
            local_addr: seen.local_addr,
            addresses: seen.addresses.clone(),
            load: self.load_of(counts),
            exit: seen.exit.as_ref().map(|exit| ExitSnapshot {
                streams: exit.streams(),
                associations: exit.associations(),
            }),
            moved: [Direction::Read, Direction::Write].map(|way| seen.traffic.moved_bytes(way)),
            queued_bytes: counts.queued_bytes,
            creates_waiting: seen.creates.waiting(),
            held_bytes: seen.memory.budget().used(),
            connections: seen.connections.open(),
            limits: in_force.limits,
            refusals: Refusal::ALL.map(|reason| (reason, count(reason))).to_vec(),
            standing: seen.events.standing(),
            consensus: consensus.map(|consensus| says(&consensus, &own)),
            keys: seen.keys.borrow().clone(),
        }
    }

    /// Is the relay an authority?
    pub fn is_authority(&self) -> bool {
        self.0.authority.is_some()
    }

    /// Is the relay an exit?
    pub fn is_exit(&self) -> bool {
        self.0.exit.is_some()
    }

    /// How the authority does, if the relay is one. `None` if it is none, or if its task has ended or has too much to
    /// do to answer.
    pub async fn authority(&self) -> Option<AuthoritySnapshot> {
        self.0.authority.as_ref()?.snapshot().await
    }
}

fn says(consensus: &Consensus, own: &Own) -> ConsensusSays {
    let entries = consensus.entries();
    let entry = consensus.relay(&own.identity);
    ConsensusSays {
        relays: entries.len(),
        lifetime: consensus.lifetime(),
        own: entry.map(|entry| OwnEntry {
            flags: entry.flags,
            missing: missing::of(entry, consensus, own),
            weight: entry.weight,
            of_weight: entries.iter().map(|entry| u64::from(entry.weight)).sum(),
        }),
    }
}
