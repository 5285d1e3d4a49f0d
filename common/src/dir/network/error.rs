//! Why a `network.toml` is refused.

use crate::dir::signed::DocError;

/// Why a `network.toml` is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkFileError {
    /// The text is not the TOML that is expected. The error names the line and the key.
    #[error("{0}")]
    Syntax(String),
    /// A key, signature or address does not parse.
    #[error("{what} is not valid: {value}")]
    Value {
        /// Name of the field.
        what: &'static str,
        /// Content of the field.
        value: String,
    },
    /// A rule of chapter 6 is broken.
    #[error("{0}")]
    Rule(&'static str),
    /// A signature is missing or wrong.
    #[error("signatures of the authorities: {0}")]
    Signature(#[from] DocError),
}
