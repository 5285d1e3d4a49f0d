#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use proptest::prelude::*;

use super::body::MAX_VALIDITY_SECS;
use super::*;
use crate::dir::network::NetworkFile;
use crate::dir::signed::{self, CLOCK_SKEW_SECS, DocError, Kind, Signature};
use crate::testkit::{self, network, signing_key};

fn body() -> ConsensusBody {
    testkit::consensus_body(1_000, &[1, 2, 3])
}

fn signed(body: &ConsensusBody, network: &NetworkFile, signers: &[u8]) -> Vec<u8> {
    let id = network.network_id();
    let bytes = signed::encode(body).unwrap();
    let signatures: Vec<_> = signers
        .iter()
        .map(|n| {
            let key = signing_key(*n);
            let signature = Signature::sign(&key, Kind::Consensus, &id, &bytes);
            (key.verifying_key().to_bytes(), signature)
        })
        .collect();
    signed::assemble(Kind::Consensus, &bytes, &signatures).unwrap()
}

fn verify(body: &ConsensusBody, signers: &[u8]) -> Result<Arc<Consensus>, DocError> {
    let network = network(3);
    SignedConsensus::parse_and_verify(&signed(body, &network, signers), &network)
}

#[test]
fn lookups() {
    let consensus = verify(&body(), &[1, 3]).unwrap();
    assert_eq!(consensus.entries().len(), 3);
    let id = testkit::identity(2);
    assert_eq!(consensus.relay(&id).unwrap().nickname, "relay2");
    assert_eq!(consensus.by_link_key(&id.0).unwrap().identity, id);
    assert!(consensus.relay(&testkit::identity(9)).is_none());
    assert!(consensus.is_relay_address(testkit::address(3)));
    assert!(!consensus.is_relay_address(testkit::address(4)));
    assert_eq!(consensus.params().subnet_rule, 0);
    assert_eq!(consensus.params().circuit_window_cells, 700);
    assert_eq!(
        consensus.digest(),
        verify(&body(), &[1, 2, 3]).unwrap().digest()
    );
}

#[test]
fn an_entry_is_small() {
    let bytes = signed::encode(&body()).unwrap();
    assert!(bytes.len() / 3 < 150, "{}", bytes.len() / 3);
}

#[test]
fn signatures_decide_before_content() {
    let few = DocError::TooFewSignatures { have: 1, need: 2 };
    assert_eq!(verify(&body(), &[1]).map(drop), Err(few));
    // Strangers neither count nor harm.
    let few = DocError::TooFewSignatures { have: 1, need: 2 };
    assert_eq!(verify(&body(), &[1, 8, 9]).map(drop), Err(few));
    assert_eq!(verify(&body(), &[1, 2, 9]).unwrap().signature_count(), 2);
    let network = network(3);
    let junk = signed::assemble::<Signature>(Kind::Consensus, &[255; 50], &[]).unwrap();
    let few = DocError::TooFewSignatures { have: 0, need: 2 };
    assert_eq!(
        SignedConsensus::parse_and_verify(&junk, &network).map(drop),
        Err(few)
    );
    let mut edited = signed(&body(), &network, &[1, 2]);
    edited[40] ^= 1;
    let bad = SignedConsensus::parse_and_verify(&edited, &network).map(drop);
    assert_eq!(bad, Err(DocError::BadSignature));
    let huge = vec![0; MAX_CONSENSUS_BYTES + 1];
    let refused = SignedConsensus::parse_and_verify(&huge, &network).map(drop);
    assert!(matches!(refused, Err(DocError::TooLarge { .. })));
}

#[test]
fn another_network_is_refused() {
    let bytes = signed(&body(), &network(4), &[1, 2, 3]);
    let refused = SignedConsensus::parse_and_verify(&bytes, &network(3)).map(drop);
    assert_eq!(refused, Err(DocError::BadSignature));
}

#[test]
fn every_refusal_of_a_field() {
    let refused = |edit: fn(&mut ConsensusBody)| {
        let mut body = body();
        edit(&mut body);
        let error = verify(&body, &[1, 2]).map(drop);
        assert!(matches!(error, Err(DocError::Content(_))), "{error:?}");
    };
    refused(|b| b.lifetime.fresh_until = b.lifetime.valid_after);
    refused(|b| b.lifetime.valid_until = b.lifetime.fresh_until - 1);
    refused(|b| b.lifetime.valid_until = b.lifetime.valid_after + MAX_VALIDITY_SECS + 1);
    refused(|b| b.params.extend([("BAD".to_owned(), 1)]));
    refused(|b| b.entries.swap(0, 1));
    refused(|b| b.entries[1] = b.entries[0].clone());
    refused(|b| {
        let identity = b.entries[0].identity.0;
        b.entries[0].set_explicit_link_key(Some(identity));
    });
    refused(|b| b.entries[0].addresses.clear());
    refused(|b| b.entries[0].nickname.clear());
    refused(|b| b.entries[0].version = "é".to_owned());
    let mut unordered = signed::encode(&body()).unwrap();
    unordered.push(0);
    let network = network(3);
    let id = network.network_id();
    let signatures = [1, 2].map(|n| {
        let signature = Signature::sign(&signing_key(n), Kind::Consensus, &id, &unordered);
        (signing_key(n).verifying_key().to_bytes(), signature)
    });
    let bytes = signed::assemble(Kind::Consensus, &unordered, &signatures).unwrap();
    let refused = SignedConsensus::parse_and_verify(&bytes, &network).map(drop);
    assert_eq!(refused, Err(DocError::Trailing));
}

#[test]
fn status_over_time() {
    let consensus = verify(&body(), &[1, 2]).unwrap();
    let grace = 86_400;
    for (now, status) in [
        (1_000 - CLOCK_SKEW_SECS - 1, ConsensusStatus::Early),
        (1_000 - CLOCK_SKEW_SECS, ConsensusStatus::Fresh),
        (1_001, ConsensusStatus::Fresh),
        (1_002, ConsensusStatus::Valid),
        (1_599, ConsensusStatus::Valid),
        (1_600, ConsensusStatus::Grace),
        (1_599 + grace, ConsensusStatus::Grace),
        (1_600 + grace, ConsensusStatus::Expired),
        (u64::MAX, ConsensusStatus::Expired),
    ] {
        assert_eq!(consensus.status(now), status, "{now}");
    }
    assert!(consensus.is_usable(1_600) && !consensus.is_usable(0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn signed_garbage_never_panics(
        edits in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..4),
    ) {
        let network = network(1);
        let mut bytes = signed::encode(&body()).unwrap();
        for (at, byte) in edits {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        let key = signing_key(1);
        let signature = Signature::sign(&key, Kind::Consensus, &network.network_id(), &bytes);
        let signatures = [(key.verifying_key().to_bytes(), signature)];
        let document = signed::assemble(Kind::Consensus, &bytes, &signatures).unwrap();
        if let Ok(consensus) = SignedConsensus::parse_and_verify(&document, &network) {
            prop_assert_eq!(signed::encode(&consensus.body()).unwrap(), bytes);
        }
    }
}
