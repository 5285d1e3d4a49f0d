#![allow(clippy::unwrap_used)]

use cepa_common::budget::Budget;
use cepa_common::dir::Flags;
use cepa_common::flow::FixedWindow;
use cepa_common::net::circuit_io::{StreamIo, Streams};
use cepa_common::stream::{Mux, MuxConfig, Opener, StreamTarget};
use cepa_common::world::steady;

use super::super::CircuitInner;
use super::*;
use cepa_common::testkit::web_descriptor;

const MAX_DIRTY: Duration = Duration::from_secs(600);
const SECOND: Duration = Duration::from_secs(1);

fn circuit(exit: u8, generation: u64, built: Instant) -> Arc<Circuit> {
    let mux = Mux::new(MuxConfig {
        control: Box::new(FixedWindow(512)),
        mark_interval_cells: 32,
        stream_window_bytes: 1 << 16,
        budget: Budget::unlimited(),
    });
    let exit = Entry::new(&web_descriptor(exit), Flags::EXIT, 10);
    Arc::new(Circuit {
        streams: Streams::new(mux),
        hops: vec![exit.identity],
        exit,
        built,
        generation,
        shared: CircuitInner::new(None),
    })
}

fn stream(circuit: &Circuit) -> StreamIo<Opener> {
    let web = StreamTarget::address("192.0.2.1:80".parse().unwrap());
    circuit.open(web.unwrap()).unwrap()
}

fn owner(session: u64, since: Instant) -> Option<Owner> {
    Some(Owner {
        isolation: Isolation::session(session),
        since,
    })
}

fn find(shelf: &mut Shelf, session: u64, now: Instant, fit: ExitFit) -> Option<Found> {
    shelf.find(&Isolation::session(session), MAX_DIRTY, now, &|_| fit)
}

#[test]
fn an_owned_circuit_may_serve_less_well_and_a_clean_one_may_not() {
    let (mut shelf, now) = (Shelf::new(), steady::now());
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
    let (mut shelf, start) = (Shelf::new(), steady::now());
    let (used, clean) = (circuit(1, 0, start), circuit(2, 0, start));
    let given = start + 5 * SECOND;
    shelf.hold(used.clone(), owner(1, given));
    shelf.hold(clean.clone(), None);
    let open = stream(&used);
    let last = given + MAX_DIRTY - SECOND;
    assert!(find(&mut shelf, 1, last, ExitFit::Serves).is_some());
    assert!(find(&mut shelf, 1, last + SECOND, ExitFit::Serves).is_none());
    shelf.retire(MAX_DIRTY, start + MAX_DIRTY);
    assert!(!clean.is_lost());
    shelf.retire(MAX_DIRTY, start + MAX_DIRTY + SECOND);
    assert!(clean.is_lost(), "its age counts from when it was built");
    shelf.retire(MAX_DIRTY, given + MAX_DIRTY + SECOND);
    assert!(!used.is_lost(), "it carries a stream");
    assert_eq!(shelf.counts().streams, 1);
    drop(open);
    used.close();
    shelf.retire(MAX_DIRTY, given + MAX_DIRTY + SECOND);
    assert_eq!(shelf.counts(), Counts::default());
}

#[test]
fn a_full_shelf_closes_what_is_idle_and_nothing_that_carries_a_stream() {
    let (mut shelf, now) = (Shelf::new(), steady::now());
    let (busy, idle) = (circuit(1, 0, now), circuit(1, 0, now));
    let _open = stream(&busy);
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
    let (mut shelf, now) = (Shelf::new(), steady::now());
    let (held, late) = (circuit(1, 0, now), circuit(1, 0, now));
    let _open = stream(&held);
    shelf.hold(held.clone(), owner(1, now));
    shelf.close();
    assert!(shelf.is_closed() && held.is_lost());
    shelf.hold(late.clone(), owner(1, now));
    assert!(late.is_lost());
    assert_eq!(shelf.counts(), Counts::default());
}

#[test]
fn doubt_reaches_the_circuits_that_pass_a_relay() {
    let (mut shelf, now) = (Shelf::new(), steady::now());
    let circuits = [circuit(1, 0, now), circuit(2, 0, now)];
    for circuit in &circuits {
        circuit
            .shared
            .on_begun(cepa_common::stream::LegId::FIRST, circuit.hops.clone());
        shelf.hold(circuit.clone(), None);
    }
    let mut seen = [0, 0];
    let mut doubted = || {
        let news = circuits.iter().zip(&mut seen);
        news.map(|(circuit, seen)| circuit.shared.is_doubted(seen))
            .collect::<Vec<_>>()
    };
    shelf.doubt_through(&circuits[0].hops);
    assert_eq!(doubted(), [true, false]);
    shelf.doubt_all();
    assert_eq!(doubted(), [true, true]);
    assert_eq!(doubted(), [false, false]);
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
    /// Whatever happens, no circuit is given to two owners, none of an earlier identity is given at all, none that is
    /// lost or too old, and none is closed while it carries a stream.
    #[test]
    fn no_circuit_is_shared_stale_or_cut_off(events in proptest::collection::vec(event(), 1..60)) {
        let (mut shelf, mut now) = (Shelf::new(), steady::now());
        let mut all: Vec<Arc<Circuit>> = Vec::new();
        // By circuit: the owner that it was given to, and when; and its streams.
        let mut given: Vec<Option<(u64, Instant)>> = Vec::new();
        let mut open: Vec<(usize, StreamIo<Opener>)> = Vec::new();
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
                    open.push((nth, stream(&all[nth])));
                }
                Event::Lose { nth } if nth < all.len() => {
                    all[nth].close();
                    lost.insert(nth);
                }
                Event::Open { .. } | Event::Lose { .. } => {}
                Event::Pass { seconds } => now += Duration::from_secs(seconds),
                Event::Retire => shelf.retire(MAX_DIRTY, now),
                Event::NewIdentity => {
                    shelf.new_identity();
                }
            }
            for (nth, _) in &open {
                proptest::prop_assert!(lost.contains(nth) || !all[*nth].is_lost());
            }
            let counts = shelf.counts();
            proptest::prop_assert!(counts.clean <= counts.ready);
        }
    }
}
