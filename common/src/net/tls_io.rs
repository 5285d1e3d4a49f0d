//! One TLS connection over one socket, which moves bytes in large steps.
//!
//! With rustls' unbuffered interface, a whole read of the kernel is decrypted from one buffer, and many cells are
//! encrypted for one write. The buffers belong to the thread, not to the connection: a connection at rest keeps at most
//! a partial record.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, InsufficientSizeError, UnbufferedStatus};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::tls::{self, Tls};
use crate::limits::READ_BATCH_BYTES;
use crate::world::sockets::SocketStream;

/// Length of the longest TLS record with its head, in bytes. So many bytes always hold a whole record.
const MAX_RECORD: usize = 5 + 16_384 + 256;
/// When [`TlsIo`] is used as a byte stream and this many bytes of plaintext wait to be read, no more are taken.
const STREAM_PLAIN_MAX: usize = 64 * 1024;

thread_local! {
    static INCOMING: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BATCH_BYTES + MAX_RECORD]);
    static OUTGOING: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

enum Connection {
    Dialled(UnbufferedClientConnection),
    Accepted(UnbufferedServerConnection),
}

/// How far TLS has come after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// The handshake waits for the peer.
    Handshaking,
    /// Application data may be written.
    Open,
    /// The peer has sent close_notify.
    PeerClosed,
}

/// A TLS connection and its socket.
pub struct TlsIo {
    tcp: SocketStream,
    connection: Connection,
    progress: Progress,
    /// The first part of a record whose rest has not come yet.
    partial: Vec<u8>,
    /// Encrypted bytes that the kernel has not taken yet.
    unsent: Vec<u8>,
    unsent_from: usize,
    /// Decrypted bytes that have not been read yet, when the connection is used as a byte stream.
    plain: Vec<u8>,
    plain_from: usize,
    said_close: bool,
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl TlsIo {
    /// Dials the holder of `key` over `tcp` and completes the handshake.
    pub async fn dial(tcp: impl Into<SocketStream>, tls: &Tls, key: [u8; 32]) -> io::Result<Self> {
        let config = tls.dial(key).map_err(invalid)?;
        let connection =
            UnbufferedClientConnection::new(config, tls::no_name()).map_err(invalid)?;
        Self::handshake(tcp.into(), Connection::Dialled(connection)).await
    }

    /// Accepts the connection `tcp` and completes the handshake.
    pub async fn accept(tcp: impl Into<SocketStream>, tls: &Tls) -> io::Result<Self> {
        let config = tls
            .server()
            .ok_or_else(|| invalid("a client accepts no connections"))?;
        let connection = UnbufferedServerConnection::new(config).map_err(invalid)?;
        Self::handshake(tcp.into(), Connection::Accepted(connection)).await
    }

    async fn handshake(tcp: SocketStream, connection: Connection) -> io::Result<Self> {
        tcp.tune()?;
        let mut io = Self {
            tcp,
            connection,
            progress: Progress::Handshaking,
            partial: Vec::new(),
            unsent: Vec::new(),
            unsent_from: 0,
            plain: Vec::new(),
            plain_from: 0,
            said_close: false,
        };
        let mut plain = Vec::new();
        io.step(&mut [], &mut plain)?;
        while io.progress == Progress::Handshaking {
            io.flush().await?;
            io.tcp.readable().await?;
            if let Some(0) = io.try_read(&mut plain)? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        io.flush().await?;
        io.plain = plain;
        Ok(io)
    }

    /// The key that the other side has proven, if it showed one.
    pub fn peer_key(&self) -> Option<[u8; 32]> {
        let certificates = match &self.connection {
            Connection::Dialled(connection) => connection.peer_certificates(),
            Connection::Accepted(connection) => connection.peer_certificates(),
        };
        certificates?.first().and_then(tls::key_of)
    }

    /// Address of the other side.
    pub fn peer_address(&self) -> io::Result<std::net::SocketAddr> {
        self.tcp.peer_addr()
    }

    /// Waits until the socket can be read or, if something is unsent, written. After the peer's close_notify nothing is
    /// waited for: [`TlsIo::try_read`] tells the end then, whether or not the peer has closed TCP too.
    pub async fn ready(&self) -> io::Result<()> {
        if self.progress == Progress::PeerClosed {
            Ok(())
        } else if self.has_unsent() {
            self.tcp.ready().await
        } else {
            self.tcp.readable().await
        }
    }

    /// Waits until the socket can be written, whether or not it can be read.
    pub async fn writable(&self) -> io::Result<()> {
        self.tcp.writable().await
    }

    /// Are there encrypted bytes that the kernel has not taken yet?
    pub fn has_unsent(&self) -> bool {
        self.unsent_from < self.unsent.len()
    }

    /// How many encrypted bytes the kernel has not taken yet.
    pub fn unsent_len(&self) -> usize {
        self.unsent.len() - self.unsent_from
    }

    /// Reads once from the kernel and appends what it decrypts to `plain`. Returns `None` if there is nothing now, and
    /// `Some(0)` if the peer has closed its side.
    pub fn try_read(&mut self, plain: &mut Vec<u8>) -> io::Result<Option<usize>> {
        if self.progress == Progress::PeerClosed {
            return Ok(Some(0));
        }
        INCOMING.with_borrow_mut(|buffer| {
            let kept = self.partial.len();
            buffer[..kept].copy_from_slice(&self.partial);
            let read = match self.tcp.receive(&mut buffer[kept..])? {
                Some(0) => return Ok(Some(0)),
                Some(read) => read,
                None => return Ok(None),
            };
            let used = self.step(&mut buffer[..kept + read], plain)?;
            let rest = &buffer[used..kept + read];
            if rest.len() > MAX_RECORD {
                return Err(invalid("TLS left more than a record"));
            }
            self.partial.clear();
            self.partial.extend_from_slice(rest);
            Ok(Some(if self.progress == Progress::PeerClosed {
                0
            } else {
                read
            }))
        })
    }

    /// Lets TLS work on `incoming`. Returns how many of its bytes are done with.
    fn step(&mut self, incoming: &mut [u8], plain: &mut Vec<u8>) -> io::Result<usize> {
        let mut used = 0;
        loop {
            let rest = &mut incoming[used..];
            let effects = Effects {
                plain: &mut *plain,
                unsent: &mut self.unsent,
                progress: &mut self.progress,
            };
            let done = match &mut self.connection {
                Connection::Dialled(connection) => {
                    on_status(connection.process_tls_records(rest), effects)?
                }
                Connection::Accepted(connection) => {
                    on_status(connection.process_tls_records(rest), effects)?
                }
            };
            used += done.bytes;
            if !done.asks_again {
                return Ok(used);
            }
        }
    }

    /// Encrypts `plain` and gives the kernel what it takes. The rest is then unsent. The caller calls this only if
    /// nothing is unsent.
    pub fn write(&mut self, plain: &[u8]) -> io::Result<()> {
        let forged = self.tcp.forged(plain);
        let plain = forged.as_deref().unwrap_or(plain);
        if plain.is_empty() {
            return Ok(());
        }
        OUTGOING.with_borrow_mut(|buffer| {
            let most = plain.len() + (plain.len() / 16_384 + 1) * 64;
            if buffer.len() < most {
                buffer.resize(most, 0);
            }
            let len = self.encrypt(plain, buffer)?;
            if self.has_unsent() {
                self.unsent.extend_from_slice(&buffer[..len]);
                return self.try_flush();
            }
            let mut sent = 0;
            while sent < len {
                match self.tcp.try_write(&buffer[sent..len]) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(n) => sent += n,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
            self.unsent.extend_from_slice(&buffer[sent..len]);
            Ok(())
        })
    }

    fn encrypt(&mut self, plain: &[u8], out: &mut [u8]) -> io::Result<usize> {
        // What TLS itself has to send goes first.
        self.step(&mut [], &mut Vec::new())?;
        macro_rules! encrypt {
            ($connection:expr) => {
                match $connection
                    .process_tls_records(&mut [])
                    .state
                    .map_err(invalid)?
                {
                    ConnectionState::WriteTraffic(mut traffic) => {
                        traffic.encrypt(plain, out).map_err(invalid)
                    }
                    _ => Err(io::ErrorKind::BrokenPipe.into()),
                }
            };
        }
        match &mut self.connection {
            Connection::Dialled(connection) => encrypt!(connection),
            Connection::Accepted(connection) => encrypt!(connection),
        }
    }

    /// Gives the kernel as many unsent bytes as it takes now.
    pub fn try_flush(&mut self) -> io::Result<()> {
        while self.has_unsent() {
            match self.tcp.try_write(&self.unsent[self.unsent_from..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => self.unsent_from += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.unsent_from = 0;
        self.unsent.clear();
        // A link at rest keeps little memory.
        self.unsent.shrink_to(MAX_RECORD);
        Ok(())
    }

    /// Waits until the kernel has taken everything.
    pub async fn flush(&mut self) -> io::Result<()> {
        loop {
            self.try_flush()?;
            if !self.has_unsent() {
                return Ok(());
            }
            self.tcp.writable().await?;
        }
    }

    /// Sends close_notify if the kernel takes it. Saying so is a courtesy, not a duty (protocol.md 1.7).
    pub fn say_close(&mut self) {
        if core::mem::replace(&mut self.said_close, true) {
            return;
        }
        let mut alert = [0; 128];
        macro_rules! close {
            ($connection:expr) => {
                match $connection.process_tls_records(&mut []).state {
                    Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                        traffic.queue_close_notify(&mut alert).unwrap_or(0)
                    }
                    _ => 0,
                }
            };
        }
        let len = match &mut self.connection {
            Connection::Dialled(connection) => close!(connection),
            Connection::Accepted(connection) => close!(connection),
        };
        self.unsent.extend_from_slice(&alert[..len]);
        let _ = self.try_flush();
    }

    /// Takes the decrypted bytes that came with the end of the handshake, or that were read while the connection was
    /// used as a byte stream.
    pub fn take_plain(&mut self) -> Vec<u8> {
        let mut plain = core::mem::take(&mut self.plain);
        plain.drain(..core::mem::take(&mut self.plain_from));
        plain
    }

    /// Puts decrypted bytes back in front, for whoever reads next.
    pub fn put_plain_back(&mut self, mut bytes: Vec<u8>) {
        bytes.extend(self.take_plain());
        self.plain = bytes;
    }

    fn plain_len(&self) -> usize {
        self.plain.len() - self.plain_from
    }
}

/// What TLS changes besides the records that it is given.
struct Effects<'a> {
    /// Decrypted bytes are added here.
    plain: &'a mut Vec<u8>,
    /// Bytes for the far side are added here.
    unsent: &'a mut Vec<u8>,
    progress: &'a mut Progress,
}

/// What one step of TLS has done.
struct Done {
    /// Number of bytes of the records that are done with.
    bytes: usize,
    /// Is there more to do with the same records?
    asks_again: bool,
}

/// Acts on what TLS says.
fn on_status<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    effects: Effects<'_>,
) -> io::Result<Done> {
    let Effects {
        plain,
        unsent,
        progress,
    } = effects;
    let mut bytes = status.discard;
    let asks_again = match status.state.map_err(invalid)? {
        ConnectionState::ReadTraffic(mut traffic) => {
            while let Some(record) = traffic.next_record() {
                let record = record.map_err(invalid)?;
                bytes += record.discard;
                plain.extend_from_slice(record.payload);
            }
            true
        }
        ConnectionState::EncodeTlsData(mut data) => {
            let at = unsent.len();
            if let Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) =
                data.encode(&mut [])
            {
                unsent.resize(at + required_size, 0);
            }
            let len = data.encode(&mut unsent[at..]).map_err(invalid)?;
            unsent.truncate(at + len);
            true
        }
        ConnectionState::TransmitTlsData(data) => {
            // `unsent` is flushed in order, before anything that follows.
            data.done();
            true
        }
        ConnectionState::BlockedHandshake => false,
        ConnectionState::WriteTraffic(_) => {
            if *progress == Progress::Handshaking {
                *progress = Progress::Open;
            }
            false
        }
        ConnectionState::PeerClosed => {
            *progress = Progress::PeerClosed;
            true
        }
        ConnectionState::Closed => {
            *progress = Progress::PeerClosed;
            false
        }
        ConnectionState::ReadEarlyData(_) => return Err(invalid("early data was never offered")),
        _ => return Err(invalid("a TLS state that this program does not know")),
    };
    Ok(Done { bytes, asks_again })
}

/// However a connection comes to its end, it says close_notify: refused, timed out, dropped with its task (protocol.md
/// 1.7).
impl Drop for TlsIo {
    fn drop(&mut self) {
        self.say_close();
    }
}

impl AsyncRead for TlsIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if this.plain_len() > 0 {
                let len = this.plain_len().min(out.remaining());
                out.put_slice(&this.plain[this.plain_from..this.plain_from + len]);
                this.plain_from += len;
                if this.plain_len() == 0 {
                    this.plain.clear();
                    this.plain.shrink_to(STREAM_PLAIN_MAX);
                    this.plain_from = 0;
                }
                return Poll::Ready(Ok(()));
            }
            if this.progress == Progress::PeerClosed {
                return Poll::Ready(Ok(()));
            }
            ready!(this.tcp.poll_read_ready(cx))?;
            let mut plain = core::mem::take(&mut this.plain);
            let read = this.try_read(&mut plain);
            this.plain = plain;
            if read? == Some(0) && this.plain_len() == 0 && this.progress != Progress::PeerClosed {
                // TCP ended without close_notify, which is not a clean end.
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }
}

impl TlsIo {
    fn poll_flush_unsent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            self.try_flush()?;
            if !self.has_unsent() {
                return Poll::Ready(Ok(()));
            }
            ready!(self.tcp.poll_write_ready(cx))?;
        }
    }
}

impl AsyncWrite for TlsIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_flush_unsent(cx))?;
        let len = bytes.len().min(READ_BATCH_BYTES);
        self.write(&bytes[..len])?;
        Poll::Ready(Ok(len))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush_unsent(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.say_close();
        ready!(self.poll_flush_unsent(cx))?;
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
