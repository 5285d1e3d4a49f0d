//! Kind 3 against kind 1: what users wait for.

use core::time::Duration;

use cepa_common::world::Simulation;

use super::Pair;
use super::cast::{Cast, Played};
use crate::flows::calibration::{FIRST_BYTE, fit};
use crate::flows::{Transfer, ends};
use crate::load::{JobKind, breaks_off};
use crate::node;
use crate::outcome::{Outcome, RunError, Watch, run_plan};
use crate::plan::{Plan, Role};
use crate::scenario::{BadScenario, Scenario};
use crate::seed::Seed;
use crate::sight::JobEnd;

/// Medians are to be as near as this, and 90th percentiles (per cent).
const MEDIAN: f64 = 10.0;
const NINETIETH: f64 = 20.0;
/// A record of TLS holds so many bytes at most, and is passed on as a whole.
const RECORD: f64 = 16_384.0;
/// A rate may be wrong by this part.
const TOLERANCE: f64 = 1e-6;

/// Times of one kind of jobs (seconds).
#[derive(Clone, Debug, Default)]
pub struct Times {
    /// To the first byte of an answer.
    pub first: Vec<f64>,
    /// To the end of the last stream.
    pub whole: Vec<f64>,
}

impl Times {
    /// Adds those of another run.
    pub fn add(&mut self, other: &Self) {
        self.first.extend(&other.first);
        self.whole.extend(&other.whole);
    }
}

/// Runs the plan in full and as flows, and gives the times of its pages in both.
///
/// # Errors
/// [`RunError`] if there is no run.
pub fn compare(simulation: &Simulation, plan: &Plan) -> Result<(Outcome, Times, Times), RunError> {
    let watch = Watch {
        measures: true,
        ..Watch::default()
    };
    let outcome = run_plan(simulation, plan, watch)?;
    let mut full = Times::default();
    for end in &outcome.jobs {
        if let (JobKind::Page, Some(first)) = (end.kind, end.first_byte) {
            full.first.push(first.as_secs_f64());
            if end.is_done {
                full.whole.push(end.whole.as_secs_f64());
            }
        }
    }
    let network = node::found(plan).map_err(RunError::Network)?;
    let cast = Cast::new(plan, &network);
    let documents = outcome
        .measured
        .as_ref()
        .map(|measured| &measured.documents);
    let mut model = Times::default();
    if let Some(documents) = documents {
        let mut jobs = Jobs::new(plan, &cast);
        let from = Duration::ZERO;
        let played = cast.play(documents, plan.seed, from, &mut |played| jobs.add(&played));
        played.map_err(|error| RunError::Network(error.to_string()))?;
        model = jobs.times();
    }
    Ok((outcome, full, model))
}

/// The pairs of figures of these times.
pub fn pairs(full: &mut Times, model: &mut Times) -> Vec<Pair> {
    let mut pairs = Vec::new();
    let both = [
        ("first byte of a page", &mut full.first, &mut model.first),
        ("whole page", &mut full.whole, &mut model.whole),
    ];
    for (name, full, model) in both {
        full.sort_by(f64::total_cmp);
        model.sort_by(f64::total_cmp);
        for (what, share, bound) in [("median", 0.5, MEDIAN), ("90 %", 0.9, NINETIETH)] {
            let point = |values: &[f64]| {
                let last = values.len().saturating_sub(1) as f64;
                values.get((last * share) as usize).copied().unwrap_or(0.0)
            };
            let (full, model) = (point(full), point(model));
            pairs.push(Pair::new(
                &format!("{name}, {what} (s)"),
                full,
                model,
                Some(bound),
            ));
        }
        let distance = distance(full, model);
        pairs.push(Pair::new(
            &format!("{name}, distance (bound; found)"),
            0.1,
            distance,
            None,
        ));
    }
    pairs
}

/// The Kolmogorov-Smirnov distance of two sorted lists.
fn distance(one: &[f64], other: &[f64]) -> f64 {
    let share = |values: &[f64], at: f64| {
        values.partition_point(|value| *value <= at) as f64 / values.len().max(1) as f64
    };
    let at = one.iter().chain(other);
    at.map(|at| (share(one, *at) - share(other, *at)).abs())
        .fold(0.0, f64::max)
}

/// The jobs of a plan as flows.
struct Jobs<'a> {
    plan: &'a Plan,
    cast: &'a Cast<'a>,
    transfers: Vec<Transfer>,
    /// For each job: when it began, when its first byte came, and its transfers.
    jobs: Vec<(f64, f64, core::ops::Range<usize>)>,
}

impl<'a> Jobs<'a> {
    fn new(plan: &'a Plan, cast: &'a Cast<'a>) -> Self {
        Self {
            plan,
            cast,
            transfers: Vec::new(),
            jobs: Vec::new(),
        }
    }

    /// The rate of a node's uplink (0) or downlink (1) in bytes a second.
    fn line(&self, node: u32, way: usize) -> f64 {
        let line = self.plan.node(node).map(|node| node.line);
        let rate = line.map_or(0, |line| [line.up, line.down][way]);
        if rate == 0 {
            f64::INFINITY
        } else {
            rate as f64
        }
    }

    fn add(&mut self, played: &Played<'_>) {
        let Played { node, job, streams } = played;
        if job.kind != JobKind::Page || streams.is_empty() {
            return;
        }
        let Some((_, server)) = self.plan.servers.get(job.server as usize) else {
            return;
        };
        let began = job.at.as_secs_f64();
        let from = self.transfers.len();
        let mut first_byte = f64::INFINITY;
        for (number, (hops, waits)) in streams.iter().enumerate() {
            let mut here = node.address;
            let mut there = 0.0;
            for hop in hops {
                if let Some(next) = self.cast.address(*hop) {
                    there += self.cast.way(here, next);
                    here = next;
                }
            }
            let out = self.cast.way(here, *server);
            let [guard, middle, exit] = *hops;
            let mut lines = vec![(exit, 1), (exit, 0), (middle, 1), (middle, 0)];
            lines.extend([(guard, 1), (guard, 0), (node.number, 1)]);
            let up = job.up as f64 / self.line(node.number, 0);
            let down = match breaks_off(job.key.wrapping_add(number as u64)) {
                true => job.down / 2,
                false => job.down,
            };
            // A user first hears that the stream is open, and then asks. A record goes over each line as a whole.
            let records = lines
                .iter()
                .map(|(node, way)| RECORD / self.line(*node, *way));
            let part = records.sum::<f64>() * (down as f64 / RECORD).min(1.0);
            let names = 2.0 * self.cast.way(here, here);
            let asked = began + waits + 4.0 * there + names;
            let first = asked + 4.0 * out + up + part + FIRST_BYTE;
            first_byte = first_byte.min(first);
            self.transfers.push(Transfer {
                begins: first,
                bytes: down as f64,
                lines: lines
                    .into_iter()
                    .map(|(node, way)| 2 * node as usize + way)
                    .collect(),
            });
        }
        self.jobs
            .push((began, first_byte, from..self.transfers.len()));
    }

    fn times(&self) -> Times {
        let most = self.plan.nodes.iter().map(|node| node.number).max();
        let capacities: Vec<f64> = (0..=most.unwrap_or(0))
            .flat_map(|node| [self.line(node, 0), self.line(node, 1)])
            .collect();
        let until = self.plan.lasts.as_secs_f64() + 1_000.0;
        let ends = ends(&capacities, &self.transfers, until, TOLERANCE);
        let mut times = Times::default();
        for (began, first, its) in &self.jobs {
            times.first.push(first - began);
            let last = ends.get(its.clone()).unwrap_or_default().iter();
            let last = last
                .copied()
                .collect::<Option<Vec<f64>>>()
                .unwrap_or_default();
            if let Some(last) = last.into_iter().reduce(f64::max) {
                times.whole.push(last - began);
            }
        }
        times
    }
}

/// What one client gets over lines and ways of one kind.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Measured {
    /// Rate of every line (bytes a second).
    pub line: f64,
    /// One way between two nodes (seconds).
    pub way: f64,
    /// Bytes of a file in a second, once it flows.
    pub throughput: f64,
    /// What a file takes longer than that and the first byte (seconds).
    pub start: f64,
    /// The median time until a stream is open (seconds): what a first byte takes that is asked for at once, as `cepa
    /// bench` does.
    pub opened: f64,
    /// The median time to the first byte of a user that asks when the stream is open (seconds).
    pub first_byte: f64,
    /// Number of files.
    pub files: usize,
}

/// Clients of a network of [`uniform`]. Each downloads one file, on a circuit that has carried nothing before.
const MEASURED_CLIENTS: u32 = 8;
/// A file takes as long as this at the rate of the line (seconds): one of the two, in turns. The longer ones without the
/// shorter ones say what flows once the window has opened.
const FILE_SECONDS: [u64; 2] = [10, 40];
/// When the first file begins.
const FIRST_FILE: Duration = Duration::from_secs(10 * 60);
/// From one file's beginning to the next one's.
const BETWEEN_FILES: Duration = Duration::from_secs(3 * 60);

/// A network in which all lines have this rate (Mbit/s) and all ways take as long (ms), with servers beside the exits,
/// and some clients.
///
/// # Errors
/// [`BadScenario`] does not happen.
pub fn uniform(mbit: u64, way_ms: u64) -> Result<Scenario, BadScenario> {
    Scenario::parse(&format!(
        r#"
        lasts = "40m"
        ways = {{ nodes = "{way_ms}ms", servers = "0ms" }}
        authorities = {{ count = 1 }}
        relays = {{ count = 4, exits = 2, line = "{mbit}mbit" }}
        clients = {{ count = {MEASURED_CLIENTS}, start = "5m", load = "download", up = "{mbit}mbit", down = "{mbit}mbit", multipath = "never" }}
        params = {{ vote_interval_seconds = 600, consensus_valid_seconds = 6000 }}
        "#
    ))
}

/// Measures what one client gets in a full run of [`uniform`].
///
/// # Errors
/// [`RunError`] if there is no run.
pub fn measure(
    simulation: &Simulation,
    mbit: u64,
    way_ms: u64,
    seed: Seed,
) -> Result<Measured, RunError> {
    let scenario = uniform(mbit, way_ms).map_err(|error| RunError::Network(error.to_string()))?;
    let plan = Plan::draw(&scenario, seed);
    let mut plan = plan.map_err(|error| RunError::Network(error.to_string()))?;
    // As on the links of `cepa bench`, one line lies between two nodes, and none between an exit and a server.
    let line = mbit * 1_000_000 / 8;
    for node in &mut plan.nodes {
        node.line.down = 0;
    }
    let clients = plan
        .nodes
        .iter_mut()
        .filter(|node| node.role == Role::Client);
    for (number, client) in (0u32..).zip(clients) {
        client.jobs.truncate(1);
        for job in &mut client.jobs {
            job.at = FIRST_FILE + BETWEEN_FILES * number;
            job.down = line * FILE_SECONDS[number as usize % FILE_SECONDS.len()];
        }
    }
    let outcome = run_plan(simulation, &plan, Watch::default())?;
    let files: Vec<_> = outcome
        .jobs
        .iter()
        .filter(|end| end.kind == JobKind::Download && end.is_done)
        .collect();
    let median = |of: fn(&JobEnd) -> Option<Duration>| {
        let mut all: Vec<f64> = files
            .iter()
            .filter_map(|end| of(end))
            .map(|time| time.as_secs_f64())
            .collect();
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied().unwrap_or_default()
    };
    let points: Vec<(f64, f64)> = files
        .iter()
        .filter_map(|end| {
            Some((
                end.bytes as f64,
                (end.whole - end.first_byte?).as_secs_f64(),
            ))
        })
        .collect();
    let (start, slope) = fit(&points).unwrap_or_default();
    Ok(Measured {
        line: line as f64,
        way: way_ms as f64 / 1e3,
        throughput: 1.0 / slope.max(1e-12),
        start,
        opened: median(|end| end.opened),
        first_byte: median(|end| end.first_byte),
        files: points.len(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distance_of_two_lists_is_that_of_their_shares() {
        let one: Vec<f64> = (0..100).map(f64::from).collect();
        let later: Vec<f64> = (20..120).map(f64::from).collect();
        assert_eq!(distance(&one, &one), 0.0);
        assert!((distance(&one, &later) - 0.2).abs() < 1e-9);
    }
}
