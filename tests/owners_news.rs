//! A whole network in one thread on virtual time: what the owner of a relay or an authority hears when things go wrong.
//!
//! The file is a process of its own, because a process that is simulated once is never real again.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/simulated.rs"]
mod simulated;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::Duration;

use cepa_client::Client;
use cepa_common::dir::{NetworkFile, local_network_params};
use cepa_common::world::memory::MemoryNetwork;
use cepa_common::world::{Clock, Simulation, World, simulate};
use cepa_relay::{AuthorityEvent, Listing, Relay, RelayEvent, RelayEvents, RelayHandle};
use simulated::{
    AUTHORITIES, BEGAN_UNIX_MS, DELAY, address, at, client_options, found, relay_options,
};
use tokio::time::{Instant, timeout};
use tracing::Level;

const RELAY: u32 = AUTHORITIES;
const OTHER: u32 = RELAY + 1;
const CLIENT: u32 = OTHER + 1;
const TWO_HOURS: u64 = 7_200;
const DAY_MS: u64 = 86_400_000;
/// Within this time whatever a test waits for has happened, on virtual time.
const PATIENCE: Duration = Duration::from_secs(700);

static SIMULATION: LazyLock<Simulation> = LazyLock::new(|| simulate().unwrap());

struct Network {
    memory: MemoryNetwork,
    file: NetworkFile,
    authorities: Vec<RelayHandle>,
}

impl Network {
    async fn begin() -> Self {
        let memory = MemoryNetwork::new(BEGAN_UNIX_MS, DELAY, BTreeMap::new());
        let mut network = Self {
            memory,
            file: found(local_network_params()),
            authorities: Vec::new(),
        };
        for node in 0..AUTHORITIES {
            let world = network.world(node);
            let authority = network.relay(node, world, None).await;
            network.authorities.push(authority);
        }
        network
    }

    fn world(&self, node: u32) -> World {
        self.memory.world(address(node))
    }

    async fn relay(&self, node: u32, world: World, advertised: Option<SocketAddr>) -> RelayHandle {
        let mut options = relay_options(node, false, &self.file, world);
        options.advertised.extend(advertised);
        at(node, Relay::start(options)).await.unwrap()
    }

    async fn end(self, relays: Vec<RelayHandle>) {
        for relay in self.authorities.into_iter().chain(relays) {
            relay.shutdown().await;
        }
    }
}

/// Waits for an event that fits, and gives the line that the owner reads.
async fn hear(events: &mut RelayEvents, fits: impl Fn(&RelayEvent) -> bool) -> String {
    let mut others = BTreeSet::new();
    let heard = async {
        loop {
            let event = events.next().await.expect("the relay runs");
            if fits(&event) {
                return event.to_string();
            }
            others.insert(event.to_string());
        }
    };
    let heard = timeout(PATIENCE, heard).await;
    heard.unwrap_or_else(|_| panic!("the owner hears this alone: {others:#?}"))
}

/// A relay whose clock is two hours ahead.
async fn wrong_clock() {
    let network = Network::begin().await;
    let world = network.world(RELAY);
    let right = world.clock.clone();
    let clock = Clock::from_fn(move || right.now_ms() + TWO_HOURS * 1_000);
    let relay = network.relay(RELAY, World { clock, ..world }, None).await;
    let (mut clock, mut answers) = (relay.events(), relay.events());
    let said = hear(&mut clock, |event| {
        matches!(event, RelayEvent::Clock { .. })
    })
    .await;
    assert!(said.contains("2 hours ahead"), "{said}");
    let said = hear(&mut answers, |event| {
        matches!(event, RelayEvent::Published { .. })
    })
    .await;
    assert!(said.starts_with("0 of 3 authorities took"), "{said}");
    network.end(vec![relay]).await;
}

#[test]
fn a_relay_with_a_wrong_clock_says_so_and_that_authorities_refuse_it() {
    SIMULATION.run(7, Box::pin(wrong_clock())).unwrap();
}

/// How long a stream waits at a client whose clock is a day behind, and what it is told.
async fn stream_of_a_client_in_the_past() -> (Duration, String) {
    let network = Network::begin().await;
    let relay = network.relay(RELAY, network.world(RELAY), None).await;
    let listed = |event: &RelayEvent| *event == RelayEvent::Listing(Listing::Reachable);
    hear(&mut relay.events(), listed).await;
    let world = network.world(CLIENT);
    let right = world.clock.clone();
    let clock = Clock::from_fn(move || right.now_ms() - DAY_MS);
    let options = client_options(&network.file, World { clock, ..world });
    let opened = at(CLIENT, async move {
        let (client, _events) = Client::start(options).await;
        let began = Instant::now();
        let opened = client.connect("pages.example:80").await;
        let refused = opened
            .map(|_| ())
            .expect_err("there is no consensus of yesterday");
        client.shutdown().await;
        (began.elapsed(), refused.to_string())
    });
    let told = opened.await;
    network.end(vec![relay]).await;
    told
}

#[test]
fn a_client_whose_clock_is_behind_refuses_streams_at_once_with_the_reason() {
    let told = SIMULATION.run(7, Box::pin(stream_of_a_client_in_the_past()));
    let (after, said) = told.unwrap();
    assert!(said.contains("clock is behind by about 1 day"), "{said}");
    assert!(after < Duration::from_secs(10), "{after:?}");
}

/// A relay that is not where it says.
async fn unreachable() {
    let network = Network::begin().await;
    let elsewhere = SocketAddr::new(address(OTHER), simulated::PORT);
    let relay = network
        .relay(RELAY, network.world(RELAY), Some(elsewhere))
        .await;
    let mut events = relay.events();
    let absent = |event: &RelayEvent| *event == RelayEvent::Listing(Listing::Absent);
    let said = hear(&mut events, absent).await;
    assert!(said.contains("have not reached it"), "{said}");
    network.end(vec![relay]).await;
}

#[test]
fn a_relay_that_nobody_reaches_says_so() {
    SIMULATION.run(7, Box::pin(unreachable())).unwrap();
}

/// Two of three authorities end.
async fn no_quorum() {
    let mut network = Network::begin().await;
    let relay = network.relay(RELAY, network.world(RELAY), None).await;
    let mut events = relay.events();
    let listed = |event: &RelayEvent| *event == RelayEvent::Listing(Listing::Reachable);
    hear(&mut events, listed).await;
    let last = network.authorities.remove(0);
    network.end(Vec::new()).await;
    let too_few = |event: &RelayEvent| {
        let is_it = matches!(
            event,
            RelayEvent::Authority(AuthorityEvent::NoQuorum { .. })
        );
        is_it && event.level() == Level::WARN
    };
    let said = hear(&mut last.events(), too_few).await;
    assert!(
        said.contains("1 of 2 that are needed; no vote of"),
        "{said}"
    );
    assert!(said.contains("2 periods in a row"), "{said}");
    let missed = |event: &RelayEvent| matches!(event, RelayEvent::ConsensusMissed { .. });
    let said = hear(&mut events, missed).await;
    assert!(said.contains("clients can still use the old one"), "{said}");
    let said = hear(&mut events, missed).await;
    assert!(said.contains("has expired"), "{said}");
    relay.shutdown().await;
    last.shutdown().await;
}

#[test]
fn an_authority_without_a_quorum_and_a_relay_without_a_consensus_say_so() {
    SIMULATION.run(7, Box::pin(no_quorum())).unwrap();
}
