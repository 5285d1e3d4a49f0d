#![allow(clippy::unwrap_used)]

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::ids::{NetworkId, RelayId};
use crate::onion::Suite;

const NETWORK: NetworkId = NetworkId([7; 32]);
const RELAY: RelayId = RelayId([9; 32]);

fn rng() -> StdRng {
    StdRng::seed_from_u64(1)
}

fn context(onion: OnionPublicKey) -> HandshakeContext {
    HandshakeContext {
        network: NETWORK,
        relay: RELAY,
        onion,
    }
}

fn answer(
    keys: &[OnionKeypair],
    message: &[u8; CLIENT_MESSAGE_LEN],
) -> Result<Answer, HandshakeError> {
    respond(
        NETWORK,
        RELAY,
        keys,
        message,
        RelayParams::default(),
        &mut rng(),
    )
}

#[test]
fn both_sides_agree_on_keys_and_parameters() {
    for suite in [Suite::ChaCha20Poly1305, Suite::Aes256Gcm] {
        let old = OnionKeypair::generate(Suite::ChaCha20Poly1305, &mut StdRng::seed_from_u64(5));
        let onion = OnionKeypair::generate(suite, &mut rng());
        let context = context(onion.public());
        let (client, message) =
            ClientHandshake::start(&context, ClientParams::default(), &mut rng()).unwrap();
        let answer = answer(&[old, onion], &message).unwrap();
        assert_eq!(
            (answer.suite, answer.client),
            (suite, ClientParams::default())
        );
        let (keys, params) = client.finish(&answer.reply).unwrap();
        assert_eq!(params, RelayParams::default());
        for (ours, theirs) in [
            (&keys.forward, &answer.keys.forward),
            (&keys.backward, &answer.keys.backward),
        ] {
            assert_eq!(ours.aead.expose(), theirs.aead.expose());
            assert_eq!(ours.header.expose(), theirs.header.expose());
            assert_eq!(ours.chain.expose(), theirs.chain.expose());
        }
        assert_ne!(keys.forward.aead.expose(), keys.backward.aead.expose());
    }
}

#[test]
fn a_client_that_means_someone_else_is_refused() {
    let onion = OnionKeypair::generate(Suite::Aes256Gcm, &mut rng());
    let right = context(onion.public());
    let mut suite = onion.public();
    suite.suite = Suite::ChaCha20Poly1305;
    let wrong = [
        (
            HandshakeContext {
                network: NetworkId([8; 32]),
                ..right
            },
            "network",
        ),
        (
            HandshakeContext {
                relay: RelayId([8; 32]),
                ..right
            },
            "relay",
        ),
        (
            HandshakeContext {
                onion: suite,
                ..right
            },
            "suite",
        ),
    ];
    let keys = [onion];
    for (context, what) in wrong {
        let (_, message) =
            ClientHandshake::start(&context, ClientParams::default(), &mut rng()).unwrap();
        let error = answer(&keys, &message).err();
        assert_eq!(error, Some(HandshakeError::ClientNotAuthentic), "{what}");
    }
    let other = OnionKeypair::generate(Suite::Aes256Gcm, &mut StdRng::seed_from_u64(3));
    let (_, message) = ClientHandshake::start(
        &HandshakeContext {
            onion: other.public(),
            ..right
        },
        ClientParams::default(),
        &mut rng(),
    )
    .unwrap();
    assert_eq!(
        answer(&keys, &message).err(),
        Some(HandshakeError::UnknownOnionKey)
    );
}

#[test]
fn every_changed_byte_ends_the_handshake() {
    let keys = [OnionKeypair::generate(Suite::Aes256Gcm, &mut rng())];
    let context = context(keys[0].public());
    let start = || ClientHandshake::start(&context, ClientParams::default(), &mut rng()).unwrap();
    let (_, message) = start();
    for at in (0..CLIENT_MESSAGE_LEN)
        .step_by(13)
        .chain(CLIENT_MESSAGE_LEN - 40..CLIENT_MESSAGE_LEN)
    {
        let mut changed = message;
        changed[at] ^= 1;
        let expected = if at < 32 {
            HandshakeError::UnknownOnionKey
        } else {
            HandshakeError::ClientNotAuthentic
        };
        assert_eq!(answer(&keys, &changed).err(), Some(expected), "byte {at}");
    }
    for at in (0..REPLY_LEN).step_by(13).chain(REPLY_LEN - 70..REPLY_LEN) {
        let (client, message) = start();
        let mut reply = answer(&keys, &message).unwrap().reply;
        reply[at] ^= 1;
        assert_eq!(
            client.finish(&reply).err(),
            Some(HandshakeError::RelayNotAuthentic),
            "byte {at}"
        );
    }
}

#[test]
fn a_reply_to_another_create_is_refused() {
    let keys = [OnionKeypair::generate(Suite::Aes256Gcm, &mut rng())];
    let context = context(keys[0].public());
    let params = ClientParams::default();
    let (_, first) = ClientHandshake::start(&context, params, &mut rng()).unwrap();
    let (second, _) =
        ClientHandshake::start(&context, params, &mut StdRng::seed_from_u64(4)).unwrap();
    let replayed = answer(&keys, &first).unwrap().reply;
    assert_eq!(
        second.finish(&replayed).err(),
        Some(HandshakeError::RelayNotAuthentic)
    );
}

#[test]
fn points_of_small_order_are_refused_by_both_sides() {
    // Zero, one, and two points of order eight (RFC 7748, section 6.1; all give zero).
    let low = [
        [0; 32],
        core::array::from_fn(|i| u8::from(i == 0)),
        *b"\xe0\xeb\x7a\x7c\x3b\x41\xb8\xae\x16\x56\xe3\xfa\xf1\x9f\xc4\x6a\xda\x09\x8d\xeb\x9c\x32\xb1\xfd\x86\x62\x05\x16\x5f\x49\xb8\x00",
        *b"\x5f\x9c\x95\xbc\xa3\x50\x8c\x24\xb1\xd0\xb1\x55\x9c\x83\xef\x5b\x04\x44\x5c\xc4\x58\x1c\x8e\x86\xd8\x22\x4e\xdd\xd0\x9f\x11\x57",
    ];
    let keys = [OnionKeypair::generate(Suite::Aes256Gcm, &mut rng())];
    let context = context(keys[0].public());
    for point in low {
        let (client, message) =
            ClientHandshake::start(&context, ClientParams::default(), &mut rng()).unwrap();
        let mut changed = message;
        changed[32..64].copy_from_slice(&point);
        assert_eq!(answer(&keys, &changed).err(), Some(HandshakeError::BadKey));
        let mut reply = answer(&keys, &message).unwrap().reply;
        reply[..32].copy_from_slice(&point);
        assert_eq!(client.finish(&reply).err(), Some(HandshakeError::BadKey));
        let onion = OnionPublicKey {
            key: point,
            ..keys[0].public()
        };
        let to_low = HandshakeContext { onion, ..context };
        let error = ClientHandshake::start(&to_low, ClientParams::default(), &mut rng()).err();
        assert_eq!(error, Some(HandshakeError::BadKey));
    }
}

#[test]
fn parameters_have_bounds() {
    let good = RelayParams::default();
    let bad = [
        (RelayParams { version: 2, ..good }, ParamsError::Version),
        (
            RelayParams {
                circuit_window_cells: 0,
                ..good
            },
            ParamsError::CircuitWindow(0),
        ),
        (
            RelayParams {
                circuit_window_cells: 63,
                ..good
            },
            ParamsError::CircuitWindow(63),
        ),
        (
            RelayParams {
                circuit_window_cells: 16_385,
                ..good
            },
            ParamsError::CircuitWindow(16_385),
        ),
        (
            RelayParams {
                mark_interval_cells: 7,
                ..good
            },
            ParamsError::MarkInterval(7),
        ),
        (
            RelayParams {
                mark_interval_cells: 257,
                ..good
            },
            ParamsError::MarkInterval(257),
        ),
        (
            RelayParams {
                stream_window_bytes: 0,
                ..good
            },
            ParamsError::StreamWindow(0),
        ),
        (
            RelayParams {
                stream_window_bytes: u32::MAX,
                ..good
            },
            ParamsError::StreamWindow(u32::MAX),
        ),
    ];
    for (params, error) in bad {
        assert_eq!(RelayParams::decode(&params.encode()), Err(error));
    }
    for at in 10..16 {
        let mut bytes = good.encode();
        bytes[at] = 1;
        assert_eq!(RelayParams::decode(&bytes), Err(ParamsError::Malformed));
    }
    for (lowest, highest, ok) in [
        (1, 1, true),
        (0, 9, true),
        (2, 9, false),
        (0, 0, false),
        (2, 1, false),
    ] {
        let params = ClientParams { lowest, highest };
        assert_eq!(ClientParams::decode(&params.encode()).is_ok(), ok);
    }
}
