//! A whole network in one thread on virtual time: how an exit stops.
//!
//! The file is a process of its own, because a process that is simulated once is never real again.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/simulated.rs"]
mod simulated;

use std::collections::BTreeMap;
use std::time::Duration;

use cepa_client::Client;
use cepa_client::StreamIo;
use cepa_common::dir::local_network_params;
use cepa_common::world::memory::MemoryNetwork;
use cepa_common::world::{Simulation, simulate};
use cepa_relay::{Relay, RelayHandle};
use simulated::{
    AUTHORITIES, BEGAN_UNIX_MS, DELAY, address, at, client_options, found, life, relay_options,
    say_back,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep};

/// The last two of the relays are exits.
const RELAYS: u32 = 6;
const CLIENT: u32 = AUTHORITIES + RELAYS;
/// A host that says everything back.
const SERVER: u32 = CLIENT + 1;
/// Within this time a local network has a consensus that lists all relays.
const FOUNDING: Duration = Duration::from_secs(30);
const LIMIT: Duration = Duration::from_secs(30);
/// What a few round trips through the network take, at most.
const MOMENT: Duration = Duration::from_secs(3);

/// Do bytes go to the server and back?
async fn answers(stream: &mut StreamIo) -> bool {
    let mut answer = [0; 4];
    stream.write_all(b"ping").await.is_ok()
        && stream.read_exact(&mut answer).await.is_ok()
        && answer == *b"ping"
}

async fn open(client: &Client) -> StreamIo {
    let client = client.clone();
    let opened = at(
        CLIENT,
        async move { client.connect("echo.example:80").await },
    );
    opened.await.expect("an exit takes the stream")
}

/// The exit that carries the one stream there is, and the other.
fn by_use(mut exits: Vec<RelayHandle>) -> (RelayHandle, RelayHandle) {
    let used = exits.iter().position(|exit| exit.open_streams() == 1);
    let used = exits.remove(used.expect("an exit carries the stream"));
    (used, exits.pop().unwrap())
}

async fn run() {
    let names = BTreeMap::from([("echo.example".to_owned(), address(SERVER))]);
    let network = MemoryNetwork::new(BEGAN_UNIX_MS, DELAY, names);
    let world = |node| network.world(address(node));
    let file = found(local_network_params());
    let mut relays = Vec::new();
    for node in 0..CLIENT {
        let options = relay_options(node, node + 2 >= CLIENT, &file, world(node));
        relays.push(at(node, Relay::start(options)).await.unwrap());
    }
    let exits = relays.split_off(relays.len() - 2);
    let server = Simulation::in_node(life(SERVER), || {
        tokio::spawn(say_back(world(SERVER), SERVER, 80))
    });
    sleep(FOUNDING).await;
    let options = client_options(&file, world(CLIENT));
    let client = at(CLIENT, Client::bootstrap(options)).await.unwrap();

    // A stream that is open goes on, another begins at the other exit, and the exit stops as soon as the first ends.
    let mut first = open(&client).await;
    assert!(answers(&mut first).await);
    let (stopping, other) = by_use(exits);
    let began = Instant::now();
    let drained = tokio::spawn(async move {
        stopping.drain(LIMIT).await;
        Instant::now()
    });
    sleep(LIMIT / 2).await;
    assert!(answers(&mut first).await, "the exit lets the stream go on");
    let mut second = open(&client).await;
    assert!(answers(&mut second).await);
    assert_eq!(other.open_streams(), 1);
    drop(first);
    let ended = drained.await.unwrap();
    let after = ended.duration_since(began);
    assert!(
        after >= LIMIT / 2 && after < LIMIT / 2 + MOMENT,
        "{after:?}"
    );

    // A stream that does not end is cut off when the time is over.
    let began = Instant::now();
    other.drain(LIMIT).await;
    let after = began.elapsed();
    assert!(after >= LIMIT && after < LIMIT + MOMENT, "{after:?}");
    assert!(!answers(&mut second).await);

    client.shutdown().await;
    for relay in relays {
        relay.shutdown().await;
    }
    server.abort();
}

#[test]
fn an_exit_that_stops_lets_its_streams_end_and_takes_no_more() {
    simulate().unwrap().run(7, Box::pin(run())).unwrap();
}
