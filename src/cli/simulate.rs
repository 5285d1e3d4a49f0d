//! `cepa simulate`: a whole network from a seed, in one thread, on virtual time.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Duration;

use cepa_common::sync::lock;
use cepa_common::words::Count;
use cepa_common::world::{self, Simulation};
use cepa_sim::log::Line;
use cepa_sim::outcome::{Outcome, Watch};
use cepa_sim::report::Report;
use cepa_sim::scenario::{self, Scenario};
use cepa_sim::search::{self, Found, Seeds};
use cepa_sim::seed::Seed;
use cepa_sim::shrink::shrink;
use cepa_sim::units::{self, Span};
use clap::Args;
use tracing::Level;

use super::against::AgainstArgs;
use super::context::Context;
use super::rehearse::ChoicesArgs;
use super::result_file::write;
use crate::terminal::CliError;
use crate::terminal::output::{self, Meter, note, say};

/// Run a whole network from a seed: real relays, clients and authorities on virtual time, with faults.
///
/// Nothing leaves this process: the network, the disks and the clocks are in memory. The same program,
/// scenario and seed give the same events. What must hold is checked all the time; a failure is told
/// with its last events, made small, and written to a file that repeats it. docs/simulation.md says what
/// is checked, what is modelled, and what is not.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cepa simulate                                      one run of `small`, ten minutes of virtual time
  cepa simulate storm --lasts 24h --html run.html    one run of a day, with plots
  cepa simulate small,storm --seeds 200 --limit 60s  many seeds, until one fails
  cepa simulate --show storm > my.toml               a scenario to change
  cepa simulate --scenario my.toml --twice           your own; are two runs the same?
  cepa simulate --replay failed-storm-7f3a.toml --log debug
  cepa simulate --choices --relays 10000 --users 1000000 --days 30 --seeds 3")]
pub(super) struct Simulate {
    /// Built-in scenarios; `all` stands for each [default: small].
    #[arg(
        value_name = "SCENARIO,...",
        value_delimiter = ',',
        value_parser = clap::builder::PossibleValuesParser::new(scenario::names().chain(["all"])),
        conflicts_with_all = ["scenario", "replay"]
    )]
    names: Vec<String>,
    /// Run the scenario in this file.
    #[arg(long, value_name = "FILE", conflicts_with = "replay")]
    scenario: Option<PathBuf>,
    /// Run a failure again from the file that was written for it.
    #[arg(long, value_name = "FILE", conflicts_with = "seed")]
    replay: Option<PathBuf>,
    /// The first seed, a hexadecimal number [default: 1].
    #[arg(long, value_name = "SEED")]
    seed: Option<Seed>,
    /// Number of seeds; they follow the first.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seeds: u64,
    /// Number of seeds that run at the same time.
    #[arg(long, value_name = "N", default_value_t = 1)]
    jobs: usize,
    /// Begin no seed after this time, counted anew for each scenario.
    #[arg(long, value_name = "TIME", value_parser = units::parse_time)]
    limit: Option<Duration>,
    /// How long load and faults go on, in place of what the scenario says.
    #[arg(long, value_name = "TIME", value_parser = units::parse_time)]
    lasts: Option<Duration>,
    /// Run each seed twice and name the first event that differs.
    #[arg(long)]
    twice: bool,
    /// Write what was measured to FILE as JSON; - for standard output.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a page with plots to FILE.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Directory for the files of failures.
    #[arg(long, value_name = "DIR", default_value = ".")]
    failures: PathBuf,
    /// Leave a failure as it is.
    #[arg(long)]
    no_shrink: bool,
    #[command(flatten)]
    against: AgainstArgs,
    #[command(flatten)]
    choices: ChoicesArgs,
    /// Print a built-in scenario and do nothing else.
    #[arg(long, value_name = "SCENARIO", value_parser = clap::builder::PossibleValuesParser::new(scenario::names()))]
    show: Option<String>,
}

/// A scenario with the name that people know it by.
struct Named {
    name: String,
    scenario: Scenario,
}

fn echo(line: &Line) {
    let node = line.node.map_or("-".to_owned(), |node| node.to_string());
    note(&format!(
        "{:>12.6} {:<5} {node:>4} {}",
        line.at.as_secs_f64(),
        line.level,
        line.text
    ));
}

impl Simulate {
    pub(super) fn main(self, context: &Context) -> Result<ExitCode, CliError> {
        if let Some(name) = &self.show {
            say(scenario::built_in(name).unwrap_or_default().trim_end());
            return Ok(ExitCode::SUCCESS);
        }
        if self.choices.is_asked() {
            let first = self.seed.unwrap_or(Seed(1));
            return self.choices.run(first, self.seeds, self.json.as_ref());
        }
        let watch = watch(context)?;
        let scenarios = self.scenarios()?;
        let simulation = world::simulate().map_err(|error| {
            CliError::failed(
                error.to_string(),
                "report this: `cepa simulate` comes before all else",
            )
        })?;
        if self.against.is_asked() {
            let scenarios = scenarios.iter().map(|named| &named.scenario);
            let first = self.seed.unwrap_or(Seed(1));
            return self.against.run(&simulation, scenarios, first, self.seeds);
        }
        let mut reports = Vec::new();
        let mut is_good = true;
        for named in &scenarios {
            let mut report = Report::new(&named.name);
            is_good &= self.run(&simulation, named, watch, &mut report)?;
            report.finish();
            let text = report.to_text();
            if !text.is_empty() && !self.is_json_said() {
                say(text.trim_end());
            }
            reports.push(report);
        }
        self.write_reports(&reports)?;
        Ok(match is_good {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        })
    }

    /// The scenarios that were asked for, with the changes that were asked for.
    fn scenarios(&self) -> Result<Vec<Named>, CliError> {
        let file = self.scenario.as_ref().or(self.replay.as_ref());
        let mut all = match file {
            Some(path) => vec![read(path)?],
            None => self.built_in()?,
        };
        for named in &mut all {
            if let Some(lasts) = self.lasts {
                named.scenario.lasts = Span::exactly(lasts);
            }
            if self.replay.is_some() && named.scenario.seed.is_none() {
                return Err(CliError::usage(
                    "this scenario has no seed, so it is no single run",
                    "run it with --scenario FILE --seed 7f3a",
                ));
            }
        }
        Ok(all)
    }

    fn built_in(&self) -> Result<Vec<Named>, CliError> {
        let names: Vec<&str> = match self.names.as_slice() {
            [] => vec!["small"],
            names if names.iter().any(|name| name == "all") => scenario::names().collect(),
            names => names.iter().map(String::as_str).collect(),
        };
        let named = |name: &str| {
            let text = scenario::built_in(name).unwrap_or_default();
            let scenario = Scenario::parse(text);
            let scenario = scenario.map_err(|error| bad_scenario(name, &error.to_string()))?;
            Ok(Named {
                name: name.to_owned(),
                scenario,
            })
        };
        names.into_iter().map(named).collect()
    }

    /// Runs one scenario. Gives false if it failed.
    fn run(
        &self,
        simulation: &Simulation,
        named: &Named,
        watch: Watch,
        report: &mut Report,
    ) -> Result<bool, CliError> {
        let first = self.seed.or(named.scenario.seed).unwrap_or(Seed(1));
        let seeds = Seeds {
            first,
            count: self.seeds.max(1),
            jobs: self.jobs,
            limit: self.limit,
            twice: self.twice,
        };
        let meter = Meter::new();
        let what = format!(
            "{}: seed {first}, {} of virtual time",
            named.name, named.scenario.lasts
        );
        meter.show(0, &what);
        let count = seeds.count;
        let kept = Mutex::new((0, 0, meter, report));
        let each = |outcome: &Outcome| {
            let mut kept = lock(&kept);
            let (done, shown, meter, report) = &mut *kept;
            report.add(outcome);
            *done += 1;
            let percent = u8::try_from(*done * 100 / count).unwrap_or(100);
            // Without a bar, each tenth is a line.
            if percent / 10 > *shown {
                *shown = percent / 10;
                meter.show(
                    percent,
                    &format!("{}: {done} of {}", named.name, Count(count, "seed")),
                );
            }
        };
        let found = search::search(simulation, &named.scenario, seeds, watch, &each);
        drop(kept);
        let found = found.map_err(|error| bad_scenario(&named.name, &error.to_string()))?;
        let told = told(named, first, &found);
        match self.is_json_said() {
            // Standard output is for machines then.
            true => note(&told),
            false => say(&told),
        }
        let Some(failed) = &found.failed else {
            return Ok(true);
        };
        tell_failure(failed);
        if self.replay.is_none() {
            self.keep(simulation, named, failed, watch)?;
        }
        Ok(false)
    }

    /// Is the JSON for standard output?
    fn is_json_said(&self) -> bool {
        self.json.as_deref() == Some(Path::new("-"))
    }

    /// Makes a failure small and writes it to a file.
    fn keep(
        &self,
        simulation: &Simulation,
        named: &Named,
        failed: &Outcome,
        watch: Watch,
    ) -> Result<(), CliError> {
        let mut scenario = Scenario {
            seed: Some(failed.seed),
            ..named.scenario.clone()
        };
        if !self.no_shrink {
            let meter = Meter::new();
            let tries = Cell::new(0u8);
            let each = |faults: usize, is_same: bool| {
                tries.set(tries.get().saturating_add(1));
                let tries = tries.get();
                let ends = if is_same {
                    "fails too"
                } else {
                    "does not fail so"
                };
                let what = format!(
                    "making it small, run {tries}: with {} it {ends}",
                    Count(faults, "fault")
                );
                meter.show(tries.min(99), &what);
            };
            // What the tries say at debug is of no use.
            let quiet = Watch {
                echo: None,
                ..watch
            };
            let shrunk = shrink(simulation, &named.scenario, failed, quiet, &each);
            let shrunk = shrunk.map_err(|error| bad_scenario(&named.name, &error.to_string()))?;
            drop(meter);
            if let Some(shrunk) = shrunk {
                note(&format!(
                    "made small in {}: {} of {} are left",
                    Count(shrunk.runs, "run"),
                    shrunk.scenario.fault.len(),
                    Count(failed.faults, "fault"),
                ));
                scenario = shrunk.scenario;
            }
        }
        let path = self
            .failures
            .join(format!("failed-{}-{}.toml", named.name, failed.seed));
        let failure = failed
            .failure()
            .map(|failure| format!("{}: {}", failure.invariant, failure.what));
        let text = format!(
            "# {}\n{}",
            failure.unwrap_or_default().replace('\n', " "),
            scenario.to_text()
        );
        write(&path, &text)?;
        note(&format!(
            "it is in {0}; run it again with `{1} simulate --replay {0} --log debug`",
            path.display(),
            output::program()
        ));
        Ok(())
    }

    fn write_reports(&self, reports: &[Report]) -> Result<(), CliError> {
        if let Some(path) = &self.json {
            let each: Vec<String> = reports.iter().map(Report::to_json).collect();
            let text = match each.as_slice() {
                [one] => one.clone(),
                many => format!("[{}]", many.join(",\n")),
            };
            match path == Path::new("-") {
                true => say(&text),
                false => write(path, &text)?,
            }
        }
        if let Some(path) = &self.html {
            let pages: String = reports.iter().map(Report::to_html).collect();
            write(path, &pages)?;
        }
        Ok(())
    }
}

/// How runs are watched: `--log LEVEL` shows each line of the nodes.
fn watch(context: &Context) -> Result<Watch, CliError> {
    let Some(filter) = context.filter() else {
        return Ok(Watch::default());
    };
    if filter == "off" {
        return Ok(Watch::default());
    }
    let level: Level = filter.parse().map_err(|_| {
        CliError::usage(
            format!("--log {filter} is no level"),
            "a simulation takes one of off, error, warn, info, debug, trace",
        )
    })?;
    Ok(Watch {
        level: Some(level),
        echo: Some(echo),
        ..Watch::default()
    })
}

fn bad_scenario(name: &str, problem: &str) -> CliError {
    CliError::usage(
        format!("{name}: {}", problem.trim_end()),
        "`cepa simulate --show small` prints a scenario that works",
    )
}

fn read(path: &Path) -> Result<Named, CliError> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        CliError::usage(
            format!("cannot read {}: {error}", path.display()),
            "name a file that `cepa simulate --show small` could have written",
        )
    })?;
    let name = path
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let scenario = Scenario::parse(&text);
    let scenario =
        scenario.map_err(|error| bad_scenario(&path.display().to_string(), &error.to_string()))?;
    Ok(Named { name, scenario })
}

fn told(named: &Named, first: Seed, found: &Found) -> String {
    let hours = found.lasted.as_secs_f64() / 3_600.0;
    format!(
        "{}: {} from {first} on, {hours:.1} hours of virtual time, {}: {}",
        named.name,
        Count(found.ran, "seed"),
        Count(found.events, "event"),
        match found.failed {
            None => "all holds",
            Some(_) => "FAILED",
        }
    )
}

fn tell_failure(failed: &Outcome) {
    if let Some(failure) = failed.failure() {
        for line in &failed.story {
            note(line);
        }
        note(&format!(
            "seed {} fails {:.3} s after its beginning: {}: {}",
            failed.seed,
            failure.at.as_secs_f64(),
            failure.invariant,
            failure.what
        ));
    }
}
