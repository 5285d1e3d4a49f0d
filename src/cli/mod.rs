//! The command line: one file for each command, and what they share.

mod ask;
mod authority;
mod bench;
mod consensus;
mod consensus_view;
mod keys;
pub(crate) mod links;
mod network;
mod proxy;
mod relay;
mod run;
mod testnet;
mod trace;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use tokio::runtime;

use crate::config::{Config, ConfigError};
use crate::node::AppError;
use crate::terminal::logging::{self, LogError, Sink};

/// An anonymizing onion-routing overlay: client, relay, exit, directory and a whole network on one machine.
#[derive(Debug, Parser)]
#[command(
    name = "cepa",
    version,
    propagate_version = true,
    arg_required_else_help = true,
    max_term_width = 100,
    after_help = "\
Try it, on this machine alone:
  cepa testnet                                            start a network, keep it until Ctrl-C
  curl --proxy socks5h://127.0.0.1:9350 http://127.0.0.1:8000/
                                                          fetch through it, in another terminal
  cepa testnet -- curl -sS http://127.0.0.1:8000/         or both in one

Exit codes: 0 done; 1 failed; 2 wrong arguments or configuration; 3 the network could not be
reached. `cepa testnet -- COMMAND` ends with the command's own."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
    /// What to log: a level (off, error, warn, info, debug, trace) or filters such as
    /// info,cepa_relay=debug. Goes before RUST_LOG and the configuration file.
    #[arg(long, global = true, value_name = "FILTER")]
    log: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Testnet(testnet::Testnet),
    Run(run::Run),
    Proxy(proxy::Proxy),
    Status(ask::StatusCommand),
    NewIdentity(ask::NewIdentityCommand),
    Relay(relay::Relay),
    #[command(subcommand)]
    Authority(authority::Authority),
    #[command(subcommand)]
    Keys(keys::Keys),
    #[command(subcommand)]
    Network(network::Network),
    Trace(trace::Trace),
    Consensus(consensus::Consensus),
    Bench(bench::Bench),
}

/// What every command may need.
pub(crate) struct Context {
    /// `--log`.
    log: Option<String>,
}

impl Cli {
    /// Runs the command; its end is the program's end.
    pub(crate) fn main(self) -> ExitCode {
        let context = Context { log: self.log };
        let done = match self.command {
            Command::Testnet(command) => command.main(&context),
            Command::Run(command) => command.main(&context),
            Command::Proxy(command) => command.main(&context),
            Command::Status(command) => command.main(),
            Command::NewIdentity(command) => command.main(),
            Command::Relay(command) => command.main(&context),
            Command::Authority(command) => command.main(),
            Command::Keys(command) => command.main(),
            Command::Network(command) => command.main(),
            Command::Trace(command) => command.main(&context),
            Command::Consensus(command) => command.main(&context),
            Command::Bench(command) => command.main(&context),
        };
        done.unwrap_or_else(|error| {
            crate::terminal::output::complain(&error);
            ExitCode::from(error.code)
        })
    }
}

/// A command failed: what, and what to try.
#[derive(Debug)]
pub(crate) struct CliError {
    /// What failed, in a sentence without its full stop.
    pub(crate) what: String,
    /// What to try.
    pub(crate) hint: String,
    /// The program's exit code.
    pub(crate) code: u8,
}

/// Exit code: something failed at work.
pub(crate) const FAILED: u8 = 1;
/// Exit code: wrong arguments or configuration; the same that clap uses.
pub(crate) const USAGE: u8 = 2;
/// Exit code: the network could not be reached.
pub(crate) const NETWORK: u8 = 3;

impl CliError {
    /// A failure at work.
    pub(crate) fn failed(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            hint: hint.into(),
            code: FAILED,
        }
    }

    /// Arguments that cannot be meant.
    pub(crate) fn usage(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            hint: hint.into(),
            code: USAGE,
        }
    }
}

impl From<AppError> for CliError {
    fn from(error: AppError) -> Self {
        let code = if error.is_network() { NETWORK } else { FAILED };
        Self {
            what: error.to_string(),
            hint: error.hint().to_owned(),
            code,
        }
    }
}

impl From<ConfigError> for CliError {
    fn from(error: ConfigError) -> Self {
        Self::usage(error.to_string(), error.hint())
    }
}

impl From<LogError> for CliError {
    fn from(error: LogError) -> Self {
        let hint = match error {
            LogError::Filter { .. } => "try --log info, or --log info,cepa_relay=debug",
            LogError::File { .. } => "check that the directory exists and is writable",
            LogError::Twice => "report this: it is a bug",
        };
        Self::usage(error.to_string(), hint)
    }
}

/// The time, in seconds since 1970.
pub(crate) fn now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

/// Which network a command asks.
#[derive(Debug, Args)]
pub(crate) struct NetworkArg {
    /// The network's file. `cepa testnet` prints the path of its own.
    #[arg(long, value_name = "FILE", default_value = "network.toml")]
    network: PathBuf,
}

impl Context {
    /// Logs to standard error, `quiet` unless `--log` or RUST_LOG asks for more.
    pub(crate) fn log_to_stderr(&self, level: &str) -> Result<(), CliError> {
        Ok(logging::init(self.log.as_deref(), level, &Sink::Stderr)?)
    }

    /// Logs as `config` says.
    pub(crate) fn log_as_configured(&self, config: &Config) -> Result<(), CliError> {
        let sink = config.log.file.clone().map_or(Sink::Stderr, Sink::File);
        Ok(logging::init(
            self.log.as_deref(),
            &config.log.level,
            &sink,
        )?)
    }

    /// Logs to the end of the file at `path`.
    pub(crate) fn log_to_file(&self, path: PathBuf, level: &str) -> Result<(), CliError> {
        Ok(logging::init(
            self.log.as_deref(),
            level,
            &Sink::File(path),
        )?)
    }

    /// `--log`, to be handed to other processes.
    pub(crate) fn filter(&self) -> Option<&str> {
        self.log.as_deref()
    }
}

/// Runs `future` to its end on as many threads as `threads` says, zero for one to a processor.
pub(crate) fn block_on<T>(
    threads: usize,
    future: impl Future<Output = Result<T, CliError>>,
) -> Result<T, CliError> {
    // One thread needs no work stealing, which costs a tenth of the processor.
    let mut builder = match threads {
        1 => runtime::Builder::new_current_thread(),
        _ => runtime::Builder::new_multi_thread(),
    };
    if threads > 1 {
        builder.worker_threads(threads);
    }
    let runtime = builder.enable_all().build().map_err(|error| {
        CliError::failed(
            format!("cannot start threads: {error}"),
            "check the limits of this account",
        )
    })?;
    let done = runtime.block_on(future);
    // What is left by now has been stopped or holds nothing that matters.
    runtime.shutdown_background();
    done
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_help_with_an_example() {
        fn check(command: &clap::Command, path: &str) {
            for sub in command
                .get_subcommands()
                .filter(|sub| sub.get_name() != "help")
            {
                let path = format!("{path} {}", sub.get_name());
                assert!(sub.get_about().is_some(), "{path} has no description");
                for arg in sub.get_arguments().filter(|arg| !arg.is_hide_set()) {
                    assert!(arg.get_help().is_some(), "{path} {arg} has no help");
                }
                if sub.has_subcommands() {
                    check(sub, &path);
                } else {
                    let help = sub.get_after_help().unwrap_or_default().to_string();
                    assert!(help.contains(&path), "the help of `{path}` has no example");
                }
            }
        }
        let mut command = Cli::command();
        command.build();
        check(&command, "cepa");
    }

    #[test]
    fn everything_after_two_dashes_is_the_command() {
        let cli = Cli::try_parse_from([
            "cepa", "testnet", "--relays", "5", "--", "curl", "--proxy", "x",
        ])
        .unwrap();
        let Command::Testnet(testnet) = cli.command else {
            panic!("not testnet")
        };
        assert_eq!(testnet.command, ["curl", "--proxy", "x"]);
    }
}
