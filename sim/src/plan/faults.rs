//! What goes wrong when, and with whom.

use core::time::Duration;
use std::collections::BTreeSet;

use super::parts::{Act, FaultPlan, NodePlan, Role};
use crate::cities::Region;
use crate::scenario::{BadScenario, Fault, Hostility, Scenario, What};
use crate::seed::{Dice, Seed, millis};
use crate::units::{self, Span};

/// Faults of a scenario begin when the network stands.
const CALM: Duration = Duration::from_secs(150);
/// Number of times that one fault of a scenario happens in a run, at most.
const MOST_TIMES: usize = 100_000;

/// All faults of a run in the order of their beginning.
pub(super) fn faults(
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
