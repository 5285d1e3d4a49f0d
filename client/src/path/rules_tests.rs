use std::collections::BTreeMap;
use std::sync::Arc;

use cepa_common::dir::{Flags, IpVersion};
use cepa_common::stream::StreamHost;
use cepa_common::testkit::{self, consensus_of, identity, network_with, web_descriptor};
use proptest::prelude::*;

use super::*;
use crate::path::{PathError, PathRequest, PathSelector};

/// A consensus of relays 1 to `count` at 20.n.0.1, all of them fit for every position.
fn consensus(count: u8) -> Arc<Consensus> {
    let entries = (1..=count).map(|n| {
        let mut relay = web_descriptor(n);
        relay.addresses = vec![([20, n, 0, 1], 9_000).into()];
        let flags = Flags::VALID | Flags::RUNNING | Flags::EXIT | Flags::GUARD | Flags::STABLE;
        Entry::new(&relay, flags, 10)
    });
    consensus_of(&network_with(1, BTreeMap::new()), 1_000, entries.collect())
}

fn selector(count: u8, rules: PeerRules) -> PathSelector {
    PathSelector::with_rules(consensus(count), Arc::new(rules))
}

fn sets(relays: &[u8]) -> Vec<PeerSet> {
    let range = |n: &u8| format!("20.{n}.0.0/16").parse().unwrap();
    relays.iter().map(range).collect()
}

fn only(relays: &[u8]) -> PeerLists {
    PeerLists {
        only: sets(relays),
        ..Default::default()
    }
}

fn avoid(relays: &[u8]) -> PeerLists {
    PeerLists {
        avoid: sets(relays),
        ..Default::default()
    }
}

fn web() -> PathRequest<'static> {
    PathRequest::new(ExitTarget::V4(443))
}

/// The numbers of the relays that a path goes through.
fn path(selector: &PathSelector, request: &PathRequest<'_>) -> Result<Vec<u8>, PathError> {
    let path = selector.choose(&mut rand::rng(), request)?;
    let number = |entry: &Entry| (1..=255).find(|n| identity(*n) == entry.identity).unwrap();
    Ok(path.hops().map(number).collect())
}

fn refusal(result: Result<Vec<u8>, PathError>) -> String {
    match result {
        Err(PathError::Rule(error)) => error.to_string(),
        other => format!("{other:?}"),
    }
}

#[test]
fn a_list_that_leaves_none_is_named_with_what_it_emptied() {
    let chosen = |rules: PeerRules, request: &PathRequest<'_>| {
        let selector = selector(4, rules);
        (selector.check().is_err(), refusal(path(&selector, request)))
    };
    let rules = PeerRules {
        exit: only(&[9]),
        ..Default::default()
    };
    let text = "client.exit_only = [20.9.0.0/16] leaves none of the 4 exits for port 443 of IPv4";
    assert_eq!(chosen(rules, &web()), (true, text.to_owned()));
    let rules = PeerRules {
        middle: avoid(&[1, 2, 3, 4]),
        ..Default::default()
    };
    let text = "client.middle_avoid = [20.1.0.0/16, 20.2.0.0/16, 20.3.0.0/16, 20.4.0.0/16] \
                leaves none of the 4 relays fit for the middle";
    assert_eq!(chosen(rules, &web()), (true, text.to_owned()));
    // What the relays would be is said as it was asked for.
    let none = |target| {
        let rules = PeerRules {
            exit: only(&[9]),
            ..Default::default()
        };
        let entry = Entry::new(&testkit::descriptor(1), Flags::EXIT, 10);
        let blamed = rules.blame(Position::Exit, None, target, [&entry].into_iter());
        blamed.map(|error| error.to_string())
    };
    for (version, of) in [
        (Some(IpVersion::V4), " of IPv4"),
        (Some(IpVersion::V6), " of IPv6"),
        (None, ""),
    ] {
        let text = format!(
            "client.exit_only = [20.9.0.0/16] leaves none of the 1 exits for datagrams to port 53{of}"
        );
        assert_eq!(none(ExitTarget::Udp { version, port: 53 }), Some(text));
    }
    // `only` leaves one relay, and `avoid` takes that one away.
    let entry = PeerLists {
        avoid: sets(&[2]),
        ..only(&[2])
    };
    let rules = PeerRules {
        entry,
        ..Default::default()
    };
    let text = "client.entry_avoid = [20.2.0.0/16] leaves none of the 1 relays fit for a first hop";
    assert_eq!(chosen(rules.clone(), &web()), (true, text.to_owned()));
    // The error is the same when somebody else keeps the guards, and for a path of one hop.
    let guard = |_: &Entry| None;
    let kept = PathRequest {
        guard: Some(&guard),
        ..web()
    };
    assert_eq!(chosen(rules.clone(), &kept).1, text);
    let alone = PathRequest { hops: 1, ..web() };
    assert_eq!(chosen(rules, &alone).1, text);
    let rules = PeerRules {
        exit: only(&[1, 2]),
        destinations: vec![".example.com only 20.3.0.0/16".parse().unwrap()],
        ..Default::default()
    };
    let there = PathRequest {
        rule: Some(0),
        ..web()
    };
    let text = "client.destinations[0] only = [20.3.0.0/16] leaves none of the 2 exits for port 443 of IPv4";
    assert_eq!(chosen(rules.clone(), &there), (true, text.to_owned()));
    assert!(path(&selector(4, rules), &web()).is_ok());
}

#[test]
fn the_only_hop_need_not_be_fit_for_a_guard() {
    let entries = (1..=6).map(|n| {
        let mut relay = web_descriptor(n);
        relay.addresses = vec![([20, n, 0, 1], 9_000).into()];
        let flags = Flags::VALID | Flags::RUNNING | Flags::EXIT;
        Entry::new(&relay, flags.with_if(Flags::GUARD, n > 1), 10)
    });
    let consensus = consensus_of(&network_with(1, BTreeMap::new()), 1_000, entries.collect());
    let with_hops = |hops| {
        let rules = PeerRules {
            entry: only(&[1]),
            hops,
            ..Default::default()
        };
        PathSelector::with_rules(Arc::clone(&consensus), Arc::new(rules))
    };
    assert!(with_hops(3).check().is_err());
    let alone = with_hops(1);
    alone.check().unwrap();
    let request = PathRequest { hops: 1, ..web() };
    assert_eq!(path(&alone, &request).unwrap(), [1]);
}

#[test]
fn what_no_network_could_keep_is_refused_at_once() {
    let hops = |hops| PeerRules {
        hops,
        ..Default::default()
    };
    assert!((1..=5).all(|n| hops(n).check().is_ok()));
    assert_eq!(hops(0).check(), Err(RuleError::Hops(0)));
    assert_eq!(hops(6).check(), Err(RuleError::Hops(6)));
    let rules = PeerRules {
        guards: Some(0),
        ..Default::default()
    };
    assert_eq!(rules.check(), Err(RuleError::Guards(0)));
    let rule: DestinationRule = "example.com avoid country:DE".parse().unwrap();
    let rules = PeerRules {
        destinations: vec![rule],
        ..Default::default()
    };
    assert_eq!(
        rules.check().unwrap_err().to_string(),
        "client.destinations[0] names country:de, and there is no client.geoip to say where relays are"
    );
}

#[test]
fn destinations_get_the_first_rule_that_fits() {
    let rule = |text: &str| text.parse::<DestinationRule>();
    let rules = PeerRules {
        destinations: vec![
            rule("a.example,b.example:22 only 20.1.0.0/16 prefer 20.2.0.0/16 avoid 20.3.0.0/16")
                .unwrap(),
            rule(".example prefer 20.4.0.0/16").unwrap(),
        ],
        ..Default::default()
    };
    assert_eq!(rules.destinations[0].destinations.len(), 2);
    assert_eq!(rules.destinations[0].exits.avoid, sets(&[3]));
    let rule_for = |name: &str, port| {
        let host = StreamHost::Name(name.to_owned());
        rules.rule_for(&StreamTarget::Host(host, port))
    };
    assert_eq!(rule_for("a.example", 80), Some(0));
    assert_eq!(rule_for("b.example", 22), Some(0));
    assert_eq!(rule_for("b.example", 80), Some(1));
    assert_eq!(rule_for("a.test", 80), None);
    assert_eq!(rules.rule_for(&StreamTarget::Directory), None);
    for bad in [
        "",
        "a.example",
        "a.example only",
        "a.example 20.1.0.0/16",
        "a.example only x",
        "a b only 20.1.0.1",
    ] {
        assert!(rule(bad).is_err(), "{bad}");
    }
}

#[test]
fn preferred_relays_are_chosen_eight_times_as_often() {
    let prefer = PeerLists {
        prefer: sets(&[1]),
        ..Default::default()
    };
    let rules = PeerRules {
        exit: prefer,
        destinations: vec!["a.example prefer 20.2.0.0/16".parse().unwrap()],
        ..Default::default()
    };
    let selector = selector(9, rules);
    for (rule, preferred) in [(None, 1), (Some(0), 2)] {
        let request = PathRequest { rule, ..web() };
        let exits = (0..4_000).map(|_| path(&selector, &request).unwrap()[2]);
        let count = exits.filter(|exit| *exit == preferred).count();
        // One relay counts eight times among eight that count once, so it is chosen half of the time.
        assert!((1_850..2_150).contains(&count), "{preferred}: {count}");
    }
}

#[test]
fn countries_are_those_of_the_file() {
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/reference/countries.mmdb"
    );
    let exit = PeerLists {
        only: vec!["country:fr".parse().unwrap()],
        ..Default::default()
    };
    let rules = PeerRules {
        exit,
        geoip: Some(GeoIp::open(&cepa_common::world::Disk::Real, file.as_ref()).unwrap()),
        ..Default::default()
    };
    rules.check().unwrap();
    // The file says that 20.2.0.0/16 and 20.3.0.0/16 are in France.
    let selector = selector(6, rules);
    let exits: std::collections::BTreeSet<u8> = (0..200)
        .map(|_| path(&selector, &web()).unwrap()[2])
        .collect();
    assert_eq!(exits.into_iter().collect::<Vec<_>>(), [2, 3]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn no_path_breaks_a_rule(
        lists in proptest::array::uniform8(proptest::collection::vec(1u8..12, 0..6)),
        hops in 1usize..=5,
        rule in proptest::option::of(Just(0)),
        any in any::<bool>(),
    ) {
        let [entry_only, entry_avoid, middle_only, middle_avoid, exit_only, exit_avoid, special_only, special_avoid] =
            lists.clone().map(|list| sets(&list));
        let rules = |only, avoid| PeerLists { only, avoid, prefer: sets(&[5]) };
        let special = DestinationRule {
            destinations: Vec::new(),
            exits: rules(special_only, special_avoid),
        };
        let rules = PeerRules {
            entry: rules(entry_only, entry_avoid),
            middle: rules(middle_only, middle_avoid),
            exit: rules(exit_only, exit_avoid),
            destinations: vec![special],
            hops: hops as u8,
            ..Default::default()
        };
        let fits = |at: usize, n: u8| {
            let (only, avoid) = (&lists[at], &lists[at + 1]);
            (only.is_empty() || only.contains(&n)) && !avoid.contains(&n)
        };
        let target = if any { ExitTarget::Any } else { ExitTarget::V4(443) };
        let request = PathRequest { hops, rule, ..PathRequest::new(target) };
        if let Ok(path) = path(&selector(11, rules), &request) {
            prop_assert_eq!(path.len(), hops);
            prop_assert!(fits(0, path[0]));
            for middle in path.iter().take(hops - 1).skip(1) {
                prop_assert!(fits(2, *middle));
            }
            let last = path[hops - 1];
            if any {
                prop_assert!(fits(2, last));
            } else {
                prop_assert!(fits(4, last));
                prop_assert!(rule.is_none() || fits(6, last));
            }
        }
    }
}
