//! Differences between consensuses (docs/protocol.md, 6.19). A difference gives the next consensus in a few bytes for
//! each relay that changed.
//!
//! A difference is neither signed nor trusted. Applying it gives a document that is verified as if it had been fetched
//! whole, so a wrong difference harms only the reputation of its source.

use core::fmt;
use core::marker::PhantomData;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::body::{ConsensusBody, Entry, Lifetime};
use super::random::RandomValue;
use super::signing::{MAX_CONSENSUS_BYTES, SignedConsensus};
use super::verified::Consensus;
use crate::dir::network::{KnownNetwork, MAX_PARAMS, params};
use crate::dir::relay::{Flags, MAX_ENTRIES, PolicySummary};
use crate::dir::signed::{self, Digest, DocError, Envelope, Kind};
use crate::onion::Suite;

/// Size of the largest difference, in bytes. A larger one would save nothing.
pub const MAX_DIFFERENCE_BYTES: usize = MAX_CONSENSUS_BYTES;

/// Why a difference is refused. The difference's source is to blame for all of these.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiffError {
    /// The bytes are not a difference, or what it makes is no consensus of the network.
    #[error(transparent)]
    Document(#[from] DocError),
    /// The difference begins at another consensus than the one given.
    #[error("the difference is from another consensus")]
    OtherBase,
    /// The difference names an entry or parameter that is not there, names one twice, or says that it changes something
    /// and does not.
    #[error("the difference does not fit: {0}")]
    DoesNotFit(&'static str),
}

/// A value for the entry at a position in the older consensus. The position is coded as the distance to the position
/// before it, less one.
type At<T> = (u32, T);

/// The body of a difference. The fields are in the order of their encoding.
#[derive(Debug, Serialize, Deserialize)]
struct Body {
    from: Digest,
    lifetime: Lifetime,
    #[serde(deserialize_with = "at_most_params")]
    params_removed: Vec<String>,
    params_set: BTreeMap<String, u32>,
    /// All random values of the newer consensus. There are at most two, so a code for those that stay is not worth
    /// while.
    values: Vec<RandomValue>,
    #[serde(deserialize_with = "at_most_entries")]
    removed: Vec<At<()>>,
    /// The new weight less the old one, modulo 2^32, as a signed number: small changes take one or two bytes.
    #[serde(deserialize_with = "at_most_entries")]
    weights: Vec<At<i32>>,
    #[serde(deserialize_with = "at_most_entries")]
    flags: Vec<At<Flags>>,
    #[serde(deserialize_with = "at_most_entries")]
    changed: Vec<At<Change>>,
    #[serde(deserialize_with = "at_most_entries")]
    added: Vec<Entry>,
}

/// New values of an entry's other fields; `None` if the old value stays.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Change {
    link_key: Option<NewKey>,
    onion_key: Option<[u8; 32]>,
    #[serde(with = "optional_suite")]
    suite: Option<Suite>,
    addresses: Option<Vec<SocketAddr>>,
    policy: Option<PolicySummary>,
    udp: Option<PolicySummary>,
    family: Option<NewKey>,
    nickname: Option<String>,
    version: Option<String>,
}

/// What the newer consensus says of a key that an entry need not have. On the wire it is the byte 0, or the byte 1 and
/// the key, as an optional key is in an entry.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
enum NewKey {
    /// The entry has no such key any more.
    Absent,
    /// The entry has this key now.
    Present([u8; 32]),
}

impl From<Option<[u8; 32]>> for NewKey {
    fn from(key: Option<[u8; 32]>) -> Self {
        key.map_or(Self::Absent, Self::Present)
    }
}

impl From<NewKey> for Option<[u8; 32]> {
    fn from(key: NewKey) -> Self {
        match key {
            NewKey::Absent => None,
            NewKey::Present(key) => Some(key),
        }
    }
}

mod optional_suite {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::dir::relay::descriptor::suite_code;
    use crate::onion::Suite;

    #[derive(Serialize, Deserialize)]
    struct Coded(#[serde(with = "suite_code")] Suite);

    pub(in crate::dir) fn serialize<S: Serializer>(
        suite: &Option<Suite>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        suite.map(Coded).serialize(serializer)
    }

    pub(in crate::dir) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Suite>, D::Error> {
        Ok(Option::<Coded>::deserialize(deserializer)?.map(|coded| coded.0))
    }
}

/// Makes the difference that turns `older` into `newer`, both of one network.
///
/// # Errors
/// [`DocError`]; none is known to arise from verified consensuses.
pub fn diff(older: &Consensus, newer: &Consensus) -> Result<Vec<u8>, DocError> {
    let body = Body::between(older.digest(), older.body(), newer.body());
    let encoded = signed::encode(&body)?;
    signed::wrap(Kind::Difference, &encoded, signed::tail(newer.bytes())?)
}

/// The last position used in each list.
#[derive(Default)]
struct Positions {
    removed: Gaps,
    weights: Gaps,
    flags: Gaps,
    changed: Gaps,
}

/// Codes increasing positions as distances.
#[derive(Default)]
struct Gaps {
    next: u32,
}

impl Gaps {
    fn gap(&mut self, position: u32) -> u32 {
        let gap = position.saturating_sub(self.next);
        self.next = position.saturating_add(1);
        gap
    }

    fn position(&mut self, gap: u32) -> Option<u32> {
        let position = self.next.checked_add(gap)?;
        self.next = position.checked_add(1)?;
        Some(position)
    }
}

fn missing(old: &BTreeMap<String, u32>, new: &BTreeMap<String, u32>) -> Vec<String> {
    let gone = old.keys().filter(|name| !new.contains_key(*name));
    gone.cloned().collect()
}

impl Body {
    fn between(from: Digest, old: &ConsensusBody, new: &ConsensusBody) -> Self {
        let put = |(name, value): &(&String, &u32)| old.params.get(*name) != Some(*value);
        let mut body = Self {
            from,
            lifetime: new.lifetime,
            params_removed: missing(&old.params, &new.params),
            params_set: new
                .params
                .iter()
                .filter(put)
                .map(|(name, value)| (name.clone(), *value))
                .collect(),
            values: new.values.clone(),
            removed: Vec::new(),
            weights: Vec::new(),
            flags: Vec::new(),
            changed: Vec::new(),
            added: Vec::new(),
        };
        let mut entries = new.entries.iter().peekable();
        let mut last = Positions::default();
        for (n, entry) in (0u32..).zip(&old.entries) {
            while let Some(added) = entries.next_if(|new| new.identity < entry.identity) {
                body.added.push(added.clone());
            }
            match entries.next_if(|new| new.identity == entry.identity) {
                Some(new) => body.compare(n, entry, new, &mut last),
                None => body.removed.push((last.removed.gap(n), ())),
            }
        }
        body.added.extend(entries.cloned());
        body
    }

    fn compare(&mut self, n: u32, old: &Entry, new: &Entry, last: &mut Positions) {
        if old.weight != new.weight {
            let change = new.weight.wrapping_sub(old.weight).cast_signed();
            self.weights.push((last.weights.gap(n), change));
        }
        if old.flags != new.flags {
            self.flags.push((last.flags.gap(n), new.flags));
        }
        let change = Change::between(old, new);
        if change != Change::default() {
            self.changed.push((last.changed.gap(n), change));
        }
    }
}

impl Change {
    fn between(old: &Entry, new: &Entry) -> Self {
        fn changed<T: Clone + PartialEq>(old: &T, new: &T) -> Option<T> {
            (old != new).then(|| new.clone())
        }
        Self {
            link_key: changed(&old.explicit_link_key(), &new.explicit_link_key()).map(NewKey::from),
            onion_key: changed(&old.onion_key, &new.onion_key),
            suite: changed(&old.suite, &new.suite),
            addresses: changed(&old.addresses, &new.addresses),
            policy: changed(&old.policy, &new.policy),
            udp: changed(&old.udp, &new.udp),
            family: changed(&old.family, &new.family).map(NewKey::from),
            nickname: changed(&old.nickname, &new.nickname),
            version: changed(&old.version, &new.version),
        }
    }

    fn make(self, entry: &mut Entry) {
        fn set<T>(field: &mut T, value: Option<T>) {
            if let Some(value) = value {
                *field = value;
            }
        }
        if let Some(link_key) = self.link_key {
            entry.set_explicit_link_key(link_key.into());
        }
        set(&mut entry.onion_key, self.onion_key);
        set(&mut entry.suite, self.suite);
        set(&mut entry.addresses, self.addresses);
        set(&mut entry.policy, self.policy);
        set(&mut entry.udp, self.udp);
        set(&mut entry.family, self.family.map(Into::into));
        set(&mut entry.nickname, self.nickname);
        set(&mut entry.version, self.version);
    }
}

/// Makes the newer consensus from the one held, and verifies its signatures as those of any other (S24).
///
/// # Errors
/// [`DiffError`] if the difference is refused. The caller checks times and age, as after
/// [`SignedConsensus::parse_and_verify`].
pub fn apply(
    held: &Consensus,
    bytes: &[u8],
    network: &impl KnownNetwork,
) -> Result<Arc<Consensus>, DiffError> {
    let envelope = Envelope::parse(bytes, Kind::Difference, MAX_DIFFERENCE_BYTES)?;
    let body: Body = signed::decode(envelope.body)?;
    if body.from != held.digest() {
        return Err(DiffError::OtherBase);
    }
    let made = body.make(held.body())?;
    let made = signed::encode(&made)?;
    let whole = signed::wrap(Kind::Consensus, &made, signed::tail(bytes)?)?;
    Ok(SignedConsensus::parse_and_verify(
        &whole,
        &network.for_document(&whole),
    )?)
}

/// Walks positions coded as distances alongside a walk over all positions.
struct Walk<T> {
    items: std::vec::IntoIter<At<T>>,
    gaps: Gaps,
    next: Option<(u32, T)>,
}

impl<T> Walk<T> {
    fn new(items: Vec<At<T>>, entries: usize) -> Result<Self, DiffError> {
        let mut gaps = Gaps::default();
        for (gap, _) in &items {
            let position = gaps.position(*gap);
            let is_there = position
                .and_then(|n| usize::try_from(n).ok())
                .is_some_and(|n| n < entries);
            if !is_there {
                return Err(DiffError::DoesNotFit("a position beyond the last entry"));
            }
        }
        let mut walk = Self {
            items: items.into_iter(),
            gaps: Gaps::default(),
            next: None,
        };
        walk.step();
        Ok(walk)
    }

    fn step(&mut self) {
        let next = self.items.next();
        self.next = next.and_then(|(gap, item)| Some((self.gaps.position(gap)?, item)));
    }

    fn take(&mut self, position: u32) -> Option<T> {
        if self.next.as_ref()?.0 != position {
            return None;
        }
        let (_, item) = self.next.take()?;
        self.step();
        Some(item)
    }
}

impl Body {
    fn make(mut self, old: &ConsensusBody) -> Result<ConsensusBody, DiffError> {
        let params = self.make_params(old)?;
        let left = old.entries.len().checked_sub(self.removed.len());
        let count = left.map_or(usize::MAX, |left| left.saturating_add(self.added.len()));
        // The count is checked before anything of that size is allocated.
        if count > MAX_ENTRIES {
            return Err(DiffError::DoesNotFit("too many entries"));
        }
        let mut entries = Vec::with_capacity(count);
        let mut added = self.added.into_iter().peekable();
        let mut removed = Walk::new(self.removed, old.entries.len())?;
        let mut weights = Walk::new(self.weights, old.entries.len())?;
        let mut flags = Walk::new(self.flags, old.entries.len())?;
        let mut changed = Walk::new(self.changed, old.entries.len())?;
        for (n, entry) in (0u32..).zip(&old.entries) {
            while let Some(new) = added.next_if(|new| new.identity < entry.identity) {
                entries.push(new);
            }
            let is_removed = removed.take(n).is_some();
            let (weight, flags, change) = (weights.take(n), flags.take(n), changed.take(n));
            if is_removed {
                if weight.is_some() || flags.is_some() || change.is_some() {
                    return Err(DiffError::DoesNotFit("an entry both removed and changed"));
                }
                continue;
            }
            let mut entry = entry.clone();
            if let Some(weight) = weight {
                entry.weight = entry.weight.wrapping_add(weight.cast_unsigned());
            }
            if let Some(flags) = flags {
                entry.flags = flags;
            }
            if let Some(change) = change {
                change.make(&mut entry);
            }
            entries.push(entry);
        }
        entries.extend(added);
        Ok(ConsensusBody {
            lifetime: self.lifetime,
            params,
            entries,
            values: self.values,
        })
    }

    fn make_params(&mut self, old: &ConsensusBody) -> Result<BTreeMap<String, u32>, DiffError> {
        let mut params = old.params.clone();
        for name in &self.params_removed {
            if params.remove(name).is_none() {
                return Err(DiffError::DoesNotFit("a parameter that is not there"));
            }
        }
        params.append(&mut self.params_set);
        params::validate(&params)?;
        Ok(params)
    }
}

fn at_most_entries<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    deserializer.deserialize_seq(AtMost(MAX_ENTRIES, PhantomData))
}

fn at_most_params<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    deserializer.deserialize_seq(AtMost(MAX_PARAMS, PhantomData))
}

/// Reads a list and stops when it has too many elements: an element in memory is far larger than on the wire.
struct AtMost<T>(usize, PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for AtMost<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {} elements", self.0)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut list = Vec::new();
        while let Some(element) = seq.next_element()? {
            if list.len() == self.0 {
                return Err(serde::de::Error::custom("too many elements"));
            }
            list.push(element);
        }
        Ok(list)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
#[path = "diff_tests.rs"]
mod tests;
