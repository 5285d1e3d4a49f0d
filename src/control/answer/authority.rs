//! How an authority does.

use serde::{Deserialize, Serialize};

use super::relay::ConsensusStatus;

/// How an authority does. The figures are at most a second old.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorityStatus {
    /// Its name in the network's file; empty if the revision that counts does not name it.
    pub name: String,
    /// From when on the consensus that is voted on will be valid.
    pub valid_after: u64,
    /// From when on votes for it are exchanged.
    pub votes_from: u64,
    /// When the votes for it are counted.
    pub counted_at: u64,
    /// How far it is: `voting`, `no-quorum`, `unsigned`, `signing` or `published`.
    pub stage: String,
    /// The votes for it.
    pub votes: VotesStatus,
    /// Its signatures.
    pub signatures: SignaturesStatus,
    /// Periods in a row, up to the newest that was counted, in which too few votes were agreed on.
    pub without_quorum: u64,
    /// The newest consensus that is served, if there is one.
    pub newest: Option<ConsensusStatus>,
    /// Until when the key may sign; `None` for a key that needs no certificate.
    pub key_valid_until: Option<u64>,
    /// What it knows of relays, in sums.
    pub relays: RelaySumsStatus,
    /// What it has measured of relays, in sums; `None` if it does not measure.
    pub measured: Option<MeasuredStatus>,
}

/// Votes for a consensus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VotesStatus {
    /// Has this authority made its own?
    pub own: bool,
    /// How many are accepted so far.
    pub accepted: usize,
    /// How many are needed.
    pub needed: usize,
    /// How many authorities there are.
    pub authorities: usize,
    /// Names of the authorities without an accepted vote.
    pub silent: Vec<String>,
    /// Names of the authorities that voted twice.
    pub convicted: Vec<String>,
}

/// Signatures of a consensus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignaturesStatus {
    /// How many there are so far.
    pub count: usize,
    /// How many are needed.
    pub needed: usize,
    /// Names of the authorities that have not signed, once this authority has.
    pub missing: Vec<String>,
}

/// Relays that an authority knows, in sums.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelaySumsStatus {
    /// Those whose descriptor it holds.
    pub known: usize,
    /// How many of them answered when they were last dialled.
    pub answering: usize,
    /// How many of them were dialled, and did not answer.
    pub silent: usize,
    /// How many of them this run has not dialled yet.
    pub undialled: usize,
}

/// What an authority has measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeasuredStatus {
    /// Relays that have been measured.
    pub relays: usize,
    /// What these relays carry together (KiB a second).
    pub carried_kib: u64,
    /// What may be downloaded in order to measure (MiB an hour).
    pub budget_mib_per_hour: u64,
}
