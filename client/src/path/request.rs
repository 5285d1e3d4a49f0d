//! What is asked of the choice of a path: the target, the positions of its relays, and the rules that relays keep.

use core::fmt;
use std::net::{IpAddr, SocketAddr};

use cepa_common::dir::{Entry, IpVersion, Transport};
use cepa_common::ids::RelayId;

/// Number of hops of a circuit when the owner does not say otherwise.
pub const DEFAULT_HOPS: usize = 3;

/// Ports of connections that last for hours. Paths to these ports prefer relays that stay up (6.16.8).
pub const LONG_LIVED_PORTS: [u16; 12] = [
    21, 22, 706, 1863, 5050, 5190, 5222, 5223, 6523, 6667, 6697, 8300,
];

/// What the exit must let out to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitTarget {
    /// A name, which the exit resolves, and a port.
    Name(u16),
    /// An IPv4 address and this port.
    V4(u16),
    /// An IPv6 address and this port.
    V6(u16),
    /// Datagrams to this port of addresses of this version; without a version, of a name, which the exit resolves.
    Udp {
        /// The version of the address; `None` for a name.
        version: Option<IpVersion>,
        /// The UDP port.
        port: u16,
    },
    /// The exit's resolver. Any exit will do: it need let streams out to one port only.
    Resolver,
    /// No destination: the last hop need not be an exit.
    Any,
}

impl From<SocketAddr> for ExitTarget {
    fn from(address: SocketAddr) -> Self {
        match address.ip() {
            IpAddr::V4(_) => Self::V4(address.port()),
            IpAddr::V6(_) => Self::V6(address.port()),
        }
    }
}

impl ExitTarget {
    /// Does the exit policy of `entry` allow this target?
    pub fn is_allowed_by(self, entry: &Entry) -> bool {
        match self {
            Self::Name(port) => entry.policy.allows_port(port),
            Self::V4(port) => entry.policy.allows_v4(port),
            Self::V6(port) => entry.policy.allows_v6(port),
            Self::Udp { version, port } => entry.ports(Transport::Udp).allows(version, port),
            Self::Resolver => !entry.policy.is_reject_all(),
            Self::Any => true,
        }
    }

    /// Is this a port whose connections last for hours?
    pub fn is_long_lived(self) -> bool {
        match self {
            Self::Name(port) | Self::V4(port) | Self::V6(port) => LONG_LIVED_PORTS.contains(&port),
            // Who sends datagrams begins another association where a circuit is lost.
            Self::Udp { .. } | Self::Resolver | Self::Any => false,
        }
    }
}

/// A function that names the guard for a path that ends at a relay.
pub type GuardFor<'a> = dyn Fn(&Entry) -> Option<RelayId> + 'a;

/// What a path is for, and what it must keep to.
#[derive(Clone, Copy)]
pub struct PathRequest<'a> {
    /// What the last hop must let out to.
    pub target: ExitTarget,
    /// The owner's rule for the destination ([`PeerRules::rule_for`]).
    pub rule: Option<usize>,
    /// Number of relays, 1 to 6.
    pub hops: usize,
    /// The first relay, if the caller has chosen it.
    pub first: Option<RelayId>,
    /// The last relay, if it is settled.
    pub last: Option<RelayId>,
    /// Names the guard for a path that ends at a given relay, unless `first` is set. `exclude` is not asked about the
    /// guard.
    pub guard: Option<&'a GuardFor<'a>>,
    /// Behind the first hop, prefer relays that stay up. This is true for [`LONG_LIVED_PORTS`].
    pub stable: bool,
    /// Says which relays must not be in the path.
    pub exclude: &'a dyn Fn(&RelayId) -> bool,
}

impl PathRequest<'_> {
    /// A request for a path of three relays to `target` that excludes no relay.
    pub fn new(target: ExitTarget) -> Self {
        Self {
            target,
            rule: None,
            hops: DEFAULT_HOPS,
            first: None,
            last: None,
            guard: None,
            stable: target.is_long_lived(),
            exclude: &|_| false,
        }
    }
}

impl fmt::Debug for PathRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PathRequest")
            .field("hops", &self.hops)
            .finish_non_exhaustive()
    }
}

/// A position in a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// The first hop.
    Entry,
    /// Any hop between the first and the last.
    Middle,
    /// The last hop.
    Exit,
}

impl Position {
    /// All positions, in the order in which a cell passes them.
    pub const ALL: [Self; 3] = [Self::Entry, Self::Middle, Self::Exit];

    /// The word for the position in names of settings: `entry`, `middle` or `exit`.
    pub fn key(self) -> &'static str {
        match self {
            Self::Entry => "entry",
            Self::Middle => "middle",
            Self::Exit => "exit",
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Entry => "first hop",
            Self::Middle => "middle hop",
            Self::Exit => "exit",
        })
    }
}

/// A rule that a relay in a path must keep. The rules are applied in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The relay is running and has the flags of its position.
    Flags,
    /// The relay's exit policy allows the target.
    Policy,
    /// The owner's lists allow the relay at the position.
    Owner,
    /// The caller does not exclude the relay.
    Excluded,
    /// The relay is not in the path yet.
    Repeat,
    /// No other relay of the same family is in the path.
    Family,
    /// No other relay of the same /16 (IPv4) or /32 (IPv6) is in the path.
    Subnet,
    /// The relay's weight is not zero.
    Weight,
}

/// All rules in the order in which they are applied.
pub(super) const RULES: [Rule; 8] = [
    Rule::Flags,
    Rule::Policy,
    Rule::Owner,
    Rule::Excluded,
    Rule::Repeat,
    Rule::Family,
    Rule::Subnet,
    Rule::Weight,
];

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flags => "the consensus lists none that runs and is fit for it",
            Self::Policy => "no exit lets out to the target's port",
            Self::Owner => "the owner's lists let none be",
            Self::Excluded => "all are excluded",
            Self::Repeat => "all are in the path already",
            Self::Family => "all are of one family with a relay in the path",
            Self::Subnet => "all share a network with a relay in the path",
            Self::Weight => "all have weight zero",
        })
    }
}
