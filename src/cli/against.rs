//! `cepa simulate --against` and `--calibrate`: how near the models are to full runs.

use std::process::ExitCode;

use cepa_common::world::Simulation;
use cepa_sim::against::{self, Pair, choices, flows};
use cepa_sim::outcome::Outcome;
use cepa_sim::plan::Plan;
use cepa_sim::scenario::Scenario;
use cepa_sim::seed::Seed;
use clap::{Args, ValueEnum};

use crate::terminal::CliError;
use crate::terminal::output::{Meter, note, say};

/// Rates of lines (Mbit/s) and ways (ms) that are measured by `--calibrate`.
const LINES: [u64; 3] = [2, 8, 32];
const WAYS: [u64; 3] = [10, 30, 80];

/// A model of a whole network.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Model {
    /// Clients that choose and send nothing.
    Choices,
    /// Flows of bytes that share lines.
    Flows,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Models")]
pub(super) struct AgainstArgs {
    /// Run scenarios in full and by a model, and say how near the model is.
    #[arg(long, value_name = "MODEL", conflicts_with_all = ["choices", "twice", "html", "replay", "json"])]
    against: Option<Model>,
    /// Measure, in full runs of one client, what the model of flows takes from them; or only for a line and way.
    #[arg(long, value_name = "MBIT,MS", num_args = 0..=1, value_delimiter = ',', require_equals = true,
        default_missing_value = "0,0", conflicts_with_all = ["against", "choices"])]
    calibrate: Vec<u64>,
}

fn failed(error: impl std::fmt::Display) -> CliError {
    CliError::usage(
        error.to_string(),
        "`cepa simulate --show small` prints a scenario that works",
    )
}

impl AgainstArgs {
    /// Is this what was asked for?
    pub(super) fn is_asked(&self) -> bool {
        self.against.is_some() || !self.calibrate.is_empty()
    }

    /// Compares, for so many seeds from the first.
    pub(super) fn run<'a>(
        &self,
        simulation: &Simulation,
        scenarios: impl Iterator<Item = &'a Scenario>,
        first: Seed,
        seeds: u64,
    ) -> Result<ExitCode, CliError> {
        if !self.calibrate.is_empty() {
            return self.calibrate(simulation, first);
        }
        let mut is_near = true;
        for scenario in scenarios {
            let pairs = self.pairs(simulation, scenario, first, seeds.max(1))?;
            is_near &= pairs.iter().all(Pair::is_near);
            say(against::to_text(&pairs).trim_end());
        }
        Ok(match is_near {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        })
    }

    fn pairs(
        &self,
        simulation: &Simulation,
        scenario: &Scenario,
        first: Seed,
        seeds: u64,
    ) -> Result<Vec<Pair>, CliError> {
        let meter = Meter::new();
        let mut all = Vec::new();
        let (mut full, mut model) = (flows::Times::default(), flows::Times::default());
        for number in 0..seeds {
            let seed = Seed(first.0.wrapping_add(number));
            let percent = u8::try_from(number * 100 / seeds).unwrap_or(100);
            meter.show(percent, &format!("seed {seed}, in full and on paper"));
            let plan = Plan::draw(scenario, seed).map_err(failed)?;
            match self.against {
                Some(Model::Flows) => {
                    let compared = flows::compare(simulation, &plan).map_err(failed)?;
                    let (outcome, one, other) = compared;
                    complain_of(&outcome);
                    full.add(&one);
                    model.add(&other);
                }
                _ => {
                    let compared = choices::compare(simulation, &plan).map_err(failed)?;
                    let (outcome, pairs) = compared;
                    complain_of(&outcome);
                    all.push(pairs);
                }
            }
        }
        Ok(match self.against {
            Some(Model::Flows) => flows::pairs(&mut full, &mut model),
            _ => against::mean(&all),
        })
    }

    fn calibrate(&self, simulation: &Simulation, seed: Seed) -> Result<ExitCode, CliError> {
        let points: Vec<(u64, u64)> = match self.calibrate.as_slice() {
            [line, way] if *line > 0 => vec![(*line, *way)],
            _ => LINES
                .iter()
                .flat_map(|line| WAYS.iter().map(|way| (*line, *way)))
                .collect(),
        };
        for (line, way) in points {
            let measured = flows::measure(simulation, line, way, seed).map_err(failed)?;
            say(&format!(
                "{line:>3} Mbit/s, {way:>3} ms each way: {:>8.4} MB/s, {:.4} of the line, start {:>7.4} s, open {:>7.2} ms, first \
                 byte {:>7.2} ms, {} files",
                measured.throughput / 1e6,
                measured.throughput / measured.line,
                measured.start,
                measured.opened * 1e3,
                measured.first_byte * 1e3,
                measured.files,
            ));
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// A run that fails is compared all the same, and said to have failed.
fn complain_of(outcome: &Outcome) {
    if let Some(failure) = outcome.failure() {
        note(&format!(
            "seed {} fails: {}: {}",
            outcome.seed, failure.invariant, failure.what
        ));
    }
}
