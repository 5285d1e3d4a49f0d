//! The exit: where a stream leaves the overlay for a TCP connection.
//!
//! A circuit's end hands a stream that a client has begun to `serve`, which has
//! [`ExitConnector::connect`] resolve its name (`resolve`), ask the policy and dial
//! (`connect`), and then copies.
//!
//! Absent on purpose: search domains, the hosts file, and any answer that did
//! not come from a name server.

mod connect;
mod resolve;
mod serve;

#[cfg(test)]
mod tests;

pub(crate) use connect::Outside;
pub use connect::{AddressPolicy, ConnectError, ExitConnector};
pub use resolve::ResolverError;
pub(crate) use serve::serve;
