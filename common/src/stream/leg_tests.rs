//! Two ends, joined by two legs with delays, on a virtual clock.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use core::task::Waker;
use core::time::Duration;
use std::collections::HashMap;
use std::time::Instant;

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::cell::codec::CREATE_LEN;
use crate::cell::message::{LegMessage, Packer, SECRET_LEN, StreamMessage};
use crate::cell::{PAYLOAD_LEN, Payload};
use crate::flow::FixedWindow;
use crate::ids::{RelayId, StreamId};
use crate::limits::STREAM_BYTES;
use crate::stream::{Acceptor, Opener, Owes, Request, StreamTarget, Violation};

const SECRET: [u8; SECRET_LEN] = [5; SECRET_LEN];

fn mux<E: StreamEnd>(budget: &Arc<Budget>) -> Mux<E> {
    Mux::new(MuxConfig {
        control: Box::new(FixedWindow(32)),
        mark_interval_cells: 8,
        stream_window_bytes: 1 << 20,
        budget: budget.clone(),
    })
}

/// What is on its way by one leg, and when each payload arrives (milliseconds).
#[derive(Default)]
struct Way {
    delay: u64,
    outward: VecDeque<(u64, Box<Payload>)>,
    inward: VecDeque<(u64, Box<Payload>)>,
    carried: usize,
    /// The leg swallows everything.
    dead: bool,
}

/// Writes what is left of `bytes`, as much as the stream takes, and reads all that has come.
fn exchange(
    mux: &mut Mux<impl StreamEnd>,
    key: StreamKey,
    bytes: &[u8],
    sent: &mut usize,
    read: &mut Vec<u8>,
) {
    let mut cx = Context::from_waker(Waker::noop());
    if let Poll::Ready(wrote) = mux.poll_write(key, &mut cx, Instant::now(), &bytes[*sent..]) {
        *sent += wrote.unwrap();
    }
    let mut out = [0; 16 * 1024];
    while let Poll::Ready(got) = mux.poll_read(key, &mut cx, Instant::now(), &mut out) {
        read.extend(&out[..got.unwrap()]);
    }
}

struct World {
    client: Mux<Opener>,
    relay: Mux<Acceptor>,
    /// The second circuit at the relay, until it joins.
    alone: Option<(LegId, Mux<Acceptor>)>,
    ways: HashMap<LegId, Way>,
    begun: Vec<StreamKey>,
    rng: StdRng,
    start: Instant,
    ms: u64,
    budget: Arc<Budget>,
}

impl World {
    fn new(delay: u64) -> Self {
        let budget = Budget::unlimited();
        Self {
            client: mux::<Opener>(&budget),
            relay: mux::<Acceptor>(&budget),
            alone: None,
            ways: HashMap::from([(
                LegId::FIRST,
                Way {
                    delay,
                    ..Way::default()
                },
            )]),
            begun: Vec::new(),
            rng: StdRng::seed_from_u64(3),
            start: Instant::now(),
            ms: 0,
            budget,
        }
    }

    /// Two legs with these delays, and a stream that is open.
    fn joined(delays: [u64; 2]) -> (Self, StreamKey, StreamKey, LegId) {
        let mut world = Self::new(delays[0]);
        let key = world.client.open(StreamTarget::Directory).unwrap();
        world.run_until(|world| !world.begun.is_empty());
        let there = world.begun[0];
        world.relay.accept(there);
        assert!(world.client.link(SECRET) && !world.client.link(SECRET));
        world.run_until(|world| world.client.is_linked());
        let leg = world.join(delays[1]);
        world.run_until(|world| world.client.leg(leg).unwrap().linked);
        world.run_until(|world| world.relay.leg(leg).unwrap().is_usable());
        world.ways.values_mut().for_each(|way| way.carried = 0);
        (world, key, there, leg)
    }

    fn join(&mut self, delay: u64) -> LegId {
        let leg = mux::<Opener>(&self.budget).take_leg().unwrap();
        let leg = self.client.join(leg, SECRET).unwrap();
        self.alone = Some((leg, mux::<Acceptor>(&self.budget)));
        let way = Way {
            delay,
            ..Way::default()
        };
        self.ways.insert(leg, way);
        leg
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_millis(self.ms)
    }

    /// A millisecond passes: what is to be said is said, what is due arrives.
    fn step(&mut self) {
        let now = self.now();
        let mut payload = [0; PAYLOAD_LEN];
        let mut legs: Vec<_> = self.ways.keys().copied().collect();
        legs.sort();
        for leg in &legs {
            let way = self.ways.get_mut(leg).unwrap();
            let due = self.ms + way.delay;
            while self.client.fill(*leg, now, &mut self.rng, &mut payload) {
                way.outward.push_back((due, Box::new(payload)));
                way.carried += 1;
            }
            while self.relay.fill(*leg, now, &mut self.rng, &mut payload) {
                way.inward.push_back((due, Box::new(payload)));
                way.carried += 1;
            }
            if way.dead {
                way.outward.clear();
                way.inward.clear();
            }
        }
        self.ms += 1;
        let (now, due) = (self.now(), self.ms);
        for leg in legs {
            let way = self.ways.get_mut(&leg).unwrap();
            let is_due = |(at, _): &mut (u64, Box<Payload>)| *at <= due;
            let outward: Vec<_> =
                core::iter::from_fn(|| way.outward.pop_front_if(is_due)).collect();
            let inward: Vec<_> = core::iter::from_fn(|| way.inward.pop_front_if(is_due)).collect();
            for (_, payload) in outward {
                self.on_outward(leg, now, &payload);
            }
            for (_, payload) in inward {
                assert_eq!(self.client.on_inward(leg, now, &payload), Ok(None));
            }
        }
    }

    fn on_outward(&mut self, leg: LegId, now: Instant, payload: &Payload) {
        let requests = match &mut self.alone {
            Some((id, alone)) if *id == leg => alone.on_outward(LegId::FIRST, now, payload),
            _ => self.relay.on_outward(leg, now, payload),
        };
        for request in requests.expect("legal") {
            match request {
                Request::Begin(key, _) => self.begun.push(key),
                Request::Link { secret, leg } if leg == LegId::FIRST => {
                    assert_eq!(secret, SECRET);
                    self.relay.begin_set();
                }
                Request::Link { leg, .. } => {
                    let (_, mut alone) = self.alone.take().unwrap();
                    let circuit = alone.take_leg().unwrap();
                    assert_eq!(self.relay.join(circuit, leg), Some(leg));
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn run_until(&mut self, done: impl Fn(&Self) -> bool) {
        let limit = self.ms + 20_000;
        while !done(self) {
            self.step();
            assert!(self.ms < limit, "what the test waits for does not happen");
        }
    }

    /// Moves bytes both ways through one stream. Gives the bytes as they were read.
    fn transfer(
        &mut self,
        [here, there]: [StreamKey; 2],
        bytes: [&[u8]; 2],
        mut each: impl FnMut(&mut Self),
    ) -> [Vec<u8>; 2] {
        let (mut sent, mut read) = ([0, 0], [Vec::new(), Vec::new()]);
        let limit = self.ms + 60_000;
        while read[0].len() < bytes[0].len() || read[1].len() < bytes[1].len() {
            exchange(&mut self.client, here, bytes[0], &mut sent[0], &mut read[1]);
            exchange(&mut self.relay, there, bytes[1], &mut sent[1], &mut read[0]);
            each(self);
            self.step();
            assert!(self.ms < limit, "no byte moves any more: {sent:?}");
        }
        read
    }
}

fn bytes(seed: u8, len: usize) -> Vec<u8> {
    (0..len)
        .map(|n| (n as u8).wrapping_mul(31).wrapping_add(seed) ^ (n >> 8) as u8)
        .collect()
}

#[test]
fn two_legs_carry_what_one_could_not() {
    let data = bytes(1, 2 << 20);
    let took = |join: bool| {
        let (mut world, here, there, leg) = World::joined([20, 30]);
        if !join {
            world.client.lose_leg(leg);
            world.relay.lose_leg(leg);
        }
        let begun = world.ms;
        let read = world.transfer([here, there], [&[], &data], |_| {});
        assert!(read[1] == data);
        assert!(!join || world.ways.values().all(|way| way.carried > 300));
        world.ms - begun
    };
    let (one, two) = (took(false), took(true));
    assert!(two * 10 < one * 7, "{one} ms by one, {two} ms by both");
}

#[test]
fn what_is_small_goes_by_the_shorter_way() {
    for delays in [[5, 40], [40, 5]] {
        let (mut world, here, there, leg) = World::joined(delays);
        for n in 0..60 {
            if n == 20 {
                // By now both ends have measured both ways.
                world.ways.values_mut().for_each(|way| way.carried = 0);
            }
            let read = world.transfer([here, there], [&bytes(n, 50), &bytes(n, 900)], |_| {});
            assert!(read == [bytes(n, 50), bytes(n, 900)]);
        }
        let (first, second) = (world.ways[&LegId::FIRST].carried, world.ways[&leg].carried);
        let (short, long) = match delays[0] < delays[1] {
            true => (first, second),
            false => (second, first),
        };
        assert!(
            short > 10 * long.max(1),
            "{short} by the short way, {long} by the long one"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_lost_leg_costs_no_byte(
        delays in [1..60u64, 1..60u64],
        sizes in [0..600_000usize, 0..600_000usize],
        at in 0..400u64,
        first in any::<bool>(),
        tells in any::<bool>(),
        comes_back in any::<bool>(),
    ) {
        let (mut world, here, there, leg) = World::joined(delays);
        let lost = if first { LegId::FIRST } else { leg };
        let data = [bytes(1, sizes[0]), bytes(2, sizes[1])];
        let begun = world.ms;
        let read = world.transfer([here, there], [&data[0], &data[1]], |world| {
            if world.ms == begun + at {
                world.ways.remove(&lost);
                world.client.lose_leg(lost);
                if tells {
                    world.relay.lose_leg(lost);
                }
            }
            if comes_back && world.ms == begun + at + 200 {
                world.join(7);
            }
        });
        prop_assert!(read == data);
        prop_assert!(!world.client.is_lost() && !world.relay.is_lost());
        // Nothing is kept for longer than it is needed. Applications still hold some streams, which have places in
        // tables.
        world.client.lose();
        world.relay.lose();
        let streams = world.client.streams.len() + world.relay.streams.len();
        prop_assert_eq!(world.budget.used(), streams * STREAM_BYTES);
    }
}

#[test]
fn a_leg_that_swallows_is_found_out_by_asking() {
    let (mut world, here, there, leg) = World::joined([5, 6]);
    let data = bytes(4, 900_000);
    let (mut asked, begun) = (false, world.ms);
    let read = world.transfer([here, there], [&[], &data], |world| {
        if world.ms == begun + 20 {
            world.ways.get_mut(&LegId::FIRST).unwrap().dead = true;
        }
        if world.ms > begun + 1_000 && !asked {
            // The leg that swallows owes an answer; the leg that works owes nothing that it would not bring.
            assert_eq!(world.client.owes(LegId::FIRST), Owes::Answer);
            assert!(world.client.ask(LegId::FIRST) && world.client.ask(leg));
            asked = true;
        }
        if world.ms == begun + 2_000 {
            world.client.lose_leg(LegId::FIRST);
        }
    });
    assert!(asked && read[1] == data && !world.relay.has_leg(LegId::FIRST));
}

#[test]
fn asking_is_answered_whatever_the_windows_say() {
    let (mut world, _, _, leg) = World::joined([2, 3]);
    for id in [LegId::FIRST, leg] {
        let before = world.ways[&id].carried;
        assert!(world.client.ask(id));
        (0..8).for_each(|_| world.step());
        assert_eq!(world.ways[&id].carried, before + 2, "ASK and SEEN");
    }
}

#[test]
fn both_lost_is_all_lost() {
    let (mut world, here, _, leg) = World::joined([2, 3]);
    world.client.lose_leg(leg);
    assert!(!world.client.is_lost());
    world.client.lose_leg(LegId::FIRST);
    assert!(world.client.is_lost());
    let mut cx = Context::from_waker(Waker::noop());
    assert_eq!(
        world
            .client
            .poll_read(here, &mut cx, Instant::now(), &mut [0; 9]),
        Poll::Ready(Err(StreamError::CircuitLost))
    );
}

#[test]
fn a_circuit_with_a_past_joins_nothing_and_a_set_has_two_legs() {
    let (mut world, ..) = World::joined([2, 3]);
    let mut used = mux::<Opener>(&world.budget);
    used.open(StreamTarget::Directory).unwrap();
    assert!(used.take_leg().is_none());
    let third = mux::<Opener>(&world.budget).take_leg().unwrap();
    assert!(world.client.join(third, SECRET).is_none());
    let third = mux::<Acceptor>(&world.budget).take_leg().unwrap();
    assert!(world.relay.join(third, LegId(9)).is_none());
}

type Say = fn(&mut Packer<'_>);

fn said(say: Say) -> Payload {
    let mut payload = [0; PAYLOAD_LEN];
    let mut packer = Packer::new(&mut payload);
    say(&mut packer);
    packer.finish();
    payload
}

fn data(packer: &mut Packer<'_>) {
    let id = StreamId::new(1).unwrap();
    packer.stream(id, StreamMessage::Data(b"x")).unwrap();
}

fn leg_message(packer: &mut Packer<'_>, message: LegMessage<'_>) {
    packer.leg(&message).unwrap();
}

#[test]
fn what_breaks_the_rules_of_legs_ends_both() {
    let link: Say = |p| {
        leg_message(
            p,
            LegMessage::Link {
                secret: &SECRET,
                leg: 7,
            },
        );
    };
    let cases: [(Say, Violation); 8] = [
        (link, Violation::Linking),
        (
            |p| leg_message(p, LegMessage::Unlink(0)),
            Violation::Linking,
        ),
        (
            |p| leg_message(p, LegMessage::Switch(3)),
            Violation::Linking,
        ),
        (
            |p| leg_message(p, LegMessage::Seen(999)),
            Violation::Numbers,
        ),
        (
            |p| {
                leg_message(p, LegMessage::Switch(1 << 40));
                data(p);
            },
            Violation::Numbers,
        ),
        (
            |p| {
                leg_message(p, LegMessage::Switch(3));
                leg_message(p, LegMessage::Switch(4));
                data(p);
            },
            Violation::Linking,
        ),
        (
            |p| {
                data(p);
                leg_message(p, LegMessage::Switch(3));
            },
            Violation::Linking,
        ),
        (
            |p| {
                p.extend(&RelayId([1; 32]), &[0; CREATE_LEN]).unwrap();
            },
            Violation::Extend,
        ),
    ];
    for (n, (say, violation)) in cases.into_iter().enumerate() {
        let (mut world, ..) = World::joined([2, 3]);
        let now = world.now();
        let read = world.relay.on_outward(LegId::FIRST, now, &said(say));
        assert_eq!(read.err(), Some(violation), "case {n}");
        assert!(world.relay.is_lost(), "case {n}");
    }
    let inward: [Say; 2] = [
        |p| leg_message(p, LegMessage::Linked),
        |p| leg_message(p, LegMessage::Seen(999)),
    ];
    for say in inward {
        let (mut world, ..) = World::joined([2, 3]);
        let now = world.now();
        assert!(
            world
                .client
                .on_inward(LegId::FIRST, now, &said(say))
                .is_err()
        );
        assert!(world.client.is_lost());
        let mut plain = World::new(1);
        assert!(
            plain
                .client
                .on_inward(LegId::FIRST, now, &said(say))
                .is_err()
        );
    }
}

/// The relay's words on a stream that both ends have ended go by the slow leg, and its SEEN of the client's END by the
/// quick one.
#[test]
fn an_id_lingers_until_what_the_slow_leg_brings_is_read() {
    let (mut world, here, _, slow) = World::joined([5, 50]);
    world.client.shutdown(here);
    (0..100).for_each(|_| world.step());
    let id = StreamId::new(1).unwrap();
    let (now, next) = (world.now(), world.client.set.as_ref().unwrap().read().0);
    let said = |number: u64, message: StreamMessage<'_>| {
        let mut payload = [0; PAYLOAD_LEN];
        let mut packer = Packer::new(&mut payload);
        packer.leg(&LegMessage::Switch(number)).unwrap();
        packer.stream(id, message).unwrap();
        packer.finish();
        payload
    };
    let done = said(next, StreamMessage::End(EndReason::Done));
    let grant = said(next + 1, StreamMessage::Window(9));
    let reset = said(next + 2, StreamMessage::End(EndReason::Reset));
    let all = world.client.set.as_ref().unwrap().next_out();
    let mut seen = [0; PAYLOAD_LEN];
    let mut packer = Packer::new(&mut seen);
    packer.leg(&LegMessage::Seen(all)).unwrap();
    packer.finish();
    for (leg, payload) in [
        (LegId::FIRST, &done),
        (LegId::FIRST, &seen),
        (slow, &grant),
        (slow, &reset),
    ] {
        assert_eq!(world.client.on_inward(leg, now, payload), Ok(None));
    }
    assert!(world.client.lingering.contains_key(&id));
    let again = said(next + 3, StreamMessage::Window(9));
    let read = world.client.on_inward(slow, now, &again);
    assert_eq!(read, Err(Violation::OutOfOrder), "who gave up says no more");
}

/// Nothing of old can come any more when 2,048 payloads have been read since the END was seen.
#[test]
fn an_id_of_a_set_is_free_again() {
    let (mut world, here, there, _) = World::joined([5, 50]);
    let other = world.client.open(StreamTarget::Directory).unwrap();
    world.run_until(|world| world.begun.len() == 2);
    let other_there = world.begun[1];
    world.relay.accept(other_there);
    world.client.shutdown(here);
    world.relay.shutdown(there);
    (0..200).for_each(|_| world.step());
    assert_eq!(
        (world.client.lingering.len(), world.relay.lingering.len()),
        (1, 1)
    );
    let data = bytes(1, 5 << 20);
    let read = world.transfer([other, other_there], [&data, &data], |_| {});
    assert!(read[0] == data && read[1] == data);
    assert_eq!(
        (world.client.lingering.len(), world.relay.lingering.len()),
        (0, 0)
    );
}
