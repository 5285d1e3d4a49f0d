//! Local programs that mean harm, over the socket itself.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

use super::*;
use crate::control::router::{MAX_BODY_BYTES, guarded};
use crate::control::sight::tests::no_roles;
use crate::control::socket::SOCKET;

const ASK: &[u8] = b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// A node that is asked, until it is dropped.
struct Asked {
    dir: tempfile::TempDir,
    serving: JoinHandle<()>,
}

impl Asked {
    fn by(router: Router) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let control = Control::listen(dir.path()).unwrap();
        let serving = tokio::spawn(serve(control, router));
        Self { dir, serving }
    }

    fn start() -> Self {
        Self::by(router(Arc::new(no_roles())))
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(self.dir.path().join(SOCKET))
            .await
            .unwrap()
    }

    /// Writes these bytes, and reads to the end.
    async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        let _ = stream.write_all(bytes).await;
        text(&mut stream).await
    }

    /// An honest request is answered.
    async fn answers(&self) {
        let answer = self.raw(ASK).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        assert!(answer.contains("\"process\""), "{answer}");
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn text(stream: &mut UnixStream) -> String {
    let mut got = Vec::new();
    let _ = stream.read_to_end(&mut got).await;
    String::from_utf8_lossy(&got).into_owned()
}

#[tokio::test(start_paused = true)]
async fn half_a_request_is_waited_for_for_a_while() {
    let node = Asked::start();
    for half in [
        &b""[..],
        b"G",
        b"GET /v1/status HTTP/1.1\r\nHost: local",
        b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\n",
    ] {
        let began = tokio::time::Instant::now();
        let answer = node.raw(half).await;
        assert!(!answer.contains("200"), "{answer}");
        assert!(began.elapsed() <= 2 * HEAD_DEADLINE);
        node.answers().await;
    }
    // A byte now and then wins nothing.
    let mut slow = node.connect().await;
    let (mut writes, began) = (0, tokio::time::Instant::now());
    for byte in ASK {
        tokio::time::sleep(Duration::from_secs(1)).await;
        if slow.write_all(&[*byte]).await.is_err() {
            break;
        }
        writes += 1;
    }
    assert!(writes < 10, "{writes} bytes were taken");
    assert!(began.elapsed() <= 3 * HEAD_DEADLINE);
    node.answers().await;
}

#[tokio::test]
async fn what_is_no_request_is_refused_and_harms_nobody() {
    let node = Asked::start();
    for bytes in [
        &b"{\"version\":1,\"command\":\"status\"}\n"[..],
        b"\r\n\r\n\r\n",
        b"GET /v1/status HTTP/0.9\r\nHost: localhost\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /v1/status HTTP/1.1\r\n\r\n",
        b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
        b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\nOrigin: null\r\n\r\n",
        b"POST /v1/identity HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"POST /v1/identity HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n",
    ] {
        let mut stream = node.connect().await;
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        let answer = text(&mut stream).await;
        let shown = String::from_utf8_lossy(bytes);
        assert!(!answer.contains("200 OK"), "{shown}: {answer}");
        node.answers().await;
    }
}

#[tokio::test]
async fn heads_and_bodies_have_ends() {
    let node = Asked::start();
    let endless_fields = b"a: b\r\n".repeat(50_000);
    let endless_line = vec![b'a'; 300_000];
    for (begin, rest) in [
        (
            &b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\n"[..],
            &endless_fields,
        ),
        (
            b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\nA: ",
            &endless_line,
        ),
        (b"GET /", &endless_line),
    ] {
        let mut stream = node.connect().await;
        let _ = stream.write_all(begin).await;
        // The node stops taking it in: what is left cannot be written.
        let written = stream.write_all(rest).await;
        let answer = text(&mut stream).await;
        assert!(!answer.contains("200 OK"), "{answer}");
        assert!(written.is_err() || answer.contains("43"), "{answer}");
        node.answers().await;
    }
    let head = "POST /v1/reach HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    let said = format!("{head}Content-Length: {}\r\n\r\n", MAX_BODY_BYTES + 1);
    let answer = node.raw(said.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.contains("too-long"), "{answer}");
    let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n");
    let mut stream = node.connect().await;
    stream.write_all(chunked.as_bytes()).await.unwrap();
    let chunk = format!("400\r\n{}\r\n", " ".repeat(0x400));
    let (mut reads, mut writes) = stream.split();
    let endless = async { while writes.write_all(chunk.as_bytes()).await.is_ok() {} };
    let mut got = Vec::new();
    tokio::select! {
        biased;
        _ = reads.read_to_end(&mut got) => {}
        () = endless => { let _ = reads.read_to_end(&mut got).await; }
    }
    let answer = String::from_utf8_lossy(&got);
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    node.answers().await;
}

#[tokio::test]
async fn requests_of_one_connection_are_answered_in_turn() {
    let node = Asked::start();
    let one = b"GET /v1/nothing HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut all = one.repeat(200);
    all.extend_from_slice(ASK);
    let answer = node.raw(&all).await;
    assert_eq!(answer.matches("HTTP/1.1 404 Not Found").count(), 200);
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 1);
    // Who asks and never reads is not answered for ever.
    let mut deaf = node.connect().await;
    let writing = async {
        let mut written = 0;
        while deaf.write_all(one).await.is_ok() {
            written += one.len();
        }
        written
    };
    tokio::select! {
        written = writing => panic!("the node ended after {written} bytes"),
        () = async { for _ in 0..50 { node.answers().await } } => {}
    }
}

#[tokio::test]
async fn a_thousand_connections_keep_nobody_out() {
    let node = Asked::start();
    let mut silent = Vec::new();
    for n in 0..1_000 {
        let mut stream = node.connect().await;
        if n % 2 == 0 {
            let _ = stream.write_all(b"GET /v1/status HTTP/1.1\r\n").await;
        }
        silent.push(stream);
        if n % 100 == 0 {
            node.answers().await;
        }
    }
    node.answers().await;
    // No more are held than there are places.
    let mut ended = 0;
    for stream in &mut silent[..1_000 - MAX_CONNECTIONS] {
        ended += usize::from(text(stream).await.is_empty());
    }
    assert_eq!(ended, 1_000 - MAX_CONNECTIONS);
}

#[tokio::test]
async fn a_request_under_way_is_not_given_up_for_who_comes_later() {
    let gate = Arc::new(Notify::new());
    let opened = gate.clone();
    let waits = async move || {
        opened.notified().await;
        "through"
    };
    let node = Asked::by(guarded(Router::new().route("/", get(waits))));
    let ask = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let mut waiting = node.connect().await;
    waiting.write_all(ask).await.unwrap();
    let mut crowd = Vec::new();
    for _ in 0..4 * MAX_CONNECTIONS {
        crowd.push(node.connect().await);
    }
    // The oldest of the crowd had to make room by now.
    assert_eq!(text(&mut crowd[0]).await, "");
    gate.notify_one();
    assert!(text(&mut waiting).await.ends_with("through"));
}

#[test]
fn the_owner_and_root_are_answered() {
    assert!(is_owner(1_000, 1_000) && is_owner(0, 1_000) && is_owner(0, 0));
    assert!(!is_owner(1_001, 1_000) && !is_owner(1_000, 0));
}
