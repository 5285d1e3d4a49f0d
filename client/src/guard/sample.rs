//! The sample: who is in it, who leaves, who is drawn (docs/protocol.md, 6.21.2 to 6.21.5).

use std::time::Duration;

use cepa_common::dir::{Consensus, Entry, UnixSecs};
use cepa_common::ids::RelayId;
use rand::{CryptoRng, RngExt};

use super::machine::Filter;
use super::schedule::{Limits, blurred};
use crate::path::{PREFERENCE, Position, PositionWeights, nets};

/// A guard of the sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Guard {
    pub(super) identity: RelayId,
    /// When it came in, blurred.
    pub(super) added: UnixSecs,
    /// When it was first used, blurred.
    pub(super) confirmed: Option<UnixSecs>,
    /// Since when no consensus lists it, blurred.
    pub(super) unlisted: Option<UnixSecs>,
    /// What the consensus says of it; not kept on disk.
    pub(super) now: Listing,
    /// What this run has met with it; not kept on disk.
    pub(super) reach: Reach,
    /// When a circuit was last begun at it that has come to no result yet.
    pub(super) tried: Option<Duration>,
}

/// A guard as the newest consensus has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Listing {
    /// Listed as fit for a first hop, and the owner's filter lets it be.
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

/// Does it answer?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Reach {
    /// Not tried since something changed.
    #[default]
    Unknown,
    /// The last circuit through it was built.
    Reached,
    /// The last try failed.
    Failing {
        /// First failure of the run of failures.
        since: Duration,
        /// Last failure.
        last: Duration,
        /// Not tried before, while another is left.
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
            tried: None,
        }
    }

    fn is_over(&self, limits: &Limits, wall: UnixSecs) -> bool {
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

/// What a sample is held against: the newest consensus with what follows from it, and a date.
pub(super) struct View<'a> {
    pub(super) consensus: &'a Consensus,
    pub(super) weights: PositionWeights,
    pub(super) filter: Filter<'a>,
    /// Those that the owner would rather have: they are drawn as if they carried [`PREFERENCE`] times as much.
    pub(super) prefer: Filter<'a>,
    pub(super) limits: Limits,
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

    /// Brings every guard up to date with the consensus, and lets go of those whose time is over.
    /// Returns whether anything changed that is kept on disk.
    pub(super) fn refresh(&self, sample: &mut Vec<Guard>, rng: &mut impl CryptoRng) -> bool {
        let before: Vec<_> = sample.iter().map(dates).collect();
        for guard in sample.iter_mut() {
            // A date ahead is of a clock that has been set back since.
            guard.added = guard.added.min(self.wall);
            guard.confirmed = guard.confirmed.map(|date| date.min(self.wall));
            guard.unlisted = guard.unlisted.map(|date| date.min(self.wall));
            match self.entry(guard) {
                Some(entry) => {
                    if guard.unlisted.take().is_some() {
                        // It is back: what failed before says nothing now.
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
            let usable = sample.iter().filter(|guard| guard.now.usable).count();
            let held: u64 = sample.iter().map(|guard| guard.now.weight).sum();
            let full = sample.len() >= self.limits.sample_max
                || (sample.len() >= self.limits.sample_min && held >= limit);
            // With none usable a bound that keeps hostile relays out would keep the owner out as well.
            if usable >= self.limits.sample_min || (full && usable > 0) {
                break;
            }
            let Some(entry) = self.draw(&mut candidates, rng) else {
                break;
            };
            if sample.len() >= self.limits.sample_max && !make_room(sample) {
                break;
            }
            // Blurred by a tenth of its life.
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

    /// Takes one candidate by weight; by plain weight where the split of positions leaves none.
    fn draw<'e>(
        &self,
        candidates: &mut Vec<&'e Entry>,
        rng: &mut impl CryptoRng,
    ) -> Option<&'e Entry> {
        let factor = |entry: &Entry| if (self.prefer)(entry) { PREFERENCE } else { 1 };
        // Capped so that 20,000 of them can be added up.
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

/// Lets go of the oldest guard that is neither usable nor ever was used.
fn make_room(sample: &mut Vec<Guard>) -> bool {
    let idle = |guard: &Guard| !guard.now.usable && guard.confirmed.is_none();
    let oldest = sample.iter().position(idle);
    oldest.map(|at| sample.remove(at)).is_some()
}

/// The primary guards among usable ones in order of preference: apart from each other where enough are.
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
