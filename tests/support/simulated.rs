//! A network of nodes in memory, on virtual time: authorities, relays, an exit and clients, each at an address of its
//! own.
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use cepa_client::ClientOptions;
use cepa_common::dir::{AuthorityEntry, ExitPolicy, NetworkFile};
use cepa_common::net::directory::NetworkHandle;
use cepa_common::onion::Suite;
use cepa_common::state::{StateDir, Trust};
use cepa_common::testkit;
use cepa_common::world::memory::MemoryNetwork;
use cepa_common::world::{NodeLife, Simulation, World};
use cepa_relay::keys::RelayIdentity;
use cepa_relay::keys::ring::OnionKeyOptions;
use cepa_relay::{
    AuthorityOptions, ExitOptions, Limits, Relay, RelayHandle, RelayOptions, Workers,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Nodes with lower numbers are authorities.
pub(crate) const AUTHORITIES: u32 = 3;
pub(crate) const PORT: u16 = 9_400;
/// The state directory of each node, on its own disk.
pub(crate) const STATE: &str = "/state";
/// When the network begins: 2030-03-17, 17:46:40 UTC.
pub(crate) const BEGAN_UNIX_MS: u64 = 1_900_000_000_000;
/// How long a byte takes from host to host.
pub(crate) const DELAY: Duration = Duration::from_millis(15);

pub(crate) fn address(node: u32) -> IpAddr {
    Ipv4Addr::new(20 + u8::try_from(node).unwrap(), 0, 0, 1).into()
}

/// The number by which the testkit makes a node's keys: authorities have the numbers from 1 on.
pub(crate) fn number(node: u32) -> u8 {
    u8::try_from(node).unwrap() + 1
}

/// A host that says everything back which comes to this port.
pub(crate) async fn say_back(world: World, host: u32, port: u16) {
    let listener = world.sockets.bind(SocketAddr::new(address(host), port));
    let listener = listener.await.unwrap();
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut bytes = vec![0; 16 << 10];
            while let Ok(read @ 1..) = stream.read(&mut bytes).await {
                if stream.write_all(&bytes[..read]).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// The network of the first nodes as its authorities, with these parameters.
pub(crate) fn found(params: BTreeMap<String, u32>) -> NetworkFile {
    let authorities = (0..AUTHORITIES).map(|node| AuthorityEntry {
        addresses: vec![SocketAddr::new(address(node), PORT)],
        ..testkit::authority(number(node))
    });
    testkit::network_named("simulated", authorities.collect(), params)
}

/// The options of an authority, a relay or, if it `is_exit`, an exit to everywhere.
pub(crate) fn relay_options(
    node: u32,
    is_exit: bool,
    network: &NetworkFile,
    world: World,
) -> RelayOptions {
    let state = StateDir::open(&world.disk, STATE.as_ref(), Trust::OwnerOnly).unwrap();
    let room = |name: &str| state.room(name).unwrap();
    let authority = (node < AUTHORITIES).then(|| AuthorityOptions {
        signing_key: testkit::signing_key(number(node)).into(),
        signing_key_file: None,
        state_dir: room("authority"),
        rules: Default::default(),
        measure: None,
    });
    RelayOptions {
        network: NetworkHandle::from(network.clone()),
        network_file: None,
        identity: RelayIdentity::on_line(testkit::link_key(number(node))),
        onion_keys: OnionKeyOptions {
            dir: room("keys"),
            trust: Trust::OwnerOnly,
            // Named, so that the processor does not choose.
            suite: Suite::Aes256Gcm,
        },
        listen: SocketAddr::new(address(node), PORT),
        advertised: Vec::new(),
        nickname: format!("node{node}"),
        publish: true,
        claim_kib: None,
        exit: is_exit.then(|| ExitOptions {
            policy: ExitPolicy::from_rules(["accept *:*"]).unwrap(),
            udp_policy: ExitPolicy::from_rules(["accept *:*"]).unwrap(),
            resolver: None,
        }),
        authority,
        workers: Workers::Tasks {
            number: 1,
            each: Duration::from_micros(140),
        },
        world,
        cache_dir: room("directory"),
        limits: Limits {
            memory_bytes: 64 << 20,
            connections: 1_000,
            bandwidth_kib: 0,
            udp_associations: 4_096,
        },
    }
}

/// Starts the nodes up to `exit`, which is one, in a network of `file`: authorities and relays before it.
pub(crate) async fn start_relays(
    network: &MemoryNetwork,
    file: &NetworkFile,
    exit: u32,
) -> Vec<RelayHandle> {
    let mut relays = Vec::new();
    for node in 0..=exit {
        let world = network.world(address(node));
        let options = relay_options(node, node == exit, file, world);
        relays.push(at(node, Relay::start(options)).await.unwrap());
    }
    relays
}

pub(crate) fn life(node: u32) -> NodeLife {
    NodeLife {
        node,
        incarnation: 0,
    }
}

/// Runs `work` as a task of the node.
pub(crate) async fn at<T: Send + 'static>(
    node: u32,
    work: impl Future<Output = T> + Send + 'static,
) -> T {
    let task = Simulation::in_node(life(node), || tokio::spawn(work));
    task.await.expect("no node panics")
}

/// The options of a client whose state is on its own disk.
pub(crate) fn client_options(network: &NetworkFile, world: World) -> ClientOptions {
    let state = StateDir::open(&world.disk, STATE.as_ref(), Trust::OwnerOnly);
    let state = state.unwrap().room("client").unwrap();
    ClientOptions {
        state_dir: Some(state),
        world,
        ..ClientOptions::new(network.clone())
    }
}
