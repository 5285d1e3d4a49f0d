#![allow(clippy::unwrap_used)]

use cepa_common::cell::PAYLOAD_LEN;
use cepa_common::cell::message::{LegMessage, Packer, SECRET_LEN, StreamMessage};
use cepa_common::flow::FixedWindow;
use cepa_common::ids::StreamId;
use cepa_common::net::circuit_io::StreamIo;
use cepa_common::stream::{
    Acceptor, LegId, Mux, MuxConfig, Request, StreamEnd, StreamError, StreamKey, StreamTarget,
};
use tokio::io::AsyncReadExt;

use super::*;
use crate::events::ClientEvent;

/// First credit of a stream (bytes).
const CREDIT: u32 = 1 << 20;

fn mux<E: StreamEnd>(budget: &Arc<Budget>) -> Mux<E> {
    Mux::new(MuxConfig {
        control: Box::new(FixedWindow(1 << 14)),
        mark_interval_cells: 8,
        stream_window_bytes: CREDIT,
        budget: budget.clone(),
    })
}

/// A client's circuit and the exit at its end. Only payloads join them.
struct Pair {
    client: Arc<Streams<Opener>>,
    exit: Mux<Acceptor>,
    begun: Vec<StreamKey>,
}

impl Pair {
    fn new(memory: &MemoryLimit) -> Self {
        let client = Streams::new(mux(memory.budget()));
        memory.add(&client);
        Self {
            client,
            exit: mux(&Budget::unlimited()),
            begun: Vec::new(),
        }
    }

    /// Carries what both ends have to say, until neither has anything.
    fn carry(&mut self) {
        let (leg, now, mut payload) = (LegId::FIRST, steady::now(), [0; PAYLOAD_LEN]);
        loop {
            let mut any = false;
            while self
                .client
                .mux()
                .fill(leg, now, &mut rand::rng(), &mut payload)
            {
                any = true;
                for request in self.exit.on_outward(leg, now, &payload).unwrap() {
                    let Request::Begin(key, _) = request else {
                        panic!("streams are begun, and nothing else is asked");
                    };
                    self.exit.accept(key);
                    self.begun.push(key);
                }
            }
            while self.exit.fill(leg, now, &mut rand::rng(), &mut payload) {
                any = true;
                self.client.mux().on_inward(leg, now, &payload).unwrap();
            }
            if !any {
                return;
            }
        }
    }

    fn open(&mut self) -> StreamIo<Opener> {
        let target = StreamTarget::name("example.com", 80).unwrap();
        let stream = self.client.open(target).unwrap();
        self.carry();
        stream
    }

    /// The destination sends as much as the credit of each stream allows, and nobody reads.
    fn flood(&mut self, bytes: usize) {
        for key in self.begun.clone() {
            self.exit.push(key, steady::now(), &vec![1; bytes]);
        }
        self.carry();
    }
}

#[tokio::test(start_paused = true)]
async fn streams_that_nobody_reads_stay_within_the_limit_and_their_memory_returns() {
    let limit = 64 << 20;
    let memory = MemoryLimit::new(limit);
    let reporter = Reporter::default();
    let mut events = reporter.subscribe();
    let watch = keep_within_budget(memory.clone(), reporter);
    let mut watch = Box::pin(watch);
    let mut circuits: Vec<_> = (0..3).map(|_| Pair::new(&memory)).collect();
    // One stream reads all that comes; it is on a circuit with a hundred that read nothing.
    let mut reading = circuits[0].open();
    let mut streams = Vec::new();
    for circuit in &mut circuits {
        streams.extend((0..100).map(|_| circuit.open()));
    }
    let at_rest = memory.budget().used();
    let mut most = 0;
    for _ in 0..24 {
        for circuit in &mut circuits {
            circuit.flood(64 * 1024);
            let mut bytes = vec![0; 1 << 20];
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            let mut into = tokio::io::ReadBuf::new(&mut bytes);
            let _ = tokio::io::AsyncRead::poll_read(
                std::pin::Pin::new(&mut reading),
                &mut context,
                &mut into,
            );
            circuit.carry();
            // The watch has its turn, and bytes that wait grow old.
            let _ = tokio::time::timeout(Duration::from_secs(1), &mut watch).await;
            most = most.max(memory.budget().used());
        }
    }
    // What comes between two looks of the watch is on top: here 100 streams of 64 KiB, with the last chunk of each.
    assert!(most < limit + 100 * 80 * 1024, "{most} bytes were held");
    let mut bytes = [0; 1];
    let mut shed = 0;
    for stream in &mut streams {
        let read = tokio::time::timeout(Duration::ZERO, stream.read(&mut bytes)).await;
        if let Ok(Err(error)) = read {
            let cause = error.into_inner().unwrap();
            assert_eq!(cause.downcast_ref(), Some(&StreamError::Memory));
            shed += 1;
        }
    }
    assert!(shed >= 200, "{shed} streams were ended");
    assert!(!circuits[0].client.mux().is_lost(), "circuits go on");
    let read = tokio::time::timeout(Duration::ZERO, reading.read(&mut bytes)).await;
    assert!(!matches!(read, Ok(Err(_))), "who reads keeps its stream");
    let told = loop {
        if let ClientEvent::MemoryExceeded { used, ended } = events.next().await.unwrap() {
            break (used, ended);
        }
    };
    assert!(told.0 > limit && told.1 > 0);
    drop((streams, reading));
    circuits.iter_mut().for_each(Pair::carry);
    // The queues of three circuits are left, with what they keep for the next cells.
    assert!(memory.budget().used() < at_rest / 50, "all is given back");
}

#[test]
fn the_largest_of_the_stalled_ends_first() {
    let memory = MemoryLimit::new(1 << 20);
    let mut circuits = [(); 3].map(|()| Pair::new(&memory));
    let streams: Vec<_> = circuits.iter_mut().map(Pair::open).collect();
    for (circuit, kib) in circuits.iter_mut().zip([300, 500, 400]) {
        circuit.flood(kib * 1024);
    }
    assert!(memory.budget().is_exceeded());
    assert_eq!(memory.relieve(steady::now() + STALLED), 1);
    let holds = |circuit: &Pair| circuit.client.mux().holders().count();
    assert_eq!(circuits.each_ref().map(holds), [1, 0, 1]);
    drop(streams);
}

/// An exit that numbers what it says and leaves the first number out makes a client keep all the rest, which belongs to
/// no stream.
#[test]
fn a_circuit_that_holds_what_came_early_ends_when_no_stream_holds_anything() {
    let memory = MemoryLimit::new(1 << 20);
    let mut circuits = [(); 2].map(|()| Pair::new(&memory));
    let streams: Vec<_> = circuits.iter_mut().map(Pair::open).collect();
    let (hostile, now) = (&circuits[0].client, steady::now());
    assert!(hostile.mux().link([1; SECRET_LEN]));
    let mut payload = [0; PAYLOAD_LEN];
    assert!(
        hostile
            .mux()
            .fill(LegId::FIRST, now, &mut rand::rng(), &mut payload),
        "LINK is on its way"
    );
    let say = |pack: &dyn Fn(&mut Packer<'_>)| {
        let mut payload = [0; PAYLOAD_LEN];
        let mut packer = Packer::new(&mut payload);
        pack(&mut packer);
        packer.finish();
        hostile
            .mux()
            .on_inward(LegId::FIRST, now, &payload)
            .unwrap();
    };
    say(&|packer| packer.leg(&LegMessage::Linked).unwrap());
    let mut number = 0;
    while !memory.budget().is_exceeded() {
        number += 1;
        say(&|packer| {
            packer.leg(&LegMessage::Switch(number)).unwrap();
            let stream = StreamId::new(1).unwrap();
            packer.stream(stream, StreamMessage::Data(b"x")).unwrap();
        });
    }
    assert_eq!(hostile.mux().holders().count(), 0);
    assert_eq!(memory.relieve(now), 1, "its one stream");
    assert!(hostile.mux().is_lost() && !circuits[1].client.mux().is_lost());
    assert!(!memory.budget().is_above_low_water());
    drop(streams);
}

#[test]
fn what_still_comes_for_a_stream_that_was_ended_is_dropped() {
    let memory = MemoryLimit::new(1 << 20);
    let mut circuit = Pair::new(&memory);
    let (ended, other) = (circuit.open(), circuit.open());
    circuit.flood(10_000);
    let key = circuit
        .client
        .mux()
        .holders()
        .map(|one| one.key)
        .min()
        .unwrap();
    // More is on its way while this end gives the stream up.
    circuit
        .exit
        .push(circuit.begun[0], steady::now(), &[1; 20_000]);
    circuit.client.mux().shed(key);
    circuit.carry();
    assert!(
        circuit.exit.is_given_up(circuit.begun[0]),
        "the exit hears of it"
    );
    assert!(!circuit.exit.is_given_up(circuit.begun[1]));
    assert_eq!(circuit.client.mux().holders().count(), 1);
    assert_eq!(circuit.client.mux().open_streams(), 1);
    drop((ended, other));
}
