//! Datagrams that go to a program.

use std::net::{IpAddr, SocketAddr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    IpAddress, IpProtocol, Ipv4Packet, Ipv4Repr, Ipv6Packet, Ipv6Repr, UdpPacket, UdpRepr,
};

const UDP_HEAD: usize = 8;
const HOPS: u8 = 64;

/// The packet with a datagram of `from` to `to`, a program's address. `None` if both are not of one IP version, or if
/// there are more bytes than a datagram can have.
pub(super) fn datagram(from: SocketAddr, to: SocketAddr, bytes: &[u8]) -> Option<Vec<u8>> {
    let payload_len = UDP_HEAD + bytes.len();
    let (mut packet, head) = match (from.ip(), to.ip()) {
        (IpAddr::V4(src_addr), IpAddr::V4(dst_addr)) => {
            let ip = Ipv4Repr {
                src_addr,
                dst_addr,
                next_header: IpProtocol::Udp,
                payload_len,
                hop_limit: HOPS,
            };
            u16::try_from(ip.buffer_len() + payload_len).ok()?;
            let mut packet = vec![0; ip.buffer_len() + payload_len];
            let caps = ChecksumCapabilities::default();
            ip.emit(&mut Ipv4Packet::new_unchecked(&mut packet), &caps);
            (packet, ip.buffer_len())
        }
        (IpAddr::V6(src_addr), IpAddr::V6(dst_addr)) => {
            let ip = Ipv6Repr {
                src_addr,
                dst_addr,
                next_header: IpProtocol::Udp,
                payload_len,
                hop_limit: HOPS,
            };
            u16::try_from(payload_len).ok()?;
            let mut packet = vec![0; ip.buffer_len() + payload_len];
            ip.emit(&mut Ipv6Packet::new_unchecked(&mut packet));
            (packet, ip.buffer_len())
        }
        _ => return None,
    };
    let udp = UdpRepr {
        src_port: from.port(),
        dst_port: to.port(),
    };
    udp.emit(
        &mut UdpPacket::new_unchecked(packet.get_mut(head..)?),
        &IpAddress::from(from.ip()),
        &IpAddress::from(to.ip()),
        bytes.len(),
        |room| room.copy_from_slice(bytes),
        &ChecksumCapabilities::default(),
    );
    Some(packet)
}
