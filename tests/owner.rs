//! A whole network in one thread on virtual time: what an owner changes of a relay that runs.
//!
//! The file is a process of its own, because a process that is simulated once is never real again.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/simulated.rs"]
mod simulated;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use cepa_client::{Client, DatagramIo, StreamIo};
use cepa_common::dir::{ExitPolicy, local_network_params};
use cepa_common::world::memory::MemoryNetwork;
use cepa_common::world::{Simulation, World, simulate};
use cepa_relay::{ExitOptions, Limits, Owner, Relay, Settings};
use simulated::{
    AUTHORITIES, BEGAN_UNIX_MS, DELAY, address, at, client_options, found, life, relay_options,
    say_back,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};

/// The last of the relays is the exit.
const RELAYS: u32 = 5;
const CLIENT: u32 = AUTHORITIES + RELAYS;
/// A host that says everything back, on each of these ports.
const SERVER: u32 = CLIENT + 1;
const PORTS: [u16; 2] = [80, 443];
/// Within this time a local network has a consensus that lists all relays, and another one after a change.
const FOUNDING: Duration = Duration::from_secs(30);
/// What a few round trips through the network take, at most.
const MOMENT: Duration = Duration::from_secs(3);

/// Do bytes go to the server and back? If not, why.
async fn ping(stream: &mut StreamIo) -> Result<(), ErrorKind> {
    let mut answer = [0; 4];
    let said = async {
        stream.write_all(b"ping").await?;
        stream.read_exact(&mut answer).await
    };
    said.await.map(drop).map_err(|error| error.kind())
}

/// Sends back each datagram.
async fn echo_datagrams(world: World, port: u16) {
    let socket = SocketAddr::new(address(SERVER), port);
    let socket = world.sockets.bind_datagrams(socket).unwrap();
    loop {
        let mut come = Vec::new();
        let each = |from, bytes: &[u8]| come.push((from, bytes.to_vec()));
        socket.receive(each).await.unwrap();
        for (from, bytes) in come {
            socket.try_send_to(&bytes, from).unwrap();
        }
    }
}

/// Does a datagram go to the server and back within a moment?
async fn ask(io: &DatagramIo, port: u16) -> Option<()> {
    let to = SocketAddr::new(address(SERVER), port);
    io.send(&to.to_string(), &port.to_be_bytes()).unwrap();
    let heard = async {
        loop {
            if io.recv().await.unwrap().from == to {
                return;
            }
        }
    };
    timeout(MOMENT, heard).await.ok()
}

async fn open(client: &Client, port: u16) -> StreamIo {
    let client = client.clone();
    let target = format!("echo.example:{port}");
    let opened = at(CLIENT, async move { client.connect(&target).await });
    opened.await.expect("the exit takes the stream")
}

/// Settings of the exit, with these rules for streams and for datagrams.
fn settings(limits: Limits, rules: &[&str], udp_rules: &[&str]) -> Settings {
    Settings {
        limits,
        nickname: "renamed".to_owned(),
        claim_kib: Some(777),
        exit: Some(ExitOptions {
            policy: ExitPolicy::from_rules(rules).unwrap(),
            udp_policy: ExitPolicy::from_rules(udp_rules).unwrap(),
            resolver: None,
        }),
        word: None,
    }
}

/// Has the exit take settings, as one of its tasks would.
async fn set(owner: &Owner, settings: Settings) -> usize {
    let owner = owner.clone();
    at(CLIENT - 1, async move { owner.set(settings).streams }).await
}

async fn run() {
    let names = BTreeMap::from([("echo.example".to_owned(), address(SERVER))]);
    let network = MemoryNetwork::new(BEGAN_UNIX_MS, DELAY, names);
    let world = |node| network.world(address(node));
    let file = found(local_network_params());
    let mut relays = Vec::new();
    let mut limits = None;
    for node in 0..CLIENT {
        let options = relay_options(node, node + 1 == CLIENT, &file, world(node));
        limits = Some(options.limits);
        relays.push(at(node, Relay::start(options)).await.unwrap());
    }
    let limits = limits.unwrap();
    let exit = relays.last().unwrap();
    let owner = exit.owner().clone();
    let servers = PORTS.map(|port| {
        let (streams, datagrams) = (
            say_back(world(SERVER), SERVER, port),
            echo_datagrams(world(SERVER), port),
        );
        let both = async move { tokio::join!(streams, datagrams) };
        Simulation::in_node(life(SERVER), || tokio::spawn(both))
    });
    sleep(FOUNDING).await;
    let options = client_options(&file, world(CLIENT));
    let client = at(CLIENT, Client::bootstrap(options)).await.unwrap();

    let (mut web, mut tls) = (open(&client, 80).await, open(&client, 443).await);
    ping(&mut web).await.unwrap();
    ping(&mut tls).await.unwrap();
    let io = client.udp();
    let datagrams = at(CLIENT, async move {
        for port in PORTS {
            ask(&io, port).await.expect("the exit takes datagrams");
        }
        io
    });
    let datagrams = datagrams.await;
    assert_eq!(exit.open_streams(), 3);

    // The policy is asked again of what is open: what it refuses ends with the reason, and the rest goes on.
    let rules = ["reject *:80", "accept *:*"];
    let ended = set(&owner, settings(limits, &rules, &["accept *:443"])).await;
    assert_eq!(ended, 1);
    assert_eq!(ping(&mut web).await, Err(ErrorKind::PermissionDenied));
    ping(&mut tls).await.unwrap();
    assert_eq!(exit.open_streams(), 2, "a stream and an association");
    let datagrams = at(CLIENT, async move {
        assert!(ask(&datagrams, 80).await.is_none(), "this peer is refused");
        ask(&datagrams, 443).await.expect("this one goes on");
        datagrams
    });
    let datagrams = datagrams.await;

    // The same again ends nothing. Limits that are lowered end no stream that they allow.
    let few = Limits {
        connections: 40,
        bandwidth_kib: 200,
        udp_associations: 1,
        ..limits
    };
    assert_eq!(
        set(&owner, settings(few, &rules, &["accept *:443"])).await,
        0
    );
    ping(&mut tls).await.unwrap();

    // The rate is the one that was set: 400 KiB go out and come back at 200 KiB a second.
    let began = Instant::now();
    let bytes = vec![7; 400 << 10];
    let (mut reads, mut writes) = tokio::io::split(tls);
    let (wrote, read) = tokio::join!(writes.write_all(&bytes), async {
        let mut back = vec![0; bytes.len()];
        reads.read_exact(&mut back).await.map(|_| back == bytes)
    });
    wrote.unwrap();
    assert!(read.unwrap());
    let took = began.elapsed();
    let usual = Duration::from_secs(2);
    assert!(took > usual && took < 5 * usual, "{took:?}");
    let mut tls = reads.unsplit(writes);

    // An exit that is busy at so low a rate answers no authority in time: it gets the usual one back.
    set(&owner, settings(limits, &rules, &["accept *:443"])).await;

    // The directory hears of it, and the client begins nothing there that is refused.
    sleep(FOUNDING).await;
    let consensus = client.consensus().unwrap();
    let standing = exit.view().snapshot().standing;
    let entry = consensus.relay(&exit.identity());
    let entry = entry.unwrap_or_else(|| panic!("the exit is listed: {standing:?}"));
    assert_eq!(entry.nickname, "renamed");
    assert!(entry.policy.allows_v4(443) && !entry.policy.allows_port(80));
    assert!(entry.udp.allows_v4(443) && !entry.udp.allows_port(53));

    // An association that has no peer left ends, and one more reaches nobody.
    let refused = settings(
        limits,
        &rules,
        &["reject *:80", "reject *:443", "accept *:*"],
    );
    assert_eq!(set(&owner, refused).await, 0);
    sleep(MOMENT).await;
    assert_eq!(exit.open_streams(), 1, "the stream alone");
    let reached = at(CLIENT, async move { ask(&datagrams, 443).await }).await;
    assert!(reached.is_none());
    ping(&mut tls).await.unwrap();

    client.shutdown().await;
    for relay in relays {
        relay.shutdown().await;
    }
    servers.iter().for_each(|server| server.abort());
}

#[test]
fn an_owner_changes_a_relay_that_runs() {
    simulate().unwrap().run(7, Box::pin(run())).unwrap();
}
