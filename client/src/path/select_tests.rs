use std::collections::{BTreeMap, BTreeSet, HashMap};

use cepa_common::dir::{ExitPolicy, FamilyMembership, IpVersion, RelayDescriptor};
use cepa_common::testkit::{self, consensus_of, identity, network_with, web_descriptor};
use ed25519_dalek::SigningKey;
use proptest::prelude::*;
use rand::SeedableRng;

use std::net::{IpAddr, SocketAddr};

use super::*;

/// A relay of the table with its number, weight and extra flags. The caller may change the rest.
fn relay(n: u8, weight: u32, flags: Flags) -> Relay {
    let mut descriptor = web_descriptor(n);
    descriptor.addresses = vec![([20, n, 0, 1], 9_000).into()];
    Relay {
        descriptor,
        weight,
        flags: Flags::VALID | Flags::RUNNING | flags,
    }
}

struct Relay {
    descriptor: RelayDescriptor,
    weight: u32,
    flags: Flags,
}

fn selector(relays: &[Relay], params: &[(&str, u32)]) -> PathSelector {
    let network = network_with(1, testkit::params(params));
    let entries = relays
        .iter()
        .map(|r| Entry::new(&r.descriptor, r.flags, r.weight))
        .collect();
    PathSelector::new(consensus_of(&network, 1_000, entries))
}

fn exits(count: u8) -> Vec<Relay> {
    (1..=count).map(|n| relay(n, 10, Flags::EXIT)).collect()
}

fn choose(selector: &PathSelector, request: &PathRequest<'_>) -> Result<Vec<RelayId>, PathError> {
    let path = selector.choose(&mut rand::rng(), request)?;
    Ok(path.hops().map(|entry| entry.identity).collect())
}

fn web() -> PathRequest<'static> {
    PathRequest::new(ExitTarget::V4(80))
}

fn no_relay(position: Position, rule: Rule) -> PathError {
    PathError::NoRelay { position, rule }
}

#[test]
fn errors_name_the_rule_that_left_none() {
    let empty = selector(&[], &[]);
    assert_eq!(
        choose(&empty, &web()),
        Err(no_relay(Position::Exit, Rule::Flags))
    );
    let mut middle_only = exits(3);
    middle_only
        .iter_mut()
        .for_each(|r| r.flags = Flags::VALID | Flags::RUNNING);
    let flags = no_relay(Position::Exit, Rule::Flags);
    assert_eq!(choose(&selector(&middle_only, &[]), &web()), Err(flags));
    let mut down = exits(3);
    down.iter_mut()
        .for_each(|r| r.flags = Flags::VALID | Flags::EXIT);
    let flags = no_relay(Position::Exit, Rule::Flags);
    assert_eq!(choose(&selector(&down, &[]), &web()), Err(flags));
    let three = selector(&exits(3), &[]);
    let policy = no_relay(Position::Exit, Rule::Policy);
    assert_eq!(
        choose(&three, &PathRequest::new(ExitTarget::V4(25))),
        Err(policy.clone())
    );
    assert_eq!(
        choose(&three, &PathRequest::new(ExitTarget::V6(80))),
        Err(policy)
    );
    let excluded = PathRequest {
        exclude: &|_| true,
        ..web()
    };
    assert_eq!(
        choose(&three, &excluded),
        Err(no_relay(Position::Exit, Rule::Excluded))
    );
    let two = selector(&exits(2), &[]);
    assert_eq!(
        choose(&two, &web()),
        Err(no_relay(Position::Middle, Rule::Repeat))
    );
    let one = selector(&exits(1), &[]);
    assert_eq!(
        choose(&one, &web()),
        Err(no_relay(Position::Entry, Rule::Repeat))
    );
    let mut light = exits(3);
    light.iter_mut().for_each(|r| r.weight = 0);
    let weight = no_relay(Position::Exit, Rule::Weight);
    assert_eq!(choose(&selector(&light, &[]), &web()), Err(weight));
    for hops in [0, 7, usize::MAX] {
        let request = PathRequest { hops, ..web() };
        assert_eq!(choose(&three, &request), Err(PathError::Hops(hops)));
    }
}

#[test]
fn datagrams_leave_where_the_summary_for_datagrams_says_so() {
    let policy = |text: &str| text.parse::<ExitPolicy>().unwrap().summary();
    let mut relays = exits(5);
    relays[0].descriptor.udp = policy("accept *4:53");
    relays[1].descriptor.udp = policy("accept *6:53");
    // Without the flag the relay is no exit, whatever it says.
    relays[2].descriptor.udp = policy("accept *:*");
    relays[2].flags = Flags::VALID | Flags::RUNNING;
    let relays = selector(&relays, &[]);
    let exits_for = |version, port| {
        let request = PathRequest::new(ExitTarget::Udp { version, port });
        let drawn = (0..200).map(|_| choose(&relays, &request).map(|path| path[2]));
        drawn.collect::<Result<BTreeSet<_>, _>>()
    };
    let relays = |numbers: &[u8]| Ok(numbers.iter().map(|n| identity(*n)).collect());
    assert_eq!(exits_for(Some(IpVersion::V4), 53), relays(&[1]));
    assert_eq!(exits_for(Some(IpVersion::V6), 53), relays(&[2]));
    assert_eq!(exits_for(None, 53), relays(&[1, 2]));
    // These exits let streams out to port 80, and no datagram.
    let policy = no_relay(Position::Exit, Rule::Policy);
    assert_eq!(exits_for(None, 80), Err(policy));
}

#[test]
fn subnets_count_unless_the_network_says_otherwise() {
    let mut near = exits(3);
    near.iter_mut()
        .for_each(|r| r.descriptor.addresses = vec![([20, 1, 7, 1], 9_000).into()]);
    let subnet = no_relay(Position::Entry, Rule::Subnet);
    assert_eq!(choose(&selector(&near, &[]), &web()), Err(subnet));
    assert_eq!(
        choose(&selector(&near, &[("subnet_rule", 0)]), &web())
            .unwrap()
            .len(),
        3
    );
    let v6 = |text: &str| vec![SocketAddr::new(text.parse().unwrap(), 9_000)];
    let mut near = exits(3);
    near.iter_mut()
        .for_each(|r| r.descriptor.addresses = v6("2600:1:2::1"));
    assert!(choose(&selector(&near, &[]), &web()).is_err());
    near[0].descriptor.addresses = v6("2600:2::1");
    near[1].descriptor.addresses = v6("2600:3::1");
    assert!(choose(&selector(&near, &[]), &web()).is_ok());
}

#[test]
fn families_stay_apart() {
    let family = SigningKey::from_bytes(&[77; 32]);
    let mut relays = exits(3);
    let network = network_with(1, BTreeMap::new()).network_id();
    for relay in &mut relays[..2] {
        let identity = relay.descriptor.identity;
        relay.descriptor.family = Some(FamilyMembership::new(&family, &network, &identity));
    }
    assert!(matches!(
        choose(&selector(&relays, &[]), &web()),
        Err(PathError::NoRelay {
            rule: Rule::Family | Rule::Repeat,
            ..
        })
    ));
    let two = PathRequest { hops: 2, ..web() };
    for _ in 0..50 {
        let path = choose(&selector(&relays, &[]), &two).unwrap();
        assert!(path.contains(&identity(3)));
    }
}

#[test]
fn guards_come_first_when_there_are_any() {
    let mut relays = exits(6);
    for guard in &mut relays[1..4] {
        guard.flags = guard.flags | Flags::GUARD;
    }
    let selector = selector(&relays, &[]);
    for _ in 0..100 {
        let path = choose(&selector, &web()).unwrap();
        assert!([identity(2), identity(3), identity(4)].contains(&path[0]));
    }
    // If no guard fits, another relay is better than no path.
    let guards = [identity(2), identity(3), identity(4)];
    let exclude = |id: &RelayId| guards.contains(id);
    assert!(
        choose(
            &selector,
            &PathRequest {
                exclude: &exclude,
                ..web()
            }
        )
        .is_ok()
    );
}

#[test]
fn a_first_relay_can_be_kept() {
    let selector = selector(&exits(4), &[]);
    let first = Some(identity(2));
    for hops in 1..=4 {
        let path = choose(
            &selector,
            &PathRequest {
                first,
                hops,
                ..web()
            },
        )
        .unwrap();
        assert_eq!(path[0], identity(2));
        assert_eq!(path.len(), hops);
    }
    let stranger = PathRequest {
        first: Some(identity(9)),
        ..web()
    };
    assert_eq!(choose(&selector, &stranger), Err(PathError::First));
    let excluded = PathRequest {
        first,
        exclude: &|_| true,
        ..web()
    };
    assert_eq!(choose(&selector, &excluded), Err(PathError::First));
}

#[test]
fn frequencies_follow_weights() {
    let mut relays = exits(4);
    for (relay, weight) in relays.iter_mut().zip([100, 200, 300, 0]) {
        relay.weight = weight;
    }
    let selector = selector(&relays, &[]);
    let request = PathRequest { hops: 1, ..web() };
    let mut counts: HashMap<RelayId, u32> = HashMap::new();
    for _ in 0..6_000 {
        *counts
            .entry(choose(&selector, &request).unwrap()[0])
            .or_default() += 1;
    }
    // Six standard deviations of a count around 1,000 to 3,000 are about 240.
    for (n, expected) in [(1, 1_000), (2, 2_000), (3, 3_000)] {
        let count = counts[&identity(n)];
        assert!(count.abs_diff(expected) < 240, "{n}: {count}");
    }
    assert!(!counts.contains_key(&identity(4)));
}

#[test]
fn rare_fits_are_found_with_their_own_weights() {
    // One relay has nearly all the weight and is excluded. The draws miss, and the look at all candidates decides.
    let mut relays = exits(3);
    relays[0].weight = u32::MAX;
    let selector = selector(&relays, &[]);
    let heavy = identity(1);
    let exclude = |id: &RelayId| *id == heavy;
    let request = PathRequest {
        hops: 1,
        exclude: &exclude,
        ..web()
    };
    let seconds = (0..1_000).filter(|_| choose(&selector, &request).unwrap()[0] == identity(2));
    let seconds = seconds.count();
    assert!((400..600).contains(&seconds), "{seconds}");
}

#[test]
fn a_caller_s_guard_keeps_the_rules() {
    let selector = selector(&exits(4), &[]);
    let two = identity(2);
    let guard = |_: &Entry| Some(two);
    let request = PathRequest {
        guard: Some(&guard),
        ..web()
    };
    for _ in 0..100 {
        // An exit that is the guard itself is given up for another exit.
        let path = choose(&selector, &request).unwrap();
        assert!(path[0] == two && path[2] != two);
    }
    for none in [None, Some(identity(9))] {
        let guard = |_: &Entry| none;
        let request = PathRequest {
            guard: Some(&guard),
            ..web()
        };
        assert_eq!(choose(&selector, &request), Err(PathError::NoGuard));
    }
    assert!(selector.may_share_path(&identity(1), &two));
    assert!(!selector.may_share_path(&two, &two));
    assert!(!selector.may_share_path(&two, &identity(9)));
}

#[test]
fn long_lived_ports_get_stable_relays_where_there_are_enough() {
    let relays = |stable| -> Vec<Relay> {
        let flags = |n| Flags::EXIT.with_if(Flags::STABLE, n <= stable);
        (1..=8).map(|n| relay(n, 10, flags(n))).collect()
    };
    let enough = selector(&relays(4), &[]);
    let request = PathRequest {
        stable: true,
        ..web()
    };
    for _ in 0..200 {
        let path = choose(&enough, &request).unwrap();
        assert!(
            path[1..]
                .iter()
                .all(|id| (1..=4).any(|n| identity(n) == *id))
        );
    }
    assert!(choose(&selector(&relays(1), &[]), &request).is_ok());
    assert!(PathRequest::new(ExitTarget::V4(22)).stable && !web().stable);
    assert!(!PathRequest::new(ExitTarget::Any).stable);
}

/// A network with all classes of relays, with families and crowded networks, and with weights from 1 to 1,000.
fn mixed_network(relays: u32) -> PathSelector {
    let network = network_with(1, BTreeMap::new());
    let families: Vec<_> = (1..4u8)
        .map(|n| SigningKey::from_bytes(&[200 + n; 32]))
        .collect();
    let template = web_descriptor(1);
    let entries = (0..relays).map(|n| {
        let mut descriptor = template.clone();
        let [.., high, low] = n.to_be_bytes();
        descriptor.identity = RelayId([[high, low], [7, 7]].concat().repeat(8).try_into().unwrap());
        // Each /16 has four relays.
        descriptor.addresses = vec![([20 + high, low / 4, low, 1], 9_000).into()];
        if n.is_multiple_of(17) {
            let family = &families[(n / 17 % 3) as usize];
            let membership =
                FamilyMembership::new(family, &network.network_id(), &descriptor.identity);
            descriptor.family = Some(membership);
        }
        let flags = (Flags::VALID | Flags::RUNNING)
            .with_if(Flags::GUARD, n % 5 < 2)
            .with_if(Flags::EXIT, n % 7 < 2)
            .with_if(Flags::STABLE, n % 3 != 0);
        Entry::new(&descriptor, flags, 1 + n * 7_919 % 1_000)
    });
    let entries = entries.collect();
    PathSelector::new(consensus_of(&network, 1_000, entries))
}

/// A million paths keep every rule, and positions follow their weights (S41).
#[test]
fn a_million_paths() {
    let selector = mixed_network(600);
    let entries = selector.consensus().entries();
    let mut rng = rand::rngs::StdRng::seed_from_u64(1);
    let mut counts = vec![[0u32; 3]; entries.len()];
    let request = web();
    let paths = 1_000_000u32;
    for _ in 0..paths {
        let path = selector.choose(&mut rng, &request).unwrap();
        let [entry, middle, exit] = path.hops[..] else {
            panic!("a path of three")
        };
        for (one, other) in [(entry, middle), (entry, exit), (middle, exit)] {
            assert!(one != other);
            let (one, other) = (&entries[one], &entries[other]);
            assert!(one.family.is_none() || one.family != other.family);
            assert!(!share_subnet(one, other));
        }
        assert!(entries[entry].flags.contains(Flags::GUARD));
        assert!(entries[exit].flags.contains(Flags::EXIT) && entries[exit].policy.allows_v4(80));
        for (position, n) in [entry, middle, exit].into_iter().enumerate() {
            counts[n][position] += 1;
        }
    }
    // The exit is drawn first, so its frequencies follow its weights exactly. The test is chi-square over all exits.
    let share = |position, n: usize| {
        u64::from(entries[n].weight) * selector.weights().share(position, entries[n].flags)
    };
    let has = |n: &usize, flag| entries[*n].flags.contains(flag);
    let exits = || (0..entries.len()).filter(|n| has(n, Flags::EXIT));
    let total: u64 = exits().map(|n| share(Position::Exit, n)).sum();
    let chi: f64 = exits()
        .map(|n| {
            let expected = share(Position::Exit, n) as f64 / total as f64 * f64::from(paths);
            (f64::from(counts[n][2]) - expected).powi(2) / expected
        })
        .sum();
    // There is one degree of freedom less than there are exits. The bound is four standard deviations above.
    let freedom = exits().count() as f64 - 1.0;
    assert!(
        chi < freedom + 4.0 * (2.0 * freedom).sqrt(),
        "{chi} of {freedom}"
    );
    // The other relays are drawn among those that the exit leaves, so they differ from their weights by a few
    // hundredths.
    for (position, column) in [(Position::Entry, 0), (Position::Middle, 1)] {
        let total: u64 = (0..entries.len())
            .map(|n| {
                if position == Position::Middle || has(&n, Flags::GUARD) {
                    share(position, n)
                } else {
                    0
                }
            })
            .sum();
        for (n, count) in counts
            .iter()
            .enumerate()
            .filter(|(n, _)| entries[*n].family.is_none() && share(position, *n) > 0)
        {
            let expected = share(position, n) as f64 / total as f64 * f64::from(paths);
            let off = (f64::from(count[column]) - expected).abs();
            assert!(
                off < 0.08 * expected + 6.0 * expected.sqrt() + 5.0,
                "{n} {position}: {count:?} {expected}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_path_keeps_every_rule(
        specs in proptest::collection::vec((0u32..4, any::<[bool; 3]>(), 0u8..4), 1..20),
        hops in 1usize..=6,
        excluded in 1u8..20,
    ) {
        let relays: Vec<_> = (1u8..).zip(&specs).map(|(n, (weight, [exit, guard, v6], net))| {
            let flags = Flags::NONE.with_if(Flags::EXIT, *exit).with_if(Flags::GUARD, *guard);
            let mut relay = relay(n, *weight, flags);
            if *v6 {
                let ip: IpAddr = format!("2600:{net}::1").parse().unwrap();
                relay.descriptor.addresses = vec![(ip, 1).into()];
            } else {
                relay.descriptor.addresses = vec![([20, *net, n, 1], 1).into()];
            }
            relay
        }).collect();
        let selector = selector(&relays, &[]);
        let excluded = identity(excluded);
        let exclude = |id: &RelayId| *id == excluded;
        let request = PathRequest { hops, exclude: &exclude, ..web() };
        if let Ok(path) = selector.choose(&mut rand::rng(), &request) {
            let entries: Vec<_> = path.hops().collect();
            prop_assert_eq!(entries.len(), hops);
            for (n, entry) in entries.iter().enumerate() {
                prop_assert!(entry.weight > 0 && entry.identity != excluded);
                for other in &entries[..n] {
                    prop_assert!(entry.identity != other.identity);
                    prop_assert!(!share_subnet(entry, other));
                }
            }
            let exit = entries[hops - 1];
            prop_assert!(exit.flags.contains(Flags::EXIT) && exit.policy.allows_v4(80));
        }
    }
}
