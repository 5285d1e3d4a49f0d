//! How many guards see a client in 90 days, and how many carry its data, on virtual time: relays come and go, and
//! second legs and the directory have guards too.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::time::Duration;

use cepa_common::ids::RelayId;
use rand::RngExt;
use rand::rngs::StdRng;

use super::tests::{START, World, rng};
use super::year_tests::Relays;
use super::*;

const HOUR: u64 = 3_600;
const DAYS: u64 = 90;
const CLIENTS: u64 = 60;
const GUARDS: u16 = 300;

/// A client, and which guards it has met.
struct Client {
    set: GuardSet,
    rng: StdRng,
    /// May circuits have a second leg?
    grows: bool,
    /// The guards that have carried data.
    data: BTreeSet<RelayId>,
    /// The guards that have seen the client.
    seen: BTreeSet<RelayId>,
}

impl Client {
    fn new(world: &World, seed: u64, in_use: Option<usize>) -> Self {
        let mut set = GuardSet::new(world.id());
        set.set_in_use(in_use);
        Self {
            set,
            rng: rng(seed),
            grows: in_use != Some(1),
            data: BTreeSet::new(),
            seen: BTreeSet::new(),
        }
    }

    /// Builds circuits until one may be used. Gives the guard of that one.
    fn build(
        &mut self,
        purpose: Purpose,
        beside: Option<RelayId>,
        hour: u64,
        relays: &Relays,
    ) -> Option<RelayId> {
        for secs in 0..12 {
            let now = at(hour, secs);
            self.set.observe(now);
            let fits = |guard: &RelayId| Some(*guard) != beside;
            let choice = self.set.pick(purpose, &fits, now, &mut self.rng)?;
            let guard = choice.identity;
            self.set.on_attempt(&guard, now, &mut self.rng);
            if !relays.answers(&guard, hour) {
                self.set.on_failure(&guard, now, &mut self.rng);
                continue;
            }
            self.seen.insert(guard);
            if self.set.on_success(&guard, now, &mut self.rng) == Verdict::Use {
                return Some(guard);
            }
        }
        None
    }

    /// An hour of use: one fetch from the directory, streams, and bulk in a tenth of all hours.
    fn hour(&mut self, hour: u64, relays: &Relays) {
        let _ = self.build(Purpose::Directory, None, hour, relays);
        let guard = self.build(Purpose::Data, None, hour, relays);
        let guard = guard.expect("there is always a guard");
        self.data.insert(guard);
        if self.grows && self.rng.random_ratio(1, 10) {
            let second = self.build(Purpose::SecondLeg, Some(guard), hour, relays);
            self.data.extend(second);
        }
    }
}

fn at(hour: u64, secs: u64) -> Now {
    let since = hour * HOUR + secs;
    Now {
        wall: START + since,
        mono: Duration::from_secs(since),
    }
}

/// Median, 95th percentile and mean of numbers.
fn spread(counts: impl Iterator<Item = usize>) -> (usize, usize, f64) {
    let mut counts: Vec<usize> = counts.collect();
    counts.sort_unstable();
    let at = |percent: usize| counts[(counts.len() * percent).div_ceil(100) - 1];
    let mean = counts.iter().sum::<usize>() as f64 / counts.len() as f64;
    (at(50), at(95), mean)
}

/// Lives 90 days, 17 hours a day. Gives median, 95th percentile and mean of the number of guards that carried a
/// client's data, and of the number of guards that saw the client.
fn live(in_use: Option<usize>) -> [(usize, usize, f64); 2] {
    let world = World::new(&[]);
    let mut churn = rng(1_000);
    let mut relays = Relays::new(GUARDS);
    let clients = (0..CLIENTS).map(|seed| Client::new(&world, seed, in_use));
    let mut clients: Vec<Client> = clients.collect();
    for hour in 0..DAYS * 24 {
        relays.step(hour, &mut churn);
        if hour % 24 < 7 {
            continue;
        }
        if hour % 24 == 7 || hour.is_multiple_of(4) {
            let consensus = world.consensus(START + hour * HOUR, relays.listed(hour));
            for client in &mut clients {
                let now = at(hour, 0);
                client
                    .set
                    .update(&consensus, &|_| true, now, &mut client.rng);
            }
        }
        for client in &mut clients {
            client.hour(hour, &relays);
        }
    }
    let data = spread(clients.iter().map(|client| client.data.len()));
    [data, spread(clients.iter().map(|client| client.seen.len()))]
}

#[test]
fn few_guards_see_a_client_in_90_days() {
    // The figures of docs/peers.md.
    for (in_use, median, most, mean) in [(None, 5, 6, 4.85), (Some(1), 4, 5, 4.05)] {
        let [data, seen] = live(in_use);
        let is_few =
            |counts: (usize, usize, f64)| counts.0 <= median && counts.1 <= most && counts.2 < mean;
        assert!(is_few(data) && is_few(seen), "{data:?} {seen:?}");
    }
}
