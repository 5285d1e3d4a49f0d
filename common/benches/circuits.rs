//! Benchmarks of a circuit's end: streams into payloads and out of them, and congestion control.
//!
//! The two ends of a circuit are joined directly: there is no layer, no link and no task. Each figure is of the one
//! step that its benchmark is named for. What has to be done before that step is done before the clock starts.
#![allow(clippy::disallowed_methods, reason = "a bench measures the real world")]
#![allow(missing_docs, clippy::unwrap_used)]

use core::task::{Context, Poll, Waker};
use core::time::Duration;
use std::cell::RefCell;
use std::time::Instant;

use cepa_common::budget::Budget;
use cepa_common::cell::{PAYLOAD_LEN, Payload};
use cepa_common::flow::vegas::{Vegas, VegasParams};
use cepa_common::flow::window::SendWindow;
use cepa_common::flow::{Ack, CongestionControl, FixedWindow};
use cepa_common::stream::{
    Acceptor, LegId, Mux, MuxConfig, Opener, Request, StreamEnd, StreamKey, StreamTarget,
};
use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use rand::SeedableRng;
use rand::rngs::StdRng;

fn main() {
    divan::main();
}

/// Numbers of streams on the circuit.
const STREAMS: [usize; 2] = [1, 64];
/// Bytes that are written, carried and read at once: more than sixty cells, less than a stream's buffer.
const BATCH: usize = 120_000;

fn mux<E: StreamEnd>() -> Mux<E> {
    Mux::new(MuxConfig {
        control: Box::new(FixedWindow(4_096)),
        mark_interval_cells: 32,
        stream_window_bytes: 1 << 20,
        budget: Budget::unlimited(),
    })
}

/// Both ends of a circuit with open streams. The relay's end sends, as in a download.
struct Pair {
    client: Mux<Opener>,
    relay: Mux<Acceptor>,
    /// Each stream's key at the client and at the relay.
    streams: Vec<(StreamKey, StreamKey)>,
    rng: StdRng,
    now: Instant,
    bytes: Vec<u8>,
}

impl Pair {
    fn new(streams: usize) -> Self {
        let mut pair = Self {
            client: mux(),
            relay: mux(),
            streams: Vec::new(),
            rng: StdRng::seed_from_u64(1),
            now: Instant::now(),
            bytes: vec![7; BATCH],
        };
        for _ in 0..streams {
            let target = StreamTarget::name("example.org", 80).unwrap();
            let key = pair.client.open(target).unwrap();
            let mut begun = pair.outward();
            let Some(Request::Begin(there, _)) = begun.pop() else {
                unreachable!("BEGIN goes first");
            };
            pair.relay.accept(there);
            pair.streams.push((key, there));
            pair.inward();
        }
        pair
    }

    fn payload() -> Payload {
        [0; PAYLOAD_LEN]
    }

    /// Carries everything that the client has to send to the relay.
    fn outward(&mut self) -> Vec<Request> {
        let (mut payload, mut requests) = (Self::payload(), Vec::new());
        while self
            .client
            .fill(LegId::FIRST, self.now, &mut self.rng, &mut payload)
        {
            requests.extend(
                self.relay
                    .on_outward(LegId::FIRST, self.now, &payload)
                    .unwrap(),
            );
        }
        requests
    }

    /// Carries everything that the relay has to send to the client.
    fn inward(&mut self) {
        let payloads = self.fill();
        self.receive(&payloads);
    }

    fn write(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        for bytes in self
            .bytes
            .chunks(BATCH / self.streams.len())
            .zip(&self.streams)
        {
            let (bytes, (_, there)) = bytes;
            assert!(
                self.relay
                    .poll_write(*there, &mut cx, self.now, bytes)
                    .is_ready()
            );
        }
    }

    fn fill(&mut self) -> Vec<Payload> {
        let mut payloads = Vec::with_capacity(80);
        loop {
            payloads.push(Self::payload());
            let last = payloads.last_mut().unwrap();
            if !self.relay.fill(LegId::FIRST, self.now, &mut self.rng, last) {
                payloads.pop();
                return payloads;
            }
        }
    }

    fn receive(&mut self, payloads: &[Payload]) {
        for payload in payloads {
            assert_eq!(
                self.client.on_inward(LegId::FIRST, self.now, payload),
                Ok(None)
            );
        }
    }

    fn read(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        for (key, _) in &self.streams {
            while let Poll::Ready(Ok(read)) =
                self.client
                    .poll_read(*key, &mut cx, self.now, &mut self.bytes)
            {
                assert!(read > 0);
            }
        }
    }

    /// Reads what has arrived, and lets both ends acknowledge and grant everything.
    fn settle(&mut self) {
        self.now += Duration::from_millis(10);
        self.inward();
        self.read();
        self.outward();
    }
}

/// Runs `step` on one pair again and again. `before` runs ahead of each step, while the clock is stopped.
fn run<I>(
    bencher: Bencher<'_, '_>,
    streams: usize,
    mut before: impl FnMut(&mut Pair) -> I,
    mut step: impl FnMut(&mut Pair, &I),
) {
    let pair = RefCell::new(Pair::new(streams));
    bencher
        .counter(BytesCount::new(BATCH / streams * streams))
        .with_inputs(|| before(&mut pair.borrow_mut()))
        .bench_local_refs(|input| step(&mut pair.borrow_mut(), input));
}

// A sample is one call. At the next call the pair is as the step before has left it, and all memory is warm.

#[divan::bench(args = STREAMS, sample_size = 1, sample_count = 1_000)]
fn mux_write(bencher: Bencher<'_, '_>, streams: usize) {
    run(bencher, streams, Pair::settle, |pair, ()| pair.write());
}

#[divan::bench(args = STREAMS, sample_size = 1, sample_count = 1_000)]
fn mux_fill(bencher: Bencher<'_, '_>, streams: usize) {
    // The payloads go into memory that is allocated already, so that only the machine is measured.
    let payloads = RefCell::new(vec![Pair::payload(); 80]);
    let before = |pair: &mut Pair| {
        pair.settle();
        pair.write();
    };
    let filled = RefCell::new(0);
    run(
        bencher,
        streams,
        |pair| {
            let count = core::mem::take(&mut *filled.borrow_mut());
            pair.receive(&payloads.borrow()[..count]);
            before(pair);
        },
        |pair, ()| {
            let count = &mut *filled.borrow_mut();
            for payload in payloads.borrow_mut().iter_mut() {
                if !pair
                    .relay
                    .fill(LegId::FIRST, pair.now, &mut pair.rng, payload)
                {
                    break;
                }
                *count += 1;
            }
        },
    );
}

#[divan::bench(args = STREAMS, sample_size = 1, sample_count = 1_000)]
fn mux_on_inward(bencher: Bencher<'_, '_>, streams: usize) {
    let before = |pair: &mut Pair| {
        pair.settle();
        pair.write();
        pair.fill()
    };
    run(bencher, streams, before, |pair, payloads| {
        pair.receive(payloads)
    });
}

#[divan::bench(args = STREAMS, sample_size = 1, sample_count = 1_000)]
fn mux_read(bencher: Bencher<'_, '_>, streams: usize) {
    let before = |pair: &mut Pair| {
        pair.settle();
        pair.write();
        pair.inward();
    };
    run(bencher, streams, before, |pair, ()| pair.read());
}

/// The direction away from the client: the relay's end takes what a client wrote.
#[divan::bench(sample_size = 1, sample_count = 1_000)]
fn mux_on_outward(bencher: Bencher<'_, '_>) {
    let before = |pair: &mut Pair| {
        let mut cx = Context::from_waker(Waker::noop());
        let (here, there) = pair.streams[0];
        while let Poll::Ready(Ok(read)) =
            pair.relay
                .poll_read(there, &mut cx, pair.now, &mut pair.bytes)
        {
            assert!(read > 0);
        }
        pair.now += Duration::from_millis(10);
        pair.inward();
        let written = pair.client.poll_write(here, &mut cx, pair.now, &pair.bytes);
        assert_eq!(written, Poll::Ready(Ok(BATCH)));
        let mut payloads = vec![Pair::payload()];
        while pair.client.fill(
            LegId::FIRST,
            pair.now,
            &mut pair.rng,
            payloads.last_mut().unwrap(),
        ) {
            payloads.push(Pair::payload());
        }
        payloads.pop();
        payloads
    };
    run(bencher, 1, before, |pair, payloads: &Vec<Payload>| {
        for payload in payloads {
            assert_eq!(
                pair.relay.on_outward(LegId::FIRST, pair.now, payload),
                Ok(Vec::new())
            );
        }
    });
}

/// One decision about the window's size, with round trips between 20 and 30 ms and an ACK every millisecond.
#[divan::bench]
fn vegas_on_ack(bencher: Bencher<'_, '_>) {
    let mut vegas = Vegas::new(VegasParams::default());
    let (mut now, mut count) = (Instant::now(), 0u64);
    bencher.counter(ItemsCount::new(1u32)).bench_local(|| {
        now += Duration::from_millis(1);
        count += 1;
        vegas.on_ack(Ack {
            now,
            rtt: Duration::from_micros(20_000 + count * 7_919 % 10_000),
            cells: 32,
            was_full: true,
        });
        vegas.window_cells()
    });
}

/// The window's work for 32 cells, with the mark in the last of them and its ACK; the count is in cells.
#[divan::bench]
fn window_of_32_cells(bencher: Bencher<'_, '_>) {
    let mut window = SendWindow::new(Box::new(Vegas::new(VegasParams::default())), 32);
    let mut now = Instant::now();
    bencher.counter(ItemsCount::new(32u32)).bench_local(|| {
        for _ in 0..32 {
            assert!(window.is_open());
            let mark = window.is_mark_due().then_some([7; 16]);
            window.on_sent(now, mark);
        }
        now += Duration::from_millis(20);
        window.on_ack(now, &[7; 16]).unwrap();
    });
}
