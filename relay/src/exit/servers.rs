//! The name servers that an exit asks: the one that its owner has set, or those of the system's file.
//!
//! A machine may have no name server when the exit starts, and other ones an hour later. So the file is read again
//! while names are asked for, and nothing is in the way of an exit that has no server yet: it connects to addresses.

use core::time::Duration;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use cepa_common::budget::Budget;
use cepa_common::sync::lock;
use cepa_common::world::{Disk, blocking, steady};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::system_conf::parse_resolv_conf;

use super::known::KnownNames;
use crate::events::{RelayEvent, Reporter};

/// Where the system names its servers (resolv.conf(5)).
const SYSTEM_FILE: &str = "/etc/resolv.conf";
/// While names are asked for, the file is read this often.
pub(super) const READ_EVERY: Duration = Duration::from_secs(5);
/// Bytes of the file that are read.
const MOST_BYTES: u64 = 64 * 1024;
/// Servers of the file that are asked: the first ones, as many as resolv.conf(5) allows.
const MOST_SERVERS: usize = 3;
/// The port of a name server (RFC 1035, section 4.2).
const PORT: u16 = 53;

/// Servers that are asked together, and what they have said. What other servers said before is not theirs.
pub(super) struct Servers {
    /// Asks the servers.
    pub(super) dns: TokioResolver,
    /// What they have said.
    pub(super) known: KnownNames,
}

/// A file that names servers.
#[derive(Clone)]
pub(super) struct SystemFile {
    pub(super) disk: Disk,
    pub(super) path: PathBuf,
    /// The port of the servers, which the file does not name.
    pub(super) port: u16,
}

impl SystemFile {
    /// The servers that the file names; none if it cannot be read.
    fn servers(&self) -> Vec<SocketAddr> {
        let text = self.disk.read(&self.path, MOST_BYTES).unwrap_or_default();
        let Ok((config, _)) = parse_resolv_conf(text) else {
            return Vec::new();
        };
        // Only the servers are taken from the file. Its search domains are not for clients.
        let named = config.name_servers().iter().take(MOST_SERVERS);
        named
            .map(|server| SocketAddr::new(server.ip, self.port))
            .collect()
    }
}

struct State {
    addresses: Vec<SocketAddr>,
    servers: Option<Arc<Servers>>,
    next_read: Instant,
}

/// The servers that an exit asks for names now.
pub(super) struct NameServers {
    file: Option<SystemFile>,
    options: fn() -> ResolverOpts,
    budget: Arc<Budget>,
    events: Reporter,
    state: Mutex<State>,
}

impl NameServers {
    /// The server `set`, or those of the system's file on `disk`, asked in the manner of `options`. What they say is
    /// charged to `budget`. That there is none is reported to `events`.
    ///
    /// # Errors
    /// The library's error if nothing can be asked.
    pub(super) fn new(
        set: Option<SocketAddr>,
        disk: &Disk,
        options: fn() -> ResolverOpts,
        budget: &Arc<Budget>,
        events: Reporter,
    ) -> Result<Self, NetError> {
        let file = || SystemFile {
            disk: disk.clone(),
            path: Path::new(SYSTEM_FILE).to_owned(),
            port: PORT,
        };
        let source = set.map_or_else(|| Err(file()), Ok);
        Self::of(source, options, budget, events)
    }

    /// The server of `source`, or those of its file.
    pub(super) fn of(
        source: Result<SocketAddr, SystemFile>,
        options: fn() -> ResolverOpts,
        budget: &Arc<Budget>,
        events: Reporter,
    ) -> Result<Self, NetError> {
        let (addresses, file) = match source {
            Ok(server) => (vec![server], None),
            Err(file) => (file.servers(), Some(file)),
        };
        let all = Self {
            file,
            options,
            budget: budget.clone(),
            events,
            state: Mutex::new(State {
                addresses: Vec::new(),
                servers: None,
                next_read: steady::now() + READ_EVERY,
            }),
        };
        if addresses.is_empty() {
            all.events.report(RelayEvent::NameServers(addresses));
        } else {
            all.ask(addresses)?;
        }
        Ok(all)
    }

    /// The servers to ask. `None` while there are none.
    pub(super) async fn current(&self) -> Option<Arc<Servers>> {
        if let Some(file) = self.due() {
            let named = blocking::run(move || file.servers()).await;
            // A file that is empty, or away for a moment, takes nothing away.
            if let Ok(named) = named
                && !named.is_empty()
                && let Err(error) = self.ask(named)
            {
                tracing::debug!(%error, "name servers cannot be asked");
            }
        }
        self.latest()
    }

    /// The servers as they were when they were last looked for.
    pub(super) fn latest(&self) -> Option<Arc<Servers>> {
        lock(&self.state).servers.clone()
    }

    /// The file, if it is to be read again. Whoever asks meanwhile takes the servers that were there before.
    fn due(&self) -> Option<SystemFile> {
        let file = self.file.as_ref()?;
        let (now, mut state) = (steady::now(), lock(&self.state));
        (now >= state.next_read).then(|| {
            state.next_read = now + READ_EVERY;
            file.clone()
        })
    }

    /// Asks the servers at `addresses` from now on.
    fn ask(&self, addresses: Vec<SocketAddr>) -> Result<(), NetError> {
        let mut state = lock(&self.state);
        if state.addresses == addresses {
            return Ok(());
        }
        let servers = addresses.iter().copied().map(name_server).collect();
        let config = ResolverConfig::from_name_servers(servers);
        let provider = TokioRuntimeProvider::default();
        let mut builder = TokioResolver::builder_with_config(config, provider);
        *builder.options_mut() = (self.options)();
        state.servers = Some(Arc::new(Servers {
            dns: builder.build()?,
            known: KnownNames::new(&self.budget),
        }));
        state.addresses.clone_from(&addresses);
        drop(state);
        self.events.report(RelayEvent::NameServers(addresses));
        Ok(())
    }
}

fn name_server(server: SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
    let connections = connections.map(|mut connection| {
        connection.port = server.port();
        connection
    });
    NameServerConfig::new(server.ip(), true, connections.into())
}
