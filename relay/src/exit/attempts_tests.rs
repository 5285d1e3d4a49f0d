#![allow(clippy::unwrap_used)]
//! Tests of the attempts of an exit: who waits for whom.

use std::pin::Pin;

use cepa_common::ids::RelayId;

use super::*;

type Wait = Pin<Box<dyn Future<Output = Attempt>>>;

/// A circuit by the link of a relay.
fn origin(link: u8, circ: u32) -> Origin {
    Origin {
        party: Party::Relay(RelayId([link; 32])),
        link: link.into(),
        circ: CircId::new(circ).unwrap(),
    }
}

fn aim(n: u32) -> Aim {
    Aim::of_name(&format!("{n}.example"))
}

fn wait(attempts: &Attempts, origin: Origin, n: u32) -> Wait {
    let attempts = attempts.clone();
    Box::pin(async move { attempts.turn(origin, aim(n)).await })
}

fn poll(wait: &mut Wait) -> Option<Attempt> {
    match wait.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(attempt) => Some(attempt),
        Poll::Pending => None,
    }
}

/// Begins `number` attempts, each to another destination. Gives those that hold a place, and those that wait.
fn begin(attempts: &Attempts, origin: Origin, number: usize) -> (Vec<Attempt>, Vec<Wait>) {
    begin_to(attempts, origin, 0..number as u32)
}

fn begin_to(
    attempts: &Attempts,
    origin: Origin,
    aims: impl Iterator<Item = u32>,
) -> (Vec<Attempt>, Vec<Wait>) {
    let (mut held, mut waiting) = (Vec::new(), Vec::new());
    for n in aims {
        let mut one = wait(attempts, origin, n);
        match poll(&mut one) {
            Some(attempt) => held.push(attempt),
            None => waiting.push(one),
        }
    }
    (held, waiting)
}

fn is_clean(attempts: &Attempts) -> bool {
    let state = lock(&attempts.0);
    let counts = [state.held, state.held_of_strangers, state.tickets.len()];
    counts == [0; 3] && state.held_of_party.is_empty() && state.held_of_circuit.is_empty()
}

#[test]
fn each_circuit_each_party_and_all_are_bounded() {
    for bounds in [OF_EXIT, OF_ADDRESS] {
        let attempts = Attempts::new(bounds);
        let mut all = Vec::new();
        for link in 0..8 {
            let mut of_party = 0;
            for circ in 1..=12 {
                let (held, waiting) = begin(&attempts, origin(link, circ), 40);
                assert!(held.len() <= bounds.circuit);
                of_party += held.len();
                all.push((held, waiting));
            }
            assert!(of_party <= bounds.party);
        }
        let held: usize = all.iter().map(|(held, _)| held.len()).sum();
        assert_eq!(held, bounds.all);
        drop(all);
        assert!(is_clean(&attempts));
    }
}

#[test]
fn parties_take_turns_and_who_gives_up_takes_none() {
    let attempts = Attempts::new(OF_EXIT);
    let (mut held, mut floods) = (Vec::new(), Vec::new());
    for link in 0..4 {
        for circ in 1..=8 {
            let (some, wait) = begin(&attempts, origin(link, circ), 64);
            held.extend(some);
            floods.extend(wait);
        }
    }
    assert_eq!(held.len(), OF_EXIT.all);
    let (none, mut quiet) = begin(&attempts, origin(9, 1), 1);
    assert!(none.is_empty());
    // Half of those who wait give up.
    floods.truncate(floods.len() / 2);
    // The quiet circuit waits for one turn of each other link, not for their queues.
    held.drain(..5);
    assert!(poll(&mut quiet[0]).is_some());
}

#[test]
fn links_of_one_address_are_one_party_and_strangers_leave_room() {
    let attempts = Attempts::new(OF_EXIT);
    let stranger = |address: u8, link: u64| Origin {
        party: Party::of(None, [192, 0, 2, address].into(), link),
        link,
        circ: CircId::new(1).unwrap(),
    };
    let mut all = Vec::new();
    // Two strangers with two hundred links each.
    for link in 0..400 {
        all.push(begin(&attempts, stranger((link % 2) as u8, link), 8));
    }
    let held = |all: &[(Vec<Attempt>, Vec<Wait>)]| -> usize {
        all.iter().map(|(held, _)| held.len()).sum()
    };
    assert_eq!(held(&all), OF_EXIT.strangers);
    let (relay, waiting) = begin(&attempts, origin(1, 1), OF_EXIT.circuit);
    assert_eq!((relay.len(), waiting.len()), (OF_EXIT.circuit, 0));
    // A third stranger waits for one turn of each of the others, and not for four hundred links.
    let (none, mut third) = begin(&attempts, stranger(2, 999), 1);
    assert!(none.is_empty());
    let places: Vec<_> = all
        .iter_mut()
        .flat_map(|(held, _)| held.drain(..))
        .collect();
    let mut places = places.into_iter();
    places.by_ref().take(3).for_each(drop);
    assert!(poll(&mut third[0]).is_some());
    drop((places, all, relay, waiting, third));
    assert!(is_clean(&attempts));
}

#[test]
fn the_network_may_let_a_circuit_have_fewer_or_more() {
    let attempts = Attempts::new(OF_EXIT);
    attempts.bound_circuits(4);
    let (mut held, mut waiting) = begin(&attempts, origin(1, 1), 10);
    assert_eq!((held.len(), waiting.len()), (4, 6));
    let (other, _) = begin(&attempts, origin(1, 2), 4);
    assert_eq!(other.len(), 4);
    // Those that wait have their turns as soon as they may.
    attempts.bound_circuits(9);
    held.extend(waiting.iter_mut().filter_map(poll));
    assert_eq!(held.len(), 9);
    // What is under way goes on under a narrower bound, and nothing begins until there is room under it.
    attempts.bound_circuits(5);
    held.drain(..4);
    assert!(poll(&mut waiting[5]).is_none() && attempts.at_once(origin(1, 1), &aim(99)).is_none());
    held.pop();
    assert!(poll(&mut waiting[5]).is_some());
    drop((held, waiting, other));
    assert!(is_clean(&attempts));
}

#[test]
fn a_further_place_is_given_at_once_or_not() {
    let attempts = Attempts::new(OF_EXIT);
    let at_once = |origin| attempts.at_once(origin, &aim(99));
    let (mut held, waiting) = begin(&attempts, origin(1, 1), OF_EXIT.circuit - 1);
    assert!(waiting.is_empty());
    held.extend(at_once(origin(1, 1)));
    assert_eq!(held.len(), OF_EXIT.circuit);
    assert!(at_once(origin(1, 1)).is_none(), "of a circuit");
    let (_, waiting) = begin(&attempts, origin(1, 1), 1);
    assert!(at_once(origin(1, 2)).is_some(), "nobody waits for that one");
    for circ in 2..=4 {
        held.extend(begin(&attempts, origin(1, circ), OF_EXIT.circuit).0);
    }
    assert_eq!(held.len(), OF_EXIT.party);
    assert!(at_once(origin(1, 5)).is_none(), "of a party");
    assert!(at_once(origin(2, 1)).is_some(), "not of this party");
    drop((held, waiting));
    // Tickets of those who gave up waiting stay in the queue until a turn comes by.
    assert!(at_once(origin(1, 2)).is_some());
    assert!(is_clean(&attempts));
}

#[test]
fn of_a_circuit_destinations_take_turns_and_leave_room() {
    let attempts = Attempts::new(OF_EXIT);
    let circuit = origin(1, 1);
    let (mut flood, mut waiting) = begin_to(&attempts, circuit, [1; 100].into_iter());
    assert_eq!((flood.len(), waiting.len()), (OF_EXIT.circuit / 2, 84));
    assert!(attempts.at_once(circuit, &aim(1)).is_none());
    // Others begin at once, and the second that wants all leaves room too.
    let (second, _still) = begin_to(&attempts, circuit, [2; 100].into_iter());
    assert_eq!(second.len(), 8);
    let (mut quiet, none) = begin_to(&attempts, circuit, 3..8);
    assert_eq!((quiet.len(), none.len()), (5, 0));
    let (rest, none) = begin_to(&attempts, circuit, 8..11);
    assert_eq!((rest.len(), none.len()), (3, 0), "all have places");
    // When all places are taken, whoever comes last waits for a turn of each other destination, not for its queue.
    let (none, mut late) = begin_to(&attempts, circuit, 11..12);
    assert!(none.is_empty());
    quiet.truncate(3);
    assert!(poll(&mut late[0]).is_some());
    // What the first holds it gets no more of while it leaves less.
    flood.truncate(4);
    let more: Vec<_> = waiting.iter_mut().filter_map(poll).collect();
    assert!((1..=10).contains(&more.len()), "{}", more.len());
    drop((flood, waiting, second, _still, quiet, rest, late, more));
    assert!(is_clean(&attempts));
}

#[test]
fn who_has_a_host_has_its_domain_and_its_network() {
    for (one, other, is_same) in [
        ("a.evil.example", "B.c.EVIL.example.", true),
        ("evil.example", "x.evil.example", true),
        ("example", "evil.example", false),
        ("a.example", "b.example", false),
    ] {
        assert_eq!(
            Aim::of_name(one) == Aim::of_name(other),
            is_same,
            "{one} {other}"
        );
    }
    let of = |ip: &str| Aim::of(&StreamHost::Ip(ip.parse().unwrap()));
    assert!(of("2001:db8::1") == of("2001:db8:0:7::2"));
    assert!(of("::ffff:192.0.2.1") == of("192.0.2.254"));
    assert!(of("192.0.2.1") != of("192.0.3.1"));
}
