//! The head of an HTTP request. The request is a CONNECT, or the request of somebody who needs an explanation.

use data_encoding::BASE64;

use super::refusal::{FrontError, FrontRefusal};
use super::reply;
use super::target::{Credentials, Host};

/// The most header fields of a request. Real requests have about five.
const MAX_HEADERS: usize = 64;

/// What the head of a request asks for.
pub(super) enum RequestHead {
    /// The head is a CONNECT.
    Connect(Connect),
    /// The head has another verb. This is the page to send.
    Page(Vec<u8>),
}

/// A CONNECT request.
pub(super) struct Connect {
    pub(super) host: Host,
    pub(super) port: u16,
    pub(super) credentials: Option<Credentials>,
}

/// Puts a refusal into the words of HTTP.
pub(super) fn refuse(refusal: FrontRefusal) -> FrontError {
    let why;
    let (status, advice) = match refusal {
        FrontRefusal::TooLong => (
            "431 Request Header Fields Too Large",
            "The request's head must fit into 8192 bytes.",
        ),
        FrontRefusal::Private => (
            "403 Forbidden",
            "Private, loopback and link-local addresses are not reachable through Cepa. \
             Exempt them from the proxy in the application's settings.",
        ),
        FrontRefusal::Special(special) => {
            why = format!("Cepa passes this name on to nobody: {special}.");
            ("403 Forbidden", why.as_str())
        }
        FrontRefusal::Host => (
            "400 Bad Request",
            "The destination is neither an IP address nor a host name. \
             Write CONNECT host:port, an IPv6 address in brackets.",
        ),
        FrontRefusal::Port => (
            "400 Bad Request",
            "The destination has no valid port. Write CONNECT host:port.",
        ),
        _ => (
            "400 Bad Request",
            "This is not a proxy request that Cepa understands. Write CONNECT host:port HTTP/1.1.",
        ),
    };
    FrontError::new(refusal, reply::http_text(status, advice))
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

/// Reads a request's head, which fills all of `bytes`.
pub(super) fn parse(bytes: &[u8]) -> Result<RequestHead, FrontError> {
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
    match method {
        "CONNECT" => {
            let (host, port) = authority(target).map_err(refuse)?;
            let credentials = credentials(request.headers).map_err(refuse)?;
            Ok(RequestHead::Connect(Connect {
                host,
                port,
                credentials,
            }))
        }
        "GET" | "HEAD" => {
            let absolute = !target.starts_with('/');
            Ok(RequestHead::Page(reply::page(absolute, method == "GET")))
        }
        _ => Ok(RequestHead::Page(reply::http_text(
            "501 Not Implemented",
            "This port is a proxy. It speaks SOCKS and HTTP CONNECT, nothing else.",
        ))),
    }
}

/// Reads `host:port` or `[address]:port`.
fn authority(text: &str) -> Result<(Host, u16), FrontRefusal> {
    let (host, port) = text.rsplit_once(':').ok_or(FrontRefusal::Port)?;
    let host = match host.strip_prefix('[') {
        Some(inner) => {
            let ip = inner.strip_suffix(']').ok_or(FrontRefusal::Host)?;
            let ip: std::net::Ipv6Addr = ip.parse().map_err(|_| FrontRefusal::Host)?;
            std::net::IpAddr::from(ip).into()
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

/// Reads the user and password of `Proxy-Authorization: Basic`. A field that is not understood is refused: whoever
/// sends it wants streams to be kept apart, and must not be left to believe that they are.
fn credentials(headers: &[httparse::Header<'_>]) -> Result<Option<Credentials>, FrontRefusal> {
    let mut fields = headers
        .iter()
        .filter(|h| h.name.eq_ignore_ascii_case("proxy-authorization"));
    let Some(field) = fields.next() else {
        return Ok(None);
    };
    if fields.next().is_some() {
        return Err(FrontRefusal::Malformed);
    }
    basic(field.value).map(Some).ok_or(FrontRefusal::Malformed)
}

fn basic(value: &[u8]) -> Option<Credentials> {
    let space = value.iter().position(|&b| b == b' ')?;
    let (scheme, rest) = value.split_at(space);
    if !scheme.eq_ignore_ascii_case(b"basic") {
        return None;
    }
    let plain = BASE64.decode(rest.trim_ascii()).ok()?;
    let colon = plain.iter().position(|&b| b == b':')?;
    Some(Credentials {
        user: plain[..colon].to_vec(),
        password: plain[colon + 1..].to_vec(),
    })
}
