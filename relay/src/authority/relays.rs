//! What an authority knows of relays: their newest descriptors and whether they answer (docs/protocol.md, 6.13).

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

/// Failed probes in a row after which a relay is no longer listed: one lost packet is no outage.
const FAILURES_TO_UNLIST: u32 = 2;
/// First wait after a failed probe (milliseconds); doubled each time up to the usual interval.
const PROBE_RETRY_MS: u64 = 1_000;

/// A dial that the authority wants: does the relay prove its link key at every address?
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Whom to dial.
    pub identity: RelayId,
    /// The descriptor that says so; goes back with the result.
    pub digest: Digest,
    /// Every one of these must answer.
    pub addresses: Vec<SocketAddr>,
    /// The key to be proved.
    pub link_key: [u8; 32],
}

/// Dials at once; relays that were never dialled go first.
const MAX_PROBES: usize = 64;
/// What is worth keeping is saved this often (milliseconds of observed time), and when that is news after this pause.
const SAVE_EVERY_MS: u64 = 3_600_000;
const SAVE_NEWS_AFTER_MS: u64 = 300_000;

/// One relay.
#[derive(Debug)]
struct Known {
    signed: Arc<SignedDescriptor>,
    first_seen_ms: u64,
    /// Did it answer when it was last asked, but for one failure that is forgiven?
    is_reachable: bool,
    failures: u32,
    next_probe_ms: u64,
    is_probing: bool,
}

impl Known {
    fn descriptor(&self) -> &RelayDescriptor {
        self.signed.descriptor()
    }

    /// Was it dialled in vain? Such ones make room for others first.
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
    /// Whose each link key is.
    by_key: HashMap<[u8; 32], RelayId>,
    /// How many have each address.
    on_ip: HashMap<IpAddr, u32>,
    /// Without a prober every relay counts as reachable.
    probes: bool,
    rules: OperatorRules,
    history: History,
    scheduler: Scheduler,
    /// Observed time when what is worth keeping was saved, and whether something happened since.
    saved_ms: u64,
    is_news: bool,
}

/// What an authority keeps on disk of the relays.
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

    /// Takes the operator's word; to be called before any descriptor comes.
    pub(super) fn set_rules(&mut self, rules: OperatorRules) {
        self.rules = rules;
    }

    /// Sets what may be downloaded to measure, MiB an hour; zero: nothing is measured.
    pub(super) fn set_budget(&mut self, mib_per_hour: u32) {
        self.scheduler
            .set_budget(mib_per_hour, self.history.observed_ms());
    }

    /// Takes up what an earlier run kept; `false` when it is nothing that this version wrote.
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

    /// What is worth keeping across a restart.
    pub(super) fn to_keep(&self) -> Vec<u8> {
        let kept = Kept {
            version: KEPT_VERSION,
            history: self.history.clone(),
            scheduler: self.scheduler.clone(),
        };
        postcard::to_allocvec(&kept).unwrap_or_default()
    }

    /// Is it time to save [`Relays::to_keep`]? Says so once.
    pub(super) fn is_save_due(&mut self) -> bool {
        let observed = self.history.observed_ms();
        let since = observed.saturating_sub(self.saved_ms);
        let is_due = since >= SAVE_EVERY_MS || self.is_news && since >= SAVE_NEWS_AFTER_MS;
        if is_due {
            (self.saved_ms, self.is_news) = (observed, false);
        }
        is_due
    }

    /// Takes a descriptor that is newer than the one held; the same one again is no error.
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

    /// A link key belongs to one relay (S26).
    fn check_key(&self, descriptor: &RelayDescriptor) -> Result<(), AuthorityError> {
        let holder = self.by_key.get(&descriptor.link_key());
        if holder.is_some_and(|holder| *holder != descriptor.identity) {
            Err(AuthorityError::KeyInUse)
        } else {
            Ok(())
        }
    }

    /// An address has as many descriptors as relays may be listed on it, reached or not (S26). What is expired or was
    /// dialled in vain makes room.
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

    /// Expired relays make room, then the one that was dialled in vain longest ago; never one that waits for its
    /// first dial, or a flood of them would keep all new relays out.
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
            // What was reached says nothing of a new address or key.
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

    /// The dials that are due, as many as may be under way; those of relays that were never dialled first.
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

    /// When the next dial is due; `None` when none is, or as many as may be are under way.
    pub(super) fn next_probe_ms(&self) -> Option<u64> {
        if self.probe_room() == 0 {
            return None;
        }
        let waiting = self.known.values().filter(|held| !held.is_probing);
        waiting.map(|held| held.next_probe_ms).min()
    }

    /// The result of a dial; one of an older descriptor says nothing.
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

    /// The relays to vote for, by identity: current until `until`, reachable, not too many to an address.
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
        // Who was there first keeps its place: nobody pushes a relay out by crowding its address.
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

    /// How long until downloads may be due (milliseconds); `None` when nothing is measured.
    pub(super) fn next_job_in_ms(&self) -> Option<u64> {
        let next = self.scheduler.next_look()?;
        Some(next.saturating_sub(self.history.observed_ms()))
    }

    /// Learns from downloads.
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

/// Seven to nine eighths of an interval, so that relays which came together are not dialled together for ever.
fn spread(interval_ms: u64, relay: &RelayId, now_ms: u64) -> u64 {
    let salt = u64::from(relay.0[0]).wrapping_add(now_ms) % 256;
    interval_ms - interval_ms / 8 + interval_ms * salt / 1_024
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::directory::testing::{descriptor, identity, link_key, network};

    const NOW_MS: u64 = 2_000_000;

    fn signed(n: u8, edit: impl FnOnce(&mut RelayDescriptor)) -> Arc<SignedDescriptor> {
        let mut descriptor = descriptor(n, NOW_MS / 1_000);
        edit(&mut descriptor);
        Arc::new(
            descriptor
                .sign(&network(1).network_id(), &link_key(n))
                .unwrap(),
        )
    }

    fn listed(relays: &mut Relays, params: &Params, now_ms: u64) -> usize {
        relays.vote_entries(&network(1), params, now_ms, 0).len()
    }

    #[test]
    fn only_the_reachable_are_listed() {
        let network = network(1);
        let params = network.params();
        let mut relays = Relays::new(true);
        relays.insert(signed(1, |_| ()), &params, NOW_MS).unwrap();
        relays.insert(signed(1, |_| ()), &params, NOW_MS).unwrap();
        assert_eq!(relays.next_probe_ms(), Some(NOW_MS));
        let probe = relays.due_probes(NOW_MS).pop().unwrap();
        assert_eq!(probe.identity, identity(1));
        assert!(relays.due_probes(NOW_MS).is_empty());
        assert_eq!(listed(&mut relays, &params, NOW_MS), 0);
        relays.on_probe(&probe, true, &params, NOW_MS);
        assert_eq!(listed(&mut relays, &params, NOW_MS), 1);
        // One failure is forgiven, two are not.
        relays.on_probe(&probe, false, &params, NOW_MS);
        assert_eq!(relays.next_probe_ms(), Some(NOW_MS + PROBE_RETRY_MS));
        assert_eq!(listed(&mut relays, &params, NOW_MS), 1);
        relays.on_probe(&probe, false, &params, NOW_MS);
        assert_eq!(listed(&mut relays, &params, NOW_MS), 0);
        relays.on_probe(&probe, true, &params, NOW_MS);
        // A new address must be reached anew; the late result of the old one does not count.
        let moved = signed(1, |d| {
            (d.published, d.addresses[0]) = (d.published + 1, ([127, 0, 0, 1], 9).into())
        });
        relays.insert(moved, &params, NOW_MS).unwrap();
        relays.on_probe(&probe, true, &params, NOW_MS);
        assert_eq!(listed(&mut relays, &params, NOW_MS), 0);
        // A new onion key alone costs nothing.
        let probe = relays.due_probes(NOW_MS).pop().unwrap();
        relays.on_probe(&probe, true, &params, NOW_MS);
        let rekeyed = signed(1, |d| {
            (d.published, d.addresses[0], d.onion_key) =
                (d.published + 2, ([127, 0, 0, 1], 9).into(), [9; 32]);
        });
        relays.insert(rekeyed, &params, NOW_MS).unwrap();
        assert_eq!(listed(&mut relays, &params, NOW_MS), 1);
        let later = NOW_MS + 1_000 * u64::from(params.descriptor_max_age_seconds) + 3_000;
        assert_eq!(listed(&mut relays, &params, later), 0);
    }

    #[test]
    fn refusals() {
        let params = network(1).params();
        let mut relays = Relays::new(false);
        let mut insert = |signed, params: &Params| relays.insert(signed, params, NOW_MS);
        assert_eq!(insert(signed(1, |_| ()), &params), Ok(()));
        let rewritten = signed(1, |d| d.bandwidth += 1);
        assert_eq!(insert(rewritten, &params), Err(AuthorityError::NotNewer));
        let future = signed(2, |d| d.published += 400);
        assert_eq!(insert(future, &params), Err(AuthorityError::NotCurrent));
        assert_eq!(
            insert(
                signed(2, |d| d.published = 1),
                &Params {
                    descriptor_max_age_seconds: 60,
                    ..params.clone()
                }
            ),
            Err(AuthorityError::NotCurrent)
        );
        let public = Params {
            allow_private_addresses: 0,
            ..params.clone()
        };
        assert_eq!(
            insert(signed(2, |_| ()), &public),
            Err(AuthorityError::PrivateAddress)
        );
        let id = network(1).network_id();
        let mut second = descriptor(3, NOW_MS / 1_000);
        let key = link_key(1).verifying_key().to_bytes();
        second.key_cert = Some(cepa_common::dir::KeyCert::new(
            &link_key(3),
            &id,
            key,
            u64::MAX,
        ));
        let second = Arc::new(second.sign(&id, &link_key(1)).unwrap());
        assert_eq!(insert(second, &params), Err(AuthorityError::KeyInUse));
        let small = Params {
            max_relays: 1,
            ..params
        };
        assert_eq!(insert(signed(2, |_| ()), &small), Err(AuthorityError::Full));
    }

    /// Relay n on an address of its own.
    fn on_address(n: u8, host: u8) -> Arc<SignedDescriptor> {
        signed(n, |d| {
            d.addresses = vec![([127, 0, 0, host], 5_000 + u16::from(n)).into()];
        })
    }

    fn probe_all(
        relays: &mut Relays,
        params: &Params,
        now_ms: u64,
        reached: impl Fn(RelayId) -> bool,
    ) {
        for probe in relays.due_probes(now_ms) {
            relays.on_probe(&probe, reached(probe.identity), params, now_ms);
        }
    }

    #[test]
    fn those_dialled_in_vain_make_room_and_those_that_wait_do_not() {
        let params = Params {
            max_relays: 3,
            ..network(1).params()
        };
        let mut relays = Relays::new(true);
        for n in 1..=2 {
            relays.insert(on_address(n, n), &params, NOW_MS).unwrap();
        }
        probe_all(&mut relays, &params, NOW_MS, |id| id == identity(1));
        let insert = |n, relays: &mut Relays| relays.insert(on_address(n, n), &params, NOW_MS);
        assert_eq!(insert(3, &mut relays), Ok(()));
        assert_eq!(insert(4, &mut relays), Ok(()));
        assert!(!relays.known.contains_key(&identity(2)));
        // Now one is reached and two wait for their first dial: a flood pushes none of them out (S26).
        for n in 5..=20 {
            assert_eq!(insert(n, &mut relays), Err(AuthorityError::Full));
        }
        let waiting: Vec<_> = relays
            .due_probes(NOW_MS)
            .iter()
            .map(|p| p.identity)
            .collect();
        assert_eq!(waiting.len(), 2);
        assert!(waiting.contains(&identity(3)) && waiting.contains(&identity(4)));
        assert_eq!(relays.on_ip.len(), 3);
        assert_eq!(relays.by_key.len(), 3);
    }

    #[test]
    fn one_address_cannot_fill_the_table() {
        let params = Params {
            max_relays_per_address: 2,
            ..network(1).params()
        };
        let mut relays = Relays::new(true);
        let insert =
            |n, host, relays: &mut Relays| relays.insert(on_address(n, host), &params, NOW_MS);
        assert_eq!(insert(1, 1, &mut relays), Ok(()));
        assert_eq!(insert(2, 1, &mut relays), Ok(()));
        for n in 3..=20 {
            assert_eq!(insert(n, 1, &mut relays), Err(AuthorityError::Crowded));
        }
        assert_eq!(insert(3, 3, &mut relays), Ok(()));
        // One that is known elsewhere cannot move there either, and stays where it was.
        let moved = signed(3, |d| {
            (d.published, d.addresses[0]) = (d.published + 1, ([127, 0, 0, 1], 9).into())
        });
        let crowded = relays.insert(moved.clone(), &params, NOW_MS);
        assert_eq!(crowded, Err(AuthorityError::Crowded));
        assert!(relays.known.contains_key(&identity(3)));
        // What was dialled in vain gives its place up; what was reached does not.
        probe_all(&mut relays, &params, NOW_MS, |id| id == identity(1));
        assert_eq!(relays.insert(moved, &params, NOW_MS), Ok(()));
        assert!(!relays.known.contains_key(&identity(2)));
        probe_all(&mut relays, &params, NOW_MS, |_| true);
        let crowded = relays.insert(on_address(4, 1), &params, NOW_MS);
        assert_eq!(crowded, Err(AuthorityError::Crowded));
        assert_eq!(listed(&mut relays, &params, NOW_MS), 2);
        assert_eq!(relays.on_ip.values().sum::<u32>(), 2);
    }

    #[test]
    fn a_known_relay_cannot_take_the_link_key_of_another() {
        let params = network(1).params();
        let id = network(1).network_id();
        let mut relays = Relays::new(false);
        relays.insert(signed(1, |_| ()), &params, NOW_MS).unwrap();
        relays.insert(signed(3, |_| ()), &params, NOW_MS).unwrap();
        let with_key = |key: u8, published: u64| {
            let mut taken = descriptor(3, published);
            taken.key_cert = (key != 3).then(|| {
                let bytes = link_key(key).verifying_key().to_bytes();
                cepa_common::dir::KeyCert::new(&link_key(3), &id, bytes, u64::MAX)
            });
            Arc::new(taken.sign(&id, &link_key(key)).unwrap())
        };
        let now = NOW_MS / 1_000;
        let taken = relays.insert(with_key(1, now + 1), &params, NOW_MS);
        assert_eq!(taken, Err(AuthorityError::KeyInUse));
        // A key of its own is fine, and the old one is free then.
        let own = relays.insert(with_key(9, now + 2), &params, NOW_MS);
        assert_eq!(own, Ok(()));
        assert_eq!(relays.by_key.len(), 2);
        assert_eq!(relays.insert(with_key(3, now + 3), &params, NOW_MS), Ok(()));
    }

    #[test]
    fn dials_are_bounded_and_new_relays_go_first() {
        let params = network(1).params();
        let mut relays = Relays::new(true);
        for n in 1..=100 {
            relays.insert(signed(n, |_| ()), &params, NOW_MS).unwrap();
        }
        let first = relays.due_probes(NOW_MS);
        assert_eq!(first.len(), MAX_PROBES);
        assert!(relays.due_probes(NOW_MS).is_empty());
        // While none may start, nothing is due: the driver must not spin.
        assert_eq!(relays.next_probe_ms(), None);
        for probe in &first {
            relays.on_probe(probe, true, &params, NOW_MS);
        }
        // Much later all are due; those never dialled come before those that are.
        let later = NOW_MS + 100_000;
        let second = relays.due_probes(later);
        let old: Vec<_> = first.iter().map(|probe| probe.identity).collect();
        let is_new = |probe: &Probe| !old.contains(&probe.identity);
        assert_eq!(second.iter().filter(|probe| is_new(probe)).count(), 36);
        assert!(second[..36].iter().all(is_new));
        // Those dialled at one moment are not due at one moment again.
        let mut due: Vec<_> = old.iter().map(|id| spread(1_200_000, id, NOW_MS)).collect();
        due.sort_unstable();
        assert!(due[0] >= 1_050_000 && due[63] < 1_350_000);
        assert!(due[63] - due[0] > 200_000, "{due:?}");
    }

    #[test]
    fn the_operators_word() {
        use crate::authority::OperatorList;
        let (network, params) = (network(1), network(1).params());
        let mut relays = Relays::new(false);
        relays.set_rules(OperatorRules {
            reject: OperatorList::parse([identity(2).to_string().as_str(), "127.0.0.9"]).unwrap(),
            middle_only: OperatorList::parse([identity(3).to_string().as_str()]).unwrap(),
        });
        let mut insert = |signed| relays.insert(signed, &params, NOW_MS);
        assert_eq!(insert(on_address(2, 2)), Err(AuthorityError::Rejected));
        assert_eq!(insert(on_address(4, 9)), Err(AuthorityError::Rejected));
        assert_eq!(insert(signed(1, |_| ())), Ok(()));
        assert_eq!(insert(signed(3, |_| ())), Ok(()));
        let entries = relays.vote_entries(&network, &params, NOW_MS, 0);
        let flags_of = |n: u8| {
            let is_it = |entry: &&VoteEntry| entry.descriptor == signed(n, |_| ()).bytes();
            entries.iter().find(is_it).unwrap().flags
        };
        use cepa_common::dir::Flags;
        assert!(flags_of(1).contains(Flags::GUARD | Flags::EXIT));
        assert!(!flags_of(3).contains(Flags::GUARD) && !flags_of(3).contains(Flags::EXIT));
        assert!(flags_of(3).contains(Flags::RUNNING));
    }
}
