#![allow(clippy::unwrap_used, clippy::expect_used)]
//! Who is refused, who has to wait, and who is cut off.

use core::time::Duration;
use std::io;
use std::sync::Arc;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::tests::*;
use super::*;

/// The beginnings of requests that are refused, and what the refusal begins with.
const HOPELESS: [(&[u8], &[u8]); 3] = [
    (b"POST / HTTP/1.1\r\n\r\n", b"HTTP/1.1 501 "),
    (b"CONNECT ", b"HTTP/1.1 431 "),
    (b"\x04\x01\x00\x50\x08\x08\x08\x08", REJECTED),
];

#[tokio::test]
async fn a_refusal_is_read_in_spite_of_unread_bytes() {
    let mut front = front(FrontOptions::default()).await;
    for (begin, refusal) in HOPELESS {
        let mut app = front.app(&[begin, &[b'x'; 900_000]].concat()).await;
        let told = rest(&mut app).await.unwrap();
        assert!(told.starts_with(refusal), "{told:?}");
    }
    assert!(front.requests.try_recv().is_err(), "zero side effects");
}

#[tokio::test]
async fn who_is_refused_and_sends_on_and_on_is_cut_off() {
    // What the kernels of both sides hold comes to what is read.
    const MOST: usize = 32 << 20;
    let front = front(FrontOptions::default()).await;
    let junk = vec![b'x'; 1 << 16];
    for (begin, _) in HOPELESS {
        let mut app = front.app(begin).await;
        let mut sent = 0;
        while sent <= MOST && within(app.write_all(&junk)).await.is_ok() {
            sent += junk.len();
        }
        assert!(sent <= MOST, "the front read on");
    }
}

#[tokio::test]
async fn an_incomplete_request_is_reset_after_its_deadline() {
    let front = front(FrontOptions {
        head_timeout: Duration::from_millis(1),
        ..FrontOptions::default()
    })
    .await;
    let mut app = front.app(&[]).await;
    let error = rest(&mut app).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn connections_over_the_limit_wait() {
    let mut front = front(FrontOptions {
        max_connections: 1,
        ..FrontOptions::default()
    })
    .await;
    let first = front.open().await;
    let mut second = front.app(REQUEST).await;
    // The only permit is taken, so the connector cannot have been asked for the second stream.
    assert!(front.requests.try_recv().is_err());
    drop(first);
    let (_, answer) = front.next().await;
    let (_far, _breaker) = grant(answer);
    expect(&mut second, GRANTED).await;
}

#[tokio::test]
async fn who_gets_no_place_is_told_and_not_left_to_hang() {
    let mut front = front(FrontOptions {
        max_connections: 1,
        patience: Duration::ZERO,
        ..FrontOptions::default()
    })
    .await;
    let _first = front.open().await;
    let mut second = front.app(REQUEST).await;
    let told = rest(&mut second).await.unwrap();
    assert_eq!(told, REJECTED);
    assert!(front.requests.try_recv().is_err());
}

#[tokio::test]
async fn shutdown_resets_what_is_open() {
    let mut front = front(FrontOptions::default()).await;
    let mut open = front.open().await;
    front.stop.send(()).unwrap();
    within(front.task).await.unwrap();
    let error = rest(&mut open.app).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_guarded_port_takes_its_users_alone() {
    let gate = Arc::new(Gate::parse("bob:correct horse\n").unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut front = Front {
        address,
        ..front_at(
            FrontListener::from(listener).behind(gate),
            FrontOptions::default(),
        )
    };
    // Base64 of "bob:correct horse", "bob+x:correct horse" and "bob:wrong".
    let (right, more, wrong) = (
        "Proxy-Authorization: Basic Ym9iOmNvcnJlY3QgaG9yc2U=\r\n",
        "Proxy-Authorization: Basic Ym9iK3g6Y29ycmVjdCBob3JzZQ==\r\n",
        "Proxy-Authorization: Basic Ym9iOndyb25n\r\n",
    );
    for ask in ["CONNECT a.example:80", "GET http://a.example/"] {
        for field in [right, more] {
            let _app = front
                .app(format!("{ask} HTTP/1.1\r\n{field}\r\n").as_bytes())
                .await;
            front.next().await;
        }
        for field in ["", wrong] {
            let mut app = front
                .app(format!("{ask} HTTP/1.1\r\n{field}\r\n").as_bytes())
                .await;
            let told = String::from_utf8(rest(&mut app).await.unwrap()).unwrap();
            assert!(told.starts_with("HTTP/1.1 407 "), "{told}");
            assert!(told.contains("Proxy-Authenticate: Basic "), "{told}");
        }
    }
    let mut app = front.app(REQUEST).await;
    assert_eq!(rest(&mut app).await.unwrap(), REJECTED);
    let mut app = front.app(b"\x05\x01\x00").await;
    assert_eq!(rest(&mut app).await.unwrap(), [5, 0xff]);
    let login = [&b"\x05\x01\x02\x01\x03bob\x05"[..], b"wrong"].concat();
    let mut app = front.app(&login).await;
    assert_eq!(rest(&mut app).await.unwrap(), [5, 2, 1, 1]);
    assert!(front.requests.try_recv().is_err());
}

/// A page that begins requests and gives them up leaves connections behind that look as if they waited for an answer.
#[tokio::test]
async fn who_has_ended_his_sending_and_hears_nothing_gives_way_to_others() {
    const MOST: usize = 4;
    let mut front = front(FrontOptions {
        max_connections: MOST,
        ..FrontOptions::default()
    })
    .await;
    let mut open = front.open().await;
    let mut left = Vec::new();
    for _ in 1..MOST {
        let mut given_up = front.open().await;
        given_up.app.shutdown().await.unwrap();
        assert_eq!(rest(&mut given_up.far).await.unwrap(), b"");
        left.push(given_up);
    }
    // The destination has an answer for the last one, who can wait.
    let waits = left.last_mut().unwrap();
    waits.far.write_all(b"slow").await.unwrap();
    expect(&mut waits.app, b"slow").await;
    for given_up in 0..MOST - 2 {
        let mut newest = front.open().await;
        newest.app.write_all(b"x").await.unwrap();
        expect(&mut newest.far, b"x").await;
        let error = rest(&mut left[given_up].app).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        // Who takes the place may still send.
        left.push(newest);
    }
    let waits = &mut left[MOST - 2];
    for end in [waits, &mut open] {
        end.far.write_all(b"answer").await.unwrap();
        expect(&mut end.app, b"answer").await;
    }
}

/// Another user of the machine can take all places by connections that say nothing, or begin and do not go on.
#[tokio::test]
async fn who_asks_for_nothing_gives_way_to_who_does() {
    const MOST: usize = 4;
    let mut front = front(FrontOptions {
        max_connections: MOST,
        ..FrontOptions::default()
    })
    .await;
    let mut mute = Vec::new();
    for begun in [&b""[..], b"\x05", b"\x05\x01\x00", b"GET http://a"] {
        mute.push(front.app(begun).await);
    }
    let mut open = Vec::new();
    for _ in 0..MOST {
        open.push(front.open().await);
    }
    for mut app in mute {
        assert!(rest(&mut app).await.is_err(), "it has made room");
    }
    for open in &mut open {
        open.app.write_all(b"x").await.unwrap();
        expect(&mut open.far, b"x").await;
    }
}

#[tokio::test]
async fn strangers_before_a_password_have_few_places() {
    let gate = Arc::new(Gate::parse("bob:correct horse\n").unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let options = FrontOptions {
        max_connections: 16,
        ..FrontOptions::default()
    };
    let mut front = Front {
        address,
        ..front_at(FrontListener::from(listener).behind(gate), options)
    };
    let right = b"CONNECT a.example:80 HTTP/1.1\r\nProxy-Authorization: Basic Ym9iOmNvcnJlY3QgaG9yc2U=\r\n\r\n";
    // Whom the port knows is not counted among them.
    let mut known = Vec::new();
    for _ in 0..8 {
        let app = front.app(right).await;
        known.push((app, front.next().await));
    }
    let mut strangers = Vec::new();
    for _ in 0..40 {
        strangers.push(front.app(b"CONNECT a.exa").await);
    }
    // The oldest of them are sent away, and there is a place for whoever has a password.
    let error = rest(&mut strangers[0]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    let mut app = front.app(right).await;
    let (_, answer) = front.next().await;
    let (_far, _breaker) = grant(answer);
    expect(&mut app, &connected(Protocol::HttpConnect)).await;
    for (mut app, (_, answer)) in known {
        let (_far, _breaker) = grant(answer);
        expect(&mut app, &connected(Protocol::HttpConnect)).await;
    }
}
