//! A test of a client's year on virtual time: relays come and go, the laptop sleeps, networks fail, the program
//! restarts.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use cepa_common::ids::RelayId;
use rand::RngExt;
use rand::rngs::StdRng;

use super::tests::{DAY, START, World, relay, rng};
use super::*;

const HOUR: u64 = 3_600;

/// Which relays exist and which of them answer, hour by hour.
pub(super) struct Relays {
    /// The hour until which each relay is down, by the relay's number. A relay that has left is not in the map.
    alive: BTreeMap<u16, u64>,
    next: u16,
}

impl Relays {
    pub(super) fn new(count: u16) -> Self {
        Self {
            alive: (0..count).map(|n| (n, 0)).collect(),
            next: count,
        }
    }

    /// The relays that a consensus of this hour lists. A relay that has been down for an hour is noticed an hour late.
    pub(super) fn listed(&self, hour: u64) -> Vec<u16> {
        let numbers = self.alive.keys().copied();
        let answered = |n: &u16| self.answers(&relay(*n), hour.saturating_sub(1));
        numbers.filter(answered).collect()
    }

    pub(super) fn step(&mut self, hour: u64, rng: &mut StdRng) {
        let numbers: Vec<_> = self.alive.keys().copied().collect();
        for n in numbers {
            // On average a relay lives 200 days and is down twice a month for some hours.
            if rng.random_ratio(1, 200 * 24) {
                self.alive.remove(&n);
                self.alive.insert(self.next, 0);
                self.next += 1;
            } else if rng.random_ratio(1, 15 * 24) {
                self.alive.insert(n, hour + rng.random_range(1..8));
            }
        }
    }

    pub(super) fn answers(&self, id: &RelayId, hour: u64) -> bool {
        let n = u16::from_be_bytes([id.0[0], id.0[1]]);
        self.alive.get(&n).is_some_and(|until| hour >= *until)
    }
}

struct Year {
    world: World,
    relays: Relays,
    set: GuardSet,
    rng: StdRng,
    /// The guards that circuits were used through, with the number of hours, for each month.
    used: Vec<BTreeMap<RelayId, u32>>,
    slept: u64,
    next_fetch: u64,
    fetched_day: u64,
}

impl Year {
    fn new(seed: u64) -> Self {
        let world = World::new(&[]);
        let set = GuardSet::new(world.id());
        Self {
            world,
            relays: Relays::new(150),
            set,
            rng: rng(seed),
            used: vec![BTreeMap::new(); 13],
            slept: 0,
            next_fetch: 0,
            fetched_day: u64::MAX,
        }
    }

    fn now(&self, hour: u64, secs: u64) -> Now {
        let since = hour * HOUR + secs;
        Now {
            wall: START + since,
            mono: Duration::from_secs(since - self.slept),
        }
    }

    /// Takes in a new consensus, which lists the relays that answer.
    fn hear_consensus(&mut self, hour: u64) {
        let listed = self.relays.listed(hour);
        let consensus = self.world.consensus(START + hour * HOUR, listed);
        let now = self.now(hour, 0);
        self.set.update(&consensus, &|_| true, now, &mut self.rng);
    }

    /// Builds circuits as the pool does until one may be used. Returns the guard of that circuit.
    fn use_network(&mut self, hour: u64, up: bool) -> Option<RelayId> {
        for secs in 0..12 {
            let now = self.now(hour, secs);
            self.set.observe(now);
            let choice = self
                .set
                .pick(Purpose::Data, &|_| true, now, &mut self.rng)?;
            let guard = choice.identity;
            self.set.on_attempt(&guard, now, &mut self.rng);
            if !up || !self.relays.answers(&guard, hour) {
                self.set.on_failure(&guard, now, &mut self.rng);
            } else if self.set.on_success(&guard, now, &mut self.rng) == Verdict::Use {
                return Some(guard);
            }
        }
        None
    }

    fn restart(&mut self) {
        let state = self.set.to_state();
        assert!(state.len() <= MAX_STATE_BYTES);
        self.set = GuardSet::from_state(&state, self.world.id()).unwrap();
        // The next consensus says which of the guards are usable.
        self.next_fetch = 0;
    }

    fn hour(&mut self, hour: u64) {
        self.relays.step(hour, &mut self.rng);
        let (day, of_day) = (hour / 24, hour % 24);
        // The laptop sleeps at night: the monotonic clock stands still.
        if of_day < 7 {
            self.slept += HOUR;
            return;
        }
        // Every 40th day there is no network at all, and every third morning there is none for a while.
        let up = day % 40 != 39 && !(of_day == 7 && day.is_multiple_of(3));
        if up && (hour >= self.next_fetch || self.fetched_day != day) {
            self.hear_consensus(hour);
            (self.next_fetch, self.fetched_day) = (hour + 4, day);
        }
        let used = self.use_network(hour, up);
        assert_eq!(used.is_some(), up, "hour {hour}");
        if let Some(guard) = used {
            let month = usize::try_from(day / 30).unwrap();
            *self.used[month].entry(guard).or_default() += 1;
        }
        if of_day == 12 && day.is_multiple_of(5) {
            self.restart();
        }
    }
}

#[test]
fn a_year_of_few_guards() {
    let (mut monthly, mut main_share) = (Vec::new(), Vec::new());
    for seed in 0..4 {
        let mut year = Year::new(seed);
        for hour in 0..365 * 24 {
            year.hour(hour);
        }
        for month in &year.used[..12] {
            let hours: u32 = month.values().sum();
            monthly.push(month.len());
            main_share.push(f64::from(*month.values().max().unwrap()) / f64::from(hours));
        }
        // With a life of 48 to 60 days, a client has about seven guards in a year, and other guards stand in for each
        // when it is down.
        let all: HashSet<_> = year.used.iter().flat_map(BTreeMap::keys).collect();
        assert!(all.len() <= 20, "{} guards in a year", all.len());
    }
    monthly.sort_unstable();
    main_share.sort_by(f64::total_cmp);
    // The bounds count all guards used in a month, even for a single hour: the guard, one that stands in for it,
    // and a change of guards.
    assert!(monthly[monthly.len() / 2] <= 3, "{monthly:?}");
    assert!(monthly[monthly.len() - 1] <= 4, "{monthly:?}");
    // In most hours circuits go through one guard.
    assert!(main_share[main_share.len() / 2] > 0.7, "{main_share:?}");
}

#[test]
fn a_day_without_network_changes_no_primary() {
    let mut year = Year::new(9);
    for hour in (7..31).filter(|hour| hour % 24 >= 7) {
        year.hear_consensus(hour);
        year.use_network(hour, true).unwrap();
    }
    let (primaries, confirmed) = (year.set.primaries().to_vec(), year.set.confirmed().to_vec());
    for hour in 31..55 {
        assert_eq!(year.use_network(hour, false), None);
    }
    assert_eq!(year.use_network(55, true), Some(primaries[0]));
    assert_eq!(year.set.primaries(), primaries);
    assert_eq!(year.set.confirmed(), confirmed);
}

/// With a tenth of all relays hostile, guards expose few clients in 90 days, where a choice for each circuit would
/// expose all (S42).
#[test]
fn few_clients_meet_a_hostile_guard() {
    let world = World::new(&[]);
    let hostile = |id: &RelayId| u16::from_be_bytes([id.0[0], id.0[1]]).is_multiple_of(10);
    let clients = 1_000;
    // The network does not change, because only the life of guards is tested.
    let days = (0..90).step_by(15);
    let consensuses: Vec<_> = days
        .map(|day| (day, world.consensus(START + day * DAY, 0..100)))
        .collect();
    let mut met = 0;
    for client in 0..clients {
        let mut rng = rng(client);
        let mut set = GuardSet::new(world.id());
        let mut exposed = false;
        for (day, consensus) in &consensuses {
            let now = Now {
                wall: START + day * DAY,
                mono: Duration::from_secs(day * DAY),
            };
            set.update(consensus, &|_| true, now, &mut rng);
            let choice = set.pick(Purpose::Data, &|_| true, now, &mut rng).unwrap();
            set.on_success(&choice.identity, now, &mut rng);
            exposed |= hostile(&choice.identity);
        }
        met += u32::from(exposed);
    }
    // A client has one guard, or two after 48 days: 10 to 19 % meet a hostile one. With a choice for each circuit all
    // would.
    assert!((60..=230).contains(&met), "{met} of {clients}");
}
