//! What hostile authorities do to make the others disagree.

use cepa_common::dir::{Lifetime, Rounds, Vote};

use super::*;

/// Makes different votes of one author for one time.
pub(super) fn votes(world: &World, author: usize, valid_after: UnixSecs) -> Vec<Arc<SignedVote>> {
    let number = world.number(author);
    let variants = 0..3u32;
    let sign = |variant: u32| {
        let vote = Vote {
            authority: identity(number),
            lifetime: Lifetime::of(&world.network.params(), valid_after),
            params: [("circuit_window_cells".to_owned(), 9_000 + variant)].into(),
            entries: Vec::new(),
            values: Vec::new(),
            shares: Vec::new(),
        };
        Arc::new(vote.sign(&world.network, &signing_key(number)).unwrap())
    };
    variants.map(sign).collect()
}

/// Makes an endorsement by the author and these other signers, whose keys the adversary has.
pub(super) fn chain(world: &World, vote: &SignedVote, signers: &[usize]) -> Endorsement {
    let author = world.number(world.index(&vote.vote().authority));
    let key = signing_key(author);
    let mut chain = Endorsement::of_vote(vote, &world.network, &key).unwrap();
    for signer in signers {
        let key = signing_key(world.number(*signer));
        chain.endorse(&world.network.network_id(), &key);
    }
    chain
}

/// The global time at which a round has `before_ms` left by a member's clock (milliseconds).
pub(super) fn just_before_end(
    world: &World,
    n: usize,
    rounds: &Rounds,
    round: u64,
    before_ms: u64,
) -> u64 {
    let local_ms = rounds.start_ms() + round * rounds.length_ms() - before_ms;
    local_ms.saturating_add_signed(-world.members[n].lead_ms)
}

/// Plans everything that two hostile authorities can do: they send different votes to different peers in the first
/// round; they hold chains of endorsements of both votes back until the last moment of a later round and send them to
/// one peer only, with the vote or without; and they do more by chance.
pub(super) fn plan(world: &mut World, hostile: &[usize], valid_after: UnixSecs) {
    let interval = u64::from(world.network.params().vote_interval_seconds);
    let rounds = Rounds::new(world.members.len(), interval, valid_after);
    let targets: Vec<_> = (0..world.members.len())
        .filter(|n| !hostile.contains(n))
        .collect();
    for author in hostile.iter().copied() {
        let votes = votes(world, author, valid_after);
        if world.chance.one_in(2) {
            for (at, target) in targets.iter().enumerate() {
                let vote = &votes[at % 2];
                let message = Message::Endorsement(chain(world, vote, &[]), Some(Arc::clone(vote)));
                let at_ms = just_before_end(world, *target, &rounds, 1, 1);
                world.send_at(at_ms, author, *target, message);
            }
        }
        for _ in 0..16 {
            let target = targets[pick(world, targets.len())];
            let vote = Arc::clone(&votes[pick(world, votes.len())]);
            let signers: Vec<_> = hostile
                .iter()
                .copied()
                .filter(|_| world.chance.one_in(2))
                .collect();
            let round = 1 + world.chance.below(u64::from(rounds.count()));
            let before_ms = match world.chance.below(3) {
                0 => 1 + world.chance.below(rounds.length_ms() - 1),
                1 => 1,
                _ => 0,
            };
            let at_ms = just_before_end(world, target, &rounds, round, before_ms);
            let body = (!world.chance.one_in(3)).then(|| Arc::clone(&vote));
            let message = Message::Endorsement(chain(world, &vote, &signers), body);
            world.send_at(at_ms, author, target, message);
        }
    }
}

fn pick(world: &mut World, among: usize) -> usize {
    let among = u64::try_from(among).unwrap();
    usize::try_from(world.chance.below(among)).unwrap()
}

/// A chain is told to one honest authority only, at the last moment of every round but the last, in every way. With one
/// signature too few the vote does not count. With enough signatures, the authority that heard it has a round to tell
/// the others.
#[test]
fn a_vote_held_back_until_the_last_moment_counts_with_all_or_none() {
    const T: UnixSecs = 7_200_000;
    for round in 1..=3u64 {
        for signers in [&[][..], &[1], &[0, 1]] {
            for early_ms in [0, 1] {
                for twofold in [false, true] {
                    let mut world = World::new(5, 3_600, (T - 2_000) * 1_000, 3);
                    world.delay_ms = 50_000;
                    for n in [0, 1] {
                        world.members[n].conduct = Conduct::Hostile;
                    }
                    (0..5).for_each(|n| world.upload(40, n, T - 2_000));
                    let rounds = Rounds::new(5, 3_600, T);
                    let votes = votes(&world, 0, T);
                    let at_ms = just_before_end(&world, 3, &rounds, round, early_ms);
                    for vote in &votes[..if twofold { 2 } else { 1 }] {
                        let chain = chain(&world, vote, signers);
                        let message = Message::Endorsement(chain, Some(Arc::clone(vote)));
                        world.send_at(at_ms, 0, 3, message);
                    }
                    world.run_until(T * 1_000 + 1);
                    world.agreed(T, &[2, 3, 4]);
                    let of = |n: usize| world.members[n].machine.period_accepted();
                    assert_eq!(of(2), of(3));
                    assert_eq!(of(3), of(4));
                    // At the very end of a round (early by nothing), the next round's number of signatures is required.
                    let need = round + u64::from(early_ms == 0);
                    let have = if signers.contains(&1) { 2 } else { 1 };
                    let counts = have >= need && (early_ms == 1 || round < 3);
                    let digests = of(3)
                        .iter()
                        .filter(|(author, _)| world.index(author) == 0)
                        .count();
                    let expected = if counts { 1 + usize::from(twofold) } else { 0 };
                    assert_eq!(
                        digests, expected,
                        "round {round}, {signers:?}, {early_ms} ms"
                    );
                    let proofs = world.members[3]
                        .machine
                        .proofs()
                        .get(&T)
                        .map_or(0, Vec::len);
                    assert_eq!(proofs, usize::from(twofold));
                }
            }
        }
    }
}

#[test]
fn different_votes_to_different_peers_cost_the_author_its_vote() {
    const T: UnixSecs = 2_000_000;
    // There are three authorities, with rounds of 250 ms.
    let mut world = World::new(3, 2, (T - 2) * 1_000 + 500, 5);
    world.delay_ms = 30;
    world.members[0].conduct = Conduct::Hostile;
    (0..3).for_each(|n| world.upload(40, n, T - 2));
    let votes = votes(&world, 0, T);
    for (target, vote) in [(1, &votes[0]), (2, &votes[1])] {
        let message = Message::Endorsement(chain(&world, vote, &[]), Some(Arc::clone(vote)));
        world.send_at((T - 1) * 1_000 + 100, 0, target, message);
    }
    world.run_until(T * 1_000 + 100);
    world.agreed(T, &[1, 2]);
    for n in [1, 2] {
        let proofs = &world.members[n].machine.proofs()[&T];
        assert_eq!(proofs.len(), 1);
        assert_eq!(world.index(&proofs[0].author()), 0);
        let bytes = cepa_common::dir::EquivocationProof::to_bytes(proofs).unwrap();
        let again = cepa_common::dir::EquivocationProof::parse_and_verify(&bytes, &world.network);
        assert_eq!(&again.unwrap(), proofs);
    }
    // The authority behaves again, and its vote counts again.
    world.members[0].conduct = Conduct::Honest;
    world.restart(0);
    world.upload(40, 0, T - 2);
    world.run_until((T + 2) * 1_000 + 100);
    world.agreed(T + 2, &[0, 1, 2]);
    assert!(
        world.members[1]
            .machine
            .period_accepted()
            .iter()
            .any(|(a, _)| world.index(a) == 0)
    );
}
