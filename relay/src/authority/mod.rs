//! A directory authority: learns of relays, dials them, votes, and signs what more than half agree on
//! (docs/protocol.md, 6.7, 6.8 and 6.13).
//!
//! [`Authority`] is the machine of the voting period and `relays` what it knows of relays; both are given the time
//! and return [`Action`]s. [`run`] drives them: it owns the machine, so that the directory server and the network
//! reach it by the bounded queue of an [`AuthorityHandle`] alone; a snapshot (`view`) spares it what is surely in
//! vain. Which votes count is agreed on in [`cepa_common::dir::Agreement`]. `history`, `flags` and `measure` say what
//! becomes of a relay that answers; `knowledge` joins them to the driver and keeps what was learnt on disk.

mod error;
mod flags;
mod history;
mod knowledge;
mod measure;
mod operator;
mod period;
mod record;
mod relays;
mod schedule;
mod slots;
mod task;
mod view;
mod voting_key;

#[cfg(test)]
mod sim;

pub use error::AuthorityError;
pub use knowledge::{KnowledgeOptions, MeasureOptions};
pub use measure::{Carried, Download, Job, Measure, MeasureError, MeasureFuture};
pub use operator::{OperatorList, OperatorListError, OperatorRules};
pub use period::{Action, Authority, AuthorityConfig};
pub use record::{FileSigningRecord, MemorySigningRecord, Signed, SigningRecord};
pub use relays::Probe;
pub(crate) use task::Submission;
pub use task::{
    AuthorityHandle, AuthorityQueue, AuthorityTask, ProbeFuture, ReachabilityProbe, SubmitError,
    authority_queue, run,
};
pub use voting_key::{VotingKeyError, VotingKeyFile, follow_voting_key};
