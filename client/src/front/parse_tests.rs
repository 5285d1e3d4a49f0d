#![allow(clippy::unwrap_used, clippy::expect_used)]
//! Tests of every variant of the protocols: whole, byte by byte, cut at every byte, and at random.

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;

#[path = "parse_refusal_tests.rs"]
mod refusals;

/// The outcome of a whole conversation.
#[derive(Debug, PartialEq, Eq)]
struct Talk {
    /// The replies sent, one after the other.
    replies: Vec<u8>,
    end: End,
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    Open,
    Request(FrontRequest),
    Page(Vec<u8>),
    Refused(FrontRefusal, Vec<u8>),
}

/// Feeds the pieces to a parser. Bytes that the parser did not take are added behind the request.
fn feed<'a>(options: FrontOptions, pieces: impl Iterator<Item = &'a [u8]>) -> Talk {
    let mut parser = FrontParser::new(options);
    let mut replies = Vec::new();
    let mut end = End::Open;
    for piece in pieces {
        if let End::Request(request) = &mut end {
            request.leftover.extend_from_slice(piece);
            continue;
        }
        let mut step = parser.on_bytes(piece);
        while let Ok(FrontStep::Reply(bytes)) = step {
            replies.extend(bytes);
            step = parser.on_bytes(&[]);
        }
        match step {
            Ok(FrontStep::NeedMore) => {}
            Ok(FrontStep::Request(request)) => end = End::Request(request),
            Ok(FrontStep::Page(page)) => end = End::Page(page),
            Err(error) => end = End::Refused(error.refusal, error.reply),
            Ok(FrontStep::Reply(_)) => unreachable!(),
        }
        if matches!(end, End::Page(_) | End::Refused(..)) {
            break;
        }
    }
    Talk { replies, end }
}

/// The result of feeding `bytes` at once, byte by byte, and in pieces of seven, which is the same.
fn talk(bytes: &[u8]) -> Talk {
    let options = FrontOptions::default();
    let whole = feed(options, core::iter::once(bytes));
    assert_eq!(whole, feed(options, bytes.chunks(1)), "{bytes:x?}");
    assert_eq!(whole, feed(options, bytes.chunks(7)), "{bytes:x?}");
    whole
}

fn name(name: &str) -> Host {
    Host::Name(name.to_owned())
}

fn credentials(user: &str, password: &str) -> Option<Credentials> {
    Some(Credentials {
        user: user.into(),
        password: password.into(),
    })
}

fn socks5(address: &[u8], port: u16) -> Vec<u8> {
    let port = port.to_be_bytes();
    [&[5, 1, 0, 5, 1, 0], address, &port].concat()
}

fn counted(text: &[u8]) -> Vec<u8> {
    let mut bytes = vec![3, text.len() as u8];
    bytes.extend(text);
    bytes
}

fn connect(authority: &str) -> Vec<u8> {
    format!("CONNECT {authority} HTTP/1.1\r\nHost: whatever\r\n\r\n").into_bytes()
}

/// The bytes of a request, replies on the way, host, port, credentials, protocol.
type Accepted = (
    Vec<u8>,
    &'static [u8],
    Host,
    u16,
    Option<Credentials>,
    Protocol,
);

fn accepted() -> Vec<Accepted> {
    let ip4 = Host::Ip4(Ipv4Addr::new(8, 8, 4, 4));
    let ip6 = Host::Ip6("2600::1".parse::<Ipv6Addr>().unwrap());
    let ip6_bytes = [&[4][..], &"2600::1".parse::<Ipv6Addr>().unwrap().octets()].concat();
    let plain: &[u8] = &[5, 0];
    let keyed: &[u8] = &[5, 2, 1, 0];
    let none: &[u8] = &[];
    use Protocol::{HttpConnect, Socks4, Socks4a, Socks5};
    vec![
        (
            b"\x04\x01\x00\x50\x08\x08\x04\x04\x00".to_vec(),
            none,
            ip4.clone(),
            80,
            None,
            Socks4,
        ),
        (
            b"\x04\x01\x01\xbb\x08\x08\x04\x04me\x00".to_vec(),
            none,
            ip4.clone(),
            443,
            credentials("me", ""),
            Socks4,
        ),
        (
            b"\x04\x01\x00\x50\x00\x00\x00\x01\x00Example.org\x00".to_vec(),
            none,
            name("example.org"),
            80,
            None,
            Socks4a,
        ),
        (
            b"\x04\x01\x00\x50\x00\x00\x00\xffu\x008.8.4.4\x00".to_vec(),
            none,
            ip4.clone(),
            80,
            credentials("u", ""),
            Socks4a,
        ),
        (
            socks5(&[1, 8, 8, 4, 4], 80),
            plain,
            ip4.clone(),
            80,
            None,
            Socks5,
        ),
        (
            socks5(&ip6_bytes, 65535),
            plain,
            ip6.clone(),
            65535,
            None,
            Socks5,
        ),
        (
            socks5(&counted(b"xn--bcher-kva.example."), 1),
            plain,
            name("xn--bcher-kva.example"),
            1,
            None,
            Socks5,
        ),
        (
            socks5(&counted(b"_srv.a_b.example"), 80),
            plain,
            name("_srv.a_b.example"),
            80,
            None,
            Socks5,
        ),
        (
            socks5(&counted(b"8.8.4.4"), 80),
            plain,
            ip4.clone(),
            80,
            None,
            Socks5,
        ),
        (
            socks5(&counted(b"2600::1"), 80),
            plain,
            ip6.clone(),
            80,
            None,
            Socks5,
        ),
        (
            socks5(&counted(b"::ffff:8.8.4.4"), 80),
            plain,
            ip4.clone(),
            80,
            None,
            Socks5,
        ),
        (
            [
                b"\x05\x02\x00\x02\x01\x03bob\x01x\x05\x01\x00".as_slice(),
                &counted(b"a.example"),
                &[0, 80],
            ]
            .concat(),
            keyed,
            name("a.example"),
            80,
            credentials("bob", "x"),
            Socks5,
        ),
        (
            [
                &[5, 1, 2, 1, 255][..],
                &[b'u'; 255],
                &[255],
                &[b'p'; 255],
                &[5, 1, 0, 1, 8, 8, 4, 4, 0, 80],
            ]
            .concat(),
            keyed,
            ip4.clone(),
            80,
            credentials(&"u".repeat(255), &"p".repeat(255)),
            Socks5,
        ),
        (
            b"\x05\x01\x02\x01\x00\x00\x05\x01\x00\x01\x08\x08\x04\x04\x00\x50".to_vec(),
            keyed,
            ip4.clone(),
            80,
            credentials("", ""),
            Socks5,
        ),
        (
            b"\x05\x03\x01\x00\x80\x05\x01\x00\x01\x08\x08\x04\x04\x00\x50".to_vec(),
            plain,
            ip4.clone(),
            80,
            None,
            Socks5,
        ),
        (
            connect("example.org:443"),
            none,
            name("example.org"),
            443,
            None,
            HttpConnect,
        ),
        (
            [b"\r\n", &connect("example.org:443")[..]].concat(),
            none,
            name("example.org"),
            443,
            None,
            HttpConnect,
        ),
        (
            socks5(&counted(b"[2600::1]"), 80),
            plain,
            ip6.clone(),
            80,
            None,
            Socks5,
        ),
        (connect("8.8.4.4:443"), none, ip4, 443, None, HttpConnect),
        (connect("[2600::1]:443"), none, ip6, 443, None, HttpConnect),
        (
            b"CONNECT a.example:1 HTTP/1.0\r\nProxy-Authorization: Basic Ym9iOnh5Og==\r\n\r\n"
                .to_vec(),
            none,
            name("a.example"),
            1,
            credentials("bob", "xy:"),
            HttpConnect,
        ),
    ]
}

#[test]
fn every_variant_is_accepted_with_its_early_data() {
    for early in [
        b"".as_slice(),
        b"\x16\x03\x01 early \r\n\r\n",
        &[0xaa; 20_000],
    ] {
        for (bytes, replies, host, port, isolation, protocol) in accepted() {
            let request = FrontRequest {
                request: Request::Connect(FrontTarget { host, port }),
                marks: Marks {
                    credentials: isolation,
                    ..Marks::default()
                },
                protocol,
                leftover: early.to_vec(),
            };
            let all = [&bytes, early].concat();
            let expected = Talk {
                replies: replies.to_vec(),
                end: End::Request(request),
            };
            assert_eq!(talk(&all), expected, "{bytes:x?}");
        }
    }
}

#[test]
fn cut_anywhere_it_waits_for_more() {
    for (bytes, ..) in accepted() {
        for len in 0..bytes.len() {
            assert_eq!(talk(&bytes[..len]).end, End::Open, "{len} of {bytes:x?}");
        }
    }
}

#[test]
fn private_destinations_pass_where_the_owner_allows_them() {
    let options = FrontOptions {
        allow_private: true,
        ..FrontOptions::default()
    };
    let passes = |address: &[u8]| {
        let bytes = socks5(address, 80);
        matches!(
            feed(options, core::iter::once(&bytes[..])).end,
            End::Request(_)
        )
    };
    assert!(passes(&[1, 127, 0, 0, 1]));
    assert!(passes(&counted(b"::ffff:127.0.0.1")));
    // No machine anywhere has these addresses.
    assert!(!passes(&[1, 0, 0, 0, 0]));
    assert!(!passes(&[1, 224, 0, 0, 1]));
    // A local network is on this machine, and its exits reach the machine's own addresses; no other name becomes one.
    assert!(passes(&counted(b"localhost")) && passes(&counted(b"a.LocalHost.")));
    assert!(!passes(&counted(b"printer.local")) && !passes(&counted(b"abc.onion")));
}

/// The request that `bytes` make.
fn asked(bytes: &[u8]) -> Request {
    match talk(bytes).end {
        End::Request(request) => request.request,
        other => panic!("{other:?}"),
    }
}

#[test]
fn names_and_addresses_are_asked_about_by_socks() {
    let resolve = |address: &[u8]| [&[5, 1, 0, 5, 0xf0, 0], address, &[0, 0]].concat();
    let reverse = |address: &[u8]| [&[5, 1, 0, 5, 0xf1, 0], address, &[0, 0]].concat();
    let answer = Request::Resolve(name("example.org"));
    assert_eq!(asked(&resolve(&counted(b"Example.org."))), answer);
    let socks4a = b"\x04\xf0\x00\x00\x00\x00\x00\x01\x00example.org\x00";
    assert_eq!(asked(socks4a), answer);
    let ip4 = Host::Ip4(Ipv4Addr::new(8, 8, 4, 4));
    assert_eq!(asked(&resolve(&[1, 8, 8, 4, 4])), Request::Resolve(ip4));
    let ip4 = Request::ResolvePtr(Address([8, 8, 4, 4].into()));
    assert_eq!(asked(&reverse(&[1, 8, 8, 4, 4])), ip4);
    assert_eq!(asked(&reverse(&counted(b"8.8.4.4"))), ip4);
    // Names that no exit may hear of are none to ask about either.
    for (bytes, code) in [
        (resolve(&counted(b"printer.local")), 2),
        (resolve(&counted(b"no name")), 4),
        (reverse(&counted(b"example.org")), 4),
    ] {
        let End::Refused(_, reply) = talk(&bytes).end else {
            panic!("{bytes:x?}");
        };
        assert_eq!(reply[1], code, "{bytes:x?}");
    }
    let ptr = b"\x04\xf1\x00\x00\x08\x08\x04\x04\x00";
    assert!(matches!(
        talk(ptr).end,
        End::Refused(FrontRefusal::Command, _)
    ));
}

#[test]
fn datagrams_are_asked_for_by_socks_5_where_the_port_takes_them() {
    let ask = |command, rest: &[u8]| [&[5, 1, 0, 5, command, 0][..], rest].concat();
    let local = Some("127.0.0.1:4000".parse().unwrap());
    for (bytes, expected) in [
        (ask(3, &[1, 0, 0, 0, 0, 0, 0]), Associate::Port(None)),
        (
            ask(3, &[1, 127, 0, 0, 1, 0x0f, 0xa0]),
            Associate::Port(local),
        ),
        // Some programs say where they will send to, and that is no matter of the port.
        (ask(3, &[3, 1, b'a', 0, 53]), Associate::Port(None)),
        (ask(3, &[3, 1, b'0', 0, 0]), Associate::Port(None)),
        (ask(0xf2, &[1, 0, 0, 0, 0, 0, 0]), Associate::Inside),
    ] {
        assert_eq!(asked(&bytes), Request::Associate(expected), "{bytes:x?}");
    }
    let mut parser = FrontParser::new(FrontOptions {
        udp: false,
        ..FrontOptions::default()
    });
    parser.on_bytes(&[5, 1, 0]).unwrap();
    let refused = parser
        .on_bytes(&[5, 3, 0, 1, 0, 0, 0, 0, 0, 0])
        .unwrap_err();
    assert_eq!(
        (refused.refusal, refused.reply[1]),
        (FrontRefusal::Command, 7)
    );
}

#[test]
fn requests_to_pass_on_are_handed_over_whole() {
    for text in [
        "GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\nOrigin: http://b.example\r\n\r\n",
        "POST https://a.example HTTP/1.0\r\n\r\nbody",
        "OPTIONS http://a.example HTTP/1.1\r\n\r\n",
    ] {
        let End::Request(request) = talk(text.as_bytes()).end else {
            panic!("{text}");
        };
        assert_eq!(request.request, Request::Forward);
        assert_eq!(request.leftover, text.as_bytes());
    }
}

#[test]
fn options_are_told_and_a_request_may_follow() {
    let options = "OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let talk =
        talk(format!("{options}{options}CONNECT a.example:1 HTTP/1.1\r\n\r\nearly").as_bytes());
    let replies = String::from_utf8(talk.replies).unwrap();
    assert_eq!(replies.matches("Allow: CONNECT, OPTIONS\r\n").count(), 2);
    let End::Request(request) = talk.end else {
        panic!("{:?}", talk.end);
    };
    assert_eq!(request.protocol, Protocol::HttpConnect);
    assert_eq!(request.leftover, b"early");
}

#[test]
fn a_finished_parser_says_so() {
    let mut parser = FrontParser::new(FrontOptions::default());
    let bytes = socks5(&[1, 8, 8, 8, 8], 80);
    assert_eq!(
        parser.on_bytes(&bytes[..3]),
        Ok(FrontStep::Reply(vec![5, 0]))
    );
    assert!(matches!(
        parser.on_bytes(&bytes[3..]),
        Ok(FrontStep::Request(_))
    ));
    let again = parser.on_bytes(&bytes).unwrap_err();
    assert_eq!(again.refusal, FrontRefusal::Finished);
}

#[test]
fn destinations_and_passwords_stay_out_of_debug_output() {
    let bytes = b"\x05\x01\x02\x01\x06secret\x06hidden\x05\x01\x00\x03\x06target\x00\x50secret";
    let shown = format!("{:?}", talk(bytes));
    assert!(shown.contains("6 bytes"), "{shown}");
    // The first three words are text, the last is the beginning of "secret" as a list of bytes.
    for word in ["secret", "hidden", "target\"", "115, 101"] {
        assert!(!shown.contains(word), "{shown}");
    }
}

/// Bytes that are near enough to a request to pass the first checks.
fn almost() -> impl Strategy<Value = Vec<u8>> {
    let samples = accepted().into_iter().map(|a| a.0).collect::<Vec<_>>();
    (
        proptest::sample::select(samples),
        proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..4),
        proptest::collection::vec(any::<u8>(), 0..16),
    )
        .prop_map(|(mut bytes, changes, tail)| {
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes.extend(tail);
            bytes
        })
}

proptest! {
    #[test]
    fn no_bytes_panic_and_pieces_do_not_matter(bytes in almost()) {
        talk(&bytes);
    }

    #[test]
    fn random_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..1200)) {
        feed(FrontOptions::default(), bytes.chunks(97));
    }
}
