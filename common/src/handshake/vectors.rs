//! Replays the vectors that the reference in `tests/reference` wrote, the one that docs/protocol.md prints (8.2) among
//! them. The reference plays each side in turn, and the code under test plays the other.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use aws_lc_rs::kem::{DecapsulationKey, ML_KEM_768};
use hkdf::Hkdf;
use serde_json::{Value, json};
use sha2::Sha256;
use x25519_dalek::{PublicKey, StaticSecret};

use super::relay::respond_with;
use super::x25519::SecretKey;
use super::*;
use crate::ids::{NetworkId, RelayId};
use crate::onion::{HopKeys, Suite};
use crate::secret::Secret;
use crate::testkit::vectors;

const HANDSHAKES: &str = include_str!("../../testdata/handshakes.json");

struct Vector<'a>(&'a Value);

impl Vector<'_> {
    fn bytes<const N: usize>(&self, name: &str) -> [u8; N] {
        unhex(&self.0[name])
    }

    fn suite(&self) -> Suite {
        [Suite::ChaCha20Poly1305, Suite::Aes256Gcm]
            .into_iter()
            .find(|suite| suite.name() == self.0["suite"].as_str().unwrap())
            .unwrap()
    }

    fn onion(&self) -> OnionKeypair {
        OnionKeypair::from_bytes(self.suite(), &Secret::new(self.bytes("b"))).unwrap()
    }

    fn context(&self) -> HandshakeContext {
        HandshakeContext {
            network: NetworkId(self.bytes("network")),
            relay: RelayId(self.bytes("relay")),
            onion: self.onion().public(),
        }
    }

    fn start(&self) -> (ClientHandshake, [u8; CLIENT_MESSAGE_LEN]) {
        let kem = DecapsulationKey::new(&ML_KEM_768, &self.bytes::<2400>("dk")).unwrap();
        let x = SecretKey::from_bytes(&Secret::new(self.bytes("x"))).unwrap();
        let ek = self.bytes("ek");
        ClientHandshake::start_with(&self.context(), ClientParams::default(), x, kem, &ek).unwrap()
    }

    fn respond(
        &self,
        message: &[u8; CLIENT_MESSAGE_LEN],
    ) -> Result<(HopKeys, [u8; REPLY_LEN]), HandshakeError> {
        let ctx = self.context();
        let params = RelayParams::decode(&self.bytes("relay_params")).unwrap();
        let y = || SecretKey::from_bytes(&Secret::new(self.bytes("y")));
        let kem = |ek: &[u8; EK_LEN]| {
            assert_eq!(*ek, self.bytes("ek"));
            Ok((self.bytes("ct"), Secret::new(self.bytes("kem"))))
        };
        respond_with(
            &ctx.network,
            &ctx.relay,
            &[self.onion()],
            message,
            params,
            y,
            kem,
        )
        .map(|(_, keys, reply, _)| (keys, reply))
    }

    fn check(&self, keys: &HopKeys) {
        let expected = self.0["keys"].as_array().unwrap();
        let got = [&keys.forward, &keys.backward]
            .map(|keys| [&keys.aead, &keys.header, &keys.chain])
            .concat();
        assert_eq!(got.len(), expected.len());
        for (got, expected) in got.iter().zip(expected) {
            assert_eq!(*got.expose(), unhex::<32>(expected));
        }
    }
}

fn unhex<const N: usize>(value: &Value) -> [u8; N] {
    hex::decode(value.as_str().unwrap())
        .unwrap()
        .try_into()
        .unwrap()
}

fn each(test: impl Fn(Vector<'_>)) {
    let all: Value = serde_json::from_str(HANDSHAKES).unwrap();
    let all = all.as_array().unwrap().iter();
    all.chain([&printed()])
        .for_each(|value| test(Vector(value)));
}

/// The handshake that docs/protocol.md prints, in the form of the others.
fn printed() -> Value {
    let values = vectors("handshake");
    let suite = Suite::from_code(values["suite"][0]).unwrap().name();
    let (message, reply) = (&values["message"], &values["reply"]);
    let ek = &message[2 * POINT_LEN..2 * POINT_LEN + EK_LEN];
    let dk = [&values["dk_pke"], ek, &values["ek_hash"], &values["z"]].concat();
    let keys: Vec<String> = KEYS.map(|name| hex::encode(&values[name])).into();
    let mut vector = json!({
        "suite": suite,
        "ek": hex::encode(ek),
        "dk": hex::encode(dk),
        "ct": hex::encode(&reply[POINT_LEN..POINT_LEN + CT_LEN]),
        "keys": keys,
    });
    let fields = vector.as_object_mut().unwrap();
    for (name, value) in &values {
        let known = fields.get(*name).is_some();
        if !known {
            fields.insert((*name).to_owned(), hex::encode(value).into());
        }
    }
    vector
}

/// Names of a layer's keys, in the order of [`HopKeys`].
const KEYS: [&str; 6] = [
    "forward_aead",
    "forward_header",
    "forward_chain",
    "backward_aead",
    "backward_header",
    "backward_chain",
];

#[test]
fn the_steps_that_the_document_prints_are_those_of_its_rules() {
    let values = vectors("handshake");
    assert_eq!(values["client_params"], ClientParams::default().encode());
    let secrets = [&values["xy"][..], &values["xb"], &values["kem"]].concat();
    let (prk, expand) = Hkdf::<Sha256>::extract(Some(b"cepa-circ-1"), &secrets);
    assert_eq!(values["prk"], prk.to_vec());
    for (name, label) in [("k2", "relay params"), ("ka", "relay auth")] {
        let mut key = [0; 32];
        let info = [label.as_bytes(), &values["t2"]].concat();
        expand.expand(&info, &mut key).unwrap();
        assert_eq!(values[name], key, "{name}");
    }
}

/// The name of the error's variant, without the fields.
fn name<T>(result: Result<T, HandshakeError>) -> String {
    let error = format!("{:?}", result.err().unwrap());
    error.split('(').next().unwrap().to_owned()
}

#[test]
fn the_client_says_and_understands_what_the_reference_does() {
    each(|vector| {
        let (client, message) = vector.start();
        assert_eq!(message, vector.bytes("message"));
        let (keys, params) = client.finish(&vector.bytes("reply")).unwrap();
        vector.check(&keys);
        assert_eq!(params.encode(), vector.bytes("relay_params"));
    });
}

#[test]
fn the_relay_answers_what_the_reference_does() {
    each(|vector| {
        let (keys, reply) = vector.respond(&vector.bytes("message")).unwrap();
        assert_eq!(reply, vector.bytes("reply"));
        vector.check(&keys);
    });
}

#[test]
fn every_step_of_the_key_schedule_is_the_references() {
    each(|vector| {
        let ctx = vector.context();
        let [x, y, b] = ["x", "y", "b"].map(|name| {
            let (bytes, key) = (Secret::new(vector.bytes(name)), vector.bytes(name));
            let key = PublicKey::from(&StaticSecret::from(key)).to_bytes();
            let secret = SecretKey::from_bytes(&bytes).unwrap();
            assert_eq!(*secret.point(), key, "{name}, by another library");
            secret
        });
        let point = |secret: &SecretKey| *secret.point();
        let fixed = b.agree(&point(&x)).unwrap();
        let ephemeral = y.agree(&point(&x)).unwrap();
        assert_eq!(*fixed.expose(), vector.bytes("xb"));
        assert_eq!(*ephemeral.expose(), vector.bytes("xy"));
        let ek = vector.bytes("ek");
        let t1 = schedule::client_transcript(&ctx.network, &ctx.relay, &ctx.onion, &point(&x), &ek);
        assert_eq!(t1, vector.bytes("t1"));
        assert_eq!(
            *schedule::client_key(&fixed, &t1).unwrap().expose(),
            vector.bytes("k1")
        );
        let message: [u8; CLIENT_MESSAGE_LEN] = vector.bytes("message");
        let c1 = message[CLIENT_MESSAGE_LEN - SEALED_LEN..]
            .try_into()
            .unwrap();
        let t2 = schedule::full_transcript(&t1, &c1, &point(&y), &vector.bytes("ct"));
        assert_eq!(t2, vector.bytes("t2"));
    });
}

#[test]
fn well_sealed_nonsense_from_the_reference_is_refused() {
    each(|vector| {
        let list = |name: &str| vector.0[name].as_array().cloned().unwrap_or_default();
        for case in list("bad_replies") {
            let (client, _) = vector.start();
            assert_eq!(name(client.finish(&unhex(&case["reply"]))), case["error"]);
        }
        for case in list("bad_messages") {
            assert_eq!(
                name(vector.respond(&unhex(&case["message"]))),
                case["error"]
            );
        }
    });
}
