//! `cepa testnet`: a whole network on this machine.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::authority::parse_param;
use super::context::{Context, block_on};
use super::links::LinkArgs;
use crate::config::{DEFAULT_SOCKS, MultipathKind};
use crate::terminal::CliError;
use crate::testnet::{self, Shape, Workdir};

/// Start a whole network on this machine: authorities, relays, exits and a client.
///
/// Everything listens on loopback. A line that begins with "ready" is written to standard output once
/// a stream has gone through a fresh circuit of three relays; what follows says how to use the
/// network; the page that it names is served by this command itself. With a COMMAND that line goes to
/// standard error, the command runs with ALL_PROXY, HTTP_PROXY and HTTPS_PROXY set to the network and
/// CEPA_PAGE to the page, and its exit status is this program's. Ctrl-C and SIGTERM take everything down;
/// without --dir nothing is left behind.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cepa testnet                                       until Ctrl-C
  cepa testnet --processes --dir testnet             a process for each node, files in testnet/
  cepa testnet -- curl -sS http://127.0.0.1:9380/    for one command
  cepa testnet --relays 20 --exits 5 --socks 127.0.0.1:0
  cepa testnet --delay 30ms --bandwidth 100mbit      links as between towns

testnet.json in the directory lists every node with its process, configuration file and log:
  jq -r '.nodes[] | [.name, .pid, .address] | @tsv' testnet/testnet.json")]
pub(super) struct Testnet {
    /// Directory authorities.
    #[arg(long, value_name = "N", default_value_t = 3)]
    authorities: usize,
    /// Relays, exits among them.
    #[arg(long, value_name = "N", default_value_t = 8)]
    relays: usize,
    /// How many of the relays are exits.
    #[arg(long, value_name = "N", default_value_t = 3)]
    exits: usize,
    /// Where applications connect; port 0 takes a free one.
    #[arg(long, value_name = "ADDR:PORT", default_value_t = DEFAULT_SOCKS)]
    socks: SocketAddr,
    /// Directory for files, kept afterwards [default: a temporary one, removed afterwards].
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The DNS server that the exits ask [default: the system's].
    #[arg(long, value_name = "ADDR:PORT")]
    resolver: Option<SocketAddr>,
    /// Run every node in a process of its own.
    #[arg(long)]
    processes: bool,
    /// Let the authorities measure what relays carry, by downloads of up to half a MiB a second each; else weights
    /// are what relays claim.
    #[arg(long)]
    measure: bool,
    /// When a circuit of the client gets a second one by other relays that carries its streams with it.
    #[arg(long, value_name = "WHEN", default_value = "bulk")]
    multipath: MultipathKind,
    /// What circuits, streams and queues of each relay may hold together [default: 512].
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(32..=1_048_576))]
    memory_mib: Option<u32>,
    /// A parameter of the network in place of a local network's usual one; may be repeated. docs/protocol.md lists them.
    #[arg(long = "param", value_name = "NAME=NUMBER", value_parser = parse_param)]
    params: Vec<(String, u32)>,
    #[command(flatten)]
    links: LinkArgs,
    /// A command to run in the network, after two dashes.
    #[arg(last = true, value_name = "COMMAND")]
    pub(super) command: Vec<OsString>,
}

impl Testnet {
    pub(super) fn main(self, context: &Context) -> Result<ExitCode, CliError> {
        let shape = Shape {
            authorities: self.authorities,
            relays: self.relays,
            exits: self.exits,
            socks: self.socks,
            resolver: self.resolver,
            log_level: context.filter().unwrap_or("info").to_owned(),
            measure: self.measure,
            conditions: self.links.conditions(),
            counts_links: false,
            multipath: self.multipath,
            memory_mib: self.memory_mib,
            params: self.params.into_iter().collect(),
        };
        shape.check()?;
        let workdir = Workdir::open(self.dir)?;
        context.log_to_file(workdir.log(), "info")?;
        let done = block_on(
            0,
            testnet::run(shape, self.processes, &self.command, workdir.path()),
        );
        workdir.close();
        done
    }
}
