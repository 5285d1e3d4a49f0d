use proptest::prelude::*;

use super::*;
use crate::dir::signed::{self, Envelope, assemble};
use crate::dir::{ConsensusSignature, SignedConsensus, SignedVote};
use crate::testkit::{self, consensus_body, network, signing_key};

const NETWORK: NetworkId = NetworkId([7; 32]);

fn voting_key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[200 + n; 32])
}

/// The signer of authority `n` with a key that expires at `not_after`.
fn certified(n: u8, network: &NetworkId, not_after: UnixSecs) -> Signer {
    let key = voting_key(n);
    let public = key.verifying_key().to_bytes();
    let cert = AuthorityCert::issue(&signing_key(n), network, public, not_after).unwrap();
    Signer::certified(key, cert).unwrap()
}

#[test]
fn layout_is_exact() {
    let signer = certified(1, &NETWORK, 0x0102);
    let bytes = signed::sign_single(Kind::Vote, &NETWORK, b"body", &signer).unwrap();
    let long_term = signing_key(1).verifying_key().to_bytes();
    assert_eq!(&bytes[11..43], &long_term);
    assert_eq!(&bytes[43..46], &[2, 0, 168]);
    assert_eq!(&bytes[46..78], &voting_key(1).verifying_key().to_bytes());
    assert_eq!(&bytes[78..86], &[0, 0, 0, 0, 0, 0, 1, 2]);
    assert_eq!(bytes.len(), 46 + 168);
    let envelope = Envelope::parse(&bytes, Kind::Vote, 1_000).unwrap();
    assert_eq!(envelope.verify_single(&NETWORK), Ok(long_term));
    assert_eq!(envelope.require_good_at(0x0101), Ok(()));
    assert_eq!(envelope.require_good_at(0x0102), Err(DocError::KeyExpired));
    // The length must be exact, and a relay's document has no such signature.
    let mut long = bytes.clone();
    long[45] = 169;
    long.push(0);
    let refused = Envelope::parse(&long, Kind::Vote, 1_000).map(drop);
    assert_eq!(refused, Err(DocError::SignatureList));
    let descriptor = signed::sign_single(Kind::Descriptor, &NETWORK, b"b", &signer).unwrap();
    let envelope = Envelope::parse(&descriptor, Kind::Descriptor, 1_000).unwrap();
    let none = DocError::TooFewSignatures { have: 0, need: 1 };
    assert_eq!(envelope.verify_single(&NETWORK), Err(none));
}

#[test]
fn a_certificate_is_bound_to_network_authority_key_and_time() {
    let signer = certified(1, &NETWORK, 100);
    let cert = signer.cert.unwrap();
    let check = |authority, key, not_after, network: NetworkId| {
        AuthorityCert::from_parts(authority, key, not_after, cert.signature.0, &network).map(drop)
    };
    let bad = Err(DocError::BadSignature);
    let other = voting_key(2).verifying_key().to_bytes();
    assert_eq!(check(cert.authority, cert.key, 100, NETWORK), Ok(()));
    assert_eq!(check(cert.authority, cert.key, 101, NETWORK), bad);
    assert_eq!(check(cert.authority, other, 100, NETWORK), bad);
    assert_eq!(check(other, cert.key, 100, NETWORK), bad);
    assert_eq!(
        check(cert.authority, cert.key, 100, NetworkId([8; 32])),
        bad
    );
    let long_term = signing_key(1).verifying_key().to_bytes();
    let itself = AuthorityCert::issue(&signing_key(1), &NETWORK, long_term, 100);
    assert!(itself.is_err());
    let of_another = Signer::certified(voting_key(2), cert).map(drop);
    assert_eq!(of_another, Err(DocError::UnknownSigner));
}

#[test]
fn votes_and_signatures_by_certified_keys() {
    let network = network(3);
    let id = network.network_id();
    let vote = testkit::vote(&network, 1, &[1]);
    let signed = vote.sign(&network, &certified(1, &id, 1_001)).unwrap();
    assert!(SignedVote::parse_and_verify(signed.bytes(), &network).is_ok());
    let late = vote.sign(&network, &certified(1, &id, 1_000)).map(drop);
    assert_eq!(late, Err(DocError::KeyExpired));

    let body = consensus_body(1_000, &[1]);
    let mut ours = SignedConsensus::unsigned(&body, &id).unwrap();
    let mut theirs = ours.clone();
    ours.sign(&id, &signing_key(1)).unwrap();
    let detached = theirs.sign(&id, &certified(2, &id, 1_001)).unwrap();
    let detached = ConsensusSignature::parse_and_verify(detached.bytes(), &network).unwrap();
    assert_eq!(ours.add(&id, &detached), Ok(true));
    let document = ours.to_bytes().unwrap();
    let consensus = SignedConsensus::parse_and_verify(&document, &network).unwrap();
    let two = [2, 1].map(|n| signing_key(n).verifying_key().to_bytes());
    assert!(consensus.signers().iter().all(|key| two.contains(key)));
    assert_eq!(consensus.signature_count(), 2);
    let late = theirs.sign(&id, &certified(3, &id, 1_000)).map(drop);
    assert_eq!(late, Err(DocError::KeyExpired));
}

#[test]
fn an_expired_key_does_not_count_and_one_signer_counts_once() {
    let network = network(3);
    let id = network.network_id();
    let body = signed::encode(&consensus_body(1_000, &[1])).unwrap();
    let by = |signer: Signer| {
        let signature = signer.sign(Kind::Consensus, &id, &body);
        (signer.authority(), signature)
    };
    let verify = |signatures: &[([u8; 32], AuthoritySignature)]| {
        let document = assemble(Kind::Consensus, &body, signatures).unwrap();
        SignedConsensus::parse_and_verify(&document, &network).map(|c| c.signature_count())
    };
    let (one, two) = (by(signing_key(1).into()), by(certified(2, &id, 1_001)));
    let expired = by(certified(3, &id, 1_000));
    assert_eq!(verify(&[one, two]), Ok(2));
    assert_eq!(verify(&[one, two, expired]), Ok(2));
    let few = DocError::TooFewSignatures { have: 1, need: 2 };
    assert_eq!(verify(&[one, expired]), Err(few.clone()));
    // Both algorithms stand in one document, which this program never writes.
    let mut both = assemble(Kind::Consensus, &body, &[one]).unwrap();
    let certified_too = assemble(Kind::Consensus, &body, &[by(certified(1, &id, 2_000))]);
    let count_at = 6 + body.len();
    both[count_at] = 2;
    both.extend_from_slice(&certified_too.unwrap()[count_at + 1..]);
    let refused = SignedConsensus::parse_and_verify(&both, &network).map(drop);
    assert_eq!(refused, Err(few));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_change_is_noticed(at in 0usize..214, bit in 0u8..8) {
        let signer = certified(1, &NETWORK, 1_000);
        let mut bytes = signed::sign_single(Kind::Vote, &NETWORK, b"body", &signer).unwrap();
        bytes[at] ^= 1 << bit;
        let verified = Envelope::parse(&bytes, Kind::Vote, 1_000)
            .and_then(|envelope| envelope.verify_single(&NETWORK));
        prop_assert!(verified.is_err());
    }

    #[test]
    fn in_a_body_it_survives_a_round_trip(not_after: u64, plain: bool) {
        let signer = if plain { signing_key(1).into() } else { certified(1, &NETWORK, not_after) };
        let signature = signer.sign(Kind::Consensus, &NETWORK, b"x");
        let bytes = signed::encode(&signature).unwrap();
        prop_assert_eq!(signed::decode::<AuthoritySignature>(&bytes), Ok(signature));
        prop_assert_eq!(bytes.len(), if plain { 65 } else { 169 });
    }
}
