//! Where a stream goes.

use crate::cell::message::{BeginHost, is_name};

/// Where a stream goes, with its own copy of the name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum StreamTarget {
    /// A host and a TCP port. A name is resolved at the exit.
    Host(StreamHost, u16),
    /// The directory of the circuit's last relay.
    Directory,
    /// The resolver of the circuit's last relay, an exit.
    Resolver,
}

/// The host of a [`StreamTarget`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum StreamHost {
    /// A literal address.
    Ip(std::net::IpAddr),
    /// A name that satisfies [`is_name`].
    Name(String),
}

impl StreamHost {
    /// The host as messages have it.
    pub(super) fn to_wire(&self) -> BeginHost<'_> {
        match self {
            Self::Ip(std::net::IpAddr::V4(ip)) => BeginHost::V4(ip.octets()),
            Self::Ip(std::net::IpAddr::V6(ip)) => BeginHost::V6(ip.octets()),
            Self::Name(name) => BeginHost::Name(name),
        }
    }
}

impl From<BeginHost<'_>> for StreamHost {
    fn from(host: BeginHost<'_>) -> Self {
        match host {
            BeginHost::V4(octets) => Self::Ip(octets.into()),
            BeginHost::V6(octets) => Self::Ip(octets.into()),
            BeginHost::Name(name) => Self::Name(name.to_owned()),
        }
    }
}

impl StreamTarget {
    /// A target from a host of the wire.
    pub fn from_wire(host: BeginHost<'_>, port: u16) -> Self {
        Self::Host(host.into(), port)
    }

    /// A target from a name and a port; `None` if a BEGIN can't carry the name.
    pub fn name(name: &str, port: u16) -> Option<Self> {
        (is_name(name) && port != 0).then(|| Self::Host(StreamHost::Name(name.to_owned()), port))
    }

    /// A target from an address and a port; `None` for port 0.
    pub fn address(address: std::net::SocketAddr) -> Option<Self> {
        (address.port() != 0).then(|| Self::Host(StreamHost::Ip(address.ip()), address.port()))
    }

    /// The TCP port; `None` for the directory and the resolver.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Host(_, port) => Some(*port),
            Self::Directory | Self::Resolver => None,
        }
    }
}
