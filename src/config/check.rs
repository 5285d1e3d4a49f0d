//! What a configuration must be beyond its types and the bounds of its settings.

use std::net::SocketAddr;

use cepa_client::path::{DestinationRule, GeoIp, PeerRules, PeerSyntax, RuleError};
use cepa_common::dir::{ExitPolicy, PORT_LISTS, PolicyError, PolicyRule};
use cepa_relay::authority::{OperatorList, OperatorListError, OperatorRules};

use super::error::ConfigError;
use super::kinds::{ListenAddress, Listener, ListenerKind};
use super::node::Config;
use super::settings::{Authority, Client, Exit, Relay};
use crate::terminal::logging;

impl Config {
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
        if let Some((key, what)) = self.out_of_bounds() {
            return Err(ConfigError::rule(key.path, what));
        }
        self.client.as_ref().map_or(Ok(()), Client::check)?;
        self.relay.as_ref().map_or(Ok(()), Relay::check)?;
        self.exit.as_ref().map_or(Ok(()), Exit::check)?;
        self.authority.as_ref().map_or(Ok(()), Authority::check)?;
        logging::parse_filter(&self.log.level)
            .map_err(|error| ConfigError::rule("log.level", error.to_string()))?;
        Ok(())
    }
}

impl Client {
    fn check(&self) -> Result<(), ConfigError> {
        if let Some(why) = self.listeners.iter().find_map(unfit) {
            return Err(ConfigError::rule("client.listeners", why));
        }
        // S29: whoever reaches the port uses the network in this client's name.
        for (key, port) in self.ports() {
            let ListenAddress::Tcp(address) = port.address else {
                continue;
            };
            if address.ip().is_loopback() {
                continue;
            }
            let missing = match self.allow_remote {
                false => "set client.allow_remote = true if that is wanted",
                true if port.credentials.is_some() => continue,
                true => {
                    "name a file of users and passwords in client.credentials, or `credentials` of a listener"
                }
            };
            return Err(ConfigError::rule(
                key,
                format!(
                    "{address} can be reached from other machines, and everybody there could use this client; \
                     {missing}",
                ),
            ));
        }
        if let Some(port) = (self.listeners.iter())
            .filter(|port| matches!(port.address, ListenAddress::Tcp(_)))
            .find(|port| port.mode.is_some() || port.group.is_some())
        {
            return Err(ConfigError::rule(
                "client.listeners",
                format!(
                    "{} is a TCP port, which has neither mode nor group; use \"unix:PATH\", or leave `mode` and `group` \
                     out",
                    port.address
                ),
            ));
        }
        let is_shut_out = |port: &&Listener| {
            let is_named = port.group.is_some();
            is_named && port.mode.is_some_and(|mode| mode.0 & 0o060 == 0)
        };
        if let Some(port) = self.listeners.iter().find(is_shut_out) {
            return Err(ConfigError::rule(
                "client.listeners",
                format!(
                    "{} names a group, and its mode lets no group in; use mode = \"0660\", or leave `mode` or `group` \
                     out",
                    port.address
                ),
            ));
        }
        let any_free =
            |address: &ListenAddress| matches!(address, ListenAddress::Tcp(a) if a.port() == 0);
        let ports: Vec<ListenAddress> = (self.ports())
            .map(|(_, port)| port.address)
            .filter(|address| !any_free(address))
            .collect();
        let twice = |n: &usize| ports[..*n].contains(&ports[*n]);
        if let Some(n) = (0..ports.len()).find(twice) {
            return Err(ConfigError::rule(
                "client.listeners",
                format!("two of the client's ports are {}", ports[n]),
            ));
        }
        self.peer_rules(None).map(drop)
    }

    /// Every port, the one of `socks` first, with the key that names it.
    pub fn ports(&self) -> impl Iterator<Item = (&'static str, Listener)> {
        let first = Listener {
            credentials: self.credentials.clone(),
            ..Listener::at(ListenAddress::Tcp(self.socks))
        };
        let more = self.listeners.iter().cloned();
        let more = more.map(|listener| ("client.listeners", listener));
        std::iter::once(("client.socks", first)).chain(more)
    }

    /// What the owner decides about paths, with the opened file of [`Client::geoip`].
    ///
    /// # Errors
    /// The error names the key and the word in it that makes no sense.
    pub fn peer_rules(&self, geoip: Option<GeoIp>) -> Result<PeerRules, ConfigError> {
        let destinations = self.destinations.iter().map(|rule| rule.parse());
        let destinations: Result<Vec<DestinationRule>, PeerSyntax> = destinations.collect();
        let peers = self.peers.clone();
        let rules = PeerRules {
            entry: peers.entry,
            middle: peers.middle,
            exit: peers.exit,
            destinations: destinations
                .map_err(|error| ConfigError::rule("client.destinations", error.to_string()))?,
            hops: self.hops,
            guards: (self.guards > 0).then_some(self.guards),
            geoip,
        };
        match rules.check() {
            // A file is named, and is opened when the node starts.
            Err(RuleError::NoGeoIp { .. }) if self.geoip.is_some() => Ok(rules),
            Err(error) => Err(ConfigError::rule(key_of(&error), error.to_string())),
            Ok(()) => Ok(rules),
        }
    }
}

/// Why a port cannot be of its kind; `None` if it can.
fn unfit(port: &Listener) -> Option<String> {
    if port.kind == ListenerKind::Proxy {
        return None;
    }
    let what = port.kind.word();
    let at = &port.address;
    match at {
        ListenAddress::Unix(_) => Some(format!(
            "{at} cannot be of the kind \"{what}\", which takes an address and a port, as in 127.0.0.1:9353"
        )),
        ListenAddress::Tcp(address) if !address.ip().is_loopback() => Some(format!(
            "{at} can be reached from other machines, and a port of the kind \"{what}\" knows no password: it takes an \
             address of loopback, 127.0.0.1 or [::1]"
        )),
        ListenAddress::Tcp(_) if port.credentials.is_some() => Some(format!(
            "{at} is of the kind \"{what}\", at which nobody gives a password; leave `credentials` out"
        )),
        ListenAddress::Tcp(_) if !port.udp => Some(format!(
            "{at} is of the kind \"{what}\", and `udp` says whether a port of SOCKS takes datagrams; leave it out"
        )),
        ListenAddress::Tcp(_) => {
            let is_missing = port.kind == ListenerKind::Transparent && !cfg!(target_os = "linux");
            is_missing.then(|| format!("the kind \"{what}\" of {at} is there on Linux alone"))
        }
    }
}

fn key_of(error: &RuleError) -> &'static str {
    match error {
        RuleError::Hops(_) => "client.hops",
        RuleError::Guards(_) => "client.guards",
        RuleError::Destinations(_) => "client.destinations",
        RuleError::NoGeoIp { .. } | RuleError::Empty { .. } => "client.geoip",
    }
}

impl Relay {
    fn check(&self) -> Result<(), ConfigError> {
        let mut letters = self.nickname.bytes();
        if !letters.all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(ConfigError::rule(
                "relay.nickname",
                "it takes letters and digits of ASCII only",
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

impl Exit {
    /// Checks what the types alone cannot say.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        if self.resolver.is_some_and(|server| server.port() == 0) {
            return Err(ConfigError::rule(
                "exit.resolver",
                "no server answers at port 0; name the server's port, which usually is 53",
            ));
        }
        for (key, rules) in [
            ("exit.policy", &self.policy),
            ("exit.udp_policy", &self.udp_policy),
        ] {
            self.policy_of(rules)
                .map_err(|error| ConfigError::rule(key, in_words(&error)))?;
        }
        let datagrams = self.policy_of(&self.udp_policy).unwrap_or_default();
        // Some of its ports, such as 389, answer a datagram with many times as many bytes.
        let is_reduced = |rule: &PolicyRule| {
            rule.accepts() && rule.port_lists().any(|list| list.name == "reduced")
        };
        if datagrams.rules().iter().any(is_reduced) {
            return Err(ConfigError::rule(
                "exit.udp_policy",
                "`reduced` has ports of streams; leave exit.udp_policy out, whose usual rules are as careful, or name \
                 ports",
            ));
        }
        Ok(())
    }

    /// The policy that some rules of this section make.
    ///
    /// # Errors
    /// [`PolicyError`] names the first rule that does not parse.
    pub fn policy_of(&self, rules: &[String]) -> Result<ExitPolicy, PolicyError> {
        let policy = ExitPolicy::from_rules(rules)?;
        Ok(match self.allow_private {
            true => policy.allow_private(),
            false => policy,
        })
    }
}

/// Why a policy is refused, with the nearest list of ports to a name that is unknown.
fn in_words(error: &PolicyError) -> String {
    let nearest = |name: &str| {
        let score = |known: &&str| strsim::normalized_damerau_levenshtein(name, known);
        let names = PORT_LISTS.iter().map(|list| list.name);
        names
            .max_by(|a, b| score(a).total_cmp(&score(b)))
            .unwrap_or_default()
    };
    match error {
        PolicyError::List(name) => format!("{error}; the nearest that exists is {}", nearest(name)),
        PolicyError::Action(rule) if strsim::damerau_levenshtein(rule, "reduced") <= 3 => {
            format!("{error}; did you mean \"reduced\"?")
        }
        _ => error.to_string(),
    }
}

impl Authority {
    fn check(&self) -> Result<(), ConfigError> {
        let mut letters = self.signing_key.bytes();
        if letters.all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
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
    /// The error names the item of a list that names no relay.
    pub fn operator_rules(&self) -> Result<OperatorRules, OperatorListError> {
        let list = |items: &[String]| OperatorList::parse(items.iter().map(String::as_str));
        Ok(OperatorRules {
            reject: list(&self.reject)?,
            middle_only: list(&self.middle_only)?,
        })
    }
}
