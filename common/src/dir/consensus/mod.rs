//! The consensus: what more than half of the authorities say the network is (docs/protocol.md, 6.9 to 6.11).
//!
//! A tally makes a [`ConsensusBody`]; a [`SignedConsensus`] gathers the authorities' signatures of it, each of which
//! travels as a [`ConsensusSignature`]. Whoever gets the bytes has them verified and holds a [`Consensus`], which never
//! changes and which all share. A [`ConsensusStore`] keeps the newest and refuses older ones. [`diff`] makes a
//! difference between an older consensus and a newer one; [`apply`] makes the newer one of the older and the
//! difference, verified like a whole. Two consensuses that contradict each other are a [`ConsensusConflict`].
//! [`inspect_consensus`] says for people what is right and wrong about bytes.
//!
//! Callers are authorities, relays' caches, clients, and the commands that show a consensus. Absent: how the
//! authorities agree on what it says (`vote`), and where to get one (`net::directory` and its callers).

mod body;
mod conflict;
mod diff;
mod inspect;
mod loss;
pub(super) mod random;
mod signing;
mod store;
mod verified;

#[cfg(test)]
mod tests;

pub use body::{ConsensusBody, ConsensusStatus, Entry, Lifetime};
pub use conflict::ConsensusConflict;
pub use diff::{DiffError, MAX_DIFFERENCE_BYTES, apply, diff};
pub use inspect::{Inspection, SignatureReport, SignatureVerdict, inspect_consensus};
pub use loss::WeightLoss;
pub use random::{RandomShare, RandomValue};
pub use signing::{ConsensusSignature, MAX_CONSENSUS_BYTES, SignedConsensus};
pub use store::{ConsensusStore, Inserted, StoreError};
pub use verified::Consensus;
