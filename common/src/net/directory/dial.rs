//! How directory code gets a connection without knowing how links are made.

use core::pin::Pin;
use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncWrite};

/// A connection that can be read and written.
pub trait AsyncReadWrite: AsyncRead + AsyncWrite {}

impl<T: AsyncRead + AsyncWrite + ?Sized> AsyncReadWrite for T {}

/// A connection that can carry one directory request: a link before its HELLO, or a BEGIN_DIR stream.
pub type DirStream = Box<dyn AsyncReadWrite + Send + Unpin>;

/// A connection that is being opened.
pub type DialFuture = Pin<Box<dyn Future<Output = io::Result<DirStream>> + Send>>;

/// Opens connections for directory requests.
pub trait Dial: Send + Sync {
    /// Opens a connection to the first of `addresses` that answers and whose far side proves `link_key`.
    ///
    /// The future has no deadline beyond that of the transport. Callers set one.
    fn dial(&self, addresses: &[SocketAddr], link_key: [u8; 32]) -> DialFuture;
}
