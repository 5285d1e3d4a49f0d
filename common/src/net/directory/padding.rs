//! Downloads that measure what relays carry (docs/protocol.md, 6.18).

use core::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::HOST;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};

use super::fetch::FetchError;

/// Gives a directory server an authority's `permit` for `bytes` bytes that mean nothing, and drops them as they come.
///
/// Bytes that have come at the deadline count. Returns how many came, and how long that took from the request on.
///
/// # Errors
/// [`FetchError`] if nothing came, or if the server refused or broke off.
pub async fn fetch_padding<S>(
    io: S,
    permit: Vec<u8>,
    bytes: u64,
    deadline: Duration,
) -> Result<(u64, Duration), FetchError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let started = Instant::now();
    let until = started + deadline;
    let handshake = hyper::client::conn::http1::handshake::<_, Full<Bytes>>(TokioIo::new(io));
    let (mut sender, connection) = timeout_at(until, handshake)
        .await
        .map_err(|_| FetchError::Deadline)??;
    let request = Request::builder()
        .method(Method::POST)
        .uri("/cepa/1/padding")
        .header(HOST, "cepa")
        .body(Full::from(permit))
        .map_err(|_| FetchError::Request)?;
    let download = async {
        let response = timeout_at(until, sender.send_request(request))
            .await
            .map_err(|_| FetchError::Deadline)??;
        let got = take(response, bytes, until).await?;
        Ok((got, started.elapsed()))
    };
    // The connection may end before its last bytes are read, so only the answer ends the download.
    let drive = async {
        let _ = connection.await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        done = download => done,
        () = drive => Err(FetchError::Deadline),
    }
}

async fn take(
    mut response: Response<Incoming>,
    bytes: u64,
    until: Instant,
) -> Result<u64, FetchError> {
    if response.status() != StatusCode::OK {
        return Err(FetchError::Refused {
            status: response.status().as_u16(),
            text: String::new(),
            retry_after: None,
        });
    }
    let mut got = 0;
    while let Ok(Some(frame)) = timeout_at(until, response.frame()).await {
        got += frame?.data_ref().map_or(0, |data| data.len() as u64);
        if got > bytes {
            return Err(FetchError::TooLarge(
                usize::try_from(bytes).unwrap_or(usize::MAX),
            ));
        }
    }
    Ok(got)
}
