#![allow(clippy::unwrap_used, clippy::expect_used)]
//! Tests of `http://` requests, with every byte that the destination and the application get.

use std::io;
use std::sync::atomic::Ordering;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::oneshot;

use super::tests::*;
use super::*;

/// Reads until `end` has come.
async fn until(reader: &mut (impl AsyncRead + Unpin), end: &str) -> String {
    let mut got = Vec::new();
    while !got.ends_with(end.as_bytes()) {
        let byte = within(reader.read_u8()).await;
        got.push(byte.unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&got))));
    }
    String::from_utf8(got).unwrap()
}

/// Sends `request`, checks that `at_origin` is what the destination reads, answers `response`, and returns what the
/// application reads up to `end`.
async fn exchange(request: &str, at_origin: &str, response: &str, end: &str) -> String {
    let mut front = front(FrontOptions::default()).await;
    let mut app = front.app(request.as_bytes()).await;
    let (_, answer) = front.next().await;
    let (mut far, _breaker) = grant(answer);
    expect_text(&mut far, at_origin).await;
    far.write_all(response.as_bytes()).await.unwrap();
    if response.contains("close") {
        far.shutdown().await.unwrap();
    }
    until(&mut app, end).await
}

async fn expect_text(reader: &mut (impl AsyncRead + Unpin), text: &str) {
    let mut got = vec![0; text.len()];
    within(reader.read_exact(&mut got)).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&got), text);
}

#[tokio::test]
async fn what_is_for_the_port_goes_no_further_and_nothing_is_added() {
    let told = exchange(
        "POST http://A.Example:8080/p?q=1 HTTP/1.1\r\nHost: other.example\r\nUser-Agent: x\r\n\
         Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic Ym9iOnh5Og==\r\naccept: */*\r\n\
         Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nTE: trailers\r\n\
         Expect: 200-ok\r\nTor-Stream-Isolation: t\r\nX-Tor-Stream-Isolation: t\r\nCepa-Any: 1\r\nUpgrade: h2c\r\n\
         Cookie: a=b\r\nCOOKIE: c=d\r\nContent-Length: 4\r\nX-Last: 1\r\n\r\nbody",
        "POST /p?q=1 HTTP/1.1\r\nHost: a.example:8080\r\nUser-Agent: x\r\naccept: */*\r\n\
         Cookie: a=b\r\nCOOKIE: c=d\r\nX-Last: 1\r\nContent-Length: 4\r\n\r\nbody",
        "HTTP/1.1 200 Fine\r\nServer: s\r\nConnection: X-Hop\r\nX-Hop: 1\r\nProxy-Authenticate: Basic\r\n\
         Keep-Alive: x\r\nCepa-Failed: no\r\nTor-X: 1\r\nSET-Cookie: a\r\nSet-Cookie: b\r\nContent-Length: 2\r\n\r\nok",
        "\r\n\r\nok",
    )
    .await;
    let expected = "HTTP/1.1 200 Fine\r\nServer: s\r\nSET-Cookie: a\r\nSet-Cookie: b\r\nContent-Length: 2\r\n\r\nok";
    assert_eq!(told, expected);
}

#[tokio::test]
async fn framing_is_made_anew() {
    // A body in chunks, and one of a GET, which the library would leave out.
    for method in ["PUT", "GET"] {
        let told = exchange(
            &format!(
                "{method} http://a.example HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n4;x=y\r\nbody\r\n0\r\nT: x\r\n\r\n"
            ),
            &format!(
                "{method} / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"
            ),
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: T\r\n\r\n2\r\nok\r\n0\r\nT: x\r\n\r\n",
            "0\r\n\r\n",
        )
        .await;
        assert_eq!(
            told,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
        );
    }
    // A body that ends with the stream is sent in chunks, so that a break is seen.
    let close = "HTTP/1.0 200 OK\r\nConnection: close\r\n\r\nall";
    let get = "GET / HTTP/1.1\r\nHost: [2600::1]\r\n\r\n";
    let told = exchange(
        "GET http://[2600::1]:80/ HTTP/1.1\r\n\r\n",
        get,
        close,
        "0\r\n\r\n",
    )
    .await;
    assert!(told.ends_with("\r\n\r\n3\r\nall\r\n0\r\n\r\n"), "{told}");
    // Programs of HTTP/1.0 know no chunks.
    let told = exchange("GET http://[2600::1]/ HTTP/1.0\r\n\r\n", get, close, "all").await;
    assert!(
        told.starts_with("HTTP/1.0 200 OK\r\n") && !told.contains("chunked"),
        "{told}"
    );
    // HEAD has the length of the body that is not sent.
    let told = exchange(
        "HEAD http://a.example/x HTTP/1.1\r\nIf-None-Match: x\r\n\r\n",
        "HEAD /x HTTP/1.1\r\nHost: a.example\r\nIf-None-Match: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n",
        "\r\n\r\n",
    )
    .await;
    assert_eq!(told, "HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n");
}

/// What the port itself answers to `request`, and that it then closes.
async fn told(request: &str) -> String {
    let mut front = front(FrontOptions::default()).await;
    let mut app = front.app(request.as_bytes()).await;
    let told = String::from_utf8(rest(&mut app).await.unwrap()).unwrap();
    assert!(front.requests.try_recv().is_err(), "{request}");
    told
}

#[tokio::test]
async fn each_request_is_judged() {
    for (request, status, failed) in [
        (
            "GET https://a.example/ HTTP/1.1\r\n\r\n",
            400,
            "request/malformed",
        ),
        (
            "GET ftp://a.example/ HTTP/1.1\r\n\r\n",
            400,
            "request/malformed",
        ),
        (
            "GET http://u:p@a.example/ HTTP/1.1\r\n\r\n",
            400,
            "request/malformed",
        ),
        (
            "GET http://127.0.0.1/ HTTP/1.1\r\n\r\n",
            403,
            "request/private",
        ),
        ("GET http://[::1]/ HTTP/1.1\r\n\r\n", 403, "request/private"),
        (
            "GET http://printer.local/ HTTP/1.1\r\n\r\n",
            403,
            "request/name",
        ),
        (
            "GET http://a.example:0/ HTTP/1.1\r\n\r\n",
            400,
            "request/port",
        ),
        (
            "GET http://a.example:+80/ HTTP/1.1\r\n\r\n",
            400,
            "request/port",
        ),
        ("GET http://127.1/ HTTP/1.1\r\n\r\n", 400, "request/host"),
        (
            "GET http://a.example/ HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            501,
            "request/upgrade",
        ),
        (
            "GET http://a.example/ HTTP/1.1\r\nProxy-Authorization: Basic !\r\n\r\n",
            400,
            "request/malformed",
        ),
    ] {
        let told = told(request).await;
        assert!(
            told.starts_with(&format!("HTTP/1.1 {status} ")),
            "{request}{told}"
        );
        assert!(
            told.contains(&format!("Cepa-Failed: {failed}\r\n")),
            "{request}{told}"
        );
    }
    // A request behind one that was passed on is judged like the first.
    for second in [
        "CONNECT b.example:80 HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ] {
        let mut front = front(FrontOptions::default()).await;
        let mut app = front.app(b"GET http://a.example/ HTTP/1.1\r\n\r\n").await;
        let (_, answer) = front.next().await;
        let (mut far, _breaker) = grant(answer);
        until(&mut far, "\r\n\r\n").await;
        far.write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
            .await
            .unwrap();
        until(&mut app, "\r\n\r\n").await;
        app.write_all(second.as_bytes()).await.unwrap();
        let told = String::from_utf8(rest(&mut app).await.unwrap()).unwrap();
        assert!(told.starts_with("HTTP/1.1 400 "), "{told}");
        assert!(front.requests.try_recv().is_err(), "{second}");
    }
}

#[tokio::test]
async fn what_fails_is_told_with_its_reason() {
    let mut front = front(FrontOptions::default()).await;
    let mut app = front.app(b"GET http://a.example/ HTTP/1.1\r\n\r\n").await;
    let (_, answer) = front.next().await;
    assert!(answer.send(Err(Failure::TimedOut)).is_ok());
    let told = String::from_utf8(rest(&mut app).await.unwrap()).unwrap();
    assert!(told.starts_with("HTTP/1.1 504 "), "{told}");
    assert!(told.contains("Cepa-Failed: network/timeout\r\n"), "{told}");
    // An application would send its password for the port to whoever may ask like this.
    for response in ["407 Please", "101 Switching Protocols"] {
        let told = exchange(
            "GET http://a.example/ HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
            &format!("HTTP/1.1 {response}\r\nProxy-Authenticate: Basic\r\nUpgrade: x\r\nContent-Length: 0\r\n\r\n"),
            "\n",
        )
        .await;
        assert!(told.starts_with("HTTP/1.1 502 "), "{told}");
    }
}

#[tokio::test]
async fn a_stream_serves_the_requests_that_fit_it_and_no_others() {
    let mut front = front(FrontOptions::default()).await;
    let mut app = front.app(b"").await;
    let mut open: Option<(DuplexStream, oneshot::Sender<()>)> = None;
    for (url, field, is_new) in [
        ("http://a.example/1", "", true),
        ("http://A.example:80/2", "", false),
        // A new identity shares no stream with the one before.
        ("http://a.example/new", "", true),
        ("http://a.example/2", "", false),
        ("http://a.example/3", "Tor-Stream-Isolation: x\r\n", true),
        ("http://a.example/4", "Tor-Stream-Isolation: x\r\n", false),
        (
            "http://a.example/5",
            "Proxy-Authorization: Basic Ym9iOnh5Og==\r\n",
            true,
        ),
        ("http://a.example/5", "", true),
        // What a page asks for is not asked by the user.
        (
            "http://a.example/5",
            "Origin: http://a.example\r\nX-Tor-Stream-Isolation: y\r\n",
            false,
        ),
        (
            "http://a.example/5",
            "Tor-Stream-Isolation: y\r\nSec-Fetch-Mode: cors\r\n",
            false,
        ),
        // To plain addresses of the page's own site browsers add no other mark than this.
        (
            "http://a.example/5",
            "Accept-Language: en\r\nTor-Stream-Isolation: z\r\n",
            false,
        ),
        ("http://a.example:81/6", "", true),
        ("http://b.example/7", "", true),
    ] {
        if url.ends_with("new") {
            front.identity.fetch_add(1, Ordering::Relaxed);
        }
        let request = format!("GET {url} HTTP/1.1\r\n{field}\r\n");
        app.write_all(request.as_bytes()).await.unwrap();
        if is_new {
            let (request, answer) = front.next().await;
            assert_eq!(request.isolation.protocol, Protocol::HttpForward);
            assert_eq!(
                request.isolation.marks != Marks::default(),
                !field.is_empty()
            );
            if let Some((mut far, _breaker)) = open.take() {
                // The stream before has ended.
                assert_eq!(rest(&mut far).await.unwrap(), b"");
            }
            open = Some(grant(answer));
        }
        let (far, _) = open.as_mut().unwrap();
        let got = until(far, "\r\n\r\n").await;
        assert!(
            got.starts_with(&format!("GET /{} ", url.rsplit('/').next().unwrap())),
            "{got}"
        );
        far.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .await
            .unwrap();
        until(&mut app, "\r\n\r\nok").await;
    }
    assert!(front.requests.try_recv().is_err());
    // A destination that ends its stream after a response is asked over another one.
    let (far, _breaker) = open.take().unwrap();
    drop(far);
    app.write_all(b"GET http://b.example/8 HTTP/1.1\r\n\r\n")
        .await
        .unwrap();
    let (_, answer) = front.next().await;
    let (mut far, _breaker) = grant(answer);
    assert!(until(&mut far, "\r\n\r\n").await.starts_with("GET /8 "));
}

#[tokio::test]
async fn a_body_that_breaks_off_breaks_the_connection() {
    for head in ["Content-Length: 99", "Transfer-Encoding: chunked", "X: y"] {
        for version in ["1.0", "1.1"] {
            let mut front = front(FrontOptions::default()).await;
            let request = format!("GET http://a.example/ HTTP/{version}\r\n\r\n");
            let mut app = front.app(request.as_bytes()).await;
            let (_, answer) = front.next().await;
            let (mut far, breaker) = grant(answer);
            until(&mut far, "\r\n\r\n").await;
            let begin = format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n4\r\nsome\r\n");
            far.write_all(begin.as_bytes()).await.unwrap();
            until(&mut app, "some").await;
            breaker.send(()).unwrap();
            let error = rest(&mut app).await.unwrap_err();
            assert_eq!(
                error.kind(),
                io::ErrorKind::ConnectionReset,
                "{head} {version}"
            );
        }
    }
}

#[tokio::test]
async fn an_upload_that_breaks_off_is_no_complete_one() {
    let mut front = front(FrontOptions::default()).await;
    let begin =
        b"PUT http://a.example/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n";
    for is_reset in [true, false] {
        let mut app = front.app(begin).await;
        let (_, answer) = front.next().await;
        let (mut far, _breaker) = grant(answer);
        until(&mut far, "body\r\n").await;
        match is_reset {
            true => reset(app),
            false => app.shutdown().await.unwrap(),
        }
        assert_eq!(rest(&mut far).await.unwrap(), b"", "no last chunk");
        // The whole stream is gone, not only one direction.
        assert!(far.write_all(b"x").await.is_err());
    }
}

#[tokio::test]
async fn who_ends_its_sending_behind_a_request_gets_its_answer() {
    let mut front = front(FrontOptions::default()).await;
    let mut app = front.app(b"GET http://a.example/ HTTP/1.1\r\n\r\n").await;
    app.shutdown().await.unwrap();
    let (_, answer) = front.next().await;
    let (mut far, _breaker) = grant(answer);
    until(&mut far, "\r\n\r\n").await;
    far.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        .await
        .unwrap();
    let told = rest(&mut app).await.unwrap();
    assert!(told.ends_with(b"\r\n\r\nok"));
}

#[tokio::test]
async fn who_may_send_a_body_is_told_so() {
    let mut front = front(FrontOptions::default()).await;
    let mut app = front
        .app(b"PUT http://a.example/ HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
        .await;
    let (_, answer) = front.next().await;
    let (mut far, _breaker) = grant(answer);
    assert_eq!(
        until(&mut app, "\r\n\r\n").await,
        "HTTP/1.1 100 Continue\r\n\r\n"
    );
    app.write_all(b"body").await.unwrap();
    let got = until(&mut far, "body").await;
    assert!(!got.to_lowercase().contains("expect"), "{got}");
}

/// Heads and bodies that two readers could take differently, or that have no end, reach no destination as something else.
#[tokio::test]
async fn what_is_broken_is_passed_on_to_nobody() {
    let fields = "X: y\r\n".repeat(101);
    let long = format!("X: {}\r\n", "y".repeat(9_000));
    for broken in [
        "Content-Length: 4\r\nContent-Length: 5\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: +4\r\n",
        "Content-Length: 4, 5\r\n",
        "Content-Length: 99999999999999999999\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: chunked, gzip\r\n",
        "Transfer-Encoding : chunked\r\n",
        "X: a\r\n\tb\r\n",
        "X\0: a\r\n",
        "X: a\rb\r\n",
        &fields,
        &long,
    ] {
        let mut front = front(FrontOptions::default()).await;
        let request = format!("PUT http://a.example/ HTTP/1.1\r\n{broken}\r\nbody");
        let mut app = front.app(request.as_bytes()).await;
        let told = rest(&mut app).await.unwrap_or_default();
        let told = String::from_utf8(told).unwrap();
        let is_refused = told.is_empty() || told.starts_with("HTTP/1.1 4");
        assert!(is_refused, "{broken:.40}: {told}");
        assert!(front.requests.try_recv().is_err(), "{broken:.40}");
    }
    // A body that turns out to be broken is cut off, and does not end.
    for broken in [
        "zz\r\n",
        "ffffffffffffffffff\r\n",
        "4\r\nbody!!",
        "4;",
        "-4\r\n",
    ] {
        let mut front = front(FrontOptions::default()).await;
        let head = "PUT http://a.example/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        let mut app = front.app(head.as_bytes()).await;
        let (_, answer) = front.next().await;
        let (mut far, _breaker) = grant(answer);
        until(&mut far, "\r\n\r\n").await;
        app.write_all(broken.as_bytes()).await.unwrap();
        app.shutdown().await.unwrap();
        let got = rest(&mut far).await.unwrap_or_default();
        assert!(!got.ends_with(b"0\r\n\r\n"), "{broken}: {got:?}");
    }
    // Both lengths at once: one reader would end the body where another goes on.
    let mut front = front(FrontOptions::default()).await;
    let head =
        "PUT http://a.example/ HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut app = front.app(head.as_bytes()).await;
    app.write_all(b"4\r\nbody\r\n0\r\n\r\n").await.unwrap();
    if let Ok(Some((_, answer))) =
        tokio::time::timeout(std::time::Duration::from_secs(5), front.requests.recv()).await
    {
        let (mut far, _breaker) = grant(answer);
        let head = until(&mut far, "\r\n\r\n").await.to_lowercase();
        assert_ne!(
            head.contains("content-length"),
            head.contains("transfer-encoding"),
            "{head}"
        );
        expect_text(&mut far, "4\r\nbody\r\n0\r\n\r\n").await;
    }
}

/// A thousand uploads that come a byte at a time take neither the memory of the port nor the way of others.
#[tokio::test]
async fn slow_bodies_hold_up_nobody() {
    const SLOW: usize = 1_000;
    let mut front = front(FrontOptions::default()).await;
    let head = "PUT http://slow.example/ HTTP/1.1\r\nContent-Length: 100000\r\n\r\n";
    let mut slow = Vec::new();
    for _ in 0..SLOW {
        let mut app = front.app(head.as_bytes()).await;
        let (_, answer) = front.next().await;
        let (mut far, breaker) = grant(answer);
        app.write_all(b"x").await.unwrap();
        until(&mut far, "\r\n\r\nx").await;
        slow.push((app, far, breaker));
    }
    let mut app = front.app(b"GET http://a.example/ HTTP/1.1\r\n\r\n").await;
    let (_, answer) = front.next().await;
    let (mut far, _breaker) = grant(answer);
    until(&mut far, "\r\n\r\n").await;
    far.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        .await
        .unwrap();
    until(&mut app, "ok").await;
    // What is left of them is what they have sent.
    for (app, far, _) in &mut slow {
        app.write_all(b"y").await.unwrap();
        assert_eq!(until(far, "y").await, "y");
    }
}

/// A page can have its requests marked, and has no circuit for each mark.
#[tokio::test]
async fn fields_make_few_isolation_keys() {
    let mut front = front(FrontOptions::default()).await;
    for (n, is_passed) in (0..40).map(|n| (n, n < 4)).chain([(3, true)]) {
        let field = format!("Tor-Stream-Isolation: {n}\r\n");
        let request = format!("GET http://a.example/ HTTP/1.1\r\n{field}\r\n");
        let mut app = front.app(request.as_bytes()).await;
        if is_passed {
            front.next().await;
            continue;
        }
        let told = String::from_utf8(rest(&mut app).await.unwrap()).unwrap();
        assert!(told.starts_with("HTTP/1.1 429 "), "{told}");
        assert!(
            told.contains("Cepa-Failed: request/isolation\r\n"),
            "{told}"
        );
    }
    // Other words keep requests apart as ever.
    let request =
        "GET http://a.example/ HTTP/1.1\r\nProxy-Authorization: Basic Ym9iOnh5Og==\r\n\r\n";
    let _app = front.app(request.as_bytes()).await;
    front.next().await;
}
