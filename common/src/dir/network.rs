//! `network.toml`: the file that says which network this is (docs/protocol.md, 6.3).

use std::collections::BTreeMap;
use std::net::SocketAddr;

use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::document::{self, Kind, Signature, majority};
use super::{DocError, NetworkFileError, Params, is_dialable, params};
use crate::ids::{NetworkId, RelayId};

/// Largest `network.toml` (bytes).
const MAX_FILE_BYTES: usize = 64 * 1024;
/// Authorities of a network.
const MAX_AUTHORITIES: usize = 31;
/// Fallback caches of a network.
const MAX_FALLBACKS: usize = 256;
/// Addresses of one authority or cache.
const MAX_ADDRESSES: usize = 8;
/// Longest name of a network or an authority (bytes).
const MAX_NAME_BYTES: usize = 40;

/// One directory authority, as `network.toml` has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authority {
    /// Its name, for people.
    pub name: String,
    /// The key that it proves on links; its identity as a relay too.
    pub identity: RelayId,
    /// The key that signs its votes and consensuses; not its link key.
    pub signing_key: [u8; 32],
    /// Where to reach it.
    pub addresses: Vec<SocketAddr>,
}

/// A relay that serves the consensus to those who have none yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fallback {
    /// The key that it proves on links.
    pub identity: RelayId,
    /// Where to reach it.
    pub addresses: Vec<SocketAddr>,
}

/// The part that is hashed and signed, in the order of its encoding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Body {
    name: String,
    authorities: Vec<Authority>,
    fallbacks: Vec<Fallback>,
    params: BTreeMap<String, u32>,
}

/// A network that is being set up: not yet signed by enough of its authorities.
#[derive(Clone, Debug)]
pub struct NetworkDraft {
    body: Body,
    signatures: Vec<([u8; 32], Signature)>,
}

/// A network: more than half of its authorities signed what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkFile {
    body: Body,
    signatures: Vec<([u8; 32], Signature)>,
    id: NetworkId,
}

impl NetworkDraft {
    /// A network without fallback caches, nobody having signed it; the authorities come in any order.
    pub fn new(name: &str, mut authorities: Vec<Authority>, params: BTreeMap<String, u32>) -> Self {
        authorities.sort_by_key(|authority| authority.identity);
        let body = Body {
            name: name.to_owned(),
            authorities,
            fallbacks: Vec::new(),
            params,
        };
        Self {
            body,
            signatures: Vec::new(),
        }
    }

    /// The network with these fallback caches; signatures made before are void.
    #[must_use]
    pub fn with_fallbacks(mut self, fallbacks: Vec<Fallback>) -> Self {
        self.body.fallbacks = fallbacks;
        self.signatures.clear();
        self
    }

    /// Parses a `network.toml` that may lack signatures.
    ///
    /// # Errors
    /// [`NetworkFileError`] for what does not parse and for a broken rule of 6.3.
    pub fn parse(text: &str) -> Result<Self, NetworkFileError> {
        if text.len() > MAX_FILE_BYTES {
            return Err(NetworkFileError::Rule("the file is over 64 KiB"));
        }
        let file: FileText =
            toml::from_str(text).map_err(|error| NetworkFileError::Syntax(error.to_string()))?;
        let draft = file.into_draft()?;
        draft.body.validate()?;
        Ok(draft)
    }

    /// Adds the signature of the authority whose signing key this is.
    ///
    /// # Errors
    /// When the key is no authority's, or the network breaks a rule of 6.3.
    pub fn sign(&mut self, key: &SigningKey) -> Result<(), NetworkFileError> {
        self.body.validate()?;
        let signer = key.verifying_key().to_bytes();
        if !self
            .body
            .authorities
            .iter()
            .any(|authority| authority.signing_key == signer)
        {
            return Err(NetworkFileError::Rule(
                "the key is no signing key of an authority",
            ));
        }
        let bytes = document::encode(&self.body)?;
        let signature = Signature::sign(key, Kind::Network, &network_id(&bytes), &bytes);
        self.signatures.retain(|(held, _)| *held != signer);
        self.signatures.push((signer, signature));
        self.signatures.sort_by_key(|(signer, _)| *signer);
        Ok(())
    }

    /// The network, once more than half of the authorities signed.
    ///
    /// # Errors
    /// [`NetworkFileError::Signature`] for a wrong signature, a stranger's or too few; a broken rule of 6.3.
    pub fn finish(self) -> Result<NetworkFile, NetworkFileError> {
        self.body.validate()?;
        let bytes = document::encode(&self.body)?;
        let id = network_id(&bytes);
        for (signer, signature) in &self.signatures {
            if !self
                .body
                .authorities
                .iter()
                .any(|authority| authority.signing_key == *signer)
            {
                return Err(DocError::UnknownSigner.into());
            }
            signature.verify(signer, Kind::Network, &id, &bytes)?;
        }
        let need = majority(self.body.authorities.len());
        if self.signatures.len() < need {
            return Err(DocError::TooFewSignatures {
                have: self.signatures.len(),
                need,
            }
            .into());
        }
        Ok(NetworkFile {
            body: self.body,
            signatures: self.signatures,
            id,
        })
    }

    /// The file's text, with the signatures that there are.
    ///
    /// # Errors
    /// [`NetworkFileError::Syntax`]; no draft is known to cause it.
    pub fn to_toml(&self) -> Result<String, NetworkFileError> {
        let text = FileText::from_parts(&self.body, &self.signatures);
        toml::to_string(&text).map_err(|error| NetworkFileError::Syntax(error.to_string()))
    }
}

impl NetworkFile {
    /// Parses a `network.toml` and verifies its signatures: nobody can hand out a file that was quietly edited.
    ///
    /// # Errors
    /// [`NetworkFileError`], as for [`NetworkDraft::parse`] and [`NetworkDraft::finish`].
    pub fn parse(text: &str) -> Result<Self, NetworkFileError> {
        NetworkDraft::parse(text)?.finish()
    }

    /// The file's text.
    ///
    /// # Errors
    /// [`NetworkFileError::Syntax`]; no network is known to cause it.
    pub fn to_toml(&self) -> Result<String, NetworkFileError> {
        let text = FileText::from_parts(&self.body, &self.signatures);
        toml::to_string(&text).map_err(|error| NetworkFileError::Syntax(error.to_string()))
    }

    /// SHA-256 of the signed part; it binds every link, handshake and document to this network.
    pub fn network_id(&self) -> NetworkId {
        self.id
    }

    /// The network's name, for people.
    pub fn name(&self) -> &str {
        &self.body.name
    }

    /// The authorities, by increasing identity.
    pub fn authorities(&self) -> &[Authority] {
        &self.body.authorities
    }

    /// The authority with this signing key.
    pub fn authority_by_signing_key(&self, key: &[u8; 32]) -> Option<&Authority> {
        self.body
            .authorities
            .iter()
            .find(|authority| authority.signing_key == *key)
    }

    /// The fallback caches.
    pub fn fallbacks(&self) -> &[Fallback] {
        &self.body.fallbacks
    }

    /// The parameters that the file sets, as they stand in it.
    pub fn param_pairs(&self) -> &BTreeMap<String, u32> {
        &self.body.params
    }

    /// The parameters before any consensus speaks: those of the file over the defaults, clamped.
    pub fn params(&self) -> Params {
        Params::from_pairs(
            self.body
                .params
                .iter()
                .map(|(name, value)| (name.as_str(), *value)),
        )
    }

    /// How many signatures are more than half of the authorities.
    pub fn majority(&self) -> usize {
        majority(self.body.authorities.len())
    }

    /// The authorities' signing keys.
    pub(super) fn signing_keys(&self) -> Vec<[u8; 32]> {
        self.body
            .authorities
            .iter()
            .map(|authority| authority.signing_key)
            .collect()
    }
}

/// The id is a digest under a prefix of its own, as the id itself cannot be in what it hashes.
fn network_id(body: &[u8]) -> NetworkId {
    let hash = Sha256::new_with_prefix(b"cepa network").chain_update([Kind::Network as u8]);
    NetworkId(
        hash.chain_update([document::VERSION])
            .chain_update(body)
            .finalize()
            .into(),
    )
}

fn is_display_name(name: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_. ".contains(&b))
}

fn are_addresses(addresses: &[SocketAddr], at_least: usize) -> bool {
    (at_least..=MAX_ADDRESSES).contains(&addresses.len())
        && addresses.iter().all(|address| is_dialable(*address, true))
}

impl Body {
    fn validate(&self) -> Result<(), NetworkFileError> {
        let rule = |holds: bool, text: &'static str| {
            if holds {
                Ok(())
            } else {
                Err(NetworkFileError::Rule(text))
            }
        };
        rule(
            is_display_name(&self.name),
            "the name has 1 to 40 letters, digits, - _ . or spaces",
        )?;
        rule(
            (1..=MAX_AUTHORITIES).contains(&self.authorities.len()),
            "1 to 31 authorities",
        )?;
        rule(
            self.fallbacks.len() <= MAX_FALLBACKS,
            "at most 256 fallback caches",
        )?;
        let increasing = self
            .authorities
            .windows(2)
            .all(|pair| pair[0].identity < pair[1].identity);
        rule(
            increasing,
            "authorities stand by strictly increasing identity",
        )?;
        let mut keys: Vec<_> = self.authorities.iter().map(|a| a.signing_key).collect();
        keys.extend(self.authorities.iter().map(|a| a.identity.0));
        keys.sort_unstable();
        rule(
            keys.windows(2).all(|pair| pair[0] != pair[1]),
            "each key has one use",
        )?;
        for authority in &self.authorities {
            rule(
                is_display_name(&authority.name),
                "an authority's name is not valid",
            )?;
            rule(
                are_addresses(&authority.addresses, 1),
                "an authority's addresses are not valid",
            )?;
        }
        for fallback in &self.fallbacks {
            rule(
                are_addresses(&fallback.addresses, 1),
                "a cache's addresses are not valid",
            )?;
        }
        let names = self.params.keys().all(|name| params::is_name(name));
        rule(
            names && self.params.len() <= params::MAX_PARAMS,
            "a parameter's name is not valid",
        )
    }
}

/// The file as text: strict, so that a mistyped key is an error and not a silent default.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileText {
    format: u8,
    name: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    params: BTreeMap<String, u32>,
    authority: Vec<AuthorityText>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    fallback: Vec<FallbackText>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    signature: Vec<SignatureText>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AuthorityText {
    name: String,
    identity: String,
    signing_key: String,
    addresses: Vec<SocketAddr>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FallbackText {
    identity: String,
    addresses: Vec<SocketAddr>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SignatureText {
    signing_key: String,
    algorithm: String,
    signature: String,
}

fn unhex<const N: usize>(what: &'static str, text: &str) -> Result<[u8; N], NetworkFileError> {
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes).map_err(|_| NetworkFileError::Value {
        what,
        value: text.chars().take(200).collect(),
    })?;
    Ok(bytes)
}

impl FileText {
    fn from_parts(body: &Body, signatures: &[([u8; 32], Signature)]) -> Self {
        let authority = body.authorities.iter().map(|authority| AuthorityText {
            name: authority.name.clone(),
            identity: authority.identity.to_string(),
            signing_key: hex::encode(authority.signing_key),
            addresses: authority.addresses.clone(),
        });
        let fallback = body.fallbacks.iter().map(|fallback| FallbackText {
            identity: fallback.identity.to_string(),
            addresses: fallback.addresses.clone(),
        });
        let signature = signatures.iter().map(|(signer, signature)| SignatureText {
            signing_key: hex::encode(signer),
            algorithm: "ed25519".to_owned(),
            signature: hex::encode(signature.0),
        });
        Self {
            format: document::VERSION,
            name: body.name.clone(),
            params: body.params.clone(),
            authority: authority.collect(),
            fallback: fallback.collect(),
            signature: signature.collect(),
        }
    }

    fn into_draft(self) -> Result<NetworkDraft, NetworkFileError> {
        if self.format != document::VERSION {
            return Err(NetworkFileError::Rule("the format is not 1"));
        }
        let mut authorities = Vec::new();
        for text in self.authority {
            authorities.push(Authority {
                name: text.name,
                identity: RelayId(unhex("identity", &text.identity)?),
                signing_key: unhex("signing_key", &text.signing_key)?,
                addresses: text.addresses,
            });
        }
        let mut fallbacks = Vec::new();
        for text in self.fallback {
            let identity = RelayId(unhex("identity", &text.identity)?);
            fallbacks.push(Fallback {
                identity,
                addresses: text.addresses,
            });
        }
        let mut signatures: Vec<([u8; 32], Signature)> = Vec::new();
        for text in self.signature {
            if text.algorithm != "ed25519" {
                let value = text.algorithm;
                return Err(NetworkFileError::Value {
                    what: "algorithm",
                    value,
                });
            }
            let signer = unhex("signing_key", &text.signing_key)?;
            if signatures.iter().any(|(held, _)| *held == signer) {
                return Err(NetworkFileError::Rule("an authority signs once"));
            }
            signatures.push((signer, Signature(unhex("signature", &text.signature)?)));
        }
        signatures.sort_by_key(|(signer, _)| *signer);
        let body = Body {
            name: self.name,
            authorities,
            fallbacks,
            params: self.params,
        };
        Ok(NetworkDraft { body, signatures })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::dir::testing::{self, signing_key};

    #[test]
    fn text_survives_a_round_trip() {
        let network = testing::network(3);
        let text = network.to_toml().unwrap();
        let parsed = NetworkFile::parse(&text).unwrap();
        assert_eq!(parsed, network);
        assert_eq!(parsed.network_id(), network.network_id());
        assert_eq!(parsed.params().vote_interval_seconds, 2);
    }

    #[test]
    fn an_edited_file_is_refused() {
        let text = testing::network(3).to_toml().unwrap();
        for (from, to) in [
            ("vote_interval_seconds = 2", "vote_interval_seconds = 3"),
            ("127.0.0.1:5001", "127.0.0.1:5009"),
            ("name = \"test\"", "name = \"tess\""),
        ] {
            assert!(text.contains(from), "{from} in {text}");
            let refused = NetworkFile::parse(&text.replacen(from, to, 1));
            assert_eq!(refused, Err(DocError::BadSignature.into()), "{from}");
        }
    }

    #[test]
    fn signatures_of_more_than_half_are_needed() {
        let mut draft = testing::draft(4);
        draft.sign(&signing_key(1)).unwrap();
        draft.sign(&signing_key(1)).unwrap();
        draft.sign(&signing_key(2)).unwrap();
        let few = DocError::TooFewSignatures { have: 2, need: 3 };
        assert_eq!(draft.clone().finish(), Err(few.into()));
        let mut draft = NetworkDraft::parse(&draft.to_toml().unwrap()).unwrap();
        draft.sign(&signing_key(4)).unwrap();
        assert!(draft.finish().is_ok());
        assert!(testing::draft(4).sign(&signing_key(9)).is_err());
        assert!(testing::draft(4).sign(&testing::link_key(1)).is_err());
    }

    #[test]
    fn every_refusal_of_the_text() {
        let text = testing::network(3).to_toml().unwrap();
        let signature = text.split("[[signature]]").last().unwrap();
        let doubled = format!("{text}\n[[signature]]{signature}");
        assert!(matches!(
            NetworkFile::parse(&doubled),
            Err(NetworkFileError::Rule(_))
        ));
        for (from, to) in [
            ("format = 1", "format = 2"),
            ("format = 1", "formal = 1"),
            ("format = 1", "format = 1\nextra = 1"),
            ("127.0.0.1:5001", "0.0.0.0:5001"),
            ("127.0.0.1:5001", "127.0.0.1:0"),
            ("127.0.0.1:5001", "localhost:5001"),
            ("identity = \"", "identity = \"0"),
            ("ed25519", "rsa"),
            ("vote_interval_seconds", "Vote"),
            ("name = \"test\"", "name = \"\""),
            ("name = \"test\"", "name = \"t\\u001b\""),
        ] {
            assert!(text.contains(from), "{from}");
            assert!(
                NetworkFile::parse(&text.replacen(from, to, 1)).is_err(),
                "{from} {to}"
            );
        }
        assert!(NetworkFile::parse(&"#".repeat(MAX_FILE_BYTES + 1)).is_err());
        assert!(NetworkFile::parse("").is_err());
    }

    #[test]
    fn broken_rules() {
        let check = |edit: fn(&mut Body)| {
            let mut body = testing::draft(3).body;
            edit(&mut body);
            body.validate()
        };
        assert_eq!(check(|_| ()), Ok(()));
        assert!(check(|body| body.authorities.clear()).is_err());
        assert!(check(|body| body.authorities.swap(0, 1)).is_err());
        assert!(
            check(|body| body.authorities[0].signing_key = body.authorities[1].signing_key)
                .is_err()
        );
        assert!(
            check(|body| body.authorities[0].signing_key = body.authorities[0].identity.0).is_err()
        );
        assert!(check(|body| body.authorities[0].addresses.clear()).is_err());
        assert!(check(|body| body.authorities[0].name.clear()).is_err());
    }
}
