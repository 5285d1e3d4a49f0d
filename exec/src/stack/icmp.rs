//! The word "unreachable", which a program gets as an error of its own call (RFC 792, RFC 4443).

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    Icmpv4Message, Icmpv4Packet, Icmpv6Message, Icmpv6Packet, IpProtocol, IpVersion, Ipv4Packet,
    Ipv4Repr, Ipv6Packet, Ipv6Repr,
};

/// Why something cannot be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unreachable {
    /// There is no way to any network now.
    Network,
    /// The host does not answer, or has no address.
    Host,
    /// It is not allowed.
    Prohibited,
}

/// Bytes in front of what is quoted.
const HEAD: usize = 8;
/// The longest packet with such a word: what every host takes (RFC 1812, 4.3.2.3; RFC 4443, 2.4).
const MOST_IPV4: usize = 576;
const MOST_IPV6: usize = 1_280;
const HOPS: u8 = 64;

/// The packet that tells the sender of `packet` that its way ends, as from where it was to go. `None` for what is no
/// packet of IP.
pub(super) fn unreachable(packet: &[u8], why: Unreachable) -> Option<Vec<u8>> {
    packet.first()?;
    match IpVersion::of_packet(packet).ok()? {
        IpVersion::Ipv4 => of_ipv4(packet, why),
        IpVersion::Ipv6 => of_ipv6(packet, why),
    }
}

fn of_ipv4(packet: &[u8], why: Unreachable) -> Option<Vec<u8>> {
    let cause = Ipv4Packet::new_checked(packet).ok()?;
    let quoted = packet.get(..cause.total_len().into())?;
    let quoted = &quoted[..quoted.len().min(MOST_IPV4 - 20 - HEAD)];
    let ip = Ipv4Repr {
        src_addr: cause.dst_addr(),
        dst_addr: cause.src_addr(),
        next_header: IpProtocol::Icmp,
        payload_len: HEAD + quoted.len(),
        hop_limit: HOPS,
    };
    let mut bytes = vec![0; ip.buffer_len() + ip.payload_len];
    let mut told = Ipv4Packet::new_unchecked(&mut bytes);
    ip.emit(&mut told, &ChecksumCapabilities::default());
    let payload = told.payload_mut();
    payload.get_mut(HEAD..)?.copy_from_slice(quoted);
    let mut icmp = Icmpv4Packet::new_unchecked(payload);
    icmp.set_msg_type(Icmpv4Message::DstUnreachable);
    icmp.set_msg_code(match why {
        Unreachable::Network => 0,
        Unreachable::Host => 1,
        Unreachable::Prohibited => 13,
    });
    icmp.fill_checksum();
    Some(bytes)
}

fn of_ipv6(packet: &[u8], why: Unreachable) -> Option<Vec<u8>> {
    let cause = Ipv6Packet::new_checked(packet).ok()?;
    let quoted = packet.get(..cause.total_len())?;
    let quoted = &quoted[..quoted.len().min(MOST_IPV6 - 40 - HEAD)];
    let ip = Ipv6Repr {
        src_addr: cause.dst_addr(),
        dst_addr: cause.src_addr(),
        next_header: IpProtocol::Icmpv6,
        payload_len: HEAD + quoted.len(),
        hop_limit: HOPS,
    };
    let mut bytes = vec![0; ip.buffer_len() + ip.payload_len];
    let mut told = Ipv6Packet::new_unchecked(&mut bytes);
    ip.emit(&mut told);
    let payload = told.payload_mut();
    payload.get_mut(HEAD..)?.copy_from_slice(quoted);
    let mut icmp = Icmpv6Packet::new_unchecked(payload);
    icmp.set_msg_type(Icmpv6Message::DstUnreachable);
    icmp.set_msg_code(match why {
        Unreachable::Network => 0,
        Unreachable::Host => 3,
        Unreachable::Prohibited => 1,
    });
    icmp.fill_checksum(&ip.src_addr, &ip.dst_addr);
    Some(bytes)
}
