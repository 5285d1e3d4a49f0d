//! Why a signed document is refused.

/// Why a signed document is refused. The source of the bytes is to blame for all of these.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DocError {
    /// The document is larger than the cap of its kind (S24).
    #[error("document of {size} bytes is over the cap of {cap}")]
    TooLarge {
        /// Bytes received.
        size: usize,
        /// Bytes allowed.
        cap: usize,
    },
    /// The bytes end before the document does.
    #[error("document is cut short")]
    Truncated,
    /// Bytes follow the end of the document (S2).
    #[error("bytes follow the end of the document")]
    Trailing,
    /// The document is of another kind than was asked for.
    #[error("document of kind {found}, not {expected}")]
    WrongKind {
        /// The kind byte wanted.
        expected: u8,
        /// The kind byte found.
        found: u8,
    },
    /// The document has a version that this program does not know.
    #[error("document of unknown version {0}")]
    UnknownVersion(u8),
    /// The body does not decode.
    #[error("body does not decode")]
    Malformed,
    /// The body decodes but is not the one encoding of its value (S2).
    #[error("body is not in canonical form")]
    NotCanonical,
    /// The signatures are not in strictly increasing order, or one has a wrong length.
    #[error("signature list is malformed")]
    SignatureList,
    /// A key signed that may not sign this document.
    #[error("signed by an unknown key")]
    UnknownSigner,
    /// A signature does not verify.
    #[error("signature does not verify")]
    BadSignature,
    /// A certified key signed what it may not sign any more.
    #[error("signed by a key that had expired")]
    KeyExpired,
    /// There are fewer good signatures than are needed (S25).
    #[error("{have} signatures of {need} needed")]
    TooFewSignatures {
        /// Good signatures found.
        have: usize,
        /// Good signatures needed.
        need: usize,
    },
    /// A field breaks a rule of chapter 6.
    #[error("{0}")]
    Content(&'static str),
}
