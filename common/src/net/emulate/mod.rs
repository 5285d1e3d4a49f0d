//! Links with a delay, a bandwidth and losses, inside a process, for tests and benches.
//!
//! An [`EmulatedLink`] stands before a listener as a port of its own: whoever dials it reaches the listener through two
//! [`Wire`]s. Links that are not emulated pay nothing, because neither end knows about emulation.

mod wire;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::world::{random, steady};

use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

pub use wire::{Conditions, LEAST_STALL, SEGMENT_LEN, Wire};

/// Size of one read, in bytes.
const CHUNK: usize = 64 << 10;
/// The most connections through one port at a time. Others wait to be accepted.
const MAX_CONNECTIONS: usize = 4096;

/// A port of loopback that leads to another port under [`Conditions`]. The port and all its connections end when this
/// value is dropped.
#[derive(Debug)]
pub struct EmulatedLink {
    address: SocketAddr,
    carried: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl EmulatedLink {
    /// Opens a port of loopback that leads to `target`.
    ///
    /// # Errors
    /// The system's error if it gives no port.
    pub async fn start(target: SocketAddr, conditions: Conditions) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        Self::on(listener, target, conditions)
    }

    /// Takes connections to `listener` on to `target`.
    pub fn on(
        listener: TcpListener,
        target: SocketAddr,
        conditions: Conditions,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let carried = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(accept(listener, target, conditions, carried.clone()));
        Ok(Self {
            address,
            carried,
            task,
        })
    }

    /// Address to dial.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bytes that all connections together have brought to their other ends, both ways.
    pub fn carried(&self) -> u64 {
        self.carried.load(Ordering::Relaxed)
    }
}

impl Drop for EmulatedLink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(
    listener: TcpListener,
    target: SocketAddr,
    conditions: Conditions,
    carried: Arc<AtomicU64>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            came = listener.accept(), if connections.len() < MAX_CONNECTIONS => {
                if let Ok((near, _)) = came {
                    connections.spawn(carry(near, target, conditions, carried.clone()));
                }
            }
        }
    }
}

/// Carries one connection. An error on either side ends both, as a reset would.
async fn carry(
    near: TcpStream,
    target: SocketAddr,
    conditions: Conditions,
    carried: Arc<AtomicU64>,
) {
    let Ok(far) = TcpStream::connect(target).await else {
        return;
    };
    // Bytes wait in the wire only, not in the kernel.
    if near.set_nodelay(true).and(far.set_nodelay(true)).is_err() {
        return;
    }
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    // The dialler was connected at once, so the round trip of TCP's handshake is added here.
    let opens = steady::now() + conditions.round_trip();
    let there = pump(near_read, far_write, Wire::new(conditions, opens), &carried);
    let back = pump(far_read, near_write, Wire::new(conditions, opens), &carried);
    // The end of each direction is passed on by itself; an error ends both.
    let _ = tokio::try_join!(there, back);
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut wire: Wire,
    carried: &AtomicU64,
) -> io::Result<()> {
    let mut rng = SmallRng::from_rng(&mut random::rng());
    let mut buffer = vec![0; CHUNK];
    let mut out = Vec::new();
    let mut ended = false;
    while !(ended && wire.is_empty()) {
        let room = wire.room().min(CHUNK);
        let arrival = wire.next_arrival();
        tokio::select! {
            () = until(arrival), if arrival.is_some() => {
                out.clear();
                wire.pull(steady::now(), &mut out);
                to.write_all(&out).await?;
                carried.fetch_add(out.len() as u64, Ordering::Relaxed);
            }
            read = from.read(&mut buffer[..room]), if room > 0 && !ended => {
                let len = read?;
                ended = len == 0;
                wire.push(steady::now(), &buffer[..len], &mut rng);
            }
        }
    }
    to.shutdown().await
}

async fn until(arrival: Option<Instant>) {
    if let Some(at) = arrival {
        tokio::time::sleep_until(at.into()).await;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn an_echo_takes_the_round_trip_and_ends_come_through() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap();
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut got = Vec::new();
            stream.read_to_end(&mut got).await.unwrap();
            stream.write_all(&got).await.unwrap();
        };
        let conditions = Conditions {
            delay: Duration::from_millis(5),
            bandwidth: None,
            loss: 0.0,
        };
        let link = EmulatedLink::start(target, conditions).await.unwrap();
        let ask = async {
            let begun = Instant::now();
            let mut stream = TcpStream::connect(link.address()).await.unwrap();
            let sent = vec![7; 300_000];
            stream.write_all(&sent).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut back = Vec::new();
            stream.read_to_end(&mut back).await.unwrap();
            assert_eq!(back, sent);
            // There are two round trips: the handshake's and the echo's.
            assert!(begun.elapsed() >= Duration::from_millis(20));
        };
        tokio::join!(serve, ask);
        assert_eq!(link.carried(), 600_000);
    }
}
