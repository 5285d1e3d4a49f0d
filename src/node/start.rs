//! Starts and stops a node: the only file of the program that knows both halves of the network.
//!
//! A node's rooms start in the order state, relay, client, and stop in the other direction: what brings work in goes
//! first, so that nothing is cut off that could still be finished.

use std::net::SocketAddr;
use std::time::Duration;

use cepa_client as client;
use cepa_client::path::{GeoIp, PeerRules};
use cepa_common::dir::UnixSecs;
use cepa_common::ids::RelayId;
use cepa_common::net::directory::{NetworkHandle, RevisionStore};
use cepa_common::state::{StateDir, Trust};
use cepa_common::world::{Clock, Disk, World, blocking};
use cepa_relay as relay;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::client as clients;
use super::error::{AppError, PEERS_HINT};
use super::files::{CLIENT_ROOM, DIRECTORY_ROOM, read_network};
use super::listen::{SocketFile, bind};
use super::measure::Measurer;
use super::news::{News, Told, until_listed};
use super::relay::relay_options;
use super::reload::Reload;
use super::roles::{Attend, ClientRole, RelayRole, Roles, take_actions};
use crate::config::{self, Config, ListenAddress, ListenerKind, Source};
use crate::terminal::Progress;

/// A node that runs.
pub struct Node {
    client: Option<clients::Started>,
    fronts: Vec<client::Front>,
    socket_files: Vec<SocketFile>,
    /// When the node was started (seconds since 1970).
    started: UnixSecs,
    /// The tasks that speak with the node's owner. The tasks end when they are dropped.
    attendants: JoinSet<()>,
    relay: Option<relay::RelayHandle>,
    /// What the relay tells its owner.
    told: Option<Told>,
    measurer: Option<Measurer>,
    /// Keeps the state directory locked until all else has stopped.
    state: StateDir,
    /// Changes settings, and knows how long the streams of the exit may go on when the node stops in order.
    reload: Reload,
    /// Looks at the configuration's file. The task ends when it is dropped.
    watching: JoinSet<()>,
    /// Where applications connect, if the node is a client, and what they say there.
    pub ports: Vec<(ListenerKind, ListenAddress)>,
    /// Who the node is to other relays, if it is a relay.
    pub identity: Option<RelayId>,
    /// Where the node accepts links, if it is a relay.
    pub listening: Option<SocketAddr>,
}

impl Node {
    /// Starts every role of `config` and tells `progress`. Completes when the node is of use.
    ///
    /// A relay is of use when it listens. A client is of use when it holds a consensus that it believes and its front
    /// accepts connections.
    ///
    /// `source` is the file of the configuration, if it has one, which is read again when it changes.
    pub async fn start(
        config: &Config,
        source: Option<Source>,
        progress: watch::Sender<Progress>,
        attend: Attend,
    ) -> Result<Self, AppError> {
        let started = Clock::system().now_secs();
        let given = read_network(&config.network.file)?;
        let trust = if config.state.check_permissions {
            Trust::OwnerOnly
        } else {
            Trust::Everyone
        };
        let state = StateDir::open(&Disk::Real, &config.state.dir, trust)?;
        // Revisions that an earlier run learnt are used if the file that was given leads to them.
        let room = if config.relay.is_some() {
            DIRECTORY_ROOM
        } else {
            CLIENT_ROOM
        };
        let network = RevisionStore::open(state.disk(), Some(&state.room(room)?), given);
        let measurer = Measurer::of(config, &network.newest());
        let relay = match relay_options(config, &network, &state, measurer.as_ref())? {
            Some(options) => Some(relay::Relay::start(options).await?),
            None => None,
        };
        let owner = relay.as_ref().map(|relay| relay.owner().clone());
        let reload = Reload::new(config, source, owner);
        let publishes = config.relay.as_ref().is_some_and(|relay| relay.publish);
        let mut node = Self {
            client: None,
            fronts: Vec::new(),
            socket_files: Vec::new(),
            started,
            attendants: JoinSet::new(),
            identity: relay.as_ref().map(relay::RelayHandle::identity),
            told: relay.as_ref().map(|relay| Told::by(relay, publishes)),
            listening: relay.as_ref().map(relay::RelayHandle::local_addr),
            relay,
            measurer,
            state,
            reload,
            watching: JoinSet::new(),
            ports: Vec::new(),
        };
        let started = node.start_rest(config, network, progress, attend).await;
        if let Err(error) = started {
            node.stop().await;
            return Err(error);
        }
        let client = node.client.as_ref().map(|started| started.client.clone());
        node.reload.begin(client).await;
        node.watching.spawn(node.reload.clone().follow());
        Ok(node)
    }

    /// Starts what stands on the relay: the client, if the node is one, and the way of the owner to the node.
    async fn start_rest(
        &mut self,
        config: &Config,
        network: NetworkHandle,
        progress: watch::Sender<Progress>,
        attend: Attend,
    ) -> Result<(), AppError> {
        match &config.client {
            Some(settings) => {
                self.start_client(config, settings, network, progress, attend)
                    .await
            }
            None => {
                self.attend(config, None, &progress, attend);
                Ok(())
            }
        }
    }

    /// Lets the owner ask. `listeners` is where programs reach the client.
    fn attend(
        &mut self,
        config: &Config,
        listeners: Option<Vec<config::Listener>>,
        progress: &watch::Sender<Progress>,
        attend: Attend,
    ) {
        let client = self.client.as_ref().map(|started| started.client.clone());
        let (actions, taking) = take_actions(client.clone(), Some(self.reload.clone()));
        let roles = Roles {
            dir: self.state.path().to_owned(),
            started: self.started,
            client: client.map(|client| ClientRole {
                client,
                listeners: listeners.unwrap_or_default(),
            }),
            relay: self.relay.as_ref().map(|relay| RelayRole {
                view: relay.view(),
                publishes: config.relay.as_ref().is_some_and(|relay| relay.publish),
            }),
            actions,
        };
        self.attendants = attend(roles, progress);
        self.attendants.spawn(taking);
    }

    async fn start_client(
        &mut self,
        config: &Config,
        settings: &config::Client,
        network: NetworkHandle,
        progress: watch::Sender<Progress>,
        attend: Attend,
    ) -> Result<(), AppError> {
        // The ports come first: whether they are free is the one thing that we know at once.
        let (mut listeners, mut ports) = (Vec::new(), Vec::new());
        for (_, port) in settings.ports() {
            let isolate = port.isolate.as_ref().unwrap_or(&settings.isolate);
            let by = clients::isolate_by(isolate);
            let bound = bind(&port, self.state.trust()).await?;
            let (kind, udp) = (port.kind, port.udp);
            ports.push(config::Listener {
                address: bound.address.clone(),
                ..port
            });
            listeners.push((bound, by, kind, udp));
        }
        let peers = peer_rules(settings).await?;
        let options = client::ClientOptions {
            network,
            peers,
            multipath: clients::multipath(settings.multipath),
            memory_bytes: (config.limits.client_memory_mib as usize) << 20,
            allow_private: settings.allow_private,
            world: World::default(),
            network_file: Some(config.network.file.clone()),
            state_dir: Some(self.state.room(CLIENT_ROOM)?),
            isolate_by: clients::isolate_by(&settings.isolate),
        };
        self.client = Some(clients::start(options).await);
        // The owner may ask from the beginning: whoever waits may want to know what for.
        self.attend(config, Some(ports), &progress, attend);
        let Some(started) = &mut self.client else {
            return Ok(());
        };
        // Programs are let in from the beginning: a stream waits while the client starts, and is told where that is
        // hopeless.
        let front = client::front::FrontOptions {
            allow_private: settings.allow_private,
            answer_early: settings.answer_early,
            max_connections: settings.connections as usize,
            ..Default::default()
        };
        for (bound, by, kind, udp) in listeners {
            self.ports.push((kind, bound.address));
            self.socket_files.extend(bound.file);
            let front = client::front::FrontOptions { udp, ..front };
            let front = started.client.serve_front_by(by, bound.listener, front);
            self.fronts.push(front);
        }
        started.ready(progress).await?;
        Ok(())
    }

    /// Reads the configuration of the node again.
    pub fn reload(&self) -> &Reload {
        &self.reload
    }

    /// What the node has to say to its owner next.
    pub async fn news(&mut self) -> News {
        let Self { client, told, .. } = self;
        let client = async {
            match client {
                Some(started) => started.news().await,
                None => std::future::pending().await,
            }
        };
        let relay = async {
            match told {
                Some(told) => told.news().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // The owner is told although the log has it, as nobody may be reading the log.
            line = client => News { line, is_logged: false },
            news = relay => news,
        }
    }

    /// Completes when a consensus lists the node's relay as one that authorities reach; `false` if there is no relay,
    /// or the relay ends before.
    pub fn until_listed(&self) -> impl Future<Output = bool> + Send + use<> {
        let events = self.relay.as_ref().map(relay::RelayHandle::events);
        async move {
            match events {
                Some(events) => until_listed(events).await,
                None => false,
            }
        }
    }

    /// How many streams leave the network at this node, and how long they may go on when it stops in order; `None` if
    /// there are none, or they may not.
    pub fn to_drain(&self) -> Option<(usize, Duration)> {
        let streams = self.relay.as_ref()?.open_streams();
        let drain = self.reload.drain();
        (streams > 0 && !drain.is_zero()).then_some((streams, drain))
    }

    /// Stops every role, sources of work first, and cuts off what is under way.
    pub async fn stop(self) {
        self.stop_within(Duration::ZERO).await;
    }

    /// Stops every role, sources of work first. The streams of an exit may end by themselves for as long as the
    /// configuration says.
    pub async fn stop_in_order(self) {
        let drain = self.reload.drain();
        self.stop_within(drain).await;
    }

    async fn stop_within(mut self, drain: Duration) {
        self.watching.shutdown().await;
        for front in self.fronts {
            front.shutdown().await;
        }
        self.attendants.shutdown().await;
        if let Some(started) = self.client {
            started.client.shutdown().await;
        }
        if let Some(measurer) = self.measurer {
            measurer.stop().await;
        }
        if let Some(relay) = self.relay {
            relay.drain(drain).await;
        }
    }
}

/// What the owner decides about paths, with the GeoIP file read.
async fn peer_rules(settings: &config::Client) -> Result<PeerRules, AppError> {
    let mismatch = |what: String| AppError::Mismatch {
        what,
        hint: PEERS_HINT,
    };
    let geoip = match settings.geoip.clone() {
        Some(path) => blocking::run(move || GeoIp::open(&Disk::Real, &path))
            .await
            .map_err(|error| mismatch(error.to_string()))?
            .map(Some)
            .map_err(|error| mismatch(error.to_string()))?,
        None => None,
    };
    settings
        .peer_rules(geoip)
        .map_err(|error| mismatch(error.to_string()))
}
