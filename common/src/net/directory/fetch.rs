//! One directory request over a connection: HTTP/1.1, a deadline, a cap (docs/protocol.md, 6.12).

use core::time::Duration;
use std::borrow::Cow;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, IF_NONE_MATCH, RETRY_AFTER};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use crate::dir::{
    Consensus, DiffError, Digest, DocError, KnownNetwork, MAX_CONSENSUS_BYTES, SignedConsensus,
    apply,
};

/// Name of the coding in the headers of a request that takes a difference, and of an answer that is one (RFC 3229).
pub const DIFFERENCE_CODING: &str = "cepa-diff";
/// Header that carries [`DIFFERENCE_CODING`] in a request.
pub const A_IM: &str = "a-im";
/// Header that carries [`DIFFERENCE_CODING`] in an answer.
pub const IM: &str = "im";
/// Header that names the consensus that a difference begins at.
pub const DELTA_BASE: &str = "delta-base";
/// The longest pause that a server may make during an exchange.
const PROGRESS_DEADLINE: Duration = Duration::from_secs(10);

/// Length of the longest error text that is taken from a server, in bytes.
const MAX_TEXT_BYTES: usize = 1_024;

/// Why a directory request failed.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The document that the server sent does not verify.
    #[error("document refused: {0}")]
    Document(#[from] DocError),
    /// The server does not speak HTTP as expected, or closed early.
    #[error("directory exchange failed: {0}")]
    Http(#[from] hyper::Error),
    /// The connection broke, or the server closed it, before anything of an answer came: a server that is full does so.
    #[error("the connection was closed before an answer: {0}")]
    Unanswered(#[source] hyper::Error),
    /// The server sent more than the cap.
    #[error("answer is over the cap of {0} bytes")]
    TooLarge(usize),
    /// The server refused the request.
    #[error("refused with status {status}: {text}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// What the server said, shortened and printable.
        text: String,
        /// How long the server wants to be left alone, by its `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// The connection could not be opened.
    #[error("connection failed: {0}")]
    Dial(#[from] io::Error),
    /// The deadline has passed.
    #[error("no answer in time")]
    Deadline,
    /// The server sent nothing for a while during the exchange.
    #[error("the answer stalled")]
    Stalled,
    /// The difference that the server sent is wrong.
    #[error("difference refused: {0}")]
    Difference(#[from] DiffError),
    /// The server answered with what was not asked for.
    #[error("answer does not fit the request")]
    Unasked,
    /// The request could not be built.
    #[error("request is not valid")]
    Request,
}

impl FetchError {
    /// Has the server done something that an honest and working server does not do? A server that is busy or out of
    /// reach has not.
    pub fn is_misbehaviour(&self) -> bool {
        match self {
            Self::Document(_)
            | Self::Http(_)
            | Self::TooLarge(_)
            | Self::Stalled
            | Self::Deadline
            | Self::Difference(_)
            | Self::Unasked => true,
            Self::Refused { .. } | Self::Dial(_) | Self::Unanswered(_) | Self::Request => false,
        }
    }

    /// Has the server said that it is busy, or closed before it said anything? That says nothing about its network.
    pub fn is_busy(&self) -> bool {
        match self {
            Self::Refused { status, .. } => *status == 503,
            Self::Http(error) => error.is_incomplete_message() || error.is_canceled(),
            _ => false,
        }
    }

    /// How long a server that is busy, or asked too often, wants to be left alone; `None` for any other failure.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused {
                status: 429 | 503,
                retry_after,
                ..
            } => *retry_after,
            _ => None,
        }
    }
}

/// How much of an answer has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Number of bytes of the body so far.
    pub bytes: usize,
    /// Length of the whole body in bytes, if the server has announced it.
    pub announced: Option<usize>,
}

/// Reads a `Retry-After` in seconds (RFC 9110, section 10.2.3). A date counts as none, because one needs a clock to
/// read it.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?;
    seconds.parse().ok().map(Duration::from_secs)
}

/// What to ask a directory server.
#[derive(Clone, Debug)]
pub struct DirRequest {
    method: Method,
    path: Cow<'static, str>,
    held: Option<Digest>,
    takes_difference: bool,
    body: Bytes,
    received: watch::Sender<Received>,
}

impl DirRequest {
    /// Asks for the newest consensus, unless that is the one held.
    pub fn consensus(held: Option<Digest>) -> Self {
        Self {
            method: Method::GET,
            path: "/cepa/1/consensus".into(),
            held,
            takes_difference: false,
            body: Bytes::new(),
            received: watch::Sender::default(),
        }
    }

    /// Makes the request tell `received` how much of the answer has come.
    #[must_use]
    pub fn tell(mut self, received: watch::Sender<Received>) -> Self {
        self.received = received;
        self
    }

    /// Asks for the newest consensus, unless that is the one held: whole, or as a difference from the one held.
    pub fn newer(held: Digest) -> Self {
        Self {
            takes_difference: true,
            ..Self::consensus(Some(held))
        }
    }

    /// Publishes a relay's descriptor at an authority.
    pub fn publish_descriptor(bytes: impl Into<Bytes>) -> Self {
        Self::post("/cepa/1/descriptor", bytes.into())
    }

    /// Gives a signature of a consensus to another authority.
    pub fn send_signature(bytes: impl Into<Bytes>) -> Self {
        Self::post("/cepa/1/signature", bytes.into())
    }

    /// Asks for the newest revision of `network.toml`, or for the given revision.
    pub fn network(revision: Option<u32>) -> Self {
        let path = match revision {
            None => "/cepa/1/network".into(),
            Some(revision) => format!("/cepa/1/network/{revision}").into(),
        };
        Self {
            method: Method::GET,
            path,
            held: None,
            takes_difference: false,
            body: Bytes::new(),
            received: watch::Sender::default(),
        }
    }

    fn post(path: &'static str, body: Bytes) -> Self {
        Self {
            method: Method::POST,
            path: path.into(),
            held: None,
            takes_difference: false,
            body,
            received: watch::Sender::default(),
        }
    }

    fn build(self) -> Result<Request<Full<Bytes>>, FetchError> {
        // No header says which program or version asks.
        let mut builder = Request::builder()
            .method(self.method)
            .uri(&*self.path)
            .header(HOST, "cepa");
        if let Some(held) = self.held {
            builder = builder.header(IF_NONE_MATCH, format!("\"{held}\""));
        }
        if self.takes_difference {
            builder = builder.header(A_IM, DIFFERENCE_CODING);
        }
        if !self.body.is_empty() {
            builder = builder.header(CONTENT_TYPE, "application/octet-stream");
        }
        builder
            .body(Full::new(self.body))
            .map_err(|_| FetchError::Request)
    }
}

/// A server's answer that is not a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DirResponse {
    /// The request is done, or these are the bytes of the document.
    Ok(Bytes),
    /// The difference that makes the newest document from the one held.
    Difference(Bytes),
    /// The document held is the newest that the server has.
    NotModified,
}

/// Sends one request over `io` and takes at most `cap` bytes of answer within `deadline` (S22).
///
/// # Errors
/// [`FetchError`] if there is no good answer. The connection is closed in any case.
pub async fn fetch<S>(
    io: S,
    request: DirRequest,
    cap: usize,
    deadline: Duration,
) -> Result<DirResponse, FetchError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    tokio::time::timeout(deadline, Box::pin(exchange(io, request, cap)))
        .await
        .unwrap_or(Err(FetchError::Deadline))
}

async fn exchange<S>(io: S, request: DirRequest, cap: usize) -> Result<DirResponse, FetchError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let takes_difference = request.takes_difference;
    let held = request.held;
    let is_upload = !request.body.is_empty();
    let received = request.received.clone();
    let request = request.build()?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, Full<Bytes>>(TokioIo::new(io)).await?;
    let answer = async {
        let head = sender.send_request(request);
        let response = if is_upload {
            // The deadline is the caller's, who knows how long sending the body takes.
            head.await.map_err(no_head)?
        } else {
            let head = tokio::time::timeout(PROGRESS_DEADLINE, head).await;
            head.map_err(|_| FetchError::Stalled)?.map_err(no_head)?
        };
        let status = response.status();
        let base = response.headers().get(DELTA_BASE).cloned();
        let retry_after = retry_after(response.headers());
        let body = response.into_body();
        match status {
            StatusCode::NOT_MODIFIED if held.is_some() => Ok(DirResponse::NotModified),
            StatusCode::OK => Ok(DirResponse::Ok(collect(body, cap, &received).await?)),
            StatusCode::IM_USED if takes_difference => {
                let tag = held.map(|held| format!("\"{held}\"")).unwrap_or_default();
                // The difference begins at a base that was not offered, so it is refused before it is read.
                if base.is_none_or(|base| base != tag.as_str()) {
                    return Err(FetchError::Unasked);
                }
                Ok(DirResponse::Difference(
                    collect(body, cap, &received).await?,
                ))
            }
            status if status.is_success() || status.is_redirection() => Err(FetchError::Unasked),
            _ => {
                let body = collect(body, MAX_TEXT_BYTES, &watch::Sender::default()).await;
                let body = body.unwrap_or_default();
                let text = String::from_utf8_lossy(&body);
                let text = text.chars().filter(|c| !c.is_control()).collect();
                Err(FetchError::Refused {
                    status: status.as_u16(),
                    text,
                    retry_after,
                })
            }
        }
    };
    // The connection may end before its last bytes are read: only the answer ends the exchange.
    let drive = async {
        let _ = connection.await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        answer = answer => answer,
        () = drive => Err(FetchError::Deadline),
    }
}

/// What it means that no head of an answer came: bytes that are not HTTP are the server's fault, a connection that ends
/// is nobody's.
fn no_head(error: hyper::Error) -> FetchError {
    let is_broken = error.is_incomplete_message()
        || error.is_canceled()
        || error.is_closed()
        || core::error::Error::source(&error).is_some_and(|source| source.is::<io::Error>());
    match is_broken {
        true => FetchError::Unanswered(error),
        false => FetchError::Http(error),
    }
}

/// Reads a body of at most `cap` bytes. Each piece must come in time (S22).
async fn collect(
    mut body: Incoming,
    cap: usize,
    received: &watch::Sender<Received>,
) -> Result<Bytes, FetchError> {
    let exact = body.size_hint().exact();
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > cap {
        return Err(FetchError::TooLarge(cap));
    }
    let mut bytes = Vec::new();
    loop {
        let frame = tokio::time::timeout(PROGRESS_DEADLINE, body.frame()).await;
        let Some(frame) = frame.map_err(|_| FetchError::Stalled)? else {
            return Ok(bytes.into());
        };
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        if data.len() > cap.saturating_sub(bytes.len()) {
            return Err(FetchError::TooLarge(cap));
        }
        bytes.extend_from_slice(&data);
        received.send_replace(Received {
            bytes: bytes.len(),
            announced: exact.and_then(|exact| usize::try_from(exact).ok()),
        });
    }
}

/// Asks for the newest consensus and verifies it; `None` if that is the one held.
///
/// # Errors
/// [`FetchError`] if there is no good answer.
pub async fn fetch_consensus<S, N>(
    io: S,
    network: &N,
    held: Option<Digest>,
    deadline: Duration,
) -> Result<Option<Arc<Consensus>>, FetchError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    N: KnownNetwork + ?Sized,
{
    whole(io, network, DirRequest::consensus(held), deadline).await
}

async fn whole<S, N>(
    io: S,
    network: &N,
    request: DirRequest,
    deadline: Duration,
) -> Result<Option<Arc<Consensus>>, FetchError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    N: KnownNetwork + ?Sized,
{
    match fetch(io, request, MAX_CONSENSUS_BYTES, deadline).await? {
        DirResponse::NotModified => Ok(None),
        DirResponse::Ok(bytes) => {
            let network = network.for_document(&bytes);
            Ok(Some(SignedConsensus::parse_and_verify(&bytes, &network)?))
        }
        DirResponse::Difference(_) => Err(FetchError::Unasked),
    }
}

/// Asks for a newer consensus than the one held, as a difference if the server has it, and verifies it; `None` if the
/// server has none that is newer. If nothing is held, the consensus comes whole.
///
/// # Errors
/// [`FetchError`] if there is no good answer. After [`FetchError::Difference`] the caller asks another server, by
/// [`fetch_consensus`] with nothing held.
pub async fn fetch_newer<S>(
    io: S,
    network: &impl KnownNetwork,
    held: Option<&Consensus>,
    deadline: Duration,
) -> Result<Option<Arc<Consensus>>, FetchError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    fetch_newer_watched(io, network, held, deadline, watch::Sender::default()).await
}

/// Does what [`fetch_newer`] does, and tells `received` how much has come.
///
/// # Errors
/// As of [`fetch_newer`].
pub async fn fetch_newer_watched<S>(
    io: S,
    network: &impl KnownNetwork,
    held: Option<&Consensus>,
    deadline: Duration,
    received: watch::Sender<Received>,
) -> Result<Option<Arc<Consensus>>, FetchError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let Some(held) = held else {
        let request = DirRequest::consensus(None).tell(received);
        return whole(io, network, request, deadline).await;
    };
    let request = DirRequest::newer(held.digest()).tell(received);
    match fetch(io, request, MAX_CONSENSUS_BYTES, deadline).await? {
        DirResponse::NotModified => Ok(None),
        DirResponse::Ok(bytes) => {
            let network = network.for_document(&bytes);
            Ok(Some(SignedConsensus::parse_and_verify(&bytes, &network)?))
        }
        DirResponse::Difference(bytes) => Ok(Some(apply(held, &bytes, network)?)),
    }
}

/// Sends a document. An answer of 200 is success.
///
/// # Errors
/// [`FetchError`] for any other answer.
pub async fn upload<S>(io: S, request: DirRequest, deadline: Duration) -> Result<(), FetchError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    fetch(io, request, MAX_TEXT_BYTES, deadline).await.map(drop)
}
