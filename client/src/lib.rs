//! The client half of Cepa, and its embedding interface.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use cepa_client::{Client, ClientOptions};
//! use cepa_common::dir::NetworkFile;
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
//! The rooms: [`dir`] fetches and keeps the consensus; [`guard`] keeps first hops; [`path`] chooses relays;
//! [`circuit`] builds circuits and carries streams; [`front`] lets programs in
//! by SOCKS and HTTP CONNECT.

mod by_hand;
pub mod circuit;
mod client;
pub mod dir;
pub mod front;
pub mod guard;
pub mod path;
pub mod skew;

pub use by_hand::{ByHandError, TraceError};
pub use client::{Client, ClientError, ClientOptions, ConnectError, Front, HopReport};
