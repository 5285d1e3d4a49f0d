//! Benchmarks of what the public-key work of one hop costs each side.

#![allow(missing_docs, clippy::unwrap_used)]

use cepa_common::handshake::{
    CIRCUIT_VERSION, CLIENT_MESSAGE_LEN, ClientHandshake, ClientParams, HandshakeContext,
    OnionKeypair, REPLY_LEN, RelayParams, respond,
};
use cepa_common::ids::{NetworkId, RelayId};
use cepa_common::onion::Suite;
use divan::Bencher;
use divan::counter::ItemsCount;
use rand::SeedableRng;
use rand::rngs::StdRng;

fn main() {
    divan::main();
}

const REPLY: RelayParams = RelayParams {
    version: CIRCUIT_VERSION,
    circuit_window_cells: 1024,
    mark_interval_cells: 32,
    stream_window_bytes: 262_144,
};

struct Pair {
    keys: [OnionKeypair; 1],
    ctx: HandshakeContext,
    rng: StdRng,
}

impl Pair {
    fn new() -> Self {
        let mut rng = StdRng::seed_from_u64(1);
        let keys = [OnionKeypair::generate(Suite::Aes256Gcm, &mut rng).unwrap()];
        let ctx = HandshakeContext {
            network: NetworkId([1; 32]),
            relay: RelayId([2; 32]),
            onion: keys[0].public(),
        };
        Self { keys, ctx, rng }
    }

    fn start(&mut self) -> (ClientHandshake, [u8; CLIENT_MESSAGE_LEN]) {
        ClientHandshake::start(&self.ctx, ClientParams::default(), &mut self.rng).unwrap()
    }

    fn respond(&mut self, message: &[u8; CLIENT_MESSAGE_LEN]) -> [u8; REPLY_LEN] {
        let Self { keys, ctx, rng } = self;
        respond(&ctx.network, &ctx.relay, keys, message, REPLY, rng)
            .unwrap()
            .2
    }
}

/// Counts handshakes a second.
fn count<'a, 'b>(bencher: Bencher<'a, 'b>) -> Bencher<'a, 'b> {
    bencher.counter(ItemsCount::new(1u32))
}

#[divan::bench]
fn client_start(bencher: Bencher<'_, '_>) {
    let mut pair = Pair::new();
    count(bencher).bench_local(|| pair.start());
}

#[divan::bench]
fn relay_respond(bencher: Bencher<'_, '_>) {
    let mut pair = Pair::new();
    let (_, message) = pair.start();
    count(bencher).bench_local(|| pair.respond(&message));
}

/// What a message that does not fit costs the relay: X·b and one failed opening of a seal.
#[divan::bench]
fn relay_refuse(bencher: Bencher<'_, '_>) {
    let mut pair = Pair::new();
    let (_, mut message) = pair.start();
    message[CLIENT_MESSAGE_LEN - 1] ^= 1;
    let Pair { keys, ctx, mut rng } = pair;
    count(bencher).bench_local(|| {
        assert!(respond(&ctx.network, &ctx.relay, &keys, &message, REPLY, &mut rng).is_err());
    });
}

#[divan::bench]
fn client_finish(bencher: Bencher<'_, '_>) {
    let mut pair = Pair::new();
    let waiting = || {
        let (client, message) = pair.start();
        (client, pair.respond(&message))
    };
    count(bencher)
        .with_inputs(waiting)
        .bench_local_values(|(client, reply)| client.finish(&reply).map(|(_, params)| params));
}

/// One multiplication by the library that the handshake uses, as it uses it.
#[divan::bench]
fn x25519(bencher: Bencher<'_, '_>) {
    use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
    let key = PrivateKey::from_private_key(&X25519, &[7; 32]).unwrap();
    let point = UnparsedPublicKey::new(&X25519, BASE);
    count(bencher).bench_local(|| {
        agree(&key, point, (), |shared| {
            let shared: [u8; 32] = shared.try_into().map_err(|_| ())?;
            Ok(shared)
        })
    });
}

/// The baseline: the same multiplication in portable code.
#[divan::bench]
fn x25519_portable(bencher: Bencher<'_, '_>) {
    let (key, point) = (x25519_dalek::StaticSecret::from([7; 32]), BASE.into());
    count(bencher).bench_local(|| key.diffie_hellman(&point).to_bytes());
}

/// The base point of the curve.
const BASE: [u8; 32] = {
    let mut point = [0; 32];
    point[0] = 9;
    point
};
