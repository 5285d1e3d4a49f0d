#![allow(clippy::unwrap_used, clippy::expect_used)]
//! Streams of applications from their request to their end.

use std::io;

use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};

use super::tests::*;
use super::*;

#[tokio::test]
async fn a_stream_carries_both_ways_and_early_data_goes_first() {
    let mut front = front(FrontOptions::default()).await;
    let mut app = front.app(&[REQUEST, b"early"].concat()).await;
    let (request, answer) = front.next().await;
    assert_eq!(request.early, b"early");
    assert_eq!(request.target.port, 80);
    assert_eq!(request.isolation.protocol, Protocol::Socks4);
    assert_eq!(request.isolation.listener, 7);
    let this_machine = Origin::Ip([127, 0, 0, 1].into());
    assert_eq!(request.isolation.client, this_machine);
    app.write_all(b" ahead").await.unwrap();
    let (mut far, _breaker) = grant(answer);
    expect(&mut app, GRANTED).await;
    expect(&mut far, b" ahead").await;
    far.write_all(b"answer").await.unwrap();
    expect(&mut app, b"answer").await;
}

#[tokio::test]
async fn who_is_answered_early_sends_his_first_words_with_the_request() {
    let options = FrontOptions {
        answer_early: true,
        ..FrontOptions::default()
    };
    let mut front = front(options).await;
    let mut app = front.app(REQUEST).await;
    expect(&mut app, GRANTED).await;
    app.write_all(b"question").await.unwrap();
    let (request, answer) = front.next().await;
    // On a slow machine the question may arrive after the answer to the request.
    let later = if request.early.is_empty() {
        &b"question"[..]
    } else {
        b""
    };
    assert!(later.len() + request.early.len() == b"question".len());
    let (mut far, _breaker) = grant(answer);
    expect(&mut far, later).await;
    far.write_all(b"answer").await.unwrap();
    expect(&mut app, b"answer").await;

    // An application that waits for the other side to begin is not kept waiting.
    let mut app = front.app(REQUEST).await;
    expect(&mut app, GRANTED).await;
    let (request, answer) = front.next().await;
    assert_eq!(request.early, b"");
    let (mut far, _breaker) = grant(answer);
    far.write_all(b"hello").await.unwrap();
    expect(&mut app, b"hello").await;

    // The application sees a failure as a reset, never as an end of file.
    let mut app = front.app(&[REQUEST, b"question"].concat()).await;
    expect(&mut app, GRANTED).await;
    let (_, answer) = front.next().await;
    answer.send(Err(Failure::Refused)).ok().unwrap();
    let error = rest(&mut app).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn each_direction_ends_by_itself() {
    let mut front = front(FrontOptions::default()).await;
    let Open {
        mut app,
        mut far,
        breaker: _breaker,
    } = front.open().await;
    app.write_all(b"question").await.unwrap();
    app.shutdown().await.unwrap();
    assert_eq!(rest(&mut far).await.unwrap(), b"question");
    far.write_all(b"long answer").await.unwrap();
    far.shutdown().await.unwrap();
    assert_eq!(rest(&mut app).await.unwrap(), b"long answer");

    let Open {
        mut app,
        mut far,
        breaker: _breaker,
    } = front.open().await;
    far.write_all(b"all that there is").await.unwrap();
    far.shutdown().await.unwrap();
    assert_eq!(rest(&mut app).await.unwrap(), b"all that there is");
    app.write_all(b"thanks").await.unwrap();
    app.shutdown().await.unwrap();
    assert_eq!(rest(&mut far).await.unwrap(), b"thanks");
}

#[tokio::test]
async fn a_broken_stream_is_a_reset_and_no_end() {
    let mut front = front(FrontOptions::default()).await;
    let Open {
        mut app,
        mut far,
        breaker,
    } = front.open().await;
    far.write_all(b"half").await.unwrap();
    expect(&mut app, b"half").await;
    breaker.send(()).unwrap();
    let error = rest(&mut app).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn an_end_after_a_half_close_can_still_be_a_reset() {
    let mut front = front(FrontOptions::default()).await;
    let Open {
        mut app,
        mut far,
        breaker,
    } = front.open().await;
    app.shutdown().await.unwrap();
    assert_eq!(rest(&mut far).await.unwrap(), b"");
    breaker.send(()).unwrap();
    let error = rest(&mut app).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn an_application_that_resets_drops_the_stream() {
    let mut front = front(FrontOptions::default()).await;
    let Open {
        app,
        mut far,
        breaker: _breaker,
    } = front.open().await;
    reset(app);
    assert_eq!(rest(&mut far).await.unwrap(), b"");
    // The whole stream is gone, not only one direction.
    assert!(far.write_all(b"x").await.is_err());
}

#[tokio::test]
async fn an_application_that_resets_gives_its_request_up() {
    let mut front = front(FrontOptions::default()).await;
    for ahead in [b"".as_slice(), b"ahead"] {
        let mut app = front.app(REQUEST).await;
        let (_, mut answer) = front.next().await;
        app.write_all(ahead).await.unwrap();
        reset(app);
        within(answer.closed()).await;
    }
}

#[tokio::test]
async fn an_end_of_sending_before_the_reply_is_passed_on() {
    for answer_early in [false, true] {
        let mut front = front(FrontOptions {
            answer_early,
            ..FrontOptions::default()
        })
        .await;
        for (with, ahead) in [(b"".as_slice(), b"".as_slice()), (b"ques", b"tion")] {
            let mut app = front.app(&[REQUEST, with].concat()).await;
            app.write_all(ahead).await.unwrap();
            app.shutdown().await.unwrap();
            let (request, answer) = front.next().await;
            let (mut far, _breaker) = grant(answer);
            let said = [request.early, rest(&mut far).await.unwrap()].concat();
            assert_eq!(said, [with, ahead].concat());
            far.write_all(b"answer").await.unwrap();
            far.shutdown().await.unwrap();
            let told = rest(&mut app).await.unwrap();
            assert_eq!(told, [GRANTED, b"answer"].concat());
        }
    }
}

#[tokio::test]
async fn a_failure_is_told() {
    let mut front = front(FrontOptions::default()).await;
    let mut app = front.app(REQUEST).await;
    let (_, answer) = front.next().await;
    assert!(answer.send(Err(Failure::Refused)).is_ok());
    assert_eq!(rest(&mut app).await.unwrap(), REJECTED);

    let mut app = front.app(b"CONNECT a.example:1 HTTP/1.1\r\n\r\n").await;
    let (_, answer) = front.next().await;
    assert!(answer.send(Err(Failure::TimedOut)).is_ok());
    let told = rest(&mut app).await.unwrap();
    assert!(told.starts_with(b"HTTP/1.1 504 "));
}

#[tokio::test]
async fn a_unix_socket_is_a_port_too_and_says_who_comes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("port.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let mut front = front_at(listener, FrontOptions::default());
    let mut app = UnixStream::connect(&path).await.unwrap();
    app.write_all(REQUEST).await.unwrap();
    let (request, answer) = front.next().await;
    let uid = rustix::process::getuid().as_raw();
    assert_eq!(request.isolation.client, Origin::Uid(uid));
    let (far, _breaker) = grant(answer);
    expect(&mut app, GRANTED).await;
    talks(app, far).await;
}

#[tokio::test]
async fn socks5_credentials_isolate() {
    let mut front = front(FrontOptions::default()).await;
    let mut app = front.app(b"\x05\x02\x00\x02").await;
    expect(&mut app, &[5, 2]).await;
    app.write_all(b"\x01\x03bob\x01x").await.unwrap();
    expect(&mut app, &[1, 0]).await;
    app.write_all(b"\x05\x01\x00\x03\x09a.example\x00\x50")
        .await
        .unwrap();
    let (request, answer) = front.next().await;
    assert_eq!(request.isolation.marks.credentials.unwrap().user, b"bob");
    assert_eq!(request.target.host, Host::Name("a.example".into()));
    let (_far, _breaker) = grant(answer);
    expect(&mut app, &connected(Protocol::Socks5)).await;
}
