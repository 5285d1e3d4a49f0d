//! How the authorities come to a consensus: votes, who holds them, and the tally (docs/protocol.md, 6.8 and 6.22).

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
