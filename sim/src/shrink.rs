//! Makes the scenario of a failure small: fewer faults, fewer nodes, a shorter run. The seed stays, and randomness by
//! node keeps the rest in its place.

use std::time::Duration;

use cepa_common::world::Simulation;

use crate::outcome::{Outcome, Watch};
use crate::plan::{Plan, Role};
use crate::scenario::{Fault, Scenario};
use crate::search::{SearchError, one};
use crate::seed::Seed;
use crate::sight::Invariant;
use crate::units::Span;

/// Number of runs that shrinking may take.
const RUNS: usize = 60;

/// A failure that was made small.
#[derive(Debug)]
pub struct Shrunk {
    /// The scenario, with its seed.
    pub scenario: Scenario,
    /// Its outcome.
    pub outcome: Outcome,
    /// Number of runs that it took.
    pub runs: usize,
}

struct Shrinking<'a> {
    simulation: &'a Simulation,
    seed: Seed,
    invariant: Invariant,
    best: Scenario,
    outcome: Outcome,
    runs: usize,
    watch: Watch,
}

/// Shrinks the scenario in which `failed` failed. `each` hears of every try: how many faults and nodes were left, and
/// whether it failed in the same way.
///
/// # Errors
/// [`SearchError`].
pub fn shrink(
    simulation: &Simulation,
    scenario: &Scenario,
    failed: &Outcome,
    watch: Watch,
    each: &dyn Fn(usize, bool),
) -> Result<Option<Shrunk>, SearchError> {
    let Some(failure) = failed.failure() else {
        return Ok(None);
    };
    let plan = Plan::draw(scenario, failed.seed)?;
    let exact = Scenario {
        seed: Some(failed.seed),
        lasts: Span::exactly(plan.lasts),
        fault: plan
            .faults
            .iter()
            .map(|fault| fault.exactly.clone())
            .collect(),
        ..scenario.clone()
    };
    let mut shrinking = Shrinking {
        simulation,
        seed: failed.seed,
        invariant: failure.invariant,
        best: exact.clone(),
        outcome: failed.clone(),
        runs: 0,
        watch,
    };
    if !shrinking.fails(&exact, each)? {
        // A failure that needs more than the list says is handed on as it is.
        let scenario = Scenario {
            seed: Some(failed.seed),
            ..scenario.clone()
        };
        return Ok(Some(Shrunk {
            scenario,
            outcome: failed.clone(),
            runs: shrinking.runs,
        }));
    }
    shrinking.shorten(each)?;
    shrinking.drop_faults(each)?;
    shrinking.drop_nodes(&plan, each)?;
    shrinking.shorten_faults(each)?;
    Ok(Some(Shrunk {
        scenario: shrinking.best,
        outcome: shrinking.outcome,
        runs: shrinking.runs,
    }))
}

impl Shrinking<'_> {
    /// Runs `scenario`, and keeps it if it fails in the same way. Once all runs are spent, nothing does.
    fn fails(
        &mut self,
        scenario: &Scenario,
        each: &dyn Fn(usize, bool),
    ) -> Result<bool, SearchError> {
        if self.runs >= RUNS {
            return Ok(false);
        }
        self.runs += 1;
        let twice = self.invariant == Invariant::Repeats;
        let outcome = one(self.simulation, scenario, self.seed, twice, self.watch)?;
        let is_same = outcome
            .failure()
            .is_some_and(|failure| failure.invariant == self.invariant);
        each(scenario.fault.len(), is_same);
        if is_same {
            self.best = scenario.clone();
            self.outcome = outcome;
        }
        Ok(is_same)
    }

    /// Ends the run soon after the failure.
    fn shorten(&mut self, each: &dyn Fn(usize, bool)) -> Result<(), SearchError> {
        let at = self
            .outcome
            .failure()
            .map(|failure| failure.at)
            .unwrap_or_default();
        let whole = Duration::from_secs(at.as_secs() + 1);
        if whole < self.best.lasts.0.most {
            let shorter = Scenario {
                lasts: Span::exactly(whole),
                ..self.best.clone()
            };
            self.fails(&shorter, each)?;
        }
        Ok(())
    }

    /// Leaves out faults: halves first, then quarters, at last single ones.
    fn drop_faults(&mut self, each: &dyn Fn(usize, bool)) -> Result<(), SearchError> {
        let mut part = self.best.fault.len().div_ceil(2).max(1);
        loop {
            let mut from = 0;
            while from < self.best.fault.len() {
                let mut fewer = self.best.clone();
                let to = (from + part).min(fewer.fault.len());
                fewer.fault.drain(from..to);
                if !self.fails(&fewer, each)? {
                    from = to;
                }
            }
            if part == 1 {
                return Ok(());
            }
            part = part.div_ceil(2).max(1);
        }
    }

    /// Leaves out clients and relays: all that can be at once, then one by one.
    fn drop_nodes(&mut self, plan: &Plan, each: &dyn Fn(usize, bool)) -> Result<(), SearchError> {
        let named = |scenario: &Scenario, name: &str| {
            let of = |fault: &Fault| fault.of.as_deref() == Some(name);
            let concerned = |fault: &Fault| {
                fault
                    .between
                    .as_ref()
                    .is_some_and(|sides| sides.iter().any(|side| side == name))
            };
            scenario
                .fault
                .iter()
                .any(|fault| of(fault) || concerned(fault))
        };
        let spare = |role: Role| {
            let of_role = plan.nodes.iter().filter(move |node| node.role == role);
            of_role.map(|node| node.name.clone())
        };
        let failed: Vec<u32> = self
            .outcome
            .failure()
            .map(|failure| failure.nodes.clone())
            .unwrap_or_default();
        let is_concerned = |name: &String| {
            plan.nodes
                .iter()
                .any(|node| node.name == *name && failed.contains(&node.number))
        };
        let clients: Vec<String> = spare(Role::Client)
            .filter(|name| !named(&self.best, name) && !is_concerned(name))
            .collect();
        let mut fewer = self.best.clone();
        fewer.without.extend(clients.iter().cloned());
        if !clients.is_empty() && !self.fails(&fewer, each)? {
            for name in clients {
                let mut fewer = self.best.clone();
                fewer.without.push(name);
                self.fails(&fewer, each)?;
            }
        }
        // A circuit takes three relays, the last of them an exit.
        let (relays, exits) = (spare(Role::Relay).count(), spare(Role::Exit).count());
        let keep = 3usize.saturating_sub(exits);
        let relays: Vec<String> = spare(Role::Relay)
            .take(relays.saturating_sub(keep))
            .collect();
        for name in relays
            .into_iter()
            .filter(|name| !named(&self.best, name))
            .collect::<Vec<_>>()
        {
            let mut fewer = self.best.clone();
            fewer.without.push(name);
            self.fails(&fewer, each)?;
        }
        Ok(())
    }

    /// Halves the time that each fault lasts.
    fn shorten_faults(&mut self, each: &dyn Fn(usize, bool)) -> Result<(), SearchError> {
        for place in 0..self.best.fault.len() {
            let mut shorter = self.best.clone();
            let Some(lasts) = shorter.fault.get(place).and_then(|fault| fault.lasts) else {
                continue;
            };
            let half = Duration::from_secs(lasts.0.most.as_secs() / 2);
            shorter.fault[place].lasts = Some(Span::exactly(half));
            self.fails(&shorter, each)?;
        }
        Ok(())
    }
}
