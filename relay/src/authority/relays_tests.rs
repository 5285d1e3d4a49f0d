use cepa_common::dir::{Away, Entry, Flags, Site};
use cepa_common::testkit::{consensus_of, descriptor_at, identity, lifetime, link_key, network};

use super::*;

const NOW_MS: u64 = 2_000_000;

fn signed(n: u8, edit: impl FnOnce(&mut RelayDescriptor)) -> Arc<SignedDescriptor> {
    let mut descriptor = descriptor_at(n, NOW_MS / 1_000);
    edit(&mut descriptor);
    Arc::new(
        descriptor
            .sign(&network(1).network_id(), &link_key(n))
            .unwrap(),
    )
}

fn listed(relays: &mut Relays, params: &Params, now_ms: u64) -> usize {
    let lifetime = lifetime(now_ms / 1_000);
    relays
        .vote_entries(&network(1), params, now_ms, lifetime, None)
        .len()
}

#[test]
fn only_the_reachable_are_listed() {
    let network = network(1);
    let params = network.params();
    let mut relays = Relays::new(true);
    relays.insert(signed(1, |_| ()), &params, NOW_MS).unwrap();
    relays.insert(signed(1, |_| ()), &params, NOW_MS).unwrap();
    assert_eq!(relays.next_probe_ms(), Some(NOW_MS));
    let probe = relays.due_probes(NOW_MS).pop().unwrap();
    assert_eq!(probe.identity, identity(1));
    assert!(relays.due_probes(NOW_MS).is_empty());
    assert_eq!(listed(&mut relays, &params, NOW_MS), 0);
    relays.on_probe(&probe, true, &params, NOW_MS);
    assert_eq!(listed(&mut relays, &params, NOW_MS), 1);
    // One failure is forgiven, two are not.
    relays.on_probe(&probe, false, &params, NOW_MS);
    assert_eq!(relays.next_probe_ms(), Some(NOW_MS + PROBE_RETRY_MS));
    assert_eq!(listed(&mut relays, &params, NOW_MS), 1);
    relays.on_probe(&probe, false, &params, NOW_MS);
    assert_eq!(listed(&mut relays, &params, NOW_MS), 0);
    relays.on_probe(&probe, true, &params, NOW_MS);
    // A relay with a new address must be reached again. The late result for the old address does not count.
    let moved = signed(1, |d| {
        (d.published, d.addresses[0]) = (d.published + 1, ([127, 0, 0, 1], 9).into())
    });
    relays.insert(moved, &params, NOW_MS).unwrap();
    relays.on_probe(&probe, true, &params, NOW_MS);
    assert_eq!(listed(&mut relays, &params, NOW_MS), 0);
    // A relay with only a new onion key stays listed.
    let probe = relays.due_probes(NOW_MS).pop().unwrap();
    relays.on_probe(&probe, true, &params, NOW_MS);
    let rekeyed = signed(1, |d| {
        (d.published, d.addresses[0], d.onion_key) =
            (d.published + 2, ([127, 0, 0, 1], 9).into(), [9; 32]);
    });
    relays.insert(rekeyed, &params, NOW_MS).unwrap();
    assert_eq!(listed(&mut relays, &params, NOW_MS), 1);
    let later = NOW_MS + 1_000 * u64::from(params.descriptor_max_age_seconds) + 3_000;
    assert_eq!(listed(&mut relays, &params, later), 0);
}

#[test]
fn refusals() {
    let params = network(1).params();
    let mut relays = Relays::new(false);
    let mut insert = |signed, params: &Params| relays.insert(signed, params, NOW_MS);
    assert_eq!(insert(signed(1, |_| ()), &params), Ok(()));
    let rewritten = signed(1, |d| d.bandwidth += 1);
    assert_eq!(insert(rewritten, &params), Err(AuthorityError::NotNewer));
    let future = signed(2, |d| d.published += 400);
    assert_eq!(insert(future, &params), Err(AuthorityError::NotCurrent));
    assert_eq!(
        insert(
            signed(2, |d| d.published = 1),
            &Params {
                descriptor_max_age_seconds: 60,
                ..params.clone()
            }
        ),
        Err(AuthorityError::NotCurrent)
    );
    let public = Params {
        allow_private_addresses: 0,
        ..params.clone()
    };
    assert_eq!(
        insert(signed(2, |_| ()), &public),
        Err(AuthorityError::PrivateAddress)
    );
    let id = network(1).network_id();
    let mut second = descriptor_at(3, NOW_MS / 1_000);
    let key = link_key(1).verifying_key().to_bytes();
    second.key_cert = Some(cepa_common::dir::KeyCert::new(
        &link_key(3),
        &id,
        key,
        u64::MAX,
    ));
    let second = Arc::new(second.sign(&id, &link_key(1)).unwrap());
    assert_eq!(insert(second, &params), Err(AuthorityError::KeyInUse));
    let small = Params {
        max_relays: 1,
        ..params
    };
    assert_eq!(insert(signed(2, |_| ()), &small), Err(AuthorityError::Full));
}

#[test]
fn who_rests_is_neither_dialled_nor_listed() {
    let params = network(1).params();
    let mut relays = Relays::new(true);
    let now = NOW_MS / 1_000;
    let rest = |n: u8, from: u64, until: u64| signed(n, |d| d.away = Some(Away { from, until }));
    // The consensus is fresh for two seconds from now on.
    for resting in [
        rest(1, now, now + 100),
        rest(2, now + 2, now + 9),
        rest(3, 0, now),
    ] {
        relays.insert(resting, &params, NOW_MS).unwrap();
    }
    let dialled: Vec<_> = relays
        .due_probes(NOW_MS)
        .iter()
        .map(|p| p.identity)
        .collect();
    assert_eq!(dialled.len(), 2);
    assert!(!dialled.contains(&identity(1)));
    assert_eq!(relays.next_probe_ms(), Some(NOW_MS + 100_000));
    assert_eq!(relays.due_probes(NOW_MS + 100_000).len(), 1);
    let mut relays = Relays::new(false);
    for resting in [
        rest(1, now + 1, now + 9),
        rest(2, now + 2, now + 9),
        rest(3, 0, now),
    ] {
        relays.insert(resting, &params, NOW_MS).unwrap();
    }
    assert_eq!(listed(&mut relays, &params, NOW_MS), 2);
}

/// What a restart makes of this authority's knowledge.
fn restarted(relays: &Relays, params: &Params, now_ms: u64) -> Relays {
    let mut again = Relays::new(true);
    let id = network(1).network_id();
    assert!(Remembered::decode(b"soup", &id).is_none());
    let remembered = Remembered::decode(&relays.to_keep(), &id).unwrap();
    again.restore(remembered, params, now_ms);
    again
}

#[test]
fn after_a_restart_the_last_consensus_stays_listed_until_the_relays_are_dialled() {
    let params = network(1).params();
    let mut relays = Relays::new(true);
    for n in 1..=4 {
        relays.insert(signed(n, |_| ()), &params, NOW_MS).unwrap();
    }
    // Relay 4 never answered.
    probe_all(&mut relays, &params, NOW_MS, |id| id != identity(4));
    let mut relays = restarted(&relays, &params, NOW_MS);
    // Nothing is listed by memory alone, not even in a second restart.
    assert_eq!(listed(&mut relays, &params, NOW_MS), 0);
    let mut relays = restarted(&relays, &params, NOW_MS);
    let entry = |n: u8, edit: fn(&mut RelayDescriptor)| {
        let descriptor = signed(n, edit);
        Entry::new(descriptor.descriptor(), Flags::VALID | Flags::RUNNING, 1)
    };
    // Relay 2 stood in the last consensus with another address.
    let entries = vec![
        entry(1, |_| ()),
        entry(2, |d| d.addresses[0].set_port(9)),
        entry(4, |_| ()),
    ];
    let before = consensus_of(&network(1), NOW_MS / 1_000, entries);
    let votes = |relays: &mut Relays| -> Vec<RelayId> {
        let lifetime = lifetime(NOW_MS / 1_000);
        let id = network(1).network_id();
        relays
            .vote_entries(&network(1), &params, NOW_MS, lifetime, Some(&before))
            .iter()
            .map(|entry| {
                let signed = SignedDescriptor::parse_and_verify(&entry.descriptor, &id).unwrap();
                signed.descriptor().identity
            })
            .collect()
    };
    assert_eq!(votes(&mut relays), [identity(1)]);
    // One failure is forgiven, two are not.
    probe_all(&mut relays, &params, NOW_MS, |id| id == identity(3));
    let mut both = [identity(1), identity(3)];
    both.sort();
    assert_eq!(votes(&mut relays), both);
    probe_all(&mut relays, &params, NOW_MS + PROBE_RETRY_MS, |_| false);
    assert_eq!(votes(&mut relays), [identity(3)]);
}

#[test]
fn a_subnet_of_ipv6_has_no_more_relays_than_an_ipv4_address() {
    let params = Params {
        max_relays_per_address: 2,
        ..network(1).params()
    };
    let mut relays = Relays::new(true);
    let at = |n: u8, address: String| signed(n, |d| d.addresses = vec![address.parse().unwrap()]);
    let mut insert = |n, address| relays.insert(at(n, address), &params, NOW_MS).is_ok();
    let one_subnet = (1..=20).filter(|n| insert(*n, format!("[2600::{n}]:9001")));
    assert_eq!(one_subnet.count(), 2);
    let one_block = (21..=60).filter(|n| insert(*n, format!("[2600:0:0:{n}::1]:9001")));
    assert_eq!(one_block.count(), 14);
    assert!(insert(61, "[2600:0:1::1]:9001".to_owned()));
}

/// Relay n on the address with this last byte.
fn on_address(n: u8, host: u8) -> Arc<SignedDescriptor> {
    signed(n, |d| {
        d.addresses = vec![([127, 0, 0, host], 5_000 + u16::from(n)).into()];
    })
}

fn probe_all(relays: &mut Relays, params: &Params, now_ms: u64, reached: impl Fn(RelayId) -> bool) {
    for probe in relays.due_probes(now_ms) {
        relays.on_probe(&probe, reached(probe.identity), params, now_ms);
    }
}

#[test]
fn those_dialled_in_vain_make_room_then_strangers_that_wait() {
    let params = Params {
        max_relays: 3,
        ..network(1).params()
    };
    let mut relays = Relays::new(true);
    for n in 1..=2 {
        relays.insert(on_address(n, n), &params, NOW_MS).unwrap();
    }
    probe_all(&mut relays, &params, NOW_MS, |id| id == identity(1));
    let insert = |n, relays: &mut Relays| relays.insert(on_address(n, n), &params, NOW_MS);
    assert_eq!(insert(3, &mut relays), Ok(()));
    assert_eq!(insert(4, &mut relays), Ok(()));
    assert!(!relays.known.contains_key(&identity(2)));
    // Now one relay is reached and two wait for their first dial. A flood does not push out the one that was reached
    // (S26), and a newcomer gets a place, no matter who came before.
    for n in 5..=20 {
        assert_eq!(insert(n, &mut relays), Ok(()));
        assert!(relays.known.contains_key(&identity(1)));
        assert!(relays.known.contains_key(&identity(n)));
    }
    assert_eq!(relays.crowding.len(), 3);
    assert_eq!(relays.by_key.len(), 3);
    // Relays that are being dialled stay, and so does one that is only remembered.
    assert_eq!(relays.due_probes(NOW_MS).len(), 2);
    assert_eq!(insert(21, &mut relays), Err(AuthorityError::Full));
    let mut relays = restarted(&relays, &params, NOW_MS);
    for n in 22..=30 {
        assert_eq!(insert(n, &mut relays), Ok(()));
        assert!(relays.known.contains_key(&identity(1)));
    }
}

#[test]
fn one_address_cannot_fill_the_table() {
    let params = Params {
        max_relays_per_address: 2,
        ..network(1).params()
    };
    let mut relays = Relays::new(true);
    let insert = |n, host, relays: &mut Relays| relays.insert(on_address(n, host), &params, NOW_MS);
    assert_eq!(insert(1, 1, &mut relays), Ok(()));
    assert_eq!(insert(2, 1, &mut relays), Ok(()));
    for n in 3..=20 {
        assert_eq!(insert(n, 1, &mut relays), Err(AuthorityError::Crowded));
    }
    assert_eq!(insert(3, 3, &mut relays), Ok(()));
    // A relay that is known elsewhere cannot move there either, and stays where it was.
    let moved = signed(3, |d| {
        (d.published, d.addresses[0]) = (d.published + 1, ([127, 0, 0, 1], 9).into())
    });
    let crowded = relays.insert(moved.clone(), &params, NOW_MS);
    assert_eq!(crowded, Err(AuthorityError::Crowded));
    assert!(relays.known.contains_key(&identity(3)));
    // A relay that was dialled in vain gives its place up; a relay that was reached does not.
    probe_all(&mut relays, &params, NOW_MS, |id| id == identity(1));
    assert_eq!(relays.insert(moved, &params, NOW_MS), Ok(()));
    assert!(!relays.known.contains_key(&identity(2)));
    probe_all(&mut relays, &params, NOW_MS, |_| true);
    let crowded = relays.insert(on_address(4, 1), &params, NOW_MS);
    assert_eq!(crowded, Err(AuthorityError::Crowded));
    assert_eq!(listed(&mut relays, &params, NOW_MS), 2);
    let here = Site::of([127, 0, 0, 1].into());
    assert_eq!(relays.crowding.at(here), 2);
}

#[test]
fn a_known_relay_cannot_take_the_link_key_of_another() {
    let params = network(1).params();
    let id = network(1).network_id();
    let mut relays = Relays::new(false);
    relays.insert(signed(1, |_| ()), &params, NOW_MS).unwrap();
    relays.insert(signed(3, |_| ()), &params, NOW_MS).unwrap();
    let with_key = |key: u8, published: u64| {
        let mut taken = descriptor_at(3, published);
        taken.key_cert = (key != 3).then(|| {
            let bytes = link_key(key).verifying_key().to_bytes();
            cepa_common::dir::KeyCert::new(&link_key(3), &id, bytes, u64::MAX)
        });
        Arc::new(taken.sign(&id, &link_key(key)).unwrap())
    };
    let now = NOW_MS / 1_000;
    let taken = relays.insert(with_key(1, now + 1), &params, NOW_MS);
    assert_eq!(taken, Err(AuthorityError::KeyInUse));
    // A key that no other relay has is accepted, and the relay's old key is then free.
    let own = relays.insert(with_key(9, now + 2), &params, NOW_MS);
    assert_eq!(own, Ok(()));
    assert_eq!(relays.by_key.len(), 2);
    assert_eq!(relays.insert(with_key(3, now + 3), &params, NOW_MS), Ok(()));
}

#[test]
fn dials_are_bounded_and_new_relays_go_first() {
    let params = network(1).params();
    let mut relays = Relays::new(true);
    for n in 1..=100 {
        relays.insert(signed(n, |_| ()), &params, NOW_MS).unwrap();
    }
    let first = relays.due_probes(NOW_MS);
    assert_eq!(first.len(), MAX_PROBES);
    assert!(relays.due_probes(NOW_MS).is_empty());
    // While no dial may start, none is due: otherwise the driver would spin.
    assert_eq!(relays.next_probe_ms(), None);
    for probe in &first {
        relays.on_probe(probe, true, &params, NOW_MS);
    }
    // Much later all relays are due. Those that were never dialled come first.
    let later = NOW_MS + 100_000;
    let second = relays.due_probes(later);
    let old: Vec<_> = first.iter().map(|probe| probe.identity).collect();
    let is_new = |probe: &Probe| !old.contains(&probe.identity);
    assert_eq!(second.iter().filter(|probe| is_new(probe)).count(), 36);
    assert!(second[..36].iter().all(is_new));
    // Relays that were dialled at one moment are not all due at one moment again.
    let mut due: Vec<_> = old.iter().map(|id| spread(1_200_000, id, NOW_MS)).collect();
    due.sort_unstable();
    assert!(due[0] >= 1_050_000 && due[63] < 1_350_000);
    assert!(due[63] - due[0] > 200_000, "{due:?}");
}

#[test]
fn the_operators_word() {
    use crate::authority::OperatorList;
    let (network, params) = (network(1), network(1).params());
    let mut relays = Relays::new(false);
    relays.set_rules(OperatorRules {
        reject: OperatorList::parse([identity(2).to_string().as_str(), "127.0.0.9"]).unwrap(),
        middle_only: OperatorList::parse([identity(3).to_string().as_str()]).unwrap(),
    });
    let mut insert = |signed| relays.insert(signed, &params, NOW_MS);
    assert_eq!(insert(on_address(2, 2)), Err(AuthorityError::Rejected));
    assert_eq!(insert(on_address(4, 9)), Err(AuthorityError::Rejected));
    assert_eq!(insert(signed(1, |_| ())), Ok(()));
    assert_eq!(insert(signed(3, |_| ())), Ok(()));
    let entries = relays.vote_entries(&network, &params, NOW_MS, lifetime(NOW_MS / 1_000), None);
    let flags_of = |n: u8| {
        let is_it = |entry: &&VoteEntry| entry.descriptor == signed(n, |_| ()).bytes();
        entries.iter().find(is_it).unwrap().flags
    };
    assert!(flags_of(1).contains(Flags::GUARD | Flags::EXIT));
    assert!(!flags_of(3).contains(Flags::GUARD) && !flags_of(3).contains(Flags::EXIT));
    assert!(flags_of(3).contains(Flags::RUNNING));
}
