#![allow(clippy::unwrap_used, clippy::expect_used)]
//! Names and the resolver of an exit, as applications ask for them.

use cepa_common::dns::{self, Frames, Question, RecordType, framed};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::tests::*;
use super::*;

/// What a port says to what an application says first.
async fn told(first: &[u8]) -> Vec<u8> {
    let front = front(FrontOptions::default()).await;
    let mut app = front.app(first).await;
    let mut all = Vec::new();
    app.read_to_end(&mut all).await.unwrap();
    all
}

#[tokio::test]
async fn the_resolver_of_an_exit_is_reached_by_its_name() {
    let question = Question::new("a.example", RecordType::MX).unwrap();
    let query = |id| framed(&question.to_query(id).unwrap()).unwrap();
    let queries = [query(7), query(8)].concat();
    for (head, reply) in [
        (
            &b"\x04\x01\x00\x35\x00\x00\x00\x01\x00Resolver.cepa.alt\x00"[..],
            GRANTED,
        ),
        (
            b"CONNECT resolver.cepa.alt:53 HTTP/1.1\r\n\r\n",
            b"HTTP/1.1 200 Connection established\r\n\r\n",
        ),
    ] {
        // The second query comes in two parts, and then the application says that there are no more.
        let front = front(FrontOptions::default()).await;
        let cut = queries.len() - 3;
        let mut app = front.app(&[head, &queries[..cut]].concat()).await;
        expect(&mut app, reply).await;
        app.write_all(&queries[cut..]).await.unwrap();
        app.shutdown().await.unwrap();
        let mut frames = Frames::new(512);
        frames.push(&rest(&mut app).await.unwrap());
        let mut ids = Vec::new();
        while let Some(message) = frames.next_message().unwrap() {
            assert!(dns::Answer::read(&message, &question, false).is_ok());
            ids.extend(dns::Answer::id(&message));
        }
        ids.sort_unstable();
        assert_eq!(ids, [7, 8]);
        // What is no query is a reset.
        let mut app = front.app(&[head, &[0, 1]].concat()).await;
        expect(&mut app, reply).await;
        assert!(rest(&mut app).await.is_err());
    }
    // By another port the name is what it was.
    let other = told(b"\x04\x01\x00\x50\x00\x00\x00\x01\x00resolver.cepa.alt\x00").await;
    assert_eq!(other, REJECTED);
}

#[tokio::test]
async fn names_and_addresses_are_looked_up_for_socks() {
    let socks5 = async |command: u8, kind: u8, host: &[u8]| {
        let request = [&[5, 1, 0, 5, command, 0, kind][..], host, &[0, 0]].concat();
        let all = told(&request).await;
        all.strip_prefix(&[5, 0]).unwrap().to_vec()
    };
    let name = |name: &[u8]| [&[name.len() as u8][..], name].concat();
    let six = [&[0x26][..], &[0; 14], &[1]].concat();
    for (command, kind, host, reply) in [
        (
            0xf0,
            3,
            name(b"four.example"),
            vec![5, 0, 0, 1, 8, 8, 4, 4, 0, 0],
        ),
        (
            0xf0,
            3,
            name(b"six.example"),
            [&[5, 0, 0, 4][..], &six, &[0, 0]].concat(),
        ),
        // An address is its own.
        (
            0xf0,
            1,
            vec![9, 9, 9, 9],
            vec![5, 0, 0, 1, 9, 9, 9, 9, 0, 0],
        ),
        (
            0xf0,
            3,
            name(b"none.example"),
            vec![5, 4, 0, 1, 0, 0, 0, 0, 0, 0],
        ),
        (
            0xf1,
            1,
            vec![8, 8, 4, 4],
            [&[5, 0, 0, 3][..], &name(b"four.example"), &[0, 0]].concat(),
        ),
        (0xf1, 4, six.clone(), vec![5, 4, 0, 1, 0, 0, 0, 0, 0, 0]),
        (
            0xf0,
            3,
            name(b"x.onion"),
            vec![5, 2, 0, 1, 0, 0, 0, 0, 0, 0],
        ),
    ] {
        assert_eq!(
            socks5(command, kind, &host).await,
            reply,
            "{command:x} {host:?}"
        );
    }
    let socks4a =
        async |name: &[u8]| told(&[&[4, 0xf0, 0, 0, 0, 0, 0, 1, 0][..], name, &[0]].concat()).await;
    assert_eq!(socks4a(b"four.example").await, [0, 90, 0, 0, 8, 8, 4, 4]);
    // SOCKS 4 has no word for it.
    assert_eq!(socks4a(b"six.example").await, [0, 91, 0, 0, 0, 0, 0, 0]);
}
