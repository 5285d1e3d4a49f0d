//! What the application is told, in the words of its own protocol (docs/front.md).

use core::fmt;
use std::net::{IpAddr, SocketAddr};

use cepa_common::cell::message::EndReason;

use super::request::Found;
use super::target::Protocol;

/// Why a stream could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The destination refused the connection.
    #[error("the destination refused the connection")]
    Refused,
    /// The exit found no way to the host.
    #[error("the host cannot be reached from the exit")]
    HostUnreachable,
    /// There is no circuit: the overlay network itself cannot be reached.
    #[error("the network cannot be reached")]
    NetworkUnreachable,
    /// There is no consensus that may be used: it has expired, or this computer's clock is wrong.
    #[error("the network's consensus has expired, or this computer's clock is wrong")]
    NoConsensus,
    /// The exit's policy or the owner's rules forbid the destination.
    #[error("the destination is not allowed")]
    NotAllowed,
    /// The name has no address.
    #[error("the name has no address")]
    Unresolvable,
    /// There was no answer in time.
    #[error("no answer in time")]
    TimedOut,
    /// The port serves as many connections as its owner lets it.
    #[error("the proxy serves as many connections as it may")]
    Busy,
    /// Any other failure.
    #[error("the stream failed")]
    GeneralFailure,
}

impl Failure {
    /// All failures.
    pub const ALL: [Self; 9] = [
        Self::Refused,
        Self::HostUnreachable,
        Self::NetworkUnreachable,
        Self::NoConsensus,
        Self::NotAllowed,
        Self::Unresolvable,
        Self::TimedOut,
        Self::Busy,
        Self::GeneralFailure,
    ];

    /// The reply code of SOCKS5 (RFC 1928, section 6).
    pub fn socks5_code(self) -> u8 {
        match self {
            Self::Busy | Self::GeneralFailure => 1,
            Self::NotAllowed => 2,
            Self::NetworkUnreachable | Self::NoConsensus => 3,
            Self::HostUnreachable | Self::Unresolvable => 4,
            Self::Refused => 5,
            Self::TimedOut => 6,
        }
    }

    /// The status line of HTTP, without the version.
    pub fn http_status(self) -> &'static str {
        match self {
            Self::NotAllowed => "403 Forbidden",
            Self::TimedOut => "504 Gateway Timeout",
            Self::Busy => "503 Service Unavailable",
            _ => "502 Bad Gateway",
        }
    }

    /// What happened, for programs: the value of `Cepa-Failed`.
    pub fn code(self) -> &'static str {
        match self {
            Self::Refused => "exit/refused",
            Self::HostUnreachable => "exit/unreachable",
            Self::NetworkUnreachable => "local/no-circuit",
            Self::NoConsensus => "local/no-consensus",
            Self::NotAllowed => "exit/policy",
            Self::Unresolvable => "exit/no-address",
            Self::TimedOut => "network/timeout",
            Self::Busy => "local/busy",
            Self::GeneralFailure => "network/failed",
        }
    }

    /// What happened and what to try, for people.
    pub fn advice(self) -> &'static str {
        match self {
            Self::Refused => {
                "The destination refused the connection. Check the port; the service may be down, \
                 or it may refuse this exit."
            }
            Self::HostUnreachable => {
                "The exit found no route to the destination. Check the address, or try again \
                 through another exit."
            }
            Self::NetworkUnreachable => {
                "Cepa has no circuit at the moment. Check that this machine is online and that \
                 Cepa has finished starting, then try again."
            }
            Self::NoConsensus => {
                "Cepa has no valid directory of the network: the newest that could be had has expired, because \
                 the authorities do not answer or because this computer's clock is wrong. Check the date, time \
                 and time zone of this computer; the log of Cepa says more."
            }
            Self::NotAllowed => {
                "No exit may connect to this destination and port. Private addresses are never \
                 reachable; for other destinations try another port."
            }
            Self::Unresolvable => "The name has no address. Check its spelling.",
            Self::TimedOut => "The destination did not answer in time. Try again later.",
            Self::Busy => {
                "Cepa serves as many connections of applications as it may. Close some, or raise \
                 `client.connections` in its configuration."
            }
            Self::GeneralFailure => "The stream failed inside the network. Try again.",
        }
    }
}

impl From<EndReason> for Failure {
    fn from(reason: EndReason) -> Self {
        match reason {
            EndReason::Refused => Self::Refused,
            EndReason::Unreachable => Self::HostUnreachable,
            EndReason::Policy => Self::NotAllowed,
            EndReason::Unresolvable => Self::Unresolvable,
            EndReason::Timeout => Self::TimedOut,
            EndReason::Done | EndReason::Reset | EndReason::Resource => Self::GeneralFailure,
        }
    }
}

const GRANT_SOCKS4: [u8; 8] = [0, 90, 0, 0, 0, 0, 0, 0];
/// The SOCKS4 reply to every failure: SOCKS4 has only one code.
pub(super) const REJECT_SOCKS4: [u8; 8] = [0, 91, 0, 0, 0, 0, 0, 0];

/// A SOCKS5 reply. The bound address is all zero, because the application need not know the exit's address.
pub(super) fn socks5(code: u8) -> [u8; 10] {
    [5, code, 0, 1, 0, 0, 0, 0, 0, 0]
}

/// The bytes that tell an application of SOCKS 5 to which address it may send datagrams.
pub(super) fn bound(address: SocketAddr) -> Vec<u8> {
    let mut reply = vec![5, 0, 0];
    match address.ip() {
        IpAddr::V4(ip) => {
            reply.push(1);
            reply.extend(ip.octets());
        }
        IpAddr::V6(ip) => {
            reply.push(4);
            reply.extend(ip.octets());
        }
    }
    reply.extend(address.port().to_be_bytes());
    reply
}

/// The bytes that tell an application that its stream is open.
pub fn connected(protocol: Protocol) -> Vec<u8> {
    match protocol {
        Protocol::Socks4 | Protocol::Socks4a => GRANT_SOCKS4.to_vec(),
        Protocol::Socks5 => socks5(0).to_vec(),
        Protocol::HttpConnect => b"HTTP/1.1 200 Connection established\r\n\r\n".to_vec(),
        // The answer is the destination's, or is a message of DNS.
        Protocol::HttpForward | Protocol::Transparent | Protocol::Dns => Vec::new(),
    }
}

/// The bytes that tell an application why its stream could not be opened.
pub fn failed(protocol: Protocol, failure: Failure) -> Vec<u8> {
    match protocol {
        Protocol::Socks4 | Protocol::Socks4a => REJECT_SOCKS4.to_vec(),
        Protocol::Socks5 => socks5(failure.socks5_code()).to_vec(),
        Protocol::HttpConnect | Protocol::HttpForward => Words::from(failure).to_bytes(),
        // There are no words for it.
        Protocol::Transparent | Protocol::Dns => Vec::new(),
    }
}

/// The bytes that tell an application what it wants to know of a name or of an address. SOCKS 4 has no words for
/// addresses of IPv6 and for names, and HTTP asks for neither.
pub(super) fn found(protocol: Protocol, found: &Found) -> Result<Vec<u8>, Failure> {
    let socks5 = |kind, said: &[u8]| [&[5, 0, 0, kind][..], said, &[0, 0]].concat();
    match (protocol, found) {
        (Protocol::Socks4 | Protocol::Socks4a, Found::Address(IpAddr::V4(ip))) => {
            let mut granted = GRANT_SOCKS4;
            granted[4..].copy_from_slice(&ip.octets());
            Ok(granted.to_vec())
        }
        (Protocol::Socks5, Found::Address(IpAddr::V4(ip))) => Ok(socks5(1, &ip.octets())),
        (Protocol::Socks5, Found::Address(IpAddr::V6(ip))) => Ok(socks5(4, &ip.octets())),
        (Protocol::Socks5, Found::Name(name)) => {
            let len = u8::try_from(name.len()).map_err(|_| Failure::Unresolvable)?;
            Ok(socks5(3, &[&[len], name.as_bytes()].concat()))
        }
        _ => Err(Failure::Unresolvable),
    }
}

/// Fields of every response of the port's own: nothing keeps it, and no page may use it.
pub(super) const OWN_FIELDS: [(&str, &str); 5] = [
    ("Connection", "close"),
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("Content-Security-Policy", "default-src 'none'"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
];

/// A failure in the words of HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Words {
    /// The status line without the version.
    pub(super) status: &'static str,
    /// What happened, for programs.
    pub(super) failed: &'static str,
    /// What happened and what to try, for people; one line with its end.
    pub(super) text: String,
}

impl Words {
    pub(super) fn new(status: &'static str, failed: &'static str, text: impl fmt::Display) -> Self {
        Self {
            status,
            failed,
            text: format!("{text}\n"),
        }
    }

    /// A complete response.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let fields: Vec<_> = self.fields().collect();
        http(self.status, "text/plain", &fields, &self.text, true)
    }

    /// The fields that say more.
    pub(super) fn fields(&self) -> impl Iterator<Item = (&'static str, &'static str)> + use<> {
        let asks = self.status.starts_with("407");
        let asks = asks.then_some(("Proxy-Authenticate", "Basic realm=\"Cepa\""));
        [("Cepa-Failed", self.failed)].into_iter().chain(asks)
    }
}

impl From<Failure> for Words {
    fn from(failure: Failure) -> Self {
        Self::new(failure.http_status(), failure.code(), failure.advice())
    }
}

/// The answer to a request for the port itself that it cannot do.
pub(super) fn not_here() -> Vec<u8> {
    Words::new(
        "501 Not Implemented",
        "request/method",
        "This port is a proxy. It speaks SOCKS, HTTP CONNECT, and passes http:// requests on, nothing else.",
    )
    .to_bytes()
}

/// The answer to OPTIONS, after which the connection stays open.
pub(super) fn options() -> Vec<u8> {
    b"HTTP/1.1 200 OK\r\nAllow: CONNECT, OPTIONS\r\nContent-Length: 0\r\nCache-Control: no-store\r\n\
      Cross-Origin-Resource-Policy: same-origin\r\n\r\n"
        .to_vec()
}

/// The page that explains what this port is. `body` is false for HEAD.
pub(super) fn page(body: bool) -> Vec<u8> {
    let html = "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Cepa proxy</title>\
         </head><body><h1>This is a Cepa proxy</h1><p>It is not a website. It carries \
         connections of applications through the Cepa network. It speaks SOCKS 4, 4a and 5 and \
         HTTP CONNECT, and passes requests for http:// addresses on. Set this address and port as the \
         SOCKS proxy of your application, and let the proxy resolve names: \
         <code>curl --proxy socks5h://address:port https://example.org/</code></p>\
         </body></html>\n";
    http("501 Not Implemented", "text/html", &[], html, body)
}

fn http(status: &str, kind: &str, more: &[(&str, &str)], text: &str, body: bool) -> Vec<u8> {
    let len = text.len();
    let mut response = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}; charset=utf-8\r\nContent-Length: {len}\r\n"
    );
    for (name, value) in OWN_FIELDS.iter().chain(more) {
        response += &format!("{name}: {value}\r\n");
    }
    response += "\r\n";
    if body {
        response += text;
    }
    response.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reply codes are those of the table in docs/front.md.
    #[test]
    fn the_table_of_reply_codes() {
        let page = include_str!("../../../docs/front.md");
        for failure in Failure::ALL {
            let row = format!(
                "| {failure:?} | {} | 91 | {} |",
                failure.socks5_code(),
                failure.http_status()
            );
            assert!(page.contains(&row), "docs/front.md lacks: {row}");
            let row = format!("| {failure:?} | `{}` |", failure.code());
            assert!(page.contains(&row), "docs/front.md lacks: {row}");
            assert_eq!(failed(Protocol::Socks5, failure)[1], failure.socks5_code());
            assert_eq!(failed(Protocol::Socks4, failure), REJECT_SOCKS4);
            let http =
                String::from_utf8_lossy(&failed(Protocol::HttpConnect, failure)).into_owned();
            assert!(http.starts_with(&format!("HTTP/1.1 {}\r\n", failure.http_status())));
            assert!(http.ends_with(&format!("{}\n", failure.advice())));
            assert!(http.contains(&format!("\r\nCepa-Failed: {}\r\n", failure.code())));
        }
    }

    #[test]
    fn success_is_told_in_each_protocol() {
        assert_eq!(connected(Protocol::Socks4), GRANT_SOCKS4);
        assert_eq!(connected(Protocol::Socks4a), GRANT_SOCKS4);
        assert_eq!(connected(Protocol::Socks5), [5, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        assert!(connected(Protocol::HttpConnect).starts_with(b"HTTP/1.1 200 "));
    }
}
