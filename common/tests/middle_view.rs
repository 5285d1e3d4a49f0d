//! A relay in the middle of a circuit sees neither end of the circuit, nor its own position (S13).
#![allow(clippy::unwrap_used)]

use cepa_common::cell::codec::{self, Cell};
use cepa_common::cell::message::{BeginHost, Packer, StreamMessage};
use cepa_common::cell::{BODY_LEN, Body, HEADER_LEN};
use cepa_common::handshake::{
    ClientHandshake, ClientParams, HandshakeContext, OnionKeypair, RelayParams, respond,
};
use cepa_common::ids::{CircId, HopIndex, NetworkId, RelayId, StreamId};
use cepa_common::onion::{ClientLayers, Opened, RelayBackward, RelayForward, Suite};
use rand::SeedableRng;
use rand::rngs::StdRng;

const NAME: &str = "destination.example";
const DESTINATION: [u8; 4] = [198, 51, 100, 9];
const CLIENT: [u8; 4] = [192, 0, 2, 77];
const SECRET: &[u8] = b"what the application sends";

struct Relay {
    forward: RelayForward,
    backward: RelayBackward,
    /// The CREATE cell by which the relay became part of the circuit.
    create: Cell,
}

/// Makes a circuit of `hops` relays by handshakes.
fn circuit(suite: Suite, hops: u8, rng: &mut StdRng) -> (ClientLayers, Vec<Relay>) {
    let mut client = ClientLayers::new();
    let network = NetworkId([1; 32]);
    let params = RelayParams {
        version: 1,
        circuit_window_cells: 512,
        mark_interval_cells: 32,
        stream_window_bytes: 1 << 20,
    };
    let mut relays = Vec::new();
    for hop in 0..hops {
        let relay = RelayId([hop; 32]);
        let onion = OnionKeypair::generate(suite, rng).unwrap();
        let context = HandshakeContext {
            network,
            relay,
            onion: onion.public(),
        };
        let (handshake, message) =
            ClientHandshake::start(&context, ClientParams::default(), rng).unwrap();
        let (suite, keys, reply, _) =
            respond(&network, &relay, &[onion], &message, params, rng).unwrap();
        client
            .push(suite, handshake.finish(&reply).unwrap().0)
            .unwrap();
        relays.push(Relay {
            forward: RelayForward::new(suite, keys.forward),
            backward: RelayBackward::new(suite, keys.backward),
            create: codec::create(CircId::new(1).unwrap(), &message),
        });
    }
    (client, relays)
}

fn pack(body: &mut Body, messages: impl FnOnce(&mut Packer<'_>)) {
    let mut packer = Packer::new(body[HEADER_LEN..].as_mut_array().unwrap());
    messages(&mut packer);
    packer.finish();
}

fn holds(view: &[u8], what: &[u8]) -> bool {
    view.windows(what.len()).any(|window| window == what)
}

fn assert_blind(view: &[u8], whose: &str) {
    for (what, name) in [
        (NAME.as_bytes(), "the destination's name"),
        (&DESTINATION, "the destination's address"),
        (&CLIENT, "the client's address"),
        (SECRET, "what is sent"),
        // Zeros would tell where the messages end, or how many hops the circuit has.
        (&[0; 6], "zeros"),
    ] {
        assert!(!holds(view, what), "{whose} sees {name}");
    }
}

#[test]
fn a_middle_relay_sees_neither_end_nor_its_position() {
    let mut rng = StdRng::seed_from_u64(11);
    for suite in [Suite::ChaCha20Poly1305, Suite::Aes256Gcm] {
        for hops in 3..=6 {
            let (mut client, mut relays) = circuit(suite, hops, &mut rng);
            let (last, stream) = (HopIndex(hops - 1), StreamId::new(7).unwrap());
            let before_last = usize::from(hops) - 1;

            // Away from the client: `links` has the body before and after each layer is opened.
            let mut body = [0; BODY_LEN];
            let data = [&CLIENT[..], &DESTINATION, SECRET].concat();
            pack(&mut body, |p| {
                p.begin(stream, BeginHost::Name(NAME), 443).unwrap();
                p.stream(stream, StreamMessage::Data(&data)).unwrap();
            });
            client.seal(last, &mut body, &mut rng).unwrap();
            let mut links = vec![body];
            for (hop, relay) in relays[..before_last].iter_mut().enumerate() {
                assert_blind(&body, &format!("relay {hop} of {hops}, before"));
                assert_eq!(relay.forward.open(&mut body), Ok(Opened::Onward));
                assert_blind(&body, &format!("relay {hop} of {hops}, after"));
                links.push(body);
            }
            assert_eq!(
                relays[before_last].forward.open(&mut body),
                Ok(Opened::Ours)
            );
            assert!(holds(&body, NAME.as_bytes()), "the exit does know");

            // Towards the client.
            let mut body = [0; BODY_LEN];
            pack(&mut body, |p| {
                p.stream(stream, StreamMessage::Data(SECRET)).unwrap()
            });
            relays[before_last].backward.speak(&mut body).unwrap();
            links.push(body);
            for (hop, relay) in relays[..before_last].iter_mut().enumerate().rev() {
                assert_blind(&body, &format!("relay {hop} of {hops}, towards the client"));
                relay.backward.wrap(&mut body).unwrap();
                links.push(body);
            }
            assert_eq!(client.open(&mut body), Ok(last));
            assert!(holds(&body, SECRET));

            // No two links carry bytes that agree by more than chance.
            for (n, a) in links.iter().enumerate() {
                for b in &links[n + 1..] {
                    let same = a.iter().zip(b).filter(|(a, b)| a == b).count();
                    assert!(same < BODY_LEN / 64, "{same} bytes agree");
                }
            }

            // Every relay gets a CREATE of the same form, whether it is first, middle or last.
            for relay in &relays {
                assert_eq!(relay.create[4..9], relays[0].create[4..9]);
                assert!(
                    relay.create[9 + codec::CREATE_LEN..]
                        .iter()
                        .all(|b| *b == 0)
                );
            }
        }
    }
}
