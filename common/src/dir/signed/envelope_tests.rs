#![allow(clippy::unwrap_used, clippy::expect_used)]

use proptest::prelude::*;

use super::*;
use crate::dir::signed::{Signature, decode};
use crate::testkit::link_key as key;

const NETWORK: NetworkId = NetworkId([7; 32]);

fn document() -> Vec<u8> {
    sign_single(Kind::Vote, &NETWORK, b"body", &key(1)).unwrap()
}

fn parse(bytes: &[u8]) -> Result<Envelope<'_>, DocError> {
    Envelope::parse(bytes, Kind::Vote, 1000)
}

#[test]
fn layout_is_exact() {
    let bytes = document();
    assert_eq!(&bytes[..6], &[3, 2, 0, 0, 0, 4]);
    assert_eq!(&bytes[6..11], b"body\x01");
    assert_eq!(&bytes[43..46], &[1, 0, 64]);
    assert_eq!(bytes.len(), 6 + 4 + 1 + 99);
    let envelope = parse(&bytes).unwrap();
    assert_eq!(
        envelope.verify_single(&NETWORK),
        Ok(key(1).verifying_key().to_bytes())
    );
}

#[test]
fn every_refusal_of_the_envelope() {
    let good = document();
    let edit = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        parse(&bytes).map(drop)
    };
    assert_eq!(
        edit(0, 4),
        Err(DocError::WrongKind {
            expected: 3,
            found: 4
        })
    );
    assert_eq!(edit(1, 1), Err(DocError::UnknownVersion(1)));
    assert_eq!(edit(2, 255), Err(DocError::Truncated));
    assert_eq!(edit(10, 255), Err(DocError::SignatureList));
    assert_eq!(edit(10, 2), Err(DocError::Truncated));
    assert_eq!(edit(10, 0), Err(DocError::Trailing));
    assert_eq!(edit(45, 65), Err(DocError::Truncated));
    assert_eq!(edit(44, 255), Err(DocError::SignatureList));
    let mut long = good.clone();
    long.push(0);
    assert_eq!(parse(&long).map(drop), Err(DocError::Trailing));
    let capped = Envelope::parse(&good, Kind::Vote, 10).map(drop);
    assert_eq!(
        capped,
        Err(DocError::TooLarge {
            size: good.len(),
            cap: 10
        })
    );
    for end in 0..good.len() {
        assert_eq!(parse(&good[..end]).map(drop), Err(DocError::Truncated));
    }
}

#[test]
fn signatures_of_unknown_algorithms_are_passed_over() {
    let mut bytes = document();
    bytes[10] = 2;
    let signer: [u8; 32] = bytes[11..43].try_into().unwrap();
    bytes.extend_from_slice(&signer);
    bytes.extend_from_slice(&[3, 0, 3, 9, 9, 9]);
    let envelope = parse(&bytes).unwrap();
    assert!(envelope.verify_single(&NETWORK).is_ok());
    let only_unknown = [&bytes[..10], &[1], &signer, &[3, 0, 0]].concat();
    let envelope = parse(&only_unknown).unwrap();
    let none = DocError::TooFewSignatures { have: 0, need: 1 };
    assert_eq!(envelope.verify_single(&NETWORK), Err(none));
}

#[test]
fn a_majority_is_strict_and_strangers_neither_count_nor_harm() {
    let keys: Vec<_> = (1..=4).map(|n| key(n).verifying_key().to_bytes()).collect();
    let signed_by = |signers: &[u8]| {
        let signatures: Vec<_> = signers
            .iter()
            .map(|n| {
                let signature = Signature::sign(&key(*n), Kind::Vote, &NETWORK, b"body");
                (key(*n).verifying_key().to_bytes(), signature)
            })
            .collect();
        let bytes = assemble(Kind::Vote, b"body", &signatures).unwrap();
        let verified = parse(&bytes).unwrap().verify_majority(&NETWORK, &keys);
        verified.map(drop)
    };
    assert_eq!(signed_by(&[3, 1, 2]), Ok(()));
    assert_eq!(
        signed_by(&[1, 2]),
        Err(DocError::TooFewSignatures { have: 2, need: 3 })
    );
    let doubled = DocError::TooFewSignatures { have: 2, need: 3 };
    assert_eq!(signed_by(&[1, 2, 2]), Err(doubled));
    let stranger = DocError::TooFewSignatures { have: 2, need: 3 };
    assert_eq!(signed_by(&[1, 2, 9, 10]), Err(stranger));
    assert_eq!(signed_by(&[1, 2, 3, 9]), Ok(()));
}

#[test]
fn repeated_and_unordered_signers_are_refused() {
    let one = document();
    let twice = [&one[..10], &[2], &one[11..], &one[11..]].concat();
    assert_eq!(parse(&twice).map(drop), Err(DocError::SignatureList));
}

#[test]
fn a_signature_is_bound_to_kind_network_and_signer() {
    let signature = Signature::sign(&key(1), Kind::Vote, &NETWORK, b"body");
    let signer = key(1).verifying_key().to_bytes();
    let bad = Err(DocError::BadSignature);
    assert_eq!(
        signature.verify(&signer, Kind::Vote, &NETWORK, b"body"),
        Ok(())
    );
    assert_eq!(
        signature.verify(&signer, Kind::Consensus, &NETWORK, b"body"),
        bad
    );
    assert_eq!(
        signature.verify(&signer, Kind::Vote, &NetworkId([8; 32]), b"body"),
        bad
    );
    assert_eq!(
        signature.verify(&signer, Kind::Vote, &NETWORK, b"bodz"),
        bad
    );
    let other = key(2).verifying_key().to_bytes();
    assert_eq!(signature.verify(&other, Kind::Vote, &NETWORK, b"body"), bad);
    assert_eq!(
        signature.verify(&[0; 32], Kind::Vote, &NETWORK, b"body"),
        bad
    );
}

#[test]
fn overlong_numbers_and_trailing_bytes_are_refused() {
    assert_eq!(decode::<u32>(&[5]), Ok(5));
    assert_eq!(decode::<u32>(&[0x85, 0x00]), Err(DocError::NotCanonical));
    assert_eq!(decode::<u32>(&[5, 0]), Err(DocError::Trailing));
    assert_eq!(decode::<u32>(&[]), Err(DocError::Malformed));
}

proptest! {
    #[test]
    fn any_change_is_noticed(at in 0usize..110, bit in 0u8..8) {
        let mut bytes = document();
        bytes[at] ^= 1 << bit;
        let verified = parse(&bytes).and_then(|envelope| envelope.verify_single(&NETWORK));
        prop_assert!(verified.is_err());
    }

    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse(&bytes);
        let mut framed = vec![3, 1, 0, 0, 0, 0];
        framed.extend_from_slice(&bytes);
        let _ = parse(&framed);
    }
}
