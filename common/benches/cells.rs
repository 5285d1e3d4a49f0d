//! Benchmarks of what a cell costs besides cryptography: its head, and the messages in its payload.

#![allow(missing_docs, clippy::unwrap_used)]

use cepa_common::cell::codec::{CircuitCommand, head, write_circuit_head};
use cepa_common::cell::message::{Inward, Packer, StreamMessage, messages};
use cepa_common::cell::{CELL_LEN, PAYLOAD_LEN, Payload};
use cepa_common::ids::{CircId, StreamId};
use divan::counter::ItemsCount;
use divan::{Bencher, black_box};

fn main() {
    divan::main();
}

fn pack(payload: &mut Payload) -> bool {
    let id = StreamId::new(1).unwrap();
    let mut packer = Packer::new(payload);
    packer.stream(id, StreamMessage::Data(&[7; 900])).unwrap();
    packer.stream(id, StreamMessage::Data(&[8; 900])).unwrap();
    packer.finish()
}

/// Counts cells a second.
fn count<'a, 'b>(bencher: Bencher<'a, 'b>) -> Bencher<'a, 'b> {
    bencher.counter(ItemsCount::new(1u32))
}

#[divan::bench]
fn head_write(bencher: Bencher<'_, '_>) {
    let mut cell = [0; CELL_LEN];
    let circ = CircId::new(7).unwrap();
    count(bencher)
        .bench_local(|| write_circuit_head(black_box(&mut cell), circ, CircuitCommand::Relay));
}

#[divan::bench]
fn head_read(bencher: Bencher<'_, '_>) {
    let mut cell = [0; CELL_LEN];
    write_circuit_head(&mut cell, CircId::new(7).unwrap(), CircuitCommand::Relay);
    count(bencher).bench_local(|| head(black_box(&cell)).unwrap());
}

#[divan::bench]
fn messages_pack(bencher: Bencher<'_, '_>) {
    let mut payload = [0; PAYLOAD_LEN];
    count(bencher).bench_local(|| assert!(pack(black_box(&mut payload))));
}

#[divan::bench]
fn messages_unpack(bencher: Bencher<'_, '_>) {
    let mut payload = [0; PAYLOAD_LEN];
    pack(&mut payload);
    count(bencher).bench_local(|| {
        let all = messages::<Inward<'_>>(black_box(&payload));
        all.for_each(|message| assert!(black_box(message).is_ok()))
    });
}
