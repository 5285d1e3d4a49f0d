//! What an authority knows about relays: their newest descriptors, and whether they answer (docs/protocol.md, 6.13).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use cepa_common::dir::{
    Digest, NetworkFile, Params, RelayDescriptor, SignedDescriptor, UnixSecs, VoteEntry,
    is_dialable,
};
use cepa_common::ids::RelayId;
use rand::Rng;
use serde::{Deserialize, Serialize};

use super::AuthorityError;
use super::flags::{Bars, Running};
use super::history::History;
use super::measure::{Candidate, Carried, Job, MeasureError, Scheduler};
use super::operator::OperatorRules;

/// Number of failed probes in a row after which a relay is no longer listed. One lost packet is no outage.
const FAILURES_TO_UNLIST: u32 = 2;
/// The wait after the first failed probe (milliseconds). It doubles each time, up to the usual interval.
const PROBE_RETRY_MS: u64 = 1_000;

/// A dial that the authority asks for. It succeeds if the relay proves its link key at every address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Identity of the relay to dial.
    pub identity: RelayId,
    /// Digest of the descriptor that names the addresses. It goes back with the result.
    pub digest: Digest,
    /// The addresses, all of which must answer.
    pub addresses: Vec<SocketAddr>,
    /// The key that the relay must prove.
    pub link_key: [u8; 32],
}

/// The most dials at once. Relays that were never dialled go first.
const MAX_PROBES: usize = 64;
/// Knowledge is saved this often (milliseconds of observed time); if there is news, after the second, shorter time.
const SAVE_EVERY_MS: u64 = 3_600_000;
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
}

fn ips(descriptor: &RelayDescriptor) -> HashSet<IpAddr> {
    descriptor.addresses.iter().map(SocketAddr::ip).collect()
}

/// All relays that the authority has a descriptor of, and what it found out about them.
#[derive(Debug)]
pub(super) struct Relays {
    known: BTreeMap<RelayId, Known>,
    /// The relay that each link key belongs to.
    by_key: HashMap<[u8; 32], RelayId>,
    /// The number of relays that have each address.
    on_ip: HashMap<IpAddr, u32>,
    /// Are relays dialled? If not, every relay counts as reachable.
    probes: bool,
    rules: OperatorRules,
    history: History,
    scheduler: Scheduler,
    /// The observed time when knowledge was last saved, and whether there was news since.
    saved_ms: u64,
    is_news: bool,
}

/// What an authority keeps on disk about relays.
#[derive(Serialize, Deserialize)]
struct Kept {
    version: u8,
    history: History,
    scheduler: Scheduler,
}

const KEPT_VERSION: u8 = 1;

impl Relays {
    pub(super) fn new(probes: bool) -> Self {
        Self {
            known: BTreeMap::new(),
            by_key: HashMap::new(),
            on_ip: HashMap::new(),
            probes,
            rules: OperatorRules::default(),
            history: History::default(),
            scheduler: Scheduler::default(),
            saved_ms: 0,
            is_news: false,
        }
    }

    /// Sets the operator's rules. The caller does so before any descriptor comes.
    pub(super) fn set_rules(&mut self, rules: OperatorRules) {
        self.rules = rules;
    }

    /// Sets how much may be downloaded to measure (MiB an hour). With zero, nothing is measured.
    pub(super) fn set_budget(&mut self, mib_per_hour: u32) {
        self.scheduler
            .set_budget(mib_per_hour, self.history.observed_ms());
    }

    /// Restores what an earlier run kept. Returns `false` if this version did not write it.
    pub(super) fn restore(&mut self, bytes: &[u8]) -> bool {
        let Ok(kept) = postcard::from_bytes::<Kept>(bytes) else {
            return false;
        };
        if kept.version != KEPT_VERSION {
            return false;
        }
        self.history = kept.history.after_restart();
        self.scheduler = kept.scheduler.after_restart();
        self.saved_ms = self.history.observed_ms();
        true
    }

    /// The knowledge that is kept across a restart.
    pub(super) fn to_keep(&self) -> Vec<u8> {
        let kept = Kept {
            version: KEPT_VERSION,
            history: self.history.clone(),
            scheduler: self.scheduler.clone(),
        };
        postcard::to_allocvec(&kept).unwrap_or_default()
    }

    /// Is it time to save [`Relays::to_keep`]? The function says so once.
    pub(super) fn is_save_due(&mut self) -> bool {
        let observed = self.history.observed_ms();
        let since = observed.saturating_sub(self.saved_ms);
        let is_due = since >= SAVE_EVERY_MS || self.is_news && since >= SAVE_NEWS_AFTER_MS;
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
        self.make_room_on_addresses(descriptor, params, now)?;
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

    /// Makes room on the addresses of a descriptor. An address may have as many descriptors as relays may be listed on
    /// it, whether they were reached or not (S26). Descriptors that have expired, or whose relay was dialled in vain,
    /// make room.
    fn make_room_on_addresses(
        &mut self,
        descriptor: &RelayDescriptor,
        params: &Params,
        now: UnixSecs,
    ) -> Result<(), AuthorityError> {
        let (identity, max_age) = (
            descriptor.identity,
            u64::from(params.descriptor_max_age_seconds),
        );
        let held = self.known.get(&identity).map(|held| ips(held.descriptor()));
        for ip in ips(descriptor) {
            let is_own = held.as_ref().is_some_and(|held| held.contains(&ip));
            let count = self.on_ip.get(&ip).copied().unwrap_or(0);
            if is_own || count < params.max_relays_per_address {
                continue;
            }
            let there = self.known.iter().filter(|(other, held)| {
                **other != identity && ips(held.descriptor()).contains(&ip)
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
    /// longest ago. A relay that waits for its first dial never goes; otherwise a flood of such relays would keep all
    /// new ones out.
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
        self.remove(&oldest.ok_or(AuthorityError::Full)?);
        Ok(())
    }

    fn remove(&mut self, relay: &RelayId) {
        if let Some(held) = self.known.remove(relay) {
            self.unindex(&held.signed);
        }
    }

    fn unindex(&mut self, signed: &SignedDescriptor) {
        self.by_key.remove(&signed.descriptor().link_key());
        for ip in ips(signed.descriptor()) {
            if let Some(count) = self.on_ip.get_mut(&ip) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.on_ip.remove(&ip);
                }
            }
        }
    }

    fn store(&mut self, signed: Arc<SignedDescriptor>, now_ms: u64) {
        let identity = signed.descriptor().identity;
        if let Some(held) = self.known.get(&identity) {
            let old = Arc::clone(&held.signed);
            self.unindex(&old);
        }
        let new = signed.descriptor();
        self.by_key.insert(new.link_key(), identity);
        for ip in ips(new) {
            *self.on_ip.entry(ip).or_default() += 1;
        }
        let fresh = || Known {
            signed: Arc::clone(&signed),
            first_seen_ms: now_ms,
            is_reachable: !self.probes,
            failures: 0,
            next_probe_ms: now_ms,
            is_probing: false,
        };
        let held = self.known.entry(identity).or_insert_with(fresh);
        let old = held.signed.descriptor();
        if self.probes && (old.addresses != new.addresses || old.link_key() != new.link_key()) {
            // A dial to the old address or key says nothing about the new one.
            held.is_reachable = false;
            held.failures = 0;
        }
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
            .filter(|(_, held)| !held.is_probing && held.next_probe_ms <= now_ms)
            .map(|(id, held)| (held.was_dialled(), held.next_probe_ms, *id))
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
        waiting.map(|held| held.next_probe_ms).min()
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
            let wait_ms = spread(interval_ms, &probe.identity, now_ms);
            held.next_probe_ms = now_ms.saturating_add(wait_ms);
        } else {
            let wait_ms = (PROBE_RETRY_MS << held.failures.min(20)).min(interval_ms);
            held.next_probe_ms = now_ms.saturating_add(wait_ms);
            held.failures = held.failures.saturating_add(1);
            if held.failures >= FAILURES_TO_UNLIST {
                held.is_reachable = false;
            }
        }
        let is_up = held.is_reachable;
        self.is_news |= self.history.set_up(probe.identity, is_up, now_ms);
    }

    /// The relays to vote for, by identity: their descriptors are current until `until`, they answer, and no address
    /// has too many of them.
    pub(super) fn vote_entries(
        &mut self,
        network: &NetworkFile,
        params: &Params,
        now_ms: u64,
        until: UnixSecs,
    ) -> Vec<VoteEntry> {
        self.history.advance(now_ms);
        let listed = self.listed(params, now_ms, until);
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

    fn listed(&self, params: &Params, now_ms: u64, until: UnixSecs) -> Vec<&Known> {
        let max_age = u64::from(params.descriptor_max_age_seconds);
        let mut listed: Vec<(u64, &Known)> = self
            .known
            .iter()
            .filter(|(_, held)| held.is_reachable)
            .filter(|(_, held)| held.signed.is_current(now_ms / 1_000, max_age, until))
            .map(|(id, held)| (self.history.standing(id).age_ms, held))
            .collect();
        // The relay that was first at an address keeps its place: nobody pushes a relay out by crowding its address.
        listed.sort_by_key(|(age_ms, held)| (u64::MAX - age_ms, held.descriptor().identity));
        let mut on_address: HashMap<IpAddr, u32> = HashMap::new();
        listed.retain(|(_, held)| {
            let ips = ips(held.descriptor());
            let crowded = ips.iter().any(|ip| {
                let count = on_address.get(ip);
                count.is_some_and(|count| *count >= params.max_relays_per_address)
            });
            if !crowded {
                ips.iter()
                    .for_each(|ip| *on_address.entry(*ip).or_default() += 1);
            }
            !crowded
        });
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
