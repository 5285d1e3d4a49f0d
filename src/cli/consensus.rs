//! `cepa consensus`: who is in the network.

use std::process::ExitCode;

use clap::Args;

use super::output::{self, say};
use super::{CliError, Context, NetworkArg, block_on};
use crate::app::{ConsensusView, Visitor};

/// Fetch the network's consensus, verify it and show it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cepa consensus --network network.toml
  cepa consensus --network network.toml --json | jq '.relays[].nickname'")]
pub(super) struct Consensus {
    #[command(flatten)]
    network: NetworkArg,
    /// Write JSON, for scripts.
    #[arg(long)]
    json: bool,
}

impl Consensus {
    pub(super) fn main(self, context: &Context) -> Result<ExitCode, CliError> {
        context.log_to_stderr("warn")?;
        let consensus = block_on(0, async {
            let visitor = output::with_meter(async |progress| {
                Visitor::join(&self.network.network, progress).await
            });
            let visitor = Box::pin(visitor).await?;
            let consensus = visitor.consensus();
            visitor.leave().await;
            Ok(consensus?)
        })?;
        if self.json {
            let text = serde_json::to_string_pretty(&consensus).map_err(|error| {
                CliError::failed(
                    format!("cannot write JSON: {error}"),
                    "report this: it is a bug",
                )
            })?;
            say(&text);
        } else {
            lines(&consensus).iter().for_each(|line| say(line));
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The consensus as lines for people.
fn lines(consensus: &ConsensusView) -> Vec<String> {
    let mut lines = vec![
        format!(
            "network      {} ({})",
            consensus.network, consensus.network_id
        ),
        format!("valid after  {}", consensus.valid_after),
        format!("fresh until  {}", consensus.fresh_until),
        format!("valid until  {}", consensus.valid_until),
        format!(
            "signed by    {} of {} authorities",
            consensus.signatures, consensus.authorities
        ),
        format!("relays       {}", consensus.relays.len()),
    ];
    let name = consensus
        .relays
        .iter()
        .map(|relay| relay.nickname.len())
        .max()
        .unwrap_or(0);
    for relay in &consensus.relays {
        let addresses: Vec<String> = relay.addresses.iter().map(ToString::to_string).collect();
        lines.push(format!(
            "{}  {:name$}  {}  weight {}  {}  {}  exits to {}",
            relay.identity,
            relay.nickname,
            addresses.join(","),
            relay.weight,
            relay.suite,
            relay.flags.join(","),
            relay.exit_ports,
        ));
    }
    lines
}
