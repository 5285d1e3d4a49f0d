//! Looks at a consensus signature by signature, for people who check a document (docs/protocol.md, 6.9.4).

use super::body::{ConsensusBody, Lifetime};
use super::signing::MAX_CONSENSUS_BYTES;
use crate::dir::network::NetworkFile;
use crate::dir::signed::{self, AuthoritySignature, Digest, DocError, Envelope, Kind, UnixSecs};

/// What one signature is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignatureVerdict {
    /// The signature verifies and counts.
    Good,
    /// The signature verifies, but its certified key had expired, so it does not count.
    Expired,
    /// The signature does not verify: the document is refused.
    Bad,
    /// The signature is by a key that the network's file does not name. Such a signature neither counts nor harms.
    Unknown,
}

/// One signature of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignatureReport {
    /// The long-term key that the signature stands for.
    pub signer: [u8; 32],
    /// The authority of that key.
    pub authority: Option<String>,
    /// When the certified key expires, if a certified key signed.
    pub not_after: Option<UnixSecs>,
    /// What the signature is worth.
    pub verdict: SignatureVerdict,
}

/// A consensus that may or may not be valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// Digest of the consensus in this network.
    pub digest: Digest,
    /// Times of the consensus.
    pub lifetime: Lifetime,
    /// Number of relays in the consensus.
    pub relays: usize,
    /// Each signature, in the order of the document.
    pub signatures: Vec<SignatureReport>,
    /// Names of the authorities that did not sign, or whose signature does not count.
    pub missing: Vec<String>,
    /// Number of signatures needed.
    pub need: usize,
    /// Why the document is refused, if it is. The caller judges the times of the consensus.
    pub refused: Option<DocError>,
}

/// Takes a consensus apart and looks at every signature.
///
/// # Errors
/// [`DocError`] for bytes that are no consensus at all, signed or not.
pub fn inspect_consensus(bytes: &[u8], network: &NetworkFile) -> Result<Inspection, DocError> {
    let id = network.network_id();
    let envelope = Envelope::parse(bytes, Kind::Consensus, MAX_CONSENSUS_BYTES)?;
    let body: ConsensusBody = signed::decode(envelope.body)?;
    let report = |(signer, signature): &([u8; 32], AuthoritySignature)| {
        let authority = network.authority_by_signing_key(signer);
        let verified = signature.verify(signer, Kind::Consensus, &id, envelope.body);
        let verdict = match (authority, verified) {
            (None, _) => SignatureVerdict::Unknown,
            (Some(_), Err(_)) => SignatureVerdict::Bad,
            (Some(_), Ok(())) if signature.is_good_at(body.lifetime.valid_after) => {
                SignatureVerdict::Good
            }
            (Some(_), Ok(())) => SignatureVerdict::Expired,
        };
        SignatureReport {
            signer: *signer,
            authority: authority.map(|authority| authority.name.clone()),
            not_after: signature.not_after(),
            verdict,
        }
    };
    let signatures: Vec<_> = envelope.signatures.iter().map(report).collect();
    let counts = |key: &[u8; 32]| {
        let good = |s: &SignatureReport| s.signer == *key && s.verdict == SignatureVerdict::Good;
        signatures.iter().any(good)
    };
    let missing = network
        .authorities()
        .iter()
        .filter(|a| !counts(&a.signing_key));
    Ok(Inspection {
        digest: envelope.digest(&id),
        lifetime: body.lifetime,
        relays: body.entries.len(),
        missing: missing.map(|a| a.name.clone()).collect(),
        signatures,
        need: network.majority(),
        refused: super::SignedConsensus::parse_and_verify(bytes, network).err(),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::dir::{AuthorityCert, SignedConsensus, Signer};
    use crate::testkit::{consensus_body, network, signing_key};

    #[test]
    fn every_verdict() {
        let network = network(3);
        let id = network.network_id();
        let body = consensus_body(1_000, &[1, 2]);
        let mut signed = SignedConsensus::unsigned(&body, &id).unwrap();
        for n in [1, 2, 9] {
            signed.sign(&id, &signing_key(n)).unwrap();
        }
        let good = inspect_consensus(&signed.to_bytes().unwrap(), &network).unwrap();
        assert_eq!((good.refused, good.need, good.relays), (None, 2, 2));
        assert_eq!(good.missing, ["authority 3"]);
        let verdicts = |inspection: &Inspection| {
            let of = |name: &str| {
                let by = |s: &&SignatureReport| s.authority.as_deref() == Some(name);
                inspection.signatures.iter().find(by).map(|s| s.verdict)
            };
            [of("authority 1"), of("authority 2"), of("authority 3")]
        };
        let unknown = |s: &SignatureReport| s.verdict == SignatureVerdict::Unknown;
        assert!(good.signatures.iter().any(unknown));
        let fine = Some(SignatureVerdict::Good);
        let again = inspect_consensus(&signed.to_bytes().unwrap(), &network).unwrap();
        assert_eq!(verdicts(&again), [fine, fine, None]);
        // One signature is spoilt, and one is by a key that had expired.
        let key = signing_key(8);
        let public = key.verifying_key().to_bytes();
        let cert = AuthorityCert::issue(&signing_key(3), &id, public, 1_000).unwrap();
        let late = Signer::certified(key, cert).unwrap();
        let encoded = signed::encode(&body).unwrap();
        let by = |signer: Signer, text: &[u8]| {
            (signer.authority(), signer.sign(Kind::Consensus, &id, text))
        };
        let list = [
            by(signing_key(1).into(), &encoded),
            by(signing_key(2).into(), b"other"),
            by(late, &encoded),
        ];
        let bytes = signed::assemble(Kind::Consensus, &encoded, &list).unwrap();
        let bad = inspect_consensus(&bytes, &network).unwrap();
        let expected = [
            fine,
            Some(SignatureVerdict::Bad),
            Some(SignatureVerdict::Expired),
        ];
        assert_eq!(verdicts(&bad), expected);
        assert_eq!(bad.refused, Some(DocError::BadSignature));
        assert_eq!(bad.missing.len(), 2);
        assert!(inspect_consensus(b"soup", &network).is_err());
    }
}
