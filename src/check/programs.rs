//! What the environment tells programs about proxies: whether they go to the client, and hand names to it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::finding::Finding;
use crate::config::ListenAddress;

/// Variables that name a proxy. Programs read one or both spellings.
const PROXIES: [&str; 6] = [
    "http_proxy",
    "HTTP_PROXY",
    "https_proxy",
    "HTTPS_PROXY",
    "all_proxy",
    "ALL_PROXY",
];
/// Variables that name destinations to which programs go without a proxy.
const EXEMPT: [&str; 2] = ["no_proxy", "NO_PROXY"];

/// What a variable leads to.
enum Way {
    /// To the client, names and all.
    Client,
    /// To the client; the program looks names up itself.
    ClientWithoutNames,
    /// Elsewhere.
    Elsewhere,
}

/// What do the variables `get` gives tell programs?
pub(super) fn check(get: &dyn Fn(&str) -> Option<String>, ports: &[ListenAddress]) -> Vec<Finding> {
    let set = |name: &'static str| {
        get(name)
            .filter(|value| !value.is_empty())
            .map(|value| (name, value))
    };
    let proxies: Vec<_> = PROXIES.into_iter().filter_map(set).collect();
    if proxies.is_empty() {
        let says =
            "no variable such as https_proxy is set: programs use Cepa only where each is told to";
        return vec![Finding::ok("programs", says)];
    }
    let mut findings = Vec::new();
    let mut fine = Vec::new();
    for (name, value) in &proxies {
        let shown = without_user(value);
        match way(value, ports) {
            Way::Client => fine.push(*name),
            Way::ClientWithoutNames => findings.push(Finding::warn(
                "programs",
                format!("{name} is {shown}: programs that follow it look names up themselves, beside Cepa"),
                format!("write socks5h:// in {name}, so that names go to the exit"),
            )),
            Way::Elsewhere => findings.push(Finding::warn(
                "programs",
                format!("{name} is {shown}, which is no port of this client: programs that follow it go there"),
                match ports.iter().find_map(tcp) {
                    Some(port) => format!("set it to socks5h://{port} or http://{port}, or unset it"),
                    None => "unset it".to_owned(),
                },
            )),
        }
    }
    let covers = |scheme: &str| {
        proxies.iter().any(|(name, _)| {
            let name = name.to_ascii_lowercase();
            name == "all_proxy" || name == format!("{scheme}_proxy")
        })
    };
    if !covers("https") {
        findings.push(Finding::warn(
            "programs",
            "http_proxy is set and https_proxy is not: programs go to https:// addresses beside Cepa",
            "set https_proxy too, or all_proxy",
        ));
    }
    for (name, value) in EXEMPT.into_iter().filter_map(set) {
        let hosts = value
            .split([',', ' '])
            .filter(|host| !host.is_empty() && !is_here(host));
        let hosts: Vec<&str> = hosts.collect();
        if !hosts.is_empty() {
            findings.push(Finding::warn(
                "programs",
                format!("{name} has programs go to {} beside Cepa", hosts.join(", ")),
                format!("take out of {name} what is not of this machine"),
            ));
        }
    }
    if findings.is_empty() {
        let says = format!(
            "programs that follow {} come to this client, names and all",
            fine.join(", ")
        );
        findings.push(Finding::ok("programs", says));
    }
    findings
}

/// Does this word of `no_proxy` mean this machine alone?
fn is_here(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let is_loopback = |ip: IpAddr| ip.is_loopback();
    bare == "localhost" || bare.parse().is_ok_and(is_loopback) || bare == "127.0.0.0/8"
}

fn tcp(port: &ListenAddress) -> Option<SocketAddr> {
    match port {
        ListenAddress::Tcp(address) => Some(*address),
        ListenAddress::Unix(_) => None,
    }
}

/// Where a proxy's URL leads, without what may be a password.
fn without_user(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let place = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
    match scheme {
        "" => place.to_owned(),
        scheme => format!("{scheme}://{place}"),
    }
}

fn way(url: &str, ports: &[ListenAddress]) -> Way {
    let shown = without_user(url);
    let (scheme, place) = shown.split_once("://").unwrap_or(("http", &shown));
    let place = place.split('/').next().unwrap_or_default();
    let Some(address) = address(place, scheme) else {
        return Way::Elsewhere;
    };
    let is_ours = |port: SocketAddr| {
        port.port() == address.port()
            && (port.ip() == address.ip()
                || port.ip().is_unspecified() && address.ip().is_loopback())
    };
    if !ports.iter().filter_map(tcp).any(is_ours) {
        return Way::Elsewhere;
    }
    match scheme {
        // A `socks` without a number is SOCKS 4 or 5, with names looked up by the program in most.
        "socks5" | "socks4" | "socks" => Way::ClientWithoutNames,
        _ => Way::Client,
    }
}

/// The address of a proxy, if that is an address or this machine. Names are not looked up.
fn address(place: &str, scheme: &str) -> Option<SocketAddr> {
    if let Ok(address) = place.parse() {
        return Some(address);
    }
    // The ports that curl takes where none is named.
    let usual = match scheme {
        "http" => 80,
        "https" => 443,
        _ => 1080,
    };
    let (host, port) = match place.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().ok()?),
        None => (place, usual),
    };
    match host {
        "localhost" => Some((Ipv4Addr::LOCALHOST, port).into()),
        host => Some((host.parse::<Ipv4Addr>().ok()?, port).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;

    fn found(vars: &[(&str, &str)]) -> Vec<Finding> {
        let get = |name: &str| {
            let var = vars.iter().find(|(known, _)| *known == name);
            var.map(|(_, value)| (*value).to_owned())
        };
        let ports = [
            ListenAddress::Unix("/run/x".into()),
            ListenAddress::Tcp(([127, 0, 0, 1], 9_350).into()),
        ];
        check(&get, &ports)
    }

    fn only(vars: &[(&str, &str)]) -> (Verdict, String) {
        let found = found(vars);
        assert_eq!(found.len(), 1, "{found:?}");
        (found[0].result, found[0].says.clone())
    }

    #[test]
    fn without_variables_programs_are_told_one_by_one() {
        let (result, says) = only(&[("https_proxy", "")]);
        assert!(
            result == Verdict::Ok && says.contains("each is told"),
            "{says}"
        );
    }

    #[test]
    fn proxies_that_are_the_client_and_take_names_are_fine() {
        for value in [
            "socks5h://127.0.0.1:9350",
            "socks5h://user:secret@localhost:9350/",
            "http://127.0.0.1:9350",
            "127.0.0.1:9350",
            "socks4a://127.0.0.1:9350",
        ] {
            let (result, says) = only(&[
                ("all_proxy", value),
                ("no_proxy", "localhost,127.0.0.1,::1"),
            ]);
            assert!(result == Verdict::Ok, "{value}: {says}");
        }
    }

    #[test]
    fn what_goes_beside_the_client_is_said() {
        let (result, says) = only(&[("ALL_PROXY", "socks5://127.0.0.1:9350")]);
        assert!(
            result == Verdict::Warn && says.contains("look names up themselves"),
            "{says}"
        );
        for elsewhere in [
            "http://proxy.example:3128",
            "http://127.0.0.1:9351",
            "http://127.0.0.1",
            "socks5h://[::1]:9350",
        ] {
            let (result, says) = only(&[("https_proxy", elsewhere)]);
            assert!(
                result == Verdict::Warn && says.contains("no port of this client"),
                "{says}"
            );
        }
        let (_, says) = only(&[("http_proxy", "http://127.0.0.1:9350")]);
        assert!(says.contains("https_proxy is not"), "{says}");
        let all = ("all_proxy", "socks5h://127.0.0.1:9350");
        let (_, says) = only(&[all, ("NO_PROXY", "localhost, .example.org 10.0.0.0/8")]);
        assert!(
            says.contains("go to .example.org, 10.0.0.0/8 beside"),
            "{says}"
        );
    }

    #[test]
    fn passwords_are_not_shown() {
        let found = found(&[("https_proxy", "http://anna:hunter2@proxy.example:3128")]);
        assert!(!format!("{found:?}").contains("hunter2"));
        assert!(found[0].says.contains("http://proxy.example:3128"));
    }
}
