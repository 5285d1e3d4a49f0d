//! The sample of guards: which guards are in it, which leave, which are drawn (docs/protocol.md, 6.21.2 to 6.21.5).

use std::time::Duration;

use cepa_common::dir::{Consensus, Entry, UnixSecs};
use cepa_common::ids::RelayId;
use rand::{CryptoRng, RngExt};

use super::schedule::{GuardLimits, blurred};
use super::silence::Silence;
use crate::path::{PREFERENCE, Position, PositionWeights, nets};

/// A guard of the sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Guard {
    pub(super) identity: RelayId,
    /// When the guard was drawn, blurred.
    pub(super) added: UnixSecs,
    /// When the guard was first used, blurred.
    pub(super) confirmed: Option<UnixSecs>,
    /// Since when no consensus lists the guard, blurred.
    pub(super) unlisted: Option<UnixSecs>,
    /// What the consensus says about the guard, which is not kept on disk.
    pub(super) now: Listing,
    /// What this run of the program has found out about the guard, which is not kept on disk.
    pub(super) reach: Reach,
    /// When the guard was last usable. This is not kept on disk.
    pub(super) usable_at: Option<Duration>,
    /// When a circuit was last begun at the guard, if that circuit has no result yet.
    pub(super) tried: Option<Duration>,
    /// The CREATEs that the guard has not answered. This is not kept on disk.
    pub(super) silence: Silence,
}

/// A guard as the newest consensus has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Listing {
    /// Is the guard listed as fit for a first hop, and does the owner's filter allow it?
    pub(super) usable: bool,
    weight: u64,
    family: Option<[u8; 32]>,
    nets: Vec<u64>,
}

impl Listing {
    fn is_near(&self, other: &Self, subnet_rule: bool) -> bool {
        let same_family = self.family.is_some() && self.family == other.family;
        same_family || (subnet_rule && self.nets.iter().any(|net| other.nets.contains(net)))
    }
}

/// Whether a guard answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Reach {
    /// The guard was not tried since the start, or since the network or the consensus changed.
    #[default]
    Unknown,
    /// The last try of the guard succeeded.
    Reached,
    /// The last try of the guard failed.
    Failing {
        /// First failure of the present run of failures.
        since: Duration,
        /// Last failure.
        last: Duration,
        /// The guard is not tried before this time, unless no other guard is left.
        retry_at: Duration,
    },
}

impl Guard {
    pub(super) fn new(identity: RelayId, added: UnixSecs) -> Self {
        Self {
            identity,
            added,
            confirmed: None,
            unlisted: None,
            now: Listing::default(),
            reach: Reach::Unknown,
            usable_at: None,
            tried: None,
            silence: Silence::default(),
        }
    }

    fn is_over(&self, limits: &GuardLimits, wall: UnixSecs) -> bool {
        let passed = |since: UnixSecs, life: u64| since.saturating_add(life) <= wall;
        let unlisted = self
            .unlisted
            .is_some_and(|since| passed(since, limits.unlisted_secs));
        let aged = match self.confirmed {
            Some(first_use) => passed(first_use, limits.confirmed_secs),
            None => passed(self.added, limits.unconfirmed_secs),
        };
        unlisted || aged
    }
}

/// A function that says which relays the owner allows or prefers as guards.
pub type Filter<'a> = &'a dyn Fn(&Entry) -> bool;

/// What a sample is compared with: the newest consensus, what follows from the consensus, and a date.
pub(super) struct View<'a> {
    pub(super) consensus: &'a Consensus,
    pub(super) weights: PositionWeights,
    pub(super) filter: Filter<'a>,
    /// Which guards the owner would rather have. Such guards are drawn as if their weight were [`PREFERENCE`] times as
    /// large.
    pub(super) prefer: Filter<'a>,
    pub(super) limits: GuardLimits,
    pub(super) wall: UnixSecs,
}

impl View<'_> {
    fn entry(&self, guard: &Guard) -> Option<&Entry> {
        self.consensus
            .relay(&guard.identity)
            .filter(|entry| self.weights.is_entry(entry))
    }

    fn weight(&self, entry: &Entry) -> u64 {
        u64::from(entry.weight) * self.weights.share(Position::Entry, entry.flags)
    }

    /// Brings every guard up to date with the consensus, and drops those whose time is over. Returns whether anything
    /// changed that is kept on disk.
    pub(super) fn refresh(&self, sample: &mut Vec<Guard>, rng: &mut impl CryptoRng) -> bool {
        let before: Vec<_> = sample.iter().map(dates).collect();
        for guard in sample.iter_mut() {
            // A date in the future comes from a clock that has been set back since.
            guard.added = guard.added.min(self.wall);
            guard.confirmed = guard.confirmed.map(|date| date.min(self.wall));
            guard.unlisted = guard.unlisted.map(|date| date.min(self.wall));
            match self.entry(guard) {
                Some(entry) => {
                    if guard.unlisted.take().is_some() {
                        // The guard is listed again. The guard's earlier failures say nothing now.
                        guard.reach = Reach::Unknown;
                    }
                    guard.now = Listing {
                        usable: (self.filter)(entry),
                        weight: self.weight(entry),
                        family: entry.family,
                        nets: nets(entry).collect(),
                    };
                }
                None => {
                    guard.now = Listing::default();
                    let blurred = blurred(self.wall, self.limits.unlisted_secs, 5, rng);
                    guard.unlisted.get_or_insert(blurred);
                }
            }
        }
        sample.retain(|guard| !guard.is_over(&self.limits, self.wall));
        let after: Vec<_> = sample.iter().map(dates).collect();
        before != after
    }

    /// Draws guards into the sample until it is large enough or may not grow (6.21.3).
    pub(super) fn extend(&self, sample: &mut Vec<Guard>, rng: &mut impl CryptoRng) -> bool {
        // Nearly always there are enough, and nobody need look at the whole consensus.
        let usable = |sample: &[Guard]| sample.iter().filter(|guard| guard.now.usable).count();
        if usable(sample) >= self.limits.sample_min {
            return false;
        }
        let eligible = || {
            let entries = self.consensus.entries().iter();
            entries.filter(|entry| self.weights.is_entry(entry))
        };
        let total: u64 = eligible().map(|entry| self.weight(entry)).sum();
        let limit = total / 100 * self.limits.sample_percent;
        let mut candidates: Vec<&Entry> = eligible().filter(|entry| (self.filter)(entry)).collect();
        candidates.retain(|entry| sample.iter().all(|guard| guard.identity != entry.identity));
        let before = sample.len();
        loop {
            let usable = usable(sample);
            let held: u64 = sample.iter().map(|guard| guard.now.weight).sum();
            let full = sample.len() >= self.limits.sample_max
                || (sample.len() >= self.limits.sample_min && held >= limit);
            // If no guard is usable, a bound that keeps hostile relays out would keep the owner out as well.
            if usable >= self.limits.sample_min || (full && usable > 0) {
                break;
            }
            let Some(entry) = self.draw(&mut candidates, rng) else {
                break;
            };
            if sample.len() >= self.limits.sample_max && !make_room(sample) {
                break;
            }
            // The date is blurred by a tenth of the life of a guard that is not used.
            let added = blurred(self.wall, self.limits.unconfirmed_secs, 10, rng);
            let mut guard = Guard::new(entry.identity, added);
            guard.now = Listing {
                usable: true,
                weight: self.weight(entry),
                family: entry.family,
                nets: nets(entry).collect(),
            };
            sample.push(guard);
        }
        sample.len() != before
    }

    /// Draws one candidate by its weight at the position; by its plain weight if no candidate has weight at the
    /// position.
    fn draw<'e>(
        &self,
        candidates: &mut Vec<&'e Entry>,
        rng: &mut impl CryptoRng,
    ) -> Option<&'e Entry> {
        let factor = |entry: &Entry| if (self.prefer)(entry) { PREFERENCE } else { 1 };
        // Each weight is capped, so that the sum of 20,000 weights does not overflow.
        let counted = |weight: u64, entry: &Entry| (weight * factor(entry)).min(1 << 48);
        let split = draw_by(candidates, |entry| counted(self.weight(entry), entry), rng);
        let plain = |entry: &Entry| counted(u64::from(entry.weight), entry);
        let at = split.or_else(|| draw_by(candidates, plain, rng))?;
        Some(candidates.swap_remove(at))
    }
}

fn dates(guard: &Guard) -> (RelayId, UnixSecs, Option<UnixSecs>, Option<UnixSecs>) {
    (guard.identity, guard.added, guard.confirmed, guard.unlisted)
}

fn draw_by(
    candidates: &[&Entry],
    weight: impl Fn(&Entry) -> u64,
    rng: &mut impl CryptoRng,
) -> Option<usize> {
    let total: u64 = candidates.iter().map(|entry| weight(entry)).sum();
    if total == 0 {
        return None;
    }
    let mut point = rng.random_range(0..total);
    candidates.iter().position(|entry| {
        let weight = weight(entry);
        let here = point < weight;
        point = point.saturating_sub(weight);
        here
    })
}

/// Drops the oldest guard that is not usable and never was used. Returns whether there was one.
fn make_room(sample: &mut Vec<Guard>) -> bool {
    let idle = |guard: &Guard| !guard.now.usable && guard.confirmed.is_none();
    let oldest = sample.iter().position(idle);
    oldest.map(|at| sample.remove(at)).is_some()
}

/// Chooses the primary guards among usable ones, which come in order of preference. The chosen ones share no family and
/// no network if there are enough guards for that.
pub(super) fn primaries<'a>(
    ordered: impl Iterator<Item = &'a Guard>,
    count: usize,
    subnet_rule: bool,
) -> Vec<RelayId> {
    let ordered: Vec<&Guard> = ordered.collect();
    let mut chosen: Vec<&Guard> = Vec::new();
    for careful in [true, false] {
        for guard in &ordered {
            let near = chosen
                .iter()
                .any(|other| other.now.is_near(&guard.now, subnet_rule));
            let taken = chosen.iter().any(|other| other.identity == guard.identity);
            if chosen.len() < count && !taken && !(careful && near) {
                chosen.push(guard);
            }
        }
    }
    chosen.iter().map(|guard| guard.identity).collect()
}
