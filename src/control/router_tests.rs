//! Paths, methods, bodies and fields, without a socket.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use axum::http::header::ALLOW;
use tower::ServiceExt;

use super::*;
use crate::control::answer::{ErrorAnswer, Status};
use crate::control::sight::tests::no_roles;

/// What a request is answered: the status, the fields and the text.
async fn asked(request: Request<Body>) -> (StatusCode, HeaderMap, String) {
    let answer = router(Arc::new(no_roles())).oneshot(request).await.unwrap();
    let (parts, body) = answer.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    let text = String::from_utf8(body.to_vec()).unwrap();
    (parts.status, parts.headers, text)
}

fn request(method: &str, path: &str, fields: &[(&str, &str)], body: &str) -> Request<Body> {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(Body::from(body.to_owned())).unwrap()
}

const JSON: &[(&str, &str)] = &[("content-type", "application/json")];

#[tokio::test]
async fn a_status_is_json_that_nobody_keeps() {
    let (status, headers, text) = asked(request("GET", "/v1/status", &[], "")).await;
    assert_eq!(status, StatusCode::OK);
    let said: Status = serde_json::from_str(&text).unwrap();
    assert_eq!(said.process, std::process::id());
    assert!(text.ends_with("}\n"));
    assert_eq!(headers["content-type"], "application/json");
    assert_eq!(headers["cache-control"], "no-store");
    assert_eq!(headers["x-content-type-options"], "nosniff");
    assert!(!headers.contains_key("access-control-allow-origin"));
    // HEAD says the same of it, without it.
    let (status, head, nothing) = asked(request("HEAD", "/v1/status", &[], "")).await;
    assert_eq!((status, nothing.as_str()), (StatusCode::OK, ""));
    assert_eq!(head["content-length"], text.len().to_string());
}

#[tokio::test]
async fn what_is_refused_says_why_and_what_to_try() {
    let long = format!("{{\"to\":\"{}\"}}", "x".repeat(MAX_BODY_BYTES));
    let deep = format!("{{\"to\":{}", "[".repeat(2_000));
    type Row<'a> = (
        &'a str,
        &'a str,
        &'a [(&'a str, &'a str)],
        &'a str,
        u16,
        &'a str,
    );
    let rows: &[Row] = &[
        ("GET", "/", &[], "", 404, "no-such-path"),
        ("GET", "/v1", &[], "", 404, "no-such-path"),
        ("GET", "/v2/status", &[], "", 404, "no-such-path"),
        ("GET", "/v1/status/", &[], "", 404, "no-such-path"),
        ("GET", "/V1/STATUS", &[], "", 404, "no-such-path"),
        ("GET", "/v1/%73tatus", &[], "", 404, "no-such-path"),
        ("GET", "//v1/status", &[], "", 404, "no-such-path"),
        ("GET", "/v1/../v1/status", &[], "", 404, "no-such-path"),
        ("POST", "/v1/status", &[], "", 405, "wrong-method"),
        ("OPTIONS", "/v1/status", &[], "", 405, "wrong-method"),
        ("BREW", "/v1/status", &[], "", 405, "wrong-method"),
        ("GET", "/v1/identity", &[], "", 405, "wrong-method"),
        ("HEAD", "/v1/identity", &[], "", 405, ""),
        ("DELETE", "/v1/reach", &[], "", 405, "wrong-method"),
        ("GET", "/v1/status?more=1", &[], "", 400, "bad-request"),
        ("POST", "/v1/identity?now", &[], "", 400, "bad-request"),
        ("GET", "/v1/status", JSON, "{}", 400, "bad-request"),
        ("POST", "/v1/reach", &[], "{}", 415, "not-json"),
        (
            "POST",
            "/v1/reach",
            &[("content-type", "text/plain")],
            "{}",
            415,
            "not-json",
        ),
        (
            "POST",
            "/v1/reach",
            &[("content-type", "application/jsonp")],
            "{}",
            415,
            "not-json",
        ),
        ("POST", "/v1/reach", JSON, "x", 400, "bad-request"),
        ("POST", "/v1/reach", JSON, " ", 400, "bad-request"),
        ("POST", "/v1/reach", JSON, "null", 400, "bad-request"),
        ("POST", "/v1/reach", JSON, "[]", 400, "bad-request"),
        ("POST", "/v1/reach", JSON, "[\"a:1\"]", 400, "bad-request"),
        ("POST", "/v1/reach", JSON, "{\"to\":7}", 400, "bad-request"),
        (
            "POST",
            "/v1/reach",
            JSON,
            "{\"at\":\"a:1\"}",
            400,
            "bad-request",
        ),
        (
            "POST",
            "/v1/reach",
            JSON,
            "{\"to\":\"a:1\",\"to\":\"b:1\"}",
            400,
            "bad-request",
        ),
        ("POST", "/v1/reach", JSON, "{} {}", 400, "bad-request"),
        ("POST", "/v1/reach", JSON, &deep, 400, "bad-request"),
        (
            "POST",
            "/v1/identity",
            JSON,
            "{\"to\":\"a:1\"}",
            400,
            "bad-request",
        ),
        ("POST", "/v1/reach", JSON, &long, 413, "too-long"),
        // This node has no roles.
        ("POST", "/v1/identity", &[], "", 409, "no-client"),
        ("POST", "/v1/identity", JSON, "{}", 409, "no-client"),
        ("POST", "/v1/reach", &[], "", 409, "no-client"),
        (
            "POST",
            "/v1/reach",
            JSON,
            " {\"to\":\"a:1\"}\n",
            409,
            "no-client",
        ),
        (
            "POST",
            "/v1/reach",
            &[("content-type", "Application/JSON; charset=utf-8")],
            "{\"to\":null}",
            409,
            "no-client",
        ),
        (
            "GET",
            "/v1/status",
            &[("origin", "http://localhost")],
            "",
            403,
            "foreign-site",
        ),
        (
            "GET",
            "/nothing",
            &[("origin", "null")],
            "",
            403,
            "foreign-site",
        ),
        (
            "POST",
            "/v1/identity",
            &[("sec-fetch-site", "none")],
            "",
            403,
            "foreign-site",
        ),
        (
            "GET",
            "/v1/status",
            &[("host", "localhost")],
            "",
            400,
            "bad-request",
        ),
        (
            "GET",
            "http://example.com/v1/status",
            &[],
            "",
            403,
            "foreign-host",
        ),
    ];
    for (method, path, fields, body, status, code) in rows {
        let (got, headers, text) = asked(request(method, path, fields, body)).await;
        let row = format!("{method} {path} {fields:?} {body:.40}");
        assert_eq!(got.as_u16(), *status, "{row}: {text}");
        assert_eq!(headers["cache-control"], "no-store", "{row}");
        assert_eq!(headers.contains_key(ALLOW), *status == 405, "{row}");
        if *method == "HEAD" {
            continue;
        }
        let said: ErrorAnswer = serde_json::from_str(&text).unwrap();
        assert_eq!(said.error.code, *code, "{row}");
        assert!(!said.error.what.is_empty() && !said.error.hint.is_empty());
        assert!(!said.error.what.ends_with('.'), "{row}: {text}");
    }
    let (_, headers, text) = asked(request("PUT", "/v1/status", &[], "")).await;
    assert_eq!(headers[ALLOW], "GET,HEAD");
    assert!(text.contains("this path takes GET,HEAD"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_body_comes_in_time_and_an_answer_too() {
    let never = Body::new(Never);
    let slow = Request::post("/v1/reach").header("host", "localhost");
    let (status, headers, text) = asked(slow.body(never).unwrap()).await;
    assert_eq!(status, StatusCode::REQUEST_TIMEOUT, "{text}");
    assert_eq!(headers["connection"], "close");
    let waits = guarded(Router::new().route("/", get(std::future::pending::<()>)));
    let answer = waits.oneshot(request("GET", "/", &[], "")).await.unwrap();
    assert_eq!(answer.status(), StatusCode::GATEWAY_TIMEOUT);
}

/// A body of which nothing comes.
struct Never;

impl HttpBody for Never {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
        std::task::Poll::Pending
    }
}
