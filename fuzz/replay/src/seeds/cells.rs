//! Samples of cells, of HELLO and of the parameters of a handshake.

use cepa_common::cell::codec::{self, CREATE_LEN, CREATED_LEN, DestroyReason};
use cepa_common::handshake::{ClientParams, RelayParams};
use cepa_common::ids::{CircId, NetworkId};
use cepa_common::link::Hello;
use cepa_common::testkit;

use super::{BEGAN, Seed, trimmed};

pub(super) fn cells() -> Vec<Seed> {
    let mut seeds = Vec::new();
    if let Some(circ) = CircId::new(CircId::DIALLER_BIT | 7) {
        seeds = vec![
            (
                "cell",
                "good_create",
                trimmed(&codec::create(circ, &[1; CREATE_LEN])),
            ),
            (
                "cell",
                "good_created",
                trimmed(&codec::created(circ, &[2; CREATED_LEN])),
            ),
            (
                "cell",
                "good_destroy",
                trimmed(&codec::destroy(circ, DestroyReason::Protocol)),
            ),
        ];
    }
    let mut reserved = vec![0, 0, 0, 7, 3, 0, 1];
    seeds.push(("cell", "reserved_byte", reserved.clone()));
    reserved[4] = 99;
    seeds.push(("cell", "unknown_command", reserved));
    seeds.push(("cell", "empty", Vec::new()));
    let hello = Hello::ours(NetworkId([7; 32]), Some(testkit::address(1)), BEGAN).encode();
    seeds.push(("cell", "good_hello", trimmed(&hello)));
    seeds.push(("hello", "good_ours", trimmed(&hello)));
    let mut broken = trimmed(&hello);
    broken.truncate(20);
    seeds.push(("hello", "short", broken));
    seeds.push((
        "params",
        "good_client",
        ClientParams::default().encode().to_vec(),
    ));
    seeds.push((
        "params",
        "good_relay",
        RelayParams {
            version: 1,
            circuit_window_cells: 512,
            mark_interval_cells: 32,
            stream_window_bytes: 1 << 20,
        }
        .encode()
        .to_vec(),
    ));
    seeds.push(("params", "ones", vec![0xff; 16]));
    seeds
}
