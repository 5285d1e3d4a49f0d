//! How an application wants to send datagrams.

use std::net::SocketAddr;

/// What an application asks for that wants to send datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Associate {
    /// A port for datagrams. The application may have named where it will send from.
    Port(Option<SocketAddr>),
    /// Datagrams inside the connection.
    Inside,
}
