//! A network on one machine: the way to try Cepa, to see it work and to break it.
//!
//! [`plan`] says which nodes there are, and is pure. [`layout`] puts keys and files on disk. [`here`] starts the nodes
//! in this process; [`spawn`] starts a process for each. [`echo`] and [`probe`] check that a stream goes through.
//! [`page`] has something to fetch. This file does all that in order, and takes everything down again.

mod command;
mod echo;
mod here;
mod layout;
mod page;
mod plan;
mod probe;
mod spawn;
mod workdir;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use cepa_common::world::steady;

pub use plan::Shape;
pub use workdir::Workdir;

use crate::terminal::output::{self, Meter, note, say};
use crate::terminal::stop::{Cause, Stop};
use crate::terminal::{CliError, NETWORK};
use here::Here;
use layout::Layout;
use page::WebPage;
use plan::Plan;
use spawn::Fleet;

/// The network must carry a stream within this time and [`START_INTERVALS`].
const START_DEADLINE: Duration = Duration::from_secs(90);
/// Intervals of votes that a start may take beside [`START_DEADLINE`]. The first consensus is made after one or two, and
/// the relays are all in the next.
const START_INTERVALS: u32 = 4;

/// The nodes, in this process or in processes of their own.
enum Network {
    Here(Box<Here>),
    Apart(Fleet),
}

impl Network {
    /// Starts every node. Completes when each node says that it is ready.
    async fn start(&mut self, layout: &Layout, meter: &Meter) -> Result<(), CliError> {
        match self {
            Self::Here(here) => here.start(layout, meter).await,
            Self::Apart(fleet) => fleet.start(layout, meter).await,
        }
    }

    /// Reports on standard error which nodes end by themselves. The future never completes.
    async fn watch(&mut self) {
        match self {
            // A node of this process ends when the process does.
            Self::Here(_) => std::future::pending().await,
            Self::Apart(fleet) => fleet.report_deaths().await,
        }
    }

    /// Stops every node in order, clients first.
    async fn stop(&mut self) {
        match self {
            Self::Here(here) => here.stop().await,
            Self::Apart(fleet) => fleet.stop().await,
        }
    }

    /// Stops every node at once.
    async fn kill(&mut self) {
        match self {
            Self::Here(here) => here.abandon(),
            Self::Apart(fleet) => fleet.kill().await,
        }
    }
}

/// Runs a network of `shape` in `dir` until it is asked to stop or `command` ends.
pub async fn run(
    shape: Shape,
    processes: bool,
    command: &[OsString],
    dir: &Path,
) -> Result<ExitCode, CliError> {
    let mut stop = Stop::listen().map_err(|error| {
        CliError::failed(
            format!("cannot listen for signals: {error}"),
            "check the limits of this account",
        )
    })?;
    let mut network = if processes {
        Network::Apart(Fleet::new()?)
    } else {
        Network::Here(Box::default())
    };
    let page = WebPage::start().await.map_err(|error| {
        CliError::failed(
            format!("cannot listen on loopback: {error}"),
            "check the machine's network",
        )
    })?;
    let begun = steady::now();
    let started = tokio::select! {
        cause = stop.requested() => Err(cause),
        layout = Box::pin(start(&mut network, &shape, processes, dir, Some(page.url()))) => Ok(layout),
    };
    let done = match started {
        Ok(Ok(layout)) => {
            announce(&layout, &page, begun.elapsed(), !command.is_empty());
            let work = work(&mut network, command, layout.plan.socks, &page, &mut stop);
            Box::pin(work).await
        }
        Ok(Err(error)) => Err(error),
        Err(cause) => Ok(ExitCode::from(128 + cause.number())),
    };
    take_down(&mut network, &mut stop).await;
    done
}

/// Starts the nodes and waits until a first stream has gone through.
async fn start(
    network: &mut Network,
    shape: &Shape,
    processes: bool,
    dir: &Path,
    page: Option<String>,
) -> Result<Layout, CliError> {
    let meter = Meter::new();
    meter.show(0, "making keys");
    let plan = Plan::new(shape, dir, &plan::choose_ports(shape)?)?;
    let mut layout = Layout::write(plan)?;
    layout.emulate_links().await?;
    let bring_up = async {
        network.start(&layout, &meter).await?;
        meter.show(95, "waiting for a first stream through three relays");
        probe::until_through(layout.plan.socks).await
    };
    let deadline = START_DEADLINE + layout.plan.vote_interval * START_INTERVALS;
    match tokio::time::timeout(deadline, bring_up).await {
        Ok(done) => done?,
        Err(_) => return Err(not_ready(deadline, &meter.shown())),
    }
    if let Network::Apart(fleet) = network {
        layout.pids = fleet.pids();
    }
    layout.write_summary(processes, page)?;
    Ok(layout)
}

/// The error of a network that was not ready in time. The last step that it showed is where it hangs.
fn not_ready(deadline: Duration, shown: &str) -> CliError {
    CliError {
        what: format!(
            "the network was not ready within {} s; the last step was: {shown}",
            deadline.as_secs()
        ),
        hint: "try fewer relays or quicker links, as this machine may be too busy; --dir DIR keeps the logs".to_owned(),
        code: NETWORK,
    }
}

/// Prints that the network is ready, and how to use it.
fn announce(layout: &Layout, page: &WebPage, took: Duration, for_command: bool) {
    let socks = layout.plan.socks;
    let ready = format!("ready after {:.1} s: socks5h://{socks}", took.as_secs_f64());
    if for_command {
        // Standard output belongs to the command.
        return note(&ready);
    }
    say(&ready);
    let summary = layout.summary();
    let network = layout.plan.network_file();
    say(&format!(
        "\nUse it:\n  \
         curl --proxy socks5h://{socks} {page}\n  \
         {cepa} trace --network {network}\n  \
         {cepa} consensus --network {network}\n  \
         {cepa} status --config {client}\n\
         Nodes, logs and keys: {summary}\n\
         Stop it with Ctrl-C.",
        cepa = output::program(),
        page = page.url(),
        network = network.display(),
        summary = summary.display(),
        client = layout.plan.client_config().display(),
    ));
}

/// Waits until `command` ends, or until this process is asked to stop if there is no command.
async fn work(
    network: &mut Network,
    command: &[OsString],
    socks: SocketAddr,
    page: &WebPage,
    stop: &mut Stop,
) -> Result<ExitCode, CliError> {
    let work = async {
        match command {
            [] => {
                let cause = stop.requested().await;
                if cause == Cause::Interrupt {
                    note("stopping the network");
                }
                Ok(ExitCode::SUCCESS)
            }
            [program, arguments @ ..] => {
                command::run(program, arguments, socks, &page.url(), stop).await
            }
        }
    };
    tokio::select! {
        done = work => done,
        () = network.watch() => Ok(ExitCode::SUCCESS),
    }
}

/// Stops the network in order. If somebody asks again, kills it at once.
async fn take_down(network: &mut Network, stop: &mut Stop) {
    let impatient = tokio::select! {
        () = network.stop() => false,
        _ = stop.requested() => true,
    };
    if impatient {
        network.kill().await;
    }
}

/// A local network for other parts of this program.
pub struct Local {
    network: Network,
    /// The layout, which also holds the emulated links.
    layout: Layout,
}

impl Local {
    /// Starts a network of `shape` in `dir`. Completes when it has carried a first stream.
    pub async fn start(shape: &Shape, processes: bool, dir: &Path) -> Result<Self, CliError> {
        let mut network = if processes {
            Network::Apart(Fleet::new()?)
        } else {
            Network::Here(Box::default())
        };
        let layout = Box::pin(start(&mut network, shape, processes, dir, None)).await?;
        Ok(Self { network, layout })
    }

    /// Address that applications connect to.
    pub fn socks(&self) -> SocketAddr {
        self.layout.plan.socks
    }

    /// The process id of each node with its first role; empty if all nodes are in this process.
    pub fn pids(&self) -> Vec<(plan::Role, u32)> {
        let nodes = self.layout.plan.nodes.iter();
        nodes
            .filter_map(|node| Some((*node.roles.first()?, *self.layout.pids.get(&node.name)?)))
            .collect()
    }

    /// Bytes that all links together have carried so far, both ways, in a network of a shape that counts them.
    pub fn carried(&self) -> u64 {
        self.layout.carried()
    }

    /// Stops every node in order; if somebody asks to stop, at once.
    pub async fn stop(mut self, stop: &mut Stop) {
        take_down(&mut self.network, stop).await;
    }

    /// Stops every node at once.
    pub async fn kill(mut self) {
        self.network.kill().await;
    }
}
