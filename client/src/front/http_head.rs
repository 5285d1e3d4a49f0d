//! The head of an HTTP request. The request is a CONNECT, one to pass on, or one for the port itself, which explains
//! what it is.

use core::net::IpAddr;

use super::http_fields::{is_of_a_page, marks};
use super::refusal::{FrontError, FrontRefusal};
use super::reply::{self, Words};
use super::target::{Host, Marks};

/// The most header fields of a request. Real requests have about five.
const MAX_HEADERS: usize = 64;

/// What the head of a request asks for.
pub(super) enum RequestHead {
    /// The head is a CONNECT.
    Connect(Connect),
    /// The head is that of a request to pass on.
    Forward,
    /// The head asks what the port can do. These bytes say it, and further requests may follow.
    Options(Vec<u8>),
    /// The head asks for something else of the port. This is the page to send before the connection is closed.
    Page(Vec<u8>),
}

/// A CONNECT request.
pub(super) struct Connect {
    pub(super) host: Host,
    pub(super) port: u16,
    pub(super) marks: Marks,
}

/// Puts a refusal into the words of HTTP.
pub(super) fn refuse(refusal: FrontRefusal) -> FrontError {
    FrontError::new(refusal, words(refusal).to_bytes())
}

/// What HTTP says of a refusal.
pub(super) fn words(refusal: FrontRefusal) -> Words {
    let (status, failed, advice) = match refusal {
        FrontRefusal::TooLong => (
            "431 Request Header Fields Too Large",
            "request/too-long",
            "The request's head must fit into 8192 bytes.",
        ),
        FrontRefusal::Private => (
            "403 Forbidden",
            "request/private",
            "Private, loopback and link-local addresses are not reachable through Cepa. \
             Exempt them from the proxy in the application's settings.",
        ),
        FrontRefusal::Special(special) => {
            let why = format!("Cepa passes this name on to nobody: {special}.");
            return Words::new("403 Forbidden", "request/name", why);
        }
        FrontRefusal::Credentials => (
            "407 Proxy Authentication Required",
            "request/credentials",
            "This port asks for a user and a password. Write http://user:password@host:port where the application \
             is told its proxy. After some wrong ones wait a second.",
        ),
        FrontRefusal::Keys => (
            "429 Too Many Requests",
            "request/isolation",
            "16 values of Tor-Stream-Isolation are in use by this application, and each costs a circuit. Use one of \
             them again, wait ten minutes, or keep requests apart by user and password (Proxy-Authorization).",
        ),
        FrontRefusal::Host => (
            "400 Bad Request",
            "request/host",
            "The destination is neither an IP address nor a host name. \
             Write host:port, an IPv6 address in brackets.",
        ),
        FrontRefusal::Port => (
            "400 Bad Request",
            "request/port",
            "The destination has no valid port. Write host:port, with a port from 1 to 65535.",
        ),
        _ => (
            "400 Bad Request",
            "request/malformed",
            "This is not a proxy request that Cepa understands. Write CONNECT host:port HTTP/1.1, \
             or GET http://host/ HTTP/1.1.",
        ),
    };
    Words::new(status, failed, advice)
}

/// Length of the head at the front of `bytes`, with its first empty line; `None` if the head is not complete.
pub(super) fn head_len(bytes: &[u8]) -> Option<usize> {
    let ends = bytes.iter().enumerate().filter(|(_, b)| **b == b'\n');
    ends.map(|(at, _)| at + 1)
        .find_map(|at| match bytes.get(at..)? {
            [b'\n', ..] => Some(at + 1),
            [b'\r', b'\n', ..] => Some(at + 2),
            _ => None,
        })
}

/// Reads a request's head, which fills all of `bytes`. The connection came to the address `listener`.
pub(super) fn parse(bytes: &[u8], listener: Option<IpAddr>) -> Result<RequestHead, FrontError> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(len)) if len == bytes.len() => {}
        Err(httparse::Error::TooManyHeaders) => return Err(refuse(FrontRefusal::TooLong)),
        Ok(_) | Err(_) => return Err(refuse(FrontRefusal::Malformed)),
    }
    let (Some(method), Some(target)) = (request.method, request.path) else {
        return Err(refuse(FrontRefusal::Malformed));
    };
    let fields: Vec<_> = request
        .headers
        .iter()
        .map(|field| (field.name, field.value))
        .collect();
    if method == "CONNECT" {
        let (host, port) = authority(target).map_err(refuse)?;
        let marks = marks(&fields).map_err(refuse)?;
        return Ok(RequestHead::Connect(Connect { host, port, marks }));
    }
    if !target.starts_with('/') && target != "*" {
        return Ok(RequestHead::Forward);
    }
    if is_of_a_page(&fields, listener) {
        return Err(FrontError::new(FrontRefusal::WebPage, []));
    }
    let has_body = fields.iter().any(|(name, _)| {
        ["content-length", "transfer-encoding"].contains(&name.to_ascii_lowercase().as_str())
    });
    Ok(match method {
        "OPTIONS" if !has_body => RequestHead::Options(reply::options()),
        "GET" | "HEAD" => RequestHead::Page(reply::page(method == "GET")),
        _ => RequestHead::Page(reply::not_here()),
    })
}

/// Reads `host:port` or `[address]:port`.
fn authority(text: &str) -> Result<(Host, u16), FrontRefusal> {
    let (host, port) = text.rsplit_once(':').ok_or(FrontRefusal::Port)?;
    let host = match host.strip_prefix('[') {
        Some(inner) => {
            let ip = inner.strip_suffix(']').ok_or(FrontRefusal::Host)?;
            let ip: std::net::Ipv6Addr = ip.parse().map_err(|_| FrontRefusal::Host)?;
            IpAddr::from(ip).into()
        }
        // Without brackets nobody can say where an IPv6 address ends and the port begins.
        None if host.contains(':') => return Err(FrontRefusal::Host),
        None => Host::parse(host.as_bytes())?,
    };
    // `parse` alone would accept "+80".
    if port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()) {
        return Err(FrontRefusal::Port);
    }
    Ok((host, port.parse().map_err(|_| FrontRefusal::Port)?))
}
