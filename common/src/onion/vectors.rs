//! Replays the vectors that the reference in `tests/reference` wrote, and those that docs/protocol.md prints (8.3).
#![allow(clippy::unwrap_used, clippy::expect_used)]

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::tests::{Scripted, hop_index};
use super::*;
use crate::cell::codec::{self, CircuitCommand};
use crate::cell::{BODY_LEN, Body, CELL_LEN, HEADER_LEN, PAYLOAD_LEN};
use crate::ids::CircId;
use crate::secret::Secret;
use crate::testkit::vectors;

const LAYERS: &str = include_str!("../../testdata/layers.json");
const SPLICES: &str = include_str!("../../testdata/splices.json");
const BROKEN: &str = include_str!("../../testdata/broken_layers.json");

fn load(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn number(value: &Value) -> usize {
    usize::try_from(value.as_u64().unwrap()).unwrap()
}

fn secret(value: &Value) -> Secret<32> {
    Secret::new(hex::decode(text(value)).unwrap().try_into().unwrap())
}

fn suite(value: &Value) -> Suite {
    [Suite::ChaCha20Poly1305, Suite::Aes256Gcm]
        .into_iter()
        .find(|suite| suite.name() == text(value))
        .unwrap()
}

fn direction(keys: &[Value]) -> DirectionKeys {
    let [aead, header, chain] = keys else {
        panic!("three keys")
    };
    DirectionKeys {
        aead: secret(aead),
        header: secret(header),
        chain: secret(chain),
    }
}

fn hop(value: &Value) -> (Suite, HopKeys) {
    let (forward, backward) = list(&value["keys"]).split_at(3);
    let keys = HopKeys {
        forward: direction(forward),
        backward: direction(backward),
    };
    (suite(&value["suite"]), keys)
}

fn end_keys(value: &Value) -> EndKeys {
    EndKeys {
        aead: secret(&value[0]),
        chain: secret(&value[1]),
    }
}

/// The client and the relays of one circuit.
struct Circuit {
    client: ClientLayers,
    relays: Vec<(RelayForward, RelayBackward)>,
}

impl Circuit {
    fn new(hops: &Value, counter: u64) -> Self {
        let mut client = ClientLayers::new();
        let mut relays = Vec::new();
        for value in list(hops) {
            let (suite, keys) = hop(value);
            client.push_starting_at(suite, keys, counter).unwrap();
            let (suite, keys) = hop(value);
            relays.push((
                RelayForward::starting_at(suite, keys.forward, counter),
                RelayBackward::starting_at(suite, keys.backward, counter),
            ));
        }
        Self { client, relays }
    }
}

fn payload(name: &str) -> [u8; PAYLOAD_LEN] {
    let blocks = (0u32..).flat_map(|number| {
        <[u8; 32]>::from(
            Sha256::new()
                .chain_update(name)
                .chain_update(number.to_be_bytes())
                .finalize(),
        )
    });
    blocks
        .take(PAYLOAD_LEN)
        .collect::<Vec<_>>()
        .try_into()
        .unwrap()
}

/// A body with this payload, and other bytes where the header will be.
fn body_of(payload: &[u8; PAYLOAD_LEN]) -> Body {
    let mut body = [0xee; BODY_LEN];
    body[HEADER_LEN..].copy_from_slice(payload);
    body
}

fn script(value: &Value) -> Scripted {
    Scripted(hex::decode(text(value)).unwrap())
}

#[track_caller]
fn check(body: &Body, link: &Value, what: &str) {
    assert_eq!(
        hex::encode(&body[..HEADER_LEN]),
        text(&link["header"]),
        "header: {what}"
    );
    assert_eq!(
        hex::encode(Sha256::digest(body)),
        text(&link["sha256"]),
        "body: {what}"
    );
}

fn replay(circuit: &mut Circuit, cell: &Value) {
    let what = text(&cell["payload"]);
    replay_payload(circuit, cell, &payload(what), what);
}

/// Plays one cell, and gives its body as it is on the link between the client and the first hop.
fn replay_payload(
    circuit: &mut Circuit,
    cell: &Value,
    payload: &[u8; PAYLOAD_LEN],
    what: &str,
) -> Body {
    let (hop, links) = (number(&cell["hop"]), list(&cell["links"]));
    let mut body = body_of(payload);
    let near;
    if text(&cell["way"]) == "forward" {
        let mut rng = script(&cell["random"]);
        circuit
            .client
            .seal(hop_index(hop - 1), &mut body, &mut rng)
            .unwrap();
        assert!(rng.0.is_empty(), "all of the padding is drawn: {what}");
        near = body;
        check(&body, &links[0], what);
        for (number, (relay, link)) in circuit.relays.iter_mut().zip(&links[1..]).enumerate() {
            let opened = relay.0.open(&mut body).unwrap();
            assert_eq!(opened == Opened::Ours, number + 1 == hop, "{what}");
            check(&body, link, what);
        }
    } else {
        circuit.relays[hop - 1].1.speak(&mut body).unwrap();
        check(&body, &links[0], what);
        for (relay, link) in circuit.relays[..hop - 1].iter_mut().rev().zip(&links[1..]) {
            relay.1.wrap(&mut body).unwrap();
            check(&body, link, what);
        }
        near = body;
        assert_eq!(
            circuit.client.open(&mut body),
            Ok(hop_index(hop - 1)),
            "{what}"
        );
    }
    assert_eq!(body[HEADER_LEN..], *payload, "{what}");
    near
}

#[test]
fn the_cells_that_the_document_prints_are_those_of_its_rules() {
    let (first, cells) = (vectors("handshake"), vectors("cells"));
    let of_hop = |number: usize, suite: Suite| {
        let keys = ["forward", "backward"].map(|way| {
            ["aead", "header", "chain"].map(|kind| {
                let bytes = match number {
                    1 => &first[format!("{way}_{kind}").as_str()],
                    _ => &cells[format!("hop{number}_{way}_{kind}").as_str()],
                };
                hex::encode(bytes)
            })
        });
        json!({ "suite": suite.name(), "keys": keys.concat() })
    };
    let (one, two) = (Suite::from_code(1).unwrap(), Suite::from_code(2).unwrap());
    let hops = json!([of_hop(1, one), of_hop(2, two), of_hop(3, one)]);
    let mut circuit = Circuit::new(&hops, 0);

    let link = |header: String, sum: String| {
        let hex = |name: String| hex::encode(&cells[name.as_str()]);
        json!({ "header": hex(header), "sha256": hex(sum) })
    };
    let padded = |name: &str| {
        let mut payload = [0; PAYLOAD_LEN];
        payload[..cells[name].len()].copy_from_slice(&cells[name]);
        payload
    };
    let forward = |hop: &str| {
        link(
            format!("forward_header_{hop}"),
            format!("forward_body_{hop}_sha256"),
        )
    };
    let links = ["to_1", "to_2", "to_3", "opened"].map(forward);
    let random = hex::encode(&cells["random"]);
    let forward = json!({ "way": "forward", "hop": 3, "random": random, "links": links });
    let backward = |hop: &str| {
        link(
            format!("backward_header_{hop}"),
            format!("backward_body_{hop}_sha256"),
        )
    };
    let links = ["from_3", "from_2", "from_1"].map(backward);
    let backward = json!({ "way": "backward", "hop": 3, "links": links });
    for (way, cell) in [("forward", forward), ("backward", backward)] {
        let said = padded(&format!("{way}_payload"));
        let body = replay_payload(&mut circuit, &cell, &said, way);
        let mut whole = [0; CELL_LEN];
        let id = CircId::new(0x8000_0001).unwrap();
        codec::write_circuit_head(&mut whole, id, CircuitCommand::Relay);
        *codec::body_mut(&mut whole) = body;
        let sum = Sha256::digest(whole).to_vec();
        assert_eq!(sum, cells[format!("{way}_cell_sha256").as_str()], "{way}");
    }
}

#[test]
fn every_session_of_the_reference_gives_the_same_bytes() {
    for session in list(&load(LAYERS)) {
        let mut circuit = Circuit::new(&session["hops"], session["counter"].as_u64().unwrap());
        list(&session["cells"])
            .iter()
            .for_each(|cell| replay(&mut circuit, cell));
    }
}

#[test]
fn every_splice_of_the_reference_gives_the_same_bytes() {
    for splice in list(&load(SPLICES)) {
        let (suite, counter) = (suite(&splice["suite"]), splice["counter"].as_u64().unwrap());
        let end = |says: &str, hears: &str| {
            EndToEnd::starting_at(
                suite,
                end_keys(&splice[says]),
                end_keys(&splice[hears]),
                counter,
            )
        };
        let mut a = (Circuit::new(&splice["a"], 0), end("a_says", "b_says"));
        let mut b = (Circuit::new(&splice["b"], 0), end("b_says", "a_says"));
        for cell in list(&splice["cells"]) {
            let (near, far) = if text(&cell["from"]) == "a" {
                (&mut a, &mut b)
            } else {
                (&mut b, &mut a)
            };
            let what = text(&cell["payload"]);
            let payload = payload(what);
            let mut body = body_of(&payload);
            let mut links = list(&cell["links"]).iter();
            let mut check = |body: &Body| check(body, links.next().unwrap(), what);

            near.0
                .client
                .seal_joined(&mut near.1, &mut body, &mut script(&cell["random"]))
                .unwrap();
            check(&body);
            for relay in &mut near.0.relays {
                assert_eq!(relay.0.open(&mut body), Ok(Opened::Onward), "{what}");
                check(&body);
            }
            assert_eq!(hex::encode(&body[..16]), text(&cell["tag"]));
            let (meeting, passing) = far.0.relays.split_last_mut().unwrap();
            meeting.1.speak_joined(&mut body).unwrap();
            check(&body);
            for relay in passing.iter_mut().rev() {
                relay.1.wrap(&mut body).unwrap();
                check(&body);
            }
            assert_eq!(
                far.0.client.open_joined(&mut far.1, &mut body),
                Ok(Speaker::FarEnd)
            );
            assert_eq!(body[HEADER_LEN..], payload, "{what}");
            assert!(links.next().is_none());
        }
    }
}

/// Decodes Base64, in which the vectors hold a few whole bodies.
fn base64(text: &str) -> Vec<u8> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => 0,
    };
    let padding = text.bytes().filter(|byte| *byte == b'=').count();
    let mut bytes = Vec::new();
    for group in text.as_bytes().chunks_exact(4) {
        let bits = group
            .iter()
            .fold(0u32, |bits, byte| bits << 6 | u32::from(digit(*byte)));
        bytes.extend_from_slice(&bits.to_be_bytes()[1..]);
    }
    bytes.truncate(bytes.len() - padding);
    bytes
}

fn whole(cell: &Value) -> Body {
    base64(text(&cell["body"])).try_into().unwrap()
}

#[test]
fn a_relay_refuses_every_broken_cell_of_the_reference() {
    for (name, sides) in load(BROKEN).as_object().unwrap() {
        for cell in list(&sides[0]["cells"]) {
            let mut circuit = Circuit::new(&sides[0]["hops"], 0);
            let expected = if cell["good"] == true {
                Ok(Opened::Ours)
            } else {
                Err(LayerBroken)
            };
            let opened = circuit.relays[0].0.open(&mut whole(cell));
            assert_eq!(opened, expected, "{name}: {}", cell["name"]);
        }
    }
}

#[test]
fn a_client_refuses_every_broken_cell_of_the_reference_and_says_where() {
    for (name, sides) in load(BROKEN).as_object().unwrap() {
        for cell in list(&sides[1]["cells"]) {
            let mut circuit = Circuit::new(&sides[1]["hops"], 0);
            let expected = match cell["between"].as_array().map(Vec::as_slice) {
                None => Err(OpenFailed::NoMarker),
                Some([]) => Ok(hop_index(2)),
                Some(pair) => {
                    let [near, far] = [&pair[0], &pair[1]].map(number);
                    let (near, far) = (near.checked_sub(1).map(hop_index), hop_index(far - 1));
                    Err(OpenFailed::Changed { near, far })
                }
            };
            let opened = circuit.client.open(&mut whole(cell));
            assert_eq!(opened, expected, "{name}: {}", cell["name"]);
        }
    }
}
