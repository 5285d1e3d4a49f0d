//! Tests of peers that break the rules, and of what exactly that does: their own circuit or link ends, and nobody else
//! notices.
#![allow(
    clippy::disallowed_methods,
    reason = "the test uses the real world: it stands outside of nodes"
)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::large_futures)]

mod support;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::time::Duration;

use cepa_client::{Client, ClientOptions};
use cepa_common::cell::codec::payload;
use cepa_common::cell::codec::{self, CircuitCommand, DestroyReason, Head};
use cepa_common::cell::message::{
    BeginHost, EndReason, FlowMessage, Inward, Packer, StreamMessage, Telescope, messages,
};
use cepa_common::cell::{CELL_LEN, CLEAR_LEN};
use cepa_common::dir::{Entry, NetworkFile};
use cepa_common::handshake::HandshakeError;
use cepa_common::ids::{CircId, NetworkId, RelayId, StreamId};
use cepa_common::limits::CREATES_WAITING;
use cepa_common::link::Hello;
use cepa_common::net::establish::Accepted;
use cepa_common::net::establish::{self, EstablishError};
use cepa_common::net::tls::Tls;
use cepa_common::net::tls_io::TlsIo;
use cepa_common::state::{KeyKind, Trust, load_key};
use cepa_common::world::clock::Clock;
use cepa_common::world::disk::Disk;
use ed25519_dalek::SigningKey;
use support::flood::Flood;
use support::own::OwnNetwork;
use support::peer::{Keys, Net, Peer, ours, sealed};
use support::{Testnet, until};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

fn network_of(testnet: &Testnet) -> NetworkFile {
    let text = std::fs::read_to_string(testnet.network_file()).unwrap();
    NetworkFile::parse(&text).unwrap()
}

/// A network with these parameters.
async fn with_params(params: &'static [&str]) -> Testnet {
    let options = params.iter().flat_map(|param| ["--param", *param]);
    let options: Vec<_> = options.collect();
    tokio::task::spawn_blocking(move || Testnet::start(&options))
        .await
        .unwrap()
}

fn begin_dir(p: &mut Packer<'_>) {
    p.begin_dir(StreamId::new(1).unwrap()).unwrap();
}

#[tokio::test]
async fn peers_that_break_the_rules_end_what_is_theirs() {
    let testnet = tokio::task::spawn_blocking(|| Testnet::start(&[]))
        .await
        .unwrap();
    let net = Net::listing(&network_of(&testnet), &["relay1", "relay2"]).await;
    let (relay, other) = (net.named("relay1"), net.named("relay2"));

    identities(&net, relay, other).await;
    links(&net, relay).await;
    handshakes(&net, relay, other).await;
    circuits(&net, relay).await;
    churn(&net, relay, 1_024).await;
    extending(&net, relay, other).await;
    net.still_serves(relay, None).await;
    tokio::task::spawn_blocking(move || assert!(testnet.stop().success()))
        .await
        .unwrap();
}

/// A stranger makes circuits that pass through a relay, more than its share of the relay's memory has room for. They
/// push each other out, and nobody else's.
#[tokio::test]
async fn circuits_that_pass_cost_who_made_them() {
    /// The least that a node's owner can set (MiB).
    const MEMORY: &str = "32";
    /// Circuits that have room in a stranger's share of that.
    const ROOM: u32 = (32 << 20) / 4 / 4_224;
    let testnet = tokio::task::spawn_blocking(|| {
        // Nothing is said on these circuits, and they must not end for that while they are made.
        let slow = ["--param", "half_open_seconds=120"];
        Testnet::start(&[&["--memory-mib", MEMORY][..], &slow].concat())
    })
    .await
    .unwrap();
    // The circuits go on to four relays. One of them may take the first of the network for a stranger, if it held no
    // consensus yet when the first dialled it, and would end those that have no room in a stranger's share there.
    let names = ["relay1", "relay2", "relay3", "relay4", "relay5"];
    let net = Net::listing(&network_of(&testnet), &names).await;
    let [relay, others @ ..] = names.map(|name| net.named(name));
    let mut honest = net.peer(relay).await;
    let (kept, mut layers, keys) = net.passing(&mut honest, relay, others[0], 4).await;
    layers.push(others[0].suite, keys).unwrap();

    let mut hostile = net.peer(relay).await;
    for (number, other) in (1..=ROOM + 300).zip(others.iter().cycle()) {
        net.passing(&mut hostile, relay, other, 100_000 + 1_000 * number)
            .await;
    }
    // The share is exceeded, so a quarter of it is ended, the oldest circuits first. What a circuit takes only while it is
    // extended may be what exceeds the share, and may be given back before the relay counts: then a few fewer end.
    for number in 1..=ROOM / 4 - 8 {
        let circ = hostile.next_destroyed().await;
        assert_eq!(circ.get() & !CircId::DIALLER_BIT, 100_000 + 1_000 * number);
    }
    net.still_serves(relay, Some(&mut hostile)).await;

    // The honest circuit has waited all the time, and is older than any of them.
    assert!(honest.destroyed.is_empty());
    honest.say(kept, &mut layers, begin_dir).await;
    let mut cell = honest.next_of(kept).await.expect("an answer");
    layers.open(codec::body_mut(&mut cell)).unwrap();
    let first = messages::<Inward<'_>>(payload(codec::body(&cell))).next();
    assert!(matches!(first, Some(Ok(Inward::Connected(_)))), "{first:?}");
    tokio::task::spawn_blocking(move || assert!(testnet.stop().success()))
        .await
        .unwrap();
}

/// A stranger keeps all places full in which CREATEs wait at a relay (protocol.md 7.2). Whoever else makes circuits
/// there, as a client or through another relay, waits for a few of the flood's CREATEs and not for all of them, and is
/// refused nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_creates_holds_up_who_sends_it() {
    /// Circuits that are made one after the other by each way.
    const TRIES: usize = 6;
    // One link may have as many waiting as all of them together, and none is dropped for its age: who is refused is
    // refused for the bound, and whoever stood behind the flood would have to wait for all of it.
    let testnet = with_params(&[
        "handshake_queue_per_link=65536",
        "handshake_max_wait_ms=30000",
    ])
    .await;
    let net = Net::listing(&network_of(&testnet), &["relay1", "relay2", "exit1"]).await;
    let [relay, other, exit] = ["relay1", "relay2", "exit1"].map(|name| net.named(name).identity);
    let honest = Client::bootstrap(ClientOptions::new(network_of(&testnet))).await;
    let honest = honest.unwrap();
    // What the relays need for these circuits, links and a consensus, is there before the flood.
    let ways = [[relay, other, exit], [other, relay, exit]];
    for way in &ways {
        until("a first circuit", Duration::from_secs(60), async || {
            let circuit = honest
                .circuit(way)
                .await
                .map_err(|error| error.to_string())?;
            circuit.close();
            Ok(())
        })
        .await;
    }

    let flood = Flood::new(&net, net.named("relay1"), CREATES_WAITING + 64).await;
    let told = flood.told();
    let flood = tokio::spawn(flood.run());
    until("a first refusal", Duration::from_secs(60), async || {
        let refused = told.refused() > 0;
        refused.then_some(()).ok_or_else(|| "none".to_owned())
    })
    .await;
    for way in &ways {
        // Where a processor is busy elsewhere, some tries take longer, and more of the flood is answered meanwhile.
        let mut least = usize::MAX;
        for _ in 0..TRIES {
            let before = told.answered();
            honest.circuit(way).await.expect("a circuit").close();
            least = least.min(told.answered() - before);
        }
        assert!(least < CREATES_WAITING / 4, "{least} went before");
    }
    assert!(
        !flood.is_finished(),
        "the link lives, as no bound of it was broken"
    );
    flood.abort();
    net.still_serves(net.named("relay1"), None).await;
    tokio::task::spawn_blocking(move || assert!(testnet.stop().success()))
        .await
        .unwrap();
}

/// Tries dials to the wrong identity, in another network, and in another protocol.
async fn identities(net: &Net, relay: &Entry, other: &Entry) {
    let tls = Tls::client();
    let wrong = establish::dial_link(&relay.addresses, other.link_key(), &tls, net.id(), 0).await;
    assert!(
        matches!(wrong.err(), Some(EstablishError::Tls(_))),
        "the wrong key"
    );
    let elsewhere = NetworkId([9; 32]);
    let key = relay.link_key();
    let wrong = establish::dial_link(&relay.addresses, key, &tls, elsewhere, 0).await;
    assert!(wrong.is_err(), "another network");
    let address: SocketAddr = relay.addresses[0];
    for first in [&b"HEAD / HTTP/1.1\r\n\r\n"[..], &[0, 0, 0, 0, 5], &[1; 64]] {
        let tcp = TcpStream::connect(address).await.unwrap();
        let io = TlsIo::dial(tcp, &tls, key).await.unwrap();
        let mut peer = Peer {
            io,
            plain: Vec::new(),
            destroyed: VecDeque::new(),
        };
        peer.send(first).await;
        // An end without close_notify would be an error.
        let end = peer.io.read(&mut [0]).await;
        assert_eq!(end.unwrap(), 0, "{first:?}");
    }
    // These are tries without TLS 1.3, and without TLS at all.
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut tcp = TcpStream::connect(address).await.unwrap();
    tcp.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut got = Vec::new();
    let _ = tcp.read_to_end(&mut got).await;
    assert!(got.len() < 64, "an alert at most");
    net.still_serves(relay, None).await;
}

/// Sends cells that close the link that they come on (protocol.md 2.9).
async fn links(net: &Net, relay: &Entry) {
    let hello = Hello::ours(net.id(), None, 0).encode();
    let (_, message) = net.handshake(relay);
    let mut unknown = codec::destroy(ours(5), DestroyReason::Finished);
    unknown[4] = 77;
    let mut reserved = codec::destroy(ours(5), DestroyReason::Finished);
    reserved[6] = 1;
    let theirs = CircId::new(5).unwrap();
    let twice = [
        codec::create(ours(5), &message),
        codec::create(ours(5), &message),
    ]
    .concat();
    let mut early = codec::create(ours(5), &message).to_vec();
    let mut relay_cell = [7; CELL_LEN];
    codec::write_circuit_head(&mut relay_cell, ours(5), CircuitCommand::Relay);
    early.extend(relay_cell);
    let mut bad_create = codec::create(ours(5), &message);
    bad_create[CELL_LEN - 1] = 1;
    let flood = relay_cell.repeat(102);
    let rows: [(&str, &[u8]); 9] = [
        ("a second HELLO", &hello),
        ("an unknown command", &unknown),
        ("reserved bytes", &reserved),
        ("CREATE in the other half", &codec::create(theirs, &message)),
        ("CREATE on an id in use", &twice),
        ("RELAY before CREATED", &early),
        ("CREATE with padding that is not zero", &bad_create),
        (
            "CREATED that nothing asked for",
            &codec::created(ours(5), &[1; codec::CREATED_LEN]),
        ),
        ("a flood for an unknown circuit", &flood),
    ];
    for (what, bytes) in rows {
        let mut peer = net.peer(relay).await;
        peer.send(bytes).await;
        assert!(peer.is_closed().await, "{what}");
    }
    // The peer sends half a cell and leaves.
    let mut peer = net.peer(relay).await;
    peer.send(&hello[..1000]).await;
    drop(peer);
    net.still_serves(relay, None).await;
}

async fn handshakes(net: &Net, relay: &Entry, other: &Entry) {
    let mut peer = net.peer(relay).await;
    // The first message is for an onion key that the relay does not hold; the second was changed. Both get the same
    // reason.
    let (_, elsewhere) = net.handshake(other);
    let (_, mut changed) = net.handshake(relay);
    changed[700] ^= 1;
    for (n, message) in [(1, elsewhere), (2, changed)] {
        peer.send(&codec::create(ours(n), &message)).await;
        assert_eq!(peer.reason_of(ours(n)).await, Some(DestroyReason::Protocol));
        peer.send(&codec::destroy(ours(n), DestroyReason::Finished))
            .await;
    }
    // A CREATED answers another CREATE than its own.
    let (first, message) = net.handshake(relay);
    peer.send(&codec::create(ours(3), &message)).await;
    let (second, message) = net.handshake(relay);
    peer.send(&codec::create(ours(4), &message)).await;
    let replies = [
        peer.next_of(ours(3)).await.unwrap(),
        peer.next_of(ours(4)).await.unwrap(),
    ];
    let reply = |n: usize| *codec::parse_created(codec::body(&replies[n])).unwrap();
    assert_eq!(
        first.finish(&reply(1)).err(),
        Some(HandshakeError::BadAuth),
        "replayed"
    );
    assert!(second.finish(&reply(1)).is_ok());
    net.still_serves(relay, Some(&mut peer)).await;
}

/// Sends cells that end their own circuit and not the one beside it.
async fn circuits(net: &Net, relay: &Entry) {
    let mut peer = net.peer(relay).await;
    let (neighbour, mut kept) = net.circuit(&mut peer, relay, 1).await;
    let mut number = 10;
    let protocol = Some(DestroyReason::Protocol);

    // The loop tries every kind of change to a cell.
    for what in [
        "flip",
        "repeat",
        "reorder",
        "garbage",
        "no message",
        "wrong stream",
    ] {
        number += 1;
        let (circ, mut layers) = net.circuit(&mut peer, relay, number).await;
        let mut cell = sealed(circ, &mut layers, begin_dir);
        match what {
            "flip" => cell[CLEAR_LEN + 500] ^= 1,
            "repeat" => peer.send(&cell).await,
            "reorder" => cell = sealed(circ, &mut layers, begin_dir),
            "garbage" => cell[CLEAR_LEN..].fill(7),
            "no message" => {
                peer.send(&cell).await;
                cell = sealed(circ, &mut layers, |_| {});
            }
            _ => {
                peer.send(&cell).await;
                cell = sealed(circ, &mut layers, |p| {
                    let nobody = StreamId::new(99).unwrap();
                    p.stream(nobody, StreamMessage::Data(b"x")).unwrap();
                });
            }
        }
        peer.send(&cell).await;
        assert_eq!(peer.reason_of(circ).await, protocol, "{what}");
        peer.send(&codec::destroy(circ, DestroyReason::Finished))
            .await;
    }
    peer.say(neighbour, &mut kept, begin_dir).await;
    let mut cell = peer.next_of(neighbour).await.expect("the neighbour lives");
    kept.open(codec::body_mut(&mut cell)).unwrap();
    net.still_serves(relay, Some(&mut peer)).await;
}

/// Begins streams without a pause, each of which is refused and given up (protocol.md 2.9, 7.20). The relay soon says
/// that it takes no more, and then ends the circuit, and not the one beside it. `burst` is what it takes at once.
async fn churn(net: &Net, relay: &Entry, burst: u16) {
    const STREAMS: u16 = 50;
    let mut peer = net.peer(relay).await;
    let (neighbour, mut kept) = net.circuit(&mut peer, relay, 1).await;
    let (circ, mut layers) = net.circuit(&mut peer, relay, 2).await;
    let mut refused = 0;
    let mut over = None;
    let mut first = 1;
    while over.is_none() {
        assert!(first < 20 * burst, "streams are begun for ever");
        peer.say(circ, &mut layers, |p| {
            for number in first..first + STREAMS {
                let before = number.checked_sub(STREAMS).and_then(StreamId::new);
                if let Some(before) = before {
                    p.stream(before, StreamMessage::End(EndReason::Done))
                        .unwrap();
                }
                let id = StreamId::new(number).unwrap();
                p.begin(id, BeginHost::V4([127, 0, 0, 1]), 80).unwrap();
            }
        })
        .await;
        first += STREAMS;
        let mut unanswered = STREAMS;
        while unanswered > 0 && over.is_none() {
            let mut cell = peer.next_of(circ).await.expect("the link lives");
            if let Ok(Head::Circuit(_, CircuitCommand::Destroy)) = codec::head(&cell) {
                over = Some(codec::parse_destroy(codec::body(&cell)).unwrap());
                break;
            }
            layers.open(codec::body_mut(&mut cell)).unwrap();
            let mut acks = Vec::new();
            for said in messages::<Inward<'_>>(payload(codec::body(&cell))) {
                match said.unwrap() {
                    Inward::Stream(_, StreamMessage::End(reason)) => {
                        unanswered -= 1;
                        refused += usize::from(reason == EndReason::Resource);
                    }
                    Inward::Flow(FlowMessage::Mark(mark)) => acks.push(FlowMessage::Ack(mark)),
                    other => panic!("{other:?}"),
                }
            }
            for ack in acks {
                peer.say(circ, &mut layers, |p| p.flow(&ack).unwrap()).await;
            }
        }
    }
    assert_eq!(over, Some(DestroyReason::Resource));
    assert!(refused > usize::from(burst) * 7 / 8, "{refused}");
    peer.send(&codec::destroy(circ, DestroyReason::Finished))
        .await;
    peer.say(neighbour, &mut kept, begin_dir).await;
    let mut cell = peer.next_of(neighbour).await.expect("the neighbour lives");
    kept.open(codec::body_mut(&mut cell)).unwrap();
    net.still_serves(relay, Some(&mut peer)).await;
}

/// A network's parameters say how many streams one circuit may begin at a relay (protocol.md 6.5, 7.20).
#[tokio::test]
async fn a_circuit_begins_what_the_network_lets_it_begin() {
    let testnet = with_params(&["circuit_begins_burst=200", "circuit_begins_per_second=1"]).await;
    let net = Net::listing(&network_of(&testnet), &["relay1"]).await;
    let relay = net.named("relay1");
    churn(&net, relay, 200).await;
    tokio::task::spawn_blocking(move || assert!(testnet.stop().success()))
        .await
        .unwrap();
}

/// Streams that are refused because others are open have been begun all the same (protocol.md 7.20).
#[tokio::test]
async fn who_begins_what_there_is_no_room_for_loses_the_circuit() {
    let testnet = with_params(&[
        "circuit_streams=16",
        "circuit_begins_burst=200",
        "circuit_begins_per_second=1",
    ])
    .await;
    let net = Net::listing(&network_of(&testnet), &["relay1"]).await;
    let relay = net.named("relay1");
    let mut peer = net.peer(relay).await;
    let (circ, mut layers) = net.circuit(&mut peer, relay, 1).await;
    let ids = |from: u16, to: u16| (from..to).map(|id| StreamId::new(id).unwrap());
    peer.say(circ, &mut layers, |p| {
        ids(1, 17).for_each(|id| p.begin_dir(id).unwrap());
    })
    .await;
    // Each further one is refused, and given up by who began it, who waits for the refusals.
    let mut answers = [0, 0];
    let mut first = 1_000;
    let reason = loop {
        let mut cell = peer.next_of(circ).await.expect("an answer");
        if let Ok(Head::Circuit(_, CircuitCommand::Destroy)) = codec::head(&cell) {
            break codec::parse_destroy(codec::body(&cell));
        }
        layers.open(codec::body_mut(&mut cell)).unwrap();
        for said in messages::<Inward<'_>>(payload(codec::body(&cell))) {
            match said.unwrap() {
                Inward::Connected(_) => answers[0] += 1,
                Inward::Stream(_, StreamMessage::End(_)) => answers[1] += 1,
                _ => {}
            }
        }
        if answers != [16, first - 1_000] {
            continue;
        }
        assert!(first < 3_000, "the circuit lives");
        peer.say(circ, &mut layers, |p| {
            for id in ids(first, first + 50) {
                p.begin_dir(id).unwrap();
                p.stream(id, StreamMessage::End(EndReason::Reset)).unwrap();
            }
        })
        .await;
        first += 50;
    };
    assert_eq!(reason, Ok(DestroyReason::Resource));
    net.still_serves(relay, Some(&mut peer)).await;
    tokio::task::spawn_blocking(move || assert!(testnet.stop().success()))
        .await
        .unwrap();
}

async fn extending(net: &Net, relay: &Entry, other: &Entry) {
    let mut peer = net.peer(relay).await;
    let (_, message) = net.handshake(other);
    // The relay is asked to extend to itself.
    let (circ, mut layers) = net.circuit(&mut peer, relay, 1).await;
    peer.say(circ, &mut layers, |p| {
        p.extend(&relay.identity, &message).unwrap()
    })
    .await;
    assert_eq!(peer.reason_of(circ).await, Some(DestroyReason::Protocol));
    // The relay is asked to extend to a relay that no consensus lists.
    let (circ, mut layers) = net.circuit(&mut peer, relay, 2).await;
    peer.say(circ, &mut layers, |p| {
        p.extend(&RelayId([5; 32]), &message).unwrap()
    })
    .await;
    let mut cell = peer.next_of(circ).await.unwrap();
    layers.open(codec::body_mut(&mut cell)).unwrap();
    let said = messages::<Telescope<'_>>(payload(codec::body(&cell)))
        .next()
        .unwrap();
    assert_eq!(said, Ok(Telescope::Truncated(DestroyReason::Unreachable)));
    assert_eq!(peer.reason_of(circ).await, Some(DestroyReason::Unreachable));
    // A second message comes right behind EXTEND, while the circuit is being extended.
    let (circ, mut layers) = net.circuit(&mut peer, relay, 3).await;
    let extend = |p: &mut Packer<'_>| p.extend(&other.identity, &message).unwrap();
    let both = [
        sealed(circ, &mut layers, extend),
        sealed(circ, &mut layers, begin_dir),
    ]
    .concat();
    peer.send(&both).await;
    assert_eq!(peer.reason_of(circ).await, Some(DestroyReason::Protocol));
    // The circuit is extended as the rules want it. Then a cell comes for the hop that has passed the circuit on.
    let (circ, mut layers) = extended(net, &mut peer, relay, other).await;
    peer.say(circ, &mut layers, begin_dir).await;
    assert_eq!(peer.reason_of(circ).await, Some(DestroyReason::Protocol));
    net.still_serves(relay, Some(&mut peer)).await;
}

/// A circuit through `relay` that has been extended to `other`. The layers are those of the first hop.
async fn extended(net: &Net, peer: &mut Peer, relay: &Entry, other: &Entry) -> Keys {
    let (circ, layers, _) = net.passing(peer, relay, other, 4).await;
    (circ, layers)
}

/// A relay that breaks the rules: its key is a relay's in the consensus, and the test speaks for it.
#[test]
fn a_relay_that_breaks_the_rules_ends_the_circuits_through_it() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(Box::pin(relays()));
}

async fn relays() {
    let mut own = OwnNetwork::start(&[]);
    let keys = own.path("willow/keys");
    let mut made = std::fs::DirBuilder::new();
    made.recursive(true).mode(0o700).create(&keys).unwrap();
    let identity = own.says(&["keys", "identity", "--out", "willow/keys/identity"]);
    let willow = RelayId::from_hex(&identity).unwrap();
    let key = format!("{keys}/identity");
    let key = load_key(
        &Disk::Real,
        key.as_ref(),
        KeyKind::Identity,
        Trust::Everyone,
    );
    let tls = Tls::relay(&SigningKey::from_bytes(key.unwrap().expose())).unwrap();
    let oak = own.file.authorities()[0].identity;
    let oak = own.listed(oak, |_| true).await;
    let net = Net {
        file: own.file.clone(),
        relays: vec![oak.clone()],
    };

    // The link is older than every consensus that lists the key by which it was dialled.
    let now = Clock::system().now_secs();
    let link = establish::dial_link(&oak.addresses, oak.link_key(), &tls, net.id(), now).await;
    let mut early = Peer::on(link.unwrap());
    let address = own.relay("willow", &[]);
    let entry = own.listed(willow, |_| true).await;
    straight_back(&net, &mut early, &oak, &entry).await;

    for stop in [OwnNetwork::stop, OwnNetwork::interrupt] {
        let mut peer = net.peer(&entry).await;
        let (circ, _) = net.circuit(&mut peer, &entry, 1).await;
        stop(&mut own, "willow");
        let shutdown = Some(DestroyReason::Shutdown);
        assert_eq!(peer.reason_of(circ).await, shutdown, "protocol.md 2.13");
        let end = peer.io.read(&mut [0]).await;
        assert_eq!(end.unwrap(), 0, "close_notify");
        own.relay_at(address, "willow", &[]);
    }

    own.crash("willow");
    let listener = TcpListener::bind(address).await.unwrap();
    let (told, mut reasons) = mpsc::channel(8);
    let speaks = tokio::spawn(speak_early(listener, tls, net.id(), told));
    what_comes_with_an_answer(&net, &oak, &entry, &mut reasons).await;
    net.still_serves(&oak, None).await;
    // protocol.md 6.13.2: TLS and HELLO alone keep no relay on the list.
    until("willow off the list", Duration::from_secs(60), async || {
        let consensus = own.consensus().await.ok_or("no consensus")?;
        match consensus.relay(&willow) {
            None => Ok(()),
            Some(entry) => Err(format!("{entry:?}")),
        }
    })
    .await;
    speaks.abort();
}

/// protocol.md 7.4: a relay does not extend a circuit back to the relay that it came from, whatever that relay counted
/// as when it dialled.
async fn straight_back(net: &Net, early: &mut Peer, oak: &Entry, willow: &Entry) {
    let (circ, mut layers) = net.circuit(early, oak, 1).await;
    let (_, message) = net.handshake(willow);
    let extend = |p: &mut Packer<'_>| p.extend(&willow.identity, &message).unwrap();
    early.say(circ, &mut layers, extend).await;
    let protocol = Some(DestroyReason::Protocol);
    assert_eq!(early.reason_of(circ).await, protocol, "straight back");
}

/// A relay that answers each CREATE by CREATED and RELAY in one record, and tells with what reason each circuit ends.
async fn speak_early(
    listener: TcpListener,
    tls: Tls,
    network: NetworkId,
    told: mpsc::Sender<Option<DestroyReason>>,
) {
    loop {
        let (tcp, _) = listener.accept().await.unwrap();
        let (tls, told) = (tls.clone(), told.clone());
        tokio::spawn(async move {
            let now = Clock::system().now_secs();
            // Some dial for HTTP, or to see whether the relay is there.
            let Ok(Accepted::Link(link)) = establish::accept(tcp, &tls, network, now).await else {
                return;
            };
            let mut peer = Peer::on(link);
            peer.plain = peer.io.take_plain();
            while let Some(cell) = peer.next().await {
                let Ok(Head::Circuit(circ, CircuitCommand::Create)) = codec::head(&cell) else {
                    continue;
                };
                let mut both = codec::created(circ, &[7; codec::CREATED_LEN]).to_vec();
                let mut early = [7; CELL_LEN];
                codec::write_circuit_head(&mut early, circ, CircuitCommand::Relay);
                both.extend(early);
                peer.send(&both).await;
                let _ = told.send(peer.reason_of(circ).await).await;
            }
        });
    }
}

/// protocol.md 7.6: a cell that comes with CREATED destroys the circuit, both ways.
async fn what_comes_with_an_answer(
    net: &Net,
    oak: &Entry,
    willow: &Entry,
    reasons: &mut mpsc::Receiver<Option<DestroyReason>>,
) {
    let mut peer = net.peer(oak).await;
    let give_up = std::time::Instant::now() + Duration::from_secs(30);
    // The relay may hold the link to the process that is gone for a moment.
    for number in 1.. {
        let (circ, mut layers) = net.circuit(&mut peer, oak, number).await;
        let (_, message) = net.handshake(willow);
        let extend = |p: &mut Packer<'_>| p.extend(&willow.identity, &message).unwrap();
        peer.say(circ, &mut layers, extend).await;
        let mut truncated = None;
        let unreachable = DestroyReason::Unreachable;
        loop {
            let mut cell = peer.next_of(circ).await.unwrap();
            if let Ok(Head::Circuit(_, CircuitCommand::Destroy)) = codec::head(&cell) {
                let reason = codec::parse_destroy(codec::body(&cell));
                assert_eq!(reason, Ok(unreachable));
                break;
            }
            layers.open(codec::body_mut(&mut cell)).unwrap();
            let said = messages::<Telescope<'_>>(payload(codec::body(&cell))).next();
            // EXTENDED comes first if the cell behind CREATED was read a moment later.
            if let Some(Ok(Telescope::Truncated(reason))) = said {
                truncated = Some(reason);
            }
        }
        assert_eq!(truncated, Some(unreachable));
        peer.send(&codec::destroy(circ, DestroyReason::Finished))
            .await;
        if let Ok(reason) = reasons.try_recv() {
            assert_eq!(reason, Some(DestroyReason::Protocol));
            return;
        }
        assert!(std::time::Instant::now() < give_up, "never reached");
    }
}
