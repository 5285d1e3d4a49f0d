//! Why an authority refuses what it is given.

use cepa_common::dir::{AgreementError, DocError, TallyError};

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
    #[error(
        "a private or loopback address, in a network that does not allow them (parameter allow_private_addresses)"
    )]
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
    /// An endorsement or vote that is too late or that nobody waits for.
    #[error(transparent)]
    Agreement(#[from] AgreementError),
    /// For a period that this authority was not up for from its beginning.
    #[error("this authority has just started and takes no part yet")]
    Recovering,
    /// Our own signature come back.
    #[error("this is our own")]
    Own,
    /// The votes make no consensus.
    #[error(transparent)]
    Tally(#[from] TallyError),
}
