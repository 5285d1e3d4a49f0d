//! What a seed makes of a scenario: who is where, who does what, and what goes wrong when. All of it is drawn before
//! the run begins, so that a part can be left out while the rest stays as it is.

mod faults;
mod hosts;
mod parts;

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use cepa_client::circuit::Multipath;
use cepa_common::dir::WITHOUT_AGES;
use cepa_common::onion::Suite;

pub use self::parts::{Act, FaultPlan, FixedWays, NodePlan, Role};

use self::faults::faults;
use self::hosts::{SERVER_BLOCK, address, nodes};
use crate::scenario::{BadScenario, Hostility, Scenario};
use crate::seed::Seed;

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
    /// How long each way takes, if not as the places of hosts say.
    pub ways: Option<FixedWays>,
    /// When circuits of clients get a second leg.
    pub multipath: Multipath,
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
            ways: scenario.ways.map(|ways| {
                let mut dice = seed.dice("ways", &[]);
                FixedWays {
                    nodes: ways.nodes.draw(&mut dice),
                    servers: ways.servers.draw(&mut dice),
                }
            }),
            multipath: scenario.clients.multipath.into(),
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::scenario::{Fault, What, built_in, names};

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
