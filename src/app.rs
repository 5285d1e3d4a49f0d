//! Starts and stops a node: the only file that knows both halves of the network.
//!
//! Everything else of the program speaks in the types of this file. A node's
//! rooms start in the order state, relay, client, and stop in the other
//! direction: what brings work in goes first, so that nothing is cut off that
//! could still be finished.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cepa_common::ids::RelayId;
use cepa_common::onion::Suite;
use cepa_common::state::{KeyKind, StateDir, StateError, Trust};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::config::{self, Config, SuiteChoice};

pub(crate) use cepa_common::dir::{Authority, ExitPolicy, local_network_params};
use cepa_common::dir::{Consensus, NetworkDraft, NetworkFile};
pub(crate) use ed25519_dalek::SigningKey;
use {cepa_client as client, cepa_relay as relay};

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
}

/// A node that runs.
pub(crate) struct Node {
    client: Option<client::Client>,
    front: Option<client::Front>,
    relay: Option<relay::RelayHandle>,
    /// Keeps the state directory locked until all else has stopped.
    _state: StateDir,
    /// Where applications connect, if the node is a client.
    pub(crate) socks: Option<SocketAddr>,
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
        let network = read_network(&config.network.file)?;
        let trust = if config.state.check_permissions {
            Trust::OwnerOnly
        } else {
            Trust::Everyone
        };
        let state = StateDir::open(&config.state.dir, trust)?;
        let relay = match relay_options(config, &network, &state)? {
            Some(options) => Some(
                relay::Relay::start(options)
                    .await
                    .map_err(|e| AppError::Relay(e.to_string()))?,
            ),
            None => None,
        };
        let mut node = Self {
            client: None,
            front: None,
            identity: relay.as_ref().map(relay::RelayHandle::identity),
            relay,
            _state: state,
            socks: None,
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
        network: NetworkFile,
        progress: watch::Sender<Progress>,
    ) -> Result<(), AppError> {
        let Some(settings) = &config.client else {
            return Ok(());
        };
        // The port comes first: whether it is free is the one thing that we know at once.
        let listener =
            TcpListener::bind(settings.socks)
                .await
                .map_err(|source| AppError::Listen {
                    address: settings.socks,
                    source,
                })?;
        self.socks = listener.local_addr().ok();
        let options = client::ClientOptions {
            network,
            state_dir: Some(self._state.room("client")?),
            progress: None,
        };
        let client = bootstrap(options, progress).await?;
        let front = client::front::FrontOptions {
            allow_private: settings.allow_private,
            ..Default::default()
        };
        self.front = Some(client.serve_front(listener, front));
        self.client = Some(client);
        Ok(())
    }

    /// Stops every role, sources of work first.
    pub(crate) async fn stop(self) {
        if let Some(front) = self.front {
            front.shutdown().await;
        }
        if let Some(client) = self.client {
            client.shutdown().await;
        }
        if let Some(relay) = self.relay {
            relay.shutdown().await;
        }
    }
}

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

/// The name of a relay's identity among the keys of its state directory.
const IDENTITY_KEY: &str = "identity";

/// Makes the keys of a new authority in the state directory `state`, and its entry in a network's file.
pub(crate) fn new_authority(
    name: &str,
    address: SocketAddr,
    state: &Path,
    trust: Trust,
) -> Result<(Authority, SigningKey), AppError> {
    let identity = new_relay(state, trust)?;
    let state = StateDir::open(state, trust)?;
    let key = config::Authority::default().signing_key;
    let signing_key = state.load_or_create_key(&key, KeyKind::Authority, &mut rand::rng())?;
    let signing_key = SigningKey::from_bytes(signing_key.expose());
    let entry = Authority {
        name: name.to_owned(),
        identity,
        signing_key: signing_key.verifying_key().to_bytes(),
        addresses: vec![address],
    };
    Ok((entry, signing_key))
}

/// Makes the identity of a new relay in the state directory `state`.
pub(crate) fn new_relay(state: &Path, trust: Trust) -> Result<RelayId, AppError> {
    let state = StateDir::open(state, trust)?;
    let secret = state.load_or_create_key(IDENTITY_KEY, KeyKind::Identity, &mut rand::rng())?;
    Ok(RelayId(
        SigningKey::from_bytes(secret.expose())
            .verifying_key()
            .to_bytes(),
    ))
}

/// The text of a network's file that all of `signers` signed.
pub(crate) fn sign_network(
    name: &str,
    authorities: Vec<Authority>,
    signers: &[SigningKey],
    params: BTreeMap<String, u32>,
) -> Result<String, AppError> {
    let bad = |reason: String| AppError::Mismatch {
        what: format!("the network cannot be made: {reason}"),
        hint: "docs/protocol.md has the rules for network.toml",
    };
    let mut draft = NetworkDraft::new(name, authorities, params);
    for signer in signers {
        draft.sign(signer).map_err(|error| bad(error.to_string()))?;
    }
    let network = draft.finish().map_err(|error| bad(error.to_string()))?;
    network.to_toml().map_err(|error| bad(error.to_string()))
}

/// What the relay of `config` is started with; `None` if the node is none.
fn relay_options(
    config: &Config,
    network: &NetworkFile,
    state: &StateDir,
) -> Result<Option<relay::RelayOptions>, AppError> {
    let Some(settings) = &config.relay else {
        return Ok(None);
    };
    let mut rng = rand::rng();
    let identity = state.load_or_create_key(IDENTITY_KEY, KeyKind::Identity, &mut rng)?;
    let identity = SigningKey::from_bytes(identity.expose());
    let suite = suite(settings.suite);
    // A suite is a property of an onion key: another suite is another key (docs/protocol.md, 3.2).
    let onion = format!("onion-{}", suite.name());
    let onion_key = state.load_or_create_key(&onion, KeyKind::Onion, &mut rng)?;
    let authority = match &config.authority {
        Some(settings) => Some(authority_options(
            &settings.signing_key,
            network,
            state,
            &identity,
        )?),
        None => None,
    };
    let exit = match &config.exit {
        Some(settings) => Some(exit_options(settings)?),
        None => None,
    };
    Ok(Some(relay::RelayOptions {
        network: network.clone(),
        identity,
        onion_key,
        suite,
        listen: settings.listen,
        advertised: settings.advertised(),
        nickname: settings.nickname.clone(),
        publish: settings.publish,
        exit,
        authority,
        threads: threads(config.limits.threads),
        cache_dir: state.room("directory")?,
        limits: relay::Limits {
            memory_bytes: u64::from(config.limits.memory_mib) << 20,
            connections: config.limits.connections,
        },
    }))
}

/// An authority's options, once its keys are found to be those that the network names.
fn authority_options(
    name: &str,
    network: &NetworkFile,
    state: &StateDir,
    identity: &SigningKey,
) -> Result<relay::AuthorityOptions, AppError> {
    let secret = state.load_key(name, KeyKind::Authority)?;
    let signing_key = SigningKey::from_bytes(secret.expose());
    let ours = network.authority_by_signing_key(&signing_key.verifying_key().to_bytes());
    let mismatch = |what: &str| AppError::Mismatch {
        what: what.to_owned(),
        hint: "use the state directory that `cepa authority init` made for this authority",
    };
    match ours {
        None => Err(mismatch(
            "the network does not know this authority's signing key",
        )),
        Some(ours) if ours.identity.0 != identity.verifying_key().to_bytes() => Err(mismatch(
            "the network knows this authority by another identity",
        )),
        Some(_) => Ok(relay::AuthorityOptions {
            signing_key,
            state_dir: state.room("authority")?,
        }),
    }
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

/// A consensus, for people and scripts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ConsensusView {
    /// The network's name.
    pub(crate) network: String,
    /// The network's id in hexadecimal digits.
    pub(crate) network_id: String,
    /// When it begins to be valid (UTC, RFC 3339).
    pub(crate) valid_after: String,
    /// From when on there should be a newer one.
    pub(crate) fresh_until: String,
    /// When it ends to be valid.
    pub(crate) valid_until: String,
    /// How many authorities signed it.
    pub(crate) signatures: usize,
    /// How many authorities the network has.
    pub(crate) authorities: usize,
    /// Its relays.
    pub(crate) relays: Vec<RelayView>,
}

/// A relay of a consensus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct RelayView {
    /// Identity in hexadecimal digits.
    pub(crate) identity: String,
    /// Name for people.
    pub(crate) nickname: String,
    /// Where it accepts links.
    pub(crate) addresses: Vec<SocketAddr>,
    /// Weight in the choice of paths.
    pub(crate) weight: u32,
    /// What the authorities say of it.
    pub(crate) flags: Vec<String>,
    /// Suite of its onion key.
    pub(crate) suite: &'static str,
    /// Ports to which it exits.
    pub(crate) exit_ports: String,
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
            network,
            state_dir: Some(state.path().to_owned()),
            progress: None,
        };
        Ok(Self {
            client: bootstrap(options, progress).await?,
            _state: state,
        })
    }

    /// Builds a circuit that could carry a stream to `target`, or any, and measures its hops.
    pub(crate) async fn trace(&self, target: Option<&str>) -> Result<Vec<Hop>, AppError> {
        let hops = self
            .client
            .trace(target)
            .await
            .map_err(|e| AppError::Circuit(e.to_string()))?;
        Ok(hops
            .into_iter()
            .map(|hop| Hop {
                identity: hop.identity,
                nickname: hop.nickname,
                address: hop.address,
                suite: hop.suite,
                handshake: hop.handshake,
                round_trip: hop.rtt,
            })
            .collect())
    }

    /// The consensus that the client believes.
    pub(crate) fn consensus(&self) -> Result<ConsensusView, AppError> {
        let consensus = self
            .client
            .consensus()
            .ok_or_else(|| AppError::Client("the consensus that it held has expired".to_owned()))?;
        Ok(view(self.client.network(), &consensus))
    }

    /// Leaves the network.
    pub(crate) async fn leave(self) {
        self.client.shutdown().await;
    }
}

/// Starts a client and tells `progress` how far it is.
async fn bootstrap(
    mut options: client::ClientOptions,
    progress: watch::Sender<Progress>,
) -> Result<client::Client, AppError> {
    let (steps, mut seen) = watch::channel(client::dir::BootstrapProgress::Starting);
    options.progress = Some(steps);
    let starting = client::Client::bootstrap(options);
    tokio::pin!(starting);
    loop {
        tokio::select! {
            started = &mut starting => {
                return started.map_err(|error| AppError::Client(error.to_string()));
            }
            Ok(()) = seen.changed() => {
                progress.send_replace(described(&seen.borrow_and_update()));
            }
        }
    }
}

fn described(step: &client::dir::BootstrapProgress) -> Progress {
    use client::dir::BootstrapProgress as Step;
    let (percent, what) = match step {
        Step::Starting => (5, "starting".to_owned()),
        Step::Asking { sources } => (30, format!("asking {sources} directories for a consensus")),
        Step::Failed { rounds, reason, .. } => {
            (30, format!("no consensus yet (round {rounds}): {reason}"))
        }
        Step::Ready { relays, .. } => (90, format!("holding a consensus of {relays} relays")),
    };
    Progress { percent, what }
}

/// A consensus, for people and scripts.
fn view(network: &NetworkFile, consensus: &Consensus) -> ConsensusView {
    let time = |seconds| {
        let at = std::time::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
        at.map_or_else(String::new, |at| {
            humantime::format_rfc3339_seconds(at).to_string()
        })
    };
    let lifetime = consensus.lifetime();
    let relays = consensus.entries().iter().map(|entry| RelayView {
        identity: entry.identity.to_string(),
        nickname: entry.nickname.clone(),
        addresses: entry.addresses.clone(),
        weight: entry.weight,
        flags: entry
            .flags
            .to_string()
            .split_whitespace()
            .map(str::to_owned)
            .collect(),
        suite: entry.suite.name(),
        exit_ports: ports(entry.policy.v4()),
    });
    ConsensusView {
        network: network.name().to_owned(),
        network_id: network.network_id().to_string(),
        valid_after: time(lifetime.valid_after),
        fresh_until: time(lifetime.fresh_until),
        valid_until: time(lifetime.valid_until),
        signatures: consensus.signature_count(),
        authorities: network.authorities().len(),
        relays: relays.collect(),
    }
}

/// Port ranges as people write them; `-` for none.
fn ports(ranges: &[cepa_common::dir::PortRange]) -> String {
    let ranges: Vec<String> = ranges
        .iter()
        .map(|range| match (range.low, range.high) {
            (low, high) if low == high => low.to_string(),
            (low, high) => format!("{low}-{high}"),
        })
        .collect();
    if ranges.is_empty() {
        "-".to_owned()
    } else {
        ranges.join(",")
    }
}
