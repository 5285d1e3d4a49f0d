//! Exit policies: which addresses and ports an exit lets streams, or datagrams, out to (docs/protocol.md, 6.4).

use core::fmt;
use core::str::FromStr;
use std::net::{IpAddr, SocketAddr};

use super::address::{AddressClass, classify};
use super::ports::{PortList, Ports, PortsError, REDUCED, number};
use super::summary::{IpVersion, PolicySummary, PortRange};

/// The most rules of one policy.
const MAX_RULES: usize = 1_024;
/// A rejected IPv4 prefix of at most this length counts against a port in the summary.
const BROAD_PREFIX_V4: u8 = 8;
/// A rejected IPv6 prefix of at most this length counts against a port in the summary.
const BROAD_PREFIX_V6: u8 = 16;

/// Why a policy's text is refused. The owner's configuration is to blame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// The rule begins neither with `accept` nor with `reject`.
    #[error("rule must begin with \"accept \" or \"reject \", or be \"reduced\": {0}")]
    Action(String),
    /// The address is no `*`, `*4`, `*6`, IPv4 or bracketed IPv6 address with or without a prefix length.
    #[error("not an address or prefix: {0}")]
    Address(String),
    /// The ports are no `*`, port or range from low to high of 1 to 65535, or a list of such.
    #[error(
        "not a port, a range of ports or a list of them with commas between, as in 80,443,8000-8999: {0}"
    )]
    Ports(String),
    /// No list of ports has this name.
    #[error("no list of ports is named {0}")]
    List(String),
    /// A rule has more than 64 ports, ranges and names.
    #[error("a rule has at most 64 ports, ranges and names of lists; make two of it")]
    TooManyPorts,
    /// The policy has more than 1,024 rules.
    #[error("a policy has at most 1024 rules")]
    TooManyRules,
}

/// The addresses that a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Addresses {
    All,
    AllV4,
    AllV6,
    Prefix(IpAddr, u8),
}

/// One rule of a policy, as in `accept *:80,443`, `reject [2001:db8::]/32:1-1023` or `accept *4:web`. The rule `reduced`
/// is short for `accept *:reduced`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRule {
    accept: bool,
    addresses: Addresses,
    ports: Ports,
}

impl PolicyRule {
    /// Does the rule accept what it matches? Otherwise it rejects that.
    pub fn accepts(&self) -> bool {
        self.accept
    }

    /// Is the rule about this port of some address?
    pub fn is_about_port(&self, port: u16) -> bool {
        self.ports.contains(port)
    }

    /// Is the rule about each address of this version?
    pub fn is_about_all(&self, version: IpVersion) -> bool {
        match self.addresses {
            Addresses::All => true,
            Addresses::AllV4 => version == IpVersion::V4,
            Addresses::AllV6 => version == IpVersion::V6,
            Addresses::Prefix(ip, length) => length == 0 && IpVersion::from(ip) == version,
        }
    }

    /// Is the rule about any address of this version?
    pub fn is_about_some(&self, version: IpVersion) -> bool {
        match self.addresses {
            Addresses::Prefix(ip, _) => IpVersion::from(ip) == version,
            _ => self.is_about_all(version),
        }
    }

    /// The addresses that the rule is about, as its owner wrote them.
    pub fn addresses(&self) -> String {
        self.addresses.to_string()
    }

    /// The lists of ports that the rule names.
    pub fn port_lists(&self) -> impl Iterator<Item = &'static PortList> {
        self.ports.lists()
    }

    fn matches(&self, address: SocketAddr) -> bool {
        self.ports.contains(address.port()) && self.addresses.contains(address.ip())
    }

    /// Does the rule decide its ports for most addresses of a version?
    fn is_broad(&self, v6: bool) -> bool {
        match self.addresses {
            Addresses::All => true,
            Addresses::AllV4 => !v6,
            Addresses::AllV6 => v6,
            Addresses::Prefix(IpAddr::V4(_), length) => {
                !v6 && (length == 0 || !self.accept && length <= BROAD_PREFIX_V4)
            }
            Addresses::Prefix(IpAddr::V6(_), length) => {
                v6 && (length == 0 || !self.accept && length <= BROAD_PREFIX_V6)
            }
        }
    }

    /// Is the rule about addresses that can be dialled? A broad rule about other addresses says nothing about these.
    fn is_about_public(&self) -> bool {
        match self.addresses {
            Addresses::Prefix(ip, length) => length == 0 || classify(ip) == AddressClass::Public,
            _ => true,
        }
    }
}

impl Addresses {
    fn is_single(&self) -> bool {
        matches!(
            self,
            Self::Prefix(IpAddr::V4(_), 32) | Self::Prefix(IpAddr::V6(_), 128)
        )
    }

    fn contains(&self, ip: IpAddr) -> bool {
        match (self, ip) {
            (Self::All, _) | (Self::AllV4, IpAddr::V4(_)) | (Self::AllV6, IpAddr::V6(_)) => true,
            (Self::Prefix(IpAddr::V4(prefix), length), IpAddr::V4(ip)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(*length)).unwrap_or(0);
                (u32::from(*prefix) ^ u32::from(ip)) & mask == 0
            }
            (Self::Prefix(IpAddr::V6(prefix), length), IpAddr::V6(ip)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(*length)).unwrap_or(0);
                (u128::from(*prefix) ^ u128::from(ip)) & mask == 0
            }
            _ => false,
        }
    }
}

/// Which addresses and ports an exit lets one [`Transport`](super::Transport) out to. The first rule that matches decides. If none matches, the answer is
/// no.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExitPolicy {
    rules: Vec<PolicyRule>,
    allow_private: bool,
}

impl ExitPolicy {
    /// The policy of a relay that is no exit.
    pub fn reject_all() -> Self {
        Self::default()
    }

    /// Makes a policy from rules, one for each item.
    ///
    /// # Errors
    /// [`PolicyError`] names the first rule that does not parse.
    pub fn from_rules<S: AsRef<str>>(
        rules: impl IntoIterator<Item = S>,
    ) -> Result<Self, PolicyError> {
        let mut parsed = Vec::new();
        for rule in rules {
            if parsed.len() == MAX_RULES {
                return Err(PolicyError::TooManyRules);
            }
            parsed.push(rule.as_ref().parse()?);
        }
        Ok(Self {
            rules: parsed,
            allow_private: false,
        })
    }

    /// Lets the rules decide about private, loopback and link-local addresses too. This is for local networks only.
    #[must_use]
    pub fn allow_private(mut self) -> Self {
        self.allow_private = true;
        self
    }

    /// Does the exit connect to private addresses, if its rules allow them?
    pub fn allows_private(&self) -> bool {
        self.allow_private
    }

    /// The rules in order.
    pub fn rules(&self) -> &[PolicyRule] {
        &self.rules
    }

    /// Do the rules accept anything at all?
    pub fn accepts_any(&self) -> bool {
        self.rules.iter().any(|rule| rule.accept)
    }

    /// The rule that decides about this address, with its number from 1 on; `None` if no rule matches, which means no.
    /// The rules alone are asked: whether the address can be dialled at all, [`ExitPolicy::allows`] asks too.
    pub fn deciding(&self, address: SocketAddr) -> Option<(usize, &PolicyRule)> {
        let mut numbered = self.rules.iter().enumerate();
        let (place, rule) = numbered.find(|(_, rule)| rule.matches(address))?;
        Some((place + 1, rule))
    }

    /// May the exit connect to this address, or send datagrams there? The caller asks this about the very address that
    /// it dials or sends to (S31).
    pub fn allows(&self, address: SocketAddr) -> bool {
        super::is_dialable(address, self.allow_private)
            && (self.deciding(address)).is_some_and(|(_, rule)| rule.accept)
    }

    /// Does the rule that decides about this address accept it, and name it alone? (A prefix of one address does.)
    pub fn names(&self, address: SocketAddr) -> bool {
        (self.deciding(address)).is_some_and(|(_, rule)| rule.accept && rule.addresses.is_single())
    }

    /// The summary for the descriptor: the ports that the policy allows on most addresses.
    pub fn summary(&self) -> PolicySummary {
        PolicySummary::new(self.open_ports(false), self.open_ports(true))
    }

    fn open_ports(&self, v6: bool) -> Vec<PortRange> {
        let mut decided = vec![false; usize::from(u16::MAX) + 1];
        let mut open = decided.clone();
        for rule in self
            .rules
            .iter()
            .filter(|rule| rule.is_broad(v6) && rule.is_about_public())
        {
            for range in rule.ports.ranges() {
                for port in usize::from(range.low)..=usize::from(range.high) {
                    open[port] |= !decided[port] && rule.accept;
                    decided[port] = true;
                }
            }
        }
        (1..=u16::MAX)
            .filter(|port| open[usize::from(*port)])
            .map(|port| PortRange {
                low: port,
                high: port,
            })
            .collect()
    }
}

impl FromStr for ExitPolicy {
    type Err = PolicyError;

    /// Reads rules that are separated by commas or line ends. What follows a comma and begins no rule is a further port
    /// of the rule before it, as in `accept *:80,443, reject *:*`.
    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let begins = |part: &str| {
            let word = part.split(' ').next();
            matches!(word, Some("accept" | "reject" | REDUCED))
        };
        let mut rules: Vec<String> = Vec::new();
        for line in text.lines() {
            let mut in_rule = false;
            for part in line
                .split(',')
                .map(str::trim)
                .filter(|part| !part.is_empty())
            {
                match rules.last_mut() {
                    Some(rule) if in_rule && !begins(part) => *rule = format!("{rule},{part}"),
                    _ => rules.push(part.to_owned()),
                }
                in_rule = true;
            }
        }
        Self::from_rules(rules)
    }
}

impl fmt::Display for ExitPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for rule in &self.rules {
            write!(f, "{separator}{rule}")?;
            separator = ", ";
        }
        Ok(())
    }
}

impl FromStr for PolicyRule {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let text = text.trim();
        if let (REDUCED, Some(list)) = (text, PortList::find(REDUCED)) {
            return Ok(Self {
                accept: true,
                addresses: Addresses::All,
                ports: Ports::of_list(list),
            });
        }
        let action = || PolicyError::Action(text.to_owned());
        let (word, rest) = text.split_once(' ').ok_or_else(action)?;
        let accept = match word {
            "accept" => true,
            "reject" => false,
            _ => return Err(action()),
        };
        let bad_ports = || PolicyError::Ports(text.to_owned());
        let (addresses, ports) = rest.trim().rsplit_once(':').ok_or_else(bad_ports)?;
        let addresses =
            parse_addresses(addresses).ok_or_else(|| PolicyError::Address(addresses.to_owned()))?;
        let ports = Ports::parse(ports).map_err(|error| match error {
            PortsError::Malformed => bad_ports(),
            PortsError::List(name) => PolicyError::List(name),
            PortsError::TooMany => PolicyError::TooManyPorts,
        })?;
        Ok(Self {
            accept,
            addresses,
            ports,
        })
    }
}

fn parse_addresses(text: &str) -> Option<Addresses> {
    match text {
        "*" => return Some(Addresses::All),
        "*4" => return Some(Addresses::AllV4),
        "*6" => return Some(Addresses::AllV6),
        _ => {}
    }
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(number(length)?)),
        None => (text, None),
    };
    let (ip, bits): (IpAddr, u8) = match address
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        Some(v6) => (IpAddr::V6(v6.parse().ok()?), 128),
        None => (IpAddr::V4(address.parse().ok()?), 32),
    };
    let length = u8::try_from(length.unwrap_or(u16::from(bits))).ok()?;
    (length <= bits).then_some(Addresses::Prefix(ip, length))
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::AllV4 => f.write_str("*4"),
            Self::AllV6 => f.write_str("*6"),
            Self::Prefix(IpAddr::V4(ip), length) => write!(f, "{ip}/{length}"),
            Self::Prefix(IpAddr::V6(ip), length) => write!(f, "[{ip}]/{length}"),
        }
    }
}

impl fmt::Display for PolicyRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.accept && self.addresses == Addresses::All && self.ports.is_list(REDUCED) {
            return f.write_str(REDUCED);
        }
        let word = if self.accept { "accept" } else { "reject" };
        write!(f, "{word} {}:{}", self.addresses, self.ports)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policy(text: &str) -> ExitPolicy {
        text.parse().unwrap()
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_first_match_decides_and_none_means_no() {
        let policy = policy("reject 8.8.8.0/24:53, accept 8.0.0.0/8:*\naccept *6:443");
        assert!(!policy.allows(at("8.8.8.8:53")));
        assert!(policy.allows(at("8.8.8.8:54")));
        assert!(!policy.allows(at("9.9.9.9:54")));
        assert!(policy.allows(at("[2600::1]:443")));
        assert!(!policy.allows(at("[2600::1]:80")));
        assert!(!ExitPolicy::reject_all().allows(at("8.8.8.8:53")));
    }

    #[test]
    fn private_addresses_need_an_explicit_word_in_every_encoding() {
        let open = policy("accept *:*");
        for text in [
            "127.0.0.1:80",
            "10.1.1.1:80",
            "[::1]:80",
            "[fc00::1]:80",
            "169.254.169.254:80",
        ] {
            assert!(!open.allows(at(text)), "{text}");
            assert!(open.clone().allow_private().allows(at(text)), "{text}");
        }
        for text in [
            "0.0.0.0:80",
            "[::]:80",
            "[::ffff:10.0.0.1]:80",
            "[::ffff:8.8.8.8]:80",
            "[64:ff9b::a00:1]:80",
            "[2002:a00:1::]:80",
            "224.0.0.1:80",
            "8.8.8.8:0",
        ] {
            assert!(!open.clone().allow_private().allows(at(text)), "{text}");
        }
        assert!(
            !policy("reject *:*")
                .allow_private()
                .allows(at("127.0.0.1:80"))
        );
    }

    #[test]
    fn every_refusal_of_the_text() {
        for bad in ["allow *:80", "accept", "accept*:80", "permit 1.2.3.4:80"] {
            assert!(
                matches!(bad.parse::<PolicyRule>(), Err(PolicyError::Action(_))),
                "{bad}"
            );
        }
        for bad in [
            "accept 1.2.3.4/33:80",
            "accept 1.2.3:80",
            "accept 2600::1:80",
            "accept [2600::1]/129:80",
            "accept [1.2.3.4]:80",
            "accept 1.2.3.4/+8:80",
            "accept 1.2.3.4/:80",
            "accept host.example:80",
            "accept *5:80",
        ] {
            assert!(
                matches!(bad.parse::<PolicyRule>(), Err(PolicyError::Address(_))),
                "{bad}"
            );
        }
        for bad in [
            "accept *:1-0",
            "accept *:0",
            "accept *:0-5",
            "accept *:65536",
            "accept *:+80",
            "accept *:",
            "accept *",
            "accept *:80-",
            "accept *:1-2-3",
            "accept *:80,",
            "accept *:,80",
            "accept *:80,,443",
            "accept *:80;443",
        ] {
            assert!(
                matches!(bad.parse::<PolicyRule>(), Err(PolicyError::Ports(_))),
                "{bad}"
            );
        }
        for (bad, name) in [("accept *:80,wbe", "wbe"), ("reject *:http", "http")] {
            assert_eq!(
                bad.parse::<PolicyRule>(),
                Err(PolicyError::List(name.to_owned()))
            );
        }
        let ports = |count| format!("accept *:{}", vec!["80"; count].join(","));
        assert!(ports(64).parse::<PolicyRule>().is_ok());
        assert_eq!(
            ports(65).parse::<PolicyRule>(),
            Err(PolicyError::TooManyPorts)
        );
        let many = vec!["accept *:80"; MAX_RULES + 1];
        assert_eq!(ExitPolicy::from_rules(many), Err(PolicyError::TooManyRules));
    }

    #[test]
    fn a_rule_has_many_ports_and_lists_of_them() {
        let policy =
            policy("reject *:22, accept *:80,443, 8000-8999\naccept *4:mail-reading,5000, reduced");
        let at = |port| SocketAddr::from(([8, 8, 8, 8], port));
        for port in [80, 443, 8_000, 8_500, 8_999, 110, 995, 5_000, 6_667] {
            assert!(policy.allows(at(port)), "{port}");
        }
        for port in [22, 25, 82, 9_000, 5_001, 6_881] {
            assert!(!policy.allows(at(port)), "{port}");
        }
        let texts: Vec<_> = policy.rules().iter().map(ToString::to_string).collect();
        let expected = [
            "reject *:22",
            "accept *:80,443,8000-8999",
            "accept *4:mail-reading,5000",
            "reduced",
        ];
        assert_eq!(texts, expected);
        assert_eq!(policy.to_string().parse::<ExitPolicy>().unwrap(), policy);
        let decides = |port| policy.deciding(at(port)).map(|(number, _)| number);
        assert_eq!(
            [22, 443, 110, 6_667, 25].map(decides),
            [Some(1), Some(2), Some(3), Some(4), None]
        );
        // The whole list is told, and a place for each of its ranges is there.
        let reduced = ExitPolicy::from_rules([REDUCED]).unwrap().summary();
        assert_eq!(reduced.v4(), PortList::find(REDUCED).unwrap().ranges);
        assert_eq!(reduced.v4(), reduced.v6());
        let only = ExitPolicy::from_rules(["accept *6:reduced"]).unwrap();
        assert_eq!(only.to_string(), "accept *6:reduced");
        assert!(only.summary().v4().is_empty());
    }

    #[test]
    fn summaries() {
        let text = "reject 10.0.0.0/8:*, reject 8.8.8.8:443, reject 44.0.0.0/8:25, accept *4:20-30, \
            accept *:443, reject *:*, accept *:80";
        let summary = policy(text).summary();
        let ranges = |pairs: &[(u16, u16)]| -> Vec<_> {
            pairs
                .iter()
                .map(|(low, high)| PortRange::new(*low, *high).unwrap())
                .collect()
        };
        assert_eq!(summary.v4(), ranges(&[(20, 24), (26, 30), (443, 443)]));
        assert_eq!(summary.v6(), ranges(&[(443, 443)]));
        assert!(ExitPolicy::reject_all().summary().is_reject_all());
        assert_eq!(policy("accept *:*").summary().v6(), ranges(&[(1, 65535)]));
        // An accepted prefix does not cover most addresses.
        assert!(policy("accept 8.0.0.0/8:*").summary().is_reject_all());
    }

    proptest! {
        #[test]
        fn text_survives_a_round_trip(
            rules in proptest::collection::vec(
                (any::<bool>(), any::<Option<u32>>(), any::<u128>(), 0u8..=128, 1u16.., any::<u16>()),
                0..20,
            ),
        ) {
            let rules = rules.into_iter().map(|(accept, v4, v6, length, low, more)| PolicyRule {
                accept,
                addresses: match v4 {
                    Some(v4) => Addresses::Prefix(IpAddr::V4(v4.into()), length % 33),
                    None => Addresses::Prefix(IpAddr::V6(v6.into()), length),
                },
                ports: Ports::of_ranges([
                    PortRange::new(low, low.saturating_add(more)).unwrap(),
                    PortRange::new(1, low).unwrap(),
                ]),
            });
            let policy = ExitPolicy { rules: rules.collect(), allow_private: false };
            prop_assert_eq!(policy.to_string().parse::<ExitPolicy>().unwrap(), policy.clone());
            let summary = policy.summary();
            prop_assert!(summary.validate().is_ok());
        }

        #[test]
        fn garbage_never_panics(text in ".{0,60}") {
            let _ = text.parse::<PolicyRule>();
            let _ = format!("accept {text}").parse::<PolicyRule>();
        }
    }
}
