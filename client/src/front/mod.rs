//! The proxy front end: one port for SOCKS4, 4a, 5 and HTTP CONNECT.
//!
//! Applications connect to this port, and a [`Connector`] opens their streams. The files, in the order in which a
//! connection meets them:
//!
//! * `serve` accepts connections and runs one task for each;
//! * [`FrontParser`] (`parse`, with `socks` and `http_connect` under it) takes bytes and yields one [`StreamRequest`],
//!   without I/O;
//! * `target` says what a destination may look like;
//! * `refusal` says why a request is refused, and which limits it must keep;
//! * `reply` says what the application is told.
//!
//! Three things are absent on purpose: any lookup of a name (names go to the exit as they are, S30), the choice of a
//! circuit, and UDP.

mod http_connect;
mod parse;
mod refusal;
mod reply;
mod serve;
mod socks;
mod target;

#[cfg(test)]
mod parse_tests;
#[cfg(test)]
mod serve_tests;

pub use parse::{FrontOptions, FrontParser, FrontStep, MAX_CONNECTIONS, StreamRequest};
pub use refusal::{FrontError, FrontRefusal, HTTP_HEAD_LIMIT, SOCKS_LIMIT};
pub use reply::{Failure, connected, failed};
pub use serve::{BindRefused, ConnectRequest, Connector, IsolationKey, check_bind, serve};
pub use target::{Credentials, FrontTarget, Host, Protocol};
