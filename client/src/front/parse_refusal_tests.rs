//! Tests of what the front refuses, and what it says then.

use super::*;
use cepa_common::cell::message::SpecialName::{self, *};

fn refused(bytes: &[u8]) -> (FrontRefusal, Vec<u8>) {
    match talk(bytes).end {
        End::Refused(refusal, reply) => (refusal, reply),
        other => panic!("{bytes:x?} gives {other:?}"),
    }
}

#[test]
fn unknown_first_bytes_are_closed_without_a_word() {
    for first in 0..=255 {
        if !matches!(first, 4 | 5 | b'A'..=b'Z') {
            let bytes = [first, 1, 2, 3];
            assert_eq!(
                refused(&bytes),
                (FrontRefusal::UnknownProtocol, vec![]),
                "{first}"
            );
        }
    }
}

#[test]
fn socks4_refusals() {
    let reject = vec![0, 91, 0, 0, 0, 0, 0, 0];
    let long = [b"\x04\x01\x00\x50\x08\x08\x04\x04".as_slice(), &[b'u'; 600]].concat();
    for (bytes, refusal) in [
        (
            b"\x04\x02\x00\x50\x08\x08\x04\x04\x00".as_slice(),
            FrontRefusal::Command,
        ),
        (b"\x04\x01\x00\x00\x08\x08\x04\x04\x00", FrontRefusal::Port),
        (
            b"\x04\x01\x00\x50\x7f\x00\x00\x01\x00",
            FrontRefusal::Private,
        ),
        (
            b"\x04\x01\x00\x50\x00\x00\x00\x00\x00",
            FrontRefusal::Private,
        ),
        (
            b"\x04\x01\x00\x50\x00\x00\x00\x01\x00\x00",
            FrontRefusal::Host,
        ),
        (
            b"\x04\x01\x00\x50\x00\x00\x00\x01\x00a b\x00",
            FrontRefusal::Host,
        ),
        (&long, FrontRefusal::TooLong),
    ] {
        assert_eq!(refused(bytes), (refusal, reject.clone()), "{bytes:x?}");
    }
}

fn special(name: SpecialName) -> FrontRefusal {
    FrontRefusal::Special(name)
}

#[test]
fn socks5_refusals() {
    let code = |code| vec![5, code, 0, 1, 0, 0, 0, 0, 0, 0];
    let mapped = "::ffff:127.0.0.1".parse::<Ipv6Addr>().unwrap().octets();
    let nat64 = "64:ff9b::7f00:1".parse::<Ipv6Addr>().unwrap().octets();
    let label = [b'a'; 64];
    let name = [b"a.".repeat(127), b"a".to_vec()].concat();
    for (address, port, refusal, reply) in [
        (vec![1, 8, 8, 8, 8], 0, FrontRefusal::Port, 1),
        (vec![1, 10, 0, 0, 1], 80, FrontRefusal::Private, 2),
        (vec![1, 255, 255, 255, 255], 80, FrontRefusal::Private, 2),
        ([&[4][..], &mapped].concat(), 80, FrontRefusal::Private, 2),
        ([&[4][..], &nat64].concat(), 80, FrontRefusal::Private, 2),
        (counted(b"127.0.0.1"), 80, FrontRefusal::Private, 2),
        (counted(b"::1"), 80, FrontRefusal::Private, 2),
        (counted(b"[::1]"), 80, FrontRefusal::Private, 2),
        (counted(b"LocalHost."), 80, special(Localhost), 2),
        (counted(b"a.localhost"), 80, special(Localhost), 2),
        (counted(b"abc.onion"), 80, special(Onion), 2),
        (counted(b"x.cepa.ALT"), 80, special(Alt), 2),
        (counted(b"printer.local."), 80, special(Local), 2),
        (counted(b"wiki.internal"), 80, special(Internal), 2),
        (counted(b"nas.home.arpa"), 80, special(Home), 2),
        (counted(b"127.1"), 80, FrontRefusal::Host, 4),
        (counted(b"2130706433"), 80, FrontRefusal::Host, 4),
        (counted(b"0x7f000001"), 80, FrontRefusal::Host, 4),
        (counted(b"0177.0.0.01"), 80, FrontRefusal::Host, 4),
        (counted(b"[8.8.4.4]"), 80, FrontRefusal::Host, 4),
        (counted(b"[a.example]"), 80, FrontRefusal::Host, 4),
        (counted(b""), 80, FrontRefusal::Host, 4),
        (counted(b"."), 80, FrontRefusal::Host, 4),
        (counted(b"a..b"), 80, FrontRefusal::Host, 4),
        (counted(b"a\0b"), 80, FrontRefusal::Host, 4),
        (
            counted("bücher.example".as_bytes()),
            80,
            FrontRefusal::Host,
            4,
        ),
        (counted(b"user@host"), 80, FrontRefusal::Host, 4),
        (counted(&label), 80, FrontRefusal::Host, 4),
        (counted(&name), 80, FrontRefusal::Host, 4),
        (vec![2, 1], 80, FrontRefusal::AddressType, 8),
    ] {
        let bytes = socks5(&address, port);
        assert_eq!(refused(&bytes), (refusal, code(reply)), "{bytes:x?}");
    }
    // The port itself is for who says for whom he asks.
    for command in [0, 2, 4, 0xf3, 0xf4] {
        let bytes = [5, 1, 0, 5, command, 0, 1, 0, 0, 0, 0, 0, 0];
        assert_eq!(refused(&bytes), (FrontRefusal::Command, code(7)));
    }
    // SOCKS 4 has no datagrams.
    for command in [3, 0xf2, 0xf3] {
        let bytes = [4, command, 0, 80, 8, 8, 8, 8, 0];
        assert_eq!(refused(&bytes).0, FrontRefusal::Command);
    }
    assert_eq!(
        refused(&[5, 1, 0, 4, 1, 0, 1]),
        (FrontRefusal::Malformed, code(1))
    );
    assert_eq!(
        refused(&[5, 1, 0, 5, 1, 9, 1]),
        (FrontRefusal::Malformed, code(1))
    );
    assert_eq!(refused(&[5, 1, 1]), (FrontRefusal::Method, vec![5, 0xff]));
    assert_eq!(refused(&[5, 0]), (FrontRefusal::Method, vec![5, 0xff]));
    assert_eq!(
        refused(&[5, 1, 2, 2]),
        (FrontRefusal::Malformed, vec![1, 1])
    );
}

fn status(reply: &[u8]) -> String {
    let text = String::from_utf8(reply.to_vec()).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let length = format!("Content-Length: {}\r\n", body.len());
    assert!(head.contains(&length), "{head}");
    head.split(' ').nth(1).unwrap().to_owned()
}

#[test]
fn http_refusals() {
    let field = "x".repeat(9000);
    let many = "a: b\r\n".repeat(65);
    for (text, refusal, code) in [
        (
            "CONNECT a.example HTTP/1.1\r\n\r\n".to_owned(),
            FrontRefusal::Port,
            "400",
        ),
        (
            "CONNECT a.example: HTTP/1.1\r\n\r\n".into(),
            FrontRefusal::Port,
            "400",
        ),
        (
            "CONNECT a.example:+80 HTTP/1.1\r\n\r\n".into(),
            FrontRefusal::Port,
            "400",
        ),
        (
            "CONNECT a.example:0 HTTP/1.1\r\n\r\n".into(),
            FrontRefusal::Port,
            "400",
        ),
        (
            "CONNECT a.example:65536 HTTP/1.1\r\n\r\n".into(),
            FrontRefusal::Port,
            "400",
        ),
        (
            "CONNECT :80 HTTP/1.1\r\n\r\n".into(),
            FrontRefusal::Host,
            "400",
        ),
        (
            "CONNECT 2600::1:80 HTTP/1.1\r\n\r\n".into(),
            FrontRefusal::Host,
            "400",
        ),
        (
            "CONNECT [2600::1:80 HTTP/1.1\r\n\r\n".into(),
            FrontRefusal::Host,
            "400",
        ),
        (
            "CONNECT [a.example]:80 HTTP/1.1\r\n\r\n".into(),
            FrontRefusal::Host,
            "400",
        ),
        (
            "CONNECT u:p@a.example:80 HTTP/1.1\r\n\r\n".into(),
            FrontRefusal::Host,
            "400",
        ),
        (
            "CONNECT http://a.example:80 HTTP/1.1\r\n\r\n".into(),
            FrontRefusal::Host,
            "400",
        ),
        (
            "CONNECT [::1]:80 HTTP/1.1\r\n\r\n".into(),
            FrontRefusal::Private,
            "403",
        ),
        (
            "CONNECT localhost:80 HTTP/1.1\r\n\r\n".into(),
            special(Localhost),
            "403",
        ),
        (
            "CONNECT abc.onion:80 HTTP/1.1\r\n\r\n".into(),
            special(Onion),
            "403",
        ),
        (
            "CONNECT a.example:80 HTTP/3.0\r\n\r\n".into(),
            FrontRefusal::Malformed,
            "400",
        ),
        (
            "C\0NNECT a.example:80 HTTP/1.1\r\n\r\n".into(),
            FrontRefusal::Malformed,
            "400",
        ),
        (
            "CONNECT a.example:80 HTTP/1.1\r\nProxy-Authorization: Basic !\r\n\r\n".into(),
            FrontRefusal::Malformed,
            "400",
        ),
        (
            "CONNECT a.example:80 HTTP/1.1\r\nProxy-Authorization: Bearer Ym9i\r\n\r\n".into(),
            FrontRefusal::Malformed,
            "400",
        ),
        (
            "CONNECT a.example:80 HTTP/1.1\r\nTor-Stream-Isolation: 1\r\ntor-stream-isolation: 1\r\n\r\n"
                .into(),
            FrontRefusal::Malformed,
            "400",
        ),
        (
            format!("CONNECT a.example:80 HTTP/1.1\r\na: {field}\r\n\r\n"),
            FrontRefusal::TooLong,
            "431",
        ),
        (
            format!("CONNECT a.example:80 HTTP/1.1\r\n{many}\r\n"),
            FrontRefusal::TooLong,
            "431",
        ),
    ] {
        let (got, reply) = refused(text.as_bytes());
        assert_eq!((got, status(&reply).as_str()), (refusal, code), "{text}");
    }
}

#[test]
fn an_http_head_may_have_its_limit_and_no_byte_more() {
    let head = |len: usize| {
        let frame = "CONNECT a.example:80 HTTP/1.1\r\na: \r\n\r\n".len();
        let field = "x".repeat(len - frame);
        format!("CONNECT a.example:80 HTTP/1.1\r\na: {field}\r\n\r\nearly")
    };
    assert!(matches!(
        talk(head(HTTP_HEAD_LIMIT).as_bytes()).end,
        End::Request(_)
    ));
    assert_eq!(
        refused(head(HTTP_HEAD_LIMIT + 1).as_bytes()).0,
        FrontRefusal::TooLong
    );
}

#[test]
fn other_http_verbs_get_an_explanation() {
    let page = |text: &str| match talk(text.as_bytes()).end {
        End::Page(page) => page,
        other => panic!("{text} gives {other:?}"),
    };
    let get = page("GET / HTTP/1.1\r\nHost: 127.0.0.1:9050\r\n\r\n");
    assert_eq!(status(&get), "501");
    let get = String::from_utf8(get).unwrap();
    assert!(get.contains("text/html") && get.contains("This is a Cepa proxy"));
    assert!(
        get.contains("socks5h://") && get.contains("Cross-Origin-Resource-Policy: same-origin")
    );
    let post = page("POST /x HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody");
    assert_eq!(status(&post), "501");
    assert!(page("HEAD / HTTP/1.1\r\n\r\n").ends_with(b"\r\n\r\n"));
}

#[test]
fn a_web_page_learns_nothing() {
    for method in ["GET", "HEAD", "POST", "OPTIONS", "PATCH"] {
        for (target, fields) in [
            ("/", "Host: evil.example:9350"),
            ("/", "Host: localhost:9350\r\nOrigin: http://evil.example"),
            ("/x", "Host: 127.0.0.1:9350\r\nSec-Fetch-Site: cross-site"),
            ("*", "Host: [::1]:9350\r\nOrigin: null"),
        ] {
            let body = "Content-Length: 40\r\n\r\nCONNECT a.example:80 HTTP/1.1\r\n\r\n";
            let text = format!("{method} {target} HTTP/1.1\r\n{fields}\r\n{body}");
            let nothing = (FrontRefusal::WebPage, Vec::new());
            assert_eq!(refused(text.as_bytes()), nothing, "{text}");
        }
    }
}

#[test]
fn formats_of_user_names_that_mean_more_than_isolation_are_refused() {
    let login = |user: &[u8]| {
        let length = user.len() as u8;
        let login = [
            &[5, 1, 2, 1, length][..],
            user,
            &[1, b'x', 5, 1, 0, 1, 8, 8, 8, 8, 0, 80],
        ];
        talk(&login.concat()).end
    };
    for taken in ["<torS0X>0", "<torS0x>1", "anna", "<tor>"] {
        assert!(
            matches!(login(taken.as_bytes()), End::Request(_)),
            "{taken}"
        );
    }
    for other in ["<torS0X>", "<torS0X>1", "<torS0X>1object", "<torS0X>0x"] {
        let refused = End::Refused(FrontRefusal::Format, vec![1, 1]);
        assert_eq!(login(other.as_bytes()), refused, "{other}");
    }
}
