//! Turns a TCP connection into a link or a directory request (docs/protocol.md, chapters 1 and 2).

use std::io;
use std::net::SocketAddr;

use tokio::time::timeout;

use super::tls::Tls;
use super::tls_io::TlsIo;
use crate::cell::CELL_LEN;
use crate::ids::NetworkId;
use crate::limits::LINK_HANDSHAKE_TIMEOUT;
use crate::link::{Hello, HelloError, negotiate};
use crate::net::directory::{Dial, DialFuture, DirStream};
use crate::world::sockets;

/// Why no link was made. The peer is told nothing about it (S5).
#[derive(Debug, thiserror::Error)]
pub enum EstablishError {
    /// The TCP connection could not be made.
    #[error("can't connect to {address}: {source}")]
    Connect {
        /// Address that was dialled.
        address: SocketAddr,
        /// The system's error.
        source: io::Error,
    },
    /// TLS failed. One reason is that the peer does not hold the key that was dialled.
    #[error("TLS failed: {0}")]
    Tls(#[source] io::Error),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    /// The HELLO was refused.
    #[error(transparent)]
    Hello(#[from] HelloError),
    /// The first bytes are neither a link's nor an HTTP request's.
    #[error("the peer speaks neither cells nor HTTP")]
    UnknownProtocol,
    /// The peer took longer than [`LINK_HANDSHAKE_TIMEOUT`].
    #[error("the peer took too long to say hello")]
    TimedOut,
}

/// A connection on which both sides have said HELLO.
pub struct NewLink {
    /// The TLS connection.
    pub io: TlsIo,
    /// The key that the other side has proven, if it showed one.
    pub peer_key: Option<[u8; 32]>,
    /// Address of the other side.
    pub peer_address: SocketAddr,
    /// Did this side dial?
    pub dialled: bool,
    /// Version of the link protocol that both sides use.
    pub version: u16,
    /// HELLO of the other side.
    pub hello: Hello,
}

/// What an accepted connection turned out to be.
pub enum Accepted {
    /// A link.
    Link(NewLink),
    /// A connection that speaks HTTP, of which no byte has been consumed, and the address of the peer.
    Http(TlsIo, SocketAddr),
}

async fn in_time<T>(
    work: impl Future<Output = Result<T, EstablishError>>,
) -> Result<T, EstablishError> {
    timeout(LINK_HANDSHAKE_TIMEOUT, work)
        .await
        .unwrap_or(Err(EstablishError::TimedOut))
}

async fn connect(
    addresses: &[SocketAddr],
    key: [u8; 32],
    tls: &Tls,
) -> Result<TlsIo, EstablishError> {
    let mut last = EstablishError::Io(io::ErrorKind::AddrNotAvailable.into());
    for &address in addresses {
        match tls.sockets().connect(address).await {
            Ok(tcp) => match TlsIo::dial(tcp, tls, key).await {
                Ok(io) => return Ok(io),
                Err(error) => last = EstablishError::Tls(error),
            },
            Err(source) => last = EstablishError::Connect { address, source },
        }
    }
    Err(last)
}

/// Dials the holder of `key` at the first of `addresses` that answers, for HTTP.
pub async fn dial_http(
    addresses: &[SocketAddr],
    key: [u8; 32],
    tls: &Tls,
) -> Result<TlsIo, EstablishError> {
    in_time(connect(addresses, key, tls)).await
}

/// Directory requests go over the same TLS as links.
impl Dial for Tls {
    fn dial(&self, addresses: &[SocketAddr], link_key: [u8; 32]) -> DialFuture {
        let (tls, addresses) = (self.clone(), addresses.to_vec());
        Box::pin(async move {
            let io = dial_http(&addresses, link_key, &tls).await;
            io.map(|io| Box::new(io) as DirStream)
                .map_err(io::Error::other)
        })
    }
}

/// Dials the holder of `key` at the first of `addresses` that answers, and says HELLO.
///
/// `time_unix_sec` is zero for clients.
pub async fn dial_link(
    addresses: &[SocketAddr],
    key: [u8; 32],
    tls: &Tls,
    network: NetworkId,
    time_unix_sec: u64,
) -> Result<NewLink, EstablishError> {
    in_time(async {
        let io = connect(addresses, key, tls).await?;
        hello(io, true, network, time_unix_sec).await
    })
    .await
}

/// Accepts the connection `tcp` and finds out what it is (protocol.md 1.5); `time_unix_sec` is the time that HELLO
/// says.
pub async fn accept(
    tcp: impl Into<sockets::SocketStream>,
    tls: &Tls,
    network: NetworkId,
    time_unix_sec: u64,
) -> Result<Accepted, EstablishError> {
    in_time(async {
        let mut io = TlsIo::accept(tcp, tls).await.map_err(EstablishError::Tls)?;
        let mut plain = io.take_plain();
        read_at_least(&mut io, &mut plain, 5).await?;
        let first = &plain[..5];
        // A link's first cell is on circuit 0 and a HELLO.
        let is_link = first == [0, 0, 0, 0, 6];
        let is_http = first.starts_with(b"GET ") || first == b"POST ";
        io.put_plain_back(plain);
        if is_link {
            Ok(Accepted::Link(
                hello(io, false, network, time_unix_sec).await?,
            ))
        } else if is_http {
            let address = io.peer_address()?;
            Ok(Accepted::Http(io, address))
        } else {
            Err(EstablishError::UnknownProtocol)
        }
    })
    .await
}

async fn read_at_least(io: &mut TlsIo, plain: &mut Vec<u8>, len: usize) -> io::Result<()> {
    while plain.len() < len {
        io.ready().await?;
        if io.try_read(plain)? == Some(0) && plain.len() < len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

async fn hello(
    mut io: TlsIo,
    dialled: bool,
    network: NetworkId,
    time_unix_sec: u64,
) -> Result<NewLink, EstablishError> {
    let peer_address = io.peer_address()?;
    let ours = Hello::ours(network, Some(peer_address), time_unix_sec);
    io.flush().await?;
    io.write(&ours.encode())?;
    io.flush().await?;
    let mut plain = io.take_plain();
    read_at_least(&mut io, &mut plain, CELL_LEN).await?;
    let Some((first, rest)) = plain.split_first_chunk() else {
        return Err(EstablishError::UnknownProtocol);
    };
    let theirs = Hello::decode(first)?;
    let version = negotiate(&ours, &theirs)?;
    io.put_plain_back(rest.to_vec());
    Ok(NewLink {
        peer_key: io.peer_key(),
        io,
        peer_address,
        dialled,
        version,
        hello: theirs,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use ed25519_dalek::SigningKey;
    use tokio::io::AsyncReadExt;
    use tokio::time::Instant;

    use super::*;
    use crate::world::memory::MemoryNetwork;
    use crate::world::sockets::SocketStream;

    const NETWORK: NetworkId = NetworkId([7; 32]);
    /// The time that a byte takes from host to host.
    const DELAY: Duration = Duration::from_millis(15);

    /// How a peer keeps a relay waiting.
    #[derive(Clone, Copy, Debug)]
    enum Stalls {
        /// The peer says nothing at all.
        BeforeTls,
        /// The peer says nothing once TLS is there.
        BeforeHello,
        /// The peer says HELLO byte by byte, one in half a second.
        WithinHello,
    }

    async fn stall(tcp: SocketStream, how: Stalls, key: [u8; 32]) {
        if let Stalls::BeforeTls = how {
            return std::future::pending().await;
        }
        let mut io = TlsIo::dial(tcp, &Tls::client(), key).await.unwrap();
        if let Stalls::WithinHello = how {
            for byte in Hello::ours(NETWORK, None, 0).encode() {
                tokio::time::sleep(Duration::from_millis(500)).await;
                io.write(&[byte]).unwrap();
                io.flush().await.unwrap();
            }
        }
        std::future::pending().await
    }

    /// protocol.md 1.7: whoever refuses a connection says close_notify, and says nothing of why.
    #[tokio::test(start_paused = true)]
    async fn a_refusal_says_close_notify_and_nothing_else() {
        let key = SigningKey::from_bytes(&[3; 32]);
        let (tls, public) = (Tls::relay(&key).unwrap(), key.verifying_key().to_bytes());
        let elsewhere = Hello::ours(NetworkId([8; 32]), None, 0).encode();
        // Nothing at all is said in the last row, until the deadline.
        for (said, is_link) in [(&[1; 64][..], false), (&elsewhere, true), (&[], false)] {
            let network = MemoryNetwork::new(1, DELAY, BTreeMap::new());
            let [near, far] = [1, 2].map(|n| network.world([20, 0, 0, n].into()));
            let address = ([20, 0, 0, 2], 9_400).into();
            let listener = far.sockets.bind(address).await.unwrap();
            let (tcp, accepted) = tokio::join!(near.sockets.connect(address), listener.accept());
            let refuses = accept(accepted.unwrap().0, &tls, NETWORK, 0);
            let hears = async {
                let dialled = TlsIo::dial(tcp.unwrap(), &Tls::client(), public).await;
                let mut io = dialled.unwrap();
                io.write(said).unwrap();
                let mut heard = Vec::new();
                // An end without close_notify is an error.
                io.read_to_end(&mut heard).await.map(|_| heard)
            };
            let (refused, heard) = tokio::join!(refuses, hears);
            assert!(refused.is_err());
            let len = if is_link { CELL_LEN } else { 0 };
            assert_eq!(heard.unwrap().len(), len, "HELLO goes without waiting");
        }
    }

    /// protocol.md 1.7: whoever has said close_notify says nothing more, and is not waited for, whether or not it
    /// closes TCP. Bytes and close_notify come in one read here.
    #[tokio::test(start_paused = true)]
    async fn who_has_said_close_notify_is_not_waited_for() {
        let key = SigningKey::from_bytes(&[3; 32]);
        let (tls, public) = (Tls::relay(&key).unwrap(), key.verifying_key().to_bytes());
        let hello = Hello::ours(NETWORK, None, 0).encode();
        for said in [&hello[..5], &hello[..]] {
            let network = MemoryNetwork::new(1, DELAY, BTreeMap::new());
            let [near, far] = [1, 2].map(|n| network.world([20, 0, 0, n].into()));
            let address = ([20, 0, 0, 2], 9_400).into();
            let listener = far.sockets.bind(address).await.unwrap();
            let (tcp, accepted) = tokio::join!(near.sockets.connect(address), listener.accept());
            let said = said.to_vec();
            let is_whole = said.len() == CELL_LEN;
            let peer = tokio::spawn(async move {
                let dialled = TlsIo::dial(tcp.unwrap(), &Tls::client(), public).await;
                let mut io = dialled.unwrap();
                // The far side has taken the end of the handshake by then.
                tokio::time::sleep(4 * DELAY).await;
                io.write(&said).unwrap();
                io.say_close();
                std::future::pending::<()>().await;
                drop(io);
            });
            let began = Instant::now();
            let made = accept(accepted.unwrap().0, &tls, NETWORK, 0).await;
            match made {
                Ok(Accepted::Link(mut link)) if is_whole => {
                    link.io.ready().await.unwrap();
                    assert_eq!(link.io.try_read(&mut Vec::new()).unwrap(), Some(0));
                }
                Err(EstablishError::Io(error)) if !is_whole => {
                    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
                }
                other => panic!("{:?}", other.err()),
            }
            assert!(began.elapsed() < Duration::from_secs(1));
            peer.abort();
        }
    }

    /// S5: 10 s may pass in all before there is a link, whatever the peer says meanwhile.
    #[tokio::test(start_paused = true)]
    async fn who_keeps_a_relay_waiting_for_10_s_gets_no_link() {
        let key = SigningKey::from_bytes(&[3; 32]);
        let (tls, public) = (Tls::relay(&key).unwrap(), key.verifying_key().to_bytes());
        for how in [Stalls::BeforeTls, Stalls::BeforeHello, Stalls::WithinHello] {
            let network = MemoryNetwork::new(1, DELAY, BTreeMap::new());
            let [near, far] = [1, 2].map(|n| network.world([20, 0, 0, n].into()));
            let address = ([20, 0, 0, 2], 9_400).into();
            let listener = far.sockets.bind(address).await.unwrap();
            let (tcp, accepted) = tokio::join!(near.sockets.connect(address), listener.accept());
            let peer = tokio::spawn(stall(tcp.unwrap(), how, public));
            let began = Instant::now();
            let refused = accept(accepted.unwrap().0, &tls, NETWORK, 0).await;
            assert!(
                matches!(refused, Err(EstablishError::TimedOut)),
                "{how:?}: {:?}",
                refused.err()
            );
            assert_eq!(began.elapsed().as_secs(), 10, "{how:?}");
            peer.abort();
        }
    }
}
