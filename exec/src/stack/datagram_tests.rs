//! Packets that are no TCP, questions of the DNS, and packets that are nothing.
#![allow(clippy::unwrap_used)]

use core::time::Duration;
use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{Icmpv4Packet, IpProtocol, Ipv4Packet, TcpPacket, UdpPacket};

use super::tests::{SERVER, SERVER6, address, icmp};
use super::udp::datagram;
use super::*;

/// A packet of IPv4 with a header of its own.
fn ipv4(to: [u8; 4], protocol: IpProtocol, fragment: Option<u16>, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 20 + payload.len()];
    bytes[20..].copy_from_slice(payload);
    let len = bytes.len() as u16;
    let mut ip = Ipv4Packet::new_unchecked(&mut bytes);
    ip.set_version(4);
    ip.set_header_len(20);
    ip.set_total_len(len);
    ip.set_hop_limit(64);
    ip.set_next_header(protocol);
    ip.set_src_addr([10, 0, 0, 2].into());
    ip.set_dst_addr(to.into());
    if let Some(offset) = fragment {
        ip.set_more_frags(offset == 0);
        ip.set_frag_offset(offset);
    }
    ip.fill_checksum();
    bytes
}

#[test]
fn what_is_not_carried_is_dropped_and_counted() {
    let mut stack = Stack::new(1);
    let good = datagram(address("10.0.0.2:5000"), address("192.0.2.1:7"), b"data").unwrap();
    assert!(matches!(
        stack.receive(Duration::ZERO, &good),
        Ok(Some(Wish::Send(_, _)))
    ));
    let udp = &good[20..];
    let mut wrong = good.clone();
    wrong[27] ^= 1;
    let to = [192, 0, 2, 1];
    let six = datagram(address("[fd00::2]:5000"), address("[2001:db8::1]:7"), b"x").unwrap();
    let mut fragment6 = six.clone();
    fragment6[6] = 44;
    for (packet, why) in [
        (Vec::new(), Dropped::Malformed),
        (vec![0x45; 19], Dropped::Malformed),
        (wrong, Dropped::Malformed),
        (ipv4(to, IpProtocol::Udp, Some(0), udp), Dropped::Fragment),
        (ipv4(to, IpProtocol::Udp, Some(8), udp), Dropped::Fragment),
        (fragment6, Dropped::Fragment),
        (
            ipv4(to, IpProtocol::Unknown(47), None, udp),
            Dropped::Protocol,
        ),
        (ipv4(to, IpProtocol::Igmp, None, udp), Dropped::Protocol),
        (
            ipv4([224, 0, 0, 251], IpProtocol::Udp, None, udp),
            Dropped::Address,
        ),
        (ipv4([255; 4], IpProtocol::Udp, None, udp), Dropped::Address),
        (ipv4([0; 4], IpProtocol::Udp, None, udp), Dropped::Address),
        (
            ipv4([10, 0, 0, 2], IpProtocol::Udp, None, udp),
            Dropped::Address,
        ),
    ] {
        assert_eq!(
            stack.receive(Duration::ZERO, &packet),
            Err(why),
            "{packet:?}"
        );
    }
    assert_eq!(stack.dropped(), 12);
    assert_eq!(stack.next_packet(), None);
}

#[test]
fn a_ping_is_told_that_it_is_prohibited() {
    let mut stack = Stack::new(1);
    let mut echo = vec![8, 0, 0, 0, 0, 1, 0, 1, 42, 42];
    Icmpv4Packet::new_unchecked(&mut echo).fill_checksum();
    let ping = ipv4([192, 0, 2, 9], IpProtocol::Icmp, None, &echo);
    assert_eq!(stack.receive(Duration::ZERO, &ping), Ok(None));
    let told = stack.next_packet().unwrap();
    let own = "10.0.0.2".parse().unwrap();
    assert_eq!(icmp(&told), (3, 13, "192.0.2.9".parse().unwrap(), own));
    // The word quotes the ping.
    assert_eq!(&told[28..], &ping[..]);
}

#[test]
fn datagrams_go_both_ways_and_the_name_server_is_no_destination() {
    for (own, other, server) in [
        ("10.0.0.2:5000", "192.0.2.1:443", "198.18.0.53:53"),
        ("[fd00::2]:5000", "[2001:db8::1]:443", "[fd00:ce9a::53]:53"),
    ] {
        let mut stack = Stack::new(1);
        let (from, to) = (address(own), address(other));
        let sent = datagram(from, to, b"ping").unwrap();
        let wish = stack.receive(Duration::ZERO, &sent).unwrap().unwrap();
        assert_eq!(wish, Wish::Send(Pair { from, to }, b"ping".to_vec()));
        stack.deliver(to, from, b"pong");
        let got = stack.next_packet().unwrap();
        let head = if from.is_ipv4() { 20 } else { 40 };
        let udp = UdpPacket::new_checked(&got[head..]).unwrap();
        assert!(udp.verify_checksum(&to.ip().into(), &from.ip().into()));
        assert_eq!(
            (udp.src_port(), udp.dst_port(), udp.payload()),
            (443, 5000, &b"pong"[..])
        );
        let to = address(server);
        let asked = datagram(from, to, b"?").unwrap();
        let wish = stack.receive(Duration::ZERO, &asked).unwrap().unwrap();
        assert_eq!(wish, Wish::Ask(Pair { from, to }, b"?".to_vec()));
    }
    assert_eq!(
        datagram(address("1.1.1.1:1"), address("[::2]:1"), b""),
        None
    );
    assert_eq!(
        datagram(address("1.1.1.1:1"), address("1.1.1.2:1"), &[0; 65_536]),
        None
    );
}

/// A query for the addresses of `a.example`, with EDNS if a length is given.
fn query(id: u16, takes: Option<u16>) -> Vec<u8> {
    let mut query = id.to_be_bytes().to_vec();
    query.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(takes.is_some())]);
    query.extend(b"\x01a\x07example\x00\x00\x01\x00\x01");
    if let Some(takes) = takes {
        query.extend([0, 0, 41]);
        query.extend(takes.to_be_bytes());
        query.extend([0; 6]);
    }
    query
}

#[test]
fn questions_with_the_same_id_have_answers_of_their_own() {
    let mut questions = Questions::default();
    let pair = |port| Pair {
        from: SocketAddr::new("10.0.0.2".parse().unwrap(), port),
        to: address("198.18.0.53:53"),
    };
    let mut asked = Vec::new();
    for port in [1, 2] {
        let Asked::Out(out) = questions.ask(Duration::ZERO, pair(port), &query(7, None)) else {
            panic!()
        };
        assert_eq!(
            usize::from(u16::from_be_bytes([out[0], out[1]])),
            out.len() - 2
        );
        assert_eq!(&out[4..], &query(7, None)[2..]);
        asked.push(out[2..].to_vec());
    }
    assert_ne!(asked[0][..2], asked[1][..2]);
    for port in [2u16, 1] {
        let mut answer = asked[usize::from(port) - 1].clone();
        answer[2] |= 0x80;
        let (to, datagram) = questions.answered(&answer).unwrap();
        assert_eq!(to, pair(port));
        assert_eq!(
            (&datagram[..2], &datagram[2..]),
            (&[0, 7][..], &answer[2..])
        );
        assert_eq!(questions.answered(&answer), None, "once");
    }
    assert!(questions.is_empty());
    assert_eq!(questions.answered(b"x"), None);
}

#[test]
fn an_answer_that_is_too_long_is_cut_and_a_lost_one_is_told() {
    let pair = Pair {
        from: address("10.0.0.2:1"),
        to: address("198.18.0.53:53"),
    };
    for (takes, most) in [(None, 512), (Some(1_232), 1_232), (Some(4_096), 1_232)] {
        let mut questions = Questions::default();
        for (len, is_cut) in [(most, false), (most + 1, true)] {
            let Asked::Out(out) = questions.ask(Duration::ZERO, pair, &query(9, takes)) else {
                panic!()
            };
            let mut answer = out[2..].to_vec();
            answer[2] |= 0x80;
            answer.resize(len, 0);
            let (_, told) = questions.answered(&answer).unwrap();
            assert_eq!(told[2] & 2 != 0, is_cut);
            assert_eq!(told.len() == len, !is_cut);
            assert!(told.starts_with(&[0, 9]));
        }
        questions.ask(Duration::ZERO, pair, &query(3, takes));
        let lost = questions.lost();
        assert_eq!(lost.len(), 1);
        assert_eq!((&lost[0].1[..2], lost[0].1[3] & 15), (&[0, 3][..], 2));
        assert!(questions.is_empty());
    }
}

#[test]
fn questions_that_wait_are_bounded_and_do_not_wait_for_ever() {
    let mut questions = Questions::default();
    let pair = Pair {
        from: address("10.0.0.2:1"),
        to: address("198.18.0.53:53"),
    };
    let mut ask = |second, id| {
        let now = Duration::from_secs(second);
        matches!(questions.ask(now, pair, &query(id, None)), Asked::Out(_))
    };
    assert!((0..64).all(|id| ask(0, id)));
    assert!(!ask(29, 64));
    assert!(ask(30, 64));
    assert_eq!(
        questions.ask(Duration::ZERO, pair, b"nonsense"),
        Asked::Dropped
    );
    let mut notify = query(1, None);
    notify[2] |= 0x20;
    let answered = questions.ask(Duration::ZERO, pair, &notify);
    assert!(matches!(answered, Asked::Answered(answer) if answer[3] & 15 == 4));
}

proptest! {
    #[test]
    fn no_packet_breaks_the_stack(packets in proptest::collection::vec(any::<Noise>(), 0..40)) {
        let mut stack = Stack::new(1);
        let mut now = Duration::ZERO;
        for noise in packets {
            now += Duration::from_millis(u64::from(noise.after));
            match stack.receive(now, &noise.packet()) {
                Ok(Some(Wish::Connect(flow, _))) => match noise.then % 5 {
                    0 => drop(stack.accept(now, flow)),
                    1 => stack.refuse(now, flow),
                    2 => stack.fail(flow, Unreachable::Host),
                    3 => stack.silence(now, flow),
                    _ => {}
                },
                Ok(Some(Wish::Ask(pair, bytes))) => drop(Questions::default().ask(now, pair, &bytes)),
                _ => {}
            }
            stack.poll(now);
            while stack.next_packet().is_some() {}
        }
    }
}

/// Packets that are nearly right: random ones would end at the first check.
#[derive(Clone, Debug)]
struct Noise {
    after: u16,
    then: u8,
    six: bool,
    protocol: u8,
    ports: [u8; 4],
    rest: Vec<u8>,
    mends: bool,
}

impl Arbitrary for Noise {
    type Parameters = ();
    type Strategy = BoxedStrategy<Self>;

    fn arbitrary_with((): ()) -> Self::Strategy {
        let protocol = prop_oneof![Just(6u8), Just(17), Just(1), Just(58), any::<u8>()];
        let ports = prop_oneof![Just([0, 5, 0, 7]), Just([0, 5, 0, 53]), any::<[u8; 4]>()];
        let rest = proptest::collection::vec(any::<u8>(), 0..80);
        let all = (
            any::<u16>(),
            any::<u8>(),
            any::<bool>(),
            protocol,
            ports,
            rest,
            any::<bool>(),
        );
        all.prop_map(|(after, then, six, protocol, ports, rest, mends)| Self {
            after,
            then,
            six,
            protocol,
            ports,
            rest,
            mends,
        })
        .boxed()
    }
}

impl Noise {
    fn packet(&self) -> Vec<u8> {
        let mut payload = [&self.ports[..], &self.rest].concat();
        let len = payload.len() as u16;
        let ends = if self.six {
            (address("[fd00::2]:1"), address(SERVER6))
        } else {
            (address("10.0.0.2:1"), address(SERVER))
        };
        let (from, to) = (ends.0.ip().into(), ends.1.ip().into());
        if self.mends && self.protocol == 6 && payload.len() >= 20 {
            payload[12] = 0x50;
            TcpPacket::new_unchecked(&mut payload).fill_checksum(&from, &to);
        }
        if self.mends && self.protocol == 17 && payload.len() >= 8 {
            payload[4..6].copy_from_slice(&len.to_be_bytes());
            UdpPacket::new_unchecked(&mut payload).fill_checksum(&from, &to);
        }
        if self.mends && self.protocol == 1 && payload.len() >= 8 {
            payload[0] = 8;
            Icmpv4Packet::new_unchecked(&mut payload).fill_checksum();
        }
        if self.six {
            let mut head = vec![0x60, 0, 0, 0];
            head.extend(len.to_be_bytes());
            head.extend([self.protocol, 64]);
            for ip in [ends.0.ip(), ends.1.ip()] {
                let IpAddr::V6(ip) = ip else { panic!() };
                head.extend(ip.octets());
            }
            [head, payload].concat()
        } else {
            ipv4([192, 0, 2, 1], self.protocol.into(), None, &payload)
        }
    }
}

#[test]
fn a_name_server_is_known_by_address_and_port() {
    assert!(is_name_server(address("198.18.0.53:53")));
    assert!(is_name_server(address("[fd00:ce9a::53]:53")));
    assert!(!is_name_server(address("198.18.0.53:54")));
    assert!(!is_name_server(address("198.18.0.54:53")));
    let caps = ChecksumCapabilities::default();
    assert!(caps.udp.rx(), "checksums are checked");
}
