//! Directory documents: who is in the network, and what the authorities say of them (docs/protocol.md, chapter 6).
//!
//! A relay signs a [`RelayDescriptor`]; an authority puts those that it could reach into a [`Vote`]; the authorities
//! agree by [`Endorsement`]s which votes there are ([`Agreement`]); [`tally`] turns the same votes into the same
//! [`ConsensusBody`] everywhere; more than half of the authorities sign it, and relays and clients hold the resulting
//! [`Consensus`] in a [`ConsensusStore`]. A [`NetworkFile`] says who the authorities are.
//!
//! Callers are the authority and the directory cache of a relay, and the directory client. Everything is pure but
//! `dial` and `fetch` (feature `net`), which carry documents over a connection that the caller opens.
//! Differences between consensuses are absent so far.

mod address;
mod agreement;
mod backoff;
#[cfg(feature = "net")]
mod clock;
mod consensus;
mod descriptor;
mod descriptor_cache;
#[cfg(feature = "net")]
mod dial;
mod document;
mod endorsement;
mod error;
#[cfg(feature = "net")]
mod fetch;
#[cfg(feature = "net")]
mod file;
mod flags;
mod network;
#[cfg(feature = "net")]
mod offer;
mod params;
mod policy;
mod proof;
mod store;
mod summary;
mod tally;
mod vote;

#[cfg(test)]
pub(crate) mod testing;

pub use address::{AddressClass, classify, is_dialable};
pub use agreement::{Agreement, AgreementError, Candidacy, Forward, Heard, Outcome, Rounds};
pub use backoff::{Backoff, random_below};
#[cfg(feature = "net")]
pub use clock::Clock;
pub use consensus::{
    Consensus, ConsensusBody, ConsensusSignature, ConsensusStatus, Entry, Lifetime,
    MAX_CONSENSUS_BYTES, SignedConsensus,
};
pub use descriptor::{
    FamilyMembership, KeyCert, MAX_DESCRIPTOR_BYTES, RelayDescriptor, SignedDescriptor,
};
pub use descriptor_cache::DescriptorCache;
#[cfg(feature = "net")]
pub use dial::{AsyncReadWrite, Dial, DialFuture, Stream};
pub use document::{Digest, Kind, Signature};
pub use endorsement::{Endorsement, MAX_ENDORSEMENT_BYTES, UnverifiedEndorsement};
pub use error::{DocError, NetworkFileError};
#[cfg(feature = "net")]
pub use fetch::{DirRequest, DirResponse, FetchError, fetch, fetch_consensus, upload};
#[cfg(feature = "net")]
pub use file::write_whole;
pub use flags::Flags;
pub use network::{Authority, Fallback, NetworkDraft, NetworkFile};
#[cfg(feature = "net")]
pub use offer::offer_vote;
pub use params::{Params, local_network_params};
pub use policy::{ExitPolicy, PolicyError, Rule};
pub use proof::EquivocationProof;
pub use store::{ConsensusStore, Inserted, StoreError};
pub use summary::{PolicySummary, PortRange};
pub use tally::{TallyError, tally};
pub use vote::{MAX_VOTE_BYTES, SignedVote, Vote, VoteEntry};

/// Seconds since the Unix epoch, UTC, without leap seconds.
pub type UnixSecs = u64;

/// How far a peer's clock may be ahead of ours before what it dates is refused (seconds).
pub const CLOCK_SKEW_SECS: u64 = 300;
