//! A destination for the network's first stream: it sends back what it gets.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// Listens on loopback until it is dropped.
pub(super) struct EchoServer {
    /// Where.
    pub(super) address: SocketAddr,
    task: JoinHandle<()>,
}

impl EchoServer {
    /// Starts to listen.
    pub(super) async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(async move {
            // One connection at a time is all that a check needs.
            while let Ok((mut stream, _)) = listener.accept().await {
                let (mut from, mut to) = stream.split();
                // Whoever leaves early has its own error.
                let _ = tokio::io::copy(&mut from, &mut to).await;
            }
        });
        Ok(Self { address, task })
    }
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}
