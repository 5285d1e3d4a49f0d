//! The exit: where a stream leaves the overlay for a TCP connection.
//!
//! A circuit's end hands a stream that a client has begun to `serve`. That calls [`ExitConnector::connect`], which
//! resolves the name (`resolve`), asks the policy and dials (`connect`). Then `serve` copies the bytes.
//!
//! Three things are absent on purpose: search domains, the hosts file, and any answer that did not come from a name
//! server.

mod connect;
mod resolve;
mod serve;

#[cfg(test)]
mod tests;

pub(crate) use connect::Outside;
pub use connect::{AddressPolicy, ConnectError, ExitConnector};
pub use resolve::ResolverError;
pub(crate) use serve::serve;
