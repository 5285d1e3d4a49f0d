//! Connections that somebody passes on for a program (the command 0xF3): whose they are, and what is refused in them.
#![allow(clippy::unwrap_used)]

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use super::tests::*;
use super::*;

/// Asks for the port, as `user`.
fn ask(user: &[u8]) -> Vec<u8> {
    let len = u8::try_from(user.len()).unwrap();
    [
        &[5, 1, 2, 1, len],
        user,
        &[1, b'x', 5, 0xf3, 0, 1, 0, 0, 0, 0, 0, 0],
    ]
    .concat()
}

/// What the port says when it is there for another program.
const THERE: [u8; 14] = [5, 2, 1, 0, 5, 0, 0, 1, 0, 0, 0, 0, 0, 0];
/// The reply to a command that is not supported.
const REFUSED: [u8; 10] = [5, 7, 0, 1, 0, 0, 0, 0, 0, 0];

async fn passed_on(front: &Front, user: &[u8], said: &[u8]) -> TcpStream {
    let mut app = front.app(&ask(user)).await;
    expect(&mut app, &THERE).await;
    app.write_all(said).await.unwrap();
    app
}

#[tokio::test]
async fn another_programs_connection_is_served_in_each_protocol() {
    let mut front = front(FrontOptions::default()).await;
    let socks5 = [
        &[5, 1, 2, 1, 1, b'p', 1, b'q'][..],
        b"\x05\x01\x00\x01\x08\x08\x08\x08\x00\x50",
    ]
    .concat();
    let own = Credentials {
        user: b"p".to_vec(),
        password: b"q".to_vec(),
    };
    for (said, protocol, credentials) in [
        (REQUEST.to_vec(), Protocol::Socks4, None),
        (socks5, Protocol::Socks5, Some(own)),
        (
            b"CONNECT a.example:80 HTTP/1.1\r\n\r\n".to_vec(),
            Protocol::HttpConnect,
            None,
        ),
        (
            b"GET http://a.example/ HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
            Protocol::HttpForward,
            None,
        ),
    ] {
        // What comes together is told apart as well as what comes by itself.
        for at_once in [false, true] {
            let _app = match at_once {
                false => passed_on(&front, b"an exec", &said).await,
                true => front.app(&[ask(b"an exec"), said.clone()].concat()).await,
            };
            let (request, _answer) = front.next().await;
            let key = request.isolation;
            assert_eq!((key.protocol, key.listener), (protocol, 7));
            assert_eq!(key.marks.credentials, credentials, "{protocol:?}");
            let within = key.within.unwrap();
            assert_eq!(
                (&within.user[..], &within.password[..]),
                (&b"an exec"[..], &b"x"[..])
            );
        }
    }
    // Others are within nothing.
    let _app = front.app(REQUEST).await;
    assert_eq!(front.next().await.0.isolation.within, None);
}

#[tokio::test]
async fn bytes_go_both_ways_and_ends_are_ends() {
    let mut front = front(FrontOptions::default()).await;
    let mut app = passed_on(&front, b"an exec", REQUEST).await;
    let (_, answer) = front.next().await;
    let (far, _breaker) = grant(answer);
    expect(&mut app, GRANTED).await;
    talks(app, far).await;
}

#[tokio::test]
async fn the_port_is_not_passed_on_twice_nor_by_nobody() {
    let front = front(FrontOptions::default()).await;
    let mut app = passed_on(&front, b"an exec", &ask(b"another")).await;
    expect(&mut app, &[5, 2, 1, 0]).await;
    assert_eq!(rest(&mut app).await.unwrap(), REFUSED);
    // Who does not say for whom.
    let mut app = front.app(&[5, 1, 0, 5, 0xf3, 0, 1, 0, 0, 0, 0, 0, 0]).await;
    expect(&mut app, &[5, 0]).await;
    assert_eq!(rest(&mut app).await.unwrap(), REFUSED);
    // Where a password is asked for, the program's own would count for nothing.
    let gate = Gate::parse("bob:correct horse\n").unwrap().into();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let guarded = Front {
        address,
        ..front_at(
            FrontListener::from(listener).behind(gate),
            FrontOptions::default(),
        )
    };
    let mut said = b"\x05\x01\x02\x01\x03bob\x0dcorrect horse".to_vec();
    said.extend([5, 0xf3, 0, 1, 0, 0, 0, 0, 0, 0]);
    let mut app = guarded.app(&said).await;
    expect(&mut app, &[5, 2, 1, 0]).await;
    assert_eq!(rest(&mut app).await.unwrap(), REFUSED);
    // A port of this machine for datagrams would not be where the program is.
    let associate = [5, 1, 0, 5, 3, 0, 1, 0, 0, 0, 0, 0, 0];
    let mut app = passed_on(&front, b"an exec", &associate).await;
    expect(&mut app, &[5, 0]).await;
    assert_eq!(rest(&mut app).await.unwrap(), REFUSED);
    // A page in a browser gets the same answer as it would by itself: none.
    let page = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://a.example\r\n\r\n";
    let mut app = passed_on(&front, b"an exec", page).await;
    assert_eq!(rest(&mut app).await.unwrap(), b"");
}
