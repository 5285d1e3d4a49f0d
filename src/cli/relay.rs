//! `cepa relay`: a relay without a configuration file.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::context::{Context, STATE, of_role, state_of_role};
use super::policy::Policy;
use super::run;
use crate::config::{self, Config, Flags};
use crate::terminal::CliError;

/// Run a relay, which carries circuits of others; with --exit also to their destinations.
///
/// The relay makes its keys when it starts for the first time and keeps them in its state directory:
/// whoever has that directory is this relay. (`cepa keys` can keep the relay's identity elsewhere.)
/// The relay accepts links, circuits and directory requests on one port, which others must be able to
/// reach.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "\
Examples:
  cepa relay --network network.toml --listen 0.0.0.0:9001 --advertise 203.0.113.5:9001
  cepa relay --network network.toml --listen 203.0.113.5:9001 --nickname willow --exit
  cepa relay --network network.toml --listen 203.0.113.5:9001 --exit \\
      --policy 'reject *:22' --policy reduced
  cepa relay policy example.com:443 --config node.toml")]
#[command(mut_arg(STATE, |arg| of_role(arg, "relay")))]
pub(super) struct Relay {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    network: Flags<config::Network>,
    #[command(flatten)]
    relay: Flags<config::Relay>,
    /// Let circuits leave the network here.
    #[arg(long)]
    exit: bool,
    #[command(flatten)]
    exit_settings: Flags<config::Exit>,
    #[command(flatten)]
    limits: Flags<config::Limits>,
    #[command(flatten)]
    state: Flags<config::State>,
    /// Print the same as a configuration file for `cepa run`, and exit.
    #[arg(long)]
    print_config: bool,
}

#[derive(Debug, Subcommand)]
enum Action {
    Policy(Policy),
}

impl Relay {
    pub(super) fn main(self, context: &Context) -> Result<ExitCode, CliError> {
        if let Some(Action::Policy(policy)) = self.action {
            return policy.main();
        }
        let config = Config {
            network: self.network.settings,
            state: state_of_role(self.state, "relay")?,
            relay: Some(self.relay.settings),
            exit: self.exit.then_some(self.exit_settings.settings),
            limits: self.limits.settings,
            ..Config::default()
        };
        run::start_by_flags(config, context, self.print_config)
    }
}
