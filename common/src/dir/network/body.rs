//! The part of a `network.toml` that the authorities sign: who they are, the caches, the parameters (docs/protocol.md,
//! 6.3).

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::error::NetworkFileError;
use super::params;
use crate::dir::relay::is_dialable;
use crate::dir::signed::{self, DocError, Kind, UnixSecs};
use crate::ids::{NetworkId, RelayId};

/// The most authorities of a network.
pub(in crate::dir) const MAX_AUTHORITIES: usize = 31;
/// The most fallback caches of a network.
const MAX_FALLBACKS: usize = 256;
/// The most addresses of one authority or cache.
const MAX_ADDRESSES: usize = 8;
/// Length of the longest name of a network or an authority, in bytes.
const MAX_NAME_BYTES: usize = 40;

/// One directory authority, as `network.toml` has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorityEntry {
    /// Name for people.
    pub name: String,
    /// The key that the authority proves on links. The key is also the authority's identity as a relay.
    pub identity: RelayId,
    /// The key that signs its votes and consensuses; not its link key.
    pub signing_key: [u8; 32],
    /// Where to reach the authority.
    pub addresses: Vec<SocketAddr>,
}

/// A relay that serves the consensus to those who have none yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fallback {
    /// The key that the cache proves on links.
    pub identity: RelayId,
    /// Where to reach the cache.
    pub addresses: Vec<SocketAddr>,
}

/// The part of a founding file that is hashed and signed. The fields are in the order of their encoding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Body {
    pub(super) name: String,
    pub(super) authorities: Vec<AuthorityEntry>,
    pub(super) fallbacks: Vec<Fallback>,
    pub(super) params: BTreeMap<String, u32>,
}

/// What follows the body in the signed part of a later revision (6.3.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Succession {
    pub(super) id: NetworkId,
    pub(super) revision: u32,
    pub(super) effective_after: UnixSecs,
}

/// Encodes the signed part (6.3.3, 6.3.6).
pub(super) fn signed_part(
    body: &Body,
    succession: Option<Succession>,
) -> Result<Vec<u8>, DocError> {
    let mut bytes = signed::encode(body)?;
    if let Some(succession) = succession {
        bytes.extend(signed::encode(&succession)?);
    }
    Ok(bytes)
}

/// The id to which signatures of this signed part are bound.
pub(super) fn id_of(part: &[u8], succession: Option<Succession>) -> NetworkId {
    succession.map_or_else(|| founding_id(part), |succession| succession.id)
}

/// Computes the id: a digest with a prefix of its own, because the id itself cannot be in what it hashes.
fn founding_id(body: &[u8]) -> NetworkId {
    let hash = Sha256::new_with_prefix(b"cepa network").chain_update([Kind::Network as u8]);
    NetworkId(
        hash.chain_update([signed::NETWORK_VERSION])
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
    pub(super) fn authority_of(&self, signing_key: &[u8; 32]) -> Option<&AuthorityEntry> {
        self.authorities
            .iter()
            .find(|authority| authority.signing_key == *signing_key)
    }

    pub(super) fn validate(&self) -> Result<(), NetworkFileError> {
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
