//! The paths of the control API, and what every request goes through (docs/control.md).
//!
//! A request is checked ([`super::guard`]), its body is read within bounds, and only then is anything looked at or done.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody, to_bytes};
use axum::extract::{FromRequest, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, Request, StatusCode, Uri};
use axum::middleware::{Next, from_fn, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::answer::{NewIdentity, Reach, Reached};
use super::guard;
use super::refusal::{Refusal, json, wrong_method};
use super::sight::Sight;

/// Longest body of a request (bytes).
pub(super) const MAX_BODY_BYTES: usize = 4 * 1024;
/// A body must have come within this time.
pub(super) const BODY_DEADLINE: Duration = Duration::from_secs(5);
/// An answer is there within this time: a client that opens a stream gives up after 60 s.
pub(super) const LONGEST_WORK: Duration = Duration::from_secs(65);

/// How many requests of one connection are being worked on. A connection that has none may be given up for another.
#[derive(Clone, Debug, Default)]
pub(super) struct Working(Arc<AtomicUsize>);

/// A request that is being worked on.
struct Work(Working);

impl Working {
    /// Is there no such request?
    pub(super) fn is_idle(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }

    fn begin(&self) -> Work {
        self.0.fetch_add(1, Ordering::Relaxed);
        Work(self.clone())
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The paths, answered by `sight`.
pub(super) fn router(sight: Arc<Sight>) -> Router {
    let paths = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/identity", post(identity))
        .route("/v1/reach", post(reach))
        .route("/v1/reload", post(reload))
        .fallback(no_such_path)
        .with_state(sight);
    guarded(paths)
}

/// These paths, behind what every request goes through.
pub(super) fn guarded(paths: Router) -> Router {
    // As one service: what a layer is put around path by path does not see which methods a path takes.
    Router::new()
        .fallback_service(paths)
        .layer(map_response(worded))
        .layer(from_fn(receive))
        .layer(map_response(sealed))
}

async fn status(State(sight): State<Arc<Sight>>, uri: Uri, body: Bytes) -> Response {
    match no_query(&uri).and_then(|()| no_body(&body)) {
        Ok(()) => json(StatusCode::OK, &sight.status().await),
        Err(refusal) => refusal.into_response(),
    }
}

async fn identity(
    State(sight): State<Arc<Sight>>,
    Asked(Nothing {}): Asked<Nothing>,
) -> Result<Response, Refusal> {
    let done: NewIdentity = sight.new_identity().await?;
    Ok(json(StatusCode::OK, &done))
}

async fn reach(
    State(sight): State<Arc<Sight>>,
    Asked(Reach { to }): Asked<Reach>,
) -> Result<Response, Refusal> {
    let reached: Reached = sight.reach(to).await?;
    Ok(json(StatusCode::OK, &reached))
}

async fn reload(
    State(sight): State<Arc<Sight>>,
    Asked(Nothing {}): Asked<Nothing>,
) -> Result<Response, Refusal> {
    Ok(json(StatusCode::OK, &sight.reload().await?))
}

async fn no_such_path() -> Refusal {
    Refusal::new(
        StatusCode::NOT_FOUND,
        "no-such-path",
        "there is nothing at this path",
        "there are GET /v1/status, POST /v1/identity, /v1/reach and /v1/reload (docs/control.md)",
    )
}

/// What a request without a query asks for in its body.
struct Asked<T>(T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Asked<T> {
    type Rejection = Response;

    async fn from_request(request: Request<Body>, state: &S) -> Result<Self, Response> {
        let (uri, headers) = (request.uri().clone(), request.headers().clone());
        let body = Bytes::from_request(request, state).await;
        let body = body.map_err(IntoResponse::into_response)?;
        no_query(&uri)
            .and_then(|()| parse(&headers, &body))
            .map(Self)
            .map_err(IntoResponse::into_response)
    }
}

/// A body of a request that takes no fields.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

fn no_query(uri: &Uri) -> Result<(), Refusal> {
    match uri.query() {
        None | Some("") => Ok(()),
        Some(_) => Err(Refusal::bad(
            "this path takes no query",
            "leave out the question mark and what follows it",
        )),
    }
}

fn no_body(body: &Bytes) -> Result<(), Refusal> {
    match body.is_empty() {
        true => Ok(()),
        false => Err(Refusal::bad("a GET has no body", "leave the body out")),
    }
}

/// What the body of a request says: an object of JSON, or nothing, which stands for an object without fields.
fn parse<T: DeserializeOwned>(headers: &HeaderMap, body: &Bytes) -> Result<T, Refusal> {
    let body: &[u8] = match body.is_empty() {
        true => b"{}",
        false => {
            check_kind(headers)?;
            body
        }
    };
    // Serde would take a list for an object, field by field.
    let first = body.iter().find(|byte| !byte.is_ascii_whitespace());
    if first != Some(&b'{') {
        return Err(Refusal::bad(
            "the body is no object of JSON",
            r#"send one such as {"to": "example.org:443"}, or none"#,
        ));
    }
    serde_json::from_slice(body).map_err(|error| {
        let hint = "docs/control.md says which fields this path takes";
        Refusal::bad(format!("the body cannot be read: {error}"), hint)
    })
}

fn check_kind(headers: &HeaderMap) -> Result<(), Refusal> {
    let kind = headers
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok());
    let bare = kind.and_then(|kind| kind.split(';').next());
    match bare.is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json")) {
        true => Ok(()),
        false => Err(Refusal::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "not-json",
            "the body is not said to be JSON",
            "send the field `Content-Type: application/json`",
        )),
    }
}

/// Checks a request, reads its body within bounds, and has it answered within [`LONGEST_WORK`].
async fn receive(request: Request<Body>, next: Next) -> Result<Response, Refusal> {
    let (parts, body) = request.into_parts();
    guard::check(&parts.uri, &parts.headers)?;
    let too_long = || {
        Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too-long",
            format!("the body has more than {MAX_BODY_BYTES} bytes"),
            "no request needs as many",
        )
    };
    if body.size_hint().lower() > MAX_BODY_BYTES as u64 {
        return Err(too_long());
    }
    let body = match timeout(BODY_DEADLINE, to_bytes(body, MAX_BODY_BYTES)).await {
        Ok(Ok(body)) => body,
        Ok(Err(error)) if is_limit(&error) => return Err(too_long()),
        Ok(Err(_)) => return Err(Refusal::bad("the body broke off", "send it whole")),
        Err(_) => {
            return Err(Refusal::new(
                StatusCode::REQUEST_TIMEOUT,
                "too-slow",
                format!("the body did not come within {} s", BODY_DEADLINE.as_secs()),
                "send it at once",
            ));
        }
    };
    let _work = parts.extensions.get::<Working>().map(Working::begin);
    let request = Request::from_parts(parts, Body::from(body));
    let answered = timeout(LONGEST_WORK, next.run(request)).await;
    answered.map_err(|_| {
        Refusal::new(
            StatusCode::GATEWAY_TIMEOUT,
            "no-answer",
            "the node did not answer in time",
            "its log may say why",
        )
    })
}

fn is_limit(error: &axum::Error) -> bool {
    let source = std::error::Error::source(error);
    source.is_some_and(|source| source.is::<http_body_util::LengthLimitError>())
}

/// Puts the answer to a wrong method into words.
async fn worded(response: Response) -> Response {
    match response.status() {
        StatusCode::METHOD_NOT_ALLOWED => wrong_method(response),
        _ => response,
    }
}

/// What every answer says besides: nobody keeps it, and no browser makes anything else of it.
async fn sealed(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let nosniff = HeaderValue::from_static("nosniff");
    headers.insert("x-content-type-options", nosniff);
    response
}

#[cfg(test)]
#[path = "router_tests.rs"]
mod tests;
