//! One connection of an application: request, stream, bytes.
//!
//! The application sees an orderly end of its connection only if both sides ended their own direction. In every other
//! case it sees a reset (protocol.md 5.6).

use core::task::Poll;
use core::time::Duration;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use cepa_common::budget::Charge;
use cepa_common::net::dns_stream::{Bounds, Conversation, Ended};
use cepa_common::world::DatagramSocket;
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional_with_sizes,
};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::accepted::Accepted;
use super::connector::{ConnectRequest, Connector, IsolationKey, Origin};
use super::fresh::FieldKeys;
use super::gate::Guard;
use super::http_forward::Forwarder;
use super::parse::{FrontOptions, FrontParser, FrontStep};
use super::refusal::FrontRefusal;
use super::reply::{self, Failure};
use super::request::{Found, FrontRequest, LookUp, Request};
use super::socks;
use super::target::{FrontTarget, Host, Marks, Protocol};
use super::udp::{self, Datagrams, Heard};
use super::udp_ask::Associate;

/// Size of the buffer for one direction of one connection, in bytes.
const COPY_BUFFER: usize = 64 * 1024;
/// Size of one read while the request comes in, in bytes.
const HEAD_READ: usize = 4096;
/// The most bytes that an application may send while its stream is being opened.
const AHEAD: usize = 64 * 1024;
/// The time that a refused application has to read why.
const FAREWELL: Duration = Duration::from_secs(2);
/// What a refused application may send on meanwhile, in bytes.
const FAREWELL_BYTES: usize = 1 << 20;

/// What an application may have that speaks to the resolver of an exit (RFC 7766, section 6.2.3, wants such ends). An
/// answer has 64 KiB at most, and what waits to be taken is charged to the client's memory.
const QUERIES: Bounds = Bounds {
    at_once: 64,
    idle: Duration::from_secs(30),
};

/// The time to wait for the first bytes of an application that has its answer already. An application sends them at
/// once, unless it waits for the destination to speak first.
const FIRST_WORDS: Duration = Duration::from_millis(20);

/// An accepted connection. If it is dropped before its orderly end, the connection is reset: an application must never
/// take a broken stream for a complete one.
pub(super) struct Connection {
    stream: Accepted,
    /// Who may use the connection, if not everybody may.
    guard: Option<Guard>,
    /// The isolation keys of its listener that came by fields of `http://` requests.
    keys: Arc<FieldKeys>,
    /// The places of its listener for those who send datagrams.
    associations: Arc<Semaphore>,
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
    pub(super) fn new(
        stream: Accepted,
        guard: Option<Guard>,
        keys: Arc<FieldKeys>,
        associations: Arc<Semaphore>,
    ) -> Self {
        Self {
            stream,
            guard,
            keys,
            associations,
            orderly: false,
            answered: false,
        }
    }

    pub(super) async fn run<C: Connector>(
        mut self,
        connector: &C,
        mut isolation: IsolationKey,
        options: FrontOptions,
    ) {
        if matches!(isolation.protocol, Protocol::Dns | Protocol::Transparent) {
            self.stream.seat().has_asked();
        }
        let request = match isolation.protocol {
            Protocol::Dns => return self.answer(&[], connector, isolation).await,
            Protocol::Transparent => self.led_here(options),
            _ => self.asked(&mut isolation, options).await,
        };
        let Some(request) = request else {
            return;
        };
        self.stream.seat().has_asked();
        let protocol = request.protocol;
        let isolation = isolation.of(request.marks, protocol);
        let target = match request.request {
            Request::Connect(target) if target.is_resolver() => {
                return self.answer(&request.leftover, connector, isolation).await;
            }
            Request::Connect(target) => target,
            Request::Associate(asked) => {
                return self
                    .associate(asked, &request.leftover, connector, isolation, options)
                    .await;
            }
            // Whose connection is passed on cannot pass on another's.
            Request::Port => return,
            Request::Forward => {
                return self
                    .forward(request.leftover, connector, isolation, options)
                    .await;
            }
            Request::Resolve(host) => {
                let asked = LookUp::Address(host);
                return self.look_up(asked, connector, isolation).await;
            }
            Request::ResolvePtr(address) => {
                let asked = LookUp::Name(address);
                return self.look_up(asked, connector, isolation).await;
            }
        };
        let mut early = request.leftover;
        if options.answer_early
            && let Err(error) = self.answer_early(protocol, &mut early).await
        {
            tracing::debug!(kind = ?error.kind(), "an application left before its stream was opened");
            return;
        }
        let request = ConnectRequest {
            target,
            isolation,
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

    /// Answers the DNS queries of an application that has asked for the resolver of an exit, as a name server does by TCP.
    /// `begun` is what has been read of them. The queries go to the exit in the client's own words.
    async fn answer<C: Connector>(mut self, begun: &[u8], connector: &C, isolation: IsolationKey) {
        let connected = reply::connected(isolation.protocol);
        if self.stream.write_all(&connected).await.is_err() {
            return;
        }
        let most = usize::from(u16::MAX);
        let answer = |query| connector.answer(query, most, isolation.clone());
        let charge = Charge::none(connector.budget());
        let queries = Conversation::new(&mut self.stream, answer, QUERIES, charge);
        let ended = queries.begun_with(begun).run(|_, _| Poll::Pending).await;
        // Who says what is no query is reset, and so is a broken connection.
        if matches!(ended, Ended::Done | Ended::Idle) {
            self.farewell(&[]).await;
        }
    }

    /// Carries datagrams as long as the connection lasts. `begun` is what has been read of those inside of it.
    async fn associate<C: Connector>(
        mut self,
        asked: Associate,
        begun: &[u8],
        connector: &C,
        isolation: IsolationKey,
        options: FrontOptions,
    ) {
        let not_here = reply::socks5(socks::refusal_code(FrontRefusal::Command));
        let (local, origin) = (self.stream.local_ip(), isolation.client);
        let is_passed_on = isolation.within.is_some();
        let Ok(_place) = Arc::clone(&self.associations).try_acquire_owned() else {
            let busy = reply::failed(isolation.protocol, Failure::Busy);
            return self.farewell(&busy).await;
        };
        let Some(datagrams) = connector.associate(isolation) else {
            return self.farewell(&not_here).await;
        };
        let carried = match (asked, origin) {
            // The port would be on this machine, where the application is not.
            (Associate::Port(_), _) if is_passed_on => return self.farewell(&not_here).await,
            (Associate::Port(from), Origin::Ip(peer)) => {
                let port = match udp::open_port(local, peer) {
                    Some(Ok(port)) => port,
                    Some(Err(error)) => {
                        tracing::debug!(kind = ?error.kind(), "no port for an application's datagrams");
                        return self.farewell(&reply::socks5(1)).await;
                    }
                    None => return self.farewell(&not_here).await,
                };
                self.carry_by_port(&port, &*datagrams, peer, from, options)
                    .await
            }
            (Associate::Port(_), Origin::Uid(_)) => return self.farewell(&not_here).await,
            (Associate::Inside, _) => {
                let bound = reply::socks5(0);
                let allow = options.allow_private;
                self.stream.seat().stream_begins();
                match self.stream.write_all(&bound).await {
                    Ok(()) => udp::carry_inside(&mut self.stream, begun, &*datagrams, allow).await,
                    Err(error) => Err(error),
                }
            }
        };
        // What has broken is reset.
        if carried.is_ok() {
            self.farewell(&[]).await;
        }
    }

    /// Carries datagrams by a port of this machine, which the application is told.
    async fn carry_by_port(
        &mut self,
        port: &DatagramSocket,
        datagrams: &dyn Datagrams,
        peer: IpAddr,
        from: Option<SocketAddr>,
        options: FrontOptions,
    ) -> io::Result<()> {
        // Asked before the reply, as the application has its end of the connection for sure while it waits.
        let owner = self.stream.peer_owner().await;
        let bound = reply::bound(port.local_addr()?);
        self.stream.write_all(&bound).await?;
        self.stream.seat().stream_begins();
        let is_own = |from: &SocketAddr| from.ip().to_canonical() == peer.to_canonical();
        let from = from.filter(is_own).map(|from| from.port());
        let heard = Heard::new(peer, from, owner);
        let allow = options.allow_private;
        udp::carry_by_port(&mut self.stream, port, datagrams, heard, allow).await;
        Ok(())
    }

    /// Tells the application what an exit knows of a name or of an address. What needs no exit is told at once.
    async fn look_up<C: Connector>(
        mut self,
        asked: LookUp,
        connector: &C,
        isolation: IsolationKey,
    ) {
        let protocol = isolation.protocol;
        let found = match asked {
            LookUp::Address(Host::Ip4(ip)) => Ok(Found::Address(ip.into())),
            LookUp::Address(Host::Ip6(ip)) => Ok(Found::Address(ip.into())),
            asked => connector.look_up(asked, isolation).await,
        };
        let answer = found.and_then(|found| reply::found(protocol, &found));
        let answer = answer.unwrap_or_else(|failure| reply::failed(protocol, failure));
        self.farewell(&answer).await;
    }

    /// Passes `http://` requests on until the connection ends. `begun` is what has been read of them.
    async fn forward<C: Connector>(
        mut self,
        begun: Vec<u8>,
        connector: &C,
        isolation: IsolationKey,
        options: FrontOptions,
    ) {
        let (guard, keys) = (self.guard.clone(), self.keys.clone());
        let forwarder = Forwarder::new(connector, isolation, options, guard, keys);
        match forwarder.serve(begun, &mut self.stream).await {
            Ok(()) => self.farewell(&[]).await,
            // A body that broke off must not look complete.
            Err(error) => tracing::debug!(%error, "a connection of http:// requests broke"),
        }
    }

    /// The request that a connection stands for which the system has led here. `None` if it came by itself, or is for an
    /// address that no stream may go to.
    fn led_here(&mut self, options: FrontOptions) -> Option<FrontRequest> {
        // The system has told the application that it is connected. All that can be said now is a reset.
        self.answered = true;
        let target = self.stream.led_away_from()?;
        let host = Host::from(target.ip());
        match FrontTarget::new(host, target.port(), options.allow_private) {
            Ok(target) => Some(FrontRequest {
                request: Request::Connect(target),
                marks: Marks::default(),
                protocol: Protocol::Transparent,
                leftover: Vec::new(),
            }),
            Err(refusal) => {
                tracing::debug!(%refusal, "a connection that was led here is refused");
                None
            }
        }
    }

    /// Tells the application that the port serves as many connections as it may, if it speaks `protocol` and that has
    /// words for it.
    pub(super) async fn refuse(mut self, protocol: Protocol, options: FrontOptions) {
        if matches!(protocol, Protocol::Dns | Protocol::Transparent) {
            return;
        }
        let parser = self.parser(options);
        if let Ok(Ok(Some(request))) = timeout(FAREWELL, self.request(parser, &[])).await {
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
            if let Ok(read) = timeout(FIRST_WORDS, self.stream.read(&mut buffer)).await {
                early.extend_from_slice(&buffer[..read?]);
            }
        }
        Ok(())
    }

    /// What the application asks for, in time; `None` if there is nothing to serve. Where somebody passes the
    /// application's connection on, `isolation` is told who.
    async fn asked(
        &mut self,
        isolation: &mut IsolationKey,
        options: FrontOptions,
    ) -> Option<FrontRequest> {
        let parser = self.parser(options);
        let asked = timeout(options.head_timeout, self.request(parser, &[])).await;
        let request = asked.ok()?.ok()??;
        if request.request != Request::Port {
            return Some(request);
        }
        isolation.within = request.marks.credentials;
        self.stream.write_all(&reply::socks5(0)).await.ok()?;
        let parser = self.parser(options).passed_on();
        let asked = self.request(parser, &request.leftover);
        timeout(options.head_timeout, asked).await.ok()?.ok()?
    }

    fn parser(&self, options: FrontOptions) -> FrontParser {
        FrontParser::new(options)
            .listening_at(self.stream.local_ip())
            .guarded_by(self.guard.clone())
    }

    /// Talks with the application until its request is complete; `None` if there is no stream to serve. `begun` is what
    /// has been read of it.
    async fn request(
        &mut self,
        mut parser: FrontParser,
        begun: &[u8],
    ) -> io::Result<Option<FrontRequest>> {
        let mut buffer = [0; HEAD_READ];
        let mut step = parser.on_bytes(begun);
        loop {
            match step {
                Ok(FrontStep::NeedMore) => {
                    let fresh = self.stream.read(&mut buffer).await?;
                    if fresh == 0 {
                        self.orderly = true;
                        return Ok(None);
                    }
                    step = parser.on_bytes(&buffer[..fresh]);
                }
                Ok(FrontStep::Reply(bytes)) => {
                    self.stream.write_all(&bytes).await?;
                    step = parser.on_bytes(&[]);
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
    /// application reset its connection, which gives the stream up.
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
        self.stream.seat().stream_begins();
        if !ahead.is_empty() {
            stream.write_all(ahead).await?;
        }
        copy_bidirectional_with_sizes(&mut self.stream, &mut stream, COPY_BUFFER, COPY_BUFFER)
            .await?;
        self.orderly = true;
        Ok(())
    }

    /// Sends last words and waits a little until the application has read them. Closing a connection with unread bytes
    /// would reset it, and a reset erases words that are on their way. So a reasonable amount is read and thrown away;
    /// who sends more is held back, has the rest of the time to read, and is reset.
    async fn farewell(&mut self, words: &[u8]) {
        self.orderly = true;
        let _ = timeout(FAREWELL, async {
            self.stream.write_all(words).await?;
            self.stream.shutdown().await?;
            let mut sink = [0; HEAD_READ];
            let mut read = 0;
            while read < FAREWELL_BYTES {
                match self.stream.read(&mut sink).await? {
                    0 => return io::Result::Ok(()),
                    more => read += more,
                }
            }
            core::future::pending().await
        })
        .await;
    }
}

/// Completes when the application has gone, and collects what it sends until then. Who ends its sending has not gone, and
/// waits for an answer. Once [`AHEAD`] bytes wait, the function reads no more and never completes: the connector's own
/// deadline ends the wait.
async fn gone(stream: &mut Accepted, ahead: &mut Vec<u8>) {
    let mut buffer = [0; HEAD_READ];
    while ahead.len() < AHEAD {
        match stream.read(&mut buffer).await {
            // The end is read again, and passed on, when the stream is there.
            Ok(0) => break,
            Ok(n) => ahead.extend_from_slice(&buffer[..n]),
            Err(_) => return,
        }
    }
    core::future::pending().await
}
