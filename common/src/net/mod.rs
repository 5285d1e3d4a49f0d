//! Sockets: TLS with pinned keys, the driver of a link, and the table of its circuits.
//!
//! [`tls`] says who may speak to whom; [`tls_io`] moves bytes between a socket
//! and rustls in large steps; [`socket`] says how sockets are set; [`establish`] turns a connection into a link or
//! a directory request; [`link_task`] reads and writes one link; [`switch`]
//! decides what becomes of each cell; [`queue`] stands between two links and [`inbox`]
//! between a link and a circuit's end, and [`buffers`] go round between them; [`circuit_end`] drives a circuit's end, and
//! [`circuit_io`] gives its streams to applications.
//!
//! Every link is one task that owns its socket, its TLS state and its circuits'
//! table. Others reach it by its [`queue::LinkQueue`] alone, so nothing on the
//! path of a cell waits for a lock that cryptography is done under.

pub mod buffers;
mod cell_run;
pub mod circuit_end;
pub mod circuit_io;
pub mod directory;
pub mod emulate;
pub mod establish;
pub mod inbox;
pub mod limit;
pub mod link_task;
pub mod queue;
pub mod socket;
pub mod switch;
pub mod tasks;
pub mod tls;
pub mod tls_io;
