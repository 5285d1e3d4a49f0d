//! The guard machine's state as bytes (docs/protocol.md, 6.21.12).

use cepa_common::dir::UnixSecs;
use cepa_common::ids::{NetworkId, RelayId};
use serde::{Deserialize, Serialize};

use super::machine::GuardSet;
use super::sample::Guard;

/// Length of the longest state, in bytes: a sample of 200 guards at 64 bytes each, and room to spare.
pub const MAX_STATE_BYTES: usize = 16 * 1024;
/// The most guards in a state, which is the most that the network's parameter for the size of the sample can be.
const MAX_GUARDS: usize = 200;
const VERSION: u8 = 1;

/// Why a state was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GuardStateError {
    /// The bytes are not those that were written.
    #[error("the state of the guards is damaged: {0}")]
    Damaged(&'static str),
    /// A newer program wrote the state.
    #[error("the state of the guards has version {0}, which this program does not know")]
    Version(u8),
    /// The state is of another network, whose guards mean nothing in this one.
    #[error("the state of the guards is of another network")]
    OtherNetwork,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u8,
    network: [u8; 32],
    guards: Vec<StoredGuard>,
}

#[derive(Serialize, Deserialize)]
struct StoredGuard {
    identity: RelayId,
    added: UnixSecs,
    /// The guard's place among those that were used, and when it was first used.
    confirmed: Option<(u16, UnixSecs)>,
    unlisted: Option<UnixSecs>,
}

impl GuardSet {
    /// Writes the state that is kept between runs: the sample with its dates, and the order of the guards that were
    /// used.
    pub fn to_state(&self) -> Vec<u8> {
        let rank = |guard: &Guard| {
            let at = self.confirmed.iter().position(|r| *r == guard.identity)?;
            Some((u16::try_from(at).ok()?, guard.confirmed?))
        };
        let guards = self.sample.iter().take(MAX_GUARDS);
        let stored = Stored {
            version: VERSION,
            network: self.network.0,
            guards: guards
                .map(|guard| StoredGuard {
                    identity: guard.identity,
                    added: guard.added,
                    confirmed: rank(guard),
                    unlisted: guard.unlisted,
                })
                .collect(),
        };
        // Encoding numbers and options cannot fail.
        postcard::to_allocvec(&stored).unwrap_or_default()
    }

    /// Reads the set from a state that was kept for this network.
    ///
    /// # Errors
    /// [`GuardStateError`] if the state cannot be used; the caller then begins with an empty set.
    pub fn from_state(bytes: &[u8], network: NetworkId) -> Result<Self, GuardStateError> {
        if bytes.len() > MAX_STATE_BYTES {
            return Err(GuardStateError::Damaged("it is too long"));
        }
        match bytes.first() {
            Some(&VERSION) => {}
            Some(&newer) if newer > VERSION => return Err(GuardStateError::Version(newer)),
            _ => return Err(GuardStateError::Damaged("it has no version")),
        }
        let (stored, rest): (Stored, _) = postcard::take_from_bytes(bytes)
            .map_err(|_| GuardStateError::Damaged("it does not decode"))?;
        if !rest.is_empty() || stored.guards.len() > MAX_GUARDS {
            return Err(GuardStateError::Damaged("it has more than belongs there"));
        }
        if stored.network != network.0 {
            return Err(GuardStateError::OtherNetwork);
        }
        let mut set = Self::new(network);
        let mut order = Vec::new();
        for one in stored.guards {
            if set.sampled().any(|known| *known == one.identity) {
                return Err(GuardStateError::Damaged("a guard is in it twice"));
            }
            let mut guard = Guard::new(one.identity, one.added);
            guard.unlisted = one.unlisted;
            if let Some((rank, date)) = one.confirmed {
                guard.confirmed = Some(date);
                order.push((rank, one.identity));
            }
            set.sample.push(guard);
        }
        order.sort_by_key(|(rank, _)| *rank);
        if order.iter().zip(0u16..).any(|((rank, _), n)| *rank != n) {
            return Err(GuardStateError::Damaged("its order has gaps"));
        }
        set.confirmed = order.into_iter().map(|(_, relay)| relay).collect();
        Ok(set)
    }
}
