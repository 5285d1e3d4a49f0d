//! The one configuration file, checked in full before anything starts.
//!
//! [`Config::load`] reads, [`read`] turns TOML into [`Config`] and is strict:
//! an unknown key or a wrong type names the key, the line and what was meant.
//! [`settings`] defines every setting once: its type, its default and what it means. `cepa run --print-config` and the
//! tables of `docs/config.md` are made of that by [`keys`].
//!
//! A section stands for a role: the file has `[client]`, `[relay]`, `[exit]` or
//! `[authority]` if the node is to be one.

pub mod keys;
mod kinds;
mod peers;
mod read;
mod settings;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::Path;

use cepa_common::dir::ExitPolicy;
use cepa_relay::authority::{OperatorList, OperatorListError, OperatorRules};
use serde::{Deserialize, Serialize};

use crate::terminal::logging;

pub use kinds::{DEFAULT_SOCKS, IsolateKind, Listener, MultipathKind, SuiteChoice};
pub use read::ConfigError;
pub use settings::{Authority, Client, Exit, Limits, Log, Network, Relay, State};

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
