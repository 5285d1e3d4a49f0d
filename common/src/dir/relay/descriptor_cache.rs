//! Descriptors that have been verified before: of ten thousand in a vote, hardly any is new.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use sha2::{Digest as _, Sha256};

use super::descriptor::{MAX_ENTRIES, SignedDescriptor};
use crate::dir::signed::DocError;
use crate::ids::NetworkId;
use crate::sync::lock;

/// Descriptors of one network, by SHA-256 of the whole document with its signature. A descriptor is forgotten when as
/// many others have been asked for since as a vote may list. The cache is safe to share: its answers depend on the
/// bytes only.
#[derive(Debug, Default)]
pub struct DescriptorCache(Mutex<Generations>);

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<[u8; 32], Arc<SignedDescriptor>>,
    old: HashMap<[u8; 32], Arc<SignedDescriptor>>,
    verified: u64,
}

impl Generations {
    fn find(&mut self, key: &[u8; 32]) -> Option<Arc<SignedDescriptor>> {
        if let Some(held) = self.young.get(key) {
            return Some(Arc::clone(held));
        }
        let held = self.old.remove(key)?;
        self.keep(*key, Arc::clone(&held));
        Some(held)
    }

    fn keep(&mut self, key: [u8; 32], signed: Arc<SignedDescriptor>) {
        if self.young.len() >= MAX_ENTRIES {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, signed);
    }
}

impl DescriptorCache {
    /// Does what [`SignedDescriptor::parse_and_verify`] does, unless these very bytes passed it before.
    ///
    /// # Errors
    /// [`DocError`] if the descriptor is refused.
    pub fn parse_and_verify(
        &self,
        bytes: &[u8],
        network: &NetworkId,
    ) -> Result<Arc<SignedDescriptor>, DocError> {
        let mut hash = Sha256::new();
        hash.update(network.0);
        hash.update(bytes);
        let key: [u8; 32] = hash.finalize().into();
        if let Some(held) = self.lock().find(&key) {
            return Ok(held);
        }
        let signed = Arc::new(SignedDescriptor::parse_and_verify(bytes, network)?);
        let mut generations = self.lock();
        generations.verified += 1;
        generations.keep(key, Arc::clone(&signed));
        Ok(signed)
    }

    /// Number of descriptors that were verified because they were not found here.
    pub fn verified(&self) -> u64 {
        self.lock().verified
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Generations> {
        // Each change is complete when it is made, so a panic elsewhere leaves nothing half done.
        lock(&self.0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::dir::SignedVote;
    use crate::testkit::{self, network, signing_key};

    #[test]
    fn the_same_descriptor_is_verified_once_and_another_signature_of_it_anew() {
        let network = network(3);
        let id = network.network_id();
        let cache = DescriptorCache::default();
        for author in [1, 2, 3] {
            let vote = testkit::vote(&network, author, &[1, 2, 3]);
            let signed = vote.sign(&network, &signing_key(author)).unwrap();
            SignedVote::parse_and_verify_cached(signed.bytes(), &network, &cache).unwrap();
        }
        assert_eq!(cache.verified(), 3);
        let mut forged = testkit::signed_descriptor(&network, 1).bytes().to_vec();
        *forged.last_mut().unwrap() ^= 1;
        assert!(cache.parse_and_verify(&forged, &id).is_err());
        assert_eq!(cache.verified(), 3);
    }

    #[test]
    fn it_is_bounded_and_keeps_what_is_asked_for() {
        let network = network(3);
        let id = network.network_id();
        let cache = DescriptorCache::default();
        let kept = testkit::signed_descriptor(&network, 1);
        let held = cache.parse_and_verify(kept.bytes(), &id).unwrap();
        for n in 0..3 * MAX_ENTRIES {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&n.to_be_bytes());
            cache.lock().keep(key, Arc::clone(&held));
            if n % (MAX_ENTRIES / 2) == 0 {
                cache.parse_and_verify(kept.bytes(), &id).unwrap();
            }
        }
        assert_eq!(cache.verified(), 1);
        let generations = cache.lock();
        assert!(generations.young.len() + generations.old.len() <= 2 * MAX_ENTRIES);
    }
}
