//! The consensus: what more than half of the authorities say the network is (docs/protocol.md, 6.9 and 6.10).

mod body;
mod conflict;
mod diff;
mod inspect;
mod signing;
mod store;
mod verified;

#[cfg(test)]
mod tests;

pub use body::{ConsensusBody, ConsensusStatus, Entry, Lifetime};
pub use conflict::ConsensusConflict;
pub use diff::{DiffError, MAX_DIFFERENCE_BYTES, apply, diff};
pub use inspect::{Inspection, SignatureReport, SignatureVerdict, inspect_consensus};
pub use signing::{ConsensusSignature, MAX_CONSENSUS_BYTES, SignedConsensus};
pub use store::{ConsensusStore, Inserted, StoreError};
pub use verified::Consensus;
