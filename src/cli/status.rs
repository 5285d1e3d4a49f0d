//! `cepa status`: how the nodes that run do.

use std::process::ExitCode;

use clap::Args;

use super::ask::{Running, Which, ask_each, there};
use super::context::state_dir;
use super::status_view::{self, overview};
use crate::control::ControlClient;
use crate::terminal::output::say;
use crate::terminal::{CliError, NETWORK};

/// Show how a running node does, whatever it is: a client, a relay, an exit, an authority, or several of these.
///
/// A client shows its consensus, guards, circuits and streams; a relay what the network says of it, what it carries,
/// its limits and what it has refused; an authority how its vote goes. What is wrong comes last. Where several nodes
/// run, each is shown in a line, with the --state DIR that names it.
/// The exit code is 0 if all that is shown does its work, and 3 if not.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cepa status
  cepa status --state ~/.local/state/cepa/relay
  cepa status --state ~/.local/state/cepa/client --json")]
pub(super) struct StatusCommand {
    #[command(flatten)]
    which: Which,
    /// Print JSON, as the node answers it (docs/control.md).
    #[arg(long)]
    json: bool,
}

impl StatusCommand {
    pub(super) fn main(self) -> Result<ExitCode, CliError> {
        let dir = match self.which.named()? {
            Some(named) => named.dir,
            None => {
                let mut there = there()?;
                match there.len() {
                    0 => state_dir(None, "client")?,
                    1 => there.swap_remove(0),
                    _ => return several(ask_each(there), self.json),
                }
            }
        };
        let node = ControlClient::of(&dir)?;
        let text = node.status_text()?;
        let status = node.read(&text)?;
        if self.json {
            say(text.trim_end());
        } else {
            status_view::lines(&status)
                .iter()
                .for_each(|line| say(line));
        }
        Ok(exit_code(status.is_ready()))
    }
}

/// Shows each of several nodes in a line.
fn several(nodes: Vec<Running>, json: bool) -> Result<ExitCode, CliError> {
    if json {
        let dirs: Vec<_> = nodes
            .iter()
            .map(|node| format!("\n  --state {}", node.dir.display()))
            .collect();
        return Err(CliError::usage(
            format!("{} nodes run here", nodes.len()),
            format!("say which one is meant:{}", dirs.concat()),
        ));
    }
    overview(&nodes).iter().for_each(|line| say(line));
    let is_ready = |node: &Running| node.status.as_ref().is_ok_and(|status| status.is_ready());
    Ok(exit_code(nodes.iter().all(is_ready)))
}

fn exit_code(is_ready: bool) -> ExitCode {
    match is_ready {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(NETWORK),
    }
}
