//! Tests of the two sides of the handshake against each other, and against whoever changes messages in between.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::ids::{NetworkId, RelayId};
use crate::onion::{HopKeys, Suite};
use crate::secret::Secret;

const NETWORK: NetworkId = NetworkId([1; 32]);
const RELAY: RelayId = RelayId([2; 32]);
const REPLY: RelayParams = RelayParams {
    version: CIRCUIT_VERSION,
    circuit_window_cells: 1024,
    mark_interval_cells: 32,
    stream_window_bytes: 262_144,
};

fn rng(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

fn key(suite: Suite) -> OnionKeypair {
    OnionKeypair::generate(suite, &mut rng(7)).unwrap()
}

fn context(key: &OnionKeypair) -> HandshakeContext {
    HandshakeContext {
        network: NETWORK,
        relay: RELAY,
        onion: key.public(),
    }
}

fn start(ctx: &HandshakeContext) -> (ClientHandshake, [u8; CLIENT_MESSAGE_LEN]) {
    ClientHandshake::start(ctx, ClientParams::default(), &mut rng(8)).unwrap()
}

type Answer = (Suite, HopKeys, [u8; REPLY_LEN], ClientParams);

fn answer(key: OnionKeypair, message: &[u8; CLIENT_MESSAGE_LEN]) -> Result<Answer, HandshakeError> {
    respond(&NETWORK, &RELAY, &[key], message, REPLY, &mut rng(9))
}

fn bytes(keys: &HopKeys) -> [[u8; 32]; 6] {
    [&keys.forward, &keys.backward]
        .map(|keys| [&keys.aead, &keys.header, &keys.chain].map(|key| *key.expose()))
        .concat()
        .try_into()
        .unwrap()
}

#[test]
fn both_sides_get_the_same_six_different_keys() {
    for suite in [Suite::ChaCha20Poly1305, Suite::Aes256Gcm] {
        let key = key(suite);
        let (client, message) = start(&context(&key));
        let (told, relay, reply, said) = answer(key, &message).unwrap();
        let (client, params) = client.finish(&reply).unwrap();
        assert_eq!(
            (told, said, params),
            (suite, ClientParams::default(), REPLY)
        );
        let keys = bytes(&client);
        assert_eq!(keys, bytes(&relay));
        assert!((1..6).all(|i| !keys[..i].contains(&keys[i])));
    }
}

#[test]
fn a_relay_with_overlapping_keys_picks_the_one_aimed_at() {
    let mut rng = rng(1);
    let keys = [
        Suite::ChaCha20Poly1305,
        Suite::Aes256Gcm,
        Suite::ChaCha20Poly1305,
    ]
    .map(|suite| OnionKeypair::generate(suite, &mut rng).unwrap());
    let (client, message) = start(&context(&keys[1]));
    let (suite, _, reply, _) = respond(&NETWORK, &RELAY, &keys, &message, REPLY, &mut rng).unwrap();
    assert_eq!(suite, Suite::Aes256Gcm);
    assert!(client.finish(&reply).is_ok());
}

#[test]
fn a_key_follows_from_its_bytes() {
    let key = || OnionKeypair::from_bytes(Suite::Aes256Gcm, &Secret::new([9; 32])).unwrap();
    assert_eq!(key().public(), key().public());
}

#[test]
fn a_message_is_bound_to_its_network_relay_key_and_suite() {
    let ctx = context(&key(Suite::Aes256Gcm));
    let (_, message) = start(&ctx);
    let fails = |network, relay, key: OnionKeypair| {
        respond(&network, &relay, &[key], &message, REPLY, &mut rng(9))
            .err()
            .unwrap()
    };
    let aes = || key(Suite::Aes256Gcm);
    assert_eq!(
        fails(NetworkId([9; 32]), RELAY, aes()),
        HandshakeError::WrongKey
    );
    assert_eq!(
        fails(NETWORK, RelayId([9; 32]), aes()),
        HandshakeError::WrongKey
    );
    assert_eq!(
        fails(NETWORK, RELAY, key(Suite::ChaCha20Poly1305)),
        HandshakeError::WrongKey
    );
    let other = OnionKeypair::generate(Suite::Aes256Gcm, &mut rng(99)).unwrap();
    assert_eq!(
        fails(NETWORK, RELAY, other),
        HandshakeError::UnknownOnionKey
    );
}

#[test]
fn every_changed_byte_of_a_message_is_refused() {
    let (_, message) = start(&context(&key(Suite::ChaCha20Poly1305)));
    for at in 0..CLIENT_MESSAGE_LEN {
        let mut changed = message;
        changed[at] ^= 1 << (at % 8);
        let error = answer(key(Suite::ChaCha20Poly1305), &changed).err();
        // X25519 ignores the top bit of a point; the transcript does not.
        let expected = if at < 32 {
            HandshakeError::UnknownOnionKey
        } else {
            HandshakeError::WrongKey
        };
        assert_eq!(error, Some(expected), "byte {at}");
    }
}

#[test]
fn every_changed_byte_of_a_reply_is_refused_before_the_parameters_are_read() {
    let context = context(&key(Suite::ChaCha20Poly1305));
    for at in 0..REPLY_LEN {
        let (client, message) = start(&context);
        let (_, _, mut reply, _) = answer(key(Suite::ChaCha20Poly1305), &message).unwrap();
        reply[at] ^= 1 << (at % 8);
        assert_eq!(
            client.finish(&reply).err(),
            Some(HandshakeError::BadAuth),
            "byte {at}"
        );
    }
}

#[test]
fn points_of_small_order_are_refused_by_both_sides() {
    // The points are zero, one, the two points of order eight (curve of RFC 7748), and p - 1.
    let order_8a = "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800";
    let order_8b = "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157";
    let minus_one = "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f";
    let mut points = vec![[0; 32], [0; 32]];
    points[1][0] = 1;
    for text in [order_8a, order_8b, minus_one] {
        points.push(hex::decode(text).unwrap().try_into().unwrap());
    }
    for point in points {
        let suite = Suite::ChaCha20Poly1305;
        let mut ctx = context(&key(suite));

        let (client, mut message) = start(&ctx);
        let (_, _, mut reply, _) = answer(key(suite), &message).unwrap();
        reply[..32].copy_from_slice(&point);
        assert_eq!(client.finish(&reply).err(), Some(HandshakeError::BadPoint));

        message[32..64].copy_from_slice(&point);
        assert_eq!(
            answer(key(suite), &message).err(),
            Some(HandshakeError::BadPoint)
        );

        ctx.onion.key = point;
        let error = ClientHandshake::start(&ctx, ClientParams::default(), &mut rng(1)).err();
        assert_eq!(error, Some(HandshakeError::BadPoint));
    }
}

#[test]
fn an_encapsulation_key_out_of_range_is_refused() {
    let key = key(Suite::ChaCha20Poly1305);
    let ctx = context(&key);
    let kem = aws_lc_rs::kem::DecapsulationKey::generate(&aws_lc_rs::kem::ML_KEM_768).unwrap();
    let x = x25519::SecretKey::from_bytes(&Secret::new([3; 32])).unwrap();
    // Coefficients of 4,095 exceed the modulus: the bytes are not a key, though the client sealed its parameters well.
    let (_, message) =
        ClientHandshake::start_with(&ctx, ClientParams::default(), x, kem, &[0xff; EK_LEN])
            .unwrap();
    assert_eq!(answer(key, &message).err(), Some(HandshakeError::BadKem));
}

#[test]
fn sides_without_a_common_version_refuse() {
    let key_ = || key(Suite::ChaCha20Poly1305);
    let offer = ClientParams {
        lowest: 2,
        highest: 3,
    };
    let (client, message) = ClientHandshake::start(&context(&key_()), offer, &mut rng(1)).unwrap();
    assert_eq!(
        answer(key_(), &message).err(),
        Some(HandshakeError::NoCommonVersion)
    );

    // The relay answers with a version that the client did not offer.
    let reply = RelayParams {
        version: 2,
        ..REPLY
    };
    let (_, _, bytes, _) =
        respond(&NETWORK, &RELAY, &[key_()], &message, reply, &mut rng(2)).unwrap();
    assert_eq!(
        client.finish(&bytes).map(|(_, params)| params.version),
        Ok(2)
    );
}

#[test]
fn params_are_bounded_both_ways() {
    let with = |cells, interval, bytes| RelayParams {
        circuit_window_cells: cells,
        mark_interval_cells: interval,
        stream_window_bytes: bytes,
        ..REPLY
    };
    for good in [
        with(64, 8, 16_384),
        with(64, 32, 16_384),
        with(16_384, 8_192, 16 << 20),
    ] {
        assert_eq!(RelayParams::decode(&good.encode()), Ok(good));
    }
    for (bad, error) in [
        (with(63, 8, 16_384), ParamsError::CircuitWindow(63)),
        (with(16_385, 8, 16_384), ParamsError::CircuitWindow(16_385)),
        (with(64, 7, 16_384), ParamsError::MarkInterval(7)),
        (with(64, 33, 16_384), ParamsError::MarkInterval(33)),
        (with(64, 8, 16_383), ParamsError::StreamWindow(16_383)),
        (
            with(64, 8, (16 << 20) + 1),
            ParamsError::StreamWindow((16 << 20) + 1),
        ),
        (
            RelayParams {
                version: 0,
                ..REPLY
            },
            ParamsError::Versions,
        ),
    ] {
        assert_eq!(RelayParams::decode(&bad.encode()), Err(error));
        let key = key(Suite::ChaCha20Poly1305);
        let (_, message) = start(&context(&key));
        let refused = respond(&NETWORK, &RELAY, &[key], &message, bad, &mut rng(1)).err();
        assert_eq!(refused, Some(HandshakeError::BadParams(error)));
    }
    for at in 10..16 {
        let mut bytes = REPLY.encode();
        bytes[at] = 1;
        assert_eq!(RelayParams::decode(&bytes), Err(ParamsError::Reserved));
    }
    for at in 4..16 {
        let mut bytes = ClientParams::default().encode();
        bytes[at] = 1;
        assert_eq!(ClientParams::decode(&bytes), Err(ParamsError::Reserved));
    }
    for (lowest, highest) in [(0, 1), (2, 1)] {
        let bytes = ClientParams { lowest, highest }.encode();
        assert_eq!(ClientParams::decode(&bytes), Err(ParamsError::Versions));
    }
}
