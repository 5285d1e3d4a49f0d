//! Destinations: how an application may name one, and which are refused here.

use core::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cepa_common::cell::message::is_name;

use super::parse::Refusal;

/// Which protocol an application spoke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// SOCKS 4: an address only.
    Socks4,
    /// SOCKS 4a: a name, for the other end to resolve.
    Socks4a,
    /// SOCKS 5 (RFC 1928).
    Socks5,
    /// HTTP CONNECT (RFC 9110, section 9.3.6).
    HttpConnect,
}

/// Where a stream should go. Debug output hides it: logs never hold destinations.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// An IPv4 address; an IPv6 address that only wraps one is stored as this.
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
    /// [`Refusal::Host`] if it is neither.
    pub fn parse(text: &[u8]) -> Result<Self, Refusal> {
        let text = core::str::from_utf8(text).map_err(|_| Refusal::Host)?;
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(ip.into());
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        if !is_name(name) || ends_in_number(name) {
            return Err(Refusal::Host);
        }
        // One spelling for all, so that an application's habits do not reach the exit.
        Ok(Self::Name(name.to_ascii_lowercase()))
    }

    /// Does it mean a machine or network that only its owner can reach?
    pub fn is_private(&self) -> bool {
        match self {
            Self::Ip4(ip) => is_private((*ip).into()),
            Self::Ip6(ip) => is_private((*ip).into()),
            Self::Name(name) => name == "localhost" || name.ends_with(".localhost"),
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

/// The host as text, without brackets. For the wire and for the owner, not for logs.
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

/// A host and a port that is not zero.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// The machine.
    pub host: Host,
    /// The TCP port, 1 to 65535.
    pub port: u16,
}

impl Target {
    /// Checks what an application asked for.
    ///
    /// # Errors
    ///
    /// [`Refusal::Port`] for port zero; [`Refusal::Private`] for a private
    /// destination, unless `allow_private` (S30).
    pub fn new(host: Host, port: u16, allow_private: bool) -> Result<Self, Refusal> {
        if port == 0 {
            return Err(Refusal::Port);
        }
        if host.is_private() && !allow_private {
            return Err(Refusal::Private);
        }
        Ok(Self { host, port })
    }
}

/// User name and password of a proxy request. They open nothing: they only keep
/// streams apart. Debug output hides them.
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

/// Does a name end in a label that old resolvers read as a number (`127.1`,
/// `0x7f000001`)? Such a name is an address in disguise (S31), never a host name.
fn ends_in_number(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or_default();
    let hex = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    match hex {
        Some(digits) => digits.bytes().all(|b| b.is_ascii_hexdigit()),
        None => last.bytes().all(|b| b.is_ascii_digit()),
    }
}

/// Is `ip` loopback, private, link-local, multicast, reserved or unspecified, in
/// any of the forms that wrap IPv4 in IPv6?
pub fn is_private(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => is_private4(ip),
        IpAddr::V6(ip) => is_private6(ip),
    }
}

fn is_private4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    ip.is_loopback()
        || ip.is_private()
        || ip.is_link_local()
        || ip.is_multicast()
        || a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && (b == 18 || b == 19))
}

fn is_private6(ip: Ipv6Addr) -> bool {
    let s = ip.segments();
    let low = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_private4(Ipv4Addr::new(a, b, c, d))
    };
    ip.is_multicast()
        || ip.is_unique_local()
        || ip.is_unicast_link_local()
        // Site-local, long obsolete, still routed by some.
        || (s[0] & 0xffc0) == 0xfec0
        // ::, ::1 and the obsolete ::a.b.c.d
        || (s[..6] == [0; 6])
        // NAT64, its local form, and 6to4.
        || (s[..6] == [0x64, 0xff9b, 0, 0, 0, 0] && low(s[6], s[7]))
        || (s[..3] == [0x64, 0xff9b, 1])
        || (s[0] == 0x2002 && low(s[1], s[2]))
}
