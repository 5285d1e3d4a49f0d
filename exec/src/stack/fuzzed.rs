//! The stack as fuzzers drive it.

use core::time::Duration;

use smoltcp::wire::{IpAddress, IpVersion, Ipv4Packet, Ipv6Packet, TcpPacket, UdpPacket};

use super::{Asked, Questions, Stack, Unreachable, Wish};

/// Runs a stack over packets, and does what follows from each. Says whether any packet asked for something.
///
/// Before each packet stand a byte, which says what follows from it, the time since the one before (2 bytes, in
/// milliseconds), and its length (2 bytes). With the byte's first bit set the packet's checksums are put right: no fuzzer
/// finds them.
pub(crate) fn packets(mut data: &[u8]) -> bool {
    let mut stack = Stack::new(1);
    let mut questions = Questions::default();
    let mut now = Duration::ZERO;
    let mut wished = false;
    while let Some((&[then, t1, t0, l1, l0], rest)) = data.split_first_chunk::<5>() {
        let len = usize::from(u16::from_be_bytes([l1, l0])).min(rest.len());
        let (packet, rest) = rest.split_at(len);
        data = rest;
        now += Duration::from_millis(u16::from_be_bytes([t1, t0]).into());
        let mut packet = packet.to_vec();
        if then & 0x80 != 0 {
            mend(&mut packet);
        }
        let wish = stack.receive(now, &packet).ok().flatten();
        wished |= wish.is_some();
        match wish {
            Some(Wish::Connect(flow, _)) => match then % 5 {
                0 => drop(stack.accept(now, flow)),
                1 => stack.refuse(now, flow),
                2 => stack.fail(flow, Unreachable::Host),
                3 => stack.silence(now, flow),
                _ => {}
            },
            Some(Wish::Ask(pair, bytes)) => match questions.ask(now, pair, &bytes) {
                Asked::Answered(answer) => stack.deliver(pair.to, pair.from, &answer),
                Asked::Out(query) => {
                    if let Some((pair, answer)) =
                        questions.answered(query.get(2..).unwrap_or_default())
                    {
                        stack.deliver(pair.to, pair.from, &answer);
                    }
                }
                Asked::Dropped => {}
            },
            Some(Wish::Send(pair, bytes)) => match then % 2 {
                0 => stack.deliver(pair.to, pair.from, &bytes),
                _ => stack.turn_back(&packet, Unreachable::Prohibited),
            },
            None => {}
        }
        stack.poll(now);
        while stack.next_packet().is_some() {}
        let _ = stack.poll_at(now);
    }
    wished
}

/// Puts the checksums of a packet right, as far as it is one.
fn mend(packet: &mut [u8]) {
    if packet.is_empty() {
        return;
    }
    match IpVersion::of_packet(packet) {
        Ok(IpVersion::Ipv4) => {
            let Ok(mut ip) = Ipv4Packet::new_checked(packet) else {
                return;
            };
            ip.fill_checksum();
            let ends = (ip.src_addr().into(), ip.dst_addr().into());
            let protocol = ip.next_header();
            mend_payload(protocol.into(), ends, ip.payload_mut());
        }
        Ok(IpVersion::Ipv6) => {
            let Ok(mut ip) = Ipv6Packet::new_checked(packet) else {
                return;
            };
            let ends = (ip.src_addr().into(), ip.dst_addr().into());
            let protocol = ip.next_header();
            mend_payload(protocol.into(), ends, ip.payload_mut());
        }
        Err(_) => {}
    }
}

fn mend_payload(protocol: u8, (from, to): (IpAddress, IpAddress), payload: &mut [u8]) {
    match protocol {
        6 => {
            if let Ok(mut tcp) = TcpPacket::new_checked(payload) {
                tcp.fill_checksum(&from, &to);
            }
        }
        17 => {
            if let Ok(mut udp) = UdpPacket::new_checked(payload) {
                udp.fill_checksum(&from, &to);
            }
        }
        _ => {}
    }
}
