//! Keeps requests out that a web page of another site could have sent (S33). Pure.
//!
//! No page can open a Unix socket. But the same paths may be served on a port of loopback, where a page reaches them
//! under a name that its owner has made lead there (DNS rebinding), or by a form. A browser says where such a request
//! comes from, and a program has no reason to.

use std::net::IpAddr;

use axum::http::header::{HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode, Uri};

use super::refusal::Refusal;

/// May a request with this address and these fields be answered?
pub(super) fn check(uri: &Uri, headers: &HeaderMap) -> Result<(), Refusal> {
    for name in [ORIGIN.as_str(), "sec-fetch-site"] {
        if headers.contains_key(name) {
            return Err(Refusal::new(
                StatusCode::FORBIDDEN,
                "foreign-site",
                format!(
                    "a request with the field {name} comes from a web page, and none is answered"
                ),
                "ask by a program, such as curl --unix-socket",
            ));
        }
    }
    let mut hosts = headers.get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host,
        (None, _) => return Err(no_host("the request has no field Host")),
        (Some(_), Some(_)) => return Err(no_host("the request has more than one field Host")),
    };
    let host = host.to_str().ok().and_then(|host| host.parse().ok());
    let named = uri.authority().cloned();
    if host.iter().chain(&named).all(is_local) && host.is_some() {
        return Ok(());
    }
    Err(Refusal::new(
        StatusCode::FORBIDDEN,
        "foreign-host",
        "the request is for a host that is not this machine by its name",
        "ask http://localhost/v1/status",
    ))
}

fn no_host(what: &str) -> Refusal {
    Refusal::bad(what, "send one such as `Host: localhost`")
}

/// Is this a name of this machine that nobody else can give out: `localhost`, or an address of loopback?
fn is_local(authority: &Authority) -> bool {
    // A name with a user before it is none that a program sends.
    if authority.as_str().contains('@') {
        return false;
    }
    let host = authority.host();
    let rest = authority.as_str().strip_prefix(host).unwrap_or("?");
    let is_port = |port: &str| port.parse::<u16>().is_ok();
    if !rest.is_empty() && !rest.strip_prefix(':').is_some_and(is_port) {
        return false;
    }
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    host.eq_ignore_ascii_case("localhost")
        || (bare.unwrap_or(host).parse()).is_ok_and(|ip: IpAddr| ip.is_loopback())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn code(uri: &str, fields: &[(&'static str, &str)]) -> Option<&'static str> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        let checked = check(&uri.parse().unwrap(), &headers);
        checked.err().map(|refusal| refusal.code())
    }

    #[test]
    fn names_of_this_machine_are_answered_and_no_others() {
        let local = [
            "localhost",
            "LocalHost:80",
            "127.0.0.1",
            "127.8.0.1:9351",
            "[::1]",
            "[::1]:9351",
        ];
        for host in local {
            assert_eq!(code("/v1/status", &[("host", host)]), None, "{host}");
        }
        let foreign = [
            "",
            "localhost.",
            "localhost.example.com",
            "a.localhost",
            "example.com",
            "example.com:80",
            "0.0.0.0",
            "[::]",
            "[::ffff:127.0.0.1]",
            "192.168.0.1",
            "2130706433",
            "127.1",
            "localhost@example.com",
            "example.com@localhost",
            "local host",
            "localhost, example.com",
            "localhost:example",
        ];
        for host in foreign {
            let refused = code("/v1/status", &[("host", host)]);
            assert_eq!(refused, Some("foreign-host"), "{host}");
        }
    }

    #[test]
    fn a_request_names_one_host_and_the_address_no_other() {
        assert_eq!(code("/v1/status", &[]), Some("bad-request"));
        let twice = [("host", "localhost"), ("host", "localhost")];
        assert_eq!(code("/v1/status", &twice), Some("bad-request"));
        let local = [("host", "localhost")];
        assert_eq!(code("http://127.0.0.1/v1/status", &local), None);
        let other = code("http://example.com/v1/status", &local);
        assert_eq!(other, Some("foreign-host"));
    }

    #[test]
    fn what_a_page_sends_is_refused_wherever_the_page_is_from() {
        for value in ["null", "http://localhost", "https://example.com", ""] {
            let fields = [("host", "localhost"), ("origin", value)];
            assert_eq!(code("/v1/status", &fields), Some("foreign-site"));
        }
        for value in ["cross-site", "same-site", "same-origin", "none"] {
            let fields = [("host", "localhost"), ("sec-fetch-site", value)];
            assert_eq!(code("/v1/status", &fields), Some("foreign-site"));
        }
    }
}
