//! Names that stand for addresses: those below `in-addr.arpa` and `ip6.arpa` (RFC 1035, section 3.5; RFC 3596, section
//! 2.5).

use core::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::dir::{AddressClass, classify};

/// The name that stands for an address, in lower case and without a dot at its end.
pub(super) fn name_of(address: IpAddr) -> String {
    let mut name = String::new();
    // Writing to a string does not fail.
    match address {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            let _ = write!(name, "{d}.{c}.{b}.{a}.in-addr.arpa");
        }
        IpAddr::V6(ip) => {
            for byte in ip.octets().iter().rev() {
                let _ = write!(name, "{:x}.{:x}.", byte & 15, byte >> 4);
            }
            name.push_str("ip6.arpa");
        }
    }
    name
}

/// Does a name, in lower case, stand for addresses that are not public, or for a network that begins with such a one?
/// A name below `in-addr.arpa` or `ip6.arpa` that stands for no address is none of these.
pub(super) fn is_private(name: &str) -> bool {
    let address = if let Some(digits) = name.strip_suffix(".in-addr.arpa") {
        let numbers = digits
            .rsplit('.')
            .map_while(|label| label.parse::<u8>().ok());
        let (mut octets, mut known) = ([0; 4], 0);
        for (octet, number) in octets.iter_mut().zip(numbers) {
            (*octet, known) = (number, known + 1);
        }
        if known == 0 {
            return false;
        }
        IpAddr::from(Ipv4Addr::from(octets))
    } else if let Some(digits) = name.strip_suffix(".ip6.arpa") {
        let digits = digits.rsplit('.').map_while(|label| {
            let digit = u128::from_str_radix(label, 16).ok();
            digit.filter(|_| label.len() == 1)
        });
        let (mut bits, mut known) = (0, 0);
        for digit in digits.take(32) {
            bits |= digit << (124 - 4 * known);
            known += 1;
        }
        // The networks that hold the public ones are public.
        if known == 0 || known < 4 && bits >> 125 == 1 {
            return false;
        }
        IpAddr::from(Ipv6Addr::from(bits))
    } else {
        return false;
    };
    classify(address) != AddressClass::Public
}
