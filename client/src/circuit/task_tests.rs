#![allow(clippy::unwrap_used)]

use cepa_common::budget::Budget;
use cepa_common::cell::{CELL_LEN, PAYLOAD_LEN};
use cepa_common::ids::CircId;
use cepa_common::limits::STREAMS_PER_CIRCUIT;
use cepa_common::net::circuit_io::Streams;
use cepa_common::net::inbox::Inbox;
use cepa_common::net::queue::LinkQueue;
use cepa_common::onion::{DirectionKeys, HopKeys, Opened, RelayBackward, RelayForward, Suite};
use cepa_common::secret::Secret;
use cepa_common::stream::{Acceptor, Request, StreamTarget};
use cepa_common::testkit::mux;

use super::*;

fn keys() -> HopKeys {
    let direction = |n| DirectionKeys {
        aead: Secret::new([n; 32]),
        header: Secret::new([n + 1; 32]),
        chain: Secret::new([n + 2; 32]),
    };
    HopKeys {
        forward: direction(1),
        backward: direction(4),
    }
}

/// The far end of a circuit of one hop, which connects every stream.
struct FarEnd {
    mux: Mux<Acceptor>,
    forward: RelayForward,
    backward: RelayBackward,
    link: Arc<LinkQueue>,
    inbox: Arc<Inbox>,
    circ: CircId,
}

impl FarEnd {
    /// Answers whatever comes, for ever.
    async fn answer(mut self) {
        loop {
            self.link.wait().await;
            self.hear();
            self.say();
        }
    }

    fn hear(&mut self) {
        let mut cells = Vec::new();
        loop {
            self.link.take_cells(steady::now(), 64, &mut cells);
            if cells.is_empty() {
                return;
            }
            for cell in cells.as_chunks_mut::<CELL_LEN>().0 {
                let body = codec::body_mut(cell);
                assert_eq!(self.forward.open(body), Ok(Opened::Ours));
                let payload = codec::payload(body);
                let asked = self.mux.on_outward(LegId::FIRST, steady::now(), payload);
                for request in asked.unwrap() {
                    if let Request::Begin(key, _) = request {
                        self.mux.accept(key);
                    }
                }
            }
            cells.clear();
        }
    }

    fn say(&mut self) {
        let mut cell = [0; CELL_LEN];
        loop {
            codec::write_circuit_head(&mut cell, self.circ, codec::CircuitCommand::Relay);
            let body = codec::body_mut(&mut cell);
            let mut payload = [0; PAYLOAD_LEN];
            if !self
                .mux
                .fill(LegId::FIRST, steady::now(), &mut rand::rng(), &mut payload)
            {
                return;
            }
            *codec::payload_mut(body) = payload;
            self.backward.speak(body).unwrap();
            self.inbox.push(&cell).unwrap();
        }
    }
}

/// A circuit of one hop, with the far end of it.
fn circuit() -> (CircuitTask, FarEnd) {
    let budget = Budget::unlimited();
    let circ = CircId::new(7).unwrap();
    let link = Arc::new(LinkQueue::new(4_000, &budget));
    let inbox = Arc::new(Inbox::new(4_000, &budget));
    let mut layers = ClientLayers::new();
    layers.push(Suite::Aes256Gcm, keys()).unwrap();
    let HopKeys { forward, backward } = keys();
    let far = FarEnd {
        mux: mux(&budget),
        forward: RelayForward::new(Suite::Aes256Gcm, forward),
        backward: RelayBackward::new(Suite::Aes256Gcm, backward),
        link: link.clone(),
        inbox: inbox.clone(),
        circ,
    };
    let task = CircuitTask {
        end: EndDriver {
            link,
            circ,
            inbox,
            streams: Streams::new(mux(&budget)),
            leg: LegId::FIRST,
            layers: LastHopLayers::new(layers).unwrap(),
        },
        rtt: Duration::from_millis(100),
        shared: CircuitInner::new(None),
    };
    (task, far)
}

/// 7.15: idle streams, as many as a circuit takes, outlive the questions whether their far end is there. When it is
/// not, they are told so.
#[tokio::test(start_paused = true)]
async fn a_circuit_full_of_idle_streams_is_asked_and_kept_until_its_far_end_is_gone() {
    let (task, far) = circuit();
    let streams = task.end.streams.clone();
    let mut held: Vec<_> = (0..STREAMS_PER_CIRCUIT)
        .map(|_| streams.open(StreamTarget::Directory).unwrap())
        .collect();
    let far = tokio::spawn(far.answer());
    let circuit = tokio::spawn(task.run());
    streams.notify();
    for stream in &mut held {
        stream.opened().await.unwrap();
    }
    assert!(!streams.mux().has_room());
    let moved = streams.mux().cells_moved();
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(!circuit.is_finished() && !streams.mux().is_lost());
    let asked = streams.mux().cells_moved() - moved;
    assert!((40..200).contains(&asked), "{asked} cells in ten minutes");

    far.abort();
    let silent = steady::now();
    let end = circuit.await.unwrap();
    assert!(matches!(end, CircuitEnd::Silent), "{end}");
    assert!(steady::since(silent) < Duration::from_secs(25));
}

/// 7.15: a client that cannot ask has no answer to miss.
#[tokio::test(start_paused = true)]
async fn a_question_that_cannot_be_asked_ends_no_circuit() {
    let (task, far) = circuit();
    let streams = task.end.streams.clone();
    let held: Vec<_> = (0..STREAMS_PER_CIRCUIT)
        .map(|_| streams.open(StreamTarget::Directory).unwrap())
        .collect();
    let _far = tokio::spawn(far.answer());
    let circuit = tokio::spawn(task.run());
    streams.notify();
    tokio::time::sleep(Duration::from_secs(5)).await;
    // All places for questions are taken too.
    while streams.mux().open_question().is_some() {}
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(!circuit.is_finished() && !streams.mux().is_lost());
    drop(held);
}
