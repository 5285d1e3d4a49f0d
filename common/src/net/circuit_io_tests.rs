#![allow(clippy::unwrap_used)]

use core::pin::pin;
use std::task::Waker;

use super::*;
use crate::budget::Budget;
use crate::testkit::mux;

fn ours() -> Mux<Acceptor> {
    mux(&Budget::unlimited())
}

/// Says LINKED on a leg.
fn link(streams: &Streams<Acceptor>, leg: LegId) {
    let (circ, mut cells) = (CircId::new(1).unwrap(), Vec::new());
    streams.fill(leg, Instant::now(), &mut rand::rng(), circ, &mut cells);
    assert!(!cells.is_empty());
}

fn join(streams: &Streams<Acceptor>, number: u32) -> LegId {
    let circuit = ours().take_leg().unwrap();
    let leg = streams.join(circuit, LegId::from_wire(number)).unwrap();
    link(streams, leg);
    leg
}

/// Would the task of a leg be woken?
fn is_woken(streams: &Streams<Acceptor>, leg: LegId) -> bool {
    let mut cx = Context::from_waker(Waker::noop());
    pin!(streams.wait(leg)).poll(&mut cx).is_ready()
}

/// docs/protocol.md, 5.21: the client chooses the numbers of legs. Each leg's task is woken, whatever the leg's number.
#[test]
fn every_leg_is_woken_whatever_its_number() {
    let streams = Streams::new(ours());
    streams.mux().begin_set();
    link(&streams, LegId::FIRST);
    let first = join(&streams, 1);
    streams.lose_leg(LegId::FIRST);
    assert!(
        is_woken(&streams, LegId::FIRST),
        "the task of a lost leg hears of the loss"
    );
    for number in [2, 3, 4] {
        let leg = join(&streams, number);
        streams.lose_leg(leg);
        assert!(is_woken(&streams, leg));
    }
    for number in [5, u32::MAX - 1] {
        let other = join(&streams, number);
        for leg in [first, other] {
            while is_woken(&streams, leg) {}
        }
        streams.notify();
        assert!(is_woken(&streams, first), "beside {number}");
        assert!(is_woken(&streams, other), "{number}");
        streams.lose_leg(other);
    }
}
