//! The revisions of one network's file that are held (docs/protocol.md, 6.3.6 to 6.3.12).
//!
//! The network's id is that of its founding file and never changes; who its authorities are, does. Each revision says
//! from which valid-after on it counts, so that all who hold it switch in the same period.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::body::AuthorityEntry;
use super::error::NetworkFileError;
use super::file::NetworkFile;
use crate::dir::signed::{Kind, UnixSecs};
use crate::ids::NetworkId;

/// The most revisions held at once. The oldest makes room.
pub const MAX_REVISIONS: usize = 64;

/// The revisions of one network that are held, at least one, by increasing number.
#[derive(Clone, Debug)]
pub struct Revisions {
    held: BTreeMap<u32, Arc<NetworkFile>>,
    newest: Arc<NetworkFile>,
}

impl Revisions {
    /// The revisions that begin with one file, which is trusted as it came.
    pub fn new(file: impl Into<Arc<NetworkFile>>) -> Self {
        let newest: Arc<NetworkFile> = file.into();
        Self {
            held: [(newest.revision(), Arc::clone(&newest))].into(),
            newest,
        }
    }

    /// The file that a person gave, with the revisions `stored` by an earlier run that signatures connect to it.
    pub fn restore(given: impl Into<Arc<NetworkFile>>, mut stored: Vec<NetworkFile>) -> Self {
        let mut revisions = Self::new(given);
        stored.sort_by_key(NetworkFile::revision);
        let start = revisions.newest.revision();
        for older in stored.iter().rev().filter(|file| file.revision() < start) {
            let leads = revisions
                .oldest()
                .is_some_and(|oldest| older.verify_successor(oldest).is_ok());
            if leads {
                revisions
                    .held
                    .insert(older.revision(), Arc::new(older.clone()));
            }
        }
        for newer in stored.into_iter().filter(|file| file.revision() > start) {
            if revisions.insert(newer).is_err() {
                break;
            }
        }
        revisions
    }

    fn oldest(&self) -> Option<&Arc<NetworkFile>> {
        self.held.values().next()
    }

    /// The network's id.
    pub fn network_id(&self) -> NetworkId {
        self.newest.network_id()
    }

    /// The newest revision, whether it counts yet or not. This revision says whom to ask, and it is what is passed on.
    pub fn newest(&self) -> &Arc<NetworkFile> {
        &self.newest
    }

    /// The revision with this number.
    pub fn get(&self, revision: u32) -> Option<&Arc<NetworkFile>> {
        self.held.get(&revision)
    }

    /// All revisions held, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<NetworkFile>> {
        self.held.values()
    }

    /// The revision that counts for documents of this valid-after: the newest that is in effect then. If none is, the
    /// oldest held.
    pub fn at(&self, valid_after: UnixSecs) -> &Arc<NetworkFile> {
        let in_effect = |file: &&Arc<NetworkFile>| file.effective_after() <= valid_after;
        self.held
            .values()
            .rev()
            .find(in_effect)
            .or_else(|| self.oldest())
            .unwrap_or(&self.newest)
    }

    /// The revision whose authorities may have signed this vote, consensus or signature, by the valid-after in it; for
    /// anything else, the newest. Nothing is verified: whoever names a wrong time needs signatures for that time.
    pub fn for_document(&self, bytes: &[u8]) -> &Arc<NetworkFile> {
        valid_after_of(bytes).map_or(&self.newest, |valid_after| self.at(valid_after))
    }

    /// The authorities that vote at `now` or are about to. Relays publish at all of them.
    pub fn authorities(&self, now: UnixSecs) -> Vec<AuthorityEntry> {
        let mut list = self.newest.authorities().to_vec();
        for authority in self.at(now).authorities() {
            if list.iter().all(|held| held.identity != authority.identity) {
                list.push(authority.clone());
            }
        }
        list
    }

    /// Takes a later revision that more than half of the newest one's authorities signed. Returns `false` for a
    /// revision that is held, or older.
    ///
    /// # Errors
    /// [`NetworkFileError`] if the revision is refused, also if it differs from the one held with the same number. What
    /// was held stays.
    pub fn insert(&mut self, next: impl Into<Arc<NetworkFile>>) -> Result<bool, NetworkFileError> {
        let next: Arc<NetworkFile> = next.into();
        if next.network_id() != self.network_id() {
            return Err(NetworkFileError::Rule("it is of another network"));
        }
        if let Some(held) = self.get(next.revision()) {
            if held.says_the_same(&next) {
                return Ok(false);
            }
            return Err(NetworkFileError::Rule(
                "two revisions of one number differ; the one held stays",
            ));
        }
        if next.revision() < self.newest.revision() {
            return Ok(false);
        }
        self.newest.verify_successor(&next)?;
        self.held.insert(next.revision(), Arc::clone(&next));
        self.newest = next;
        while self.held.len() > MAX_REVISIONS {
            self.held.pop_first();
        }
        Ok(true)
    }
}

/// The valid-after in a vote, endorsement, consensus or signature of one. Nothing else of the document is looked at.
fn valid_after_of(bytes: &[u8]) -> Option<UnixSecs> {
    let body = bytes.get(6..)?;
    let times = match *bytes.first()? {
        kind if kind == Kind::Vote as u8 => body.get(32..)?,
        kind if [Kind::Consensus, Kind::ConsensusSignature, Kind::Endorsement]
            .map(|known| known as u8)
            .contains(&kind) =>
        {
            body
        }
        _ => return None,
    };
    let (valid_after, _) = postcard::take_from_bytes::<u64>(times).ok()?;
    Some(valid_after)
}

/// Knows whose signatures a document needs.
pub trait KnownNetwork: Send + Sync {
    /// The revision of the network's file that decides about this vote, consensus or signature.
    fn for_document(&self, bytes: &[u8]) -> Arc<NetworkFile>;
}

impl KnownNetwork for NetworkFile {
    fn for_document(&self, _: &[u8]) -> Arc<NetworkFile> {
        Arc::new(self.clone())
    }
}

impl KnownNetwork for Arc<NetworkFile> {
    fn for_document(&self, _: &[u8]) -> Arc<NetworkFile> {
        Arc::clone(self)
    }
}

impl KnownNetwork for Revisions {
    fn for_document(&self, bytes: &[u8]) -> Arc<NetworkFile> {
        Arc::clone(Self::for_document(self, bytes))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
#[path = "revisions_tests.rs"]
mod tests;
