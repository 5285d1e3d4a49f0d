//! What both ends of a Cepa link share: formats, state machines and, behind the feature `net`, sockets.
//!
//! The rooms, in the order in which a cell meets them:
//!
//! * [`cell`]: the fixed-size cell and the messages inside it;
//! * [`onion`]: the layers of encryption around a cell's body;
//! * [`handshake`]: how a client and a hop agree on the keys of a layer;
//! * [`flow`] and [`stream`]: windows, credit, and the streams of one circuit;
//! * [`link`]: the first words between two peers;
//! * [`budget`]: the bound on what all queues hold together;
//! * [`log_pace`]: the bound on what strangers can write into the log;
//! * [`words`]: times and numbers as people read them;
//! * [`dir`]: the signed documents that say who is in the network;
//! * `world` (feature `net`): clocks, randomness and what else a machine has and a function does not;
//! * `state` (feature `net`): files and keys on disk;
//! * `net` (feature `net`): TLS, sockets, and the drivers of links, circuits' ends and directory requests.
//!
//! Everything outside `world`, `state`, `net` and the kit for tests is pure: bytes or messages in, messages out; time
//! and randomness are arguments. Nothing there opens a socket, reads a clock or spawns a task, and it builds without
//! tokio.

#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        reason = "unit tests use the real world beside the simulated one"
    )
)]

pub mod budget;
pub mod cell;
pub mod dir;
#[cfg(feature = "net")]
pub mod dns;
pub mod flow;
pub mod handshake;
pub mod ids;
pub mod limits;
pub mod link;
pub mod log_pace;
#[cfg(feature = "net")]
pub mod net;
pub mod onion;
pub mod secret;
#[cfg(feature = "net")]
pub mod state;
pub mod stream;
pub mod sync;
#[cfg(any(test, feature = "testkit"))]
pub mod testkit;
pub mod words;
#[cfg(feature = "net")]
pub mod world;
