use super::*;
use crate::testkit::{self, identity, lifetime, network, signing_key};

const T: UnixSecs = 1_000;

fn sign(network: &NetworkFile, author: u8, relays: &[u8]) -> Arc<SignedVote> {
    let vote = testkit::vote(network, author, relays);
    Arc::new(vote.sign(network, &signing_key(author)).unwrap())
}

fn endorse(network: &NetworkFile, vote: &SignedVote, author: u8, also: &[u8]) -> Endorsement {
    let mut made = Endorsement::of_vote(vote, network, &signing_key(author)).unwrap();
    for n in also {
        made.endorse(&network.network_id(), &signing_key(*n));
    }
    made
}

/// The agreement of authority 1 of five, which has three rounds.
fn five() -> (Arc<NetworkFile>, Agreement, Rounds) {
    let network = Arc::new(network(5));
    let agreement = Agreement::new(Arc::clone(&network), lifetime(T));
    let rounds = agreement.rounds();
    (network, agreement, rounds)
}

fn count_of(agreement: &Agreement, author: u8) -> usize {
    let accepted = agreement.accepted();
    accepted.filter(|(id, _)| *id == identity(author)).count()
}

#[test]
fn rounds_fill_the_quarter_before_the_last() {
    for (authorities, interval, count, length_ms) in [
        (1, 2, 1, 500),
        (2, 2, 1, 500),
        (3, 2, 2, 250),
        (3, 1, 2, 125),
        (4, 3_600, 2, 450_000),
        (5, 3_600, 3, 300_000),
        (9, 3_600, 5, 180_000),
        (31, 1, 16, 15),
    ] {
        let valid_after = 1_000 * interval;
        let rounds = Rounds::new(authorities, interval, valid_after);
        assert_eq!((rounds.count(), rounds.length_ms()), (count, length_ms));
        let (start, end) = (rounds.start_ms(), rounds.end_ms());
        assert_eq!(start, valid_after * 1_000 - interval * 500);
        assert!(end <= valid_after * 1_000 - interval * 250);
        assert!(end + u64::from(count) > valid_after * 1_000 - interval * 250);
        assert_eq!(rounds.at(start - 1), Some(0));
        assert_eq!(rounds.at(start), Some(1));
        assert_eq!(rounds.at(start + length_ms), (count > 1).then_some(2));
        assert_eq!(rounds.at(end - 1), Some(count));
        assert_eq!(rounds.at(end), None);
        assert_eq!(rounds.next_ms(0), Some(start));
        assert_eq!(rounds.next_ms(start), Some(start + length_ms));
        assert_eq!(rounds.next_ms(end - 1), Some(end));
        assert_eq!(rounds.next_ms(end), None);
    }
    // A time that makes no sense causes no panic (S37).
    let rounds = Rounds::new(5, 86_400, u64::MAX);
    let _ = (
        rounds.at(u64::MAX),
        rounds.next_ms(u64::MAX),
        rounds.end_ms(),
    );
}

#[test]
fn each_round_asks_for_one_more_signature() {
    let (network, _, rounds) = five();
    for round in 1..=3u32 {
        for also in [&[][..], &[3], &[3, 4], &[3, 4, 5]] {
            let mut agreement = five().1;
            let vote = sign(&network, 2, &[1]);
            let now_ms = rounds.start_ms() + u64::from(round - 1) * rounds.length_ms();
            let heard = agreement.on_endorsement(endorse(&network, &vote, 2, also), now_ms);
            let is_enough = also.len() + 1 >= usize::try_from(round).unwrap();
            let expected = if is_enough {
                Ok(Heard::WantVote)
            } else {
                Err(AgreementError::Late)
            };
            assert_eq!(heard, expected, "{round} {also:?}");
            assert!(agreement.settle(&signing_key(1), now_ms).is_empty());
            assert_eq!(count_of(&agreement, 2), 0);
            let taken = agreement.on_vote(Arc::clone(&vote), now_ms);
            assert_eq!(taken.is_ok(), is_enough);
            let forwards = agreement.settle(&signing_key(1), now_ms);
            assert_eq!(count_of(&agreement, 2), usize::from(is_enough));
            // The endorsement is sent to authorities that have not signed. In the last round there is nobody left to
            // tell.
            let told = if is_enough && round < 3 {
                3 - also.len()
            } else {
                0
            };
            assert_eq!(forwards.iter().map(|f| f.to.len()).sum::<usize>(), told);
        }
    }
}

#[test]
fn signatures_that_come_one_by_one_add_up() {
    let (network, mut agreement, rounds) = five();
    let vote = sign(&network, 2, &[1]);
    let first = rounds.start_ms();
    let early = agreement.on_endorsement(endorse(&network, &vote, 2, &[]), first);
    assert_eq!(early, Ok(Heard::WantVote));
    // The vote did not come in time. With one more signature it counts in the second round after all.
    let second = first + rounds.length_ms();
    assert_eq!(
        agreement.on_vote(Arc::clone(&vote), second),
        Err(AgreementError::NotWanted)
    );
    let again = agreement.on_endorsement(endorse(&network, &vote, 2, &[]), second);
    assert_eq!(again, Err(AgreementError::Late));
    let more = agreement.on_endorsement(endorse(&network, &vote, 2, &[4]), second);
    assert_eq!(more, Ok(Heard::WantVote));
    agreement.on_vote(vote, second).unwrap();
    let forwards = agreement.settle(&signing_key(1), second);
    assert_eq!(forwards[0].endorsement.count(), 3);
    assert_eq!(forwards[0].to.len(), 2);
}

#[test]
fn two_digests_convict_without_their_votes_and_no_third_is_kept() {
    let (network, mut agreement, rounds) = five();
    let votes: Vec<_> = [[1], [2], [3]]
        .iter()
        .map(|r| sign(&network, 2, r))
        .collect();
    let now_ms = rounds.start_ms();
    for (vote, heard) in votes.iter().zip([Heard::WantVote, Heard::Held]) {
        let endorsement = endorse(&network, vote, 2, &[]);
        assert_eq!(agreement.on_endorsement(endorsement, now_ms), Ok(heard));
    }
    let forwards = agreement.settle(&signing_key(1), now_ms);
    assert_eq!(forwards.len(), 2);
    assert!(forwards.iter().all(|f| f.vote.is_none() && f.to.len() == 3));
    let third = agreement.on_endorsement(endorse(&network, &votes[2], 2, &[3]), now_ms);
    assert_eq!(third, Err(AgreementError::Late));
    let outcome = agreement.outcome();
    assert_eq!(outcome.convicted, [identity(2)]);
    assert_eq!((outcome.votes.len(), outcome.silent.len()), (0, 4));
    assert_eq!(agreement.proofs().count(), 1);
}

#[test]
fn a_digest_that_can_no_longer_count_gives_way() {
    let (network, mut agreement, rounds) = five();
    let votes: Vec<_> = [[1], [2], [3]]
        .iter()
        .map(|r| sign(&network, 2, r))
        .collect();
    // The vote is held back: it is endorsed in the first round but never comes.
    let first = rounds.start_ms();
    let stuck = agreement.on_endorsement(endorse(&network, &votes[0], 2, &[]), first);
    assert_eq!(stuck, Ok(Heard::WantVote));
    agreement.settle(&signing_key(1), first);
    // A dead digest does not make the next one the second of two, because others may never hear of the dead one.
    let second = first + rounds.length_ms();
    let next = agreement.on_endorsement(endorse(&network, &votes[1], 2, &[3]), second);
    assert_eq!(next, Ok(Heard::WantVote));
    assert!(agreement.settle(&signing_key(1), second).is_empty());
    agreement.on_vote(Arc::clone(&votes[1]), second).unwrap();
    agreement.settle(&signing_key(1), second);
    assert_eq!(count_of(&agreement, 2), 1);
    // The dead digest is proof nevertheless.
    assert_eq!(agreement.proofs().count(), 1);
    // A third digest with enough signatures takes the place of the dead one, and convicts.
    let third = agreement.on_endorsement(endorse(&network, &votes[2], 2, &[3]), second);
    assert_eq!(third, Ok(Heard::Held));
    let forwards = agreement.settle(&signing_key(1), second);
    assert_eq!(count_of(&agreement, 2), 2);
    assert!(forwards.iter().all(|forward| forward.vote.is_none()));
}

#[test]
fn our_own_vote_leaves_once_and_can_be_taken_back() {
    let (network, mut agreement, rounds) = five();
    let own = sign(&network, 1, &[1]);
    assert!(
        agreement
            .propose(Arc::clone(&own), &signing_key(2))
            .is_err()
    );
    let forward = agreement
        .propose(Arc::clone(&own), &signing_key(1))
        .unwrap();
    assert_eq!((forward.to.len(), forward.endorsement.count()), (4, 1));
    assert_eq!(agreement.outcome().votes.len(), 1);
    // The authority's own vote comes back with another's signature.
    let back = agreement.on_endorsement(endorse(&network, &own, 1, &[2]), rounds.start_ms());
    assert_eq!(back, Ok(Heard::Held));
    agreement.withdraw(&identity(1));
    assert_eq!(agreement.outcome().votes.len(), 0);
}

#[test]
fn what_is_for_other_times_is_refused() {
    let (network, mut agreement, rounds) = five();
    let now_ms = rounds.start_ms();
    let mut vote = testkit::vote(&network, 2, &[1]);
    vote.lifetime.valid_until += 1;
    let vote = Arc::new(vote.sign(&network, &signing_key(2)).unwrap());
    let heard = agreement.on_endorsement(endorse(&network, &vote, 2, &[]), now_ms);
    assert_eq!(heard, Ok(Heard::WantVote));
    assert_eq!(
        agreement.on_vote(vote, now_ms),
        Err(AgreementError::NotWanted)
    );
    let mut vote = testkit::vote(&network, 2, &[1]);
    vote.lifetime = lifetime(T + 2);
    let vote = vote.sign(&network, &signing_key(2)).unwrap();
    let heard = agreement.on_endorsement(endorse(&network, &vote, 2, &[]), now_ms);
    assert_eq!(heard, Err(AgreementError::NotWanted));
    let candidacies: Vec<_> = agreement.candidacies(now_ms).collect();
    assert_eq!(candidacies.len(), 1);
    assert!(candidacies[0].wants_vote);
    assert!(
        agreement
            .candidacies(rounds.end_ms())
            .all(|c| !c.wants_vote)
    );
}
