//! What is seen of a run while it goes on: events, jobs, consensuses, and whatever must not be.

use core::fmt;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use cepa_client::circuit::Counts;
use cepa_common::dir::Consensus;
use cepa_common::ids::RelayId;
use cepa_common::sync::lock;
use cepa_common::world::memory::Event;
use cepa_relay::RelayLoad;
use tokio::time::{Duration, Instant};

use crate::load::JobKind;
use crate::log::Log;
use crate::scenario::Hostility;

/// What must hold in every run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// Bytes that are read are those that were written, and an end of file follows the last of them.
    Streams,
    /// A circuit of which a hostile relay has changed a cell does not go on.
    Cells,
    /// No authority signs two votes for one time, unless its owner has it do so.
    OneVote,
    /// There are never two consensuses with a majority for one time.
    OneConsensus,
    /// There is a new consensus each period while a majority of the authorities is honest and connected.
    Consensuses,
    /// No client uses an older consensus than before.
    NoWayBack,
    /// A client keeps the guards that it has drawn, also when it is started again, and uses none that is not listed.
    Guards,
    /// No crash takes what a node has written to its state.
    Durable,
    /// Nodes stay within their memory limits.
    Bounds,
    /// A client builds few circuits that nobody uses.
    Waste,
    /// A node that has ended has no task and no socket two minutes later.
    NothingLeft,
    /// No line of the log names a destination.
    Secrets,
    /// Nothing panics.
    Panics,
    /// Two minutes after the last fault every client reaches its destination, and every relay is listed.
    Liveness,
    /// A run does not stand still.
    Progress,
    /// Two runs of one seed are the same.
    Repeats,
}

impl Invariant {
    /// The invariant's name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Streams => "streams",
            Self::Cells => "cells",
            Self::OneVote => "one-vote",
            Self::OneConsensus => "one-consensus",
            Self::Consensuses => "consensuses",
            Self::NoWayBack => "no-way-back",
            Self::Guards => "guards",
            Self::Durable => "durable",
            Self::Bounds => "bounds",
            Self::Waste => "waste",
            Self::NothingLeft => "nothing-left",
            Self::Secrets => "secrets",
            Self::Panics => "panics",
            Self::Liveness => "liveness",
            Self::Progress => "progress",
            Self::Repeats => "repeats",
        }
    }
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Something that must not be.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Time since the run began.
    pub at: Duration,
    /// What did not hold.
    pub invariant: Invariant,
    /// What was seen.
    pub what: String,
    /// Numbers of the nodes concerned.
    pub nodes: Vec<u32>,
}

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct JobEnd {
    /// When the job began.
    pub began: Duration,
    /// The client.
    pub node: u32,
    /// The kind of job.
    pub kind: JobKind,
    /// Time until the first of its streams was open; `None` if none was.
    pub opened: Option<Duration>,
    /// Time until the first byte of an answer; `None` if there was none.
    pub first_byte: Option<Duration>,
    /// Time until the end.
    pub whole: Duration,
    /// Bytes that the client read and wrote.
    pub bytes: u64,
    /// Did all streams come to their end?
    pub is_done: bool,
}

/// How two runs are compared event by event.
#[derive(Clone, Debug, Default)]
pub(crate) enum Compare {
    /// Not at all.
    #[default]
    No,
    /// All events are kept.
    Keep(Vec<Event>),
    /// Each event is compared with those of an earlier run.
    With(Arc<Vec<Event>>),
}

impl Compare {
    /// Event `number` of the earlier run; `None` if it had fewer events, or if there is none to compare with.
    fn before(&self, number: u64) -> Option<Event> {
        let Self::With(events) = self else {
            return None;
        };
        let place = usize::try_from(number).ok()?;
        events.get(place).copied()
    }
}

/// The guards of a client, as they are on its disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KeptGuards {
    /// All that were drawn.
    pub(crate) sampled: Vec<RelayId>,
    /// Those that were used, in the order of their first use.
    pub(crate) confirmed: Vec<RelayId>,
}

impl KeptGuards {
    /// What of these guards is not as it was in `before`; `None` if nothing is lost.
    pub(crate) fn lost_since(&self, before: &Self) -> Option<String> {
        let gone = |guard: &&RelayId| !self.sampled.contains(guard);
        if let Some(gone) = before.sampled.iter().find(gone) {
            return Some(format!("guard {gone} is no longer among those drawn"));
        }
        let is_in_order = self.confirmed.starts_with(&before.confirmed);
        (!is_in_order).then(|| "the guards that were used are not those of before".to_owned())
    }
}

/// Number of events of the network that are kept for a failure's story.
const KEPT: usize = 2_000;

#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) events: u64,
    pub(crate) hash: u64,
    pub(crate) compare: Compare,
    pub(crate) last: VecDeque<Event>,
    pub(crate) violations: Vec<Violation>,
    pub(crate) jobs: Vec<JobEnd>,
    pub(crate) guards: BTreeMap<u32, BTreeSet<String>>,
    /// The guards that each client has on its disk, as they were seen last.
    pub(crate) kept_guards: BTreeMap<u32, KeptGuards>,
    /// The newest consensus that each client has used for a while, in this life or another.
    pub(crate) used: BTreeMap<u32, u64>,
    /// The digest of each consensus, by its valid-after, and the first node that had it.
    pub(crate) consensuses: BTreeMap<u64, (String, u32)>,
    /// The valid-after of the newest consensus that each node has had.
    pub(crate) newest: BTreeMap<u32, u64>,
    /// How long the run was, once it is over.
    pub(crate) lasted: Option<Duration>,
    /// Does each relay, by its name, find itself listed as running?
    pub(crate) listed: BTreeMap<String, bool>,
    /// What hostile nodes have done: cells changed or kept back, and cells, connections and votes sent beside.
    pub(crate) misdeeds: BTreeMap<Hostility, u64>,
    /// What is kept for models to be compared with; `None` if nothing is.
    pub(crate) measured: Option<Measured>,
}

/// What models of the network are compared with.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// What relays carried: when, the relay's number, and its load.
    pub loads: Vec<(Duration, u32, RelayLoad)>,
    /// The consensuses that clients have used, by their valid-after.
    pub documents: BTreeMap<u64, Arc<Consensus>>,
    /// What circuits clients had: when, and how many.
    pub shelves: Vec<(Duration, Counts)>,
    /// The guards of each client, as often as they were looked at.
    pub guards: BTreeMap<u32, BTreeSet<RelayId>>,
}

/// What is seen of one run. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Sight {
    began: Instant,
    seen: Arc<Mutex<Seen>>,
    pub(crate) log: Log,
}

impl Sight {
    /// Nothing has been seen, and the run begins now.
    pub(crate) fn new(log: Log, compare: Compare, measures: bool) -> Self {
        log.begin();
        let seen = Seen {
            compare,
            measured: measures.then(Measured::default),
            hash: 0xcbf2_9ce4_8422_2325,
            ..Seen::default()
        };
        Self {
            began: Instant::now(),
            seen: Arc::new(Mutex::new(seen)),
            log,
        }
    }

    /// Time since the run began.
    pub(crate) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// The run is over.
    pub(crate) fn end(&self) {
        let now = self.now();
        let mut seen = self.seen();
        seen.lasted = Some(now);
        let number = seen.events;
        let more = seen.compare.before(number);
        if more.is_some() && seen.violations.is_empty() {
            drop(seen);
            self.differs(number, more, None);
        }
    }

    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        lock(&self.seen)
    }

    /// Takes an event of the network.
    pub(crate) fn event(&self, event: &Event) {
        let hash = hash_of(event);
        let mut seen = self.seen();
        if seen.lasted.is_some() {
            // What a runtime that ends drops first is the runtime's own affair.
            return;
        }
        let number = seen.events;
        seen.events += 1;
        seen.hash = mix(seen.hash, hash);
        if seen.last.len() == KEPT {
            seen.last.pop_front();
        }
        seen.last.push_back(*event);
        match &mut seen.compare {
            Compare::No => return,
            Compare::Keep(events) => return events.push(*event),
            Compare::With(_) => {}
        }
        let before = seen.compare.before(number);
        if before != Some(*event) && seen.violations.is_empty() {
            drop(seen);
            self.differs(number, before, Some(*event));
        }
    }

    /// Event `number` of this run is not that of the run before.
    fn differs(&self, number: u64, first: Option<Event>, second: Option<Event>) {
        let said =
            |event: Option<Event>| event.map_or("the end".to_owned(), |event| format!("{event:?}"));
        let what = format!(
            "event {number} is {} in the first run and {} in the second",
            said(first),
            said(second)
        );
        self.violation(Invariant::Repeats, Vec::new(), what);
    }

    /// Notes what must not be.
    pub(crate) fn violation(&self, invariant: Invariant, nodes: Vec<u32>, what: String) {
        let at = self.now();
        self.seen().violations.push(Violation {
            at,
            invariant,
            what,
            nodes,
        });
    }

    /// Has anything been seen that must not be?
    pub(crate) fn is_bad(&self) -> bool {
        !self.seen().violations.is_empty()
    }

    /// A hostile node has done something so many times.
    pub(crate) fn misdeeds(&self, how: Hostility, count: u64) {
        *self.seen().misdeeds.entry(how).or_default() += count;
    }

    /// A node has a consensus with this valid-after.
    pub(crate) fn newest(&self, node: u32, valid_after: u64) {
        let mut seen = self.seen();
        let newest = seen.newest.entry(node).or_default();
        *newest = valid_after.max(*newest);
    }

    /// A relay has read in its newest consensus whether it is listed as running.
    pub(crate) fn listing(&self, name: &str, is_running: bool) {
        self.seen().listed.insert(name.to_owned(), is_running);
    }

    /// A client has a consensus with this valid-after and this digest.
    pub(crate) fn consensus(&self, node: u32, valid_after: u64, digest: String) {
        let mut seen = self.seen();
        let first = seen
            .consensuses
            .entry(valid_after)
            .or_insert_with(|| (digest.clone(), node));
        if first.0 != digest {
            let (of, what) = (
                first.1,
                format!("two consensuses are valid after {valid_after}"),
            );
            drop(seen);
            self.violation(Invariant::OneConsensus, vec![of, node], what);
            return;
        }
        drop(seen);
        self.newest(node, valid_after);
    }
}

/// FNV-1a over words: quick, and nobody who runs a simulation wants to deceive himself.
fn mix(hash: u64, word: u64) -> u64 {
    let mixed = (hash ^ word).wrapping_mul(0x0000_0100_0000_01b3);
    mixed ^ (mixed >> 29)
}

fn hash_of(event: &Event) -> u64 {
    let word = |address| match address {
        IpAddr::V4(address) => u64::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address) as u64,
    };
    let words = [
        u64::try_from(event.at.as_nanos()).unwrap_or(u64::MAX),
        word(event.host),
        word(event.peer.ip()),
        u64::from(event.peer.port()),
        event.kind as u64,
        u64::try_from(event.bytes).unwrap_or(u64::MAX),
    ];
    words.into_iter().fold(0xcbf2_9ce4_8422_2325, mix)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guards(sampled: &[u8], confirmed: &[u8]) -> KeptGuards {
        let relays = |of: &[u8]| of.iter().map(|one| RelayId([*one; 32])).collect();
        KeptGuards {
            sampled: relays(sampled),
            confirmed: relays(confirmed),
        }
    }

    #[test]
    fn guards_come_and_do_not_go() {
        let before = guards(&[1, 2, 3], &[2]);
        for kept in [guards(&[1, 2, 3], &[2]), guards(&[1, 2, 3, 4], &[2, 4])] {
            assert_eq!(kept.lost_since(&before), None);
        }
        for lost in [
            guards(&[], &[]),
            guards(&[1, 2, 4], &[2]),
            guards(&[1, 2, 3], &[]),
            guards(&[1, 2, 3], &[3, 2]),
        ] {
            assert!(lost.lost_since(&before).is_some(), "{lost:?}");
        }
    }
}
