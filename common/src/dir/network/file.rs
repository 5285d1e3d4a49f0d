//! `network.toml`: the file that says which network this is (docs/protocol.md, 6.3).

use std::collections::BTreeMap;

use ed25519_dalek::SigningKey;

use super::body::{AuthorityEntry, Body, Fallback, Succession, id_of, signed_part};
use super::error::NetworkFileError;
use super::params::{self, Params};
use super::signatories::Signatories;
use super::text::{FileParts, FileText};
use crate::dir::signed::{DocError, Kind, Signature, UnixSecs, majority};
use crate::ids::{NetworkId, RelayId};

/// Size of the largest `network.toml`, in bytes.
pub const MAX_NETWORK_FILE_BYTES: usize = 64 * 1024;
/// The most signatures of a file: those of its authorities and of former ones.
const MAX_SIGNATURES: usize = 64;
/// A network, or a later revision of one, that is being set up: too few of its authorities have signed it yet.
#[derive(Clone, Debug)]
pub struct NetworkDraft {
    body: Body,
    succession: Option<Succession>,
    signatures: Vec<([u8; 32], Signature)>,
}

/// A network, of which more than half of its authorities have signed what the file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkFile {
    body: Body,
    succession: Option<Succession>,
    signatures: Vec<([u8; 32], Signature)>,
    id: NetworkId,
}

impl NetworkDraft {
    /// A draft of a network without fallback caches that nobody has signed. The authorities come in any order.
    pub fn new(
        name: &str,
        mut authorities: Vec<AuthorityEntry>,
        params: BTreeMap<String, u32>,
    ) -> Self {
        authorities.sort_by_key(|authority| authority.identity);
        let body = Body {
            name: name.to_owned(),
            authorities,
            fallbacks: Vec::new(),
            params,
        };
        Self {
            body,
            succession: None,
            signatures: Vec::new(),
        }
    }

    /// A draft of the revision after `previous`, which has the same content so far and which nobody has signed.
    /// The revision counts for consensuses with a valid-after of `effective_after` or later.
    pub fn revise(previous: &NetworkFile, effective_after: UnixSecs) -> Self {
        let succession = Succession {
            id: previous.id,
            revision: previous.revision().saturating_add(1),
            effective_after,
        };
        Self {
            body: previous.body.clone(),
            succession: Some(succession),
            signatures: Vec::new(),
        }
    }

    /// Sets these fallback caches. Signatures made before become void.
    #[must_use]
    pub fn with_fallbacks(mut self, fallbacks: Vec<Fallback>) -> Self {
        self.body.fallbacks = fallbacks;
        self.signatures.clear();
        self
    }

    /// Sets these authorities, which come in any order. Signatures made before become void.
    #[must_use]
    pub fn with_authorities(mut self, mut authorities: Vec<AuthorityEntry>) -> Self {
        authorities.sort_by_key(|authority| authority.identity);
        self.body.authorities = authorities;
        self.signatures.clear();
        self
    }

    /// Sets these parameters. Signatures made before become void.
    #[must_use]
    pub fn with_params(mut self, params: BTreeMap<String, u32>) -> Self {
        self.body.params = params;
        self.signatures.clear();
        self
    }

    /// Parses a `network.toml` that may lack signatures.
    ///
    /// # Errors
    /// [`NetworkFileError`] for what does not parse and for a broken rule of 6.3.
    pub fn parse(text: &str) -> Result<Self, NetworkFileError> {
        if text.len() > MAX_NETWORK_FILE_BYTES {
            return Err(NetworkFileError::Rule("the file is over 64 KiB"));
        }
        let file: FileText =
            toml::from_str(text).map_err(|error| NetworkFileError::Syntax(error.to_string()))?;
        let FileParts {
            body,
            succession,
            signatures,
        } = file.into_parts()?;
        let draft = Self {
            body,
            succession,
            signatures,
        };
        draft.validate()?;
        Ok(draft)
    }

    fn validate(&self) -> Result<(), NetworkFileError> {
        self.body.validate()?;
        if self.signatures.len() > MAX_SIGNATURES {
            return Err(NetworkFileError::Rule("at most 64 signatures"));
        }
        if self.succession.is_some_and(|s| s.revision == 0) {
            return Err(NetworkFileError::Rule(
                "a founding file has neither id nor effective_after",
            ));
        }
        Ok(())
    }

    /// Adds the signature of the authority whose signing key this is. A later revision may be signed by any key: by
    /// those of its own authorities, and by those of the revision before.
    ///
    /// # Errors
    /// [`NetworkFileError`] if the key is no authority's, or if the network breaks a rule of 6.3.
    pub fn sign(&mut self, key: &SigningKey) -> Result<(), NetworkFileError> {
        self.validate()?;
        let signer = key.verifying_key().to_bytes();
        if self.succession.is_none() && self.body.authority_of(&signer).is_none() {
            return Err(NetworkFileError::Rule(
                "the key is no signing key of an authority",
            ));
        }
        let part = signed_part(&self.body, self.succession)?;
        let signature = Signature::sign(key, Kind::Network, &id_of(&part, self.succession), &part);
        self.add((signer, signature));
        Ok(())
    }

    fn add(&mut self, signature: ([u8; 32], Signature)) {
        self.signatures.retain(|(held, _)| *held != signature.0);
        self.signatures.push(signature);
        self.signatures.sort_by_key(|(signer, _)| *signer);
    }

    /// Adds the signatures of another copy of the same draft.
    ///
    /// # Errors
    /// [`NetworkFileError::Rule`] when the two differ in more than signatures.
    pub fn merge(&mut self, other: &Self) -> Result<(), NetworkFileError> {
        if (&self.body, self.succession) != (&other.body, other.succession) {
            return Err(NetworkFileError::Rule(
                "the copies differ in more than their signatures",
            ));
        }
        for signature in &other.signatures {
            self.add(*signature);
        }
        Ok(())
    }

    /// The network's name, for people.
    pub fn name(&self) -> &str {
        &self.body.name
    }

    /// Number of the revision; 0 is the founding file.
    pub fn revision(&self) -> u32 {
        self.succession.map_or(0, |succession| succession.revision)
    }

    /// The network's id. For a founding file it is the id of the draft as it stands.
    ///
    /// # Errors
    /// [`NetworkFileError`]; no draft is known to cause it.
    pub fn network_id(&self) -> Result<NetworkId, NetworkFileError> {
        Ok(id_of(
            &signed_part(&self.body, self.succession)?,
            self.succession,
        ))
    }

    /// The first valid-after of consensuses that this revision counts for; 0 for all.
    pub fn effective_after(&self) -> UnixSecs {
        self.succession
            .map_or(0, |succession| succession.effective_after)
    }

    /// The authorities, by increasing identity.
    pub fn authorities(&self) -> &[AuthorityEntry] {
        &self.body.authorities
    }

    /// The fallback caches.
    pub fn fallbacks(&self) -> &[Fallback] {
        &self.body.fallbacks
    }

    /// The parameters that the draft sets.
    pub fn param_pairs(&self) -> &BTreeMap<String, u32> {
        &self.body.params
    }

    /// Which of the draft's own authorities have signed.
    ///
    /// # Errors
    /// [`NetworkFileError`]; no draft is known to cause it.
    pub fn signatories(&self) -> Result<Signatories, NetworkFileError> {
        self.signatories_among(&self.body.authorities)
    }

    /// Which of `authorities`, those of the revision before, have signed.
    ///
    /// # Errors
    /// [`NetworkFileError`]; no draft is known to cause it.
    pub fn signatories_among(
        &self,
        authorities: &[AuthorityEntry],
    ) -> Result<Signatories, NetworkFileError> {
        let part = signed_part(&self.body, self.succession)?;
        let id = id_of(&part, self.succession);
        Ok(Signatories::of(authorities, &self.signatures, &id, &part))
    }

    /// Makes the network, if more than half of the authorities have signed. Signatures by keys that the file does not
    /// name are those of former authorities. Such signatures are kept for those who know the former authorities, and
    /// only a later revision may have them.
    ///
    /// # Errors
    /// [`NetworkFileError::Signature`] for a wrong signature, a stranger's, or too few of them;
    /// [`NetworkFileError::Rule`] for a broken rule of 6.3.
    pub fn finish(self) -> Result<NetworkFile, NetworkFileError> {
        self.validate()?;
        let part = signed_part(&self.body, self.succession)?;
        let id = id_of(&part, self.succession);
        for (signer, signature) in &self.signatures {
            if self.body.authority_of(signer).is_some() {
                signature.verify(signer, Kind::Network, &id, &part)?;
            } else if self.succession.is_none() {
                return Err(DocError::UnknownSigner.into());
            }
        }
        self.signatories()?.require()?;
        Ok(NetworkFile {
            body: self.body,
            succession: self.succession,
            signatures: self.signatures,
            id,
        })
    }

    /// The file's text, with the signatures that there are.
    ///
    /// # Errors
    /// [`NetworkFileError::Syntax`]; no draft is known to cause it.
    pub fn to_toml(&self) -> Result<String, NetworkFileError> {
        let text = FileText::from_parts(&self.body, self.succession, &self.signatures);
        toml::to_string(&text).map_err(|error| NetworkFileError::Syntax(error.to_string()))
    }
}

impl NetworkFile {
    /// Parses a `network.toml` and verifies its signatures, so that nobody can hand out an edited file unnoticed.
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
        let text = FileText::from_parts(&self.body, self.succession, &self.signatures);
        toml::to_string(&text).map_err(|error| NetworkFileError::Syntax(error.to_string()))
    }

    /// SHA-256 of the founding file's signed part; it binds every link, handshake and document to this network.
    pub fn network_id(&self) -> NetworkId {
        self.id
    }

    /// Number of the revision; 0 is the founding file.
    pub fn revision(&self) -> u32 {
        self.succession.map_or(0, |succession| succession.revision)
    }

    /// The parameter by which authorities tell of this revision (6.3.11); none for a founding file.
    pub fn revision_param(&self) -> Option<(String, u32)> {
        let named = self.succession.filter(|succession| succession.revision > 0);
        named.map(|succession| (params::NETWORK_REVISION.to_owned(), succession.revision))
    }

    /// The first valid-after of consensuses that this revision counts for; 0 for all.
    pub fn effective_after(&self) -> UnixSecs {
        self.succession
            .map_or(0, |succession| succession.effective_after)
    }

    /// Is `next` a later revision that more than half of this one's authorities signed (6.3.8)?
    ///
    /// # Errors
    /// [`NetworkFileError`] says why `next` is not to be taken.
    pub fn verify_successor(&self, next: &Self) -> Result<(), NetworkFileError> {
        if next.id != self.id {
            return Err(NetworkFileError::Rule("it is of another network"));
        }
        if next.revision() <= self.revision() {
            return Err(NetworkFileError::Rule("it is no later revision"));
        }
        self.successor_signatories(next)?.require()
    }

    /// Which of this revision's authorities signed `next`.
    ///
    /// # Errors
    /// [`NetworkFileError`]; no network is known to cause it.
    pub fn successor_signatories(&self, next: &Self) -> Result<Signatories, NetworkFileError> {
        let part = signed_part(&next.body, next.succession)?;
        Ok(Signatories::of(
            &self.body.authorities,
            &next.signatures,
            &next.id,
            &part,
        ))
    }

    /// Which of this file's own authorities signed it.
    ///
    /// # Errors
    /// [`NetworkFileError`]; no network is known to cause it.
    pub fn signatories(&self) -> Result<Signatories, NetworkFileError> {
        self.successor_signatories(self)
    }

    /// Do the two say the same, whoever signed them?
    pub fn says_the_same(&self, other: &Self) -> bool {
        (&self.body, self.succession, self.id) == (&other.body, other.succession, other.id)
    }

    /// The network's name, for people.
    pub fn name(&self) -> &str {
        &self.body.name
    }

    /// The authorities, by increasing identity.
    pub fn authorities(&self) -> &[AuthorityEntry] {
        &self.body.authorities
    }

    /// The authority with this identity.
    pub fn authority(&self, identity: &RelayId) -> Option<&AuthorityEntry> {
        self.body
            .authorities
            .iter()
            .find(|authority| authority.identity == *identity)
    }

    /// The authority with this signing key.
    pub fn authority_by_signing_key(&self, key: &[u8; 32]) -> Option<&AuthorityEntry> {
        self.body.authority_of(key)
    }

    /// The fallback caches.
    pub fn fallbacks(&self) -> &[Fallback] {
        &self.body.fallbacks
    }

    /// The parameters that the file sets, as they stand in it.
    pub fn param_pairs(&self) -> &BTreeMap<String, u32> {
        &self.body.params
    }

    /// The parameters that hold before there is a consensus: those of the file in place of the defaults, within their
    /// bounds.
    pub fn params(&self) -> Params {
        Params::from_pairs(
            self.body
                .params
                .iter()
                .map(|(name, value)| (name.as_str(), *value)),
        )
    }

    /// The number of signatures that is more than half of the authorities.
    pub fn majority(&self) -> usize {
        majority(self.body.authorities.len())
    }

    /// The authorities' signing keys.
    pub(in crate::dir) fn signing_keys(&self) -> Vec<[u8; 32]> {
        self.body
            .authorities
            .iter()
            .map(|authority| authority.signing_key)
            .collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
#[path = "file_tests.rs"]
mod tests;
