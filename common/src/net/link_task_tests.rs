#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicUsize, Ordering};

use ed25519_dalek::SigningKey;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::sync::mpsc::{Sender, channel};

use super::*;
use crate::budget::Budget;
use crate::cell::codec::{
    self, CREATE_LEN, CREATED_LEN, Cell, CircuitCommand, DestroyReason, Head,
};
use crate::ids::{CircId, HopIndex, NetworkId};
use crate::limits::PASSING_BYTES;
use crate::net::establish::{self, Accepted};
use crate::net::inbox::Inbox;
use crate::net::passage::Passage;
use crate::net::switch::{AcceptNone, CreateRefusal};
use crate::net::tls::Tls;
use crate::onion::{ClientLayers, DirectionKeys, HopKeys, RelayForward, Suite};
use crate::secret::Secret;

const NETWORK: NetworkId = NetworkId([7; 32]);

/// Takes every CREATE, tells the test of it, and answers none.
struct Tell(Sender<CircId>);

impl AcceptCircuits for Tell {
    fn on_create(&mut self, circ: CircId, _: &[u8; CREATE_LEN]) -> Result<(), CreateRefusal> {
        self.0.try_send(circ).unwrap();
        Ok(())
    }
}

async fn pair() -> (NewLink, NewLink) {
    let key = SigningKey::from_bytes(&[3; 32]);
    let (near, far) = (Tls::client(), Tls::relay(&key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addresses = [listener.local_addr().unwrap()];
    let key = key.verifying_key().to_bytes();
    let dial = establish::dial_link(&addresses, key, &near, NETWORK, 0);
    let accept = async {
        let (tcp, _) = listener.accept().await.unwrap();
        match establish::accept(tcp, &far, NETWORK, 0).await.unwrap() {
            Accepted::Link(link) => link,
            Accepted::Http(..) => panic!("it is a link"),
        }
    };
    let (near, far) = tokio::join!(dial, accept);
    (near.unwrap(), far)
}

#[tokio::test]
async fn a_link_is_closed_when_no_circuit_has_needed_it_for_long() {
    let (near, far) = pair().await;
    let budget = Budget::unlimited();
    let [own, other] = [(); 2].map(|()| Arc::new(LinkQueue::new(64, &budget)));
    let (tell, mut told) = channel(1);
    let far = tokio::spawn(run(far, other, Tell(tell), None));
    let near = tokio::spawn(run(near, own.clone(), AcceptNone, None));
    let inbox = Arc::new(Inbox::new(64, &budget));
    let message = Box::new([0; CREATE_LEN]);
    TableCommand::Open { inbox, message }.send(&own);
    let circ = told.recv().await.unwrap();

    tokio::time::pause();
    tokio::time::sleep(LINK_REST_ACCEPTED * 2).await;
    assert!(
        !near.is_finished() && !far.is_finished(),
        "a circuit is there"
    );
    let reason = DestroyReason::Finished;
    TableCommand::Close { circ, reason }.send(&own);
    let began = tokio::time::Instant::now();
    assert!(matches!(near.await.unwrap(), LinkEnd::Idle));
    assert!(began.elapsed() >= LINK_REST_DIALLED);
    assert!(matches!(far.await.unwrap(), LinkEnd::Closed));
}

/// A dialled link on which a test says what it wants.
struct Peer {
    io: TlsIo,
    plain: Vec<u8>,
}

impl Peer {
    async fn send(&mut self, cells: &[u8]) {
        self.io.write(cells).unwrap();
        self.io.flush().await.unwrap();
    }

    /// The next cell that comes.
    async fn next(&mut self) -> Cell {
        while self.plain.len() < CELL_LEN {
            self.io.ready().await.unwrap();
            assert_ne!(self.io.try_read(&mut self.plain).unwrap(), Some(0));
        }
        let cell = *self.plain.first_chunk().unwrap();
        self.plain.drain(..CELL_LEN);
        cell
    }
}

fn keys(seed: u8) -> HopKeys {
    let direction = |n| DirectionKeys {
        aead: Secret::new([seed + n; 32]),
        header: Secret::new([seed + n + 1; 32]),
        chain: Secret::new([seed + n + 2; 32]),
    };
    HopKeys {
        forward: direction(0),
        backward: direction(3),
    }
}

/// protocol.md 7.6: the layers go over to the tables before the client hears EXTENDED. So the client's first cell for
/// the next hop is opened and passed on, although the link's task finds the command and the cell in one turn.
#[tokio::test]
async fn a_cell_that_comes_with_the_hand_over_is_passed_on() {
    let (near, far) = pair().await;
    let budget = Budget::unlimited();
    let queue = Arc::new(LinkQueue::new(64, &budget));
    let (tell, mut told) = channel(1);
    let mut far = Box::pin(run(far, queue.clone(), Tell(tell), None));
    let mut near = Peer {
        io: near.io,
        plain: Vec::new(),
    };
    let circ = CircId::new(CircId::DIALLER_BIT | 1).unwrap();
    let talk = async {
        near.send(&codec::create(circ, &[0; CREATE_LEN])).await;
        assert_eq!(told.recv().await, Some(circ));
        TableCommand::Accept {
            circ,
            inbox: Arc::new(Inbox::new(64, &budget)),
            reply: Box::new([0; CREATED_LEN]),
        }
        .send(&queue);
        near.next().await
    };
    tokio::select! {
        _ = &mut far => unreachable!("the link lives"),
        created = talk => assert!(codec::head(&created).is_ok()),
    }

    // The link's task stands still meanwhile, as it does on a busy relay.
    let next = Arc::new(LinkQueue::new(64, &budget));
    let next_circ = CircId::new(77).unwrap();
    let passage = Passage::new(&budget, steady::now());
    TableCommand::PassOutward {
        circ,
        layer: Box::new(RelayForward::new(Suite::Aes256Gcm, keys(1).forward)),
        next: next.clone(),
        next_circ,
        passage: passage.clone(),
    }
    .send(&queue);
    assert_eq!((budget.used(), passage.last_used()), (PASSING_BYTES, None));
    let mut client = ClientLayers::new();
    client.push(Suite::Aes256Gcm, keys(1)).unwrap();
    client.push(Suite::Aes256Gcm, keys(50)).unwrap();
    let mut cell = [0; CELL_LEN];
    codec::write_circuit_head(&mut cell, circ, CircuitCommand::Relay);
    let body = codec::body_mut(&mut cell);
    client.seal(HopIndex(1), body, &mut rand::rng()).unwrap();
    near.send(&cell).await;
    // Lets the runtime see that the far socket can be read.
    for _ in 0..3 {
        tokio::task::yield_now().await;
    }
    let passed = async {
        while next.is_empty() {
            tokio::task::yield_now().await;
            assert!(queue.is_empty(), "the circuit was destroyed");
        }
    };
    tokio::select! {
        _ = &mut far => unreachable!("the link lives"),
        () = passed => {}
    }
    let mut out = Vec::new();
    next.take_cells(steady::now(), 8, &mut out);
    let head = codec::head(out.first_chunk().unwrap());
    assert_eq!(head, Ok(Head::Circuit(next_circ, CircuitCommand::Relay)));

    // The circuit is of use, and is charged until it has ended.
    assert!(passage.last_used().is_some());
    drop(passage);
    assert_eq!(budget.used(), PASSING_BYTES);
    let destroy = codec::destroy(circ, DestroyReason::Finished);
    near.send(&destroy).await;
    tokio::select! {
        _ = &mut far => unreachable!("the link lives"),
        answer = near.next() => assert_eq!(answer, destroy),
    }
    assert_eq!(budget.used(), 0);
}

/// Refuses every CREATE, and notes how many answers have ever waited.
struct Refuse(Arc<LinkQueue>, Arc<AtomicUsize>);

impl AcceptCircuits for Refuse {
    fn on_create(&mut self, _: CircId, _: &[u8; CREATE_LEN]) -> Result<(), CreateRefusal> {
        self.1.fetch_max(self.0.answers(), Ordering::Relaxed);
        Err(CreateRefusal::Destroy(DestroyReason::Resource))
    }
}

/// CREATE and DESTROY of a circuit, a number of times.
fn churn(circuits: core::ops::Range<u32>) -> Vec<u8> {
    let mut cells = Vec::new();
    for n in circuits {
        let circ = CircId::new(CircId::DIALLER_BIT | (n + 1)).unwrap();
        cells.extend(codec::create(circ, &[0; CREATE_LEN]));
        cells.extend(codec::destroy(circ, DestroyReason::Finished));
    }
    cells
}

/// S20, S21: a peer that does not read is not read from, and nothing piles up. When it reads again, it gets every
/// answer.
#[tokio::test]
async fn a_peer_that_asks_and_does_not_read_is_not_read_from() {
    const CIRCUITS: u32 = 12_000;
    let (near, far) = pair().await;
    let queue = Arc::new(LinkQueue::new(64, &Budget::unlimited()));
    let most = Arc::new(AtomicUsize::new(0));
    let refuse = Refuse(queue.clone(), most.clone());
    let far = tokio::spawn(run(far, queue.clone(), refuse, None));
    let mut near = near.io;
    tokio::time::pause();
    let mut asked = 0;
    let ask = async {
        while asked < CIRCUITS {
            near.flush().await.unwrap();
            near.write(&churn(asked..asked + 64)).unwrap();
            asked += 64;
        }
        near.flush().await.unwrap();
    };
    // Nothing moves any more, so virtual time passes at once.
    let all = tokio::time::timeout(ANSWERS_TIMEOUT / 2, ask).await;
    assert!(all.is_err(), "{asked} were read");
    let most = most.load(Ordering::Relaxed);
    assert!(most <= ANSWERS_PER_LINK + 256, "{most} answers waited");
    tokio::time::resume();

    let (mut plain, mut answers) = (Vec::new(), 0);
    while answers < asked as usize {
        near.ready().await.unwrap();
        near.try_flush().unwrap();
        assert_ne!(near.try_read(&mut plain).unwrap(), Some(0));
        answers += plain.len() / CELL_LEN;
        plain.drain(..plain.len() - plain.len() % CELL_LEN);
    }
    assert_eq!(answers, asked as usize);
    assert!(!far.is_finished());
}

#[tokio::test]
async fn a_peer_that_never_reads_its_answers_loses_its_link() {
    let (near, far) = pair().await;
    let queue = Arc::new(LinkQueue::new(64, &Budget::unlimited()));
    let refuse = Refuse(queue.clone(), Arc::default());
    let far = tokio::spawn(run(far, queue, refuse, None));
    let mut near = near.io;
    tokio::time::pause();
    let ask = async {
        for n in 0.. {
            near.flush().await?;
            near.write(&churn(64 * n..64 * (n + 1)))?;
        }
        io::Result::Ok(())
    };
    assert!(ask.await.is_err(), "the link is closed");
    assert!(matches!(far.await.unwrap(), LinkEnd::Unread));
}

/// All that comes until close_notify. An end without close_notify is an error.
async fn rest_of(peer: &mut Peer) -> Vec<(Head, Option<DestroyReason>)> {
    peer.io.put_plain_back(core::mem::take(&mut peer.plain));
    let mut bytes = Vec::new();
    peer.io.read_to_end(&mut bytes).await.unwrap();
    let cells = bytes.as_chunks::<CELL_LEN>().0.iter();
    let read = |cell: &Cell| {
        let head = codec::head(cell).unwrap();
        let is_destroy = matches!(head, Head::Circuit(_, CircuitCommand::Destroy));
        let reason = is_destroy.then(|| codec::parse_destroy(codec::body(cell)).unwrap());
        (head, reason)
    };
    cells.map(read).collect()
}

/// protocol.md 2.13: whoever stops says so for every circuit that has not ended, and says nothing else of it.
#[tokio::test]
async fn a_link_that_is_stopped_says_destroy_for_each_circuit() {
    let (near, far) = pair().await;
    let budget = Budget::unlimited();
    let queue = Arc::new(LinkQueue::new(64, &budget));
    let (tell, mut told) = channel(8);
    let far = tokio::spawn(run(far, queue.clone(), Tell(tell), None));
    let mut near = Peer {
        io: near.io,
        plain: Vec::new(),
    };
    let circ = |n| CircId::new(CircId::DIALLER_BIT | n).unwrap();
    let (answering, ending, ended) = (circ(1), circ(2), circ(3));
    for circ in [answering, ending, ended] {
        near.send(&codec::create(circ, &[0; CREATE_LEN])).await;
        told.recv().await.unwrap();
    }
    let inbox = || Arc::new(Inbox::new(64, &budget));
    let (inbox, own) = (inbox(), inbox());
    let reply = Box::new([0; CREATED_LEN]);
    let (circ, message) = (ending, Box::new([0; CREATE_LEN]));
    TableCommand::Accept { circ, inbox, reply }.send(&queue);
    near.next().await;
    let (circ, reason) = (ended, DestroyReason::Protocol);
    TableCommand::Close { circ, reason }.send(&queue);
    near.next().await;
    let inbox = own;
    TableCommand::Open { inbox, message }.send(&queue);
    let opened = near.next().await;
    let Ok(Head::Circuit(made, CircuitCommand::Create)) = codec::head(&opened) else {
        panic!("CREATE");
    };

    far.abort();
    let destroy = |circ, reason| (Head::Circuit(circ, CircuitCommand::Destroy), Some(reason));
    let shutdown = DestroyReason::Shutdown;
    let expected = [made, answering, ending].map(|circ| destroy(circ, shutdown));
    assert_eq!(rest_of(&mut near).await, expected);

    // A client says Finished, whatever happened.
    let (near, far) = pair().await;
    let queue = Arc::new(LinkQueue::new(64, &budget));
    let near = tokio::spawn(run(near, queue.clone(), AcceptNone, None));
    let mut far = Peer {
        io: far.io,
        plain: Vec::new(),
    };
    let (inbox, message) = (Arc::new(Inbox::new(64, &budget)), Box::new([0; CREATE_LEN]));
    TableCommand::Open { inbox, message }.send(&queue);
    far.next().await;
    near.abort();
    let finished = DestroyReason::Finished;
    let made = CircId::new(CircId::DIALLER_BIT | 1).unwrap();
    assert_eq!(rest_of(&mut far).await, [destroy(made, finished)]);
}
