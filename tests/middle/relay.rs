//! The relay whose place the test takes: it carries a circuit as the rules want it, and keeps all that it sees.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use cepa_common::cell::codec::{
    self, CREATE_LEN, CREATED_LEN, Cell, CircuitCommand, DestroyReason, Head, payload, payload_mut,
};
use cepa_common::cell::message::{Outward, Packer, messages};
use cepa_common::cell::{CELL_LEN, HEADER_LEN, SLOT_LEN};
use cepa_common::dir::Entry;
use cepa_common::handshake::{
    CIRCUIT_VERSION, ClientParams, HandshakeError, OnionKeypair, RelayParams, respond,
};
use cepa_common::ids::{CircId, NetworkId};
use cepa_common::net::establish::{self, Accepted, NewLink};
use cepa_common::net::tls::Tls;
use cepa_common::net::tls_io::TlsIo;
use cepa_common::onion::{HopKeys, Opened, RelayBackward, RelayForward, Suite};
use cepa_common::world::Clock;
use tokio::io::ReadHalf;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::wire::{Link, read, write};

/// The parameters that the middle relay answers with. The parameters do not matter, because no circuit ends there.
const PACE: RelayParams = RelayParams {
    version: CIRCUIT_VERSION,
    circuit_window_cells: 512,
    mark_interval_cells: 32,
    stream_window_bytes: 1 << 20,
};

/// The shape of a cell at the middle relay: what it is, and which slots of its opened header are zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// A CREATE with the client's parameters.
    Create(ClientParams),
    /// A cell for this relay.
    Ours([bool; HEADER_LEN / SLOT_LEN]),
    /// A cell for a later relay.
    Onward([bool; HEADER_LEN / SLOT_LEN]),
}

/// Everything that the middle relay sees of one circuit.
#[derive(Default)]
pub(crate) struct View {
    pub(crate) shapes: Vec<Shape>,
    /// Cells, opened bodies, HELLOs and addresses: everything that can be searched.
    pub(crate) bytes: Vec<Vec<u8>>,
    /// The RELAY cells on the relay's links: in and out towards the exit, in and out towards the client.
    pub(crate) relayed: [Vec<Cell>; 4],
}

impl View {
    fn see_cell(&mut self, wire: usize, cell: &Cell) {
        self.bytes.push(cell.to_vec());
        self.relayed[wire].push(*cell);
    }

    pub(crate) fn holds(&self, needle: &[u8]) -> bool {
        self.bytes.iter().any(|bytes| contains(bytes, needle))
    }
}

pub(crate) fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

fn zero_slots(body: &cepa_common::cell::Body) -> [bool; HEADER_LEN / SLOT_LEN] {
    core::array::from_fn(|slot| body[slot * SLOT_LEN..][..SLOT_LEN] == [0; SLOT_LEN])
}

/// A relay whose keys the test has.
pub(crate) struct Middle {
    pub(crate) network: NetworkId,
    pub(crate) entry: Entry,
    pub(crate) tls: Tls,
    pub(crate) onion: OnionKeypair,
    /// Address and link key of the next relay on the circuit, at the end of a tapped wire.
    pub(crate) next: (SocketAddr, [u8; 32]),
    /// The link keys of the authorities, whose CREATEs are answered: they list who answers.
    pub(crate) authorities: Vec<[u8; 32]>,
    /// The CREATE of the circuit that is watched. All others are refused, but for those of authorities.
    pub(crate) expected: Mutex<Option<[u8; CREATE_LEN]>>,
    pub(crate) view: Mutex<View>,
}

impl Middle {
    /// Accepts links at `listener` for ever.
    pub(crate) async fn listen(self: Arc<Self>, listener: TcpListener) {
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

    fn respond(
        &self,
        message: &[u8; CREATE_LEN],
    ) -> Result<(Suite, HopKeys, [u8; CREATED_LEN], ClientParams), HandshakeError> {
        let keys = std::slice::from_ref(&self.onion);
        let (network, relay) = (&self.network, &self.entry.identity);
        respond(network, relay, keys, message, PACE, &mut rand::rng())
    }

    async fn serve(&self, link: NewLink) -> Option<()> {
        let hello = link.hello.encode();
        // All relays are at one address here. What matters is what an address says about a client.
        let address = format!("{} {:?}", link.peer_address, link.hello);
        let of_authority = |key| self.authorities.contains(&key);
        let is_authority = link.peer_key.is_some_and(of_authority);
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
            let answer = match self.respond(&message) {
                Ok((_, _, reply, _)) if is_authority => codec::created(circ, &reply),
                _ => codec::destroy(circ, DestroyReason::Resource),
            };
            write(&mut link.1, &answer).await;
        };
        self.see(&hello);
        self.see(address.as_bytes());
        let (suite, keys, reply, client) = self.respond(&message).unwrap();
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
pub(crate) async fn relay_cell(input: &mut ReadHalf<TlsIo>, circ: CircId) -> Option<Cell> {
    loop {
        let cell = read(input).await?;
        match codec::head(&cell) {
            Ok(Head::Circuit(c, CircuitCommand::Relay)) if c == circ => return Some(cell),
            Ok(Head::Circuit(c, CircuitCommand::Destroy)) if c == circ => return None,
            _ => {}
        }
    }
}
