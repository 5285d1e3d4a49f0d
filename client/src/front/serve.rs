//! Accepts connections and runs one task for each: request, stream, bytes.
//!
//! The application sees an orderly end of its connection only if both sides ended their own direction. In every other
//! case it sees a reset (protocol.md 5.6).

use core::fmt;
use core::future::Future;
use core::time::Duration;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use cepa_common::limits::ACCEPT_BACKOFF;
use cepa_common::log_pace::LogPace;
use cepa_common::world::sockets::{SocketListener, SocketStream};
use cepa_common::world::steady;
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional_with_sizes,
};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::parse::{FrontOptions, FrontParser, FrontStep, StreamRequest};
use super::reply::{self, Failure};
use super::target::{Credentials, FrontTarget, Protocol};

/// Size of the buffer for one direction of one connection, in bytes.
const COPY_BUFFER: usize = 64 * 1024;
/// Size of one read while the request comes in, in bytes.
const HEAD_READ: usize = 4096;
/// The most bytes that an application may send while its stream is being opened.
const AHEAD: usize = 64 * 1024;
/// Connections that wait for a place at once; further ones wait in the kernel's queue.
const MOST_WAITING: usize = 64;
/// The time that a refused application has to read why.
const FAREWELL: Duration = Duration::from_secs(2);

/// What keeps streams apart: two streams may share a circuit only if their keys are equal. The destination is in the
/// request; the connector decides whether it counts too.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IsolationKey {
    /// User and password of the request.
    pub credentials: Option<Credentials>,
    /// Protocol that the application spoke.
    pub protocol: Protocol,
    /// Address of the application, without its port.
    pub client: IpAddr,
    /// Address of the listener that the connection came through.
    pub listener: SocketAddr,
}

/// A stream to be opened. Debug output hides what belongs to the user.
pub struct ConnectRequest {
    /// Where the stream should go.
    pub target: FrontTarget,
    /// What decides which streams this one may share a circuit with.
    pub isolation: IsolationKey,
    /// The application's first bytes, which the connector must send before all others. Together with BEGIN in one cell
    /// they save a round trip.
    pub early: Vec<u8>,
}

impl fmt::Debug for ConnectRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectRequest")
            .field("target", &self.target)
            .field("isolation", &self.isolation)
            .field("early", &format_args!("{} bytes", self.early.len()))
            .finish()
    }
}

/// Opens streams for the front end.
pub trait Connector: Send + Sync + 'static {
    /// The type of streams. `shutdown` ends our direction. A read of zero bytes means that the other side ended its
    /// direction; every other end is an error. A stream that is dropped before both directions ended is reset.
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// Opens a stream, up to the point where success or failure is known. Dropping the future gives the stream up.
    fn connect(
        &self,
        request: ConnectRequest,
    ) -> impl Future<Output = Result<Self::Stream, Failure>> + Send;
}

/// A front end must not listen where others can reach it (S29).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} is not a loopback address: anybody who reaches it could use this proxy. \
     Listen on 127.0.0.1, or allow it explicitly"
)]
pub struct BindRefused(pub SocketAddr);

/// Checks that the front end may listen on `addr`. `allow_others` is the owner's explicit word that other machines may
/// use the front end.
///
/// # Errors
/// [`BindRefused`] for an address that is not loopback, if the owner has not said that word (S29).
pub fn check_bind(addr: SocketAddr, allow_others: bool) -> Result<(), BindRefused> {
    if addr.ip().to_canonical().is_loopback() {
        return Ok(());
    }
    if !allow_others {
        return Err(BindRefused(addr));
    }
    tracing::warn!(%addr, "the proxy listens beyond this machine: whoever reaches it can use it");
    Ok(())
}

/// Serves `listener` until `shutdown` completes. Connections that are still open then are reset.
pub async fn serve<C: Connector>(
    listener: SocketListener,
    connector: Arc<C>,
    options: FrontOptions,
    shutdown: impl Future<Output = ()>,
) {
    let permits = Arc::new(Semaphore::new(options.max_connections));
    let waiting = Arc::new(Semaphore::new(MOST_WAITING));
    // The set is dropped on return, which aborts every task in it.
    let mut tasks = JoinSet::new();
    let mut failed = LogPace::default();
    let accept = async {
        loop {
            while tasks.try_join_next().is_some() {}
            // A place to wait is taken first, so that what cannot even wait stays in the kernel's queue.
            let Ok(place) = Arc::clone(&waiting).acquire_owned().await else {
                return;
            };
            match accept(&listener).await {
                Ok((stream, isolation)) => {
                    let (connector, permits) = (Arc::clone(&connector), Arc::clone(&permits));
                    tasks.spawn(async move {
                        let connection = Connection::new(stream);
                        match timeout(options.patience, permits.acquire_owned()).await {
                            Ok(Ok(permit)) => {
                                drop(place);
                                connection.run(&*connector, isolation, options).await;
                                drop(permit);
                            }
                            // A silent port would look like a network that hangs.
                            Ok(Err(_)) | Err(_) => connection.refuse(options).await,
                        }
                    });
                }
                Err(error) => pause(&error, &mut failed).await,
            }
        }
    };
    tokio::select! {
        () = accept => {}
        () = shutdown => {}
    }
}

async fn accept(listener: &SocketListener) -> io::Result<(SocketStream, IsolationKey)> {
    let (stream, peer) = listener.accept().await?;
    let isolation = IsolationKey {
        credentials: None,
        protocol: Protocol::Socks5,
        client: peer.ip().to_canonical(),
        listener: stream.local_addr()?,
    };
    stream.tune()?;
    Ok((stream, isolation))
}

async fn pause(error: &io::Error, failed: &mut LogPace) {
    if let Some(pause) = backoff(error) {
        if let Some(times) = failed.count(1, steady::now()) {
            tracing::warn!(%error, times, "the proxy cannot accept connections for the moment");
        }
        tokio::time::sleep(pause).await;
    }
}

/// The time to wait after a failed accept (S39): `None` if only that one connection is lost, otherwise long enough not
/// to spin.
fn backoff(error: &io::Error) -> Option<Duration> {
    use io::ErrorKind as Kind;
    match error.kind() {
        Kind::ConnectionAborted
        | Kind::ConnectionReset
        | Kind::Interrupted
        | Kind::InvalidInput
        | Kind::NotConnected => None,
        _ => Some(ACCEPT_BACKOFF),
    }
}

/// The time to wait for the first bytes of an application that has its answer already. An application sends them at
/// once, unless it waits for the destination to speak first.
const FIRST_WORDS: Duration = Duration::from_millis(20);

/// An accepted connection. If it is dropped before its orderly end, the connection is reset: an application must never
/// take a broken stream for a complete one.
struct Connection {
    stream: SocketStream,
    orderly: bool,
    /// Has the application been told that its stream is open?
    answered: bool,
}

impl Drop for Connection {
    fn drop(&mut self) {
        if !self.orderly {
            self.stream.reset_when_dropped();
        }
    }
}

impl Connection {
    fn new(stream: SocketStream) -> Self {
        Self {
            stream,
            orderly: false,
            answered: false,
        }
    }

    async fn run<C: Connector>(
        mut self,
        connector: &C,
        isolation: IsolationKey,
        options: FrontOptions,
    ) {
        let Ok(request) = timeout(options.head_timeout, self.request(options)).await else {
            return;
        };
        let Ok(Some(request)) = request else {
            return;
        };
        let protocol = request.protocol;
        let mut early = request.leftover;
        if options.answer_early
            && let Err(error) = self.answer_early(protocol, &mut early).await
        {
            tracing::debug!(kind = ?error.kind(), "an application left before its stream was opened");
            return;
        }
        let request = ConnectRequest {
            target: request.target,
            isolation: IsolationKey {
                credentials: request.isolation,
                protocol,
                ..isolation
            },
            early,
        };
        match self.connect(connector, request).await {
            None => {}
            // The application was told that the stream is open. All that can be said now is a reset, which follows when
            // the connection is dropped.
            Some(Err(failure)) if self.answered => {
                tracing::debug!(?failure, "a stream that was answered early was not opened");
            }
            Some(Err(failure)) => self.farewell(&reply::failed(protocol, failure)).await,
            Some(Ok((stream, ahead))) => {
                if let Err(error) = self.carry(stream, &ahead, protocol).await {
                    tracing::debug!(kind = ?error.kind(), "a proxied stream broke");
                }
            }
        }
    }

    /// Tells the application that the port serves as many connections as it may.
    async fn refuse(mut self, options: FrontOptions) {
        if let Ok(Ok(Some(request))) = timeout(FAREWELL, self.request(options)).await {
            let reply = reply::failed(request.protocol, Failure::Busy);
            self.farewell(&reply).await;
        }
    }

    /// Tells the application that the stream is open, and collects the first bytes that the application then sends.
    async fn answer_early(&mut self, protocol: Protocol, early: &mut Vec<u8>) -> io::Result<()> {
        self.stream.write_all(&reply::connected(protocol)).await?;
        self.answered = true;
        if early.is_empty() {
            let mut buffer = [0; HEAD_READ];
            match timeout(FIRST_WORDS, self.stream.read(&mut buffer)).await {
                Ok(Ok(0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => early.extend_from_slice(&buffer[..read?]),
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Talks with the application until its request is complete; `None` if there is no stream to serve.
    async fn request(&mut self, options: FrontOptions) -> io::Result<Option<StreamRequest>> {
        let mut parser = FrontParser::new(options);
        let mut buffer = [0; HEAD_READ];
        let mut fresh = 0;
        loop {
            match parser.on_bytes(&buffer[..fresh]) {
                Ok(FrontStep::NeedMore) => {
                    fresh = self.stream.read(&mut buffer).await?;
                    if fresh == 0 {
                        self.orderly = true;
                        return Ok(None);
                    }
                }
                Ok(FrontStep::Reply(bytes)) => {
                    self.stream.write_all(&bytes).await?;
                    fresh = 0;
                }
                Ok(FrontStep::Request(request)) => return Ok(Some(request)),
                Ok(FrontStep::Page(bytes)) => {
                    self.farewell(&bytes).await;
                    return Ok(None);
                }
                Err(error) => {
                    tracing::debug!(refusal = %error, "a proxy request is refused");
                    self.farewell(&error.reply).await;
                    return Ok(None);
                }
            }
        }
    }

    /// Opens the stream. Returns the stream and what the application sent while it was being opened; `None` if the
    /// application went away, which gives the stream up. An end of file counts as going away too: nobody can tell an
    /// application that is gone from one that has only stopped speaking.
    async fn connect<C: Connector>(
        &mut self,
        connector: &C,
        request: ConnectRequest,
    ) -> Option<Result<(C::Stream, Vec<u8>), Failure>> {
        let mut ahead = Vec::new();
        let result = tokio::select! {
            result = connector.connect(request) => result,
            () = gone(&mut self.stream, &mut ahead) => return None,
        };
        Some(result.map(|stream| (stream, ahead)))
    }

    /// Tells the application that the stream is open, then copies until both directions have ended.
    async fn carry(
        &mut self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        ahead: &[u8],
        protocol: Protocol,
    ) -> io::Result<()> {
        if !self.answered {
            self.stream.write_all(&reply::connected(protocol)).await?;
        }
        if !ahead.is_empty() {
            stream.write_all(ahead).await?;
        }
        copy_bidirectional_with_sizes(&mut self.stream, &mut stream, COPY_BUFFER, COPY_BUFFER)
            .await?;
        self.orderly = true;
        Ok(())
    }

    /// Sends last words and waits a little until the application has read them. Closing a connection with unread bytes
    /// would reset it, and a reset erases words that are on their way.
    async fn farewell(&mut self, words: &[u8]) {
        self.orderly = true;
        let _ = timeout(FAREWELL, async {
            self.stream.write_all(words).await?;
            self.stream.shutdown().await?;
            let mut sink = [0; HEAD_READ];
            while self.stream.read(&mut sink).await? > 0 {}
            io::Result::Ok(())
        })
        .await;
    }
}

/// Completes when the application has gone, and collects what it sends until then. Once [`AHEAD`] bytes wait, the
/// function reads no more and never completes: the connector's own deadline ends the wait.
async fn gone(stream: &mut SocketStream, ahead: &mut Vec<u8>) {
    let mut buffer = [0; HEAD_READ];
    while ahead.len() < AHEAD {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(n) => ahead.extend_from_slice(&buffer[..n]),
        }
    }
    core::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_unless_allowed() {
        for (addr, loopback) in [
            ("127.0.0.1:9050", true),
            ("127.8.8.8:1", true),
            ("[::1]:9050", true),
            ("[::ffff:127.0.0.1]:9050", true),
            ("0.0.0.0:9050", false),
            ("[::]:9050", false),
            ("192.168.1.1:9050", false),
        ] {
            let addr = addr.parse().unwrap_or_else(|_| unreachable!());
            assert_eq!(check_bind(addr, false).is_ok(), loopback, "{addr}");
            assert!(check_bind(addr, true).is_ok());
        }
    }

    #[test]
    fn a_full_descriptor_table_does_not_spin() {
        for code in [23, 24, 12, 105] {
            let error = io::Error::from_raw_os_error(code);
            assert!(
                backoff(&error) >= Some(Duration::from_millis(50)),
                "{error}"
            );
        }
        assert_eq!(backoff(&io::ErrorKind::ConnectionAborted.into()), None);
    }
}
