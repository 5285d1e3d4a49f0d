//! What a run is made of, as people write it: a file of TOML in which no unknown word is let pass.

use std::collections::BTreeMap;

use cepa_client::circuit::Multipath;
use cepa_common::onion::Suite;
use serde::{Deserialize, Serialize};

use crate::seed::Seed;
use crate::units::{Rate, Span};

/// A scenario. [`crate::plan::Plan`] is what a seed makes of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What the scenario is for, in a sentence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub about: String,
    /// The seed of exactly one run, in a scenario that was shrunk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<Seed>,
    /// How long load and faults go on.
    pub lasts: Span,
    /// The suite of every relay's onion layer.
    #[serde(default)]
    pub suite: SuiteName,
    /// Parameters of the network in place of a simulated network's usual ones.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub params: BTreeMap<String, u32>,
    /// How long each way takes; without it, as the places of hosts say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ways: Option<Ways>,
    /// Directory authorities.
    pub authorities: Authorities,
    /// Relays, exits included.
    pub relays: Relays,
    /// Clients.
    pub clients: Clients,
    /// Number of hosts that streams go to.
    #[serde(default = "servers")]
    pub servers: u32,
    /// What goes wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fault: Vec<Fault>,
    /// Nodes that are left out, by their names. Shrinking writes this: the numbers of the other nodes stay.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub without: Vec<String>,
}

fn servers() -> u32 {
    2
}

/// A suite by the name that settings have for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SuiteName {
    /// AES-256-GCM.
    #[default]
    #[serde(rename = "aes-256-gcm")]
    Aes256Gcm,
    /// ChaCha20-Poly1305.
    #[serde(rename = "chacha20-poly1305")]
    ChaCha20Poly1305,
}

impl From<SuiteName> for Suite {
    fn from(name: SuiteName) -> Self {
        match name {
            SuiteName::Aes256Gcm => Self::Aes256Gcm,
            SuiteName::ChaCha20Poly1305 => Self::ChaCha20Poly1305,
        }
    }
}

/// How long ways take, one way, whatever places hosts are at. Each run draws once.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ways {
    /// Between two nodes.
    pub nodes: Span,
    /// Between a node and a host that streams go to.
    pub servers: Span,
}

/// When circuits of simulated clients get a second leg.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MultipathName {
    /// Never.
    Never,
    /// When they carry bulk.
    #[default]
    Bulk,
    /// As soon as they carry a stream.
    Always,
}

impl From<MultipathName> for Multipath {
    fn from(name: MultipathName) -> Self {
        match name {
            MultipathName::Never => Self::Never,
            MultipathName::Bulk => Self::Bulk,
            MultipathName::Always => Self::Always,
        }
    }
}

fn is_bulk(name: &MultipathName) -> bool {
    *name == MultipathName::Bulk
}

/// The authorities of a scenario.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Authorities {
    /// Number of authorities.
    pub count: u32,
    /// Their lines, each way; without it, lines have no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<Rate>,
    /// Where they are: `any`, or the name of a region.
    #[serde(default = "any", skip_serializing_if = "is_any")]
    pub cities: String,
}

/// The relays of a scenario.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Relays {
    /// Number of relays, exits included.
    pub count: u32,
    /// Number of exits.
    pub exits: u32,
    /// Their lines, each way; without it, lines have no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<Rate>,
    /// `limits.memory_mib` of each.
    #[serde(default = "memory_mib", skip_serializing_if = "is_memory_mib")]
    pub memory_mib: u32,
    /// Where they are: `any`, or the name of a region.
    #[serde(default = "any", skip_serializing_if = "is_any")]
    pub cities: String,
}

fn memory_mib() -> u32 {
    64
}

fn is_memory_mib(mib: &u32) -> bool {
    *mib == memory_mib()
}

fn any() -> String {
    "any".to_owned()
}

fn is_any(cities: &String) -> bool {
    *cities == any()
}

/// The clients of a scenario.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clients {
    /// Number of clients.
    pub count: u32,
    /// When each starts.
    pub start: Span,
    /// What their users do.
    pub load: LoadKind,
    /// So many of them, the first ones, open many streams that they never read, again and again.
    #[serde(default, skip_serializing_if = "is_none")]
    pub stalled: u32,
    /// When their circuits get a second leg.
    #[serde(default, skip_serializing_if = "is_bulk")]
    pub multipath: MultipathName,
    /// Their uplinks; without it, lines have no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up: Option<Rate>,
    /// Their downlinks; without it, lines have no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down: Option<Rate>,
    /// Where they are: `any`, or the name of a region.
    #[serde(default = "any", skip_serializing_if = "is_any")]
    pub cities: String,
}

fn is_none(count: &u32) -> bool {
    *count == 0
}

/// What a client's user does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LoadKind {
    /// Reads pages of many small things.
    Browse,
    /// Talks in short lines over streams that stay open.
    Chat,
    /// Fetches large files.
    Download,
    /// Sends large files.
    Upload,
    /// Opens many streams whose bytes nobody reads.
    Stall,
    /// Each client does one of those before.
    Mixed,
    /// Nothing: the client keeps circuits ready.
    Idle,
}

/// A fault that happens once or again and again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// When the fault happens: either this, or `every`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Span>,
    /// The time between two such faults, on average.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<Span>,
    /// What happens.
    pub what: What,
    /// To whom: `any`, a role (`authority`, `relay`, `exit`, `client`), or the name of a node (`relay-3`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
    /// The two sides of a partition, each a region, a role or a node, or `rest`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub between: Option<[String; 2]>,
    /// How long the fault lasts; without it, it is for good, and everybody else must live with it.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub lasts: Option<Span>,
    /// How much: a rate, a share, a delay, a step of a clock or a number, as fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// The process is killed, and started again at the end of the fault.
    Kill,
    /// The machine loses its power, and with it what was not synced to its disk; it is started again at the end. `by`
    /// is a number that says what is lost; without it, that is drawn.
    Power,
    /// The node is stopped in good order, and started again at the end.
    Stop,
    /// The cable is pulled: nothing comes and nothing goes.
    Silence,
    /// Two parts of the world do not reach one another.
    Partition,
    /// Every byte takes longer (`by`: a time).
    Delay,
    /// Packets are lost (`by`: a share).
    Loss,
    /// The line is slow (`by`: a rate).
    Slow,
    /// The clock is set wrongly (`by`: a step), and rightly at the end.
    Clock,
    /// The clock goes too fast (`by`: a share); it is right again at the end.
    Drift,
    /// The disk is full.
    FullDisk,
    /// The exit's name servers say nothing.
    NamesSilent,
    /// The exit's name servers give an address where nobody is.
    NamesLie,
    /// The system gives no more than so many connections (`by`: a number).
    FewSockets,
    /// Reads and writes take a few bytes at a time.
    Dribble,
    /// The node's owner turns hostile (`by`: one of [`Hostility`]'s names, or several of which one is drawn).
    Hostile,
}

/// What a hostile node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hostility {
    /// A relay flips bits in cells that it passes on.
    Tag,
    /// A relay drops cells.
    Drop,
    /// A relay sends cells twice.
    Repeat,
    /// A relay changes the order of cells.
    Swap,
    /// A relay ends circuits.
    Cut,
    /// A relay makes no circuit with an honest relay on either side.
    Fail,
    /// A relay sends others more CREATEs than they answer.
    FloodCreate,
    /// A relay sends others PADDING without end.
    FloodPadding,
    /// A relay opens connections to others, and says nothing on them.
    FloodLinks,
    /// An authority sends different votes to different peers, and votes of past periods.
    VoteTwice,
    /// An authority does not know of every second relay.
    Lie,
}

impl Hostility {
    /// All kinds.
    pub const ALL: [Self; 11] = [
        Self::Tag,
        Self::Drop,
        Self::Repeat,
        Self::Swap,
        Self::Cut,
        Self::Fail,
        Self::FloodCreate,
        Self::FloodPadding,
        Self::FloodLinks,
        Self::VoteTwice,
        Self::Lie,
    ];

    /// The kind's name in a scenario.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tag => "tag",
            Self::Drop => "drop",
            Self::Repeat => "repeat",
            Self::Swap => "swap",
            Self::Cut => "cut",
            Self::Fail => "fail",
            Self::FloodCreate => "flood-create",
            Self::FloodPadding => "flood-padding",
            Self::FloodLinks => "flood-links",
            Self::VoteTwice => "vote-twice",
            Self::Lie => "lie",
        }
    }

    /// Is this what only an authority can do?
    pub fn is_of_authority(self) -> bool {
        matches!(self, Self::VoteTwice | Self::Lie)
    }

    /// The kinds that `by` names, separated by commas.
    ///
    /// # Errors
    /// [`BadScenario`] names the first word that is no kind.
    pub fn parse_all(by: &str) -> Result<Vec<Self>, BadScenario> {
        let one = |word: &str| {
            let found = Self::ALL.into_iter().find(|kind| kind.name() == word);
            found.ok_or_else(|| {
                let all = Self::ALL.map(Self::name).join(", ");
                BadScenario::new(format!("{word:?} is nothing hostile: write one of {all}"))
            })
        };
        by.split(',').map(str::trim).map(one).collect()
    }
}

/// A text is no scenario.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct BadScenario {
    /// What is wrong, and what to write.
    pub problem: String,
}

impl BadScenario {
    pub(crate) fn new(problem: impl Into<String>) -> Self {
        Self {
            problem: problem.into(),
        }
    }
}

/// The scenarios that the program has: name and text.
const BUILT_IN: [(&str, &str); 10] = [
    ("small", include_str!("../scenarios/small.toml")),
    ("storm", include_str!("../scenarios/storm.toml")),
    ("laptop", include_str!("../scenarios/laptop.toml")),
    ("diskful", include_str!("../scenarios/diskful.toml")),
    ("liars", include_str!("../scenarios/liars.toml")),
    ("flood", include_str!("../scenarios/flood.toml")),
    ("churn", include_str!("../scenarios/churn.toml")),
    ("city", include_str!("../scenarios/city.toml")),
    ("week", include_str!("../scenarios/week.toml")),
    ("models", include_str!("../scenarios/models.toml")),
];

/// The names of the scenarios that the program has.
pub fn names() -> impl Iterator<Item = &'static str> {
    BUILT_IN.iter().map(|(name, _)| *name)
}

/// The text of a built-in scenario; `None` if there is none of this name.
pub fn built_in(name: &str) -> Option<&'static str> {
    let found = BUILT_IN.iter().find(|(known, _)| *known == name);
    found.map(|(_, text)| *text)
}

impl Scenario {
    /// Reads a scenario.
    ///
    /// # Errors
    /// [`BadScenario`], with the place in the text.
    pub fn parse(text: &str) -> Result<Self, BadScenario> {
        let scenario: Self =
            toml::from_str(text).map_err(|error| BadScenario::new(error.to_string()))?;
        scenario.check()?;
        Ok(scenario)
    }

    /// Writes the scenario as [`Scenario::parse`] reads it.
    pub fn to_text(&self) -> String {
        // A value that was read can be written.
        toml::to_string(self).unwrap_or_default()
    }

    fn check(&self) -> Result<(), BadScenario> {
        const MOST_NODES: u32 = 20_000;
        let (relays, clients) = (&self.relays, &self.clients);
        let all = [
            self.authorities.count,
            relays.count,
            clients.count,
            self.servers,
        ];
        let problem = if self.authorities.count == 0 {
            "a network has at least one authority: authorities = { count = 3 }"
        } else if relays.count < 3 {
            "a circuit takes three relays: relays = { count = 6, exits = 2 }"
        } else if relays.exits == 0 || relays.exits > relays.count {
            "of the relays at least one is an exit, and exits are counted among the relays"
        } else if self.servers == 0 {
            "streams need a host to go to: servers = 2"
        } else if all.iter().any(|count| *count > MOST_NODES) {
            "more than 20,000 nodes of a kind are too many for a full run"
        } else if self.lasts.0.most > crate::units::parse_time("100days").unwrap_or_default() {
            "a run lasts 100 days at most"
        } else {
            return self.fault.iter().try_for_each(Fault::check);
        };
        Err(BadScenario::new(problem))
    }
}

impl Fault {
    fn check(&self) -> Result<(), BadScenario> {
        let named = format!("a fault of kind {:?}", self.what);
        if self.at.is_some() == self.every.is_some() {
            return Err(BadScenario::new(format!(
                "{named} has either `at` or `every`, and not both"
            )));
        }
        let least = core::time::Duration::from_secs(1);
        if self.every.is_some_and(|every| every.0.least < least) {
            return Err(BadScenario::new(format!(
                "{named} happens every second at most"
            )));
        }
        if (self.what == What::Partition) != self.between.is_some() {
            return Err(BadScenario::new(
                "a partition, and nothing else, has two sides: between = [\"eu\", \"us\"]",
            ));
        }
        if self.what == What::Partition && self.lasts.is_none() {
            return Err(BadScenario::new("a partition ends: for = \"3m\""));
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_scenario_is_read_as_it_is_written() {
        for name in names() {
            let scenario = Scenario::parse(built_in(name).unwrap()).unwrap();
            assert_eq!(Scenario::parse(&scenario.to_text()).unwrap(), scenario);
            assert!(scenario.about.ends_with('.'), "{name} says what it is for");
        }
    }

    #[test]
    fn the_scenario_in_the_document_can_be_run() {
        let document = include_str!("../../docs/simulation.md");
        let (_, rest) = document.split_once("## A scenario").unwrap();
        let (section, _) = rest.split_once("`load` is").unwrap();
        let lines = section.lines().filter_map(|line| line.strip_prefix("    "));
        let text: String = lines.flat_map(|line| [line, "\n"]).collect();
        assert!(text.contains("[[fault]]"));
        Scenario::parse(&text).unwrap();
    }

    #[test]
    fn a_wrong_word_is_named_with_its_place() {
        let text = built_in("small").unwrap();
        for (right, wrong, said) in [
            ("exits =", "exit =", "unknown field `exit`"),
            ("\"mixed\"", "\"surf\"", "unknown variant `surf`"),
            (
                "what = \"kill\"",
                "what = \"kick\"",
                "unknown variant `kick`",
            ),
            ("for = ", "four = ", "unknown field `four`"),
        ] {
            assert!(text.contains(right), "{right}");
            let error = Scenario::parse(&text.replace(right, wrong)).unwrap_err();
            assert!(error.problem.contains(said), "{}", error.problem);
            assert!(error.problem.contains("line "), "{}", error.problem);
        }
    }

    #[test]
    fn what_cannot_be_is_refused_with_what_to_write() {
        let small = Scenario::parse(built_in("small").unwrap()).unwrap();
        let said = |change: &dyn Fn(&mut Scenario)| {
            let mut scenario = small.clone();
            change(&mut scenario);
            Scenario::parse(&scenario.to_text()).unwrap_err().problem
        };
        assert!(said(&|scenario| scenario.authorities.count = 0).contains("count = 3"));
        assert!(said(&|scenario| scenario.relays.exits = 0).contains("at least one is an exit"));
        assert!(said(&|scenario| scenario.servers = 0).contains("servers = 2"));
        assert!(
            said(&|scenario| scenario.fault[0].at = scenario.fault[0].every).contains("either")
        );
        assert!(said(&|scenario| scenario.fault[0].what = What::Partition).contains("two sides"));
    }
}
