//! What the connections know about the vote without asking the machine: whether an endorsement is news, and whether a
//! vote is wanted.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use cepa_common::dir::{Digest, Endorsement, EquivocationProof, UnixSecs};
use cepa_common::ids::RelayId;

use super::Authority;

/// A snapshot of the vote, which may be a little old. The machine decides; the snapshot only keeps away from the
/// machine what the machine would surely refuse.
#[derive(Debug, Default)]
pub(crate) struct VotingView {
    periods: [UnixSecs; 2],
    held: HashMap<(UnixSecs, RelayId, Digest), Endorsement>,
    wanted: HashMap<Digest, RelayId>,
    proofs: BTreeMap<UnixSecs, Bytes>,
}

impl VotingView {
    pub(super) fn new(authority: &Authority, now_ms: u64) -> Self {
        let mut view = Self {
            periods: authority.voted_on(),
            ..Self::default()
        };
        for candidacy in authority.candidacies(now_ms) {
            let endorsement = candidacy.endorsement;
            if candidacy.wants_vote {
                view.wanted
                    .insert(endorsement.digest(), endorsement.author());
            }
            view.held.insert(key(&endorsement), endorsement);
        }
        let proofs = authority
            .proofs()
            .iter()
            .filter_map(|(valid_after, proofs)| {
                let bytes = EquivocationProof::to_bytes(proofs).ok()?;
                Some((*valid_after, Bytes::from(bytes)))
            });
        view.proofs = proofs.collect();
        view
    }

    /// Is the snapshot of the machine's present period?
    pub(super) fn is_of(&self, authority: &Authority) -> bool {
        self.periods == authority.voted_on()
    }

    /// Is this valid-after being voted on?
    pub(crate) fn is_voted_on(&self, valid_after: UnixSecs) -> bool {
        self.periods.contains(&valid_after)
    }

    /// Does the endorsement say nothing new? Such an endorsement need not be verified.
    pub(crate) fn is_known(&self, endorsement: &Endorsement) -> bool {
        self.held.get(&key(endorsement)).is_some_and(|held| {
            endorsement
                .signers()
                .all(|signer| held.is_signed_by(signer))
        })
    }

    /// The author of the vote with this digest, if the vote is wanted.
    pub(crate) fn wanted(&self, digest: &Digest) -> Option<RelayId> {
        self.wanted.get(digest).copied()
    }

    /// The proofs of one valid-after.
    pub(crate) fn proofs(&self, valid_after: UnixSecs) -> Option<Bytes> {
        self.proofs.get(&valid_after).cloned()
    }
}

fn key(endorsement: &Endorsement) -> (UnixSecs, RelayId, Digest) {
    (
        endorsement.valid_after(),
        endorsement.author(),
        endorsement.digest(),
    )
}
