//! `cepa relay policy`: what an exit does with a destination, and by which rule.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use cepa_common::dir::{IpVersion, PolicyRule, Transport};
use cepa_common::stream::StreamTarget;
use clap::Args;
use serde::Serialize;

use super::consensus::say_json;
use super::context::block_on;
use crate::config::{self, Config, ConfigError};
use crate::node::{ExitRules, Verdict};
use crate::terminal::output::say;
use crate::terminal::{CliError, FAILED};

/// Say what an exit does with a destination, by which rule, and what the directory says of its port.
///
/// An address is judged as the exit would judge it, on this machine: also by what always holds of private addresses,
/// of this machine's own, and of relays' (if the relay of --config has kept a consensus). A name is not looked up: each
/// rule that could decide about its addresses is told.
/// The exit code is 0 if the exit accepts the destination and 1 if it does not; a name is accepted if most addresses
/// of an IP version are.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cepa relay policy --config node.toml 198.20.0.7:443
  cepa relay policy --config node.toml example.com:123 --udp
  cepa relay policy --policy 'reject *:22' --policy reduced example.com:22 --json")]
pub(super) struct Policy {
    /// An address or a name, and a port: 198.20.0.7:443, [2600::7]:443, example.com:443.
    #[arg(value_name = "HOST:PORT", value_parser = Destination::parse)]
    destination: Destination,
    /// Judge datagrams (UDP), not streams (TCP).
    #[arg(long)]
    udp: bool,
    /// Configuration file of the exit [default: an exit whose owner has set nothing].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Judge by this rule, as of exit.policy in a configuration; may be repeated.
    #[arg(long, value_name = "RULE", conflicts_with = "config")]
    policy: Vec<String>,
    /// Judge by this rule for datagrams, as of exit.udp_policy in a configuration; may be repeated.
    #[arg(long, value_name = "RULE", conflicts_with = "config")]
    udp_policy: Vec<String>,
    /// Write JSON, for scripts.
    #[arg(long)]
    json: bool,
}

/// Where something would go.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Destination {
    Address(SocketAddr),
    Name(String, u16),
}

impl Destination {
    fn parse(text: &str) -> Result<Self, String> {
        const HOW: &str = "write HOST:PORT, as in example.com:443, 198.20.0.7:443 or [2600::7]:443";
        if let Ok(address) = text.parse::<SocketAddr>() {
            return match address.port() {
                0 => Err("ports are 1 to 65535".to_owned()),
                _ => Ok(Self::Address(address)),
            };
        }
        let (host, port) = text.rsplit_once(':').ok_or(HOW)?;
        if host.contains(':') && !host.starts_with('[') {
            return Err(format!(
                "put the address in brackets, as in [{host}]:{port}"
            ));
        }
        let digits = port.bytes().all(|b| b.is_ascii_digit());
        let port = port.parse().ok().filter(|port| digits && *port != 0);
        let port = port.ok_or("ports are 1 to 65535")?;
        // Nothing ends like this but an address that is written wrongly, and exits look no such name up.
        let last = host.rsplit('.').next().unwrap_or_default();
        let is_number = last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x");
        match StreamTarget::name(host, port).filter(|_| !is_number) {
            Some(_) => Ok(Self::Name(host.to_owned(), port)),
            None => Err(format!("{host} is neither an address nor a name; {HOW}")),
        }
    }

    fn port(&self) -> u16 {
        match self {
            Self::Address(address) => address.port(),
            Self::Name(_, port) => *port,
        }
    }
}

impl Policy {
    pub(super) fn main(self) -> Result<ExitCode, CliError> {
        let (config, exit) = match &self.config {
            Some(path) => {
                let mut config = Config::load(path)?;
                let exit = config.exit.take().ok_or_else(|| {
                    CliError::usage(
                        format!("the node of {} is no exit", path.display()),
                        "add a section [exit], or leave --config out to ask about an exit whose owner has set nothing",
                    )
                })?;
                (config, exit)
            }
            None => (Config::default(), self.exit_of_flags()?),
        };
        let with_relays = self.config.is_some();
        let rules = block_on(1, async {
            Ok(ExitRules::new(&config, &exit, with_relays).await?)
        })?;
        let transport = if self.udp {
            Transport::Udp
        } else {
            Transport::Tcp
        };
        let view = View::new(&rules, transport, &self.destination);
        if self.json {
            say_json(&view)?;
        } else {
            view.lines().iter().for_each(|line| say(line));
        }
        Ok(match view.accepted {
            true => ExitCode::SUCCESS,
            false => ExitCode::from(FAILED),
        })
    }

    fn exit_of_flags(&self) -> Result<config::Exit, CliError> {
        let mut exit = config::Exit::default();
        if !self.policy.is_empty() {
            exit.policy.clone_from(&self.policy);
        }
        if !self.udp_policy.is_empty() {
            exit.udp_policy.clone_from(&self.udp_policy);
        }
        exit.check().map_err(ConfigError::of_flags)?;
        Ok(exit)
    }
}

/// What is found, as scripts read it.
#[derive(Debug, Serialize)]
struct View {
    destination: String,
    transport: &'static str,
    accepted: bool,
    /// What is done with which addresses: one item for an address, and some for a name.
    decisions: Vec<Decision>,
    directory: Told,
    /// Have the addresses of relays been looked at?
    relays_known: bool,
    #[serde(skip)]
    is_name: bool,
}

/// What is done with some addresses.
#[derive(Debug, Serialize)]
struct Decision {
    addresses: String,
    accepted: bool,
    /// `rule`, `no_rule`, `private`, `never`, `relay`, `own` or `no_exit`.
    by: &'static str,
    rule: Option<RuleView>,
}

/// A rule of the owner, and its place among them, from 1 on.
#[derive(Debug, Serialize)]
struct RuleView {
    number: usize,
    key: &'static str,
    text: String,
}

/// Does the directory say that the exit lets out to the port?
#[derive(Debug, Serialize)]
struct Told {
    port: u16,
    ipv4: bool,
    ipv6: bool,
}

fn key(transport: Transport) -> &'static str {
    match transport {
        Transport::Tcp => "exit.policy",
        Transport::Udp => "exit.udp_policy",
    }
}

impl Decision {
    fn by_rule(addresses: String, transport: Transport, number: usize, rule: &PolicyRule) -> Self {
        Self {
            addresses,
            accepted: rule.accepts(),
            by: "rule",
            rule: Some(RuleView {
                number,
                key: key(transport),
                text: rule.to_string(),
            }),
        }
    }

    fn of(rules: &ExitRules, transport: Transport, address: SocketAddr) -> Self {
        let verdict = rules.judge(transport, address);
        let addresses = address.ip().to_string();
        let by = match verdict {
            Verdict::Rule { .. } => "rule",
            Verdict::NoRule => "no_rule",
            Verdict::Private => "private",
            Verdict::Never => "never",
            Verdict::Relay => "relay",
            Verdict::Own => "own",
            Verdict::NoExit => "no_exit",
        };
        match (verdict, rules.rules(transport).deciding(address)) {
            (Verdict::Rule { .. }, Some((number, rule))) => {
                Self::by_rule(addresses, transport, number, rule)
            }
            _ => Self {
                addresses,
                accepted: verdict.accepts(),
                by,
                rule: None,
            },
        }
    }

    /// What is done with the addresses of one version that a name may have: by each rule that is about some of them,
    /// and at the end with all others.
    fn of_version(
        rules: &ExitRules,
        transport: Transport,
        version: IpVersion,
        port: u16,
    ) -> Vec<Self> {
        let word = match version {
            IpVersion::V4 => "IPv4",
            IpVersion::V6 => "IPv6",
        };
        let mut decisions = Vec::new();
        let others = |decisions: &Vec<Self>| match decisions.is_empty() {
            true => word.to_owned(),
            false => format!("other {word}"),
        };
        let numbered = (rules.rules(transport).rules().iter()).zip(1..);
        for (rule, number) in numbered {
            if !rule.is_about_port(port) || !rule.is_about_some(version) {
                continue;
            }
            let is_last = rule.is_about_all(version);
            let addresses = match is_last {
                true => others(&decisions),
                false => rule.addresses(),
            };
            decisions.push(Self::by_rule(addresses, transport, number, rule));
            if is_last {
                return decisions;
            }
        }
        let addresses = others(&decisions);
        decisions.push(Self {
            addresses,
            accepted: false,
            by: "no_rule",
            rule: None,
        });
        decisions
    }

    fn line(&self) -> String {
        let word = if self.accepted { "accept" } else { "reject" };
        let why = match (self.by, &self.rule) {
            (_, Some(RuleView { number, key, text })) => {
                format!("by rule {number} of {key}: {text}")
            }
            ("private", _) => {
                "because private addresses are, unless exit.allow_private = true".to_owned()
            }
            ("never", _) => "because nobody dials such an address".to_owned(),
            ("relay", _) => "because a relay of the network is there".to_owned(),
            ("own", _) => {
                "because it is an address of this machine, which no rule accepts by name".to_owned()
            }
            ("no_exit", _) => {
                "because exit.policy lets no stream out, and so nothing leaves here".to_owned()
            }
            _ => "because no rule is about it".to_owned(),
        };
        format!("{word}  {}  {why}", self.addresses)
    }
}

impl View {
    fn new(rules: &ExitRules, transport: Transport, destination: &Destination) -> Self {
        let port = destination.port();
        let summary = rules.summary(transport);
        let (name, decisions, accepted) = match destination {
            Destination::Address(address) => {
                let decision = Decision::of(rules, transport, *address);
                let accepted = decision.accepted;
                (address.to_string(), vec![decision], accepted)
            }
            Destination::Name(name, _) if !rules.lets_out() => {
                let none = Decision {
                    addresses: name.clone(),
                    accepted: false,
                    by: "no_exit",
                    rule: None,
                };
                (format!("{name}:{port}"), vec![none], false)
            }
            Destination::Name(name, _) => {
                let of = |version| Decision::of_version(rules, transport, version, port);
                let versions = [of(IpVersion::V4), of(IpVersion::V6)];
                let ends = versions.iter().filter_map(|decisions| decisions.last());
                let accepted = ends.into_iter().any(|decision| decision.accepted);
                (
                    format!("{name}:{port}"),
                    versions.into_iter().flatten().collect(),
                    accepted,
                )
            }
        };
        Self {
            destination: name,
            transport: match transport {
                Transport::Tcp => "tcp",
                Transport::Udp => "udp",
            },
            accepted,
            decisions,
            directory: Told {
                port,
                ipv4: summary.allows_v4(port),
                ipv6: summary.allows_v6(port),
            },
            relays_known: rules.knows_relays(),
            is_name: matches!(destination, Destination::Name(..)),
        }
    }

    fn lines(&self) -> Vec<String> {
        let mut lines: Vec<_> = self.decisions.iter().map(Decision::line).collect();
        if self.is_name {
            lines.push(
                "whatever the name has: private addresses (unless exit.allow_private = true), addresses of this \
                 machine and those of relays are rejected"
                    .to_owned(),
            );
        } else if self.accepted && !self.relays_known {
            lines.push(
                "not looked at: whether a relay of the network is there, which is rejected; no valid consensus is kept \
                 here"
                    .to_owned(),
            );
        }
        let Told { port, ipv4, ipv6 } = self.directory;
        let what = match self.transport {
            "udp" => "datagrams",
            _ => "streams",
        };
        lines.push(match (ipv4, ipv6) {
            (true, true) => format!("directory: this exit lets {what} out to port {port}"),
            (true, false) => format!("directory: this exit lets {what} out to port {port} of IPv4 alone"),
            (false, true) => format!("directory: this exit lets {what} out to port {port} of IPv6 alone"),
            (false, false) => format!(
                "directory: this exit lets no {what} out to port {port}, so that clients do not choose it for them"
            ),
        });
        lines
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn view(policy: &[&str], udp_policy: &[&str], udp: bool, destination: &str) -> View {
        let owned = |rules: &[&str]| rules.iter().map(|rule| (*rule).to_owned()).collect();
        let exit = config::Exit {
            policy: owned(policy),
            udp_policy: owned(udp_policy),
            ..config::Exit::default()
        };
        let config = Config {
            relay: Some(config::Relay {
                advertise: vec!["198.20.0.1:9001".parse().unwrap()],
                ..config::Relay::default()
            }),
            ..Config::default()
        };
        let rules = block_on(1, async {
            Ok(ExitRules::new(&config, &exit, false).await.unwrap())
        });
        let transport = if udp { Transport::Udp } else { Transport::Tcp };
        View::new(
            &rules.unwrap(),
            transport,
            &Destination::parse(destination).unwrap(),
        )
    }

    const RULES: [&str; 4] = [
        "reject 8.8.8.0/24:*",
        "accept *:80,443",
        "accept *6:web",
        "reject *:*",
    ];

    #[test]
    fn an_address_is_judged_by_the_first_rule_and_by_what_always_holds() {
        for (address, accepted, by, number) in [
            ("8.8.8.8:443", false, "rule", Some(1)),
            ("8.8.4.4:443", true, "rule", Some(2)),
            ("[2600::8]:8080", true, "rule", Some(3)),
            ("8.8.4.4:8080", false, "rule", Some(4)),
            ("10.0.0.1:443", false, "private", None),
            ("[::ffff:8.8.4.4]:443", false, "never", None),
            ("198.20.0.1:443", false, "own", None),
        ] {
            let view = view(&RULES, &[], false, address);
            let decision = &view.decisions[0];
            assert_eq!((view.accepted, decision.by), (accepted, by), "{address}");
            assert_eq!(
                decision.rule.as_ref().map(|rule| rule.number),
                number,
                "{address}"
            );
        }
        let web = view(&RULES, &[], false, "[2600::8]:8080");
        assert_eq!(
            web.lines()[0],
            "accept  2600::8  by rule 3 of exit.policy: accept *6:web"
        );
        assert_eq!((web.directory.ipv4, web.directory.ipv6), (false, true));
        let none = view(&["accept *:80"], &[], false, "8.8.4.4:22");
        assert_eq!((none.accepted, none.decisions[0].by), (false, "no_rule"));
    }

    #[test]
    fn of_a_name_each_rule_is_told_that_may_decide() {
        let view = view(&RULES, &[], false, "example.com:8080");
        let found: Vec<_> = (view.decisions.iter())
            .map(|decision| {
                let number = decision.rule.as_ref().map(|rule| rule.number);
                (decision.addresses.as_str(), decision.accepted, number)
            })
            .collect();
        let expected = [
            ("8.8.8.0/24", false, Some(1)),
            ("other IPv4", false, Some(4)),
            ("IPv6", true, Some(3)),
        ];
        assert_eq!(found, expected);
        assert!(
            view.accepted
                && view
                    .lines()
                    .iter()
                    .any(|line| line.contains("whatever the name has"))
        );
    }

    #[test]
    fn datagrams_have_their_own_rules_and_leave_where_streams_do() {
        let name =
            |policy: &[&str], destination| view(policy, &["accept *4:53"], true, destination);
        let dns = name(&RULES, "example.com:53");
        assert!(dns.accepted && dns.decisions[0].rule.as_ref().unwrap().key == "exit.udp_policy");
        assert_eq!(dns.decisions.last().unwrap().by, "no_rule");
        for destination in ["example.com:53", "8.8.4.4:53"] {
            let none = name(&["reject *:*"], destination);
            assert_eq!((none.accepted, none.decisions[0].by), (false, "no_exit"));
            assert!(!none.directory.ipv4 && !none.directory.ipv6);
        }
    }

    #[test]
    fn destinations() {
        for good in [
            "8.8.8.8:1",
            "[2600::8]:65535",
            "example.com:443",
            "a_b.example:1",
        ] {
            assert!(Destination::parse(good).is_ok(), "{good}");
        }
        for (bad, said) in [
            ("example.com", "write HOST:PORT"),
            ("2600::8:443", "[2600::8]:443"),
            ("8.8.8.8:0", "1 to 65535"),
            ("example.com:http", "1 to 65535"),
            ("example.com:65536", "1 to 65535"),
            (":80", "neither"),
            ("1.2.3:80", "neither"),
        ] {
            let error = Destination::parse(bad).unwrap_err();
            assert!(error.contains(said), "{bad}: {error}");
        }
    }
}
