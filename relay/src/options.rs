//! What a relay is started with.

use std::net::SocketAddr;
use std::path::PathBuf;

use cepa_common::dir::{ExitPolicy, PolicySummary, Signer};
use cepa_common::net::directory::NetworkHandle;
use cepa_common::world::World;

use crate::admission::Limits;
use crate::authority::{MeasureOptions, OperatorRules, VotingKeyFile, Word};
use crate::circuit::Workers;
use crate::keys::RelayIdentity;
use crate::keys::ring::OnionKeyOptions;

/// Everything that a relay is started with.
pub struct RelayOptions {
    /// The network that the relay is part of, as it is known now.
    pub network: NetworkHandle,
    /// The file that the network was read from, to notice when its owner puts a later revision there.
    pub network_file: Option<PathBuf>,
    /// Identity of the relay, and the key of its links.
    pub identity: RelayIdentity,
    /// Onion keys of the relay.
    pub onion_keys: OnionKeyOptions,
    /// Address on which the relay listens for links and directory requests.
    pub listen: SocketAddr,
    /// Addresses at which others reach the relay. Port 0 stands for the port that the relay listens on.
    pub advertised: Vec<SocketAddr>,
    /// Nickname of the relay.
    pub nickname: String,
    /// Whether the relay publishes a descriptor.
    pub publish: bool,
    /// Traffic that the relay claims in its descriptor to carry (KiB a second). `None`: the relay claims what is usual,
    /// or `limits.bandwidth_kib` if that is less.
    pub claim_kib: Option<u32>,
    /// Present if the relay is an exit, which lets streams and datagrams out.
    pub exit: Option<ExitOptions>,
    /// Present if the relay is a directory authority.
    pub authority: Option<AuthorityOptions>,
    /// What does the public-key work of circuit handshakes.
    pub workers: Workers,
    /// The world that the relay lives in: [`World::default`] for the real one.
    pub world: World,
    /// Directory in which the relay keeps consensuses and revisions of the network's file.
    pub cache_dir: PathBuf,
    /// How much of the machine the relay may take.
    pub limits: Limits,
}

/// How a relay lets streams and datagrams out.
pub struct ExitOptions {
    /// The addresses and ports that the exit connects streams to.
    pub policy: ExitPolicy,
    /// The addresses and ports that the exit sends datagrams to; [`ExitPolicy::reject_all`] if it carries none. A
    /// relay whose `policy` accepts nothing is no exit, and carries no datagrams either.
    pub udp_policy: ExitPolicy,
    /// The DNS server that the exit asks; `None` for the system's servers.
    pub resolver: Option<SocketAddr>,
}

impl ExitOptions {
    /// What the exit says of its policies for streams and for datagrams in the directory. A relay that lets no stream
    /// out is no exit, which its datagrams follow (6.4.7).
    pub fn summaries(&self) -> (PolicySummary, PolicySummary) {
        let streams = self.policy.summary();
        let datagrams = match streams.is_reject_all() {
            true => PolicySummary::reject_all(),
            false => self.udp_policy.summary(),
        };
        (streams, datagrams)
    }
}

/// How a relay is a directory authority.
pub struct AuthorityOptions {
    /// The key that signs the authority's votes and consensuses.
    pub signing_key: Signer,
    /// The file of the signing key, to notice when the key is renewed.
    pub signing_key_file: Option<VotingKeyFile>,
    /// Directory in which the authority records what it has signed.
    pub state_dir: PathBuf,
    /// The operator's rules about relays.
    pub rules: OperatorRules,
    /// How the authority measures relays; `None` if it does not measure.
    pub measure: Option<MeasureOptions>,
}

/// What a relay that runs takes from its owner.
pub struct Settings {
    /// How much of the machine the relay may take.
    pub limits: Limits,
    /// Nickname of the relay.
    pub nickname: String,
    /// Traffic that the relay claims in its descriptor to carry (KiB a second); `None` for what is usual.
    pub claim_kib: Option<u32>,
    /// How the exit lets streams and datagrams out, if the relay is one. The resolver stays what it was at the start.
    pub exit: Option<ExitOptions>,
    /// What the operator of an authority says, if the relay is one.
    pub word: Option<Word>,
}
