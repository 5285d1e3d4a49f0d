//! A simulation of weeks of rotation with a stream of consensuses: whoever holds a consensus that may still be used can
//! make a circuit.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use cepa_common::dir::{Params, UnixSecs};
use cepa_common::handshake::{
    ClientHandshake, ClientParams, HandshakeContext, OnionPublicKey, RelayParams, respond,
};
use cepa_common::ids::{NetworkId, RelayId};
use cepa_common::onion::Suite;
use cepa_common::state::Trust;
use cepa_common::world::{Clock, Disk};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::ring::{OnionKeyOptions, OnionRing};
use super::schedule::{KeyListing, MAX_LIFE_SECS, Schedule, Timing};

const HOUR: u64 = 3_600;
const DAY: u64 = 24 * HOUR;
const START: UnixSecs = 5_000_000_000;
const NETWORK: NetworkId = NetworkId([7; 32]);
const RELAY: RelayId = RelayId([8; 32]);

/// What goes wrong in the simulation.
#[derive(Clone, Copy, Default)]
struct Trouble {
    /// The relay restarts once in this many hours.
    restarts: Option<u32>,
    /// Is the record of times lost at each restart?
    loses_record: bool,
    /// The relay does not see one consensus in this many.
    unseen: Option<u32>,
    /// Authorities list an older descriptor for at most this many hours.
    stale_hours: u64,
    /// The relay's clock is wrong for some hours, by up to this many seconds either way.
    clock_secs: u64,
    /// Does the owner change the suite now and then?
    changes_suite: bool,
}

struct World {
    rng: StdRng,
    trouble: Trouble,
    ring: OnionRing,
    suite: Suite,
    /// The uploaded keys with their times. Authorities list one of the last.
    uploaded: Vec<(UnixSecs, OnionPublicKey)>,
    consensuses: Vec<(KeyListing, OnionPublicKey)>,
    clock_offset: i64,
    handshakes: u32,
    made: usize,
}

fn load(dir: &Path, suite: Suite, now: UnixSecs) -> OnionRing {
    let options = OnionKeyOptions {
        dir: dir.to_owned(),
        trust: Trust::Everyone,
        suite,
    };
    OnionRing::load(&Disk::Real, options, now).unwrap()
}

impl World {
    fn new(dir: &Path, seed: u64, start: UnixSecs, trouble: Trouble) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            trouble,
            ring: load(dir, Suite::Aes256Gcm, start),
            suite: Suite::Aes256Gcm,
            uploaded: Vec::new(),
            consensuses: Vec::new(),
            clock_offset: 0,
            handshakes: 0,
            made: 0,
        }
    }

    fn one_in(&mut self, n: Option<u32>) -> bool {
        n.is_some_and(|n| self.rng.random_range(0..n) == 0)
    }

    /// Runs one hour of the network.
    fn hour(&mut self, dir: &Path, now: UnixSecs) {
        let params = Params::default();
        self.trouble_of_the_hour(dir, now);
        let relays_now = now.saturating_add_signed(self.clock_offset);
        let last = self.consensuses.last().copied();
        let missed = self.one_in(self.trouble.unseen);
        // A relay takes no consensus that is early or has expired by the relay's own clock.
        let takes = |listing: &KeyListing| {
            listing.valid_after <= relays_now + 300 && relays_now < listing.valid_until
        };
        let seen = last
            .map(|(listing, _)| listing)
            .filter(|seen| !missed && takes(seen));
        self.ring.observe(seen.as_slice(), &params).unwrap();
        self.ring.turn(relays_now, &params, &mut self.rng).unwrap();
        let current = self.ring.snapshot().last().unwrap().public();
        if self.uploaded.last().is_none_or(|(_, key)| *key != current) {
            self.uploaded.push((now, current));
            self.made += 1;
        }
        self.vote(now);
        self.everybody_connects(now);
        self.nobody_is_too_old(relays_now);
    }

    fn trouble_of_the_hour(&mut self, dir: &Path, now: UnixSecs) {
        if self.one_in((self.trouble.clock_secs > 0).then_some(20)) {
            let most = i64::try_from(self.trouble.clock_secs).unwrap();
            self.clock_offset = self.rng.random_range(-most..=most);
        } else if self.one_in(Some(5)) {
            self.clock_offset = 0;
        }
        if self.one_in(self.trouble.changes_suite.then_some(50)) {
            self.suite = match self.suite {
                Suite::Aes256Gcm => Suite::ChaCha20Poly1305,
                Suite::ChaCha20Poly1305 => Suite::Aes256Gcm,
            };
            self.ring = load(
                dir,
                self.suite,
                now.saturating_add_signed(self.clock_offset),
            );
        }
        if self.one_in(self.trouble.restarts) {
            if self.trouble.loses_record {
                std::fs::write(dir.join("onion-times"), b"").unwrap();
                let _ = std::fs::remove_file(dir.join("onion-times.old"));
            }
            self.ring = load(
                dir,
                self.suite,
                now.saturating_add_signed(self.clock_offset),
            );
        }
    }

    /// Makes a consensus that lists the newest key, or one that was replaced not long ago.
    fn vote(&mut self, now: UnixSecs) {
        let mut choice = self.uploaded.len() - 1;
        let stale = self.trouble.stale_hours * HOUR;
        while choice > 0 && now < self.uploaded[choice].0 + stale && self.rng.random_bool(0.7) {
            choice -= 1;
        }
        let key = self.uploaded[choice].1;
        let listing = KeyListing {
            valid_after: now,
            fresh_until: now + HOUR,
            valid_until: now + DAY,
            onion_key: Some(key.key),
        };
        self.consensuses.push((listing, key));
    }

    /// Makes a circuit with every consensus that may be used, grace included, in the key's own suite.
    fn everybody_connects(&mut self, now: UnixSecs) {
        self.consensuses
            .retain(|(listing, _)| listing.valid_until + DAY > now);
        let keys = self.ring.snapshot();
        for (listing, key) in &self.consensuses {
            let held = keys.iter().any(|held| held.public() == *key);
            let age = (now - listing.valid_after) / HOUR;
            assert!(held, "the key of a consensus of {age} hours ago is gone");
        }
        let any = self.rng.random_range(0..self.consensuses.len());
        let context = HandshakeContext {
            network: NETWORK,
            relay: RELAY,
            onion: self.consensuses[any].1,
        };
        let (client, message) =
            ClientHandshake::start(&context, ClientParams::default(), &mut self.rng).unwrap();
        let pacing = RelayParams {
            circuit_window_cells: 512,
            mark_interval_cells: 32,
            stream_window_bytes: 1 << 20,
            version: cepa_common::handshake::CIRCUIT_VERSION,
        };
        let (suite, _, reply, _) =
            respond(&NETWORK, &RELAY, &keys, &message, pacing, &mut self.rng).unwrap();
        assert_eq!(suite, context.onion.suite);
        client.finish(&reply).unwrap();
        self.handshakes += 1;
    }

    fn nobody_is_too_old(&self, relays_now: UnixSecs) {
        for key in self.ring.schedule().keys() {
            assert!(relays_now < key.born + MAX_LIFE_SECS, "{key:?}");
        }
    }
}

fn weeks(seed: u64, weeks: u64, trouble: Trouble) -> World {
    let dir = tempfile::tempdir().unwrap();
    // If times are taken from files, they are of today.
    let start = if trouble.loses_record {
        Clock::system().now_secs()
    } else {
        START
    };
    let mut world = World::new(dir.path(), seed, start, trouble);
    for hour in 0..weeks * 7 * 24 {
        world.hour(dir.path(), start + hour * HOUR);
    }
    assert_eq!(u64::from(world.handshakes), weeks * 7 * 24);
    world
}

#[test]
fn a_quiet_network_rotates_every_week_and_keeps_two_keys_at_most() {
    let world = weeks(1, 8, Trouble::default());
    assert_eq!(world.made, 8);
    assert_eq!(world.ring.snapshot().len(), 1);
}

#[test]
fn restarts_and_missed_consensuses_cost_no_handshake() {
    let trouble = Trouble {
        restarts: Some(9),
        unseen: Some(3),
        stale_hours: 18,
        ..Trouble::default()
    };
    for seed in 0..8 {
        weeks(seed, 5, trouble);
    }
}

#[test]
fn a_suite_that_changes_is_another_key() {
    let trouble = Trouble {
        restarts: Some(30),
        stale_hours: 6,
        changes_suite: true,
        ..Trouble::default()
    };
    for seed in 10..14 {
        assert!(weeks(seed, 4, trouble).made > 6);
    }
}

#[test]
fn a_record_that_is_lost_costs_no_handshake() {
    let trouble = Trouble {
        restarts: Some(40),
        loses_record: true,
        stale_hours: 6,
        ..Trouble::default()
    };
    for seed in 20..24 {
        // A test's files are all of today, so every key is as young as it can be. This test ends before any key's life
        // does.
        weeks(seed, 1, trouble);
    }
}

#[test]
fn clock_steps_cost_no_handshake() {
    // The steps are up to four days either way. With larger steps ahead, a key's own age ends it (6.20.6).
    for (seed, days) in [(30, 1), (31, 2), (32, 3), (33, 4), (34, 4)] {
        let trouble = Trouble {
            restarts: Some(15),
            clock_secs: days * DAY,
            stale_hours: 6,
            ..Trouble::default()
        };
        weeks(seed, 6, trouble);
    }
}

#[test]
fn a_step_of_years_leaves_a_key_that_is_accepted() {
    let mut schedule = Schedule::default();
    let timing = Timing::new(&Params::default());
    for now in [START, 0, u64::MAX, START, 1, u64::MAX - 1] {
        if schedule.is_due(now, Suite::Aes256Gcm, &timing) {
            let generation = schedule.next_generation();
            schedule.add(generation, Suite::Aes256Gcm, [2; 32], now);
        }
        for generation in schedule.over(now, &timing) {
            schedule.remove(generation);
        }
        assert!(schedule.current().is_some());
    }
}
