//! The shelf, on circuits that are nothing but values.
// The shelf holds circuits by `Arc`, as tasks share real ones.
#![allow(clippy::unwrap_used, clippy::arc_with_non_send_sync)]

use std::cell::Cell;

use super::*;

const MAX_DIRTY: Duration = Duration::from_secs(600);
const SECOND: Duration = Duration::from_secs(1);

/// A circuit as the shelf knows it.
#[derive(Debug)]
struct Paper {
    relay: RelayId,
    built: Instant,
    generation: u64,
    streams: Cell<usize>,
    has_room: Cell<bool>,
    legs: Cell<usize>,
    is_lost: Cell<bool>,
    doubts: Cell<u32>,
}

impl Shelved for Paper {
    fn built(&self) -> Instant {
        self.built
    }

    fn generation(&self) -> u64 {
        self.generation
    }

    fn open_streams(&self) -> usize {
        self.streams.get()
    }

    fn has_room(&self) -> bool {
        self.has_room.get() && !self.is_lost()
    }

    fn legs(&self) -> usize {
        self.legs.get()
    }

    fn is_lost(&self) -> bool {
        self.is_lost.get()
    }

    fn passes(&self, relays: &[RelayId]) -> bool {
        relays.contains(&self.relay)
    }

    fn doubt(&self) {
        self.doubts.set(self.doubts.get() + 1);
    }

    fn close(&self) {
        self.is_lost.set(true);
        self.streams.set(0);
    }
}

fn circuit(exit: u8, generation: u64, built: Instant) -> Arc<Paper> {
    Arc::new(Paper {
        relay: RelayId([exit; 32]),
        built,
        generation,
        streams: Cell::new(0),
        has_room: Cell::new(true),
        legs: Cell::new(1),
        is_lost: Cell::new(false),
        doubts: Cell::new(0),
    })
}

/// Any moment: the tests only add to it.
fn start() -> Instant {
    Instant::now()
}

fn owner(session: u64, since: Instant) -> Option<Owner> {
    Some(Owner {
        isolation: Isolation::session(session),
        since,
    })
}

fn find(
    shelf: &mut Shelf<Paper>,
    session: u64,
    now: Instant,
    fit: ExitFit,
) -> Option<Found<Paper>> {
    shelf.find(&Isolation::session(session), MAX_DIRTY, now, &|_| fit)
}

#[test]
fn an_owned_circuit_may_serve_less_well_and_a_clean_one_may_not() {
    let (mut shelf, now) = (Shelf::new(), start());
    let (owned, clean) = (circuit(1, 0, now), circuit(2, 0, now));
    shelf.hold(owned.clone(), owner(1, now));
    shelf.hold(clean.clone(), None);
    assert!(find(&mut shelf, 1, now, ExitFit::Unfit).is_none());
    assert!(find(&mut shelf, 2, now, ExitFit::Serves).is_none());
    let found = find(&mut shelf, 1, now, ExitFit::Serves).unwrap();
    assert!(Arc::ptr_eq(&found.circuit, &owned) && !found.was_clean);
    let found = find(&mut shelf, 2, now, ExitFit::AsGood).unwrap();
    assert!(Arc::ptr_eq(&found.circuit, &clean) && found.was_clean);
    let found = find(&mut shelf, 2, now, ExitFit::Serves).unwrap();
    assert!(!found.was_clean, "it has an owner now");
}

#[test]
fn a_circuit_takes_streams_until_it_is_old_and_goes_when_the_last_has_ended() {
    let (mut shelf, start) = (Shelf::new(), start());
    let (used, clean) = (circuit(1, 0, start), circuit(2, 0, start));
    let given = start + 5 * SECOND;
    shelf.hold(used.clone(), owner(1, given));
    shelf.hold(clean.clone(), None);
    used.streams.set(1);
    let last = given + MAX_DIRTY - SECOND;
    assert!(find(&mut shelf, 1, last, ExitFit::Serves).is_some());
    assert!(find(&mut shelf, 1, last + SECOND, ExitFit::Serves).is_none());
    shelf.retire(MAX_DIRTY, start + MAX_DIRTY, &|_| false);
    assert!(!clean.is_lost());
    shelf.retire(MAX_DIRTY, start + MAX_DIRTY + SECOND, &|_| false);
    assert!(
        clean.is_lost(),
        "the age of a clean circuit counts from when it was built"
    );
    shelf.retire(MAX_DIRTY, given + MAX_DIRTY + SECOND, &|_| false);
    assert!(!used.is_lost(), "it carries a stream");
    assert_eq!(shelf.counts().streams, 1);
    used.close();
    shelf.retire(MAX_DIRTY, given + MAX_DIRTY + SECOND, &|_| false);
    let counts = shelf.counts();
    assert_eq!((counts.ready, counts.streams), (0, 0));
}

#[test]
fn what_is_outdone_goes_when_it_is_idle() {
    let (mut shelf, now) = (Shelf::new(), start());
    let circuits = [circuit(1, 0, now), circuit(1, 0, now), circuit(2, 0, now)];
    let [busy, clean, other] = &circuits;
    busy.streams.set(1);
    shelf.hold(busy.clone(), owner(1, now));
    shelf.hold(clean.clone(), None);
    shelf.hold(other.clone(), None);
    shelf.retire(MAX_DIRTY, now, &|circuit| circuit.relay == busy.relay);
    let lost = circuits.each_ref().map(|circuit| circuit.is_lost());
    assert_eq!(lost, [false, true, false]);
}

#[test]
fn a_full_shelf_closes_what_is_idle_and_nothing_that_carries_a_stream() {
    let (mut shelf, now) = (Shelf::new(), start());
    let (busy, idle) = (circuit(1, 0, now), circuit(1, 0, now));
    busy.streams.set(1);
    shelf.hold(busy.clone(), owner(1, now));
    shelf.hold(idle.clone(), owner(2, now));
    for session in 2..MOST_CIRCUITS as u64 {
        shelf.hold(circuit(1, 0, now), owner(session, now));
    }
    assert!(!idle.is_lost());
    shelf.hold(circuit(1, 0, now), None);
    assert!(idle.is_lost() && !busy.is_lost());
    assert_eq!(shelf.counts().ready, MOST_CIRCUITS);
}

#[test]
fn a_closed_shelf_ends_what_it_has_and_takes_nothing() {
    let (mut shelf, now) = (Shelf::new(), start());
    let (held, late) = (circuit(1, 0, now), circuit(1, 0, now));
    held.streams.set(1);
    shelf.hold(held.clone(), owner(1, now));
    shelf.close();
    assert!(shelf.is_closed() && held.is_lost());
    shelf.hold(late.clone(), owner(1, now));
    assert!(late.is_lost());
    let counts = shelf.counts();
    assert_eq!((counts.ready, counts.streams), (0, 0));
}

#[test]
fn doubt_reaches_one_owner_s_circuits_and_nobody_else_s() {
    let (mut shelf, now) = (Shelf::new(), start());
    // All but the second pass one relay. The last is nobody's.
    let circuits = [1, 2, 1, 1].map(|relay| circuit(relay, 0, now));
    for (circuit, session) in circuits.iter().zip([Some(1), Some(1), Some(2), None]) {
        let owner = session.and_then(|session| owner(session, now));
        shelf.hold(circuit.clone(), owner);
    }
    let doubts = || circuits.each_ref().map(|circuit| circuit.doubts.get());
    let is = |nth: usize| {
        let circuit = circuits[nth].clone();
        move |held: &Paper| std::ptr::eq(held, &*circuit)
    };
    let one = shelf.owner_of(&is(0)).unwrap();
    assert!(one == Isolation::session(1));
    assert!(shelf.owner_of(&is(3)).is_none());
    shelf.doubt(&one, Some(&[circuits[0].relay]));
    assert_eq!(doubts(), [1, 0, 0, 0]);
    shelf.doubt(&one, None);
    assert_eq!(doubts(), [2, 1, 0, 0]);
    assert_eq!(shelf.owners().len(), 2);
    shelf.close_clean(&|circuit| circuit.relay == circuits[0].relay);
    let lost = circuits.each_ref().map(|circuit| circuit.is_lost());
    assert_eq!(lost, [false, false, false, true]);
}

#[test]
fn a_new_identity_leaves_nothing_to_share_and_cuts_nothing_off() {
    let (mut shelf, now) = (Shelf::new(), start());
    let (busy, idle, lost) = (circuit(1, 0, now), circuit(2, 0, now), circuit(3, 0, now));
    for circuit in [&busy, &idle, &lost] {
        shelf.hold(circuit.clone(), owner(1, now));
    }
    busy.streams.set(1);
    lost.close();
    assert_eq!(shelf.new_identity(), 2, "the third circuit was lost before");
    assert!(idle.is_lost() && !busy.is_lost());
    assert!(find(&mut shelf, 1, now, ExitFit::AsGood).is_none());
    let counts = shelf.counts();
    assert_eq!((counts.ready, counts.streams), (0, 1));
    // A circuit that was begun for the identity before, and is done only now, has no owner.
    let late = circuit(4, 0, now);
    shelf.hold(late.clone(), None);
    assert!(late.is_lost());
    busy.streams.set(0);
    shelf.retire(MAX_DIRTY, now, &|_| false);
    assert!(busy.is_lost());
}

#[test]
fn a_full_circuit_is_passed_over_and_two_legs_are_counted() {
    let (mut shelf, now) = (Shelf::new(), start());
    let (full, other) = (circuit(1, 0, now), circuit(2, 0, now));
    shelf.hold(full.clone(), owner(1, now));
    shelf.hold(other.clone(), None);
    full.has_room.set(false);
    full.legs.set(2);
    let found = find(&mut shelf, 1, now, ExitFit::AsGood).unwrap();
    assert!(Arc::ptr_eq(&found.circuit, &other));
    let (ready, clean, paired, streams) = (2, 0, 1, 0);
    let counts = Counts {
        ready,
        clean,
        paired,
        streams,
        built: 2,
        used: 2,
    };
    assert_eq!(shelf.counts(), counts);
    assert_eq!(shelf.clean().count(), 0);
}

/// Something that happens to a shelf.
#[derive(Clone, Debug)]
enum Event {
    HoldClean { generation_back: u64 },
    Hold { session: u64 },
    Find { session: u64 },
    Open { nth: usize },
    Lose { nth: usize },
    Pass { seconds: u64 },
    Retire,
    NewIdentity,
}

fn event() -> impl proptest::strategy::Strategy<Value = Event> {
    use proptest::prelude::*;
    prop_oneof![
        (0..2u64).prop_map(|generation_back| Event::HoldClean { generation_back }),
        (0..4u64).prop_map(|session| Event::Hold { session }),
        (0..4u64).prop_map(|session| Event::Find { session }),
        (0..16usize).prop_map(|nth| Event::Open { nth }),
        (0..16usize).prop_map(|nth| Event::Lose { nth }),
        (0..400u64).prop_map(|seconds| Event::Pass { seconds }),
        Just(Event::Retire),
        Just(Event::NewIdentity),
    ]
}

proptest::proptest! {
    /// Whatever happens: no circuit is given to two owners; no circuit of an earlier identity, lost, or too old is
    /// given at all; and no circuit is closed while it carries a stream.
    #[test]
    fn no_circuit_is_shared_stale_or_cut_off(events in proptest::collection::vec(event(), 1..60)) {
        let (mut shelf, mut now) = (Shelf::new(), start());
        let mut all: Vec<Arc<Paper>> = Vec::new();
        // By circuit: the owner that it was given to, and when.
        let mut given: Vec<Option<(u64, Instant)>> = Vec::new();
        let mut open: Vec<usize> = Vec::new();
        let mut lost = std::collections::HashSet::new();
        for event in events {
            match event {
                Event::HoldClean { generation_back } => {
                    let generation = shelf.generation().saturating_sub(generation_back);
                    let new = circuit(1, generation, now);
                    shelf.hold(new.clone(), None);
                    proptest::prop_assert_eq!(new.is_lost(), generation != shelf.generation());
                    all.push(new);
                    given.push(None);
                }
                Event::Hold { session } => {
                    let new = circuit(1, shelf.generation(), now);
                    shelf.hold(new.clone(), owner(session, now));
                    all.push(new);
                    given.push(Some((session, now)));
                }
                Event::Find { session } => {
                    let Some(found) = find(&mut shelf, session, now, ExitFit::AsGood) else {
                        continue;
                    };
                    let at = all.iter().position(|held| Arc::ptr_eq(held, &found.circuit)).unwrap();
                    proptest::prop_assert_eq!(found.circuit.generation, shelf.generation());
                    proptest::prop_assert!(!found.circuit.is_lost());
                    proptest::prop_assert_eq!(found.was_clean, given[at].is_none());
                    let (owner, since) = *given[at].get_or_insert((session, now));
                    proptest::prop_assert_eq!(owner, session);
                    proptest::prop_assert!(now - since < MAX_DIRTY);
                }
                Event::Open { nth } if nth < all.len() && !all[nth].is_lost() => {
                    all[nth].streams.set(all[nth].streams.get() + 1);
                    open.push(nth);
                }
                Event::Lose { nth } if nth < all.len() => {
                    all[nth].close();
                    lost.insert(nth);
                }
                Event::Open { .. } | Event::Lose { .. } => {}
                Event::Pass { seconds } => now += Duration::from_secs(seconds),
                Event::Retire => shelf.retire(MAX_DIRTY, now, &|_| false),
                Event::NewIdentity => {
                    shelf.new_identity();
                }
            }
            for nth in &open {
                proptest::prop_assert!(lost.contains(nth) || !all[*nth].is_lost());
            }
            let counts = shelf.counts();
            proptest::prop_assert!(counts.clean <= counts.ready);
        }
    }
}
