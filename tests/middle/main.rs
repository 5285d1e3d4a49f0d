//! Tests of what a relay in the middle of a circuit sees, and of what a tapped wire shows.
//!
//! The test takes a relay's place: it kills the relay's process, listens at the relay's address with the relay's keys,
//! carries a circuit as the rules want it, and keeps every byte that it sees. Client and destination have addresses of
//! their own (127.0.0.77 and 127.0.0.88), so that the test can search for either.
#![allow(
    clippy::disallowed_methods,
    reason = "the test uses the real world: it stands outside of nodes"
)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::large_futures)]

mod relay;
#[path = "../support/mod.rs"]
mod support;
mod wire;

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cepa_common::cell::codec::{self, CREATE_LEN, Cell, CircuitCommand, payload, payload_mut};
use cepa_common::cell::message::{BeginHost, Inward, Packer, StreamMessage, Telescope, messages};
use cepa_common::cell::{CELL_LEN, HEADER_LEN, SLOT_LEN};
use cepa_common::dir::{Entry, NetworkFile};
use cepa_common::handshake::{
    ClientHandshake, ClientParams, HandshakeContext, OnionKeypair, OnionPublicKey,
};
use cepa_common::ids::{CircId, HopIndex, NetworkId, StreamId};
use cepa_common::net::directory::fetch_consensus;
use cepa_common::net::establish;
use cepa_common::net::tls::Tls;
use cepa_common::onion::ClientLayers;
use cepa_common::state::{KeyKind, Trust, load_key};
use cepa_common::world::Disk;
use ed25519_dalek::SigningKey;
use support::Testnet;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use relay::{Middle, Shape, View, contains, relay_cell};
use wire::{Link, Said, Tap, any_port, read, write};

const CLIENT: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 77);
const DESTINATION: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 88);
const QUESTION: &[u8] = b"a question that is nobody's business";
const ANSWER: &[u8] = b"an answer that is nobody's business";
/// Number of zeros that follow question and answer. Equal plaintexts are the hardest to tell apart.
const ZEROS: usize = 12_000;
/// The time within which a network on a busy machine builds the circuit.
const PATIENCE: Duration = Duration::from_secs(60);

/// A circuit by hand, which keeps the RELAY cells of its link.
struct Circuit {
    link: Link,
    circ: CircId,
    layers: ClientLayers,
    network: NetworkId,
    sent: Vec<Cell>,
    received: Vec<Cell>,
    /// The address that the first relay sees the client at.
    seen_at: Option<SocketAddr>,
}

fn begin_handshake(network: NetworkId, relay: &Entry) -> (ClientHandshake, Box<[u8; CREATE_LEN]>) {
    let context = HandshakeContext {
        network,
        relay: relay.identity,
        onion: OnionPublicKey {
            suite: relay.suite,
            key: relay.onion_key,
        },
    };
    let params = ClientParams::default();
    let (handshake, message) = ClientHandshake::start(&context, params, &mut rand::rng()).unwrap();
    (handshake, Box::new(message))
}

impl Circuit {
    /// Builds a circuit along `path`. `address` leads to its first relay. `None` if a relay cannot extend the circuit.
    async fn build(address: SocketAddr, path: &[&Entry], middle: &Middle) -> Option<Self> {
        let network = middle.network;
        let key = path[0].link_key();
        let link = establish::dial_link(&[address], key, &Tls::client(), network, 0).await;
        let link = link.ok()?;
        let mut circuit = Self {
            seen_at: link.hello.seen,
            link: Link::new(link),
            circ: CircId::new(CircId::DIALLER_BIT | 9).unwrap(),
            layers: ClientLayers::new(),
            network,
            sent: Vec::new(),
            received: Vec::new(),
        };
        for (index, relay) in path.iter().enumerate() {
            let (handshake, message) = begin_handshake(circuit.network, relay);
            if relay.identity == middle.entry.identity {
                *middle.expected.lock().unwrap() = Some(*message);
            }
            let reply = if index == 0 {
                write(&mut circuit.link.1, &codec::create(circuit.circ, &message)).await;
                let cell = read(&mut circuit.link.0).await?;
                *codec::parse_created(codec::body(&cell)).ok()?
            } else {
                let extend = |p: &mut Packer<'_>| p.extend(&relay.identity, &message).unwrap();
                circuit.say(extend).await;
                let cell = circuit.hear().await?;
                let said = messages::<Telescope<'_>>(payload(codec::body(&cell))).next();
                match said {
                    Some(Ok(Telescope::Extended(reply))) => *reply,
                    Some(Ok(Telescope::Truncated(_))) => return None,
                    other => panic!("{other:?}"),
                }
            };
            let (keys, _) = handshake.finish(&reply).unwrap();
            circuit.layers.push(relay.suite, keys).unwrap();
        }
        Some(circuit)
    }

    async fn say(&mut self, pack: impl FnOnce(&mut Packer<'_>)) {
        let mut cell = [0; CELL_LEN];
        codec::write_circuit_head(&mut cell, self.circ, CircuitCommand::Relay);
        let body = codec::body_mut(&mut cell);
        let mut packer = Packer::new(payload_mut(body));
        pack(&mut packer);
        packer.finish();
        let last = HopIndex(self.layers.len() as u8 - 1);
        self.layers.seal(last, body, &mut rand::rng()).unwrap();
        self.sent.push(cell);
        write(&mut self.link.1, &cell).await;
    }

    async fn hear(&mut self) -> Option<Cell> {
        let mut cell = relay_cell(&mut self.link.0, self.circ).await?;
        self.received.push(cell);
        self.layers.open(codec::body_mut(&mut cell)).unwrap();
        Some(cell)
    }

    /// Asks the destination a question and reads its answer to the end.
    async fn converse(&mut self, destination: SocketAddr) {
        let stream = StreamId::new(1).unwrap();
        let question = [QUESTION, &[0; ZEROS]].concat();
        let mut chunks = question.chunks(1800);
        let first = chunks.next().unwrap();
        let host = BeginHost::V4(DESTINATION.octets());
        self.say(|p| {
            p.begin(stream, host, destination.port()).unwrap();
            p.stream(stream, StreamMessage::Data(first)).unwrap();
        })
        .await;
        for chunk in chunks {
            self.say(|p| p.stream(stream, StreamMessage::Data(chunk)).unwrap())
                .await;
        }
        let mut answer: Vec<u8> = Vec::new();
        while answer.len() < ANSWER.len() + ZEROS {
            let cell = self.hear().await.expect("the circuit lives");
            for said in messages::<Inward<'_>>(payload(codec::body(&cell))) {
                match said.unwrap() {
                    Inward::Stream(_, StreamMessage::Data(data)) => answer.extend(data),
                    Inward::Stream(_, StreamMessage::End(reason)) => panic!("{reason:?}"),
                    _ => {}
                }
            }
        }
        assert!(answer == [ANSWER, &[0; ZEROS]].concat());
    }
}

/// The result of one circuit.
struct Outcome {
    view: View,
    circuit: Circuit,
    /// What went over the wires before the first relay, before the middle relay, and behind it.
    wires: [Vec<Said>; 3],
}

/// The network, and the relay whose place the test has taken.
struct Stage {
    testnet: Testnet,
    network: NetworkId,
    authorities: Vec<[u8; 32]>,
    relays: Vec<Entry>,
    destination: SocketAddr,
}

impl Stage {
    async fn set() -> Self {
        let start = || Testnet::start(&["--processes"]);
        let testnet = tokio::task::spawn_blocking(start).await.unwrap();
        let text = std::fs::read_to_string(testnet.network_file()).unwrap();
        let file = NetworkFile::parse(&text).unwrap();
        let authority = &file.authorities()[0];
        let (tls, key) = (Tls::client(), authority.identity.0);
        let io = establish::dial_http(&authority.addresses, key, &tls);
        let consensus = fetch_consensus(io.await.unwrap(), &file, None, PATIENCE).await;
        let relays = consensus.unwrap().expect("a consensus").entries().to_vec();
        Self {
            testnet,
            network: file.network_id(),
            authorities: file.authorities().iter().map(|a| a.identity.0).collect(),
            relays,
            destination: destination().await,
        }
    }

    fn relay(&self, name: &str) -> &Entry {
        let mut relays = self.relays.iter();
        relays.find(|relay| relay.nickname == name).unwrap()
    }

    /// Holds a conversation through the relays with these names, where `relay1` is the test itself.
    async fn act(&self, path: &[&str]) -> Outcome {
        let path: Vec<&Entry> = path.iter().map(|name| self.relay(name)).collect();
        let entry = self.relay("relay1");
        let place = path.iter().position(|r| r.identity == entry.identity);
        let next = path[place.unwrap() + 1];
        let behind = Tap::start(any_port().await, next.addresses[0], Ipv4Addr::LOCALHOST);
        let inside = any_port().await;
        let before = self.take_place(entry, inside.local_addr().unwrap()).await;
        let first = Tap::start(any_port().await, path[0].addresses[0], CLIENT);

        let keys = self.testnet.dir.path().join("nodes/relay1/state/keys");
        let load = |name: &str, kind| {
            load_key(&Disk::Real, &keys.join(name), kind, Trust::Everyone).unwrap()
        };
        let identity = load("identity", KeyKind::Identity);
        let identity = SigningKey::from_bytes(identity.expose());
        // Onion keys are replaced, so the test uses the one that the consensus lists (docs/protocol.md, 6.20).
        let named = std::fs::read_dir(&keys)
            .unwrap()
            .map(|file| file.unwrap().file_name());
        let named = named.filter_map(|name| name.into_string().ok());
        let onion =
            named.filter(|name| name.starts_with("onion-") && name.ends_with(entry.suite.name()));
        let onion = onion.map(|name| {
            OnionKeypair::from_bytes(entry.suite, &load(&name, KeyKind::Onion)).unwrap()
        });
        let onion = onion
            .into_iter()
            .find(|key| key.public().key == entry.onion_key)
            .unwrap();
        let middle = Arc::new(Middle {
            network: self.network,
            entry: entry.clone(),
            tls: Tls::relay(&identity).unwrap(),
            onion,
            next: (behind.address, next.link_key()),
            authorities: self.authorities.clone(),
            expected: Mutex::default(),
            view: Mutex::default(),
        });
        let listening = tokio::spawn(middle.clone().listen(inside));
        let started = Instant::now();
        // A relay may still hold a link to the killed process until it notices.
        let mut circuit = loop {
            *middle.view.lock().unwrap() = View::default();
            if let Some(circuit) = Circuit::build(first.address, &path, &middle).await {
                break circuit;
            }
            assert!(started.elapsed() < PATIENCE, "no circuit");
        };
        circuit.converse(self.destination).await;
        listening.abort();
        let view = std::mem::take(&mut *middle.view.lock().unwrap());
        Outcome {
            view,
            circuit,
            wires: [first, before, behind]
                .map(|tap| std::mem::take(&mut *tap.said.lock().unwrap())),
        }
    }

    /// Listens at the address of `relay` as soon as its process is gone.
    async fn take_place(&self, relay: &Entry, to: SocketAddr) -> Tap {
        let started = Instant::now();
        loop {
            match TcpListener::bind(relay.addresses[0]).await {
                Ok(listener) => return Tap::start(listener, to, Ipv4Addr::LOCALHOST),
                Err(error) => assert!(started.elapsed() < PATIENCE, "{error}"),
            }
            tokio::task::yield_now().await;
        }
    }
}

/// Starts a destination that reads a question and answers it.
async fn destination() -> SocketAddr {
    let listener = TcpListener::bind((DESTINATION, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut question = vec![0; QUESTION.len() + ZEROS];
            stream.read_exact(&mut question).await.unwrap();
            assert!(question.starts_with(QUESTION));
            let answer = [ANSWER, &[0; ZEROS]].concat();
            stream.write_all(&answer).await.unwrap();
            // The exit closes its direction itself.
            let _ = stream.read(&mut [0]).await;
        }
    });
    address
}

#[tokio::test]
async fn a_middle_relay_knows_neither_end_nor_its_place() {
    let stage = Stage::set().await;
    stage.testnet.kill("relay1");

    let second_of_three = stage.act(&["relay2", "relay1", "exit1"]).await;
    knows_neither_end(&second_of_three);
    no_bytes_are_alike(&second_of_three);
    wires_show_tls_alone(&second_of_three, stage.network);
    let third_of_four = stage.act(&["relay2", "relay3", "relay1", "exit1"]).await;
    knows_neither_end(&third_of_four);
    let second_of_four = stage.act(&["relay2", "relay1", "relay3", "exit1"]).await;
    knows_neither_end(&second_of_four);

    // Nothing shows how many relays come before the middle relay.
    assert_eq!(second_of_three.view.shapes, third_of_four.view.shapes);
    // The only sign of relays behind the middle relay is that one cell more goes by while each of them is added.
    let (three, four) = (&second_of_three.view.shapes, &second_of_four.view.shapes);
    assert_eq!(four.len(), three.len() + 1);
    assert_eq!(four[..3], three[..3]);
    assert_eq!(four[4..], three[3..]);

    let testnet = stage.testnet;
    tokio::task::spawn_blocking(move || assert!(testnet.stop().success()))
        .await
        .unwrap();
}

fn knows_neither_end(outcome: &Outcome) {
    let Outcome { view, circuit, .. } = outcome;
    // The first relay does see the client, so what the test searches for is really there.
    assert_eq!(circuit.seen_at.unwrap().ip(), IpAddr::V4(CLIENT));
    assert!(
        view.bytes.len() > 20,
        "the middle relay has carried the conversation"
    );
    for address in [CLIENT, DESTINATION] {
        assert!(!view.holds(&address.octets()), "{address}");
        assert!(!view.holds(address.to_string().as_bytes()), "{address}");
    }
    for text in [QUESTION, ANSWER] {
        assert!(!view.holds(text));
    }
    // The client's parameters are those of every client.
    assert_eq!(view.shapes[0], Shape::Create(ClientParams::default()));
    // One cell is for this relay, and only its first slot shows that. No slot says anything about other hops.
    let mut only_first = [false; HEADER_LEN / SLOT_LEN];
    only_first[0] = true;
    assert_eq!(view.shapes[1], Shape::Ours(only_first));
    for shape in &view.shapes[2..] {
        assert_eq!(*shape, Shape::Onward([false; HEADER_LEN / SLOT_LEN]));
    }
}

/// Checks that on every link of the circuit, in both directions, every cell has different bytes.
fn no_bytes_are_alike(outcome: &Outcome) {
    let [into, out, back_in, back_out] = &outcome.view.relayed;
    let wires = [
        &outcome.circuit.sent,
        into,
        out,
        back_in,
        back_out,
        &outcome.circuit.received,
    ];
    let mut blocks = HashSet::new();
    for (wire, cells) in wires.into_iter().enumerate() {
        assert!(cells.len() > 6, "wire {wire}");
        for cell in cells {
            for block in codec::body(cell).chunks_exact(16) {
                // The same sixteen random bytes do not come twice.
                assert!(blocks.insert(block.to_vec()), "wire {wire}: {block:?}");
            }
        }
    }
}

/// Checks that whoever taps a wire sees records of TLS 1.3, and nothing readable in them.
fn wires_show_tls_alone(outcome: &Outcome, network: NetworkId) {
    for said in &outcome.wires {
        for connection in said {
            // This is the extension of supported versions (RFC 8446, 4.2.1): TLS 1.3 is the only one offered, and the
            // one chosen.
            only_records(&connection[0], 1, &[0, 43, 0, 3, 2, 3, 4]);
            if !connection[1].is_empty() {
                only_records(&connection[1], 2, &[0, 43, 0, 2, 3, 4]);
            }
            for bytes in connection {
                for secret in [QUESTION, ANSWER, &network.0, &DESTINATION.octets()] {
                    assert!(!contains(bytes, secret));
                }
            }
        }
        // The wire has carried the conversation, which is larger than any handshake.
        assert!(said.iter().any(|c| c.iter().all(|s| s.len() > ZEROS)));
    }
}

/// Checks that there is one hello of the handshake type `kind` with `versions`, and then nothing in the clear.
fn only_records(mut bytes: &[u8], kind: u8, versions: &[u8]) {
    let mut first = true;
    // The last record may be cut, because the connection is still open.
    while let [record, 3, 1 | 3, high, low, rest @ ..] = bytes {
        let len = usize::from(u16::from_be_bytes([*high, *low]));
        let Some((content, rest)) = rest.split_at_checked(len) else {
            return;
        };
        if first {
            assert_eq!((*record, content[0]), (22, kind));
            assert!(contains(content, versions));
        } else {
            // Type 23 is encrypted; type 20 is the one byte that middleboxes expect.
            assert!(
                *record == 23 || (*record == 20 && content == [1]),
                "{record}"
            );
        }
        (first, bytes) = (false, rest);
    }
    assert!(bytes.len() < 5, "no record: {:?}", &bytes[..5]);
}

/// A tap must see what goes by; otherwise the tests above would prove nothing.
#[tokio::test]
async fn a_tap_sees_what_is_not_encrypted() {
    let to = destination().await;
    let tap = Tap::start(any_port().await, to, CLIENT);
    let mut stream = TcpStream::connect(tap.address).await.unwrap();
    let question = [QUESTION, &[0; ZEROS]].concat();
    stream.write_all(&question).await.unwrap();
    let mut answer = vec![0; ANSWER.len() + ZEROS];
    stream.read_exact(&mut answer).await.unwrap();
    let said = tap.said.lock().unwrap();
    assert!(contains(&said[0][0], QUESTION) && contains(&said[0][1], ANSWER));
}
