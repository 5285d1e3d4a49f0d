//! The destination of the bench's streams: source, sink and echo on one port.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// What a stream wants, which its first byte says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Wish {
    /// The server sends bytes without end.
    Source = b'D',
    /// The server reads and counts everything.
    Sink = b'U',
    /// The server sends everything back.
    Echo = b'E',
    /// The server sends one byte and ends the stream.
    Byte = b'B',
}

/// Size of one read and of one write, in bytes.
pub(super) const CHUNK: usize = 64 << 10;

/// A server that listens until it is dropped.
pub(super) struct Server {
    /// Address of the server.
    pub(super) address: SocketAddr,
    /// Number of bytes that sinks have read.
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
