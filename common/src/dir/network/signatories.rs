//! Which authorities have signed a `network.toml`, and whether that is enough (docs/protocol.md, 6.3.5, 6.3.7 and
//! 6.3.8).

use super::body::AuthorityEntry;
use super::error::NetworkFileError;
use crate::dir::signed::{DocError, Kind, Signature, majority};
use crate::ids::NetworkId;

/// Which of some authorities have signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signatories {
    /// Names of the authorities that signed and whose signatures verify.
    pub signed: Vec<String>,
    /// Names of the authorities that did not sign.
    pub missing: Vec<String>,
    /// The number that is more than half.
    pub need: usize,
}

impl Signatories {
    /// Have more than half signed?
    pub fn is_enough(&self) -> bool {
        self.signed.len() >= self.need
    }

    /// Finds which of `authorities` signed `part`.
    pub(super) fn of(
        authorities: &[AuthorityEntry],
        signatures: &[([u8; 32], Signature)],
        id: &NetworkId,
        part: &[u8],
    ) -> Self {
        let has_signed = |authority: &&AuthorityEntry| {
            let by = |(signer, signature): &([u8; 32], Signature)| {
                *signer == authority.signing_key
                    && signature.verify(signer, Kind::Network, id, part).is_ok()
            };
            signatures.iter().any(by)
        };
        let (signed, missing): (Vec<_>, Vec<_>) = authorities.iter().partition(has_signed);
        let names = |list: Vec<&AuthorityEntry>| list.iter().map(|a| a.name.clone()).collect();
        Self {
            signed: names(signed),
            missing: names(missing),
            need: majority(authorities.len()),
        }
    }

    pub(super) fn require(&self) -> Result<(), NetworkFileError> {
        if self.is_enough() {
            return Ok(());
        }
        Err(DocError::TooFewSignatures {
            have: self.signed.len(),
            need: self.need,
        }
        .into())
    }
}
