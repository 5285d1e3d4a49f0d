//! What stands in front of a datagram between an application and the front end (RFC 1928, section 7).

use std::net::{IpAddr, SocketAddr};

use super::socks::socks5_address;
use super::target::FrontTarget;

/// Reads a datagram of an application: `0, 0, fragment, address type, address, port, bytes`. `None` for what is dropped
/// without a word: a header that is none, a part of a datagram (nobody sends these), a destination that is refused.
///
/// The two zeros tell it from STUN, by which a web page can have a browser write to any port of this machine.
pub fn read_datagram(bytes: &[u8], allow_private: bool) -> Option<(FrontTarget, &[u8])> {
    let (&[0, 0, 0, kind], rest) = bytes.split_first_chunk::<4>()? else {
        return None;
    };
    let (host, rest) = socks5_address(kind, rest).ok()??;
    let (port, rest) = rest.split_first_chunk::<2>()?;
    let target = FrontTarget::new(host.ok()?, u16::from_be_bytes(*port), allow_private).ok()?;
    // A stream to the resolver is opened by a name that is none of the DNS.
    (!target.is_resolver()).then_some((target, rest))
}

/// A datagram to an application, with the header that says who has sent it.
pub fn write_datagram(from: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::with_capacity(22 + bytes.len());
    datagram.extend([0, 0, 0]);
    match from.ip() {
        IpAddr::V4(ip) => {
            datagram.push(1);
            datagram.extend(ip.octets());
        }
        IpAddr::V6(ip) => {
            datagram.push(4);
            datagram.extend(ip.octets());
        }
    }
    datagram.extend(from.port().to_be_bytes());
    datagram.extend_from_slice(bytes);
    datagram
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::front::Host;

    #[test]
    fn what_is_read_and_what_is_dropped() {
        let named = b"\0\0\0\x03\x09A.Example\0\x35data";
        let (target, bytes) = read_datagram(named, false).unwrap();
        assert_eq!(target.host, Host::Name("a.example".to_owned()));
        assert_eq!((target.port, bytes), (53, &b"data"[..]));
        let (target, bytes) = read_datagram(b"\0\0\0\x01\x08\x08\x08\x08\0\x35", false).unwrap();
        assert_eq!(
            (target.host, bytes),
            (Host::Ip4([8, 8, 8, 8].into()), &[][..])
        );
        let dropped: [&[u8]; 12] = [
            b"",
            b"\0\0\0",
            b"\0\0\x01\x01\x08\x08\x08\x08\0\x35",
            b"\0\x01\0\x01\x08\x08\x08\x08\0\x35",
            b"\0\0\0\x02\x08\x08\x08\x08\0\x35",
            b"\0\0\0\x01\x08\x08\x08\x08\0",
            b"\0\0\0\x01\x08\x08\x08\x08\0\0",
            b"\0\0\0\x01\x7f\0\0\x01\0\x35",
            b"\0\0\0\x01\xc0\xa8\0\x01\0\x35",
            b"\0\0\0\x03\x06a.cepa\0\x35",
            b"\0\0\0\x03\x11resolver.cepa.alt\0\x35",
            // Of STUN.
            b"\0\x01\0\x08\x21\x12\xa4\x42\0\0\0\0\0\0\0\0\0\0\0\0",
        ];
        for bytes in dropped {
            assert_eq!(read_datagram(bytes, false), None, "{bytes:?}");
        }
        assert!(read_datagram(b"\0\0\0\x01\x7f\0\0\x01\0\x35", true).is_some());
    }

    proptest! {
        #[test]
        fn what_is_written_can_be_read(
            v6 in any::<bool>(), low in any::<u16>(), port in 1u16.., bytes in proptest::collection::vec(any::<u8>(), 0..50),
        ) {
            let ip = match v6 {
                true => IpAddr::from([0x2600, 0, 0, 0, 0, 0, 0, low]),
                false => IpAddr::from([8, 8, (low >> 8) as u8, low as u8]),
            };
            let from = SocketAddr::new(ip, port);
            let datagram = write_datagram(from, &bytes);
            let (target, read) = read_datagram(&datagram, false).unwrap();
            prop_assert_eq!(target.port, port);
            prop_assert_eq!(target.host, Host::from(ip));
            prop_assert_eq!(read, &bytes[..]);
        }
    }
}
