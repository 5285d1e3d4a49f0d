//! A peer that speaks the protocol by hand with real relays, and can say what no client would.

use std::collections::VecDeque;
use std::time::Duration;

use cepa_common::cell::CELL_LEN;
use cepa_common::cell::codec::{self, Cell, CircuitCommand, DestroyReason, Head};
use cepa_common::cell::codec::{payload, payload_mut};
use cepa_common::cell::message::{Inward, Packer, Telescope, messages};
use cepa_common::dir::{Entry, NetworkFile};
use cepa_common::handshake::{ClientHandshake, ClientParams, HandshakeContext, OnionPublicKey};
use cepa_common::ids::{CircId, NetworkId};
use cepa_common::net::directory::fetch_consensus;
use cepa_common::net::establish::{self, EstablishError, NewLink};
use cepa_common::net::tls::Tls;
use cepa_common::net::tls_io::TlsIo;
use cepa_common::onion::{ClientLayers, HopKeys};

use super::until;

/// A peer that completes TLS and HELLO with real keys and then says what the test wants.
pub(crate) struct Peer {
    pub(crate) io: TlsIo,
    pub(crate) plain: Vec<u8>,
    /// Circuits that the relay has ended for its memory while the peer waited for others, in order.
    pub(crate) destroyed: VecDeque<CircId>,
}

/// The result of a CREATE: the circuit's id and its layers.
pub(crate) type Keys = (CircId, ClientLayers);

pub(crate) struct Net {
    pub(crate) file: NetworkFile,
    pub(crate) relays: Vec<Entry>,
}

impl Net {
    /// Asks the first authority of the network for the relays; `None` if the authority has no consensus yet.
    pub(crate) async fn look(file: NetworkFile) -> Option<Self> {
        let authority = &file.authorities()[0];
        let (tls, key) = (Tls::client(), authority.identity.0);
        let io = establish::dial_http(&authority.addresses, key, &tls);
        let patience = Duration::from_secs(30);
        let consensus = fetch_consensus(io.await.unwrap(), &file, None, patience).await;
        let relays = consensus.ok()??.entries().to_vec();
        Some(Self { file, relays })
    }

    /// Waits until the first authority of the network lists all of these nicknames.
    pub(crate) async fn listing(file: &NetworkFile, names: &[&str]) -> Self {
        let within = Duration::from_secs(60);
        until("relays on the list", within, async || {
            let net = Self::look(file.clone()).await.ok_or("no consensus")?;
            let missing = |name: &&&str| net.find(name).is_none();
            match names.iter().find(missing) {
                None => Ok(net),
                Some(name) => Err(format!("{name} is missing")),
            }
        })
        .await
    }

    fn find(&self, nickname: &str) -> Option<&Entry> {
        self.relays.iter().find(|relay| relay.nickname == nickname)
    }

    /// The relay with this nickname, which is on the list.
    pub(crate) fn named(&self, nickname: &str) -> &Entry {
        self.find(nickname).expect("a relay on the list")
    }

    pub(crate) fn id(&self) -> NetworkId {
        self.file.network_id()
    }

    pub(crate) async fn link(&self, relay: &Entry) -> Result<NewLink, EstablishError> {
        let tls = Tls::client();
        establish::dial_link(&relay.addresses, relay.link_key(), &tls, self.id(), 0).await
    }

    pub(crate) async fn peer(&self, relay: &Entry) -> Peer {
        Peer::on(self.link(relay).await.unwrap())
    }

    pub(crate) fn handshake(&self, relay: &Entry) -> (ClientHandshake, [u8; codec::CREATE_LEN]) {
        let context = HandshakeContext {
            network: self.id(),
            relay: relay.identity,
            onion: OnionPublicKey {
                suite: relay.suite,
                key: relay.onion_key,
            },
        };
        ClientHandshake::start(&context, ClientParams::default(), &mut rand::rng()).unwrap()
    }

    /// Makes a circuit by CREATE and CREATED as the rules want them.
    pub(crate) async fn circuit(&self, peer: &mut Peer, relay: &Entry, circ: u32) -> Keys {
        let circ = ours(circ);
        let (handshake, message) = self.handshake(relay);
        peer.send(&codec::create(circ, &message)).await;
        let cell = peer.next_of(circ).await.expect("CREATED");
        assert_eq!(
            codec::head(&cell),
            Ok(Head::Circuit(circ, CircuitCommand::Created))
        );
        let reply = codec::parse_created(codec::body(&cell)).unwrap();
        let mut layers = ClientLayers::new();
        layers
            .push(relay.suite, handshake.finish(reply).unwrap().0)
            .unwrap();
        (circ, layers)
    }

    /// A circuit through `relay` that has been extended to `other`: its id, the layers of the first hop and the keys of
    /// the second. The id is `number`, or one of the next.
    ///
    /// A relay that has just started may not hold the consensus yet that lists the other relay, and says so. Then
    /// another circuit is tried.
    pub(crate) async fn passing(
        &self,
        peer: &mut Peer,
        relay: &Entry,
        other: &Entry,
        number: u32,
    ) -> (CircId, ClientLayers, HopKeys) {
        let give_up = std::time::Instant::now() + Duration::from_secs(30);
        for number in number.. {
            let (circ, mut layers) = self.circuit(peer, relay, number).await;
            let (handshake, message) = self.handshake(other);
            let extend = |p: &mut Packer<'_>| p.extend(&other.identity, &message).unwrap();
            peer.say(circ, &mut layers, extend).await;
            let mut cell = peer.next_of(circ).await.unwrap();
            layers.open(codec::body_mut(&mut cell)).unwrap();
            let said = messages::<Telescope<'_>>(payload(codec::body(&cell)))
                .next()
                .unwrap();
            match said.unwrap() {
                Telescope::Extended(reply) => {
                    let (keys, _) = handshake.finish(reply).unwrap();
                    return (circ, layers, keys);
                }
                Telescope::Truncated(reason) => {
                    assert_eq!(reason, DestroyReason::Unreachable);
                    assert_eq!(peer.reason_of(circ).await, Some(DestroyReason::Unreachable));
                    peer.send(&codec::destroy(circ, DestroyReason::Finished))
                        .await;
                    assert!(std::time::Instant::now() < give_up, "never extended");
                }
            }
        }
        unreachable!("the loop returns")
    }

    /// Checks that the relay still serves an honest circuit, on a link of its own and on this one.
    pub(crate) async fn still_serves(&self, relay: &Entry, same_link: Option<&mut Peer>) {
        let mut other = self.peer(relay).await;
        let peer = match same_link {
            Some(peer) => peer,
            None => &mut other,
        };
        let number = rand::random_range(1000..1 << 30);
        let (circ, mut layers) = self.circuit(peer, relay, number).await;
        peer.say(circ, &mut layers, |p| {
            p.begin_dir(cepa_common::ids::StreamId::new(1).unwrap())
                .unwrap();
        })
        .await;
        let mut cell = peer.next_of(circ).await.expect("an answer");
        layers.open(codec::body_mut(&mut cell)).unwrap();
        let first = messages::<Inward<'_>>(payload(codec::body(&cell)))
            .next()
            .unwrap();
        assert!(matches!(first, Ok(Inward::Connected(_))), "{first:?}");
        peer.send(&codec::destroy(circ, DestroyReason::Finished))
            .await;
        assert_eq!(peer.reason_of(circ).await, Some(DestroyReason::Finished));
    }
}

/// A circuit id of the dialling side.
pub(crate) fn ours(n: u32) -> CircId {
    CircId::new(CircId::DIALLER_BIT | n).unwrap()
}

impl Peer {
    pub(crate) fn on(link: NewLink) -> Self {
        Self {
            io: link.io,
            plain: Vec::new(),
            destroyed: VecDeque::new(),
        }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.io.flush().await.unwrap();
        // The relay may have closed the link meanwhile; the next read will show that.
        let _ = self.io.write(bytes);
        let _ = self.io.flush().await;
    }

    pub(crate) async fn say(
        &mut self,
        circ: CircId,
        layers: &mut ClientLayers,
        pack: impl FnOnce(&mut Packer<'_>),
    ) {
        let cell = sealed(circ, layers, pack);
        self.send(&cell).await;
    }

    /// The next cell; `None` if the link is closed.
    pub(crate) async fn next(&mut self) -> Option<Cell> {
        let read = async {
            while self.plain.len() < CELL_LEN {
                self.io.ready().await.ok()?;
                if self.io.try_read(&mut self.plain).ok()? == Some(0) && self.plain.len() < CELL_LEN
                {
                    return None;
                }
            }
            let cell = *self.plain.first_chunk()?;
            self.plain.drain(..CELL_LEN);
            Some(cell)
        };
        let patience = Duration::from_secs(30);
        tokio::time::timeout(patience, read)
            .await
            .expect("the relay says or closes something")
    }

    pub(crate) async fn next_of(&mut self, circ: CircId) -> Option<Cell> {
        loop {
            let cell = self.next().await?;
            match codec::head(&cell) {
                Ok(Head::Circuit(c, _)) if c == circ => return Some(cell),
                Ok(Head::Circuit(c, CircuitCommand::Destroy)) => self.note(c, &cell).await,
                _ => {}
            }
        }
    }

    /// The reason in the DESTROY for a circuit. Other cells may come before it.
    pub(crate) async fn reason_of(&mut self, circ: CircId) -> Option<DestroyReason> {
        loop {
            let cell = self.next_of(circ).await?;
            if let Ok(Head::Circuit(_, CircuitCommand::Destroy)) = codec::head(&cell) {
                return Some(codec::parse_destroy(codec::body(&cell)).unwrap());
            }
        }
    }

    /// Takes the end of a circuit that the relay has ended for its memory, and lets go of the id.
    pub(crate) async fn note(&mut self, circ: CircId, cell: &Cell) {
        let reason = codec::parse_destroy(codec::body(cell));
        if reason == Ok(DestroyReason::Resource) {
            self.destroyed.push_back(circ);
            let answer = codec::destroy(circ, DestroyReason::Finished);
            self.send(&answer).await;
        }
    }

    /// The next circuit that the relay ends for its memory.
    pub(crate) async fn next_destroyed(&mut self) -> CircId {
        loop {
            if let Some(circ) = self.destroyed.pop_front() {
                return circ;
            }
            let cell = self.next().await.expect("the link lives");
            if let Ok(Head::Circuit(circ, CircuitCommand::Destroy)) = codec::head(&cell) {
                self.note(circ, &cell).await;
            }
        }
    }

    pub(crate) async fn is_closed(&mut self) -> bool {
        while self.next().await.is_some() {}
        true
    }
}

pub(crate) fn sealed(
    circ: CircId,
    layers: &mut ClientLayers,
    pack: impl FnOnce(&mut Packer<'_>),
) -> Cell {
    let mut cell = [0; CELL_LEN];
    codec::write_circuit_head(&mut cell, circ, CircuitCommand::Relay);
    let body = codec::body_mut(&mut cell);
    let mut packer = Packer::new(payload_mut(body));
    pack(&mut packer);
    packer.finish();
    let last = cepa_common::ids::HopIndex(layers.len() as u8 - 1);
    layers.seal(last, body, &mut rand::rng()).unwrap();
    cell
}
