//! What a consensus says: its times, the parameters, and an entry for each relay (docs/protocol.md, 6.9 and 6.10).

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::random::{self, RandomValue};
use crate::dir::network::{Params, params};
use crate::dir::relay::{
    Flags, MAX_ENTRIES, PolicySummary, RelayDescriptor, Transport, descriptor,
};
use crate::dir::signed::{CLOCK_SKEW_SECS, DocError, UnixSecs};
use crate::ids::RelayId;
use crate::onion::Suite;

/// The longest validity (seconds), because onion keys live no longer.
pub(super) const MAX_VALIDITY_SECS: u64 = 14 * 86_400;

/// The times of a consensus, with `valid_after < fresh_until <= valid_until`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Lifetime {
    /// The consensus is valid from this time on.
    pub valid_after: UnixSecs,
    /// A newer consensus is expected from this time on.
    pub fresh_until: UnixSecs,
    /// The consensus is not valid from this time on.
    pub valid_until: UnixSecs,
}

/// The least validity of a consensus, in intervals. The loss of a period or two must not stop a network.
const MIN_VALID_INTERVALS: u64 = 3;

impl Lifetime {
    /// The lifetime of the consensus with this valid-after (docs/protocol.md, 6.13).
    pub fn of(params: &Params, valid_after: UnixSecs) -> Self {
        let interval = u64::from(params.vote_interval_seconds);
        let valid = u64::from(params.consensus_valid_seconds).max(MIN_VALID_INTERVALS * interval);
        Self {
            valid_after,
            fresh_until: valid_after.saturating_add(interval),
            valid_until: valid_after.saturating_add(valid),
        }
    }

    /// The status of a consensus with these times at `now`, with this many seconds of grace (6.10.1).
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

/// The status of a consensus at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsensusStatus {
    /// Valid-after is ahead by more than clocks may differ. The consensus must not be used.
    Early,
    /// The consensus is the newest that there should be.
    Fresh,
    /// The consensus is valid, and a newer one should exist.
    Valid,
    /// The consensus is past its validity and within the grace. Clients use it if there is no other.
    Grace,
    /// The consensus is past its grace and must not be used.
    Expired,
}

/// Everything that a client needs to know about one relay. The fields are in the order of their encoding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Identity of the relay.
    pub identity: RelayId,
    /// The relay's link key, if that is not the identity.
    link_key: Option<[u8; 32]>,
    /// The relay's key for circuit handshakes (X25519).
    pub onion_key: [u8; 32],
    /// The suite of layers made with that key.
    #[serde(with = "descriptor::suite_code")]
    pub suite: Suite,
    /// Addresses to dial, the preferred one first.
    pub addresses: Vec<SocketAddr>,
    /// How much of the traffic the relay should carry, relative to the others (KiB a second).
    pub weight: u32,
    /// Flags that the authorities agreed on.
    pub flags: Flags,
    /// Summary of the relay's exit policy for TCP streams.
    pub policy: PolicySummary,
    /// Summary of the relay's exit policy for UDP datagrams.
    pub udp: PolicySummary,
    /// Key of the relay's family.
    pub family: Option<[u8; 32]>,
    /// Name for people.
    pub nickname: String,
    /// Version of the relay's program.
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
            udp: descriptor.udp.clone(),
            family: descriptor.family.as_ref().map(|family| family.key),
            nickname: descriptor.nickname.clone(),
            version: descriptor.version.clone(),
        }
    }

    /// The key that the relay proves on links.
    pub fn link_key(&self) -> [u8; 32] {
        self.link_key.unwrap_or(self.identity.0)
    }

    /// The ports that the relay lets this transport out to.
    pub fn ports(&self, transport: Transport) -> &PolicySummary {
        match transport {
            Transport::Tcp => &self.policy,
            Transport::Udp => &self.udp,
        }
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
        self.policy.validate()?;
        self.udp.validate()
    }
}

/// The part of a consensus that is signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsensusBody {
    /// Times of the consensus.
    pub lifetime: Lifetime,
    /// Parameters that more than half of the authorities voted for, by name.
    pub params: BTreeMap<String, u32>,
    /// The relays, by strictly increasing identity.
    pub entries: Vec<Entry>,
    /// Random values of the newest periods, by strictly increasing period; at most two.
    pub values: Vec<RandomValue>,
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
        self.entries.iter().try_for_each(Entry::validate)?;
        random::validate_values(&self.values)
    }
}
