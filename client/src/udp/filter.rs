//! Whom a client hears: those that it wrote to (docs/protocol.md, 5.37). Pure: the time comes in.
//!
//! An exit could speak as anybody. What it says comes from somebody that the client's program did not write to is
//! dropped, or else an exit could speak as the resolver, as another peer, or as this machine itself.

use core::time::Duration;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use cepa_common::dir::{AddressClass, classify};
use cepa_common::stream::StreamHost;

/// Whoever was written to is heard for so long.
const HEARD_FOR: Duration = Duration::from_secs(300);
/// Addresses and names that are heard, of each kind. One more takes the place of the one that was written to least
/// lately.
const MOST: usize = 256;

struct Named {
    written: Instant,
    /// The address that has answered first.
    address: Option<IpAddr>,
}

/// Whom one association has written to.
pub(super) struct Filter {
    addresses: BTreeMap<SocketAddr, Instant>,
    names: BTreeMap<(String, u16), Named>,
    allow_private: bool,
}

impl Filter {
    /// Nobody was written to yet. Private addresses answer for names only if `allow_private` lets them.
    pub(super) fn new(allow_private: bool) -> Self {
        Self {
            addresses: BTreeMap::new(),
            names: BTreeMap::new(),
            allow_private,
        }
    }

    /// Notes that a host is being written to.
    pub(super) fn on_written(&mut self, host: &StreamHost, port: u16, now: Instant) {
        match host {
            StreamHost::Ip(ip) => {
                self.addresses.insert(SocketAddr::new(*ip, port), now);
                forget_one(&mut self.addresses, |written| *written);
            }
            StreamHost::Name(name) => {
                let named = self.names.entry((name.to_ascii_lowercase(), port));
                let named = named.or_insert(Named {
                    written: now,
                    address: None,
                });
                if now >= named.written + HEARD_FOR {
                    named.address = None;
                }
                named.written = now;
                forget_one(&mut self.names, |named| named.written);
            }
        }
    }

    /// From whom the program hears what the exit says comes from this host; `None` for what the exit has no business to
    /// say.
    pub(super) fn heard(
        &mut self,
        host: &StreamHost,
        port: u16,
        now: Instant,
    ) -> Option<SocketAddr> {
        let StreamHost::Ip(ip) = host else {
            return None;
        };
        let from = SocketAddr::new(*ip, port);
        self.hears(from, now).then_some(from)
    }

    /// Is somebody to be heard?
    fn hears(&mut self, from: SocketAddr, now: Instant) -> bool {
        let is_late = |written: Instant| now >= written + HEARD_FOR;
        if let Some(written) = self.addresses.get(&from) {
            return !is_late(*written);
        }
        let ip = from.ip();
        let mut named: Vec<&mut Named> = self
            .names
            .iter_mut()
            .filter(|((_, port), named)| *port == from.port() && !is_late(named.written))
            .map(|(_, named)| named)
            .collect();
        if named.iter().any(|named| named.address == Some(ip)) {
            return true;
        }
        // A name must not lead to what is near this machine.
        let may_answer = match classify(ip) {
            AddressClass::Public => true,
            AddressClass::Private => self.allow_private,
            AddressClass::Never => false,
        };
        let first = named.iter_mut().find(|named| named.address.is_none());
        match first.filter(|_| may_answer) {
            Some(first) => {
                first.address = Some(ip);
                true
            }
            None => false,
        }
    }
}

/// Forgets the one that was written to least lately, if there are too many.
fn forget_one<K: Clone + Ord, V>(all: &mut BTreeMap<K, V>, written: impl Fn(&V) -> Instant) {
    if all.len() > MOST
        && let Some((oldest, _)) = all.iter().min_by_key(|(_, value)| written(value))
    {
        let oldest = oldest.clone();
        all.remove(&oldest);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn named(name: &str) -> StreamHost {
        StreamHost::Name(name.to_owned())
    }

    #[test]
    fn only_those_who_were_written_to_are_heard_and_for_300_s() {
        let (mut filter, began) = (Filter::new(false), Instant::now());
        filter.on_written(&StreamHost::Ip([8, 8, 8, 8].into()), 53, began);
        assert!(filter.hears(at("8.8.8.8:53"), began));
        for other in ["8.8.8.8:54", "8.8.4.4:53", "127.0.0.1:53", "[2600::1]:53"] {
            assert!(!filter.hears(at(other), began), "{other}");
        }
        assert!(!filter.hears(at("8.8.8.8:53"), began + HEARD_FOR));
    }

    #[test]
    fn the_first_that_answers_for_a_name_is_the_one_that_is_heard() {
        let (mut filter, began) = (Filter::new(false), Instant::now());
        filter.on_written(&named("a.Example"), 53, began);
        for near in [
            "127.0.0.1:53",
            "192.168.0.1:53",
            "224.0.0.251:53",
            "[fe80::1]:53",
        ] {
            assert!(!filter.hears(at(near), began), "{near}");
        }
        assert!(!filter.hears(at("8.8.8.8:54"), began));
        assert!(filter.hears(at("8.8.8.8:53"), began));
        assert!(!filter.hears(at("8.8.4.4:53"), began));
        // A second name of the same port has an address of its own, once.
        filter.on_written(&named("b.example"), 53, began);
        assert!(filter.hears(at("8.8.8.8:53"), began) && filter.hears(at("8.8.4.4:53"), began));
        assert!(!filter.hears(at("9.9.9.9:53"), began));
        // After a silence the name may have moved.
        let later = began + HEARD_FOR;
        filter.on_written(&named("A.example"), 53, later);
        assert!(filter.hears(at("9.9.9.9:53"), later) && !filter.hears(at("8.8.8.8:53"), later));
        let mut near = Filter::new(true);
        near.on_written(&named("a.example"), 53, began);
        assert!(near.hears(at("127.0.0.1:53"), began));
    }

    #[test]
    fn what_an_exit_says_of_strangers_does_not_reach_the_program() {
        let (mut filter, now) = (Filter::new(false), Instant::now());
        let peer = StreamHost::Ip([8, 8, 8, 8].into());
        filter.on_written(&peer, 53, now);
        filter.on_written(&named("a.example"), 53, now);
        assert_eq!(filter.heard(&peer, 53, now), Some(at("8.8.8.8:53")));
        for (host, port) in [
            (peer, 54),
            (StreamHost::Ip([127, 0, 0, 1].into()), 53),
            (named("a.example"), 53),
        ] {
            assert_eq!(filter.heard(&host, port, now), None, "{host:?}");
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut filter, began) = (Filter::new(false), Instant::now());
        for n in 0..1_000u16 {
            let now = began + Duration::from_millis(n.into());
            filter.on_written(&StreamHost::Ip([8, 8, 8, 8].into()), 1 + n, now);
            filter.on_written(&named("a.example"), 1 + n, now);
        }
        assert_eq!((filter.addresses.len(), filter.names.len()), (MOST, MOST));
    }
}
