//! The random values that authorities draw together, and what each commits to before (docs/protocol.md, 6.7.5).
//!
//! Onion services will place their descriptors by these values. Until then all lists are empty.

use serde::{Deserialize, Serialize};

use crate::dir::network::MAX_AUTHORITIES;
use crate::dir::signed::DocError;
use crate::ids::RelayId;

/// The most values in one vote or consensus: that of the present period and that of the next.
pub(in crate::dir) const MAX_VALUES: usize = 2;

/// The random value of a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RandomValue {
    /// Number of the period.
    pub period: u32,
    /// The value that the authorities drew for that period.
    pub value: [u8; 32],
}

/// What one authority commits to for the random value of the next period, and later reveals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RandomShare {
    /// Identity of the authority.
    pub authority: RelayId,
    /// Digest of what the authority will reveal.
    pub commit: [u8; 32],
    /// What the authority committed to, once it may be known.
    pub reveal: Option<[u8; 32]>,
}

/// Refuses more values than two, and periods that do not increase.
pub(in crate::dir) fn validate_values(values: &[RandomValue]) -> Result<(), DocError> {
    let ordered = values.is_sorted_by(|one, next| one.period < next.period);
    if values.len() <= MAX_VALUES && ordered {
        Ok(())
    } else {
        Err(DocError::Content("random values are not in order"))
    }
}

/// Refuses more shares than there can be authorities, and authorities that do not increase.
pub(in crate::dir) fn validate_shares(shares: &[RandomShare]) -> Result<(), DocError> {
    let ordered = shares.is_sorted_by(|one, next| one.authority < next.authority);
    if shares.len() <= MAX_AUTHORITIES && ordered {
        Ok(())
    } else {
        Err(DocError::Content("random shares are not in order"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_number() {
        let value = |period| RandomValue {
            period,
            value: [1; 32],
        };
        assert!(validate_values(&[]).is_ok());
        assert!(validate_values(&[value(1), value(9)]).is_ok());
        assert!(validate_values(&[value(1), value(1)]).is_err());
        assert!(validate_values(&[value(2), value(1)]).is_err());
        assert!(validate_values(&[value(1), value(2), value(3)]).is_err());
        let share = |n: usize| RandomShare {
            authority: RelayId([u8::try_from(n).unwrap_or(u8::MAX); 32]),
            commit: [1; 32],
            reveal: None,
        };
        let shares: Vec<_> = (0..=MAX_AUTHORITIES).map(share).collect();
        assert!(validate_shares(&shares[..MAX_AUTHORITIES]).is_ok());
        assert!(validate_shares(&shares).is_err());
        assert!(validate_shares(&[share(1), share(1)]).is_err());
        assert!(validate_shares(&[share(2), share(1)]).is_err());
    }
}
