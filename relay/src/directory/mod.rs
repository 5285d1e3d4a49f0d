//! The directory side of a relay: serves and refreshes the consensus, publishes its own descriptor
//! (docs/protocol.md, 6.12 and 6.14).
//!
//! A [`DirectoryServer`] is shared by every connection; what others read of it is a finished snapshot of the
//! [`cepa_common::dir::ConsensusStore`]. Connections come from the listener (a link that turned out to be HTTP) and
//! from BEGIN_DIR streams, and end in [`serve_connection`]. [`refresh`] and [`publish`] run beside it for the life of
//! the relay. Connections are counted by who asks, and requests by address, which streams do not have. Each difference
//! is made once.

mod consensus;
mod differences;
mod disk;
mod padding;
mod publish;
mod refresh;
mod reply;
mod serve;
mod server;
mod voting;
mod watched;
mod worded;

#[cfg(test)]
mod revision_tests;
#[cfg(test)]
mod serve_tests;
#[cfg(test)]
mod tests;

pub use disk::ConsensusFiles;
pub use publish::{Publisher, publish};
pub use refresh::{Refresher, refresh};
pub use serve::serve_connection;
pub(crate) use serve::serve_connection_from;
pub use server::DirectoryServer;
