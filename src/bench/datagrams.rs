//! Datagrams to the destination, by SOCKS 5 UDP ASSOCIATE (RFC 1928, section 7).

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use cepa_common::world::steady;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::time::timeout;

use super::server::Wish;
use super::way::{Way, address, greeting};

/// An association that has no port at an exit after so many datagrams has failed.
const BIND_TRIES: usize = 20;
/// The time that a datagram has to come back while there may be no port at an exit yet.
const BIND_TIME: Duration = Duration::from_secs(3);
/// Size of the datagram of an echo, in bytes.
const ECHO_LEN: usize = 64;
/// Datagrams of a flow that have not arrived, and their bytes. Each queue on the way holds more (docs/protocol.md, 5.35).
const UNDER_WAY: (u64, usize) = (100, 200_000);
/// What has not arrived of a flow after this time, without another that has, is lost.
const STALL: Duration = Duration::from_millis(500);

/// An association, with a number for each datagram.
pub(super) struct Datagrams {
    /// The association lasts as long as this connection.
    _control: TcpStream,
    socket: UdpSocket,
    /// What stands before each datagram: where it goes.
    head: Vec<u8>,
    number: u32,
}

impl Datagrams {
    /// Asks the front for a port.
    pub(super) async fn open(way: Way) -> io::Result<Self> {
        let Way::Network {
            socks,
            target,
            user,
        } = way
        else {
            return Err(io::Error::other("the plain chain carries no datagrams"));
        };
        let mut control = TcpStream::connect(socks).await?;
        let mut request = greeting(user);
        request.extend([5, 3, 0]);
        request.extend(address((Ipv4Addr::UNSPECIFIED, 0).into()));
        control.write_all(&request).await?;
        let mut replies = [0; 14];
        control.read_exact(&mut replies).await?;
        let [5, 2, 1, 0, 5, 0, 0, 1, a, b, c, d, high, low] = replies else {
            let code = replies[5];
            return Err(io::Error::other(format!(
                "the front gives no port for datagrams, and answers with code {code}"
            )));
        };
        let port = SocketAddr::from(([a, b, c, d], u16::from_be_bytes([high, low])));
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        socket.connect(port).await?;
        Ok(Self {
            _control: control,
            socket,
            head: [&[0, 0, 0][..], &address(target)].concat(),
            number: 0,
        })
    }

    /// Sends a datagram of `bytes` bytes, 5 at least. Gives its number.
    async fn send(&mut self, wish: Wish, bytes: usize) -> io::Result<u32> {
        self.number = self.number.wrapping_add(1);
        let mut datagram = self.head.clone();
        datagram.push(wish as u8);
        datagram.extend(self.number.to_be_bytes());
        datagram.resize(self.head.len() + bytes, 0);
        self.socket.send(&datagram).await?;
        Ok(self.number)
    }

    /// Sends a datagram there and back. Gives how long it took, or `None` if it has not come back within `deadline`.
    pub(super) async fn echo(&mut self, deadline: Duration) -> io::Result<Option<Duration>> {
        let sent = steady::now();
        let number = self.send(Wish::Echo, ECHO_LEN).await?;
        let mut buffer = [0; 256];
        let answer = async {
            loop {
                let len = self.socket.recv(&mut buffer).await?;
                // What comes late is of an earlier one, which counts as lost.
                let said = buffer[..len].get(self.head.len() + 1..).unwrap_or_default();
                if said.starts_with(&number.to_be_bytes()) {
                    return io::Result::Ok(sent.elapsed());
                }
            }
        };
        timeout(deadline, answer).await.ok().transpose()
    }

    /// Waits until a datagram has come back: the association has a port at an exit.
    pub(super) async fn until_bound(&mut self) -> io::Result<()> {
        for _ in 0..BIND_TRIES {
            if self.echo(BIND_TIME).await?.is_some() {
                return Ok(());
            }
        }
        Err(ErrorKind::TimedOut.into())
    }

    /// Sends datagrams of `bytes` bytes for `duration`, as fast as they arrive, and waits until the last has. `come` is
    /// the number of those that have. Gives how many were sent.
    pub(super) async fn flow(
        &mut self,
        bytes: usize,
        duration: Duration,
        come: &mut watch::Receiver<u64>,
    ) -> io::Result<u64> {
        let under_way = UNDER_WAY.0.min((UNDER_WAY.1 / bytes.max(1)) as u64).max(1);
        let (begun, before) = (steady::now(), *come.borrow());
        let (mut sent, mut lost) = (0_u64, 0);
        loop {
            let arrived = *come.borrow_and_update() - before;
            let waiting = sent.saturating_sub(arrived + lost);
            let is_over = begun.elapsed() >= duration;
            if is_over && waiting == 0 {
                return Ok(sent);
            }
            if !is_over && waiting < under_way {
                self.send(Wish::Sink, bytes).await?;
                sent += 1;
            } else if timeout(STALL, come.changed()).await.is_err() {
                lost += waiting;
            }
        }
    }
}
