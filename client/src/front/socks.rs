//! The messages of SOCKS4, SOCKS4a and SOCKS5, read from the front of a slice.
//!
//! Each function returns `None` while its message is incomplete.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::refusal::FrontRefusal;
use super::request::{Address, Request};
use super::target::{Credentials, FrontTarget, Host, Protocol};
use super::udp_ask::Associate;

/// What a SOCKS request asks for: its command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    Connect,
    /// Tor's extension: the address of a name.
    Resolve,
    /// Tor's extension: the name of an address.
    ResolvePtr,
    /// A port for datagrams.
    Associate,
    /// Datagrams inside the connection: a command of Cepa's own.
    Inside,
    /// The port itself, for a program whose connection is passed on: a command of Cepa's own.
    Port,
}

impl Ask {
    /// The command of SOCKS 5; SOCKS 4 has CONNECT and RESOLVE.
    fn of(command: u8) -> Result<Self, FrontRefusal> {
        match command {
            1 => Ok(Self::Connect),
            3 => Ok(Self::Associate),
            0xf0 => Ok(Self::Resolve),
            0xf1 => Ok(Self::ResolvePtr),
            0xf2 => Ok(Self::Inside),
            0xf3 => Ok(Self::Port),
            _ => Err(FrontRefusal::Command),
        }
    }

    /// What is asked for of this host and port, if it may be asked for.
    pub(super) fn judged(
        self,
        host: Host,
        port: u16,
        allow_private: bool,
    ) -> Result<Request, FrontRefusal> {
        match self {
            Self::Connect => FrontTarget::new(host, port, allow_private).map(Request::Connect),
            Self::Resolve => host.known(allow_private).map(Request::Resolve),
            Self::ResolvePtr => match host {
                Host::Ip4(ip) => Ok(Request::ResolvePtr(Address(ip.into()))),
                Host::Ip6(ip) => Ok(Request::ResolvePtr(Address(ip.into()))),
                Host::Name(_) => Err(FrontRefusal::Host),
            },
            // Where the application will send from. Most do not know yet, and some write where they will send to.
            Self::Associate => {
                let ip = match host {
                    Host::Ip4(ip) => Some(IpAddr::from(ip)),
                    Host::Ip6(ip) => Some(IpAddr::from(ip)),
                    Host::Name(_) => None,
                };
                let from = ip.filter(|_| port != 0).map(|ip| SocketAddr::new(ip, port));
                Ok(Request::Associate(Associate::Port(from)))
            }
            Self::Inside => Ok(Request::Associate(Associate::Inside)),
            Self::Port => Ok(Request::Port),
        }
    }
}

/// A SOCKS4 or 4a request.
pub(super) struct Socks4 {
    pub(super) ask: Ask,
    pub(super) host: Host,
    pub(super) port: u16,
    pub(super) user: Vec<u8>,
    pub(super) protocol: Protocol,
    /// Length of the request in bytes.
    pub(super) len: usize,
}

/// Reads `4, command, port, address, user, 0`, and for 4a `name, 0` behind it.
pub(super) fn socks4(bytes: &[u8]) -> Result<Option<Socks4>, FrontRefusal> {
    let Some((&[_, command, p0, p1, a, b, c, d], rest)) = bytes.split_first_chunk::<8>() else {
        return Ok(None);
    };
    let Some(user) = until_nul(rest) else {
        return Ok(None);
    };
    let mut len = 8 + user.len() + 1;
    let (host, protocol) = match (a, b, c, d) {
        // SOCKS 4a: an address that no machine has says that a name follows.
        (0, 0, 0, 1..) => {
            let Some(name) = until_nul(&rest[user.len() + 1..]) else {
                return Ok(None);
            };
            len += name.len() + 1;
            (Host::parse(name), Protocol::Socks4a)
        }
        _ => (Ok(IpAddr::from([a, b, c, d]).into()), Protocol::Socks4),
    };
    let ask = match Ask::of(command)? {
        ask @ (Ask::Connect | Ask::Resolve) => ask,
        Ask::ResolvePtr | Ask::Associate | Ask::Inside | Ask::Port => {
            return Err(FrontRefusal::Command);
        }
    };
    Ok(Some(Socks4 {
        ask,
        host: host?,
        port: u16::from_be_bytes([p0, p1]),
        user: user.to_vec(),
        protocol,
        len,
    }))
}

fn until_nul(bytes: &[u8]) -> Option<&[u8]> {
    let end = bytes.iter().position(|&b| b == 0)?;
    Some(&bytes[..end])
}

/// How a SOCKS5 client authenticates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    None,
    Password,
}

/// Reads `5, count, methods`. Returns the chosen method, if there is one, and the length of the message.
///
/// A password is preferred if it is offered: an application that has one wants to be kept apart by it.
pub(super) fn methods(bytes: &[u8]) -> Option<(Option<Method>, usize)> {
    let &[_, count, ref rest @ ..] = bytes else {
        return None;
    };
    let offered = rest.get(..usize::from(count))?;
    let method = if offered.contains(&2) {
        Some(Method::Password)
    } else if offered.contains(&0) {
        Some(Method::None)
    } else {
        None
    };
    Some((method, 2 + offered.len()))
}

/// Reads `1, length, user, length, password` (RFC 1929). Returns the credentials and the length of the message.
pub(super) fn password(bytes: &[u8]) -> Result<Option<(Credentials, usize)>, FrontRefusal> {
    match bytes.first() {
        None => return Ok(None),
        Some(1) => {}
        Some(_) => return Err(FrontRefusal::Malformed),
    }
    let read = || {
        let (user, rest) = counted(&bytes[1..])?;
        let (password, _) = counted(rest)?;
        let len = 3 + user.len() + password.len();
        let credentials = Credentials {
            user: user.to_vec(),
            password: password.to_vec(),
        };
        Some((credentials, len))
    };
    Ok(read())
}

/// Splits off one length byte with as many bytes. Returns those bytes and the rest.
fn counted(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&len, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(len))
}

/// A SOCKS5 request.
pub(super) struct Socks5 {
    pub(super) ask: Ask,
    pub(super) host: Host,
    pub(super) port: u16,
    /// Length of the request in bytes.
    pub(super) len: usize,
}

/// Reads `5, command, 0, address type, address, port`.
pub(super) fn socks5(bytes: &[u8]) -> Result<Option<Socks5>, FrontRefusal> {
    let Some((&[version, command, reserved, kind], rest)) = bytes.split_first_chunk::<4>() else {
        return Ok(None);
    };
    if version != 5 || reserved != 0 {
        return Err(FrontRefusal::Malformed);
    }
    let Some((host, port)) = socks5_address(kind, rest)? else {
        return Ok(None);
    };
    let len = bytes.len() - port.len();
    let Some(&[p0, p1]) = port.first_chunk::<2>() else {
        return Ok(None);
    };
    let ask = Ask::of(command)?;
    let host = match ask {
        // No matter of the port, so it may be what is no host: PySocks writes the name "0".
        Ask::Associate | Ask::Inside | Ask::Port => {
            host.unwrap_or(Host::Ip4(Ipv4Addr::UNSPECIFIED))
        }
        Ask::Connect | Ask::Resolve | Ask::ResolvePtr => host?,
    };
    Ok(Some(Socks5 {
        ask,
        host,
        port: u16::from_be_bytes([p0, p1]),
        len: len + 2,
    }))
}

/// The host, or why there is none, and the bytes behind the host.
type Named<'a> = (Result<Host, FrontRefusal>, &'a [u8]);

/// Reads an address of this type. Gives the host, or why there is none, and what is behind it.
pub(super) fn socks5_address(kind: u8, bytes: &[u8]) -> Result<Option<Named<'_>>, FrontRefusal> {
    Ok(match kind {
        1 => bytes
            .split_first_chunk::<4>()
            .map(|(ip, rest)| (Ok(IpAddr::from(Ipv4Addr::from(*ip)).into()), rest)),
        3 => counted(bytes).map(|(name, rest)| (Host::parse(name), rest)),
        4 => bytes
            .split_first_chunk::<16>()
            .map(|(ip, rest)| (Ok(IpAddr::from(Ipv6Addr::from(*ip)).into()), rest)),
        _ => return Err(FrontRefusal::AddressType),
    })
}

/// The SOCKS5 reply code for a request that is refused before anything is tried.
pub(super) fn refusal_code(refusal: FrontRefusal) -> u8 {
    match refusal {
        FrontRefusal::Private | FrontRefusal::Special(_) => 2,
        // A text that cannot be a name has no address.
        FrontRefusal::Host => 4,
        FrontRefusal::Command => 7,
        FrontRefusal::AddressType => 8,
        _ => 1,
    }
}
