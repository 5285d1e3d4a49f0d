//! Tests of restarts at every step, of late starts, and of clocks.

use super::*;

const T: UnixSecs = 2_000_000;

fn world(seed: u64) -> World {
    let mut world = World::new(3, 2, (T - 2) * 1_000 + 100, seed);
    world.delay_ms = 30;
    (0..3).for_each(|n| world.upload(40, n, T - 10));
    world
}

/// Actions are performed one by one. A crash comes before each of them in turn. After the restart, the disk is as it
/// was before the crash.
#[test]
fn a_restart_at_any_step_signs_nothing_twice_and_stops_nobody() {
    let steps = {
        let mut whole = world(1);
        whole.run_until((T + 2) * 1_000 + 100);
        whole.agreed(T, &[0, 1, 2]);
        whole.agreed(T + 2, &[0, 1, 2]);
        whole.actions
    };
    assert!(steps > 20, "{steps}");
    for step in 1..=steps {
        for victim in 0..3 {
            let mut world = world(1);
            world.crash_at = Some((step, victim));
            for valid_after in [T, T + 2, T + 4, T + 6] {
                world.run_until(valid_after * 1_000 - 1_200);
                (0..3).for_each(|n| world.upload(40, n, T - 10));
                world.run_until(valid_after * 1_000 + 700);
                // An authority that did not crash has a consensus each time.
                let steady: Vec<_> = (0..3).filter(|n| *n != victim).collect();
                world.agreed(valid_after, &steady);
            }
            world.agreed(T + 6, &[0, 1, 2]);
            world.assert_signed_once(&[0, 1, 2]);
            for valid_after in [T, T + 2, T + 4, T + 6] {
                let of_victim = world.members[victim].published.get(&valid_after);
                let others = &world.members[(victim + 1) % 3].published[&valid_after];
                let same = |m: &BTreeMap<Digest, Arc<Consensus>>| m.keys().eq(others.keys());
                assert!(of_victim.is_none_or(same), "step {step}");
            }
        }
    }
}

#[test]
fn one_that_starts_or_sleeps_within_the_rounds_signs_nothing_in_that_period() {
    // The rounds last from T - 1 s to T - 0.5 s.
    for from_ms in [T * 1_000 - 870, T * 1_000 - 700, T * 1_000 - 510] {
        let mut world = world(2);
        world.members[0].conduct = Conduct::Dead;
        world.run_until(from_ms);
        world.members[0].conduct = Conduct::Honest;
        world.restart(0);
        world.upload(40, 0, T - 10);
        world.run_until(T * 1_000 + 100);
        assert!(!world.members[0].signed.contains_key(&T), "{from_ms}");
        world.agreed(T, &[1, 2]);
        world.run_until((T + 2) * 1_000 + 100);
        world.agreed(T + 2, &[0, 1, 2]);
    }
    // The process stands still for a round and a half, and then receives at once everything that came meanwhile.
    let mut world = world(2);
    world.run_until(T * 1_000 - 900);
    world.members[0].conduct = Conduct::Dead;
    world.run_until(T * 1_000 - 510);
    world.members[0].conduct = Conduct::Honest;
    world.wake_at(0, T * 1_000 - 510);
    world.run_until((T + 2) * 1_000 + 100);
    assert!(!world.members[0].signed.contains_key(&T));
    world.agreed(T, &[1, 2]);
    world.agreed(T + 2, &[0, 1, 2]);
}

#[test]
fn clocks_that_differ_by_less_than_half_a_round_disturb_nothing() {
    for leads in [[0, 60, -50], [100, 0, 50], [-90, 0, 0]] {
        let mut world = World::new(3, 2, (T - 4) * 1_000 + 100, 9);
        world.delay_ms = 8;
        for (n, lead_ms) in leads.into_iter().enumerate() {
            world.members[n].lead_ms = lead_ms;
            world.restart(n);
            world.upload(40, n, T - 10);
        }
        world.run_until((T + 2) * 1_000 + 200);
        for valid_after in [T - 2, T, T + 2] {
            world.agreed(valid_after, &[0, 1, 2]);
        }
        let accepted = world.members[1].machine.period_accepted();
        assert_eq!(accepted.len(), 3, "{leads:?}");
    }
}

#[test]
fn a_clock_that_is_far_off_costs_its_owner_its_vote_and_nobody_else_anything() {
    for lead_ms in [-1_900, -700, 700, 900, 90_000_000] {
        let mut world = world(4);
        world.members[0].lead_ms = lead_ms;
        world.restart(0);
        world.run_until((T + 4) * 1_000 + 100);
        for valid_after in [T, T + 2, T + 4] {
            world.agreed(valid_after, &[1, 2]);
        }
    }
}

#[test]
fn an_interval_of_one_second_is_enough() {
    let mut world = World::new(3, 1, (T - 2) * 1_000 + 100, 6);
    world.delay_ms = 12;
    (0..3).for_each(|n| world.upload(40, n, T - 10));
    world.run_until((T + 9) * 1_000 + 100);
    for valid_after in T..T + 10 {
        world.agreed(valid_after, &[0, 1, 2]);
    }
}
