//! Postcard with exactly one encoding for each value (docs/protocol.md, 6.1).

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::DocError;

/// Encodes a value as postcard.
///
/// # Errors
/// [`DocError::Malformed`]: no value of our types is known to cause it.
pub(in crate::dir) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, DocError> {
    postcard::to_allocvec(value).map_err(|_| DocError::Malformed)
}

/// Decodes a body and insists on its one canonical encoding (S2; postcard itself takes overlong numbers).
pub(in crate::dir) fn decode<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<T, DocError> {
    let (value, rest) = postcard::take_from_bytes::<T>(bytes).map_err(|_| DocError::Malformed)?;
    if !rest.is_empty() {
        return Err(DocError::Trailing);
    }
    if encode(&value)? != bytes {
        return Err(DocError::NotCanonical);
    }
    Ok(value)
}
