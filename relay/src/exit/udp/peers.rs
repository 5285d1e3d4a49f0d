//! Whom an association writes to, and whom it hears (docs/protocol.md, 5.37). Pure: the time comes in.

use core::time::Duration;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

/// A peer is heard for so long after it was last written to.
pub(super) const HEARD_FOR: Duration = Duration::from_secs(300);
/// Peers of one association that are heard.
pub(super) const MOST_PEERS: usize = 256;
/// What the policy said of a peer holds for so long.
const VERDICT_FOR: Duration = Duration::from_secs(10);

struct Peer {
    written: Instant,
    asked: Instant,
    allowed: bool,
    /// When others were last told that the peer's address answers.
    told: Option<Instant>,
}

/// The peers of one association.
#[derive(Default)]
pub(super) struct Peers(BTreeMap<SocketAddr, Peer>);

/// What is known of a peer that is about to be written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// The policy has said yes or no lately.
    Verdict(bool),
    /// The policy is to be asked again.
    Old,
    /// The association has not written to the peer, or not for so long that the peer is not heard any more.
    New,
}

/// An address as it compares: without what only this machine's network has to do with it.
pub(super) fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), address.port())
}

impl Peers {
    /// What is known of a peer.
    pub(super) fn known(&self, address: SocketAddr, now: Instant) -> Known {
        match self.0.get(&address) {
            Some(peer) if now >= peer.written + HEARD_FOR => Known::New,
            Some(peer) if now < peer.asked + VERDICT_FOR => Known::Verdict(peer.allowed),
            Some(_) => Known::Old,
            None => Known::New,
        }
    }

    /// Notes what the policy says of a peer that is being written to. Where there are too many, the one that was written
    /// to least lately is forgotten.
    pub(super) fn note(&mut self, address: SocketAddr, allowed: bool, now: Instant) {
        if !self.0.contains_key(&address) && self.0.len() >= MOST_PEERS {
            let oldest = self.0.iter().min_by_key(|(_, peer)| peer.written);
            if let Some(oldest) = oldest.map(|(address, _)| *address) {
                self.0.remove(&oldest);
            }
        }
        let told = self.0.get(&address).and_then(|peer| peer.told);
        let peer = Peer {
            written: now,
            asked: now,
            allowed,
            told,
        };
        self.0.insert(address, peer);
    }

    /// The policy is another one, which says by `allows` what it thinks of each peer. Returns whether there were peers
    /// that were heard and there are none any more.
    pub(super) fn ask_again(&mut self, allows: impl Fn(SocketAddr) -> bool, now: Instant) -> bool {
        let (mut before, mut after) = (0, 0);
        for (address, peer) in &mut self.0 {
            let is_live = now < peer.written + HEARD_FOR;
            before += usize::from(is_live && peer.allowed);
            (peer.allowed, peer.asked) = (allows(*address), now);
            after += usize::from(is_live && peer.allowed);
        }
        before > 0 && after == 0
    }

    /// Notes that a peer is being written to.
    pub(super) fn on_written(&mut self, address: SocketAddr, now: Instant) {
        if let Some(peer) = self.0.get_mut(&address) {
            peer.written = now;
        }
    }

    /// Is the peer one that may be heard? Gives as well whether others are to be told that its address answers.
    pub(super) fn hears(&mut self, address: SocketAddr, now: Instant) -> Option<bool> {
        let peer = self.0.get_mut(&address)?;
        if !peer.allowed || now >= peer.written + HEARD_FOR {
            return None;
        }
        let is_news = peer.told.is_none_or(|told| now >= told + VERDICT_FOR);
        if is_news {
            peer.told = Some(now);
        }
        Some(is_news)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, (n % 250) as u8], 1 + n))
    }

    #[test]
    fn who_was_written_to_is_heard_for_300_s_and_nobody_else() {
        let (mut peers, began) = (Peers::default(), Instant::now());
        assert_eq!(peers.known(peer(1), began), Known::New);
        peers.note(peer(1), true, began);
        assert_eq!(peers.hears(peer(1), began), Some(true));
        assert_eq!(peers.hears(peer(1), began), Some(false), "it was told of");
        // Another port of the same address is another peer.
        assert_eq!(peers.hears(SocketAddr::new(peer(1).ip(), 9), began), None);
        let later = began + HEARD_FOR - Duration::from_secs(1);
        assert_eq!(peers.hears(peer(1), later), Some(true));
        peers.on_written(peer(1), later);
        assert_eq!(peers.hears(peer(1), began + HEARD_FOR), Some(false));
        assert_eq!(peers.hears(peer(1), later + HEARD_FOR), None);
        assert_eq!(peers.known(peer(1), later + HEARD_FOR), Known::New);
    }

    #[test]
    fn the_policy_is_asked_again_and_who_is_refused_is_not_heard() {
        let (mut peers, began) = (Peers::default(), Instant::now());
        peers.note(peer(1), false, began);
        assert_eq!(peers.known(peer(1), began), Known::Verdict(false));
        assert_eq!(peers.hears(peer(1), began), None);
        assert_eq!(peers.known(peer(1), began + VERDICT_FOR), Known::Old);
    }

    #[test]
    fn another_policy_counts_at_once_and_it_is_known_when_nobody_is_left() {
        let (mut peers, began) = (Peers::default(), Instant::now());
        assert!(!peers.ask_again(|_| false, began), "nobody was heard");
        peers.note(peer(1), true, began);
        peers.note(peer(2), false, began);
        assert!(!peers.ask_again(|address| address == peer(1), began));
        assert!(!peers.ask_again(|address| address == peer(2), began + HEARD_FOR));
        peers.note(peer(1), true, began);
        peers.note(peer(2), true, began);
        assert!(!peers.ask_again(|address| address == peer(2), began));
        assert_eq!(peers.hears(peer(1), began), None);
        assert_eq!(peers.known(peer(1), began), Known::Verdict(false));
        assert!(peers.hears(peer(2), began).is_some());
        assert!(peers.ask_again(|_| false, began));
    }

    #[test]
    fn one_too_many_takes_the_place_of_the_least_lately_written_to() {
        let (mut peers, began) = (Peers::default(), Instant::now());
        for n in 0..MOST_PEERS as u16 {
            peers.note(peer(n), true, began + Duration::from_millis(n.into()));
        }
        let now = began + Duration::from_secs(1);
        peers.on_written(peer(0), now);
        peers.note(peer(999), true, now);
        assert_eq!(peers.0.len(), MOST_PEERS);
        assert!(peers.hears(peer(0), now).is_some());
        assert!(peers.hears(peer(1), now).is_none());
        assert!(peers.hears(peer(999), now).is_some());
    }
}
