use proptest::prelude::*;

use super::*;
use crate::dir::{DocError, NetworkDraft, SignedConsensus};
use crate::testkit::{
    authorities, authority, consensus_body, consensus_bytes, network, signing_key, vote,
};

/// The revision after `previous` with these authorities and signers, in effect from `effective_after`.
fn revise(
    previous: &NetworkFile,
    members: &[u8],
    signers: &[u8],
    effective_after: UnixSecs,
) -> Result<NetworkFile, NetworkFileError> {
    let mut draft = NetworkDraft::revise(previous, effective_after);
    draft = draft.with_authorities(members.iter().map(|n| authority(*n)).collect());
    for n in signers {
        draft.sign(&signing_key(*n)).unwrap();
    }
    draft.finish()
}

#[test]
fn the_id_stays_and_the_text_survives() {
    let founding = network(3);
    let next = revise(&founding, &[1, 2, 3, 4], &[1, 2, 4], 5_000).unwrap();
    assert_eq!(next.network_id(), founding.network_id());
    assert_eq!((next.revision(), next.effective_after()), (1, 5_000));
    let text = next.to_toml().unwrap();
    assert_eq!(NetworkFile::parse(&text), Ok(next.clone()));
    for (from, to) in [
        ("revision = 1", "revision = 2"),
        ("effective_after = 5000", "effective_after = 5001"),
        ("127.0.0.1:5004", "127.0.0.1:5005"),
    ] {
        assert!(text.contains(from), "{from}");
        let refused = NetworkFile::parse(&text.replacen(from, to, 1));
        assert_eq!(refused, Err(DocError::BadSignature.into()), "{from}");
    }
    for (from, to) in [("revision = 1\n", ""), ("revision = 1", "revision = 0")] {
        assert!(
            NetworkFile::parse(&text.replacen(from, to, 1)).is_err(),
            "{from}"
        );
    }
    let third = revise(&next, &[1, 2, 4], &[1, 2], 6_000).unwrap();
    assert_eq!(third.revision(), 2);
    assert_eq!(third.network_id(), founding.network_id());
}

#[test]
fn more_than_half_of_both_sets_must_have_signed() {
    let founding = network(3);
    // First two of the four new authorities have signed, then three of them.
    assert!(revise(&founding, &[1, 2, 3, 4], &[1, 2], 0).is_err());
    let next = revise(&founding, &[1, 2, 3, 4], &[1, 2, 3], 0).unwrap();
    assert_eq!(founding.verify_successor(&next), Ok(()));
    // Two strangers and one of ours make a network, but not the one that follows ours.
    let stolen = revise(&founding, &[1, 8, 9], &[1, 8, 9], 0).unwrap();
    let few = DocError::TooFewSignatures { have: 1, need: 2 };
    assert_eq!(founding.verify_successor(&stolen), Err(few.into()));
    // If those that leave have signed too, it is the one that follows: strangers' signatures neither count nor harm.
    let handed_over = revise(&founding, &[1, 8, 9], &[1, 2, 8, 9], 0).unwrap();
    assert_eq!(founding.verify_successor(&handed_over), Ok(()));
    let who = founding.successor_signatories(&handed_over).unwrap();
    assert_eq!(who.missing, ["authority 3"]);
    // A former authority's signature that does not verify is passed over; ours is not.
    let text = handed_over.to_toml().unwrap();
    let by = |n: u8| hex::encode(signing_key(n).verifying_key().to_bytes());
    let spoilt = |n: u8| {
        let (head, tail) = text.split_at(text.rfind(&by(n)).unwrap());
        let (start, digits) = tail.split_at(tail.find("signature = \"").unwrap() + 13);
        let (first, rest) = digits.split_at(1);
        let other = if first == "0" { "1" } else { "0" };
        NetworkFile::parse(&[head, start, other, rest].concat())
    };
    let former = spoilt(2).unwrap();
    assert!(founding.verify_successor(&former).is_err());
    assert!(spoilt(8).is_err());
}

#[test]
fn only_what_follows_is_taken() {
    let founding = network(3);
    let one = revise(&founding, &[1, 4, 5], &[1, 2, 4, 5], 0).unwrap();
    let two = revise(&one, &[4, 5, 6], &[4, 5], 0).unwrap();
    let mut held = Revisions::new(founding.clone());
    // None of the three founding authorities signed revision 2, so the step between is needed.
    let jump = held.insert(two.clone());
    assert!(
        matches!(jump, Err(NetworkFileError::Signature(_))),
        "{jump:?}"
    );
    assert_eq!(held.insert(one.clone()), Ok(true));
    assert_eq!(held.insert(one.clone()), Ok(false));
    let other = revise(&founding, &[1, 2, 3], &[1, 2, 3], 7).unwrap();
    assert!(held.insert(other).is_err());
    assert_eq!(held.insert(two.clone()), Ok(true));
    assert_eq!(held.newest().revision(), 2);
    assert_eq!(held.insert(founding.clone()), Ok(false));
    assert!(held.insert(network(4)).is_err());
    // The process restarts with the first file, and with the last.
    let stored: Vec<_> = held.iter().map(|file| NetworkFile::clone(file)).collect();
    assert_eq!(
        Revisions::restore(founding.clone(), stored.clone())
            .newest()
            .revision(),
        2
    );
    assert_eq!(
        Revisions::restore(two.clone(), stored.clone())
            .iter()
            .count(),
        3
    );
    let alone = Revisions::restore(founding, vec![two]);
    assert_eq!(alone.newest().revision(), 0);
}

#[test]
fn a_revision_counts_from_its_time_on() {
    let founding = network(3);
    let next = revise(&founding, &[4, 5, 6], &[1, 2, 4, 5, 6], 2_000).unwrap();
    let mut held = Revisions::new(founding.clone());
    held.insert(next.clone()).unwrap();
    assert_eq!(held.at(1_999).revision(), 0);
    assert_eq!(held.at(2_000).revision(), 1);
    let consensus = |valid_after: UnixSecs, signers: [u8; 2]| {
        let body = consensus_body(valid_after, &[1]);
        let bytes = consensus_bytes(&founding, &body, &signers);
        SignedConsensus::parse_and_verify(&bytes, held.for_document(&bytes)).is_ok()
    };
    assert!(consensus(1_999, [1, 2]) && consensus(2_000, [4, 5]));
    assert!(!consensus(2_000, [1, 2]) && !consensus(1_999, [4, 5]));
    let vote = vote(&founding, 1, &[1])
        .sign(&founding, &signing_key(1))
        .unwrap();
    assert_eq!(held.for_document(vote.bytes()).revision(), 0);
    // A revision that is the only one held decides about earlier documents too.
    assert_eq!(Revisions::new(next).at(0).revision(), 1);
    assert_eq!(held.authorities(1_999).len(), 6);
    assert_eq!(held.authorities(2_000).len(), 3);
    for junk in [&b""[..], &[4], &[4, 1, 0, 0, 0, 0, 255]] {
        assert_eq!(held.for_document(junk).revision(), 1);
    }
}

#[test]
fn copies_of_a_draft_are_merged() {
    let founding = network(3);
    let draft = NetworkDraft::revise(&founding, 9).with_authorities(authorities(4));
    let mut copies: Vec<_> = [1, 2, 4]
        .map(|n| {
            let mut copy = draft.clone();
            copy.sign(&signing_key(n)).unwrap();
            NetworkDraft::parse(&copy.to_toml().unwrap()).unwrap()
        })
        .into();
    let mut merged = copies.remove(0);
    assert!(merged.clone().finish().is_err());
    assert_eq!(merged.signatories().unwrap().missing.len(), 3);
    for copy in &copies {
        merged.merge(copy).unwrap();
    }
    let former = merged.signatories_among(founding.authorities()).unwrap();
    assert_eq!((former.signed.len(), former.need), (2, 2));
    assert!(merged.clone().finish().is_ok());
    assert!(merged.merge(&NetworkDraft::revise(&founding, 8)).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_choice_of_a_revision_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        let held = Revisions::new(network(1));
        prop_assert_eq!(held.for_document(&bytes).revision(), 0);
    }
}
