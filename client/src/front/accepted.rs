//! Connections of applications: by TCP, or by a Unix socket of this machine.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use cepa_common::world::datagrams::DatagramSocket;
use cepa_common::world::hangup::Hangup;
use cepa_common::world::sockets::{SocketListener, SocketStream};
use cepa_common::world::{blocking, owners};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, UnixListener, UnixStream};

use super::connector::Origin;
use super::gate::{Gate, Guard};
use super::places::Seat;
use super::target::Protocol;

/// Where applications are accepted: a TCP port or a Unix socket.
pub struct FrontListener {
    socket: Listening,
    pub(super) kind: Kind,
    /// Who may come in, if not everybody may.
    gate: Option<Arc<Gate>>,
}

/// What applications say at a listener.
pub(super) enum Kind {
    /// SOCKS or HTTP.
    Proxy,
    /// DNS, by TCP and by these datagrams.
    Dns(DatagramSocket),
    /// What they would say to the destination that the system has led them away from.
    Transparent,
}

impl Kind {
    /// The protocol of requests, as far as the listener alone says it.
    pub(super) fn protocol(&self) -> Protocol {
        match self {
            // The request says more.
            Self::Proxy => Protocol::Socks5,
            Self::Dns(_) => Protocol::Dns,
            Self::Transparent => Protocol::Transparent,
        }
    }
}

enum Listening {
    Tcp(SocketListener),
    Unix(UnixListener),
}

impl From<Listening> for FrontListener {
    fn from(socket: Listening) -> Self {
        Self {
            socket,
            kind: Kind::Proxy,
            gate: None,
        }
    }
}

impl From<SocketListener> for FrontListener {
    fn from(listener: SocketListener) -> Self {
        Listening::Tcp(listener).into()
    }
}

impl From<TcpListener> for FrontListener {
    fn from(listener: TcpListener) -> Self {
        Listening::Tcp(listener.into()).into()
    }
}

impl From<UnixListener> for FrontListener {
    fn from(listener: UnixListener) -> Self {
        Listening::Unix(listener).into()
    }
}

impl FrontListener {
    /// Lets in only whom `gate` lets in.
    #[must_use]
    pub fn behind(self, gate: Arc<Gate>) -> Self {
        Self {
            gate: Some(gate),
            ..self
        }
    }

    /// A name server of this machine, at the TCP port `stream` and the UDP port `datagrams`. Whoever reaches it can use
    /// it, so both should be of loopback.
    pub fn dns(stream: impl Into<SocketListener>, datagrams: DatagramSocket) -> Self {
        Self {
            kind: Kind::Dns(datagrams),
            ..Listening::Tcp(stream.into()).into()
        }
    }

    /// A port to which a packet filter of this machine leads connections that are for others (Linux). Each goes to the
    /// address that it was for.
    pub fn transparent(listener: impl Into<SocketListener>) -> Self {
        Self {
            kind: Kind::Transparent,
            ..Listening::Tcp(listener.into()).into()
        }
    }

    /// The gate before a connection from `origin`.
    pub(super) fn guard(&self, origin: Origin) -> Option<Guard> {
        let gate = self.gate.clone()?;
        Some(Guard::new(gate, origin))
    }

    /// Waits for the next connection, and says who is at its other end.
    pub(super) async fn accept(&self) -> io::Result<(Accepted, Origin)> {
        match &self.socket {
            Listening::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                stream.tune()?;
                // An application that has crashed with its machine, or has closed its socket while nothing is sent to
                // it, would else be waited for without end.
                stream.keep_alive()?;
                let origin = Origin::Ip(peer.ip().to_canonical());
                Ok((Link::Tcp(stream).into(), origin))
            }
            Listening::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let origin = Origin::Uid(stream.peer_cred()?.uid());
                Ok((Link::Unix(stream).into(), origin))
            }
        }
    }
}

/// A connection of an application.
pub(super) struct Accepted {
    link: Link,
    /// What its listener knows of it.
    seat: Arc<Seat>,
}

enum Link {
    Tcp(SocketStream),
    Unix(UnixStream),
}

impl From<Link> for Accepted {
    fn from(link: Link) -> Self {
        Self {
            link,
            seat: Seat::new(),
        }
    }
}

impl Drop for Accepted {
    fn drop(&mut self) {
        self.seat.is_over();
    }
}

impl Accepted {
    /// What the listener knows of the connection.
    pub(super) fn seat(&self) -> &Arc<Seat> {
        &self.seat
    }

    /// Address of this machine that the connection came to; a Unix socket has none.
    pub(super) fn local_ip(&self) -> Option<IpAddr> {
        match &self.link {
            Link::Tcp(stream) => stream.local_addr().ok().map(|address| address.ip()),
            Link::Unix(_) => None,
        }
    }

    /// The user who has the other end of a connection on this machine, if the system tells (Linux does).
    pub(super) async fn peer_owner(&self) -> Option<u32> {
        match &self.link {
            Link::Tcp(stream) => {
                let (peer, local) = (stream.peer_addr().ok()?, stream.local_addr().ok()?);
                let asked = blocking::run(move || owners::of_peer(peer, local)).await;
                asked.ok().flatten()
            }
            Link::Unix(stream) => stream.peer_cred().ok().map(|peer| peer.uid()),
        }
    }

    /// The address that the connection was for before the system led it here; `None` if it came by itself.
    pub(super) fn led_away_from(&self) -> Option<SocketAddr> {
        match &self.link {
            Link::Tcp(stream) => stream.led_away_from(),
            Link::Unix(_) => None,
        }
    }

    /// Makes the connection end with a reset when it is dropped. A Unix socket knows no reset; its other side reads an
    /// end.
    pub(super) fn reset_when_dropped(&self) {
        match &self.link {
            Link::Tcp(stream) => stream.reset_when_dropped(),
            Link::Unix(_) => {}
        }
    }

    fn hangup(&self) -> Option<Hangup> {
        match &self.link {
            Link::Tcp(stream) => stream.hangup(),
            Link::Unix(stream) => Hangup::of(stream).ok(),
        }
    }
}

impl AsyncRead for Accepted {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = out.filled().len();
        let read = match &mut this.link {
            Link::Tcp(stream) => Pin::new(stream).poll_read(cx, out),
            Link::Unix(stream) => Pin::new(stream).poll_read(cx, out),
        };
        let is_end = matches!(read, Poll::Ready(Ok(()))) && out.filled().len() == before;
        if is_end && out.remaining() > 0 {
            this.seat.is_half(|| this.hangup());
        }
        read
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let wrote = match &mut this.link {
            Link::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Link::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        };
        if let Poll::Ready(Ok(1..)) = wrote {
            this.seat.has_moved();
        }
        wrote
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().link {
            Link::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Link::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().link {
            Link::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Link::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::disallowed_methods)]
mod tests {
    use socket2::SockRef;
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn the_system_asks_now_and_then_whether_an_application_is_there() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let app = TcpStream::connect(listener.local_addr().unwrap());
        let _app = app.await.unwrap();
        let (accepted, _) = FrontListener::from(listener).accept().await.unwrap();
        let Link::Tcp(SocketStream::Tcp(tcp)) = &accepted.link else {
            unreachable!()
        };
        assert!(SockRef::from(tcp).keepalive().unwrap());
    }
}
