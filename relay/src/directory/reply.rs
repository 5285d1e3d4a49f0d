//! Answers of a directory server that are no documents: a status and a few words (docs/protocol.md, 6.12).

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};

use crate::authority::{AuthorityError, AuthorityHandle, Submission, SubmitError};

/// Gives a verified document to the authority, and tells the client what the authority says to it.
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
