//! What all signed documents have in common: kind, digest, signatures, and who may sign (docs/protocol.md, 6.1 and 6.2).

mod cert_file;
pub(super) mod envelope;
mod error;
mod signer;
mod time;

pub use cert_file::CertFileError;
pub use envelope::{Digest, Kind, Signature};
pub(super) use envelope::{Envelope, majority};
pub use error::{DocError, NetworkFileError};
pub use signer::{AsSigner, AuthorityCert, AuthoritySignature, Signer};
pub use time::{CLOCK_SKEW_SECS, UnixSecs};
