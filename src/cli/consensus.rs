//! `cepa consensus`: who is in the network.

use std::path::PathBuf;
use std::process::ExitCode;

use cepa_common::dir::{UnixSecs, inspect_consensus};
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use super::consensus_view::{ConsensusView, Order, Verdict, is_flag};
use super::context::{Context, NetworkArg, block_on, now};
use crate::node::{Visitor, read_network, write_out};
use crate::terminal::output::{self, note, say};
use crate::terminal::{CliError, FAILED};

/// Fetch the network's consensus, verify it and show it.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  cepa consensus --network network.toml
  cepa consensus --network network.toml --flag exit --sort nickname
  cepa consensus --network network.toml --json | jq '.relays[].nickname'
  cepa consensus --network network.toml --out consensus
  cepa consensus verify consensus --network network.toml"
)]
pub(super) struct Consensus {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    network: NetworkArg,
    /// Show only relays with this flag; may be repeated, all of them count.
    #[arg(long, value_name = "FLAG", value_parser = parse_flag)]
    flag: Vec<String>,
    /// Order of the relays.
    #[arg(long, value_enum, default_value_t = Sort::Weight)]
    sort: Sort,
    /// Show identities and families in full.
    #[arg(long)]
    wide: bool,
    /// Also write the document itself, as the authorities signed it, to this file.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Write JSON, for scripts.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Action {
    Verify(Verify),
}

/// Check a consensus off line: every signature, its digest and its times.
///
/// The exit code is 0 when more than half of the authorities of the network's file signed it and it is
/// valid at the time asked for, else 1.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cepa consensus verify consensus --network network.toml
  cepa consensus verify consensus --network network.toml --at 2026-03-01T12:00:00Z --json")]
struct Verify {
    /// The document, as `cepa consensus --out` writes it.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    network: NetworkArg,
    /// Judge it as of this time (RFC 3339, or seconds since 1970) [default: now].
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    at: Option<UnixSecs>,
    /// Write JSON, for scripts.
    #[arg(long)]
    json: bool,
}

/// Order of the relays.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Sort {
    /// The heaviest first.
    Weight,
    /// By nickname.
    Nickname,
    /// By identity.
    Identity,
}

fn parse_flag(text: &str) -> Result<String, String> {
    if is_flag(text) {
        Ok(text.to_owned())
    } else {
        Err("the flags are valid, running, stable, fast, guard, exit, hsdir, authority".to_owned())
    }
}

/// Reads a time: RFC 3339, or seconds since 1970.
pub(super) fn parse_time(text: &str) -> Result<UnixSecs, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(seconds);
    }
    let time = humantime::parse_rfc3339_weak(text).map_err(|error| error.to_string())?;
    let since = time.duration_since(std::time::UNIX_EPOCH);
    since
        .map(|since| since.as_secs())
        .map_err(|_| "it is before 1970".to_owned())
}

/// Prints a value as JSON, for people and scripts alike.
pub(super) fn say_json(value: &impl Serialize) -> Result<(), CliError> {
    let text = serde_json::to_string_pretty(value).map_err(|error| {
        CliError::failed(
            format!("cannot write JSON: {error}"),
            "report this: it is a bug",
        )
    })?;
    say(&text);
    Ok(())
}

impl Consensus {
    pub(super) fn main(self, context: &Context) -> Result<ExitCode, CliError> {
        if let Some(Action::Verify(verify)) = self.action {
            return verify.main();
        }
        context.log_to_stderr("warn")?;
        let (network, consensus) = block_on(0, async {
            let visitor = output::with_meter(async |progress| {
                Visitor::join(self.network.file(), progress).await
            });
            let visitor = Box::pin(visitor).await?;
            let consensus = visitor.consensus();
            visitor.leave().await;
            Ok(consensus?)
        })?;
        if let Some(path) = &self.out {
            write_out(path, consensus.bytes())?;
            note(&format!("the document is in {}", path.display()));
        }
        let mut view = ConsensusView::new(&network, &consensus, now());
        view.keep_flags(&self.flag);
        view.sort(match self.sort {
            Sort::Weight => Order::Weight,
            Sort::Nickname => Order::Nickname,
            Sort::Identity => Order::Identity,
        });
        if self.json {
            say_json(&view)?;
        } else {
            view.lines(self.wide).iter().for_each(|line| say(line));
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Verify {
    fn main(self) -> Result<ExitCode, CliError> {
        let network = read_network(self.network.file())?;
        let bytes = std::fs::read(&self.file).map_err(|error| {
            CliError::usage(
                format!("cannot read {}: {error}", self.file.display()),
                "`cepa consensus --out FILE` writes one",
            )
        })?;
        let inspection = inspect_consensus(&bytes, &network).map_err(|error| {
            CliError::failed(
                format!("{} is no consensus: {error}", self.file.display()),
                "`cepa consensus --out FILE` writes one",
            )
        })?;
        let verdict = Verdict::new(&network, &inspection, self.at.unwrap_or_else(now));
        if self.json {
            say_json(&verdict)?;
        } else {
            verdict.lines().iter().for_each(|line| say(line));
        }
        Ok(ExitCode::from(if verdict.ok { 0 } else { FAILED }))
    }
}
