//! The consensuses that a peer holds: the newest, and every one that is still valid (docs/protocol.md, 6.10).

use std::net::SocketAddr;
use std::sync::Arc;

use super::body::{ConsensusStatus, Entry};
use super::verified::Consensus;
use crate::dir::signed::{Digest, UnixSecs};
use crate::ids::RelayId;

/// The most consensuses held at once. Beyond this number the oldest go, valid or not. A local network makes one
/// consensus every two seconds.
const MAX_HELD: usize = 320;

/// What happened to a consensus that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// The consensus is the newest now.
    Newest,
    /// The consensus was held already.
    AlreadyHeld,
}

/// Why a consensus that verifies is not taken (S25).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The consensus is older than the newest held.
    #[error("consensus is older than the one held")]
    Older,
    /// The consensus has expired or is from the future.
    #[error("consensus is not valid at this time")]
    NotValidNow,
    /// Another consensus for the same valid-after is held: authorities signed twice. The caller raises the alarm.
    #[error("two valid consensuses for one time: {held} is kept, {offered} refused")]
    Conflict {
        /// Digest of the consensus held, which stays.
        held: Digest,
        /// Digest of the consensus refused.
        offered: Digest,
    },
}

/// Consensuses by age. Cloning is cheap: readers get snapshots.
#[derive(Clone, Debug, Default)]
pub struct ConsensusStore {
    /// The consensuses, the newest first.
    held: Vec<Arc<Consensus>>,
}

impl ConsensusStore {
    /// A store that holds nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a consensus that is newer than all held, and drops those that are no longer valid.
    ///
    /// # Errors
    /// [`StoreError`] if the consensus is not taken; the store is then as it was.
    pub fn insert(
        &mut self,
        consensus: Arc<Consensus>,
        now: UnixSecs,
    ) -> Result<Inserted, StoreError> {
        if let Some(newest) = self.newest() {
            if newest.digest() == consensus.digest() {
                return Ok(Inserted::AlreadyHeld);
            }
            let (held, offered) = (
                newest.lifetime().valid_after,
                consensus.lifetime().valid_after,
            );
            if offered < held {
                return Err(StoreError::Older);
            }
            if offered == held {
                return Err(StoreError::Conflict {
                    held: newest.digest(),
                    offered: consensus.digest(),
                });
            }
        }
        if !consensus.is_usable(now) {
            return Err(StoreError::NotValidNow);
        }
        self.held.insert(0, consensus);
        self.prune(now);
        Ok(Inserted::Newest)
    }

    /// Replaces the newest by the same consensus with other signatures.
    pub fn refresh_signatures(&mut self, consensus: Arc<Consensus>) {
        if let Some(newest) = self
            .held
            .first_mut()
            .filter(|held| held.digest() == consensus.digest())
        {
            *newest = consensus;
        }
    }

    /// Drops all consensuses that are past valid-until, but not the newest: the reader judges its grace.
    pub fn prune(&mut self, now: UnixSecs) {
        let mut first = true;
        self.held
            .retain(|held| std::mem::take(&mut first) || held.lifetime().valid_until > now);
        self.held.truncate(MAX_HELD);
    }

    /// The newest consensus, whatever its age.
    pub fn newest(&self) -> Option<&Arc<Consensus>> {
        self.held.first()
    }

    /// The consensus held with this digest.
    pub fn get(&self, digest: &Digest) -> Option<&Arc<Consensus>> {
        self.held.iter().find(|held| held.digest() == *digest)
    }

    /// The newest consensus, if it may be used now.
    pub fn usable(&self, now: UnixSecs) -> Option<&Arc<Consensus>> {
        self.newest().filter(|newest| newest.is_usable(now))
    }

    /// Every consensus that is fresh or valid now, the newest first.
    pub fn valid(&self, now: UnixSecs) -> impl Iterator<Item = &Arc<Consensus>> {
        self.held.iter().filter(move |held| {
            matches!(
                held.status(now),
                ConsensusStatus::Fresh | ConsensusStatus::Valid
            )
        })
    }

    /// Every entry of a relay in a valid consensus, newest first. EXTEND looks its target up here.
    pub fn entries_of(&self, identity: RelayId, now: UnixSecs) -> impl Iterator<Item = &Entry> {
        self.valid(now)
            .filter_map(move |consensus| consensus.relay(&identity))
    }

    /// Link key and addresses of a relay, newest first; `None` when no valid consensus lists it.
    ///
    /// Addresses of older consensuses follow while the link key is the same.
    pub fn extend_target(
        &self,
        identity: RelayId,
        now: UnixSecs,
    ) -> Option<([u8; 32], Vec<SocketAddr>)> {
        let mut link_key = None;
        let mut addresses = Vec::new();
        for entry in self.entries_of(identity, now) {
            if *link_key.get_or_insert(entry.link_key()) != entry.link_key() {
                break;
            }
            for address in &entry.addresses {
                if !addresses.contains(address) {
                    addresses.push(*address);
                }
            }
        }
        Some((link_key?, addresses))
    }

    /// The relay that proves this key on links, by any valid consensus. Everybody else is treated as a client.
    pub fn identity_of_link_key(&self, key: &[u8; 32], now: UnixSecs) -> Option<RelayId> {
        self.valid(now)
            .find_map(|consensus| consensus.by_link_key(key))
            .map(|entry| entry.identity)
    }

    /// Is this a relay's address and port by any valid consensus? An exit refuses to dial it.
    pub fn is_relay_address(&self, address: SocketAddr, now: UnixSecs) -> bool {
        self.valid(now)
            .any(|consensus| consensus.is_relay_address(address))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::testkit::{self, consensus, consensus_body, identity, network};

    #[test]
    fn never_older_and_never_two_for_one_time() {
        let network = network(3);
        let at =
            |valid_after, relays: &[u8]| consensus(&network, &consensus_body(valid_after, relays));
        let mut store = ConsensusStore::new();
        assert!(store.usable(1_000).is_none());
        assert_eq!(store.insert(at(1_000, &[1]), 1_000), Ok(Inserted::Newest));
        assert_eq!(
            store.insert(at(1_000, &[1]), 1_000),
            Ok(Inserted::AlreadyHeld)
        );
        let conflict = store.insert(at(1_000, &[2]), 1_000);
        assert!(matches!(conflict, Err(StoreError::Conflict { .. })));
        assert!(store.newest().unwrap().relay(&identity(1)).is_some());
        assert_eq!(store.insert(at(998, &[1]), 1_000), Err(StoreError::Older));
        assert_eq!(
            store.insert(at(9_000, &[1]), 1_000),
            Err(StoreError::NotValidNow)
        );
        assert_eq!(
            store.insert(at(1_002, &[1]), 200_000),
            Err(StoreError::NotValidNow)
        );
        assert_eq!(store.insert(at(1_002, &[2]), 1_002), Ok(Inserted::Newest));
        assert_eq!(store.valid(1_002).count(), 2);
    }

    #[test]
    fn lookups_reach_every_valid_consensus() {
        let network = network(3);
        let mut store = ConsensusStore::new();
        store
            .insert(consensus(&network, &consensus_body(1_000, &[1, 2])), 1_000)
            .unwrap();
        let mut moved = consensus_body(1_300, &[2, 3]);
        for entry in &mut moved.entries {
            entry.addresses[0].set_port(7_000 + u16::from(entry.nickname.as_bytes()[5]));
        }
        store.insert(consensus(&network, &moved), 1_300).unwrap();
        let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let (key, addresses) = store.extend_target(identity(2), 1_300).unwrap();
        assert_eq!(key, identity(2).0);
        assert_eq!(addresses, [at(7_050), testkit::address(2)]);
        assert!(store.extend_target(identity(1), 1_300).is_some());
        assert!(store.extend_target(identity(1), 1_600).is_none());
        assert!(store.extend_target(identity(9), 1_300).is_none());
        assert!(store.is_relay_address(testkit::address(1), 1_300));
        assert!(!store.is_relay_address(testkit::address(1), 1_600));
        assert_eq!(
            store.identity_of_link_key(&identity(1).0, 1_300),
            Some(identity(1))
        );
        assert_eq!(store.identity_of_link_key(&identity(1).0, 1_600), None);
        store.prune(1_600);
        assert_eq!(store.held.len(), 1);
        store.prune(u64::MAX);
        assert_eq!(store.held.len(), 1);
        assert!(store.usable(u64::MAX).is_none());
    }

    #[test]
    fn what_is_held_is_bounded() {
        let network = network(1);
        let mut store = ConsensusStore::new();
        for n in 0..400 {
            store
                .insert(
                    consensus(&network, &consensus_body(1_000 + n, &[])),
                    1_000 + n,
                )
                .unwrap();
        }
        assert_eq!(store.held.len(), MAX_HELD);
    }
}
