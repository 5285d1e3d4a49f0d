//! One directory request over a connection: HTTP/1.1, a deadline, a cap (docs/protocol.md, 6.12).

use core::time::Duration;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::header::{CONTENT_TYPE, HOST, IF_NONE_MATCH};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Consensus, Digest, DocError, MAX_CONSENSUS_BYTES, NetworkFile, SignedConsensus};

/// Longest error text taken from a server (bytes).
const MAX_TEXT_BYTES: usize = 1_024;

/// Why a directory request came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// What the server sent does not verify.
    #[error("document refused: {0}")]
    Document(#[from] DocError),
    /// The server does not speak HTTP as expected, or closed early.
    #[error("directory exchange failed: {0}")]
    Http(#[from] hyper::Error),
    /// The server sent more than the cap.
    #[error("answer is over the cap of {0} bytes")]
    TooLarge(usize),
    /// The server said no.
    #[error("refused with status {status}: {text}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// What the server said, shortened and printable.
        text: String,
    },
    /// The connection could not be opened.
    #[error("connection failed: {0}")]
    Dial(#[from] io::Error),
    /// Not done in time.
    #[error("no answer in time")]
    Deadline,
    /// The request could not be built.
    #[error("request is not valid")]
    Request,
}

/// What to ask a directory server.
#[derive(Clone, Debug)]
pub struct DirRequest {
    method: Method,
    path: &'static str,
    held: Option<Digest>,
    body: Bytes,
}

impl DirRequest {
    /// The newest consensus, unless it is the one held.
    pub fn consensus(held: Option<Digest>) -> Self {
        Self {
            method: Method::GET,
            path: "/cepa/1/consensus",
            held,
            body: Bytes::new(),
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

    fn post(path: &'static str, body: Bytes) -> Self {
        Self {
            method: Method::POST,
            path,
            held: None,
            body,
        }
    }

    fn build(self) -> Result<Request<Full<Bytes>>, FetchError> {
        // No header says what program or version asks.
        let mut builder = Request::builder()
            .method(self.method)
            .uri(self.path)
            .header(HOST, "cepa");
        if let Some(held) = self.held {
            builder = builder.header(IF_NONE_MATCH, format!("\"{held}\""));
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
    /// Done, or here it is.
    Ok(Bytes),
    /// The document held is the newest there.
    NotModified,
}

/// Sends one request over `io` and takes at most `cap` bytes of answer within `deadline` (S22).
///
/// # Errors
/// [`FetchError`]; the connection is closed in any case.
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
    let request = request.build()?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, Full<Bytes>>(TokioIo::new(io)).await?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let cap = if status == StatusCode::OK {
            cap
        } else {
            MAX_TEXT_BYTES
        };
        let body = Limited::new(response.into_body(), cap).collect().await;
        match status {
            StatusCode::NOT_MODIFIED => Ok(DirResponse::NotModified),
            StatusCode::OK => Ok(DirResponse::Ok(
                body.map_err(|e| body_error(e, cap))?.to_bytes(),
            )),
            _ => {
                let body = body.map(|body| body.to_bytes()).unwrap_or_default();
                let text = String::from_utf8_lossy(&body);
                let text = text.chars().filter(|c| !c.is_control()).collect();
                Err(FetchError::Refused {
                    status: status.as_u16(),
                    text,
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

fn body_error(error: Box<dyn std::error::Error + Send + Sync>, cap: usize) -> FetchError {
    if error.is::<LengthLimitError>() {
        return FetchError::TooLarge(cap);
    }
    match error.downcast::<hyper::Error>() {
        Ok(error) => FetchError::Http(*error),
        Err(_) => FetchError::Deadline,
    }
}

/// Asks for the newest consensus and verifies it; `None` when it is the one held.
///
/// # Errors
/// [`FetchError`].
pub async fn fetch_consensus<S>(
    io: S,
    network: &NetworkFile,
    held: Option<Digest>,
    deadline: Duration,
) -> Result<Option<Arc<Consensus>>, FetchError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    match fetch(
        io,
        DirRequest::consensus(held),
        MAX_CONSENSUS_BYTES,
        deadline,
    )
    .await?
    {
        DirResponse::NotModified => Ok(None),
        DirResponse::Ok(bytes) => Ok(Some(SignedConsensus::parse_and_verify(&bytes, network)?)),
    }
}

/// Sends a document; an answer of 200 is success.
///
/// # Errors
/// [`FetchError`].
pub async fn upload<S>(io: S, request: DirRequest, deadline: Duration) -> Result<(), FetchError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    fetch(io, request, MAX_TEXT_BYTES, deadline).await.map(drop)
}
