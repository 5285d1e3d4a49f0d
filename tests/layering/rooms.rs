//! The tables: which room may import which, which are pure, and which files are twins.

/// Each room, a file or a directory, and the rooms that it may import. A room may import itself; a file is in the room
/// with the longest name that fits, and may import what is in a room that it may import. What is imported stands before
/// who imports it.
pub(crate) const ROOMS: &[(&str, &[&str])] = &[
    ("common/src/limits.rs", &[]),
    ("common/src/ids.rs", &[]),
    ("common/src/secret.rs", &[]),
    ("common/src/sync.rs", &[]),
    ("common/src/log_pace.rs", &[]),
    ("common/src/budget.rs", &["common/src/sync.rs"]),
    ("common/src/cell", &["common/src/ids.rs"]),
    (
        "common/src/onion",
        &[
            "common/src/cell",
            "common/src/ids.rs",
            "common/src/secret.rs",
        ],
    ),
    (
        "common/src/handshake",
        &[
            "common/src/onion",
            "common/src/cell",
            "common/src/ids.rs",
            "common/src/secret.rs",
        ],
    ),
    ("common/src/link", &["common/src/cell", "common/src/ids.rs"]),
    ("common/src/flow", &["common/src/cell"]),
    (
        "common/src/stream",
        &[
            "common/src/flow",
            "common/src/cell",
            "common/src/budget.rs",
            "common/src/ids.rs",
            "common/src/limits.rs",
            "common/src/sync.rs",
        ],
    ),
    (
        "common/src/dir",
        &[
            "common/src/flow",
            "common/src/onion",
            "common/src/ids.rs",
            "common/src/limits.rs",
            "common/src/sync.rs",
        ],
    ),
    (
        "common/src/world",
        &[
            "common/src/dir",
            "common/src/ids.rs",
            "common/src/limits.rs",
            "common/src/sync.rs",
        ],
    ),
    (
        "common/src/state",
        &[
            "common/src/world",
            "common/src/secret.rs",
            "common/src/sync.rs",
        ],
    ),
    (
        "common/src/net",
        &[
            "common/src/world",
            "common/src/state",
            "common/src/dir",
            "common/src/link",
            "common/src/stream",
            "common/src/flow",
            "common/src/onion",
            "common/src/handshake",
            "common/src/cell",
            "common/src/budget.rs",
            "common/src/secret.rs",
            "common/src/sync.rs",
            "common/src/ids.rs",
            "common/src/limits.rs",
        ],
    ),
    ("common/src/lib.rs", &[]),
    ("relay/src/events", &["common/src"]),
    ("relay/src/admission", &["common/src", "relay/src/events"]),
    ("relay/src/keys", &["common/src", "relay/src/events"]),
    ("relay/src/authority", &["common/src", "relay/src/events"]),
    (
        "relay/src/directory",
        &[
            "common/src",
            "relay/src/admission",
            "relay/src/authority",
            "relay/src/events",
        ],
    ),
    ("relay/src/exit", &["common/src", "relay/src/directory"]),
    (
        "relay/src/params.rs",
        &["common/src", "relay/src/directory"],
    ),
    (
        "relay/src/link",
        &[
            "common/src",
            "relay/src/admission",
            "relay/src/directory",
            "relay/src/events",
            "relay/src/params.rs",
        ],
    ),
    (
        "relay/src/circuit",
        &[
            "common/src",
            "relay/src/admission",
            "relay/src/directory",
            "relay/src/events",
            "relay/src/exit",
            "relay/src/keys",
            "relay/src/link",
            "relay/src/params.rs",
        ],
    ),
    (
        "relay/src/options.rs",
        &[
            "common/src",
            "relay/src/circuit",
            "relay/src/admission",
            "relay/src/authority",
            "relay/src/keys",
        ],
    ),
    (
        "relay/src/descriptor.rs",
        &["common/src", "relay/src/options.rs"],
    ),
    (
        "relay/src/start",
        &[
            "common/src",
            "relay/src/admission",
            "relay/src/authority",
            "relay/src/circuit",
            "relay/src/descriptor.rs",
            "relay/src/directory",
            "relay/src/events",
            "relay/src/exit",
            "relay/src/keys",
            "relay/src/link",
            "relay/src/options.rs",
            "relay/src/params.rs",
        ],
    ),
    ("relay/src/lib.rs", &["common/src"]),
    ("client/src/lib.rs", &["common/src"]),
    ("client/src/path", &["common/src"]),
    ("client/src/guard", &["common/src", "client/src/path"]),
    ("client/src/dir/skew.rs", &["common/src"]),
    (
        "client/src/skew.rs",
        &["common/src", "client/src/dir/skew.rs"],
    ),
    (
        "client/src/events.rs",
        &[
            "common/src",
            "client/src/dir/skew.rs",
            "client/src/guard",
            "client/src/skew.rs",
        ],
    ),
    (
        "client/src/dir",
        &[
            "common/src",
            "client/src/dir/skew.rs",
            "client/src/events.rs",
            "client/src/path",
        ],
    ),
    ("client/src/front", &["common/src"]),
    (
        "client/src/circuit",
        &[
            "common/src",
            "client/src/dir",
            "client/src/events.rs",
            "client/src/front",
            "client/src/guard",
            "client/src/path",
            "client/src/skew.rs",
        ],
    ),
    (
        "client/src/client.rs",
        &[
            "common/src",
            "client/src/lib.rs",
            "client/src/circuit",
            "client/src/dir",
            "client/src/events.rs",
            "client/src/front",
            "client/src/guard",
            "client/src/path",
            "client/src/skew.rs",
        ],
    ),
    (
        "client/src/by_hand.rs",
        &[
            "common/src",
            "client/src/lib.rs",
            "client/src/circuit",
            "client/src/client.rs",
            "client/src/path",
        ],
    ),
    (
        "client/src/let_in.rs",
        &[
            "common/src",
            "client/src/lib.rs",
            "client/src/circuit",
            "client/src/client.rs",
            "client/src/dir",
            "client/src/events.rs",
            "client/src/front",
            "client/src/guard",
            "client/src/path",
            "client/src/skew.rs",
        ],
    ),
    (
        "client/src/time_sources.rs",
        &[
            "common/src",
            "client/src/lib.rs",
            "client/src/circuit",
            "client/src/client.rs",
            "client/src/dir",
            "client/src/events.rs",
            "client/src/front",
            "client/src/guard",
            "client/src/path",
            "client/src/skew.rs",
        ],
    ),
    (
        "client/src/start.rs",
        &[
            "common/src",
            "client/src/lib.rs",
            "client/src/circuit",
            "client/src/client.rs",
            "client/src/dir",
            "client/src/events.rs",
            "client/src/front",
            "client/src/guard",
            "client/src/path",
            "client/src/skew.rs",
            "client/src/let_in.rs",
            "client/src/time_sources.rs",
        ],
    ),
    ("src/terminal", &[]),
    (
        "src/config",
        &[
            "common/src",
            "relay/src/authority",
            "client/src/path",
            "src/terminal",
        ],
    ),
    (
        "src/node",
        &[
            "common/src",
            "relay/src",
            "client/src",
            "src/config",
            "src/terminal",
        ],
    ),
    ("src/control", &["common/src", "client/src", "src/terminal"]),
    (
        "src/testnet",
        &[
            "common/src",
            "src/config",
            "src/control",
            "src/node",
            "src/terminal",
        ],
    ),
    (
        "src/bench",
        &[
            "common/src",
            "src/config",
            "src/node",
            "src/terminal",
            "src/testnet",
        ],
    ),
    ("src/harden.rs", &[]),
    (
        "src/cli",
        &[
            "common/src",
            "relay/src/keys",
            "src/bench",
            "src/config",
            "src/control",
            "src/node",
            "src/terminal",
            "src/testnet",
        ],
    ),
    ("src/lib.rs", &[]),
    ("src/main.rs", &["src/cli", "src/harden.rs"]),
];

/// Rooms that compute and do nothing else: what they are given is all that they know.
pub(crate) const PURE: &[&str] = &[
    "common/src/limits.rs",
    "common/src/ids.rs",
    "common/src/secret.rs",
    "common/src/sync.rs",
    "common/src/budget.rs",
    "common/src/log_pace.rs",
    "common/src/cell",
    "common/src/onion",
    "common/src/handshake",
    "common/src/link",
    "common/src/flow",
    "common/src/stream",
    "common/src/dir",
    "common/src/net/emulate/wire.rs",
    "relay/src/authority/period.rs",
    "relay/src/authority/steps.rs",
    "relay/src/authority/relays.rs",
    "relay/src/authority/history.rs",
    "relay/src/authority/flags.rs",
    "relay/src/authority/measure.rs",
    "relay/src/keys/schedule.rs",
    "client/src/path",
    "client/src/guard/machine.rs",
    "client/src/guard/sample.rs",
    "client/src/guard/schedule.rs",
    "client/src/guard/bias.rs",
    "client/src/guard/persist.rs",
    "client/src/circuit/health.rs",
    "client/src/circuit/liveness.rs",
    "client/src/circuit/timeout.rs",
    "client/src/circuit/predict.rs",
    "client/src/circuit/shelf.rs",
    "client/src/front/parse.rs",
    "client/src/front/socks.rs",
    "client/src/front/http_connect.rs",
];

/// Files in pure rooms that are not, with the reason.
pub(crate) const NOT_PURE: &[(&str, &str)] = &[(
    "client/src/path/geoip.rs",
    "reads the owner's GeoIP file, once, when the client starts",
)];

/// What a pure room may not name, and why.
pub(crate) const IMPURE: &[(&str, &str)] = &[
    (
        "tokio",
        "tasks, timers and sockets are for those who drive this room",
    ),
    ("hyper", "requests are for those who drive this room"),
    ("rustls", "connections are for those who drive this room"),
    (
        "std::net::TcpStream",
        "sockets are for those who drive this room",
    ),
    (
        "std::net::TcpListener",
        "sockets are for those who drive this room",
    ),
    (
        "std::net::UdpSocket",
        "sockets are for those who drive this room",
    ),
    ("std::os", "the system is for those who drive this room"),
    ("std::fs", "the disk is for those who drive this room"),
    ("std::env", "the environment is for the command line"),
    ("std::process", "processes are for the command line"),
    ("std::thread", "threads are for those who drive this room"),
    ("std::time::SystemTime", "the time is passed in"),
    ("std::time::Instant::now", "the time is passed in"),
    ("Instant::now", "the time is passed in"),
    ("SystemTime::now", "the time is passed in"),
    ("rand::rng", "randomness is passed in"),
];

/// Calls that nobody but the seam to the world makes, and what to call instead: with one of them elsewhere a network in
/// a simulated world would not repeat.
pub(crate) const BARE: &[(&str, &str)] = &[
    ("std::time::Instant::now", "world::steady::now"),
    ("SystemTime::now", "the node's world::Clock"),
    ("std::time::SystemTime::now", "the node's world::Clock"),
    ("rand::rng", "world::random::rng"),
    ("spawn_blocking", "world::blocking::run"),
    ("tokio::task::spawn_blocking", "world::blocking::run"),
    ("TcpStream::connect", "the node's world::Sockets"),
    (
        "tokio::net::TcpStream::connect",
        "the node's world::Sockets",
    ),
    ("TcpListener::bind", "the node's world::Sockets"),
    ("tokio::net::TcpListener::bind", "the node's world::Sockets"),
    ("UdpSocket::bind", "the node's world::Sockets"),
    ("std::net::UdpSocket::bind", "the node's world::Sockets"),
];

/// Rooms that make such calls, with the reason.
pub(crate) const SEAM: &[(&str, &str)] = &[
    ("common/src/world", "is the seam"),
    (
        "common/src/net/emulate",
        "stands between real sockets as a cable does",
    ),
    ("src/bench", "measures real sockets from outside"),
    ("src/testnet", "runs nodes of the real world"),
    ("src/cli", "speaks with the owner, not for a node"),
];

/// Files that import each other, in one package, because they belong together: with the reason. There are none.
pub(crate) const TWINS: &[(&[&str], &str)] = &[];
