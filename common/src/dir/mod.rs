//! Directory documents: who is in the network, and what the authorities say of them (docs/protocol.md, chapter 6).
//!
//! A relay signs a [`RelayDescriptor`]; an authority puts those that it could reach into a [`Vote`]; the authorities
//! agree by [`Endorsement`]s which votes there are ([`Agreement`]); [`tally`] turns the same votes into the same
//! [`ConsensusBody`] everywhere; more than half of the authorities sign it, and relays and clients hold the resulting
//! [`Consensus`] in a [`ConsensusStore`]. A [`NetworkFile`] says who the authorities are; the [`Revisions`] of it that are
//! held say who they are at which time.
//!
//! Callers are the authority and the directory cache of a relay, and the directory client. Everything here is pure: what
//! carries documents over connections, shares what is known of the network and keeps it on disk is in `net::directory`.

mod consensus;
mod network;
mod relay;
mod signed;
mod vote;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod vectors;

pub use consensus::{
    Consensus, ConsensusBody, ConsensusConflict, ConsensusSignature, ConsensusStatus,
    ConsensusStore, DiffError, Entry, Inserted, Inspection, Lifetime, MAX_CONSENSUS_BYTES,
    MAX_DIFFERENCE_BYTES, SignatureReport, SignatureVerdict, SignedConsensus, StoreError, apply,
    diff, inspect_consensus,
};
pub use network::{
    Authority, Fallback, KnownNetwork, MAX_NETWORK_FILE_BYTES, MAX_REVISIONS, NetworkDraft,
    NetworkFile, NetworkFileError, Params, Revisions, Signatories, local_network_params,
};
pub use relay::{
    AddressClass, DescriptorCache, ExitPolicy, FamilyFile, FamilyMembership, Flags, KeyCert,
    KeyFileError, LinkCertificate, MAX_DESCRIPTOR_BYTES, MAX_KEY_FILE_BYTES, PolicyError,
    PolicySummary, PortRange, RelayDescriptor, Rule, SignedDescriptor, classify, is_dialable,
};
pub use signed::{
    AsSigner, AuthorityCert, AuthoritySignature, CLOCK_SKEW_SECS, CertFileError, Digest, DocError,
    Kind, Signature, Signer, UnixSecs,
};
pub use vote::{
    Agreement, AgreementError, Candidacy, Endorsement, EquivocationProof, Forward, Heard,
    MAX_ENDORSEMENT_BYTES, MAX_VOTE_BYTES, Outcome, Rounds, SignedVote, TallyError,
    UnverifiedEndorsement, Vote, VoteEntry, tally,
};
