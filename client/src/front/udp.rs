//! Datagrams of applications: SOCKS5 UDP ASSOCIATE (RFC 1928, section 7), and datagrams inside the connection itself.
//!
//! By UDP ASSOCIATE an application is given a port of this machine for its datagrams, as long as its connection lasts.
//! The port hears one port of the application's machine, the first that speaks SOCKS to it, or the one that the request
//! has named. By the command 0xF2 the datagrams go in the connection that asked for it, each behind its length: for
//! Unix sockets, for other machines, and for whoever wants no port that others see.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;

use cepa_common::world::{DatagramSocket, Sockets};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};

use super::target::FrontTarget;
use super::udp_header::{read_datagram, write_datagram};

/// Size of one read of a connection that only lasts, in bytes.
const IDLE_READ: usize = 512;

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

/// Carries datagrams between the port and the network until the connection ends. `from` is the only port of the address
/// `peer` that is heard; 0 stands for the first that sends what can be read.
pub(super) async fn carry_by_port(
    connection: &mut (impl AsyncRead + Unpin),
    port: &DatagramSocket,
    datagrams: &dyn Datagrams,
    peer: IpAddr,
    from: u16,
    allow_private: bool,
) {
    let mut heard = (from != 0).then_some(from);
    let mut idle = [0; IDLE_READ];
    loop {
        let each = |sender: SocketAddr, bytes: &[u8]| {
            let is_app = sender.ip().to_canonical() == peer.to_canonical()
                && heard.is_none_or(|port| port == sender.port());
            if !is_app {
                return;
            }
            if let Some((target, bytes)) = read_datagram(bytes, allow_private) {
                heard = Some(sender.port());
                datagrams.send(&target, bytes);
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
                if let Some(heard) = heard {
                    // What the application's socket does not take is lost.
                    let to = SocketAddr::new(peer.to_canonical(), heard);
                    let _ = port.try_send_to(&write_datagram(sender, &bytes), to);
                }
            }
        }
    }
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
