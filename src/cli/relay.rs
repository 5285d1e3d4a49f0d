//! `cepa relay`: a relay without a configuration file.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::context::{Context, NetworkArg, state_dir};
use super::run;
use crate::config::{self, Config, SuiteChoice};
use crate::terminal::CliError;

/// Run a relay, which carries circuits of others; with --exit also to their destinations.
///
/// The relay makes its keys when it starts for the first time and keeps them in its state directory:
/// whoever has that directory is this relay. (`cepa keys` can keep the relay's identity elsewhere.) It accepts links, circuits and directory requests on one
/// port, which others must be able to reach.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cepa relay --network network.toml --listen 0.0.0.0:9001 --advertise 203.0.113.5:9001
  cepa relay --network network.toml --listen 203.0.113.5:9001 --nickname willow --exit
  cepa relay --network network.toml --listen 203.0.113.5:9001 --exit \\
      --policy 'accept *:80' --policy 'accept *:443'")]
pub(super) struct Relay {
    #[command(flatten)]
    network: NetworkArg,
    /// Where links are accepted.
    #[arg(long, value_name = "ADDR:PORT", default_value = "0.0.0.0:9001")]
    listen: SocketAddr,
    /// Address at which others reach this relay; may be repeated [default: that of --listen].
    #[arg(long, value_name = "ADDR:PORT")]
    advertise: Vec<SocketAddr>,
    /// Name for people, 1 to 19 letters and digits.
    #[arg(long, value_name = "NAME", default_value = "unnamed")]
    nickname: String,
    /// Suite of the onion key.
    #[arg(long, value_enum, default_value_t = SuiteChoice::Auto)]
    suite: SuiteChoice,
    /// Let circuits leave the network here.
    #[arg(long)]
    exit: bool,
    /// Rule for destinations, the first that matches counts; may be repeated
    /// [default: 'reject *:25', 'accept *:*'].
    #[arg(long, value_name = "RULE", requires = "exit")]
    policy: Vec<String>,
    /// Exit to private and loopback addresses too: for local networks.
    #[arg(long, requires = "exit")]
    allow_private: bool,
    /// The DNS server that the exit asks [default: the system's].
    #[arg(long, value_name = "ADDR:PORT", requires = "exit")]
    resolver: Option<SocketAddr>,
    /// Directory of keys and documents [default: ~/.local/state/cepa/relay].
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Print the same as a configuration file for `cepa run`, and exit.
    #[arg(long)]
    print_config: bool,
}

impl Relay {
    pub(super) fn main(self, context: &Context) -> Result<ExitCode, CliError> {
        let print_config = self.print_config;
        run::start(self.config()?, context, print_config, false)
    }

    fn config(self) -> Result<Config, CliError> {
        let exit = self.exit.then(|| {
            let default = config::Exit::default();
            let policy = if self.policy.is_empty() {
                default.policy
            } else {
                self.policy
            };
            config::Exit {
                policy,
                allow_private: self.allow_private,
                resolver: self.resolver,
            }
        });
        Ok(Config {
            network: config::Network {
                file: self.network.network,
            },
            state: config::State {
                dir: state_dir(self.state, "relay")?,
                ..Default::default()
            },
            relay: Some(config::Relay {
                listen: self.listen,
                advertise: self.advertise,
                nickname: self.nickname,
                suite: self.suite,
                publish: true,
                ..Default::default()
            }),
            exit,
            ..Config::default()
        })
    }
}
