#![allow(clippy::unwrap_used, clippy::expect_used)]

use core::task::Waker;

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::cell::PAYLOAD_LEN;
use crate::cell::codec::CREATE_LEN;
use crate::cell::message::{Packer, StreamMessage};
use crate::flow::FixedWindow;
use crate::ids::RelayId;
use crate::limits::QUESTIONS_PER_CIRCUIT;
use crate::stream::end::{BeginStep, Beginning};
use crate::stream::{Acceptor, Opener, Request, StreamTarget, Violation};

#[path = "mux_confirm_tests.rs"]
mod confirm;
#[path = "mux_credit_tests.rs"]
mod credit;
#[path = "mux_legs_tests.rs"]
mod legs;
#[path = "mux_table_tests.rs"]
mod table;

const WINDOW: u32 = 8 * 1024;

fn mux<E: StreamEnd>() -> Mux<E> {
    Mux::new(MuxConfig {
        control: Box::new(FixedWindow(32)),
        mark_interval_cells: 8,
        stream_window_bytes: WINDOW,
        budget: Budget::unlimited(),
    })
}

/// Both ends of a circuit. Only payloads join them.
struct Pair {
    client: Mux<Opener>,
    relay: Mux<Acceptor>,
    rng: StdRng,
    now: Instant,
    begun: Vec<(StreamKey, StreamTarget)>,
}

impl Pair {
    fn new() -> Self {
        Self {
            client: mux(),
            relay: mux(),
            rng: StdRng::seed_from_u64(7),
            now: Instant::now(),
            begun: Vec::new(),
        }
    }

    /// Carries one payload from the client, if it has one.
    fn outward(&mut self) -> bool {
        let mut payload = [0; PAYLOAD_LEN];
        if !self
            .client
            .fill(LegId::FIRST, self.now, &mut self.rng, &mut payload)
        {
            return false;
        }
        for request in self
            .relay
            .on_outward(LegId::FIRST, self.now, &payload)
            .expect("legal")
        {
            match request {
                Request::Begin(key, target) => self.begun.push((key, target)),
                other => panic!("nobody asked for {other:?}"),
            }
        }
        true
    }

    fn inward(&mut self) -> bool {
        let mut payload = [0; PAYLOAD_LEN];
        let any = self
            .relay
            .fill(LegId::FIRST, self.now, &mut self.rng, &mut payload);
        if any {
            assert_eq!(
                self.client.on_inward(LegId::FIRST, self.now, &payload),
                Ok(None)
            );
        }
        any
    }

    /// Carries payloads until neither end has anything to say.
    fn settle(&mut self) {
        while self.outward() | self.inward() {}
    }

    fn open(&mut self) -> (StreamKey, StreamKey) {
        let key = self
            .client
            .open(StreamTarget::name("example.org", 80).unwrap())
            .unwrap();
        self.settle();
        let (there, _) = self.begun.pop().unwrap();
        self.relay.accept(there);
        self.settle();
        (key, there)
    }
}

fn read(mux: &mut Mux<impl StreamEnd>, key: StreamKey) -> Poll<Result<usize, StreamError>> {
    let mut out = [0; 4096];
    mux.poll_read(
        key,
        &mut Context::from_waker(Waker::noop()),
        Instant::now(),
        &mut out,
    )
}

fn read_all(
    mux: &mut Mux<impl StreamEnd>,
    key: StreamKey,
    into: &mut Vec<u8>,
) -> Poll<Result<usize, StreamError>> {
    let mut out = [0; 4096];
    loop {
        match mux.poll_read(
            key,
            &mut Context::from_waker(Waker::noop()),
            Instant::now(),
            &mut out,
        ) {
            Poll::Ready(Ok(n)) if n > 0 => into.extend(&out[..n]),
            other => return other,
        }
    }
}

fn write(
    mux: &mut Mux<impl StreamEnd>,
    key: StreamKey,
    bytes: &[u8],
) -> Poll<Result<usize, StreamError>> {
    mux.poll_write(
        key,
        &mut Context::from_waker(Waker::noop()),
        Instant::now(),
        bytes,
    )
}

fn is_open(mux: &mut Mux<Opener>, key: StreamKey) -> Poll<Result<(), StreamError>> {
    mux.poll_open(key, &mut Context::from_waker(Waker::noop()))
}

#[test]
fn optimistic_data_travels_with_begin() {
    let mut pair = Pair::new();
    let key = pair
        .client
        .open(StreamTarget::name("example.org", 80).unwrap())
        .unwrap();
    assert_eq!(write(&mut pair.client, key, b"GET /"), Poll::Ready(Ok(5)));
    assert!(pair.outward());
    assert!(!pair.outward(), "one payload holds both");
    let (there, target) = pair.begun.pop().unwrap();
    assert_eq!(target, StreamTarget::name("example.org", 80).unwrap());
    let mut got = Vec::new();
    assert!(read_all(&mut pair.relay, there, &mut got).is_pending());
    assert_eq!(got, b"GET /");
    assert!(is_open(&mut pair.client, key).is_pending());
    pair.relay.accept(there);
    pair.settle();
    assert_eq!(is_open(&mut pair.client, key), Poll::Ready(Ok(())));
}

#[test]
fn half_close_leaves_the_other_direction_open() {
    let mut pair = Pair::new();
    let (here, there) = pair.open();
    pair.client.shutdown(here);
    pair.settle();
    assert_eq!(read(&mut pair.relay, there), Poll::Ready(Ok(0)));
    assert_eq!(write(&mut pair.relay, there, b"answer"), Poll::Ready(Ok(6)));
    pair.relay.shutdown(there);
    pair.settle();
    let mut got = Vec::new();
    assert_eq!(
        read_all(&mut pair.client, here, &mut got),
        Poll::Ready(Ok(0))
    );
    assert_eq!(got, b"answer");
    assert_eq!(
        (pair.client.open_streams(), pair.relay.open_streams()),
        (0, 0)
    );
}

#[test]
fn a_refused_stream_fails_with_the_reason_and_frees_its_id() {
    let mut pair = Pair::new();
    let key = pair
        .client
        .open(StreamTarget::name("example.org", 80).unwrap())
        .unwrap();
    pair.settle();
    let (there, _) = pair.begun.pop().unwrap();
    pair.relay.refuse(there, EndReason::Policy);
    pair.settle();
    let refused = StreamError::Ended(EndReason::Policy);
    assert_eq!(is_open(&mut pair.client, key), Poll::Ready(Err(refused)));
    assert_eq!(read(&mut pair.client, key), Poll::Ready(Err(refused)));
    pair.client.release(key);
    assert_eq!(
        (pair.client.open_streams(), pair.relay.open_streams()),
        (0, 0)
    );
    assert!(pair.relay.streams.is_empty() && pair.client.streams.is_empty());
}

#[test]
fn a_dropped_stream_is_an_error_at_the_other_end_never_an_end_of_file() {
    let mut pair = Pair::new();
    let (here, there) = pair.open();
    assert!(write(&mut pair.client, here, b"half of it").is_ready());
    pair.settle();
    pair.client.release(here);
    pair.settle();
    let mut got = Vec::new();
    let end = read_all(&mut pair.relay, there, &mut got);
    assert_eq!(end, Poll::Ready(Err(StreamError::Ended(EndReason::Reset))));
    assert!(pair.client.streams.is_empty());
    pair.relay.release(there);
    pair.settle();
    assert!(pair.relay.streams.is_empty());
}

#[test]
fn a_lost_circuit_fails_every_stream_after_what_was_received() {
    let mut pair = Pair::new();
    let (here, there) = pair.open();
    assert!(write(&mut pair.relay, there, b"so far").is_ready());
    pair.settle();
    pair.client.lose();
    let mut got = Vec::new();
    let end = read_all(&mut pair.client, here, &mut got);
    assert_eq!(
        (end, &got[..]),
        (Poll::Ready(Err(StreamError::CircuitLost)), &b"so far"[..])
    );
    assert!(pair.client.open(StreamTarget::Directory).is_none());
    pair.client.release(here);
    assert!(pair.client.streams.is_empty());
}

/// Every message in every state of a stream, at both ends. A message that is not in the list of the legal ones destroys
/// the circuit (S14).
#[test]
fn messages_are_legal_in_their_states_only() {
    type Say = fn(&mut Packer<'_>, StreamId);
    let says: [(&str, Say); 5] = [
        ("connected", |p, id| p.connected(id).unwrap()),
        ("data", |p, id| {
            p.stream(id, StreamMessage::Data(b"x")).unwrap()
        }),
        ("done", |p, id| {
            p.stream(id, StreamMessage::End(EndReason::Done)).unwrap()
        }),
        ("reset", |p, id| {
            p.stream(id, StreamMessage::End(EndReason::Reset)).unwrap()
        }),
        ("window", |p, id| {
            p.stream(id, StreamMessage::Window(1)).unwrap()
        }),
    ];
    type Set = fn(&mut Stream<Beginning>);
    let states: [(&str, Set, [bool; 5]); 5] = [
        (
            "waiting",
            |s| s.opening.step = BeginStep::Waiting,
            [true, false, false, true, true],
        ),
        ("open", |_| {}, [false, true, true, true, true]),
        (
            "complete",
            |s| s.receive.state = Received::Complete,
            [false, false, false, true, true],
        ),
        (
            "failed",
            |s| s.receive.state = Received::Failed(StreamError::CircuitLost),
            [false, false, false, false, false],
        ),
        (
            "ended",
            |s| s.send.state = Sending::Ended,
            [false, true, true, true, true],
        ),
    ];
    for (state, set, legal) in states {
        for ((say, pack), legal) in says.iter().zip(legal) {
            let mut pair = Pair::new();
            let (here, _) = pair.open();
            let stream = pair.client.streams.get_mut(&here).unwrap();
            stream.send.credit -= 1;
            set(stream);
            let id = stream.id;
            let mut payload = [0; PAYLOAD_LEN];
            let mut packer = Packer::new(&mut payload);
            pack(&mut packer, id);
            packer.finish();
            let answer = pair.client.on_inward(LegId::FIRST, pair.now, &payload);
            assert_eq!(answer.is_ok(), legal, "{say} while {state}: {answer:?}");
        }
    }
    let mut pair = Pair::new();
    for (say, pack) in says {
        let mut payload = [0; PAYLOAD_LEN];
        let mut packer = Packer::new(&mut payload);
        pack(&mut packer, StreamId::new(99).unwrap());
        packer.finish();
        let answer = pair.client.on_inward(LegId::FIRST, pair.now, &payload);
        assert_eq!(answer, Err(Violation::NoSuchStream), "{say} on no stream");
    }
}

#[test]
fn begin_on_an_id_in_use_is_a_violation() {
    let mut pair = Pair::new();
    pair.open();
    let mut payload = [0; PAYLOAD_LEN];
    let mut packer = Packer::new(&mut payload);
    packer.begin_dir(StreamId::new(1).unwrap()).unwrap();
    packer.finish();
    assert_eq!(
        pair.relay.on_outward(LegId::FIRST, pair.now, &payload),
        Err(Violation::OutOfOrder)
    );
}

#[test]
fn extend_comes_alone_and_without_streams() {
    let extend = |p: &mut Packer<'_>| p.extend(&RelayId([1; 32]), &[2; CREATE_LEN]).unwrap();
    let mut payload = [0; PAYLOAD_LEN];
    let mut packer = Packer::new(&mut payload);
    extend(&mut packer);
    packer.finish();
    let mut pair = Pair::new();
    let requests = pair
        .relay
        .on_outward(LegId::FIRST, pair.now, &payload)
        .unwrap();
    assert!(matches!(requests[..], [Request::Extend { .. }]));
    pair.open();
    assert_eq!(
        pair.relay.on_outward(LegId::FIRST, pair.now, &payload),
        Err(Violation::Extend)
    );
    let mut packer = Packer::new(&mut payload);
    extend(&mut packer);
    packer.begin_dir(StreamId::new(9).unwrap()).unwrap();
    packer.finish();
    assert_eq!(
        Pair::new()
            .relay
            .on_outward(LegId::FIRST, pair.now, &payload),
        Err(Violation::Extend)
    );
}

#[test]
fn streams_are_bounded() {
    let mut pair = Pair::new();
    let mut opened = 0;
    while pair.client.open(StreamTarget::Directory).is_some() {
        opened += 1;
    }
    assert_eq!(opened, STREAMS_PER_CIRCUIT);
}

/// 5.5: a relay may take fewer than a client opens, and refuses the rest.
#[test]
fn a_network_may_bound_streams_further() {
    let mut pair = Pair::new();
    pair.relay.bound_streams(3);
    let opened: Vec<_> = (0..5)
        .map(|_| pair.client.open(StreamTarget::Directory).unwrap())
        .collect();
    pair.settle();
    assert_eq!(pair.relay.open_streams(), 3);
    let refused = opened.iter().filter(|key| {
        let ended = Err(StreamError::Ended(EndReason::Resource));
        read(&mut pair.client, **key) == Poll::Ready(ended)
    });
    assert_eq!(refused.count(), 2);
    assert_eq!(pair.relay.take_refused(), 2);
    assert_eq!(pair.relay.take_refused(), 0);
}

/// 7.15: also a circuit that can take no further stream is asked, again and again, and the refusal is an answer.
#[test]
fn a_full_circuit_is_asked_whether_it_is_there() {
    let mut pair = Pair::new();
    while pair.client.open(StreamTarget::Directory).is_some() {}
    pair.settle();
    for _ in 0..3 * STREAMS_PER_CIRCUIT {
        let question = pair.client.open_question().unwrap();
        assert!(pair.outward() && pair.inward());
        assert_eq!(
            read(&mut pair.client, question),
            Poll::Ready(Err(StreamError::Ended(EndReason::Resource)))
        );
        pair.client.release(question);
        pair.settle();
        assert_eq!(pair.client.open_streams(), STREAMS_PER_CIRCUIT);
    }
    // Questions are bounded too.
    let asked = (0..STREAMS_PER_CIRCUIT).map_while(|_| pair.client.open_question());
    assert_eq!(asked.count(), QUESTIONS_PER_CIRCUIT);
    pair.client.lose();
    assert!(pair.client.open_question().is_none());
}

#[derive(Clone, Debug)]
enum Step {
    Open,
    Write {
        client: bool,
        which: usize,
        len: usize,
    },
    Read {
        client: bool,
        which: usize,
    },
    Shutdown {
        client: bool,
        which: usize,
    },
    Release {
        client: bool,
        which: usize,
    },
    Outward,
    Inward,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => Just(Step::Open),
        6 => (any::<bool>(), 0..8usize, 1..9000usize)
            .prop_map(|(client, which, len)| Step::Write { client, which, len }),
        6 => (any::<bool>(), 0..8usize).prop_map(|(client, which)| Step::Read { client, which }),
        1 => (any::<bool>(), 0..8usize)
            .prop_map(|(client, which)| Step::Shutdown { client, which }),
        1 => (any::<bool>(), 0..8usize).prop_map(|(client, which)| Step::Release { client, which }),
        8 => Just(Step::Outward),
        8 => Just(Step::Inward),
    ]
}

/// What an application at either end does.
fn act(mux: &mut Mux<impl StreamEnd>, keys: &mut Vec<StreamKey>, step: &Step) {
    match *step {
        Step::Write { which, len, .. } => {
            if let Some(&key) = keys.get(which) {
                let _ = write(mux, key, &vec![1; len]);
            }
        }
        Step::Read { which, .. } => {
            if let Some(&key) = keys.get(which) {
                let _ = read(mux, key);
            }
        }
        Step::Shutdown { which, .. } => {
            if let Some(&key) = keys.get(which) {
                mux.shutdown(key);
            }
        }
        Step::Release { which, .. } => {
            if which < keys.len() {
                mux.release(keys.remove(which));
            }
        }
        Step::Open | Step::Outward | Step::Inward => {}
    }
}

proptest! {
    /// Whatever applications do and however payloads interleave, two honest ends never find each other at fault, bytes
    /// arrive in order, and nothing is left when all is said.
    #[test]
    fn two_honest_ends_agree(steps in proptest::collection::vec(step(), 1..300)) {
        let mut pair = Pair::new();
        let (mut here, mut there) = (Vec::new(), Vec::new());
        for step in steps {
            match step {
                Step::Open => here.extend(pair.client.open(StreamTarget::Directory)),
                Step::Write { client, .. }
                | Step::Read { client, .. }
                | Step::Shutdown { client, .. }
                | Step::Release { client, .. } => {
                    if client {
                        act(&mut pair.client, &mut here, &step);
                    } else {
                        act(&mut pair.relay, &mut there, &step);
                    }
                }
                Step::Outward => drop(pair.outward()),
                Step::Inward => drop(pair.inward()),
            }
            for (key, _) in core::mem::take(&mut pair.begun) {
                pair.relay.accept(key);
                there.push(key);
            }
        }
        here.into_iter().for_each(|key| pair.client.release(key));
        pair.settle();
        there.extend(core::mem::take(&mut pair.begun).into_iter().map(|(key, _)| key));
        there.into_iter().for_each(|key| pair.relay.release(key));
        pair.settle();
        prop_assert!(pair.client.streams.is_empty(), "{:?}", pair.client.streams);
        prop_assert!(pair.relay.streams.is_empty(), "{:?}", pair.relay.streams);
        prop_assert!(pair.client.ids.is_empty() && pair.relay.ids.is_empty());
    }

    #[test]
    fn bytes_arrive_whole_and_in_order(data in proptest::collection::vec(any::<u8>(), 0..60_000)) {
        let mut pair = Pair::new();
        let (here, there) = pair.open();
        let (mut left, mut got) = (&data[..], Vec::new());
        loop {
            if !left.is_empty() && let Poll::Ready(Ok(n)) = write(&mut pair.relay, there, left) {
                left = &left[n..];
                if left.is_empty() {
                    pair.relay.shutdown(there);
                }
            }
            if data.is_empty() {
                pair.relay.shutdown(there);
            }
            pair.settle();
            if let Poll::Ready(end) = read_all(&mut pair.client, here, &mut got) {
                prop_assert_eq!(end, Ok(0));
                break;
            }
        }
        prop_assert_eq!(got, data);
    }
}
