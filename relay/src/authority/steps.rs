//! The steps of a voting period, each at its time: vote, agree, count, sign, publish (docs/protocol.md, 6.13 and 6.22).
//!
//! [`Authority::poll`] takes the steps in this order. Each step looks whether its time has come and whether it is done
//! already, and adds what the driver has to do.

use std::sync::Arc;

use cepa_common::dir::{Agreement, Lifetime, NetworkFile, SignedConsensus, Vote, tally};
use cepa_common::ids::RelayId;

use super::AuthorityError;
use super::period::{Action, Authority, Period};
use super::record::Signed;
use super::schedule::lifetime_at;
use crate::events::{AuthorityEvent, AuthorityFailure};

/// Number of valid-afters whose proofs are kept.
const MAX_PROOF_PERIODS: usize = 32;

impl Authority {
    /// Moves to the period that this time belongs to, and never back.
    pub(super) fn roll(&mut self, now_ms: u64) {
        let lifetime = lifetime_at(&self.params, now_ms);
        if lifetime.valid_after <= self.period.lifetime().valid_after {
            return;
        }
        let network = Arc::clone(self.revisions.at(lifetime.valid_after));
        self.params = network.params();
        let after = Lifetime::of(&self.params, lifetime.fresh_until);
        let after_network = Arc::clone(self.revisions.at(after.valid_after));
        let after = Agreement::new(after_network, after);
        let mut agreement = std::mem::replace(&mut self.next, after);
        if agreement.lifetime() != lifetime || agreement.is_untouched() {
            // Either the clock jumped, or a later revision counts from here on and nobody has said anything yet.
            agreement = Agreement::new(network, lifetime);
        }
        self.config.network = Arc::clone(agreement.network());
        self.period = Period::new(agreement, now_ms);
    }

    /// Votes once, as soon as there is a relay to vote for, as long as the vote can arrive in the first round.
    pub(super) fn vote(&mut self, now_ms: u64, actions: &mut Vec<Action>) {
        let rounds = self.period.agreement.rounds();
        let is_time = (rounds.start_ms()..=rounds.propose_until_ms()).contains(&now_ms);
        if self.period.has_voted || !is_time || self.period.attended_ms.is_none() {
            return;
        }
        let lifetime = self.period.lifetime();
        let network = &self.config.network;
        let is_first = *self.first_vote.get_or_insert(lifetime.valid_after) == lifetime.valid_after;
        // A consensus of before the last period does not say what the other authorities have listed since.
        let before = self
            .newest
            .as_deref()
            .filter(|newest| is_first && newest.lifetime().fresh_until >= lifetime.valid_after);
        let entries = self
            .relays
            .vote_entries(network, &self.params, now_ms, lifetime, before);
        if entries.is_empty() {
            return;
        }
        let mut params = self.config.params.clone();
        // The vote names the newest revision that is held, whether that counts already or not: other authorities have
        // to learn of it before it counts (6.3.11).
        params.extend(self.revisions.newest().revision_param());
        let vote = Vote {
            authority: self.config.identity,
            lifetime,
            params,
            entries,
            values: Vec::new(),
            shares: Vec::new(),
        };
        self.period.has_voted = true;
        let key = &self.config.signing_key;
        let signed = vote.sign_cached(network, key, &self.cache).map(Arc::new);
        let proposed = signed.and_then(|vote| self.period.agreement.propose(vote, key));
        match proposed {
            Ok(forward) => {
                // The vote is on disk before it leaves. After a crash the authority might make another vote, and two
                // votes convict (6.13.6).
                actions.push(Action::RecordSigned {
                    valid_after: lifetime.valid_after,
                    what: Signed::Vote,
                    digest: forward.endorsement.digest(),
                });
                actions.push(Action::Endorse {
                    forward,
                    until_ms: rounds.end_ms(),
                });
                let valid_after = lifetime.valid_after;
                self.news.push(AuthorityEvent::VoteMade { valid_after });
            }
            Err(error) => self.news.push(AuthorityFailure::Vote.because(&error)),
        }
    }

    /// Accepts the votes that can be accepted in this round, and reports authorities that voted twice.
    pub(super) fn agree(&mut self, now_ms: u64, actions: &mut Vec<Action>) {
        let agreement = &mut self.period.agreement;
        let until_ms = agreement.rounds().end_ms();
        let forwards = agreement.settle(&self.config.signing_key, now_ms);
        actions.extend(
            forwards
                .into_iter()
                .map(|forward| Action::Endorse { forward, until_ms }),
        );
        let proofs: Vec<_> = agreement.proofs().cloned().collect();
        if proofs.len() == self.period.proofs {
            return;
        }
        self.period.proofs = proofs.len();
        let valid_after = self.period.lifetime().valid_after;
        let told = self.proofs.insert(valid_after, proofs.clone());
        for proof in proofs {
            if !told.iter().flatten().any(|old| *old == proof) {
                self.news.push(AuthorityEvent::VotedTwice {
                    authority: self.name(&proof.author()).to_owned(),
                    valid_after,
                    votes: proof.digests().map(|digest| digest.to_string()),
                });
            }
        }
        while self.proofs.len() > MAX_PROOF_PERIODS {
            self.proofs.pop_first();
        }
    }

    /// An authority's name in network.toml.
    fn name(&self, identity: &RelayId) -> &str {
        let authorities = self.config.network.authorities().iter();
        let mut named = authorities.filter(|authority| authority.identity == *identity);
        named.next().map_or("?", |authority| &authority.name)
    }

    /// The names of authorities.
    fn names(&self, list: &[RelayId]) -> Vec<String> {
        let names = list.iter().map(|identity| self.name(identity).to_owned());
        names.collect()
    }

    /// Counts the votes once, when the last round is over. Before that, a second vote of an author may still become
    /// known.
    pub(super) fn count(&mut self, now_ms: u64, actions: &mut Vec<Action>) {
        let is_over = now_ms >= self.period.agreement.rounds().end_ms();
        if self.period.outcome.is_some() || !is_over {
            return;
        }
        let network = Arc::clone(&self.config.network);
        let outcome = self.period.agreement.outcome();
        let (votes, needed) = (outcome.votes.len(), network.majority());
        let valid_after = self.period.lifetime().valid_after;
        if votes < needed {
            self.without_quorum = self.without_quorum.saturating_add(1);
            self.news.push(AuthorityEvent::NoQuorum {
                valid_after,
                votes,
                needed,
                silent: self.names(&outcome.silent),
                in_a_row: self.without_quorum,
            });
            self.period.outcome = Some(outcome);
            return;
        }
        self.without_quorum = 0;
        self.period.outcome = Some(outcome);
        self.news
            .push(AuthorityEvent::Agreed { valid_after, votes });
        if self.period.attended_ms.is_none() {
            return self.news.push(AuthorityEvent::Absent { valid_after });
        }
        match self.sign(&network) {
            Ok(signed) => actions.extend(signed),
            Err(error) => self.news.push(AuthorityFailure::Count.because(&error)),
        }
    }

    fn sign(&mut self, network: &NetworkFile) -> Result<Vec<Action>, AuthorityError> {
        let lifetime = self.period.lifetime();
        let votes = self.period.outcome.as_ref().map(|o| &o.votes[..]);
        let body = tally(network, lifetime, votes.unwrap_or_default())?;
        let (valid_after, relays) = (lifetime.valid_after, body.entries.len());
        if relays == 0 {
            self.news.push(AuthorityEvent::NoRelays { valid_after });
            return Ok(Vec::new());
        }
        let id = network.network_id();
        let mut consensus = SignedConsensus::unsigned(&body, &id)?;
        let signature = consensus.sign(&id, &self.config.signing_key)?;
        for early in std::mem::take(&mut self.period.early_signatures).values() {
            // A signature that does not verify is not counted, which is its signer's loss.
            let _ = consensus.add(&id, early);
        }
        let record = Action::RecordSigned {
            valid_after,
            what: Signed::Consensus,
            digest: consensus.digest(),
        };
        self.period.consensus = Some(consensus);
        self.news.push(AuthorityEvent::Signed {
            valid_after,
            relays,
        });
        Ok(vec![
            record,
            Action::SendSignature(signature.bytes().to_vec()),
        ])
    }

    /// Publishes, from valid-after on, the consensus that more than half signed, and publishes it again when more have
    /// signed.
    pub(super) fn publish(&mut self, now_ms: u64, actions: &mut Vec<Action>) {
        let network = &self.config.network;
        let Some(consensus) = &self.period.consensus else {
            return;
        };
        let count = consensus.signature_count();
        let is_new = count > self.period.published_signatures;
        let is_time = now_ms >= self.valid_after_ms();
        if count < network.majority() || !is_new || !is_time {
            return;
        }
        let bytes = consensus.to_bytes();
        match bytes.and_then(|bytes| SignedConsensus::parse_and_verify(&bytes, network)) {
            Ok(verified) => {
                self.period.published_signatures = count;
                self.news.extend(self.complete(count));
                actions.push(Action::Publish(verified));
            }
            Err(error) => self.news.push(AuthorityFailure::Consensus.because(&error)),
        }
    }

    /// Says which authorities took part in what is published.
    fn complete(&self, signatures: usize) -> Option<AuthorityEvent> {
        let outcome = self.period.outcome.as_ref()?;
        let consensus = self.period.consensus.as_ref()?;
        let authorities = self.config.network.authorities().iter();
        let unsigned: Vec<_> = authorities
            .filter(|authority| !consensus.is_signed_by(&authority.signing_key))
            .map(|authority| authority.identity)
            .collect();
        Some(AuthorityEvent::Complete {
            valid_after: self.period.lifetime().valid_after,
            votes: outcome.votes.len(),
            signatures,
            silent: self.names(&outcome.silent),
            convicted: self.names(&outcome.convicted),
            unsigned: self.names(&unsigned),
        })
    }
}
