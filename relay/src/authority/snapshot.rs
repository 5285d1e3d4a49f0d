//! How an authority does, for its owner. Pure: the time comes in.

use cepa_common::dir::{AuthorityEntry, Lifetime, UnixSecs};
use cepa_common::ids::RelayId;

use super::Authority;
use super::relays::RelaySums;

/// How far an authority is with the consensus that is voted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum VotingStage {
    /// Votes and endorsements are exchanged.
    Voting,
    /// The votes are counted, and too few were agreed on.
    NoQuorum,
    /// The time for votes is over, and this authority has signed nothing.
    Unsigned,
    /// This authority has signed, and signatures of the others come.
    Signing,
    /// More than half have signed, and the consensus is served.
    Published,
}

/// How an authority does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthoritySnapshot {
    /// The authority's name in the network's file; empty if the revision that counts does not name it.
    pub name: String,
    /// The times of the consensus that is voted on.
    pub lifetime: Lifetime,
    /// When votes are exchanged for that consensus, from and until (milliseconds since 1970).
    pub rounds_ms: [u64; 2],
    /// How far this authority is with that consensus.
    pub stage: VotingStage,
    /// Has this authority made its vote?
    pub has_voted: bool,
    /// Votes that are accepted so far.
    pub votes: usize,
    /// Authorities in all.
    pub authorities: usize,
    /// How many votes, and how many signatures, are needed.
    pub needed: usize,
    /// Names of the authorities without an accepted vote.
    pub silent: Vec<String>,
    /// Names of the authorities that voted twice.
    pub convicted: Vec<String>,
    /// Signatures of the consensus so far.
    pub signatures: usize,
    /// Names of the authorities that have not signed, once this authority has.
    pub unsigned: Vec<String>,
    /// Periods in a row, up to the newest that was counted, in which too few votes were agreed on.
    pub without_quorum: u64,
    /// Until when the key may sign; `None` for a key that needs no certificate.
    pub key_until: Option<UnixSecs>,
    /// What it knows of relays.
    pub relays: RelaySums,
}

impl Authority {
    /// How this authority does at `now_ms`.
    pub fn snapshot(&self, now_ms: u64) -> AuthoritySnapshot {
        let network = &self.config.network;
        let period = &self.period;
        let rounds = period.agreement.rounds();
        let authorities = network.authorities();
        let names = |has_not: &dyn Fn(&AuthorityEntry) -> bool| -> Vec<String> {
            let without = authorities.iter().filter(|one| has_not(one));
            without.map(|one| one.name.clone()).collect()
        };
        // An authority of which two votes were accepted has no vote that counts.
        let convicted = |id: &RelayId| period.agreement.proofs().any(|proof| proof.author() == *id);
        let accepted: Vec<RelayId> = period.agreement.accepted().map(|(id, _)| id).collect();
        let has_vote = |id: &RelayId| accepted.contains(id) && !convicted(id);
        let signatures = period.consensus.as_ref().map_or_else(
            || period.early_signatures.len(),
            |consensus| consensus.signature_count(),
        );
        let unsigned = period.consensus.as_ref().map_or_else(Vec::new, |made| {
            names(&|one| !made.is_signed_by(&one.signing_key))
        });
        let stage = match (&period.outcome, &period.consensus) {
            (_, Some(_)) if period.published_signatures > 0 => VotingStage::Published,
            (_, Some(_)) => VotingStage::Signing,
            (Some(outcome), None) if outcome.votes.len() < network.majority() => {
                VotingStage::NoQuorum
            }
            (Some(_), None) => VotingStage::Unsigned,
            (None, None) if now_ms < rounds.end_ms() => VotingStage::Voting,
            (None, None) => VotingStage::Unsigned,
        };
        let own = (authorities.iter()).find(|one| one.identity == self.config.identity);
        AuthoritySnapshot {
            name: own.map_or_else(String::new, |own| own.name.clone()),
            lifetime: period.lifetime(),
            rounds_ms: [rounds.start_ms(), rounds.end_ms()],
            stage,
            has_voted: period.has_voted,
            votes: authorities
                .iter()
                .filter(|one| has_vote(&one.identity))
                .count(),
            authorities: authorities.len(),
            needed: network.majority(),
            silent: names(&|one| !accepted.contains(&one.identity)),
            convicted: names(&|one| convicted(&one.identity)),
            signatures,
            unsigned,
            without_quorum: self.without_quorum,
            key_until: self.config.signing_key.not_after(),
            relays: self.relays.sums(),
        }
    }
}
