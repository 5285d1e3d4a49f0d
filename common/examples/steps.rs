//! Does one step of the cell path a number of times: `steps STEP TIMES`. `.ci/counts` counts its instructions.
//!
//! Everything is seeded, nothing waits and no clock is read, so that two runs execute the same instructions.

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

use std::hint::black_box;

use cepa_common::cell::codec::{CircuitCommand, head, write_circuit_head};
use cepa_common::cell::message::{Inward, Packer, StreamMessage, messages};
use cepa_common::cell::{BODY_LEN, CELL_LEN, PAYLOAD_LEN};
use cepa_common::handshake::{
    CIRCUIT_VERSION, ClientHandshake, ClientParams, HandshakeContext, OnionKeypair, RelayParams,
    respond,
};
use cepa_common::ids::{CircId, HopIndex, NetworkId, RelayId, StreamId};
use cepa_common::onion::{
    ClientLayers, DirectionKeys, HopKeys, RelayBackward, RelayForward, Suite,
};
use cepa_common::secret::Secret;
use rand::SeedableRng;
use rand::rngs::StdRng;

const SUITE: Suite = Suite::Aes256Gcm;
/// A step with its name.
type Step = (&'static str, fn(u32));

const STEPS: [Step; 8] = [
    ("header", header),
    ("pack-unpack", pack_unpack),
    ("relay-open", relay_open),
    ("relay-wrap", relay_wrap),
    ("client-seal-3", client_seal),
    ("client-open-3", client_open),
    ("handshake-relay", handshake_relay),
    ("handshake-client", handshake_client),
];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.as_slice() {
        [name, times] => {
            let step = STEPS.iter().find(|step| step.0 == name).unwrap();
            (step.1)(times.parse().unwrap());
        }
        _ => STEPS.iter().for_each(|step| println!("{}", step.0)),
    }
}

fn rng() -> StdRng {
    StdRng::seed_from_u64(1)
}

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

fn client() -> ClientLayers {
    let mut client = ClientLayers::new();
    for hop in 0..3 {
        client.push(SUITE, keys(hop)).unwrap();
    }
    client
}

fn header(times: u32) {
    let mut cell = [0; CELL_LEN];
    for number in 1..=times {
        let circ = CircId::new(number).unwrap();
        write_circuit_head(black_box(&mut cell), circ, CircuitCommand::Relay);
        black_box(head(black_box(&cell)).unwrap());
    }
}

fn pack_unpack(times: u32) {
    let mut payload = [0; PAYLOAD_LEN];
    let id = StreamId::new(1).unwrap();
    for _ in 0..times {
        let mut packer = Packer::new(black_box(&mut payload));
        packer.stream(id, StreamMessage::Data(&[7; 900])).unwrap();
        packer.stream(id, StreamMessage::Data(&[8; 900])).unwrap();
        assert!(packer.finish());
        for message in messages::<Inward<'_>>(black_box(&payload)) {
            black_box(message.unwrap());
        }
    }
}

fn relay_open(times: u32) {
    // The count includes the client's part, because cells that open must be made in their order.
    let (mut client, mut rng) = (client(), rng());
    let mut relay = RelayForward::new(SUITE, keys(0).forward);
    for _ in 0..times {
        let mut body = [7; BODY_LEN];
        client.seal(HopIndex(2), &mut body, &mut rng).unwrap();
        let _ = black_box(relay.open(&mut body).unwrap());
    }
}

fn relay_wrap(times: u32) {
    let mut relay = RelayBackward::new(SUITE, keys(0).backward);
    let mut body = [7; BODY_LEN];
    for _ in 0..times {
        relay.wrap(black_box(&mut body)).unwrap();
    }
}

fn client_seal(times: u32) {
    let (mut client, mut rng) = (client(), rng());
    for _ in 0..times {
        let mut body = [7; BODY_LEN];
        client
            .seal(HopIndex(2), black_box(&mut body), &mut rng)
            .unwrap();
    }
}

fn client_open(times: u32) {
    // The count includes the relays' part.
    let mut client = client();
    let mut relays: Vec<_> = (0..3)
        .map(|hop| RelayBackward::new(SUITE, keys(hop).backward))
        .collect();
    for _ in 0..times {
        let mut body = [7; BODY_LEN];
        relays[2].speak(&mut body).unwrap();
        relays[1].wrap(&mut body).unwrap();
        relays[0].wrap(&mut body).unwrap();
        let _ = black_box(client.open(&mut body).unwrap());
    }
}

fn shake(times: u32, finish: bool) {
    let mut rng = rng();
    let keys = [OnionKeypair::generate(SUITE, &mut rng).unwrap()];
    let ctx = HandshakeContext {
        network: NetworkId([1; 32]),
        relay: RelayId([2; 32]),
        onion: keys[0].public(),
    };
    let reply = RelayParams {
        version: CIRCUIT_VERSION,
        circuit_window_cells: 1024,
        mark_interval_cells: 32,
        stream_window_bytes: 262_144,
    };
    let (_, first) = ClientHandshake::start(&ctx, ClientParams::default(), &mut rng).unwrap();
    for _ in 0..times {
        if finish {
            let (client, message) =
                ClientHandshake::start(&ctx, ClientParams::default(), &mut rng).unwrap();
            let answer = respond(&ctx.network, &ctx.relay, &keys, &message, reply, &mut rng)
                .unwrap()
                .2;
            assert!(client.finish(&answer).is_ok());
        } else {
            black_box(
                respond(&ctx.network, &ctx.relay, &keys, &first, reply, &mut rng)
                    .unwrap()
                    .2,
            );
        }
    }
}

fn handshake_relay(times: u32) {
    shake(times, false);
}

fn handshake_client(times: u32) {
    // The count is of both sides. The client's part is the difference to the count of the relay.
    shake(times, true);
}
