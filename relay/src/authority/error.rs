//! Why an authority refuses a document that it is given.

use cepa_common::dir::{AgreementError, DocError, TallyError};

/// Why a descriptor, vote or signature is refused. The sender is to blame for all of these but
/// [`AuthorityError::Full`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// The document is not valid.
    #[error(transparent)]
    Document(#[from] DocError),
    /// The descriptor is dated in the future or too old, or its key is certified for too short a time.
    #[error("descriptor is not of this time; is the relay's clock right?")]
    NotCurrent,
    /// The authority holds a descriptor of the relay that is as new or newer.
    #[error("a descriptor as new as this is held")]
    NotNewer,
    /// The descriptor has an address that this network does not allow.
    #[error(
        "a private or loopback address, in a network that does not allow them (parameter allow_private_addresses)"
    )]
    PrivateAddress,
    /// Another relay has this link key.
    #[error("another relay has this link key")]
    KeyInUse,
    /// The authority has no room for more relays.
    #[error("this authority knows as many relays as it can hold")]
    Full,
    /// One of the relay's addresses has as many relays as it may have.
    #[error("one of the addresses has as many relays as it may have")]
    Crowded,
    /// The authority's operator has excluded the relay.
    #[error("this authority does not take the relay; ask its operator")]
    Rejected,
    /// A vote or signature is for another valid-after than the one that is being voted on.
    #[error("not for the consensus that is being made")]
    WrongPeriod,
    /// An endorsement or vote comes too late, or nobody waits for it.
    #[error(transparent)]
    Agreement(#[from] AgreementError),
    /// A document is for a period of which this authority missed the beginning.
    #[error("this authority has just started and takes no part yet")]
    Recovering,
    /// A signature is this authority's own.
    #[error("this is our own")]
    Own,
    /// The votes do not yield a consensus.
    #[error(transparent)]
    Tally(#[from] TallyError),
}
