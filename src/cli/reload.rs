//! `cepa reload`: has a node that runs read its configuration again.

use std::process::ExitCode;

use clap::Args;

use super::ask::{Found, Which, there};
use crate::control::ControlClient;
use crate::terminal::output::say;
use crate::terminal::{CliError, FAILED};

/// Have a node that runs read its configuration again.
///
/// The answer says what has changed, what needs a restart and why, and why a file was refused: a bad file
/// changes nothing. docs/config.md says of each key when it changes. A node reads its file by itself some
/// seconds after it has changed; SIGHUP does the same as this command.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cepa reload
  cepa reload --state /var/lib/cepa")]
pub(super) struct Reload {
    #[command(flatten)]
    which: Which,
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
}

impl Reload {
    pub(super) fn main(self) -> Result<ExitCode, CliError> {
        let report = ControlClient::of(&found(self.which)?.dir)?.reload()?;
        match self.json {
            true => say(&serde_json::to_string(&report).unwrap_or_default()),
            false => report.lines(false).iter().for_each(|line| say(line)),
        }
        Ok(match report.refused {
            Some(_) => ExitCode::from(FAILED),
            None => ExitCode::SUCCESS,
        })
    }
}

/// The node that is meant: the one that was named, or else the only one that runs.
fn found(which: Which) -> Result<Found, CliError> {
    if let Some(named) = which.named()? {
        return Ok(named);
    }
    let mut dirs = there()?;
    match (dirs.pop(), dirs.len()) {
        (Some(dir), 0) => Ok(Found { dir, config: None }),
        (None, _) => Err(CliError::failed(
            "no node runs here for this user",
            "name its state directory with --state DIR",
        )),
        (Some(last), more) => {
            dirs.push(last);
            let dirs: Vec<_> = (dirs.iter())
                .map(|dir| format!("\n  --state {}", dir.display()))
                .collect();
            Err(CliError::usage(
                format!("{} nodes run here", more + 1),
                format!("say which one is meant:{}", dirs.concat()),
            ))
        }
    }
}
