//! Tests of what a cache answers: nothing new, a difference, the whole, or that it is busy.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use core::time::Duration;
use std::net::IpAddr;
use std::sync::Arc;

use cepa_common::dir::{Consensus, Entry, Flags, Inserted, apply};
use cepa_common::net::directory::{DirRequest, DirResponse, FetchError, fetch, fetch_newer};
use cepa_common::testkit::{self, body_of, descriptor_at, lifetime_of, network, virtual_clock};

use super::{DirectoryServer, serve_connection_from};
use crate::admission::Asker;

const NOW: u64 = 1_900_000_000;
const SOON: Duration = Duration::from_secs(5);
const CAP: usize = 1 << 20;

fn consensus(server: &DirectoryServer, valid_after: u64, relays: &[u8]) -> Arc<Consensus> {
    let flags = Flags::VALID | Flags::RUNNING;
    let entries = relays
        .iter()
        .map(|n| Entry::new(&descriptor_at(*n, 1), flags, 10));
    let body = body_of(lifetime_of(valid_after, 10, 600), entries.collect());
    testkit::consensus(&server.network(), &body)
}

fn server() -> Arc<DirectoryServer> {
    DirectoryServer::new(Arc::new(network(1)), virtual_clock(NOW * 1_000), None)
}

fn open(server: &Arc<DirectoryServer>, peer: Option<IpAddr>) -> tokio::io::DuplexStream {
    let (near, far) = tokio::io::duplex(16 * 1_024);
    let asker = peer.map_or(Asker::Stream, Asker::Stranger);
    tokio::spawn(serve_connection_from(far, Arc::clone(server), asker));
    near
}

async fn ask(server: &Arc<DirectoryServer>, request: DirRequest) -> DirResponse {
    fetch(open(server, None), request, CAP, SOON).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn nothing_new_a_difference_or_the_whole() {
    let server = server();
    let held: Vec<_> = (0..3)
        .map(|n| {
            consensus(
                &server,
                NOW - 30 + 10 * n,
                &[10, 11, 12, 13 + u8::try_from(n).unwrap()],
            )
        })
        .collect();
    for consensus in &held {
        assert_eq!(server.offer(Arc::clone(consensus)), Ok(Inserted::Newest));
    }
    let newest = &held[2];
    let nothing = ask(&server, DirRequest::newer(newest.digest())).await;
    assert_eq!(nothing, DirResponse::NotModified);
    for base in &held[..2] {
        let DirResponse::Difference(bytes) = ask(&server, DirRequest::newer(base.digest())).await
        else {
            panic!("no difference");
        };
        assert!(bytes.len() < newest.bytes().len());
        let made = apply(base, &bytes, &server.network()).unwrap();
        assert_eq!(made.bytes(), newest.bytes());
        // The difference is asked for twice and made once.
        ask(&server, DirRequest::newer(base.digest())).await;
        let fetched = fetch_newer(open(&server, None), &server.network(), Some(base), SOON).await;
        assert_eq!(fetched.unwrap().unwrap().digest(), newest.digest());
    }
    assert_eq!(server.differences.count(), 2);
    // A client that does not say that it takes differences gets the whole, and so does one that holds what the cache
    // does not.
    let whole = DirResponse::Ok(newest.shared_bytes());
    assert_eq!(
        ask(&server, DirRequest::consensus(Some(held[0].digest()))).await,
        whole
    );
    let unknown = consensus(&server, NOW - 50, &[10]).digest();
    assert_eq!(ask(&server, DirRequest::newer(unknown)).await, whole);
    // A newer consensus makes the old differences worthless.
    server.offer(consensus(&server, NOW, &[10])).unwrap();
    let next = ask(&server, DirRequest::newer(newest.digest())).await;
    assert!(matches!(next, DirResponse::Difference(_)));
    assert_eq!(server.differences.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_address_that_asks_too_often_is_told_to_come_later() {
    // The bucket is that of the default parameters, as in a network that is not local.
    let params = testkit::params(&[
        ("directory_requests_per_minute", 3),
        ("directory_connections", 8),
    ]);
    let network = Arc::new(testkit::network_with(1, params));
    let server = DirectoryServer::new(network, virtual_clock(NOW * 1_000), None);
    server.offer(consensus(&server, NOW, &[10])).unwrap();
    let from = |last: u8| Some(IpAddr::from([192, 0, 2, last]));
    let ask = async |peer| fetch(open(&server, peer), DirRequest::consensus(None), CAP, SOON).await;
    let is = |wanted: u16, answer: &Result<DirResponse, FetchError>| matches!(answer, Err(error @ FetchError::Refused { status, .. }) if *status == wanted && !error.is_misbehaviour());
    for _ in 0..3 {
        assert!(ask(from(1)).await.is_ok());
    }
    assert!(is(429, &ask(from(1)).await));
    assert!(ask(from(2)).await.is_ok());
    assert!(ask(None).await.is_ok());
    // Eight connections that say nothing fill the places. At twice as many, no connection is accepted.
    let mut idle: Vec<_> = (0..8).map(|_| open(&server, None)).collect();
    tokio::task::yield_now().await;
    assert!(is(503, &ask(None).await));
    // An upload is still taken, because it has a queue of its own.
    let vote = fetch(
        open(&server, None),
        DirRequest::send_signature("x"),
        CAP,
        SOON,
    )
    .await;
    assert!(matches!(vote, Err(FetchError::Refused { status: 403, .. })));
    idle.extend((0..8).map(|_| open(&server, None)));
    tokio::task::yield_now().await;
    let unanswered = ask(None).await.unwrap_err();
    assert!(
        matches!(unanswered, FetchError::Unanswered(_)),
        "{unanswered}"
    );
    assert!(!unanswered.is_misbehaviour());
    drop(idle);
    // Places become free, and buckets fill.
    tokio::time::advance(Duration::from_secs(20)).await;
    tokio::task::yield_now().await;
    assert!(ask(from(1)).await.is_ok());
}

/// protocol.md 6.12.3: what is not HTTP is refused, and the connection ends.
#[tokio::test(start_paused = true)]
async fn what_is_not_http_is_refused_and_closed() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let server = server();
    let long = format!(
        "GET /cepa/1/network HTTP/1.1\r\nhost: {}\r\n\r\n",
        "x".repeat(10_000)
    );
    let rows = [
        ("GET nothing at all\r\n\r\n", "400 Bad Request"),
        ("GET /cepa/1/network\r\n\r\n", "400 Bad Request"),
        ("GET / HTTP/9.9\r\n\r\n", "400 Bad Request"),
        (
            "GET /cepa/1/network HTTP/1.1\r\nno colon\r\n\r\n",
            "400 Bad Request",
        ),
        (
            "POST /cepa/1/vote/ HTTP/1.1\r\ncontent-length: x\r\n\r\n",
            "400 Bad Request",
        ),
        ("\0\0\0\0\r\n\r\n", "400 Bad Request"),
        (long.as_str(), "431 Request Header Fields Too Large"),
    ];
    for (said, status) in rows {
        let mut io = open(&server, None);
        io.write_all(said.as_bytes()).await.unwrap();
        let mut answer = String::new();
        io.read_to_string(&mut answer).await.unwrap();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}\r\n")),
            "{said}: {answer}"
        );
        assert!(
            answer.contains("connection: close\r\n") && answer.lines().count() == 6,
            "{said}: {answer}"
        );
    }
}
