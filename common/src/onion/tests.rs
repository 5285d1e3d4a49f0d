//! Tests of a circuit in memory, and of everything that somebody between two hops can do to it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use core::convert::Infallible;

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand_core::{Rng, TryCryptoRng, TryRng};

use super::cipher::RATCHET_CELLS;
use super::*;
use crate::cell::{BODY_LEN, Body, HEADER_LEN, MAX_HOPS, SLOT_LEN};
use crate::ids::HopIndex;
use crate::secret::Secret;

const SUITES: [Suite; 2] = [Suite::ChaCha20Poly1305, Suite::Aes256Gcm];

pub(super) fn hop_index(number: usize) -> HopIndex {
    HopIndex(u8::try_from(number).unwrap())
}

/// "Randomness" that is read from a test vector.
pub(super) struct Scripted(pub(super) Vec<u8>);

impl TryRng for Scripted {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        unreachable!("the layers draw bytes only")
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        unreachable!("the layers draw bytes only")
    }

    fn try_fill_bytes(&mut self, into: &mut [u8]) -> Result<(), Infallible> {
        into.copy_from_slice(&self.0[..into.len()]);
        self.0.drain(..into.len());
        Ok(())
    }
}

impl TryCryptoRng for Scripted {}

pub(super) fn keys(seed: u64) -> HopKeys {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut secret = || {
        let mut bytes = [0; 32];
        rng.fill_bytes(&mut bytes);
        Secret::new(bytes)
    };
    let mut direction = || DirectionKeys {
        aead: secret(),
        header: secret(),
        chain: secret(),
    };
    HopKeys {
        forward: direction(),
        backward: direction(),
    }
}

/// A client and its relays, in memory.
struct Circuit {
    client: ClientLayers,
    relays: Vec<(RelayForward, RelayBackward)>,
    rng: StdRng,
}

impl Circuit {
    fn new(suites: &[Suite]) -> Self {
        let mut client = ClientLayers::new();
        let mut relays = Vec::new();
        for (suite, seed) in suites.iter().zip(0..) {
            client.push(*suite, keys(seed)).unwrap();
            let HopKeys { forward, backward } = keys(seed);
            relays.push((
                RelayForward::new(*suite, forward),
                RelayBackward::new(*suite, backward),
            ));
        }
        Self {
            client,
            relays,
            rng: StdRng::seed_from_u64(1000),
        }
    }

    fn uniform(suite: Suite, hops: usize) -> Self {
        Self::new(&vec![suite; hops])
    }

    fn seal(&mut self, hop: usize, body: &Body) -> Body {
        let mut body = *body;
        self.client
            .seal(hop_index(hop), &mut body, &mut self.rng)
            .unwrap();
        body
    }

    /// Carries a cell from the client through the relays before relay `to`.
    fn carry(&mut self, to: usize, body: &mut Body) {
        for relay in &mut self.relays[..to] {
            assert_eq!(relay.0.open(body), Ok(Opened::Onward));
        }
    }

    /// The cell that relay `from` speaks with this body.
    fn speak(&mut self, from: usize, body: &Body) -> Body {
        let mut body = *body;
        self.relays[from].1.speak(&mut body).unwrap();
        body
    }

    /// Brings a cell from behind relay `from` to the client's link.
    fn bring(&mut self, from: usize, body: &mut Body) {
        for relay in self.relays[..from].iter_mut().rev() {
            relay.1.wrap(body).unwrap();
        }
    }
}

pub(super) fn said(seed: u8) -> Body {
    core::array::from_fn(|at| (at as u8).wrapping_mul(7) ^ seed)
}

#[track_caller]
fn same_payload(body: &Body, said: &Body) {
    assert!(
        body[HEADER_LEN..] == said[HEADER_LEN..],
        "the payload arrives as it was said"
    );
}

#[test]
fn every_hop_of_every_length_is_spoken_to_and_heard() {
    for suite in SUITES {
        for length in 1..=MAX_HOPS {
            let mut circuit = Circuit::uniform(suite, length);
            for hop in (0..length).chain((0..length).rev()) {
                let mut body = circuit.seal(hop, &said(1));
                circuit.carry(hop, &mut body);
                assert_eq!(circuit.relays[hop].0.open(&mut body), Ok(Opened::Ours));
                same_payload(&body, &said(1));

                let mut body = circuit.speak(hop, &said(2));
                circuit.bring(hop, &mut body);
                assert_eq!(circuit.client.open(&mut body), Ok(hop_index(hop)));
                same_payload(&body, &said(2));
            }
        }
    }
}

#[test]
fn there_is_no_seventh_hop_and_no_speaking_to_nobody() {
    let mut circuit = Circuit::uniform(Suite::Aes256Gcm, MAX_HOPS);
    assert_eq!(
        circuit.client.push(Suite::Aes256Gcm, keys(9)),
        Err(TooManyHops)
    );
    let mut rng = StdRng::seed_from_u64(1);
    let nobody = hop_index(MAX_HOPS);
    let refused = circuit.client.seal(nobody, &mut said(1), &mut rng);
    assert_eq!(refused, Err(SealError::NoSuchHop(nobody)));
    // The caller's mistake breaks no layer.
    assert!(
        circuit
            .client
            .seal(hop_index(5), &mut said(1), &mut rng)
            .is_ok()
    );
    assert_eq!(
        ClientLayers::new().open(&mut said(1)),
        Err(OpenFailed::Broken)
    );
}

/// Flips one bit of every byte of a cell on the way to each relay, and expects that very relay to refuse the cell (S3,
/// S12).
#[test]
fn a_changed_bit_ends_the_circuit_at_the_next_hop_outwards() {
    for suite in SUITES {
        for link in 0..3 {
            for at in 0..BODY_LEN {
                let mut circuit = Circuit::uniform(suite, 3);
                let mut body = circuit.seal(2, &said(1));
                circuit.carry(link, &mut body);
                let mut intact = body;
                body[at] ^= 1 << (at % 8);
                let relay = &mut circuit.relays[link].0;
                assert_eq!(
                    relay.open(&mut body),
                    Err(LayerBroken),
                    "link {link} byte {at}"
                );
                assert_eq!(relay.open(&mut intact), Err(LayerBroken), "broken for good");
            }
        }
    }
}

/// Flips one bit of every byte of a cell on the way towards the client, and expects the client to name the two hops.
/// `link` is the number of the relay that sent the cell. Nobody needs that relay's own slot, which falls off next.
#[test]
fn a_changed_bit_ends_the_circuit_at_the_client_inwards() {
    for suite in SUITES {
        for length in [1, 3, 6] {
            for link in 0..length {
                // On three hops every byte is tried; on six, a sample of the payload.
                let step = if length == 6 { 13 } else { 1 };
                for at in (0..HEADER_LEN).chain((HEADER_LEN..BODY_LEN).step_by(step)) {
                    tamper_inwards(suite, length, link, at);
                }
            }
        }
    }
}

fn tamper_inwards(suite: Suite, length: usize, link: usize, at: usize) {
    let what = format!("{suite:?} {length} hops, behind {link}, byte {at}");
    let mut circuit = Circuit::uniform(suite, length);
    let mut body = circuit.speak(length - 1, &said(1));
    for relay in circuit.relays[link..length - 1].iter_mut().rev() {
        relay.1.wrap(&mut body).unwrap();
    }
    body[at] ^= 1 << (at % 8);
    circuit.bring(link, &mut body);
    let opened = circuit.client.open(&mut body);

    let slot = at / SLOT_LEN;
    if at < HEADER_LEN && link > 0 && slot == 6 {
        assert_eq!(
            opened,
            Ok(hop_index(length - 1)),
            "falls off unread: {what}"
        );
        same_payload(&body, &said(1));
        return;
    }
    // Slot j moves to slot j + 1 at each relay (protocol.md 4.17). A slot that the client cannot see when the cell
    // leaves this relay is one that the client cannot see at any nearer relay either. The nearest seal that covers it,
    // from slot 6 on, is the one that fails.
    let lost = at < HEADER_LEN && link > 0 && slot > 6 - link;
    let far = if lost { link + slot - 6 } else { link };
    let (near, far) = (far.checked_sub(1).map(hop_index), hop_index(far));
    assert_eq!(opened, Err(OpenFailed::Changed { near, far }), "{what}");
    assert_eq!(
        circuit.client.open(&mut said(1)),
        Err(OpenFailed::Broken),
        "{what}"
    );
    assert!(circuit.client.is_empty(), "the secrets are gone: {what}");
}

/// The tagging attack on Tor's layers (tor1): mark a cell before an honest hop, and take the mark off behind the hop.
#[test]
fn a_tag_before_an_honest_hop_cannot_be_taken_off_behind_it() {
    for suite in SUITES {
        for at in (0..BODY_LEN).step_by(5) {
            let mut circuit = Circuit::uniform(suite, 3);
            let mut body = circuit.seal(2, &said(1));
            circuit.carry(1, &mut body);
            body[at] ^= 0x10;
            let mut after = body;
            assert_eq!(circuit.relays[1].0.open(&mut after), Err(LayerBroken));
            // Whatever is left in the buffer, the attacker flips the bit back and sends the cell on.
            for at in [at, at.saturating_sub(SLOT_LEN)] {
                let mut again = Circuit::uniform(suite, 3);
                let mut untagged = after;
                untagged[at] ^= 0x10;
                assert_eq!(again.relays[2].0.open(&mut untagged), Err(LayerBroken));
            }
            // Towards the client, relay 2 marks what it speaks, and relay 0 takes the mark off what it gets.
            let mut body = circuit.speak(2, &said(2));
            if (96..HEADER_LEN).contains(&at) {
                continue;
            }
            body[at] ^= 0x10;
            circuit.relays[1].1.wrap(&mut body).unwrap();
            let shifted = if at < 96 { at + SLOT_LEN } else { at };
            body[shifted] ^= 0x10;
            circuit.relays[0].1.wrap(&mut body).unwrap();
            assert!(circuit.client.open(&mut body).is_err());
        }
    }
}

#[test]
fn repeated_lost_and_swapped_cells_are_noticed_outwards() {
    for suite in SUITES {
        for link in 0..3 {
            for order in [&[0, 0][..], &[1], &[1, 0], &[0, 2]] {
                let mut circuit = Circuit::uniform(suite, 3);
                let cells: Vec<Body> = (0..3)
                    .map(|seed| {
                        let mut body = circuit.seal(2, &said(seed));
                        circuit.carry(link, &mut body);
                        body
                    })
                    .collect();
                let relay = &mut circuit.relays[link].0;
                let opened: Vec<_> = order
                    .iter()
                    .map(|i| relay.open(&mut { cells[*i] }))
                    .collect();
                let (last, before) = if order[0] == 1 {
                    (&opened[0], &opened[..0])
                } else {
                    (&opened[opened.len() - 1], &opened[..opened.len() - 1])
                };
                assert_eq!(*last, Err(LayerBroken), "link {link}, order {order:?}");
                assert!(before.iter().all(Result::is_ok));
            }
        }
    }
}

#[test]
fn repeated_lost_and_swapped_cells_are_noticed_inwards() {
    for suite in SUITES {
        for link in 0..3 {
            for order in [&[0, 0][..], &[1], &[1, 0], &[0, 2]] {
                let mut circuit = Circuit::uniform(suite, 3);
                let cells: Vec<Body> = (0..3)
                    .map(|seed| {
                        let mut body = circuit.speak(2, &said(seed));
                        for relay in circuit.relays[link..2].iter_mut().rev() {
                            relay.1.wrap(&mut body).unwrap();
                        }
                        body
                    })
                    .collect();
                let mut failed = None;
                for i in order {
                    let mut body = cells[*i];
                    circuit.bring(link, &mut body);
                    if let Err(error) = circuit.client.open(&mut body) {
                        failed = failed.or(Some(error));
                    }
                }
                // The slots that fell off hold the stream of another cell (4.17), so it may be the seal of the hop
                // before the changed link that fails.
                let Some(OpenFailed::Changed { far, .. }) = failed else {
                    panic!("link {link}, order {order:?}: {failed:?}")
                };
                assert!(usize::from(far.0) == link || usize::from(far.0) + 1 == link);
            }
        }
    }
}

#[test]
fn no_byte_of_a_cell_is_alike_on_two_links_beyond_chance() {
    for suite in SUITES {
        let mut circuit = Circuit::uniform(suite, 6);
        let mut links = vec![circuit.seal(5, &said(1))];
        for relay in &mut circuit.relays {
            let mut body = *links.last().unwrap();
            let _ = relay.0.open(&mut body).unwrap();
            links.push(body);
        }
        let mut body = circuit.speak(5, &said(1));
        links.push(body);
        for relay in circuit.relays[..5].iter_mut().rev() {
            relay.1.wrap(&mut body).unwrap();
            links.push(body);
        }
        for (number, one) in links.iter().enumerate() {
            for other in &links[..number] {
                let alike = one
                    .iter()
                    .zip(other)
                    .filter(|(one, other)| one == other)
                    .count();
                // Of 2,040 bytes, one in 256 is alike by chance: eight on average.
                assert!(alike < 40, "{alike} bytes alike");
                let slots = |body: &Body| -> Vec<[u8; SLOT_LEN]> {
                    body[..HEADER_LEN].as_chunks().0.to_vec()
                };
                assert!(slots(one).iter().all(|slot| !slots(other).contains(slot)));
            }
        }
    }
}

#[test]
fn a_target_does_not_see_its_position() {
    for suite in SUITES {
        for hop in 0..MAX_HOPS {
            let mut circuit = Circuit::uniform(suite, MAX_HOPS);
            let mut body = circuit.seal(hop, &said(1));
            circuit.carry(hop, &mut body);
            assert_eq!(circuit.relays[hop].0.open(&mut body), Ok(Opened::Ours));
            assert!(body[..SLOT_LEN] == [0; SLOT_LEN]);
            for slot in body[SLOT_LEN..HEADER_LEN].chunks(SLOT_LEN) {
                let zeros = slot.iter().filter(|byte| **byte == 0).count();
                assert!(zeros < 8, "hop {hop} sees {slot:?}");
            }
        }
    }
}

#[test]
fn a_next_hop_cannot_speak_in_the_name_of_the_one_before_it() {
    for suite in SUITES {
        let mut circuit = Circuit::uniform(suite, 3);
        let mut forged = said(1);
        forged[..HEADER_LEN].fill(0);
        assert_eq!(circuit.relays[1].1.wrap(&mut forged), Err(LayerBroken));
        assert_eq!(
            circuit.relays[1].1.wrap(&mut said(1)),
            Err(LayerBroken),
            "for good"
        );
    }
}

#[test]
fn the_first_cells_of_a_splice_cannot_pass_for_the_rendezvous_points_own() {
    let HopKeys { backward, .. } = keys(1);
    let mut layer = RelayBackward::new(Suite::Aes256Gcm, backward);
    let mut body = said(1);
    body[..SLOT_LEN].fill(0);
    assert_eq!(layer.speak_joined(&mut body), Err(LayerBroken));
}

fn ends(suite: Suite) -> (EndToEnd, EndToEnd) {
    let end_keys = |seed| {
        let DirectionKeys { aead, chain, .. } = keys(seed).forward;
        EndKeys { aead, chain }
    };
    let one = EndToEnd::new(suite, end_keys(70), end_keys(71));
    (one, EndToEnd::new(suite, end_keys(71), end_keys(70)))
}

#[test]
fn on_a_joined_circuit_the_meeting_point_and_the_far_end_are_told_apart() {
    for suite in SUITES {
        let mut circuit = Circuit::uniform(suite, 3);
        let (mut here, mut there) = ends(suite);
        let mut body = circuit.speak(2, &said(1));
        circuit.bring(2, &mut body);
        let opened = circuit.client.open_joined(&mut here, &mut body);
        assert_eq!(opened, Ok(Speaker::Hop(hop_index(2))));

        let mut body = said(2);
        let tag = there.seal(&mut body[HEADER_LEN..]).unwrap();
        body[..SLOT_LEN].copy_from_slice(&tag);
        circuit.relays[2].1.speak_joined(&mut body).unwrap();
        circuit.bring(2, &mut body);
        assert_eq!(
            circuit.client.open_joined(&mut here, &mut body),
            Ok(Speaker::FarEnd)
        );
        same_payload(&body, &said(2));

        // The far end's seal shows a change that the rendezvous point itself makes.
        let mut body = said(3);
        let tag = there.seal(&mut body[HEADER_LEN..]).unwrap();
        body[..SLOT_LEN].copy_from_slice(&tag);
        body[500] ^= 1;
        circuit.relays[2].1.speak_joined(&mut body).unwrap();
        circuit.bring(2, &mut body);
        let opened = circuit.client.open_joined(&mut here, &mut body);
        assert_eq!(opened, Err(OpenFailed::FarEnd));
        let sealed = circuit
            .client
            .seal_joined(&mut here, &mut body, &mut circuit.rng);
        assert_eq!(sealed, Err(SealError::Broken));
    }
}

#[test]
fn a_layer_works_on_over_its_ratchet() {
    for suite in SUITES {
        let mut circuit = Circuit::uniform(suite, 1);
        for number in 0..=RATCHET_CELLS {
            let mut body = circuit.seal(0, &said(number as u8));
            assert_eq!(
                circuit.relays[0].0.open(&mut body),
                Ok(Opened::Ours),
                "{number}"
            );
        }
        let mut body = circuit.speak(0, &said(3));
        assert_eq!(circuit.client.open(&mut body), Ok(hop_index(0)));
    }
}

fn suites() -> impl Strategy<Value = Vec<Suite>> {
    proptest::collection::vec(proptest::sample::select(&SUITES[..]), 1..=MAX_HOPS)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any traffic on any circuit arrives whole, in order, and at the right hop.
    #[test]
    fn any_traffic_arrives(
        suites in suites(),
        traffic in proptest::collection::vec((any::<bool>(), 0..MAX_HOPS, any::<u8>()), 1..20),
    ) {
        let mut circuit = Circuit::new(&suites);
        for (outwards, hop, seed) in traffic {
            let hop = hop % suites.len();
            if outwards {
                let mut body = circuit.seal(hop, &said(seed));
                circuit.carry(hop, &mut body);
                prop_assert_eq!(circuit.relays[hop].0.open(&mut body), Ok(Opened::Ours));
                same_payload(&body, &said(seed));
            } else {
                let mut body = circuit.speak(hop, &said(seed));
                circuit.bring(hop, &mut body);
                prop_assert_eq!(circuit.client.open(&mut body), Ok(hop_index(hop)));
                same_payload(&body, &said(seed));
            }
        }
    }

    /// Whatever bytes somebody sends, they do not open, cause no panic, and leave no layer usable.
    #[test]
    fn rubbish_never_opens(suites in suites(), seed in any::<u64>(), zeros in 0..HEADER_LEN) {
        let mut circuit = Circuit::new(&suites);
        let mut body = [0; BODY_LEN];
        StdRng::seed_from_u64(seed).fill_bytes(&mut body[zeros..]);
        let mut copy = body;
        prop_assert!(circuit.client.open(&mut copy).is_err());
        let relay = &mut circuit.relays[0].0;
        prop_assert_eq!(relay.open(&mut body), Err(LayerBroken));
    }
}
