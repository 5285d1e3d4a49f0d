//! Documents that another program made (tests/reference/documents.py).
#![allow(
    clippy::disallowed_methods,
    reason = "the test stands outside of nodes"
)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use serde_json::Value;

use cepa_common::dir::{
    ConsensusSignature, Digest, DocError, Endorsement, FamilyFile, KeyFileError, LinkCertificate,
    NetworkFile, Permit, SignedDescriptor,
};
use cepa_common::ids::RelayId;
use cepa_common::onion::Suite;

fn vectors() -> Value {
    serde_json::from_str(include_str!("../testdata/documents.json")).unwrap()
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

#[test]
fn endorsements_by_keys_of_both_algorithms() {
    let vectors = vectors();
    let network = NetworkFile::parse(vectors["founding"].as_str().unwrap()).unwrap();
    let given = &vectors["endorsement"];
    let bytes = |name: &str| hex::decode(given[name].as_str().unwrap()).unwrap();
    let parse = |name: &str| Endorsement::parse_and_verify(&bytes(name), &network);
    for name in ["good", "certified"] {
        let good = parse(name).unwrap();
        assert_eq!(good.valid_after(), given["valid_after"].as_u64().unwrap());
        assert_eq!(
            Some(good.author()),
            RelayId::from_hex(given["author"].as_str().unwrap())
        );
        let digest = Digest::from_hex(given["digest"].as_str().unwrap());
        assert_eq!(Some(good.digest()), digest);
        assert_eq!(good.count(), 2);
        assert_eq!(good.to_bytes().unwrap(), bytes(name));
    }
    assert_eq!(parse("expired"), Err(DocError::KeyExpired));
    assert!(matches!(parse("without_author"), Err(DocError::Content(_))));
    assert_eq!(parse("stranger"), Err(DocError::UnknownSigner));
    assert_eq!(parse("unordered"), Err(DocError::SignatureList));
    assert_eq!(parse("of_another_network"), Err(DocError::BadSignature));
}

#[test]
fn permits_of_authorities() {
    let vectors = vectors();
    let network = NetworkFile::parse(vectors["founding"].as_str().unwrap()).unwrap();
    let given = &vectors["permit"];
    let text = |name: &str| given[name].as_str().unwrap();
    let bytes = |name: &str| hex::decode(text(name)).unwrap();
    let parse = |name: &str| Permit::parse_and_verify(&bytes(name), &network);
    for (name, count) in [
        ("good", 65_536),
        ("certified", 65_536),
        ("most", 16_777_216),
    ] {
        let (permit, authority) = parse(name).unwrap();
        assert_eq!(RelayId::from_hex(text("relay")), Some(permit.relay));
        assert_eq!(RelayId::from_hex(text("authority")), Some(authority));
        assert_eq!(permit.made, given["made"].as_u64().unwrap());
        assert_eq!(permit.bytes, count);
        assert_eq!(hex::encode(permit.nonce), text("nonce"));
    }
    assert_eq!(parse("expired"), Err(DocError::KeyExpired));
    assert_eq!(parse("stranger"), Err(DocError::UnknownSigner));
    assert_eq!(parse("unsigned"), Err(DocError::UnknownSigner));
    assert!(matches!(
        parse("two_signatures"),
        Err(DocError::TooFewSignatures { .. })
    ));
    assert!(matches!(parse("too_many_bytes"), Err(DocError::Content(_))));
    assert_eq!(parse("of_another_network"), Err(DocError::BadSignature));
}

#[test]
fn files_that_are_carried_to_a_relay() {
    let vectors = vectors();
    let network = NetworkFile::parse(vectors["founding"].as_str().unwrap()).unwrap();
    let id = network.network_id();
    let given = &vectors["key_files"];
    let key = |name: &str| RelayId::from_hex(given[name].as_str().unwrap()).unwrap();
    let certificate =
        |name: &str| LinkCertificate::parse(given["certificate"][name].as_str().unwrap(), &id);
    let good = certificate("good").unwrap();
    assert_eq!(good.identity, key("identity"));
    assert_eq!(good.cert.key, key("link_key").0);
    assert_eq!(good.cert.not_after, given["not_after"].as_u64().unwrap());
    for bad in ["of_another_key", "of_itself", "signed_for_another_network"] {
        assert!(
            matches!(certificate(bad), Err(KeyFileError::Content(_))),
            "{bad}"
        );
    }
    let membership =
        |name: &str| FamilyFile::parse(given["membership"][name].as_str().unwrap(), &id);
    let good = membership("good").unwrap();
    assert_eq!(good.identity, key("identity"));
    assert_eq!(good.membership.key, key("family").0);
    assert!(matches!(
        membership("of_another_relay"),
        Err(KeyFileError::Content(_))
    ));
}

#[test]
fn a_descriptor_with_certificate_and_family() {
    let vectors = vectors();
    let network = NetworkFile::parse(vectors["founding"].as_str().unwrap()).unwrap();
    let parse = |name: &str| {
        let bytes = hex::decode(vectors["descriptor"][name].as_str().unwrap()).unwrap();
        SignedDescriptor::parse_and_verify(&bytes, &network.network_id())
    };
    let key = |name: &str| {
        RelayId::from_hex(vectors["key_files"][name].as_str().unwrap())
            .unwrap()
            .0
    };
    let good = parse("good").unwrap();
    let good = good.descriptor();
    assert_eq!(good.identity.0, key("identity"));
    assert_eq!(good.key_cert.as_ref().unwrap().key, key("link_key"));
    assert_eq!(good.family.as_ref().unwrap().key, key("family"));
    assert_eq!(good.suite, Suite::Aes256Gcm);
    let addresses = ["192.0.2.7:9001", "[2600::7]:443"].map(|text| text.parse().unwrap());
    assert_eq!(good.addresses, addresses);
    assert_eq!((good.published, good.bandwidth), (1_900_000_000, 12_345));
    assert!(good.policy.allows_port(443) && !good.policy.allows_port(81));
    assert!(good.udp.allows_v6(53) && !good.udp.allows_v4(53) && !good.udp.allows_v6(443));
    for bad in [
        "signed_by_the_identity",
        "family_of_another_relay",
        "of_another_network",
    ] {
        assert!(parse(bad).is_err(), "{bad}");
    }
}
