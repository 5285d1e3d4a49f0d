//! The command line: one file for each command, and what they share.

mod against;
mod ask;
mod authority;
mod bench;
mod check;
mod consensus;
mod consensus_view;
mod context;
mod exec;
mod keys;
pub(crate) mod links;
mod network;
mod policy;
mod proxy;
mod rehearse;
mod relay;
mod reload;
mod result_file;
mod run;
mod simulate;
mod status;
mod status_view;
mod testnet;
mod trace;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::terminal::output;
use context::Context;

pub use exec::become_command;

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
  curl --proxy socks5h://127.0.0.1:9350 http://127.0.0.1:9380/
                                                          fetch through it, in another terminal
  cepa testnet -- curl -sS http://127.0.0.1:9380/         or both in one

Exit codes: 0 done; 1 failed; 2 wrong arguments or configuration; 3 the network could not be
reached. `cepa testnet -- COMMAND` and `cepa exec -- COMMAND` end with the command's own; `cepa exec`
with 125 where it fails itself."
)]
pub struct Cli {
    #[command(subcommand)]
    command: CepaCommand,
    /// What to log: a level (off, error, warn, info, debug, trace) or filters such as
    /// info,cepa_relay=debug. Goes before RUST_LOG and the configuration file.
    // Behind the options of each command.
    #[arg(long, global = true, value_name = "FILTER", display_order = 900)]
    log: Option<String>,
}

#[derive(Debug, Subcommand)]
enum CepaCommand {
    Testnet(testnet::Testnet),
    Run(run::Run),
    Proxy(proxy::Proxy),
    Exec(exec::Exec),
    Status(status::StatusCommand),
    Check(check::Check),
    NewIdentity(ask::NewIdentityCommand),
    Reload(reload::Reload),
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
    Simulate(simulate::Simulate),
}

impl Cli {
    /// Reads the command line. Ends the program if that is wrong, or asks for help.
    pub fn read() -> Self {
        Self::try_parse().unwrap_or_else(|error| {
            // What cannot be said on a closed terminal is not said.
            let _ = error.print();
            std::process::exit(ending(&error, std::env::args_os()))
        })
    }

    /// Runs the command; its end is the program's end.
    pub fn main(self) -> ExitCode {
        let context = Context::new(self.log);
        let done = match self.command {
            CepaCommand::Testnet(command) => command.main(&context),
            CepaCommand::Run(command) => command.main(&context),
            CepaCommand::Proxy(command) => command.main(&context),
            CepaCommand::Exec(command) => command.main(&context),
            CepaCommand::Status(command) => command.main(),
            CepaCommand::Check(command) => command.main(),
            CepaCommand::NewIdentity(command) => command.main(),
            CepaCommand::Reload(command) => command.main(),
            CepaCommand::Relay(command) => command.main(&context),
            CepaCommand::Authority(command) => command.main(),
            CepaCommand::Keys(command) => command.main(),
            CepaCommand::Network(command) => command.main(),
            CepaCommand::Trace(command) => command.main(&context),
            CepaCommand::Consensus(command) => command.main(&context),
            CepaCommand::Bench(command) => command.main(&context),
            CepaCommand::Simulate(command) => command.main(&context),
        };
        done.and_then(|code| output::lost().map(|()| code))
            .unwrap_or_else(|error| {
                output::complain(&error);
                ExitCode::from(error.code)
            })
    }
}

/// The exit code where the command line asks for help or is wrong. `cepa exec` tells its own failures from those of the
/// command that it runs by a code of its own.
fn ending(error: &clap::Error, args: impl IntoIterator<Item = OsString>) -> i32 {
    let read = Cli::command()
        .ignore_errors(true)
        .try_get_matches_from(args);
    let is_exec = read.is_ok_and(|read| read.subcommand_name() == Some("exec"));
    match error.use_stderr() && is_exec {
        true => cepa_exec::FAILED.into(),
        false => error.exit_code(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::keys;

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
    fn the_flags_of_nodes_come_from_the_settings() {
        let mut cli = Cli::command();
        cli.build();
        for (command, others) in [
            ("proxy", &["print_config"][..]),
            ("relay", &["print_config", "exit"]),
        ] {
            let command = cli.find_subcommand(command).unwrap();
            for arg in command.get_arguments() {
                let id = arg.get_id().as_str();
                let known = keys::paths().any(|path| path == id)
                    || others.contains(&id)
                    || arg.is_global_set()
                    || ["help", "version"].contains(&id);
                assert!(known, "{id} is no setting");
            }
        }
        let help = |command: &str| {
            let command = cli.find_subcommand(command).unwrap().clone();
            command
                .clone()
                .term_width(10_000)
                .render_long_help()
                .to_string()
        };
        assert!(help("proxy").contains("[bounds: 1 to 5 relays] [default: 3]"));
        assert!(help("proxy").contains("[default: ~/.local/state/cepa/client]"));
        let relay = help("relay");
        assert!(relay.contains("[bounds: 1 to 1024 threads, or 0 for one to a processor]"));
        assert!(
            relay.contains("[default: 'reject *:25', 'accept *:*']"),
            "{relay}"
        );
    }

    #[test]
    fn a_wrong_command_line_has_the_code_of_its_command() {
        for (args, code) in [
            ("cepa exec", 125),
            ("cepa exec --nonsense -- true", 125),
            ("cepa exec --via nowhere -- true", 125),
            ("cepa --log info exec true", 125),
            ("cepa --log exec testnet --nonsense", 2),
            ("cepa proxy exec", 2),
            ("cepa nonsense", 2),
            ("cepa exec --help", 0),
            ("cepa --version", 0),
        ] {
            let args: Vec<OsString> = args.split(' ').map(OsString::from).collect();
            let error = Cli::try_parse_from(&args).unwrap_err();
            assert_eq!(ending(&error, args.clone()), code, "{args:?}");
        }
    }

    #[test]
    fn everything_after_two_dashes_is_the_command() {
        let cli = Cli::try_parse_from([
            "cepa", "testnet", "--relays", "5", "--", "curl", "--proxy", "x",
        ])
        .unwrap();
        let CepaCommand::Testnet(testnet) = cli.command else {
            panic!("not testnet")
        };
        assert_eq!(testnet.command, ["curl", "--proxy", "x"]);
    }
}
