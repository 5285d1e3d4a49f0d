//! Fields of an HTTP request that are meant for the port and not for the destination.

use core::net::IpAddr;

use data_encoding::BASE64;

use super::refusal::FrontRefusal;
use super::target::{Credentials, Marks};

/// The fields by which a request asks to be kept apart, besides `Proxy-Authorization` (Tor's convention, which its
/// programs speak to any proxy).
const TOKENS: [&str; 2] = ["tor-stream-isolation", "x-tor-stream-isolation"];

/// The name of a field, and its value.
pub(super) type Field<'a> = (&'a str, &'a [u8]);

/// What the fields of a request say that its stream must be kept apart by. A field that is not understood is refused:
/// whoever sends it wants streams to be kept apart, and must not be left to believe that they are.
pub(super) fn marks(fields: &[Field<'_>]) -> Result<Marks, FrontRefusal> {
    let credentials = match only(fields, "proxy-authorization")? {
        Some(value) => Some(basic(value).ok_or(FrontRefusal::Malformed)?),
        None => None,
    };
    let token = |name| only(fields, name).map(|value| value.map(<[u8]>::to_vec));
    Ok(Marks {
        credentials,
        tokens: [token(TOKENS[0])?, token(TOKENS[1])?],
    })
}

/// The value of the field `name`, which may be there once.
fn only<'a>(fields: &[Field<'a>], name: &str) -> Result<Option<&'a [u8]>, FrontRefusal> {
    let mut values = fields
        .iter()
        .filter(|(other, _)| other.eq_ignore_ascii_case(name));
    let first = values.next().map(|(_, value)| value.trim_ascii());
    match values.next() {
        Some(_) => Err(FrontRefusal::Malformed),
        None => Ok(first),
    }
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

/// Is a request for the port itself one that a page in a browser may have made? Such a request names another host than
/// this machine or `listener`, the address that the connection came to: its own site's, whose name it may have had
/// point here (DNS rebinding). Or the browser says that another site is behind it.
pub(super) fn is_of_a_page(fields: &[Field<'_>], listener: Option<IpAddr>) -> bool {
    let has = |name: &str| fields.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
    let here = match only(fields, "host") {
        Ok(Some(host)) => is_here(host, listener),
        // Programs of HTTP/1.0 name no host, and no browser does that.
        Ok(None) => true,
        Err(_) => false,
    };
    let by_hand = match only(fields, "sec-fetch-site") {
        Ok(site) => site.is_none_or(|site| site == b"none"),
        Err(_) => false,
    };
    !here || !by_hand || has("origin")
}

/// May a page in a browser have made the request? Browsers mark what a page asks of another site (`Origin`) and what goes
/// to where nobody listens in (`Sec-Fetch-*`). Requests to `http://` addresses of the page's own site they do not mark;
/// but they say in each which languages their user reads, and no page can keep that out. Programs that know the fields
/// for isolation say no such thing.
pub(super) fn may_be_of_a_page(fields: &[Field<'_>]) -> bool {
    fields.iter().any(|(name, _)| {
        let name = name.to_ascii_lowercase();
        name == "origin" || name == "accept-language" || name.starts_with("sec-")
    })
}

/// Does a `Host` field name this machine's loopback or `listener`?
fn is_here(host: &[u8], listener: Option<IpAddr>) -> bool {
    let Ok(text) = core::str::from_utf8(host) else {
        return false;
    };
    let name = match text.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => text,
    };
    let inside = name.strip_prefix('[').and_then(|n| n.strip_suffix(']'));
    match inside.unwrap_or(name).parse::<IpAddr>() {
        Ok(ip) => {
            let ip = ip.to_canonical();
            ip.is_loopback() || listener.is_some_and(|own| own.to_canonical() == ip)
        }
        Err(_) => name.eq_ignore_ascii_case("localhost"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn of_a_page(fields: &[(&str, &str)]) -> bool {
        let fields: Vec<_> = fields
            .iter()
            .map(|(name, value)| (*name, value.as_bytes()))
            .collect();
        is_of_a_page(&fields, Some([192, 0, 2, 1].into()))
    }

    #[test]
    fn only_who_means_this_machine_and_no_page_is_spoken_to() {
        for host in [
            "localhost",
            "LocalHost:9350",
            "127.0.0.1:9350",
            "127.8.8.8",
            "[::1]:9350",
            "192.0.2.1:9350",
        ] {
            assert!(!of_a_page(&[("Host", host)]), "{host}");
            assert!(of_a_page(&[("Host", host), ("oRigin", "null")]), "{host}");
            for (site, page) in [
                ("none", false),
                ("cross-site", true),
                ("same-origin", true),
                ("", true),
            ] {
                let fields = [("host", host), ("Sec-Fetch-Site", site)];
                assert_eq!(of_a_page(&fields), page, "{site}");
            }
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "192.0.2.2",
            "127.0.0.1.evil.example",
            "localhost@evil.example",
            "::1.evil",
        ] {
            assert!(of_a_page(&[("Host", host)]), "{host}");
        }
        assert!(!of_a_page(&[]));
        assert!(of_a_page(&[("Host", "localhost"), ("host", "localhost")]));
    }

    #[test]
    fn what_keeps_apart_is_read_and_never_guessed() {
        let read = |fields: &[(&'static str, &'static str)]| {
            let fields = fields.iter().map(|(name, value)| (*name, value.as_bytes()));
            marks(&fields.collect::<Vec<_>>())
        };
        assert_eq!(read(&[("Accept", "x")]), Ok(Marks::default()));
        let marks = read(&[
            ("Proxy-Authorization", "basic Ym9iOnh5Og=="),
            ("TOR-Stream-Isolation", " one "),
            ("X-Tor-Stream-Isolation", "two"),
        ]);
        let bob = Credentials {
            user: b"bob".to_vec(),
            password: b"xy:".to_vec(),
        };
        let expected = Marks {
            credentials: Some(bob),
            tokens: [Some(b"one".to_vec()), Some(b"two".to_vec())],
        };
        assert_eq!(marks, Ok(expected));
        for twice in TOKENS.into_iter().chain(["Proxy-Authorization"]) {
            let fields = [(twice, "Basic Ym9iOnh5Og=="), (twice, "Basic Ym9iOnh5Og==")];
            assert_eq!(read(&fields), Err(FrontRefusal::Malformed), "{twice}");
        }
        for value in ["Bearer x", "Basic", "Basic !", "Basic Ym9i"] {
            let got = read(&[("Proxy-Authorization", value)]);
            assert_eq!(got, Err(FrontRefusal::Malformed), "{value}");
        }
    }
}
