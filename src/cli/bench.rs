//! `cepa bench`: what a network carries and what that costs.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::context::{Context, block_on};
use super::links::LinkArgs;
use crate::bench::{self, Options};
use crate::config::MultipathKind;
use crate::terminal::CliError;
use crate::testnet::{Shape, Workdir};

/// Measure what a network carries on this machine: throughput, first bytes, circuits, ping, processor time, memory.
///
/// Starts a local network, a process for each node, unless --network names one that runs. Beside it
/// runs a chain of three plain TCP forwarders on links like the network's: ratios to it (of_plain)
/// can be compared between machines, the rest can not. docs/bench.md says how each row is measured.
/// Ctrl-C ends at once and shows what has been measured.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cepa bench                                         all rows on a local network
  cepa bench --only plain-down-1,down-1 --duration 10s
  cepa bench --delay 30ms --bandwidth 100mbit --html bench.html
  cepa bench --json - | jq '.rows[] | {id, values}'")]
pub(super) struct Bench {
    /// The file of a network that runs [default: a local one is started].
    #[arg(long, value_name = "FILE", conflicts_with_all = ["delay", "bandwidth", "loss"])]
    network: Option<PathBuf>,
    /// Relays of the local network, exits among them.
    #[arg(long, value_name = "N", default_value_t = 4)]
    relays: usize,
    /// Run the local network in this process: less memory, but roles cannot be told apart.
    #[arg(long, conflicts_with = "processes")]
    one_process: bool,
    /// Run every node of the local network in a process of its own (the default).
    #[arg(long)]
    processes: bool,
    /// When a circuit of the client gets a second one by other relays that carries its streams with it.
    #[arg(long, value_name = "WHEN", default_value = "bulk")]
    multipath: MultipathKind,
    #[command(flatten)]
    links: LinkArgs,
    /// Where the streams' destination listens; exits of a given network must reach it.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:0")]
    target: SocketAddr,
    /// Measure these rows only, for example down-1,ping-loaded.
    #[arg(
        long,
        value_name = "ROW,...",
        value_delimiter = ',',
        value_parser = clap::builder::PossibleValuesParser::new(bench::row_names())
    )]
    only: Vec<String>,
    /// How long each row is measured.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "3s")]
    duration: Duration,
    /// Write JSON to FILE; - for standard output, in place of the table.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a page with plots to FILE.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Be a hop of the plain chain that leads here.
    #[arg(long, value_name = "ADDR:PORT", hide = true)]
    plain_hop: Option<SocketAddr>,
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| format!("{error}; try 3s"))?;
    if duration < Duration::from_millis(100) || duration > Duration::from_secs(3600) {
        return Err("a row takes from 100ms to an hour".to_owned());
    }
    Ok(duration)
}

impl Bench {
    pub(super) fn main(self, context: &Context) -> Result<ExitCode, CliError> {
        if let Some(target) = self.plain_hop {
            return block_on(1, bench::plain_hop(target));
        }
        let shape = Shape {
            authorities: 1,
            relays: self.relays,
            exits: self.relays.div_ceil(3),
            socks: SocketAddr::from(([127, 0, 0, 1], 0)),
            resolver: None,
            log_level: context.filter().unwrap_or("warn").to_owned(),
            measure: false,
            conditions: self.links.conditions(),
            counts_links: false,
            multipath: self.multipath,
            memory_mib: None,
            params: Default::default(),
        };
        shape.check()?;
        let workdir = Workdir::open(None)?;
        context.log_to_file(workdir.log(), "warn")?;
        let options = Options {
            network: self.network.ok_or(shape),
            processes: !self.one_process,
            conditions: self.links.conditions(),
            multipath: self.multipath,
            target: self.target,
            only: self.only,
            duration: self.duration,
            json: self.json,
            html: self.html,
        };
        let done = block_on(0, bench::run(options, workdir.path()));
        workdir.close();
        done
    }
}
