//! What an authority knows of relays: their newest descriptors and whether they answer (docs/protocol.md, 6.13).

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use cepa_common::dir::{
    Digest, Flags, NetworkFile, Params, RelayDescriptor, SignedDescriptor, UnixSecs, VoteEntry,
    is_dialable,
};
use cepa_common::ids::RelayId;

use super::AuthorityError;

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

/// One relay.
#[derive(Debug)]
struct Known {
    signed: Arc<SignedDescriptor>,
    first_seen_ms: u64,
    /// Since when it answers; `None` while it does not.
    reachable_since_ms: Option<u64>,
    failures: u32,
    next_probe_ms: u64,
    is_probing: bool,
}

impl Known {
    fn descriptor(&self) -> &RelayDescriptor {
        self.signed.descriptor()
    }
}

/// All relays that the authority has a descriptor of.
#[derive(Debug)]
pub(super) struct Relays {
    known: BTreeMap<RelayId, Known>,
    /// Without a prober every relay counts as reachable.
    probes: bool,
}

impl Relays {
    pub(super) fn new(probes: bool) -> Self {
        Self {
            known: BTreeMap::new(),
            probes,
        }
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
        let held = self.known.get(&descriptor.identity);
        if held.is_some_and(|held| held.signed.digest() == signed.digest()) {
            return Ok(());
        }
        if held.is_some_and(|held| held.descriptor().published >= descriptor.published) {
            return Err(AuthorityError::NotNewer);
        }
        if held.is_none() {
            self.check_key(descriptor)?;
            self.make_room(params, now)?;
        }
        self.store(signed, now_ms);
        Ok(())
    }

    /// A link key belongs to one relay (S26).
    fn check_key(&self, descriptor: &RelayDescriptor) -> Result<(), AuthorityError> {
        let key = descriptor.link_key();
        let taken = self
            .known
            .values()
            .any(|held| held.descriptor().link_key() == key);
        if taken {
            Err(AuthorityError::KeyInUse)
        } else {
            Ok(())
        }
    }

    /// Expired relays make room, then the one that has been waiting to be reached longest.
    fn make_room(&mut self, params: &Params, now: UnixSecs) -> Result<(), AuthorityError> {
        let most = usize::try_from(params.max_relays).unwrap_or(usize::MAX);
        if self.known.len() < most {
            return Ok(());
        }
        let max_age = u64::from(params.descriptor_max_age_seconds);
        self.known
            .retain(|_, held| held.signed.is_current(now, max_age, now));
        if self.known.len() < most {
            return Ok(());
        }
        let unreached = self
            .known
            .iter()
            .filter(|(_, held)| held.reachable_since_ms.is_none());
        let oldest = unreached
            .min_by_key(|(_, held)| held.first_seen_ms)
            .map(|(id, _)| *id);
        self.known.remove(&oldest.ok_or(AuthorityError::Full)?);
        Ok(())
    }

    fn store(&mut self, signed: Arc<SignedDescriptor>, now_ms: u64) {
        let identity = signed.descriptor().identity;
        let fresh = Known {
            signed: Arc::clone(&signed),
            first_seen_ms: now_ms,
            reachable_since_ms: (!self.probes).then_some(now_ms),
            failures: 0,
            next_probe_ms: now_ms,
            is_probing: false,
        };
        let held = self.known.entry(identity).or_insert(fresh);
        let (old, new) = (held.signed.descriptor(), signed.descriptor());
        if self.probes && (old.addresses != new.addresses || old.link_key() != new.link_key()) {
            // What was reached says nothing of a new address or key.
            held.reachable_since_ms = None;
        }
        held.next_probe_ms = now_ms;
        held.is_probing = false;
        held.signed = signed;
    }

    /// The dials that are due.
    pub(super) fn due_probes(&mut self, now_ms: u64) -> Vec<Probe> {
        if !self.probes {
            return Vec::new();
        }
        let due = self
            .known
            .values_mut()
            .filter(|held| !held.is_probing && held.next_probe_ms <= now_ms);
        due.map(|held| {
            held.is_probing = true;
            let descriptor = held.signed.descriptor();
            Probe {
                identity: descriptor.identity,
                digest: held.signed.digest(),
                addresses: descriptor.addresses.clone(),
                link_key: descriptor.link_key(),
            }
        })
        .collect()
    }

    /// When the next dial is due; `None` when none is.
    pub(super) fn next_probe_ms(&self) -> Option<u64> {
        let waiting = self
            .known
            .values()
            .filter(|held| self.probes && !held.is_probing);
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
            held.reachable_since_ms.get_or_insert(now_ms);
            held.next_probe_ms = now_ms.saturating_add(interval_ms);
            return;
        }
        let wait_ms = (PROBE_RETRY_MS << held.failures.min(20)).min(interval_ms);
        held.next_probe_ms = now_ms.saturating_add(wait_ms);
        held.failures = held.failures.saturating_add(1);
        if held.failures >= FAILURES_TO_UNLIST {
            held.reachable_since_ms = None;
        }
    }

    /// The relays to vote for, by identity: current until `until`, reachable, not too many to an address.
    pub(super) fn vote_entries(
        &self,
        network: &NetworkFile,
        params: &Params,
        now_ms: u64,
        until: UnixSecs,
    ) -> Vec<VoteEntry> {
        let max_age = u64::from(params.descriptor_max_age_seconds);
        let mut listed: Vec<(u64, &Known)> = self
            .known
            .values()
            .filter(|held| held.signed.is_current(now_ms / 1_000, max_age, until))
            .filter_map(|held| Some((held.reachable_since_ms?, held)))
            .collect();
        // Who was there first keeps its place: nobody pushes a relay out by crowding its address.
        listed.sort_by_key(|(since, held)| (*since, held.descriptor().identity));
        let mut on_address: HashMap<IpAddr, u32> = HashMap::new();
        listed.retain(|(_, held)| {
            let ips = || held.descriptor().addresses.iter().map(SocketAddr::ip);
            let crowded = ips().any(|ip| {
                on_address
                    .get(&ip)
                    .is_some_and(|count| *count >= params.max_relays_per_address)
            });
            if !crowded {
                ips().for_each(|ip| *on_address.entry(ip).or_default() += 1);
            }
            !crowded
        });
        listed.truncate(usize::try_from(params.max_relays).unwrap_or(usize::MAX));
        listed.sort_by_key(|(_, held)| held.descriptor().identity);
        listed
            .into_iter()
            .map(|(since, held)| VoteEntry {
                descriptor: held.signed.bytes().to_vec(),
                flags: flags(
                    held.descriptor(),
                    now_ms.saturating_sub(since) / 1_000,
                    network,
                    params,
                ),
                measured: None,
            })
            .collect()
    }
}

fn flags(relay: &RelayDescriptor, age_secs: u64, network: &NetworkFile, params: &Params) -> Flags {
    let is_fast = relay.bandwidth.min(params.max_unmeasured_weight) >= params.fast_min_weight;
    let is_stable = age_secs >= u64::from(params.stable_min_age_seconds);
    let is_guard = relay.offers.contains(Flags::GUARD)
        && is_fast
        && is_stable
        && age_secs >= u64::from(params.guard_min_age_seconds);
    let is_authority = network
        .authorities()
        .iter()
        .any(|a| a.identity == relay.identity);
    (Flags::VALID | Flags::RUNNING)
        .with_if(Flags::FAST, is_fast)
        .with_if(Flags::STABLE, is_stable)
        .with_if(Flags::GUARD, is_guard)
        .with_if(Flags::EXIT, !relay.policy.is_reject_all())
        .with_if(
            Flags::HSDIR,
            is_stable && relay.offers.contains(Flags::HSDIR),
        )
        .with_if(Flags::AUTHORITY, is_authority)
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

    fn listed(relays: &Relays, params: &Params, now_ms: u64) -> usize {
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
        assert_eq!(listed(&relays, &params, NOW_MS), 0);
        relays.on_probe(&probe, true, &params, NOW_MS);
        assert_eq!(listed(&relays, &params, NOW_MS), 1);
        // One failure is forgiven, two are not.
        relays.on_probe(&probe, false, &params, NOW_MS);
        assert_eq!(relays.next_probe_ms(), Some(NOW_MS + PROBE_RETRY_MS));
        assert_eq!(listed(&relays, &params, NOW_MS), 1);
        relays.on_probe(&probe, false, &params, NOW_MS);
        assert_eq!(listed(&relays, &params, NOW_MS), 0);
        relays.on_probe(&probe, true, &params, NOW_MS);
        // A new address must be reached anew; the late result of the old one does not count.
        let moved = signed(1, |d| {
            (d.published, d.addresses[0]) = (d.published + 1, ([127, 0, 0, 1], 9).into())
        });
        relays.insert(moved, &params, NOW_MS).unwrap();
        relays.on_probe(&probe, true, &params, NOW_MS);
        assert_eq!(listed(&relays, &params, NOW_MS), 0);
        // A new onion key alone costs nothing.
        let probe = relays.due_probes(NOW_MS).pop().unwrap();
        relays.on_probe(&probe, true, &params, NOW_MS);
        let rekeyed = signed(1, |d| {
            (d.published, d.addresses[0], d.onion_key) =
                (d.published + 2, ([127, 0, 0, 1], 9).into(), [9; 32]);
        });
        relays.insert(rekeyed, &params, NOW_MS).unwrap();
        assert_eq!(listed(&relays, &params, NOW_MS), 1);
        let later = NOW_MS + 1_000 * u64::from(params.descriptor_max_age_seconds) + 3_000;
        assert_eq!(listed(&relays, &params, later), 0);
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

    #[test]
    fn the_unreached_make_room_and_addresses_do_not_crowd() {
        let params = Params {
            max_relays: 2,
            max_relays_per_address: 1,
            ..network(1).params()
        };
        let mut relays = Relays::new(true);
        relays.insert(signed(1, |_| ()), &params, NOW_MS).unwrap();
        relays
            .insert(signed(2, |_| ()), &params, NOW_MS + 1)
            .unwrap();
        let probes = relays.due_probes(NOW_MS + 1);
        relays.on_probe(
            probes.iter().find(|p| p.identity == identity(2)).unwrap(),
            true,
            &params,
            NOW_MS,
        );
        relays
            .insert(signed(3, |_| ()), &params, NOW_MS + 2)
            .unwrap();
        assert!(!relays.known.contains_key(&identity(1)));
        for probe in relays.due_probes(NOW_MS + 2) {
            relays.on_probe(&probe, true, &params, NOW_MS + 2);
        }
        let entries = relays.vote_entries(&network(1), &params, NOW_MS + 3, 0);
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].descriptor, signed(2, |_| ()).bytes());
    }

    #[test]
    fn flags_follow_age_and_offers() {
        let network = network(1);
        let relay = descriptor(1, 0);
        let params = Params {
            stable_min_age_seconds: 10,
            guard_min_age_seconds: 20,
            ..network.params()
        };
        let at = |age| flags(&relay, age, &network, &params);
        let young = Flags::VALID | Flags::RUNNING | Flags::FAST | Flags::EXIT | Flags::AUTHORITY;
        assert_eq!(at(9), young);
        assert_eq!(at(10), young | Flags::STABLE);
        assert_eq!(at(20), young | Flags::STABLE | Flags::GUARD);
    }
}
