//! What the owner decides about paths: lists for each position and for destinations, hops, guards (docs/protocol.md,
//! 6.16.9 to 6.16.13). [`Marks`] says once for each consensus which relay may stand where.

use core::str::FromStr;

use cepa_common::dir::{Consensus, Entry, IpVersion};
use cepa_common::stream::StreamTarget;

use super::geoip::{Country, GeoIp};
use super::peers::{DestinationSet, PeerSet, PeerSyntax};
use super::request::{DEFAULT_HOPS, ExitTarget, Position};

/// Factor by which a preferred relay's weight counts more (6.16.11).
pub const PREFERENCE: u64 = 8;
/// The most hops that an owner may ask for.
pub const MOST_HOPS: u8 = 5;
/// The most guards in use that an owner may ask for.
pub const MOST_GUARDS: u8 = 10;
/// The most rules for destinations. Rules are few because each has tables of its own.
pub const MOST_DESTINATIONS: usize = 32;

/// Which relays may stand at a position. A relay that `avoid` names may not, whatever `only` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerLists {
    /// If this list is not empty, only these relays may stand there.
    pub only: Vec<PeerSet>,
    /// The weights of these relays count [`PREFERENCE`] times as much.
    pub prefer: Vec<PeerSet>,
    /// These relays may not stand there.
    pub avoid: Vec<PeerSet>,
}

/// What being in one of the lists of [`PeerLists`] means for a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListKind {
    /// If this list is not empty, only its relays may stand at the position.
    Only,
    /// The list's relays are chosen more often ([`PREFERENCE`]).
    Prefer,
    /// The list's relays may not stand at the position.
    Avoid,
}

impl ListKind {
    /// All kinds of lists.
    pub const ALL: [Self; 3] = [Self::Only, Self::Prefer, Self::Avoid];

    /// The word for the kind in names of settings and in rules for destinations: `only`, `prefer` or `avoid`.
    pub fn key(self) -> &'static str {
        match self {
            Self::Only => "only",
            Self::Prefer => "prefer",
            Self::Avoid => "avoid",
        }
    }
}

impl PeerLists {
    /// The list of this kind.
    pub fn list(&self, kind: ListKind) -> &[PeerSet] {
        match kind {
            ListKind::Only => &self.only,
            ListKind::Prefer => &self.prefer,
            ListKind::Avoid => &self.avoid,
        }
    }

    /// The list of this kind, to add to it.
    pub fn list_mut(&mut self, kind: ListKind) -> &mut Vec<PeerSet> {
        match kind {
            ListKind::Only => &mut self.only,
            ListKind::Prefer => &mut self.prefer,
            ListKind::Avoid => &mut self.avoid,
        }
    }

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

/// Which exits serve some destinations. The owner's lists for all exits hold too.
///
/// A rule is written `DESTINATION[,DESTINATION...] only|prefer|avoid PEER ...`, as in `.example.com:443 only country:de
/// country:ch avoid 192.0.2.0/24`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationRule {
    /// The destinations that the rule is for. The first rule with a destination that fits counts.
    pub destinations: Vec<DestinationSet>,
    /// The exits that may serve the destinations.
    pub exits: PeerLists,
}

impl FromStr for DestinationRule {
    type Err = PeerSyntax;

    fn from_str(text: &str) -> Result<Self, PeerSyntax> {
        let mut words = text.split_whitespace();
        let destinations = words.next().unwrap_or_default().split(',');
        let destinations = destinations.map(str::parse).collect::<Result<_, _>>()?;
        let mut exits = PeerLists::default();
        let mut list: Option<&mut Vec<PeerSet>> = None;
        for word in words {
            if let Some(kind) = ListKind::ALL.into_iter().find(|kind| kind.key() == word) {
                list = Some(exits.list_mut(kind));
                continue;
            }
            match &mut list {
                Some(list) => list.push(word.parse()?),
                None => return Err(PeerSyntax::Rule(text.to_owned())),
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

/// What the owner decides about paths.
#[derive(Clone, Debug)]
pub struct PeerRules {
    /// Lists for first hops, guards included.
    pub entry: PeerLists,
    /// Lists for relays between the first and the last hop, and for the last hop of a path to no destination.
    pub middle: PeerLists,
    /// Lists for exits.
    pub exit: PeerLists,
    /// Rules for exits to some destinations, at most [`MOST_DESTINATIONS`].
    pub destinations: Vec<DestinationRule>,
    /// Number of relays in a path, 1 to [`MOST_HOPS`].
    pub hops: u8,
    /// Number of guards in use at a time, 1 to [`MOST_GUARDS`]; `None` for the network's number.
    pub guards: Option<u8>,
    /// The countries of addresses. Rules that name countries need this file.
    pub geoip: Option<GeoIp>,
}

impl Default for PeerRules {
    fn default() -> Self {
        let none = PeerLists::default;
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

/// Why the owner's rules cannot be kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// A list leaves no relay.
    #[error("{key} = [{list}] leaves none of the {before} {of}")]
    Empty {
        /// The configuration's name of the list.
        key: String,
        /// The first words of the list.
        list: String,
        /// How many relays there were before the list was applied.
        before: usize,
        /// What the relays were, such as "exits for port 443".
        of: String,
    },
    /// A list names a country, and there is no file that says where addresses are.
    #[error("{key} names country:{country}, and there is no client.geoip to say where relays are")]
    NoGeoIp {
        /// The configuration's name of the list.
        key: String,
        /// The country.
        country: Country,
    },
    /// The owner asks for a number of hops that is not offered.
    #[error("client.hops is 1 to {MOST_HOPS}, not {0}")]
    Hops(u8),
    /// The owner asks for a number of guards that is not offered.
    #[error("client.guards is 1 to {MOST_GUARDS}, not {0}")]
    Guards(u8),
    /// The owner has too many rules for destinations.
    #[error("client.destinations has at most {MOST_DESTINATIONS} rules, not {0}")]
    Destinations(usize),
}

impl PeerRules {
    /// Checks that the rules make sense, whatever relays the network has.
    ///
    /// # Errors
    /// [`RuleError`] names the configuration's key.
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
        let lists = Position::ALL.map(|position| (key_of(position), self.at(position)));
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
    pub fn at(&self, position: Position) -> &PeerLists {
        match position {
            Position::Entry => &self.entry,
            Position::Middle => &self.middle,
            Position::Exit => &self.exit,
        }
    }

    /// The lists of a position, to change them.
    pub fn at_mut(&mut self, position: Position) -> &mut PeerLists {
        match position {
            Position::Entry => &mut self.entry,
            Position::Middle => &mut self.middle,
            Position::Exit => &mut self.exit,
        }
    }

    /// The number of the first rule that has this destination, if one has.
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

    /// May the relay stand at `position` of a path to the destinations of `rule`?
    pub fn permits(&self, position: Position, rule: Option<usize>, relay: &Entry) -> bool {
        let countries = self.countries(relay);
        self.lists(position, rule)
            .all(|(_, rules)| rules.permits(relay, &countries))
    }

    /// Is the relay preferred at `position`? `None` if the owner prefers no relay there.
    pub fn prefers(&self, position: Position, rule: Option<usize>, relay: &Entry) -> Option<bool> {
        let prefer = self.preferred(position, rule);
        (!prefer.is_empty()).then(|| holds(prefer, relay, &self.countries(relay)))
    }

    /// The list of preferred relays that counts: that of the destination's rule if there is one, otherwise that of the
    /// position.
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

    /// The lists that hold at a position, with their names in the configuration.
    fn lists(
        &self,
        position: Position,
        rule: Option<usize>,
    ) -> impl Iterator<Item = (String, &PeerLists)> {
        let special = self.special(position, rule).zip(rule);
        let special = special.map(|(special, n)| (key_of_destination(n), &special.exits));
        [(key_of(position), self.at(position))]
            .into_iter()
            .chain(special)
    }

    /// Finds the list that leaves none of `relays`, if there is one. `only` is applied before `avoid`.
    pub(super) fn blame<'a>(
        &self,
        position: Position,
        rule: Option<usize>,
        target: ExitTarget,
        relays: impl Iterator<Item = &'a Entry>,
    ) -> Option<RuleError> {
        let mut left: Vec<_> = relays.map(|r| (r, self.countries(r))).collect();
        for (key, rules) in self.lists(position, rule) {
            for kind in [ListKind::Only, ListKind::Avoid] {
                let (list, sets) = (kind.key(), rules.list(kind));
                let wanted = kind == ListKind::Only;
                if sets.is_empty() {
                    continue;
                }
                let before = left.len();
                left.retain(|(relay, countries)| holds(sets, relay, countries) == wanted);
                if left.is_empty() && before > 0 {
                    // A destination's rule is one string in a list; the other lists are keys of their own.
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
    format!("client.{}", position.key())
}

fn key_of_destination(n: usize) -> String {
    format!("client.destinations[{n}]")
}

/// The first of the sets as text, and how many more there are.
fn shown(sets: &[PeerSet]) -> String {
    const MOST: usize = 4;
    let first: Vec<String> = sets.iter().take(MOST).map(ToString::to_string).collect();
    let more = match sets.len().saturating_sub(MOST) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    first.join(", ") + &more
}

fn what(position: Position, target: ExitTarget) -> String {
    match (position, target) {
        (Position::Entry, _) => "relays fit for a first hop".to_owned(),
        (Position::Middle, _) => "relays fit for the middle".to_owned(),
        (Position::Exit, ExitTarget::Resolver | ExitTarget::Any) => "exits".to_owned(),
        (Position::Exit, ExitTarget::Name(port)) => format!("exits for port {port}"),
        (Position::Exit, ExitTarget::V4(port)) => format!("exits for port {port} of IPv4"),
        (Position::Exit, ExitTarget::V6(port)) => format!("exits for port {port} of IPv6"),
        (Position::Exit, ExitTarget::Udp { version, port }) => {
            let of = match version {
                Some(IpVersion::V4) => " of IPv4",
                Some(IpVersion::V6) => " of IPv6",
                None => "",
            };
            format!("exits for datagrams to port {port}{of}")
        }
    }
}

/// What the rules say about each relay of a consensus.
#[derive(Debug)]
pub(super) struct Marks {
    /// For each relay, bits for entry, middle and exit: the relay may stand there (1, 2, 4), it is preferred there (16,
    /// 32, 64).
    relays: Vec<u8>,
    /// For each rule and relay, the same bits, for the exit.
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

    /// A relay's weight at a position, with the owner's preference counted in.
    pub(super) fn weighted(
        &self,
        position: Position,
        rule: Option<usize>,
        n: usize,
        weight: u64,
    ) -> u64 {
        // No weight may exceed 2^48, because a table adds up to 20,000 of them. A preferred relay would need a
        // bandwidth of 512 GiB a second for that.
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
