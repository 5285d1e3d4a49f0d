//! The one configuration file, checked in full before anything starts.
//!
//! [`Config::load`] reads, [`read`] turns TOML into [`Config`] and is strict:
//! an unknown key or a wrong type names the key, the line and what was meant.
//! [`keys`] documents every key; `cepa run --print-config` and `docs/config.md`
//! come from there or are held against it.
//!
//! A section stands for a role: the file has `[client]`, `[relay]`, `[exit]` or
//! `[authority]` if the node is to be one.

pub mod keys;
mod peers;
mod read;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use cepa_common::dir::ExitPolicy;
use cepa_relay::authority::{OperatorList, OperatorListError, OperatorRules};
use serde::{Deserialize, Serialize};

use crate::terminal::logging;

pub use read::ConfigError;

/// Settings of a node, all roles together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Which network.
    pub network: Network,
    /// Where the node keeps what must survive a restart.
    pub state: State,
    /// The client, if the node is one.
    pub client: Option<Client>,
    /// The relay, if the node is one.
    pub relay: Option<Relay>,
    /// The exit, if the relay is one.
    pub exit: Option<Exit>,
    /// The directory authority, if the relay is one.
    pub authority: Option<Authority>,
    /// What is logged, and where to.
    pub log: Log,
    /// What the node may use of the machine.
    pub limits: Limits,
}

/// `[network]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Network {
    /// The network's file.
    pub file: PathBuf,
}

/// `[state]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// Directory of keys and documents; one process at a time.
    pub dir: PathBuf,
    /// Refuse a directory that other users can reach.
    pub check_permissions: bool,
}

/// `[client]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Client {
    /// Where applications connect: SOCKS 4, 4a, 5 and HTTP CONNECT.
    pub socks: SocketAddr,
    /// Let other machines connect to `socks`.
    pub allow_remote: bool,
    /// Pass private and loopback addresses on to exits.
    pub allow_private: bool,
    /// Tell applications that a stream is open before it is.
    pub answer_early: bool,
    /// When a circuit gets a second one to carry its streams with it.
    pub multipath: MultipathKind,
    /// What keeps streams on different circuits.
    pub isolate: Vec<IsolateKind>,
    /// Further ports like `socks`.
    pub listeners: Vec<Listener>,
    /// Relays in a circuit.
    pub hops: u8,
    /// Guards in use at a time; zero for the network's number.
    pub guards: u8,
    /// Use only these as first hops; all if the list is empty.
    pub entry_only: Vec<String>,
    /// Prefer these as first hops: each counts as if it carried eight times as much.
    pub entry_prefer: Vec<String>,
    /// Never use these as first hops, whatever the other lists say.
    pub entry_avoid: Vec<String>,
    /// Use only these as middle hops; all if the list is empty.
    pub middle_only: Vec<String>,
    /// Prefer these as middle hops: each counts as if it carried eight times as much.
    pub middle_prefer: Vec<String>,
    /// Never use these as middle hops, whatever the other lists say.
    pub middle_avoid: Vec<String>,
    /// Use only these as exits; all if the list is empty.
    pub exit_only: Vec<String>,
    /// Prefer these as exits: each counts as if it carried eight times as much.
    pub exit_prefer: Vec<String>,
    /// Never use these as exits, whatever the other lists say.
    pub exit_avoid: Vec<String>,
    /// Which exits serve some destinations.
    pub destinations: Vec<String>,
    /// A file in MaxMind's format that says where addresses are.
    pub geoip: Option<PathBuf>,
}

/// One of `client.listeners`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// Where applications connect.
    pub address: SocketAddr,
    /// What keeps the streams of this port on different circuits; that of the client if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolate: Option<Vec<IsolateKind>>,
}

/// When a circuit gets a second one to the same exit that carries its streams with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum MultipathKind {
    /// Never.
    Never,
    /// When it carries bulk that links hold back.
    #[default]
    Bulk,
    /// With its first stream.
    Always,
}

/// Something by which streams differ, and are then kept on different circuits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum IsolateKind {
    /// User name and password given to the port.
    Credentials,
    /// The port that the application came to.
    Listener,
    /// The address of the application's machine.
    Client,
    /// SOCKS 4, 4a, 5 or HTTP CONNECT.
    Protocol,
    /// The host asked for.
    Destination,
    /// The port asked for.
    Port,
    /// Each stream alone.
    Stream,
}

impl IsolateKind {
    /// What tells different users and programs apart, and no more: isolation by where streams go to would cost many
    /// circuits, and tell apart what one program does anyway.
    pub const DEFAULT: [Self; 4] = [
        Self::Credentials,
        Self::Listener,
        Self::Client,
        Self::Protocol,
    ];
}

/// `[relay]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Relay {
    /// Where links are accepted.
    pub listen: SocketAddr,
    /// Addresses that the directory hands out; `listen` if there is none.
    pub advertise: Vec<SocketAddr>,
    /// Name for people; proves nothing.
    pub nickname: String,
    /// Suite of the onion key.
    pub suite: SuiteChoice,
    /// Publish a descriptor, so that clients build circuits through this relay.
    pub publish: bool,
    /// The link key's certificate, where the identity is kept off line.
    pub certificate: Option<PathBuf>,
    /// The membership in a family.
    pub family: Option<PathBuf>,
    /// What it says that it carries (KiB a second); zero for the usual.
    pub claim_kib: u32,
}

/// `[exit]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Exit {
    /// Rules, the first that matches counts.
    pub policy: Vec<String>,
    /// Let the rules speak about private and loopback addresses too.
    pub allow_private: bool,
    /// The DNS server to ask; the system's if there is none.
    pub resolver: Option<SocketAddr>,
}

/// `[authority]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Authority {
    /// Name of the signing key's file among the keys of the state directory.
    pub signing_key: String,
    /// Relays that it does not take.
    pub reject: Vec<String>,
    /// Relays that it lets be middles only.
    pub middle_only: Vec<String>,
    /// What it may download to measure relays (MiB an hour); zero for nothing.
    pub measure_mib_per_hour: u32,
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Log {
    /// A level or a list of filters.
    pub level: String,
    /// File to write to; standard error if there is none.
    pub file: Option<PathBuf>,
}

/// `[limits]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Threads; zero for one to a processor.
    pub threads: usize,
    /// Bound on what queues hold (MiB).
    pub memory_mib: u32,
    /// Bound on accepted links.
    pub connections: u32,
    /// What all links together may move in each direction (KiB a second); zero for no limit.
    pub bandwidth_kib: u32,
}

/// A suite by name, or the one that suits the processor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub enum SuiteChoice {
    /// AES-256-GCM where the processor has AES instructions, ChaCha20-Poly1305 elsewhere.
    #[default]
    #[serde(rename = "auto")]
    Auto,
    /// ChaCha20-Poly1305.
    #[serde(rename = "chacha20-poly1305")]
    #[value(name = "chacha20-poly1305")]
    ChaCha20Poly1305,
    /// AES-256-GCM.
    #[serde(rename = "aes-256-gcm")]
    #[value(name = "aes-256-gcm")]
    Aes256Gcm,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            file: "network.toml".into(),
        }
    }
}

impl Default for State {
    fn default() -> Self {
        Self {
            dir: "state".into(),
            check_permissions: true,
        }
    }
}

impl Default for Client {
    fn default() -> Self {
        Self {
            socks: DEFAULT_SOCKS,
            allow_remote: false,
            allow_private: false,
            answer_early: false,
            multipath: MultipathKind::default(),
            isolate: IsolateKind::DEFAULT.to_vec(),
            listeners: Vec::new(),
            hops: 3,
            guards: 0,
            entry_only: Vec::new(),
            entry_prefer: Vec::new(),
            entry_avoid: Vec::new(),
            middle_only: Vec::new(),
            middle_prefer: Vec::new(),
            middle_avoid: Vec::new(),
            exit_only: Vec::new(),
            exit_prefer: Vec::new(),
            exit_avoid: Vec::new(),
            destinations: Vec::new(),
            geoip: None,
        }
    }
}

impl Default for Relay {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 9001)),
            advertise: Vec::new(),
            nickname: "unnamed".to_owned(),
            suite: SuiteChoice::Auto,
            publish: true,
            certificate: None,
            family: None,
            claim_kib: 0,
        }
    }
}

impl Default for Exit {
    fn default() -> Self {
        // Port 25 carries little but spam and costs an exit its good name.
        let policy = ["reject *:25", "accept *:*"].map(str::to_owned).to_vec();
        Self {
            policy,
            allow_private: false,
            resolver: None,
        }
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self {
            signing_key: "authority".to_owned(),
            reject: Vec::new(),
            middle_only: Vec::new(),
            measure_mib_per_hour: 4096,
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            file: None,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            threads: 0,
            memory_mib: 512,
            connections: 4096,
            bandwidth_kib: 0,
        }
    }
}

/// Where the front end listens if nobody says otherwise.
pub const DEFAULT_SOCKS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9350);

impl Config {
    /// Reads the file at `path`, with relative paths in it taken from the file's directory, and checks it.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        let mut config = read::parse(&text).map_err(|error| error.in_file(path))?;
        config.resolve_paths(path.parent().unwrap_or(Path::new("")));
        config.check().map_err(|error| error.in_file(path))?;
        Ok(config)
    }

    /// Takes relative paths from `base`.
    fn resolve_paths(&mut self, base: &Path) {
        self.network.file = base.join(&self.network.file);
        self.state.dir = base.join(&self.state.dir);
        let relay = self.relay.iter_mut();
        let of_relay = relay.flat_map(|relay| [&mut relay.certificate, &mut relay.family]);
        let of_client = self.client.iter_mut().map(|client| &mut client.geoip);
        let files = of_relay.chain(of_client).chain([&mut self.log.file]);
        for file in files.flatten() {
            *file = base.join(&*file);
        }
    }

    /// Checks what the types alone cannot say.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.client.is_none() && self.relay.is_none() {
            return Err(ConfigError::rule(
                "client",
                "the node has no role: neither [client] nor [relay] is there",
            ));
        }
        for (section, present) in [
            ("exit", self.exit.is_some()),
            ("authority", self.authority.is_some()),
        ] {
            if present && self.relay.is_none() {
                return Err(ConfigError::rule(
                    section,
                    "it needs a [relay] to be part of",
                ));
            }
        }
        self.client.as_ref().map_or(Ok(()), Client::check)?;
        self.relay.as_ref().map_or(Ok(()), Relay::check)?;
        self.exit.as_ref().map_or(Ok(()), Exit::check)?;
        self.authority.as_ref().map_or(Ok(()), Authority::check)?;
        logging::parse_filter(&self.log.level)
            .map_err(|error| ConfigError::rule("log.level", error.to_string()))?;
        if self.limits.memory_mib < MIN_MEMORY_MIB {
            return Err(ConfigError::rule(
                "limits.memory_mib",
                "less than 32 MiB holds no network's cells",
            ));
        }
        if (1..MIN_BANDWIDTH_KIB).contains(&self.limits.bandwidth_kib) {
            return Err(ConfigError::rule(
                "limits.bandwidth_kib",
                "less than 50 KiB a second is of no use to the network; 0 is no limit",
            ));
        }
        if self.limits.connections == 0 {
            return Err(ConfigError::rule(
                "limits.connections",
                "a node without any connection does nothing",
            ));
        }
        Ok(())
    }
}

/// Least memory that a node can do with (MiB).
const MIN_MEMORY_MIB: u32 = 32;
/// Least bandwidth that a limit may leave (KiB a second).
const MIN_BANDWIDTH_KIB: u32 = 50;

impl Client {
    fn check(&self) -> Result<(), ConfigError> {
        // S29: whoever reaches the port uses the network in this client's name.
        for (key, address) in self.addresses() {
            if !address.ip().is_loopback() && !self.allow_remote {
                return Err(ConfigError::rule(
                    key,
                    format!(
                        "{address} can be reached from other machines, and everybody there could use this client; \
                         set client.allow_remote = true if that is wanted",
                    ),
                ));
            }
        }
        let ports: Vec<_> = self.addresses().filter(|(_, a)| a.port() != 0).collect();
        let twice = |n: usize| ports[..n].iter().any(|(_, before)| *before == ports[n].1);
        if (0..ports.len()).any(twice) {
            return Err(ConfigError::rule(
                "client.listeners",
                "two of the client's ports are the same",
            ));
        }
        if self.listeners.len() > MAX_LISTENERS {
            return Err(ConfigError::rule(
                "client.listeners",
                format!("more than {MAX_LISTENERS} ports are hardly meant"),
            ));
        }
        self.peer_rules(None).map(drop)
    }

    /// Every port, the one of `socks` first, with the key that names it.
    fn addresses(&self) -> impl Iterator<Item = (&'static str, SocketAddr)> {
        let more = self.listeners.iter();
        let more = more.map(|listener| ("client.listeners", listener.address));
        std::iter::once(("client.socks", self.socks)).chain(more)
    }
}

/// Most further ports of a client.
const MAX_LISTENERS: usize = 64;

impl Relay {
    fn check(&self) -> Result<(), ConfigError> {
        let named = (1..=MAX_NICKNAME_LEN).contains(&self.nickname.len())
            && self
                .nickname
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric());
        if !named {
            return Err(ConfigError::rule(
                "relay.nickname",
                "it takes 1 to 19 letters and digits of ASCII",
            ));
        }
        if self
            .advertised()
            .iter()
            .any(|address| address.ip().is_unspecified() || address.port() == 0)
        {
            return Err(ConfigError::rule(
                "relay.advertise",
                "name the address and port at which others reach this relay, for example [\"203.0.113.5:9001\"]",
            ));
        }
        Ok(())
    }

    /// The addresses that the directory hands out.
    pub fn advertised(&self) -> Vec<SocketAddr> {
        if self.advertise.is_empty() {
            vec![self.listen]
        } else {
            self.advertise.clone()
        }
    }
}

/// Longest nickname (bytes).
const MAX_NICKNAME_LEN: usize = 19;

impl Exit {
    fn check(&self) -> Result<(), ConfigError> {
        ExitPolicy::from_rules(&self.policy)
            .map(|_| ())
            .map_err(|error| ConfigError::rule("exit.policy", error.to_string()))
    }
}

impl Authority {
    fn check(&self) -> Result<(), ConfigError> {
        let plain = !self.signing_key.is_empty()
            && self
                .signing_key
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if plain {
            self.operator_rules()
                .map(|_| ())
                .map_err(|error| ConfigError::rule("authority.reject", error.to_string()))
        } else {
            Err(ConfigError::rule(
                "authority.signing_key",
                "it is a file's name, not a path",
            ))
        }
    }

    /// What this authority's operator says of relays.
    ///
    /// # Errors
    /// The item of a list that names no relay.
    pub fn operator_rules(&self) -> Result<OperatorRules, OperatorListError> {
        let list = |items: &[String]| OperatorList::parse(items.iter().map(String::as_str));
        Ok(OperatorRules {
            reject: list(&self.reject)?,
            middle_only: list(&self.middle_only)?,
        })
    }
}
