//! How the authorities come to a consensus: votes, who holds them, and the tally (docs/protocol.md, 6.7, 6.8 and 6.22).
//!
//! Each authority signs a [`Vote`]. In rounds the authorities send each other [`Endorsement`]s of the votes that they
//! hold; the [`Agreement`] is the machine that counts these and says which votes everyone holds at the end. Two votes
//! of one authority for one time are an [`EquivocationProof`]. [`tally`] makes a consensus body of the votes agreed on,
//! the same body wherever it is done.
//!
//! The one caller is the authority (`relay/src/authority`), with the server that takes what comes for it
//! (`relay/src/directory`).
//! Absent: when a period begins and what an authority votes for.

mod agreement;
mod document;
mod endorsement;
mod proof;
mod tally;

pub use agreement::{Agreement, AgreementError, Candidacy, Forward, Heard, Outcome, Rounds};
pub use document::{MAX_VOTE_BYTES, SignedVote, Vote, VoteEntry};
pub use endorsement::{Endorsement, MAX_ENDORSEMENT_BYTES, UnverifiedEndorsement};
pub use proof::EquivocationProof;
pub use tally::{TallyError, tally};
