//! The text of an authority's key certificate in the file beside the key (docs/protocol.md, 6.1.9).

use serde::{Deserialize, Serialize};

use super::error::DocError;
use super::signer::AuthorityCert;
use super::time::UnixSecs;
use crate::ids::NetworkId;

/// Why a certificate's file is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertFileError {
    /// The text is not the TOML that is expected.
    #[error("{0}")]
    Syntax(String),
    /// A key or a signature does not parse.
    #[error("{0} is not valid")]
    Value(&'static str),
    /// The certificate is not valid.
    #[error(transparent)]
    Cert(#[from] DocError),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CertText {
    authority: String,
    key: String,
    not_after: UnixSecs,
    signature: String,
}

impl AuthorityCert {
    /// Name of the certificate's file beside the long-term key's file `name`.
    pub fn file_name(name: &str) -> String {
        format!("{name}-cert")
    }

    /// Name of the file of a certified key's secret, beside the long-term key's file `name`.
    pub fn key_file_name(name: &str, key: &[u8; 32]) -> String {
        let digits: String = hex::encode(key).chars().take(16).collect();
        format!("{name}-{digits}")
    }

    /// The certificate as the text of a file.
    pub fn to_text(&self) -> String {
        let text = CertText {
            authority: hex::encode(self.authority()),
            key: hex::encode(self.key()),
            not_after: self.not_after(),
            signature: hex::encode(self.signature()),
        };
        // Writing these four values as text cannot fail.
        toml::to_string(&text).unwrap_or_default()
    }

    /// Parses and verifies what [`Self::to_text`] wrote, for a network.
    ///
    /// # Errors
    /// [`CertFileError`].
    pub fn parse(text: &str, network: &NetworkId) -> Result<Self, CertFileError> {
        let text: CertText =
            toml::from_str(text).map_err(|error| CertFileError::Syntax(error.to_string()))?;
        let (mut authority, mut key, mut signature) = ([0; 32], [0; 32], [0; 64]);
        for (what, value, bytes) in [
            ("authority", &text.authority, &mut authority[..]),
            ("key", &text.key, &mut key[..]),
            ("signature", &text.signature, &mut signature[..]),
        ] {
            hex::decode_to_slice(value, bytes).map_err(|_| CertFileError::Value(what))?;
        }
        let cert = Self::from_parts(authority, key, text.not_after, signature, network)?;
        Ok(cert)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::testkit::{link_key, signing_key};

    #[test]
    fn text_survives_and_changes_do_not() {
        let network = NetworkId([7; 32]);
        let key = link_key(1).verifying_key().to_bytes();
        let cert = AuthorityCert::issue(&signing_key(1), &network, key, 12_345).unwrap();
        let text = cert.to_text();
        assert_eq!(AuthorityCert::parse(&text, &network), Ok(cert));
        assert!(AuthorityCert::parse(&text, &NetworkId([8; 32])).is_err());
        for (from, to) in [("12345", "12346"), ("key", "kex"), ("= \"", "= \"0")] {
            let edited = text.replacen(from, to, 1);
            assert!(AuthorityCert::parse(&edited, &network).is_err(), "{from}");
        }
    }
}
