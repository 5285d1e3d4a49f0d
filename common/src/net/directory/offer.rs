//! Tells another authority about a vote: the endorsement first, the vote if it is asked for (docs/protocol.md, 6.22.5).

use core::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::fetch::FetchError;
use crate::dir::Digest;

/// Length of the longest text of an answer, in bytes.
const MAX_TEXT_BYTES: usize = 1_024;

/// Sends an endorsement, and over the same connection the vote with this digest if the other side wants it.
///
/// # Errors
/// [`FetchError`] if the other side does not take the endorsement or the vote. The connection is closed in any case.
pub async fn offer_vote<S>(
    io: S,
    endorsement: Bytes,
    digest: Digest,
    vote: Option<Bytes>,
    deadline: Duration,
) -> Result<(), FetchError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let exchange = async {
        let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await?;
        let offer = async {
            let answer = post(&mut sender, "/cepa/1/endorsement", endorsement).await?;
            match (answer, vote) {
                (StatusCode::ACCEPTED, Some(vote)) => {
                    sender.ready().await?;
                    let path = format!("/cepa/1/vote/{digest}");
                    post(&mut sender, &path, vote).await.map(drop)
                }
                _ => Ok(()),
            }
        };
        // The connection may end before its last bytes are read: only the answer ends the exchange.
        let drive = async {
            let _ = connection.await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            answer = offer => answer,
            () = drive => Err(FetchError::Deadline),
        }
    };
    tokio::time::timeout(deadline, Box::pin(exchange))
        .await
        .unwrap_or(Err(FetchError::Deadline))
}

async fn post(
    sender: &mut SendRequest<Full<Bytes>>,
    path: &str,
    body: Bytes,
) -> Result<StatusCode, FetchError> {
    let request = Request::post(path)
        .header(HOST, "cepa")
        .header(CONTENT_TYPE, "application/octet-stream")
        .body(Full::new(body))
        .map_err(|_| FetchError::Request)?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_TEXT_BYTES)
        .collect()
        .await;
    if matches!(status, StatusCode::OK | StatusCode::ACCEPTED) {
        return Ok(status);
    }
    let body = body.map(|body| body.to_bytes()).unwrap_or_default();
    let text = String::from_utf8_lossy(&body);
    Err(FetchError::Refused {
        status: status.as_u16(),
        text: text.chars().filter(|c| !c.is_control()).collect(),
        retry_after: None,
    })
}
