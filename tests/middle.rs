//! Tests of what a relay in the middle of a circuit sees, and of what a tapped wire shows.
//!
//! The test takes a relay's place: it kills the relay's process, listens at the relay's address with the relay's keys,
//! carries a circuit as the rules want it, and keeps every byte that it sees. Client and destination have addresses of
//! their own (127.0.0.77 and 127.0.0.88), so that the test can search for either.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::large_futures)]

mod support;

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cepa_common::cell::codec::{self, CREATE_LEN, Cell, CircuitCommand, DestroyReason, Head};
use cepa_common::cell::codec::{payload, payload_mut};
use cepa_common::cell::message::{
    Host, Inward, Outward, Packer, StreamMessage, Telescope, messages,
};
use cepa_common::cell::{CELL_LEN, HEADER_LEN, SLOT_LEN};
use cepa_common::dir::{Entry, NetworkFile};
use cepa_common::handshake::{
    CIRCUIT_VERSION, ClientHandshake, ClientParams, HandshakeContext, OnionKeypair, OnionPublicKey,
    RelayParams, respond,
};
use cepa_common::ids::{CircId, HopIndex, NetworkId, StreamId};
use cepa_common::net::directory::fetch_consensus;
use cepa_common::net::establish::{self, Accepted, NewLink};
use cepa_common::net::tls::Tls;
use cepa_common::net::tls_io::TlsIo;
use cepa_common::onion::{ClientLayers, Opened, RelayBackward, RelayForward};
use cepa_common::state::{KeyKind, Trust, load_key};
use cepa_common::world::Clock;
use ed25519_dalek::SigningKey;
use support::Testnet;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

const CLIENT: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 77);
const DESTINATION: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 88);
const QUESTION: &[u8] = b"a question that is nobody's business";
const ANSWER: &[u8] = b"an answer that is nobody's business";
/// Number of zeros that follow question and answer. Equal plaintexts are the hardest to tell apart.
const ZEROS: usize = 12_000;
/// The parameters that the middle relay answers with. They do not matter, because no circuit ends there.
const PACE: RelayParams = RelayParams {
    version: CIRCUIT_VERSION,
    circuit_window_cells: 512,
    mark_interval_cells: 32,
    stream_window_bytes: 1 << 20,
};
/// The time within which a network on a busy machine builds the circuit.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the two sides of a connection said: first the side that dialled, then the side that was dialled.
type Said = [Vec<u8>; 2];

/// A wire with a tap: it passes connections on and keeps what goes by.
struct Tap {
    address: SocketAddr,
    /// What was said on each connection.
    said: Arc<Mutex<Vec<Said>>>,
    task: JoinHandle<()>,
}

impl Tap {
    /// Passes connections to `listener` on to `to`, from the address `from`.
    fn start(listener: TcpListener, to: SocketAddr, from: Ipv4Addr) -> Self {
        let address = listener.local_addr().unwrap();
        let said: Arc<Mutex<Vec<Said>>> = Arc::default();
        let kept = said.clone();
        let task = tokio::spawn(async move {
            // The set ends with this task, and closes the connections that it passed on.
            let mut passing = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                let socket = TcpSocket::new_v4().unwrap();
                socket.bind((from, 0).into()).unwrap();
                let Ok(far) = socket.connect(to).await else {
                    continue;
                };
                let number = {
                    let mut kept = kept.lock().unwrap();
                    kept.push(Default::default());
                    kept.len() - 1
                };
                let (near_in, near_out) = near.into_split();
                let (far_in, far_out) = far.into_split();
                for (side, mut input, mut output) in [(0, near_in, far_out), (1, far_in, near_out)]
                {
                    let kept = kept.clone();
                    passing.spawn(async move {
                        let mut buffer = vec![0; 65_536];
                        while let Ok(len @ 1..) = input.read(&mut buffer).await {
                            kept.lock().unwrap()[number][side].extend(&buffer[..len]);
                            if output.write_all(&buffer[..len]).await.is_err() {
                                break;
                            }
                        }
                    });
                }
            }
        });
        Self {
            address,
            said,
            task,
        }
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn any_port() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

/// A link by hand, which reads and writes one cell at a time.
struct Cells<I, O>(I, O);

type Link = Cells<ReadHalf<TlsIo>, WriteHalf<TlsIo>>;

impl Link {
    fn new(link: NewLink) -> Self {
        let (input, output) = tokio::io::split(link.io);
        Self(input, output)
    }
}

async fn read(input: &mut ReadHalf<TlsIo>) -> Option<Cell> {
    let mut cell = [0; CELL_LEN];
    input.read_exact(&mut cell).await.ok()?;
    Some(cell)
}

/// Sends a cell. If the link is gone, reading from it will show that.
async fn write(output: &mut WriteHalf<TlsIo>, cell: &Cell) {
    if output.write_all(cell).await.is_ok() {
        let _ = output.flush().await;
    }
}

/// The shape of a cell at the middle relay: what it is, and which slots of its opened header are zero.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Shape {
    /// A CREATE with the client's parameters.
    Create(ClientParams),
    /// A cell for this relay.
    Ours([bool; HEADER_LEN / SLOT_LEN]),
    /// A cell for a later relay.
    Onward([bool; HEADER_LEN / SLOT_LEN]),
}

/// Everything that the middle relay sees of one circuit.
#[derive(Default)]
struct View {
    shapes: Vec<Shape>,
    /// Cells, opened bodies, HELLOs and addresses: everything that can be searched.
    bytes: Vec<Vec<u8>>,
    /// The RELAY cells on the relay's links: in and out towards the exit, in and out towards the client.
    relayed: [Vec<Cell>; 4],
}

impl View {
    fn see_cell(&mut self, wire: usize, cell: &Cell) {
        self.bytes.push(cell.to_vec());
        self.relayed[wire].push(*cell);
    }

    fn holds(&self, needle: &[u8]) -> bool {
        self.bytes.iter().any(|bytes| contains(bytes, needle))
    }
}

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

fn zero_slots(body: &cepa_common::cell::Body) -> [bool; HEADER_LEN / SLOT_LEN] {
    core::array::from_fn(|slot| body[slot * SLOT_LEN..][..SLOT_LEN] == [0; SLOT_LEN])
}

/// A relay whose keys the test has.
struct Middle {
    network: NetworkId,
    entry: Entry,
    tls: Tls,
    onion: OnionKeypair,
    /// Address and link key of the next relay on the circuit, at the end of a tapped wire.
    next: (SocketAddr, [u8; 32]),
    /// The CREATE of the circuit that is watched. All others are refused.
    expected: Mutex<Option<[u8; CREATE_LEN]>>,
    view: Mutex<View>,
}

impl Middle {
    /// Accepts links at `listener` for ever.
    async fn listen(self: Arc<Self>, listener: TcpListener) {
        let mut links = JoinSet::new();
        while let Ok((tcp, _)) = listener.accept().await {
            let middle = self.clone();
            links.spawn(async move {
                // Authorities dial to find out whether the relay is there, and leave.
                let accepted =
                    establish::accept(tcp, &middle.tls, middle.network, Clock::system().now_secs())
                        .await;
                if let Ok(Accepted::Link(link)) = accepted {
                    middle.serve(link).await;
                }
            });
        }
    }

    fn see(&self, bytes: &[u8]) {
        self.view.lock().unwrap().bytes.push(bytes.to_vec());
    }

    async fn serve(&self, link: NewLink) -> Option<()> {
        let hello = link.hello.encode();
        // All relays are at one address here. What matters is what an address says about a client.
        let address = format!("{} {:?}", link.peer_address, link.hello);
        let mut link = Link::new(link);
        let (circ, message) = loop {
            let cell = read(&mut link.0).await?;
            let Ok(Head::Circuit(circ, CircuitCommand::Create)) = codec::head(&cell) else {
                continue;
            };
            let message = *codec::parse_create(codec::body(&cell)).ok()?;
            if *self.expected.lock().unwrap() == Some(message) {
                self.see(&cell);
                break (circ, message);
            }
            write(&mut link.1, &codec::destroy(circ, DestroyReason::Resource)).await;
        };
        self.see(&hello);
        self.see(address.as_bytes());
        let (suite, keys, reply, client) = respond(
            &self.network,
            &self.entry.identity,
            std::slice::from_ref(&self.onion),
            &message,
            PACE,
            &mut rand::rng(),
        )
        .unwrap();
        self.view.lock().unwrap().shapes.push(Shape::Create(client));
        write(&mut link.1, &codec::created(circ, &reply)).await;
        let forward = RelayForward::new(suite, keys.forward);
        let backward = RelayBackward::new(suite, keys.backward);
        self.extend(link, circ, forward, backward).await
    }

    /// Takes the circuit's EXTEND, and carries the circuit.
    async fn extend(
        &self,
        mut prev: Link,
        circ: CircId,
        mut forward: RelayForward,
        mut backward: RelayBackward,
    ) -> Option<()> {
        let mut cell = relay_cell(&mut prev.0, circ).await?;
        assert_eq!(self.open(&mut forward, &mut cell), Opened::Ours);
        let said = messages::<Outward<'_>>(payload(codec::body(&cell))).next();
        let Some(Ok(Outward::Extend { message, .. })) = said else {
            panic!("{said:?}")
        };
        let (address, key) = self.next;
        let time = Clock::system().now_secs();
        let next = establish::dial_link(&[address], key, &self.tls, self.network, time).await;
        let next = next.unwrap();
        self.see(&next.hello.encode());
        let mut next = Link::new(next);
        let next_circ = CircId::new(CircId::DIALLER_BIT | 1).unwrap();
        write(&mut next.1, &codec::create(next_circ, message)).await;
        let created = read(&mut next.0).await?;
        self.see(&created);
        let reply = codec::parse_created(codec::body(&created)).unwrap();
        let mut extended = [0; CELL_LEN];
        codec::write_circuit_head(&mut extended, circ, CircuitCommand::Relay);
        let body = codec::body_mut(&mut extended);
        let mut packer = Packer::new(payload_mut(body));
        packer.extended(reply).unwrap();
        packer.finish();
        backward.speak(body).unwrap();
        write(&mut prev.1, &extended).await;

        let (mut from_prev, mut to_prev) = (prev.0, prev.1);
        let (mut from_next, mut to_next) = (next.0, next.1);
        let outward = async {
            while let Some(mut cell) = relay_cell(&mut from_prev, circ).await {
                assert_eq!(self.open(&mut forward, &mut cell), Opened::Onward);
                codec::write_circuit_head(&mut cell, next_circ, CircuitCommand::Relay);
                self.view.lock().unwrap().see_cell(1, &cell);
                write(&mut to_next, &cell).await;
            }
        };
        let inward = async {
            while let Some(mut cell) = relay_cell(&mut from_next, next_circ).await {
                self.view.lock().unwrap().see_cell(2, &cell);
                backward.wrap(codec::body_mut(&mut cell)).unwrap();
                codec::write_circuit_head(&mut cell, circ, CircuitCommand::Relay);
                self.view.lock().unwrap().see_cell(3, &cell);
                write(&mut to_prev, &cell).await;
            }
        };
        tokio::select! {
            () = outward => {}
            () = inward => {}
        }
        Some(())
    }

    /// Opens a cell that came from the client's side, and records it before and after.
    fn open(&self, layer: &mut RelayForward, cell: &mut Cell) -> Opened {
        let mut view = self.view.lock().unwrap();
        view.see_cell(0, cell);
        let opened = layer.open(codec::body_mut(cell)).unwrap();
        let body = codec::body(cell);
        view.bytes.push(body.to_vec());
        view.shapes.push(match opened {
            Opened::Ours => Shape::Ours(zero_slots(body)),
            Opened::Onward => Shape::Onward(zero_slots(body)),
        });
        opened
    }
}

/// The next RELAY cell of a circuit; `None` if the circuit or its link has ended.
async fn relay_cell(input: &mut ReadHalf<TlsIo>, circ: CircId) -> Option<Cell> {
    loop {
        let cell = read(input).await?;
        match codec::head(&cell) {
            Ok(Head::Circuit(c, CircuitCommand::Relay)) if c == circ => return Some(cell),
            Ok(Head::Circuit(c, CircuitCommand::Destroy)) if c == circ => return None,
            _ => {}
        }
    }
}

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
        let host = Host::V4(DESTINATION.octets());
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
        let load = |name: &str, kind| load_key(&keys.join(name), kind, Trust::Everyone).unwrap();
        let identity = load("identity", KeyKind::Identity);
        let identity = SigningKey::from_bytes(identity.expose());
        // Onion keys are replaced, so the test uses the one that the consensus lists (docs/protocol.md, 6.20).
        let named = std::fs::read_dir(&keys)
            .unwrap()
            .map(|file| file.unwrap().file_name());
        let named = named.filter_map(|name| name.into_string().ok());
        let onion =
            named.filter(|name| name.starts_with("onion-") && name.ends_with(entry.suite.name()));
        let onion =
            onion.map(|name| OnionKeypair::from_bytes(entry.suite, &load(&name, KeyKind::Onion)));
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
    // Of the relays behind it, the only sign is that one cell more goes by while each of them is added.
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
    assert!(view.bytes.len() > 20, "it has carried the conversation");
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
