//! The tables: which room may import which, which are pure, and which files are twins.

/// Each room, a file or a directory, and the rooms that it may import. A room may import itself; a file is in the room with the
/// longest name that fits, and may import what is in a room that it may import. What is imported stands before who imports it.
pub(crate) const ROOMS: &[(&str, &[&str])] = &[
    ("common/src/limits.rs", &[]),
    ("common/src/ids.rs", &[]),
    ("common/src/secret.rs", &[]),
    ("common/src/sync.rs", &[]),
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
    ("common/src/link", &["common/src/cell", "common/src/ids.rs"]),
    (
        "common/src",
        &[
            "common/src/stream",
            "common/src/flow",
            "common/src/link",
            "common/src/handshake",
            "common/src/onion",
            "common/src/cell",
            "common/src/budget.rs",
            "common/src/secret.rs",
            "common/src/sync.rs",
            "common/src/ids.rs",
            "common/src/limits.rs",
        ],
    ),
    ("relay/src", &["common/src"]),
    ("client/src", &["common/src"]),
    ("src", &["common/src", "relay/src", "client/src"]),
];

/// Rooms that compute and do nothing else: what they are given is all that they know.
pub(crate) const PURE: &[&str] = &[
    "common/src/limits.rs",
    "common/src/ids.rs",
    "common/src/secret.rs",
    "common/src/sync.rs",
    "common/src/budget.rs",
    "common/src/cell",
    "common/src/onion",
    "common/src/handshake",
    "common/src/flow",
    "common/src/link",
];

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

/// Files that import each other, in one package, because they belong together: with the reason.
pub(crate) const TWINS: &[(&[&str], &str)] = &[
    (&["common/src"], "not parted yet"),
    (&["relay/src"], "not parted yet"),
    (&["client/src"], "not parted yet"),
    (&["src"], "not parted yet"),
];
