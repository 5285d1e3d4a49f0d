//! What each key means, for people: the source of `--print-config` and of hints.

use toml::{Table, Value};

use super::{Authority, Client, Config, Exit, Relay};

/// One section of the file.
pub struct Section {
    /// The name between the brackets.
    pub name: &'static str,
    /// What the section is for.
    pub doc: &'static str,
    /// Keys of the section.
    pub keys: &'static [Key],
}

/// One key of a section.
pub struct Key {
    /// The name before the equals sign.
    pub name: &'static str,
    /// What the key does.
    pub doc: &'static str,
    /// A value to show where none is set; TOML.
    pub example: &'static str,
}

const fn key(name: &'static str, example: &'static str, doc: &'static str) -> Key {
    Key { name, doc, example }
}

/// Every section and key, in the order in which they are printed.
pub const SECTIONS: &[Section] = &[
    Section {
        name: "network",
        doc: "Which network this node belongs to.",
        keys: &[key(
            "file",
            r#""network.toml""#,
            "The network's file: authorities, their keys and addresses, parameters. A relative path is taken from the directory of this configuration file, here and everywhere below.",
        )],
    },
    Section {
        name: "state",
        doc: "What must survive a restart.",
        keys: &[
            key(
                "dir",
                r#""state""#,
                "Directory of keys and documents; created with mode 0700. One process at a time works in it.",
            ),
            key(
                "check_permissions",
                "true",
                "Refuse a directory or a key that other users of the machine can reach. Switch it off for throwaway keys only.",
            ),
        ],
    },
    Section {
        name: "client",
        doc: "Use the network from this machine. Leave the section out if the node is no client.",
        keys: &[
            key(
                "socks",
                r#""127.0.0.1:9350""#,
                "Where applications connect: one port for SOCKS 4, 4a and 5 and for HTTP CONNECT.",
            ),
            key(
                "allow_remote",
                "false",
                "Let `socks` be an address that other machines can reach. Everybody there could use this client.",
            ),
            key(
                "allow_private",
                "false",
                "Pass private and loopback addresses on to exits instead of refusing them. For local networks.",
            ),
            key(
                "answer_early",
                "false",
                "Tell applications that a stream is open before it is: their first bytes travel with the request, which saves a round trip. What fails is then seen as a reset, without its reason.",
            ),
            key(
                "multipath",
                r#""bulk""#,
                "When a circuit gets a second one by other relays to the same exit that carries its streams with it: \"never\", \"bulk\" (it moves 256 KiB to 24 MiB a second for longer than a moment), \"always\" (with its first stream). A second guard sees traffic then.",
            ),
            key(
                "isolate",
                r#"["credentials", "listener", "client", "protocol"]"#,
                "What keeps streams on different circuits: \"credentials\" (user name and password given to the port), \"listener\" (the port), \"client\" (the application's machine), \"protocol\" (SOCKS 4, 4a, 5, HTTP CONNECT), \"destination\" (the host asked for), \"port\" (the port asked for), \"stream\" (each alone). Each that is added costs circuits.",
            ),
            key(
                "listeners",
                r#"[{ address = "127.0.0.1:9351", isolate = ["stream"] }]"#,
                "Further ports like `socks`, each with its own `isolate` if it names one.",
            ),
            key(
                "hops",
                "3",
                "Relays in a circuit, 1 to 5. With 1 that relay knows both who asks and for what: no anonymity.",
            ),
            key(
                "guards",
                "0",
                "Guards, the relays that circuits begin at, in use at a time: 1 to 10, and as many links are kept. 0: the network's number.",
            ),
            key(
                "entry_only",
                r#"["192.0.2.0/24"]"#,
                "Use only these as first hops; all if the list is empty.",
            ),
            key(
                "entry_prefer",
                r#"["2001:db8::/32"]"#,
                "Prefer these as first hops: each counts as if it carried eight times as much.",
            ),
            key(
                "entry_avoid",
                r#"["192.0.2.7"]"#,
                "Never use these as first hops, whatever the other lists say.",
            ),
            key(
                "middle_only",
                r#"["192.0.2.0/24"]"#,
                "Use only these as middle hops; all if the list is empty.",
            ),
            key(
                "middle_prefer",
                r#"["2001:db8::/32"]"#,
                "Prefer these as middle hops: each counts as if it carried eight times as much.",
            ),
            key(
                "middle_avoid",
                r#"["192.0.2.7"]"#,
                "Never use these as middle hops, whatever the other lists say.",
            ),
            key(
                "exit_only",
                r#"["192.0.2.0/24"]"#,
                "Use only these as exits; all if the list is empty.",
            ),
            key(
                "exit_prefer",
                r#"["2001:db8::/32"]"#,
                "Prefer these as exits: each counts as if it carried eight times as much.",
            ),
            key(
                "exit_avoid",
                r#"["192.0.2.7"]"#,
                "Never use these as exits, whatever the other lists say.",
            ),
            key(
                "destinations",
                r#"[".example.com:443 only 192.0.2.0/24"]"#,
                "Which exits serve which destinations: DESTINATION[,DESTINATION...] only|prefer|avoid PEER ...; the first rule with a fitting destination counts.",
            ),
            key(
                "geoip",
                r#""GeoLite2-Country.mmdb""#,
                "A file in MaxMind's format that says in which country an address is; needed for peers such as country:de.",
            ),
        ],
    },
    Section {
        name: "relay",
        doc: "Carry circuits of others. Leave the section out if the node is no relay.",
        keys: &[
            key(
                "listen",
                r#""0.0.0.0:9001""#,
                "Where links and directory requests are accepted; one port for all.",
            ),
            key(
                "advertise",
                r#"["203.0.113.5:9001"]"#,
                "Addresses at which others reach this relay; the directory hands them out. Empty means the address of `listen`, which must then be a full one.",
            ),
            key(
                "nickname",
                r#""unnamed""#,
                "A name for people, 1 to 19 letters and digits. It proves nothing.",
            ),
            key(
                "suite",
                r#""auto""#,
                "Suite of the onion key: \"chacha20-poly1305\", \"aes-256-gcm\", or \"auto\", which takes AES where the processor has instructions for it.",
            ),
            key(
                "publish",
                "true",
                "Publish a descriptor, so that clients build circuits through this relay.",
            ),
            key(
                "certificate",
                r#""state/certificate.toml""#,
                "The certificate that an identity kept off line made for this relay's link key; reread while the relay runs. `certificate.toml` in the state directory if it is not set and the state directory has a link key.",
            ),
            key(
                "family",
                r#""state/family.toml""#,
                "The relay's membership in a family; reread while the relay runs. `family.toml` in the state directory if it is not set.",
            ),
            key(
                "claim_kib",
                "0",
                "What the descriptor says that this relay carries (KiB a second); it counts, under a cap, until authorities have measured it. 0 for the usual: 10000, or limits.bandwidth_kib where that is less.",
            ),
        ],
    },
    Section {
        name: "exit",
        doc: "Let circuits leave the network here. Needs [relay]. Leave the section out if the relay is no exit.",
        keys: &[
            key(
                "policy",
                r#"["reject *:25", "accept *:*"]"#,
                "Rules for addresses and ports; the first that matches counts, and what none matches is refused.",
            ),
            key(
                "allow_private",
                "false",
                "Let the rules speak about private and loopback addresses too, which are refused otherwise. For local networks.",
            ),
            key(
                "resolver",
                r#""9.9.9.9:53""#,
                "The DNS server to ask for names, ADDRESS:PORT. The system's servers if it is not set.",
            ),
        ],
    },
    Section {
        name: "authority",
        doc: "Vote on who is in the network. Needs [relay], and the keys that `cepa authority init` or `cepa authority key` made.",
        keys: &[
            key(
                "signing_key",
                r#""authority""#,
                "Name of the signing key's file in the directory `keys` of the state directory; with NAME-cert beside it, the certified key that this names signs.",
            ),
            key(
                "reject",
                r#"["192.0.2.0/24"]"#,
                "Relays that this authority does not take: identities, addresses and ranges of addresses.",
            ),
            key(
                "middle_only",
                r#"["192.0.2.0/24"]"#,
                "Relays that get none of the flags Guard, Exit and HSDir from this authority: identities, addresses and ranges of addresses.",
            ),
            key(
                "measure_mib_per_hour",
                "4096",
                "What may be downloaded through relays to measure what they carry (MiB an hour). 0: this authority does not measure.",
            ),
        ],
    },
    Section {
        name: "log",
        doc: "What is logged, and where to.",
        keys: &[
            key(
                "level",
                r#""info""#,
                "A level (off, error, warn, info, debug, trace) or a list of filters such as \"info,cepa_relay::exit=debug\". `--log` and RUST_LOG go before it.",
            ),
            key(
                "file",
                r#""cepa.log""#,
                "File to write to. Standard error if it is not set.",
            ),
        ],
    },
    Section {
        name: "limits",
        doc: "What the node may use of the machine.",
        keys: &[
            key(
                "threads",
                "0",
                "Threads that carry traffic; 0 for one to a processor.",
            ),
            key(
                "memory_mib",
                "512",
                "Bound on the memory of all queues (MiB). Over it, the circuits that have waited longest are closed.",
            ),
            key(
                "connections",
                "4096",
                "Bound on the links that are accepted at a time.",
            ),
            key(
                "bandwidth_kib",
                "0",
                "What all links of a relay together may move in each direction (KiB a second); at least 50. 0: as much as they can.",
            ),
        ],
    },
];

/// Every key with its section: `relay.listen`.
pub fn paths() -> impl Iterator<Item = String> {
    SECTIONS.iter().flat_map(|section| {
        section
            .keys
            .iter()
            .map(|key| format!("{}.{}", section.name, key.name))
    })
}

/// The known key or section that `unknown` most resembles, by its full name or by its last part.
pub fn nearest(unknown: &str) -> String {
    let leaf = unknown.rsplit('.').next().unwrap_or(unknown);
    let score = |known: &str| {
        let known_leaf = known.rsplit('.').next().unwrap_or(known);
        let whole = strsim::normalized_damerau_levenshtein(unknown, known);
        // The right key in the wrong section is nearer than a stranger in the right one.
        whole.max(0.9 * strsim::normalized_damerau_levenshtein(leaf, known_leaf))
    };
    let sections = SECTIONS.iter().map(|section| section.name.to_owned());
    let nearest = paths()
        .chain(sections.filter(|_| !unknown.contains('.')))
        .max_by(|a, b| score(a).total_cmp(&score(b)))
        .unwrap_or_default();
    if nearest.contains('.') {
        nearest
    } else {
        format!("[{nearest}]")
    }
}

/// `config` as a file with comments: what is in effect stands there, what is not is commented out.
pub fn print(config: &Config) -> String {
    let effective = Table::try_from(config).unwrap_or_default();
    let defaults = Table::try_from(everything()).unwrap_or_default();
    let mut out = String::from("# Configuration of a Cepa node. docs/config.md explains more.\n");
    for section in SECTIONS {
        let values = effective.get(section.name).and_then(Value::as_table);
        let off = if values.is_some() { "" } else { "# " };
        let defaults = defaults.get(section.name).and_then(Value::as_table);
        out.push_str(&format!("\n# {}\n{off}[{}]\n", section.doc, section.name));
        for key in section.keys {
            out.push_str(&comment(key.doc));
            let value = values.and_then(|table| table.get(key.name));
            let shown = value.or_else(|| defaults.and_then(|table| table.get(key.name)));
            let text = shown.map_or_else(|| key.example.to_owned(), ToString::to_string);
            let off = if value.is_some() { "" } else { "# " };
            out.push_str(&format!("{off}{} = {text}\n", key.name));
        }
    }
    out
}

/// A configuration with every section at its defaults.
fn everything() -> Config {
    Config {
        client: Some(Client::default()),
        relay: Some(Relay::default()),
        exit: Some(Exit::default()),
        authority: Some(Authority::default()),
        ..Config::default()
    }
}

/// `text` as comment lines of at most about 96 columns.
fn comment(text: &str) -> String {
    let mut out = String::new();
    let mut line = String::from("#");
    for word in text.split_whitespace() {
        if line.len() + 1 + word.len() > COMMENT_COLUMNS {
            out.push_str(&line);
            out.push('\n');
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    out.push_str(&line);
    out.push('\n');
    out
}

const COMMENT_COLUMNS: usize = 96;
