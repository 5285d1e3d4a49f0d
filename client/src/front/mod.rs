//! The front end: one port for SOCKS4, 4a, 5 with its datagrams, HTTP CONNECT and `http://` requests; and ports for
//! DNS, and for connections that a packet filter leads here.
//!
//! Applications connect to this port, and a [`Connector`] opens their streams. The files, in the order in which a
//! connection meets them:
//!
//! * `serve` accepts connections, by TCP or a Unix socket (`accepted`), and runs one task for each; queries by UDP come to
//!   `dns`;
//! * `connection` is such a task: the request, then the stream, then bytes;
//! * [`FrontParser`] (`parse`, with `socks`, `http_head` and `http_fields` under it) takes bytes and yields one [`FrontRequest`]
//!   (`request`), without I/O;
//! * `http_forward` passes `http://` requests on, as many as come on a connection;
//! * `gate` says who may use a port that asks for a password, `threshold` how many may stand before it;
//! * `places` says how many are served at once, and who gives way; `fresh` bounds what a web page can ask for;
//! * `connector` says what the front end wants of whoever opens streams, and what keeps streams apart;
//! * `target` says what a destination may look like;
//! * `udp` carries datagrams (`udp_ask`, `udp_header`), by a port of their own or inside the connection;
//! * `refusal` says why a request is refused, and which limits it must keep;
//! * `reply` says what the application is told.
//!
//! Two things are absent on purpose: any lookup of a name on this machine (names go to the exit as they are, S30), and
//! the choice of a circuit.

mod accepted;
mod connection;
mod connector;
mod dns;
mod fresh;
mod gate;
mod http_fields;
mod http_forward;
mod http_head;
mod http_rewrite;
mod parse;
mod places;
mod refusal;
mod reply;
mod request;
mod serve;
mod socks;
mod target;
mod threshold;
mod udp;
mod udp_ask;
mod udp_header;

#[cfg(test)]
mod dns_tests;
#[cfg(test)]
mod forward_tests;
#[cfg(test)]
mod led_tests;
#[cfg(test)]
mod limits_tests;
#[cfg(test)]
mod names_tests;
#[cfg(test)]
mod parse_tests;
#[cfg(test)]
mod passed_on_tests;
#[cfg(test)]
mod serve_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod udp_tests;

pub use accepted::FrontListener;
pub use connector::{ConnectRequest, Connector, IsolationKey, Origin};
pub use gate::{Gate, GateError, Guard};
pub use parse::{FrontOptions, FrontParser, FrontStep, MAX_CONNECTIONS};
pub use refusal::{FrontError, FrontRefusal, HTTP_HEAD_LIMIT, SOCKS_LIMIT};
pub use reply::{Failure, connected, failed};
pub use request::{Address, Found, FrontRequest, LookUp, Request};
pub use serve::{BindRefused, check_bind, serve};
pub use target::{Credentials, FrontTarget, Host, Marks, Protocol};
pub use udp::{Datagrams, Received};
pub use udp_ask::Associate;
pub use udp_header::{read_datagram, write_datagram};
