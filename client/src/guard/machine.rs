//! The guard machine: consensuses and results of circuits go in, the guard of the next circuit comes out.

use std::time::Duration;

use cepa_common::dir::Consensus;
use cepa_common::ids::{NetworkId, RelayId};
use rand::{CryptoRng, RngExt};

use super::sample::{Filter, Guard, Reach, View, primaries};
use super::schedule::{GuardLimits, Now, blurred};
use super::silence::Silence;
use crate::path::PositionWeights;

/// What a circuit is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Streams of applications, and everything else.
    Data,
    /// Fetches from the directory, and nothing else.
    Directory,
    /// A second leg beside a circuit for data.
    SecondLeg,
}

/// Number of guards that circuits for data and their second legs have between them.
const PAIR: usize = 2;
/// A guard that was usable so lately keeps its place in the pair. Else a third guard would see the client whenever one
/// of two is down for some hours.
const PLACE_KEPT: Duration = Duration::from_secs(86_400);

/// When a circuit through a guard may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usability {
    /// As soon as the circuit is built, because the guard is primary.
    Now,
    /// As soon as it is known that no better guard answers.
    IfNoneBetter,
}

/// The guard for a circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuardChoice {
    /// Identity of the guard.
    pub identity: RelayId,
    /// When the circuit may be used.
    pub usability: Usability,
}

/// What to do with a circuit that was built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The circuit may be used.
    Use,
    /// A better guard is being tried: ask again by [`GuardSet::on_success`] in a moment.
    Wait,
    /// The network was down, and the better guards were not: drop the circuit and try those guards.
    TryBetter,
}

/// A client's guards. Every wait is measured by [`Now::mono`], and every date is by [`Now::wall`].
#[derive(Clone, Debug)]
pub struct GuardSet {
    pub(super) network: NetworkId,
    /// The owner's number of guards in use, if it replaces the network's.
    own_in_use: Option<usize>,
    /// The sample, in the order in which its guards were drawn.
    pub(super) sample: Vec<Guard>,
    /// The guards that were used, in the order of their first use.
    pub(super) confirmed: Vec<RelayId>,
    primary: Vec<RelayId>,
    /// The first of the guards that are usable or have their place kept, best first: the pair, which sees the client.
    pair: Vec<RelayId>,
    limits: GuardLimits,
    subnet_rule: bool,
    /// When any guard last succeeded, or the start.
    heard: Option<Duration>,
    seen: Option<Now>,
    /// The date, as the consensus and the wall clock together say it.
    date: u64,
    changed: bool,
}

impl GuardSet {
    /// An empty set for a network. The first [`GuardSet::update`] fills it.
    pub fn new(network: NetworkId) -> Self {
        Self {
            network,
            own_in_use: None,
            sample: Vec::new(),
            confirmed: Vec::new(),
            primary: Vec::new(),
            pair: Vec::new(),
            limits: GuardLimits::default(),
            subnet_rule: true,
            heard: None,
            seen: None,
            date: 0,
            changed: false,
        }
    }

    /// Sets how many guards are used at a time, in place of the network's number. The number counts from the next
    /// [`GuardSet::update`] on.
    pub fn set_in_use(&mut self, in_use: Option<usize>) {
        self.own_in_use = in_use;
    }

    /// Takes in a consensus and the owner's filter (6.21.2 to 6.21.6).
    pub fn update(
        &mut self,
        consensus: &Consensus,
        filter: Filter<'_>,
        now: Now,
        rng: &mut impl CryptoRng,
    ) {
        self.update_preferring(consensus, filter, &|_| false, now, rng);
    }

    /// Takes in a consensus and the owner's filter like [`GuardSet::update`]. `prefer` says which guards the owner
    /// would rather have when new ones are drawn (6.16.11).
    pub fn update_preferring(
        &mut self,
        consensus: &Consensus,
        filter: Filter<'_>,
        prefer: Filter<'_>,
        now: Now,
        rng: &mut impl CryptoRng,
    ) {
        let weights = PositionWeights::new(consensus);
        self.update_weighted(consensus, weights, filter, prefer, now, rng);
    }

    /// Takes in a consensus and the owner's filter like [`GuardSet::update_preferring`]. `weights` are those of the
    /// consensus: whoever keeps many sets computes them once for all.
    pub(crate) fn update_weighted(
        &mut self,
        consensus: &Consensus,
        weights: PositionWeights,
        filter: Filter<'_>,
        prefer: Filter<'_>,
        now: Now,
        rng: &mut impl CryptoRng,
    ) {
        self.observe(now);
        self.limits = GuardLimits::from(consensus.params()).with_in_use(self.own_in_use);
        self.subnet_rule = consensus.params().subnet_rule != 0;
        // A clock that is wrong by months ends no guard's life, because no usable consensus is that old (6.21.5).
        let lifetime = consensus.lifetime();
        let grace = u64::from(consensus.params().consensus_grace_seconds);
        let latest = lifetime.valid_until.saturating_add(grace);
        self.date = now.wall.clamp(lifetime.valid_after.min(latest), latest);
        let view = View {
            consensus,
            weights,
            filter,
            prefer,
            limits: self.limits,
            wall: self.date,
        };
        let refreshed = view.refresh(&mut self.sample, rng);
        let extended = view.extend(&mut self.sample, rng);
        self.changed |= refreshed || extended;
        // A guard that left and was drawn again in the same step is a new guard: it was never used.
        let sample = &self.sample;
        let is_used = |relay: &RelayId| {
            sample
                .iter()
                .any(|g| g.identity == *relay && g.confirmed.is_some())
        };
        self.confirmed.retain(is_used);
        for guard in self.sample.iter_mut().filter(|guard| guard.now.usable) {
            guard.usable_at = Some(now.mono);
        }
        self.choose_primaries();
    }

    fn choose_primaries(&mut self) {
        let ordered = self.in_order().filter(|guard| guard.now.usable);
        self.primary = primaries(ordered, self.limits.primaries, self.subnet_rule);
        let latest = self.seen.map_or(Duration::ZERO, |seen| seen.mono);
        let is_lately = |at: Duration| latest.saturating_sub(at) < PLACE_KEPT;
        // Who is in the pair stays there before others that are not confirmed either.
        let named = self.confirmed.iter().chain(&self.pair);
        let placed = named
            .filter_map(|relay| self.find(relay))
            .chain(self.in_order())
            .filter(|guard| guard.now.usable || guard.usable_at.is_some_and(is_lately));
        let most = self.limits.in_use.max(self.limits.directory_in_use);
        self.pair = primaries(placed, most.max(PAIR), self.subnet_rule);
    }

    fn find(&self, relay: &RelayId) -> Option<&Guard> {
        self.sample.iter().find(|guard| guard.identity == *relay)
    }

    fn find_mut(&mut self, relay: &RelayId) -> Option<&mut Guard> {
        self.sample
            .iter_mut()
            .find(|guard| guard.identity == *relay)
    }

    /// The confirmed guards, then those that are primary already, then the whole sample. A guard may come more than
    /// once.
    fn in_order(&self) -> impl Iterator<Item = &Guard> {
        let named = self.confirmed.iter().chain(&self.primary);
        named
            .filter_map(|relay| self.find(relay))
            .chain(&self.sample)
    }

    /// The usable guards, best first: primary ones, confirmed ones, the whole sample. A guard may come more than once.
    fn by_rank(&self) -> impl Iterator<Item = &Guard> {
        let named = self.primary.iter().filter_map(|relay| self.find(relay));
        named
            .chain(self.in_order())
            .filter(|guard| guard.now.usable)
    }

    fn is_primary(&self, relay: &RelayId) -> bool {
        self.primary.contains(relay)
    }

    /// The guard for a circuit. `allowed` says which guards fit the circuit's exit: not of its family, not in its
    /// network, and not the exit itself; for a second leg, the guards that fit the first leg too. `None` if the sample
    /// has no guard that is usable and allowed, or if a second leg may not have it.
    pub fn pick(
        &self,
        purpose: Purpose,
        allowed: &dyn Fn(&RelayId) -> bool,
        now: Now,
        rng: &mut impl CryptoRng,
    ) -> Option<GuardChoice> {
        let fits = |guard: &&Guard| guard.now.usable && allowed(&guard.identity);
        let due = |guard: &&Guard| is_due(guard, now);
        let primary = || self.primary.iter().filter_map(|relay| self.find(relay));
        let pair = || self.pair.iter().filter_map(|relay| self.find(relay));
        // If a guard in use may not be in this path, another guard in use takes its place before one that is not in use
        // (S41).
        let usable = |guard: &&Guard| guard.now.usable;
        let ready: Vec<&Guard> = match purpose {
            Purpose::Data => {
                let of_use = primary().filter(usable).filter(due);
                of_use.take(self.limits.in_use).filter(fits).collect()
            }
            // No third guard sees the client because one of the pair is down.
            Purpose::Directory => {
                let of_pair = pair().take(self.limits.directory_in_use);
                of_pair.filter(due).filter(fits).collect()
            }
            // Without the other guard of the pair there is no second leg.
            Purpose::SecondLeg => {
                let of_pair = pair().take(self.limits.in_use.max(PAIR));
                return of_pair
                    .filter(due)
                    .find(fits)
                    .map(|guard| self.choice(guard));
            }
        };
        if !ready.is_empty() {
            let guard = ready.get(rng.random_range(0..ready.len()))?;
            return Some(self.choice(guard));
        }
        if let Some(guard) = primary().filter(fits).find(due) {
            return Some(self.choice(guard));
        }
        if let Some(guard) = self.by_rank().filter(fits).find(due) {
            return Some(self.choice(guard));
        }
        // All guards have failed lately. The one that has rested longest is tried, so that every guard has its turn
        // (6.21.8).
        let last = |guard: &&Guard| match guard.reach {
            Reach::Failing { last, .. } => last.max(guard.tried.unwrap_or_default()),
            _ => Duration::ZERO,
        };
        let rested = self.by_rank().filter(fits).min_by_key(last)?;
        Some(self.choice(rested))
    }

    fn choice(&self, guard: &Guard) -> GuardChoice {
        GuardChoice {
            identity: guard.identity,
            usability: if self.is_primary(&guard.identity) {
                Usability::Now
            } else {
                Usability::IfNoneBetter
            },
        }
    }

    /// Notes that a circuit is begun at a guard. A guard that has been failing is tried by one circuit, not by all at
    /// once.
    pub fn on_attempt(&mut self, relay: &RelayId, now: Now, rng: &mut impl CryptoRng) {
        let (limits, primary) = (self.limits, self.is_primary(relay));
        let Some(guard) = self.find_mut(relay) else {
            return;
        };
        guard.tried = Some(now.mono);
        if let Reach::Failing {
            since, retry_at, ..
        } = &mut guard.reach
        {
            let failing = now.mono.saturating_sub(*since);
            *retry_at = now.mono + limits.retry_after(failing, primary, rng);
        }
    }

    /// Notes that the guard has refused a CREATE because it has no room, or has left it without an answer for long.
    /// `is_silent`: nothing at all has come from the guard meanwhile. Returns whether the guard has failed: one that is
    /// slow or busy has not, unless it had failed before.
    pub fn on_unanswered(
        &mut self,
        relay: &RelayId,
        is_silent: bool,
        now: Now,
        rng: &mut impl CryptoRng,
    ) -> bool {
        let Some(guard) = self.find_mut(relay) else {
            return false;
        };
        let was_failing = matches!(guard.reach, Reach::Failing { .. });
        let has_failed = guard.silence.on_unanswered(now.mono, is_silent) || was_failing;
        if has_failed {
            self.on_failure(relay, now, rng);
        }
        has_failed
    }

    /// Notes that the guard has answered CREATE by CREATED. What comes of the circuit is another matter.
    pub fn on_created(&mut self, relay: &RelayId) {
        if let Some(guard) = self.find_mut(relay) {
            guard.silence = Silence::default();
        }
    }

    /// Notes that no link to the guard could be had, or that the guard could not prove that it is this guard.
    pub fn on_failure(&mut self, relay: &RelayId, now: Now, rng: &mut impl CryptoRng) {
        let (limits, primary) = (self.limits, self.is_primary(relay));
        let Some(guard) = self.find_mut(relay) else {
            return;
        };
        guard.tried = None;
        guard.silence = Silence::default();
        let since = match guard.reach {
            Reach::Failing { since, .. } => since,
            _ => now.mono,
        };
        let failing = now.mono.saturating_sub(since);
        guard.reach = Reach::Failing {
            since,
            last: now.mono,
            retry_at: now.mono + limits.retry_after(failing, primary, rng),
        };
    }

    /// Notes that the guard answered something that is not a circuit to be used. The answer shows only that the guard
    /// is there.
    pub fn on_answered(&mut self, relay: &RelayId, now: Now) {
        if let Some(guard) = self.find_mut(relay) {
            guard.tried = None;
            guard.reach = Reach::Reached;
            self.heard = Some(now.mono);
        }
    }

    /// Does the guard answer? `None` if it has not been tried.
    pub fn answers(&self, relay: &RelayId) -> Option<bool> {
        match self.find(relay)?.reach {
            Reach::Unknown => None,
            Reach::Reached => Some(true),
            Reach::Failing { .. } => Some(false),
        }
    }

    /// Is there no more use for circuits at this guard, because as many better guards as are in use answer, among those
    /// that `allowed` names (6.21.10)? Better are the primary guards before this one.
    pub fn is_outdone(&self, relay: &RelayId, allowed: &dyn Fn(&RelayId) -> bool) -> bool {
        let better = self.primary.iter().take_while(|guard| *guard != relay);
        let answers = |guard: &&RelayId| self.answers(guard) == Some(true) && allowed(guard);
        better.filter(answers).count() >= self.limits.in_use
    }

    /// Notes that a circuit failed behind the guard, or was given up, which says nothing about the guard.
    pub fn on_abandoned(&mut self, relay: &RelayId) {
        if let Some(guard) = self.find_mut(relay) {
            guard.tried = None;
        }
    }

    /// Notes that a circuit through the guard is built. Returns whether the circuit may be used (6.21.10).
    pub fn on_success(&mut self, relay: &RelayId, now: Now, rng: &mut impl CryptoRng) -> Verdict {
        let failed_meanwhile = self.suspects_network(now);
        let heard = self.heard;
        let Some(guard) = self.find_mut(relay) else {
            // The guard has left the sample meanwhile.
            return Verdict::TryBetter;
        };
        guard.tried = None;
        guard.reach = Reach::Reached;
        self.heard = Some(now.mono);
        if self.is_primary(relay) {
            self.confirm(relay, rng);
            return Verdict::Use;
        }
        if failed_meanwhile && self.forgive_primaries(heard) {
            return Verdict::TryBetter;
        }
        let wait = self.limits.wait;
        let is_tried = |guard: &Guard| {
            let tried = guard.tried.map(|tried| now.mono.saturating_sub(tried));
            tried.is_some_and(|age| age < wait)
        };
        let better_is_tried = self
            .by_rank()
            .take_while(|guard| guard.identity != *relay)
            .any(is_tried);
        if better_is_tried {
            return Verdict::Wait;
        }
        self.confirm(relay, rng);
        Verdict::Use
    }

    fn confirm(&mut self, relay: &RelayId, rng: &mut impl CryptoRng) {
        let (date, life) = (self.date, self.limits.confirmed_secs);
        let Some(guard) = self.find_mut(relay) else {
            return;
        };
        if guard.confirmed.is_some() {
            return;
        }
        // The date is blurred by a fifth of the guard's life: a guard in use lives 48 to 60 days.
        guard.confirmed = Some(blurred(date, life, 5, rng));
        self.confirmed.push(*relay);
        self.changed = true;
        self.choose_primaries();
    }

    /// Number of guards that have failed since the last success of any guard.
    fn failed_since_heard(&self) -> usize {
        let heard = self.heard.unwrap_or_default();
        let failed = |guard: &&Guard| match guard.reach {
            Reach::Failing { last, .. } => last >= heard,
            _ => false,
        };
        self.sample.iter().filter(failed).count()
    }

    /// Is it more likely that the client could reach nothing than that the failed guards are down (6.21.10)?
    fn suspects_network(&self, now: Now) -> bool {
        let failed = self.failed_since_heard();
        failed > self.primary.len() || (failed > 0 && self.is_silent(now))
    }

    fn is_silent(&self, now: Now) -> bool {
        now.mono.saturating_sub(self.heard.unwrap_or_default()) >= self.limits.network_down
    }

    /// Forgets the failures of primary guards after which no guard has succeeded. Returns whether there was one.
    fn forgive_primaries(&mut self, heard: Option<Duration>) -> bool {
        let (heard, primary) = (heard.unwrap_or_default(), self.primary.clone());
        let mut forgiven = false;
        for guard in self
            .sample
            .iter_mut()
            .filter(|guard| primary.contains(&guard.identity))
        {
            if matches!(guard.reach, Reach::Failing { last, .. } if last >= heard) {
                guard.reach = Reach::Unknown;
                forgiven = true;
            }
        }
        forgiven
    }

    /// Does the network look down, because guards fail and nothing is heard (6.21.10)?
    pub fn is_network_down(&self, now: Now) -> bool {
        self.suspects_network(now)
    }

    /// Notices that the machine slept or that its clock was set.
    pub fn observe(&mut self, now: Now) {
        if self.seen.is_some_and(|seen| now.has_stepped_since(seen)) {
            self.on_network_change();
        }
        if self.heard.is_none() {
            self.heard = Some(now.mono);
        }
        self.seen = Some(now);
    }

    /// Notes that the machine has another network or woke up. Earlier failures then say nothing.
    pub fn on_network_change(&mut self) {
        for guard in &mut self.sample {
            if matches!(guard.reach, Reach::Failing { .. }) {
                guard.reach = Reach::Unknown;
            }
        }
    }

    /// The time (by [`Now::mono`]) at which the next primary guard that failed is to be tried again; `None` if none has
    /// failed.
    pub fn next_retry(&self) -> Option<Duration> {
        let primary = self.primary.iter().filter_map(|relay| self.find(relay));
        let due = primary.filter_map(|guard| match guard.reach {
            Reach::Failing { retry_at, .. } => Some(retry_at),
            _ => None,
        });
        due.min()
    }

    /// The primary guards, best first.
    pub fn primaries(&self) -> &[RelayId] {
        &self.primary
    }

    /// The guards that have been used, in the order of their first use.
    pub fn confirmed(&self) -> &[RelayId] {
        &self.confirmed
    }

    /// The sample, in the order in which it was drawn.
    pub fn sampled(&self) -> impl ExactSizeIterator<Item = &RelayId> {
        self.sample.iter().map(|guard| &guard.identity)
    }

    /// Has anything changed that is kept on disk? Each change is reported once.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }
}

/// May this guard be tried now? If it may not, others are tried first.
fn is_due(guard: &Guard, now: Now) -> bool {
    match guard.reach {
        Reach::Unknown | Reach::Reached => true,
        Reach::Failing { retry_at, .. } => now.mono >= retry_at,
    }
}
