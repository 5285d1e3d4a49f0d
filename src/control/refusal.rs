//! Requests that are not done: the answer's status, which error it is, and what to try.

use axum::body::Body;
use axum::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use super::answer::{ErrorAnswer, ErrorSays};

/// A request that is not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    status: StatusCode,
    code: &'static str,
    what: String,
    hint: String,
    /// After so many seconds it may be asked again.
    again: Option<u64>,
}

impl Refusal {
    pub(super) fn new(
        status: StatusCode,
        code: &'static str,
        what: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self {
            status,
            code,
            what: what.into(),
            hint: hint.into(),
            again: None,
        }
    }

    /// The request is no request that is understood.
    pub(super) fn bad(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-request", what, hint)
    }

    /// It may be asked again after so many seconds.
    pub(super) fn again_in(mut self, seconds: u64) -> Self {
        self.again = Some(seconds);
        self
    }

    /// Which error this is.
    #[cfg(test)]
    pub(super) fn code(&self) -> &'static str {
        self.code
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = ErrorAnswer {
            error: ErrorSays {
                code: self.code.to_owned(),
                what: self.what,
                hint: self.hint,
            },
        };
        let mut response = json(self.status, &body);
        if let Some(seconds) = self.again {
            let headers = response.headers_mut();
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::PAYLOAD_TOO_LARGE
            || self.status == StatusCode::REQUEST_TIMEOUT
        {
            // The rest of the request is not read.
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert("connection", close);
        }
        response
    }
}

/// An answer.
pub(super) fn json(status: StatusCode, body: &impl serde::Serialize) -> Response {
    // The types of answers have no maps with keys that are no text, which is all that could fail.
    let mut bytes = serde_json::to_vec(body).unwrap_or_default();
    bytes.push(b'\n');
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// The path takes other methods, which the header `Allow` of `response` names.
pub(super) fn wrong_method(response: Response) -> Response {
    let allowed = response.headers().get(ALLOW).cloned();
    let names = allowed.as_ref().and_then(|names| names.to_str().ok());
    let hint = format!("this path takes {}", names.unwrap_or("other methods"));
    let what = "this path does not take this method";
    let status = StatusCode::METHOD_NOT_ALLOWED;
    let mut refusal = Refusal::new(status, "wrong-method", what, hint).into_response();
    if let Some(allowed) = allowed {
        refusal.headers_mut().insert(ALLOW, allowed);
    }
    refusal
}
