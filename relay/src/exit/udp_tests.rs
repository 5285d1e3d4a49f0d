#![allow(clippy::unwrap_used, clippy::expect_used)]
//! Associations at an exit, with peers on this machine and a client's end that says what it likes.

use core::task::{Context, Poll, Waker};
use core::time::Duration;
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use cepa_common::budget::Budget;
use cepa_common::cell::PAYLOAD_LEN;
use cepa_common::cell::message::EndReason;
use cepa_common::dir::Transport;
use cepa_common::ids::CircId;
use cepa_common::net::circuit_io::Streams;
use cepa_common::stream::{
    Acceptor, AssociationKey, LegId, Mux, Opener, Request, StreamError, StreamHost,
};
use cepa_common::testkit;
use cepa_common::world::{World, steady};
use hickory_resolver::proto::rr::Name;
use tokio::net::UdpSocket;
use tokio::time::{Instant, advance, pause, timeout};

use super::attempts::Origin;
use super::dns_tests::name_server;
use super::udp::associate;
use super::*;
use crate::admission::Party;
use crate::events::Reporter;

/// Lets datagrams out to some addresses, and notes what it is asked.
#[derive(Default)]
struct Rules {
    peers: Mutex<BTreeSet<SocketAddr>>,
    asked: Mutex<Vec<SocketAddr>>,
}

impl AddressPolicy for Arc<Rules> {
    fn allows(&self, transport: Transport, address: SocketAddr) -> bool {
        assert_eq!(transport, Transport::Udp);
        self.asked.lock().unwrap().push(address);
        self.peers.lock().unwrap().contains(&address)
    }

    fn carries(&self, _: Transport) -> bool {
        !self.peers.lock().unwrap().is_empty()
    }
}

impl Rules {
    fn of(peers: &[&Peer]) -> Arc<Self> {
        let rules = Arc::<Self>::default();
        let peers = peers.iter().map(|peer| peer.address);
        rules.peers.lock().unwrap().extend(peers);
        rules
    }

    /// How often the policy was asked about a peer.
    fn asked(&self, peer: &Peer) -> usize {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|it| **it == peer.address).count()
    }
}

/// Somebody outside.
struct Peer {
    socket: UdpSocket,
    address: SocketAddr,
}

impl Peer {
    async fn new() -> Self {
        Self::at("127.0.0.1:0".parse().unwrap()).await
    }

    async fn at(address: SocketAddr) -> Self {
        let socket = UdpSocket::bind(address).await.unwrap();
        let address = socket.local_addr().unwrap();
        Self { socket, address }
    }

    /// What has come, if anything has.
    fn come(&self) -> Option<(Vec<u8>, SocketAddr)> {
        let mut bytes = [0; 100];
        match self.socket.try_recv_from(&mut bytes) {
            Ok((len, from)) => Some((bytes[..len].to_vec(), from)),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                None
            }
        }
    }
}

/// A circuit with one association.
struct Circuit {
    client: Mux<Opener>,
    relay: Arc<Streams<Acceptor>>,
    key: AssociationKey,
    carrying: tokio::task::JoinHandle<()>,
}

impl Circuit {
    fn new(rules: Option<&Arc<Rules>>, resolver: Option<SocketAddr>) -> Self {
        let budget = Budget::unlimited();
        let exit = rules.map(|rules| {
            let (policy, world) = (Arc::new(rules.clone()), World::default());
            let exit = ExitConnector::new(policy, resolver, &world, &budget, Reporter::default());
            Arc::new(exit.unwrap())
        });
        let mut client = testkit::mux::<Opener>(&budget);
        let relay = Streams::new(testkit::mux::<Acceptor>(&budget));
        let key = client.associate().unwrap();
        let (mut payload, now) = ([0; PAYLOAD_LEN], steady::now());
        assert!(client.fill(LegId::FIRST, now, &mut rand::rng(), &mut payload));
        let begun = relay.mux().on_outward(LegId::FIRST, now, &payload).unwrap();
        let [Request::Associate(held)] = begun[..] else {
            panic!("{begun:?}");
        };
        let origin = Origin {
            party: Party::Link(1),
            link: 1,
            circ: CircId::new(1).unwrap(),
        };
        let held = relay.hold_association(held);
        Self {
            client,
            relay,
            key,
            carrying: tokio::spawn(associate(exit, held, origin)),
        }
    }

    /// Hands each end what the other has to say, and lets the exit work.
    async fn turn(&mut self) {
        let (now, rng) = (steady::now(), &mut rand::rng());
        testkit::exchange(&mut self.client, &mut self.relay.mux(), now, rng).unwrap();
        tokio::task::yield_now().await;
    }

    fn send(&mut self, to: SocketAddr, bytes: &[u8]) {
        let (host, now) = (StreamHost::Ip(to.ip()), steady::now());
        let sent = self
            .client
            .send_datagram(self.key, now, &host, to.port(), bytes);
        sent.unwrap();
    }

    fn send_to_name(&mut self, name: &str, port: u16, bytes: &[u8]) {
        let (host, now) = (StreamHost::Name(name.to_owned()), steady::now());
        let sent = self.client.send_datagram(self.key, now, &host, port, bytes);
        sent.unwrap();
    }

    /// Waits until something has come to a peer.
    async fn come(&mut self, peer: &Peer) -> (Vec<u8>, SocketAddr) {
        let began = std::time::Instant::now();
        loop {
            if let Some(come) = peer.come() {
                return come;
            }
            assert!(began.elapsed() < Duration::from_secs(30), "nothing came");
            self.turn().await;
        }
    }

    /// Waits until the client hears something.
    async fn hear(&mut self) -> Result<(SocketAddr, Vec<u8>), StreamError> {
        let began = std::time::Instant::now();
        loop {
            let mut cx = Context::from_waker(Waker::noop());
            if let Poll::Ready(heard) = self.client.poll_datagram(self.key, &mut cx) {
                let heard = heard?;
                let StreamHost::Ip(ip) = heard.host else {
                    panic!("an exit tells no names");
                };
                return Ok((SocketAddr::new(ip, heard.port), heard.bytes().to_vec()));
            }
            assert!(
                began.elapsed() < Duration::from_secs(30),
                "nothing was heard"
            );
            self.turn().await;
        }
    }
}

#[tokio::test]
async fn a_relay_that_lets_no_datagrams_out_refuses() {
    for rules in [None, Some(Rules::of(&[]))] {
        let mut circuit = Circuit::new(rules.as_ref(), None);
        let heard = circuit.hear().await.unwrap_err();
        assert_eq!(heard, StreamError::Ended(EndReason::Policy));
        circuit.carrying.await.unwrap();
    }
}

/// Rule 5.39: the policy is asked about each address, its word holds for 10 s, and what it refuses goes nowhere.
#[tokio::test]
async fn the_policy_is_asked_about_each_address_and_again_after_10_s() {
    let [allowed, refused, other] = [Peer::new().await, Peer::new().await, Peer::new().await];
    let rules = Rules::of(&[&allowed, &other]);
    let mut circuit = Circuit::new(Some(&rules), None);
    for n in 0..3 {
        circuit.send(refused.address, b"no");
        circuit.send(allowed.address, &[n]);
        assert_eq!(circuit.come(&allowed).await.0, [n]);
    }
    assert_eq!(refused.come(), None);
    assert_eq!((rules.asked(&allowed), rules.asked(&refused)), (1, 1));
    // Its owner has second thoughts.
    rules.peers.lock().unwrap().remove(&allowed.address);
    pause();
    advance(Duration::from_millis(9_900)).await;
    circuit.send(allowed.address, b"still");
    assert_eq!(circuit.come(&allowed).await.0, b"still");
    advance(Duration::from_millis(200)).await;
    circuit.send(allowed.address, b"no more");
    circuit.send(other.address, b"last");
    assert_eq!(circuit.come(&other).await.0, b"last");
    assert_eq!((allowed.come(), refused.come()), (None, None));
    assert_eq!(rules.asked(&allowed), 2);
}

/// Rule 5.37: neither strangers, nor other ports of a peer, nor those that the policy refuses are heard.
#[tokio::test]
async fn only_those_are_heard_that_something_was_sent_to() {
    let [peer, refused, stranger] = [Peer::new().await, Peer::new().await, Peer::new().await];
    let rules = Rules::of(&[&peer, &stranger]);
    let mut circuit = Circuit::new(Some(&rules), None);
    circuit.send(refused.address, b"no");
    circuit.send(peer.address, b"yes");
    let (_, port) = circuit.come(&peer).await;
    let port = SocketAddr::new(peer.address.ip(), port.port());
    for other in [&refused, &stranger] {
        other.socket.send_to(b"listen to me", port).await.unwrap();
    }
    peer.socket.send_to(b"answer", port).await.unwrap();
    assert_eq!(circuit.hear().await, Ok((peer.address, b"answer".to_vec())));
    // Once it is written to, it is heard, at the same port.
    circuit.send(stranger.address, b"yes");
    let (_, again) = circuit.come(&stranger).await;
    assert_eq!(again.port(), port.port());
    stranger.socket.send_to(b"thanks", port).await.unwrap();
    let heard = circuit.hear().await;
    assert_eq!(heard, Ok((stranger.address, b"thanks".to_vec())));
}

/// Rule 5.39: an address that has never answered gets 1,000 datagrams, and one that has gets more.
#[tokio::test]
async fn an_answer_of_a_peer_lets_more_through() {
    let [peer, other] = [Peer::new().await, Peer::new().await];
    let rules = Rules::of(&[&peer, &other]);
    let mut circuit = Circuit::new(Some(&rules), None);
    let mut port = None;
    for n in 0..1_000_u32 {
        circuit.send(peer.address, &n.to_be_bytes());
        let (bytes, from) = circuit.come(&peer).await;
        assert_eq!(bytes, n.to_be_bytes());
        port = Some(from);
    }
    // Both are one address, so one more goes nowhere, whichever of them it is for.
    circuit.send(peer.address, b"too many");
    circuit.send(other.address, b"too many");
    let port = SocketAddr::new(peer.address.ip(), port.unwrap().port());
    peer.socket.send_to(b"I am here", port).await.unwrap();
    assert_eq!(circuit.hear().await.unwrap().0, peer.address);
    circuit.send(peer.address, b"go on");
    assert_eq!(circuit.come(&peer).await.0, b"go on");
    assert_eq!(other.come(), None);
}

/// Rule 5.38: the client's datagrams keep an association alive, and what peers send does not.
#[tokio::test]
async fn an_association_ends_300_s_after_the_clients_last_datagram() {
    let peer = Peer::new().await;
    let mut circuit = Circuit::new(Some(&Rules::of(&[&peer])), None);
    circuit.send(peer.address, b"first");
    circuit.come(&peer).await;
    pause();
    advance(Duration::from_secs(200)).await;
    circuit.send(peer.address, b"second");
    let (_, port) = circuit.come(&peer).await;
    let port = SocketAddr::new(peer.address.ip(), port.port());
    advance(Duration::from_secs(299)).await;
    peer.socket.send_to(b"still here", port).await.unwrap();
    assert_eq!(circuit.hear().await.unwrap().1, b"still here");
    advance(Duration::from_secs(2)).await;
    let heard = circuit.hear().await.unwrap_err();
    assert_eq!(heard, StreamError::Ended(EndReason::Timeout));
    // The port is held, so that nobody else gets it, and then it is free.
    assert!(UdpSocket::bind(port).await.is_err());
    let began = Instant::now();
    circuit.carrying.await.unwrap();
    assert!(began.elapsed() >= Duration::from_secs(30));
    UdpSocket::bind(port).await.unwrap();
}

/// Rule 5.39: eight names are looked up at a time. What is for others meanwhile is dropped.
#[tokio::test]
async fn eight_names_are_looked_up_at_a_time() {
    let (peer, silent) = (Peer::new().await, Peer::new().await);
    let rules = Rules::of(&[&peer]);
    let mut circuit = Circuit::new(Some(&rules), Some(silent.address));
    for n in 0..20 {
        circuit.send_to_name(&format!("name{n}.example"), 5, b"x");
    }
    // Once this is out, the exit has seen all those before.
    circuit.send(peer.address, b"last");
    circuit.come(&peer).await;
    let mut names = BTreeSet::new();
    let mut bytes = [0; 512];
    // Each name is asked for by its first query at once; the resolver asks nothing else of a server that is silent.
    while let Ok(query) = timeout(Duration::from_secs(1), silent.socket.recv_from(&mut bytes)).await
    {
        let (len, _) = query.unwrap();
        let question = &bytes[12..len];
        names.insert(question[1..=usize::from(question[0])].to_vec());
        circuit.turn().await;
    }
    let expected: BTreeSet<Vec<u8>> = (0..8).map(|n| format!("name{n}").into_bytes()).collect();
    assert_eq!(names, expected);
}

/// Rule 5.37: a peer is heard for 300 s after the last datagram to it, not after the first.
#[tokio::test]
async fn each_datagram_lets_its_peer_be_heard_for_longer() {
    let peer = Peer::new().await;
    let mut circuit = Circuit::new(Some(&Rules::of(&[&peer])), None);
    pause();
    circuit.send(peer.address, b"first");
    circuit.come(&peer).await;
    advance(Duration::from_secs(9)).await;
    circuit.send(peer.address, b"second");
    let (_, port) = circuit.come(&peer).await;
    advance(Duration::from_secs(296)).await;
    let port = SocketAddr::new(peer.address.ip(), port.port());
    peer.socket.send_to(b"late", port).await.unwrap();
    assert_eq!(circuit.hear().await, Ok((peer.address, b"late".to_vec())));
}

/// Rule 5.39: a name leads to the first address that the policy allows, and an association keeps to it. While a name is
/// looked up, four datagrams wait.
#[tokio::test]
#[cfg(target_os = "linux")]
async fn a_name_keeps_its_address_and_four_datagrams_wait_for_it() {
    let (server, _) = name_server().await;
    let one = Peer::new().await;
    let other = Peer::at(SocketAddr::from(([127, 0, 0, 2], one.address.port()))).await;
    let port = one.address.port();
    let rules = Rules::of(&[&other]);
    let mut circuit = Circuit::new(Some(&rules), Some(server));
    for n in 0..6 {
        circuit.send_to_name("two.example", port, &[n]);
    }
    for n in 0..4 {
        assert_eq!(circuit.come(&other).await.0, [n]);
    }
    circuit.send_to_name("two.example", port, b"next");
    assert_eq!(circuit.come(&other).await.0, b"next");
    // Both would do now.
    rules.peers.lock().unwrap().insert(one.address);
    pause();
    advance(Duration::from_secs(11)).await;
    circuit.send_to_name("TWO.example", port, b"the same");
    assert_eq!(circuit.come(&other).await.0, b"the same");
    assert_eq!(one.come(), None);
}

/// Rule 5.39: an association has 64 names.
#[tokio::test]
async fn an_association_has_64_names() {
    let (server, asked) = name_server().await;
    let peer = Peer::new().await;
    let port = peer.address.port();
    let mut circuit = Circuit::new(Some(&Rules::of(&[&peer])), Some(server));
    for n in 0..64_u8 {
        circuit.send_to_name(&format!("n{n}.near.example"), port, &[n]);
        assert_eq!(circuit.come(&peer).await.0, [n]);
    }
    circuit.send_to_name("n64.near.example", port, b"one too many");
    circuit.send_to_name("n0.near.example", port, b"known");
    assert_eq!(circuit.come(&peer).await.0, b"known");
    // Another association has this name looked up, which takes as long as the one before would have taken.
    let mut second = Circuit::new(Some(&Rules::of(&[&peer])), Some(server));
    second.send_to_name("n65.near.example", port, b"another");
    assert_eq!(second.come(&peer).await.0, b"another");
    let asked = asked.lock().unwrap();
    let of = |name: &str| {
        let name = Name::from_ascii(name).unwrap();
        asked
            .iter()
            .filter(|it| *it.queries[0].name() == name)
            .count()
    };
    assert!(of("n63.near.example.") > 0);
    assert_eq!(of("n64.near.example."), 0);
}
