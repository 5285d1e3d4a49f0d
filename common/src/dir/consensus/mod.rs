//! The consensus: what more than half of the authorities say the network is (docs/protocol.md, 6.9 and 6.10).

mod conflict;
mod diff;
mod inspect;
mod signed;
mod store;

pub use conflict::ConsensusConflict;
pub use diff::{DiffError, MAX_DIFFERENCE_BYTES, apply, diff};
pub use inspect::{Inspection, SignatureReport, SignatureVerdict, inspect_consensus};
pub use signed::{
    Consensus, ConsensusBody, ConsensusSignature, ConsensusStatus, Entry, Lifetime,
    MAX_CONSENSUS_BYTES, SignedConsensus,
};
pub(super) use signed::{MAX_ENTRIES, validate_params};
pub use store::{ConsensusStore, Inserted, StoreError};
