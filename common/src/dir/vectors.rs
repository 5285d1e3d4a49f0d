//! Documents that another program made (tests/reference/documents.py).
#![allow(clippy::unwrap_used, clippy::expect_used)]

use serde_json::Value;

use super::{ConsensusSignature, Digest, DocError, NetworkFile};

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../testdata/documents.json")).unwrap()
}

#[test]
fn a_network_and_its_next_revision() {
    let vectors = vectors();
    let text = |name: &str| vectors[name].as_str().unwrap();
    let founding = NetworkFile::parse(text("founding")).unwrap();
    assert_eq!(founding.network_id().to_string(), text("network_id"));
    let next = NetworkFile::parse(text("revision")).unwrap();
    assert_eq!(next.network_id(), founding.network_id());
    assert_eq!(
        (next.revision(), next.effective_after()),
        (1, 1_900_000_000)
    );
    assert_eq!(founding.verify_successor(&next), Ok(()));
    assert_eq!(
        founding.successor_signatories(&next).unwrap().signed.len(),
        2
    );
}

#[test]
fn a_signature_by_a_certified_key() {
    let vectors = vectors();
    let network = NetworkFile::parse(vectors["founding"].as_str().unwrap()).unwrap();
    let given = &vectors["signature"];
    let parse = |name: &str| {
        let bytes = hex::decode(given[name].as_str().unwrap()).unwrap();
        ConsensusSignature::parse_and_verify(&bytes, &network)
    };
    let good = parse("good").unwrap();
    assert_eq!(good.valid_after(), given["valid_after"].as_u64().unwrap());
    let digest = Digest::from_hex(given["digest"].as_str().unwrap());
    assert_eq!(Some(good.digest()), digest);
    assert_eq!(parse("expired"), Err(DocError::KeyExpired));
    assert_eq!(parse("foreign_certificate"), Err(DocError::BadSignature));
}
