//! The nodes of a local network. This file is pure, but for [`choose_ports`].

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use cepa_common::net::emulate::Conditions;

use crate::config::{self, Config, MultipathKind};
use crate::terminal::CliError;

/// The network that the user asks for.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Number of directory authorities.
    pub authorities: usize,
    /// Number of relays, exits included.
    pub relays: usize,
    /// Number of exits.
    pub exits: usize,
    /// Address that applications connect to. Port 0 stands for a free one.
    pub socks: SocketAddr,
    /// The DNS server of the exits.
    pub resolver: Option<SocketAddr>,
    /// Level of every node's log.
    pub log_level: String,
    /// Do the authorities measure what relays carry?
    pub measure: bool,
    /// Delay, bandwidth and loss of every link.
    pub conditions: Conditions,
    /// Is it to be known how many bytes the links carry? Each goes by an emulated one then, whatever the conditions.
    pub counts_links: bool,
    /// When the client's circuits get a second leg.
    pub multipath: MultipathKind,
    /// `limits.memory_mib` of every node, if it is not to be the default.
    pub memory_mib: Option<u32>,
    /// Parameters of the network in place of a local network's usual ones.
    pub params: BTreeMap<String, u32>,
}

/// Number of hops of a circuit. With fewer relays there is no circuit.
const HOPS: usize = 3;
/// The most nodes. More would need more than one machine has.
const MAX_NODES: usize = 200;

/// How much each authority of a network that measures may download (MiB an hour). Half a MiB a second loads no machine.
const MEASURE_MIB_PER_HOUR: u32 = 2048;

/// What half a round of the agreement takes on one machine, apart from links and the number of relays.
const HALF_A_ROUND: Duration = Duration::from_millis(110);
/// What one relay's entry in one authority's vote costs until every authority has taken it.
const WORK_PER_ENTRY: Duration = Duration::from_micros(300);
/// Bytes of a relay's entry in a vote, roughly and rather more.
const VOTE_BYTES_PER_RELAY: u32 = 1_000;
/// The shortest interval, which a small network on one machine keeps, and the longest that parameters may have.
const INTERVAL_SECONDS: (u64, u64) = (2, 86_400);

impl Shape {
    /// Checks that such a network can work.
    pub fn check(&self) -> Result<(), CliError> {
        let problem = if self.authorities == 0 {
            "a network has at least one authority"
        } else if self.relays < HOPS {
            "a circuit takes three relays"
        } else if self.exits == 0 {
            "without an exit no stream leaves the network"
        } else if self.exits > self.relays {
            "exits are counted among the relays, so there cannot be more of them"
        } else if self.authorities + self.relays > MAX_NODES {
            "more than 200 nodes are too many for one machine"
        } else if !self.socks.ip().is_loopback() {
            // A front listens on loopback only (S29). Nothing in a test network is worth an exception.
            "a local network listens on loopback only"
        } else {
            return Ok(());
        };
        Err(CliError::usage(
            problem,
            "try `cepa testnet --authorities 3 --relays 8 --exits 3 --socks 127.0.0.1:9350`",
        ))
    }

    /// The time between two consensuses (whole seconds): what the agreement on votes needs under these conditions.
    ///
    /// The agreement has f + 1 rounds in a quarter of the interval (docs/protocol.md 6.22.2). Within half a round
    /// (6.22.8) a message between two authorities connects by TCP and TLS, is answered, and carries a vote: four round
    /// trips, and the time in which a vote passes each link and is read and verified by everybody.
    fn vote_interval(&self) -> Duration {
        let (authorities, relays) = (self.authorities as u32, self.relays as u32);
        let rounds = authorities.saturating_sub(1) / 2 + 1;
        let vote = self
            .conditions
            .bandwidth
            .map_or(Duration::ZERO, |bytes_per_sec| {
                let bytes = relays * VOTE_BYTES_PER_RELAY * authorities;
                Duration::from_secs_f64(f64::from(bytes) / bytes_per_sec as f64)
            });
        // A lost segment is sent again a round trip later.
        let trips = self
            .conditions
            .round_trip()
            .mul_f64(4.0 * (1.0 + 4.0 * self.conditions.loss));
        let half = HALF_A_ROUND + trips + vote + WORK_PER_ENTRY * relays * authorities;
        let whole = (half * 8 * rounds).as_millis().div_ceil(1_000);
        let (least, most) = INTERVAL_SECONDS;
        Duration::from_secs(u64::try_from(whole).unwrap_or(most).clamp(least, most))
    }

    /// Number of nodes that accept links.
    fn listeners(&self) -> usize {
        self.authorities + self.relays
    }

    /// Number of ports that links need: two for each listener if an emulated link stands before it.
    fn ports(&self) -> usize {
        let each = match self.conditions.is_plain() && !self.counts_links {
            true => 1,
            false => 2,
        };
        self.listeners() * each
    }
}

/// What a node does in the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Votes on who is in the network.
    Authority,
    /// Carries circuits.
    Relay,
    /// Lets circuits leave the network.
    Exit,
    /// Accepts applications' connections.
    Client,
}

/// A network that can be started.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Directory of all its files.
    pub dir: PathBuf,
    /// All nodes: authorities first, the client last.
    pub nodes: Vec<PlannedNode>,
    /// Where applications connect.
    pub socks: SocketAddr,
    resolver: Option<SocketAddr>,
    log_level: String,
    measure: bool,
    /// What every link is like.
    pub conditions: Conditions,
    /// When the client's circuits get a second leg.
    pub multipath: MultipathKind,
    /// `limits.memory_mib` of every node, if it is not to be the default.
    memory_mib: Option<u32>,
    /// Parameters of the network in place of a local network's usual ones.
    pub(super) params: BTreeMap<String, u32>,
    /// The time between two consensuses (whole seconds).
    pub vote_interval: Duration,
}

/// One node of the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PlannedNode {
    /// Unique name of the node, which is its nickname and the name of its directory.
    pub name: String,
    /// Roles of the node.
    pub roles: Vec<Role>,
    /// Address at which the node accepts links; for a client, that at which it accepts applications.
    pub address: SocketAddr,
    /// Address that others dial: the near end of an emulated link, or the same as `address`.
    pub reached_at: SocketAddr,
}

/// Ports for a network of some shape.
#[derive(Clone, Debug)]
pub(super) struct Ports {
    /// Where applications connect.
    pub socks: SocketAddr,
    /// The ports of nodes that accept links.
    pub links: Vec<u16>,
}

/// Chooses free ports on loopback. The system chooses each, and all are held until the last is chosen.
///
/// The ports are free again when this returns, because the nodes themselves must listen. For a short moment one of this
/// program's own dials could take one of them.
pub(super) fn choose_ports(shape: &Shape) -> Result<Ports, CliError> {
    let socks = bind(shape.socks)?;
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let held: Vec<TcpListener> = (0..shape.ports())
        .map(|_| bind(any))
        .collect::<Result<_, _>>()?;
    let address = |listener: &TcpListener| {
        listener.local_addr().map_err(|error| {
            CliError::failed(format!("cannot find a free port: {error}"), "try again")
        })
    };
    Ok(Ports {
        socks: address(&socks)?,
        links: held
            .iter()
            .map(|listener| address(listener).map(|address| address.port()))
            .collect::<Result<_, _>>()?,
    })
}

fn bind(address: SocketAddr) -> Result<TcpListener, CliError> {
    TcpListener::bind(address).map_err(|error| {
        CliError::failed(
            format!("cannot listen on {address}: {error}"),
            "if another network runs there, choose another port: --socks 127.0.0.1:0 takes a free one",
        )
    })
}

impl Plan {
    /// The network of `shape` in the directory `dir` on `ports`.
    pub(super) fn new(shape: &Shape, dir: &Path, ports: &Ports) -> Result<Self, CliError> {
        shape.check()?;
        if ports.links.len() < shape.ports() {
            return Err(CliError::failed(
                "there are fewer ports than nodes",
                "report this: it is a bug",
            ));
        }
        let plain = shape.relays - shape.exits;
        let kinds: [(&str, usize, &[Role]); 3] = [
            ("authority", shape.authorities, &[Role::Authority]),
            ("relay", plain, &[Role::Relay]),
            ("exit", shape.exits, &[Role::Relay, Role::Exit]),
        ];
        let named = kinds.into_iter().flat_map(|(kind, count, roles)| {
            (1..=count).map(move |number| (format!("{kind}{number}"), roles.to_vec()))
        });
        let mut nodes: Vec<PlannedNode> = named
            .zip(ports.links.chunks_exact(shape.ports() / shape.listeners()))
            .map(|((name, roles), own)| PlannedNode {
                name,
                roles,
                address: (Ipv4Addr::LOCALHOST, own[0]).into(),
                reached_at: (Ipv4Addr::LOCALHOST, own[own.len() - 1]).into(),
            })
            .collect();
        nodes.push(PlannedNode {
            name: "client".to_owned(),
            roles: vec![Role::Client],
            address: ports.socks,
            reached_at: ports.socks,
        });
        Ok(Self {
            dir: dir.to_owned(),
            nodes,
            socks: ports.socks,
            resolver: shape.resolver,
            log_level: shape.log_level.clone(),
            measure: shape.measure,
            conditions: shape.conditions,
            multipath: shape.multipath,
            memory_mib: shape.memory_mib,
            params: shape.params.clone(),
            vote_interval: shape.vote_interval(),
        })
    }

    /// Path of `network.toml`.
    pub(super) fn network_file(&self) -> PathBuf {
        self.dir.join("network.toml")
    }

    /// Path of `testnet.json`, the list of nodes for people and scripts.
    pub(super) fn summary_file(&self) -> PathBuf {
        self.dir.join("testnet.json")
    }

    /// The directory of `node`.
    pub(super) fn node_dir(&self, node: &PlannedNode) -> PathBuf {
        self.dir.join("nodes").join(&node.name)
    }

    /// The configuration file of `node`.
    pub(super) fn config_file(&self, node: &PlannedNode) -> PathBuf {
        self.node_dir(node).join("node.toml")
    }

    /// The configuration file of the only client.
    pub(super) fn client_config(&self) -> PathBuf {
        let client = |node: &&PlannedNode| node.roles.contains(&Role::Client);
        let client = self.nodes.iter().find(client);
        client.map_or_else(PathBuf::new, |node| self.config_file(node))
    }

    /// The log of `node`, if it has a process of its own.
    pub(super) fn log_file(&self, node: &PlannedNode) -> PathBuf {
        self.node_dir(node).join("log")
    }

    /// The state directory of `node`.
    pub(super) fn state_dir(&self, node: &PlannedNode) -> PathBuf {
        self.node_dir(node).join("state")
    }

    /// Number of relays, exits included.
    pub(super) fn relays(&self) -> usize {
        let is_relay = |node: &&PlannedNode| node.roles.contains(&Role::Relay);
        self.nodes.iter().filter(is_relay).count()
    }

    /// The configuration of `node`.
    pub(super) fn config(&self, node: &PlannedNode) -> Config {
        let has = |role| node.roles.contains(&role);
        let relay = (has(Role::Relay) || has(Role::Authority)).then(|| config::Relay {
            listen: node.address,
            advertise: if node.reached_at == node.address {
                Vec::new()
            } else {
                vec![node.reached_at]
            },
            nickname: node.name.clone(),
            publish: has(Role::Relay),
            ..Default::default()
        });
        Config {
            network: config::Network {
                file: self.network_file(),
            },
            // The keys of a network that lives for minutes may be in any directory.
            state: config::State {
                dir: self.state_dir(node),
                check_permissions: false,
            },
            client: has(Role::Client).then_some(config::Client {
                socks: self.socks,
                allow_remote: false,
                allow_private: true,
                multipath: self.multipath,
                ..Default::default()
            }),
            relay,
            exit: has(Role::Exit).then(|| config::Exit {
                policy: vec!["accept *:*".to_owned()],
                udp: true,
                udp_policy: vec!["accept *:*".to_owned()],
                // A local network's destinations are on loopback.
                allow_private: true,
                resolver: self.resolver,
                // Whoever ends a local network waits for nobody.
                drain_seconds: 0,
            }),
            authority: has(Role::Authority).then(|| config::Authority {
                measure_mib_per_hour: if self.measure {
                    MEASURE_MIB_PER_HOUR
                } else {
                    0
                },
                ..Default::default()
            }),
            log: config::Log {
                level: self.log_level.clone(),
                file: Some(self.log_file(node)),
            },
            // Each node has one thread, because a dozen nodes share the machine.
            limits: config::Limits {
                threads: 1,
                memory_mib: self
                    .memory_mib
                    .unwrap_or(config::Limits::default().memory_mib),
                ..Default::default()
            },
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn shape() -> Shape {
        Shape {
            authorities: 3,
            relays: 8,
            exits: 3,
            socks: ([127, 0, 0, 1], 9350).into(),
            resolver: Some(([127, 0, 0, 1], 5353).into()),
            log_level: "info".to_owned(),
            measure: false,
            conditions: Conditions::default(),
            counts_links: false,
            multipath: MultipathKind::default(),
            memory_mib: None,
            params: Default::default(),
        }
    }

    fn plan() -> Plan {
        let ports = Ports {
            socks: shape().socks,
            links: (2000..2011).collect(),
        };
        Plan::new(&shape(), Path::new("/net"), &ports).unwrap()
    }

    #[test]
    fn exits_are_counted_among_the_relays() {
        let plan = plan();
        let count = |role| {
            plan.nodes
                .iter()
                .filter(|node| node.roles.contains(&role))
                .count()
        };
        assert_eq!(count(Role::Authority), 3);
        assert_eq!(count(Role::Relay), 8);
        assert_eq!(count(Role::Exit), 3);
        assert_eq!(count(Role::Client), 1);
        assert_eq!(plan.nodes.len(), 12);
    }

    #[test]
    fn names_addresses_and_files_are_all_different() {
        let plan = plan();
        let names: HashSet<_> = plan.nodes.iter().map(|node| &node.name).collect();
        let addresses: HashSet<_> = plan.nodes.iter().map(|node| node.address).collect();
        let files: HashSet<_> = plan
            .nodes
            .iter()
            .flat_map(|node| {
                [
                    plan.config_file(node),
                    plan.log_file(node),
                    plan.state_dir(node),
                ]
            })
            .collect();
        assert_eq!((names.len(), addresses.len(), files.len()), (12, 12, 36));
        assert!(addresses.iter().all(|address| address.ip().is_loopback()));
    }

    #[test]
    fn every_configuration_is_valid_and_has_its_nodes_roles() {
        let plan = plan();
        for node in &plan.nodes {
            let config = plan.config(node);
            config.check().unwrap();
            assert_eq!(config.client.is_some(), node.roles.contains(&Role::Client));
            assert_eq!(
                config.authority.is_some(),
                node.roles.contains(&Role::Authority)
            );
            assert_eq!(config.exit.is_some(), node.roles.contains(&Role::Exit));
            assert_eq!(config.relay.is_some(), !node.roles.contains(&Role::Client));
            if let Some(exit) = config.exit {
                assert!(exit.allow_private);
                assert_eq!(exit.resolver, shape().resolver);
            }
        }
    }

    #[test]
    fn the_interval_of_votes_follows_from_the_links_and_the_size() {
        let interval = |change: fn(&mut Shape)| {
            let mut shape = shape();
            change(&mut shape);
            shape.vote_interval().as_secs()
        };
        assert_eq!(interval(|s| s.authorities = 1), 2);
        assert_eq!(interval(|_| ()), 2);
        assert_eq!(
            interval(|s| s.conditions.delay = Duration::from_millis(40)),
            7
        );
        assert_eq!(
            interval(|s| s.conditions.delay = Duration::from_secs(2)),
            258
        );
        assert!(interval(|s| s.conditions.bandwidth = Some(10_000)) > 40);
        assert!(interval(|s| s.conditions.loss = 0.5) < 4);
        let large = interval(|s| (s.authorities, s.relays) = (9, 190));
        assert!((20..40).contains(&large), "{large}");
    }

    #[test]
    fn shapes_that_cannot_work_are_refused() {
        for (change, words) in [
            (
                (|s: &mut Shape| s.authorities = 0) as fn(&mut Shape),
                "authority",
            ),
            (|s| s.relays = 2, "three relays"),
            (|s| s.exits = 0, "without an exit"),
            (|s| s.exits = 9, "among the relays"),
            (|s| s.relays = 500, "too many"),
            (|s| s.socks = ([0, 0, 0, 0], 9350).into(), "loopback"),
        ] {
            let mut shape = shape();
            change(&mut shape);
            let error = shape.check().unwrap_err();
            assert!(error.what.contains(words), "{}", error.what);
        }
    }

    #[test]
    fn chosen_ports_are_free_and_different() {
        let shape = Shape {
            socks: ([127, 0, 0, 1], 0).into(),
            ..shape()
        };
        let ports = choose_ports(&shape).unwrap();
        let different: HashSet<_> = ports
            .links
            .iter()
            .copied()
            .chain([ports.socks.port()])
            .collect();
        assert_eq!(different.len(), 12);
        assert!(!different.contains(&0));
    }

    #[test]
    fn a_taken_port_is_an_error_with_a_way_out() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let shape = Shape {
            socks: taken.local_addr().unwrap(),
            ..shape()
        };
        let error = choose_ports(&shape).unwrap_err();
        assert!(error.hint.contains("--socks 127.0.0.1:0"), "{}", error.hint);
    }
}
