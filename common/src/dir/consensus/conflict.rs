//! Two consensuses for one time: authorities signed twice, and everyone should hear which ones did.

use super::verified::Consensus;
use crate::dir::network::NetworkFile;
use crate::dir::signed::{Digest, UnixSecs};

/// The alarm of 6.10.2 (S25): two consensuses verify, are for one time, and differ. The one held stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsensusConflict {
    /// Valid-after of both.
    pub valid_after: UnixSecs,
    /// Digest of the consensus held, which stays.
    pub held: Digest,
    /// Digest of the consensus refused.
    pub offered: Digest,
    /// The authorities that signed both, by their names in `network.toml`. These authorities are broken, or their keys
    /// are stolen.
    pub signed_both: Vec<String>,
}

impl ConsensusConflict {
    /// The conflict between two verified consensuses; `None` if they are the same, or for different times.
    pub fn between(held: &Consensus, offered: &Consensus, network: &NetworkFile) -> Option<Self> {
        let valid_after = held.lifetime().valid_after;
        if valid_after != offered.lifetime().valid_after || held.digest() == offered.digest() {
            return None;
        }
        let both = held
            .signers()
            .iter()
            .filter(|key| offered.signers().contains(*key));
        let name = |key: &[u8; 32]| {
            let authority = network.authority_by_signing_key(key);
            authority.map_or_else(|| hex::encode(key), |authority| authority.name.clone())
        };
        Some(Self {
            valid_after,
            held: held.digest(),
            offered: offered.digest(),
            signed_both: both.map(name).collect(),
        })
    }
}

impl core::fmt::Display for ConsensusConflict {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(
            f,
            "two valid consensuses for the time {}: {} is kept, {} refused; signed both: {}",
            self.valid_after,
            self.held,
            self.offered,
            self.signed_both.join(", ")
        )
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::dir::SignedConsensus;
    use crate::testkit::{consensus, consensus_body, network, signing_key};

    #[test]
    fn names_those_who_signed_both() {
        let network = network(3);
        let held = consensus(&network, &consensus_body(1_000, &[1]));
        let id = network.network_id();
        let mut other = SignedConsensus::unsigned(&consensus_body(1_000, &[2]), &id).unwrap();
        for n in [1, 3] {
            other.sign(&id, &signing_key(n)).unwrap();
        }
        let other =
            SignedConsensus::parse_and_verify(&other.to_bytes().unwrap(), &network).unwrap();
        let conflict = ConsensusConflict::between(&held, &other, &network).unwrap();
        let mut names = conflict.signed_both.clone();
        names.sort();
        assert_eq!(names, ["authority 1", "authority 3"]);
        assert!(conflict.to_string().contains("authority 3"));
        assert_eq!(ConsensusConflict::between(&held, &held, &network), None);
        let later = consensus(&network, &consensus_body(1_002, &[1]));
        assert_eq!(ConsensusConflict::between(&held, &later, &network), None);
    }
}
