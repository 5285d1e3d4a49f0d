//! Which addresses an exit connects and sends to: what its owner's rules say, and what always holds.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use cepa_common::dir::{ExitPolicy, Transport, is_dialable};
use cepa_common::sync::lock;
use cepa_common::world::Sockets;

use super::AddressPolicy;
use crate::directory::DirectoryServer;

/// What an exit does with an address, and which rule says so. The order is that in which an exit asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The exit lets no stream out at all, and so no datagram either (6.4.7).
    NoExit,
    /// Nobody dials such an address, or port 0 (6.4.2).
    Never,
    /// The address is private, and the rules may not decide about it (6.4.3).
    Private,
    /// None of the owner's rules is about the address and port, which means no.
    NoRule,
    /// The owner's rule of this number, counted from 1, decides.
    Rule {
        /// The number.
        number: usize,
        /// Does the rule accept?
        accepts: bool,
    },
    /// A rule accepts, but a relay of the network is there (6.10.3).
    Relay,
    /// A rule accepts, but the address is the relay's or its machine's, and the rule does not name it alone (6.4.6).
    Own,
}

impl Verdict {
    /// Does the exit connect, or send, there?
    pub fn accepts(self) -> bool {
        matches!(self, Self::Rule { accepts: true, .. })
    }
}

/// The rules of an exit's owner, and two more that always hold (protocol.md 6.4.6 and 6.10.3).
///
/// The exit connects and sends to no relay, so that nobody makes circuits that run in a circle through exits. And it
/// connects to none of its own addresses, nor sends there, whatever the port, unless a rule names that one address:
/// what runs beside the exit may trust whoever comes from the machine itself.
pub struct Rules {
    /// The owner's rules for streams.
    streams: ExitPolicy,
    /// The owner's rules for datagrams.
    datagrams: ExitPolicy,
    /// The addresses that the relay listens on or is told to be reached at. An address that is translated on the way,
    /// no socket of the machine knows.
    own: Vec<IpAddr>,
    /// Knows the addresses of the machine.
    sockets: Sockets,
}

impl Rules {
    /// The rules of an exit with these two policies, on a machine with these sockets, whose relay listens on the
    /// addresses `own` or is told to be reached at them.
    pub fn new(
        streams: ExitPolicy,
        datagrams: ExitPolicy,
        own: Vec<IpAddr>,
        sockets: Sockets,
    ) -> Self {
        Self {
            streams,
            datagrams,
            own,
            sockets,
        }
    }

    /// The same rules with two other policies.
    pub(crate) fn with_policies(&self, streams: ExitPolicy, datagrams: ExitPolicy) -> Self {
        Self::new(streams, datagrams, self.own.clone(), self.sockets.clone())
    }

    /// The owner's rules for what leaves by `transport`.
    pub fn of(&self, transport: Transport) -> &ExitPolicy {
        match transport {
            Transport::Tcp => &self.streams,
            Transport::Udp => &self.datagrams,
        }
    }

    /// What the exit does with `address`, if `is_relay` knows the addresses of relays.
    pub fn judge(
        &self,
        transport: Transport,
        address: SocketAddr,
        is_relay: impl FnOnce(SocketAddr) -> bool,
    ) -> Verdict {
        let rules = self.of(transport);
        if !self.carries(transport) {
            return match self.streams.accepts_any() {
                true => by_rule(rules, address),
                false => Verdict::NoExit,
            };
        }
        match by_rule(rules, address) {
            Verdict::Rule { accepts: true, .. } if is_relay(address) => Verdict::Relay,
            Verdict::Rule { accepts: true, .. }
                if !rules.names(address) && self.is_own(address) =>
            {
                Verdict::Own
            }
            verdict => verdict,
        }
    }

    /// Is there any address that the exit lets this transport out to?
    fn carries(&self, transport: Transport) -> bool {
        // A relay that lets no stream out is no exit, and lets no datagram out either (6.4.7).
        self.streams.accepts_any() && self.of(transport).accepts_any()
    }

    /// Is this an address of the relay or of its machine? Loopback is private, and the rules decide about it.
    fn is_own(&self, address: SocketAddr) -> bool {
        let ip = address.ip();
        !ip.is_loopback()
            && (self.own.contains(&ip)
                // A machine speaks to an address of its own from that address.
                || self.sockets.local_address(address) == Some(ip))
    }
}

/// What the rules say of an address, which are asked only about such as can be dialled.
fn by_rule(rules: &ExitPolicy, address: SocketAddr) -> Verdict {
    if !is_dialable(address, true) {
        return Verdict::Never;
    }
    if !is_dialable(address, rules.allows_private()) {
        return Verdict::Private;
    }
    rules
        .deciding(address)
        .map_or(Verdict::NoRule, |(number, rule)| Verdict::Rule {
            number,
            accepts: rule.accepts(),
        })
}

/// The rules of an exit that runs.
pub(crate) struct Outside {
    /// The rules, which the owner may change.
    rules: Mutex<Arc<Rules>>,
    /// The directory, which knows the addresses of relays.
    directory: Arc<DirectoryServer>,
}

impl Outside {
    /// Lets out what `rules` say, but to no relay that `directory` knows.
    pub(crate) fn new(rules: Rules, directory: Arc<DirectoryServer>) -> Self {
        Self {
            rules: Mutex::new(Arc::new(rules)),
            directory,
        }
    }

    fn rules(&self) -> Arc<Rules> {
        lock(&self.rules).clone()
    }

    /// Changes the owner's policies. Returns whether they are others.
    pub(crate) fn set(&self, streams: ExitPolicy, datagrams: ExitPolicy) -> bool {
        let mut rules = lock(&self.rules);
        let is_other = rules.streams != streams || rules.datagrams != datagrams;
        if is_other {
            *rules = Arc::new(rules.with_policies(streams, datagrams));
        }
        is_other
    }
}

impl AddressPolicy for Outside {
    fn allows(&self, transport: Transport, address: SocketAddr) -> bool {
        let is_relay = |address| {
            let now = self.directory.clock().now_secs();
            self.directory.snapshot().is_relay_address(address, now)
        };
        self.rules().judge(transport, address, is_relay).accepts()
    }

    fn carries(&self, transport: Transport) -> bool {
        self.rules().carries(transport)
    }

    fn tells_private(&self) -> bool {
        self.rules().streams.allows_private()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io;

    use cepa_common::testkit;
    use cepa_common::world::Clock;
    use cepa_common::world::sockets::{Answer, GivenListener, GivenSockets, GivenStream};

    use super::*;

    /// A machine with one address.
    struct Machine(IpAddr);

    impl GivenSockets for Machine {
        fn connect(&self, _: SocketAddr) -> Answer<'_, Box<dyn GivenStream>> {
            Box::pin(core::future::ready(Err(io::ErrorKind::Other.into())))
        }

        fn bind(&self, _: SocketAddr) -> io::Result<Box<dyn GivenListener>> {
            Err(io::ErrorKind::Other.into())
        }

        fn local_address(&self, _: SocketAddr) -> Option<IpAddr> {
            Some(self.0)
        }
    }

    fn outside(rules: &str, udp_rules: &str) -> Outside {
        let rules: ExitPolicy = rules.parse().unwrap();
        let network = testkit::network(1);
        let udp_rules: ExitPolicy = udp_rules.parse().unwrap();
        let own = ["198.20.0.1", "2600::7"].map(|ip| ip.parse().unwrap());
        let sockets = Sockets::Given(Arc::new(Machine([198, 20, 0, 9].into())));
        Outside::new(
            Rules::new(
                rules.allow_private(),
                udp_rules.allow_private(),
                own.to_vec(),
                sockets,
            ),
            DirectoryServer::new(network, Clock::system(), None),
        )
    }

    fn allows(outside: &Outside, address: &str) -> bool {
        outside.allows(Transport::Tcp, address.parse().unwrap())
    }

    #[test]
    fn own_addresses_are_refused_on_all_ports_unless_a_rule_names_them() {
        let all = outside("accept *:*", "");
        for own in ["198.20.0.1", "[2600::7]", "198.20.0.9"] {
            for port in [22, 80, 9_001, 65_535] {
                assert!(!allows(&all, &format!("{own}:{port}")), "{own}:{port}");
            }
        }
        for other in ["198.20.0.2:80", "[2600::8]:80", "127.0.0.1:80"] {
            assert!(allows(&all, other), "{other}");
        }
        // A network that holds the address does not name it; the address alone does, on the ports of the rule.
        let near = outside("accept 198.20.0.0/31:*, accept *:*", "");
        assert!(!allows(&near, "198.20.0.1:80"));
        let named = outside("accept 198.20.0.1:80, accept [2600::7]:443, accept *:*", "");
        assert!(allows(&named, "198.20.0.1:80") && allows(&named, "[2600::7]:443"));
        assert!(!allows(&named, "198.20.0.1:81") && !allows(&named, "[2600::7]:80"));
        let late = outside("reject 198.20.0.1:80, accept 198.20.0.1:80", "");
        assert!(!allows(&late, "198.20.0.1:80"));
    }

    #[test]
    fn datagrams_have_rules_of_their_own_and_keep_what_always_holds() {
        let both = outside(
            "accept *:80, accept 198.20.0.1:53",
            "accept 198.20.0.9:123, accept *:53",
        );
        let allows = |transport, address: &str| both.allows(transport, address.parse().unwrap());
        assert!(
            allows(Transport::Tcp, "198.20.0.2:80") && !allows(Transport::Udp, "198.20.0.2:80")
        );
        assert!(allows(Transport::Udp, "[2600::8]:53") && !allows(Transport::Tcp, "[2600::8]:53"));
        // An own address must be named by a rule of the same transport.
        assert!(
            allows(Transport::Udp, "198.20.0.9:123") && !allows(Transport::Udp, "198.20.0.9:53")
        );
        assert!(
            allows(Transport::Tcp, "198.20.0.1:53") && !allows(Transport::Udp, "198.20.0.1:53")
        );
        assert!(
            !allows(Transport::Udp, "198.20.0.2:0") && !allows(Transport::Udp, "224.0.0.251:53")
        );
        assert!(both.carries(Transport::Tcp) && both.carries(Transport::Udp));
    }

    #[test]
    fn a_verdict_says_which_rule_it_is_by() {
        let outside = outside(
            "reject 8.8.8.0/24:443, accept 198.20.0.1:80, accept *:80,443, accept *6:web",
            "accept *:53",
        );
        let judge = |address: &str| {
            let address: SocketAddr = address.parse().unwrap();
            let is_relay = |address: SocketAddr| address.port() == 8_443;
            outside.rules().judge(Transport::Tcp, address, is_relay)
        };
        let rule = |number, accepts| Verdict::Rule { number, accepts };
        for (address, verdict) in [
            ("8.8.8.8:443", rule(1, false)),
            ("8.8.8.8:80", rule(3, true)),
            ("198.20.0.1:80", rule(2, true)),
            ("198.20.0.1:443", Verdict::Own),
            ("198.20.0.9:80", Verdict::Own),
            ("[2600::8]:8080", rule(4, true)),
            ("[2600::8]:8443", Verdict::Relay),
            ("8.8.4.4:8080", Verdict::NoRule),
            ("8.8.4.4:0", Verdict::Never),
            ("[::ffff:8.8.8.8]:80", Verdict::Never),
            ("10.0.0.1:80", rule(3, true)),
        ] {
            assert_eq!(judge(address), verdict, "{address}");
            assert_eq!(
                judge(address).accepts(),
                matches!(verdict, Verdict::Rule { accepts: true, .. })
            );
        }
        let machine = || Sockets::Given(Arc::new(Machine([198, 20, 0, 9].into())));
        let policy = |text: &str| text.parse::<ExitPolicy>().unwrap();
        let rules = |streams, udp| Rules::new(policy(streams), policy(udp), Vec::new(), machine());
        let at = "10.0.0.1:53".parse().unwrap();
        let of = |streams, udp| rules(streams, udp).judge(Transport::Udp, at, |_| false);
        assert_eq!(of("accept *:80", "accept *:53"), Verdict::Private);
        assert_eq!(of("reject *:80", "accept *:53"), Verdict::NoExit);
    }

    #[test]
    fn other_policies_count_at_once_and_own_addresses_stay_refused() {
        let outside = outside("accept *:80", "");
        assert!(allows(&outside, "198.20.0.2:80") && !allows(&outside, "198.20.0.2:443"));
        let policy = |text: &str| text.parse::<ExitPolicy>().unwrap();
        assert!(outside.set(policy("accept *:443"), policy("accept *:53")));
        assert!(!allows(&outside, "198.20.0.2:80") && allows(&outside, "198.20.0.2:443"));
        assert!(!allows(&outside, "198.20.0.1:443") && outside.carries(Transport::Udp));
        assert!(!outside.set(policy("accept *:443"), policy("accept *:53")));
    }

    #[test]
    fn what_no_rule_accepts_is_not_carried() {
        let carries = |rules, udp_rules, transport| outside(rules, udp_rules).carries(transport);
        assert!(carries("accept *:80", "reject *:*", Transport::Tcp));
        assert!(!carries("accept *:80", "reject *:*", Transport::Udp));
        assert!(!carries("reject *:*", "accept *:53", Transport::Udp));
    }
}
