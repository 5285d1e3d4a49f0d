//! Where the rooms of a relay report to, and how a listener follows.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use cepa_common::dir::{Consensus, ConsensusStore, Flags, Lifetime, UnixSecs};
use cepa_common::ids::RelayId;
use cepa_common::log_pace::LogPaces;
use cepa_common::net::news::{self, Feed, News, Standing};
use cepa_common::world::{Clock, steady};
use tokio::sync::watch;

use super::{Class, Listing, Refusals, RelayEvent};

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
pub struct Reporter {
    news: News<States>,
    refusals: Refusals,
}

impl Default for Reporter {
    fn default() -> Self {
        Self {
            news: News::new(States::default()),
            refusals: Refusals::default(),
        }
    }
}

impl Reporter {
    /// Writes the event to the log and passes it on, unless it is no news. This is the only place where a relay's
    /// events become lines of the log.
    pub(crate) fn report(&self, event: impl Into<RelayEvent>) {
        let mut event: RelayEvent = event.into();
        if let Some((refusal, times)) = event.refusal() {
            self.refusals.add(refusal, times);
        }
        self.news.change(|states, tell| {
            if states.take(&mut event) {
                news::log(event.level(), &event);
                tell(event);
            }
        });
    }

    /// The events from now on, after those that say how things stand.
    pub fn subscribe(&self) -> RelayEvents {
        RelayEvents(self.news.subscribe())
    }

    /// How things stand now: the newest event of each matter.
    pub fn standing(&self) -> Vec<RelayEvent> {
        self.news.present().into()
    }

    /// What was refused since the start.
    pub fn refusals(&self) -> &Refusals {
        &self.refusals
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

/// Reports each newer consensus and what it says of this relay, `own`; and says so when no newer one comes. `interval`
/// is the time between two consensuses while none is held.
pub(crate) async fn follow_consensus(
    mut consensus: watch::Receiver<Arc<ConsensusStore>>,
    own: RelayId,
    clock: Clock,
    interval: Duration,
    events: Reporter,
) {
    let began = clock.now_secs();
    let mut told = None;
    loop {
        let newest = consensus.borrow_and_update().newest().cloned();
        if let Some(newest) = &newest {
            let lifetime = newest.lifetime();
            events.report(RelayEvent::Consensus {
                relays: newest.entries().len(),
                valid_after: lifetime.valid_after,
                valid_until: lifetime.valid_until,
            });
            events.report(RelayEvent::Listing(listing(newest, &own)));
        }
        let lifetime = newest.map(|newest| newest.lifetime());
        let late = Lateness::of(lifetime, began, interval);
        loop {
            let now = clock.now_secs();
            let event = late.event(now);
            if event != told {
                told.clone_from(&event);
                if let Some(event) = event {
                    events.report(event);
                }
            }
            tokio::select! {
                changed = consensus.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return,
                },
                () = clock.sleep(late.next(now)) => {}
            }
        }
    }
}

/// When a newer consensus is missed, and what its owner hears then.
struct Lateness {
    newest: Option<Lifetime>,
    /// From then on, a newer consensus is missed (Unix seconds).
    missed_from: UnixSecs,
}

impl Lateness {
    /// A relay fetches a consensus in the first tenth of its interval, so one that is an interval late is missed. A
    /// network that has just begun needs two intervals for its first.
    fn of(newest: Option<Lifetime>, began: UnixSecs, interval: Duration) -> Self {
        let missed_from = match newest {
            Some(newest) => {
                let interval = newest.fresh_until.saturating_sub(newest.valid_after);
                newest.fresh_until.saturating_add(interval)
            }
            None => began.saturating_add(interval.as_secs().saturating_mul(3)),
        };
        Self {
            newest,
            missed_from,
        }
    }

    fn event(&self, now: UnixSecs) -> Option<RelayEvent> {
        if now < self.missed_from {
            return None;
        }
        Some(RelayEvent::ConsensusMissed {
            valid_after: self.newest.map(|newest| newest.valid_after),
            is_usable: self.newest.is_some_and(|newest| now < newest.valid_until),
        })
    }

    /// How long until there may be something else to say.
    fn next(&self, now: UnixSecs) -> Duration {
        let over = self.newest.map(|newest| newest.valid_until);
        let moments = [Some(self.missed_from), over];
        let next = moments.into_iter().flatten().filter(|at| *at > now).min();
        next.map_or(Duration::from_secs(86_400), |at| {
            Duration::from_secs(at.saturating_sub(now))
        })
    }
}

fn listing(consensus: &Consensus, own: &RelayId) -> Listing {
    match consensus.relay(own) {
        None => Listing::Absent,
        Some(entry) if entry.flags.contains(Flags::RUNNING) => Listing::Reachable,
        Some(_) => Listing::Unreachable,
    }
}
