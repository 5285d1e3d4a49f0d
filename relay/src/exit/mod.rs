//! The exit: where a stream leaves the overlay for a TCP connection, and datagrams for UDP.
//!
//! A circuit's end hands a stream that a client has begun to `serve`. That counts the stream (`open`) and calls
//! [`ExitConnector::connect`], which waits for a turn (`attempts`), resolves the name (`resolve`, `servers`, `known`),
//! asks the policy (`outside`) and dials (`connect`, `race`). Then `copy` moves the bytes. A stream to the exit's
//! resolver goes to `answer` (`dns`), which answers queries by the same name servers. Datagrams leave by `udp`.
//!
//! Three things are absent on purpose: search domains, the hosts file, and any answer that did not come from a name
//! server.

mod attempts;
mod connect;
mod copy;
mod dns;
mod error;
mod known;
mod open;
mod outside;
mod race;
mod resolve;
mod serve;
mod servers;
mod udp;

#[cfg(test)]
mod dns_tests;
#[cfg(test)]
mod race_tests;
#[cfg(test)]
mod spoof_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod udp_tests;

pub(crate) use attempts::Origin;
pub use connect::{AddressPolicy, ExitConnector};
pub(crate) use dns::answer;
pub use error::DestinationError;
pub(crate) use open::{ExitLoad, OpenStreams};
pub(crate) use outside::Outside;
pub use outside::{Rules, Verdict};
pub use resolve::ResolverError;
pub(crate) use serve::serve;
pub(crate) use udp::associate;
