#![allow(clippy::unwrap_used, clippy::expect_used)]

use proptest::prelude::*;

use std::net::SocketAddr;
use std::path::Path;

use cepa_client::path::{PeerLists, PeerSet};
use cepa_common::dir::{ExitPolicy, PORT_LISTS};

use super::read::{checked, parse};
use super::section::Key;
use super::*;

const MINIMAL: &str = "[client]\n";

fn problem(text: &str) -> String {
    checked(text).unwrap_err().to_string()
}

#[test]
fn a_section_is_a_role_and_the_rest_has_defaults() {
    let config = checked(MINIMAL).unwrap();
    assert_eq!(config.client, Some(Client::default()));
    assert_eq!(config.relay, None);
    assert_eq!(config.client.unwrap().socks.to_string(), "127.0.0.1:9350");
}

#[test]
fn every_key_is_read_into_its_place() {
    let text = r#"
        [network]
        file = "n.toml"
        [state]
        dir = "s"
        check_permissions = false
        [client]
        socks = "127.0.0.2:1"
        allow_remote = true
        credentials = "v"
        allow_private = true
        answer_early = true
        multipath = "always"
        isolate = ["destination", "stream"]
        listeners = [{ address = "127.0.0.2:2", kind = "proxy", isolate = [], udp = false, credentials = "w" }, { address = "unix:u", mode = "660", group = "g" }, { address = "[::1]:3", kind = "dns" }]
        connections = 16
        hops = 4
        guards = 2
        entry_only = ["192.0.2.0"]
        entry_prefer = ["192.0.2.35"]
        entry_avoid = ["192.0.2.73"]
        middle_only = ["192.0.2.110"]
        middle_prefer = ["192.0.2.148"]
        middle_avoid = ["192.0.2.188"]
        exit_only = ["192.0.2.27"]
        exit_prefer = ["192.0.2.62"]
        exit_avoid = ["192.0.2.99"]
        destinations = ["*:25 avoid 192.0.2.9"]
        geoip = "g"
        [relay]
        listen = "127.0.0.1:2"
        advertise = ["192.0.2.1:2", "[2001:db8::1]:2"]
        nickname = "r1"
        suite = "aes-256-gcm"
        publish = false
        certificate = "c"
        family = "f"
        claim_kib = 700
        [exit]
        policy = ["accept *:80"]
        udp = false
        udp_policy = ["accept *:53"]
        allow_private = true
        resolver = "127.0.0.1:53"
        drain_seconds = 7
        [authority]
        signing_key = "a"
        reject = ["192.0.2.0/24"]
        middle_only = ["2001:db8::1"]
        measure_mib_per_hour = 0
        [log]
        level = "warn"
        file = "l"
        [limits]
        threads = 3
        memory_mib = 64
        client_memory_mib = 32
        connections = 5
        bandwidth_kib = 50
        udp_associations = 6
    "#;
    let config = checked(text).unwrap();
    let expected = Config {
        network: Network {
            file: "n.toml".into(),
        },
        state: State {
            dir: "s".into(),
            check_permissions: false,
        },
        client: Some(Client {
            socks: "127.0.0.2:1".parse().unwrap(),
            allow_remote: true,
            credentials: Some("v".into()),
            allow_private: true,
            answer_early: true,
            multipath: MultipathKind::Always,
            isolate: vec![IsolateKind::Destination, IsolateKind::Stream],
            listeners: vec![
                Listener {
                    address: "127.0.0.2:2".parse().unwrap(),
                    kind: ListenerKind::Proxy,
                    isolate: Some(Vec::new()),
                    mode: None,
                    group: None,
                    udp: false,
                    credentials: Some("w".into()),
                },
                Listener {
                    address: ListenAddress::Unix("u".into()),
                    kind: ListenerKind::Proxy,
                    isolate: None,
                    mode: Some(SocketMode(0o660)),
                    group: Some("g".to_owned()),
                    udp: true,
                    credentials: None,
                },
                Listener {
                    kind: ListenerKind::Dns,
                    ..Listener::at("[::1]:3".parse().unwrap())
                },
            ],
            connections: 16,
            hops: 4,
            guards: 2,
            destinations: vec!["*:25 avoid 192.0.2.9".to_owned()],
            geoip: Some("g".into()),
            peers: Peers {
                entry: lists([0, 35, 73]),
                middle: lists([110, 148, 188]),
                exit: lists([27, 62, 99]),
            },
        }),
        relay: Some(Relay {
            listen: "127.0.0.1:2".parse().unwrap(),
            advertise: vec![
                "192.0.2.1:2".parse().unwrap(),
                "[2001:db8::1]:2".parse().unwrap(),
            ],
            nickname: "r1".to_owned(),
            suite: SuiteChoice::Aes256Gcm,
            publish: false,
            certificate: Some("c".into()),
            family: Some("f".into()),
            claim_kib: 700,
        }),
        exit: Some(Exit {
            policy: vec!["accept *:80".to_owned()],
            udp: false,
            udp_policy: vec!["accept *:53".to_owned()],
            allow_private: true,
            resolver: Some("127.0.0.1:53".parse().unwrap()),
            drain_seconds: 7,
        }),
        authority: Some(Authority {
            signing_key: "a".to_owned(),
            reject: vec!["192.0.2.0/24".to_owned()],
            middle_only: vec!["2001:db8::1".to_owned()],
            measure_mib_per_hour: 0,
        }),
        log: Log {
            level: "warn".to_owned(),
            file: Some("l".into()),
        },
        limits: Limits {
            threads: 3,
            memory_mib: 64,
            client_memory_mib: 32,
            connections: 5,
            bandwidth_kib: 50,
            udp_associations: 6,
        },
    };
    assert_eq!(config, expected);
}

fn lists([only, prefer, avoid]: [u8; 3]) -> PeerLists {
    let list = |last: u8| vec![format!("192.0.2.{last}").parse().unwrap()];
    PeerLists {
        only: list(only),
        prefer: list(prefer),
        avoid: list(avoid),
    }
}

/// A file whose only key is this one, with its example.
fn alone(key: &Key) -> (String, toml::Table) {
    let (section, name) = key.path.split_once('.').unwrap();
    let text = format!("[{section}]\n{name} = {}\n", key.example);
    (text, format!("{name} = {}", key.example).parse().unwrap())
}

#[test]
fn every_key_takes_its_example_and_is_written_again() {
    for key in keys::all() {
        let (text, expected) = alone(key);
        let config = toml::Table::try_from(parse(&text).unwrap()).unwrap();
        let (section, name) = key.path.split_once('.').unwrap();
        assert_eq!(config[section][name], expected[name], "{text}");
    }
}

#[test]
fn lists_of_peers_are_checked_with_the_file() {
    let said = |line: &str| problem(&format!("[client]\n{line}\n"));
    let text = said("exit_only = [\"192.0.2.0/24\", \"germany\"]");
    assert!(
        text.contains("client.exit_only") && text.contains("germany"),
        "{text}"
    );
    let text = said("destinations = [\"example.com\"]");
    assert!(
        text.contains("client.destinations") && text.contains("only|prefer|avoid"),
        "{text}"
    );
    let text = said("entry_avoid = [\"country:de\"]");
    assert!(text.contains("client.entry names country:de"), "{text}");
    checked("[client]\nentry_avoid = [\"country:de\"]\ngeoip = \"g\"\n").unwrap();
    checked("[client]\nhops = 1\nguards = 10\n").unwrap();
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_the_nearest_known_one() {
    for (text, key, line, nearest) in [
        (
            "[relay]\nlisten = \"127.0.0.1:1\"\nnickame = \"x\"\n",
            "relay.nickame",
            3,
            "relay.nickname",
        ),
        ("[client]\n\nsock = 1\n", "client.sock", 3, "client.socks"),
        ("[client]\n[rellay]\n", "rellay", 2, "[relay]"),
        (
            "[client]\n[[client.listeners]]\naddress = \"unix:/x\"\n[[client.listeners]]\naddres = \"unix:/y\"\n",
            "client.listeners.addres",
            5,
            "client.listeners.address",
        ),
        (
            "[client]\nlisteners = [{ address = \"unix:/x\", credential = \"c\" }]\n",
            "client.listeners.credential",
            2,
            "client.listeners.credentials",
        ),
        (
            "[client]\n[log]\nlevle = \"info\"\n",
            "log.levle",
            3,
            "log.level",
        ),
        (
            "[relay]\nresolver = \"127.0.0.1:53\"\n",
            "relay.resolver",
            2,
            "exit.resolver",
        ),
        (
            "[client]\n[limits]\nmemory = 3\n",
            "limits.memory",
            3,
            "limits.memory_mib",
        ),
        (
            "client.sokcs = \"127.0.0.1:1\"\n",
            "client.sokcs",
            1,
            "client.socks",
        ),
    ] {
        let message = problem(text);
        assert_eq!(
            message,
            format!("{key} (line {line}): unknown key; the nearest that exists is {nearest}")
        );
    }
}

#[test]
fn all_unknown_keys_are_named_at_once() {
    let message = problem("[client]\nsock = 1\n[state]\ndri = \"x\"\n");
    assert!(
        message.contains("client.sock ") && message.contains("state.dri "),
        "{message}"
    );
}

#[test]
fn a_wrong_type_names_its_key_and_line() {
    for (text, begins) in [
        ("[client]\nsocks = 5\n", "client.socks (line 2): "),
        (
            "[client]\nisolate = [\"soup\"]\n",
            "client.isolate (line 2): unknown variant `soup`, expected one of `credentials`",
        ),
        (
            "[client]\nsocks = \"localhost\"\n",
            "client.socks (line 2): ",
        ),
        (
            "[relay]\nadvertise = [\n\"127.0.0.1:1\",\n7]\n",
            "relay.advertise (line 4): ",
        ),
        ("[relay]\n\npublish = \"yes\"\n", "relay.publish (line 3): "),
        ("[relay]\nsuite = \"rot13\"\n", "relay.suite (line 2): "),
        (
            "[client]\n[limits]\nthreads = -1\n",
            "limits.threads (line 3): ",
        ),
        ("client = 3\n", "client (line 1): "),
        (
            "[client]\n[[client.listeners]]\naddress = \"unix:/x\"\nmode = 660\n",
            "client.listeners.mode (line 4): ",
        ),
        (
            "[client]\n[[client.listeners]]\naddress = \"localhost:1\"\n",
            "client.listeners.address (line 3): it takes an address and a port, as in 127.0.0.1:9351, or unix:",
        ),
        (
            "[client]\nlisteners = [\"127.0.0.1:1\"]\n",
            "client.listeners (line 2): invalid type: string \"127.0.0.1:1\", expected a table with `address`",
        ),
        (
            "[client.listeners]\naddress = \"127.0.0.1:1\"\n",
            "client.listeners (line 1): invalid type: map, expected a list of tables, each begun by [[client.listeners]]",
        ),
    ] {
        let message = problem(text);
        assert!(message.starts_with(begins), "{text}: {message}");
    }
}

#[test]
fn broken_toml_names_its_line() {
    assert!(problem("[client]\nsocks = \n").starts_with("line 2: "));
    assert!(problem("[client]\n[client]\n").contains("duplicate key"));
    let mode = "[client]\n[[client.listeners]]\naddress = \"unix:/x\"\nmode = 0660\n";
    assert_eq!(
        problem(mode),
        "line 4: a number has no leading zero; a mode stands in quotes, as in \"0660\""
    );
}

#[test]
fn rules_name_their_key() {
    for (text, begins) in [
        ("", "client: the node has no role"),
        ("[client]\n[exit]\n", "exit (line 2): it needs a [relay]"),
        (
            "[client]\n[authority]\n",
            "authority (line 2): it needs a [relay]",
        ),
        (
            "[client]\nsocks = \"0.0.0.0:9350\"\n",
            "client.socks (line 2): 0.0.0.0:9350 can be reached",
        ),
        (
            "[client]\nlisteners = [{ address = \"0.0.0.0:1\" }]\n",
            "client.listeners (line 2): 0.0.0.0:1 can be reached",
        ),
        (
            "[client]\n[[client.listeners]]\naddress = \"127.0.0.1:9350\"\n",
            "client.listeners (line 2): two of the client's ports are 127.0.0.1:9350",
        ),
        (
            "[client]\nlisteners = [{ address = \"unix:/x\" }, { address = \"unix:/x\" }]\n",
            "client.listeners (line 2): two of the client's ports",
        ),
        (
            "[client]\nlisteners = [{ address = \"127.0.0.1:1\", mode = \"0600\" }]\n",
            "client.listeners (line 2): 127.0.0.1:1 is a TCP port",
        ),
        (
            "[client]\nlisteners = [{ address = \"127.0.0.1:1\", group = \"g\" }]\n",
            "client.listeners (line 2): 127.0.0.1:1 is a TCP port",
        ),
        (
            "[client]\nlisteners = [{ address = \"unix:/x\", group = \"g\", mode = \"0600\" }]\n",
            "client.listeners (line 2): unix:/x names a group, and its mode lets no group in",
        ),
        (
            "[client]\nlisteners = [{ address = \"127.0.0.1:1\", kind = \"dns\", udp = false }]\n",
            "client.listeners (line 2): 127.0.0.1:1 is of the kind \"dns\", and `udp`",
        ),
        (
            "[client]\nlisteners = [{ address = \"unix:/x\", kind = \"dns\" }]\n",
            "client.listeners (line 2): unix:/x cannot be of the kind \"dns\"",
        ),
        (
            "[client]\nallow_remote = true\nlisteners = [{ address = \"0.0.0.0:53\", kind = \"dns\", credentials = \"c\" }]\n",
            "client.listeners (line 3): 0.0.0.0:53 can be reached from other machines, and a port of the kind",
        ),
        (
            "[client]\nlisteners = [{ address = \"127.0.0.1:1\", kind = \"transparent\", credentials = \"c\" }]\n",
            "client.listeners (line 2): 127.0.0.1:1 is of the kind \"transparent\"",
        ),
        ("[relay]\n", "relay.advertise: name the address"),
        (
            "[relay]\nlisten = \"127.0.0.1:1\"\nnickname = \"a b\"\n",
            "relay.nickname (line 3): ",
        ),
        (
            "[relay]\nlisten = \"127.0.0.1:1\"\n[exit]\npolicy = [\"allow all\"]\n",
            "exit.policy (line 4): ",
        ),
        (
            "[relay]\nlisten = \"127.0.0.1:1\"\n[exit]\nudp_policy = [\"accept all\"]\n",
            "exit.udp_policy (line 4): ",
        ),
        (
            "[relay]\nlisten = \"127.0.0.1:1\"\n[authority]\nsigning_key = \"../k\"\n",
            "authority.signing_key (line 4): ",
        ),
        (
            "[client]\n[log]\nlevel = \"cepa=loud\"\n",
            "log.level (line 3): ",
        ),
        (
            "[client]\n[limits]\nmemory_mib = 1\n",
            "limits.memory_mib (line 3): ",
        ),
        (
            "[client]\n[limits]\nconnections = 0\n",
            "limits.connections (line 3): ",
        ),
        (
            "[relay]\nlisten = \"127.0.0.1:1\"\n[exit]\nresolver = \"127.0.0.1:0\"\n",
            "exit.resolver (line 4): no server answers at port 0",
        ),
    ] {
        let message = problem(text);
        assert!(message.starts_with(begins), "{text}: {message}");
    }
}

#[test]
fn every_number_and_every_list_has_bounds() {
    for key in keys::all() {
        let counted = key.is_number || key.kind.starts_with("list");
        assert!(
            !counted || key.bounds.is_some(),
            "{} has no bounds",
            key.path
        );
    }
}

#[test]
fn no_number_panics_and_one_out_of_bounds_is_told_its_key_value_and_bounds() {
    let mut told = 0;
    for key in keys::all().filter(|key| key.is_number) {
        let bounds = key.bounds.as_ref().unwrap();
        let (section, name) = key.path.split_once('.').unwrap();
        for value in [
            "0",
            "-1",
            "-9223372036854775808",
            "4294967295",
            "4294967296",
            "9223372036854775807",
            "18446744073709551615",
            "1.5",
            "\"many\"",
        ] {
            let before = "[relay]\nlisten = \"127.0.0.1:1\"\n";
            let head = if section == "relay" {
                ""
            } else {
                &format!("[{section}]\n")
            };
            let text = format!("{before}{head}{name} = {value}\n");
            let checked = checked(&text);
            if value == "0" && bounds.allow(0) {
                checked.unwrap();
                continue;
            }
            let error = checked.unwrap_err();
            let (message, line) = (error.to_string(), text.lines().count());
            let place = format!("{} (line {line}): {value} is ", key.path);
            assert!(message.starts_with(&place), "{text}{message}");
            assert!(message.contains(&bounds.to_string()), "{text}{message}");
            assert!(error.hint().contains("left out"));
            told += 1;
        }
    }
    assert!(told > 50, "{told}");
}

#[test]
fn a_list_that_is_too_long_is_told_how_long_it_may_be() {
    let ports: Vec<_> = (1..=65)
        .map(|n| format!("{{ address = \"127.0.0.1:{n}\" }}"))
        .collect();
    let message = problem(&format!("[client]\nlisteners = [{}]\n", ports.join(",")));
    assert_eq!(
        message,
        "client.listeners (line 2): its length of 65 is out of bounds: it takes at most 64 ports"
    );
}

#[test]
fn what_flags_ask_for_is_told_in_words_of_flags() {
    let error = checked("[client]\nsocks = \"0.0.0.0:1\"\n").unwrap_err();
    let config = parse("[client]\nsocks = \"0.0.0.0:1\"\n").unwrap();
    assert!(
        error
            .to_string()
            .contains("set client.allow_remote = true if")
    );
    let error = config.check().unwrap_err().of_flags();
    let text = error.to_string();
    assert!(text.starts_with("--socks: 0.0.0.0:1 can"), "{text}");
    assert!(text.contains("set --allow-remote if"), "{text}");
    assert!(error.hint().contains("--help"));
}

#[test]
fn a_remote_front_is_possible_when_said_twice() {
    let text = "[client]\nsocks = \"0.0.0.0:9350\"\nallow_remote = true\n";
    let open = checked(text).unwrap_err().to_string();
    assert!(open.contains("client.credentials"), "{open}");
    checked(&format!("{text}credentials = \"users\"\n")).unwrap();
    // The file of one port is not that of another.
    let more = "credentials = \"users\"\nlisteners = [{ address = \"0.0.0.0:1\" }]\n";
    assert!(checked(&format!("{text}{more}")).is_err());
}

#[test]
fn relative_paths_are_taken_from_the_files_directory() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.toml");
    std::fs::write(
        &path,
        "[client]\nlisteners = [{ address = \"unix:u\", credentials = \"w\" }]\n[log]\nfile = \"log\"\n[state]\ndir = \"/abs\"\n",
    )
    .unwrap();
    let config = Config::load(&path).unwrap();
    assert_eq!(config.network.file, dir.path().join("network.toml"));
    assert_eq!(config.log.file, Some(dir.path().join("log")));
    let listener = &config.client.unwrap().listeners[0];
    let socket = ListenAddress::Unix(dir.path().join("u"));
    assert_eq!(listener.address, socket);
    assert_eq!(listener.credentials, Some(dir.path().join("w")));
    assert_eq!(config.state.dir, Path::new("/abs"));
}

#[test]
fn errors_name_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.toml");
    let missing = Config::load(&path).unwrap_err();
    assert!(missing.to_string().contains("node.toml"));
    std::fs::write(&path, "[clint]\n").unwrap();
    let unknown = Config::load(&path).unwrap_err();
    assert!(
        unknown
            .to_string()
            .contains("node.toml: clint (line 1): unknown key")
    );
    assert!(unknown.hint().contains("docs/config.md"));
}

#[test]
fn the_usual_policy_for_datagrams_lets_names_time_and_the_web_out_and_nothing_else_that_is_low() {
    let exit = Exit::default();
    let policy = ExitPolicy::from_rules(&exit.udp_policy).unwrap();
    let port = |port| policy.allows(([8, 8, 8, 8], port).into());
    assert!(
        exit.udp
            && [53, 123, 443, 1_024, 3_478, 51_820, 65_535]
                .into_iter()
                .all(port)
    );
    assert!(
        ![1, 19, 161, 389, 1_023, 1_900, 5_353, 11_211]
            .into_iter()
            .any(port)
    );
    assert!(!policy.allows(([192, 168, 0, 1], 443).into()));
}

#[test]
fn rules_of_an_exit_name_lists_of_ports_and_a_wrong_name_is_told_the_nearest() {
    let with = |key: &str, rules: &str| {
        let text = format!("[relay]\nlisten = \"127.0.0.1:1\"\n[exit]\n{key} = {rules}\n");
        checked(&text)
    };
    let config = with(
        "policy",
        r#"["reject *:22", "reduced", "accept *4:web,9000-9100"]"#,
    )
    .unwrap();
    assert!(
        print(&config)
            .contains(r#"policy = ["reject *:22", "reduced", "accept *4:web,9000-9100"]"#)
    );
    for (key, rules, said) in [
        (
            "policy",
            r#"["accept *:mial-reading"]"#,
            "the nearest that exists is mail-reading",
        ),
        (
            "policy",
            r#"["accept *:80,http"]"#,
            "no list of ports is named http",
        ),
        ("policy", r#"["reducde"]"#, r#"did you mean "reduced"?"#),
        (
            "policy",
            r#"["accept *:80;443"]"#,
            "as in 80,443,8000-8999: accept *:80;443",
        ),
        (
            "udp_policy",
            r#"["reject *:389", "reduced"]"#,
            "`reduced` has ports of streams",
        ),
    ] {
        let error = with(key, rules).unwrap_err().to_string();
        assert!(
            error.contains(said) && error.contains(&format!("exit.{key} (line 4)")),
            "{error}"
        );
    }
}

#[test]
fn the_document_has_the_ports_of_each_list() {
    let document = include_str!("../../docs/config.md");
    for list in PORT_LISTS.iter().filter(|list| list.name != "reduced") {
        let ports = list
            .ranges
            .iter()
            .map(|range| match (range.low, range.high) {
                (low, high) if low == high => low.to_string(),
                (low, high) => format!("{low}-{high}"),
            });
        let row = format!(
            "| {} | {} |",
            list.name,
            ports.collect::<Vec<_>>().join(", ")
        );
        assert!(document.contains(&row), "docs/config.md lacks: {row}");
    }
}

#[test]
fn the_printed_configuration_reads_back_as_itself() {
    for text in [
        MINIMAL,
        "[relay]\nlisten = \"127.0.0.1:1\"\n[exit]\n[log]\nfile = \"x\"\n",
    ] {
        let config = checked(text).unwrap();
        assert_eq!(parse(&print(&config)).unwrap(), config);
    }
}

#[test]
fn the_printed_examples_are_valid_when_uncommented() {
    let printed = print(&Config::default());
    let uncommented: String = printed
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if rest.starts_with('[') || rest.contains(" = ") && !rest.contains(". ") => {
                rest
            }
            _ => line,
        })
        .fold(String::new(), |text, line| text + line + "\n");
    let config = parse(&uncommented).unwrap();
    assert!(config.exit.unwrap().resolver.is_some());
    assert!(config.authority.is_some() && config.log.file.is_some());
}

#[test]
fn the_reference_is_what_the_settings_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/config.md");
    let stored = std::fs::read_to_string(&path).unwrap();
    let current = update_reference(&stored);
    if std::env::var_os("CEPA_WRITE_REFERENCE").is_some() {
        std::fs::write(&path, &current).unwrap();
    }
    assert!(
        std::fs::read_to_string(&path).unwrap() == current,
        "docs/config.md is not what src/config/settings.rs says; write it with: \
         CEPA_WRITE_REFERENCE=1 cargo test -p cepa --lib the_reference_is"
    );
}

#[test]
fn the_reference_mentions_every_key_and_no_other() {
    let reference = include_str!("../../docs/config.md");
    for path in keys::paths() {
        assert!(
            reference.contains(&format!("`{path}`")),
            "docs/config.md lacks {path}"
        );
    }
    let known: Vec<_> = keys::paths().collect();
    for row in reference
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
    {
        let key = row.split('`').next().unwrap();
        assert!(known.contains(&key), "docs/config.md has {key}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(
        text in "(\\[[a-z.]{0,8}\\]\n|[a-z_]{1,8} = (\"[a-z:0-9]{0,8}\"|[0-9]{1,4}|\\[\\]|\\{\\})\n){0,8}|\\PC{0,60}",
    ) {
        let _ = checked(&text);
    }

    #[test]
    fn whatever_is_configured_is_printed_and_read_back(
        words in prop::collection::vec("\\PC{0,12}", 0..4),
        word in "\\PC{0,12}",
        ip in any::<std::net::IpAddr>(),
        port in any::<u16>(),
        numbers in any::<(u8, u32)>(),
        flags in any::<[bool; 6]>(),
        ranges in prop::collection::vec((any::<std::net::IpAddr>(), 0..=32_u8), 0..4),
    ) {
        let ranges = ranges.iter().map(|(ip, bits)| format!("{ip}/{bits}").parse().unwrap());
        let peers: Vec<PeerSet> = ranges.collect();
        let address = SocketAddr::new(ip, port);
        let file = || flags[0].then(|| word.clone().into());
        let listener = Listener {
            address: match flags[5] {
                true => ListenAddress::Tcp(address),
                false => ListenAddress::Unix(format!("/{word}").into()),
            },
            kind: [ListenerKind::Proxy, ListenerKind::Dns, ListenerKind::Transparent][usize::from(numbers.0) % 3],
            credentials: file(),
            mode: flags[0].then_some(SocketMode(numbers.1 & 0o777)),
            group: flags[2].then(|| word.clone()),
            isolate: flags[1].then(|| vec![IsolateKind::Stream]),
            udp: flags[4],
        };
        let client = Client {
            socks: address,
            allow_remote: flags[2],
            credentials: file(),
            listeners: vec![listener; words.len()],
            hops: numbers.0,
            destinations: words.clone(),
            geoip: file(),
            peers: Peers {
                entry: PeerLists { only: peers, ..PeerLists::default() },
                ..Peers::default()
            },
            ..Client::default()
        };
        let relay = Relay {
            advertise: vec![address; words.len()],
            nickname: word.clone(),
            suite: SuiteChoice::Aes256Gcm,
            family: file(),
            claim_kib: numbers.1,
            ..Relay::default()
        };
        let exit = Exit {
            policy: words.clone(),
            udp: flags[0],
            udp_policy: words.iter().rev().cloned().collect(),
            resolver: flags[1].then_some(address),
            ..Exit::default()
        };
        let config = Config {
            client: flags[3].then_some(client),
            relay: flags[4].then_some(relay),
            exit: flags[5].then_some(exit),
            log: Log { level: word.clone(), file: file() },
            limits: Limits { threads: usize::from(numbers.0), memory_mib: numbers.1, ..Limits::default() },
            ..Config::default()
        };
        prop_assert_eq!(parse(&print(&config)).unwrap(), config);
    }
}
