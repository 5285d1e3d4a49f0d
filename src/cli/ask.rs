//! `cepa status` and `cepa new-identity`: a word with a client that runs.

use std::path::PathBuf;
use std::process::ExitCode;

use cepa_common::words::{At, Count};
use clap::Args;
use serde_json::Value;

use super::context::state_dir;
use crate::config::Config;
use crate::control::{self, Answer, AskError, ControlRequest, NewIdentity, Status};
use crate::terminal::output::say;
use crate::terminal::{CliError, NETWORK};

/// Which client is meant.
#[derive(Debug, Default, Args)]
pub(super) struct Which {
    /// State directory of the client that runs [default: that of the one client that runs for this user].
    ///
    /// Needed when several clients run.
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    state: Option<PathBuf>,
    /// Configuration file of the client that runs, if it was started by `cepa run`.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Which {
    /// The state directory of the client that is meant, and the configuration if that was named.
    pub(super) fn find(self) -> Result<(PathBuf, Option<Config>), CliError> {
        if let Some(file) = self.config {
            let config = Config::load(&file)?;
            return Ok((config.state.dir.clone(), Some(config)));
        }
        let dir = match self.state {
            Some(dir) => dir,
            None => found(state_dir(None, "client")?, control::running())?,
        };
        Ok((dir, None))
    }

    pub(super) fn ask(self, request: ControlRequest) -> Result<Value, CliError> {
        let (dir, _) = self.find()?;
        match control::ask(&dir, request) {
            Ok(Answer::Ok(result)) => Ok(result),
            Ok(Answer::Error { what, hint }) => Err(CliError::failed(what, hint)),
            Err(error) => {
                let hint = match &error {
                    AskError::NobodyThere(_) => {
                        "start it with `cepa proxy`, or name the directory of one that runs with --state DIR"
                    }
                    AskError::Silent(_) => {
                        "its log may say why; if it does not come round, end it and start it anew"
                    }
                    AskError::Control(_) => "start the client with a shorter --state DIR",
                    _ => "look at the client's log",
                };
                Err(CliError::failed(error.to_string(), hint))
            }
        }
    }
}

/// The state directory of the one client that runs: with the usual state directory, or with one of `others`.
fn found(usual: PathBuf, others: Vec<PathBuf>) -> Result<PathBuf, CliError> {
    let is_usual = |dir: &PathBuf| std::fs::canonicalize(&usual).is_ok_and(|usual| usual == *dir);
    let others = others.into_iter().filter(|dir| !is_usual(dir));
    let mut there: Vec<_> = std::iter::once(usual.clone())
        .chain(others)
        .filter(|dir| control::is_there(dir))
        .collect();
    if there.len() > 1 {
        let dirs: Vec<_> = there
            .iter()
            .map(|dir| format!("\n  --state {}", dir.display()))
            .collect();
        return Err(CliError::usage(
            format!("{} clients run here", there.len()),
            format!("say which one is meant:{}", dirs.concat()),
        ));
    }
    Ok(there.pop().unwrap_or(usual))
}

fn unreadable() -> CliError {
    let hint = "is it of the same version as this program?";
    CliError::failed("the client's answer cannot be read", hint)
}

/// Show how a running client does: its consensus, guards, circuits and streams, and what is wrong.
///
/// The exit code is 0 for a client that is ready and 3 for one that is not.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cepa status
  cepa status --state ~/.local/state/cepa/client --json")]
pub(super) struct StatusCommand {
    #[command(flatten)]
    which: Which,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl StatusCommand {
    pub(super) fn main(self) -> Result<ExitCode, CliError> {
        let json = self.json;
        let answer = self.which.ask(ControlRequest::Status)?;
        let status: Status = serde_json::from_value(answer.clone()).map_err(|_| unreadable())?;
        if json {
            say(&answer.to_string());
        } else {
            lines(&status).iter().for_each(|line| say(line));
        }
        Ok(match status.is_ready() {
            true => ExitCode::SUCCESS,
            false => ExitCode::from(NETWORK),
        })
    }
}

fn lines(status: &Status) -> Vec<String> {
    let mut lines = vec![format!("{} ({} %)", status.stage, status.percent)];
    if let (Some(relays), Some(until)) = (status.relays, status.valid_until) {
        lines.push(format!(
            "consensus  {}, valid until {}",
            Count(relays, "relay"),
            At(until)
        ));
    }
    for guard in &status.guards {
        let (name, identity) = (&guard.nickname, &guard.identity);
        lines.push(format!("guard      {name} {identity} {}", guard.health));
    }
    lines.push(format!(
        "circuits   {} ready for streams, {} unused; {} with a second leg; {} open; {} built so far",
        status.circuits,
        status.clean,
        status.paired,
        Count(status.streams, "stream"),
        status.built
    ));
    lines.extend(
        status
            .alarms
            .iter()
            .map(|text| format!("ALARM      {text}")),
    );
    lines.extend(
        status
            .warnings
            .iter()
            .map(|text| format!("warning    {text}")),
    );
    lines
}

/// Give a running client a new identity: all its circuits are retired at once.
///
/// No stream that is opened from now on shares a circuit with those before; streams that are open go on.
/// The guards stay. A client gets a new identity at most every 10 seconds, as each costs the network new
/// circuits. What your programs tell about you does not change: cookies and logins outlive an identity.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cepa new-identity
  cepa new-identity --state ~/.local/state/cepa/client")]
pub(super) struct NewIdentityCommand {
    #[command(flatten)]
    which: Which,
}

impl NewIdentityCommand {
    pub(super) fn main(self) -> Result<ExitCode, CliError> {
        let answer = self.which.ask(ControlRequest::NewIdentity)?;
        let done: NewIdentity = serde_json::from_value(answer).map_err(|_| unreadable())?;
        say(&format!("{} retired", Count(done.retired, "circuit")));
        Ok(ExitCode::SUCCESS)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::control::GuardStatus;
    use std::os::unix::net::UnixListener;

    #[test]
    fn the_one_client_that_runs_is_found() {
        let kept = tempfile::tempdir().unwrap();
        let [usual, other] = ["usual", "other"].map(|name| kept.path().join(name));
        for dir in [&usual, &other] {
            std::fs::create_dir(dir).unwrap();
        }
        let look = |others: &[&PathBuf]| {
            let others = others.iter().map(|dir| (*dir).clone()).collect();
            found(usual.clone(), others)
        };
        // Where none runs, the usual directory is what the error speaks of.
        assert_eq!(look(&[&other]).unwrap(), usual);
        let _one = UnixListener::bind(other.join("control.sock")).unwrap();
        assert_eq!(look(&[&other, &usual]).unwrap(), other);
        let _two = UnixListener::bind(usual.join("control.sock")).unwrap();
        let error = look(&[&other, &usual]).unwrap_err();
        assert_eq!(error.what, "2 clients run here");
        assert!(error.hint.contains(&format!("--state {}", other.display())));
    }

    #[test]
    fn a_status_in_lines() {
        let status = Status {
            stage: "ready".to_owned(),
            percent: 100,
            relays: Some(8),
            valid_until: Some(1_900_000_000),
            guards: vec![GuardStatus {
                nickname: "oak".to_owned(),
                identity: "07".repeat(32),
                health: "answers".to_owned(),
            }],
            circuits: 4,
            clean: 2,
            built: 31,
            paired: 1,
            streams: 7,
            alarms: vec!["two consensuses".to_owned()],
            warnings: Vec::new(),
            process: 7,
            started: Some(1_900_000_000),
            ready_since: None,
            listeners: Vec::new(),
            valid_after: None,
            exits: 3,
            datagram_exits: 2,
            clock_ahead: Some(1),
        };
        let lines = lines(&status);
        assert_eq!(lines[0], "ready (100 %)");
        assert!(lines[1].contains("8 relays, valid until 2030-03-17T17:46:40Z"));
        assert!(lines[2].contains("oak") && lines[2].ends_with("answers"));
        assert!(lines[3].contains("1 with a second leg"));
        assert!(lines[3].contains("4 ready") && lines[3].contains("7 streams"));
        assert_eq!(lines[4], "ALARM      two consensuses");
    }
}
