use proptest::prelude::*;

use super::*;
use crate::dir::{NetworkFile, PortRange};
use crate::testkit::{consensus, consensus_body, link_key, network};

fn network_of_three() -> &'static NetworkFile {
    use std::sync::OnceLock;
    static NETWORK: OnceLock<NetworkFile> = OnceLock::new();
    NETWORK.get_or_init(|| network(3))
}

fn made(body: &ConsensusBody) -> Arc<Consensus> {
    consensus(network_of_three(), body)
}

fn assert_round_trip(a: &Consensus, b: &Consensus) -> Vec<u8> {
    let bytes = diff(a, b).unwrap();
    let applied = apply(a, &bytes, network_of_three()).unwrap();
    assert_eq!(applied.bytes(), b.bytes());
    bytes
}

/// What happens to one relay from one consensus to the next.
fn edit(entry: &mut Entry, what: u8, value: u8) {
    let byte = [value; 32];
    match what {
        0 => entry.weight = entry.weight.wrapping_add(u32::from(value)),
        1 => entry.weight = u32::from(value) << 24,
        2 => entry.flags = Flags::VALID | Flags::RUNNING,
        3 => entry.onion_key = byte,
        4 => entry.family = (value > 100).then_some(byte),
        5 => entry.nickname = format!("n{value}"),
        6 => entry.version = format!("1.{value}"),
        7 => entry.addresses.push(([10, 0, 0, value], 1_000).into()),
        8 => entry.set_explicit_link_key(
            (value > 100).then(|| link_key(value).verifying_key().to_bytes()),
        ),
        9 => entry.policy = PolicySummary::reject_all(),
        10 => entry.suite = Suite::Aes256Gcm,
        11 => entry.udp = PolicySummary::new(vec![PortRange { low: 53, high: 53 }], Vec::new()),
        _ => {}
    }
}

#[test]
fn every_field_can_change() {
    let old = consensus_body(1_000, &[1, 2, 3, 4]);
    for what in 0..=12 {
        let mut new = old.clone();
        new.lifetime.valid_after += 1;
        edit(&mut new.entries[2], what, 7);
        edit(&mut new.entries[3], what, 200);
        assert_round_trip(&made(&old), &made(&new));
        assert_round_trip(&made(&new), &made(&old));
    }
}

#[test]
fn parameters_and_emptiness() {
    let mut old = consensus_body(1_000, &[1]);
    old.params.insert("gone".to_owned(), 1);
    let mut new = consensus_body(1_001, &[]);
    new.params = [
        ("circuit_window_cells".to_owned(), 1),
        ("new".to_owned(), 2),
    ]
    .into();
    assert_round_trip(&made(&old), &made(&new));
    assert_round_trip(&made(&new), &made(&old));
    assert_round_trip(&made(&new), &made(&new));
}

#[test]
fn random_values_come_and_go() {
    let old = consensus_body(1_000, &[1]);
    let mut new = consensus_body(1_001, &[1]);
    new.values = [3, 4]
        .map(|period| RandomValue {
            period,
            value: [9; 32],
        })
        .to_vec();
    assert_round_trip(&made(&old), &made(&new));
    assert_round_trip(&made(&new), &made(&old));
    assert_round_trip(&made(&new), &made(&new));
}

fn refusal(held: &Consensus, body: &Body) -> DiffError {
    let encoded = signed::encode(body).unwrap();
    let tail = signed::tail(held.bytes()).unwrap();
    let bytes = signed::wrap(Kind::Difference, &encoded, tail).unwrap();
    apply(held, &bytes, network_of_three()).unwrap_err()
}

#[test]
fn every_refusal() {
    let held = made(&consensus_body(1_000, &[1, 2]));
    let empty = || Body {
        from: held.digest(),
        lifetime: held.lifetime(),
        params_removed: Vec::new(),
        params_set: BTreeMap::new(),
        values: Vec::new(),
        removed: Vec::new(),
        weights: Vec::new(),
        flags: Vec::new(),
        changed: Vec::new(),
        added: Vec::new(),
    };
    let mut body = empty();
    body.from = Digest([1; 32]);
    assert_eq!(refusal(&held, &body), DiffError::OtherBase);
    let mut body = empty();
    body.params_removed = vec!["nothing".to_owned()];
    assert!(matches!(refusal(&held, &body), DiffError::DoesNotFit(_)));
    for gaps in [
        vec![(2, 1)],
        vec![(0, 1), (1, 1)],
        vec![(u32::MAX, 1), (0, 1)],
    ] {
        let mut body = empty();
        body.weights = gaps;
        assert!(matches!(refusal(&held, &body), DiffError::DoesNotFit(_)));
    }
    let mut body = empty();
    body.removed = vec![(0, ())];
    body.weights = vec![(0, 1)];
    assert!(matches!(refusal(&held, &body), DiffError::DoesNotFit(_)));
    // The difference fits, but the result is not what the authorities signed.
    let mut body = empty();
    body.weights = vec![(0, 1)];
    assert_eq!(refusal(&held, &body), DocError::BadSignature.into());
    // An entry that is there already is added a second time.
    let mut body = empty();
    body.added = held.entries().to_vec();
    assert!(matches!(refusal(&held, &body), DiffError::Document(_)));
    let mut body = empty();
    body.removed = vec![(0, ()); MAX_ENTRIES + 1];
    assert_eq!(refusal(&held, &body), DocError::Malformed.into());
    let mut body = empty();
    body.added = vec![held.entries()[0].clone(); MAX_ENTRIES - 1];
    assert!(matches!(
        refusal(&held, &body),
        DiffError::DoesNotFit("too many entries")
    ));
    // A consensus is no difference.
    let whole = apply(&held, held.bytes(), network_of_three());
    assert!(matches!(
        whole,
        Err(DiffError::Document(DocError::WrongKind { .. }))
    ));
}

/// A consensus of `n` relays with random identities, whose entries are as long as real ones will be.
fn large(n: u32) -> ConsensusBody {
    use sha2::{Digest as _, Sha256};
    let mut body = consensus_body(1_000, &[1]);
    let model = body.entries[0].clone();
    body.entries = (0..n)
        .map(|n| {
            let mut entry = model.clone();
            entry.identity.0 = Sha256::digest(n.to_be_bytes()).into();
            entry.onion_key = Sha256::digest((n + 1_000_000).to_be_bytes()).into();
            entry.weight = 1_000 + n * 7;
            entry
        })
        .collect();
    body.entries.sort_by_key(|entry| entry.identity);
    body
}

#[test]
fn a_difference_is_small() {
    let old = large(2_000);
    let mut new = old.clone();
    new.lifetime.valid_after += 1;
    for n in 0..20 {
        new.entries[n * 100].flags = Flags::VALID;
    }
    new.entries.retain(|entry| entry.identity.0[1] != 7);
    let (a, b) = (made(&old), made(&new));
    let churn = assert_round_trip(&a, &b);
    assert!(
        churn.len() * 100 < b.bytes().len() * 2,
        "{} of {}",
        churn.len(),
        b.bytes().len()
    );
    // Nearly every weight drifts a little.
    for (n, entry) in new.entries.iter_mut().enumerate() {
        entry.weight = entry.weight * (95 + u32::try_from(n % 11).unwrap()) / 100;
    }
    let b = made(&new);
    let drift = assert_round_trip(&a, &b);
    assert!(
        drift.len() <= churn.len() + 4 * new.entries.len(),
        "{}",
        drift.len()
    );
}

#[test]
#[ignore = "measures: 10,000 relays"]
fn measure() {
    for n in [1_000, 10_000] {
        let old = large(n);
        let mut new = old.clone();
        new.lifetime.valid_after += 1;
        for (n, entry) in new.entries.iter_mut().enumerate() {
            if n % 100 == 0 {
                entry.flags = Flags::VALID;
                entry.onion_key[0] ^= 1;
            }
        }
        // One relay in a hundred leaves, and one comes with a new name.
        for n in (50..new.entries.len()).step_by(100) {
            new.entries[n].identity.0[31] ^= 1;
        }
        let (a, b) = (made(&old), made(&new));
        let began = std::time::Instant::now();
        let churn = diff(&a, &b).unwrap();
        let made_in = began.elapsed();
        let began = std::time::Instant::now();
        apply(&a, &churn, network_of_three()).unwrap();
        let applied_in = began.elapsed();
        for (n, entry) in new.entries.iter_mut().enumerate() {
            entry.weight = entry.weight * (95 + u32::try_from(n % 11).unwrap()) / 100;
        }
        let drift = diff(&a, &made(&new)).unwrap();
        eprintln!(
            "{n} relays: whole {}, 1 % churn {}, and all weights {}; made in {made_in:?}, applied in {applied_in:?}",
            b.bytes().len(),
            churn.len(),
            drift.len(),
        );
    }
}

fn any_body() -> impl Strategy<Value = (ConsensusBody, ConsensusBody)> {
    let relays = proptest::collection::btree_set(1u8..=20, 0..10);
    let edits = proptest::collection::vec((0usize..20, 0u8..=12, any::<u8>()), 0..15);
    (relays.clone(), relays, edits, any::<bool>()).prop_map(|(old, new, edits, same)| {
        let list = |set: std::collections::BTreeSet<u8>| set.into_iter().collect::<Vec<_>>();
        let old = consensus_body(1_000, &list(old));
        let mut new = if same {
            old.clone()
        } else {
            consensus_body(1_001, &list(new))
        };
        for (n, what, value) in edits {
            let entry = new.entries.get_mut(n);
            if let Some(entry) = entry.filter(|entry| what != 7 || entry.addresses.len() < 2) {
                edit(entry, what, value);
            }
        }
        (old, new)
    })
}

#[test]
fn vectors_of_the_reference() {
    let text = include_str!("../../../testdata/difference.json");
    let vectors: serde_json::Value = serde_json::from_str(text).unwrap();
    let vectors = vectors["differences"].as_array().unwrap();
    assert_eq!(vectors.len(), 6);
    for vector in vectors {
        let bytes = |field: &str| hex::decode(vector[field].as_str().unwrap()).unwrap();
        let old: ConsensusBody = signed::decode(&bytes("old")).unwrap();
        let new: ConsensusBody = signed::decode(&bytes("new")).unwrap();
        let id = crate::ids::NetworkId(bytes("network").try_into().unwrap());
        let from = signed::digest(Kind::Consensus, &id, &bytes("old"));
        let difference: Body = signed::decode(&bytes("difference")).unwrap();
        assert_eq!(difference.from, from);
        // The reference's difference makes our consensus, and our difference is the reference's.
        assert_eq!(
            signed::encode(&difference.make(&old).unwrap()).unwrap(),
            bytes("new")
        );
        let ours = Body::between(from, &old, &new);
        assert_eq!(
            signed::encode(&ours).unwrap(),
            bytes("difference"),
            "{}",
            vector["name"]
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_pair((old, new) in any_body()) {
        assert_round_trip(&made(&old), &made(&new));
    }

    #[test]
    fn a_flipped_bit_yields_the_same_or_nothing((old, new) in any_body(), at in any::<usize>(), bit in 0u8..8) {
        let (a, b) = (made(&old), made(&new));
        let mut bytes = diff(&a, &b).unwrap();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        if let Ok(other) = apply(&a, &bytes, network_of_three()) {
            prop_assert_eq!(other.digest(), b.digest());
        }
    }

    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let held = made(&consensus_body(1_000, &[1, 2, 3]));
        let _ = apply(&held, &bytes, network_of_three());
        let tail = signed::tail(held.bytes()).unwrap();
        let framed = [&held.digest().0[..], &bytes].concat();
        let framed = signed::wrap(Kind::Difference, &framed, tail).unwrap();
        let _ = apply(&held, &framed, network_of_three());
    }
}
