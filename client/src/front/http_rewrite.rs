//! What becomes of the head of an `http://` request, and of the response's, on their way through the port.

use hyper::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING,
    UPGRADE,
};
use hyper::http::{request, response, uri};
use hyper::{Uri, Version};

use super::http_fields;
use super::http_head;
use super::refusal::FrontRefusal;
use super::reply::Words;
use super::target::{FrontTarget, Host, Marks};

/// The port of `http://`.
const HTTP_PORT: u16 = 80;

/// Fields that belong to a connection and not to what is said on it (RFC 9110, section 7.6.1).
const OF_A_CONNECTION: [&str; 7] = [
    "connection",
    "expect",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// How the names of further fields begin that are for the port, or the port's own.
const OF_THE_PORT: [&str; 4] = ["proxy-", "tor-", "x-tor-", "cepa-"];

/// Where a request goes, and what it must be kept apart by.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Judged {
    pub(super) target: FrontTarget,
    pub(super) marks: Marks,
}

/// Judges a request by its head.
pub(super) fn judge(head: &request::Parts, allow_private: bool) -> Result<Judged, Words> {
    let target = target(head, allow_private)?;
    let fields = head.headers.iter();
    let fields: Vec<_> = fields
        .map(|(name, value)| (name.as_str(), value.as_bytes()))
        .collect();
    let mut marks = http_fields::marks(&fields).map_err(http_head::words)?;
    if http_fields::may_be_of_a_page(&fields) {
        // A page must not choose what its requests cost. A browser that means it has a user and a password.
        marks.tokens = [None, None];
    }
    // An offer of HTTP/2 may be passed over, and many programs make it with every request.
    let upgrades = head.headers.get_all(UPGRADE).iter();
    if upgrades
        .into_iter()
        .any(|to| !to.as_bytes().trim_ascii().eq_ignore_ascii_case(b"h2c"))
    {
        return Err(Words::new(
            "501 Not Implemented",
            "request/upgrade",
            "Cepa passes no upgrade on. Have the application use CONNECT or SOCKS for it.",
        ));
    }
    Ok(Judged { target, marks })
}

fn target(head: &request::Parts, allow_private: bool) -> Result<FrontTarget, Words> {
    let bad = |text: &str| Words::new("400 Bad Request", "request/malformed", text);
    let (Some(scheme), Some(authority)) = (head.uri.scheme(), head.uri.authority()) else {
        return Err(bad(
            "A connection that has carried a request for an http:// address takes only further ones.",
        ));
    };
    if *scheme != uri::Scheme::HTTP {
        return Err(bad(
            "Cepa passes on requests for http:// alone. For https:// use CONNECT, which programs do by themselves \
             when they speak to an HTTP proxy, or SOCKS.",
        ));
    }
    if authority.as_str().contains('@') {
        return Err(bad("Leave user and password out of the address."));
    }
    let host = Host::parse(authority.host().as_bytes()).map_err(http_head::words)?;
    let port = match authority.as_str().strip_prefix(authority.host()) {
        Some("" | ":") => HTTP_PORT,
        // The library alone would accept ":+80".
        Some(port) if port.contains('+') => return Err(http_head::words(FrontRefusal::Port)),
        _ => authority
            .port_u16()
            .ok_or_else(|| http_head::words(FrontRefusal::Port))?,
    };
    FrontTarget::new(host, port, allow_private).map_err(http_head::words)
}

/// Makes of a request to the port one to its destination. `size` is the length of its body in bytes, if that is known.
pub(super) fn rewrite_request(head: &mut request::Parts, target: &FrontTarget, size: Option<u64>) {
    let has_length = head.headers.contains_key(CONTENT_LENGTH);
    let mut fields = HeaderMap::with_capacity(head.headers.len() + 1);
    if let Ok(host) = HeaderValue::try_from(host_field(target)) {
        fields.insert(HOST, host);
    }
    passed(&mut head.headers, &mut fields, |name| {
        *name == HOST || *name == CONTENT_LENGTH
    });
    match size {
        // A body without a length would be left out where the method usually has none.
        None => {
            fields.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        Some(size) if size > 0 || has_length => {
            fields.insert(CONTENT_LENGTH, size.into());
        }
        Some(_) => {}
    }
    head.headers = fields;
    head.version = Version::HTTP_11;
    head.uri = origin_form(&head.uri);
}

/// Makes of a destination's response one of the port. `is_head` says that it answers HEAD: then the
/// length is that which a body would have.
pub(super) fn rewrite_response(head: &mut response::Parts, is_head: bool) {
    let mut fields = HeaderMap::with_capacity(head.headers.len());
    passed(&mut head.headers, &mut fields, |name| {
        !is_head && *name == CONTENT_LENGTH
    });
    head.headers = fields;
    head.version = Version::HTTP_11;
}

/// Moves the fields that are for the other side to `to`, in their order, but for those that `not` names.
fn passed(from: &mut HeaderMap, to: &mut HeaderMap, not: impl Fn(&HeaderName) -> bool) {
    let named: Vec<HeaderName> = from
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&b| b == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .collect();
    let mut passes = false;
    let mut last = None;
    for (name, value) in core::mem::take(from) {
        // A name is told once for all its values.
        if let Some(name) = name {
            let text = name.as_str();
            passes = !(OF_A_CONNECTION.contains(&text)
                || OF_THE_PORT.iter().any(|begin| text.starts_with(begin))
                || named.contains(&name)
                || not(&name));
            last = Some(name);
        }
        if passes && let Some(name) = &last {
            to.append(name.clone(), value);
        }
    }
}

/// The value of `Host` for this destination.
fn host_field(target: &FrontTarget) -> String {
    let host = match &target.host {
        Host::Ip6(ip) => format!("[{ip}]"),
        host => host.to_string(),
    };
    match target.port {
        HTTP_PORT => host,
        port => format!("{host}:{port}"),
    }
}

/// What an origin is asked for (RFC 9112, section 3.2).
fn origin_form(uri: &Uri) -> Uri {
    let path = uri.path_and_query().map_or("/", uri::PathAndQuery::as_str);
    match path.starts_with('/') {
        true => path.parse().unwrap_or_default(),
        // "http://host?query"
        false => format!("/{path}").parse().unwrap_or_default(),
    }
}
