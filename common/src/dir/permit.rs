//! An authority's word that it measures a relay: the relay answers nobody else with padding (docs/protocol.md, 6.18.9).

use serde::{Deserialize, Serialize};

use super::network::NetworkFile;
use super::signed::{self, AsSigner, CLOCK_SKEW_SECS, DocError, Envelope, Kind, UnixSecs};
use crate::ids::{NetworkId, RelayId};

/// Size of the largest permit, in bytes.
pub const MAX_PERMIT_BYTES: usize = 512;
/// The most padding that a permit is good for, in bytes.
pub const MAX_PADDING_BYTES: u32 = 16 << 20;

/// What an authority asks of a relay that it measures. The fields are in the order of their encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permit {
    /// The relay whose directory server is to answer.
    pub relay: RelayId,
    /// When the authority made the permit.
    pub made: UnixSecs,
    /// How many bytes the answer has.
    pub bytes: u32,
    /// Random bytes, by which the relay knows a permit that was used.
    pub nonce: [u8; 16],
}

impl Permit {
    /// Signs the permit as an authority of `network`, and gives the document.
    ///
    /// # Errors
    /// [`DocError::Content`] if the permit is for more bytes than may be, [`DocError::KeyExpired`] if the key has.
    pub fn sign(&self, network: &NetworkId, key: &impl AsSigner) -> Result<Vec<u8>, DocError> {
        self.validate()?;
        let signer = key.as_signer();
        if signer.not_after().is_some_and(|end| self.made >= end) {
            return Err(DocError::KeyExpired);
        }
        let body = signed::encode(self)?;
        signed::sign_single(Kind::Permit, network, &body, &signer)
    }

    /// Verifies and decodes a permit. What costs no public-key work is checked first. Gives the permit, and the
    /// identity of the authority that signed it.
    ///
    /// # Errors
    /// [`DocError`] for anything that 6.1, 6.2 and 6.18.9 do not allow. Which relay the permit is for, when, and whether
    /// for the first time, the caller checks.
    pub fn parse_and_verify(
        bytes: &[u8],
        network: &NetworkFile,
    ) -> Result<(Self, RelayId), DocError> {
        let envelope = Envelope::parse(bytes, Kind::Permit, MAX_PERMIT_BYTES)?;
        let permit: Self = signed::decode(envelope.body)?;
        permit.validate()?;
        envelope.require_good_at(permit.made)?;
        let signer = envelope.signatures.first().map(|(signer, _)| *signer);
        let authority = signer.and_then(|signer| network.authority_by_signing_key(&signer));
        let authority = authority.ok_or(DocError::UnknownSigner)?.identity;
        envelope.verify_single(&network.network_id())?;
        Ok((permit, authority))
    }

    /// Is the permit good at `now`, as far as clocks agree?
    pub fn is_of(&self, now: UnixSecs) -> bool {
        self.made.abs_diff(now) <= CLOCK_SKEW_SECS
    }

    fn validate(&self) -> Result<(), DocError> {
        if self.bytes > MAX_PADDING_BYTES {
            return Err(DocError::Content("a permit is for 16 MiB at most"));
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testkit::{identity, network, signing_key};

    fn permit() -> Permit {
        Permit {
            relay: identity(7),
            made: 1_000,
            bytes: 65_536,
            nonce: [9; 16],
        }
    }

    fn parse(bytes: &[u8]) -> Result<(Permit, RelayId), DocError> {
        Permit::parse_and_verify(bytes, &network(3))
    }

    #[test]
    fn every_refusal() {
        let id = network(3).network_id();
        let good = permit().sign(&id, &signing_key(2)).unwrap();
        assert_eq!(parse(&good), Ok((permit(), identity(2))));
        let stranger = permit().sign(&id, &signing_key(9)).unwrap();
        assert_eq!(parse(&stranger), Err(DocError::UnknownSigner));
        let elsewhere = permit().sign(&NetworkId([0; 32]), &signing_key(2)).unwrap();
        assert_eq!(parse(&elsewhere), Err(DocError::BadSignature));
        let mut huge = permit();
        huge.bytes = MAX_PADDING_BYTES + 1;
        assert!(matches!(
            huge.sign(&id, &signing_key(2)),
            Err(DocError::Content(_))
        ));
        let body = signed::encode(&huge).unwrap();
        let signed_huge = signed::sign_single(Kind::Permit, &id, &body, &signing_key(2)).unwrap();
        assert!(matches!(parse(&signed_huge), Err(DocError::Content(_))));
        // Another kind of document with this body and signature.
        let body = signed::encode(&permit()).unwrap();
        let kind = Kind::ConsensusSignature;
        let other = signed::sign_single(kind, &id, &body, &signing_key(2)).unwrap();
        assert!(matches!(parse(&other), Err(DocError::WrongKind { .. })));
        let mut relabelled = other;
        relabelled[0] = Kind::Permit as u8;
        assert_eq!(parse(&relabelled), Err(DocError::BadSignature));
        // Two authorities, and none.
        let keys = [signing_key(1), signing_key(2)].map(|key| {
            let signature = key.as_signer().sign(Kind::Permit, &id, &body);
            (key.as_signer().authority(), signature)
        });
        let both = signed::assemble(Kind::Permit, &body, &keys).unwrap();
        assert!(matches!(
            parse(&both),
            Err(DocError::TooFewSignatures { .. })
        ));
        let none = signed::assemble(Kind::Permit, &body, &keys[..0]).unwrap();
        assert_eq!(parse(&none), Err(DocError::UnknownSigner));
    }

    #[test]
    fn clocks_may_differ_by_five_minutes() {
        for (now, is_good) in [(699, false), (700, true), (1_300, true), (1_301, false)] {
            assert_eq!(permit().is_of(now), is_good, "{now}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_permit_survives_and_no_flip_of_a_bit_goes_unnoticed(
            relay in any::<[u8; 32]>(),
            made in any::<u64>(),
            bytes in 0..=MAX_PADDING_BYTES,
            nonce in any::<[u8; 16]>(),
            at in any::<proptest::sample::Index>(),
            bit in 0u8..8,
        ) {
            let permit = Permit { relay: RelayId(relay), made, bytes, nonce };
            let mut document = permit.sign(&network(3).network_id(), &signing_key(1)).unwrap();
            prop_assert_eq!(parse(&document), Ok((permit, identity(1))));
            let at = at.index(document.len());
            document[at] ^= 1 << bit;
            prop_assert!(parse(&document).is_err());
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = parse(&bytes);
        }
    }
}
