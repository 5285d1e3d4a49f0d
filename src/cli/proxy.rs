//! `cepa proxy`: a client without a configuration file.

use std::process::ExitCode;

use clap::Args;

use super::context::{Context, STATE, of_role, state_of_role};
use super::run;
use crate::config::{self, Config, Flags};
use crate::terminal::CliError;

/// Run a client: applications connect to its port, their traffic goes through three relays.
///
/// The port takes SOCKS 4, 4a and 5, HTTP CONNECT and http:// requests, whatever comes. Names are resolved at the exit,
/// never here, if the application lets them through: with curl write socks5h://, not socks5://.
/// Streams with different SOCKS user names or passwords never share a circuit.
/// `cepa status` shows how it does, `cepa new-identity` retires all its circuits.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cepa proxy --network network.toml
  cepa proxy --network network.toml --socks 127.0.0.1:1080
  cepa proxy --network network.toml --isolate credentials,destination
  curl --proxy socks5h://127.0.0.1:9350 http://example.com/
  git -c http.proxy=socks5h://127.0.0.1:9350 clone http://example.com/x.git
  ssh -o ProxyCommand='nc -X 5 -x 127.0.0.1:9350 %h %p' example.com")]
#[command(mut_arg(STATE, |arg| of_role(arg, "client")))]
pub(super) struct Proxy {
    #[command(flatten)]
    network: Flags<config::Network>,
    #[command(flatten)]
    client: Flags<config::Client>,
    #[command(flatten)]
    state: Flags<config::State>,
    /// Print the same as a configuration file for `cepa run`, and exit.
    #[arg(long)]
    print_config: bool,
}

impl Proxy {
    pub(super) fn main(self, context: &Context) -> Result<ExitCode, CliError> {
        let config = Config {
            network: self.network.settings,
            state: state_of_role(self.state, "client")?,
            client: Some(self.client.settings),
            ..Config::default()
        };
        run::start_by_flags(config, context, self.print_config)
    }
}
