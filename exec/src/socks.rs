//! The node's port, in the words of SOCKS 5 (RFC 1928, RFC 1929).

use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use std::io;
use std::net::{IpAddr, SocketAddr};

use cepa_common::world::Sockets;
use cepa_common::world::sockets::SocketStream;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::UnixStream;

use crate::via::{Via, stranger_behind};

/// The node tells what became of a request within this time, which is longer than a program's system waits for a
/// connection in the namespace (63 s).
const PATIENCE: Duration = Duration::from_secs(75);
/// The name by which the node leads to the resolver of an exit (docs/front.md).
const RESOLVER: &[u8] = b"resolver.cepa.alt";
const RESOLVER_PORT: u16 = 53;

/// What is asked of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// A connection to this address.
    Connect(SocketAddr),
    /// The resolver of an exit.
    Resolver,
    /// Datagrams, in the connection itself.
    Datagrams,
    /// The port itself: what follows is a program's own connection to it.
    Port,
}

/// An address that means nothing, with its kind and its port.
pub(crate) const NO_ADDRESS: [u8; 7] = [1, 0, 0, 0, 0, 0, 0];

impl Request {
    /// The request in the words of SOCKS 5.
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let command = match self {
            Self::Connect(_) | Self::Resolver => 1,
            // Cepa's own (docs/front.md).
            Self::Datagrams => 0xf2,
            Self::Port => 0xf3,
        };
        let mut bytes = vec![5, command, 0];
        match self {
            Self::Connect(to) => bytes.extend(address(to)),
            Self::Resolver => {
                bytes.extend([3, 17]);
                bytes.extend(RESOLVER);
                bytes.extend(RESOLVER_PORT.to_be_bytes());
            }
            Self::Datagrams | Self::Port => bytes.extend(NO_ADDRESS),
        }
        bytes
    }
}

/// Why the node did not do it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failed {
    /// The destination refuses.
    #[error("the destination refuses connections")]
    Refused,
    /// The destination cannot be reached, or has no address.
    #[error("the destination cannot be reached")]
    Host,
    /// The node has no circuit, or the stream broke in the network.
    #[error("there is no way through the network now")]
    Network,
    /// A private address, or one that no exit's policy allows.
    #[error("the destination is not allowed")]
    Prohibited,
    /// Nobody answered.
    #[error("the destination does not answer")]
    Timeout,
    /// The node does not know such requests.
    #[error("the node does not carry this")]
    Unsupported,
    /// The port asks for a user and a password.
    #[error("the port asks for a password")]
    Password,
    /// This user, who is not to be trusted, has taken the port of the node.
    #[error("another user (uid {0}) listens at the port of the node")]
    Stranger(u32),
    /// The node does not speak as it should, or is gone.
    #[error(transparent)]
    Lost(#[from] io::Error),
}

/// The bytes that ask for `request`: all that is to be said before the answers. `user` keeps streams apart.
fn asking(user: &[u8; 32], request: Request) -> Vec<u8> {
    // One method: a user and a password. Both lengths are below 256.
    let mut bytes = vec![5, 1, 2, 1, 32];
    bytes.extend(user);
    bytes.extend([1, b'x']);
    bytes.extend(request.to_bytes());
    bytes
}

/// An address as SOCKS writes it: its kind, its bytes, its port.
pub(crate) fn address(address: SocketAddr) -> Vec<u8> {
    let mut bytes = match address.ip() {
        IpAddr::V4(ip) => [&[1][..], &ip.octets()].concat(),
        IpAddr::V6(ip) => [&[4][..], &ip.octets()].concat(),
    };
    bytes.extend(address.port().to_be_bytes());
    bytes
}

/// Reads an address as SOCKS writes it, and gives what follows. `None` if it is none, or is a name.
pub(crate) fn read_address(bytes: &[u8]) -> Option<(SocketAddr, &[u8])> {
    let (&kind, rest) = bytes.split_first()?;
    let (ip, rest) = match kind {
        1 => {
            let (ip, rest) = rest.split_first_chunk::<4>()?;
            (IpAddr::from(*ip), rest)
        }
        4 => {
            let (ip, rest) = rest.split_first_chunk::<16>()?;
            (IpAddr::from(*ip), rest)
        }
        _ => return None,
    };
    let (port, rest) = rest.split_first_chunk::<2>()?;
    Some((SocketAddr::new(ip, u16::from_be_bytes(*port)), rest))
}

/// Asks the node at `via`. Gives the connection once the node has done what was asked.
pub(crate) async fn open(via: &Via, user: &[u8; 32], request: Request) -> Result<Stream, Failed> {
    let opening = async {
        let mut stream = Stream::connect(via).await?;
        stream.write_all(&asking(user, request)).await?;
        read_answers(&mut stream).await?;
        Ok(stream)
    };
    let opened = tokio::time::timeout(PATIENCE, opening).await;
    opened.unwrap_or(Err(Failed::Timeout))
}

/// Sees whether a node answers at `via`, and lets this user in.
pub(crate) async fn probe(via: &Via, user: &[u8; 32]) -> Result<(), Failed> {
    let probing = async {
        let mut stream = Stream::connect(via).await?;
        let asking = asking(user, Request::Resolver);
        // The method, and the user with the password.
        stream.write_all(&asking[..3 + 2 + 32 + 2]).await?;
        read_welcome(&mut stream).await
    };
    let probed = tokio::time::timeout(Duration::from_secs(10), probing).await;
    probed.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()))
}

async fn read_welcome(stream: &mut (impl AsyncRead + Unpin)) -> Result<(), Failed> {
    let mut method = [0; 2];
    stream.read_exact(&mut method).await?;
    match method {
        [5, 2] => {}
        [5, _] => return Err(Failed::Password),
        _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "no SOCKS 5").into()),
    }
    let mut status = [0; 2];
    stream.read_exact(&mut status).await?;
    match status {
        [1, 0] => Ok(()),
        _ => Err(Failed::Password),
    }
}

async fn read_answers(stream: &mut (impl AsyncRead + Unpin)) -> Result<(), Failed> {
    read_welcome(stream).await?;
    match read_reply(stream).await? {
        0 => Ok(()),
        2 => Err(Failed::Prohibited),
        4 => Err(Failed::Host),
        5 => Err(Failed::Refused),
        6 => Err(Failed::Timeout),
        7 => Err(Failed::Unsupported),
        _ => Err(Failed::Network),
    }
}

/// Reads the reply to a request. Gives its code; the address in it means nothing here.
pub(crate) async fn read_reply(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<u8> {
    let mut head = [0; 4];
    stream.read_exact(&mut head).await?;
    let no_socks = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    let [5, code, 0, kind] = head else {
        return Err(no_socks("no reply of SOCKS 5"));
    };
    let rest = match kind {
        1 => 4 + 2,
        4 => 16 + 2,
        3 => usize::from(stream.read_u8().await?) + 2,
        _ => return Err(no_socks("no address of SOCKS 5")),
    };
    let mut bound = [0; 255 + 2];
    stream.read_exact(&mut bound[..rest]).await?;
    Ok(code)
}

/// A connection: to the node, or of a program that takes this process for the node.
pub(crate) enum Stream {
    Tcp(SocketStream),
    Unix(UnixStream),
}

impl Stream {
    /// Connects to the node, and says nothing yet.
    async fn connect(via: &Via) -> Result<Self, Failed> {
        match via {
            Via::Tcp(address) => {
                let stream = Sockets::Tcp.connect(*address).await?;
                if let Some(uid) = via.stranger()? {
                    return Err(Failed::Stranger(uid));
                }
                stream.tune()?;
                Ok(Self::Tcp(stream))
            }
            Via::Unix(path) => {
                let stream = UnixStream::connect(path).await?;
                if let Some(uid) = stranger_behind(&stream)? {
                    return Err(Failed::Stranger(uid));
                }
                Ok(Self::Unix(stream))
            }
        }
    }

    /// Makes the connection end with a reset when it is dropped; Unix sockets know none.
    pub(crate) fn reset_when_dropped(&self) {
        if let Self::Tcp(stream) = self {
            stream.reset_when_dropped();
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_those_of_the_rfc() {
        let user = [b'u'; 32];
        let to = |text: &str| Request::Connect(text.parse().unwrap());
        let said = asking(&user, to("192.0.2.1:80"));
        assert_eq!(said[..5], [5, 1, 2, 1, 32]);
        assert_eq!(said[37..], [1, b'x', 5, 1, 0, 1, 192, 0, 2, 1, 0, 80]);
        let said = asking(&user, to("[2001:db8::1]:443"));
        assert_eq!(said[39..43], [5, 1, 0, 4]);
        assert_eq!(said[59..], [1, 187]);
        let said = asking(&user, Request::Resolver);
        assert_eq!(
            said[39..],
            *b"\x05\x01\x00\x03\x11resolver.cepa.alt\x00\x35"
        );
        let said = asking(&user, Request::Datagrams);
        assert_eq!(said[39..], [5, 0xf2, 0, 1, 0, 0, 0, 0, 0, 0]);
        let said = asking(&user, Request::Port);
        assert_eq!(said[39..], [5, 0xf3, 0, 1, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn addresses_are_read_as_they_are_written() {
        for text in ["192.0.2.1:80", "[2001:db8::1]:443"] {
            let at: SocketAddr = text.parse().unwrap();
            let bytes = [&address(at)[..], b"rest"].concat();
            assert_eq!(read_address(&bytes), Some((at, &b"rest"[..])));
            for len in 0..bytes.len() - 4 {
                assert_eq!(read_address(&bytes[..len]), None);
            }
        }
        assert_eq!(read_address(b"\x03\x01a\x00\x50"), None);
    }

    #[tokio::test]
    async fn each_reply_is_told_apart() {
        async fn answer(bytes: &[u8]) -> Result<(), Failed> {
            read_answers(&mut &bytes[..]).await
        }
        let good = [5, 2, 1, 0, 5, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        answer(&good).await.unwrap();
        answer(&[5, 2, 1, 0, 5, 0, 0, 3, 1, b'a', 0, 0])
            .await
            .unwrap();
        for len in 0..good.len() {
            let cut = answer(&good[..len]).await;
            assert!(matches!(cut, Err(Failed::Lost(_))), "{len}: {cut:?}");
        }
        for (code, words) in [
            (1, "no way"),
            (2, "not allowed"),
            (3, "no way"),
            (4, "cannot be reached"),
            (5, "refuses"),
            (6, "does not answer"),
            (7, "does not carry"),
        ] {
            let mut bytes = good;
            bytes[5] = code;
            let error = answer(&bytes).await.unwrap_err().to_string();
            assert!(error.contains(words), "{code}: {error}");
        }
        assert!(matches!(answer(&[5, 255]).await, Err(Failed::Password)));
        assert!(matches!(answer(&[5, 2, 1, 1]).await, Err(Failed::Password)));
        assert!(matches!(answer(b"HTTP").await, Err(Failed::Lost(_))));
    }
}
