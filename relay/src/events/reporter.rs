//! Where the rooms of a relay report to, and how a listener follows.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, Weak};

use cepa_common::dir::{Consensus, ConsensusStore, Flags};
use cepa_common::ids::RelayId;
use cepa_common::sync::lock;
use tokio::sync::{broadcast, watch};
use tracing::Level;

use super::{Listing, RelayEvent};

/// Events that a listener may be behind by before it skips ahead to how things stand.
const RING: usize = 64;
/// States that are held at a time; the oldest makes room. There is one for each authority, and a few more.
const MOST_STATES: usize = 64;

#[derive(Debug)]
struct Held {
    /// How things stand, in the order in which they came about.
    states: Mutex<VecDeque<RelayEvent>>,
    events: broadcast::Sender<RelayEvent>,
}

/// Where the rooms of a relay report to. Clones share it.
#[derive(Clone, Debug)]
pub struct Reporter(Arc<Held>);

impl Default for Reporter {
    fn default() -> Self {
        Self(Arc::new(Held {
            states: Mutex::default(),
            events: broadcast::Sender::new(RING),
        }))
    }
}

impl Reporter {
    /// Writes the event to the log and passes it on. A state that is held already is no news.
    pub(crate) fn report(&self, event: impl Into<RelayEvent>) {
        let event = event.into();
        let mut states = lock(&self.0.states);
        if event.is_state() {
            if states.contains(&event) {
                return;
            }
            states.retain(|held| !held.is_same_matter(&event));
            if states.len() >= MOST_STATES {
                states.pop_front();
            }
            states.push_back(event.clone());
        }
        log(&event);
        // Nobody may listen. Whoever comes later hears how things stand.
        let _ = self.0.events.send(event);
    }

    /// What comes; how things stand first.
    pub fn subscribe(&self) -> RelayEvents {
        let states = lock(&self.0.states);
        RelayEvents {
            present: states.clone(),
            // Under the lock: nothing is missed between the states and this.
            events: self.0.events.subscribe(),
            held: Arc::downgrade(&self.0),
        }
    }
}

fn log(event: &RelayEvent) {
    match event.level() {
        Level::ERROR => tracing::error!("{event}"),
        Level::WARN => tracing::warn!("{event}"),
        Level::INFO => tracing::info!("{event}"),
        _ => tracing::debug!("{event}"),
    }
}

/// A relay's events, one after the other.
#[derive(Debug)]
pub struct RelayEvents {
    present: VecDeque<RelayEvent>,
    events: broadcast::Receiver<RelayEvent>,
    held: Weak<Held>,
}

impl RelayEvents {
    /// The next event: first how things stand, then what happens. `None` when the relay is gone. Whoever is slow misses
    /// events, and hears again how things stand instead.
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<RelayEvent> {
        loop {
            if let Some(event) = self.present.pop_front() {
                return Some(event);
            }
            match self.events.recv().await {
                Ok(event) => return Some(event),
                Err(broadcast::error::RecvError::Closed) => return None,
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    *self = Reporter(self.held.upgrade()?).subscribe();
                }
            }
        }
    }
}

/// Reports each newer consensus, and what it says of the relay `own`.
pub(crate) async fn follow_consensus(
    mut consensus: watch::Receiver<Arc<ConsensusStore>>,
    own: RelayId,
    events: Reporter,
) {
    loop {
        let store = Arc::clone(&consensus.borrow_and_update());
        if let Some(newest) = store.newest() {
            let lifetime = newest.lifetime();
            events.report(RelayEvent::Consensus {
                relays: newest.entries().len(),
                valid_after: lifetime.valid_after,
                valid_until: lifetime.valid_until,
            });
            events.report(RelayEvent::Listing(listing(newest, &own)));
        }
        if consensus.changed().await.is_err() {
            return;
        }
    }
}

fn listing(consensus: &Consensus, own: &RelayId) -> Listing {
    match consensus.relay(own) {
        None => Listing::Absent,
        Some(entry) if entry.flags.contains(Flags::RUNNING) => Listing::Reachable,
        Some(_) => Listing::Unreachable,
    }
}
