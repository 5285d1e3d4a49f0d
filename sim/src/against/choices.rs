//! Kind 2 against kind 1: what clients hold, meet and fetch.

use core::time::Duration;

use cepa_client::circuit::Counts;
use cepa_common::world::Simulation;

use super::Pair;
use super::cast::Cast;
use crate::choices::links::{Kind, to_relays};
use crate::choices::stage::rest;
use crate::node;
use crate::outcome::{Outcome, RunError, Watch, run_plan};
use crate::plan::{Plan, Role};

/// The model is to be as near as this (per cent).
const BOUND: f64 = 2.0;
/// After the last client has started, things settle for this time.
const SETTLE: Duration = Duration::from_secs(120);

/// Runs the plan in full, and on paper, and compares.
///
/// # Errors
/// [`RunError`] if there is no run.
pub fn compare(simulation: &Simulation, plan: &Plan) -> Result<(Outcome, Vec<Pair>), RunError> {
    let watch = Watch {
        measures: true,
        ..Watch::default()
    };
    let outcome = run_plan(simulation, plan, watch)?;
    let network = node::found(plan).map_err(RunError::Network)?;
    let Some(measured) = &outcome.measured else {
        return Ok((outcome, Vec::new()));
    };
    let clients = || plan.nodes.iter().filter(|node| node.role == Role::Client);
    let last = clients().map(|node| node.starts).max().unwrap_or_default();
    let from = last + SETTLE;
    let cast = Cast::new(plan, &network);
    let played = cast.play(&measured.documents, plan.seed, from, &mut |_| {});
    let (theatre, guards, shelves) =
        played.map_err(|error| RunError::Network(error.to_string()))?;
    let counted = theatre.counted.max(1.0);
    let authorities = plan
        .nodes
        .iter()
        .filter(|node| node.role == Role::Authority);
    let authorities = authorities.count();
    let relays: Vec<u32> = plan
        .nodes
        .iter()
        .filter(|node| matches!(node.role, Role::Relay | Role::Exit))
        .map(|node| node.number)
        .collect();
    let is_relay = |number: u32| relays.contains(&number);
    let window = |at: Duration| at >= from && at <= plan.lasts;
    let loads = || {
        let all = measured.loads.iter();
        all.filter(|(at, node, _)| window(*at) && is_relay(*node))
    };
    let samples = loads().count().max(1) as f64;
    let mean = |of: &dyn Fn(&cepa_relay::RelayLoad) -> usize| {
        loads().map(|(_, _, load)| of(load) as f64).sum::<f64>() / samples
    };
    let count = relays.len().max(1) as f64;
    let of_relays = |of: &dyn Fn(&crate::choices::stage::Tally) -> f64| {
        relays
            .iter()
            .filter_map(|relay| theatre.tallies.get(*relay as usize))
            .map(of)
            .sum::<f64>()
            / count
            / counted
    };
    let kind = |begun: u64, held: f64| Kind {
        rate: begun as f64 / counted,
        held: held / begun.max(1) as f64,
    };
    let data = kind(theatre.sum.data, theatre.sum.held_data);
    let directory = kind(theatre.sum.directory, theatre.sum.held_directory);
    // An authority looks at each relay by a link of its own each time, which rests for a while then.
    let looks = plan.params.get("reachability_interval_seconds").copied();
    let looks = f64::from(looks.unwrap_or(1_200)).max(1.0);
    let of_authorities = authorities as f64 * rest(0.5) / looks;
    let shares: Vec<[f64; 3]> = theatre
        .shares
        .iter()
        .filter(|(number, _)| is_relay(*number))
        .map(|(_, shares)| *shares)
        .collect();
    let links = (0..shares.len()).map(|who| to_relays(&shares, data, directory, who));
    let links = links.sum::<f64>() / count + of_authorities;
    // What was served in the window, over circuits and to who dialled.
    let served = |of: &dyn Fn(&cepa_relay::RelayLoad) -> u64| {
        let mut sum = 0;
        for node in plan.nodes.iter().filter(|node| node.role != Role::Client) {
            let its = measured
                .loads
                .iter()
                .filter(|(at, number, _)| window(*at) && *number == node.number);
            let bytes: Vec<u64> = its.map(|(_, _, load)| of(load)).collect();
            if let (Some(first), Some(last)) = (bytes.first(), bytes.last()) {
                sum += last - first;
            }
        }
        sum as f64 / (plan.lasts - from).as_secs_f64()
    };
    let by_circuits = theatre.sum.later_bytes as f64 / counted;
    // Authorities do not fetch what they have made.
    let fetching = count / theatre.shares.len().max(1) as f64;
    let to_relays_bytes = theatre.relays_read as f64 / counted * fetching;
    let met = measured
        .guards
        .values()
        .map(|guards| guards.len())
        .sum::<usize>() as f64;
    let met = met / measured.guards.len().max(1) as f64;
    let seen = guards.iter().sum::<usize>() as f64 / guards.len().max(1) as f64;
    let in_window = || measured.shelves.iter().filter(|(at, _)| window(*at));
    let kept = |of: &dyn Fn(&Counts) -> usize| {
        let sum: f64 = in_window().map(|(_, counts)| of(counts) as f64).sum();
        sum / in_window().count().max(1) as f64
    };
    let paper = |of: &dyn Fn(&Counts) -> usize| {
        let sum: f64 = shelves.iter().map(|counts| of(counts) as f64).sum();
        sum / shelves.len().max(1) as f64
    };
    let pairs = vec![
        Pair::new(
            "circuits held by a relay",
            mean(&|load| load.circuits),
            of_relays(&|tally| tally.held),
            Some(BOUND),
        ),
        Pair::new(
            "links of clients at a relay",
            mean(&|load| load.other_links),
            of_relays(&|tally| tally.links),
            Some(BOUND),
        ),
        Pair::new(
            "links to relays at a relay",
            mean(&|load| load.relay_links),
            links,
            Some(BOUND),
        ),
        Pair::new(
            "circuits on a client's shelf",
            kept(&|c| c.ready),
            paper(&|c| c.ready),
            None,
        ),
        Pair::new(
            "clean circuits on it",
            kept(&|c| c.clean),
            paper(&|c| c.clean),
            None,
        ),
        Pair::new("first hops that a client met", met, seen, Some(BOUND)),
        Pair::new(
            "consensus bytes a second, by circuits",
            served(&|load| load.consensus_bytes_by_circuits),
            by_circuits,
            Some(BOUND),
        ),
        Pair::new(
            "consensus bytes a second, to diallers",
            served(&|load| load.consensus_bytes_to_diallers),
            to_relays_bytes,
            Some(BOUND),
        ),
    ];
    Ok((outcome, pairs))
}
