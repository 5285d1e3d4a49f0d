//! Which addresses an exit connects and sends to: what its owner's rules say, and what always holds.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use cepa_common::dir::{ExitPolicy, Transport};
use cepa_common::world::Sockets;

use super::AddressPolicy;
use crate::directory::DirectoryServer;

/// The rules of an exit's owner, and two more that always hold (protocol.md 6.4.6 and 6.10.3).
///
/// The exit connects and sends to no relay, so that nobody makes circuits that run in a circle through exits. And it connects to
/// none of its own addresses, nor sends there, whatever the port, unless a rule names that one address: what runs beside the exit may
/// trust whoever comes from the machine itself.
pub(crate) struct Outside {
    /// The owner's rules for streams.
    pub(crate) rules: ExitPolicy,
    /// The owner's rules for datagrams.
    pub(crate) udp_rules: ExitPolicy,
    /// The directory, which knows the addresses of relays.
    pub(crate) directory: Arc<DirectoryServer>,
    /// The addresses that the relay listens on or is told to be reached at. An address that is translated on the way,
    /// no socket of the machine knows.
    pub(crate) own: Vec<IpAddr>,
    /// Knows the addresses of the machine.
    pub(crate) sockets: Sockets,
}

impl Outside {
    fn rules(&self, transport: Transport) -> &ExitPolicy {
        match transport {
            Transport::Tcp => &self.rules,
            Transport::Udp => &self.udp_rules,
        }
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

impl AddressPolicy for Outside {
    fn allows(&self, transport: Transport, address: SocketAddr) -> bool {
        let (rules, now) = (self.rules(transport), self.directory.clock().now_secs());
        rules.allows(address)
            && !self.directory.snapshot().is_relay_address(address, now)
            && (rules.names(address) || !self.is_own(address))
    }

    fn carries(&self, transport: Transport) -> bool {
        // A relay that lets no stream out is no exit, and lets no datagram out either (6.4.7).
        self.rules.accepts_any() && self.rules(transport).accepts_any()
    }

    fn tells_private(&self) -> bool {
        self.rules.allows_private()
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
        Outside {
            rules: rules.allow_private(),
            udp_rules: udp_rules.parse::<ExitPolicy>().unwrap().allow_private(),
            directory: DirectoryServer::new(network, Clock::system(), None),
            own: ["198.20.0.1", "2600::7"]
                .map(|ip| ip.parse().unwrap())
                .to_vec(),
            sockets: Sockets::Given(Arc::new(Machine([198, 20, 0, 9].into()))),
        }
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
    fn what_no_rule_accepts_is_not_carried() {
        let carries = |rules, udp_rules, transport| outside(rules, udp_rules).carries(transport);
        assert!(carries("accept *:80", "reject *:*", Transport::Tcp));
        assert!(!carries("accept *:80", "reject *:*", Transport::Udp));
        assert!(!carries("reject *:*", "accept *:53", Transport::Udp));
    }
}
