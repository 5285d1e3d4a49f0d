//! Destinations: how an application may name one, and which are refused.

use core::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cepa_common::cell::message::{SpecialName, is_name};
use cepa_common::dir::{AddressClass, classify};

use super::refusal::FrontRefusal;

/// The name of the resolver of an exit, which one follows from the isolation of whoever asks.
const RESOLVER_NAME: &str = "resolver.cepa.alt";
/// The port of that resolver, which is that of name servers.
const RESOLVER_PORT: u16 = 53;

/// The protocol that an application spoke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// SOCKS 4, which carries an address only.
    Socks4,
    /// SOCKS 4a, which may carry a name for the other end to resolve.
    Socks4a,
    /// SOCKS 5 (RFC 1928).
    Socks5,
    /// HTTP CONNECT (RFC 9110, section 9.3.6).
    HttpConnect,
    /// A request for an `http://` address, which is passed on (RFC 9112, section 3.2.2).
    HttpForward,
    /// None: the system led the connection here (a transparent listener).
    Transparent,
    /// DNS, to a listener for it.
    Dns,
}

/// The host that a stream should go to. Debug output hides it, because logs never hold destinations.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// An IPv4 address. An IPv6 address that only wraps an IPv4 address is stored as IPv4.
    Ip4(Ipv4Addr),
    /// An IPv6 address.
    Ip6(Ipv6Addr),
    /// A name in lower case, without the final dot, for the exit to resolve (S30).
    Name(String),
}

impl Host {
    /// A host from the text that an application wrote: an IP literal or a name.
    ///
    /// # Errors
    ///
    /// [`FrontRefusal::Host`] if the text is neither.
    pub fn parse(text: &[u8]) -> Result<Self, FrontRefusal> {
        let text = core::str::from_utf8(text).map_err(|_| FrontRefusal::Host)?;
        // Some programs hand an IPv6 address on as it stands in a URL, in brackets.
        let inside = text
            .strip_prefix('[')
            .and_then(|text| text.strip_suffix(']'));
        if let Some(ip) = inside.and_then(|text| text.parse::<Ipv6Addr>().ok()) {
            return Ok(IpAddr::from(ip).into());
        }
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(ip.into());
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        if !is_name(name) || ends_in_number(name) {
            return Err(FrontRefusal::Host);
        }
        // All names have one spelling, so that an application's habits do not reach the exit.
        Ok(Self::Name(name.to_ascii_lowercase()))
    }

    /// The host as the network knows it; a name must be one that an exit can look up.
    ///
    /// # Errors
    /// [`FrontRefusal::Special`] for a name that no exit can know, which `localhost` is unless `allow_private`.
    pub(super) fn known(self, allow_private: bool) -> Result<Self, FrontRefusal> {
        let Self::Name(name) = &self else {
            return Ok(self);
        };
        match SpecialName::of(name) {
            None => Ok(self),
            // In a local network the exit's machine is this machine, and `localhost` is its loopback (RFC 6761).
            Some(SpecialName::Localhost) if allow_private => Ok(Self::Ip4(Ipv4Addr::LOCALHOST)),
            Some(special) => Err(FrontRefusal::Special(special)),
        }
    }

    /// May a stream go to this host, if `allow_private` says whether private destinations may be reached? The exit
    /// judges the addresses of a name. Addresses that nobody may dial are always refused.
    fn is_allowed(&self, allow_private: bool) -> bool {
        let class = match self {
            Self::Ip4(ip) => classify((*ip).into()),
            Self::Ip6(ip) => classify((*ip).into()),
            Self::Name(_) => AddressClass::Public,
        };
        match class {
            AddressClass::Public => true,
            AddressClass::Private => allow_private,
            AddressClass::Never => false,
        }
    }
}

impl From<IpAddr> for Host {
    fn from(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self::Ip4(ip),
            IpAddr::V6(ip) => Self::Ip6(ip),
        }
    }
}

/// Writes the host as text, without brackets. The text is for the wire and for the owner, not for logs.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip4(ip) => ip.fmt(f),
            Self::Ip6(ip) => ip.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ip4(_) => "Ip4(…)",
            Self::Ip6(_) => "Ip6(…)",
            Self::Name(_) => "Name(…)",
        })
    }
}

/// A destination: a host and a port that is not zero.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FrontTarget {
    /// The host.
    pub host: Host,
    /// The TCP port, 1 to 65535.
    pub port: u16,
}

impl FrontTarget {
    /// Checks what an application asked for.
    ///
    /// # Errors
    ///
    /// [`FrontRefusal::Port`] for port zero; [`FrontRefusal::Private`] for a private destination, unless
    /// `allow_private`, and always for an address that nobody may dial (S30); [`FrontRefusal::Special`] for a name that
    /// no exit can know, which `localhost` is unless `allow_private`.
    pub fn new(host: Host, port: u16, allow_private: bool) -> Result<Self, FrontRefusal> {
        if port == 0 {
            return Err(FrontRefusal::Port);
        }
        let target = Self { host, port };
        if target.is_resolver() {
            return Ok(target);
        }
        let Self { host, port } = target;
        let host = host.known(allow_private)?;
        if host.is_allowed(allow_private) {
            Ok(Self { host, port })
        } else {
            Err(FrontRefusal::Private)
        }
    }
}

impl FrontTarget {
    /// Is this the name by which applications reach the resolver of an exit, as they would reach a name server by TCP?
    pub fn is_resolver(&self) -> bool {
        self.port == RESOLVER_PORT
            && matches!(&self.host, Host::Name(name) if name == RESOLVER_NAME)
    }
}

/// User name and password of a proxy request. The credentials give no access; they only keep streams apart. Debug
/// output hides them.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Credentials {
    /// User name of SOCKS5 or HTTP, or the user id of SOCKS4.
    pub user: Vec<u8>,
    /// Password; empty for SOCKS4.
    pub password: Vec<u8>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(…)")
    }
}

/// What an application sends to have its streams kept apart from others. Debug output hides it.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Marks {
    /// User and password.
    pub credentials: Option<Credentials>,
    /// The values of the HTTP fields `Tor-Stream-Isolation` and `X-Tor-Stream-Isolation`.
    pub tokens: [Option<Vec<u8>>; 2],
}

impl From<Credentials> for Marks {
    fn from(credentials: Credentials) -> Self {
        Self {
            credentials: Some(credentials),
            ..Self::default()
        }
    }
}

impl fmt::Debug for Marks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Marks(…)")
    }
}

/// Does a name end in a label that old resolvers read as a number (`127.1`, `0x7f000001`)? Such a name is an address in
/// disguise (S31), never a host name.
fn ends_in_number(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or_default();
    let hex = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    match hex {
        Some(digits) => digits.bytes().all(|b| b.is_ascii_hexdigit()),
        None => last.bytes().all(|b| b.is_ascii_digit()),
    }
}
