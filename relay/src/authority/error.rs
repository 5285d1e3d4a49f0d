//! Why an authority refuses what it is given.

use cepa_common::dir::{DocError, TallyError};

/// Why a descriptor, vote or signature is refused; the sender is to blame but for [`AuthorityError::Full`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// The document is not valid.
    #[error(transparent)]
    Document(#[from] DocError),
    /// A descriptor of the future, too old, or whose key is certified for too short a time.
    #[error("descriptor is not of this time; is the relay's clock right?")]
    NotCurrent,
    /// The descriptor held is as new or newer.
    #[error("a descriptor as new as this is held")]
    NotNewer,
    /// An address that this network does not allow.
    #[error("a private address in a public network")]
    PrivateAddress,
    /// Another relay has this link key.
    #[error("another relay has this link key")]
    KeyInUse,
    /// No room for more relays.
    #[error("this authority knows as many relays as it can hold")]
    Full,
    /// As many relays have one of its addresses as may have it.
    #[error("one of the addresses has as many relays as it may have")]
    Crowded,
    /// The authority's operator does not want it.
    #[error("this authority does not take the relay; ask its operator")]
    Rejected,
    /// A vote or signature for another valid-after than the one being voted on.
    #[error("not for the consensus that is being made")]
    WrongPeriod,
    /// A vote after the votes were counted.
    #[error("votes are already counted")]
    TooLate,
    /// A second, different vote of one author for one valid-after.
    #[error("the author voted differently before")]
    Equivocation,
    /// Our own vote or signature come back.
    #[error("this is our own")]
    Own,
    /// The votes make no consensus.
    #[error(transparent)]
    Tally(#[from] TallyError),
}
