//! `cepa check`: does the client do its work, and what goes beside it?

use std::process::ExitCode;

use clap::Args;

use super::ask::{Found, Which};
use super::context::now;
use crate::check::{self, Report, Subject, Verdict};
use crate::terminal::output::say;
use crate::terminal::{CliError, FAILED};

/// Check whether a running client does its work, and what goes beside it.
///
/// Looks at the client, its ports, the exit that a stream comes out at, the clock, how this machine looks names up,
/// what the environment tells programs, datagrams, and who may reach the client's files. Each line says ok, warn or
/// fail, what was found, and what to do. Nothing is sent anywhere but to the client and through it to an exit, which
/// is asked nothing, and to what --to names. No name is looked up.
/// The exit code is 1 if something fails, and 0 if nothing does.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cepa check
  cepa check --to example.org:443
  cepa check --config node.toml --json")]
pub(super) struct Check {
    #[command(flatten)]
    which: Which,
    /// Reach this destination too, through the client's port.
    #[arg(long, value_name = "HOST:PORT")]
    to: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Check {
    pub(super) fn main(self) -> Result<ExitCode, CliError> {
        let Found { dir, config } = self.which.client()?;
        let subject = Subject {
            dir,
            config,
            to: self.to,
        };
        let report = check::all(&subject, now());
        if self.json {
            let text = serde_json::to_string(&report);
            say(&text.map_err(|error| {
                CliError::failed(error.to_string(), "report this: it is a bug")
            })?);
        } else {
            lines(&report).iter().for_each(|line| say(line));
        }
        Ok(match report.ok {
            true => ExitCode::SUCCESS,
            false => ExitCode::from(FAILED),
        })
    }
}

fn lines(report: &Report) -> Vec<String> {
    let names = report
        .checks
        .iter()
        .map(|check| check.check.chars().count());
    let width = names.max().unwrap_or(0);
    let mut lines = Vec::new();
    for check in &report.checks {
        let result = match check.result {
            Verdict::Ok => "ok",
            Verdict::Warn => "warn",
            Verdict::Fail => "FAIL",
        };
        lines.push(format!(
            "{result:4}  {:width$}  {}",
            check.check, check.says
        ));
        if !check.hint.is_empty() {
            lines.push(format!("{:4}  {:width$}  try: {}", "", "", check.hint));
        }
    }
    lines
}
