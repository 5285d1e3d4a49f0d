//! The destination of the bench's streams and datagrams: source, sink and echo on one port of TCP and one of UDP.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What a stream or a datagram wants, which its first byte says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Wish {
    /// The server sends bytes without end.
    Source = b'D',
    /// The server reads and counts everything. It answers one datagram of many, so that the exit sees that it lives.
    Sink = b'U',
    /// The server sends everything back.
    Echo = b'E',
    /// The server sends one byte and ends the stream.
    Byte = b'B',
}

/// Size of one read and of one write, in bytes.
pub(super) const CHUNK: usize = 64 << 10;

/// The server answers one of so many datagrams that want to be counted: an exit lets 1,000 go to an address that never
/// answers (docs/protocol.md, 5.39).
const ANSWERED: u64 = 256;
/// The longest datagram, in bytes.
const LONGEST: usize = 65_535;

/// A server that listens until it is dropped.
pub(super) struct Server {
    /// Address of the server.
    pub(super) address: SocketAddr,
    /// Number of bytes that sinks have read.
    pub(super) sunk: Arc<AtomicU64>,
    /// Datagrams that were to be counted, and have come.
    pub(super) come: watch::Receiver<u64>,
    _tasks: JoinSet<()>,
}

impl Server {
    /// Listens on `address`, by TCP and by UDP.
    pub(super) async fn start(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let socket = UdpSocket::bind(address).await?;
        let sunk = Arc::new(AtomicU64::new(0));
        let (counted, come) = watch::channel(0);
        let mut tasks = JoinSet::new();
        tasks.spawn(listen(listener, sunk.clone()));
        tasks.spawn(answer_datagrams(socket, counted));
        Ok(Self {
            address,
            sunk,
            come,
            _tasks: tasks,
        })
    }
}

async fn listen(listener: TcpListener, sunk: Arc<AtomicU64>) {
    let mut serving = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = serving.join_next() => {}
            came = listener.accept() => if let Ok((stream, _)) = came {
                serving.spawn(serve(stream, sunk.clone()));
            }
        }
    }
}

async fn answer_datagrams(socket: UdpSocket, counted: watch::Sender<u64>) {
    let mut buffer = vec![0; LONGEST];
    loop {
        // What is said about an earlier datagram, as that nobody took it, is no end.
        let Ok((len, from)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        let datagram = &buffer[..len];
        match datagram.first() {
            Some(wish) if *wish == Wish::Echo as u8 => {
                let _ = socket.send_to(datagram, from).await;
            }
            Some(wish) if *wish == Wish::Sink as u8 => {
                counted.send_modify(|number| *number += 1);
                if counted.borrow().is_multiple_of(ANSWERED) {
                    let _ = socket.send_to(&[*wish], from).await;
                }
            }
            _ => {}
        }
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
