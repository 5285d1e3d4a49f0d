//! The text of a `network.toml`: strict TOML (docs/protocol.md, 6.3.1).

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::body::{AuthorityEntry, Body, Fallback, Succession};
use super::error::NetworkFileError;
use crate::dir::signed::{self, Signature, UnixSecs};
use crate::ids::{NetworkId, RelayId};

/// The file as text. Parsing is strict, so that a mistyped key is an error and not a silent default.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileText {
    format: u8,
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    revision: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    effective_after: Option<UnixSecs>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    params: BTreeMap<String, u32>,
    authority: Vec<AuthorityText>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    fallback: Vec<FallbackText>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    signature: Vec<SignatureText>,
}

/// The content of a file's text: parsed, with no rule checked and no signature verified.
pub(super) struct FileParts {
    pub(super) body: Body,
    pub(super) succession: Option<Succession>,
    /// The keys that signed, in increasing order, and their signatures.
    pub(super) signatures: Vec<([u8; 32], Signature)>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AuthorityText {
    name: String,
    identity: String,
    signing_key: String,
    addresses: Vec<SocketAddr>,
}

impl AuthorityText {
    fn of(authority: &AuthorityEntry) -> Self {
        Self {
            name: authority.name.clone(),
            identity: authority.identity.to_string(),
            signing_key: hex::encode(authority.signing_key),
            addresses: authority.addresses.clone(),
        }
    }

    fn into_authority(self) -> Result<AuthorityEntry, NetworkFileError> {
        Ok(AuthorityEntry {
            name: self.name,
            identity: RelayId(unhex("identity", &self.identity)?),
            signing_key: unhex("signing_key", &self.signing_key)?,
            addresses: self.addresses,
        })
    }
}

/// An authority's entry by itself, as its operator sends it to whoever drafts the network's file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EntryText {
    authority: AuthorityText,
}

impl AuthorityEntry {
    /// The entry as a file of its own.
    pub fn to_toml(&self) -> String {
        let authority = AuthorityText::of(self);
        // An entry always has a text.
        toml::to_string(&EntryText { authority }).unwrap_or_default()
    }

    /// Parses what [`Self::to_toml`] wrote; the rules of 6.3 are for the draft to check.
    ///
    /// # Errors
    /// [`NetworkFileError`].
    pub fn parse(text: &str) -> Result<Self, NetworkFileError> {
        let entry: EntryText =
            toml::from_str(text).map_err(|error| NetworkFileError::Syntax(error.to_string()))?;
        entry.authority.into_authority()
    }
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
    pub(super) fn from_parts(
        body: &Body,
        succession: Option<Succession>,
        signatures: &[([u8; 32], Signature)],
    ) -> Self {
        let authority = body.authorities.iter().map(AuthorityText::of);
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
            format: signed::NETWORK_VERSION,
            name: body.name.clone(),
            id: succession.map(|s| s.id.to_string()),
            revision: succession.map(|s| s.revision),
            effective_after: succession.map(|s| s.effective_after),
            params: body.params.clone(),
            authority: authority.collect(),
            fallback: fallback.collect(),
            signature: signature.collect(),
        }
    }

    pub(super) fn into_parts(self) -> Result<FileParts, NetworkFileError> {
        if self.format != signed::NETWORK_VERSION {
            return Err(NetworkFileError::Rule("the format is not 1"));
        }
        let succession = self.succession()?;
        let mut authorities = Vec::new();
        for text in self.authority {
            authorities.push(text.into_authority()?);
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
        Ok(FileParts {
            body,
            succession,
            signatures,
        })
    }

    /// A founding file names neither id nor revision; a later one names both.
    fn succession(&self) -> Result<Option<Succession>, NetworkFileError> {
        match (&self.id, self.revision) {
            (None, None) if self.effective_after.is_none() => Ok(None),
            (Some(id), Some(revision)) => Ok(Some(Succession {
                id: NetworkId(unhex("id", id)?),
                revision,
                effective_after: self.effective_after.unwrap_or(0),
            })),
            _ => Err(NetworkFileError::Rule(
                "a later revision has an id and a revision, a founding file neither",
            )),
        }
    }
}
