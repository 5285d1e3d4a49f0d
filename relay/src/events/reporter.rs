//! Where the rooms of a relay report to, and how a listener follows.

use std::collections::VecDeque;
use std::sync::Arc;

use cepa_common::dir::{Consensus, ConsensusStore, Flags};
use cepa_common::ids::RelayId;
use cepa_common::log_pace::LogPaces;
use cepa_common::net::news::{self, Feed, News, Standing};
use cepa_common::world::steady;
use tokio::sync::watch;

use super::{Class, Listing, RelayEvent};

/// The most states that are held at a time; the oldest makes room. There is a state for each authority, and a few more.
const MOST_STATES: usize = 64;

#[derive(Debug, Default)]
struct States {
    /// How things stand, in the order in which they came about.
    held: VecDeque<RelayEvent>,
    /// Paces the events of the classes that others can cause again and again.
    paces: LogPaces<Class>,
}

impl Standing for States {
    type Event = RelayEvent;

    fn present(&self) -> VecDeque<RelayEvent> {
        self.held.clone()
    }
}

impl States {
    /// Takes an event in. Returns `false` if it is no news: a state that is held already, or one more event of a class
    /// that was told of a moment ago. The next event of that class has the sum.
    fn take(&mut self, event: &mut RelayEvent) -> bool {
        if let Some((class, count)) = event.class() {
            let Some(sum) = self.paces.count(class, *count, steady::now()) else {
                return false;
            };
            *count = sum;
        }
        if event.is_state() {
            if self.held.contains(event) {
                return false;
            }
            self.held.retain(|held| !held.is_same_matter(event));
            if self.held.len() >= MOST_STATES {
                self.held.pop_front();
            }
            self.held.push_back(event.clone());
        }
        true
    }
}

/// Where the rooms of a relay report to. Clones share it.
#[derive(Clone, Debug)]
pub struct Reporter(News<States>);

impl Default for Reporter {
    fn default() -> Self {
        Self(News::new(States::default()))
    }
}

impl Reporter {
    /// Writes the event to the log and passes it on, unless it is no news. This is the only place where a relay's
    /// events become lines of the log.
    pub(crate) fn report(&self, event: impl Into<RelayEvent>) {
        let mut event = event.into();
        self.0.change(|states, tell| {
            if states.take(&mut event) {
                news::log(event.level(), &event);
                tell(event);
            }
        });
    }

    /// The events from now on, after those that say how things stand.
    pub fn subscribe(&self) -> RelayEvents {
        RelayEvents(self.0.subscribe())
    }
}

/// A relay's events, one after the other.
#[derive(Debug)]
pub struct RelayEvents(Feed<States>);

impl RelayEvents {
    /// The next event: first how things stand, then what happens. `None` when the relay is gone. Whoever is slow misses
    /// events, and hears again how things stand instead.
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<RelayEvent> {
        self.0.next().await
    }
}

/// Reports each newer consensus, and what it says of this relay, `own`.
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
