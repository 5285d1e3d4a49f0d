//! Passes `http://` requests on: reads each, judges it anew, and sends it over a stream to its destination.
//!
//! A connection may carry requests for many destinations. One stream is open at a time; it is used again for the next
//! request that goes to the same host and port and must be kept apart by the same key, until the client has a new identity. What is meant for the port goes no
//! further, in either direction, and nothing is added that says a proxy was on the way.
//!
//! Absent on purpose: caching, `https://` (programs use CONNECT for it) and upgrades.

use core::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use cepa_common::sync::lock;
use cepa_common::world::steady;
use http_body_util::{Either, Full};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::{Builder as ClientBuilder, SendRequest};
use hyper::header::{HeaderName, HeaderValue};
use hyper::server::conn::http1::Builder as ServerBuilder;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::AbortHandle;

use super::connector::{ConnectRequest, Connector, IsolationKey};
use super::fresh::FieldKeys;
use super::gate::Guard;
use super::http_head;
use super::http_rewrite::{self, Judged};
use super::parse::FrontOptions;
use super::refusal::{FrontRefusal, HTTP_HEAD_LIMIT};
use super::reply::{OWN_FIELDS, Words};
use super::target::FrontTarget;

/// The most header fields of a request or a response.
const MOST_FIELDS: usize = 100;
/// Size of the buffer for each direction of each side, in bytes.
const BUFFER: usize = 64 * 1024;

/// A response: the destination's, or one of the port's own.
type Answer = Response<Either<Incoming, Full<Bytes>>>;

/// Passes the requests of one connection on.
pub(super) struct Forwarder<'a, C> {
    connector: &'a C,
    /// The key of the connection; each request adds its own marks.
    isolation: IsolationKey,
    options: FrontOptions,
    /// Who may send requests, if not everybody may.
    guard: Option<Guard>,
    keys: Arc<FieldKeys>,
    /// The stream of the last request, until the next takes it.
    upstream: Mutex<Option<Upstream>>,
}

/// A stream to a destination. Dropping this value ends it.
struct Upstream {
    target: FrontTarget,
    isolation: IsolationKey,
    /// The client's identity that held before the stream was opened.
    identity: u64,
    sender: SendRequest<Incoming>,
    task: AbortHandle,
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<'a, C: Connector> Forwarder<'a, C> {
    pub(super) fn new(
        connector: &'a C,
        isolation: IsolationKey,
        options: FrontOptions,
        guard: Option<Guard>,
        keys: Arc<FieldKeys>,
    ) -> Self {
        Self {
            connector,
            isolation,
            options,
            guard,
            keys,
            upstream: Mutex::default(),
        }
    }

    /// Serves requests until the application or the port ends the connection. `begun` has been read already.
    pub(super) async fn serve(
        &self,
        begun: Vec<u8>,
        stream: impl AsyncRead + AsyncWrite + Unpin,
    ) -> Result<(), hyper::Error> {
        let stream = TokioIo::new(Begun {
            begun: begun.into(),
            stream,
        });
        let service =
            service_fn(|request| async { Ok::<_, Infallible>(self.answer(request).await) });
        let served = ServerBuilder::new()
            .preserve_header_case(true)
            .title_case_headers(true)
            .auto_date_header(false)
            .half_close(true)
            .max_headers(MOST_FIELDS)
            .max_header_size(HTTP_HEAD_LIMIT)
            .max_buf_size(BUFFER)
            .timer(TokioTimer::new())
            .header_read_timeout(self.options.head_timeout)
            .serve_connection(stream, service)
            .await;
        match served {
            // What is no request has been told so, and who sends none for a while has had all its answers.
            Err(error) if error.is_parse() || error.is_timeout() => Ok(()),
            served => served,
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Answer {
        self.pass_on(request).await.unwrap_or_else(|words| {
            // What this stream was open for is over.
            lock(&self.upstream).take();
            own(words)
        })
    }

    async fn pass_on(&self, request: Request<Incoming>) -> Result<Answer, Words> {
        let (mut parts, body) = request.into_parts();
        let Judged { target, marks } = http_rewrite::judge(&parts, self.options.allow_private)?;
        if let Some(guard) = &self.guard
            && !guard.admits(marks.credentials.as_ref())
        {
            return Err(http_head::words(FrontRefusal::Credentials));
        }
        let isolation = IsolationKey {
            marks,
            ..self.isolation.clone()
        };
        if !self.keys.admits(&isolation, steady::now()) {
            return Err(http_head::words(FrontRefusal::Keys));
        }
        let size = body.size_hint().exact();
        http_rewrite::rewrite_request(&mut parts, &target, size);
        let is_head = parts.method == Method::HEAD;
        let mut upstream = match self.kept(&target, &isolation).await {
            Some(upstream) => upstream,
            None => self.open(target, isolation).await?,
        };
        let sent = upstream
            .sender
            .try_send_request(Request::from_parts(parts, body))
            .await;
        let response = match sent {
            Ok(response) => response,
            // The destination ended the stream before it could have seen the request.
            Err(mut failed) => match failed.take_message() {
                Some(request) => {
                    let (target, isolation) = (upstream.target.clone(), upstream.isolation.clone());
                    drop(upstream);
                    upstream = self.open(target, isolation).await?;
                    upstream
                        .sender
                        .send_request(request)
                        .await
                        .map_err(|_| no_answer())?
                }
                None => return Err(no_answer()),
            },
        };
        *lock(&self.upstream) = Some(upstream);
        let (mut parts, body) = response.into_parts();
        match parts.status {
            StatusCode::PROXY_AUTHENTICATION_REQUIRED => Err(Words::new(
                "502 Bad Gateway",
                "origin/proxy-authentication",
                "The destination asks for a proxy's password, which only a proxy may do.",
            )),
            StatusCode::SWITCHING_PROTOCOLS => Err(Words::new(
                "502 Bad Gateway",
                "origin/upgrade",
                "The destination changed to another protocol without being asked to.",
            )),
            _ => {
                http_rewrite::rewrite_response(&mut parts, is_head);
                Ok(Response::from_parts(parts, Either::Left(body)))
            }
        }
    }

    /// The stream of the last request, if this one may use it. Another stream is ended.
    async fn kept(&self, target: &FrontTarget, isolation: &IsolationKey) -> Option<Upstream> {
        let mut kept = lock(&self.upstream).take()?;
        let is_current = kept.identity == self.connector.identity();
        let fits = is_current && kept.target == *target && kept.isolation == *isolation;
        (fits && kept.sender.ready().await.is_ok()).then_some(kept)
    }

    async fn open(&self, target: FrontTarget, isolation: IsolationKey) -> Result<Upstream, Words> {
        let identity = self.connector.identity();
        let request = ConnectRequest {
            target: target.clone(),
            isolation: isolation.clone(),
            early: Vec::new(),
        };
        let stream = self.connector.connect(request).await.map_err(Words::from)?;
        let (sender, connection) = ClientBuilder::new()
            .preserve_header_case(true)
            .title_case_headers(true)
            .max_headers(MOST_FIELDS)
            .max_buf_size(BUFFER)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|_| no_answer())?;
        // What breaks here is seen by whoever waits for the response or reads its body.
        let task = tokio::spawn(async move { drop(connection.await) });
        Ok(Upstream {
            target,
            isolation,
            identity,
            sender,
            task: task.abort_handle(),
        })
    }
}

fn no_answer() -> Words {
    Words::new(
        "502 Bad Gateway",
        "origin/no-answer",
        "The destination ended the connection without an answer that is HTTP. Try again.",
    )
}

/// A response of the port's own.
fn own(words: Words) -> Answer {
    let mut response = Response::new(Either::Right(Full::from(words.text.clone())));
    let status = words
        .status
        .split(' ')
        .next()
        .and_then(|code| code.parse().ok());
    *response.status_mut() = status.unwrap_or(StatusCode::BAD_GATEWAY);
    let kind = ("content-type", "text/plain; charset=utf-8");
    let more = [kind].into_iter().chain(words.fields());
    for (name, value) in more.chain(OWN_FIELDS) {
        if let Ok(name) = HeaderName::from_bytes(name.as_bytes()) {
            response
                .headers_mut()
                .insert(name, HeaderValue::from_static(value));
        }
    }
    response
}

/// A connection of which something has been read already.
struct Begun<S> {
    begun: Bytes,
    stream: S,
}

impl<S: AsyncRead + Unpin> AsyncRead for Begun<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.begun.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, out);
        }
        let take = self.begun.len().min(out.remaining());
        out.put_slice(&self.begun.split_to(take));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Begun<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
