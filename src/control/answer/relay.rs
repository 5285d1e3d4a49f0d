//! How a relay does: sums alone, nothing of a circuit, a peer or a destination.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// How a relay does. The figures are at most a second old.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RelayStatus {
    /// Who the relay is.
    pub identity: String,
    /// Its name for people.
    pub nickname: String,
    /// Where it listens.
    pub listens: SocketAddr,
    /// Where others reach it, as its descriptor says.
    pub addresses: Vec<SocketAddr>,
    /// What the newest consensus says of it.
    pub listing: ListingStatus,
    /// The newest consensus, if one is held.
    pub consensus: Option<ConsensusStatus>,
    /// What each authority has answered to the relay's descriptor.
    pub descriptors: Vec<DescriptorStatus>,
    /// Its links.
    pub links: LinksStatus,
    /// Circuits that pass or end here.
    pub circuits: usize,
    /// What it has open to the outside, if it is an exit.
    pub exit: Option<ExitStatus>,
    /// What it has carried.
    pub carried: CarriedStatus,
    /// What waits.
    pub queues: QueuesStatus,
    /// What its owner allows, and how much of that is taken.
    pub limits: Vec<LimitStatus>,
    /// What it has refused or ended since the start, each reason once.
    pub refusals: Vec<RefusalStatus>,
    /// Its keys.
    pub keys: KeysStatus,
    /// What asks for somebody's attention.
    pub alarms: Vec<String>,
    /// What else is wrong.
    pub warnings: Vec<String>,
}

/// What the newest consensus says of a relay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListingStatus {
    /// Does the relay want to be listed?
    pub wanted: bool,
    /// `reachable`: most authorities have reached it. `unreachable`: it is listed, and most have not. `absent`: it is not
    /// listed. `unknown`: the relay holds no consensus yet.
    pub state: String,
    /// What that means and what to do about it, in words; `None` for a relay that is reachable.
    pub why: Option<String>,
    /// Flags that it has.
    pub flags: Vec<String>,
    /// Flags that it lacks and could have.
    pub missing: Vec<MissingFlagStatus>,
    /// Its weight (KiB a second), if it is listed.
    pub weight_kib: Option<u32>,
    /// The weight of all relays together (KiB a second).
    pub of_weight_kib: Option<u64>,
}

impl ListingStatus {
    /// The state of a relay that most authorities have reached.
    pub const REACHABLE: &str = "reachable";

    /// Is the relay listed as reachable, or does it not want to be listed?
    pub fn is_as_wanted(&self) -> bool {
        !self.wanted || self.state == Self::REACHABLE
    }
}

/// A flag that a relay lacks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingFlagStatus {
    /// The flag.
    pub flag: String,
    /// Why, as far as the relay can tell, in words.
    pub why: String,
}

/// The times of a consensus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsensusStatus {
    /// Relays in it.
    pub relays: usize,
    /// From when on it is valid.
    pub valid_after: u64,
    /// When there should be a newer one.
    pub fresh_until: u64,
    /// Until when it is valid.
    pub valid_until: u64,
}

/// What an authority has answered to a descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescriptorStatus {
    /// The authority's name.
    pub authority: String,
    /// `taken`, `refused`, or `unreachable`.
    pub answer: String,
    /// What the authority said, or what went wrong.
    pub reason: Option<String>,
}

/// Links of a relay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinksStatus {
    /// Links to relays.
    pub relays: usize,
    /// Links of clients, and of whoever is no relay.
    pub others: usize,
}

/// What an exit has open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitStatus {
    /// Streams that leave the network here.
    pub streams: usize,
    /// Associations for datagrams.
    pub associations: usize,
}

/// What a relay has carried since the start, each rounded down to a whole MiB.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CarriedStatus {
    /// Bytes of cells that came in by links.
    pub received_bytes: u64,
    /// Bytes of cells that went out by links.
    pub sent_bytes: u64,
    /// Bytes of consensuses and differences that were served over circuits.
    pub directory_by_circuits_bytes: u64,
    /// Bytes of consensuses and differences that were served to who dialled the relay.
    pub directory_to_diallers_bytes: u64,
}

/// What waits in a relay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueuesStatus {
    /// Bytes of cells that wait for links.
    pub cells_bytes: usize,
    /// CREATEs that wait for an answer.
    pub creates: usize,
}

/// A limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitStatus {
    /// The key of the configuration that sets the limit.
    pub key: String,
    /// What is counted: `bytes`, `bytes a second`, `connections` or `associations`.
    pub unit: String,
    /// How much is taken now; `None` for a rate.
    pub used: Option<u64>,
    /// How much may be taken; `None` without a limit.
    pub limit: Option<u64>,
}

/// How often a relay has refused something for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusalStatus {
    /// The reason; docs/control.md lists them.
    pub reason: String,
    /// How often since the start.
    pub count: u64,
}

/// Keys of a relay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeysStatus {
    /// The certificate of the link key; `None` for a relay whose link key is its identity.
    pub certificate: Option<CertificateStatus>,
    /// The onion keys, the newest last.
    pub onion: Vec<OnionKeyStatus>,
}

/// A certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateStatus {
    /// When it ends.
    pub valid_until: u64,
}

/// An onion key, without what it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnionKeyStatus {
    /// When it was made.
    pub made: u64,
    /// When a newer one takes its place, or has taken it.
    pub replaced: u64,
    /// When it is erased; `None` before a newer one has taken its place.
    pub erased: Option<u64>,
}
