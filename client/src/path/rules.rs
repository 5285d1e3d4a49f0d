//! What the owner decides of paths: lists for each position and for destinations, hops, guards (docs/protocol.md,
//! 6.16.9 to 6.16.13). [`Marks`] says once for each consensus which relay may stand where.

use core::str::FromStr;

use cepa_common::dir::{Consensus, Entry};
use cepa_common::stream::Target as StreamTarget;

use super::geoip::{Country, GeoIp};
use super::peers::{DestinationSet, PeerSet, PeerSyntax};
use super::select::{DEFAULT_HOPS, Position, Target};

/// By how much a preferred relay's weight counts more (6.16.11).
pub const PREFERENCE: u64 = 8;
/// Most hops that an owner may ask for.
pub const MOST_HOPS: u8 = 5;
/// Most guards in use that an owner may ask for.
pub const MOST_GUARDS: u8 = 10;
/// Rules for destinations: each has tables of its own.
pub const MOST_DESTINATIONS: usize = 32;

/// Which relays may stand at a position. A relay that `avoid` names may not, whatever `only` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PositionRules {
    /// If there are any: only these.
    pub only: Vec<PeerSet>,
    /// These count [`PREFERENCE`] times as much.
    pub prefer: Vec<PeerSet>,
    /// Not these.
    pub avoid: Vec<PeerSet>,
}

impl PositionRules {
    fn in_only(&self, relay: &Entry, countries: &[Country]) -> bool {
        self.only.is_empty() || holds(&self.only, relay, countries)
    }

    fn permits(&self, relay: &Entry, countries: &[Country]) -> bool {
        self.in_only(relay, countries) && !holds(&self.avoid, relay, countries)
    }

    fn sets(&self) -> impl Iterator<Item = &PeerSet> {
        self.only.iter().chain(&self.prefer).chain(&self.avoid)
    }

    fn is_empty(&self) -> bool {
        self.sets().next().is_none()
    }
}

fn holds(sets: &[PeerSet], relay: &Entry, countries: &[Country]) -> bool {
    sets.iter().any(|set| set.contains(relay, countries))
}

/// Which exits serve some destinations; the lists for exits hold besides.
///
/// Written `DESTINATION[,DESTINATION...] only|prefer|avoid PEER ...`, as in
/// `.example.com:443 only country:de country:ch avoid 192.0.2.0/24`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationRule {
    /// For which; the first rule with a fitting one counts.
    pub destinations: Vec<DestinationSet>,
    /// Which exits.
    pub exits: PositionRules,
}

impl FromStr for DestinationRule {
    type Err = PeerSyntax;

    fn from_str(text: &str) -> Result<Self, PeerSyntax> {
        let mut words = text.split_whitespace();
        let destinations = words.next().unwrap_or_default().split(',');
        let destinations = destinations.map(str::parse).collect::<Result<_, _>>()?;
        let mut exits = PositionRules::default();
        let mut list: Option<&mut Vec<PeerSet>> = None;
        for word in words {
            match (word, &mut list) {
                ("only", _) => list = Some(&mut exits.only),
                ("prefer", _) => list = Some(&mut exits.prefer),
                ("avoid", _) => list = Some(&mut exits.avoid),
                (peer, Some(list)) => list.push(peer.parse()?),
                (_, None) => return Err(PeerSyntax::Rule(text.to_owned())),
            }
        }
        if exits.is_empty() {
            return Err(PeerSyntax::Rule(text.to_owned()));
        }
        Ok(Self {
            destinations,
            exits,
        })
    }
}

/// What the owner decides of paths.
#[derive(Clone, Debug)]
pub struct PeerRules {
    /// For first hops, guards among them.
    pub entry: PositionRules,
    /// For what stands between first and last, and for the last hop of a path to no destination.
    pub middle: PositionRules,
    /// For exits.
    pub exit: PositionRules,
    /// For exits to some destinations, at most [`MOST_DESTINATIONS`].
    pub destinations: Vec<DestinationRule>,
    /// Relays in a path, 1 to [`MOST_HOPS`].
    pub hops: u8,
    /// Guards in use at a time, 1 to [`MOST_GUARDS`]; the network's number if `None`.
    pub guards: Option<u8>,
    /// Where addresses are; needed by rules that name countries.
    pub geoip: Option<GeoIp>,
}

impl Default for PeerRules {
    fn default() -> Self {
        let none = PositionRules::default;
        Self {
            entry: none(),
            middle: none(),
            exit: none(),
            destinations: Vec::new(),
            hops: DEFAULT_HOPS as u8,
            guards: None,
            geoip: None,
        }
    }
}

/// The owner's rules cannot be kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// A list leaves none.
    #[error("{key} = [{list}] leaves none of the {before} {of}")]
    Empty {
        /// The configuration's name of the list.
        key: String,
        /// What stands in it.
        list: String,
        /// How many there were without it.
        before: usize,
        /// Of what: "exits for port 443".
        of: String,
    },
    /// A country is named, and nothing says where addresses are.
    #[error("{key} names country:{country}, and there is no client.geoip to say where relays are")]
    NoGeoIp {
        /// The configuration's name of the list.
        key: String,
        /// The country.
        country: Country,
    },
    /// So many hops are not built.
    #[error("client.hops is 1 to {MOST_HOPS}, not {0}")]
    Hops(u8),
    /// So many guards are not kept.
    #[error("client.guards is 1 to {MOST_GUARDS}, not {0}")]
    Guards(u8),
    /// Too many rules for destinations.
    #[error("client.destinations has at most {MOST_DESTINATIONS} rules, not {0}")]
    Destinations(usize),
}

impl PeerRules {
    /// Do the rules make sense, whatever the network?
    ///
    /// # Errors
    /// [`RuleError`] names the key.
    pub fn check(&self) -> Result<(), RuleError> {
        if !(1..=MOST_HOPS).contains(&self.hops) {
            return Err(RuleError::Hops(self.hops));
        }
        if let Some(guards) = self.guards.filter(|n| !(1..=MOST_GUARDS).contains(n)) {
            return Err(RuleError::Guards(guards));
        }
        if self.destinations.len() > MOST_DESTINATIONS {
            return Err(RuleError::Destinations(self.destinations.len()));
        }
        let positions = [Position::Entry, Position::Middle, Position::Exit];
        let lists = positions.map(|position| (key_of(position), self.at(position)));
        let of_destinations = self.destinations.iter().enumerate();
        let of_destinations = of_destinations.map(|(n, rule)| (key_of_destination(n), &rule.exits));
        for (key, rules) in lists.into_iter().chain(of_destinations) {
            for set in rules.sets() {
                if let (PeerSet::Country(country), None) = (set, &self.geoip) {
                    return Err(RuleError::NoGeoIp {
                        key,
                        country: *country,
                    });
                }
            }
        }
        Ok(())
    }

    /// The lists of a position.
    pub fn at(&self, position: Position) -> &PositionRules {
        match position {
            Position::Entry => &self.entry,
            Position::Middle => &self.middle,
            Position::Exit => &self.exit,
        }
    }

    /// The first rule for this destination.
    pub fn rule_for(&self, target: &StreamTarget) -> Option<usize> {
        let StreamTarget::Host(host, port) = target else {
            return None;
        };
        self.destinations.iter().position(|rule| {
            let mut sets = rule.destinations.iter();
            sets.any(|set| set.contains(host, *port))
        })
    }

    fn countries(&self, relay: &Entry) -> Vec<Country> {
        let Some(geoip) = &self.geoip else {
            return Vec::new();
        };
        let addresses = relay.addresses.iter();
        addresses.filter_map(|at| geoip.country(at.ip())).collect()
    }

    /// May the relay stand there, on the way to what `rule` is for?
    pub fn permits(&self, position: Position, rule: Option<usize>, relay: &Entry) -> bool {
        let countries = self.countries(relay);
        self.lists(position, rule)
            .all(|(_, rules)| rules.permits(relay, &countries))
    }

    /// Is the relay preferred there? `None` where no relay is.
    pub fn prefers(&self, position: Position, rule: Option<usize>, relay: &Entry) -> Option<bool> {
        let prefer = self.preferred(position, rule);
        (!prefer.is_empty()).then(|| holds(prefer, relay, &self.countries(relay)))
    }

    /// The list of preferred relays that counts: a destination's before that of all exits.
    fn preferred(&self, position: Position, rule: Option<usize>) -> &[PeerSet] {
        let special = self.special(position, rule).map(|rule| &rule.exits.prefer);
        special
            .filter(|prefer| !prefer.is_empty())
            .unwrap_or(&self.at(position).prefer)
    }

    fn special(&self, position: Position, rule: Option<usize>) -> Option<&DestinationRule> {
        self.destinations
            .get(rule?)
            .filter(|_| position == Position::Exit)
    }

    /// The lists that hold at a position, with their keys.
    fn lists(
        &self,
        position: Position,
        rule: Option<usize>,
    ) -> impl Iterator<Item = (String, &PositionRules)> {
        let special = self.special(position, rule).zip(rule);
        let special = special.map(|(special, n)| (key_of_destination(n), &special.exits));
        [(key_of(position), self.at(position))]
            .into_iter()
            .chain(special)
    }

    /// Which list leaves none of `relays`, if one does: `only` is applied before `avoid`.
    pub(super) fn blame<'a>(
        &self,
        position: Position,
        rule: Option<usize>,
        target: Target,
        relays: impl Iterator<Item = &'a Entry>,
    ) -> Option<RuleError> {
        let mut left: Vec<_> = relays.map(|r| (r, self.countries(r))).collect();
        for (key, rules) in self.lists(position, rule) {
            for (list, sets, wanted) in
                [("only", &rules.only, true), ("avoid", &rules.avoid, false)]
            {
                if sets.is_empty() {
                    continue;
                }
                let before = left.len();
                left.retain(|(relay, countries)| holds(sets, relay, countries) == wanted);
                if left.is_empty() && before > 0 {
                    // A destination's rule is one string of a list, the others are keys of their own.
                    let key = if key.ends_with(']') {
                        format!("{key} {list}")
                    } else {
                        format!("{key}_{list}")
                    };
                    return Some(RuleError::Empty {
                        key,
                        list: shown(sets),
                        before,
                        of: what(position, target),
                    });
                }
            }
        }
        None
    }
}

fn key_of(position: Position) -> String {
    let name = match position {
        Position::Entry => "entry",
        Position::Middle => "middle",
        Position::Exit => "exit",
    };
    format!("client.{name}")
}

fn key_of_destination(n: usize) -> String {
    format!("client.destinations[{n}]")
}

/// The first of them, and how many more.
fn shown(sets: &[PeerSet]) -> String {
    const MOST: usize = 4;
    let first: Vec<String> = sets.iter().take(MOST).map(ToString::to_string).collect();
    let more = match sets.len().saturating_sub(MOST) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    first.join(", ") + &more
}

fn what(position: Position, target: Target) -> String {
    match (position, target) {
        (Position::Entry, _) => "relays fit for a first hop".to_owned(),
        (Position::Middle, _) => "relays fit for the middle".to_owned(),
        (Position::Exit, Target::Any) => "exits".to_owned(),
        (Position::Exit, Target::Name(port)) => format!("exits for port {port}"),
        (Position::Exit, Target::V4(port)) => format!("exits for port {port} of IPv4"),
        (Position::Exit, Target::V6(port)) => format!("exits for port {port} of IPv6"),
    }
}

/// What the rules say of each relay of a consensus.
#[derive(Debug)]
pub(super) struct Marks {
    /// By relay, for entry, middle and exit: may stand there (1, 2, 4), is preferred there (16, 32, 64).
    relays: Vec<u8>,
    /// By rule and relay, for the exit, as above.
    destinations: Vec<Vec<u8>>,
}

const PREFERRED: u8 = 4;

fn bit(position: Position) -> u8 {
    match position {
        Position::Entry => 1,
        Position::Middle => 2,
        Position::Exit => 4,
    }
}

impl Marks {
    pub(super) fn new(rules: &PeerRules, consensus: &Consensus) -> Self {
        let mark = |relay: &Entry, countries: &[Country], position, rule| {
            let mut lists = rules.lists(position, rule);
            let mut mark = 0;
            if lists.all(|(_, list)| list.permits(relay, countries)) {
                mark |= bit(position);
            }
            if holds(rules.preferred(position, rule), relay, countries) {
                mark |= bit(position) << PREFERRED;
            }
            mark
        };
        let entries = consensus.entries();
        let mut marks = Self {
            relays: Vec::with_capacity(entries.len()),
            destinations: vec![Vec::with_capacity(entries.len()); rules.destinations.len()],
        };
        for relay in entries {
            let countries = rules.countries(relay);
            let at = |position| mark(relay, &countries, position, None);
            marks
                .relays
                .push(at(Position::Entry) | at(Position::Middle) | at(Position::Exit));
            for (n, of_rule) in marks.destinations.iter_mut().enumerate() {
                of_rule.push(mark(relay, &countries, Position::Exit, Some(n)));
            }
        }
        marks
    }

    fn of(&self, position: Position, rule: Option<usize>, n: usize) -> u8 {
        let special = rule.filter(|_| position == Position::Exit);
        match special.and_then(|rule| self.destinations.get(rule)) {
            Some(of_rule) => of_rule[n],
            None => self.relays[n],
        }
    }

    pub(super) fn permits(&self, position: Position, rule: Option<usize>, n: usize) -> bool {
        self.of(position, rule, n) & bit(position) != 0
    }

    /// A relay's weight with what the owner prefers counted in.
    pub(super) fn weighted(
        &self,
        position: Position,
        rule: Option<usize>,
        n: usize,
        weight: u64,
    ) -> u64 {
        // A table adds up to 20,000 weights, so that none may pass 2^48. Of a preferred one that takes 512 GiB a second.
        const MOST: u64 = 1 << 48;
        if self.of(position, rule, n) & (bit(position) << PREFERRED) != 0 {
            weight.saturating_mul(PREFERENCE).min(MOST)
        } else {
            weight
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
#[path = "rules_tests.rs"]
mod tests;
