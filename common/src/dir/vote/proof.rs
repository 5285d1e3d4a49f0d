//! Proof that an authority voted twice: two endorsements with its own signature under both (docs/protocol.md, 6.22.7).

use super::endorsement::Endorsement;
use crate::dir::network::NetworkFile;
use crate::dir::signed::{Digest, DocError, UnixSecs};
use crate::ids::RelayId;

/// Size of the longest list of proofs, in bytes: two endorsements with one signature each, of 31 authorities.
const MAX_PROOFS_BYTES: usize = 64 * 1024;

/// Proof of two different votes of one authority for one valid-after. The authority signed both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EquivocationProof {
    first: Endorsement,
    second: Endorsement,
}

impl EquivocationProof {
    /// The proof that two endorsements make; `None` if they prove nothing.
    pub fn new(one: &Endorsement, other: &Endorsement) -> Option<Self> {
        let same_vote = one.author() == other.author() && one.valid_after() == other.valid_after();
        if !same_vote || one.digest() == other.digest() {
            return None;
        }
        let (first, second) = if one.digest() < other.digest() {
            (one, other)
        } else {
            (other, one)
        };
        Some(Self {
            first: first.only_author(),
            second: second.only_author(),
        })
    }

    /// The authority that voted twice.
    pub fn author(&self) -> RelayId {
        self.first.author()
    }

    /// Valid-after of the consensus that the votes are for.
    pub fn valid_after(&self) -> UnixSecs {
        self.first.valid_after()
    }

    /// Digests of the two votes, in increasing order.
    pub fn digests(&self) -> [Digest; 2] {
        [self.first.digest(), self.second.digest()]
    }

    /// Writes proofs one after the other, each as two endorsements behind their lengths.
    ///
    /// # Errors
    /// [`DocError`]; none is known to arise.
    pub fn to_bytes<'a>(proofs: impl IntoIterator<Item = &'a Self>) -> Result<Vec<u8>, DocError> {
        let mut bytes = Vec::new();
        for endorsement in proofs.into_iter().flat_map(|p| [&p.first, &p.second]) {
            let document = endorsement.to_bytes()?;
            let length = u16::try_from(document.len()).map_err(|_| DocError::Malformed)?;
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(&document);
        }
        Ok(bytes)
    }

    /// Verifies and decodes a list of proofs.
    ///
    /// # Errors
    /// [`DocError`], also when two endorsements convict nobody.
    pub fn parse_and_verify(bytes: &[u8], network: &NetworkFile) -> Result<Vec<Self>, DocError> {
        if bytes.len() > MAX_PROOFS_BYTES {
            return Err(DocError::TooLarge {
                size: bytes.len(),
                cap: MAX_PROOFS_BYTES,
            });
        }
        let (mut rest, mut proofs) = (bytes, Vec::new());
        while !rest.is_empty() {
            let first = take_endorsement(&mut rest, network)?;
            let second = take_endorsement(&mut rest, network)?;
            let proof = Self::new(&first, &second);
            let is_canonical = first.digest() < second.digest();
            let proof = proof.filter(|proof| is_canonical && proof.first == first);
            let proof = proof.filter(|proof| proof.second == second);
            proofs.push(proof.ok_or(DocError::Content("this convicts nobody"))?);
        }
        Ok(proofs)
    }
}

fn take_endorsement(rest: &mut &[u8], network: &NetworkFile) -> Result<Endorsement, DocError> {
    let (length, tail) = rest.split_first_chunk::<2>().ok_or(DocError::Truncated)?;
    let length = usize::from(u16::from_be_bytes(*length));
    let (document, tail) = tail.split_at_checked(length).ok_or(DocError::Truncated)?;
    *rest = tail;
    Endorsement::parse_and_verify(document, network)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::testkit::{self, identity, network, signing_key};

    fn endorsement(author: u8, relays: &[u8]) -> Endorsement {
        let network = network(3);
        let vote = testkit::vote(&network, author, relays);
        let vote = vote.sign(&network, &signing_key(author)).unwrap();
        Endorsement::of_vote(&vote, &network, &signing_key(author)).unwrap()
    }

    #[test]
    fn two_votes_convict_and_nothing_else_does() {
        let network = network(3);
        let (one, mut other) = (endorsement(1, &[1]), endorsement(1, &[2]));
        assert_eq!(EquivocationProof::new(&one, &one), None);
        assert_eq!(EquivocationProof::new(&one, &endorsement(2, &[2])), None);
        other.endorse(&network.network_id(), &signing_key(2));
        let proof = EquivocationProof::new(&one, &other).unwrap();
        assert_eq!(Some(&proof), EquivocationProof::new(&other, &one).as_ref());
        assert_eq!((proof.author(), proof.valid_after()), (identity(1), 1_000));
        let second = EquivocationProof::new(&endorsement(2, &[1]), &endorsement(2, &[3])).unwrap();
        let list = [proof, second];
        let bytes = EquivocationProof::to_bytes(&list).unwrap();
        assert!(bytes.len() < 4 * 200);
        let parse = |bytes: &[u8]| EquivocationProof::parse_and_verify(bytes, &network);
        assert_eq!(parse(&bytes).unwrap(), list);
        assert_eq!(parse(&[]).unwrap(), []);
        for end in 1..bytes.len() {
            if end != bytes.len() / 2 {
                assert!(parse(&bytes[..end]).is_err(), "{end}");
            }
        }
        let half = bytes.len() / 4;
        let swapped = [&bytes[half..2 * half], &bytes[..half]].concat();
        assert!(matches!(parse(&swapped), Err(DocError::Content(_))));
        let twice = [&bytes[..half], &bytes[..half]].concat();
        assert!(matches!(parse(&twice), Err(DocError::Content(_))));
        assert!(matches!(
            parse(&vec![0; MAX_PROOFS_BYTES + 1]),
            Err(DocError::TooLarge { .. })
        ));
    }
}
