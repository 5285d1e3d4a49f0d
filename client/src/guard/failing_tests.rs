//! Tests of when a guard has failed, and of what becomes of the guard that stood in for it, on virtual time.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use cepa_common::ids::RelayId;

use super::tests::{START, World, at, pick, rng};
use super::*;

#[test]
fn a_second_leg_and_the_directory_have_the_second_primary_guard_and_no_third() {
    let mut set = World::new(&[]).set(100);
    let [one, two, _] = set.primaries().try_into().unwrap();
    let second = |set: &GuardSet, first: RelayId| {
        let beside = |guard: &RelayId| *guard != first;
        let choice = set.pick(Purpose::SecondLeg, &beside, at(5), &mut rng(5));
        choice.map(|choice| choice.identity)
    };
    assert_eq!(second(&set, one), Some(two));
    assert_eq!(second(&set, two), Some(one));
    set.on_success(&one, at(1), &mut rng(1));
    set.on_failure(&two, at(2), &mut rng(1));
    assert_eq!(second(&set, one), None);
    for secs in 0..50 {
        let choice = set.pick(Purpose::Directory, &|_| true, at(5), &mut rng(secs));
        assert_eq!(choice.unwrap().identity, one);
    }
    // A consensus that does not list the second for some hours brings in no third either, and one that does not list it
    // for a day does.
    let world = World::new(&[]);
    let number = |id: RelayId| u16::from_be_bytes([id.0[0], id.0[1]]);
    let unlisted_at = |secs: u64| {
        let mut set = set.clone();
        let others = (0..100).filter(|n| *n != number(two));
        let consensus = world.consensus(START + secs, others);
        set.update(&consensus, &|_| true, at(secs), &mut rng(1));
        second(&set, one)
    };
    assert_eq!(unlisted_at(6 * 3_600), None);
    assert!(unlisted_at(25 * 3_600).is_some());
    // With neither of the two, others must serve.
    set.on_failure(&one, at(3), &mut rng(1));
    for purpose in [Purpose::Data, Purpose::Directory] {
        let choice = set.pick(purpose, &|_| true, at(5), &mut rng(1));
        assert!(![one, two].contains(&choice.unwrap().identity));
    }
}

#[test]
fn a_guard_that_is_slow_or_busy_has_not_failed() {
    let mut set = World::new(&[]).set(100);
    let one = set.primaries()[0];
    set.on_success(&one, at(1), &mut rng(1));
    for secs in [2, 4] {
        assert!(!set.on_unanswered(&one, true, at(secs), &mut rng(1)));
    }
    assert!(!set.on_unanswered(&one, false, at(5), &mut rng(1)));
    assert_eq!(
        (set.answers(&one), pick(&set, 5).identity),
        (Some(true), one)
    );
    // An answer ends the count, and the third in a row is a failure.
    set.on_created(&one);
    for secs in [6, 8] {
        assert!(!set.on_unanswered(&one, true, at(secs), &mut rng(1)));
    }
    assert!(set.on_unanswered(&one, true, at(9), &mut rng(1)));
    assert_eq!(set.answers(&one), Some(false));
    assert_ne!(pick(&set, 9).identity, one);
    // A guard that had failed has no such credit when it is tried again.
    assert!(set.on_unanswered(&one, false, at(700), &mut rng(1)));
    assert_ne!(pick(&set, 701).identity, one);
}

#[test]
fn a_guard_that_stood_in_is_outdone_once_a_better_one_answers() {
    let mut set = World::new(&[]).set(100);
    let [one, two, three] = set.primaries().try_into().unwrap();
    let other = *set
        .sampled()
        .find(|id| !set.primaries().contains(id))
        .unwrap();
    let any = |_: &RelayId| true;
    set.on_success(&one, at(0), &mut rng(1));
    set.on_failure(&one, at(1), &mut rng(1));
    set.on_success(&two, at(2), &mut rng(1));
    assert!(!set.is_outdone(&two, &any) && set.is_outdone(&three, &any));
    set.on_success(&one, at(3), &mut rng(1));
    assert!(!set.is_outdone(&one, &any));
    assert!(
        [two, three, other]
            .iter()
            .all(|id| set.is_outdone(id, &any))
    );
    // One that may not be in a path with the exit is no better.
    assert!(!set.is_outdone(&two, &|id| *id != one));
    // With two in use, the second is none that stands in.
    set.set_in_use(Some(2));
    let world = World::new(&[]);
    set.update(
        &world.consensus(START, 0..100),
        &|_| true,
        at(4),
        &mut rng(1),
    );
    assert!(!set.is_outdone(&two, &any) && set.is_outdone(&three, &any));
}

#[test]
fn a_dead_primary_fails_over_at_once_and_is_tried_again_later() {
    let mut set = World::new(&[]).set(100);
    let [one, two, three] = set.primaries().try_into().unwrap();
    assert_eq!(set.on_success(&one, at(1), &mut rng(1)), Verdict::Use);
    for (dead, next) in [(one, two), (two, three)] {
        set.on_failure(&dead, at(2), &mut rng(1));
        let choice = pick(&set, 2);
        assert_eq!((choice.identity, choice.usability), (next, Usability::Now));
    }
    set.on_failure(&three, at(2), &mut rng(1));
    let other = pick(&set, 2);
    assert_eq!(other.usability, Usability::IfNoneBetter);
    // Three dead guards do not make the network look dead: the fourth guard is used.
    assert_eq!(
        set.on_success(&other.identity, at(3), &mut rng(1)),
        Verdict::Use
    );
    // The time until the next try is ten minutes, plus or minus a tenth (6.21.9).
    let retry = set.next_retry().unwrap().as_secs();
    assert!((541..=662).contains(&retry), "{retry}");
    assert_ne!(pick(&set, 500).identity, one);
    let again = pick(&set, 700).identity;
    assert_eq!(again, one);
    // One circuit tries the guard. The other circuits do not wait for its result.
    set.on_attempt(&one, at(700), &mut rng(1));
    assert_ne!(pick(&set, 700).identity, one);
    set.on_success(&one, at(701), &mut rng(1));
    assert_eq!(pick(&set, 702).identity, one);
}
