//! Samples of what applications say to the front: SOCKS 4, 4a and 5, HTTP CONNECT, and what is none of them.

use super::Seed;

pub(super) fn front() -> Vec<Seed> {
    let samples: [(&'static str, &[u8]); 16] = [
        (
            "good_socks4",
            b"\xff\x04\x01\x00\x50\x08\x08\x08\x08me\x00early",
        ),
        ("socks4_bind", b"\xff\x04\x02\x00\x50\x08\x08\x08\x08\x00"),
        (
            "socks4_endless",
            b"\x01\x04\x01\x00\x50\x08\x08\x08\x08aaaaaaaaaaaaaaaaaaaa",
        ),
        (
            "good_socks4a",
            b"\x02\x04\x01\x00\x50\x00\x00\x00\x01\x00example.org\x00",
        ),
        (
            "good_socks5_ip4",
            b"\x03\x05\x01\x00\x05\x01\x00\x01\x08\x08\x08\x08\x00\x50",
        ),
        (
            "good_socks5_ip6",
            b"\x07\x05\x01\x00\x05\x01\x00\x04\x26\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x00\x50",
        ),
        (
            "good_socks5_name",
            b"\xff\x05\x02\x00\x02\x01\x03bob\x01x\x05\x01\x00\x03\x09a.example\x01\xbbearly",
        ),
        (
            "socks5_udp",
            b"\xff\x05\x01\x00\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00",
        ),
        (
            "socks5_private",
            b"\xff\x05\x01\x00\x05\x01\x00\x03\x07::ffff:\x00\x50",
        ),
        ("socks5_no_method", b"\xff\x05\x01\x01"),
        (
            "good_connect",
            b"\xffCONNECT a.example:443 HTTP/1.1\r\nHost: a\r\n\r\n\x16\x03\x01",
        ),
        (
            "good_connect_ip6",
            b"\x05CONNECT [2600::1]:443 HTTP/1.0\nProxy-Authorization: Basic Ym9iOng=\n\n",
        ),
        (
            "connect_torn",
            b"\x01CONNECT a.example:443 HTTP/1.1\r\n\r\t\r\n\r\n",
        ),
        ("get", b"\xffGET / HTTP/1.1\r\nHost: 127.0.0.1:9050\r\n\r\n"),
        ("get_proxy", b"\xffGET http://a.example/ HTTP/1.1\r\n\r\n"),
        ("tls", b"\xff\x16\x03\x01\x02\x00\x01"),
    ];
    samples
        .map(|(name, bytes)| ("front", name, bytes.to_vec()))
        .into()
}

pub(super) fn socks_udp() -> Vec<Seed> {
    let samples: [(&'static str, &[u8]); 8] = [
        ("good_ip4", b"\0\0\0\x01\x08\x08\x08\x08\0\x35query"),
        ("good_empty", b"\0\0\0\x01\x08\x08\x08\x08\0\x35"),
        (
            "good_ip6",
            b"\0\0\0\x04\x26\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x01\xbbquic",
        ),
        ("good_name", b"\0\0\0\x03\x09a.example\0\x35query"),
        ("part", b"\0\0\x01\x01\x08\x08\x08\x08\0\x35query"),
        ("private", b"\0\0\0\x01\x7f\0\0\x01\0\x35query"),
        ("name_cut_short", b"\0\0\0\x03\xffa.example\0\x35"),
        (
            "stun",
            b"\0\x01\0\x08\x21\x12\xa4\x42\0\0\0\0\0\0\0\0\0\0\0\0",
        ),
    ];
    samples
        .map(|(name, bytes)| ("socks_udp", name, bytes.to_vec()))
        .into()
}
