//! Turns votes into a consensus. The same votes in any order give the same bytes (docs/protocol.md, 6.8; S26).

use std::borrow::Borrow;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::document::{SignedVote, VoteEntry};
use crate::dir::consensus::{ConsensusBody, Entry, Lifetime, RandomValue, random::MAX_VALUES};
use crate::dir::network::{NETWORK_REVISION, NetworkFile, Params};
use crate::dir::relay::{Flags, SignedDescriptor};
use crate::dir::signed::Digest;
use crate::ids::RelayId;

/// Number of measurements that a weight needs. With fewer, the relay's own capped claim counts (6.8.6).
const MIN_MEASUREMENTS: usize = 3;

/// Why votes do not yield a consensus.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TallyError {
    /// At most half of the authorities voted for these times.
    #[error("{have} votes of {need} needed")]
    TooFewVotes {
        /// Authorities with one vote for these times.
        have: usize,
        /// Votes needed.
        need: usize,
    },
}

/// What one authority's vote says about one relay.
type Listing<'a> = (&'a VoteEntry, &'a Arc<SignedDescriptor>);

/// Makes the consensus from the votes for one lifetime.
///
/// Votes for other times do not count. If an author has two different votes, neither counts: nobody can know which of
/// them the others hold.
///
/// # Errors
/// [`TallyError::TooFewVotes`] if at most half of the authorities voted.
pub fn tally<V: Borrow<SignedVote>>(
    network: &NetworkFile,
    lifetime: Lifetime,
    votes: &[V],
) -> Result<ConsensusBody, TallyError> {
    let votes = one_to_an_author(lifetime, votes.iter().map(Borrow::borrow));
    let need = network.majority();
    if votes.len() < need {
        return Err(TallyError::TooFewVotes {
            have: votes.len(),
            need,
        });
    }
    let params = tally_params(network, &votes);
    let pairs = network.param_pairs().iter().chain(&params);
    let effective = Params::from_pairs(pairs.map(|(name, value)| (name.as_str(), *value)));
    let mut relays: BTreeMap<RelayId, Vec<Listing<'_>>> = BTreeMap::new();
    for listing in votes.values().flat_map(|vote| vote.entries()) {
        relays
            .entry(listing.1.descriptor().identity)
            .or_default()
            .push(listing);
    }
    let entries = relays
        .values()
        .filter(|listings| listings.len() >= need)
        .filter_map(|listings| tally_relay(network, listings, effective.max_unmeasured_weight))
        .collect();
    Ok(ConsensusBody {
        lifetime,
        params,
        entries,
        values: tally_values(&votes, need),
    })
}

fn one_to_an_author<'a>(
    lifetime: Lifetime,
    votes: impl Iterator<Item = &'a SignedVote>,
) -> BTreeMap<RelayId, &'a SignedVote> {
    let mut by_author: BTreeMap<RelayId, Option<&SignedVote>> = BTreeMap::new();
    for vote in votes.filter(|vote| vote.vote().lifetime == lifetime) {
        by_author
            .entry(vote.vote().authority)
            .and_modify(|held| *held = held.filter(|held| held.digest() == vote.digest()))
            .or_insert(Some(vote));
    }
    by_author
        .into_iter()
        .filter_map(|(author, vote)| Some((author, vote?)))
        .collect()
}

/// The value at index floor((n - 1) / 2) of n sorted values. An authority of the n that says nothing counts as
/// `unsaid`.
///
/// At most that many authorities are faulty. So at least one value of an authority that is not faulty, said or unsaid,
/// is at or below the result, and one is at or above (6.8.7).
fn middle_of_all(mut said: Vec<u32>, unsaid: u32, n: usize) -> Option<u32> {
    said.resize(n.max(said.len()), unsaid);
    low_median(said)
}

/// The parameters that more than half of all authorities name, each with the middle one of all authorities' values
/// (6.8.2).
fn tally_params(
    network: &NetworkFile,
    votes: &BTreeMap<RelayId, &SignedVote>,
) -> BTreeMap<String, u32> {
    let defaults = network.params();
    let unsaid = |name: &str| match name {
        NETWORK_REVISION => Some(0),
        name => defaults
            .get(name)
            .or_else(|| network.param_pairs().get(name).copied()),
    };
    let mut values: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
    for (name, value) in votes.values().flat_map(|vote| &vote.vote().params) {
        values.entry(name).or_default().push(*value);
    }
    values
        .into_iter()
        .filter(|(_, values)| values.len() >= network.majority())
        .filter_map(|(name, values)| {
            let value = match unsaid(name) {
                Some(unsaid) => middle_of_all(values, unsaid, network.authorities().len()),
                None => low_median(values),
            };
            Some((name.to_owned(), value?))
        })
        .take(crate::dir::network::MAX_PARAMS)
        .collect()
}

/// The random values that more than half of all authorities list; if there are more than two, those of the highest
/// periods.
fn tally_values(votes: &BTreeMap<RelayId, &SignedVote>, need: usize) -> Vec<RandomValue> {
    let mut counts: BTreeMap<RandomValue, usize> = BTreeMap::new();
    for value in votes.values().flat_map(|vote| &vote.vote().values) {
        *counts.entry(*value).or_default() += 1;
    }
    let mut values: Vec<_> = counts
        .into_iter()
        .filter_map(|(value, count)| (count >= need).then_some(value))
        .collect();
    values.drain(..values.len().saturating_sub(MAX_VALUES));
    values
}

fn low_median(mut values: Vec<u32>) -> Option<u32> {
    values.sort_unstable();
    values.get(values.len().checked_sub(1)? / 2).copied()
}

/// The entry of a relay that more than half list, with the descriptor that most of them name; of equals, the newest; of
/// those, the one with the lowest digest.
fn tally_relay(network: &NetworkFile, listings: &[Listing<'_>], weight_cap: u32) -> Option<Entry> {
    let mut counts: BTreeMap<Digest, (usize, &SignedDescriptor)> = BTreeMap::new();
    for (_, signed) in listings {
        counts.entry(signed.digest()).or_insert((0, signed)).0 += 1;
    }
    let (_, (_, winner)) = counts.into_iter().max_by_key(|(digest, (count, signed))| {
        (*count, signed.descriptor().published, Reverse(*digest))
    })?;
    let descriptor = winner.descriptor();
    let flags = Flags::all()
        .filter(|flag| {
            let set = listings
                .iter()
                .filter(|(entry, _)| entry.flags.contains(*flag))
                .count();
            set >= network.majority()
        })
        .filter(|flag| *flag != Flags::EXIT || !descriptor.policy.is_reject_all())
        .fold(Flags::NONE, |flags, flag| flags | flag);
    let measured: Vec<u32> = listings
        .iter()
        .filter_map(|(entry, _)| entry.measured)
        .collect();
    let claim = descriptor.bandwidth.min(weight_cap);
    let weight = if measured.len() >= MIN_MEASUREMENTS {
        middle_of_all(measured, claim, network.authorities().len())?
    } else {
        claim
    };
    Some(Entry::new(descriptor, flags, weight))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dir::{SignedConsensus, Vote};
    use crate::testkit::{self, identity, lifetime, network, signing_key};

    fn sign(network: &NetworkFile, author: u8, edit: impl FnOnce(&mut Vote)) -> SignedVote {
        let mut vote = testkit::vote(network, author, &[1, 2, 3]);
        edit(&mut vote);
        vote.sign(network, &signing_key(author)).unwrap()
    }

    fn keep(vote: &mut Vote, network: &NetworkFile, relays: &[u8]) {
        vote.entries = testkit::vote(network, 1, relays).entries;
    }

    fn entry(body: &ConsensusBody, n: u8) -> Option<&Entry> {
        body.entries
            .iter()
            .find(|entry| entry.identity == identity(n))
    }

    #[test]
    fn more_than_half_of_all_authorities_list_a_relay() {
        let network = network(4);
        let votes = [
            sign(&network, 1, |_| ()),
            sign(&network, 2, |vote| keep(vote, &network, &[1, 2])),
            sign(&network, 3, |vote| keep(vote, &network, &[1])),
        ];
        let body = tally(&network, lifetime(1_000), &votes).unwrap();
        // Relay 2 has two of the three votes, but not more than half of the four authorities.
        assert_eq!(body.entries.len(), 1);
        assert!(entry(&body, 1).is_some());
        assert!(SignedConsensus::unsigned(&body, &network.network_id()).is_ok());
    }

    #[test]
    fn too_few_votes_and_those_of_other_times() {
        let network = network(4);
        let mut votes = vec![sign(&network, 1, |_| ()), sign(&network, 2, |_| ())];
        votes.push(sign(&network, 3, |vote| vote.lifetime = lifetime(1_002)));
        let few = Err(TallyError::TooFewVotes { have: 2, need: 3 });
        assert_eq!(tally(&network, lifetime(1_000), &votes), few);
        votes.push(sign(&network, 4, |_| ()));
        assert!(tally(&network, lifetime(1_000), &votes).is_ok());
        // The same vote twice counts as one vote; two different votes count as none.
        votes.push(sign(&network, 4, |_| ()));
        assert!(tally(&network, lifetime(1_000), &votes).is_ok());
        votes.push(sign(&network, 4, |vote| vote.entries.clear()));
        assert_eq!(tally(&network, lifetime(1_000), &votes), few);
        votes.push(sign(&network, 4, |_| ()));
        assert_eq!(tally(&network, lifetime(1_000), &votes), few);
    }

    #[test]
    fn the_descriptor_that_most_name_wins_then_the_newest_then_the_lowest() {
        let network = network(4);
        let with = |author: u8, published: u64, bandwidth: u32| {
            let mut descriptor = testkit::descriptor(1);
            (descriptor.published, descriptor.bandwidth) = (published, bandwidth);
            let signed = descriptor
                .sign(&network.network_id(), &testkit::link_key(1))
                .unwrap();
            let entry = testkit::vote_entry(&signed);
            (
                signed.digest(),
                sign(&network, author, |vote| vote.entries = vec![entry]),
            )
        };
        let weight = |votes: &[(Digest, SignedVote)]| {
            let votes: Vec<_> = votes.iter().map(|(_, vote)| vote.clone()).collect();
            tally(&network, lifetime(1_000), &votes).unwrap().entries[0].weight
        };
        assert_eq!(weight(&[with(1, 9, 1), with(2, 5, 2), with(3, 5, 2)]), 2);
        assert_eq!(
            weight(&[with(1, 9, 1), with(2, 5, 2), with(3, 5, 2), with(4, 9, 1)]),
            1
        );
        let (a, b) = (with(1, 5, 3), with(2, 5, 4));
        let lowest = if a.0 < b.0 { 3 } else { 4 };
        assert_eq!(weight(&[a, b, with(3, 5, 3), with(4, 5, 4)]), lowest);
    }

    #[test]
    fn weights_flags_and_parameters() {
        let network = network(3);
        let vote = |author: u8, measured: Option<u32>, flags: Flags, param: Option<u32>| {
            sign(&network, author, |vote| {
                for entry in &mut vote.entries {
                    (entry.measured, entry.flags) = (measured, flags);
                }
                if let Some(value) = param {
                    vote.params
                        .insert("max_unmeasured_weight".to_owned(), value);
                }
            })
        };
        let (valid, fast) = (Flags::VALID, Flags::VALID | Flags::FAST);
        let votes = [
            vote(1, Some(5), valid, Some(300)),
            vote(2, Some(9_000), fast, Some(200)),
            vote(3, Some(7), fast, None),
        ];
        let body = tally(&network, lifetime(1_000), &votes).unwrap();
        assert_eq!(entry(&body, 1).unwrap().weight, 7);
        assert_eq!(entry(&body, 1).unwrap().flags, fast);
        // Authority 3 names no value, which counts as the default of 20,000.
        assert_eq!(
            body.params,
            [("max_unmeasured_weight".to_owned(), 300)].into()
        );
        let body = tally(&network, lifetime(1_000), &votes[..2]).unwrap();
        // Two measurements are too few, so the claim of 1,000 counts, capped by the parameter that was just voted.
        assert_eq!(entry(&body, 1).unwrap().weight, 300);
        assert_eq!(entry(&body, 1).unwrap().flags, valid);
        let body = tally(&network, lifetime(1_000), &votes[1..]).unwrap();
        assert_eq!(body.params, [].into());
        assert_eq!(entry(&body, 1).unwrap().weight, 1_000);
    }

    /// Two liars and one honest authority of five list a relay; the other two do not.
    fn two_liars_of_five(honest: Option<u32>, lie: u32) -> ConsensusBody {
        let network = network(5);
        let bad = Flags::VALID | Flags::GUARD | Flags::EXIT;
        let vote = |author: u8, measured: Option<u32>, flags: Flags| {
            sign(&network, author, |vote| {
                for entry in &mut vote.entries {
                    (entry.measured, entry.flags) = (measured, flags);
                }
            })
        };
        let silent = |author: u8| sign(&network, author, |vote| vote.entries.clear());
        let votes = [
            vote(1, honest, Flags::VALID),
            vote(2, Some(lie), bad),
            vote(3, Some(lie), bad),
            silent(4),
            silent(5),
        ];
        tally(&network, lifetime(1_000), &votes).unwrap()
    }

    #[test]
    fn a_minority_sets_no_flag_and_no_weight() {
        for lie in [0, u32::MAX] {
            let body = two_liars_of_five(Some(900), lie);
            let listed = entry(&body, 1).unwrap();
            assert_eq!(listed.flags, Flags::VALID);
            // For the two authorities that are silent, the claim of 1,000 counts.
            assert!((900..=1_000).contains(&listed.weight), "{}", listed.weight);
            assert_eq!(
                entry(&two_liars_of_five(None, lie), 1).unwrap().weight,
                1_000
            );
        }
    }

    #[test]
    fn a_minority_sets_no_parameter() {
        let network = network(5);
        let vote = |author: u8, value: Option<u32>| {
            sign(&network, author, |vote| {
                let name = "circuit_window_cells".to_owned();
                vote.params = value.map(|value| (name, value)).into_iter().collect();
            })
        };
        for (lie, expected) in [(0, 2_000), (u32::MAX, 2_048)] {
            let votes = [
                vote(1, Some(2_000)),
                vote(2, Some(lie)),
                vote(3, Some(lie)),
                vote(4, None),
            ];
            let body = tally(&network, lifetime(1_000), &votes).unwrap();
            // For authority 4, and for authority 5, which did not vote, the default of 2,048 counts.
            assert_eq!(body.params["circuit_window_cells"], expected);
        }
    }

    #[test]
    fn silence_counts_as_what_the_networks_file_says() {
        let network = testkit::network_with(
            3,
            [("circuit_window_cells", 500), ("of_the_future", 7)]
                .map(|(name, value)| (name.to_owned(), value))
                .into(),
        );
        let vote = |author: u8, value: u32| {
            sign(&network, author, |vote| {
                let names = [
                    "circuit_window_cells",
                    "of_the_future",
                    "unknown",
                    NETWORK_REVISION,
                ];
                vote.params = names.map(|name| (name.to_owned(), value)).into();
            })
        };
        let body = tally(&network, lifetime(1_000), &[vote(1, 900), vote(2, 900)]).unwrap();
        assert!(
            body.params.values().all(|value| *value == 900),
            "{:?}",
            body.params
        );
        let body = tally(&network, lifetime(1_000), &[vote(1, 900), vote(2, 3)]).unwrap();
        let expected = [
            ("circuit_window_cells", 500),
            ("of_the_future", 7),
            ("unknown", 3),
            (NETWORK_REVISION, 3),
        ];
        assert_eq!(
            body.params,
            expected
                .map(|(name, value)| (name.to_owned(), value))
                .into()
        );
    }

    #[test]
    fn a_random_value_needs_more_than_half() {
        let network = network(4);
        let value = |period: u32, byte: u8| RandomValue {
            period,
            value: [byte; 32],
        };
        let vote = |author: u8, values: &[RandomValue]| {
            sign(&network, author, |vote| vote.values = values.to_vec())
        };
        let votes = [
            vote(1, &[value(1, 1), value(2, 2)]),
            vote(2, &[value(1, 1), value(2, 2)]),
            vote(3, &[value(1, 1), value(2, 9)]),
            vote(4, &[value(2, 2), value(3, 3)]),
        ];
        let body = tally(&network, lifetime(1_000), &votes).unwrap();
        assert_eq!(body.values, [value(1, 1), value(2, 2)]);
        let body = tally(&network, lifetime(1_000), &votes[1..]).unwrap();
        assert_eq!(body.values, []);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn order_does_not_matter(
            lists in proptest::collection::vec(
                (proptest::collection::btree_set(1u8..6, 0..5), any::<Option<u32>>()),
                5,
            ),
            shuffle in Just((0..5usize).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            let network = network(5);
            let votes: Vec<_> = (1u8..)
                .zip(&lists)
                .map(|(author, (relays, measured))| {
                    sign(&network, author, |vote| {
                        keep(vote, &network, &relays.iter().copied().collect::<Vec<_>>());
                        for entry in &mut vote.entries {
                            entry.measured = *measured;
                        }
                    })
                })
                .collect();
            let shuffled: Vec<_> = shuffle.iter().map(|n| votes[*n].clone()).collect();
            let body = tally(&network, lifetime(1_000), &votes).unwrap();
            prop_assert_eq!(&body, &tally(&network, lifetime(1_000), &shuffled).unwrap());
            for relay in 1u8..6 {
                let listed = lists.iter().filter(|(relays, _)| relays.contains(&relay)).count();
                prop_assert_eq!(entry(&body, relay).is_some(), listed >= 3);
            }
        }
    }
}
