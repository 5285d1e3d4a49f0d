//! Every setting, defined once: its key, type, default, bounds, flag, an example, and what people read of it.
//!
//! [`settings!`] makes of a table the struct that is read from the file. The configuration file, `--print-config`, the
//! flags of `cepa proxy` and `cepa relay`, their help, the checks of bounds and the tables of docs/config.md all come
//! from here. A setting is added by an entry here and by its use.

use std::net::SocketAddr;
use std::path::PathBuf;

use cepa_client::front::MAX_CONNECTIONS;
use cepa_client::path::{MOST_DESTINATIONS, MOST_GUARDS, MOST_HOPS};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::bounds::Bounds;
use super::kinds::{DEFAULT_SOCKS, IsolateKind, Listener, MultipathKind, SuiteChoice};
use super::peers::Peers;
use super::section::{self, Changes, Key, Section, Table, Walk, restart, settings};
use super::value::Value;

/// Every section, in the order in which they are printed.
pub(super) static SECTIONS: [Table; 8] = [
    Network::TABLE,
    State::TABLE,
    Client::TABLE,
    Relay::TABLE,
    Exit::TABLE,
    Authority::TABLE,
    Log::TABLE,
    Limits::TABLE,
];

/// The most KiB a second that a relay may be said to carry: about 1.1 Tbit/s.
const MOST_KIB: u64 = 1 << 27;

settings! {
    /// The section `[network]`.
    Network "network" "Which network this node belongs to." {
        file: PathBuf = "network.toml".into();
            example r#""network.toml""#;
            flag "--network FILE";
            kind "path";
            changes restart("the network is joined when the node starts");
            says "The network's file: its authorities, their keys and addresses, its parameters. `cepa testnet` prints \
                the path of its own.",
            docs "A running node takes a later revision that is put there. A relative path is taken from the directory \
                of the configuration file, here and everywhere below.";
    }
}

settings! {
    /// The section `[state]`.
    State "state" "What must survive a restart." {
        dir: PathBuf = "state".into();
            example r#""state""#;
            flag "--state DIR";
            kind "path";
            changes restart("the directory is opened when the node starts");
            says "Directory of keys and documents; created with mode 0700. One process at a time works in it.",
            docs "A second process is refused.";
        check_permissions: bool = true;
            example "true";
            kind "boolean";
            changes restart("what lies in the directory is judged when it is read, at the start");
            says "Refuse a directory or a key that other users of the machine can read or change, parent directories \
                included. Switch it off for throwaway keys only.";
    }
}

settings! {
    /// The section `[client]`.
    Client "client" "Use the network from this machine. Leave the section out if the node is no client." {
        socks: SocketAddr = DEFAULT_SOCKS;
            example r#""127.0.0.1:9350""#;
            flag "--socks ADDR:PORT";
            kind "address and port";
            changes restart("the port is opened when the node starts");
            says "Where applications connect: one port for SOCKS 4, 4a and 5, HTTP CONNECT and http:// requests.";
        allow_remote: bool = false;
            example "false";
            flag "--allow-remote";
            kind "boolean";
            changes restart("the port is opened when the node starts");
            says "Let `client.socks` be an address that other machines can reach. `client.credentials` must say who \
                may use it.";
        credentials: Option<PathBuf> = None;
            example r#""users""#;
            flag "--credentials FILE";
            kind "path";
            changes restart("the file is read when its port is opened");
            says "File of those who may use `client.socks`, which nobody else may read: a line USER:PASSWORD for each, \
                with a password of 12 bytes at least.",
            docs "The text below says more.",
            unset "none, everybody who reaches it";
        allow_private: bool = false;
            example "false";
            flag "--allow-private";
            kind "boolean";
            changes restart("connections that are open were taken by it");
            says "Pass private and loopback addresses on to exits instead of refusing them. For local networks.";
        answer_early: bool = false;
            example "false";
            flag "--answer-early";
            kind "boolean";
            changes restart("connections that are open were taken by it");
            says "Tell applications that a stream is open before it is: their first bytes travel with the request, \
                which saves a round trip. What fails is then seen as a reset, without its reason.",
            docs "[front.md](front.md) says more.";
        multipath: MultipathKind = MultipathKind::default();
            example r#""bulk""#;
            flag "--multipath WHEN";
            kind "word";
            changes Changes::AtOnce;
            says "When a circuit gets a second one by other relays to the same exit that carries its streams with it: \
                \"never\", \"bulk\" (it moves 256 KiB to 24 MiB a second for longer than a moment) or \"always\" (with \
                its first stream). A second guard sees traffic then.",
            docs "[multipath.md](multipath.md) says more.";
        isolate: Vec<IsolateKind> = IsolateKind::DEFAULT.to_vec();
            within 0..=7, "kinds";
            example r#"["credentials", "listener", "client", "protocol"]"#;
            flag "--isolate KINDS";
            kind "list of kinds";
            changes restart("streams that are open were put on circuits by it");
            says "What keeps streams on different circuits: \"credentials\" (user name and password given to the \
                port), \"listener\" (the port), \"client\" (the application's machine), \"protocol\" (SOCKS 4, 4a, 5, \
                HTTP CONNECT, http://), \"destination\" (the host asked for), \"port\" (the port asked for), \
                \"stream\" (each alone). Each that is added costs circuits.";
        listeners: Vec<Listener> = Vec::new();
            within 0..=64, "ports";
            example r#"[{ address = "127.0.0.1:9351", isolate = ["stream"] }]"#;
            flag "--listener ADDR:PORT";
            kind "list of tables";
            changes restart("the port is opened when the node starts");
            says "Further ports like `client.socks`, or Unix sockets (unix:PATH).",
            docs "Each is a table with `address`, and as far as they are to differ from the usual `kind` (\"proxy\"; or \
                \"dns\", or \"transparent\"), `isolate` (that of \
                `client.isolate`), `mode` and `group` (of a Unix socket: \"0600\", its \
                owner alone), `udp` (whether it takes datagrams: true) and `credentials` (who may use it: everybody). \
                The text below says more.";
        connections: u32 = MAX_CONNECTIONS as u32;
            within 1..=65_536, "connections";
            example "1024";
            flag "--connections N";
            kind "number";
            changes restart("places are counted from the start of each port on");
            says "Connections of applications that a port serves at a time. Further ones wait for some seconds, and are \
                then told so.";
        hops: u8 = 3;
            within 1..=MOST_HOPS as u64, "relays";
            example "3";
            flag "--hops N";
            kind "number";
            changes restart("guards are chosen by it");
            says "Relays in a circuit. With 1 that relay knows both who asks and for what: no anonymity.",
            docs "There are no guards then, and the client warns when it starts.";
        guards: u8 = 0;
            within 1..=MOST_GUARDS as u64, "guards", zero "the network's number";
            example "0";
            flag "--guards N";
            kind "number";
            changes restart("guards are chosen by it");
            says "Guards, the relays that circuits begin at, in use at a time; as many links are kept.",
            docs "More links are kept in place of a guard that fails or may not serve an exit. With 1 no circuit gets \
                a second leg, whatever `client.multipath` says.";
        destinations: Vec<String> = Vec::new();
            within 0..=MOST_DESTINATIONS as u64, "rules";
            example r#"[".example.com:443 only 192.0.2.0/24"]"#;
            flag "--destination RULE";
            kind "list of rules";
            changes restart("streams that wait for a circuit count on the rule that they have found");
            says "Which exits serve which destinations: `DESTINATION[,DESTINATION...] only|prefer|avoid PEER ...`. The \
                first rule with a fitting destination counts, besides the lists for exits.";
        geoip: Option<PathBuf> = None;
            example r#""GeoLite2-Country.mmdb""#;
            flag "--geoip FILE";
            kind "path";
            changes restart("the file is read when the client starts");
            says "A file in MaxMind's format (such as GeoLite2-Country) that says in which country an address is; \
                needed for peers such as `country:de`.",
            docs "The file is read when the client starts.",
            unset "none";
    } with peers: Peers
}

settings! {
    /// The section `[relay]`.
    Relay "relay" "Carry circuits of others. Leave the section out if the node is no relay." {
        listen: SocketAddr = SocketAddr::from(([0, 0, 0, 0], 9001));
            example r#""0.0.0.0:9001""#;
            flag "--listen ADDR:PORT";
            kind "address and port";
            changes restart("the port is opened when the node starts");
            says "Where links and directory requests are accepted; one port for all.";
        advertise: Vec<SocketAddr> = Vec::new();
            within 0..=8, "addresses";
            example r#"["203.0.113.5:9001"]"#;
            flag "--advertise ADDR:PORT";
            kind "list of addresses and ports";
            changes restart("others reach the relay by it");
            says "Addresses at which others reach this relay; the directory hands them out. Without any it is the \
                address of `relay.listen`, which must then be a full one.";
        nickname: String = "unnamed".to_owned();
            within 1..=19, "letters and digits";
            example r#""unnamed""#;
            flag "--nickname NAME";
            kind "text";
            changes Changes::AtOnce;
            says "A name for people. It proves nothing.";
        suite: SuiteChoice = SuiteChoice::Auto;
            example r#""auto""#;
            flag "--suite SUITE";
            kind r#"`"auto"`, `"chacha20-poly1305"`, `"aes-256-gcm"`"#;
            changes restart("the onion key is made for it");
            says "Suite of the onion key: \"chacha20-poly1305\", \"aes-256-gcm\", or \"auto\", which takes AES where \
                the processor has instructions for it.",
            docs "A suite belongs to an onion key: with another one the relay makes a new key and goes on to accept \
                the old one, in its suite, for as long as a consensus may list it.";
        publish: bool = true;
            example "true";
            kind "boolean";
            changes restart("what publishes is started with the relay");
            says "Publish a descriptor, so that clients build circuits through this relay.";
        certificate: Option<PathBuf> = None;
            example r#""state/certificate.toml""#;
            flag "--certificate FILE";
            kind "path";
            changes restart("the relay looks at one file, which may be replaced, from its start");
            says "The certificate that an identity kept off line made for this relay's link key; reread while the \
                relay runs.",
            docs "[operator.md](operator.md) says more.",
            unset "`certificate.toml` in the state directory, where that has a link key";
        family: Option<PathBuf> = None;
            example r#""state/family.toml""#;
            flag "--family FILE";
            kind "path";
            changes restart("the relay looks at one file, which may be replaced, from its start");
            says "The relay's membership in a family, if there is such a file; reread while the relay runs.",
            unset "`family.toml` in the state directory";
        claim_kib: u32 = 0;
            within 1..=MOST_KIB, "KiB a second", zero "the usual: 10000, or `limits.bandwidth_kib` where that is less";
            example "0";
            flag "--claim-kib N";
            kind "number";
            changes Changes::AtOnce;
            says "What the descriptor says that this relay carries. It counts, under the network's cap, until \
                authorities have measured the relay.";
    }
}

settings! {
    /// The section `[exit]`.
    Exit "exit" "Let circuits leave the network here. Needs [relay]. Leave the section out if the relay is no exit."
    switch "exit" {
        // Port 25 carries little but spam and costs an exit its good name.
        policy: Vec<String> = ["reject *:25", "accept *:*"].map(str::to_owned).to_vec();
            within 0..=1_024, "rules";
            example r#"["reject *:25", "accept *:*"]"#;
            flag "--policy RULE";
            kind "list of rules";
            changes Changes::AtOnce;
            says "Rules for addresses and ports; the first that matches counts, and what none matches is refused.",
            docs "A rule is `accept` or `reject`, an address (`*`, `*4`, `*6`, `192.0.2.0/24`, `[2001:db8::]/32`), a \
                colon and ports (`*`, `443`, `1-1023`, `80,443,8000-8999`, `web`). The rule `reduced` accepts a list \
                of ports that draws few complaints. The text below says more.";
        udp: bool = true;
            example "true";
            kind "boolean";
            changes Changes::AtOnce;
            says "Carry datagrams (UDP) to the outside, by the rules of `exit.udp_policy`.",
            docs "A relay whose `exit.policy` lets no stream out carries no datagrams either.";
        // What is left after names, time and the web is what programs speak among themselves. Amplifiers (1900, 5353,
        // 11211) would answer the exit alone, and complaints would come.
        udp_policy: Vec<String> = [
            "accept *:53",
            "accept *:123",
            "accept *:443",
            "reject *:1-1023",
            "reject *:1900",
            "reject *:5353",
            "reject *:11211",
            "accept *:*",
        ]
        .map(str::to_owned)
        .to_vec();
            within 0..=1_024, "rules";
            example r#"["accept *:53", "accept *:123", "accept *:443", "reject *:1-1023", "accept *:*"]"#;
            flag "--udp-policy RULE";
            kind "list of rules";
            changes Changes::AtOnce;
            says "Rules for the addresses and ports that datagrams go to, written as those of `exit.policy`.";
        allow_private: bool = false;
            example "false";
            flag "--allow-private";
            kind "boolean";
            changes Changes::AtOnce;
            says "Let the rules speak about private and loopback addresses too, which are refused otherwise. For local \
                networks.";
        resolver: Option<SocketAddr> = None;
            example r#""9.9.9.9:53""#;
            flag "--resolver ADDR:PORT";
            kind "address and port";
            changes restart("answers that are remembered came from the server that was asked before");
            says "The DNS server to ask for names.",
            docs "Otherwise the first three of `/etc/resolv.conf` are asked, which is read again when it changes. \
                While it names none, the exit connects to addresses alone.",
            unset "the system's servers";
        drain_seconds: u32 = 30;
            within 0..=86_400, "seconds";
            example "30";
            flag "--drain SECONDS";
            kind "number";
            changes Changes::AtOnce;
            says "When the node is asked to stop, its streams may go on for so long. Meanwhile it takes no more; a \
                second request stops it at once.";
    }
}

settings! {
    /// The section `[authority]`.
    Authority "authority" "Vote on who is in the network. Needs [relay], and the keys that `cepa authority init` or \
        `cepa authority key` made." {
        signing_key: String = "authority".to_owned();
            within 1..=64, "letters, digits and hyphens";
            example r#""authority""#;
            kind "name";
            changes restart("the relay looks at one file, which may be replaced, from its start");
            says "Name of the signing key's file in the directory `keys` of the state directory; with NAME-cert beside \
                it, the certified key that this names signs.",
            docs "The key signs votes and consensuses and is never used on a link.";
        reject: Vec<String> = Vec::new();
            within 0..=1_024, "items";
            example r#"["192.0.2.0/24"]"#;
            kind "list of relays";
            changes Changes::AtOnce;
            says "Relays whose descriptors this authority refuses: identities, addresses and ranges of addresses.";
        middle_only: Vec<String> = Vec::new();
            within 0..=1_024, "items";
            example r#"["192.0.2.0/24"]"#;
            kind "list of relays";
            changes Changes::AtOnce;
            says "Relays that get none of the flags Guard, Exit and HSDir from this authority, so that they stand in \
                the middle of paths only: identities, addresses and ranges of addresses.";
        measure_mib_per_hour: u32 = 4096;
            within 1..=4_194_304, "MiB an hour", zero "no measuring";
            example "4096";
            kind "number";
            changes Changes::AtOnce;
            says "What this authority may download through relays to measure what they carry.",
            docs "It stays far below that in a small network: each relay is measured every `measure_interval_seconds` \
                of the network. An authority that does not measure says nothing of what relays carry.";
    }
}

settings! {
    /// The section `[log]`.
    Log "log" "What is logged, and where to." {
        level: String = "info".to_owned();
            within 1..=1_024, "letters";
            example r#""info""#;
            kind "filter";
            changes Changes::AtOnce;
            says "A level (off, error, warn, info, debug, trace) of what Cepa says, or a list of filters such as \
                \"info,cepa_relay::exit=debug\". The option `--log` goes before the variable `RUST_LOG`, and that \
                before this key.";
        file: Option<PathBuf> = None;
            example r#""cepa.log""#;
            kind "path";
            changes restart("the file is opened when the node starts");
            says "File to write to, created with mode 0600.",
            unset "standard error";
    }
}

settings! {
    /// The section `[limits]`.
    Limits "limits" "What the node may use of the machine." {
        threads: usize = 0;
            within 1..=1_024, "threads", zero "one to a processor";
            example "0";
            flag "--threads N";
            kind "number";
            changes restart("threads are made when the node starts");
            says "Threads that carry traffic.";
        memory_mib: u32 = 512;
            within 32..=1_048_576, "MiB";
            example "512";
            flag "--memory-mib N";
            kind "number";
            changes Changes::AtOnce;
            says "Bound on what circuits, streams and queues of a relay hold together. Over it circuits end, those \
                first that nobody reads.",
            docs "Then the peer that holds most loses circuits. A peer that is no relay may hold a quarter of the \
                bound; over that its own circuits end.";
        client_memory_mib: u32 = 256;
            within 16..=1_048_576, "MiB";
            example "256";
            flag "--client-memory-mib N";
            kind "number";
            changes Changes::AtOnce;
            says "Bound on what circuits, streams and queues of a client hold together.",
            docs "Over it streams end with an error: of those whose bytes nobody reads, first the one that holds most.";
        connections: u32 = 4096;
            within 1..=1_048_576, "links";
            example "4096";
            flag "--connections N";
            kind "number";
            changes Changes::AtOnce;
            says "Bound on the links that a relay accepts at a time.",
            docs "A bound that is lowered ends no link that is in use: nobody comes in before there are fewer.";
        bandwidth_kib: u32 = 0;
            within 50..=MOST_KIB, "KiB a second", zero "as much as they can";
            example "0";
            flag "--bandwidth-kib N";
            kind "number";
            changes Changes::AtOnce;
            says "What all links of a relay together may move in each direction.",
            docs "Over it the relay reads and writes no more for a while, and those at the far sides wait. Directory \
                requests that come over no link are not counted, nor what an exit moves outside.";
        udp_associations: u32 = 4096;
            within 1..=1_048_576, "associations";
            example "4096";
            flag "--udp-associations N";
            kind "number";
            changes Changes::AtOnce;
            says "Bound on the associations for datagrams (UDP) that an exit has at a time; each has up to two sockets.",
            docs "One more ends that of the circuit with most whose client has been silent for longest.";
    }
}
