//! How long and how reliably relays have been up (docs/protocol.md, 6.17).
//!
//! All times are of *observed time*: a clock that runs only while this authority looks. So the authority's own outages,
//! and clocks that step, count against no relay. Old times count less: all sums lose a twentieth every twelve hours.

use std::collections::BTreeMap;

use cepa_common::ids::RelayId;
use serde::{Deserialize, Serialize};

/// Time between two discounts of the sums (milliseconds of observed time).
const DECAY_EVERY_MS: u64 = 12 * 3_600_000;
/// How much one run counts in the number of runs, before any discount.
const ONE_RUN: u64 = 1_000_000;
/// A pause between two looks that is longer than this was an outage of this authority, or a step of its clock
/// (milliseconds).
const MAX_GAP_MS: u64 = 10 * 60_000;
/// A relay that has been down for this time is forgotten (milliseconds of observed time).
const FORGET_AFTER_MS: u64 = 30 * 86_400_000;
/// The most relays remembered: twice as many as a network lists.
pub(super) const MAX_RECORDS: usize = 40_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum State {
    Up,
    Down,
    /// The relay was up when this authority stopped, and has not been looked at since.
    Unsure,
}

/// The history of one relay. Times are milliseconds of observed time.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Record {
    state: State,
    /// When the relay was first up. This time is never discounted.
    first: u64,
    /// The time up to which all sums are complete.
    settled: u64,
    /// Discounted time since the relay has been known, and the part of it in which the relay was up.
    known: u64,
    up: u64,
    /// Length of the present run, not discounted; zero if the relay is down.
    run: u64,
    /// Discounted sum of the runs that have ended, and the number of those runs in millionths.
    runs: u64,
    ended: u64,
    /// Time since the relay was last up.
    down: u64,
}

/// How a relay stands, which decides about its flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    /// Time since the relay was first found up (milliseconds).
    pub(super) age_ms: u64,
    /// Length of the present run (seconds); zero if the relay is down.
    pub(super) uptime_secs: u64,
    /// Discounted mean length of the relay's runs (seconds).
    pub(super) mtbf_secs: u64,
    /// Discounted part of the time in which the relay was up (thousandths).
    pub(super) uptime_permille: u64,
}

impl Record {
    fn settle(&mut self, observed: u64) {
        let passed = observed.saturating_sub(self.settled);
        self.settled = observed;
        match self.state {
            State::Up => {
                self.known = self.known.saturating_add(passed);
                self.up = self.up.saturating_add(passed);
                self.run = self.run.saturating_add(passed);
            }
            State::Down => {
                self.known = self.known.saturating_add(passed);
                self.down = self.down.saturating_add(passed);
            }
            State::Unsure => {}
        }
    }

    fn decay(&mut self) {
        for sum in [
            &mut self.known,
            &mut self.up,
            &mut self.runs,
            &mut self.ended,
        ] {
            // All sums are rounded in the same way, so that a relay that was always up stays at one whole.
            *sum -= *sum / 20;
        }
    }

    fn end_run(&mut self) {
        self.state = State::Down;
        self.runs = self.runs.saturating_add(self.run);
        self.ended = self.ended.saturating_add(ONE_RUN);
        self.run = 0;
        self.down = 0;
    }

    fn standing(mut self, observed: u64) -> Standing {
        self.settle(observed);
        let runs = self.runs.saturating_add(self.run);
        let running = if self.state == State::Down {
            0
        } else {
            ONE_RUN
        };
        let count = self.ended.saturating_add(running);
        Standing {
            age_ms: observed.saturating_sub(self.first),
            uptime_secs: self.run / 1_000,
            mtbf_secs: runs
                .saturating_mul(ONE_RUN / 1_000)
                .checked_div(count)
                .unwrap_or(0),
            uptime_permille: self
                .up
                .saturating_mul(1_000)
                .checked_div(self.known)
                .unwrap_or(1_000),
        }
    }
}

/// The histories of all relays that were ever up.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct History {
    /// Time for which this authority has looked, over all its runs (milliseconds).
    observed: u64,
    decayed: u64,
    records: BTreeMap<RelayId, Record>,
    /// The wall clock at the last look; `None` before the first look since the restart.
    #[serde(skip)]
    last_ms: Option<u64>,
}

impl History {
    /// Lets observed time pass. The caller calls this at least every minute.
    pub(super) fn advance(&mut self, now_ms: u64) {
        let passed = self.last_ms.map_or(0, |last| now_ms.saturating_sub(last));
        self.last_ms = Some(now_ms);
        if passed > MAX_GAP_MS {
            return;
        }
        self.observed = self.observed.saturating_add(passed);
        while self.observed.saturating_sub(self.decayed) >= DECAY_EVERY_MS {
            self.decayed = self.decayed.saturating_add(DECAY_EVERY_MS);
            self.discount();
        }
    }

    fn discount(&mut self) {
        let at = self.decayed;
        self.records.retain(|_, record| {
            record.settle(at);
            record.decay();
            if record.state == State::Unsure {
                // The relay was not seen again in half a day, so it went down while this authority was down.
                record.end_run();
            }
            record.state != State::Down || record.down < FORGET_AFTER_MS
        });
    }

    /// Observed time (milliseconds).
    pub(super) fn observed_ms(&self) -> u64 {
        self.observed
    }

    /// Notes whether a relay is up. A relay is known from the first time that it is up. Returns whether the state is
    /// news.
    pub(super) fn set_up(&mut self, relay: RelayId, is_up: bool, now_ms: u64) -> bool {
        self.advance(now_ms);
        let observed = self.observed;
        if let Some(record) = self.records.get_mut(&relay) {
            record.settle(observed);
            match (record.state, is_up) {
                (State::Up, true) | (State::Down, false) => return false,
                (State::Unsure | State::Down, true) => (record.state, record.down) = (State::Up, 0),
                (State::Unsure | State::Up, false) => record.end_run(),
            }
            return true;
        }
        if !is_up || !self.make_room() {
            return false;
        }
        let record = Record {
            state: State::Up,
            first: observed,
            settled: observed,
            known: 0,
            up: 0,
            run: 0,
            runs: 0,
            ended: 0,
            down: 0,
        };
        self.records.insert(relay, record);
        true
    }

    /// Was the relay ever up?
    pub(super) fn has(&self, relay: &RelayId) -> bool {
        self.records.contains_key(relay)
    }

    /// Makes room for one more relay: of the relays that are down, the one that was up least is forgotten.
    fn make_room(&mut self) -> bool {
        if self.records.len() < MAX_RECORDS {
            return true;
        }
        let down = self
            .records
            .iter()
            .filter(|(_, record)| record.state == State::Down);
        let least = down.min_by_key(|(_, record)| record.up).map(|(id, _)| *id);
        least.is_some_and(|id| self.records.remove(&id).is_some())
    }

    /// How a relay stands. All figures are zero for a relay that was never up.
    pub(super) fn standing(&self, relay: &RelayId) -> Standing {
        self.records
            .get(relay)
            .map_or_else(Standing::default, |record| record.standing(self.observed))
    }

    /// The history after a restart, when every relay that was up has yet to be looked at again.
    pub(super) fn after_restart(mut self) -> Self {
        self.last_ms = None;
        self.decayed = self.decayed.min(self.observed);
        while self.records.len() > MAX_RECORDS {
            self.records.pop_last();
        }
        for record in self.records.values_mut() {
            record.settle(self.observed);
            record.settled = self.observed;
            if record.state == State::Up {
                record.state = State::Unsure;
            }
        }
        self
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000;
    const DAY: u64 = 86_400_000;
    const RELAY: RelayId = RelayId([1; 32]);

    fn pass(history: &mut History, now: &mut u64, ms: u64) {
        for _ in 0..ms / MINUTE {
            *now += MINUTE;
            history.advance(*now);
        }
    }

    fn restart(history: &History) -> History {
        let bytes = postcard::to_allocvec(history).unwrap();
        postcard::from_bytes::<History>(&bytes)
            .unwrap()
            .after_restart()
    }

    #[test]
    fn up_all_the_time_is_one_whole_and_half_the_time_is_half() {
        let (mut history, mut now) = (History::default(), 5 * DAY);
        let half = RelayId([2; 32]);
        assert!(history.set_up(RELAY, true, now));
        assert!(!history.set_up(RELAY, true, now));
        for hour in 0..24 * 20 {
            history.set_up(half, hour % 2 == 0, now);
            pass(&mut history, &mut now, 3_600_000);
        }
        let always = history.standing(&RELAY);
        assert_eq!((always.uptime_permille, always.age_ms), (1_000, 20 * DAY));
        assert_eq!(
            (always.uptime_secs, always.mtbf_secs),
            (20 * 86_400, 20 * 86_400)
        );
        let half = history.standing(&half);
        assert!((495..=505).contains(&half.uptime_permille), "{half:?}");
        assert!((3_400..=3_700).contains(&half.mtbf_secs), "{half:?}");
        assert_eq!(half.uptime_secs, 0);
    }

    #[test]
    fn what_is_old_weighs_less() {
        let (mut history, mut now) = (History::default(), 5 * DAY);
        history.set_up(RELAY, true, now);
        pass(&mut history, &mut now, 5 * DAY);
        history.set_up(RELAY, false, now);
        pass(&mut history, &mut now, 5 * DAY);
        let then = history.standing(&RELAY);
        assert!((330..=400).contains(&then.uptime_permille), "{then:?}");
        assert_eq!((then.uptime_secs, then.age_ms), (0, 10 * DAY));
        history.set_up(RELAY, true, now);
        pass(&mut history, &mut now, 25 * DAY);
        assert!(history.standing(&RELAY).uptime_permille > 900);
        history.set_up(RELAY, false, now);
        pass(&mut history, &mut now, 31 * DAY);
        assert_eq!(history.standing(&RELAY), Standing::default());
    }

    #[test]
    fn our_own_outage_counts_for_nobody() {
        let (mut history, mut now) = (History::default(), 5 * DAY);
        let gone = RelayId([2; 32]);
        history.set_up(RELAY, true, now);
        history.set_up(gone, true, now);
        pass(&mut history, &mut now, DAY);
        let before = history.standing(&RELAY);
        let mut history = restart(&history);
        now += 30 * DAY;
        history.advance(now);
        assert_eq!(history.standing(&RELAY), before);
        // A relay that answers again never went down. The run of a relay that does not answer ended when this authority
        // stopped.
        history.set_up(RELAY, true, now);
        history.set_up(gone, false, now);
        pass(&mut history, &mut now, DAY);
        let after = history.standing(&RELAY);
        assert_eq!(
            (after.uptime_permille, after.uptime_secs),
            (1_000, 2 * 86_400)
        );
        let gone = history.standing(&gone);
        assert_eq!((gone.mtbf_secs, gone.uptime_secs), (86_400, 0));
    }

    #[test]
    fn who_is_not_seen_after_a_restart_ends_its_run() {
        let (mut history, mut now) = (History::default(), 5 * DAY);
        history.set_up(RELAY, true, now);
        pass(&mut history, &mut now, DAY / 4);
        let mut history = restart(&history);
        now += DAY;
        pass(&mut history, &mut now, 2 * DAY);
        assert_eq!(history.standing(&RELAY).uptime_secs, 0);
        assert!(history.standing(&RELAY).uptime_permille < 500);
    }

    #[test]
    fn clocks_that_step_change_nothing() {
        let (mut history, mut now) = (History::default(), 5 * DAY);
        history.set_up(RELAY, true, now);
        pass(&mut history, &mut now, DAY);
        let before = history.standing(&RELAY);
        for step in [0, u64::MAX, 1, u64::MAX - 1, 400 * DAY, now] {
            history.advance(step);
            history.set_up(RELAY, true, step);
        }
        assert_eq!(history.standing(&RELAY), before);
        pass(&mut history, &mut now, DAY);
        assert_eq!(history.standing(&RELAY).uptime_secs, 2 * 86_400);
    }

    #[test]
    fn records_are_bounded() {
        let mut history = History::default();
        let id = |n: usize| {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&n.to_be_bytes());
            RelayId(id)
        };
        for n in 0..MAX_RECORDS {
            history.set_up(id(n), true, 1_000);
        }
        // All relays are up, so none is pushed out.
        assert!(!history.set_up(id(MAX_RECORDS), true, 1_000));
        history.set_up(id(7), false, 2_000);
        assert!(history.set_up(id(MAX_RECORDS), true, 2_000));
        assert_eq!(history.records.len(), MAX_RECORDS);
    }

    #[test]
    fn odd_sums_do_not_panic() {
        let record = Record {
            state: State::Up,
            first: u64::MAX,
            settled: 0,
            known: u64::MAX,
            up: u64::MAX,
            run: u64::MAX,
            runs: u64::MAX,
            ended: u64::MAX - 1_000,
            down: u64::MAX,
        };
        let history = History {
            observed: u64::MAX,
            decayed: u64::MAX,
            records: [(RELAY, record)].into(),
            last_ms: None,
        };
        let mut history = restart(&history);
        history.advance(0);
        history.advance(1_000);
        history.set_up(RELAY, false, 2_000);
        history.standing(&RELAY);
    }
}
