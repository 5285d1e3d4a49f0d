//! What all signed documents have in common: kind, digest, signatures, and who may sign (docs/protocol.md, 6.1 and 6.2).

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
pub(super) use digest::{VERSION, digest};
pub(super) use envelope::{Envelope, assemble, good_at, majority, sign_single, tail, wrap};
pub use error::DocError;
pub use signature::Signature;
pub use signer::{AsSigner, AuthorityCert, AuthoritySignature, Signer};
pub use time::{CLOCK_SKEW_SECS, UnixSecs};
