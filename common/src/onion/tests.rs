#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::cell::{BODY_LEN, Body, HEADER_LEN, MAX_HOPS, SLOT_LEN};
use crate::ids::HopIndex;
use crate::secret::Secret;

const SUITES: [Suite; 2] = [Suite::ChaCha20Poly1305, Suite::Aes256Gcm];

fn direction(seed: u8) -> DirectionKeys {
    DirectionKeys {
        aead: Secret::new([seed; 32]),
        header: Secret::new([seed + 1; 32]),
        chain: Secret::new([seed + 2; 32]),
    }
}

fn keys(hop: usize) -> HopKeys {
    let seed = 10 * hop as u8;
    HopKeys {
        forward: direction(seed),
        backward: direction(seed + 5),
    }
}

struct Relay {
    forward: RelayForward,
    backward: RelayBackward,
}

struct Circuit {
    client: ClientLayers,
    relays: Vec<Relay>,
    rng: StdRng,
}

impl Circuit {
    fn new(suite: Suite, hops: usize) -> Self {
        let mut client = ClientLayers::new();
        let relays = (0..hops)
            .map(|hop| {
                client.push(suite, keys(hop)).unwrap();
                let keys = keys(hop);
                Relay {
                    forward: RelayForward::new(suite, keys.forward),
                    backward: RelayBackward::new(suite, keys.backward),
                }
            })
            .collect();
        Self {
            client,
            relays,
            rng: StdRng::seed_from_u64(1),
        }
    }

    fn seal(&mut self, hop: usize, fill: u8) -> Body {
        let mut body = [fill; BODY_LEN];
        self.client
            .seal(HopIndex(hop as u8), &mut body, &mut self.rng)
            .unwrap();
        body
    }

    /// Takes a cell through the relays from `from` on, up to `to`.
    fn forward(&mut self, body: &mut Body, from: usize, to: usize) -> Result<Opened, usize> {
        let mut opened = Opened::Onward;
        for hop in from..=to {
            opened = self.relays[hop].forward.open(body).map_err(|_| hop)?;
            assert_eq!(opened == Opened::Ours, hop == to, "hop {hop} of {to}");
        }
        Ok(opened)
    }

    fn speak(&mut self, hop: usize, fill: u8) -> Body {
        let mut body = [fill; BODY_LEN];
        self.relays[hop].backward.speak(&mut body).unwrap();
        body
    }

    /// Takes a cell that hop `from` has sealed to the client.
    fn backward(&mut self, body: &mut Body, from: usize) {
        for hop in (0..from).rev() {
            self.relays[hop].backward.wrap(body).unwrap();
        }
    }
}

#[test]
fn every_hop_of_every_length_hears_and_speaks() {
    for suite in SUITES {
        for hops in 1..=MAX_HOPS {
            let mut circuit = Circuit::new(suite, hops);
            // Twice, so that every counter is seen to move.
            for hop in (0..hops).chain((0..hops).rev()) {
                let mut body = circuit.seal(hop, 7);
                assert_eq!(circuit.forward(&mut body, 0, hop), Ok(Opened::Ours));
                assert_eq!(body[HEADER_LEN..], [7; BODY_LEN - HEADER_LEN]);
                let mut body = circuit.speak(hop, 9);
                circuit.backward(&mut body, hop);
                assert_eq!(circuit.client.open(&mut body), Ok(HopIndex(hop as u8)));
                assert_eq!(body[HEADER_LEN..], [9; BODY_LEN - HEADER_LEN]);
            }
        }
    }
}

#[test]
fn a_seventh_hop_is_refused() {
    let mut circuit = Circuit::new(Suite::Aes256Gcm, MAX_HOPS);
    assert_eq!(
        circuit.client.push(Suite::Aes256Gcm, keys(6)),
        Err(TooManyHops)
    );
    let mut body = [0; BODY_LEN];
    let aimed = circuit
        .client
        .seal(HopIndex(6), &mut body, &mut circuit.rng);
    assert_eq!(aimed, Err(LayerBroken));
}

#[test]
fn the_secrets_change_after_65536_cells() {
    for suite in SUITES {
        let mut circuit = Circuit::new(suite, 1);
        for _ in 0..layer::RATCHET_CELLS + 2 {
            let mut body = circuit.seal(0, 1);
            assert_eq!(circuit.relays[0].forward.open(&mut body), Ok(Opened::Ours));
            let mut body = circuit.speak(0, 2);
            assert_eq!(circuit.client.open(&mut body), Ok(HopIndex(0)));
        }
    }
}

/// One changed bit in every byte, at each hop, both suites, towards the exit:
/// the next hop notices (design section 1.2).
#[test]
fn a_changed_bit_ends_at_the_next_hop_towards_the_exit() {
    for suite in SUITES {
        for changed_by in 0..2 {
            for at in 0..BODY_LEN {
                let mut circuit = Circuit::new(suite, 3);
                let mut body = circuit.seal(2, 7);
                for hop in 0..=changed_by {
                    assert_eq!(
                        circuit.relays[hop].forward.open(&mut body),
                        Ok(Opened::Onward)
                    );
                }
                body[at] ^= 1 << (at % 8);
                let end = circuit.forward(&mut body, changed_by + 1, 2);
                assert_eq!(end, Err(changed_by + 1), "byte {at}");
                let mut next = circuit.seal(2, 7);
                let after = circuit.relays[changed_by + 1].forward.open(&mut next);
                assert_eq!(after, Err(LayerBroken), "unusable ever after");
            }
        }
    }
}

/// The same towards the client, which can tell between which two hops it happened.
#[test]
fn a_changed_bit_ends_at_the_client_which_knows_where() {
    for suite in SUITES {
        // The hop after whose seal the bit is changed.
        for sealed_by in 0..3 {
            for at in 0..BODY_LEN {
                let mut circuit = Circuit::new(suite, 3);
                let mut body = circuit.speak(2, 9);
                for hop in (sealed_by..2).rev() {
                    circuit.relays[hop].backward.wrap(&mut body).unwrap();
                }
                body[at] ^= 1 << (at % 8);
                circuit.backward(&mut body, sealed_by);
                let failed = circuit.client.open(&mut body);
                // A bit in the header's slot j falls off at the hop 6 - j
                // further on. The next hop drops the last slot unread; where a
                // bit falls off later, the seal that does not fit is that of
                // the hop before it fell.
                let falls_at = (at < HEADER_LEN)
                    .then(|| sealed_by.checked_sub(1 + 6 - at / SLOT_LEN))
                    .flatten();
                let inner = match falls_at {
                    Some(hop) if hop + 1 == sealed_by => {
                        assert_eq!(failed, Ok(HopIndex(2)), "byte {at} behind hop {sealed_by}");
                        continue;
                    }
                    Some(hop) => hop + 1,
                    None => sealed_by,
                };
                let outer = inner.checked_sub(1).map(|hop| HopIndex(hop as u8));
                let inner = HopIndex(inner as u8);
                assert_eq!(
                    failed,
                    Err(OpenFailed::Changed { outer, inner }),
                    "byte {at}"
                );
                assert_eq!(circuit.client.open(&mut body), Err(OpenFailed::Unusable));
            }
        }
    }
}

/// Two relays that tag and un-tag around an honest one: the change never
/// survives the honest one, whatever it is.
#[test]
fn tagging_around_an_honest_hop_never_succeeds() {
    for suite in SUITES {
        for at in (0..BODY_LEN).step_by(7) {
            let mut circuit = Circuit::new(suite, 3);
            let mut body = circuit.seal(2, 7);
            assert_eq!(
                circuit.relays[0].forward.open(&mut body),
                Ok(Opened::Onward)
            );
            body[at] ^= 0x40;
            assert_eq!(circuit.relays[1].forward.open(&mut body), Err(LayerBroken));

            // Towards the client the honest hop can't notice, but what it
            // seals carries the tag for good: un-tagging breaks its own seal.
            let mut circuit = Circuit::new(suite, 3);
            let mut body = circuit.speak(2, 9);
            body[at] ^= 0x40;
            circuit.relays[1].backward.wrap(&mut body).unwrap();
            if !(HEADER_LEN - SLOT_LEN..HEADER_LEN).contains(&at) {
                body[at] ^= 0x40;
            }
            circuit.relays[0].backward.wrap(&mut body).unwrap();
            // The last slot falls off at the honest hop, and the tag with it.
            let fallen = (HEADER_LEN - SLOT_LEN..HEADER_LEN).contains(&at);
            assert_eq!(circuit.client.open(&mut body).is_ok(), fallen, "byte {at}");
        }
    }
}

#[test]
fn repeated_dropped_and_swapped_cells_are_noticed() {
    for suite in SUITES {
        for hop in 0..3 {
            // Repeated.
            let mut circuit = Circuit::new(suite, 3);
            let mut cells = [circuit.seal(2, 1), circuit.seal(2, 2), circuit.seal(2, 3)];
            for cell in &mut cells {
                (0..hop).for_each(|h| assert!(circuit.relays[h].forward.open(cell).is_ok()));
            }
            let mut again = cells[0];
            assert!(circuit.relays[hop].forward.open(&mut cells[0]).is_ok());
            assert_eq!(
                circuit.relays[hop].forward.open(&mut again),
                Err(LayerBroken)
            );
            // Dropped, and with that swapped.
            let mut circuit = Circuit::new(suite, 3);
            let mut cells = [circuit.seal(2, 1), circuit.seal(2, 2)];
            for cell in &mut cells {
                (0..hop).for_each(|h| assert!(circuit.relays[h].forward.open(cell).is_ok()));
            }
            assert_eq!(
                circuit.relays[hop].forward.open(&mut cells[1]),
                Err(LayerBroken)
            );
        }
        let mut circuit = Circuit::new(suite, 3);
        let mut cells = [circuit.speak(2, 1), circuit.speak(2, 2)];
        cells.iter_mut().for_each(|cell| circuit.backward(cell, 2));
        assert!(circuit.client.open(&mut cells[1]).is_err());
    }
}

/// What a middle relay sees of the header does not depend on where it stands
/// or how long the circuit is: no slot is ever zero there, and none repeats.
#[test]
fn a_header_does_not_tell_a_relay_its_position() {
    for suite in SUITES {
        let mut seen = std::collections::HashSet::new();
        for hops in 1..=MAX_HOPS {
            let mut circuit = Circuit::new(suite, hops);
            // Counters apart, so that no two of these cells share a header stream.
            for _ in 0..hops {
                let mut body = circuit.seal(hops - 1, 7);
                circuit.forward(&mut body, 0, hops - 1).unwrap();
            }
            let mut body = circuit.seal(hops - 1, 7);
            for hop in 0..hops {
                for slot in body[..HEADER_LEN].chunks(SLOT_LEN) {
                    assert_ne!(slot, [0; SLOT_LEN]);
                    assert!(seen.insert(slot.to_vec()), "a slot came twice");
                }
                let opened = circuit.relays[hop].forward.open(&mut body).unwrap();
                if opened == Opened::Ours {
                    // The target, too, finds random bytes where further hops would be.
                    for slot in body[SLOT_LEN..HEADER_LEN].chunks(SLOT_LEN) {
                        assert_ne!(slot, [0; SLOT_LEN], "length {hops}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_cell_looks_different_on_every_link() {
    let mut circuit = Circuit::new(Suite::Aes256Gcm, 3);
    let mut body = circuit.seal(2, 0);
    let mut views = vec![body];
    for hop in 0..2 {
        circuit.relays[hop].forward.open(&mut body).unwrap();
        views.push(body);
    }
    for (a, b) in [(0, 1), (1, 2), (0, 2)] {
        let same = views[a]
            .iter()
            .zip(&views[b])
            .filter(|(a, b)| a == b)
            .count();
        assert!(
            same < BODY_LEN / 64,
            "{same} bytes agree by more than chance"
        );
    }
}

proptest! {
    #[test]
    fn random_bodies_open_nowhere(seed: u64, hops in 1..=MAX_HOPS) {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut body = [0; BODY_LEN];
        rng.fill_bytes(&mut body);
        let mut circuit = Circuit::new(Suite::Aes256Gcm, hops);
        prop_assert_eq!(circuit.relays[0].forward.open(&mut body), Err(LayerBroken));
        prop_assert!(circuit.client.open(&mut body).is_err());
    }
}
