//! Samples of packets, as the system of a program in `cepa exec` sends them.

use super::Seed;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// A packet of IPv4 to 192.0.2.1, or to the name server.
fn ipv4(protocol: u8, to: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(20 + payload.len()).unwrap_or(0).to_be_bytes();
    let head = [
        0x45, 0, len[0], len[1], 0, 0, 0x40, 0, 64, protocol, 0, 0, 198, 18, 0, 1,
    ];
    [&head[..], &to, payload].concat()
}

/// A packet of IPv6 to 2001:db8::1.
fn ipv6(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    let mut packet = vec![0x60, 0, 0, 0, len[0], len[1], protocol, 64];
    packet.extend([0xfd, 0, 0xce, 0x9a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    packet.extend([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    packet.extend_from_slice(payload);
    packet
}

/// A segment from port 40000 to port 80 with these flags.
fn segment(sequence: u8, flags: u8, bytes: &[u8]) -> Vec<u8> {
    let head = [
        156, 64, 0, 80, 0, 0, 0, sequence, 0, 0, 0, 0, 0x50, flags, 255, 255, 0, 0, 0, 0,
    ];
    [&head[..], bytes].concat()
}

fn datagram(port: u8, bytes: &[u8]) -> Vec<u8> {
    let len = u16::try_from(8 + bytes.len()).unwrap_or(0).to_be_bytes();
    [&[156, 64, 0, port, len[0], len[1], 0, 0][..], bytes].concat()
}

/// Packets as the target reads them, a second apart, with their checksums put right.
fn run(packets: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let one = |(then, packet): &(u8, Vec<u8>)| {
        let len = u16::try_from(packet.len()).unwrap_or(0).to_be_bytes();
        [&[then | 0x80, 3, 232, len[0], len[1]][..], packet].concat()
    };
    packets.iter().flat_map(one).collect()
}

pub(super) fn packets() -> Vec<Seed> {
    const FAR: [u8; 4] = [192, 0, 2, 1];
    const NAMES: [u8; 4] = [198, 18, 0, 53];
    // By the target's rules these numbers accept, refuse and so on; the first bit is there already.
    let then = |what: u8| (0..5).find(|n| (n | 0x80) % 5 == what).unwrap_or(0);
    let syn = segment(1, 2, b"");
    let (data, fin, reset) = (
        segment(2, 0x18, b"hello"),
        segment(7, 0x11, b""),
        segment(8, 4, b""),
    );
    let query = b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x01a\x07example\0\0\x01\0\x01";
    let connection: Vec<_> = [&syn, &syn, &data, &fin, &reset]
        .map(|segment| (then(0), ipv4(TCP, FAR, segment)))
        .into();
    let mut fragment = ipv4(UDP, FAR, &datagram(9, b"part"));
    fragment[6] = 0x20;
    vec![
        ("packets", "good_connection", run(&connection)),
        (
            "packets",
            "good_connection_six",
            run(&[(then(0), ipv6(TCP, &syn)), (0, ipv6(TCP, &data))]),
        ),
        (
            "packets",
            "good_refused",
            run(&[(then(1), ipv4(TCP, FAR, &syn))]),
        ),
        (
            "packets",
            "good_unreachable",
            run(&[(then(2), ipv6(TCP, &syn))]),
        ),
        (
            "packets",
            "good_silent",
            run(&[(then(3), ipv4(TCP, FAR, &syn)), (0, ipv4(TCP, FAR, &syn))]),
        ),
        (
            "packets",
            "good_datagram",
            run(&[(0, ipv4(UDP, FAR, &datagram(9, b"data")))]),
        ),
        (
            "packets",
            "good_turned_back",
            run(&[(1, ipv6(UDP, &datagram(9, b"data")))]),
        ),
        (
            "packets",
            "good_question",
            run(&[(0, ipv4(UDP, NAMES, &datagram(53, query)))]),
        ),
        ("packets", "fragment", run(&[(0, fragment)])),
        (
            "packets",
            "ping",
            run(&[(0, ipv4(1, FAR, &[8, 0, 0xf7, 0xfd, 0, 1, 0, 1]))]),
        ),
        ("packets", "empty", run(&[(0, Vec::new())])),
    ]
}
