//! How this machine looks names up, and whether a name that a program looks up itself goes beside Cepa. Nothing is
//! looked up: the files say enough.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use cepa_common::world::Disk;
use cepa_exec::NAME_SERVERS;

use super::finding::Finding;
use super::port::Port;

/// The most of a file that is read (bytes).
const MOST_BYTES: u64 = 64 << 10;
/// The service of names where nsswitch.conf says nothing.
const USUAL: &str = "files dns";

const HINT: &str = "have programs hand names to the port: socks5h:// and not socks5://, SOCKS 4a, or HTTP \
                    (docs/front.md); or run them by `cepa exec`";

/// What the machine's files say of names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Machine {
    /// `/etc/resolv.conf`.
    resolv: String,
    /// `/etc/nsswitch.conf`.
    nsswitch: String,
}

impl Machine {
    /// Reads the files; one that cannot be read counts as empty, as it does for programs.
    pub(super) fn read() -> Self {
        let read = |path: &str| {
            let read = Disk::Real.read_text(Path::new(path), MOST_BYTES);
            read.unwrap_or_default()
        };
        Self {
            resolv: read("/etc/resolv.conf"),
            nsswitch: read("/etc/nsswitch.conf"),
        }
    }

    /// The name servers; that of this machine where none is named.
    fn servers(&self) -> Vec<IpAddr> {
        let lines = self.resolv.lines().filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some("nameserver")).then(|| words.next())?
        });
        // An address of one link has the link's name behind it.
        let address = |text: &str| text.split('%').next()?.parse().ok();
        let servers: Vec<IpAddr> = lines.filter_map(address).collect();
        match servers.is_empty() {
            true => vec![Ipv4Addr::LOCALHOST.into()],
            false => servers,
        }
    }

    /// What is asked for the name of a host, in order.
    fn services(&self) -> Vec<&str> {
        let lines = self
            .nsswitch
            .lines()
            .map(|line| line.split('#').next().unwrap_or_default());
        let hosts = lines
            .filter_map(|line| line.trim().strip_prefix("hosts:"))
            .next();
        let words = hosts.unwrap_or(USUAL).split_whitespace();
        // What stands in brackets says what follows an answer.
        words
            .filter(|word| !word.starts_with('[') && !word.ends_with(']'))
            .collect()
    }
}

/// Does this program run inside `cepa exec`?
pub(super) fn is_in_exec() -> bool {
    let servers = Machine::read().servers();
    servers.iter().all(|server| NAME_SERVERS.contains(server))
}

/// Where does a name go that a program looks up in the ordinary way?
pub(super) fn check(machine: &Machine, ports: &[Port]) -> Finding {
    let services = machine.services();
    let local = ["files", "myhostname", "mymachines", "db", "compat"];
    let mut asked = services
        .iter()
        .filter(|service| !local.contains(service))
        .peekable();
    if asked.peek().is_none() {
        return Finding::ok(
            "names",
            "programs that look names up themselves find those of this machine's files alone",
        );
    }
    let others: Vec<&str> = asked.copied().filter(|service| *service != "dns").collect();
    let servers = machine.servers();
    let shown: Vec<String> = servers.iter().map(ToString::to_string).collect();
    let shown = shown.join(", ");
    let is_ours = |server: &IpAddr| ports.iter().any(|port| port.answers_dns_at(*server));
    if others.is_empty() && servers.iter().all(|server| NAME_SERVERS.contains(server)) {
        return Finding::ok(
            "names",
            "a name that a program looks up itself goes through Cepa here (`cepa exec`)",
        );
    }
    if others.is_empty() && servers.iter().all(is_ours) {
        let says = format!(
            "a name that a program looks up itself goes to the client's own port for names ({shown})"
        );
        return Finding::ok("names", says);
    }
    let way = match servers.iter().all(IpAddr::is_loopback) {
        true => format!("is handed to {shown} on this machine, which asks others, beside Cepa"),
        false => format!("leaves this machine for {shown}, beside Cepa"),
    };
    let more = match others.is_empty() {
        true => String::new(),
        false => format!(
            "; /etc/nsswitch.conf has it asked of {} too",
            others.join(", ")
        ),
    };
    Finding::warn(
        "names",
        format!("a name that a program looks up itself {way}{more}"),
        HINT,
    )
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;

    fn machine(resolv: &str, nsswitch: &str) -> Machine {
        Machine {
            resolv: resolv.to_owned(),
            nsswitch: nsswitch.to_owned(),
        }
    }

    fn says(resolv: &str, nsswitch: &str) -> (Verdict, String) {
        let found = check(&machine(resolv, nsswitch), &[]);
        assert_eq!(found.hint.is_empty(), found.result == Verdict::Ok);
        (found.result, found.says)
    }

    #[test]
    fn it_is_said_where_a_name_goes() {
        let usual = "hosts:          files dns\n";
        let (result, text) = says(
            "# x\nsearch lan\nnameserver 192.0.2.53\nnameserver fe80::1%eth0\n",
            usual,
        );
        assert_eq!(result, Verdict::Warn);
        assert!(
            text.contains("leaves this machine for 192.0.2.53, fe80::1, beside Cepa"),
            "{text}"
        );
        // systemd's resolver, and one that is meant where none is named.
        for (resolv, server) in [
            ("nameserver 127.0.0.53\noptions edns0\n", "127.0.0.53"),
            ("", "127.0.0.1"),
        ] {
            let (result, text) = says(resolv, usual);
            assert_eq!(result, Verdict::Warn);
            assert!(
                text.contains(&format!("is handed to {server} on this machine")),
                "{text}"
            );
        }
        let (result, text) = says("nameserver 198.18.0.53\nnameserver fd00:ce9a::53\n", usual);
        assert!(
            result == Verdict::Ok && text.contains("goes through Cepa"),
            "{text}"
        );
        // One server of two that is not Cepa is enough for a leak.
        let (result, _) = says("nameserver 198.18.0.53\nnameserver 192.0.2.53\n", usual);
        assert_eq!(result, Verdict::Warn);
    }

    #[test]
    fn other_services_than_the_dns_are_named() {
        let nsswitch = "hosts: files mdns4_minimal [NOTFOUND=return] dns # as usual\n";
        let (result, text) = says("nameserver 198.18.0.53\n", nsswitch);
        assert_eq!(result, Verdict::Warn);
        assert!(text.ends_with("asked of mdns4_minimal too"), "{text}");
        let (result, text) = says("nameserver 192.0.2.53\n", "hosts: files myhostname\n");
        assert!(
            result == Verdict::Ok && text.contains("files alone"),
            "{text}"
        );
        // Without the file, or the line, it is the DNS.
        for nsswitch in ["", "passwd: files\n", "#hosts: files\n"] {
            assert_eq!(says("nameserver 192.0.2.53\n", nsswitch).0, Verdict::Warn);
        }
    }
}
