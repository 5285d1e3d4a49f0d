//! `cepa simulate --choices`: what the choices of many clients do to a large network.

use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cepa_common::words::Count;
use cepa_common::world::blocking;
use cepa_sim::choices;
use cepa_sim::choices::options::Options;
use cepa_sim::choices::report::ChoicesReport;
use cepa_sim::seed::Seed;
use clap::Args;
use tokio::sync::mpsc;

use super::context::block_on;
use super::result_file::write;
use crate::terminal::CliError;
use crate::terminal::output::{Meter, note, say};
use crate::terminal::stop::Stop;

/// The most relays that a consensus lists.
const MOST_RELAYS: u64 = 131_072;

/// What is rehearsed: clients that choose and send nothing.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Choices")]
pub(super) struct ChoicesArgs {
    /// Only have clients choose: guards, paths, circuits kept ready, fetches from the directory. No cells.
    #[arg(
        long,
        conflicts_with_all = ["names", "scenario", "replay", "twice", "html", "show", "lasts", "limit", "jobs"]
    )]
    choices: bool,
    /// Relays of the network.
    #[arg(long, value_name = "N", requires = "choices", default_value_t = 1_000,
        value_parser = clap::value_parser!(u64).range(10..=MOST_RELAYS))]
    relays: u64,
    /// Clients that are rehearsed.
    #[arg(long, value_name = "N", requires = "choices", default_value_t = 1_000,
        value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    clients: u64,
    /// Clients that the network has, of which those rehearsed are a sample [default: --clients].
    #[arg(long, value_name = "N", requires = "choices",
        value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    users: Option<u64>,
    /// Days that are rehearsed; after the first one all is counted.
    #[arg(long, value_name = "N", requires = "choices", default_value_t = 2,
        value_parser = clap::value_parser!(u64).range(1..=1_000))]
    days: u64,
    /// Hours a day in which each user reads pages.
    #[arg(long, value_name = "HOURS", requires = "choices", default_value_t = 4,
        value_parser = clap::value_parser!(u64).range(0..=24))]
    hours_a_day: u64,
    /// Programs of each user whose streams share no circuits.
    #[arg(long, value_name = "N", requires = "choices", default_value_t = 3,
        value_parser = clap::value_parser!(u64).range(1..=100))]
    programs: u64,
}

impl ChoicesArgs {
    /// Is this what was asked for?
    pub(super) fn is_asked(&self) -> bool {
        self.choices
    }

    fn options(&self, seed: Seed) -> Options {
        let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        Options {
            relays: size(self.relays),
            clients: size(self.clients),
            users: self.users.unwrap_or(self.clients) as f64,
            days: self.days,
            hours_a_day: self.hours_a_day as f64,
            programs: self.programs,
            seed,
        }
    }

    /// Rehearses `seeds` networks, the first from `first`, and says what came of it.
    pub(super) fn run(
        &self,
        first: Seed,
        seeds: u64,
        json: Option<&PathBuf>,
    ) -> Result<ExitCode, CliError> {
        let (asked, all) = block_on(1, self.rehearse(first, seeds))?;
        let report = ChoicesReport::new(&self.options(first), &all);
        let is_json_said = json.is_some_and(|path| path == Path::new("-"));
        let told = format!(
            "{} and {} of {}, {} and {}{}",
            Count(self.relays, "relay"),
            Count(self.clients, "client"),
            report.users,
            Count(self.days, "day"),
            Count(all.len() as u64, "seed"),
            if asked {
                "; stopped before the end"
            } else {
                ""
            }
        );
        match is_json_said {
            true => note(&told),
            false => {
                say(&told);
                say(report.to_text().trim_end());
            }
        }
        match json {
            Some(_) if is_json_said => say(&report.to_json()),
            Some(path) => write(path, &report.to_json())?,
            None => {}
        }
        Ok(match asked {
            true => ExitCode::FAILURE,
            false => ExitCode::SUCCESS,
        })
    }

    /// Rehearses until all seeds are done or somebody asks to stop, and says whether somebody did.
    async fn rehearse(
        &self,
        first: Seed,
        seeds: u64,
    ) -> Result<(bool, Vec<choices::report::Choices>), CliError> {
        let failed = |error: String| CliError::failed(error, "try fewer relays or clients");
        let mut stop = Stop::listen().map_err(|error| failed(error.to_string()))?;
        let is_over = Arc::new(AtomicBool::new(false));
        let meter = Meter::new();
        let mut all = Vec::new();
        for number in 0..seeds.max(1) {
            let seed = Seed(first.0.wrapping_add(number));
            let options = self.options(seed);
            // One place: of news that nobody has heard yet, only some matter.
            let (news, mut heard) = mpsc::channel(1);
            let over = is_over.clone();
            let mut work = blocking::run(move || {
                choices::run(&options, &mut |done, of| {
                    let _ = news.try_send(done * 100 / of.max(1));
                    !over.load(Ordering::Relaxed)
                })
            });
            let mut shown = u64::MAX;
            let done = loop {
                tokio::select! {
                    done = &mut work => break done,
                    Some(percent) = heard.recv() => {
                        if percent / 5 != shown {
                            shown = percent / 5;
                            let percent = u8::try_from(percent).unwrap_or(100);
                            meter.show(percent, &format!("seed {seed}"));
                        }
                    }
                    _ = stop.requested() => is_over.store(true, Ordering::Relaxed),
                }
            };
            let done = done.map_err(|error| failed(error.to_string()))?;
            all.push(done.map_err(|error| failed(error.to_string()))?);
            if is_over.load(Ordering::Relaxed) {
                return Ok((true, all));
            }
        }
        Ok((false, all))
    }
}
