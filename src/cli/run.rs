//! `cepa run`: a node with the roles that its configuration file names.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use cepa_common::words::Count;
use clap::Args;

use super::context::{Context, block_on};
use crate::config::{self, Config, ConfigError, ListenAddress, ListenerKind, Source};
use crate::control;
use crate::node::Node;
use crate::terminal::CliError;
use crate::terminal::output::{self, say};
use crate::terminal::stop::{Asked, Cause, Stop};

/// Run a node with the roles that a configuration file names.
///
/// The file has a section for each role: [client], [relay], [exit], [authority]. A line that begins
/// with "ready" is written to standard output once the node is of use: a relay listens, a client
/// holds a consensus and accepts connections. SIGINT and SIGTERM stop the node in order. SIGHUP has it read
/// the file again, as the node does by itself some seconds after the file was changed.
#[derive(Debug, Args)]
#[allow(
    rustdoc::broken_intra_doc_links,
    reason = "names of sections, for readers of --help"
)]
#[command(after_help = "\
Examples:
  cepa run --config node.toml                   run it
  cepa run --print-config > node.toml           a file to start from, every key explained
  cepa run --config node.toml --print-config    what is in effect, defaults included")]
pub(super) struct Run {
    /// The configuration file; docs/config.md explains every key.
    #[arg(long, value_name = "FILE", required_unless_present = "print_config")]
    config: Option<PathBuf>,
    /// Print the configuration in effect, with comments, and exit.
    #[arg(long)]
    print_config: bool,
    /// Stop when standard input ends: for whoever starts nodes and must not leave any behind.
    #[arg(long, hide = true)]
    exit_with_stdin: bool,
}

impl Run {
    pub(super) fn main(self, context: &Context) -> Result<ExitCode, CliError> {
        let (config, source) = match &self.config {
            Some(path) => {
                let (config, source) = Config::load_from(path)?;
                (config, Some(source))
            }
            None => (Config::default(), None),
        };
        if self.print_config {
            say(config::print(&config).trim_end());
            return Ok(ExitCode::SUCCESS);
        }
        start(&config, source, context, self.exit_with_stdin)
    }
}

/// Runs the node that flags describe until it is asked to stop, or prints its configuration.
pub(super) fn start_by_flags(
    config: Config,
    context: &Context,
    print_config: bool,
) -> Result<ExitCode, CliError> {
    if print_config {
        say(config::print(&config).trim_end());
        return Ok(ExitCode::SUCCESS);
    }
    config.check().map_err(ConfigError::of_flags)?;
    start(&config, None, context, false)
}

/// Runs a node until it is asked to stop.
fn start(
    config: &Config,
    source: Option<Source>,
    context: &Context,
    exit_with_stdin: bool,
) -> Result<ExitCode, CliError> {
    context.log_as_configured(config)?;
    let threads = config.limits.threads;
    block_on(threads, serve(config, source, exit_with_stdin))
}

async fn serve(
    config: &Config,
    source: Option<Source>,
    exit_with_stdin: bool,
) -> Result<ExitCode, CliError> {
    let mut stop = listen(exit_with_stdin)?;
    let starting = output::with_meter(async |progress| {
        Node::start(config, source.clone(), progress, control::attend).await
    });
    let mut node = tokio::select! {
        // The node is asked to stop while it starts. Dropping what there is stops the node.
        cause = stop.requested_to_end() => {
            tracing::info!(?cause, "stopped before the node was ready");
            return Ok(ExitCode::SUCCESS);
        }
        node = Box::pin(starting) => node?,
    };
    say(&ready_line(&node));
    let cause = loop {
        tokio::select! {
            asked = stop.requested_of_node() => match asked {
                Asked::Stop(cause) => break cause,
                Asked::Reload => {
                    let report = node.reload().reload().await;
                    if config.log.file.is_some() {
                        report.lines(true).iter().for_each(|line| output::note(line));
                    }
                }
            },
            // If the log goes to standard error, it has said this already.
            news = node.news() => if !(news.is_logged && config.log.file.is_none()) {
                output::note(&news.line);
            },
        }
    };
    tracing::info!(?cause, "stopping");
    // Whoever ends a local network waits for nobody.
    let to_drain = node.to_drain().filter(|_| cause != Cause::Parent);
    if let Some((streams, limit)) = to_drain {
        tracing::info!(streams, ?limit, "streams of the exit may end by themselves");
    }
    if cause == Cause::Interrupt {
        output::note(&stopping(to_drain));
    }
    let stopped = async {
        match to_drain {
            Some(_) => node.stop_in_order().await,
            None => node.stop().await,
        }
    };
    tokio::select! {
        () = stopped => {}
        _ = stop.requested_to_end() => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// What the owner reads when the node stops, with the streams that may end by themselves and for how long.
fn stopping(to_drain: Option<(usize, Duration)>) -> String {
    let when = match to_drain {
        Some((streams, limit)) => format!(
            " at the end of {}, {} s from now at the latest",
            Count(streams, "open stream"),
            limit.as_secs()
        ),
        None => String::new(),
    };
    format!("stopping{when}; press Ctrl-C again to stop at once")
}

fn listen(exit_with_stdin: bool) -> Result<Stop, CliError> {
    let stop = Stop::listen();
    let stop = if exit_with_stdin {
        stop.and_then(Stop::with_stdin)
    } else {
        stop
    };
    stop.map_err(|error| {
        CliError::failed(
            format!("cannot listen for signals: {error}"),
            "check the limits of this account",
        )
    })
}

fn ready_line(node: &Node) -> String {
    let mut line = "ready".to_owned();
    for (n, (kind, at)) in node.ports.iter().enumerate() {
        let before = if n == 0 {
            ": applications connect to"
        } else {
            ","
        };
        line.push_str(&match (kind, at) {
            (ListenerKind::Dns, _) => format!("{before} {at} for DNS"),
            (ListenerKind::Transparent, _) => format!("{before} {at} (transparent)"),
            (ListenerKind::Proxy, ListenAddress::Tcp(_)) => format!("{before} socks5h://{at}"),
            (ListenerKind::Proxy, ListenAddress::Unix(_)) => format!("{before} {at}"),
        });
    }
    if let (Some(address), Some(identity)) = (node.listening, node.identity) {
        let also = if node.ports.is_empty() { ":" } else { ";" };
        line.push_str(&format!("{also} relay {identity} listens on {address}"));
    }
    line
}
