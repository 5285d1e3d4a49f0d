//! What idle streams and idle circuits take at an exit, and circuits that pass at a relay: an allocator counts all that
//! the node holds.
//!
//! The file is a process of its own, with one thread for each test, and the tests wait for each other, because the
//! allocator counts the whole process. A test speaks the protocol by hand and keeps nothing that grows, so that what
//! grows is the node's.
#![allow(
    clippy::disallowed_methods,
    reason = "the test uses the real world: it stands outside of nodes"
)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::large_futures
)]

mod support;

use std::alloc::System;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use cepa_common::cell::codec::{self, payload};
use cepa_common::cell::message::{BeginHost, FlowMessage, Inward, StreamMessage, messages};
use cepa_common::dir::{AuthorityEntry, ExitPolicy, NetworkFile, local_network_params};
use cepa_common::ids::{CircId, StreamId};
use cepa_common::limits::{CIRCUIT_BYTES, PASSING_BYTES, STREAM_BYTES};
use cepa_common::net::directory::NetworkHandle;
use cepa_common::onion::{ClientLayers, Suite};
use cepa_common::state::{StateDir, Trust};
use cepa_common::testkit;
use cepa_common::world::{Disk, World};
use cepa_relay::keys::RelayIdentity;
use cepa_relay::keys::ring::OnionKeyOptions;
use cepa_relay::{AuthorityOptions, ExitOptions, Limits, Relay, RelayOptions, Workers};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use support::own::{OwnNetwork, free_port};
use support::peer::{Net, Peer};
use support::{alone, until};
use tempfile::TempDir;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Circuits of one stream, and streams of one circuit, that are measured.
const MEASURED: u16 = 900;
/// Those before them make the process take what does not grow later.
const BEFORE: u16 = 40;

/// Bytes that the process holds on the heap.
fn held() -> usize {
    let stats = ALLOCATOR.stats();
    let bytes = stats.bytes_allocated.cast_signed() + stats.bytes_reallocated;
    bytes.cast_unsigned() - stats.bytes_deallocated
}

/// What each of many takes. The last of them makes tables grow, so that half of a table is empty.
fn each(before: usize) -> usize {
    (held() - before) / usize::from(MEASURED)
}

/// The options of a node of the network `file` that is a relay and nothing else.
fn options(state: &StateDir, file: &NetworkFile, listen: SocketAddr) -> RelayOptions {
    RelayOptions {
        network: NetworkHandle::from(file.clone()),
        network_file: None,
        identity: RelayIdentity::on_line(testkit::link_key(1)),
        onion_keys: OnionKeyOptions {
            dir: state.room("keys").unwrap(),
            trust: Trust::Everyone,
            // The keys of this suite take more memory than those of the other one.
            suite: Suite::Aes256Gcm,
        },
        listen,
        advertised: Vec::new(),
        nickname: "counted".to_owned(),
        publish: true,
        claim_kib: None,
        exit: None,
        authority: None,
        workers: Workers::Threads(1),
        world: World::default(),
        cache_dir: state.room("directory").unwrap(),
        limits: Limits {
            memory_bytes: 256 << 20,
            connections: 1_000,
            bandwidth_kib: 0,
            udp_associations: 4_096,
        },
    }
}

/// A network of one node, which is its authority and its exit, and the options of the node.
fn whole_network(state: &StateDir, resolver: SocketAddr) -> (NetworkFile, RelayOptions) {
    let listen = local_address();
    let authority = AuthorityEntry {
        addresses: vec![listen],
        ..testkit::authority(1)
    };
    let file = testkit::network_named("at rest", vec![authority], local_network_params());
    let options = RelayOptions {
        exit: Some(ExitOptions {
            policy: ExitPolicy::from_rules(["accept *:*"])
                .unwrap()
                .allow_private(),
            udp_policy: ExitPolicy::reject_all(),
            resolver: Some(resolver),
        }),
        authority: Some(AuthorityOptions {
            signing_key: testkit::signing_key(1).into(),
            signing_key_file: None,
            state_dir: state.room("authority").unwrap(),
            rules: Default::default(),
            measure: None,
        }),
        ..options(state, &file, listen)
    };
    (file, options)
}

fn state(dir: &TempDir) -> StateDir {
    StateDir::open(&Disk::Real, dir.path(), Trust::Everyone).unwrap()
}

fn local_address() -> SocketAddr {
    SocketAddr::new(Ipv4Addr::LOCALHOST.into(), free_port())
}

/// A server that says one byte of each connection back and keeps the connection. The server's thread allocates nothing
/// later.
fn server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut kept = Vec::with_capacity(4_096);
        while let Ok((mut tcp, _)) = listener.accept() {
            let mut byte = [0];
            if tcp.read_exact(&mut byte).is_ok() {
                tcp.write_all(&byte).unwrap();
            }
            kept.push(tcp);
        }
    });
    address
}

/// Begins the stream `id` on a circuit, and has a byte said and said back.
async fn stream(
    peer: &mut Peer,
    circ: CircId,
    layers: &mut ClientLayers,
    id: u16,
    server: SocketAddr,
) {
    let id = StreamId::new(id).unwrap();
    peer.say(circ, layers, |packer| {
        let host = BeginHost::V4(Ipv4Addr::LOCALHOST.octets());
        packer.begin(id, host, server.port()).unwrap();
        packer.stream(id, StreamMessage::Data(b"x")).unwrap();
    })
    .await;
    let answer = Inward::Stream(id, StreamMessage::Data(b"x"));
    while !heard(peer, circ, layers, &answer).await {}
}

/// Takes the next cell of a circuit and answers its marks. Does the cell hold that message?
async fn heard(
    peer: &mut Peer,
    circ: CircId,
    layers: &mut ClientLayers,
    awaited: &Inward<'_>,
) -> bool {
    let mut cell = peer.next_of(circ).await.expect("an answer");
    layers.open(codec::body_mut(&mut cell)).unwrap();
    let mut is_there = false;
    for said in messages::<Inward<'_>>(payload(codec::body(&cell))) {
        let said = said.unwrap();
        is_there |= said == *awaited;
        if let Inward::Flow(FlowMessage::Mark(mark)) = said {
            let ack = FlowMessage::Ack(mark);
            peer.say(circ, layers, |packer| packer.flow(&ack).unwrap())
                .await;
        }
    }
    is_there
}

/// Begins a stream to a name for which no server ever answers. The exit has begun it when it answers on a stream to its
/// directory that was begun later, which happens with every twentieth.
async fn wait(peer: &mut Peer, circ: CircId, layers: &mut ClientLayers, id: u16) {
    let (waits, last) = (StreamId::new(id).unwrap(), StreamId::new(10_000 + id));
    let (name, last) = (
        format!("host{id}.example"),
        last.filter(|_| id.is_multiple_of(20)),
    );
    peer.say(circ, layers, |packer| {
        packer.begin(waits, BeginHost::Name(&name), 80).unwrap();
        if let Some(last) = last {
            packer.begin_dir(last).unwrap();
        }
    })
    .await;
    if let Some(last) = last {
        while !heard(peer, circ, layers, &Inward::Connected(last)).await {}
    }
}

/// Runs a test in one thread while no other test runs.
fn alone_in_one_thread(test: impl Future) {
    let _alone = alone();
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().unwrap();
    runtime.block_on(test);
}

#[test]
fn what_is_idle_takes_no_more_than_is_charged() {
    alone_in_one_thread(idle());
}

async fn idle() {
    // The streams take two descriptors each, and shells often allow no more than 1,024.
    let files = getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: files.maximum,
        ..files
    };
    setrlimit(Resource::Nofile, most).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (file, options) = whole_network(&state(&dir), silent.local_addr().unwrap());
    let relay = Relay::start(options).await.unwrap();
    let listed = async || {
        let net = Net::look(file.clone()).await;
        let listed = net.filter(|net| !net.relays.is_empty());
        listed.ok_or_else(|| "the consensus does not list the exit".to_owned())
    };
    let net = until("a consensus", Duration::from_secs(60), listed).await;
    let (exit, server) = (net.relays[0].clone(), server());
    let mut peer = net.peer(&exit).await;
    let all = 1..=BEFORE + MEASURED;

    let (circ, mut layers) = net.circuit(&mut peer, &exit, 1).await;
    let mut before = 0;
    for id in all.clone() {
        stream(&mut peer, circ, &mut layers, id, server).await;
        before = if id == BEFORE { held() } else { before };
    }
    let of_stream = each(before);

    for number in all.clone() {
        let (circ, mut layers) = net.circuit(&mut peer, &exit, 1 + u32::from(number)).await;
        stream(&mut peer, circ, &mut layers, 1, server).await;
        before = if number == BEFORE { held() } else { before };
    }
    let of_circuit = each(before);

    let (circ, mut layers) = net.circuit(&mut peer, &exit, 10_000).await;
    for id in all {
        wait(&mut peer, circ, &mut layers, id).await;
        before = if id == BEFORE { held() } else { before };
    }
    let of_waiting = each(before);

    println!("bytes of a stream: {of_stream}, of one that waits for its destination: {of_waiting}");
    println!("bytes of a circuit with a stream: {of_circuit}");
    assert!(of_stream.max(of_waiting) <= STREAM_BYTES);
    assert!(of_circuit <= CIRCUIT_BYTES);
    relay.shutdown().await;
}

#[test]
fn what_passes_takes_no_more_than_is_charged() {
    alone_in_one_thread(passing());
}

async fn passing() {
    let mut own = OwnNetwork::start(&[]);
    let dir = tempfile::tempdir().unwrap();
    let relay = Relay::start(options(&state(&dir), &own.file, local_address())).await;
    let relay = relay.unwrap();
    let net = Net::listing(&own.file, &["counted", "oak"]).await;
    let (entry, next) = (net.named("counted"), net.named("oak"));
    let mut peer = net.peer(entry).await;
    let mut before = 0;
    for number in 1..=BEFORE + MEASURED {
        let id = 1_000 * u32::from(number);
        let (circ, mut layers, keys) = net.passing(&mut peer, entry, next, id).await;
        layers.push(next.suite, keys).unwrap();
        // A cell passes each way: the next relay is no exit and says so.
        peer.say(circ, &mut layers, |packer| {
            let host = BeginHost::V4(Ipv4Addr::LOCALHOST.octets());
            packer.begin(StreamId::new(1).unwrap(), host, 80).unwrap();
        })
        .await;
        let mut cell = peer.next_of(circ).await.expect("an answer");
        layers.open(codec::body_mut(&mut cell)).unwrap();
        before = if number == BEFORE { held() } else { before };
    }
    let of_passing = each(before);
    println!("bytes of a circuit that passes: {of_passing}");
    assert!(of_passing <= PASSING_BYTES);
    relay.shutdown().await;
    own.stop("oak");
}
