//! What a seed makes of a scenario: who is where, who does what, and what goes wrong when. All of it is drawn before
//! the run begins, so that a part can be left out while the rest stays as it is.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use cepa_common::dir::WITHOUT_AGES;
use cepa_common::onion::Suite;
use cepa_common::world::memory::Line;

use crate::cities::{CITIES, City, Region};
use crate::load::{Job, jobs};
use crate::scenario::{BadScenario, Fault, Hostility, LoadKind, Scenario, What};
use crate::seed::{Dice, Seed, millis};
use crate::units::{self, Rate, Span};

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// A directory authority, which is a relay too.
    Authority,
    /// A relay that is no exit.
    Relay,
    /// An exit to everywhere.
    Exit,
    /// A client.
    Client,
}

impl Role {
    /// The role's name in a scenario.
    pub fn name(self) -> &'static str {
        match self {
            Self::Authority => "authority",
            Self::Relay => "relay",
            Self::Exit => "exit",
            Self::Client => "client",
        }
    }
}

/// One node of a run.
#[derive(Clone, Debug)]
pub struct NodePlan {
    /// Number of the node in the run, by which its randomness is drawn.
    pub number: u32,
    /// What the node is.
    pub role: Role,
    /// The node's name, for example `relay-3`.
    pub name: String,
    /// The node's only address.
    pub address: IpAddr,
    /// Where the node is.
    pub city: City,
    /// From the city to the node (one way).
    pub last_mile: Duration,
    /// The node's line.
    pub line: Line,
    /// When the node is started.
    pub starts: Duration,
    /// What the node's user does: nothing, unless the node is a client.
    pub jobs: Vec<Job>,
}

/// Something that goes wrong, to whom and how much. Nodes are named by their numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// The process is killed.
    Kill(u32),
    /// The machine loses its power. What was not synced is lost as the number says.
    Power(u32, u64),
    /// The node is stopped in good order.
    Stop(u32),
    /// The cable is pulled.
    Silence(u32),
    /// Two sets of nodes do not reach one another.
    Partition(Vec<u32>, Vec<u32>),
    /// Every byte takes longer.
    Delay(u32, Duration),
    /// Parts of a million packets are lost.
    Loss(u32, u32),
    /// The line carries so many bytes a second.
    Slow(u32, u64),
    /// The clock is set ahead by so many milliseconds.
    Clock(u32, i64),
    /// The clock is too fast by parts of a million.
    Drift(u32, i32),
    /// The disk is full.
    FullDisk(u32),
    /// Name servers say nothing.
    NamesSilent(u32),
    /// Name servers lie.
    NamesLie(u32),
    /// So many connections are all that there are.
    FewSockets(u32, usize),
    /// Reads and writes take a few bytes.
    Dribble(u32),
    /// The owner turns hostile.
    Hostile(u32, Hostility),
}

/// A fault with its time.
#[derive(Clone, Debug)]
pub struct FaultPlan {
    /// When the fault begins.
    pub begins: Duration,
    /// When the fault is over; `None` if it is for good.
    pub ends: Option<Duration>,
    /// What happens.
    pub act: Act,
    /// The fault as a scenario names it exactly: what shrinking writes.
    pub exactly: Fault,
}

/// A run before it begins.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed of the run.
    pub seed: Seed,
    /// Suite of all relays.
    pub suite: Suite,
    /// Parameters of the network.
    pub params: BTreeMap<String, u32>,
    /// How long load and faults go on.
    pub lasts: Duration,
    /// `limits.memory_mib` of the relays.
    pub memory_mib: u32,
    /// The nodes, authorities first. A node that is left out is not in the list; the others keep their numbers.
    pub nodes: Vec<NodePlan>,
    /// The hosts that streams go to, with their names.
    pub servers: Vec<(String, IpAddr)>,
    /// What goes wrong, in the order of its beginning.
    pub faults: Vec<FaultPlan>,
}

/// The intervals of a simulated network: a minute in place of an hour. Its other parameters are those of a network in
/// the field, without the ages that a relay must have before it is trusted.
const INTERVALS: [(&str, u32); 5] = [
    ("vote_interval_seconds", 60),
    ("consensus_valid_seconds", 600),
    ("reachability_interval_seconds", 30),
    ("descriptor_interval_seconds", 300),
    ("guard_retry_seconds", 60),
];

/// Authorities and relays start within this time.
const FOUNDING: Duration = Duration::from_secs(5);
/// Faults of a scenario begin when the network stands.
const CALM: Duration = Duration::from_secs(150);
/// A last mile, for relays and for clients (milliseconds).
const LAST_MILE_MS: [(u64, u64); 2] = [(1, 3), (3, 20)];
/// Number of times that one fault of a scenario happens in a run, at most.
const MOST_TIMES: usize = 100_000;

impl Plan {
    /// What `seed` makes of the scenario.
    ///
    /// # Errors
    /// [`BadScenario`] if the scenario names what is not there.
    pub fn draw(scenario: &Scenario, seed: Seed) -> Result<Self, BadScenario> {
        let mut dice = seed.dice("run", &[]);
        let lasts = scenario.lasts.draw(&mut dice);
        let mut nodes = nodes(scenario, seed, lasts)?;
        let faults = faults(scenario, seed, &nodes, lasts)?;
        let without: BTreeSet<&String> = scenario.without.iter().collect();
        if let Some(unknown) = without
            .iter()
            .find(|name| !nodes.iter().any(|node| node.name == ***name))
        {
            return Err(BadScenario::new(format!(
                "there is no node {unknown:?} to leave out"
            )));
        }
        nodes.retain(|node| !without.contains(&node.name));
        let usual = INTERVALS.into_iter().chain(WITHOUT_AGES);
        let mut params: BTreeMap<String, u32> = usual
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        params.extend(scenario.params.clone());
        let server = |number: u32| {
            let name = format!("site{number}.example");
            (name, address(SERVER_BLOCK, number))
        };
        Ok(Self {
            seed,
            suite: scenario.suite.into(),
            params,
            lasts,
            memory_mib: scenario.relays.memory_mib,
            nodes,
            servers: (0..scenario.servers).map(server).collect(),
            faults,
        })
    }

    /// The node of this number, unless it is left out.
    pub fn node(&self, number: u32) -> Option<&NodePlan> {
        self.nodes.iter().find(|node| node.number == number)
    }

    /// The relays, authorities included, whose owners are never hostile.
    pub(crate) fn honest_relays(&self) -> impl Iterator<Item = &NodePlan> {
        let is_hostile = |number: u32| {
            let mut acts = self.faults.iter().map(|fault| &fault.act);
            acts.any(|act| matches!(act, Act::Hostile(node, _) if *node == number))
        };
        let relays = self.nodes.iter().filter(|node| node.role != Role::Client);
        relays.filter(move |node| !is_hostile(node.number))
    }

    /// The authority with this name, if its owner never has it vote twice.
    pub(crate) fn votes_once(&self, name: &str) -> Option<u32> {
        let named = self.nodes.iter().find(|node| node.name == name)?;
        let twice = Act::Hostile(named.number, Hostility::VoteTwice);
        let is_honest = self.faults.iter().all(|fault| fault.act != twice);
        is_honest.then_some(named.number)
    }

    /// What the owner of a node does to others at this time of the run.
    pub(crate) fn hostility(&self, node: u32, now: Duration) -> Option<Hostility> {
        let mut faults = self.faults.iter().rev();
        faults.find_map(|fault| match fault.act {
            Act::Hostile(of, how) if of == node => {
                let is_now = fault.begins <= now && fault.ends.is_none_or(|ends| now < ends);
                is_now.then_some(how)
            }
            _ => None,
        })
    }

    /// The time between two consensuses.
    pub fn vote_interval(&self) -> Duration {
        let seconds = self.params.get("vote_interval_seconds").copied();
        Duration::from_secs(u64::from(seconds.unwrap_or(3_600)))
    }
}

/// First byte of the addresses of nodes, and of servers. A second node of a /16 never is, so that the rule about
/// subnets keeps no two apart.
const NODE_BLOCK: u32 = 20;
const SERVER_BLOCK: u32 = 200;

/// The address of a host, which looks like one in the field: public, and alone in its /16.
fn address(block: u32, number: u32) -> IpAddr {
    let [_, _, high, low] = number.to_be_bytes();
    let first = u8::try_from(block).unwrap_or(0).saturating_add(high);
    Ipv4Addr::new(first, low, 0, 1).into()
}

/// The cities that a scenario allows.
fn cities(allowed: &str) -> Result<Vec<City>, BadScenario> {
    let of_region: Vec<City> = CITIES
        .into_iter()
        .filter(|city| allowed == "any" || city.region.name() == allowed || city.name == allowed)
        .collect();
    if of_region.is_empty() {
        let regions = Region::ALL.map(Region::name).join(", ");
        return Err(BadScenario::new(format!(
            "cities = {allowed:?} names no place: write any, a region ({regions}) or a city (amsterdam)"
        )));
    }
    Ok(of_region)
}

/// How nodes of one kind are drawn.
struct Kind<'a> {
    role: Role,
    count: u32,
    cities: &'a str,
    up: Option<Rate>,
    down: Option<Rate>,
    starts: Span,
}

fn nodes(scenario: &Scenario, seed: Seed, lasts: Duration) -> Result<Vec<NodePlan>, BadScenario> {
    let (authorities, relays, clients) =
        (&scenario.authorities, &scenario.relays, &scenario.clients);
    let founding = Span(units::Between {
        least: Duration::ZERO,
        most: FOUNDING,
    });
    let relay = |role, count| Kind {
        role,
        count,
        cities: &relays.cities,
        up: relays.line,
        down: relays.line,
        starts: founding,
    };
    let kinds = [
        Kind {
            role: Role::Authority,
            count: authorities.count,
            cities: &authorities.cities,
            up: authorities.line,
            down: authorities.line,
            starts: Span::exactly(Duration::ZERO),
        },
        relay(Role::Relay, relays.count - relays.exits),
        relay(Role::Exit, relays.exits),
        Kind {
            role: Role::Client,
            count: clients.count,
            cities: &clients.cities,
            up: clients.up,
            down: clients.down,
            starts: clients.start,
        },
    ];
    let mut nodes = Vec::new();
    for kind in kinds {
        let cities = cities(kind.cities)?;
        for place in 0..kind.count {
            let number = u32::try_from(nodes.len()).unwrap_or(u32::MAX);
            nodes.push(node(&kind, &cities, place, number, scenario, seed, lasts));
        }
    }
    Ok(nodes)
}

fn node(
    kind: &Kind<'_>,
    cities: &[City],
    place: u32,
    number: u32,
    scenario: &Scenario,
    seed: Seed,
    lasts: Duration,
) -> NodePlan {
    let mut dice = seed.dice("node", &[u64::from(number)]);
    let city = dice.one_of(cities).copied().unwrap_or(CITIES[0]);
    let (least, most) = LAST_MILE_MS[usize::from(kind.role == Role::Client)];
    let last_mile = dice.time(Duration::from_millis(least), Duration::from_millis(most));
    let mut up = kind.up.map_or(0, |rate| rate.draw(&mut dice));
    let down = kind.down.map_or(0, |rate| rate.draw(&mut dice));
    if kind.role != Role::Client {
        // A relay has one line, the same each way.
        up = down;
    }
    let starts = kind.starts.draw(&mut dice);
    let load = match place < scenario.clients.stalled {
        true => LoadKind::Stall,
        false => scenario.clients.load,
    };
    let jobs = if kind.role == Role::Client {
        jobs(load, scenario.servers, starts, lasts, &mut dice)
    } else {
        Vec::new()
    };
    NodePlan {
        number,
        role: kind.role,
        name: format!("{}-{place}", kind.role.name()),
        address: address(NODE_BLOCK, number),
        city,
        last_mile,
        line: Line { up, down },
        starts,
        jobs,
    }
}

/// All faults of a run in the order of their beginning.
fn faults(
    scenario: &Scenario,
    seed: Seed,
    nodes: &[NodePlan],
    lasts: Duration,
) -> Result<Vec<FaultPlan>, BadScenario> {
    let mut all = Vec::new();
    for (place, fault) in scenario.fault.iter().enumerate() {
        let place = u64::try_from(place).unwrap_or(u64::MAX);
        let mut clock = seed.dice("fault times", &[place]);
        let mut at = Duration::ZERO;
        for time in 0..MOST_TIMES {
            let mut dice = seed.dice("fault", &[place, u64::try_from(time).unwrap_or(u64::MAX)]);
            at = match (fault.at, fault.every) {
                (Some(at), _) if time == 0 => at.draw(&mut dice),
                (None, Some(every)) => {
                    let mean = every.draw(&mut clock);
                    let from = if time == 0 { CALM.min(lasts / 2) } else { at };
                    from + clock.wait(mean).max(Duration::from_millis(1))
                }
                _ => break,
            };
            if at >= lasts {
                break;
            }
            all.push(one(fault, at, lasts, nodes, &mut dice)?);
        }
    }
    all.sort_by_key(|fault| fault.begins);
    Ok(all)
}

/// One occurrence of a fault.
fn one(
    fault: &Fault,
    at: Duration,
    lasts: Duration,
    nodes: &[NodePlan],
    dice: &mut Dice,
) -> Result<FaultPlan, BadScenario> {
    // Whole milliseconds, as a shrunk scenario writes them.
    let begins = Duration::from_millis(millis(at));
    // All that ends has ended when the load ends.
    let ends = fault
        .lasts
        .map(|span| (begins + span.draw(dice)).min(lasts.max(begins)));
    let mut exactly = Fault {
        at: Some(Span::exactly(begins)),
        every: None,
        lasts: ends.map(|ends| Span::exactly(ends - begins)),
        ..fault.clone()
    };
    let act = if let (What::Partition, Some([one, other])) = (fault.what, &fault.between) {
        let (one, other) = sides(one, other, nodes)?;
        Act::Partition(one, other)
    } else {
        let of = fault.of.as_deref().unwrap_or("any");
        let candidates = named(of, nodes)?;
        let Some(node) = dice.one_of(&candidates) else {
            return Err(BadScenario::new(format!(
                "of = {of:?} names no node of this scenario"
            )));
        };
        exactly.of = Some(node.name.clone());
        let act = act(fault, node.number, dice)?;
        match act {
            Act::Power(_, drawn) => exactly.by = Some(drawn.to_string()),
            Act::Hostile(_, how) => {
                if how.is_of_authority() && node.role != Role::Authority {
                    return Err(BadScenario::new(format!(
                        "only an authority can {:?}: of = \"authority\"",
                        how.name()
                    )));
                }
                exactly.by = Some(how.name().to_owned());
            }
            _ => {}
        }
        act
    };
    Ok(FaultPlan {
        begins,
        ends,
        act,
        exactly,
    })
}

fn act(fault: &Fault, node: u32, dice: &mut Dice) -> Result<Act, BadScenario> {
    let text = fault.by.as_deref();
    let needed = || {
        let example = match fault.what {
            What::Delay => "300ms",
            What::Loss | What::Drift => "5%",
            What::Slow => "1mbit",
            What::Clock => "-2h",
            What::Hostile => "tag",
            _ => "20",
        };
        text.ok_or_else(|| BadScenario::new(format!("say how much: by = {example:?}")))
    };
    let bad = |error: units::BadUnit| BadScenario::new(error.to_string());
    Ok(match fault.what {
        What::Kill => Act::Kill(node),
        What::Power => {
            let drawn = match text.map(str::parse) {
                None => dice.number(0, u64::MAX),
                Some(Ok(number)) => number,
                Some(Err(_)) => {
                    let problem = "what a power cut keeps is a number, or is drawn: leave `by` out";
                    return Err(BadScenario::new(problem));
                }
            };
            Act::Power(node, drawn)
        }
        What::Stop => Act::Stop(node),
        What::Silence | What::Partition => Act::Silence(node),
        What::Delay => Act::Delay(node, units::parse_time(needed()?).map_err(bad)?),
        What::Loss => Act::Loss(node, units::parse_share(needed()?).map_err(bad)?),
        What::Slow => Act::Slow(node, units::parse_rate(needed()?).map_err(bad)?),
        What::Clock => Act::Clock(node, units::parse_step(needed()?).map_err(bad)?),
        What::Drift => {
            let parts = units::parse_share(needed()?).map_err(bad)?;
            Act::Drift(node, i32::try_from(parts).unwrap_or(i32::MAX))
        }
        What::FullDisk => Act::FullDisk(node),
        What::NamesSilent => Act::NamesSilent(node),
        What::NamesLie => Act::NamesLie(node),
        What::FewSockets => {
            let most = needed()?.parse();
            let most =
                most.map_err(|_| BadScenario::new("say how many connections: by = \"20\""))?;
            Act::FewSockets(node, most)
        }
        What::Dribble => Act::Dribble(node),
        What::Hostile => {
            let kinds = Hostility::parse_all(needed()?)?;
            Act::Hostile(node, dice.one_of(&kinds).copied().unwrap_or(Hostility::Tag))
        }
    })
}

/// The nodes that `of` stands for.
fn named<'a>(of: &str, nodes: &'a [NodePlan]) -> Result<Vec<&'a NodePlan>, BadScenario> {
    let fits = |node: &&NodePlan| {
        let is_relay = matches!(node.role, Role::Relay | Role::Exit);
        match of {
            "any" => true,
            "relay" => is_relay,
            _ => node.role.name() == of || node.city.region.name() == of || node.name == of,
        }
    };
    let found: Vec<_> = nodes.iter().filter(fits).collect();
    if found.is_empty() && !Region::ALL.iter().any(|region| region.name() == of) {
        return Err(BadScenario::new(format!(
            "{of:?} names no node: write any, authority, relay, exit, client, a region (eu) or a node (relay-3)"
        )));
    }
    Ok(found)
}

/// The two sides of a partition; a node that both name is on the first side.
fn sides(one: &str, other: &str, nodes: &[NodePlan]) -> Result<(Vec<u32>, Vec<u32>), BadScenario> {
    let numbers = |of: &str| -> Result<BTreeSet<u32>, BadScenario> {
        Ok(named(of, nodes)?.iter().map(|node| node.number).collect())
    };
    let first = numbers(one)?;
    let second = if other == "rest" {
        numbers("any")?
    } else {
        numbers(other)?
    };
    let second = second.difference(&first).copied().collect();
    Ok((first.into_iter().collect(), second))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::scenario::{built_in, names};

    fn storm() -> Scenario {
        Scenario::parse(built_in("storm").unwrap()).unwrap()
    }

    #[test]
    fn a_seed_draws_the_same_plan_and_another_seed_another() {
        for name in names() {
            let scenario = Scenario::parse(built_in(name).unwrap()).unwrap();
            let draw = |seed| format!("{:?}", Plan::draw(&scenario, Seed(seed)).unwrap());
            assert_eq!(draw(7), draw(7), "{name}");
            assert_ne!(draw(7), draw(8), "{name}");
        }
    }

    #[test]
    fn what_is_left_out_moves_nothing_else() {
        let scenario = storm();
        let whole = Plan::draw(&scenario, Seed(7)).unwrap();
        let mut smaller = scenario.clone();
        smaller.without = vec!["client-3".to_owned(), "relay-2".to_owned()];
        let smaller = Plan::draw(&smaller, Seed(7)).unwrap();
        assert_eq!(smaller.nodes.len() + 2, whole.nodes.len());
        for node in &smaller.nodes {
            let same = whole.node(node.number).unwrap();
            assert_eq!(format!("{node:?}"), format!("{same:?}"));
        }
        let acts = |plan: &Plan| {
            plan.faults
                .iter()
                .map(|fault| fault.act.clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(acts(&whole), acts(&smaller));
    }

    #[test]
    fn a_fault_that_is_written_exactly_is_the_same_fault() {
        let scenario = storm();
        let plan = Plan::draw(&scenario, Seed(7)).unwrap();
        assert!(plan.faults.len() > 30, "{}", plan.faults.len());
        let exact = Scenario {
            fault: plan
                .faults
                .iter()
                .map(|fault| fault.exactly.clone())
                .collect(),
            ..scenario
        };
        let exact = Scenario::parse(&exact.to_text()).unwrap();
        let again = Plan::draw(&exact, Seed(7)).unwrap();
        for (one, other) in plan.faults.iter().zip(&again.faults) {
            assert_eq!((one.begins, one.ends), (other.begins, other.ends));
            assert_eq!(one.act, other.act);
        }
        assert_eq!(plan.faults.len(), again.faults.len());
    }

    #[test]
    fn whoever_is_not_there_is_named() {
        let said = |change: &dyn Fn(&mut Fault)| {
            let mut scenario = storm();
            change(&mut scenario.fault[0]);
            Plan::draw(&scenario, Seed(7)).unwrap_err().problem
        };
        assert!(said(&|fault| fault.of = Some("relay-77".to_owned())).contains("(relay-3)"));
        assert!(said(&|fault| fault.what = What::Loss).contains("by = \"5%\""));
        let mut scenario = storm();
        scenario.relays.cities = "atlantis".to_owned();
        assert!(
            Plan::draw(&scenario, Seed(7))
                .unwrap_err()
                .problem
                .contains("amsterdam")
        );
        scenario = storm();
        scenario.without = vec!["relay-77".to_owned()];
        assert!(
            Plan::draw(&scenario, Seed(7))
                .unwrap_err()
                .problem
                .contains("relay-77")
        );
    }
}
