//! The ways to the destination: through the network, or through the plain chain beside it.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cepa_common::net::emulate::{Conditions, EmulatedLink};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::server::{CHUNK, Wish};
use crate::terminal::stop::Stop;

/// A stream that is not open after this time has failed.
const OPEN_DEADLINE: Duration = Duration::from_secs(30);
/// A child that has not said `ready` after this time has failed.
const READY_DEADLINE: Duration = Duration::from_secs(90);
/// Number of forwarders of the plain chain: as many as a circuit has relays.
const PLAIN_HOPS: usize = 3;

/// How a stream gets to the destination.
#[derive(Clone, Copy, Debug)]
pub(super) enum Way {
    /// The way through the front at `socks`, on the circuit of `user`.
    Network {
        /// Address of the front.
        socks: SocketAddr,
        /// Address of the destination.
        target: SocketAddr,
        /// The user. Streams of one user share a circuit; streams of different users never do.
        user: u64,
    },
    /// The way through the plain chain that begins at this address.
    Plain(SocketAddr),
}

/// A user that no stream has had before.
pub(super) fn new_user() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Way {
    /// Opens a stream and sends `wish` in the same flight.
    pub(super) async fn open(self, wish: Wish) -> io::Result<TcpStream> {
        timeout(OPEN_DEADLINE, self.open_now(wish))
            .await
            .unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
    }

    async fn open_now(self, wish: Wish) -> io::Result<TcpStream> {
        match self {
            Self::Plain(first) => {
                let mut stream = TcpStream::connect(first).await?;
                stream.set_nodelay(true)?;
                stream.write_all(&[wish as u8]).await?;
                Ok(stream)
            }
            Self::Network {
                socks,
                target,
                user,
            } => {
                let mut stream = TcpStream::connect(socks).await?;
                stream.set_nodelay(true)?;
                stream.write_all(&flight(target, user, wish)).await?;
                let mut replies = [0; 8];
                stream.read_exact(&mut replies).await?;
                let [5, 2, 1, 0, 5, 0, 0, kind] = replies else {
                    let code = replies[5];
                    return Err(io::Error::other(format!(
                        "the front answers with code {code}"
                    )));
                };
                let bound = if kind == 4 { 16 } else { 4 };
                stream.read_exact(&mut vec![0; bound + 2]).await?;
                Ok(stream)
            }
        }
    }

    /// This way through the front of another network.
    pub(super) fn at(self, front: SocketAddr) -> Self {
        match self {
            Self::Network { target, user, .. } => Self::Network {
                socks: front,
                target,
                user,
            },
            Self::Plain(first) => Self::Plain(first),
        }
    }

    /// This way, for a new user.
    pub(super) fn with_new_user(self) -> Self {
        match self {
            Self::Network { socks, target, .. } => Self::Network {
                socks,
                target,
                user: new_user(),
            },
            Self::Plain(first) => Self::Plain(first),
        }
    }
}

/// The bytes of SOCKS 5 with credentials (RFC 1928, RFC 1929), and the stream's first byte behind them.
fn flight(target: SocketAddr, user: u64, wish: Wish) -> Vec<u8> {
    let mut flight = greeting(user);
    flight.extend([5, 1, 0]);
    flight.extend(address(target));
    flight.push(wish as u8);
    flight
}

/// What comes before the request: credentials (RFC 1929).
pub(super) fn greeting(user: u64) -> Vec<u8> {
    let name = format!("bench{user}");
    let mut greeting = vec![5, 1, 2, 1, u8::try_from(name.len()).unwrap_or(0)];
    greeting.extend(name.as_bytes());
    greeting.extend([1, b'x']);
    greeting
}

/// An address as SOCKS 5 writes it: type, address, port.
pub(super) fn address(of: SocketAddr) -> Vec<u8> {
    let mut address = match of.ip() {
        IpAddr::V4(ip) => [&[1][..], &ip.octets()].concat(),
        IpAddr::V6(ip) => [&[4][..], &ip.octets()].concat(),
    };
    address.extend(of.port().to_be_bytes());
    address
}

/// A child of this program that ends with it, because it holds a pipe of this program.
pub(super) struct Helper {
    child: Child,
    /// What the child's line `ready` says behind that word.
    pub(super) said: String,
}

impl Helper {
    /// Starts this program with `args` and waits for its line `ready`.
    pub(super) async fn start(args: &[std::ffi::OsString]) -> io::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let stdout = child.stdout.take().ok_or(ErrorKind::BrokenPipe)?;
        let mut line = String::new();
        timeout(READY_DEADLINE, BufReader::new(stdout).read_line(&mut line)).await??;
        let said = line.trim().strip_prefix("ready");
        let said =
            said.ok_or_else(|| io::Error::other("a process of the bench did not get ready"))?;
        Ok(Self {
            said: said.to_owned(),
            child,
        })
    }

    /// Process id of the child.
    pub(super) fn pid(&self) -> Option<u32> {
        self.child.id()
    }
}

/// A chain of as many forwarders as a circuit has relays, each in a process of its own, on links like the network's.
/// The chain shows what TCP alone costs here.
pub(super) struct PlainChain {
    hops: Vec<Helper>,
    _links: Vec<EmulatedLink>,
    /// Address at which the chain begins.
    pub(super) first: SocketAddr,
}

impl PlainChain {
    /// Starts a chain that ends at `target`.
    pub(super) async fn start(target: SocketAddr, conditions: Conditions) -> io::Result<Self> {
        let (mut hops, mut links, mut next) = (Vec::new(), Vec::new(), target);
        for _ in 0..PLAIN_HOPS {
            let args = [
                "bench".into(),
                "--plain-hop".into(),
                next.to_string().into(),
            ];
            let hop = Helper::start(&args).await?;
            next = hop.said.trim().parse().map_err(io::Error::other)?;
            if !conditions.is_plain() {
                let link = EmulatedLink::start(next, conditions).await?;
                next = link.address();
                links.push(link);
            }
            hops.push(hop);
        }
        Ok(Self {
            hops,
            _links: links,
            first: next,
        })
    }

    /// Process ids of the forwarders.
    pub(super) fn pids(&self) -> Vec<u32> {
        self.hops.iter().filter_map(Helper::pid).collect()
    }
}

/// Forwards connections to a free port on to `target`, until standard input ends.
pub(super) async fn plain_hop(target: SocketAddr, mut stop: Stop) -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    crate::terminal::output::say(&format!("ready {}", listener.local_addr()?));
    let forward = async {
        loop {
            if let Ok((near, _)) = listener.accept().await {
                tokio::spawn(forward_one(near, target));
            }
        }
    };
    tokio::select! {
        () = forward => Ok(()),
        _ = stop.requested() => Ok(()),
    }
}

async fn forward_one(mut near: TcpStream, target: SocketAddr) -> io::Result<()> {
    let mut far = TcpStream::connect(target).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    tokio::io::copy_bidirectional_with_sizes(&mut near, &mut far, CHUNK, CHUNK).await?;
    Ok(())
}
