//! The proxy front end: one port for SOCKS4, 4a, 5 and HTTP CONNECT.
//!
//! Applications call in here; a [`Connector`] takes their streams out. The
//! files, in the order in which a connection meets them:
//!
//! * `serve`: accepts, and runs one task for each connection;
//! * [`FrontParser`] (`parse`, with `socks` and `http_connect` under it): bytes
//!   in, one [`StreamRequest`] out, no I/O;
//! * `target`: what a destination may look like;
//! * `reply`: what the application is told.
//!
//! Absent on purpose: any lookup of a name (S30: names go to the exit as they
//! are), the choice of a circuit, and UDP.

mod http_connect;
mod parse;
mod reply;
mod serve;
mod socks;
mod target;

#[cfg(test)]
mod parse_tests;
#[cfg(test)]
mod serve_tests;

pub use parse::{
    FrontError, FrontOptions, FrontParser, FrontStep, HTTP_HEAD_LIMIT, Refusal, SOCKS_LIMIT,
    StreamRequest,
};
pub use reply::{Failure, connected, failed};
pub use serve::{
    BindRefused, ConnectRequest, Connector, IsolationKey, MAX_CONNECTIONS, check_bind, serve,
};
pub use target::{Credentials, Host, Protocol, Target};
