//! What all signed documents have in common (docs/protocol.md, 6.1 and 6.2).
//!
//! Bytes become an `Envelope`: kind, version, body and signatures, taken apart with nothing verified. The room of the
//! document asks the envelope who signed (one key, or more than half of the authorities), and only then has the body
//! decoded, by `decode`, which insists on the one canonical encoding. The other way, `encode` makes the body, and
//! `sign_single` or `assemble` makes the document. A [`Signature`] is bound to a [`Kind`] and to the network; a
//! [`Digest`] names a document whoever signed it. A [`Signer`] signs as an authority: with its long-term key, or with a
//! key that this certified.
//!
//! Callers are the rooms beside this one; of the program, those who sign. Absent: what any document says, and which
//! keys are whose. Whoever verifies brings the keys.

mod canonical;
mod cert_file;
mod digest;
mod envelope;
mod error;
mod signature;
mod signer;
mod time;

pub(super) use canonical::{decode, encode};
pub use cert_file::CertFileError;
pub use digest::{Digest, Kind};
pub(super) use digest::{NETWORK_VERSION, digest};
pub(super) use envelope::{Envelope, assemble, good_at, majority, sign_single, tail, wrap};
pub use error::DocError;
pub use signature::Signature;
pub use signer::{AsSigner, AuthorityCert, AuthoritySignature, Signer};
pub use time::{CLOCK_SKEW_SECS, UnixSecs};
