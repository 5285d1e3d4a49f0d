//! What a consensus says: its times, the parameters, and an entry for each relay (docs/protocol.md, 6.9 and 6.10).

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::dir::network::params;
use crate::dir::relay::{Flags, MAX_ENTRIES, PolicySummary, RelayDescriptor, descriptor};
use crate::dir::signed::{CLOCK_SKEW_SECS, DocError, UnixSecs};
use crate::ids::RelayId;
use crate::onion::Suite;

/// Longest validity: onion keys live no longer (seconds).
pub(super) const MAX_VALIDITY_SECS: u64 = 14 * 86_400;

/// When a consensus is good; `valid_after < fresh_until <= valid_until`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Lifetime {
    /// Valid from then on.
    pub valid_after: UnixSecs,
    /// A newer one is expected from then on.
    pub fresh_until: UnixSecs,
    /// Not valid from then on.
    pub valid_until: UnixSecs,
}

impl Lifetime {
    /// How a consensus of these times stands at `now`, with so many seconds of grace (6.10.1).
    pub fn status(&self, now: UnixSecs, grace: u64) -> ConsensusStatus {
        if self.valid_after > now.saturating_add(CLOCK_SKEW_SECS) {
            ConsensusStatus::Early
        } else if now < self.fresh_until {
            ConsensusStatus::Fresh
        } else if now < self.valid_until {
            ConsensusStatus::Valid
        } else if now < self.valid_until.saturating_add(grace) {
            ConsensusStatus::Grace
        } else {
            ConsensusStatus::Expired
        }
    }

    pub(in crate::dir) fn validate(&self) -> Result<(), DocError> {
        let longest = self.valid_after.saturating_add(MAX_VALIDITY_SECS);
        let ordered = self.valid_after < self.fresh_until && self.fresh_until <= self.valid_until;
        if ordered && self.valid_until <= longest {
            Ok(())
        } else {
            Err(DocError::Content("times are not in order"))
        }
    }
}

/// How a consensus stands at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsensusStatus {
    /// Valid-after is ahead by more than clocks may differ: not to be used.
    Early,
    /// The newest there should be.
    Fresh,
    /// A newer one should exist.
    Valid,
    /// Past its validity, within the grace: clients use it when there is no other.
    Grace,
    /// Not to be used.
    Expired,
}

/// All that a client needs of one relay; the fields stand in the order of their encoding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Who it is.
    pub identity: RelayId,
    /// Its link key when that is not the identity.
    link_key: Option<[u8; 32]>,
    /// Its key for circuit handshakes (X25519).
    pub onion_key: [u8; 32],
    /// The suite of layers made with that key.
    #[serde(with = "descriptor::suite_code")]
    pub suite: Suite,
    /// Where to dial it, the preferred first.
    pub addresses: Vec<SocketAddr>,
    /// How much of the traffic it should carry, relative to the others (KiB a second).
    pub weight: u32,
    /// What the authorities say of it.
    pub flags: Flags,
    /// Where it lets traffic out.
    pub policy: PolicySummary,
    /// Key of its family.
    pub family: Option<[u8; 32]>,
    /// Its name, for people.
    pub nickname: String,
    /// Version of its program.
    pub version: String,
}

impl Entry {
    /// The entry of a relay from its descriptor.
    pub fn new(descriptor: &RelayDescriptor, flags: Flags, weight: u32) -> Self {
        Self {
            identity: descriptor.identity,
            link_key: descriptor.key_cert.as_ref().map(|cert| cert.key),
            onion_key: descriptor.onion_key,
            suite: descriptor.suite,
            addresses: descriptor.addresses.clone(),
            weight,
            flags,
            policy: descriptor.policy.clone(),
            family: descriptor.family.as_ref().map(|family| family.key),
            nickname: descriptor.nickname.clone(),
            version: descriptor.version.clone(),
        }
    }

    /// The key that the relay proves on links.
    pub fn link_key(&self) -> [u8; 32] {
        self.link_key.unwrap_or(self.identity.0)
    }

    /// The link key as encoded: none when it is the identity.
    pub(super) fn explicit_link_key(&self) -> Option<[u8; 32]> {
        self.link_key
    }

    pub(super) fn set_explicit_link_key(&mut self, key: Option<[u8; 32]>) {
        self.link_key = key;
    }

    fn validate(&self) -> Result<(), DocError> {
        if self.link_key == Some(self.identity.0) || !self.flags.is_known() {
            return Err(DocError::Content("link key or flags are not valid"));
        }
        descriptor::validate_addresses(&self.addresses)?;
        descriptor::validate_names(&self.nickname, &self.version)?;
        self.policy.validate()
    }
}

/// What is signed of a consensus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsensusBody {
    /// When it is good.
    pub lifetime: Lifetime,
    /// Parameters that more than half of the authorities voted for, by name.
    pub params: BTreeMap<String, u32>,
    /// The relays, by strictly increasing identity.
    pub entries: Vec<Entry>,
}

impl ConsensusBody {
    pub(super) fn validate(&self) -> Result<(), DocError> {
        self.lifetime.validate()?;
        params::validate(&self.params)?;
        if self.entries.len() > MAX_ENTRIES {
            return Err(DocError::Content("too many entries"));
        }
        if self
            .entries
            .windows(2)
            .any(|pair| pair[0].identity >= pair[1].identity)
        {
            return Err(DocError::Content("entries are not in order"));
        }
        self.entries.iter().try_for_each(Entry::validate)
    }
}
