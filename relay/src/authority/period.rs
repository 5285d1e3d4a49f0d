//! The voting period of one authority (docs/protocol.md, 6.13).
//!
//! A consensus is made for every multiple T of the interval I. From T - I/2 on, authorities send their votes and agree
//! by rounds of endorsements which votes there are (6.22). At the end of the last round, T - I/4, each authority counts
//! the votes and sends its signature. From T on, the consensus that more than half signed is published. An authority
//! that says nothing delays nobody, and one that says different things to different others is found out.
//!
//! This file has the machine's state and what is said to the machine; `steps.rs` beside it has what the machine does
//! when it is time.

use std::collections::BTreeMap;
use std::sync::Arc;

use cepa_common::dir::{
    Agreement, Candidacy, Consensus, ConsensusSignature, DescriptorCache, Digest, Endorsement,
    EquivocationProof, Forward, Heard, Lifetime, NetworkFile, Outcome, Params, Revisions,
    SignedConsensus, SignedDescriptor, SignedVote, Signer, UnixSecs,
};
use cepa_common::ids::RelayId;

use super::AuthorityError;
use super::record::Signed;
use super::relays::{Probe, Relays};
use super::schedule::lifetime_at;
use crate::events::AuthorityEvent;

/// What an [`Authority`] is made of.
#[derive(Debug)]
pub struct AuthorityConfig {
    /// The network. The network's parameters alone set the schedule, so that no two authorities can disagree about it.
    pub network: Arc<NetworkFile>,
    /// Identity of the authority.
    pub identity: RelayId,
    /// Key that signs the authority's votes and consensuses.
    pub signing_key: Signer,
    /// Parameters that the authority votes for, in place of those of `network.toml`.
    pub params: BTreeMap<String, u32>,
    /// Valid-after of the last consensus that the authority signed, from disk.
    pub last_signed: Option<UnixSecs>,
    /// Are relays dialled before they are listed?
    pub probes: bool,
}

/// What the driver has to do, in this order.
#[derive(Clone, Debug)]
pub enum Action {
    /// Dial a relay and report the result by [`Authority::on_probe`].
    Probe(Probe),
    /// Send this endorsement before a time, and its vote to those of the others that want it.
    Endorse {
        /// The endorsement, the vote, and the authorities that may not have them.
        forward: Forward,
        /// After this time the message would be useless (milliseconds since the Unix epoch).
        until_ms: u64,
    },
    /// Write this to disk before anything that follows is done. If that fails, call [`Authority::withdraw_signature`]
    /// and drop the other actions.
    RecordSigned {
        /// Valid-after of the vote or consensus that is signed.
        valid_after: UnixSecs,
        /// Whether a vote or a consensus is signed.
        what: Signed,
        /// Digest of what is signed.
        digest: Digest,
    },
    /// Send this signature to every other authority.
    SendSignature(Vec<u8>),
    /// Serve this consensus. The consensus may come again with more signatures.
    Publish(Arc<Consensus>),
}

/// The state that belongs to one valid-after.
#[derive(Debug)]
pub(super) struct Period {
    pub(super) agreement: Agreement,
    pub(super) has_voted: bool,
    /// The result of the votes, once they are counted.
    pub(super) outcome: Option<Outcome>,
    pub(super) consensus: Option<SignedConsensus>,
    /// Signatures that came before this authority had counted, one for each authority.
    pub(super) early_signatures: BTreeMap<[u8; 32], ConsensusSignature>,
    pub(super) published_signatures: usize,
    /// The time until which this authority followed the rounds (milliseconds); `None` if it missed part of them.
    pub(super) attended_ms: Option<u64>,
    /// Number of proofs that were already reported.
    pub(super) proofs: usize,
}

impl Period {
    pub(super) fn new(agreement: Agreement, now_ms: u64) -> Self {
        let in_time = now_ms <= agreement.rounds().propose_until_ms();
        Self {
            agreement,
            has_voted: false,
            outcome: None,
            consensus: None,
            early_signatures: BTreeMap::new(),
            published_signatures: 0,
            attended_ms: in_time.then_some(now_ms),
            proofs: 0,
        }
    }

    pub(super) fn lifetime(&self) -> Lifetime {
        self.agreement.lifetime()
    }

    /// Notes that this authority follows the rounds. An authority that slept through more than a round may have missed
    /// what the others know, so it cannot vouch for a count.
    fn attend(&mut self, now_ms: u64) {
        let Some(before_ms) = self.attended_ms else {
            return;
        };
        let rounds = self.agreement.rounds();
        let from_ms = before_ms.max(rounds.start_ms());
        let to_ms = now_ms.min(rounds.end_ms());
        let longest_ms = rounds.length_ms() + rounds.length_ms() / 2;
        let is_here = to_ms.saturating_sub(from_ms) <= longest_ms;
        self.attended_ms = is_here.then_some(now_ms.max(before_ms));
    }
}

/// The machine of the voting period. Times are milliseconds since the Unix epoch.
#[derive(Debug)]
pub struct Authority {
    pub(super) config: AuthorityConfig,
    pub(super) params: Params,
    pub(super) relays: Relays,
    pub(super) period: Period,
    /// The revisions of the network. For each period the machine looks up which revision counts (6.3.10).
    pub(super) revisions: Arc<Revisions>,
    /// The agreement of the next period, which authorities whose clocks are a little ahead may have begun.
    pub(super) next: Agreement,
    /// The newest proofs that authorities voted twice, by valid-after.
    pub(super) proofs: BTreeMap<UnixSecs, Vec<EquivocationProof>>,
    /// Descriptors that have been verified before.
    pub(super) cache: Arc<DescriptorCache>,
    /// The authority neither votes nor signs before this valid-after, because an earlier run may have sent something
    /// else.
    first: UnixSecs,
    /// The newest consensus that is held.
    pub(super) newest: Option<Arc<Consensus>>,
    /// Valid-after of the first vote of this run. In that vote, relays that the last consensus listed stay listed until
    /// they have been dialled anew.
    pub(super) first_vote: Option<UnixSecs>,
    /// Number of periods in a row, up to the newest that was counted, in which too few votes were agreed on.
    pub(super) without_quorum: u64,
    /// What has happened at the last [`Authority::poll`].
    pub(super) news: Vec<AuthorityEvent>,
}

impl Authority {
    /// An authority that starts at `now_ms`.
    pub fn new(config: AuthorityConfig, now_ms: u64) -> Self {
        let params = config.network.params();
        let relays = Relays::new(config.probes);
        let lifetime = lifetime_at(&params, now_ms);
        // An authority that never signed has no earlier run and need not wait.
        let interval = u64::from(params.vote_interval_seconds);
        let first = match config.last_signed {
            None => lifetime.valid_after,
            Some(last) => last.max(lifetime.valid_after).saturating_add(interval),
        };
        let agreement = Agreement::new(Arc::clone(&config.network), lifetime);
        let next = Lifetime::of(&params, lifetime.fresh_until);
        let revisions = Arc::new(Revisions::new(Arc::clone(&config.network)));
        Self {
            next: Agreement::new(Arc::clone(&config.network), next),
            period: Period::new(agreement, now_ms),
            config,
            params,
            relays,
            revisions,
            proofs: BTreeMap::new(),
            cache: Arc::default(),
            first,
            newest: None,
            first_vote: None,
            without_quorum: 0,
            news: Vec::new(),
        }
    }

    /// Shares the descriptors that have been verified before with whoever receives votes.
    pub fn with_cache(mut self, cache: Arc<DescriptorCache>) -> Self {
        self.cache = cache;
        self
    }

    /// Takes the revisions of the network that are held now. What was received or sent for a period was of the revision
    /// known then (6.3.10), so a period gets another revision only if nothing was received or sent for it.
    pub fn set_revisions(&mut self, revisions: Arc<Revisions>, now_ms: u64) {
        self.revisions = revisions;
        let (lifetime, next) = (self.period.lifetime(), self.next.lifetime());
        let network = Arc::clone(self.revisions.at(lifetime.valid_after));
        let is_untouched = self.period.agreement.is_untouched()
            && self.period.outcome.is_none()
            && self.period.early_signatures.is_empty();
        if is_untouched && network.revision() != self.config.network.revision() {
            self.period = Period::new(Agreement::new(Arc::clone(&network), lifetime), now_ms);
            self.config.network = network;
        }
        if self.next.is_untouched() {
            let network = Arc::clone(self.revisions.at(next.valid_after));
            self.next = Agreement::new(network, next);
        }
    }

    /// Tells the authority the newest consensus that is held.
    pub fn set_newest(&mut self, newest: Option<Arc<Consensus>>) {
        self.newest = newest;
    }

    /// Makes the authority sign with this key from now on.
    pub fn set_signing_key(&mut self, signer: Signer) {
        self.config.signing_key = signer;
    }

    /// Is this an authority of the revision that counts now, with the key that it has?
    fn is_member(&self) -> bool {
        let network = &self.config.network;
        let ours = network.authority_by_signing_key(&self.config.signing_key.authority());
        network.effective_after() <= self.period.lifetime().valid_after
            && ours.is_some_and(|ours| ours.identity == self.config.identity)
    }

    /// Takes a descriptor that a relay uploaded.
    ///
    /// # Errors
    /// [`AuthorityError`] says why the descriptor is refused.
    pub fn on_descriptor(
        &mut self,
        signed: SignedDescriptor,
        now_ms: u64,
    ) -> Result<(), AuthorityError> {
        self.relays.insert(Arc::new(signed), &self.params, now_ms)
    }

    /// Takes an endorsement by the vote's author or by any others. The answer says whether the vote is to follow.
    ///
    /// # Errors
    /// [`AuthorityError`] says why the endorsement is refused.
    pub fn on_endorsement(
        &mut self,
        endorsement: Endorsement,
        now_ms: u64,
    ) -> Result<Heard, AuthorityError> {
        self.roll(now_ms);
        let agreement = self.agreement_of(endorsement.valid_after())?;
        Ok(agreement.on_endorsement(endorsement, now_ms)?)
    }

    /// Takes a vote that an endorsement announced.
    ///
    /// # Errors
    /// [`AuthorityError`] says why the vote is refused.
    pub fn on_vote(&mut self, signed: SignedVote, now_ms: u64) -> Result<(), AuthorityError> {
        self.roll(now_ms);
        let signed = Arc::new(signed);
        let agreement = self.agreement_of(signed.vote().lifetime.valid_after)?;
        agreement.on_vote(Arc::clone(&signed), now_ms)?;
        // These descriptors may be of relays that could not reach this authority. The next vote has them if the relays
        // answer.
        for (_, descriptor) in signed.entries() {
            let _ = self
                .relays
                .insert(Arc::clone(descriptor), &self.params, now_ms);
        }
        Ok(())
    }

    fn agreement_of(&mut self, valid_after: UnixSecs) -> Result<&mut Agreement, AuthorityError> {
        if valid_after < self.first {
            // This authority may have signed something else in an earlier run, and does not know what it accepted.
            return Err(AuthorityError::Recovering);
        }
        [&mut self.period.agreement, &mut self.next]
            .into_iter()
            .find(|agreement| agreement.lifetime().valid_after == valid_after)
            .ok_or(AuthorityError::WrongPeriod)
    }

    /// The valid-afters that are being voted on: that of the present period and that of the next.
    pub fn voted_on(&self) -> [UnixSecs; 2] {
        [self.period.lifetime(), self.next.lifetime()].map(|lifetime| lifetime.valid_after)
    }

    /// The votes that have been endorsed so far, and which of them are wanted.
    pub fn candidacies(&self, now_ms: u64) -> impl Iterator<Item = Candidacy> {
        let all = [&self.period.agreement, &self.next];
        all.into_iter()
            .filter(|agreement| agreement.lifetime().valid_after >= self.first)
            .flat_map(move |agreement| agreement.candidacies(now_ms))
    }

    /// Proofs that authorities voted twice, by valid-after.
    pub fn proofs(&self) -> &BTreeMap<UnixSecs, Vec<EquivocationProof>> {
        &self.proofs
    }

    /// Takes another authority's signature of the consensus of this period.
    ///
    /// # Errors
    /// [`AuthorityError`] says why the signature is refused.
    pub fn on_signature(
        &mut self,
        signature: ConsensusSignature,
        now_ms: u64,
    ) -> Result<(), AuthorityError> {
        let network = self.config.network.network_id();
        self.roll(now_ms);
        if signature.valid_after() != self.period.lifetime().valid_after {
            return Err(AuthorityError::WrongPeriod);
        }
        if signature.signer() == self.config.signing_key.authority() {
            return Err(AuthorityError::Own);
        }
        match &mut self.period.consensus {
            Some(consensus) => {
                consensus.add(&network, &signature)?;
            }
            None => {
                self.period
                    .early_signatures
                    .entry(signature.signer())
                    .or_insert(signature);
            }
        }
        Ok(())
    }

    /// Takes the result of a dial.
    pub fn on_probe(&mut self, probe: &Probe, reached: bool, now_ms: u64) {
        self.relays.on_probe(probe, reached, &self.params, now_ms);
    }

    /// Takes back a signature that could not be recorded. The signature counts as never made, and nothing is signed in
    /// this period.
    pub fn withdraw_signature(&mut self) {
        self.period.consensus = None;
        if self.period.outcome.is_none() {
            self.period.agreement.withdraw(&self.config.identity);
        }
        self.period.attended_ms = None;
    }

    /// Returns what is due. The caller calls this after every event, and at [`Authority::next_wake_ms`].
    pub fn poll(&mut self, now_ms: u64) -> Vec<Action> {
        self.news.clear();
        self.roll(now_ms);
        let mut actions: Vec<_> = self
            .relays
            .due_probes(now_ms)
            .into_iter()
            .map(Action::Probe)
            .collect();
        if self.period.lifetime().valid_after >= self.first && self.is_member() {
            self.period.attend(now_ms);
            // What the others said comes first: if this authority's own vote cannot be recorded, the driver drops the
            // actions that follow the vote.
            self.agree(now_ms, &mut actions);
            self.vote(now_ms, &mut actions);
            self.count(now_ms, &mut actions);
            self.publish(now_ms, &mut actions);
        }
        actions
    }

    /// When to call [`Authority::poll`] next, if nothing happens before (milliseconds).
    pub fn next_wake_ms(&self, now_ms: u64) -> u64 {
        let valid_after_ms = self.valid_after_ms();
        let steps = [
            self.period.agreement.rounds().next_ms(now_ms).unwrap_or(0),
            valid_after_ms,
            self.next.rounds().start_ms(),
        ];
        let next = steps.into_iter().filter(|at| *at > now_ms).min();
        let next = next.unwrap_or(now_ms.saturating_add(self.interval_ms()));
        self.relays
            .next_probe_ms()
            .map_or(next, |probe| probe.max(now_ms).min(next))
    }

    fn interval_ms(&self) -> u64 {
        u64::from(self.params.vote_interval_seconds) * 1_000
    }

    pub(super) fn valid_after_ms(&self) -> u64 {
        self.period.lifetime().valid_after.saturating_mul(1_000)
    }

    /// Takes what has happened at the last [`Authority::poll`], for whoever reports it.
    pub fn take_news(&mut self) -> Vec<AuthorityEvent> {
        core::mem::take(&mut self.news)
    }
}

#[cfg(test)]
impl Authority {
    pub(super) fn period_rounds(&self) -> cepa_common::dir::Rounds {
        self.period.agreement.rounds()
    }

    pub(super) fn period_accepted(&self) -> Vec<(RelayId, Digest)> {
        let mut accepted: Vec<_> = self.period.agreement.accepted().collect();
        accepted.sort();
        accepted
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
#[path = "period_tests.rs"]
mod tests;
