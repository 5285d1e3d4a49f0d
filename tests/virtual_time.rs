//! A whole network in one thread on virtual time: one seed gives one log of events, and another seed another.
//!
//! The file is a process of its own, because a process that is simulated once is never real again.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/simulated.rs"]
mod simulated;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use cepa_client::{Client, ClientOptions};
use cepa_common::dir::local_network_params;
use cepa_common::state::{StateDir, StateError, Trust};
use cepa_common::world::memory::{Event, EventKind, MemoryNetwork};
use cepa_common::world::sockets::SocketStream;
use cepa_common::world::{Disk, Simulation, Sockets, World, simulate};
use simulated::{
    AUTHORITIES, BEGAN_UNIX_MS, DELAY, STATE, address, client_options, found, life, start_relays,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const RELAYS: u32 = 6;
/// The node that is an exit, after authorities and relays.
const EXIT: u32 = AUTHORITIES + RELAYS;
const CLIENTS: u32 = 2;
/// The node that clients fetch pages from; it is in no directory.
const SERVER: u32 = EXIT + CLIENTS + 1;
/// Within this time the authorities have agreed on a consensus that lists all relays.
const FOUNDING: Duration = Duration::from_secs(30);
/// Bytes of the pages that each client fetches.
const PAGES: [usize; 3] = [1, 30_000, 400_000];

/// Answers each request, which is a number, with that many bytes.
async fn serve(world: World) {
    let listener = world.sockets.bind(SocketAddr::new(address(SERVER), 80));
    let listener = listener.await.unwrap();
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(page(stream));
    }
}

async fn page(mut stream: SocketStream) {
    let mut request = Vec::new();
    while !request.ends_with(b"\n") {
        if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let bytes = String::from_utf8(request).unwrap();
    let bytes = bytes.trim().parse().unwrap();
    let _ = stream.write_all(&content(bytes)).await;
    let _ = stream.shutdown().await;
}

fn content(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|place| (place % 251) as u8).collect()
}

/// Fetches all pages by one client.
async fn fetch(options: ClientOptions) {
    let client = Client::bootstrap(options).await.unwrap();
    for bytes in PAGES {
        let mut stream = client.connect("pages.example:80").await.unwrap();
        let request = format!("{bytes}\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).await.unwrap();
        assert!(got == content(bytes), "a page arrives whole");
    }
    client.shutdown().await;
}

/// What happened in a run, and the files that each node has left.
struct Run {
    log: Vec<Event>,
    files: Vec<(u32, PathBuf)>,
}

/// Founds a network, has both clients fetch their pages and stops all of it.
async fn run() -> Run {
    let names = BTreeMap::from([("pages.example".to_owned(), address(SERVER))]);
    let network = MemoryNetwork::new(BEGAN_UNIX_MS, DELAY, names);
    let world = |node| network.world(address(node));
    let file = found(local_network_params());
    let relays = start_relays(&network, &file, EXIT).await;
    let server = Simulation::in_node(life(SERVER), || tokio::spawn(serve(world(SERVER))));
    tokio::time::sleep(FOUNDING).await;
    let clients: Vec<_> = (EXIT + 1..=EXIT + CLIENTS)
        .map(|node| {
            let world = world(node);
            let options = client_options(&file, world);
            Simulation::in_node(life(node), || tokio::spawn(fetch(options)))
        })
        .collect();
    for client in clients {
        client.await.expect("every page arrives");
    }
    for relay in relays {
        relay.shutdown().await;
    }
    server.abort();
    let disk = |node| {
        let names = network.disk(address(node)).names();
        names.into_iter().map(move |name| (node, name))
    };
    Run {
        log: network.log(),
        files: (0..=EXIT + CLIENTS).flat_map(disk).collect(),
    }
}

/// Fails with the first difference between the two logs.
fn assert_same(one: &[Event], other: &[Event]) {
    let mut pairs = one.iter().zip(other).enumerate();
    if let Some((place, (one, other))) = pairs.find(|(_, (one, other))| one != other) {
        panic!("event {place} differs: {one:?} and {other:?}");
    }
    assert_eq!(one.len(), other.len());
}

#[test]
fn a_seed_decides_all_that_happens_in_a_network() {
    let simulation = simulate().unwrap();
    let run = |seed| simulation.run(seed, Box::pin(run())).unwrap();
    let (one, again, other) = (run(7), run(7), run(8));
    let fetched = one.log.iter().filter(|event| {
        event.host == address(SERVER) && event.kind == EventKind::Send && event.bytes > 0
    });
    let fetched: usize = fetched.map(|event| event.bytes).sum();
    assert_eq!(fetched, CLIENTS as usize * PAGES.iter().sum::<usize>());
    assert_same(&one.log, &again.log);
    assert_ne!(one.log, other.log);
    assert_eq!(one.files, again.files);
    // All that a node keeps is on its own disk in memory.
    let has = |node, name: &str| {
        let begins = format!("{STATE}/{name}");
        let is_it = |path: &PathBuf| path.to_str().unwrap().starts_with(&begins);
        one.files
            .iter()
            .any(|(of, path)| *of == node && is_it(path))
    };
    assert!(has(0, "authority/signed") && has(0, "authority/relays"));
    assert!(has(EXIT, "keys/onion-times") && has(EXIT, "keys/onion-1-aes-256-gcm"));
    assert!(has(EXIT, "directory/consensus-") && has(EXIT + CLIENTS, "client/consensus-"));
    assert!(has(EXIT + CLIENTS, "client/guards-"));

    // The process is simulated for good: it never speaks to anybody real with keys that a seed decides.
    assert!(simulate().is_err());
    let dir = std::env::temp_dir();
    let state = StateDir::open(&Disk::Real, &dir.join("state"), Trust::OwnerOnly);
    assert!(matches!(state, Err(StateError::Simulated { .. })));
    let real = async { tokio::spawn(Sockets::Tcp.bind(([127, 0, 0, 1], 0).into())).await };
    assert!(simulation.run(7, real).unwrap().is_err());
}
