//! A directory authority: it learns of relays, dials them, votes, and signs what more than half of the authorities
//! agree on (docs/protocol.md, 6.7, 6.8 and 6.13).
//!
//! [`Authority`] is the machine of the voting period, and `relays` is what it knows about relays. Both are given the
//! time and return [`Action`]s. [`run`] drives them and owns the machine: the directory server and the network reach
//! the machine only by the bounded queue of an [`AuthorityHandle`]. A snapshot (`view`) lets them drop what the machine
//! would surely refuse. [`cepa_common::dir::Agreement`] decides which votes count. `history`, `flags` and `measure` say
//! which flags and weight a relay gets that answers. `knowledge` joins those three to the driver and keeps what was
//! learnt on disk.

mod crowding;
mod error;
mod flags;
mod handle;
mod history;
mod kept;
mod knowledge;
mod measure;
mod operator;
mod period;
mod record;
mod relays;
mod schedule;
mod slots;
mod snapshot;
mod steps;
mod task;
mod view;
mod voting_key;

#[cfg(test)]
mod sim;

pub use error::AuthorityError;
pub(crate) use flags::weight_bars;
pub(crate) use handle::AuthorityAsks;
pub(crate) use handle::Submission;
pub use handle::{AuthorityHandle, AuthorityQueue, SubmitError, authority_queue};
pub use knowledge::{KnowledgeOptions, MeasureOptions};
pub use measure::{Carried, Download, Job, Measure, MeasureError, MeasureFuture};
pub use operator::{OperatorList, OperatorListError, OperatorRules, Word};
pub use period::{Action, Authority, AuthorityConfig};
pub use record::{FileSigningRecord, MemorySigningRecord, Signed, SigningRecord};
pub use relays::{Probe, RelaySums};
pub use snapshot::{AuthoritySnapshot, VotingStage};
pub use task::{AuthorityTask, ProbeFuture, ReachabilityProbe, Seat, Serve, run};
pub use voting_key::{VotingKeyError, VotingKeyFile, follow_voting_key};
