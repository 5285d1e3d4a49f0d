//! Tests of the guard machine's rules, one by one, on virtual time.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use cepa_common::dir::{Consensus, Entry, Flags, NetworkFile, RelayDescriptor};
use cepa_common::ids::{NetworkId, RelayId};
use cepa_common::testkit::{self, consensus_of, network_with, web_descriptor};
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::path::{PeerLists, PeerRules};

pub(super) const DAY: u64 = 86_400;
/// The first day of the tests (seconds since 1970).
pub(super) const START: u64 = 1_700_000_000;

pub(super) fn rng(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

/// The real world, but for its clock, which stands.
fn at_the_start() -> cepa_common::world::World {
    cepa_common::world::World {
        clock: cepa_common::world::Clock::from_fn(|| START * 1_000),
        ..Default::default()
    }
}

/// A network whose consensuses have the dates that the tests wish.
pub(super) struct World {
    pub(super) network: NetworkFile,
    template: RelayDescriptor,
}

impl World {
    pub(super) fn new(params: &[(&str, u32)]) -> Self {
        Self {
            network: network_with(1, testkit::params(params)),
            template: web_descriptor(1),
        }
    }

    pub(super) fn id(&self) -> NetworkId {
        self.network.network_id()
    }

    pub(super) fn entry(&self, n: u16, weight: u32) -> Entry {
        let mut descriptor = self.template.clone();
        let [high, low] = n.to_be_bytes();
        descriptor.identity = relay(n);
        // Each relay is in a /16 of its own.
        descriptor.addresses = vec![([20 + high, low, 1, 1], 9_000).into()];
        let flags = Flags::VALID | Flags::RUNNING | Flags::GUARD;
        Entry::new(&descriptor, flags, weight)
    }

    pub(super) fn consensus(
        &self,
        at: u64,
        relays: impl IntoIterator<Item = u16>,
    ) -> Arc<Consensus> {
        let entries = relays.into_iter().map(|n| self.entry(n, 100));
        consensus_of(&self.network, at, entries.collect())
    }

    pub(super) fn set(&self, relays: u16) -> GuardSet {
        let mut set = GuardSet::new(self.id());
        let consensus = self.consensus(START, 0..relays);
        set.update(&consensus, &|_| true, at(0), &mut rng(1));
        set
    }
}

pub(super) fn relay(n: u16) -> RelayId {
    let mut id = [7; 32];
    id[..2].copy_from_slice(&n.to_be_bytes());
    RelayId(id)
}

pub(super) fn at(secs: u64) -> Now {
    Now {
        wall: START + secs,
        mono: Duration::from_secs(secs),
    }
}

pub(super) fn pick(set: &GuardSet, secs: u64) -> GuardChoice {
    set.pick(Purpose::Data, &|_| true, at(secs), &mut rng(secs))
        .unwrap()
}

#[test]
fn one_primary_is_in_use_whatever_is_asked() {
    let set = World::new(&[]).set(200);
    assert_eq!(set.primaries().len(), 3);
    let used: HashSet<_> = (0..1_000).map(|n| pick(&set, n).identity).collect();
    // At most one primary guard is in use (S41).
    assert_eq!(used, HashSet::from([set.primaries()[0]]));
    let choose = |n| set.pick(Purpose::Directory, &|_| true, at(n), &mut rng(n));
    let used: HashSet<_> = (0..100).map(|n| choose(n).unwrap().identity).collect();
    assert_eq!(used, HashSet::from_iter(set.primaries()[..2].to_vec()));
}

#[test]
fn the_sample_is_bounded_by_number_and_weight() {
    let world = World::new(&[]);
    assert_eq!(world.set(200).sampled().len(), 20);
    assert_eq!(world.set(8).sampled().len(), 8);
    // With a filter that few relays pass, the sample of those relays is small, and no others are drawn.
    let consensus = world.consensus(START, 0..200);
    let mut set = GuardSet::new(world.id());
    set.update(&consensus, &|e| e.identity.0[1] < 4, at(0), &mut rng(1));
    assert_eq!(set.sampled().len(), 4);
    // With a filter that changes every time, the sample collects no more than its part: 20 % of 200 relays.
    let mut set = GuardSet::new(world.id());
    for turn in 0..20 {
        let filter = |entry: &Entry| u64::from(entry.identity.0[1]) % 20 == turn;
        set.update(&consensus, &filter, at(turn), &mut rng(turn));
    }
    let held = set.sampled().len();
    assert!((40..=60).contains(&held), "{held}");
}

#[test]
fn guards_are_drawn_by_weight() {
    let world = World::new(&[("guard_sample_min", 3)]);
    let entries: Vec<_> = (0..40)
        .map(|n| world.entry(n, if n < 4 { 900 } else { 100 }))
        .collect();
    let consensus = consensus_of(&world.network, START, entries);
    let mut heavy = 0;
    for seed in 0..1_000 {
        let mut set = GuardSet::new(world.id());
        set.update(&consensus, &|_| true, at(0), &mut rng(seed));
        heavy += u32::from(set.sampled().next().unwrap().0[1] < 4);
    }
    // The four relays have half of the weight. Five standard deviations are 79.
    assert!(heavy.abs_diff(500) < 79, "{heavy}");
}

#[test]
fn retries_grow_rare() {
    let limits = GuardLimits::default();
    let minutes = |hours: u64, primary| {
        let mut rng = rng(hours);
        let failing = Duration::from_secs(hours * 3_600);
        limits.retry_after(failing, primary, &mut rng).as_secs() as f64 / 60.0
    };
    for (hours, primary, other) in [
        (0, 10.0, 60.0),
        (5, 10.0, 60.0),
        (7, 90.0, 240.0),
        (95, 90.0, 240.0),
        (97, 240.0, 1_080.0),
        (169, 540.0, 2_160.0),
        (9_999, 540.0, 2_160.0),
    ] {
        assert!((minutes(hours, true) / primary - 1.0).abs() < 0.11);
        assert!((minutes(hours, false) / other - 1.0).abs() < 0.11);
    }
}

#[test]
fn a_network_that_was_down_costs_no_guard() {
    let mut set = World::new(&[]).set(100);
    let first = set.primaries()[0];
    set.on_success(&first, at(1), &mut rng(1));
    let before = set.primaries().to_vec();
    // For a day everything fails, and a guard is tried every minute.
    for secs in (60..DAY).step_by(60) {
        let choice = pick(&set, secs);
        set.on_attempt(&choice.identity, at(secs), &mut rng(secs));
        set.on_failure(&choice.identity, at(secs), &mut rng(secs));
    }
    assert!(set.is_network_down(at(DAY)));
    // The network is back, and every guard that is tried answers. The loop finds out which guard circuits use.
    let mut secs = DAY;
    loop {
        let choice = pick(&set, secs);
        if set.on_success(&choice.identity, at(secs), &mut rng(secs)) == Verdict::Use {
            assert_eq!(choice.identity, first);
            break;
        }
        secs += 1;
        assert!(secs < DAY + 5);
    }
    assert_eq!(set.primaries(), before);
    assert_eq!(set.confirmed(), [first]);
}

#[test]
fn a_circuit_at_a_lesser_guard_waits_for_a_better_one_that_is_being_tried() {
    let mut set = World::new(&[("guard_primaries", 1)]).set(50);
    let primary = set.primaries()[0];
    set.on_success(&primary, at(0), &mut rng(1));
    set.on_failure(&primary, at(1), &mut rng(1));
    let lesser = pick(&set, 2).identity;
    set.on_attempt(&lesser, at(2), &mut rng(1));
    set.on_attempt(&primary, at(2), &mut rng(1));
    assert_eq!(set.on_success(&lesser, at(3), &mut rng(1)), Verdict::Wait);
    assert_eq!(
        set.confirmed(),
        [primary],
        "a circuit that waits uses no guard"
    );
    assert_eq!(set.on_success(&lesser, at(10), &mut rng(1)), Verdict::Wait);
    assert_eq!(set.on_success(&lesser, at(18), &mut rng(1)), Verdict::Use);
}

#[test]
fn what_the_exit_forbids_is_passed_over() {
    let set = World::new(&[]).set(50);
    let [one, two, _] = set.primaries().try_into().unwrap();
    let choice = set.pick(Purpose::Data, &|guard| *guard != one, at(0), &mut rng(1));
    assert_eq!(choice.unwrap().identity, two);
    assert_eq!(
        set.pick(Purpose::Data, &|_| false, at(0), &mut rng(1)),
        None
    );
}

#[test]
fn primaries_are_apart_where_that_can_be_had() {
    let world = World::new(&[]);
    let near = |n: u16| {
        let mut entry = world.entry(n, 100);
        entry.addresses = vec![([20, 9, 1, 1], 9_000 + n).into()];
        entry
    };
    let mut entries: Vec<_> = (0..17).map(near).collect();
    entries.extend((17..19).map(|n| world.entry(n, 100)));
    for seed in 0..20 {
        let mut set = GuardSet::new(world.id());
        let consensus = consensus_of(&world.network, START, entries.clone());
        set.update(&consensus, &|_| true, at(0), &mut rng(seed));
        let nears = set.primaries().iter().filter(|id| id.0[1] < 17).count();
        assert_eq!((set.primaries().len(), nears), (3, 1));
    }
    // If all relays are near each other, they still serve as guards.
    let consensus = consensus_of(&world.network, START, (0..10).map(near).collect());
    let mut set = GuardSet::new(world.id());
    set.update(&consensus, &|_| true, at(0), &mut rng(1));
    assert_eq!(set.primaries().len(), 3);
}

#[test]
fn guards_leave_when_their_time_is_over() {
    let world = World::new(&[]);
    let mut set = world.set(100);
    let [used, _, _] = set.primaries().try_into().unwrap();
    set.on_success(&used, at(0), &mut rng(1));
    let kept_at = |set: &GuardSet, day: u64| {
        let mut set = set.clone();
        let consensus = world.consensus(START + day * DAY, 0..100);
        let unused: Vec<_> = set.sampled().copied().filter(|id| *id != used).collect();
        set.update(&consensus, &|_| true, at(day * DAY), &mut rng(day));
        let now: Vec<_> = set.sampled().copied().collect();
        let kept = unused.iter().filter(|id| now.contains(id)).count();
        (now.contains(&used), kept == unused.len(), kept)
    };
    assert_eq!(kept_at(&set, 47), (true, true, 19));
    // A guard that left may be drawn again, so the test asks whether the used guard is gone only for the first dates.
    assert!(!set.clone().confirmed().is_empty());
    let mut later = set.clone();
    let consensus = world.consensus(START + 61 * DAY, 0..100);
    later.update(&consensus, &|_| true, at(61 * DAY), &mut rng(3));
    assert!(later.confirmed().is_empty());
    assert!(kept_at(&set, 107).1);
    assert!(kept_at(&set, 121).2 < 19);
}

#[test]
fn an_unlisted_guard_is_not_used_and_comes_back_to_its_place() {
    let world = World::new(&[]);
    let mut set = world.set(100);
    let first = set.primaries()[0];
    set.on_success(&first, at(0), &mut rng(1));
    let number = u16::from_be_bytes([first.0[0], first.0[1]]);
    let without = world.consensus(START + DAY, (0..100).filter(|n| *n != number));
    set.update(&without, &|_| true, at(DAY), &mut rng(1));
    assert!(!set.primaries().contains(&first) && set.confirmed() == [first]);
    let with = world.consensus(START + 2 * DAY, 0..100);
    set.update(&with, &|_| true, at(2 * DAY), &mut rng(1));
    assert_eq!(set.primaries()[0], first);
    set.update(&without, &|_| true, at(2 * DAY), &mut rng(1));
    let late = world.consensus(START + 23 * DAY, (0..100).filter(|n| *n != number));
    set.update(&late, &|_| true, at(23 * DAY), &mut rng(1));
    assert!(set.sampled().all(|id| *id != first));
}

#[test]
fn clock_steps_cost_no_guard() {
    let world = World::new(&[]);
    let mut set = world.set(100);
    let first = set.primaries()[0];
    set.on_success(&first, at(0), &mut rng(1));
    let sample: Vec<_> = set.sampled().copied().collect();
    let consensus = world.consensus(START + 3_600, 0..100);
    for wall in [0, 1, START / 2, START * 2, u64::MAX, START] {
        let now = Now {
            wall,
            mono: Duration::from_secs(3_600),
        };
        set.update(&consensus, &|_| true, now, &mut rng(wall));
        assert_eq!(sample, set.sampled().copied().collect::<Vec<_>>());
        assert_eq!(set.primaries()[0], first);
    }
}

#[test]
fn waking_up_forgives_failures() {
    let mut set = World::new(&[]).set(100);
    let first = set.primaries()[0];
    set.on_success(&first, at(0), &mut rng(1));
    set.on_failure(&first, at(10), &mut rng(1));
    set.observe(at(11));
    assert_ne!(pick(&set, 11).identity, first);
    let woken = Now {
        wall: START + 9_000,
        mono: Duration::from_secs(12),
    };
    set.observe(woken);
    assert_eq!(pick(&set, 12).identity, first);
}

#[test]
fn states_of_others_and_damaged_ones_are_refused() {
    let world = World::new(&[]);
    let mut set = world.set(100);
    let first = set.primaries()[0];
    set.on_success(&first, at(0), &mut rng(1));
    let state = set.to_state();
    let again = GuardSet::from_state(&state, world.id()).unwrap();
    assert_eq!(again.to_state(), state);
    assert_eq!(again.confirmed(), [first]);
    let error = |bytes: &[u8]| GuardSet::from_state(bytes, world.id()).unwrap_err();
    let other = GuardSet::from_state(&state, NetworkId([0; 32])).unwrap_err();
    assert_eq!(other, GuardStateError::OtherNetwork);
    for len in 0..state.len() {
        assert!(matches!(error(&state[..len]), GuardStateError::Damaged(_)));
    }
    assert!(matches!(
        error(&[&state[..], &[0]].concat()),
        GuardStateError::Damaged(_)
    ));
    assert!(matches!(
        error(&vec![1; MAX_STATE_BYTES + 1]),
        GuardStateError::Damaged(_)
    ));
    let mut newer = state.clone();
    newer[0] = 2;
    assert_eq!(error(&newer), GuardStateError::Version(2));
}

#[test]
fn the_owner_s_number_of_guards_holds_for_all_circuits() {
    let world = World::new(&[]);
    let rules = PeerRules {
        guards: Some(2),
        ..Default::default()
    };
    let keeper = Keeper::load(world.id(), None, &at_the_start()).with_rules(Arc::new(rules));
    keeper.update(&world.consensus(START, 0..100));
    let picks = |purpose, without: &[RelayId]| {
        let allowed = |guard: &RelayId| !without.contains(guard);
        let picks = (0..200).filter_map(|_| keeper.pick(purpose, &allowed));
        picks.map(|choice| choice.identity).collect::<HashSet<_>>()
    };
    let primary: Vec<_> = keeper.report().iter().map(|guard| guard.identity).collect();
    let in_use = HashSet::from([primary[0], primary[1]]);
    assert_eq!(picks(Purpose::Data, &[]), in_use);
    assert_eq!(picks(Purpose::Directory, &[]), in_use);
    // If a guard in use may not be in the path, no third guard comes into use.
    for purpose in [Purpose::Data, Purpose::Directory] {
        assert_eq!(picks(purpose, &primary[..1]), HashSet::from([primary[1]]));
        assert_eq!(picks(purpose, &primary[..2]), HashSet::from([primary[2]]));
    }
}

#[test]
fn the_owner_s_rules_hold_for_guards() {
    let world = World::new(&[]);
    let keeper = |rules: PeerRules| {
        let keeper = Keeper::load(world.id(), None, &at_the_start()).with_rules(Arc::new(rules));
        keeper.update(&world.consensus(START, 0..100));
        let picks = (0..200).filter_map(|_| keeper.pick(Purpose::Data, &|_| true));
        picks.map(|choice| choice.identity).collect::<HashSet<_>>()
    };
    let range = |n: u16| format!("20.{n}.0.0/16").parse().unwrap();
    let entry = PeerLists {
        only: vec![range(3), range(4), range(5), range(6)],
        avoid: vec![range(4)],
        ..Default::default()
    };
    let rules = PeerRules {
        entry,
        guards: Some(3),
        ..Default::default()
    };
    assert_eq!(keeper(rules), HashSet::from([relay(3), relay(5), relay(6)]));
    let usual = keeper(PeerRules::default()).len();
    let limits = GuardLimits::default();
    assert_eq!(usual, limits.in_use);
    // Five guards are in use though the network has fewer primary ones, and preferred relays are drawn first.
    let entry = PeerLists {
        prefer: vec!["20.0.0.0/12".parse().unwrap()],
        ..Default::default()
    };
    let rules = PeerRules {
        entry,
        guards: Some(5),
        ..Default::default()
    };
    let (mut near, mut all) = (0, 0);
    for _ in 0..60 {
        let guards = keeper(rules.clone());
        all += guards.len();
        near += guards
            .iter()
            .filter(|id| (0..16).any(|n| **id == relay(n)))
            .count();
    }
    assert_eq!(all, 300);
    // 16 relays count eight times among 84 that count once: they are drawn three times in five.
    assert!((150..210).contains(&near), "{near}");
}

/// Guards that the owner refuses for a while are passed over, and come back in their old order: lists that come and go
/// must not draw new guards again and again.
#[test]
fn rules_that_change_pass_guards_over_and_keep_their_order() {
    let world = World::new(&[]);
    let keeper = Keeper::load(world.id(), None, &at_the_start());
    let consensus = world.consensus(START, 0..100);
    let report = || {
        keeper.update(&consensus);
        let guards = keeper.report();
        guards.iter().map(|it| it.identity).collect::<Vec<_>>()
    };
    let before = report();
    let first = keeper.pick(Purpose::Data, &|_| true).unwrap().identity;
    assert_eq!(keeper.on_success(&first), Verdict::Use);
    let order = report();
    let avoid = vec![first.to_string().parse().unwrap()];
    let entry = PeerLists {
        avoid,
        ..Default::default()
    };
    let rules = PeerRules {
        entry,
        ..Default::default()
    };
    keeper.set_rules(Arc::new(rules));
    let without = report();
    assert!(!without.contains(&first));
    let others = |all: &[RelayId]| {
        let others = all.iter().filter(|id| **id != first);
        others.copied().collect::<Vec<_>>()
    };
    let still = others(&order);
    assert!(without.starts_with(&still), "{without:?} {still:?}");
    keeper.set_rules(Arc::default());
    assert_eq!(report(), order);
    assert_eq!(order.len(), before.len());
}

#[test]
fn a_damaged_file_gives_the_state_before() {
    let world = World::new(&[]);
    let dir = tempfile::tempdir().unwrap();
    let keeper = Keeper::load(world.id(), Some(dir.path()), &at_the_start());
    keeper.update(&world.consensus(START, 0..100));
    let choice = keeper.pick(Purpose::Data, &|_| true).unwrap();
    assert_eq!(keeper.on_success(&choice.identity), Verdict::Use);
    let save = || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(keeper.save());
    };
    save();
    save();
    let path = dir.path().join(format!("guards-{}", world.id()));
    let good = std::fs::read(&path).unwrap();
    // Whichever byte is wrong, the guard in use is not lost (S44).
    for at in (0..good.len())
        .step_by(7)
        .filter(|at| *at != "cepa record".len())
    {
        let mut bad = good.clone();
        bad[at] ^= 0x5a;
        std::fs::write(&path, bad).unwrap();
        let keeper = Keeper::load(world.id(), Some(dir.path()), &at_the_start());
        keeper.update(&world.consensus(START + 60, 0..100));
        assert_eq!(keeper.pick(Purpose::Data, &|_| true), Some(choice));
        assert!(keeper.is_primary(&choice.identity));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_bytes_are_refused_or_kept_whole(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let id = NetworkId([0; 32]);
        let bytes = [&[1][..], &[0; 32], &bytes].concat();
        if let Ok(set) = GuardSet::from_state(&bytes, id) {
            prop_assert!(GuardSet::from_state(&set.to_state(), id).is_ok());
        }
    }

    #[test]
    fn what_always_holds(events in proptest::collection::vec((0u8..8, 0u16..60, 0u64..3 * DAY), 1..60)) {
        let world = World::new(&[("guard_sample_max", 12), ("guard_sample_min", 6)]);
        let mut set = world.set(40);
        let (mut secs, mut step) = (0, 0i64);
        for (what, who, later) in events {
            secs += later;
            let wall = START.saturating_add(secs).saturating_add_signed(step);
            let now = Now { wall, mono: Duration::from_secs(secs) };
            let mut rng = rng(later);
            let order = set.confirmed().to_vec();
            match what {
                0 | 1 => {
                    let from = who % 30;
                    let consensus = world.consensus(START + secs, from..from + 20);
                    set.update(&consensus, &|_| true, now, &mut rng);
                    prop_assert!(!set.primaries().is_empty());
                }
                2 => step = (i64::from(who) - 30) * 1_000_000,
                3 => set.on_network_change(),
                4 => { set.on_success(&relay(who), now, &mut rng); }
                5 => set = GuardSet::from_state(&set.to_state(), world.id()).unwrap(),
                _ => if let Some(choice) = set.pick(Purpose::Data, &|_| true, now, &mut rng) {
                    set.on_attempt(&choice.identity, now, &mut rng);
                    if what == 6 {
                        set.on_failure(&choice.identity, now, &mut rng);
                    } else {
                        set.on_success(&choice.identity, now, &mut rng);
                    }
                },
            }
            // The order of those that stay never changes; new guards come last.
            let kept: Vec<_> = order.iter().filter(|id| set.confirmed().contains(id)).collect();
            prop_assert!(set.confirmed().iter().zip(&kept).all(|(now, before)| now == *before));
            let sample: HashSet<_> = set.sampled().copied().collect();
            prop_assert_eq!(sample.len(), set.sampled().len());
            prop_assert!(sample.len() <= 12);
            prop_assert!(set.confirmed().iter().chain(set.primaries()).all(|id| sample.contains(id)));
            prop_assert!(set.primaries().len() <= 3);
        }
    }
}
