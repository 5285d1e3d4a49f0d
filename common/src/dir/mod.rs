//! Directory documents: who is in the network, and what the authorities say of them (docs/protocol.md, chapter 6).
//!
//! A relay signs a [`RelayDescriptor`]; an authority puts those that it could reach into a [`Vote`]; the authorities
//! agree by [`Endorsement`]s which votes there are ([`Agreement`]); [`tally`] turns the same votes into the same
//! [`ConsensusBody`] everywhere; more than half of the authorities sign it, and relays and clients hold the resulting
//! [`Consensus`] in a [`ConsensusStore`]. A [`NetworkFile`] says who the authorities are; the [`Revisions`] of it that are
//! held say who they are at which time.
//!
//! Callers are the authority and the directory cache of a relay, and the directory client. Everything is pure but
//! `dial`, `fetch`, `offer`, `handle` and `revise` (feature `net`), which carry documents over a connection that the caller
//! opens, share what is known of the network and keep it on disk.

mod address;
mod agreement;
mod backoff;
mod cert_file;
mod conflict;
mod consensus;
mod descriptor;
mod descriptor_cache;
#[cfg(feature = "net")]
mod dial;
mod diff;
mod document;
mod endorsement;
mod error;
#[cfg(feature = "net")]
mod fetch;
mod flags;
#[cfg(feature = "net")]
mod handle;
mod inspect;
mod key_files;
mod network;
mod network_text;
#[cfg(feature = "net")]
mod offer;
#[cfg(feature = "net")]
mod padding;
mod params;
mod policy;
mod proof;
#[cfg(feature = "net")]
mod revise;
mod revisions;
mod signatories;
mod signer;
mod store;
mod summary;
mod tally;
mod vote;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod vectors;

pub use address::{AddressClass, classify, is_dialable};
pub use agreement::{Agreement, AgreementError, Candidacy, Forward, Heard, Outcome, Rounds};
pub use backoff::{Backoff, random_below};
pub use cert_file::CertFileError;
pub use conflict::ConsensusConflict;
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
pub use diff::{DiffError, MAX_DIFFERENCE_BYTES, apply, diff};
pub use document::{Digest, Kind, Signature};
pub use endorsement::{Endorsement, MAX_ENDORSEMENT_BYTES, UnverifiedEndorsement};
pub use error::{DocError, NetworkFileError};
#[cfg(feature = "net")]
pub use fetch::{
    A_IM, DELTA_BASE, DIFFERENCE_CODING, DirRequest, DirResponse, FetchError, IM, Received, fetch,
    fetch_consensus, fetch_newer, fetch_newer_watched, upload,
};
pub use flags::Flags;
#[cfg(feature = "net")]
pub use handle::{NetworkHandle, RevisionStore};
pub use inspect::{Inspection, SignatureReport, SignatureVerdict, inspect_consensus};
pub use key_files::{FamilyFile, KeyFileError, LinkCertificate, MAX_KEY_FILE_BYTES};
pub use network::{Authority, Fallback, NetworkDraft, NetworkFile};
#[cfg(feature = "net")]
pub use offer::offer_vote;
#[cfg(feature = "net")]
pub use padding::fetch_padding;
pub use params::{Params, local_network_params};
pub use policy::{ExitPolicy, PolicyError, Rule};
pub use proof::EquivocationProof;
#[cfg(feature = "net")]
pub use revise::{MayAsk, NewestConsensus, Reviser, revise};
pub use revisions::{KnownNetwork, MAX_REVISIONS, Revisions};
pub use signatories::Signatories;
pub use signer::{AsSigner, AuthorityCert, AuthoritySignature, Signer};
pub use store::{ConsensusStore, Inserted, StoreError};
pub use summary::{PolicySummary, PortRange};
pub use tally::{TallyError, tally};
pub use vote::{MAX_VOTE_BYTES, SignedVote, Vote, VoteEntry};

/// Seconds since the Unix epoch, UTC, without leap seconds.
pub type UnixSecs = u64;

/// How far a peer's clock may be ahead of ours before what it dates is refused (seconds).
pub const CLOCK_SKEW_SECS: u64 = 300;
