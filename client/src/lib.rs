//! The client half of Cepa, and its embedding interface.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use cepa_client::{Client, ClientOptions, NetworkFile};
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//!
//! let network = NetworkFile::parse(&std::fs::read_to_string("network.toml")?)?;
//! let client = Client::bootstrap(ClientOptions::new(network)).await?;
//! let mut stream = client.connect("example.org:80").await?;
//! stream.write_all(b"GET / HTTP/1.0\r\nHost: example.org\r\n\r\n").await?;
//! let mut page = Vec::new();
//! stream.read_to_end(&mut page).await?;
//! # Ok(())
//! # }
//! ```
//!
//! A client is an ordinary value: it installs nothing in the process, and several clients of several networks live side
//! by side. (What the clients of a process have in common are buffers of its threads, which are empty between two uses,
//! and whether the world is real or simulated.) A client's tasks run in the tokio runtime that it was started in, of
//! one thread or many, and end with its last clone; [`Client::shutdown`] waits for that. Streams are `AsyncRead` and
//! `AsyncWrite`, and a stream that breaks is an error, never an end of file. The directory `examples` has a fetch with
//! hyper, two clients that share no circuit, and a circuit along a path by hand.
//!
//! The rooms: [`dir`] fetches and keeps the consensus; [`guard`] keeps first hops; [`path`] chooses relays; [`circuit`]
//! builds circuits and carries streams; `names` asks exits for names; `udp`
//! carries datagrams; [`front`] lets programs in by SOCKS and HTTP;
//! [`events`] is what the client tells of its start and of its troubles.

#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        reason = "unit tests use the real world beside the simulated one"
    )
)]

mod by_hand;
pub mod circuit;
mod client;
pub mod dir;
pub mod events;
pub mod front;
pub mod guard;
mod let_in;
mod names;
pub mod path;
mod probe;
mod resolve;
mod start;
mod time_sources;
mod udp;

pub use by_hand::{ByHandError, TraceError};
// What a program that embeds a client needs of the rest.
pub use cepa_common::dir::NetworkFile;
pub use cepa_common::ids::RelayId;
pub use cepa_common::stream::{StreamError, StreamTarget};

/// A stream that a client has opened, for whoever reads and writes it.
pub type StreamIo = cepa_common::net::circuit_io::StreamIo<cepa_common::stream::Opener>;

pub use client::{Client, ClientError, ClientOptions, ConnectError, HopReport};
pub use events::{ClientEvent, ClientEvents, DirectorySource, Warning};
pub use let_in::Front;
pub use probe::ProbeReport;
pub use resolve::ResolveError;
pub use udp::{DatagramError, DatagramIo, ReceivedDatagram};
