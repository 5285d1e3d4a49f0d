//! Benchmarks of what one cell costs at a relay and at a client, for each suite.
//!
//! Cells are made before the clock starts and worked on in their order. Every figure is of one call on 2,040 bytes.

#![allow(missing_docs, clippy::unwrap_used)]

use cepa_common::cell::{BODY_LEN, Body};
use cepa_common::ids::HopIndex;
use cepa_common::onion::{
    ClientLayers, DirectionKeys, HopKeys, Opened, RelayBackward, RelayForward, Suite,
};
use cepa_common::secret::Secret;
use divan::Bencher;
use divan::counter::BytesCount;
use rand::SeedableRng;
use rand::rngs::StdRng;

fn main() {
    divan::main();
}

#[derive(Debug, Clone, Copy)]
enum Of {
    ChaCha,
    Aes,
}

impl Of {
    fn suite(self) -> Suite {
        match self {
            Self::ChaCha => Suite::ChaCha20Poly1305,
            Self::Aes => Suite::Aes256Gcm,
        }
    }
}

const SUITES: [Of; 2] = [Of::ChaCha, Of::Aes];
const CIRCUITS: [(Of, usize); 6] = [
    (Of::ChaCha, 1),
    (Of::ChaCha, 2),
    (Of::ChaCha, 3),
    (Of::Aes, 1),
    (Of::Aes, 2),
    (Of::Aes, 3),
];

fn keys(hop: u8) -> HopKeys {
    let direction = |number: u8| DirectionKeys {
        aead: Secret::new([hop * 8 + number; 32]),
        header: Secret::new([hop * 8 + number + 1; 32]),
        chain: Secret::new([hop * 8 + number + 2; 32]),
    };
    HopKeys {
        forward: direction(1),
        backward: direction(4),
    }
}

fn client(suite: Suite, hops: usize) -> ClientLayers {
    let mut client = ClientLayers::new();
    for hop in 0..hops as u8 {
        client.push(suite, keys(hop)).unwrap();
    }
    client
}

fn rng() -> StdRng {
    StdRng::seed_from_u64(1)
}

fn body() -> Body {
    [7; BODY_LEN]
}

fn count<'a, 'b>(bencher: Bencher<'a, 'b>) -> Bencher<'a, 'b> {
    bencher.counter(BytesCount::new(BODY_LEN))
}

#[divan::bench(args = CIRCUITS)]
fn client_seal(bencher: Bencher<'_, '_>, (of, hops): (Of, usize)) {
    let (mut client, mut rng) = (client(of.suite(), hops), rng());
    let last = HopIndex(hops as u8 - 1);
    count(bencher)
        .with_inputs(body)
        .bench_local_refs(|body| client.seal(last, body, &mut rng).unwrap());
}

#[divan::bench(args = CIRCUITS)]
fn client_open(bencher: Bencher<'_, '_>, (of, hops): (Of, usize)) {
    let mut client = client(of.suite(), hops);
    let mut relays: Vec<_> = (0..hops as u8)
        .map(|hop| RelayBackward::new(of.suite(), keys(hop).backward))
        .collect();
    let cell = || {
        let mut body = body();
        let (last, passing) = relays.split_last_mut().unwrap();
        last.speak(&mut body).unwrap();
        for relay in passing.iter_mut().rev() {
            relay.wrap(&mut body).unwrap();
        }
        body
    };
    count(bencher)
        .with_inputs(cell)
        .bench_local_refs(|body| client.open(body).unwrap());
}

#[divan::bench(args = SUITES)]
fn relay_open(bencher: Bencher<'_, '_>, of: Of) {
    let (mut client, mut rng) = (client(of.suite(), 3), rng());
    let mut relay = RelayForward::new(of.suite(), keys(0).forward);
    let cell = || {
        let mut body = body();
        client.seal(HopIndex(2), &mut body, &mut rng).unwrap();
        body
    };
    count(bencher)
        .with_inputs(cell)
        .bench_local_refs(|body| assert_eq!(relay.open(body), Ok(Opened::Onward)));
}

#[divan::bench(args = SUITES)]
fn relay_wrap(bencher: Bencher<'_, '_>, of: Of) {
    let mut relay = RelayBackward::new(of.suite(), keys(0).backward);
    count(bencher)
        .with_inputs(body)
        .bench_local_refs(|body| relay.wrap(body).unwrap());
}

#[divan::bench(args = SUITES)]
fn relay_speak(bencher: Bencher<'_, '_>, of: Of) {
    let mut relay = RelayBackward::new(of.suite(), keys(0).backward);
    count(bencher)
        .with_inputs(body)
        .bench_local_refs(|body| relay.speak(body).unwrap());
}

/// The AEAD alone, by the crate that the suite uses and by another library.
mod chacha20_poly1305 {
    use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
    use cepa_common::cell::{HEADER_LEN, PAYLOAD_LEN};
    use chacha20poly1305::ChaCha20Poly1305;
    use chacha20poly1305::aead::inout::InOutBuf;
    use chacha20poly1305::aead::{AeadInOut, KeyInit};
    use divan::Bencher;

    #[divan::bench]
    fn by_the_crate(bencher: Bencher<'_, '_>) {
        let key = ChaCha20Poly1305::new(&[1; 32].into());
        bencher
            .with_inputs(|| [7; PAYLOAD_LEN])
            .bench_local_refs(|payload| {
                let buffer = InOutBuf::from(&mut payload[..]);
                key.encrypt_inout_detached(&[0; 12].into(), &[0; 96], buffer)
                    .unwrap()
            });
    }

    #[divan::bench]
    fn by_aws_lc(bencher: Bencher<'_, '_>) {
        let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &[1; 32]).unwrap());
        bencher
            .with_inputs(|| [7; PAYLOAD_LEN])
            .bench_local_refs(|payload| {
                let nonce = Nonce::assume_unique_for_key([0; 12]);
                key.seal_in_place_separate_tag(nonce, Aad::from([0; 96]), payload)
                    .unwrap()
            });
    }

    #[divan::bench]
    fn header_stream(bencher: Bencher<'_, '_>) {
        use chacha20::cipher::{KeyIvInit, StreamCipher};
        bencher
            .with_inputs(|| [0; HEADER_LEN])
            .bench_local_refs(|stream| {
                chacha20::ChaCha20::new(&[1; 32].into(), &[0; 12].into()).write_keystream(stream);
            });
    }
}
