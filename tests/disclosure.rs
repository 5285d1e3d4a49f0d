//! Whole networks in one thread on virtual time: what a client gives away by whom it dials and by what it asks for.
//!
//! The file is a process of its own, because a process that is simulated once is never real again.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/simulated.rs"]
mod simulated;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use cepa_client::circuit::isolation::Isolation;
use cepa_client::{Client, ConnectError, ResolveError, StreamTarget};
use cepa_common::dir::{ExitPolicy, local_network_params};
use cepa_common::world::memory::{Event, EventKind, MemoryNetwork};
use cepa_common::world::names::{GivenNames, Names};
use cepa_common::world::sockets::Answer;
use cepa_common::world::{Simulation, simulate};
use cepa_relay::{ExitOptions, Relay, RelayHandle};
use simulated::{
    AUTHORITIES, BEGAN_UNIX_MS, DELAY, address, at, client_options, found, relay_options,
};

/// The last of the relays are exits.
const RELAYS: u32 = 12;
const EXITS: u32 = 4;
/// An exit asks for the IPv4 and for the IPv6 addresses of a name.
const FAMILIES: usize = 2;
const CLIENT: u32 = AUTHORITIES + RELAYS;
/// The host that a name leads to.
const SERVER: u32 = CLIENT + 1;
const HOUR: Duration = Duration::from_secs(3_600);
/// Within this time a local network has a consensus that lists all relays.
const FOUNDING: Duration = Duration::from_secs(30);

static SIMULATION: LazyLock<Simulation> = LazyLock::new(|| simulate().unwrap());

/// Names that count how often they are asked for.
struct CountedNames(AtomicUsize);

impl GivenNames for CountedNames {
    fn lookup<'a>(&'a self, _: &'a str) -> Answer<'a, Vec<IpAddr>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Box::pin(async { Ok(vec![address(SERVER)]) })
    }
}

/// Starts the relays of a network with these parameters, whose exits let nobody to [`SERVER`], and says so only once
/// they have looked it up.
async fn relays(
    network: &MemoryNetwork,
    params: BTreeMap<String, u32>,
    names: &Arc<CountedNames>,
) -> (cepa_common::dir::NetworkFile, Vec<RelayHandle>) {
    let file = found(params);
    let mut relays = Vec::new();
    for node in 0..CLIENT {
        let is_exit = node + EXITS >= CLIENT;
        let mut world = network.world(address(node));
        world.names = Names::Given(names.clone());
        let mut options = relay_options(node, is_exit, &file, world);
        if is_exit {
            let rejected = format!("reject {}:*", address(SERVER));
            options.exit = Some(ExitOptions {
                policy: ExitPolicy::from_rules([rejected.as_str(), "accept *:*"]).unwrap(),
                udp_policy: ExitPolicy::from_rules([rejected.as_str(), "accept *:*"]).unwrap(),
                resolver: None,
            });
        }
        relays.push(at(node, Relay::start(options)).await.unwrap());
    }
    (file, relays)
}

async fn stop(client: Client, relays: Vec<RelayHandle>) {
    client.shutdown().await;
    for relay in relays {
        relay.shutdown().await;
    }
}

/// A local network with the interval of a real one.
fn hourly() -> BTreeMap<String, u32> {
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

/// What happened while a client that nobody uses was up for a day, and how many circuits it built.
async fn day() -> (Vec<Event>, u64) {
    let network = MemoryNetwork::new(BEGAN_UNIX_MS, DELAY, BTreeMap::new());
    let names = Arc::new(CountedNames(AtomicUsize::new(0)));
    let (file, relays) = relays(&network, hourly(), &names).await;
    // By then there is a consensus that lists all relays.
    tokio::time::sleep(2 * HOUR).await;
    let options = client_options(&file, network.world(address(CLIENT)));
    let client = at(CLIENT, Client::bootstrap(options)).await.unwrap();
    tokio::time::sleep(24 * HOUR).await;
    let built = client.circuits().counts().built;
    stop(client, relays).await;
    (network.log(), built)
}

#[test]
fn in_a_day_a_client_dials_its_guards_and_whom_the_networks_file_names() {
    let (log, built) = SIMULATION.run(7, Box::pin(day())).unwrap();
    let dialled = log
        .iter()
        .filter(|event| event.host == address(CLIENT) && event.kind == EventKind::Dial);
    let dialled: BTreeSet<IpAddr> = dialled.map(|event| event.peer.ip()).collect();
    let authorities: BTreeSet<_> = (0..AUTHORITIES).map(address).collect();
    let relays: BTreeSet<_> = dialled.difference(&authorities).collect();
    assert!(!relays.is_empty(), "the client has guards");
    // There are three primary guards, and none failed.
    assert!(relays.len() <= 3, "these relays saw the client: {relays:?}");
    // Whoever builds more circuits than it uses lets more relays see it, and costs the network handshakes.
    assert!(
        built <= 24,
        "a client that nobody uses built {built} circuits"
    );
}

/// A client of a network that stands, its relays, and the names that exits ask for.
async fn client_and_exits() -> (Client, Vec<RelayHandle>, Arc<CountedNames>) {
    let network = MemoryNetwork::new(BEGAN_UNIX_MS, DELAY, BTreeMap::new());
    let names = Arc::new(CountedNames(AtomicUsize::new(0)));
    let (file, relays) = relays(&network, local_network_params(), &names).await;
    tokio::time::sleep(FOUNDING).await;
    let options = client_options(&file, network.world(address(CLIENT)));
    let client = at(CLIENT, Client::bootstrap(options)).await.unwrap();
    (client, relays, names)
}

/// How many look-ups exits made for a stream without first bytes, for one with them, and for special names.
async fn lookups() -> [usize; 3] {
    let (client, relays, names) = client_and_exits().await;
    let made = |before: usize| names.0.load(Ordering::Relaxed) - before;

    let target = StreamTarget::name("pages.example", 80).unwrap();
    let open = |early: &'static [u8]| {
        let (client, target) = (client.clone(), target.clone());
        at(CLIENT, async move {
            let opened = client.connect_with(target, Isolation::session(0), early);
            let refused = opened.await.map(|_| ()).expect_err("no exit lets to it");
            assert!(matches!(refused, ConnectError::Stream(_)), "{refused}");
        })
    };
    open(b"").await;
    let silent = made(0);
    open(b"my password").await;
    let speaking = made(silent);

    for name in [
        "localhost",
        "a.local",
        "b.internal",
        "c.home.arpa",
        "D.Onion",
        "e.alt",
    ] {
        let (client, target) = (client.clone(), format!("{name}:80"));
        let opened = at(
            CLIENT,
            async move { client.connect(&target).await.map(|_| ()) },
        );
        let refused = opened.await.expect_err("no exit knows it");
        assert!(
            matches!(refused, ConnectError::Special(_)),
            "{name}: {refused}"
        );
    }
    let special = made(silent + speaking);
    stop(client, relays).await;
    [silent, speaking, special]
}

#[test]
fn first_bytes_are_said_to_one_exit_and_special_names_to_none() {
    let [silent, speaking, special] = SIMULATION.run(7, Box::pin(lookups())).unwrap();
    assert_eq!(silent, FAMILIES * 3, "three of the exits are tried");
    assert_eq!((speaking, special), (FAMILIES, 0));
}

/// What exits say of a name, how often they ask for it when two clients want to know, and of what they never hear.
async fn known_names() -> [usize; 3] {
    let (client, relays, names) = client_and_exits().await;
    let made = |before: usize| names.0.load(Ordering::Relaxed) - before;
    let resolve = |client: &Client, name: &'static str| {
        let client = client.clone();
        at(CLIENT, async move { client.resolve(name).await })
    };
    for name in ["pages.example", "Pages.EXAMPLE."] {
        assert_eq!(resolve(&client, name).await.unwrap(), [address(SERVER)]);
    }
    let first = made(0);
    let other = client.isolated();
    assert_eq!(
        resolve(&other, "pages.example").await.unwrap(),
        [address(SERVER)]
    );
    let second = made(first);
    for name in [
        "localhost",
        "a.local",
        "e.alt",
        "x.cepa",
        "a.test",
        "b.invalid",
    ] {
        let refused = resolve(&client, name).await.expect_err("no exit knows it");
        assert!(
            matches!(refused, ResolveError::Special(_)),
            "{name}: {refused}"
        );
    }
    let reverse = |ip: [u8; 4]| {
        let client = client.clone();
        at(CLIENT, async move { client.resolve_ptr(ip.into()).await })
    };
    let private = reverse([192, 168, 0, 1]).await;
    assert!(matches!(private, Err(ResolveError::Private)), "{private:?}");
    let never = made(first + second);
    // These names know addresses alone.
    let none = reverse([8, 8, 8, 8]).await;
    assert!(matches!(none, Err(ResolveError::NoRecords)), "{none:?}");
    // A new identity knows nothing of what was before.
    client.new_identity();
    let before = names.0.load(Ordering::Relaxed);
    resolve(&client, "pages.example").await.unwrap();
    assert_eq!(made(before), FAMILIES);
    stop(client, relays).await;
    [first, second, never]
}

#[test]
fn exits_are_asked_for_names_once_a_client_and_never_for_what_is_not_theirs() {
    let [first, second, never] = SIMULATION.run(7, Box::pin(known_names())).unwrap();
    assert_eq!((first, second, never), (FAMILIES, FAMILIES, 0));
}
