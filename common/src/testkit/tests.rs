//! Tests of what other tests lean on: a kit that is wrong would let them pass for the wrong reason.

use super::*;
use crate::dir::{AuthorityEntry, Flags, SignedConsensus, SignedVote};

#[test]
fn one_number_is_one_relay_everywhere() {
    for n in [1, 2, 155] {
        let (entry, descriptor) = (authority(n), descriptor(n));
        assert_eq!(
            (entry.identity, descriptor.identity),
            (identity(n), identity(n))
        );
        assert_eq!(
            (&entry.addresses, &descriptor.addresses),
            (&vec![address(n)], &vec![address(n)])
        );
        assert_eq!(entry.signing_key, signing_key(n).verifying_key().to_bytes());
        assert_eq!(
            descriptor.link_key(),
            link_key(n).verifying_key().to_bytes()
        );
        assert_eq!(web_entry(n, Flags::EXIT, 7).identity, identity(n));
    }
    // No signing key is also a link key, so that a document signed by the wrong key is refused.
    for n in 1..=55 {
        for other in 1..=55 {
            assert_ne!(signing_key(n).to_bytes(), link_key(other).to_bytes());
        }
    }
}

#[test]
fn a_network_has_the_authorities_the_name_and_the_parameters_that_it_was_made_with() {
    let members = vec![
        AuthorityEntry {
            addresses: vec![address(9)],
            ..authority(1)
        },
        authority(2),
    ];
    let made = network_named(
        "elsewhere",
        members,
        params(&[("circuit_window_cells", 600)]),
    );
    assert_eq!(made.name(), "elsewhere");
    assert_eq!(made.authorities().len(), 2);
    let first = made.authority(&identity(1)).unwrap();
    assert_eq!(first.addresses, [address(9)]);
    assert_ne!(made.network_id(), network(2).network_id());
    assert_eq!(network(2).network_id(), network(2).network_id());
}

#[test]
fn documents_are_taken_by_the_network_that_they_are_for_and_by_no_other() {
    let (here, elsewhere) = (
        network(3),
        network_named("elsewhere", authorities(3), params(&[])),
    );
    let body = consensus_body(1_000, &[12, 10, 11]);
    let whole = consensus(&here, &body);
    assert_eq!(whole.entries().len(), 3);
    assert!(SignedConsensus::parse_and_verify(whole.bytes(), &elsewhere).is_err());
    let vote = vote(&here, 2, &[12, 10, 11]);
    let signed = vote.sign(&here, &signing_key(2)).unwrap();
    assert!(SignedVote::parse_and_verify(signed.bytes(), &here).is_ok());
    assert!(SignedVote::parse_and_verify(signed.bytes(), &elsewhere).is_err());
}

#[test]
fn a_consensus_has_the_signatures_that_were_asked_for() {
    let network = network(3);
    let body = body_of(
        lifetime_of(1_000, 10, 60),
        vec![web_entry(2, Flags::RUNNING, 5)],
    );
    let is_taken = |signers: &[u8]| {
        let bytes = consensus_bytes(&network, &body, signers);
        SignedConsensus::parse_and_verify(&bytes, &network).is_ok()
    };
    assert!(is_taken(&[1, 3]) && !is_taken(&[2]) && !is_taken(&[]));
    let taken = consensus_signed(&network, 1_000, body.entries.clone(), &[1, 3]);
    assert_eq!(
        (taken.lifetime(), taken.entries()),
        (body.lifetime, &body.entries[..])
    );
}

#[cfg(feature = "net")]
#[tokio::test(start_paused = true)]
async fn a_switchboard_connects_to_whoever_has_the_key() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use crate::net::directory::Dial;

    let board = Switchboard::default();
    board.plug(1, |mut far| {
        tokio::spawn(async move { far.write_all(b"one").await });
    });
    let mut near = board
        .dial(&[address(2), address(1)], identity(1).0)
        .await
        .unwrap();
    let mut said = [0; 3];
    near.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"one");
    // The dial is refused with another key, at another address, and when nobody is there any more.
    assert!(board.dial(&[address(1)], identity(2).0).await.is_err());
    assert!(board.dial(&[address(2)], identity(1).0).await.is_err());
    board.unplug(1);
    assert!(board.dial(&[address(1)], identity(1).0).await.is_err());
    board.until_dialled(5).await;
    assert_eq!(board.dialled().len(), 5);
}

#[cfg(feature = "net")]
#[tokio::test(start_paused = true)]
async fn the_virtual_clock_moves_with_tokios() {
    let clock = virtual_clock(1_900_000_000_000);
    tokio::time::advance(core::time::Duration::from_secs(90)).await;
    assert_eq!(clock.now_ms(), 1_900_000_090_000);
}
