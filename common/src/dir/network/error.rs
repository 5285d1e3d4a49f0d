//! Why a `network.toml` is refused.

use crate::dir::signed::DocError;

/// Why a `network.toml` is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkFileError {
    /// Not the TOML that is expected; the text names the line and the key.
    #[error("{0}")]
    Syntax(String),
    /// A key, signature or address does not parse.
    #[error("{what} is not valid: {value}")]
    Value {
        /// Which field.
        what: &'static str,
        /// What it holds.
        value: String,
    },
    /// A rule of chapter 6 is broken.
    #[error("{0}")]
    Rule(&'static str),
    /// A signature is missing or wrong.
    #[error("signatures of the authorities: {0}")]
    Signature(#[from] DocError),
}
