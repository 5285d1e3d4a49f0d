//! Starts and stops a node: the only file that knows both halves of the network.
//!
//! Everything else of the program speaks in the types of this file. A node's
//! rooms start in the order state, relay, client, and stop in the other
//! direction: what brings work in goes first, so that nothing is cut off that
//! could still be finished.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cepa_common::ids::RelayId;
use cepa_common::onion::Suite;
use cepa_common::state::{KeyKind, StateDir, StateError, Trust};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::client as clients;
use super::measure::{self, Measurer};
use crate::config::{self, Config, SuiteChoice};
use crate::control::Control;

use cepa_common::dir::ExitPolicy;
use cepa_common::dir::{Consensus, NetworkFile, NetworkHandle, RevisionStore};
use cepa_common::world::{blocking, random};
use ed25519_dalek::SigningKey;
use {cepa_client as client, cepa_relay as relay};

use client::path::{GeoIp, PeerRules};

/// A node could not be started or asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AppError {
    /// The network's file cannot be read.
    #[error("cannot read the network file {}: {source}", path.display())]
    NetworkUnreadable {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The network's file says nothing that can be believed.
    #[error("{} is no valid network file: {reason}", path.display())]
    NetworkInvalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A key or a document on disk cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// A port cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The port.
        address: SocketAddr,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The configuration cannot be meant for this network.
    #[error("{what}")]
    Mismatch {
        /// What does not fit.
        what: String,
        /// What to try.
        hint: &'static str,
    },
    /// The relay did not start.
    #[error("the relay did not start: {0}")]
    Relay(String),
    /// The client did not reach the network.
    #[error("the client did not reach the network: {0}")]
    Client(String),
    /// The circuit was not built.
    #[error("the circuit was not built: {0}")]
    Circuit(String),
}

impl AppError {
    /// What its reader could try.
    pub(crate) fn hint(&self) -> &'static str {
        match self {
            Self::NetworkUnreadable { .. } => {
                "name the network with --network FILE; `cepa testnet` and `cepa authority init` make one"
            }
            Self::NetworkInvalid { .. } => {
                "get the file anew from somebody who runs an authority of the network"
            }
            Self::State(error) => error.hint(),
            Self::Listen { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse => {
                "another program listens there; stop it or choose another port"
            }
            Self::Listen { .. } => "choose an address of this machine and a port above 1023",
            Self::Mismatch { hint, .. } => hint,
            Self::Relay(_) => "look at the log; `--log debug` says more",
            Self::Client(_) => {
                "check that the network's authorities run and can be reached; `--log debug` says more"
            }
            Self::Circuit(_) => "`cepa consensus` shows which relays the network has",
        }
    }

    /// Is the network the cause, rather than this machine or its settings?
    pub(crate) fn is_network(&self) -> bool {
        matches!(self, Self::Client(_) | Self::Circuit(_))
    }
}

/// How far a node is, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Per cent of the way to being of use.
    pub(crate) percent: u8,
    /// What happens now.
    pub(crate) what: String,
    /// It is a step within a step: nothing for a log.
    pub(crate) is_detail: bool,
    /// A round of asking for a consensus has failed.
    pub(crate) has_waited: bool,
    /// What was found to be wrong, the first first.
    pub(crate) warnings: Vec<String>,
}

/// A node that runs.
pub(crate) struct Node {
    client: Option<clients::Started>,
    fronts: Vec<client::Front>,
    /// Answers over the control socket; ends when it is dropped.
    control: JoinSet<()>,
    relay: Option<relay::RelayHandle>,
    measurer: Option<Measurer>,
    /// Keeps the state directory locked until all else has stopped.
    _state: StateDir,
    /// Where applications connect, if the node is a client.
    pub(crate) socks: Vec<SocketAddr>,
    /// Who the node is to other relays, if it is a relay.
    pub(crate) identity: Option<RelayId>,
}

impl Node {
    /// Starts every role of `config` and tells `progress`; done once the node is of use.
    ///
    /// A relay is of use when it listens. A client is when it holds a consensus
    /// that it believes and its front accepts connections.
    pub(crate) async fn start(
        config: &Config,
        progress: watch::Sender<Progress>,
    ) -> Result<Self, AppError> {
        let given = read_network(&config.network.file)?;
        let trust = if config.state.check_permissions {
            Trust::OwnerOnly
        } else {
            Trust::Everyone
        };
        let state = StateDir::open(&config.state.dir, trust)?;
        // What an earlier run learnt goes on where the file that was given leads to it.
        let room = if config.relay.is_some() {
            DIRECTORY_ROOM
        } else {
            CLIENT_ROOM
        };
        let network = RevisionStore::open(Some(&state.room(room)?), given);
        let measurer = Measurer::of(config, &network.newest());
        let relay = match relay_options(config, &network, &state, measurer.as_ref())? {
            Some(options) => Some(
                relay::Relay::start(options)
                    .await
                    .map_err(|e| AppError::Relay(e.to_string()))?,
            ),
            None => None,
        };
        let mut node = Self {
            client: None,
            fronts: Vec::new(),
            control: JoinSet::new(),
            identity: relay.as_ref().map(relay::RelayHandle::identity),
            relay,
            measurer,
            _state: state,
            socks: Vec::new(),
        };
        if let Err(error) = node.start_client(config, network, progress).await {
            node.stop().await;
            return Err(error);
        }
        Ok(node)
    }

    async fn start_client(
        &mut self,
        config: &Config,
        network: NetworkHandle,
        progress: watch::Sender<Progress>,
    ) -> Result<(), AppError> {
        let Some(settings) = &config.client else {
            return Ok(());
        };
        // The ports come first: whether they are free is the one thing that we know at once.
        let mut listeners = vec![(bind(settings.socks).await?, &settings.isolate)];
        for more in &settings.listeners {
            let isolate = more.isolate.as_ref().unwrap_or(&settings.isolate);
            listeners.push((bind(more.address).await?, isolate));
        }
        let control = self.listen_to_owner(&progress);
        let peers = peer_rules(settings).await?;
        let options = client::ClientOptions {
            network,
            peers,
            multipath: clients::multipath(settings.multipath),
            network_file: Some(config.network.file.clone()),
            state_dir: Some(self._state.room(CLIENT_ROOM)?),
            isolate_by: clients::isolate_by(&settings.isolate),
        };
        let started = self.client.insert(clients::start(options).await);
        // From the beginning: whoever waits may ask what for.
        if let Some(control) = control {
            let handler = clients::handler(started.client.clone());
            self.control.spawn(control.serve(handler));
        }
        started.ready(progress).await?;
        let front = client::front::FrontOptions {
            allow_private: settings.allow_private,
            answer_early: settings.answer_early,
            ..Default::default()
        };
        for (listener, isolate) in listeners {
            self.socks.extend(listener.local_addr().ok());
            let (by, client) = (clients::isolate_by(isolate), &started.client);
            self.fronts.push(client.serve_front_by(by, listener, front));
        }
        Ok(())
    }

    /// The control socket. A client without one is of use as well: that there is none is said, and no more.
    fn listen_to_owner(&self, progress: &watch::Sender<Progress>) -> Option<Control> {
        let control = Control::listen(self._state.path());
        control
            .inspect_err(|error| {
                let lost = "`cepa status` and `cepa new-identity` will not find this client";
                tracing::warn!(%error, "{lost}");
                progress.send_modify(|progress| {
                    progress.warnings.push(format!("warning: {lost}: {error}"));
                });
            })
            .ok()
    }

    /// What the client has to say to its owner next. Never completes where there is no client.
    pub(crate) async fn news(&mut self) -> String {
        match &mut self.client {
            Some(started) => started.news().await,
            None => std::future::pending().await,
        }
    }

    /// Stops every role, sources of work first.
    pub(crate) async fn stop(mut self) {
        for front in self.fronts {
            front.shutdown().await;
        }
        self.control.shutdown().await;
        if let Some(started) = self.client {
            started.client.shutdown().await;
        }
        if let Some(measurer) = self.measurer {
            measurer.stop().await;
        }
        if let Some(relay) = self.relay {
            relay.shutdown().await;
        }
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, AppError> {
    let listener = TcpListener::bind(address).await;
    listener.map_err(|source| AppError::Listen { address, source })
}

/// What the owner decides of paths, with the GeoIP file read.
async fn peer_rules(settings: &config::Client) -> Result<PeerRules, AppError> {
    let mismatch = |what: String| AppError::Mismatch {
        what,
        hint: PEERS_HINT,
    };
    let geoip = match settings.geoip.clone() {
        Some(path) => blocking::run(move || GeoIp::open(&path))
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

/// Where the lists of peers are explained.
pub(crate) const PEERS_HINT: &str = "docs/peers.md explains the lists of [client] and client.geoip";

/// The network that the file at `path` describes.
pub(crate) fn read_network(path: &Path) -> Result<NetworkFile, AppError> {
    let text = std::fs::read_to_string(path).map_err(|source| AppError::NetworkUnreadable {
        path: path.to_owned(),
        source,
    })?;
    NetworkFile::parse(&text).map_err(|error| AppError::NetworkInvalid {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

/// Where a relay keeps directory documents, in its state directory.
const DIRECTORY_ROOM: &str = "directory";
/// Where a client keeps what it learnt.
const CLIENT_ROOM: &str = "client";
/// The name of a relay's identity among the keys of its state directory.
pub(crate) const IDENTITY_KEY: &str = "identity";

/// Makes the identity of a new relay in the state directory `state`.
pub(crate) fn new_relay(state: &Path, trust: Trust) -> Result<RelayId, AppError> {
    let state = StateDir::open(state, trust)?;
    let secret = state.load_or_create_key(IDENTITY_KEY, KeyKind::Identity, &mut random::rng())?;
    Ok(RelayId(
        SigningKey::from_bytes(secret.expose())
            .verifying_key()
            .to_bytes(),
    ))
}

/// What the relay of `config` is started with; `None` if the node is none.
fn relay_options(
    config: &Config,
    network: &NetworkHandle,
    state: &StateDir,
    measurer: Option<&Measurer>,
) -> Result<Option<relay::RelayOptions>, AppError> {
    let Some(settings) = &config.relay else {
        return Ok(None);
    };
    let mut rng = random::rng();
    let identity = crate::node::identity::of_relay(settings, &network.newest(), state, &mut rng)?;
    // A suite is a property of an onion key: another suite is another key (docs/protocol.md, 3.2).
    let onion_keys = relay::keys::ring::OnionKeyOptions {
        dir: state.room("keys")?,
        trust: state.trust(),
        suite: suite(settings.suite),
    };
    let authority = match &config.authority {
        Some(settings) => Some(authority_options(
            settings, network, state, &identity, measurer,
        )?),
        None => None,
    };
    let exit = match &config.exit {
        Some(settings) => Some(exit_options(settings)?),
        None => None,
    };
    Ok(Some(relay::RelayOptions {
        network: network.clone(),
        network_file: Some(config.network.file.clone()),
        identity,
        onion_keys,
        listen: settings.listen,
        advertised: settings.advertised(),
        nickname: settings.nickname.clone(),
        publish: settings.publish,
        claim_kib: (settings.claim_kib > 0).then_some(settings.claim_kib),
        exit,
        authority,
        threads: threads(config.limits.threads),
        cache_dir: state.room(DIRECTORY_ROOM)?,
        limits: relay::Limits {
            memory_bytes: u64::from(config.limits.memory_mib) << 20,
            connections: config.limits.connections,
            bandwidth_kib: config.limits.bandwidth_kib,
        },
    }))
}

/// An authority's options, once its keys are found to be those that the network names.
fn authority_options(
    settings: &config::Authority,
    network: &NetworkHandle,
    state: &StateDir,
    identity: &relay::keys::RelayIdentity,
    measurer: Option<&Measurer>,
) -> Result<relay::AuthorityOptions, AppError> {
    let file = relay::authority::VotingKeyFile {
        dir: state.room("keys")?,
        name: settings.signing_key.clone(),
        trust: state.trust(),
        network: network.network_id(),
    };
    let signing_key = file.load().map_err(|error| AppError::Mismatch {
        what: error.to_string(),
        hint: "`cepa authority certify` makes a key and its certificate; copy both into the directory of keys",
    })?;
    let mismatch = |what: &str| AppError::Mismatch {
        what: what.to_owned(),
        hint: "use the state directory that was made for this authority; `cepa network show` lists the keys that the network names",
    };
    // Newcomers pin this key on links, so an authority's identity is its link key (docs/operator.md).
    if identity.certificate().is_some() {
        return Err(AppError::Mismatch {
            what: "an authority cannot keep the identity of its links off line".to_owned(),
            hint: "run the authority with the identity that `cepa authority init` made; what it can keep off line is its voting key",
        });
    }
    let identity = identity.identity();
    let revisions = network.revisions();
    // An authority that joins or leaves is in some of them only.
    let known: Vec<_> = revisions
        .iter()
        .filter_map(|file| file.authority(&identity))
        .collect();
    let long_term = signing_key.authority();
    if known.is_empty() {
        return Err(mismatch(
            "the network does not know this authority's identity",
        ));
    }
    if known.iter().all(|ours| ours.signing_key != long_term) {
        return Err(mismatch(
            "the network does not know this authority's signing key",
        ));
    }
    Ok(relay::AuthorityOptions {
        signing_key,
        signing_key_file: Some(file),
        state_dir: state.room("authority")?,
        rules: measure::operator_rules(settings).map_err(|error| AppError::Mismatch {
            what: error.to_string(),
            hint: "docs/config.md describes authority.reject and authority.middle_only",
        })?,
        measure: measurer.map(|measurer| measurer.options(settings.measure_mib_per_hour)),
    })
}

fn exit_options(settings: &config::Exit) -> Result<relay::ExitOptions, AppError> {
    let policy = ExitPolicy::from_rules(&settings.policy).map_err(|error| AppError::Mismatch {
        what: error.to_string(),
        hint: "docs/config.md describes the rules of exit.policy",
    })?;
    let policy = if settings.allow_private {
        policy.allow_private()
    } else {
        policy
    };
    Ok(relay::ExitOptions {
        policy,
        resolver: settings.resolver,
    })
}

/// The suite that `choice` means on this machine.
pub(crate) fn suite(choice: SuiteChoice) -> Suite {
    match choice {
        SuiteChoice::ChaCha20Poly1305 => Suite::ChaCha20Poly1305,
        SuiteChoice::Aes256Gcm => Suite::Aes256Gcm,
        SuiteChoice::Auto if has_aes() => Suite::Aes256Gcm,
        SuiteChoice::Auto => Suite::ChaCha20Poly1305,
    }
}

/// Has the processor instructions for AES? Without them AES is slow and leaks by its timing.
fn has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes")
        && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

/// The number of threads that `setting` means on this machine.
fn threads(setting: usize) -> usize {
    match setting {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        some => some,
    }
}

/// A client that is used for one question and serves nobody.
pub(crate) struct Visitor {
    client: client::Client,
    /// Removed with all its content when the visit ends.
    _state: tempfile::TempDir,
}

/// A hop of a circuit, as its client measured it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hop {
    /// Who it is.
    pub(crate) identity: RelayId,
    /// Is it the guard, that the client's circuits begin at?
    pub(crate) is_guard: bool,
    /// Its name for people.
    pub(crate) nickname: String,
    /// Where it was reached, as the consensus has it.
    pub(crate) address: SocketAddr,
    /// The suite of its layer.
    pub(crate) suite: Suite,
    /// From sending CREATE or EXTEND to the keys.
    pub(crate) handshake: Duration,
    /// From the client to this hop and back.
    pub(crate) round_trip: Duration,
}

impl Visitor {
    /// Joins the network of the file at `path` with nothing but that file.
    pub(crate) async fn join(
        path: &Path,
        progress: watch::Sender<Progress>,
    ) -> Result<Self, AppError> {
        let network = read_network(path)?;
        let state = tempfile::Builder::new()
            .prefix("cepa-")
            .tempdir()
            .map_err(|source| StateError::Io {
                action: "create a directory in",
                path: std::env::temp_dir(),
                source,
            })?;
        let options = client::ClientOptions {
            network: RevisionStore::open(None, network),
            network_file: None,
            peers: PeerRules::default(),
            state_dir: Some(state.path().to_owned()),
            isolate_by: Default::default(),
            multipath: Default::default(),
        };
        let mut started = clients::start(options).await;
        started.ready(progress).await?;
        Ok(Self {
            client: started.client,
            _state: state,
        })
    }

    /// Builds a circuit that could carry a stream to `target`, or any, and measures its hops.
    pub(crate) async fn trace(&self, target: Option<&str>) -> Result<Vec<Hop>, AppError> {
        let hops = self.client.trace(target).await;
        Ok(of_reports(
            hops.map_err(|e| AppError::Circuit(e.to_string()))?,
        ))
    }

    /// Builds a circuit through exactly the relays that are called so, and measures its hops.
    pub(crate) async fn trace_path(&self, names: &[String]) -> Result<Vec<Hop>, AppError> {
        let relays = self.client.relays(names);
        let relays = relays.map_err(|error| AppError::Mismatch {
            what: error.to_string(),
            hint: "`cepa consensus` shows nicknames and identities",
        })?;
        let hops = self.client.trace_path(&relays).await;
        Ok(of_reports(
            hops.map_err(|e| AppError::Circuit(e.to_string()))?,
        ))
    }

    /// The consensus that the client believes, and the revision of the network's file that it was judged by.
    pub(crate) fn consensus(&self) -> Result<(Arc<NetworkFile>, Arc<Consensus>), AppError> {
        let consensus = self
            .client
            .consensus()
            .ok_or_else(|| AppError::Client("the consensus that it held has expired".to_owned()))?;
        let network = self.client.networks().at(consensus.lifetime().valid_after);
        Ok((network, consensus))
    }

    /// Leaves the network.
    pub(crate) async fn leave(self) {
        self.client.shutdown().await;
    }
}

fn of_reports(hops: Vec<client::HopReport>) -> Vec<Hop> {
    hops.into_iter()
        .map(|hop| Hop {
            identity: hop.identity,
            is_guard: hop.is_guard,
            nickname: hop.nickname,
            address: hop.address,
            suite: hop.suite,
            handshake: hop.handshake,
            round_trip: hop.rtt,
        })
        .collect()
}
