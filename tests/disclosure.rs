//! A whole network in one thread on virtual time: what a client gives away in a day by whom it dials.
//!
//! The file is a process of its own, because a process that is simulated once is never real again.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/simulated.rs"]
mod simulated;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use cepa_client::Client;
use cepa_common::dir::local_network_params;
use cepa_common::world::memory::{Event, EventKind, MemoryNetwork};
use cepa_common::world::simulate;
use cepa_relay::{Relay, RelayHandle};
use simulated::{
    AUTHORITIES, BEGAN_UNIX_MS, DELAY, address, at, client_options, found, relay_options,
};

/// The last of the relays is the exit.
const RELAYS: u32 = 12;
const CLIENT: u32 = AUTHORITIES + RELAYS;
const HOUR: Duration = Duration::from_secs(3_600);

/// A local network with the interval of a real one.
fn params() -> BTreeMap<String, u32> {
    let mut params = local_network_params();
    for (name, seconds) in [
        ("vote_interval_seconds", 3_600),
        ("consensus_valid_seconds", 3 * 3_600),
        ("reachability_interval_seconds", 1_200),
        ("descriptor_interval_seconds", 6 * 3_600),
    ] {
        params.insert(name.to_owned(), seconds);
    }
    params
}

/// What happened while a client that nobody uses was up for a day.
async fn day() -> Vec<Event> {
    let network = MemoryNetwork::new(BEGAN_UNIX_MS, DELAY, BTreeMap::new());
    let file = found(params());
    let mut relays: Vec<RelayHandle> = Vec::new();
    for node in 0..CLIENT {
        let options = relay_options(
            node,
            node + 1 == CLIENT,
            &file,
            network.world(address(node)),
        );
        relays.push(at(node, Relay::start(options)).await.unwrap());
    }
    // By then there is a consensus that lists all relays.
    tokio::time::sleep(2 * HOUR).await;
    let options = client_options(&file, network.world(address(CLIENT)));
    let client = at(CLIENT, Client::bootstrap(options)).await.unwrap();
    tokio::time::sleep(24 * HOUR).await;
    client.shutdown().await;
    for relay in relays {
        relay.shutdown().await;
    }
    network.log()
}

#[test]
fn in_a_day_a_client_dials_its_guards_and_whom_the_networks_file_names() {
    let log = simulate().unwrap().run(7, Box::pin(day())).unwrap();
    let dialled = log
        .iter()
        .filter(|event| event.host == address(CLIENT) && event.kind == EventKind::Dial);
    let dialled: BTreeSet<IpAddr> = dialled.map(|event| event.peer.ip()).collect();
    let authorities: BTreeSet<_> = (0..AUTHORITIES).map(address).collect();
    let relays: BTreeSet<_> = dialled.difference(&authorities).collect();
    assert!(!relays.is_empty(), "the client has guards");
    // Primary guards are three, and none failed.
    assert!(
        relays.len() <= 3,
        "{} relays saw the client: {relays:?}",
        relays.len()
    );
}
