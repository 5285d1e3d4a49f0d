//! How a node reaches others: TCP of this machine, or a network that was given in its place.
//!
//! [`Sockets`], [`SocketListener`] and [`SocketStream`] are enums of two variants. Each system call looks once which
//! variant it has, and no cell does: a socket of this machine costs one branch more than without the seam.
//! A simulated network implements [`GivenSockets`], [`GivenListener`] and [`GivenStream`].

use std::future::poll_fn;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::{Domain, SockAddr, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener};

use super::datagrams::{DatagramSocket, GivenDatagrams, UdpPort};
use super::hangup::Hangup;

/// A future that a given network answers with.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send + 'a>>;

/// A network in place of this machine's TCP, as one host sees it.
pub trait GivenSockets: Send + Sync {
    /// Opens a connection to `address`.
    fn connect(&self, address: SocketAddr) -> Answer<'_, Box<dyn GivenStream>>;
    /// Listens at `address`; port 0 means any free port.
    fn bind(&self, address: SocketAddr) -> io::Result<Box<dyn GivenListener>>;
    /// Opens a port for datagrams at `address`; port 0 means any free port.
    ///
    /// A network that has none of this method's own has no datagrams.
    fn bind_datagrams(&self, address: SocketAddr) -> io::Result<Box<dyn GivenDatagrams>> {
        let _ = address;
        Err(io::ErrorKind::Unsupported.into())
    }
    /// The address from which this host would send to reach `to`; `None` if there is no way.
    fn local_address(&self, to: SocketAddr) -> Option<IpAddr>;
}

/// A port of a given network that is listened at.
pub trait GivenListener: Send + Sync {
    /// Waits for the next connection. Gives the connection and the address that it came from.
    fn accept(&self) -> Answer<'_, (Box<dyn GivenStream>, SocketAddr)>;
    /// Address of the port.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

/// A connection of a given network. Dropping this value closes the connection.
///
/// The connection keeps one waker for each direction, that of whoever polled last: a connection has one reader and one
/// writer.
pub trait GivenStream: Send + Sync {
    /// Reads what is there; 0 is the end; `WouldBlock` if nothing has come.
    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize>;
    /// Takes as much of `bytes` as there is room for; `WouldBlock` if there is none.
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize>;
    /// Ready once [`GivenStream::try_read`] would give something, an end or an error.
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Ready once [`GivenStream::try_write`] would take something or fail.
    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Ends this side's direction: the other side reads to an end of file.
    fn shutdown_write(&self) -> io::Result<()>;
    /// From now on, dropping the connection resets it instead of ending it in good order.
    fn reset_when_dropped(&self);
    /// This side's address.
    fn local_addr(&self) -> io::Result<SocketAddr>;
    /// The other side's address.
    fn peer_addr(&self) -> io::Result<SocketAddr>;
    /// What the owner of a hostile host has its node say in place of `plain`, which is about to be encrypted; `None`
    /// leaves it.
    fn forged(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let _ = plain;
        None
    }
}

/// What a node opens connections and ports with.
#[derive(Clone, Default)]
pub enum Sockets {
    /// TCP and UDP of this machine.
    #[default]
    Tcp,
    /// Another network.
    Given(Arc<dyn GivenSockets>),
}

impl core::fmt::Debug for Sockets {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Tcp => "Tcp",
            Self::Given(_) => "Given",
        })
    }
}

impl Sockets {
    /// Opens a connection to `address`.
    ///
    /// # Errors
    /// The system's error.
    #[expect(clippy::disallowed_methods, reason = "this is the seam")]
    pub async fn connect(&self, address: SocketAddr) -> io::Result<SocketStream> {
        match self {
            Self::Tcp => {
                super::kind::be_real("sockets");
                TcpStream::connect(address).await.map(SocketStream::Tcp)
            }
            Self::Given(sockets) => sockets.connect(address).await.map(SocketStream::Given),
        }
    }

    /// Listens at `address`; port 0 means any free port.
    ///
    /// # Errors
    /// The system's error.
    #[expect(clippy::disallowed_methods, reason = "this is the seam")]
    pub async fn bind(&self, address: SocketAddr) -> io::Result<SocketListener> {
        match self {
            Self::Tcp => {
                super::kind::be_real("sockets");
                TcpListener::bind(address).await.map(SocketListener::Tcp)
            }
            Self::Given(sockets) => sockets.bind(address).map(SocketListener::Given),
        }
    }

    /// Opens a port for datagrams at `address`; port 0 means any free port. A port of IPv6 hears nothing of IPv4. What
    /// is sent is never fragmented: a datagram that the way does not take is an error, or lost.
    ///
    /// # Errors
    /// The system's error.
    pub fn bind_datagrams(&self, address: SocketAddr) -> io::Result<DatagramSocket> {
        match self {
            Self::Tcp => UdpPort::bind(address).map(DatagramSocket::Udp),
            Self::Given(sockets) => sockets.bind_datagrams(address).map(DatagramSocket::Given),
        }
    }

    /// The address from which this host would send to reach `to`; `None` if there is no way.
    ///
    /// Connecting a datagram socket asks the routing table; nothing is sent.
    #[expect(clippy::disallowed_methods, reason = "this is the seam")]
    pub fn local_address(&self, to: SocketAddr) -> Option<IpAddr> {
        if let Self::Given(sockets) = self {
            return sockets.local_address(to);
        }
        super::kind::be_real("addresses");
        let any: SocketAddr = match to {
            SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
            SocketAddr::V6(_) => ([0u16; 8], 0).into(),
        };
        let socket = std::net::UdpSocket::bind(any).ok()?;
        socket.connect(to).ok()?;
        Some(socket.local_addr().ok()?.ip())
    }
}

/// Longest path of a Unix socket (bytes): what Linux has room for, without the final zero.
pub const UNIX_PATH_BYTES: usize = 107;
/// The mode of a Unix socket that is for its owner alone.
pub const OWNER_ONLY: u32 = 0o600;

/// Why there is no Unix socket to listen at.
#[derive(Debug, thiserror::Error)]
pub enum UnixBindError {
    /// The path is longer than the system takes.
    #[error("its path has {0} bytes, and the system takes {UNIX_PATH_BYTES} at most")]
    TooLong(usize),
    /// There is a file that is no socket.
    #[error("something that is no socket is in its place")]
    InTheWay,
    /// Another program listens there.
    #[error("another program listens there")]
    InUse,
    /// The socket cannot be given to the group.
    #[error("it cannot be given to its group: {0}; who runs the program must be in the group")]
    Group(io::Error),
    /// The system's error.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Listens at the Unix socket `path`, which those may use whom the permission bits `mode` let, its group being `group` or
/// that which the system gives it. A socket that is left from a program that has ended is replaced.
///
/// # Errors
/// [`UnixBindError`].
#[expect(clippy::disallowed_methods, reason = "this is the seam")]
pub fn bind_unix(
    path: &Path,
    mode: u32,
    group: Option<u32>,
) -> Result<UnixListener, UnixBindError> {
    super::kind::be_real("sockets");
    let bytes = path.as_os_str().len();
    if bytes > UNIX_PATH_BYTES {
        return Err(UnixBindError::TooLong(bytes));
    }
    let address = SockAddr::unix(path)?;
    let socket = || Socket::new(Domain::UNIX, Type::STREAM, None);
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {
            let probe = socket()?;
            // A full queue would block.
            probe.set_nonblocking(true)?;
            match probe.connect(&address) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    std::fs::remove_file(path)?;
                }
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error.into()),
                _ => return Err(UnixBindError::InUse),
            }
        }
        Ok(_) => return Err(UnixBindError::InTheWay),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    let socket = socket()?;
    socket.bind(&address)?;
    if let Some(group) = group {
        std::os::unix::fs::chown(path, None, Some(group)).map_err(UnixBindError::Group)?;
    }
    // Nobody can connect before the socket is listened at, whatever its mode is until here.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    socket.listen(UNIX_BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(UnixListener::from_std(OwnedFd::from(socket).into())?)
}

/// Connections that wait in the kernel to be accepted at a Unix socket.
const UNIX_BACKLOG: i32 = 1024;

/// A port that is listened at.
pub enum SocketListener {
    /// A port of this machine.
    Tcp(TcpListener),
    /// A port of another network.
    Given(Box<dyn GivenListener>),
}

impl From<TcpListener> for SocketListener {
    fn from(listener: TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

impl SocketListener {
    /// Waits for the next connection. Gives the connection and the address that it came from.
    ///
    /// # Errors
    /// The system's error, for example if there are no descriptors left.
    pub async fn accept(&self) -> io::Result<(SocketStream, SocketAddr)> {
        match self {
            Self::Tcp(listener) => {
                let (tcp, peer) = listener.accept().await?;
                Ok((SocketStream::Tcp(tcp), peer))
            }
            Self::Given(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok((SocketStream::Given(stream), peer))
            }
        }
    }

    /// Address of the port.
    ///
    /// # Errors
    /// The system's error.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr(),
            Self::Given(listener) => listener.local_addr(),
        }
    }
}

/// A connection.
pub enum SocketStream {
    /// A connection of this machine.
    Tcp(TcpStream),
    /// A connection of another network.
    Given(Box<dyn GivenStream>),
}

impl core::fmt::Debug for SocketStream {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        // No log may say whom a connection leads to.
        f.write_str("SocketStream")
    }
}

impl From<TcpStream> for SocketStream {
    fn from(tcp: TcpStream) -> Self {
        Self::Tcp(tcp)
    }
}

impl SocketStream {
    /// Sets the connection up for data that is written in large batches and must not wait: no delay to fill segments
    /// (which costs 40 ms), and no more than a batch unsent in the kernel.
    ///
    /// # Errors
    /// The system's error, which comes for connections that are gone already.
    pub fn tune(&self) -> io::Result<()> {
        match self {
            Self::Tcp(tcp) => {
                tcp.set_nodelay(true)?;
                bound_unsent(tcp)
            }
            Self::Given(_) => Ok(()),
        }
    }

    /// Has the kernel ask the other side now and then, while nothing is said, whether it is still there: first after two
    /// minutes, then every half minute. After four questions without an answer the connection fails. A side that has
    /// crashed, or that a firewall has forgotten, says nothing by itself, and would be waited for without end.
    ///
    /// # Errors
    /// The system's error, which comes for connections that are gone already.
    pub fn keep_alive(&self) -> io::Result<()> {
        match self {
            Self::Tcp(tcp) => SockRef::from(tcp).set_tcp_keepalive(
                &TcpKeepalive::new()
                    .with_time(Duration::from_secs(120))
                    .with_interval(Duration::from_secs(30))
                    .with_retries(4),
            ),
            Self::Given(_) => Ok(()),
        }
    }

    /// Makes the connection end with a reset when it is dropped, so that the other side does not take what it got for a
    /// complete answer.
    ///
    /// The call fails only on a connection that is gone already, which the other side has seen.
    pub fn reset_when_dropped(&self) {
        match self {
            Self::Tcp(tcp) => {
                let _ = SockRef::from(tcp).set_linger(Some(Duration::ZERO));
            }
            Self::Given(stream) => stream.reset_when_dropped(),
        }
    }

    /// A handle by which to ask whether the other side has gone; `None` if there is none, as in a given network.
    pub fn hangup(&self) -> Option<Hangup> {
        match self {
            Self::Tcp(tcp) => Hangup::of(tcp).ok(),
            Self::Given(_) => None,
        }
    }

    /// The address that the other side has dialled, if a packet filter of this machine has led the connection here
    /// instead (Linux); `None` for a connection that came by itself.
    pub fn led_away_from(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(tcp) => {
                let own = tcp.local_addr().ok()?;
                original(tcp, own.is_ipv4()).filter(|dialled| *dialled != own)
            }
            Self::Given(_) => None,
        }
    }

    /// This side's address.
    ///
    /// # Errors
    /// The system's error.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(tcp) => tcp.local_addr(),
            Self::Given(stream) => stream.local_addr(),
        }
    }

    /// The other side's address.
    ///
    /// # Errors
    /// The system's error.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(tcp) => tcp.peer_addr(),
            Self::Given(stream) => stream.peer_addr(),
        }
    }

    /// Reads once. If the bytes do not fill `buffer`, they were all that was there: the socket counts as empty until
    /// the kernel says that more has come, without a second read to find that out. `None` if nothing is there now.
    ///
    /// # Errors
    /// The system's error.
    #[inline]
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match self {
            Self::Tcp(tcp) => receive(tcp, buffer),
            Self::Given(stream) => match stream.try_read(buffer) {
                Ok(read) => Ok(Some(read)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
                Err(error) => Err(error),
            },
        }
    }

    /// Gives the kernel as much of `bytes` as it takes now.
    ///
    /// # Errors
    /// The system's error; `WouldBlock` if the kernel takes nothing now.
    #[inline]
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(tcp) => tcp.try_write(bytes),
            Self::Given(stream) => stream.try_write(bytes),
        }
    }

    /// What is to be encrypted in place of `plain`; `None`, always on a connection of this machine, says that nothing
    /// is. Only a simulated host whose owner is hostile says otherwise.
    #[inline]
    pub(crate) fn forged(&self, plain: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::Tcp(_) => None,
            Self::Given(stream) => stream.forged(plain),
        }
    }

    /// Waits until there is something to read.
    ///
    /// # Errors
    /// The system's error.
    pub async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(tcp) => tcp.readable().await,
            Self::Given(stream) => poll_fn(|cx| stream.poll_read_ready(cx)).await,
        }
    }

    /// Waits until something can be written.
    ///
    /// # Errors
    /// The system's error.
    pub async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(tcp) => tcp.writable().await,
            Self::Given(stream) => poll_fn(|cx| stream.poll_write_ready(cx)).await,
        }
    }

    /// Waits until there is something to read or something can be written.
    ///
    /// # Errors
    /// The system's error.
    pub async fn ready(&self) -> io::Result<()> {
        match self {
            Self::Tcp(tcp) => {
                let either = Interest::READABLE | Interest::WRITABLE;
                tcp.ready(either).await.map(drop)
            }
            Self::Given(stream) => {
                poll_fn(|cx| match stream.poll_read_ready(cx) {
                    Poll::Pending => stream.poll_write_ready(cx),
                    ready => ready,
                })
                .await
            }
        }
    }

    /// Ready once there is something to read.
    ///
    /// # Errors
    /// The system's error.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(tcp) => tcp.poll_read_ready(cx),
            Self::Given(stream) => stream.poll_read_ready(cx),
        }
    }

    /// Ready once something can be written.
    ///
    /// # Errors
    /// The system's error.
    pub fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(tcp) => tcp.poll_write_ready(cx),
            Self::Given(stream) => stream.poll_write_ready(cx),
        }
    }
}

/// The address by which the packet filter knows a connection, before it led it anywhere.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn original(tcp: &TcpStream, is_ipv4: bool) -> Option<SocketAddr> {
    let socket = SockRef::from(tcp);
    let found = match is_ipv4 {
        true => socket.original_dst_v4(),
        false => socket.original_dst_v6(),
    };
    found.ok()?.as_socket()
}

/// Other systems say it in other ways.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn original(_: &TcpStream, _: bool) -> Option<SocketAddr> {
    None
}

fn receive(tcp: &TcpStream, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    let room = buffer.len();
    let mut got = None;
    let tried = tcp.try_io(Interest::READABLE, || {
        let read = (&*SockRef::from(tcp)).read(buffer)?;
        got = Some(read);
        if (1..room).contains(&read) {
            // This clears the readiness that was seen before the read, and no newer one.
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(())
    });
    match tried {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        _ => Ok(got),
    }
}

/// Bounds what the kernel has taken and not sent. Those bytes are beyond this program's fairness and accounting: there
/// may be megabytes of them, and every circuit would wait behind what was written first. Bytes that are sent and not
/// acknowledged are not bounded, so that long ways are filled.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn bound_unsent(tcp: &TcpStream) -> io::Result<()> {
    SockRef::from(tcp).set_tcp_notsent_lowat(UNSENT_BYTES)
}

/// Other systems have no such option, so the send buffer is the bound there.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn bound_unsent(_: &TcpStream) -> io::Result<()> {
    Ok(())
}

/// A batch of cells, in bytes. Compared with no bound, 256 KiB cost nothing; 64 and 128 KiB cost up to a tenth of the
/// processor in one run and nothing in another. On loopback none of them shortens a ping beside bulk.
#[cfg(any(target_os = "linux", target_os = "android"))]
const UNSENT_BYTES: u32 = 256 * 1024;

impl AsyncRead for SocketStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_read(cx, out),
            Self::Given(stream) => loop {
                ready!(stream.poll_read_ready(cx))?;
                match stream.try_read(out.initialize_unfilled()) {
                    Ok(read) => {
                        out.advance(read);
                        return Poll::Ready(Ok(()));
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Poll::Ready(Err(error)),
                }
            },
        }
    }
}

impl AsyncWrite for SocketStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Self::Given(stream) => loop {
                ready!(stream.poll_write_ready(cx))?;
                match stream.try_write(bytes) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    done => return Poll::Ready(done),
                }
            },
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Neither a kernel nor a given network holds back what it has taken.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Given(stream) => Poll::Ready(stream.shutdown_write()),
        }
    }
}
