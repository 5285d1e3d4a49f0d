//! A destination for the network's first stream, which sends back what it gets.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A server that listens on loopback until this value is dropped.
pub(super) struct EchoServer {
    /// Address of the server.
    pub(super) address: SocketAddr,
    task: JoinHandle<()>,
}

impl EchoServer {
    /// Starts to listen.
    pub(super) async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(async move {
            // A check needs only one connection at a time.
            while let Ok((mut stream, _)) = listener.accept().await {
                let (mut from, mut to) = stream.split();
                // A client that leaves early sees an error of its own.
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
