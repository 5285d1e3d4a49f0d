//! The voting period of one authority (docs/protocol.md, 6.13).
//!
//! A consensus is made for every multiple T of the interval I. From T - I/2 on authorities send their votes; at
//! T - I/4, or once all are in, each counts those that it has and sends its signature; from T on the consensus that
//! more than half signed is published. One authority that says nothing delays nobody.

use std::collections::BTreeMap;
use std::sync::Arc;

use cepa_common::dir::{
    Consensus, ConsensusSignature, Digest, Lifetime, NetworkFile, Params, Revisions,
    SignedConsensus, SignedDescriptor, SignedVote, Signer, UnixSecs, Vote, tally,
};
use cepa_common::ids::RelayId;

use super::AuthorityError;
use super::relays::{Probe, Relays};

/// Consensus validity in intervals, at least: the loss of a period or two must not stop a network.
const MIN_VALID_INTERVALS: u64 = 3;

/// What an authority is made of.
#[derive(Debug)]
pub struct AuthorityConfig {
    /// The network; its parameters alone set the schedule, so that no two authorities can disagree on it.
    pub network: Arc<NetworkFile>,
    /// Who it is.
    pub identity: RelayId,
    /// Signs its votes and consensuses.
    pub signing_key: Signer,
    /// Parameters that it votes for, over those of `network.toml`.
    pub params: BTreeMap<String, u32>,
    /// Valid-after of the last consensus that it signed, from disk.
    pub last_signed: Option<UnixSecs>,
    /// Are relays dialled before they are listed?
    pub probes: bool,
}

/// What the driver has to do; in order.
#[derive(Clone, Debug)]
pub enum Action {
    /// Dial a relay and report by [`Authority::on_probe`].
    Probe(Probe),
    /// Send this vote to every other authority.
    SendVote(Vec<u8>),
    /// Have this on disk before anything that follows is done; when that fails, call
    /// [`Authority::withdraw_signature`] and drop the rest.
    RecordSigned {
        /// Valid-after of the consensus signed.
        valid_after: UnixSecs,
        /// Its digest.
        digest: Digest,
    },
    /// Send this signature to every other authority.
    SendSignature(Vec<u8>),
    /// Serve this consensus; it may come again with more signatures.
    Publish(Arc<Consensus>),
}

/// What belongs to one valid-after.
#[derive(Debug)]
struct Period {
    lifetime: Lifetime,
    has_voted: bool,
    is_counted: bool,
    votes: Vec<SignedVote>,
    consensus: Option<SignedConsensus>,
    /// Signatures that came before our own count, one to an authority.
    early_signatures: BTreeMap<[u8; 32], ConsensusSignature>,
    published_signatures: usize,
}

impl Period {
    fn new(lifetime: Lifetime) -> Self {
        Self {
            lifetime,
            has_voted: false,
            is_counted: false,
            votes: Vec::new(),
            consensus: None,
            early_signatures: BTreeMap::new(),
            published_signatures: 0,
        }
    }
}

/// The machine; times are milliseconds since the Unix epoch.
#[derive(Debug)]
pub struct Authority {
    config: AuthorityConfig,
    pub(super) params: Params,
    pub(super) relays: Relays,
    period: Period,
    /// The revisions of the network; which one counts is looked up when a period begins (6.3.10).
    revisions: Arc<Revisions>,
    /// Votes for the period after this one, from clocks a little ahead; one to an author.
    next_votes: BTreeMap<RelayId, SignedVote>,
    /// No vote and no signature before this valid-after: an earlier run may have sent other ones.
    first: UnixSecs,
}

impl Authority {
    /// An authority that starts now.
    pub fn new(config: AuthorityConfig, now_ms: u64) -> Self {
        let params = config.network.params();
        let relays = Relays::new(config.probes);
        let lifetime = lifetime_at(&params, now_ms);
        // One that never signed has no earlier run and need not wait.
        let interval = u64::from(params.vote_interval_seconds);
        let first = match config.last_signed {
            None => lifetime.valid_after,
            Some(last) => last.max(lifetime.valid_after).saturating_add(interval),
        };
        let period = Period::new(lifetime);
        let revisions = Arc::new(Revisions::new(Arc::clone(&config.network)));
        Self {
            config,
            params,
            relays,
            period,
            revisions,
            next_votes: BTreeMap::new(),
            first,
        }
    }

    /// Takes the revisions of the network that are held now. Which one counts is looked up when a period begins (6.3.10):
    /// what has come or been sent for this period was of its own revision, so it changes now only if nothing has.
    pub fn set_revisions(&mut self, revisions: Arc<Revisions>) {
        self.revisions = revisions;
        let period = &self.period;
        let is_untouched = !period.has_voted
            && !period.is_counted
            && period.votes.is_empty()
            && period.early_signatures.is_empty();
        if is_untouched {
            self.config.network = Arc::clone(self.revisions.at(period.lifetime.valid_after));
        }
    }

    /// Signs with this key from now on.
    pub fn set_signing_key(&mut self, signer: Signer) {
        self.config.signing_key = signer;
    }

    /// Is it an authority of the revision that counts now, with the key that it has?
    fn is_member(&self) -> bool {
        let network = &self.config.network;
        let ours = network.authority_by_signing_key(&self.config.signing_key.authority());
        network.effective_after() <= self.period.lifetime.valid_after
            && ours.is_some_and(|ours| ours.identity == self.config.identity)
    }

    /// Takes a descriptor that a relay uploaded.
    ///
    /// # Errors
    /// [`AuthorityError`] says why it is refused.
    pub fn on_descriptor(
        &mut self,
        signed: SignedDescriptor,
        now_ms: u64,
    ) -> Result<(), AuthorityError> {
        self.relays.insert(Arc::new(signed), &self.params, now_ms)
    }

    /// Takes another authority's vote; the first one of an author for a period counts.
    ///
    /// # Errors
    /// [`AuthorityError`] says why it is refused.
    pub fn on_vote(&mut self, signed: SignedVote, now_ms: u64) -> Result<(), AuthorityError> {
        self.roll(now_ms);
        let author = signed.vote().authority;
        if author == self.config.identity {
            return Err(AuthorityError::Own);
        }
        let lifetime = signed.vote().lifetime;
        let is_next = lifetime == self.lifetime_of(self.period.lifetime.fresh_until);
        if lifetime != self.period.lifetime && !is_next {
            return Err(AuthorityError::WrongPeriod);
        }
        let held = if is_next {
            self.next_votes.get(&author)
        } else {
            self.period
                .votes
                .iter()
                .find(|held| held.vote().authority == author)
        };
        if let Some(held) = held {
            let same = held.digest() == signed.digest();
            return if same {
                Ok(())
            } else {
                Err(AuthorityError::Equivocation)
            };
        }
        if !is_next && self.period.is_counted {
            return Err(AuthorityError::TooLate);
        }
        // Descriptors that the relay could not bring to us itself; the next vote has them if they are reachable.
        for (_, descriptor) in signed.entries() {
            let _ = self
                .relays
                .insert(Arc::clone(descriptor), &self.params, now_ms);
        }
        if is_next {
            self.next_votes.insert(author, signed);
        } else {
            self.period.votes.push(signed);
        }
        Ok(())
    }

    /// Takes another authority's signature of the consensus of this period.
    ///
    /// # Errors
    /// [`AuthorityError`] says why it is refused.
    pub fn on_signature(
        &mut self,
        signature: ConsensusSignature,
        now_ms: u64,
    ) -> Result<(), AuthorityError> {
        let network = self.config.network.network_id();
        self.roll(now_ms);
        if signature.valid_after() != self.period.lifetime.valid_after {
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

    /// The signature of this period could not be recorded: it was never made.
    pub fn withdraw_signature(&mut self) {
        self.period.consensus = None;
    }

    /// Does what is due. To be called after every event, and at [`Authority::next_wake_ms`].
    pub fn poll(&mut self, now_ms: u64) -> Vec<Action> {
        self.roll(now_ms);
        let mut actions: Vec<_> = self
            .relays
            .due_probes(now_ms)
            .into_iter()
            .map(Action::Probe)
            .collect();
        if self.period.lifetime.valid_after >= self.first && self.is_member() {
            self.vote(now_ms, &mut actions);
            self.count(now_ms, &mut actions);
            self.publish(now_ms, &mut actions);
        }
        actions
    }

    /// When to call [`Authority::poll`] next, if nothing happens before.
    pub fn next_wake_ms(&self, now_ms: u64) -> u64 {
        let valid_after_ms = self.valid_after_ms();
        let interval_ms = self.interval_ms();
        let steps = [
            self.count_at_ms(),
            valid_after_ms,
            valid_after_ms.saturating_add(interval_ms - interval_ms / 2),
        ];
        let next = steps.into_iter().filter(|at| *at > now_ms).min();
        let next = next.unwrap_or(now_ms.saturating_add(interval_ms));
        self.relays
            .next_probe_ms()
            .map_or(next, |probe| probe.max(now_ms).min(next))
    }

    fn interval_ms(&self) -> u64 {
        u64::from(self.params.vote_interval_seconds) * 1_000
    }

    fn valid_after_ms(&self) -> u64 {
        self.period.lifetime.valid_after.saturating_mul(1_000)
    }

    fn count_at_ms(&self) -> u64 {
        self.valid_after_ms().saturating_sub(self.interval_ms() / 4)
    }

    fn lifetime_of(&self, valid_after: UnixSecs) -> Lifetime {
        lifetime_of(&self.params, valid_after)
    }

    /// Moves to the period that this time belongs to; never back.
    fn roll(&mut self, now_ms: u64) {
        let lifetime = lifetime_at(&self.params, now_ms);
        if lifetime.valid_after <= self.period.lifetime.valid_after {
            return;
        }
        self.period = Period::new(lifetime);
        self.config.network = Arc::clone(self.revisions.at(lifetime.valid_after));
        self.params = self.config.network.params();
        let votes = std::mem::take(&mut self.next_votes);
        self.period.votes = votes
            .into_values()
            .filter(|v| v.vote().lifetime == lifetime)
            .collect();
    }

    /// Votes once, as soon as there is a relay to vote for; not when the others already count, each what it has.
    fn vote(&mut self, now_ms: u64, actions: &mut Vec<Action>) {
        if self.period.has_voted || self.period.is_counted || now_ms >= self.count_at_ms() {
            return;
        }
        let lifetime = self.period.lifetime;
        let network = &self.config.network;
        let entries = self
            .relays
            .vote_entries(network, &self.params, now_ms, lifetime.valid_until);
        if entries.is_empty() {
            return;
        }
        let mut params = self.config.params.clone();
        // What is held, whether it counts yet or not: others have to learn of it before it does (6.3.11).
        params.extend(self.revisions.newest().revision_param());
        let vote = Vote {
            authority: self.config.identity,
            lifetime,
            params,
            entries,
        };
        match vote.sign(network, &self.config.signing_key) {
            Ok(signed) => {
                actions.push(Action::SendVote(signed.bytes().to_vec()));
                self.period.votes.push(signed);
                self.period.has_voted = true;
            }
            Err(error) => tracing::error!(%error, "own vote is not valid"),
        }
    }

    /// Counts once: when all votes are in, or at its time as soon as more than half are.
    fn count(&mut self, now_ms: u64, actions: &mut Vec<Action>) {
        let network = Arc::clone(&self.config.network);
        let votes = self.period.votes.len();
        let is_due = votes == network.authorities().len() || now_ms >= self.count_at_ms();
        if self.period.is_counted || !is_due || votes < network.majority() {
            return;
        }
        self.period.is_counted = true;
        match self.sign(&network) {
            Ok(signed) => actions.extend(signed),
            Err(error) => tracing::error!(%error, "votes make no consensus"),
        }
    }

    fn sign(&mut self, network: &NetworkFile) -> Result<Vec<Action>, AuthorityError> {
        let lifetime = self.period.lifetime;
        let body = tally(network, lifetime, &self.period.votes)?;
        if body.entries.is_empty() {
            tracing::warn!("more than half of the authorities agree on no relay; nothing to sign");
            return Ok(Vec::new());
        }
        let id = network.network_id();
        let mut consensus = SignedConsensus::unsigned(&body, &id)?;
        let signature = consensus.sign(&id, &self.config.signing_key)?;
        for early in std::mem::take(&mut self.period.early_signatures).values() {
            // One that does not verify is its signer's loss.
            let _ = consensus.add(&id, early);
        }
        let valid_after = lifetime.valid_after;
        let record = Action::RecordSigned {
            valid_after,
            digest: consensus.digest(),
        };
        self.period.consensus = Some(consensus);
        Ok(vec![
            record,
            Action::SendSignature(signature.bytes().to_vec()),
        ])
    }

    /// Publishes from valid-after on what more than half signed, and again when more signed.
    fn publish(&mut self, now_ms: u64, actions: &mut Vec<Action>) {
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
                actions.push(Action::Publish(verified));
            }
            Err(error) => tracing::error!(%error, "own consensus does not verify"),
        }
    }
}

/// The period that a time belongs to: that of the nearest multiple of the interval.
fn lifetime_at(params: &Params, now_ms: u64) -> Lifetime {
    let interval = u64::from(params.vote_interval_seconds);
    let interval_ms = interval * 1_000;
    let nearest = now_ms.saturating_add(interval_ms / 2) / interval_ms;
    lifetime_of(params, nearest * interval)
}

fn lifetime_of(params: &Params, valid_after: UnixSecs) -> Lifetime {
    let interval = u64::from(params.vote_interval_seconds);
    let valid = u64::from(params.consensus_valid_seconds).max(MIN_VALID_INTERVALS * interval);
    Lifetime {
        valid_after,
        fresh_until: valid_after.saturating_add(interval),
        valid_until: valid_after.saturating_add(valid),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
#[path = "period_tests.rs"]
mod tests;
