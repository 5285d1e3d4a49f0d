//! What a key that is kept off line signs, as files that are carried to a relay (docs/protocol.md, 6.20).
//!
//! Both kinds of file are TOML and hold no secret. A file is verified when it is read, so a value of these types is
//! good.

use serde::{Deserialize, Serialize};

use super::descriptor::{FamilyMembership, KeyCert};
use crate::dir::signed::{DocError, Signature, UnixSecs};
use crate::ids::{NetworkId, RelayId};

/// Size of the largest file, in bytes.
pub const MAX_KEY_FILE_BYTES: usize = 4 * 1024;
const FORMAT: u32 = 1;
const CERTIFICATE: &str = "link key certificate";
const MEMBERSHIP: &str = "family membership";

/// Why a file of a key cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFileError {
    /// The file is longer than [`MAX_KEY_FILE_BYTES`].
    #[error("it is too long")]
    TooLong,
    /// The file is not TOML, or does not have these keys.
    #[error("{0}")]
    Toml(String),
    /// The file has a format that this version does not know.
    #[error("its format {0} is newer than this program")]
    Format(u32),
    /// The file is of another kind.
    #[error("it holds a {found}, not a {wanted}")]
    Kind {
        /// The kind that the file says it is.
        found: String,
        /// What was asked for.
        wanted: &'static str,
    },
    /// A value is not hexadecimal text of the right length.
    #[error("{0} is not written in the right number of hexadecimal digits")]
    Hex(&'static str),
    /// The file was made for another network.
    #[error("it was made for the network {0}, not for this one")]
    OtherNetwork(NetworkId),
    /// The signature does not fit what is signed, or a rule of 6.6 is broken.
    #[error("it cannot be believed: {0}")]
    Content(#[from] DocError),
}

/// An identity's certificate for a link key (6.6.2), with what its file holds besides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkCertificate {
    /// The identity that signed.
    pub identity: RelayId,
    /// When the certificate was made. The time is not signed; it only shows how much of the certificate's life is left.
    pub made: UnixSecs,
    /// The certificate.
    pub cert: KeyCert,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CertificateText {
    format: u32,
    kind: String,
    network: String,
    identity: String,
    link_key: String,
    made: u64,
    not_after: u64,
    signature: String,
}

impl LinkCertificate {
    /// Reads and verifies a file's text.
    ///
    /// # Errors
    /// [`KeyFileError`]. The caller asks whether the certificate has expired.
    pub fn parse(text: &str, network: &NetworkId) -> Result<Self, KeyFileError> {
        let text: CertificateText = read(text, CERTIFICATE)?;
        same_network(&text.network, network)?;
        let identity = RelayId(bytes("identity", &text.identity)?);
        let key = bytes("link_key", &text.link_key)?;
        let signature = Signature(bytes("signature", &text.signature)?);
        let cert = KeyCert::from_parts(key, text.not_after, signature);
        if key == identity.0 {
            return Err(DocError::Content("identity certifies itself").into());
        }
        cert.verify(&identity, network)?;
        Ok(Self {
            identity,
            made: text.made,
            cert,
        })
    }

    /// The file's text.
    pub fn to_toml(&self, network: &NetworkId) -> String {
        let text = CertificateText {
            format: FORMAT,
            kind: CERTIFICATE.to_owned(),
            network: hex::encode(network.0),
            identity: hex::encode(self.identity.0),
            link_key: hex::encode(self.cert.key),
            made: self.made,
            not_after: self.cert.not_after,
            signature: hex::encode(self.cert.signature().0),
        };
        toml::to_string(&text).unwrap_or_default()
    }
}

/// A family key's signature over a relay's identity (6.6.5), with what its file holds besides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FamilyFile {
    /// Identity of the member.
    pub identity: RelayId,
    /// The family and its signature.
    pub membership: FamilyMembership,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MembershipText {
    format: u32,
    kind: String,
    network: String,
    identity: String,
    family: String,
    signature: String,
}

impl FamilyFile {
    /// Reads and verifies a file's text.
    ///
    /// # Errors
    /// [`KeyFileError`].
    pub fn parse(text: &str, network: &NetworkId) -> Result<Self, KeyFileError> {
        let text: MembershipText = read(text, MEMBERSHIP)?;
        same_network(&text.network, network)?;
        let identity = RelayId(bytes("identity", &text.identity)?);
        let signature = Signature(bytes("signature", &text.signature)?);
        let membership = FamilyMembership::from_parts(bytes("family", &text.family)?, signature);
        membership.verify(&identity, network)?;
        Ok(Self {
            identity,
            membership,
        })
    }

    /// The file's text.
    pub fn to_toml(&self, network: &NetworkId) -> String {
        let text = MembershipText {
            format: FORMAT,
            kind: MEMBERSHIP.to_owned(),
            network: hex::encode(network.0),
            identity: hex::encode(self.identity.0),
            family: hex::encode(self.membership.key),
            signature: hex::encode(self.membership.signature().0),
        };
        toml::to_string(&text).unwrap_or_default()
    }
}

/// The format and the kind are read first: the other keys of the file are known only for a known format and kind.
#[derive(Deserialize)]
struct FileHead {
    format: u32,
    kind: String,
}

fn read<T: serde::de::DeserializeOwned>(
    text: &str,
    wanted: &'static str,
) -> Result<T, KeyFileError> {
    if text.len() > MAX_KEY_FILE_BYTES {
        return Err(KeyFileError::TooLong);
    }
    let bad = |error: toml::de::Error| KeyFileError::Toml(error.message().to_owned());
    let head: FileHead = toml::from_str(text).map_err(bad)?;
    if head.format != FORMAT {
        return Err(KeyFileError::Format(head.format));
    }
    if head.kind != wanted {
        let found = head.kind.escape_debug().to_string();
        return Err(KeyFileError::Kind { found, wanted });
    }
    toml::from_str(text).map_err(bad)
}

fn same_network(text: &str, network: &NetworkId) -> Result<(), KeyFileError> {
    let found = NetworkId(bytes("network", text)?);
    if found == *network {
        Ok(())
    } else {
        Err(KeyFileError::OtherNetwork(found))
    }
}

fn bytes<const N: usize>(name: &'static str, text: &str) -> Result<[u8; N], KeyFileError> {
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes).map_err(|_| KeyFileError::Hex(name))?;
    Ok(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testkit::{identity, link_key};

    const NETWORK: NetworkId = NetworkId([7; 32]);

    fn certificate() -> LinkCertificate {
        let key = link_key(1).verifying_key().to_bytes();
        LinkCertificate {
            identity: identity(2),
            made: 1_000,
            cert: KeyCert::new(&link_key(2), &NETWORK, key, 2_000),
        }
    }

    fn family() -> FamilyFile {
        FamilyFile {
            identity: identity(2),
            membership: FamilyMembership::new(&link_key(9), &NETWORK, &identity(2)),
        }
    }

    #[test]
    fn round_trips() {
        let text = certificate().to_toml(&NETWORK);
        assert_eq!(LinkCertificate::parse(&text, &NETWORK), Ok(certificate()));
        let text = family().to_toml(&NETWORK);
        assert_eq!(FamilyFile::parse(&text, &NETWORK), Ok(family()));
    }

    #[test]
    fn refusals() {
        let good = certificate().to_toml(&NETWORK);
        let parse = |text: &str| LinkCertificate::parse(text, &NETWORK).unwrap_err();
        let other = LinkCertificate::parse(&good, &NetworkId([8; 32]));
        assert_eq!(other, Err(KeyFileError::OtherNetwork(NETWORK)));
        let forged = KeyFileError::Content(DocError::BadSignature);
        assert_eq!(parse(&good.replace("2000", "2001")), forged);
        assert_eq!(
            parse(&good.replace("format = 1", "format = 2")),
            KeyFileError::Format(2)
        );
        assert!(matches!(
            parse(&family().to_toml(&NETWORK)),
            KeyFileError::Kind { .. }
        ));
        assert!(matches!(
            parse(&format!("{good}more = 1\n")),
            KeyFileError::Toml(_)
        ));
        assert!(matches!(parse("\u{0}"), KeyFileError::Toml(_)));
        let long = " ".repeat(MAX_KEY_FILE_BYTES + 1);
        assert_eq!(parse(&long), KeyFileError::TooLong);
        let short = good.replace("identity = \"", "identity = \"0");
        assert_eq!(parse(&short), KeyFileError::Hex("identity"));
        // A certificate for the identity's own key is refused, because that key needs none (6.6.2).
        let mut itself = certificate();
        itself.cert = KeyCert::new(&link_key(2), &NETWORK, identity(2).0, 2_000);
        assert!(matches!(
            parse(&itself.to_toml(&NETWORK)),
            KeyFileError::Content(_)
        ));
        let mut other = family();
        other.identity = identity(3);
        assert_eq!(
            FamilyFile::parse(&other.to_toml(&NETWORK), &NETWORK),
            Err(forged)
        );
    }

    proptest! {
        #[test]
        fn damaged_text_never_panics(at in any::<proptest::sample::Index>(), with in any::<char>()) {
            let mut text: Vec<char> = certificate().to_toml(&NETWORK).chars().collect();
            let at = at.index(text.len());
            text[at] = with;
            let text: String = text.into_iter().collect();
            let _ = LinkCertificate::parse(&text, &NETWORK);
            let _ = FamilyFile::parse(&text, &NETWORK);
        }
    }
}
