//! Directory documents: who is in the network, and what the authorities say of them (docs/protocol.md, chapter 6).
//!
//! Six rooms, each of which uses those before it:
//!
//! * `signed`: kind, digest and signatures, which all documents share, and the keys that sign for an authority;
//! * `relay`: the [`RelayDescriptor`] that a relay signs, with its addresses, flags, exit policy and key certificates;
//! * `network`: the [`NetworkFile`] that names the authorities, its [`Revisions`], and the [`Params`] of the network;
//! * `consensus`: the [`Consensus`] that relays and clients hold in a [`ConsensusStore`], and the difference of two;
//! * `vote`: how the authorities come to one;
//! * `permit`: by which an authority measures a relay.
//!
//! The way of a relay through them: its descriptor goes to the authorities; each puts those that it could reach into a
//! [`Vote`]; by [`Endorsement`]s the authorities agree which votes there are ([`Agreement`]); [`tally`] turns the same
//! votes into the same [`ConsensusBody`] everywhere; more than half of the authorities sign it, and it is a consensus.
//!
//! Callers are the authority and the directory cache of a relay, the client's directory, and the commands that make
//! keys and files. Callers name everything by this module, not by its rooms.
//!
//! Absent on purpose: sockets, clocks, randomness and files. Everything here is pure: bytes come in and verified values
//! go out, and the time is an argument. What carries documents over a connection, shares what is known of the network
//! and keeps it on disk is `net::directory`.

mod consensus;
mod network;
mod permit;
mod relay;
mod signed;
mod vote;

pub use consensus::{
    Consensus, ConsensusBody, ConsensusConflict, ConsensusSignature, ConsensusStatus,
    ConsensusStore, DiffError, Entry, Inserted, Inspection, Lifetime, MAX_CONSENSUS_BYTES,
    MAX_DIFFERENCE_BYTES, RandomShare, RandomValue, SignatureReport, SignatureVerdict,
    SignedConsensus, StoreError, WeightLoss, apply, diff, inspect_consensus,
};
pub use network::{
    AuthorityEntry, Fallback, KnownNetwork, MAX_NETWORK_FILE_BYTES, MAX_REVISIONS, NetworkDraft,
    NetworkFile, NetworkFileError, Params, Revisions, Signatories, WITHOUT_AGES,
    local_network_params,
};
pub use permit::{MAX_PADDING_BYTES, MAX_PERMIT_BYTES, Permit};
pub use relay::{
    AddressClass, Away, DescriptorCache, ExitPolicy, FamilyFile, FamilyMembership, Flags,
    IpVersion, KeyCert, KeyFileError, LinkCertificate, MAX_DESCRIPTOR_BYTES, MAX_KEY_FILE_BYTES,
    PORT_LISTS, PolicyError, PolicyRule, PolicySummary, PortList, PortRange, RelayDescriptor,
    SignedDescriptor, Site, Transport, classify, is_contact, is_dialable,
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
