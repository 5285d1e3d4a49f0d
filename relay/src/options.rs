//! What a relay is started with.

use std::net::SocketAddr;
use std::path::PathBuf;

use cepa_common::dir::{ExitPolicy, Signer};
use cepa_common::net::directory::NetworkHandle;
use cepa_common::world::World;

use crate::admission::Limits;
use crate::authority::{MeasureOptions, OperatorRules, VotingKeyFile};
use crate::circuit::Workers;
use crate::keys::RelayIdentity;
use crate::keys::ring::OnionKeyOptions;

/// Everything that a relay is started with.
pub struct RelayOptions {
    /// The network that it is part of, as it is known now.
    pub network: NetworkHandle,
    /// The file that the network was read from, to notice when its owner puts a later revision there.
    pub network_file: Option<PathBuf>,
    /// Identity of the relay, and the key of its links.
    pub identity: RelayIdentity,
    /// Onion keys of the relay.
    pub onion_keys: OnionKeyOptions,
    /// Address on which the relay listens for links and directory requests.
    pub listen: SocketAddr,
    /// Addresses at which others reach the relay. Port 0 stands for the port that it listens on.
    pub advertised: Vec<SocketAddr>,
    /// Nickname of the relay.
    pub nickname: String,
    /// Whether the relay publishes a descriptor.
    pub publish: bool,
    /// What it says that it carries, KiB a second; without it what is usual, or its limit if that is lower.
    pub claim_kib: Option<u32>,
    /// Present if it connects streams to the outside.
    pub exit: Option<ExitOptions>,
    /// Present if it is a directory authority.
    pub authority: Option<AuthorityOptions>,
    /// What does the public-key work of circuit handshakes.
    pub workers: Workers,
    /// The world that it lives in: [`World::default`] for the real one.
    pub world: World,
    /// Where it keeps directory documents.
    pub cache_dir: PathBuf,
    /// How much of the machine it may take.
    pub limits: Limits,
}

/// How a relay connects streams to the outside.
pub struct ExitOptions {
    /// Which addresses and ports.
    pub policy: ExitPolicy,
    /// The DNS server that it asks; the system's if there is none here.
    pub resolver: Option<SocketAddr>,
}

/// How a relay is a directory authority.
pub struct AuthorityOptions {
    /// Signs its votes and consensuses.
    pub signing_key: Signer,
    /// Where that key came from, to notice when it is renewed.
    pub signing_key_file: Option<VotingKeyFile>,
    /// Directory in which the authority records what it has signed.
    pub state_dir: PathBuf,
    /// The operator's rules about relays.
    pub rules: OperatorRules,
    /// How the authority measures relays; `None` if it does not.
    pub measure: Option<MeasureOptions>,
}
