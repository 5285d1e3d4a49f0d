//! Answers of a directory server that are no documents: a status and a few words (docs/protocol.md, 6.12).

use core::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Request, Response, StatusCode};

use crate::authority::{AuthorityError, AuthorityHandle, Submission, SubmitError};

/// The body of a request must be complete after this time.
const BODY_DEADLINE: Duration = Duration::from_secs(30);

/// Reads a body of at most `cap` bytes. What is wrong with the body is an answer.
pub(super) async fn read_body(
    request: Request<Incoming>,
    cap: usize,
) -> Result<Bytes, Response<Full<Bytes>>> {
    let body = Limited::new(request.into_body(), cap).collect();
    match tokio::time::timeout(BODY_DEADLINE, body).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(text(StatusCode::PAYLOAD_TOO_LARGE, "document is too large"))
        }
        Ok(Err(_)) => Err(text(StatusCode::BAD_REQUEST, "body is not complete")),
        Err(_) => Err(text(StatusCode::REQUEST_TIMEOUT, "body took too long")),
    }
}

/// Gives a verified document to the authority, and answers with what that says to it.
pub(super) async fn submit(
    authority: &AuthorityHandle,
    submission: Submission,
) -> Response<Full<Bytes>> {
    match authority.submit(submission).await {
        Ok(()) => text(StatusCode::OK, "accepted"),
        Err(SubmitError::Refused(error)) => text(status_of(&error), &error.to_string()),
        Err(error) => text(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
    }
}

/// The status that says whose fault a refusal by the authority is (docs/protocol.md, 6.12).
fn status_of(error: &AuthorityError) -> StatusCode {
    match error {
        AuthorityError::NotNewer
        | AuthorityError::WrongPeriod
        | AuthorityError::Agreement(_)
        | AuthorityError::Recovering
        | AuthorityError::KeyInUse => StatusCode::CONFLICT,
        AuthorityError::Full | AuthorityError::Crowded => StatusCode::INSUFFICIENT_STORAGE,
        AuthorityError::Rejected => StatusCode::FORBIDDEN,
        AuthorityError::Document(_)
        | AuthorityError::NotCurrent
        | AuthorityError::PrivateAddress
        | AuthorityError::Own
        | AuthorityError::Tally(_) => StatusCode::BAD_REQUEST,
    }
}

/// A short answer in words.
pub(super) fn text(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(text.as_bytes())));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}
