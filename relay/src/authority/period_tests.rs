use cepa_common::testkit::{descriptor_at, identity, link_key, network, signing_key};

use super::*;

/// A valid-after in milliseconds. The interval of the test network is two seconds; the rounds of three authorities take
/// a quarter of a second each.
const T_MS: u64 = 2_000_000;
const T: UnixSecs = T_MS / 1_000;
const START_MS: u64 = T_MS - 1_000;
const END_MS: u64 = T_MS - 500;

impl Authority {
    fn take_signature(&mut self, bytes: &[u8], now_ms: u64) -> Result<(), AuthorityError> {
        let signature = ConsensusSignature::parse_and_verify(bytes, &self.config.network)?;
        self.on_signature(signature, now_ms)
    }
}

fn authority(network: &Arc<NetworkFile>, n: u8, last: Option<u64>, now_ms: u64) -> Authority {
    let config = AuthorityConfig {
        network: Arc::clone(network),
        identity: identity(n),
        signing_key: signing_key(n).into(),
        params: BTreeMap::new(),
        last_signed: last,
        probes: false,
    };
    Authority::new(config, now_ms)
}

fn upload(authority: &mut Authority, relay: u8, now_ms: u64) {
    let descriptor = descriptor_at(relay, now_ms / 1_000);
    let id = authority.config.network.network_id();
    let signed = descriptor.sign(&id, &link_key(relay)).unwrap();
    authority.on_descriptor(signed, now_ms).unwrap();
}

/// Two authorities of three, each with a relay, before the first round.
fn pair() -> (Authority, Authority) {
    let network = Arc::new(network(3));
    let member = |n| {
        let mut member = authority(&network, n, None, T_MS - 1_200);
        upload(&mut member, 10, T_MS - 1_200);
        member
    };
    (member(1), member(2))
}

/// The vote that this authority sends.
fn vote_of(authority: &mut Authority, now_ms: u64) -> Forward {
    let mut actions = authority.poll(now_ms).into_iter();
    assert!(matches!(actions.next(), Some(Action::RecordSigned { .. })));
    match actions.next() {
        Some(Action::Endorse { forward, .. }) => forward,
        other => panic!("{other:?}"),
    }
}

fn give(to: &mut Authority, forward: &Forward, now_ms: u64) -> Result<(), AuthorityError> {
    let heard = to.on_endorsement(forward.endorsement.clone(), now_ms)?;
    if heard == Heard::WantVote {
        let vote = forward.vote.as_ref().unwrap();
        to.on_vote(SignedVote::clone(vote), now_ms)?;
    }
    Ok(())
}

fn signature_of(authority: &mut Authority, now_ms: u64) -> Option<Vec<u8>> {
    let actions = authority.poll(now_ms).into_iter();
    let mut recorded = false;
    for action in actions {
        match action {
            Action::RecordSigned { .. } => recorded = true,
            Action::SendSignature(bytes) => {
                assert!(recorded, "the signature would leave before it is on disk");
                return Some(bytes);
            }
            _ => {}
        }
    }
    None
}

#[test]
fn votes_are_counted_when_the_rounds_are_over_and_published_at_valid_after() {
    let (mut ours, mut other) = pair();
    assert!(ours.poll(START_MS - 1).is_empty());
    let (own, theirs) = (vote_of(&mut ours, START_MS), vote_of(&mut other, START_MS));
    give(&mut ours, &theirs, START_MS + 50).unwrap();
    give(&mut other, &own, START_MS + 50).unwrap();
    // The third authority has not signed the endorsement, so it is told, and no other is.
    let told = ours.poll(START_MS + 50);
    other.poll(START_MS + 50);
    match &told[..] {
        [Action::Endorse { forward, until_ms }] => {
            assert_eq!((forward.endorsement.count(), *until_ms), (2, END_MS));
            assert_eq!(forward.to, [identity(3)]);
            assert_eq!(forward.endorsement.author(), identity(2));
        }
        other => panic!("{other:?}"),
    }
    assert!(ours.poll(START_MS + 250).is_empty());
    other.poll(START_MS + 250);
    assert!(ours.poll(END_MS - 1).is_empty());
    let signature = signature_of(&mut ours, END_MS).unwrap();
    assert_eq!(other.take_signature(&signature, END_MS), Ok(()));
    let back = signature_of(&mut other, END_MS).unwrap();
    assert_eq!(ours.take_signature(&back, END_MS), Ok(()));
    assert!(ours.poll(T_MS - 1).is_empty());
    let published = ours.poll(T_MS);
    let [Action::Publish(consensus)] = &published[..] else {
        panic!("{published:?}")
    };
    assert_eq!(consensus.lifetime().valid_after, T);
    assert_eq!(consensus.lifetime().valid_until, T + 600);
    assert_eq!(consensus.entries().len(), 1);
    assert!(ours.poll(T_MS + 1).is_empty());
}

#[test]
fn an_owner_sees_how_far_a_vote_is() {
    use crate::authority::VotingStage as Stage;
    let (mut ours, mut other) = pair();
    let stage = |authority: &Authority, now_ms| authority.snapshot(now_ms).stage;
    // It came too late for the period before.
    let before = ours.snapshot(START_MS - 1);
    assert_eq!((before.stage, before.has_voted), (Stage::Unsigned, false));
    assert_eq!((before.authorities, before.needed), (3, 2));
    assert_eq!(before.lifetime.valid_after, T - 2);
    assert_eq!((before.relays.known, before.relays.answering), (1, 1));
    let (own, theirs) = (vote_of(&mut ours, START_MS), vote_of(&mut other, START_MS));
    give(&mut ours, &theirs, START_MS + 50).unwrap();
    give(&mut other, &own, START_MS + 50).unwrap();
    for now_ms in [START_MS + 50, START_MS + 250, END_MS - 1] {
        ours.poll(now_ms);
        other.poll(now_ms);
    }
    let voting = ours.snapshot(END_MS - 1);
    assert_eq!((voting.stage, voting.votes), (Stage::Voting, 2));
    assert!(voting.has_voted && voting.convicted.is_empty());
    let rounds = (voting.lifetime.valid_after, voting.rounds_ms);
    assert_eq!(rounds, (T, [START_MS, END_MS]));
    assert_eq!(voting.silent, ["authority 3"]);
    let signature = signature_of(&mut ours, END_MS).unwrap();
    let signing = ours.snapshot(END_MS);
    assert_eq!((signing.stage, signing.signatures), (Stage::Signing, 1));
    assert_eq!(signing.unsigned, ["authority 2", "authority 3"]);
    other.take_signature(&signature, END_MS).unwrap();
    let back = signature_of(&mut other, END_MS).unwrap();
    ours.take_signature(&back, END_MS).unwrap();
    ours.poll(T_MS);
    let published = ours.snapshot(T_MS);
    assert_eq!(
        (published.stage, published.signatures),
        (Stage::Published, 2)
    );
    assert_eq!(published.unsigned, ["authority 3"]);
    // Of three, one vote alone is too few.
    let (mut alone, _) = pair();
    vote_of(&mut alone, START_MS);
    for now_ms in [START_MS + 250, END_MS] {
        alone.poll(now_ms);
    }
    assert_eq!(stage(&alone, END_MS), Stage::NoQuorum);
    assert_eq!(alone.snapshot(END_MS).without_quorum, 1);
}

#[test]
fn a_relay_that_comes_within_the_first_half_of_the_first_round_is_still_voted_for() {
    let network = Arc::new(network(3));
    for (at_ms, votes) in [(START_MS + 125, true), (START_MS + 126, false)] {
        let mut member = authority(&network, 1, None, START_MS);
        assert!(member.poll(START_MS).is_empty());
        upload(&mut member, 10, at_ms);
        assert_eq!(!member.poll(at_ms).is_empty(), votes);
    }
}

#[test]
fn without_relays_or_without_votes_nothing_is_signed() {
    let network = Arc::new(network(3));
    let mut empty = authority(&network, 1, None, T_MS - 1_500);
    let (mut alone, _) = pair();
    for now_ms in (T_MS - 1_500..T_MS + 3_000).step_by(100) {
        assert!(empty.poll(now_ms).is_empty());
        assert_eq!(signature_of(&mut alone, now_ms.max(T_MS - 1_200)), None);
    }
}

#[test]
fn one_signature_for_a_valid_after_across_restarts() {
    let network = Arc::new(network(1));
    for now_ms in [START_MS, T_MS, T_MS + 999] {
        let mut restarted = authority(&network, 1, Some(T), now_ms);
        upload(&mut restarted, 10, now_ms);
        for step in 0..40 {
            for action in restarted.poll(now_ms + step * 50) {
                if let Action::RecordSigned { valid_after, .. } = action {
                    assert!(valid_after > T);
                }
            }
        }
    }
    // An authority whose clock went back does not sign again either.
    let mut behind = authority(&network, 1, Some(T), T_MS - 60_000);
    upload(&mut behind, 10, T_MS - 60_000);
    for now_ms in (T_MS - 60_000..T_MS).step_by(125) {
        assert!(behind.poll(now_ms).is_empty());
    }
}

#[test]
fn what_is_not_on_disk_was_never_signed() {
    // The vote could not be recorded, so it is not counted, and nothing is signed in this period.
    let (mut ours, mut other) = pair();
    let theirs = vote_of(&mut other, START_MS);
    vote_of(&mut ours, START_MS);
    ours.withdraw_signature();
    give(&mut ours, &theirs, START_MS + 10).unwrap();
    assert_eq!(ours.period_accepted(), []);
    ours.poll(START_MS + 20);
    assert_eq!(ours.period_accepted().len(), 1);
    assert_eq!(signature_of(&mut ours, END_MS), None);
    // The consensus could not be recorded, so signatures of others do not complete it.
    let (mut ours, mut other) = pair();
    let (own, theirs) = (vote_of(&mut ours, START_MS), vote_of(&mut other, START_MS));
    give(&mut ours, &theirs, START_MS + 10).unwrap();
    give(&mut other, &own, START_MS + 10).unwrap();
    let _ = (ours.poll(START_MS + 20), other.poll(START_MS + 20));
    let _ = (ours.poll(START_MS + 250), other.poll(START_MS + 250));
    let signature = signature_of(&mut other, END_MS).unwrap();
    assert!(signature_of(&mut ours, END_MS).is_some());
    ours.withdraw_signature();
    ours.take_signature(&signature, END_MS).unwrap();
    assert!(ours.poll(T_MS).is_empty());
}

#[test]
fn every_refusal() {
    let (mut ours, mut other) = pair();
    let theirs = vote_of(&mut other, START_MS);
    let vote = || SignedVote::clone(theirs.vote.as_ref().unwrap());
    let late = AuthorityError::Agreement(cepa_common::dir::AgreementError::Late);
    let unwanted = AuthorityError::Agreement(cepa_common::dir::AgreementError::NotWanted);
    // A vote that nobody endorsed, an endorsement that comes too late for the number of its signatures, and an
    // endorsement for another period are refused.
    assert_eq!(ours.on_vote(vote(), START_MS), Err(unwanted.clone()));
    let endorse =
        |to: &mut Authority, now_ms| to.on_endorsement(theirs.endorsement.clone(), now_ms);
    let (mut second, mut third) = (pair().0, pair().0);
    assert_eq!(endorse(&mut second, START_MS + 250), Err(late.clone()));
    assert_eq!(endorse(&mut third, END_MS), Err(late.clone()));
    assert_eq!(
        endorse(&mut third, T_MS + 2_000),
        Err(AuthorityError::WrongPeriod)
    );
    // An endorsement from an authority whose clock is a little ahead is held until its time, and so is the vote.
    assert_eq!(endorse(&mut ours, START_MS - 10), Ok(Heard::WantVote));
    assert_eq!(ours.on_vote(vote(), START_MS - 10), Ok(()));
    assert_eq!(ours.on_vote(vote(), START_MS - 10), Ok(()));
    assert_eq!(endorse(&mut ours, START_MS - 5), Ok(Heard::Held));
    ours.poll(START_MS);
    assert_eq!(ours.period_accepted().len(), 2);
    assert_eq!(endorse(&mut ours, END_MS + 10), Ok(Heard::Held));
    // The vote comes too late for the round in which its endorsement came.
    let mut fourth = pair().0;
    assert_eq!(endorse(&mut fourth, START_MS + 200), Ok(Heard::WantVote));
    assert_eq!(fourth.on_vote(vote(), START_MS + 250), Err(unwanted));
    // After a restart an authority does not know what it accepted before.
    let network = Arc::clone(&ours.config.network);
    let mut restarted = authority(&network, 1, Some(T), START_MS + 10);
    assert_eq!(
        endorse(&mut restarted, START_MS + 20),
        Err(AuthorityError::Recovering)
    );
    assert_eq!(restarted.candidacies(START_MS + 20).count(), 0);

    give(&mut other, &vote_of(&mut pair().0, START_MS), START_MS).unwrap();
    let _ = (other.poll(START_MS + 1), other.poll(START_MS + 250));
    let signature = signature_of(&mut other, END_MS).unwrap();
    assert_eq!(
        other.take_signature(&signature, END_MS),
        Err(AuthorityError::Own)
    );
    assert_eq!(
        ours.take_signature(&signature, END_MS + 4_000),
        Err(AuthorityError::WrongPeriod)
    );
    assert!(ours.take_signature(b"soup", END_MS).is_err());
}

#[test]
fn the_next_wake_is_ahead_but_not_far() {
    let network = Arc::new(network(3));
    let mut member = authority(&network, 1, None, T_MS);
    for now_ms in (T_MS..T_MS + 10_000).step_by(137) {
        member.poll(now_ms);
        let wake = member.next_wake_ms(now_ms);
        assert!(now_ms < wake && wake <= now_ms + 2_000, "{now_ms} {wake}");
    }
    // A clock that makes no sense causes no panic (S37).
    authority(&network, 1, None, u64::MAX).poll(u64::MAX);
    authority(&network, 1, None, 0).poll(0);
}
