//! What an authority knows about relays: their newest descriptors, and whether they answer (docs/protocol.md, 6.13).

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use cepa_common::dir::{
    Consensus, Digest, Lifetime, NetworkFile, Params, RelayDescriptor, SignedDescriptor, UnixSecs,
    VoteEntry, is_dialable,
};
use cepa_common::handshake::OnionPublicKey;
use cepa_common::ids::RelayId;
use cepa_common::world::random;
use rand::Rng;
use rand::seq::IteratorRandom;

use super::AuthorityError;
use super::crowding::{Crowding, ips, sites};
use super::flags::{Bars, Running};
use super::history::History;
use super::kept::{Kept, Remembered};
use super::measure::{Candidate, Carried, Job, MeasureError, Scheduler};
use super::operator::OperatorRules;

/// Number of failed probes in a row after which a relay is no longer listed. One lost packet is no outage.
const FAILURES_TO_UNLIST: u32 = 2;
/// The wait after the first failed probe (milliseconds). The wait doubles each time, up to the usual interval.
const PROBE_RETRY_MS: u64 = 1_000;

/// A look at a relay that the authority asks for. It succeeds if the relay takes a link and answers CREATE at every
/// address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Identity of the relay to dial.
    pub identity: RelayId,
    /// Digest of the descriptor that names the addresses. The digest goes back with the result.
    pub digest: Digest,
    /// The addresses, all of which must answer.
    pub addresses: Vec<SocketAddr>,
    /// The key that the relay must prove.
    pub link_key: [u8; 32],
    /// The key by which the relay must answer CREATE.
    pub onion: OnionPublicKey,
}

/// The most dials at once. Relays that were never dialled go first.
pub(super) const MAX_PROBES: usize = 64;
/// Knowledge is saved at least this often (milliseconds of observed time).
const SAVE_EVERY_MS: u64 = 3_600_000;
/// If there is news, knowledge is saved after this time, or after a quarter of the interval of votes if that is shorter
/// (milliseconds of observed time).
const SAVE_NEWS_AFTER_MS: u64 = 300_000;

/// What is known about one relay.
#[derive(Debug)]
struct Known {
    signed: Arc<SignedDescriptor>,
    first_seen_ms: u64,
    /// Did the relay answer when it was last dialled? One failure is forgiven.
    is_reachable: bool,
    failures: u32,
    next_probe_ms: u64,
    is_probing: bool,
    /// Did the relay answer an earlier run of this authority, and has this run not found out yet whether it does?
    is_remembered: bool,
}

impl Known {
    fn descriptor(&self) -> &RelayDescriptor {
        self.signed.descriptor()
    }

    /// Was the relay dialled and did not answer? Such relays are the first to make room for others.
    fn has_failed(&self) -> bool {
        !self.is_reachable && self.failures > 0
    }

    fn was_dialled(&self) -> bool {
        self.is_reachable || self.failures > 0
    }

    /// When the relay is to be dialled (milliseconds): not while it rests.
    fn due_ms(&self) -> u64 {
        let due_ms = self.next_probe_ms;
        match self.descriptor().away {
            Some(rest) if (rest.from..rest.until).contains(&(due_ms / 1_000)) => {
                rest.until.saturating_mul(1_000)
            }
            _ => due_ms,
        }
    }
}

/// What an authority knows of relays, in sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RelaySums {
    /// Relays that it holds a descriptor of.
    pub known: usize,
    /// How many of them answered when they were last dialled.
    pub answering: usize,
    /// How many of them were dialled, and did not answer.
    pub silent: usize,
    /// How many of them this run has not dialled yet.
    pub undialled: usize,
    /// How many of them have been measured.
    pub measured: usize,
    /// What those that were measured carry together (KiB a second).
    pub measured_kib: u64,
    /// What may be downloaded in order to measure (MiB an hour); 0 for an authority that does not measure.
    pub budget_mib: u64,
}

/// All relays that the authority has a descriptor of, and what it found out about them.
#[derive(Debug)]
pub(super) struct Relays {
    known: BTreeMap<RelayId, Known>,
    /// The relay that each link key belongs to.
    by_key: HashMap<[u8; 32], RelayId>,
    /// The number of relays at each site.
    crowding: Crowding,
    /// Are relays dialled? If not, every relay counts as reachable.
    probes: bool,
    rules: OperatorRules,
    history: History,
    scheduler: Scheduler,
    /// The observed time when knowledge was last saved, and whether there was news since.
    saved_ms: u64,
    is_news: bool,
}

impl Relays {
    pub(super) fn new(probes: bool) -> Self {
        Self {
            known: BTreeMap::new(),
            by_key: HashMap::new(),
            crowding: Crowding::default(),
            probes,
            rules: OperatorRules::default(),
            history: History::default(),
            scheduler: Scheduler::default(),
            saved_ms: 0,
            is_news: false,
        }
    }

    /// Sets the operator's rules. Relays that they reject are unknown from now on.
    pub(super) fn set_rules(&mut self, rules: OperatorRules) {
        self.rules = rules;
        let rejected = |(id, held): (&RelayId, &Known)| {
            let is_rejected = self.rules.reject.has(held.signed.descriptor());
            is_rejected.then_some(*id)
        };
        let rejected: Vec<_> = self.known.iter().filter_map(rejected).collect();
        rejected.iter().for_each(|relay| self.remove(relay));
    }

    /// Sets how much may be downloaded to measure (MiB an hour). With zero, nothing is measured.
    pub(super) fn set_budget(&mut self, mib_per_hour: u32) {
        self.scheduler
            .set_budget(mib_per_hour, self.history.observed_ms());
    }

    /// Takes what an earlier run knew. The caller sets the operator's rules before, and the budget after.
    pub(super) fn restore(&mut self, remembered: Remembered, params: &Params, now_ms: u64) {
        self.history = remembered.history;
        self.scheduler = remembered.scheduler;
        self.saved_ms = self.history.observed_ms();
        for signed in remembered.descriptors {
            let identity = signed.descriptor().identity;
            // A descriptor that is refused has expired, or the operator's rules or the parameters have changed.
            if self.insert(signed, params, now_ms).is_ok()
                && let Some(held) = self.known.get_mut(&identity)
            {
                held.is_remembered = !held.is_reachable;
            }
        }
    }

    /// The knowledge that is kept across a restart.
    pub(super) fn to_keep(&self) -> Vec<u8> {
        let answered = |held: &&Known| held.is_reachable || held.is_remembered;
        let descriptors = self
            .known
            .values()
            .filter(answered)
            .map(|held| held.signed.bytes().to_vec())
            .collect();
        Kept::new(&self.history, &self.scheduler, descriptors).encode()
    }

    /// Is it time to save [`Relays::to_keep`]? The function says so once.
    pub(super) fn is_save_due(&mut self, params: &Params) -> bool {
        let observed = self.history.observed_ms();
        let since = observed.saturating_sub(self.saved_ms);
        let soon = SAVE_NEWS_AFTER_MS.min(u64::from(params.vote_interval_seconds) * 250);
        let is_due = since >= SAVE_EVERY_MS || self.is_news && since >= soon;
        if is_due {
            (self.saved_ms, self.is_news) = (observed, false);
        }
        is_due
    }

    /// Takes a descriptor that is newer than the one held. The same descriptor again is no error.
    pub(super) fn insert(
        &mut self,
        signed: Arc<SignedDescriptor>,
        params: &Params,
        now_ms: u64,
    ) -> Result<(), AuthorityError> {
        let descriptor = signed.descriptor();
        let now = now_ms / 1_000;
        let max_age = u64::from(params.descriptor_max_age_seconds);
        if !signed.is_current(now, max_age, now) {
            return Err(AuthorityError::NotCurrent);
        }
        let allow_private = params.allow_private_addresses == 1;
        if descriptor
            .addresses
            .iter()
            .any(|address| !is_dialable(*address, allow_private))
        {
            return Err(AuthorityError::PrivateAddress);
        }
        if self.rules.reject.has(descriptor) {
            return Err(AuthorityError::Rejected);
        }
        let held = self.known.get(&descriptor.identity);
        if held.is_some_and(|held| held.signed.digest() == signed.digest()) {
            return Ok(());
        }
        if held.is_some_and(|held| held.descriptor().published >= descriptor.published) {
            return Err(AuthorityError::NotNewer);
        }
        let is_new = held.is_none();
        self.check_key(descriptor)?;
        self.make_room_at_sites(descriptor, params, now)?;
        if is_new {
            self.make_room(params, now)?;
        }
        self.store(signed, now_ms);
        Ok(())
    }

    /// Checks that the link key belongs to no other relay (S26).
    fn check_key(&self, descriptor: &RelayDescriptor) -> Result<(), AuthorityError> {
        let holder = self.by_key.get(&descriptor.link_key());
        if holder.is_some_and(|holder| *holder != descriptor.identity) {
            Err(AuthorityError::KeyInUse)
        } else {
            Ok(())
        }
    }

    /// Makes room at the sites of a descriptor. A site may have as many descriptors as relays may be listed there,
    /// whether they were reached or not (S26). Descriptors that have expired, or whose relay was dialled in vain, make
    /// room.
    fn make_room_at_sites(
        &mut self,
        descriptor: &RelayDescriptor,
        params: &Params,
        now: UnixSecs,
    ) -> Result<(), AuthorityError> {
        let (identity, max_age) = (
            descriptor.identity,
            u64::from(params.descriptor_max_age_seconds),
        );
        let cap = params.max_relays_per_address;
        let held = self
            .known
            .get(&identity)
            .map(|held| sites(held.descriptor(), cap));
        for (site, cap) in sites(descriptor, cap) {
            let is_own = held
                .as_ref()
                .is_some_and(|held| held.contains(&(site, cap)));
            if is_own || self.crowding.at(site) < cap {
                continue;
            }
            let there = self.known.iter().filter(|(other, held)| {
                **other != identity
                    && sites(held.descriptor(), 0)
                        .iter()
                        .any(|(at, _)| *at == site)
            });
            let gone = there
                .filter(|(_, held)| held.has_failed() || !held.signed.is_current(now, max_age, now))
                .min_by_key(|(_, held)| held.first_seen_ms)
                .map(|(id, _)| *id);
            self.remove(&gone.ok_or(AuthorityError::Crowded)?);
        }
        Ok(())
    }

    /// Makes room for one more relay. Relays with expired descriptors go first, then the one that was dialled in vain
    /// longest ago, then one at random of those that never answered and wait for their first dial. So a flood of
    /// strangers can neither push out a relay that answered once nor keep a newcomer out for good.
    fn make_room(&mut self, params: &Params, now: UnixSecs) -> Result<(), AuthorityError> {
        let most = usize::try_from(params.max_relays).unwrap_or(usize::MAX);
        if self.known.len() < most {
            return Ok(());
        }
        let max_age = u64::from(params.descriptor_max_age_seconds);
        let expired: Vec<RelayId> = self
            .known
            .iter()
            .filter(|(_, held)| !held.signed.is_current(now, max_age, now))
            .map(|(id, _)| *id)
            .collect();
        expired.iter().for_each(|id| self.remove(id));
        if self.known.len() < most {
            return Ok(());
        }
        let failed = self.known.iter().filter(|(_, held)| held.has_failed());
        let oldest = failed
            .min_by_key(|(_, held)| held.first_seen_ms)
            .map(|(id, _)| *id);
        let gone = oldest.or_else(|| {
            let waiting = self.known.iter().filter(|(id, held)| {
                let is_stranger = !held.was_dialled() && !self.history.has(id);
                is_stranger && !held.is_probing && !held.is_remembered
            });
            waiting.map(|(id, _)| *id).choose(&mut random::rng())
        });
        self.remove(&gone.ok_or(AuthorityError::Full)?);
        Ok(())
    }

    fn remove(&mut self, relay: &RelayId) {
        if let Some(held) = self.known.remove(relay) {
            self.unindex(&held.signed);
        }
    }

    fn unindex(&mut self, signed: &SignedDescriptor) {
        self.by_key.remove(&signed.descriptor().link_key());
        self.crowding.remove(signed.descriptor());
    }

    fn store(&mut self, signed: Arc<SignedDescriptor>, now_ms: u64) {
        let identity = signed.descriptor().identity;
        if let Some(held) = self.known.get(&identity) {
            let old = Arc::clone(&held.signed);
            self.unindex(&old);
        }
        let new = signed.descriptor();
        self.by_key.insert(new.link_key(), identity);
        self.crowding.add(new);
        let fresh = || Known {
            signed: Arc::clone(&signed),
            first_seen_ms: now_ms,
            is_reachable: !self.probes,
            failures: 0,
            next_probe_ms: now_ms,
            is_probing: false,
            is_remembered: false,
        };
        let held = self.known.entry(identity).or_insert_with(fresh);
        let old = held.signed.descriptor();
        if self.probes && (old.addresses != new.addresses || old.link_key() != new.link_key()) {
            // A dial to the old address or key says nothing about the new one.
            held.is_reachable = false;
            held.is_remembered = false;
            held.failures = 0;
        }
        // The file on disk has the descriptor before this one.
        self.is_news |= held.is_reachable || held.is_remembered;
        held.next_probe_ms = now_ms;
        held.is_probing = false;
        held.signed = signed;
        if !self.probes {
            self.history.set_up(identity, true, now_ms);
        }
    }

    /// The dials that are due, as many as may be under way. Relays that were never dialled come first.
    pub(super) fn due_probes(&mut self, now_ms: u64) -> Vec<Probe> {
        self.history.advance(now_ms);
        let room = self.probe_room();
        if room == 0 {
            return Vec::new();
        }
        let mut due: Vec<(bool, u64, RelayId)> = self
            .known
            .iter()
            .filter(|(_, held)| !held.is_probing && held.due_ms() <= now_ms)
            .map(|(id, held)| (held.was_dialled(), held.due_ms(), *id))
            .collect();
        due.sort_unstable();
        due.truncate(room);
        let due = due.into_iter().map(|(_, _, id)| id);
        due.filter_map(|id| {
            let held = self.known.get_mut(&id)?;
            held.is_probing = true;
            let descriptor = held.signed.descriptor();
            Some(Probe {
                identity: descriptor.identity,
                digest: held.signed.digest(),
                addresses: descriptor.addresses.clone(),
                link_key: descriptor.link_key(),
                onion: OnionPublicKey {
                    suite: descriptor.suite,
                    key: descriptor.onion_key,
                },
            })
        })
        .collect()
    }

    fn probe_room(&self) -> usize {
        if !self.probes {
            return 0;
        }
        let probing = self.known.values().filter(|held| held.is_probing);
        MAX_PROBES.saturating_sub(probing.count())
    }

    /// When the next dial is due (milliseconds); `None` if none is, or if as many as may be are under way.
    pub(super) fn next_probe_ms(&self) -> Option<u64> {
        if self.probe_room() == 0 {
            return None;
        }
        let waiting = self.known.values().filter(|held| !held.is_probing);
        waiting.map(Known::due_ms).min()
    }

    /// Takes the result of a dial. The result of a dial for an older descriptor is ignored.
    pub(super) fn on_probe(&mut self, probe: &Probe, reached: bool, params: &Params, now_ms: u64) {
        let Some(held) = self.known.get_mut(&probe.identity) else {
            return;
        };
        if held.signed.digest() != probe.digest {
            return;
        }
        held.is_probing = false;
        let interval_ms = u64::from(params.reachability_interval_seconds) * 1_000;
        if reached {
            held.failures = 0;
            held.is_reachable = true;
            held.is_remembered = false;
            let wait_ms = spread(interval_ms, &probe.identity, now_ms);
            held.next_probe_ms = now_ms.saturating_add(wait_ms);
        } else {
            let wait_ms = (PROBE_RETRY_MS << held.failures.min(20)).min(interval_ms);
            held.next_probe_ms = now_ms.saturating_add(wait_ms);
            held.failures = held.failures.saturating_add(1);
            if held.failures >= FAILURES_TO_UNLIST {
                held.is_reachable = false;
                held.is_remembered = false;
            }
        }
        let is_up = held.is_reachable;
        self.is_news |= self.history.set_up(probe.identity, is_up, now_ms);
    }

    /// The relays to vote for, by identity: their descriptors are current until the consensus ends, they answer and do
    /// not rest while it is fresh, and no site has too many of them.
    ///
    /// `before` is the last consensus; there is one only in the first vote after a restart. A relay that is remembered
    /// and not dialled yet stays listed if `before` lists it with the link key and the addresses of its descriptor.
    pub(super) fn vote_entries(
        &mut self,
        network: &NetworkFile,
        params: &Params,
        now_ms: u64,
        lifetime: Lifetime,
        before: Option<&Consensus>,
    ) -> Vec<VoteEntry> {
        self.history.advance(now_ms);
        let listed = self.listed(params, now_ms, lifetime, before);
        let running: Vec<Running> = listed
            .iter()
            .map(|held| self.running(held, network, params))
            .collect();
        let bars = Bars::among(&running, params);
        let entries = listed
            .iter()
            .zip(&running)
            .map(|(held, running)| VoteEntry {
                descriptor: held.signed.bytes().to_vec(),
                flags: bars.flags(running, params),
                measured: self.scheduler.estimate(&held.descriptor().identity),
            });
        entries.collect()
    }

    fn listed(
        &self,
        params: &Params,
        now_ms: u64,
        lifetime: Lifetime,
        before: Option<&Consensus>,
    ) -> Vec<&Known> {
        let stays = |held: &Known| {
            let descriptor = held.descriptor();
            let was = before.and_then(|before| before.relay(&descriptor.identity));
            held.is_remembered
                && was.is_some_and(|was| {
                    was.link_key() == descriptor.link_key() && was.addresses == descriptor.addresses
                })
        };
        let max_age = u64::from(params.descriptor_max_age_seconds);
        let mut listed: Vec<(u64, &Known)> = self
            .known
            .iter()
            .filter(|(_, held)| held.is_reachable || stays(held))
            .filter(|(_, held)| {
                let until = lifetime.valid_until;
                held.signed.is_current(now_ms / 1_000, max_age, until)
            })
            .filter(|(_, held)| {
                let rest = held.descriptor().away;
                !rest.is_some_and(|rest| rest.overlaps(lifetime.valid_after, lifetime.fresh_until))
            })
            .map(|(id, held)| (self.history.standing(id).age_ms, held))
            .collect();
        // The relay that was first at an address keeps its place: nobody pushes a relay out by crowding its address.
        listed.sort_by_key(|(age_ms, held)| (u64::MAX - age_ms, held.descriptor().identity));
        let mut there = Crowding::default();
        listed.retain(|(_, held)| there.fit(held.descriptor(), params.max_relays_per_address));
        listed.truncate(usize::try_from(params.max_relays).unwrap_or(usize::MAX));
        listed.sort_by_key(|(_, held)| held.descriptor().identity);
        listed.into_iter().map(|(_, held)| held).collect()
    }

    fn running(&self, held: &Known, network: &NetworkFile, params: &Params) -> Running {
        let relay = held.descriptor();
        let mut authorities = network.authorities().iter();
        let measured = self.scheduler.estimate(&relay.identity);
        Running {
            offers: relay.offers,
            exits: !relay.policy.is_reject_all(),
            is_authority: authorities.any(|a| a.identity == relay.identity),
            middle_only: self.rules.middle_only.has(relay),
            weight: measured.unwrap_or(relay.bandwidth.min(params.max_unmeasured_weight)),
            standing: self.history.standing(&relay.identity),
        }
    }

    /// What is known of relays, in sums.
    pub(super) fn sums(&self) -> RelaySums {
        let mut sums = RelaySums {
            known: self.known.len(),
            budget_mib: self.scheduler.budget_mib(),
            ..RelaySums::default()
        };
        for (id, held) in &self.known {
            match (held.is_reachable, held.failures) {
                (true, _) => sums.answering += 1,
                (false, 0) => sums.undialled += 1,
                (false, _) => sums.silent += 1,
            }
            if let Some(kib) = self.scheduler.estimate(id) {
                sums.measured += 1;
                sums.measured_kib += u64::from(kib);
            }
        }
        sums
    }

    /// The next downloads that measure relays, if some are due.
    pub(super) fn next_job(
        &mut self,
        params: &Params,
        now_ms: u64,
        rng: &mut impl Rng,
    ) -> Option<Job> {
        self.history.advance(now_ms);
        let (known, cap) = (&self.known, params.max_unmeasured_weight);
        let candidates = || {
            let reachable = known.values().filter(|held| held.is_reachable);
            let candidate = |held: &Known| Candidate {
                identity: held.descriptor().identity,
                ips: ips(held.descriptor()).into_iter().collect(),
                claim: held.descriptor().bandwidth.min(cap),
            };
            reachable.map(candidate).collect()
        };
        let observed = self.history.observed_ms();
        self.scheduler
            .next_job(candidates, params.measure_interval_seconds, observed, rng)
    }

    /// Time until downloads may be due (milliseconds); `None` if nothing is measured.
    pub(super) fn next_job_in_ms(&self) -> Option<u64> {
        let next = self.scheduler.next_look()?;
        Some(next.saturating_sub(self.history.observed_ms()))
    }

    /// Learns from the results of downloads.
    pub(super) fn on_measured(
        &mut self,
        job: &Job,
        results: &[Result<Carried, MeasureError>],
        params: &Params,
        now_ms: u64,
        rng: &mut impl Rng,
    ) {
        self.history.advance(now_ms);
        self.is_news = true;
        let (interval, observed) = (params.measure_interval_seconds, self.history.observed_ms());
        self.scheduler
            .on_result(job, results, interval, observed, rng);
    }
}

/// A time between seven and nine eighths of the interval, so that relays which came together are not dialled together
/// for ever.
fn spread(interval_ms: u64, relay: &RelayId, now_ms: u64) -> u64 {
    let salt = u64::from(relay.0[0]).wrapping_add(now_ms) % 256;
    interval_ms - interval_ms / 8 + interval_ms * salt / 1_024
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
#[path = "relays_tests.rs"]
mod tests;
