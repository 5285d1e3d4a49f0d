//! Weighted choice of a path under the rules that keep its relays apart.

use core::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use cepa_common::dir::{Consensus, Entry, Flags};
use cepa_common::ids::RelayId;
use rand::{CryptoRng, RngExt};

/// Hops of a circuit when nobody says otherwise.
pub const DEFAULT_HOPS: usize = 3;
/// The header has seven slots: six relays (design of chapter 4).
const MAX_HOPS: usize = 6;
/// Draws before all candidates are gone through; on a large network the first draw or two fit.
const DRAWS: usize = 16;
/// Exits tried before a path is given up: the first may stand in the way of every entry.
const EXITS_TRIED: usize = 8;

/// What the exit must let out to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A name, which the exit resolves, and a port.
    Name(u16),
    /// An IPv4 address and this port.
    V4(u16),
    /// An IPv6 address and this port.
    V6(u16),
    /// Nothing: the last hop need not be an exit.
    Any,
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Self {
        match address.ip() {
            IpAddr::V4(_) => Self::V4(address.port()),
            IpAddr::V6(_) => Self::V6(address.port()),
        }
    }
}

impl Target {
    /// Does the exit policy of `entry` let out to it?
    pub fn is_allowed_by(self, entry: &Entry) -> bool {
        match self {
            Self::Name(port) => entry.policy.allows_port(port),
            Self::V4(port) => entry.policy.allows_v4(port),
            Self::V6(port) => entry.policy.allows_v6(port),
            Self::Any => true,
        }
    }
}

/// What a path is for.
#[derive(Clone, Copy)]
pub struct PathRequest<'a> {
    /// What its last hop must let out to.
    pub target: Target,
    /// How many relays, 1 to 6.
    pub hops: usize,
    /// The first relay, when the caller keeps one.
    pub first: Option<RelayId>,
    /// Relays that must not be in it.
    pub exclude: &'a dyn Fn(&RelayId) -> bool,
}

impl PathRequest<'_> {
    /// A path of three relays to `target`, nobody excluded.
    pub fn new(target: Target) -> Self {
        Self {
            target,
            hops: DEFAULT_HOPS,
            first: None,
            exclude: &|_| false,
        }
    }
}

impl fmt::Debug for PathRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PathRequest")
            .field("hops", &self.hops)
            .finish_non_exhaustive()
    }
}

/// A place in a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// The first hop.
    Entry,
    /// Between first and last.
    Middle,
    /// The last hop.
    Exit,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Entry => "first hop",
            Self::Middle => "middle hop",
            Self::Exit => "exit",
        })
    }
}

/// A rule that a relay in a path must keep, in the order in which they are applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// It is running and has the flags of its position.
    Flags,
    /// Its exit policy lets out to the target.
    Policy,
    /// The caller does not exclude it.
    Excluded,
    /// It is not in the path yet.
    Repeat,
    /// No other relay of its family is in the path.
    Family,
    /// No other relay of its /16 or /32 is in the path.
    Subnet,
    /// Its weight is not zero.
    Weight,
}

/// The rules in order.
const RULES: [Rule; 7] = [
    Rule::Flags,
    Rule::Policy,
    Rule::Excluded,
    Rule::Repeat,
    Rule::Family,
    Rule::Subnet,
    Rule::Weight,
];

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flags => "the consensus lists none that runs and is fit for it",
            Self::Policy => "no exit lets out to the target's port",
            Self::Excluded => "all are excluded",
            Self::Repeat => "all are in the path already",
            Self::Family => "all are of one family with a relay in the path",
            Self::Subnet => "all share a network with a relay in the path",
            Self::Weight => "all have weight zero",
        })
    }
}

/// Why there is no path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// After this rule no relay was left for this position.
    #[error("no relay for the {position}: {rule}")]
    NoRelay {
        /// The position.
        position: Position,
        /// The rule that left none.
        rule: Rule,
    },
    /// The first relay asked for is not in the consensus, not running, or excluded.
    #[error("the first relay asked for cannot be used")]
    First,
    /// Not 1 to 6 hops.
    #[error("a path has 1 to 6 hops, not {0}")]
    Hops(usize),
}

/// Relays of a circuit in order, of one consensus.
#[derive(Clone, Debug)]
pub struct Path {
    consensus: Arc<Consensus>,
    hops: Vec<usize>,
}

impl Path {
    /// The relays, the first hop first.
    pub fn hops(&self) -> impl DoubleEndedIterator<Item = &Entry> + ExactSizeIterator {
        self.hops.iter().map(|n| &self.consensus.entries()[*n])
    }

    /// The consensus that the path is of.
    pub fn consensus(&self) -> &Arc<Consensus> {
        &self.consensus
    }
}

/// Candidates of one position with running sums of their weights.
#[derive(Debug, Default)]
struct Table {
    /// Index into the consensus, and the sum of the weights up to and with this one.
    sums: Vec<(usize, u64)>,
}

impl Table {
    fn new(consensus: &Consensus, fits: impl Fn(&Entry) -> bool) -> Self {
        let mut sum = 0u64;
        let candidates = consensus
            .entries()
            .iter()
            .enumerate()
            .filter(|(_, entry)| fits(entry));
        let sums = candidates.map(|(n, entry)| {
            sum += u64::from(entry.weight);
            (n, sum)
        });
        Self {
            sums: sums.collect(),
        }
    }

    fn draw(&self, rng: &mut impl CryptoRng) -> Option<usize> {
        let total = self
            .sums
            .last()
            .map(|(_, sum)| *sum)
            .filter(|total| *total > 0)?;
        let point = rng.random_range(0..total);
        let at = self.sums.partition_point(|(_, sum)| *sum <= point);
        self.sums.get(at).map(|(n, _)| *n)
    }
}

/// Chooses paths from one consensus; made once for it, used for many.
#[derive(Debug)]
pub struct PathSelector {
    consensus: Arc<Consensus>,
    all: Table,
    entries: Table,
    exits: Table,
}

impl PathSelector {
    /// Prepares the tables of a consensus.
    pub fn new(consensus: Arc<Consensus>) -> Self {
        let runs = |entry: &Entry| entry.flags.contains(Flags::VALID | Flags::RUNNING);
        Self {
            all: Table::new(&consensus, runs),
            entries: Table::new(&consensus, |e| runs(e) && e.flags.contains(Flags::GUARD)),
            exits: Table::new(&consensus, |e| runs(e) && e.flags.contains(Flags::EXIT)),
            consensus,
        }
    }

    /// The consensus that paths are chosen from.
    pub fn consensus(&self) -> &Arc<Consensus> {
        &self.consensus
    }

    /// Chooses a path: the exit first, as fewest fit, then the entry, then what is between.
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
        let mut result = self.attempt(rng, request);
        for _ in 1..EXITS_TRIED {
            if result.is_ok() {
                break;
            }
            result = self.attempt(rng, request);
        }
        result
    }

    fn attempt(
        &self,
        rng: &mut impl CryptoRng,
        request: &PathRequest<'_>,
    ) -> Result<Path, PathError> {
        let mut choice = Choice {
            selector: self,
            request,
            taken: Vec::new(),
        };
        let first = request
            .first
            .map(|first| choice.first(&first))
            .transpose()?;
        if request.hops == 1 && first.is_some() {
            return Ok(self.path(choice.taken));
        }
        let table = if request.target == Target::Any {
            &self.all
        } else {
            &self.exits
        };
        let exit = choice.take(rng, table, Position::Exit)?;
        let mut hops = Vec::with_capacity(request.hops);
        if request.hops > 1 {
            hops.push(match first {
                Some(first) => first,
                None => choice.take_entry(rng)?,
            });
        }
        while hops.len() + 1 < request.hops {
            hops.push(choice.take(rng, &self.all, Position::Middle)?);
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

/// One path in the making.
struct Choice<'a> {
    selector: &'a PathSelector,
    request: &'a PathRequest<'a>,
    taken: Vec<usize>,
}

impl Choice<'_> {
    fn entry(&self, n: usize) -> &Entry {
        &self.selector.consensus.entries()[n]
    }

    fn first(&mut self, first: &RelayId) -> Result<usize, PathError> {
        let position = |(n, _): &(usize, u64)| self.entry(*n).identity == *first;
        let found = self
            .selector
            .all
            .sums
            .iter()
            .find(|candidate| position(candidate));
        let (n, _) = *found
            .filter(|_| !(self.request.exclude)(first))
            .ok_or(PathError::First)?;
        self.taken.push(n);
        Ok(n)
    }

    /// Relays with the flag Guard, and any other only when none of them fits.
    fn take_entry(&mut self, rng: &mut impl CryptoRng) -> Result<usize, PathError> {
        let selector = self.selector;
        self.take(rng, &selector.entries, Position::Entry)
            .or_else(|_| self.take(rng, &selector.all, Position::Entry))
    }

    fn take(
        &mut self,
        rng: &mut impl CryptoRng,
        table: &Table,
        position: Position,
    ) -> Result<usize, PathError> {
        // Drawing again until one fits is the same distribution as drawing among those that fit.
        let draw = (0..DRAWS)
            .filter_map(|_| table.draw(rng))
            .find(|n| RULES.iter().all(|rule| self.keeps(*rule, *n, position)));
        let chosen = match draw {
            Some(n) => n,
            None => self.take_among_fitting(rng, table, position)?,
        };
        self.taken.push(chosen);
        Ok(chosen)
    }

    fn take_among_fitting(
        &self,
        rng: &mut impl CryptoRng,
        table: &Table,
        position: Position,
    ) -> Result<usize, PathError> {
        let mut left: Vec<usize> = table.sums.iter().map(|(n, _)| *n).collect();
        for rule in RULES {
            left.retain(|n| self.keeps(rule, *n, position));
            if left.is_empty() {
                return Err(PathError::NoRelay { position, rule });
            }
        }
        let mut fitting = Table::default();
        let mut sum = 0u64;
        for n in left {
            sum += u64::from(self.entry(n).weight);
            fitting.sums.push((n, sum));
        }
        fitting.draw(rng).ok_or(PathError::NoRelay {
            position,
            rule: Rule::Weight,
        })
    }

    fn keeps(&self, rule: Rule, n: usize, position: Position) -> bool {
        let entry = self.entry(n);
        let mut others = self.taken.iter().map(|taken| self.entry(*taken));
        match rule {
            // The table saw to it.
            Rule::Flags => true,
            Rule::Policy => position != Position::Exit || self.request.target.is_allowed_by(entry),
            Rule::Excluded => !(self.request.exclude)(&entry.identity),
            Rule::Repeat => !self.taken.contains(&n),
            Rule::Family => {
                entry.family.is_none() || others.all(|other| other.family != entry.family)
            }
            Rule::Subnet => {
                self.selector.consensus.params().subnet_rule == 0
                    || others.all(|other| !share_subnet(other, entry))
            }
            Rule::Weight => entry.weight > 0,
        }
    }
}

/// Has one relay an address in a /16 (IPv4) or /32 (IPv6) of the other's?
fn share_subnet(one: &Entry, other: &Entry) -> bool {
    let near = |a: &SocketAddr, b: &SocketAddr| match (a.ip(), b.ip()) {
        (IpAddr::V4(a), IpAddr::V4(b)) => a.octets()[..2] == b.octets()[..2],
        (IpAddr::V6(a), IpAddr::V6(b)) => a.octets()[..4] == b.octets()[..4],
        _ => false,
    };
    one.addresses
        .iter()
        .any(|a| other.addresses.iter().any(|b| near(a, b)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
#[path = "select_tests.rs"]
mod tests;
