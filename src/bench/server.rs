//! The destination of the bench's streams: source, sink and echo on one port.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// The first byte of a stream says what it wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Wish {
    /// Bytes without end.
    Source = b'D',
    /// Everything is read and counted.
    Sink = b'U',
    /// Everything comes back.
    Echo = b'E',
    /// One byte, and the end.
    Byte = b'B',
}

/// Read and written at once (bytes).
pub(super) const CHUNK: usize = 64 << 10;

/// Listens until it is dropped.
pub(super) struct Server {
    /// Where.
    pub(super) address: SocketAddr,
    /// Bytes that sinks have read.
    pub(super) sunk: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Server {
    /// Listens on `address`.
    pub(super) async fn start(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let sunk = Arc::new(AtomicU64::new(0));
        let counter = sunk.clone();
        let task = tokio::spawn(async move {
            let mut serving = JoinSet::new();
            loop {
                tokio::select! {
                    Some(_) = serving.join_next() => {}
                    came = listener.accept() => if let Ok((stream, _)) = came {
                        serving.spawn(serve(stream, counter.clone()));
                    }
                }
            }
        });
        Ok(Self {
            address,
            sunk,
            task,
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, sunk: Arc<AtomicU64>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; CHUNK];
    match stream.read_u8().await? {
        wish if wish == Wish::Source as u8 => loop {
            stream.write_all(&buffer).await?;
        },
        wish if wish == Wish::Sink as u8 => loop {
            let len = stream.read(&mut buffer).await?;
            if len == 0 {
                return Ok(());
            }
            sunk.fetch_add(len as u64, Ordering::Relaxed);
        },
        wish if wish == Wish::Echo as u8 => {
            let (mut from, mut to) = stream.split();
            tokio::io::copy(&mut from, &mut to).await?;
            to.shutdown().await
        }
        _ => {
            stream.write_all(b"!").await?;
            stream.shutdown().await
        }
    }
}
