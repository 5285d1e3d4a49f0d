//! Weighted choice of a path under the rules that keep its relays apart.

use std::sync::Arc;

use cepa_common::dir::{Consensus, Entry, Flags};
use cepa_common::ids::RelayId;
use rand::CryptoRng;

use super::apart::Apart;
use super::request::{ExitTarget, GuardFor, PathRequest, Position, RULES, Rule};
use super::rules::{Marks, PeerRules, RuleError};
use super::table::Table;
use super::weights::{PositionWeights, runs};

/// The most hops, because an onion header has slots for six relays.
const MAX_HOPS: usize = 6;
/// Number of draws before all candidates are looked at. On a large network one of the first two draws fits.
const DRAWS: usize = 16;
/// Number of exits tried before a path is given up. The first exit may exclude every entry.
const EXITS_TRIED: usize = 8;

/// A guard whose family and networks hold more than this part of the exits that fit (percent) gives way to another
/// guard for these exits. Where the part is smaller, another exit is drawn (6.21.7).
const NEAR_PERCENT: u128 = 5;

/// Why no path could be chosen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// After this rule no relay was left for the position.
    #[error("no relay for the {position}: {rule}")]
    NoRelay {
        /// The position that stays empty.
        position: Position,
        /// The rule that left no relay.
        rule: Rule,
    },
    /// A list of the owner leaves no relay.
    #[error(transparent)]
    Rule(#[from] RuleError),
    /// The first relay asked for is not in the consensus, not running, or excluded.
    #[error("the first relay asked for cannot be used")]
    First,
    /// No guard may be used with any exit that was tried.
    #[error("no guard may be used with the exits that fit")]
    NoGuard,
    /// The number of hops is not 1 to 6.
    #[error("a path has 1 to 6 hops, not {0}")]
    Hops(usize),
}

/// The relays of a circuit in order, all of them from one consensus.
#[derive(Clone, Debug)]
pub struct Path {
    consensus: Arc<Consensus>,
    hops: Vec<usize>,
}

impl Path {
    /// The relays, first hop first.
    pub fn hops(&self) -> impl DoubleEndedIterator<Item = &Entry> + ExactSizeIterator {
        self.hops.iter().map(|n| &self.consensus.entries()[*n])
    }

    /// The places of the relays in the consensus, first hop first.
    pub fn places(&self) -> &[usize] {
        &self.hops
    }

    /// The consensus that the path was chosen from.
    pub fn consensus(&self) -> &Arc<Consensus> {
        &self.consensus
    }
}

/// Chooses paths from one consensus. A selector is made once for a consensus and used for many paths.
#[derive(Debug)]
pub struct PathSelector {
    consensus: Arc<Consensus>,
    weights: PositionWeights,
    apart: Apart,
    rules: Arc<PeerRules>,
    marks: Marks,
    /// The tables for each position (entry, middle, exit) and class of relays (all, only those with Stable).
    tables: [[Table; 2]; 3],
    /// The tables of exits for each of the owner's rules for destinations, by class of relays.
    special: Vec<[Table; 2]>,
}

impl PathSelector {
    /// Prepares the tables of a consensus for an owner without rules.
    pub fn new(consensus: Arc<Consensus>) -> Self {
        Self::with_rules(consensus, Arc::default())
    }

    /// Prepares the tables of a consensus under the owner's rules.
    pub fn with_rules(consensus: Arc<Consensus>, rules: Arc<PeerRules>) -> Self {
        let weights = PositionWeights::new(&consensus);
        let marks = Marks::new(&rules, &consensus);
        let tables_of = |position, rule| {
            [Flags::NONE, Flags::STABLE].map(|needed| {
                let entries = consensus.entries().iter().enumerate();
                let fits = entries.filter(|(n, entry)| {
                    entry.flags.contains(needed)
                        && has_flags(&weights, position, entry)
                        && marks.permits(position, rule, *n)
                });
                Table::new(fits.map(|(n, entry)| {
                    let weight = u64::from(entry.weight) * weights.share(position, entry.flags);
                    (n, marks.weighted(position, rule, n, weight))
                }))
            })
        };
        let tables = Position::ALL.map(|position| tables_of(position, None));
        let special = 0..rules.destinations.len();
        let special = special.map(|rule| tables_of(Position::Exit, Some(rule)));
        Self {
            special: special.collect(),
            weights,
            apart: Apart::new(&consensus),
            tables,
            rules,
            marks,
            consensus,
        }
    }

    /// Checks that the owner's lists leave a relay for every position, and an exit for every rule.
    ///
    /// # Errors
    /// [`RuleError`] names the list that leaves no relay.
    pub fn check(&self) -> Result<(), RuleError> {
        // However few hops the owner asks for, directory fetches end at a relay that may be in the middle. A path of
        // one hop needs no relay that is fit to be a guard.
        let positions: &[Position] = match self.rules.hops {
            1 => &[Position::Middle, Position::Exit],
            _ => &[Position::Entry, Position::Middle, Position::Exit],
        };
        let special = (0..self.special.len()).map(|rule| (Position::Exit, Some(rule)));
        for (position, rule) in positions.iter().map(|at| (*at, None)).chain(special) {
            let fit = self.fit(position, false);
            let fit = fit.map(|n| &self.consensus.entries()[n]);
            if let Some(error) = self.rules.blame(position, rule, ExitTarget::Any, fit) {
                return Err(error);
            }
        }
        Ok(())
    }

    /// The relays with the flags of a position, whatever the owner's lists say.
    fn fit(&self, position: Position, stable: bool) -> impl Iterator<Item = usize> {
        let needed = if stable { Flags::STABLE } else { Flags::NONE };
        let entries = self.consensus.entries().iter().enumerate();
        let fit = entries.filter(move |(_, entry)| {
            entry.flags.contains(needed) && has_flags(&self.weights, position, entry)
        });
        fit.map(|(n, _)| n)
    }

    /// The consensus that paths are chosen from.
    pub fn consensus(&self) -> &Arc<Consensus> {
        &self.consensus
    }

    /// How much relays count at which position.
    pub fn weights(&self) -> &PositionWeights {
        &self.weights
    }

    /// May both relays be in one path (6.16.1)? A relay that the consensus does not list may be in none.
    pub fn may_share_path(&self, one: &RelayId, other: &RelayId) -> bool {
        let (Some(one), Some(other)) = (self.index(one), self.index(other)) else {
            return false;
        };
        one != other && !self.apart.share_family(one, other) && !self.apart.share_subnet(one, other)
    }

    /// Are over [`NEAR_PERCENT`] of the last hops for a target, by their weight, such that may not be in one path with
    /// this relay? `rule` is the owner's for the destination.
    pub fn is_near_many(&self, relay: &RelayId, target: ExitTarget, rule: Option<usize>) -> bool {
        let position = match target {
            ExitTarget::Any => Position::Middle,
            _ => Position::Exit,
        };
        let (mut near, mut all) = (0u128, 0u128);
        for n in self.fit(position, false) {
            let entry = &self.consensus.entries()[n];
            if !target.is_allowed_by(entry) || !self.marks.permits(position, rule, n) {
                continue;
            }
            let weight = u64::from(entry.weight) * self.weights.share(position, entry.flags);
            let weight = u128::from(self.marks.weighted(position, rule, n, weight));
            all += weight;
            if !self.may_share_path(relay, &entry.identity) {
                near += weight;
            }
        }
        near * 100 > all * NEAR_PERCENT
    }

    fn index(&self, relay: &RelayId) -> Option<usize> {
        let entries = self.consensus.entries();
        entries
            .binary_search_by(|entry| entry.identity.cmp(relay))
            .ok()
    }

    fn table(&self, position: Position, rule: Option<usize>, stable: bool) -> &Table {
        let special = rule.filter(|_| position == Position::Exit);
        if let Some(tables) = special.and_then(|rule| self.special.get(rule)) {
            return &tables[usize::from(stable)];
        }
        let [entry, middle, exit] = &self.tables;
        let of_position = match position {
            Position::Entry => entry,
            Position::Middle => middle,
            Position::Exit => exit,
        };
        &of_position[usize::from(stable)]
    }

    /// Chooses a path: the exit first, because fewest relays fit there, then the entry, then the relays between.
    ///
    /// # Errors
    /// [`PathError`] says which rule left no relay.
    pub fn choose(
        &self,
        rng: &mut impl CryptoRng,
        request: &PathRequest<'_>,
    ) -> Result<Path, PathError> {
        if !(1..=MAX_HOPS).contains(&request.hops) {
            return Err(PathError::Hops(request.hops));
        }
        if request.stable
            && let Ok(path) = self.choose_of(rng, request, true)
        {
            return Ok(path);
        }
        // A path that may not last is better than none (6.16.8).
        self.choose_of(rng, request, false)
    }

    fn choose_of(
        &self,
        rng: &mut impl CryptoRng,
        request: &PathRequest<'_>,
        stable: bool,
    ) -> Result<Path, PathError> {
        let mut result = self.attempt(rng, request, stable);
        for _ in 1..EXITS_TRIED {
            if result.is_ok() {
                break;
            }
            result = self.attempt(rng, request, stable);
        }
        result
    }

    fn attempt(
        &self,
        rng: &mut impl CryptoRng,
        request: &PathRequest<'_>,
        stable: bool,
    ) -> Result<Path, PathError> {
        let mut choice = Choice {
            selector: self,
            request,
            stable,
            taken: Vec::with_capacity(request.hops),
        };
        let first = request
            .first
            .map(|first| choice.first(&first))
            .transpose()?;
        if request.hops == 1 && first.is_some() {
            return Ok(self.path(choice.taken));
        }
        let exit = match request.last {
            Some(last) => choice.last(&last)?,
            None => choice.take(rng, Position::Exit)?,
        };
        let mut hops = Vec::with_capacity(request.hops);
        if request.hops > 1 {
            hops.push(match (first, request.guard) {
                (Some(first), _) => first,
                (None, Some(guard)) => choice.guard(guard, exit)?,
                (None, None) => choice.take_entry(rng)?,
            });
        }
        while hops.len() + 1 < request.hops {
            hops.push(choice.take(rng, Position::Middle)?);
        }
        hops.push(exit);
        Ok(self.path(hops))
    }

    fn path(&self, hops: Vec<usize>) -> Path {
        Path {
            consensus: Arc::clone(&self.consensus),
            hops,
        }
    }
}

/// Does a relay have the flags that a position asks for?
fn has_flags(weights: &PositionWeights, position: Position, entry: &Entry) -> bool {
    match position {
        Position::Entry => weights.is_entry(entry),
        Position::Middle => runs(entry),
        Position::Exit => runs(entry) && entry.flags.contains(Flags::EXIT),
    }
}

/// One path in the making.
struct Choice<'a> {
    selector: &'a PathSelector,
    request: &'a PathRequest<'a>,
    stable: bool,
    taken: Vec<usize>,
}

impl Choice<'_> {
    fn entry(&self, n: usize) -> &Entry {
        &self.selector.consensus.entries()[n]
    }

    fn first(&mut self, first: &RelayId) -> Result<usize, PathError> {
        let found = self.selector.index(first);
        let n = found
            .filter(|n| runs(self.entry(*n)) && !(self.request.exclude)(first))
            .ok_or(PathError::First)?;
        self.taken.push(n);
        Ok(n)
    }

    fn last(&mut self, last: &RelayId) -> Result<usize, PathError> {
        let found = self.selector.index(last);
        let n = found.filter(|n| runs(self.entry(*n)));
        let n = n.ok_or(PathError::NoRelay {
            position: Position::Exit,
            rule: Rule::Flags,
        })?;
        self.taken.push(n);
        Ok(n)
    }

    /// The guard that the caller keeps for this exit. The caller applies the owner's lists for guards; the rules of
    /// paths are applied here.
    fn guard(&mut self, guard: &GuardFor<'_>, exit: usize) -> Result<usize, PathError> {
        let apart = [Rule::Owner, Rule::Repeat, Rule::Family, Rule::Subnet];
        let n = guard(self.entry(exit))
            .and_then(|guard| self.selector.index(&guard))
            .filter(|n| runs(self.entry(*n)))
            .filter(|n| {
                apart
                    .iter()
                    .all(|rule| self.keeps(*rule, *n, Position::Entry))
            })
            .ok_or_else(|| self.no_guard())?;
        self.taken.push(n);
        Ok(n)
    }

    /// Says why there is no guard: a list of the owner leaves none, or no exit that was tried fits one.
    fn no_guard(&self) -> PathError {
        let fit: Vec<usize> = self.selector.fit(Position::Entry, false).collect();
        self.blame(Position::Entry, &fit)
            .map_or(PathError::NoGuard, PathError::Rule)
    }

    fn blame(&self, position: Position, relays: &[usize]) -> Option<RuleError> {
        let (rules, request) = (&self.selector.rules, self.request);
        let relays = relays.iter().map(|n| self.entry(*n));
        rules.blame(position, request.rule, request.target, relays)
    }

    /// Takes a relay that is fit to be a guard, and any other relay only if none of those fits.
    fn take_entry(&mut self, rng: &mut impl CryptoRng) -> Result<usize, PathError> {
        self.take(rng, Position::Entry).or_else(|error| {
            if matches!(error, PathError::Rule(_)) {
                return Err(error);
            }
            let n = self.take_among_fitting(rng, Position::Entry, Position::Middle, false)?;
            self.taken.push(n);
            Ok(n)
        })
    }

    /// The position whose lists hold. A last hop that lets nothing out keeps to the lists for middle relays.
    fn listed(&self, position: Position) -> Position {
        match position {
            Position::Exit if self.request.target == ExitTarget::Any => Position::Middle,
            position => position,
        }
    }

    fn take(&mut self, rng: &mut impl CryptoRng, position: Position) -> Result<usize, PathError> {
        // A last hop that lets nothing out is chosen like a middle relay.
        let flags = self.listed(position);
        // First hops need not have Stable: they are few and long-lived anyway (6.16.8).
        let stable = self.stable && position != Position::Entry;
        let table = self.selector.table(flags, self.request.rule, stable);
        // Drawing again until a relay fits gives the same distribution as drawing among those that fit.
        let draw = (0..DRAWS)
            .filter_map(|_| table.draw(rng))
            .find(|n| RULES.iter().all(|rule| self.keeps(*rule, *n, position)));
        let chosen = match draw {
            Some(n) => n,
            None => self.take_among_fitting(rng, position, flags, stable)?,
        };
        self.taken.push(chosen);
        Ok(chosen)
    }

    fn take_among_fitting(
        &self,
        rng: &mut impl CryptoRng,
        position: Position,
        weighted_as: Position,
        stable: bool,
    ) -> Result<usize, PathError> {
        let mut left: Vec<usize> = self.selector.fit(weighted_as, stable).collect();
        for rule in RULES {
            let before = (rule == Rule::Owner).then(|| left.clone());
            left.retain(|n| self.keeps(rule, *n, position));
            if left.is_empty() {
                let mut lists = [self.listed(position), Position::Entry].into_iter();
                let blamed = before.and_then(|fit| lists.find_map(|at| self.blame(at, &fit)));
                return Err(blamed.map_or(PathError::NoRelay { position, rule }, PathError::Rule));
            }
        }
        let share = |entry: &Entry| self.selector.weights.share(weighted_as, entry.flags);
        let marks = &self.selector.marks;
        let preferring = |n: &usize, weight: u64| {
            let listed = self.listed(position);
            (*n, marks.weighted(listed, self.request.rule, *n, weight))
        };
        let plain_weight = |n: &usize| u64::from(self.entry(*n).weight);
        let weighted = |n: &usize| preferring(n, plain_weight(n) * share(self.entry(*n)));
        let plain = |n: &usize| preferring(n, plain_weight(n));
        // If only relays are left whose weight is kept for another position, they serve here too (6.16.6).
        Table::new(left.iter().map(weighted))
            .draw(rng)
            .or_else(|| Table::new(left.iter().map(plain)).draw(rng))
            .ok_or(PathError::NoRelay {
                position,
                rule: Rule::Weight,
            })
    }

    fn keeps(&self, rule: Rule, n: usize, position: Position) -> bool {
        let entry = self.entry(n);
        let apart = &self.selector.apart;
        let mut taken = self.taken.iter();
        match rule {
            // The table holds only relays with the flags.
            Rule::Flags => true,
            Rule::Policy => position != Position::Exit || self.request.target.is_allowed_by(entry),
            Rule::Owner => {
                let marks = &self.selector.marks;
                // The only hop of a path is its first hop as well.
                marks.permits(self.listed(position), self.request.rule, n)
                    && (self.request.hops > 1 || marks.permits(Position::Entry, None, n))
            }
            Rule::Excluded => !(self.request.exclude)(&entry.identity),
            Rule::Repeat => !self.taken.contains(&n),
            Rule::Family => !taken.any(|other| apart.share_family(*other, n)),
            Rule::Subnet => !taken.any(|other| apart.share_subnet(*other, n)),
            Rule::Weight => entry.weight > 0,
        }
    }
}

/// Does one relay have an address in a /16 (IPv4) or /32 (IPv6) of the other relay?
#[cfg(test)]
fn share_subnet(one: &Entry, other: &Entry) -> bool {
    super::nets(one).any(|net| super::nets(other).any(|near| near == net))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
#[path = "select_tests.rs"]
mod tests;
