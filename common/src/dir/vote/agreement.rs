//! How the authorities agree which votes there are: by rounds of signatures after Dolev and Strong (docs/protocol.md,
//! 6.22).
//!
//! One [`Agreement`] is for one valid-after. An agreement takes endorsements and votes with the times of their arrival,
//! and says what to tell whom. An agreement opens no connection and reads no clock. As long as at most f of n
//! authorities are faulty, and messages between the others keep the times of 6.22.8, all the others count the same
//! votes.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::document::SignedVote;
use super::endorsement::Endorsement;
use super::proof::EquivocationProof;
use crate::dir::consensus::Lifetime;
use crate::dir::network::NetworkFile;
use crate::dir::signed::{AsSigner, Digest, DocError, UnixSecs};
use crate::ids::RelayId;

/// Number of digests of one author that are remembered. Two digests convict the author, and nothing that it signs after
/// that matters.
const MAX_CANDIDATES: usize = 2;

/// The times of the rounds, in milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rounds {
    start_ms: u64,
    length_ms: u64,
    count: u32,
}

impl Rounds {
    /// The rounds for a valid-after of `authorities` authorities that vote every `interval_secs`. The rounds are of
    /// equal length, begin at T - I/2 and end at T - I/4 at the latest.
    pub fn new(authorities: usize, interval_secs: u64, valid_after: UnixSecs) -> Self {
        let faulty = authorities.saturating_sub(1) / 2;
        let count = u32::try_from(faulty).unwrap_or(u32::MAX).saturating_add(1);
        let interval_ms = interval_secs.saturating_mul(1_000);
        Self {
            start_ms: valid_after
                .saturating_mul(1_000)
                .saturating_sub(interval_ms / 2),
            length_ms: (interval_ms / 4 / u64::from(count)).max(1),
            count,
        }
    }

    /// Number of rounds.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Length of one round (milliseconds).
    pub fn length_ms(&self) -> u64 {
        self.length_ms
    }

    /// Start of the first round.
    pub fn start_ms(&self) -> u64 {
        self.start_ms
    }

    /// End of the last round.
    pub fn end_ms(&self) -> u64 {
        let span = self.length_ms.saturating_mul(u64::from(self.count));
        self.start_ms.saturating_add(span)
    }

    /// Until this time an author may send its own vote: half a round is left for it to arrive in the first round.
    pub fn propose_until_ms(&self) -> u64 {
        self.start_ms.saturating_add(self.length_ms / 2)
    }

    /// The round at a time: 0 before the first, `None` after the last.
    pub fn at(&self, now_ms: u64) -> Option<u32> {
        let Some(since_ms) = now_ms.checked_sub(self.start_ms) else {
            return Some(0);
        };
        let round = u32::try_from(since_ms / self.length_ms).ok()?;
        (round < self.count).then(|| round + 1)
    }

    /// The next time at which a round begins or the last one ends; `None` after that.
    pub fn next_ms(&self, now_ms: u64) -> Option<u64> {
        let ends = (0..=u64::from(self.count))
            .map(|round| self.start_ms.saturating_add(round * self.length_ms));
        ends.into_iter().find(|at| *at > now_ms)
    }
}

/// The answer to an endorsement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Nothing more is wanted.
    Held,
    /// The vote itself is missing.
    WantVote,
}

/// Why an endorsement or vote has no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AgreementError {
    /// There are fewer signatures than the round asks for, or no round is left.
    #[error("too late, or with too few signatures for this round")]
    Late,
    /// The vote is not endorsed, is no longer wanted, or is for other times.
    #[error("this vote is not wanted")]
    NotWanted,
}

/// An endorsement to send to those who may not have it.
#[derive(Clone, Debug)]
pub struct Forward {
    /// The endorsement, with this authority's signature.
    pub endorsement: Endorsement,
    /// The vote, for authorities that ask for it; `None` if two digests convict the author and its votes are of no use.
    pub vote: Option<Arc<SignedVote>>,
    /// Authorities to send it to.
    pub to: Vec<RelayId>,
}

/// What is known about the vote with one digest.
#[derive(Clone, Debug)]
pub struct Candidacy {
    /// The endorsement so far.
    pub endorsement: Endorsement,
    /// Is the vote itself wanted?
    pub wants_vote: bool,
}

/// What the authorities agreed on, once the last round is over.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The votes that count.
    pub votes: Vec<Arc<SignedVote>>,
    /// Authorities of which no vote was accepted.
    pub silent: Vec<RelayId>,
    /// Authorities of which two votes were accepted.
    pub convicted: Vec<RelayId>,
}

#[derive(Debug)]
struct Candidate {
    endorsement: Endorsement,
    vote: Option<Arc<SignedVote>>,
    is_accepted: bool,
}

impl Candidate {
    /// Does the candidate have a signature for each round so far (6.22.3)?
    fn is_live(&self, round: u32) -> bool {
        is_live(&self.endorsement, round)
    }
}

fn is_live(endorsement: &Endorsement, round: u32) -> bool {
    u32::try_from(endorsement.count()).unwrap_or(u32::MAX) >= round
}

#[derive(Debug, Default)]
struct Author {
    candidates: Vec<Candidate>,
    /// The first endorsement ever seen. This endorsement serves for a proof even if it came too late to count.
    witness: Option<Endorsement>,
    proof: Option<EquivocationProof>,
}

impl Author {
    fn is_convicted(&self) -> bool {
        self.candidates.iter().filter(|c| c.is_accepted).count() >= MAX_CANDIDATES
    }

    fn watch(&mut self, endorsement: &Endorsement) {
        match &self.witness {
            None => self.witness = Some(endorsement.only_author()),
            Some(witness) if self.proof.is_none() => {
                self.proof = EquivocationProof::new(witness, endorsement);
            }
            Some(_) => {}
        }
    }

    /// Makes room for one more digest: a digest that can no longer be accepted gives way.
    fn make_room(&mut self, round: u32) -> bool {
        if self.candidates.len() >= MAX_CANDIDATES {
            let dead = |c: &Candidate| !c.is_accepted && !c.is_live(round);
            if let Some(at) = self.candidates.iter().position(dead) {
                self.candidates.remove(at);
            }
        }
        self.candidates.len() < MAX_CANDIDATES
    }

    /// Are there two digests that are accepted or can be now? Then the author is convicted, and none of its votes is of
    /// use.
    fn is_twofold(&self, round: u32) -> bool {
        let counts = |c: &&Candidate| c.is_accepted || c.is_live(round);
        self.candidates.iter().filter(counts).count() >= MAX_CANDIDATES
    }

    fn wants(&self, candidate: &Candidate, round: u32) -> bool {
        candidate.vote.is_none() && candidate.is_live(round) && !self.is_twofold(round)
    }

    /// The candidates to accept now (6.22.3): live, and either held in full or one of two.
    fn acceptable(&self, round: u32) -> Vec<usize> {
        let is_twofold = self.is_twofold(round);
        let fits =
            |c: &Candidate| !c.is_accepted && c.is_live(round) && (c.vote.is_some() || is_twofold);
        let all = self.candidates.iter().enumerate();
        all.filter(|(_, c)| fits(c)).map(|(n, _)| n).collect()
    }
}

/// The agreement on the votes of one valid-after.
#[derive(Debug)]
pub struct Agreement {
    network: Arc<NetworkFile>,
    lifetime: Lifetime,
    rounds: Rounds,
    authors: BTreeMap<RelayId, Author>,
}

impl Agreement {
    /// An agreement in which nobody has said anything yet.
    pub fn new(network: Arc<NetworkFile>, lifetime: Lifetime) -> Self {
        let interval = lifetime.fresh_until.saturating_sub(lifetime.valid_after);
        let authorities = network.authorities();
        Self {
            rounds: Rounds::new(authorities.len(), interval, lifetime.valid_after),
            authors: authorities
                .iter()
                .map(|authority| (authority.identity, Author::default()))
                .collect(),
            network,
            lifetime,
        }
    }

    /// Has nobody said anything so far?
    pub fn is_untouched(&self) -> bool {
        self.authors
            .values()
            .all(|author| author.candidates.is_empty() && author.witness.is_none())
    }

    /// The revision of the network's file whose authorities vote.
    pub fn network(&self) -> &Arc<NetworkFile> {
        &self.network
    }

    /// The times that votes must have.
    pub fn lifetime(&self) -> Lifetime {
        self.lifetime
    }

    /// When the rounds are.
    pub fn rounds(&self) -> Rounds {
        self.rounds
    }

    /// Proposes this authority's own vote. The caller does so once, before [`Rounds::propose_until_ms`].
    ///
    /// # Errors
    /// [`DocError`] if the key is not the author's.
    pub fn propose(
        &mut self,
        vote: Arc<SignedVote>,
        key: &impl AsSigner,
    ) -> Result<Forward, DocError> {
        let endorsement = Endorsement::of_vote(&vote, &self.network, key)?;
        let to = self.others(&endorsement);
        let author = self.authors.entry(endorsement.author()).or_default();
        author.watch(&endorsement);
        author.candidates = vec![Candidate {
            endorsement: endorsement.clone(),
            vote: Some(Arc::clone(&vote)),
            is_accepted: true,
        }];
        Ok(Forward {
            endorsement,
            vote: Some(vote),
            to,
        })
    }

    /// Takes this authority's own vote back, which must not have been sent.
    pub fn withdraw(&mut self, author: &RelayId) {
        if let Some(author) = self.authors.get_mut(author) {
            *author = Author::default();
        }
    }

    /// Takes an endorsement of this valid-after. [`Agreement::settle`] says what follows from it.
    ///
    /// # Errors
    /// [`AgreementError::Late`] if the endorsement comes too late; it may still convict its author.
    pub fn on_endorsement(
        &mut self,
        endorsement: Endorsement,
        now_ms: u64,
    ) -> Result<Heard, AgreementError> {
        let author = self
            .authors
            .get_mut(&endorsement.author())
            .filter(|_| endorsement.valid_after() == self.lifetime.valid_after)
            .ok_or(AgreementError::NotWanted)?;
        author.watch(&endorsement);
        let digest = endorsement.digest();
        let held = author
            .candidates
            .iter_mut()
            .find(|c| c.endorsement.digest() == digest);
        let round = self.rounds.at(now_ms);
        if let Some(held) = held {
            held.endorsement.merge(&endorsement);
            if held.is_accepted {
                return Ok(Heard::Held);
            }
        }
        let round = round.ok_or(AgreementError::Late)?;
        let is_held = |c: &Candidate| c.endorsement.digest() == digest;
        if !author.candidates.iter().any(is_held) {
            if !is_live(&endorsement, round) || !author.make_room(round) {
                return Err(AgreementError::Late);
            }
            author.candidates.push(Candidate {
                endorsement,
                vote: None,
                is_accepted: false,
            });
        }
        let held = author.candidates.iter().find(|c| is_held(c));
        match held {
            Some(held) if author.wants(held, round) => Ok(Heard::WantVote),
            Some(held) if held.is_live(round) => Ok(Heard::Held),
            _ => Err(AgreementError::Late),
        }
    }

    /// Takes a vote that was asked for. [`Agreement::settle`] says what follows from it.
    ///
    /// # Errors
    /// [`AgreementError::NotWanted`] if the vote was not asked for. The same vote again is no error.
    pub fn on_vote(&mut self, vote: Arc<SignedVote>, now_ms: u64) -> Result<(), AgreementError> {
        if vote.vote().lifetime != self.lifetime {
            return Err(AgreementError::NotWanted);
        }
        let author = self.authors.get_mut(&vote.vote().authority);
        let held = author.and_then(|author| {
            let mut all = author.candidates.iter_mut();
            all.find(|c| c.endorsement.digest() == vote.digest())
        });
        let held = held.ok_or(AgreementError::NotWanted)?;
        if held.vote.is_some() {
            return Ok(());
        }
        let is_timely = self
            .rounds
            .at(now_ms)
            .is_some_and(|round| held.is_live(round));
        if held.is_accepted || !is_timely {
            return Err(AgreementError::NotWanted);
        }
        held.vote = Some(vote);
        Ok(())
    }

    /// Accepts what can be accepted now, and adds this authority's signature. The caller calls this after every event
    /// and when a round begins.
    pub fn settle(&mut self, key: &impl AsSigner, now_ms: u64) -> Vec<Forward> {
        let round = match self.rounds.at(now_ms) {
            // The endorsement comes from a clock that is ahead; its time is still to come.
            None | Some(0) => return Vec::new(),
            Some(round) => round,
        };
        let id = self.network.network_id();
        let mut accepted = Vec::new();
        for author in self.authors.values_mut() {
            for at in author.acceptable(round) {
                let Some(candidate) = author.candidates.get_mut(at) else {
                    continue;
                };
                candidate.is_accepted = true;
                candidate.endorsement.endorse(&id, key);
                accepted.push((candidate.endorsement.clone(), candidate.vote.clone()));
            }
            if author.is_convicted() {
                author.candidates.iter_mut().for_each(|c| c.vote = None);
            }
        }
        if round == self.rounds.count {
            // Each of these endorsements has the signature of an honest authority that told all others in an earlier
            // round.
            return Vec::new();
        }
        let forwards = accepted.into_iter().map(|(endorsement, vote)| Forward {
            // Authorities that signed the endorsement hold it.
            to: self.others(&endorsement),
            endorsement,
            vote,
        });
        forwards.filter(|forward| !forward.to.is_empty()).collect()
    }

    /// The authorities that have not signed.
    fn others(&self, endorsement: &Endorsement) -> Vec<RelayId> {
        let authorities = self.network.authorities().iter();
        authorities
            .filter(|authority| !endorsement.is_signed_by(&authority.signing_key))
            .map(|authority| authority.identity)
            .collect()
    }

    /// Every digest that is remembered, and whether its vote is wanted at this time.
    pub fn candidacies(&self, now_ms: u64) -> impl Iterator<Item = Candidacy> {
        let round = self.rounds.at(now_ms);
        self.authors.values().flat_map(move |author| {
            author.candidates.iter().map(move |candidate| Candidacy {
                endorsement: candidate.endorsement.clone(),
                wants_vote: round.is_some_and(|round| author.wants(candidate, round)),
            })
        })
    }

    /// What is agreed on so far. The outcome is final when the last round is over.
    pub fn outcome(&self) -> Outcome {
        let mut outcome = Outcome {
            votes: Vec::new(),
            silent: Vec::new(),
            convicted: Vec::new(),
        };
        for (identity, author) in &self.authors {
            let mut accepted = author.candidates.iter().filter(|c| c.is_accepted);
            match (accepted.next(), accepted.next()) {
                (Some(only), None) => outcome.votes.extend(only.vote.clone()),
                (Some(_), Some(_)) => outcome.convicted.push(*identity),
                (None, _) => outcome.silent.push(*identity),
            }
        }
        outcome
    }

    /// Proofs that authorities voted twice, whether both votes came in time or not.
    pub fn proofs(&self) -> impl Iterator<Item = &EquivocationProof> {
        self.authors
            .values()
            .filter_map(|author| author.proof.as_ref())
    }

    /// The digests that were accepted, by author, for logs and tests.
    pub fn accepted(&self) -> impl Iterator<Item = (RelayId, Digest)> {
        self.authors.iter().flat_map(|(identity, author)| {
            let accepted = author.candidates.iter().filter(|c| c.is_accepted);
            accepted.map(|c| (*identity, c.endorsement.digest()))
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
#[path = "agreement_tests.rs"]
mod tests;
