//! `cepa proxy`: a client without a configuration file.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::context::{Context, NetworkArg, state_dir};
use super::run;
use crate::config::{self, Config, DEFAULT_SOCKS, IsolateKind, MultipathKind};
use crate::terminal::CliError;

/// Run a client: applications connect to its port, their traffic goes through three relays.
///
/// The port takes SOCKS 4, 4a and 5 and HTTP CONNECT, whatever comes. Names are resolved at the exit,
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
pub(super) struct Proxy {
    #[command(flatten)]
    network: NetworkArg,
    /// Where applications connect.
    #[arg(long, value_name = "ADDR:PORT", default_value_t = DEFAULT_SOCKS)]
    socks: SocketAddr,
    /// Let --socks be an address that other machines can reach; all of them could use this client.
    #[arg(long)]
    allow_remote: bool,
    /// Pass private and loopback addresses on to exits: for local networks.
    #[arg(long)]
    allow_private: bool,
    /// Tell applications that a stream is open before it is: saves a round trip, and hides why one
    /// fails.
    #[arg(long)]
    answer_early: bool,
    /// When a circuit gets a second one by other relays that carries its streams with it.
    #[arg(long, value_name = "WHEN", default_value = "bulk")]
    multipath: MultipathKind,
    /// What keeps streams on different circuits, separated by commas; docs/config.md explains each
    /// [default: credentials,listener,client,protocol].
    #[arg(long, value_name = "KINDS", value_delimiter = ',')]
    isolate: Option<Vec<IsolateKind>>,
    /// Directory for what must survive a restart [default: ~/.local/state/cepa/client].
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Print the same as a configuration file for `cepa run`, and exit.
    #[arg(long)]
    print_config: bool,
}

impl Proxy {
    pub(super) fn main(self, context: &Context) -> Result<ExitCode, CliError> {
        let config = Config {
            network: config::Network {
                file: self.network.network,
            },
            state: config::State {
                dir: state_dir(self.state, "client")?,
                ..Default::default()
            },
            client: Some(config::Client {
                socks: self.socks,
                allow_remote: self.allow_remote,
                allow_private: self.allow_private,
                answer_early: self.answer_early,
                multipath: self.multipath,
                isolate: self
                    .isolate
                    .unwrap_or_else(|| IsolateKind::DEFAULT.to_vec()),
                ..Default::default()
            }),
            ..Config::default()
        };
        run::start(config, context, self.print_config, false)
    }
}
