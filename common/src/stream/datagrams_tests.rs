//! Two ends of a circuit or of two legs, with associations, and what breaks the rules.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use core::task::{Context, Poll, Waker};
use core::time::Duration;
use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::cell::PAYLOAD_LEN;
use crate::cell::Payload;
use crate::cell::message::{FlowMessage, LegMessage, Packer, SECRET_LEN};
use crate::flow::FixedWindow;
use crate::limits::{DATAGRAM_AGE, DATAGRAM_BYTES, DATAGRAM_QUEUE_BYTES, DATAGRAMS_QUEUED};
use crate::stream::{
    Acceptor, AssociationKey, LegId, Mux, MuxConfig, Opener, Owes, Request, StreamEnd, StreamKey,
    StreamTarget,
};

const SECRET: [u8; SECRET_LEN] = [5; SECRET_LEN];
const PEER: StreamHost = StreamHost::Ip(std::net::IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)));

fn mux<E: StreamEnd>(budget: &Arc<Budget>) -> Mux<E> {
    Mux::new(MuxConfig {
        control: Box::new(FixedWindow(32)),
        mark_interval_cells: 8,
        stream_window_bytes: 1 << 20,
        budget: budget.clone(),
    })
}

fn cx() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// Two ends, and what is on its way between them by each leg.
struct Pair {
    client: Mux<Opener>,
    relay: Mux<Acceptor>,
    /// The second circuit at the relay, until it joins.
    alone: Option<Mux<Acceptor>>,
    /// Payloads on their way, outward and inward, of each leg.
    ways: [(LegId, [VecDeque<Box<Payload>>; 2]); 2],
    begun: Vec<AssociationKey>,
    streams: Vec<StreamKey>,
    rng: StdRng,
    now: Instant,
    budget: Arc<Budget>,
}

impl Pair {
    fn new() -> Self {
        let budget = Budget::unlimited();
        Self {
            client: mux(&budget),
            relay: mux(&budget),
            alone: None,
            ways: [
                (LegId::FIRST, Default::default()),
                (LegId::from_wire(1), Default::default()),
            ],
            begun: Vec::new(),
            streams: Vec::new(),
            rng: StdRng::seed_from_u64(9),
            now: Instant::now(),
            budget,
        }
    }

    /// Two legs.
    fn linked() -> Self {
        Self::linked_after(Duration::ZERO)
    }

    /// Two legs, of which the second has this round trip.
    fn linked_after(round_trip: Duration) -> Self {
        let mut pair = Self::new();
        assert!(pair.client.link(SECRET));
        pair.settle();
        assert!(pair.client.is_linked());
        let leg = mux::<Opener>(&pair.budget).take_leg().unwrap();
        pair.client.join(leg, SECRET).unwrap();
        pair.alone = Some(mux(&pair.budget));
        pair.fill();
        pair.now += round_trip;
        pair.settle();
        assert_eq!(
            (pair.client.leg_ids().count(), pair.relay.leg_ids().count()),
            (2, 2)
        );
        pair
    }

    /// Packs all that either end has to say.
    fn fill(&mut self) -> bool {
        let (mut any, mut payload) = (false, [0; PAYLOAD_LEN]);
        for (leg, ways) in &mut self.ways {
            while self
                .client
                .fill(*leg, self.now, &mut self.rng, &mut payload)
            {
                ways[0].push_back(Box::new(payload));
                any = true;
            }
            while self.relay.fill(*leg, self.now, &mut self.rng, &mut payload) {
                ways[1].push_back(Box::new(payload));
                any = true;
            }
        }
        any
    }

    /// Delivers the next payload of a leg and direction, if there is one.
    fn deliver(&mut self, leg: usize, inward: bool) -> bool {
        let (id, ways) = &mut self.ways[leg];
        let Some(payload) = ways[usize::from(inward)].pop_front() else {
            return false;
        };
        if inward {
            let truncated = self.client.on_inward(*id, self.now, &payload);
            assert_eq!(truncated.expect("legal"), None);
            return true;
        }
        let alone = self.alone.as_mut().filter(|_| leg == 1);
        let requests = match alone {
            Some(alone) => alone.on_outward(LegId::FIRST, self.now, &payload),
            None => self.relay.on_outward(*id, self.now, &payload),
        };
        for request in requests.expect("legal") {
            match request {
                Request::Associate(key) => {
                    self.relay.bind(key);
                    self.begun.push(key);
                }
                Request::Begin(key, _) => {
                    self.relay.accept(key);
                    self.streams.push(key);
                }
                Request::Link { leg, .. } if leg == LegId::FIRST => self.relay.begin_set(),
                Request::Link { leg, .. } => {
                    let circuit = self.alone.take().unwrap().take_leg().unwrap();
                    assert_eq!(self.relay.join(circuit, leg), Some(leg));
                }
                Request::Extend { .. } => panic!("nobody asked for it"),
            }
        }
        true
    }

    /// Until nobody has anything to say.
    fn settle(&mut self) {
        for _ in 0..100_000 {
            let mut any = self.fill();
            for leg in 0..2 {
                while self.deliver(leg, false) {
                    any = true;
                }
                while self.deliver(leg, true) {
                    any = true;
                }
            }
            if !any {
                return;
            }
        }
        panic!("the ends speak for ever");
    }

    fn say(&mut self, key: AssociationKey, bytes: &[u8]) {
        let sent = self.client.send_datagram(key, self.now, &PEER, 53, bytes);
        sent.unwrap();
    }

    fn heard_at_relay(&mut self, key: AssociationKey) -> Vec<Vec<u8>> {
        let mut heard = Vec::new();
        while let Poll::Ready(Ok(datagram)) = self.relay.poll_datagram(key, &mut cx()) {
            assert_eq!((&datagram.host, datagram.port), (&PEER, 53));
            heard.push(datagram.bytes().to_vec());
        }
        heard
    }

    fn heard_at_client(&mut self, key: AssociationKey) -> Vec<Vec<u8>> {
        let mut heard = Vec::new();
        while let Poll::Ready(Ok(datagram)) = self.client.poll_datagram(key, &mut cx()) {
            heard.push(datagram.bytes().to_vec());
        }
        heard
    }
}

fn bytes(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|place| (place * 7 + seed) as u8).collect()
}

#[test]
fn a_datagram_that_is_too_long_is_dropped_and_nothing_else() {
    let mut pair = Pair::new();
    let key = pair.client.associate().unwrap();
    pair.settle();
    // Such a one comes by IPv6, whose packets have room for it, from whomever the exit hears.
    pair.say(key, &[0; DATAGRAM_BYTES + 20]);
    pair.say(key, b"behind it");
    pair.settle();
    assert_eq!(pair.heard_at_relay(pair.begun[0]), [b"behind it"]);
}

#[test]
fn datagrams_of_every_length_come_whole_both_ways() {
    for mut pair in [Pair::new(), Pair::linked()] {
        let key = pair.client.associate().unwrap();
        for (seed, len) in [
            0,
            1,
            1_200,
            1_472,
            9_000,
            DATAGRAM_BYTES,
            0,
            1_905,
            1_923,
            1_930,
        ]
        .into_iter()
        .enumerate()
        {
            pair.say(key, &bytes(seed, len));
            pair.settle();
            let there = pair.begun[0];
            assert_eq!(pair.heard_at_relay(there), [bytes(seed, len)], "{len}");
            let name = StreamHost::Ip([0x26; 16].into());
            let sent = pair
                .relay
                .send_datagram(there, pair.now, &name, 4_500, &bytes(seed, len));
            sent.unwrap();
            pair.settle();
            let Poll::Ready(Ok(back)) = pair.client.poll_datagram(key, &mut cx()) else {
                panic!("{len}")
            };
            assert_eq!((&back.host, back.port), (&name, 4_500));
            assert_eq!(back.bytes(), bytes(seed, len));
        }
        assert!(matches!(
            pair.client.poll_bound(key, &mut cx()),
            Poll::Ready(Ok(()))
        ));
        assert_eq!((pair.client.in_use(), pair.relay.in_use()), (1, 1));
    }
}

#[test]
fn several_go_in_a_payload_and_cuts_cost_little() {
    let mut pair = Pair::new();
    let key = pair.client.associate().unwrap();
    for _ in 0..100 {
        pair.say(key, &[7; 100]);
    }
    pair.fill();
    assert_eq!(pair.ways[0].1[0].len(), (100 * 112usize).div_ceil(1_928));
    pair.settle();
    assert_eq!(pair.heard_at_relay(pair.begun[0]).len(), 100);
    // What QUIC sends: 1.08 bytes of cells for each of its bytes.
    for _ in 0..60 {
        pair.say(key, &[7; 1_350]);
        pair.settle();
    }
    let before = pair.client.cells_moved();
    for _ in 0..6 {
        for _ in 0..40 {
            pair.say(key, &[7; 1_350]);
        }
        pair.fill();
        let cells = pair.ways[0].1[0].len();
        assert!((cells * 2_048) as f64 <= 1.11 * 40.0 * 1_350.0, "{cells}");
        pair.settle();
    }
    assert!(pair.client.cells_moved() > before);
}

#[test]
fn what_is_too_much_takes_the_oldest_and_what_is_too_old_goes() {
    let mut pair = Pair::new();
    let key = pair.client.associate().unwrap();
    pair.settle();
    for n in 0..200u8 {
        pair.say(key, &[n]);
    }
    assert!(pair.client.held_bytes() < 100 * 1_024);
    pair.settle();
    let heard = pair.heard_at_relay(pair.begun[0]);
    assert_eq!(heard, (72..200).map(|n| vec![n]).collect::<Vec<_>>());
    for n in 0..10u8 {
        pair.say(key, &[n; DATAGRAM_BYTES]);
    }
    assert!(pair.client.held_bytes() < DATAGRAM_QUEUE_BYTES + 2 * ASSOCIATION_BYTES);
    pair.now += DATAGRAM_AGE / 2;
    pair.say(key, b"young");
    pair.now += DATAGRAM_AGE / 2 + Duration::from_millis(1);
    pair.settle();
    assert_eq!(pair.heard_at_relay(pair.begun[0]), [b"young"]);
    // All associations of a circuit together have a bound too.
    let keys: Vec<_> = (0..20).map(|_| pair.client.associate().unwrap()).collect();
    for key in &keys {
        for _ in 0..3 {
            pair.say(*key, &[0; DATAGRAM_BYTES]);
        }
    }
    let most = DATAGRAM_QUEUES_BYTES + 30 * ASSOCIATION_BYTES;
    assert!(pair.client.held_bytes() < most);
    assert_eq!(
        pair.budget.used(),
        pair.client.held_bytes() + pair.relay.held_bytes()
    );
}

/// The longest datagram to the longest name is as much as parts may come to.
#[test]
fn the_longest_datagram_goes_to_the_longest_name() {
    let mut pair = Pair::new();
    let key = pair.client.associate().unwrap();
    let name = StreamHost::Name("a.".repeat(126) + "b");
    let longest = bytes(1, DATAGRAM_BYTES);
    let sent = pair
        .client
        .send_datagram(key, pair.now, &name, 53, &longest);
    sent.unwrap();
    pair.settle();
    let come = pair.relay.poll_datagram(pair.begun[0], &mut cx());
    let Poll::Ready(Ok(come)) = come else {
        panic!("{come:?}");
    };
    assert!(come.host == name && come.bytes() == longest);
}

/// What all associations of a circuit hold in one direction is bounded, and the one that holds most loses its oldest.
#[test]
fn who_holds_most_loses_the_oldest() {
    let mut pair = Pair::new();
    let keys: Vec<_> = (0..9).map(|_| pair.client.associate().unwrap()).collect();
    pair.say(keys[0], b"little");
    pair.settle();
    // At the relay, where nobody reads.
    let bound = DATAGRAM_QUEUES_BYTES + 10 * ASSOCIATION_BYTES;
    for n in 0..3 {
        for key in &keys[1..] {
            pair.say(*key, &bytes(n, 60_000));
            pair.settle();
        }
    }
    assert!(pair.relay.held_bytes() <= bound);
    let mut all = 0;
    for n in 1..9 {
        let heard = pair.heard_at_relay(pair.begun[n]);
        assert!(!heard.is_empty() && heard.last() == Some(&bytes(2, 60_000)));
        all += heard.len();
    }
    assert_eq!(all, DATAGRAM_QUEUES_BYTES / 60_000);
    assert_eq!(pair.heard_at_relay(pair.begun[0]), [b"little"]);
    // At the client, where nothing is sent.
    pair.say(keys[0], b"little");
    for key in &keys[1..] {
        for n in 0..3 {
            pair.say(*key, &bytes(n, 60_000));
        }
    }
    assert!(pair.client.held_bytes() <= bound);
    pair.settle();
    assert_eq!(pair.heard_at_relay(pair.begun[0]), [b"little"]);
}

#[test]
fn a_lost_circuit_begins_no_association() {
    let mut pair = Pair::new();
    assert!(pair.client.associate().is_some());
    pair.client.lose();
    assert!(pair.client.associate().is_none());
}

#[test]
fn an_association_begins_on_the_leg_with_the_shorter_round_trip() {
    let mut pair = Pair::linked_after(Duration::from_millis(80));
    let slow = pair.ways[1].0;
    for _ in 0..4 {
        let key = pair.client.associate().unwrap();
        assert!(key.leg() != slow);
        pair.settle();
    }
}

#[test]
fn whoever_reads_nothing_holds_a_bounded_number() {
    let mut pair = Pair::new();
    let key = pair.client.associate().unwrap();
    for n in 0..600u32 {
        pair.say(key, &n.to_be_bytes());
        pair.settle();
    }
    let heard = pair.heard_at_relay(pair.begun[0]);
    assert_eq!(heard.len(), DATAGRAMS_QUEUED);
    assert_eq!(heard.last().unwrap(), &599u32.to_be_bytes());
}

#[test]
fn an_association_ends_from_either_side_and_its_number_is_free() {
    let mut pair = Pair::new();
    for from_relay in [false, true, false] {
        let key = pair.client.associate().unwrap();
        pair.settle();
        let there = pair.begun.pop().unwrap();
        pair.say(key, b"last");
        if from_relay {
            pair.relay.unbind(there, EndReason::Timeout);
        } else {
            // What was sent before still goes out.
            pair.client.release_association(key);
        }
        pair.settle();
        match from_relay {
            true => assert!(matches!(
                pair.client.poll_datagram(key, &mut cx()),
                Poll::Ready(Err(StreamError::Ended(EndReason::Timeout)))
            )),
            false => {
                assert_eq!(pair.heard_at_relay(there), [b"last"]);
                assert!(matches!(
                    pair.relay.poll_datagram(there, &mut cx()),
                    Poll::Ready(Err(StreamError::Ended(EndReason::Done)))
                ));
            }
        }
        assert_eq!((pair.client.in_use(), pair.relay.in_use()), (0, 0));
        assert!(
            pair.client
                .send_datagram(key, pair.now, &PEER, 1, b"late")
                .is_err()
        );
        pair.client.release_association(key);
        pair.relay.release_association(there);
        assert_eq!(pair.client.held_bytes(), 0);
    }
    // One that was given up before its BEGIN_UDP left is never announced.
    let key = pair.client.associate().unwrap();
    pair.client.release_association(key);
    assert!(!pair.fill());
}

#[test]
fn no_more_than_64_are_in_use_and_refusals_are_bounded() {
    let mut pair = Pair::new();
    for _ in 0..64 {
        pair.client.associate().unwrap();
    }
    assert!(pair.client.associate().is_none());
    pair.settle();
    assert_eq!(pair.begun.len(), 64);
    let begin = |number: u16| {
        raw(&|p| {
            let id = AssociationId::new(number).unwrap();
            p.association(id, AssociationMessage::Begin).unwrap();
        })
    };
    for number in 1_000..1_064 {
        let heard = pair
            .relay
            .on_outward(LegId::FIRST, pair.now, &begin(number));
        assert_eq!(heard.unwrap(), []);
    }
    let mut said = [0; PAYLOAD_LEN];
    assert!(
        pair.relay
            .fill(LegId::FIRST, pair.now, &mut pair.rng, &mut said)
    );
    assert_eq!(said[..6], [26, 3, 232, 0, 1, EndReason::Resource.code()]);
    let one_more = pair.relay.on_outward(LegId::FIRST, pair.now, &begin(1_064));
    assert_eq!(one_more, Err(Violation::Credit));
    assert_eq!(pair.relay.take_refused(), 64);
}

#[test]
fn a_lost_leg_takes_its_associations_along_and_no_others() {
    let mut pair = Pair::linked();
    let key = pair.client.associate().unwrap();
    pair.say(key, b"one");
    pair.settle();
    let there = pair.begun[0];
    assert_eq!(pair.heard_at_relay(there), [b"one"]);
    let other = pair
        .ways
        .iter()
        .map(|way| way.0)
        .find(|leg| *leg != key.leg());
    pair.client.lose_leg(other.unwrap());
    pair.say(key, b"two");
    pair.settle();
    assert_eq!(pair.heard_at_relay(there), [b"two"]);
    let mut pair = Pair::linked();
    let key = pair.client.associate().unwrap();
    pair.settle();
    pair.client.lose_leg(key.leg());
    assert!(matches!(
        pair.client.poll_datagram(key, &mut cx()),
        Poll::Ready(Err(StreamError::CircuitLost))
    ));
    assert!(!pair.client.is_lost());
}

#[test]
fn an_association_is_a_use_of_its_circuit() {
    let mut pair = Pair::new();
    assert_eq!(pair.client.owes(LegId::FIRST), Owes::Nothing);
    let key = pair.client.associate().unwrap();
    assert_eq!(pair.client.owes(LegId::FIRST), Owes::Answer);
    pair.settle();
    assert_eq!(pair.client.owes(LegId::FIRST), Owes::Idle);
    let extend = raw(&|p| {
        let id = crate::ids::RelayId([1; 32]);
        p.extend(&id, &[0; crate::cell::codec::CREATE_LEN]).unwrap();
    });
    let extended = pair.relay.on_outward(LegId::FIRST, pair.now, &extend);
    assert_eq!(extended, Err(Violation::Extend));
    let mut other = Pair::new();
    let gone = other.client.associate().unwrap();
    other.settle();
    other.client.release_association(gone);
    other.settle();
    assert!(other.relay.take_leg().is_none(), "LINK on a used circuit");
    let _ = pair.client.poll_bound(key, &mut cx());
}

/// Streams of a download, and associations that flood: bytes of each that one payload after another carries.
#[test]
fn a_flood_leaves_a_stream_its_share_and_nothing_holds_it_up() {
    // By two legs, one of which has the flood, the stream has half of that one and all of the other.
    for (mut pair, expected) in [(Pair::new(), 0.5), (Pair::linked(), 0.75)] {
        let stream = pair.client.open(StreamTarget::Directory).unwrap();
        let flood = pair.client.associate().unwrap();
        pair.settle();
        let (mut carried, mut datagrams) = (0, 0);
        let there = pair.streams[0];
        for _ in 0..400 {
            for _ in 0..40 {
                pair.say(flood, &[1; 1_200]);
            }
            let chunk = [2; 64 * 1_024];
            let _ = pair.client.poll_write(stream, &mut cx(), pair.now, &chunk);
            // One window of cells.
            pair.fill();
            for leg in 0..2 {
                while pair.deliver(leg, false) {}
                while pair.deliver(leg, true) {}
            }
            let mut out = vec![0; 1 << 20];
            while let Poll::Ready(Ok(read)) =
                pair.relay.poll_read(there, &mut cx(), pair.now, &mut out)
            {
                carried += read;
            }
            datagrams += pair.heard_at_relay(pair.begun[0]).len() * 1_200;
            pair.now += Duration::from_millis(10);
        }
        let share = carried as f64 / (carried + datagrams) as f64;
        assert!(
            (expected - 0.06..expected + 0.06).contains(&share),
            "{carried} {datagrams}"
        );
    }
}

#[test]
fn an_association_that_says_little_waits_for_no_stream() {
    let mut pair = Pair::new();
    let stream = pair.client.open(StreamTarget::Directory).unwrap();
    let flood = pair.client.associate().unwrap();
    pair.settle();
    for _ in 0..30 {
        let chunk = [2; 64 * 1_024];
        let _ = pair.client.poll_write(stream, &mut cx(), pair.now, &chunk);
        (0..40).for_each(|_| pair.say(flood, &[1; 1_200]));
        pair.settle();
        let _ = pair.heard_at_relay(pair.begun[0]);
    }
    let call = pair.client.associate().unwrap();
    pair.settle();
    let there = pair.begun[1];
    for _ in 0..100 {
        let chunk = [2; 64 * 1_024];
        let _ = pair.client.poll_write(stream, &mut cx(), pair.now, &chunk);
        (0..100).for_each(|_| pair.say(flood, &[1; 1_200]));
        pair.say(call, &[3; 160]);
        pair.fill();
        let mut waited = 0;
        while pair.heard_at_relay(there).is_empty() {
            assert!(pair.deliver(0, false), "it came in this window");
            waited += 1;
        }
        assert!(waited <= 17 * 2, "{waited}");
        pair.settle();
    }
}

/// The payload that `write` packs.
fn raw(write: &dyn Fn(&mut Packer<'_>)) -> Payload {
    let mut payload = [0; PAYLOAD_LEN];
    let mut packer = Packer::new(&mut payload);
    write(&mut packer);
    packer.finish();
    payload
}

fn said(messages: &[(u16, AssociationMessage<'_>)]) -> Payload {
    raw(&|p| {
        for (id, message) in messages {
            p.association(AssociationId::new(*id).unwrap(), *message)
                .unwrap();
        }
    })
}

#[test]
fn each_cheat_of_a_client_destroys() {
    use AssociationMessage::{Begin, Datagram, Part, Unbind};
    let good: &[u8] = &[0, 53, 4, 192, 0, 2, 1, 9];
    let named: &[u8] = b"\0\x35\x01\x09a.example!";
    let full = [0u8; 1_923];
    let legal: [&[(u16, AssociationMessage<'_>)]; 5] = [
        &[(1, Begin), (1, Datagram(good)), (1, Datagram(named))],
        &[
            (1, Begin),
            (1, Part(&good[..1])),
            (1, Part(&good[1..5])),
            (1, Datagram(&good[5..])),
        ],
        // UNBIND ends an open cut, and something else may be said then.
        &[
            (1, Begin),
            (2, Begin),
            (1, Part(good)),
            (1, Unbind(EndReason::Done)),
            (2, Datagram(good)),
        ],
        // Between the parts of a datagram others may begin and end.
        &[
            (1, Begin),
            (1, Part(good)),
            (2, Begin),
            (2, Unbind(EndReason::Done)),
            (1, Datagram(good)),
        ],
        &[(65_535, Begin), (65_535, Datagram(&good[..7]))],
    ];
    for messages in legal {
        let mut pair = Pair::new();
        let heard = pair
            .relay
            .on_outward(LegId::FIRST, pair.now, &said(messages));
        assert!(heard.is_ok(), "{messages:?} {heard:?}");
    }
    let cheats: [&[(u16, AssociationMessage<'_>)]; 16] = [
        &[(1, Datagram(good))],
        &[(1, Part(good))],
        &[(1, Unbind(EndReason::Done))],
        &[(1, Begin), (1, Begin)],
        &[(1, Begin), (2, Datagram(good))],
        &[
            (1, Begin),
            (1, Unbind(EndReason::Done)),
            (1, Datagram(good)),
        ],
        &[
            (1, Begin),
            (1, Unbind(EndReason::Done)),
            (1, Unbind(EndReason::Done)),
        ],
        &[(1, Begin), (1, Unbind(EndReason::Done)), (1, Begin)],
        &[(1, Begin), (2, Begin), (1, Part(good)), (2, Datagram(good))],
        &[(1, Begin), (2, Begin), (1, Part(good)), (2, Part(good))],
        &[(1, Begin), (1, Datagram(&[0, 0, 4, 192, 0, 2, 1]))],
        &[(1, Begin), (1, Datagram(&[0, 53, 5, 192, 0, 2, 1]))],
        &[(1, Begin), (1, Datagram(&[0, 53, 4, 192, 0, 2]))],
        &[(1, Begin), (1, Datagram(b"\0\x35\x01\x09a..ample!"))],
        &[(1, Begin), (1, Datagram(b"\0\x35\x01\x09a.exa"))],
        &[(1, Begin), (1, Part(&good[..1])), (1, Datagram(&good[2..]))],
    ];
    for messages in cheats {
        let mut pair = Pair::new();
        let heard = pair
            .relay
            .on_outward(LegId::FIRST, pair.now, &said(messages));
        assert!(heard.is_err(), "{messages:?}");
    }
    // Parts that are too long together, and a datagram that is.
    let parts = |first: &[u8], count: usize, last: &[u8]| {
        let mut pair = Pair::new();
        let mut hear = |messages: &[(u16, AssociationMessage<'_>)]| {
            pair.relay
                .on_outward(LegId::FIRST, pair.now, &said(messages))
        };
        hear(&[(1, Begin), (1, Part(first))])?;
        for _ in 0..count {
            hear(&[(1, Part(&full))])?;
        }
        hear(&[(1, Datagram(last))])
    };
    let left = DATAGRAM_BYTES - 34 * 1_923;
    assert!(parts(&good[..7], 34, &full[..left]).is_ok());
    assert!(parts(&good[..7], 34, &full[..left + 1]).is_err());
    assert_eq!(parts(&good[..7], 40, &full[..1]), Err(Violation::Cut));
    // Not beside LINK, and not where numbers are.
    let mut pair = Pair::new();
    let beside = raw(&|p| {
        let secret = &SECRET;
        p.leg(&LegMessage::Link { secret, leg: 0 }).unwrap();
        p.association(AssociationId::new(1).unwrap(), Begin)
            .unwrap();
    });
    let heard = pair.relay.on_outward(LegId::FIRST, pair.now, &beside);
    assert_eq!(heard, Err(Violation::Linking));
    let mut pair = Pair::linked();
    let numbered = raw(&|p| {
        p.leg(&LegMessage::Switch(0)).unwrap();
        p.association(AssociationId::new(1).unwrap(), Begin)
            .unwrap();
    });
    let heard = pair.relay.on_outward(LegId::FIRST, pair.now, &numbered);
    assert_eq!(heard, Err(Violation::Linking));
    assert!(pair.relay.is_lost(), "of a set, both");
}

#[test]
fn each_cheat_of_an_exit_destroys() {
    use AssociationMessage::{Bound, Datagram, Part, Unbind};
    let good: &[u8] = &[0, 53, 4, 192, 0, 2, 1, 9];
    let hear = |messages: &[(u16, AssociationMessage<'_>)]| {
        let mut pair = Pair::new();
        pair.client.associate().unwrap();
        pair.fill();
        pair.client
            .on_inward(LegId::FIRST, pair.now, &said(messages))
    };
    let legal: [&[(u16, AssociationMessage<'_>)]; 3] = [
        &[
            (1, Bound),
            (1, Datagram(good)),
            (1, Unbind(EndReason::Timeout)),
        ],
        &[(1, Unbind(EndReason::Policy))],
        &[(1, Bound), (1, Part(good)), (1, Datagram(good))],
    ];
    for messages in legal {
        assert!(hear(messages).is_ok(), "{messages:?}");
    }
    let cheats: [&[(u16, AssociationMessage<'_>)]; 7] = [
        &[(1, Datagram(good))],
        &[(1, Part(good))],
        &[(2, Bound)],
        &[(1, Bound), (1, Bound)],
        &[(1, Unbind(EndReason::Policy)), (1, Bound)],
        &[(1, Bound), (1, Datagram(b"\0\x35\x01\x09a.example!"))],
        &[
            (1, Bound),
            (1, Unbind(EndReason::Done)),
            (1, Datagram(good)),
        ],
    ];
    for messages in cheats {
        assert!(hear(messages).is_err(), "{messages:?}");
    }
    // An association that was not announced.
    let mut pair = Pair::new();
    pair.client.associate().unwrap();
    let early = pair
        .client
        .on_inward(LegId::FIRST, pair.now, &said(&[(1, Bound)]));
    assert!(early.is_err());
}

#[test]
fn a_payload_of_datagrams_is_counted() {
    let mut pair = Pair::new();
    let key = pair.client.associate().unwrap();
    // Nothing is acknowledged: the window closes.
    (0..100).for_each(|_| pair.say(key, &[0; 1_800]));
    pair.fill();
    assert_eq!(pair.ways[0].1[0].len(), 32);
    let mark = raw(&|p| {
        p.flow(&FlowMessage::Mark([1; 16])).unwrap();
        let id = AssociationId::new(1).unwrap();
        p.association(id, AssociationMessage::Begin).unwrap();
    });
    let mut pair = Pair::new();
    assert!(pair.relay.on_outward(LegId::FIRST, pair.now, &mark).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever is sent, in whatever order payloads of two legs come, and also when a leg is lost: datagrams come whole
    /// and in order, or not at all, and streams lose nothing.
    #[test]
    fn datagrams_come_whole_or_not_at_all(
        is_set in any::<bool>(),
        steps in proptest::collection::vec((0..12u8, 0..4usize, 0..5_000usize), 1..160),
        lost in 0..200usize,
    ) {
        let mut pair = if is_set { Pair::linked() } else { Pair::new() };
        let stream = pair.client.open(StreamTarget::Directory).unwrap();
        let keys: Vec<_> = (0..4).map(|_| pair.client.associate().unwrap()).collect();
        pair.settle();
        let begun = pair.begun.clone();
        prop_assert_eq!(begun.len(), 4);
        let (mut sent, mut heard) = (vec![Vec::new(); 4], vec![Vec::new(); 4]);
        let (mut back, mut heard_back) = (vec![Vec::new(); 4], vec![Vec::new(); 4]);
        let (mut wrote, mut read) = (Vec::new(), Vec::new());
        for (at, (step, which, len)) in steps.into_iter().enumerate() {
            pair.now += Duration::from_millis(1);
            if at == lost && is_set {
                let gone = pair.ways[which % 2].0;
                pair.ways[which % 2].1 = Default::default();
                pair.client.lose_leg(gone);
                pair.relay.lose_leg(gone);
            }
            match step {
                0..=3 => {
                    let datagram = bytes(at, len * usize::from(step * step));
                    if pair.client.send_datagram(keys[which], pair.now, &PEER, 53, &datagram).is_ok() {
                        sent[which].push(datagram);
                    }
                }
                4 | 5 => {
                    let datagram = bytes(at, len);
                    if pair.relay.send_datagram(begun[which], pair.now, &PEER, 53, &datagram).is_ok() {
                        back[which].push(datagram);
                    }
                }
                6 => {
                    let chunk = bytes(at, len);
                    if let Poll::Ready(Ok(taken)) = pair.client.poll_write(stream, &mut cx(), pair.now, &chunk) {
                        wrote.extend_from_slice(&chunk[..taken]);
                    }
                }
                7 => {
                    pair.fill();
                }
                8 | 9 => {
                    for _ in 0..len % 40 {
                        pair.deliver(which % 2, which > 1);
                    }
                }
                _ => {
                    for n in 0..4 {
                        heard[n].extend(pair.heard_at_relay(begun[n]));
                        heard_back[n].extend(pair.heard_at_client(keys[n]));
                    }
                }
            }
        }
        pair.settle();
        for n in 0..4 {
            heard[n].extend(pair.heard_at_relay(begun[n]));
            heard_back[n].extend(pair.heard_at_client(keys[n]));
            for (sent, heard) in [(&sent[n], &heard[n]), (&back[n], &heard_back[n])] {
                let mut left = sent.iter();
                for datagram in heard {
                    prop_assert!(left.any(|one| one == datagram), "whole, in order, once");
                }
            }
        }
        let mut out = vec![0; 1 << 16];
        let there = pair.streams[0];
        while let Poll::Ready(Ok(got)) = pair.relay.poll_read(there, &mut cx(), pair.now, &mut out) {
            read.extend_from_slice(&out[..got]);
            pair.settle();
        }
        prop_assert_eq!(wrote, read);
    }
}

/// A stream's data beside datagrams of a set stands behind the number, and the copy has no datagram.
#[test]
fn copies_have_no_datagrams() {
    let mut pair = Pair::linked();
    let stream = pair.client.open(StreamTarget::Directory).unwrap();
    let key = pair.client.associate().unwrap();
    pair.settle();
    pair.say(key, &[1; 100]);
    let _ = pair
        .client
        .poll_write(stream, &mut cx(), pair.now, &[2; 100]);
    pair.fill();
    // The leg is lost with the payload on it.
    let at = pair
        .ways
        .iter()
        .position(|way| !way.1[0].is_empty())
        .unwrap();
    assert_eq!(pair.ways[at].0, key.leg());
    pair.ways[at].1 = Default::default();
    pair.client.lose_leg(key.leg());
    pair.relay.lose_leg(key.leg());
    pair.settle();
    let mut out = [0; 200];
    let there = pair.streams[0];
    let read = pair.relay.poll_read(there, &mut cx(), pair.now, &mut out);
    assert!(matches!(read, Poll::Ready(Ok(100))));
}
