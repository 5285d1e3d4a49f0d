//! IP packets of the namespace, as far as they must be told apart.

use std::net::{IpAddr, SocketAddr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    Icmpv4Message, Icmpv4Packet, Icmpv6Message, Icmpv6Packet, IpProtocol, IpVersion, Ipv4Packet,
    Ipv4Repr, Ipv6Packet, TcpPacket, UdpPacket, UdpRepr,
};

/// From whom to whom a packet goes: a program's own address, and where it wants to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Pair {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
}

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind<'a> {
    /// A segment of TCP.
    Segment {
        pair: Pair,
        /// Does the segment ask for a new connection?
        begins: bool,
    },
    /// A datagram of UDP with its bytes.
    Datagram { pair: Pair, bytes: &'a [u8] },
    /// A ping.
    Echo,
}

/// Why a packet goes nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dropped {
    /// A packet that breaks the rules of its protocol.
    Malformed,
    /// A part of a datagram that was too long for one packet.
    Fragment,
    /// A protocol that Cepa does not carry.
    Protocol,
    /// An address that no single machine has, or that is the sender's own.
    Address,
    /// There are as many connections, or as many that wait, as may be.
    Full,
}

/// Says what the packet is.
pub(super) fn read(packet: &[u8]) -> Result<Kind<'_>, Dropped> {
    // The library looks at the first byte without asking whether there is one.
    if packet.is_empty() {
        return Err(Dropped::Malformed);
    }
    match IpVersion::of_packet(packet) {
        Ok(IpVersion::Ipv4) => read_ipv4(packet),
        Ok(IpVersion::Ipv6) => read_ipv6(packet),
        Err(_) => Err(Dropped::Malformed),
    }
}

fn read_ipv4(packet: &[u8]) -> Result<Kind<'_>, Dropped> {
    let ip = Ipv4Packet::new_checked(packet).map_err(|_| Dropped::Malformed)?;
    // The library takes a fragment for a packet that is malformed.
    if ip.more_frags() || ip.frag_offset() != 0 {
        return Err(Dropped::Fragment);
    }
    Ipv4Repr::parse(&ip, &ChecksumCapabilities::default()).map_err(|_| Dropped::Malformed)?;
    let (from, to) = (ip.src_addr().into(), ip.dst_addr().into());
    let payload = ip.payload();
    if ip.next_header() == IpProtocol::Icmp {
        judge(from, to)?;
        let icmp = Icmpv4Packet::new_checked(payload).map_err(|_| Dropped::Malformed)?;
        return match icmp.msg_type() {
            Icmpv4Message::EchoRequest => Ok(Kind::Echo),
            _ => Err(Dropped::Protocol),
        };
    }
    read_payload(ip.next_header(), from, to, payload)
}

fn read_ipv6(packet: &[u8]) -> Result<Kind<'_>, Dropped> {
    let ip = Ipv6Packet::new_checked(packet).map_err(|_| Dropped::Malformed)?;
    let (from, to) = (ip.src_addr().into(), ip.dst_addr().into());
    let payload = ip.payload();
    match ip.next_header() {
        IpProtocol::Ipv6Frag => Err(Dropped::Fragment),
        IpProtocol::Icmpv6 => {
            judge(from, to)?;
            let icmp = Icmpv6Packet::new_checked(payload).map_err(|_| Dropped::Malformed)?;
            match icmp.msg_type() {
                Icmpv6Message::EchoRequest => Ok(Kind::Echo),
                _ => Err(Dropped::Protocol),
            }
        }
        other => read_payload(other, from, to, payload),
    }
}

fn read_payload(
    protocol: IpProtocol,
    from: IpAddr,
    to: IpAddr,
    payload: &[u8],
) -> Result<Kind<'_>, Dropped> {
    judge(from, to)?;
    let pair = |from_port, to_port| {
        // Nothing comes from port 0 or goes there.
        let both = from_port != 0 && to_port != 0;
        both.then(|| Pair {
            from: SocketAddr::new(from, from_port),
            to: SocketAddr::new(to, to_port),
        })
        .ok_or(Dropped::Malformed)
    };
    match protocol {
        IpProtocol::Tcp => {
            let tcp = TcpPacket::new_checked(payload).map_err(|_| Dropped::Malformed)?;
            if !tcp.verify_checksum(&from.into(), &to.into()) {
                return Err(Dropped::Malformed);
            }
            let begins = tcp.syn() && !tcp.ack() && !tcp.rst() && !tcp.fin();
            let pair = pair(tcp.src_port(), tcp.dst_port())?;
            Ok(Kind::Segment { pair, begins })
        }
        IpProtocol::Udp => {
            let udp = UdpPacket::new_checked(payload).map_err(|_| Dropped::Malformed)?;
            let caps = ChecksumCapabilities::default();
            UdpRepr::parse(&udp, &from.into(), &to.into(), &caps)
                .map_err(|_| Dropped::Malformed)?;
            let pair = pair(udp.src_port(), udp.dst_port())?;
            Ok(Kind::Datagram {
                pair,
                bytes: udp.payload(),
            })
        }
        _ => Err(Dropped::Protocol),
    }
}

/// May a packet go from one of these to the other? Both must be addresses of single machines. Which of those may be
/// reached is the node's matter.
fn judge(from: IpAddr, to: IpAddr) -> Result<(), Dropped> {
    let is_one = |ip: IpAddr| {
        let is_broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
        !(ip.is_unspecified() || ip.is_multicast() || is_broadcast)
    };
    if is_one(from) && is_one(to) && from != to {
        Ok(())
    } else {
        Err(Dropped::Address)
    }
}
