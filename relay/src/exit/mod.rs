//! The exit: where a stream leaves the overlay for a TCP connection.
//!
//! A circuit's end hands a BEGIN's host and port to [`ExitConnector::connect`],
//! which resolves (`resolve`), asks the policy and dials (`connect`). What
//! flows through the connection afterwards is the circuit's business.
//!
//! Absent on purpose: search domains, the hosts file, and any answer that did
//! not come from a name server.

mod connect;
mod resolve;

#[cfg(test)]
mod tests;

pub use connect::{AddressPolicy, ConnectError, ExitConnector, ExitHost, ExitOptions};
pub use resolve::ResolverError;
