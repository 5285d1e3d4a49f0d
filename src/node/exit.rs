//! What the exit of a configuration does with a destination, without the exit running.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use cepa_common::dir::{ConsensusStore, ExitPolicy, PolicySummary, Transport, UnixSecs};
use cepa_common::world::{Clock, Disk, Sockets};
use cepa_relay as relay;
pub use cepa_relay::exit::Verdict;

use super::error::AppError;
use super::files::{DIRECTORY_ROOM, read_network};
use super::relay::exit_options;
use crate::config::{self, Config};

/// The exit of a configuration, on this machine.
pub struct ExitRules {
    rules: relay::exit::Rules,
    summaries: (PolicySummary, PolicySummary),
    /// The consensuses that the relay has kept, and the time; `None` if it has none that is valid.
    relays: Option<(Arc<ConsensusStore>, UnixSecs)>,
}

impl ExitRules {
    /// The exit that `exit` makes of the relay of `config`. If `with_relays`, the addresses of relays are taken from
    /// the consensuses that the relay keeps in its state directory, as far as it has some of its network.
    ///
    /// # Errors
    /// A rule does not parse.
    pub async fn new(
        config: &Config,
        exit: &config::Exit,
        with_relays: bool,
    ) -> Result<Self, AppError> {
        let options = exit_options(exit)?;
        let own = config.relay.as_ref().map(|relay| {
            let addresses = relay.advertised().into_iter().chain([relay.listen]);
            let ips = addresses.map(|address| address.ip());
            ips.collect::<Vec<IpAddr>>()
        });
        let summaries = options.summaries();
        Ok(Self {
            rules: relay::exit::Rules::new(
                options.policy,
                options.udp_policy,
                own.unwrap_or_default(),
                Sockets::default(),
            ),
            summaries,
            relays: match with_relays {
                true => relays(config).await,
                false => None,
            },
        })
    }

    /// What the exit does with an address.
    pub fn judge(&self, transport: Transport, address: SocketAddr) -> Verdict {
        let is_relay = |address| {
            let relays = self.relays.as_ref();
            relays.is_some_and(|(store, now)| store.is_relay_address(address, *now))
        };
        self.rules.judge(transport, address, is_relay)
    }

    /// The owner's rules.
    pub fn rules(&self, transport: Transport) -> &ExitPolicy {
        self.rules.of(transport)
    }

    /// Does the exit let anything out? If it lets no stream out, it lets no datagram out either.
    pub fn lets_out(&self) -> bool {
        self.rules.of(Transport::Tcp).accepts_any()
    }

    /// What the directory says of the exit.
    pub fn summary(&self, transport: Transport) -> &PolicySummary {
        match transport {
            Transport::Tcp => &self.summaries.0,
            Transport::Udp => &self.summaries.1,
        }
    }

    /// Are the addresses of relays known?
    pub fn knows_relays(&self) -> bool {
        self.relays.is_some()
    }
}

/// The valid consensuses in the state directory of `config`.
async fn relays(config: &Config) -> Option<(Arc<ConsensusStore>, UnixSecs)> {
    let network = read_network(&config.network.file).ok()?;
    let clock = Clock::system();
    let now = clock.now_secs();
    let server = relay::directory::DirectoryServer::new(network, clock, None);
    let room = config.state.dir.join(DIRECTORY_ROOM);
    let files = relay::directory::ConsensusFiles::new(&Disk::Real, &room, &server);
    files.load(&server).await;
    let store = server.snapshot();
    let is_known = store.valid(now).next().is_some();
    is_known.then_some((store, now))
}
