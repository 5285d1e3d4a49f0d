//! Five authorities for a week, of which two are always faulty: each pair with each combination of faults.

use super::*;

const HOUR: u64 = 3_600;
/// A time that is a multiple of an hour.
const START: UnixSecs = 500_000 * HOUR;

/// All pairs of five members.
fn pairs() -> Vec<[usize; 2]> {
    let all = (0..5).flat_map(|a| (a + 1..5).map(move |b| [a, b]));
    all.collect()
}

/// The faulty pair and its faults in the period with this number. Ninety periods have all nine combinations for all ten
/// pairs.
fn faults(period: u64) -> ([usize; 2], [Conduct; 2]) {
    let slow = if period.is_multiple_of(2) {
        Conduct::Slow
    } else {
        Conduct::Erratic
    };
    let kinds = [Conduct::Dead, slow, Conduct::Hostile];
    let pair = pairs()[usize::try_from(period % 10).unwrap()];
    let combination = usize::try_from(period / 10 % 9).unwrap();
    (pair, [kinds[combination / 3], kinds[combination % 3]])
}

#[test]
fn the_faults_cover_every_pair_and_combination() {
    let is_same = |a: Conduct, b: Conduct| {
        a == b
            || [a, b]
                .iter()
                .all(|c| matches!(c, Conduct::Slow | Conduct::Erratic))
    };
    for pair in pairs() {
        for first in [Conduct::Dead, Conduct::Slow, Conduct::Hostile] {
            for second in [Conduct::Dead, Conduct::Slow, Conduct::Hostile] {
                assert!((0..168).any(|period| {
                    let (members, kinds) = faults(period);
                    members == pair && is_same(kinds[0], first) && is_same(kinds[1], second)
                }));
            }
        }
    }
}

#[test]
fn a_week_with_two_of_five_faulty_yields_one_consensus_each_hour() {
    let mut world = World::new(5, 3_600, (START - HOUR + 1_000) * 1_000, 7);
    world.delay_ms = 20_000;
    // The clocks are seconds apart.
    for (n, lead_ms) in [-4_000, -700, 0, 1_500, 5_000].into_iter().enumerate() {
        world.members[n].lead_ms = lead_ms;
        world.restart(n);
    }
    let mut convicted = 0;
    for period in 0..168 {
        let valid_after = START + period * HOUR;
        let (pair, kinds) = faults(period);
        for n in 0..5 {
            let conduct = pair.iter().position(|m| *m == n);
            let conduct = conduct.map_or(Conduct::Honest, |at| kinds[at]);
            let was = std::mem::replace(&mut world.members[n].conduct, conduct);
            if matches!(was, Conduct::Dead | Conduct::Hostile) {
                world.restart(n);
            }
            for relay in 40..43 {
                world.upload(relay, n, valid_after - valid_after % (6 * HOUR) - HOUR);
            }
        }
        let hostile: Vec<_> = (0..5)
            .filter(|n| world.members[*n].conduct == Conduct::Hostile)
            .collect();
        attack::plan(&mut world, &hostile, valid_after);
        // Members that were late have until just before the next vote begins.
        world.run_until((valid_after + HOUR / 2) * 1_000 - 60_000);
        let honest: Vec<_> = (0..5).filter(|n| !pair.contains(n)).collect();
        world.agreed(valid_after, &honest);
        let consensus = &world.members[honest[0]].published[&valid_after];
        assert_eq!(consensus.values().next().unwrap().entries().len(), 3);
        world.assert_signed_once(&honest);
        convicted += world.members[honest[0]]
            .machine
            .proofs()
            .get(&valid_after)
            .map_or(0, Vec::len);
        world.heard.clear();
    }
    assert!(convicted > 20, "{convicted}");
}

#[test]
fn three_dead_of_five_yield_none_and_after_that_it_goes_on() {
    let mut world = World::new(5, 3_600, (START - HOUR + 1_000) * 1_000, 11);
    let run = |world: &mut World, period: u64, dead: usize| {
        for n in 0..5 {
            let conduct = if n < dead {
                Conduct::Dead
            } else {
                Conduct::Honest
            };
            let was = std::mem::replace(&mut world.members[n].conduct, conduct);
            if was == Conduct::Dead {
                world.restart(n);
            }
            world.upload(40, n, START - HOUR);
        }
        world.run_until((START + period * HOUR + HOUR / 3) * 1_000);
    };
    run(&mut world, 0, 0);
    run(&mut world, 1, 3);
    run(&mut world, 2, 3);
    run(&mut world, 3, 2);
    run(&mut world, 4, 0);
    let all = [0, 1, 2, 3, 4];
    world.agreed(START, &all);
    for missed in [START + HOUR, START + 2 * HOUR] {
        assert!(
            world
                .members
                .iter()
                .all(|m| !m.published.contains_key(&missed))
        );
        assert!(
            world
                .members
                .iter()
                .all(|m| !m.signed.contains_key(&missed))
        );
    }
    world.agreed(START + 3 * HOUR, &all[2..]);
    world.agreed(START + 4 * HOUR, &all);
    world.assert_signed_once(&all);
}
