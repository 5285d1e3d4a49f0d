#![allow(clippy::unwrap_used, clippy::expect_used)]
//! The `dns` listener, asked by hand and by `dig`.

use std::io;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;

use cepa_common::dns::{Answer, Question, RecordType, framed};
use cepa_common::world::Sockets;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::tests::*;
use super::*;

/// A listener for DNS at `address`, whose port is free for TCP and UDP.
pub(super) async fn dns_at(address: SocketAddr) -> Front {
    loop {
        let stream = TcpListener::bind(address).await.unwrap();
        let found = stream.local_addr().unwrap();
        match Sockets::Tcp.bind_datagrams(found) {
            Ok(datagrams) => {
                let listener = FrontListener::dns(stream, datagrams);
                return Front {
                    address: found,
                    ..front_at(listener, FrontOptions::default())
                };
            }
            // Another test has the port by UDP.
            Err(error) if address.port() == 0 && error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => panic!("{error}"),
        }
    }
}

async fn dns() -> Front {
    dns_at(([127, 0, 0, 1], 0).into()).await
}

/// A query, with what whoever asks takes by UDP.
fn query(name: &str, id: u16, takes: Option<u16>) -> Vec<u8> {
    let asked = Question::new(name, RecordType::TXT).unwrap();
    let mut query = asked.to_query(id).unwrap();
    if let Some(takes) = takes {
        // EDNS: a record of the root, of type OPT, whose class is a length.
        query[11] = 1;
        query.extend([0, 0, 41]);
        query.extend(takes.to_be_bytes());
        query.extend([0; 6]);
    }
    query
}

/// What the listener says by UDP to these bytes; the socket goes on to be asked by.
async fn told(
    socket: &cepa_common::world::datagrams::DatagramSocket,
    to: SocketAddr,
    bytes: &[u8],
) -> Vec<u8> {
    socket.send_to(bytes, to).await.unwrap();
    let mut got = None;
    while got.is_none() {
        let each = |from, bytes: &[u8]| {
            assert_eq!(from, to);
            got = Some(bytes.to_vec());
        };
        within(socket.receive(each)).await.unwrap();
    }
    got.unwrap()
}

fn is_cut(answer: &[u8]) -> bool {
    answer[2] & 2 != 0
}

#[tokio::test]
async fn queries_by_udp_have_answers_of_the_length_that_is_taken() {
    let front = dns().await;
    let socket = Sockets::Tcp
        .bind_datagrams(([127, 0, 0, 1], 0).into())
        .unwrap();
    for (name, takes, cut) in [
        ("a.example", None, false),
        ("a.example", Some(4_000), false),
        // It has 700 bytes.
        ("some.example", None, true),
        ("some.example", Some(600), true),
        ("some.example", Some(1_000), false),
        // It has 2,000, and answers by UDP have 1,232 at most.
        ("many.example", Some(4_000), true),
    ] {
        let answer = told(&socket, front.address, &query(name, 7, takes)).await;
        assert_eq!(Answer::id(&answer), Some(7));
        assert_eq!(is_cut(&answer), cut, "{name} {takes:?}");
        assert!(answer.len() <= usize::from(takes.unwrap_or(512).min(1_232)));
    }
    // By TCP they are whole.
    let mut app = TcpStream::connect(front.address).await.unwrap();
    app.write_all(&framed(&query("many.example", 8, None)).unwrap())
        .await
        .unwrap();
    let mut answer = vec![0; usize::from(app.read_u16().await.unwrap())];
    app.read_exact(&mut answer).await.unwrap();
    assert!(!is_cut(&answer) && answer.len() > 1_232);
    // What is no query has no answer, and the next one has.
    let refused = [0, 9, 0x10, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    socket.send_to(b"x", front.address).await.unwrap();
    socket.send_to(&answer, front.address).await.unwrap();
    socket.send_to(&[0; 5_000], front.address).await.unwrap();
    let answer = told(&socket, front.address, &refused).await;
    assert_eq!((Answer::id(&answer), answer[3] & 15), (None, 4), "NOTIMP");
}

#[tokio::test]
async fn a_web_page_that_posts_to_it_is_reset() {
    let front = dns().await;
    for said in [&b"POST / HTTP/1.1\r\n\r\n"[..], b"GET / HTTP/1.1\r\n\r\n"] {
        let mut app = front.app(said).await;
        let error = rest(&mut app).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}

/// Whoever makes the listener answer what is no query could have it and another server talk for ever.
#[tokio::test]
async fn what_is_no_query_has_no_answer() {
    let front = dns().await;
    let socket = Sockets::Tcp
        .bind_datagrams(([127, 0, 0, 1], 0).into())
        .unwrap();
    let asked = query("some.example", 5, None);
    let mut answered = asked.clone();
    answered[2] |= 0x80;
    let mut cut = asked.clone();
    cut.truncate(11);
    let long = [&asked[..], &[0; 9_000]].concat();
    for no_query in [&answered[..], &cut, &long, &[], &[0xff; 600]] {
        // The kernel may have no room for so many at once; then this one is lost, which is as good.
        let _ = socket.send_to(no_query, front.address).await;
    }
    // The first answer is that to the query.
    let asked = query("some.example", 6, None);
    let answer = told(&socket, front.address, &asked);
    assert_eq!(within(answer).await[..2], [0, 6]);
}

#[tokio::test]
async fn queries_by_udp_are_bounded_and_charged() {
    const MOST: usize = 256;
    let front = dns().await;
    let socket = Sockets::Tcp
        .bind_datagrams(([127, 0, 0, 1], 0).into())
        .unwrap();
    let mut most = 0;
    for id in 0..2 * MOST as u16 {
        socket
            .send_to(&query("silent.example", id, None), front.address)
            .await
            .unwrap();
        tokio::task::yield_now().await;
        most = most.max(front.budget.used());
    }
    // Those that are refused at once have no place, and say that all before them were read.
    let answer = told(
        &socket,
        front.address,
        &[0, 9, 0x10, 0, 0, 1, 0, 0, 0, 0, 0, 0],
    );
    within(answer).await;
    most = most.max(front.budget.used());
    assert_eq!(most, MOST * 4_096);
    // Names that nobody answers for keep out nobody: the oldest query makes room.
    let one_more = query("some.example", 7, None);
    let answer = told(&socket, front.address, &one_more);
    assert_eq!(within(answer).await[..2], [0, 7]);
    assert!(Arc::strong_count(&front.answering) <= MOST + 2);
    most = most.max(front.budget.used());
    assert_eq!(most, MOST * 4_096);
    let _ = front.stop.send(());
    within(front.task).await.unwrap();
    assert_eq!(front.budget.used(), 0);
}

#[tokio::test]
async fn dig_is_answered_by_udp_and_by_tcp() {
    let front = dns().await;
    let port = front.address.port().to_string();
    let dig = async |args: &'static [&'static str]| {
        let mut command = Command::new("dig");
        command
            .args(["@127.0.0.1", "-p", &port, "+tries=1", "+time=10", "TXT"])
            .args(args);
        let ran = tokio::task::spawn_blocking(move || command.output())
            .await
            .unwrap()
            .ok()?;
        assert!(ran.status.success(), "{args:?}: {ran:?}");
        Some(String::from_utf8(ran.stdout).unwrap())
    };
    let Some(said) = dig(&["some.example"]).await else {
        eprintln!("dig is not installed; what it would do is not tested");
        return;
    };
    assert!(
        said.contains("status: NOERROR") && said.contains("(UDP)"),
        "{said}"
    );
    assert_eq!(said.matches("said").count(), 5, "{said}");
    let said = dig(&["+tcp", "+noedns", "some.example"]).await.unwrap();
    assert!(
        said.contains("(TCP)") && said.matches("said").count() == 5,
        "{said}"
    );
    // A long answer is cut, and asked for again by TCP.
    let said = dig(&["many.example"]).await.unwrap();
    assert!(said.contains("Truncated, retrying in TCP"), "{said}");
    assert_eq!(said.matches("said").count(), 15, "{said}");
    let said = dig(&["+short", "a.example"]).await.unwrap();
    assert_eq!(said, "");
}
