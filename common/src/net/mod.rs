//! Sockets: TLS with pinned keys, the driver of a link, and the table of its circuits.
//!
//! [`tls`] says which keys may speak to each other. [`tls_io`] moves bytes between a socket and rustls in large steps.
//! [`establish`] turns a connection into a link or a directory request.
//! [`link_task`] reads and writes one link. [`switch`] decides what happens to each cell. [`queue`] stands between two
//! links, [`inbox`] between a link and a circuit's end, and [`buffers`] circulate between them. [`circuit_io`] gives
//! streams to applications. [`news`] tells whoever listens what a relay or a client reports. [`skew`] judges this
//! computer's clock by what others say.
//!
//! Every link is one task that owns its socket, its TLS state and the table of its circuits. Others reach it only by
//! its [`queue::LinkQueue`], so nothing on the path of a cell waits for a lock that is held during cryptography.

pub mod association_io;
pub mod buffers;
mod cell_run;
pub mod circuit_end;
pub mod circuit_io;
pub mod directory;
pub mod dns_stream;
#[expect(
    clippy::disallowed_methods,
    reason = "stands between real sockets as a cable does"
)]
pub mod emulate;
pub mod establish;
pub mod inbox;
pub mod limit;
pub mod link_task;
pub mod news;
pub mod passage;
pub mod queue;
pub mod skew;
pub mod switch;
pub mod tasks;
pub mod tls;
pub mod tls_io;
