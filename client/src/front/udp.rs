//! Datagrams of applications: SOCKS5 UDP ASSOCIATE (RFC 1928, section 7), and datagrams inside the connection itself.
//!
//! By UDP ASSOCIATE an application is given a port of this machine for its datagrams, as long as its connection lasts.
//! The port hears one port of the application's machine, the first that speaks SOCKS to it, or the one that the request
//! has named; and of sockets only those of the user who has the connection, where the system tells whose they are. Any
//! user of the machine sees the port, and could else be the first. By the command 0xF2 the datagrams go in the connection that asked for it, each behind its length: for
//! Unix sockets, for other machines, and for whoever wants no port that others see.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::time::{Duration, Instant};

use cepa_common::world::{DatagramSocket, Sockets, blocking, owners, steady};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::time::sleep;

use super::target::FrontTarget;
use super::udp_header::{read_datagram, write_datagram};

/// Size of one read of a connection that only lasts, in bytes.
const IDLE_READ: usize = 512;

/// The port is known to be the application's for so long, until the system is asked again.
const SEEN_FOR: Duration = Duration::from_secs(1);
/// The pause after the system was asked, and it was not the application that had sent.
const ASK_PAUSE: Duration = Duration::from_millis(20);
/// Datagrams that are kept while the system is asked who has sent them: as many as one read brings.
const MOST_UNSURE: usize = 64;
/// Bytes of these: the longest fits.
const UNSURE_BYTES: usize = 64 * 1024;

/// A datagram to be waited for: who has sent it, and its bytes.
pub type Received<'a> = Pin<Box<dyn Future<Output = Option<(SocketAddr, Vec<u8>)>> + Send + 'a>>;

/// Datagrams through the network, for one application. Dropping them ends the association.
pub trait Datagrams: Send + Sync {
    /// Sends a datagram, which may be lost.
    fn send(&self, target: &FrontTarget, bytes: &[u8]);

    /// Waits for a datagram; `None` if none will ever come.
    fn receive(&self) -> Received<'_>;
}

/// Opens the port for an application that came from `peer` to `local`; `None` where there is no such port: beyond this
/// machine anybody on the way could speak as the application.
pub(super) fn open_port(local: Option<IpAddr>, peer: IpAddr) -> Option<io::Result<DatagramSocket>> {
    let local = local?;
    let is_here = |ip: IpAddr| ip.to_canonical().is_loopback();
    if !is_here(local) || !is_here(peer) {
        return None;
    }
    Some(Sockets::Tcp.bind_datagrams(SocketAddr::new(local.to_canonical(), 0)))
}

/// Whose datagrams a port takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heard {
    /// The address of the application.
    ip: IpAddr,
    /// The only port of it that is heard; `None` stands for the first that sends what can be read.
    port: Option<u16>,
    /// The user who must have the socket at that port; `None` where the system does not tell.
    owner: Option<u32>,
    /// When the port was last seen to be that user's.
    seen: Option<Instant>,
}

impl Heard {
    pub(super) fn new(ip: IpAddr, port: Option<u16>, owner: Option<u32>) -> Self {
        Self {
            ip: ip.to_canonical(),
            port,
            owner,
            seen: None,
        }
    }

    /// May this sender be the application?
    fn may_be(&self, sender: SocketAddr) -> bool {
        sender.ip().to_canonical() == self.ip && self.port.is_none_or(|port| port == sender.port())
    }

    /// Is this port known to be the application's, so that nobody need be asked?
    fn is_known(&self, port: u16) -> bool {
        match self.owner {
            None => true,
            Some(_) => {
                let is_fresh = |seen: Instant| steady::now() < seen + SEEN_FOR;
                self.port == Some(port) && self.seen.is_some_and(is_fresh)
            }
        }
    }

    /// Those of `ports` that are the owner's, as the system says.
    async fn ask(&self, ports: Vec<u16>) -> Vec<u16> {
        let (Some(owner), ip) = (self.owner, self.ip) else {
            return ports;
        };
        let found = blocking::run(move || owners::ports_of(owner, ip, &ports)).await;
        found.unwrap_or_default()
    }

    /// The application has the port.
    fn on_seen(&mut self, port: u16) {
        self.port = Some(port);
        self.seen = self.owner.map(|_| steady::now());
    }

    /// Where the application is, if it is still there: others may have taken its port over.
    pub(super) async fn place(&mut self) -> Option<SocketAddr> {
        let port = self.port?;
        if !self.is_known(port) {
            if !self.ask(vec![port]).await.contains(&port) {
                return None;
            }
            self.on_seen(port);
        }
        Some(SocketAddr::new(self.ip, port))
    }
}

/// Datagrams of ports that the system is to be asked about.
#[derive(Default)]
struct Unsure {
    datagrams: Vec<(u16, Vec<u8>)>,
    bytes: usize,
}

impl Unsure {
    /// Keeps a datagram; what is too much is lost.
    fn push(&mut self, port: u16, bytes: &[u8]) {
        let all = self.bytes + bytes.len();
        if self.datagrams.len() < MOST_UNSURE && all <= UNSURE_BYTES {
            self.bytes = all;
            self.datagrams.push((port, bytes.to_vec()));
        }
    }

    fn ports(&self) -> Vec<u16> {
        let mut ports: Vec<u16> = self.datagrams.iter().map(|(port, _)| *port).collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }
}

/// Carries datagrams between the port and the network until the connection ends.
pub(super) async fn carry_by_port(
    connection: &mut (impl AsyncRead + Unpin),
    port: &DatagramSocket,
    datagrams: &dyn Datagrams,
    mut heard: Heard,
    allow_private: bool,
) {
    let mut idle = [0; IDLE_READ];
    loop {
        let mut unsure = Unsure::default();
        let each = |sender: SocketAddr, bytes: &[u8]| {
            if !heard.may_be(sender) {
                return;
            }
            if let Some((target, inner)) = read_datagram(bytes, allow_private) {
                if heard.is_known(sender.port()) {
                    heard.port = Some(sender.port());
                    datagrams.send(&target, inner);
                } else {
                    unsure.push(sender.port(), bytes);
                }
            }
        };
        tokio::select! {
            // What else the application says on its connection means nothing.
            read = connection.read(&mut idle) => match read {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            },
            received = port.receive(each) => if received.is_err() {
                return;
            },
            come = datagrams.receive() => {
                let Some((sender, bytes)) = come else { return };
                if let Some(to) = heard.place().await {
                    // What the application's socket does not take is lost.
                    let _ = port.try_send_to(&write_datagram(sender, &bytes), to);
                }
            }
        }
        if !unsure.datagrams.is_empty() && !take(unsure, &mut heard, datagrams, allow_private).await
        {
            tracing::debug!("datagrams of another user at the port of an association are dropped");
            // Whoever floods the port has the tables read so often and not more.
            sleep(ASK_PAUSE).await;
        }
    }
}

/// Asks the system who has sent what is kept, and takes what the application has. Gives whether there was any.
async fn take(
    unsure: Unsure,
    heard: &mut Heard,
    datagrams: &dyn Datagrams,
    allow_private: bool,
) -> bool {
    let own = heard.ask(unsure.ports()).await;
    let mut any = false;
    for (sender, bytes) in unsure.datagrams {
        let is_own = own.contains(&sender) && heard.port.is_none_or(|port| port == sender);
        if is_own && let Some((target, inner)) = read_datagram(&bytes, allow_private) {
            heard.on_seen(sender);
            any = true;
            datagrams.send(&target, inner);
        }
    }
    any
}

/// Carries datagrams in the connection itself, each behind its length of two bytes, until the connection ends.
pub(super) async fn carry_inside(
    connection: &mut (impl AsyncRead + AsyncWrite + Unpin),
    begun: &[u8],
    datagrams: &dyn Datagrams,
    allow_private: bool,
) -> io::Result<()> {
    let (reader, mut writer) = split(connection);
    let mut reader = begun.chain(reader);
    let outward = async {
        let mut datagram = Vec::new();
        loop {
            let length = match reader.read_u16().await {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(error),
            };
            datagram.resize(usize::from(length), 0);
            reader.read_exact(&mut datagram).await?;
            if let Some((target, bytes)) = read_datagram(&datagram, allow_private) {
                datagrams.send(&target, bytes);
            }
        }
    };
    let inward = async {
        while let Some((sender, bytes)) = datagrams.receive().await {
            let datagram = write_datagram(sender, &bytes);
            // Longer ones than the length can say do not exist: a header has 22 bytes at most.
            let Ok(length) = u16::try_from(datagram.len()) else {
                continue;
            };
            let mut framed = length.to_be_bytes().to_vec();
            framed.extend(datagram);
            writer.write_all(&framed).await?;
        }
        Ok(())
    };
    tokio::select! {
        done = outward => done,
        done = inward => done,
    }
}
