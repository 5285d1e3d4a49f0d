//! Every setting, defined once: its key, type, default, an example, what the file's comment and the reference say of it.
//!
//! [`settings!`] makes of a section the struct that is read from the file, its defaults, and the [`Section`] that
//! [`super::keys`] prints. A setting is added by four lines here and by its use.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::kinds::{DEFAULT_SOCKS, IsolateKind, Listener, MultipathKind, SuiteChoice};

/// One section of the file.
pub(super) struct Section {
    /// The name between the brackets.
    pub(super) name: &'static str,
    /// What the section is for.
    pub(super) doc: &'static str,
    /// Keys of the section.
    pub(super) keys: &'static [Key],
}

/// One key of a section.
pub(super) struct Key {
    /// The name before the equals sign.
    pub(super) name: &'static str,
    /// What the comment in a printed configuration says of it.
    pub(super) doc: &'static str,
    /// A value to show where none is set; TOML.
    pub(super) example: &'static str,
    /// The type of its value in words, for the reference.
    pub(super) kind: &'static str,
    /// What the reference says of it.
    pub(super) meaning: &'static str,
    /// What the reference calls the default where that is no value; else empty.
    pub(super) unset: &'static str,
}

/// Every section, in the order in which they are printed.
pub(super) static SECTIONS: [Section; 8] = [
    Network::SECTION,
    State::SECTION,
    Client::SECTION,
    Relay::SECTION,
    Exit::SECTION,
    Authority::SECTION,
    Log::SECTION,
    Limits::SECTION,
];

macro_rules! settings {
    (
        $(#[$attribute:meta])*
        $name:ident $section:literal $doc:literal {
            $(
                $field:ident : $type:ty = $default:expr;
                example $example:literal;
                file $comment:literal;
                reference $kind:literal, $meaning:literal $(, unset $unset:literal)?;
            )*
        }
    ) => {
        $(#[$attribute])*
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct $name {
            $(
                #[doc = $comment]
                pub $field: $type,
            )*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        impl $name {
            /// What people read of this section.
            const SECTION: Section = Section {
                name: $section,
                doc: $doc,
                keys: &[
                    $(Key {
                        name: stringify!($field),
                        doc: $comment,
                        example: $example,
                        kind: $kind,
                        meaning: $meaning,
                        unset: concat!($($unset)?),
                    },)*
                ],
            };
        }
    };
}

settings! {
    /// `[network]`.
    Network "network" "Which network this node belongs to." {
        file: PathBuf = "network.toml".into();
            example r#""network.toml""#;
            file "The network's file: authorities, their keys and addresses, parameters. A relative path is taken from the directory of this configuration file, here and everywhere below.";
            reference "path", "The network's file: its authorities, their keys and addresses, its parameters. A running node takes a later revision that is put there.";
    }
}

settings! {
    /// `[state]`.
    State "state" "What must survive a restart." {
        dir: PathBuf = "state".into();
            example r#""state""#;
            file "Directory of keys and documents; created with mode 0700. One process at a time works in it.";
            reference "path", "Directory of keys and documents, created with mode 0700. One process at a time works in it; a second one is refused.";
        check_permissions: bool = true;
            example "true";
            file "Refuse a directory or a key that other users of the machine can reach. Switch it off for throwaway keys only.";
            reference "boolean", "Refuse a directory or a key that other users of the machine can read or change, parent directories included. Switch it off for throwaway keys only.";
    }
}

settings! {
    /// `[client]`.
    Client "client" "Use the network from this machine. Leave the section out if the node is no client." {
        socks: SocketAddr = DEFAULT_SOCKS;
            example r#""127.0.0.1:9350""#;
            file "Where applications connect: one port for SOCKS 4, 4a and 5 and for HTTP CONNECT.";
            reference "address and port", "Where applications connect. One port takes SOCKS 4, 4a and 5 and HTTP CONNECT.";
        allow_remote: bool = false;
            example "false";
            file "Let `socks` be an address that other machines can reach. Everybody there could use this client.";
            reference "boolean", "Let `client.socks` be an address that other machines can reach. Everybody there could use this client.";
        allow_private: bool = false;
            example "false";
            file "Pass private and loopback addresses on to exits instead of refusing them. For local networks.";
            reference "boolean", "Pass private and loopback addresses on to exits instead of refusing them. For local networks.";
        answer_early: bool = false;
            example "false";
            file "Tell applications that a stream is open before it is: their first bytes travel with the request, which saves a round trip. What fails is then seen as a reset, without its reason.";
            reference "boolean", "Tell applications that a stream is open before it is ([front.md](front.md)).";
        multipath: MultipathKind = MultipathKind::default();
            example r#""bulk""#;
            file "When a circuit gets a second one by other relays to the same exit that carries its streams with it: \"never\", \"bulk\" (it moves 256 KiB to 24 MiB a second for longer than a moment), \"always\" (with its first stream). A second guard sees traffic then.";
            reference "word", r#"When a circuit gets a second one by other relays to the same exit that carries its streams with it: `"never"`, `"bulk"` (it moves 256 KiB to 24 MiB a second for longer than a moment) or `"always"` (with its first stream); [multipath.md](multipath.md)."#;
        isolate: Vec<IsolateKind> = IsolateKind::DEFAULT.to_vec();
            example r#"["credentials", "listener", "client", "protocol"]"#;
            file "What keeps streams on different circuits: \"credentials\" (user name and password given to the port), \"listener\" (the port), \"client\" (the application's machine), \"protocol\" (SOCKS 4, 4a, 5, HTTP CONNECT), \"destination\" (the host asked for), \"port\" (the port asked for), \"stream\" (each alone). Each that is added costs circuits.";
            reference "list of kinds", "What keeps streams on different circuits; see below.";
        listeners: Vec<Listener> = Vec::new();
            example r#"[{ address = "127.0.0.1:9351", isolate = ["stream"] }]"#;
            file "Further ports like `socks`, each with its own `isolate` if it names one.";
            reference "list of tables", "Further ports like `client.socks`, each a table with `address` and, if it is to differ from `client.isolate`, `isolate`.";
        hops: u8 = 3;
            example "3";
            file "Relays in a circuit, 1 to 5. With 1 that relay knows both who asks and for what: no anonymity.";
            reference "number", "Relays in a circuit, 1 to 5. With 1 that relay knows both who asks and for what, and there are no guards: no anonymity, and a warning when the client starts.";
        guards: u8 = 0;
            example "0";
            file "Guards, the relays that circuits begin at, in use at a time: 1 to 10, and as many links are kept. 0: the network's number.";
            reference "number", "Guards in use at a time, 1 to 10; 0 for the network's number. The client keeps as many links, besides those in place of one that fails or may not serve an exit. With 1 no circuit gets a second leg, whatever `client.multipath` says.";
        entry_only: Vec<String> = Vec::new();
            example r#"["192.0.2.0/24"]"#;
            file "Use only these as first hops; all if the list is empty.";
            reference "list of peers", "Use only these as first hops; all if the list is empty.";
        entry_prefer: Vec<String> = Vec::new();
            example r#"["2001:db8::/32"]"#;
            file "Prefer these as first hops: each counts as if it carried eight times as much.";
            reference "list of peers", "Prefer these as first hops: each counts as if it carried eight times as much.";
        entry_avoid: Vec<String> = Vec::new();
            example r#"["192.0.2.7"]"#;
            file "Never use these as first hops, whatever the other lists say.";
            reference "list of peers", "Never use these as first hops, whatever the other lists say.";
        middle_only: Vec<String> = Vec::new();
            example r#"["192.0.2.0/24"]"#;
            file "Use only these as middle hops; all if the list is empty.";
            reference "list of peers", "Use only these as middle hops; all if the list is empty.";
        middle_prefer: Vec<String> = Vec::new();
            example r#"["2001:db8::/32"]"#;
            file "Prefer these as middle hops: each counts as if it carried eight times as much.";
            reference "list of peers", "Prefer these as middle hops: each counts as if it carried eight times as much.";
        middle_avoid: Vec<String> = Vec::new();
            example r#"["192.0.2.7"]"#;
            file "Never use these as middle hops, whatever the other lists say.";
            reference "list of peers", "Never use these as middle hops, whatever the other lists say.";
        exit_only: Vec<String> = Vec::new();
            example r#"["192.0.2.0/24"]"#;
            file "Use only these as exits; all if the list is empty.";
            reference "list of peers", "Use only these as exits; all if the list is empty.";
        exit_prefer: Vec<String> = Vec::new();
            example r#"["2001:db8::/32"]"#;
            file "Prefer these as exits: each counts as if it carried eight times as much.";
            reference "list of peers", "Prefer these as exits: each counts as if it carried eight times as much.";
        exit_avoid: Vec<String> = Vec::new();
            example r#"["192.0.2.7"]"#;
            file "Never use these as exits, whatever the other lists say.";
            reference "list of peers", "Never use these as exits, whatever the other lists say.";
        destinations: Vec<String> = Vec::new();
            example r#"[".example.com:443 only 192.0.2.0/24"]"#;
            file "Which exits serve which destinations: DESTINATION[,DESTINATION...] only|prefer|avoid PEER ...; the first rule with a fitting destination counts.";
            reference "list of rules", r#"Which exits serve which destinations, at most 32 rules: `DESTINATION[,DESTINATION...] only\|prefer\|avoid PEER ...`. The first rule with a fitting destination counts, besides the lists for exits."#;
        geoip: Option<PathBuf> = None;
            example r#""GeoLite2-Country.mmdb""#;
            file "A file in MaxMind's format that says in which country an address is; needed for peers such as country:de.";
            reference "path", "A file in MaxMind's format (such as GeoLite2-Country) that says in which country an address is. Read when the client starts. Needed for peers such as `country:de`.", unset "none";
    }
}

settings! {
    /// `[relay]`.
    Relay "relay" "Carry circuits of others. Leave the section out if the node is no relay." {
        listen: SocketAddr = SocketAddr::from(([0, 0, 0, 0], 9001));
            example r#""0.0.0.0:9001""#;
            file "Where links and directory requests are accepted; one port for all.";
            reference "address and port", "Where links and directory requests are accepted; one port for all.";
        advertise: Vec<SocketAddr> = Vec::new();
            example r#"["203.0.113.5:9001"]"#;
            file "Addresses at which others reach this relay; the directory hands them out. Empty means the address of `listen`, which must then be a full one.";
            reference "list of addresses and ports", "Where others reach this relay; the directory hands these addresses out. Empty means the address of `relay.listen`, which must then be a full one.";
        nickname: String = "unnamed".to_owned();
            example r#""unnamed""#;
            file "A name for people, 1 to 19 letters and digits. It proves nothing.";
            reference "text", "A name for people, 1 to 19 letters and digits. It proves nothing.";
        suite: SuiteChoice = SuiteChoice::Auto;
            example r#""auto""#;
            file "Suite of the onion key: \"chacha20-poly1305\", \"aes-256-gcm\", or \"auto\", which takes AES where the processor has instructions for it.";
            reference r#"`"auto"`, `"chacha20-poly1305"`, `"aes-256-gcm"`"#, r#"Suite of the onion key. `"auto"` takes AES where the processor has instructions for it. A suite belongs to an onion key: with another one the relay makes a new key and goes on to accept the old one, in its suite, for as long as a consensus may list it."#;
        publish: bool = true;
            example "true";
            file "Publish a descriptor, so that clients build circuits through this relay.";
            reference "boolean", "Publish a descriptor, so that clients build circuits through this relay.";
        certificate: Option<PathBuf> = None;
            example r#""state/certificate.toml""#;
            file "The certificate that an identity kept off line made for this relay's link key; reread while the relay runs. `certificate.toml` in the state directory if it is not set and the state directory has a link key.";
            reference "path", "The certificate that an identity kept off line made for this relay's link key ([operator.md](operator.md)). Reread while the relay runs.", unset "`certificate.toml` in the state directory, where that has a link key";
        family: Option<PathBuf> = None;
            example r#""state/family.toml""#;
            file "The relay's membership in a family; reread while the relay runs. `family.toml` in the state directory if it is not set.";
            reference "path", "The relay's membership in a family, if there is such a file. Reread while the relay runs.", unset "`family.toml` in the state directory";
        claim_kib: u32 = 0;
            example "0";
            file "What the descriptor says that this relay carries (KiB a second); it counts, under a cap, until authorities have measured it. 0 for the usual: 10000, or limits.bandwidth_kib where that is less.";
            reference "number", "What the descriptor says that this relay carries (KiB a second). It counts, under the network's cap, until authorities have measured the relay. 0 for the usual: 10000, or `limits.bandwidth_kib` where that is less.";
    }
}

settings! {
    /// `[exit]`.
    Exit "exit" "Let circuits leave the network here. Needs [relay]. Leave the section out if the relay is no exit." {
        // Port 25 carries little but spam and costs an exit its good name.
        policy: Vec<String> = ["reject *:25", "accept *:*"].map(str::to_owned).to_vec();
            example r#"["reject *:25", "accept *:*"]"#;
            file "Rules for addresses and ports; the first that matches counts, and what none matches is refused.";
            reference "list of rules", "The first rule that matches counts; what none matches is refused. A rule is `accept` or `reject`, an address (`*`, `*4`, `*6`, `192.0.2.0/24`, `[2001:db8::]/32`), a colon and ports (`*`, `443`, `1-1023`).";
        allow_private: bool = false;
            example "false";
            file "Let the rules speak about private and loopback addresses too, which are refused otherwise. For local networks.";
            reference "boolean", "Let the rules speak about private and loopback addresses too. Otherwise those are refused whatever the rules say. For local networks.";
        resolver: Option<SocketAddr> = None;
            example r#""9.9.9.9:53""#;
            file "The DNS server to ask for names, ADDRESS:PORT. The system's servers if it is not set.";
            reference "address and port", "The DNS server to ask for names.", unset "the system's servers";
    }
}

settings! {
    /// `[authority]`.
    Authority "authority" "Vote on who is in the network. Needs [relay], and the keys that `cepa authority init` or `cepa authority key` made." {
        signing_key: String = "authority".to_owned();
            example r#""authority""#;
            file "Name of the signing key's file in the directory `keys` of the state directory; with NAME-cert beside it, the certified key that this names signs.";
            reference "name", "Name of the signing key's file in the directory `keys` of the state directory. It signs votes and consensuses and is never used on a link.";
        reject: Vec<String> = Vec::new();
            example r#"["192.0.2.0/24"]"#;
            file "Relays that this authority does not take: identities, addresses and ranges of addresses.";
            reference "list of relays", "Relays whose descriptors this authority refuses.";
        middle_only: Vec<String> = Vec::new();
            example r#"["192.0.2.0/24"]"#;
            file "Relays that get none of the flags Guard, Exit and HSDir from this authority: identities, addresses and ranges of addresses.";
            reference "list of relays", "Relays that this authority gives none of the flags Guard, Exit and HSDir, so that they stand in the middle of paths only.";
        measure_mib_per_hour: u32 = 4096;
            example "4096";
            file "What may be downloaded through relays to measure what they carry (MiB an hour). 0: this authority does not measure.";
            reference "number", "What this authority may download through relays to measure what they carry (MiB an hour). It stays far below that in a small network: each relay is measured every `measure_interval_seconds` of the network. 0: it does not measure, and says nothing of what relays carry.";
    }
}

settings! {
    /// `[log]`.
    Log "log" "What is logged, and where to." {
        level: String = "info".to_owned();
            example r#""info""#;
            file "A level (off, error, warn, info, debug, trace) or a list of filters such as \"info,cepa_relay::exit=debug\". `--log` and RUST_LOG go before it.";
            reference "filter", r#"`off`, `error`, `warn`, `info`, `debug`, `trace`, or a list such as `"info,cepa_relay::exit=debug"`. The option `--log` goes before the variable `RUST_LOG`, and that before this key."#;
        file: Option<PathBuf> = None;
            example r#""cepa.log""#;
            file "File to write to. Standard error if it is not set.";
            reference "path", "File to write to, created with mode 0600.", unset "standard error";
    }
}

settings! {
    /// `[limits]`.
    Limits "limits" "What the node may use of the machine." {
        threads: usize = 0;
            example "0";
            file "Threads that carry traffic; 0 for one to a processor.";
            reference "number", "Threads that carry traffic; 0 for one to a processor.";
        memory_mib: u32 = 512;
            example "512";
            file "Bound on the memory of all queues (MiB). Over it, the circuits that have waited longest are closed.";
            reference "number", "Bound on the memory of all queues (MiB). Over it, the circuits that have waited longest are closed. At least 32.";
        connections: u32 = 4096;
            example "4096";
            file "Bound on the links that are accepted at a time.";
            reference "number", "Bound on the links that are accepted at a time.";
        bandwidth_kib: u32 = 0;
            example "0";
            file "What all links of a relay together may move in each direction (KiB a second); at least 50. 0: as much as they can.";
            reference "number", "What all links of a relay together may move in each direction (KiB a second), at least 50. Over it the relay reads and writes no more for a while, and those at the far sides wait. Directory requests that come over no link are not counted, nor what an exit moves outside. 0: as much as they can.";
    }
}
