//! Does one step of a link or of streams a number of times: `link_steps STEP TIMES`. `.ci/counts` counts its
//! instructions, as it does for the example `steps`. The two are separate programs, because one more step in a program
//! can change what the compiler makes of the other steps.
//!
//! Everything is seeded and nothing waits, so that two runs execute nearly the same instructions. Small differences
//! remain, because hash maps are seeded at random, and streams and queues read the time.
#![allow(clippy::disallowed_methods, reason = "a program of the real world")]
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

use core::task::{Context, Waker};
use core::time::Duration;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use cepa_common::budget::Budget;
use cepa_common::cell::codec::{
    CREATE_LEN, CREATED_LEN, CircuitCommand, created, write_circuit_head,
};
use cepa_common::cell::{CELL_LEN, PAYLOAD_LEN};
use cepa_common::flow::FixedWindow;
use cepa_common::flow::vegas::{Vegas, VegasParams};
use cepa_common::flow::window::SendWindow;
use cepa_common::ids::CircId;
use cepa_common::net::inbox::Inbox;
use cepa_common::net::queue::{LinkQueue, TableCommand};
use cepa_common::net::switch::{AcceptNone, Table};
use cepa_common::onion::{DirectionKeys, RelayBackward, Suite};
use cepa_common::secret::Secret;
use cepa_common::stream::{
    Acceptor, LegId, Mux, MuxConfig, Opener, Request, StreamEnd, StreamTarget,
};
use rand::SeedableRng;
use rand::rngs::StdRng;

/// A step with its name.
type Step = (&'static str, fn(u32));

const STEPS: [Step; 6] = [
    ("table-8-of-1", table_of_one),
    ("table-64-of-64", table_of_many),
    ("queue-64-of-64", queue_of_many),
    ("inbox-8", inbox),
    ("mux-stream", mux_stream),
    ("window-32", window),
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

fn layer() -> RelayBackward {
    let keys = DirectionKeys {
        aead: Secret::new([1; 32]),
        header: Secret::new([2; 32]),
        chain: Secret::new([3; 32]),
    };
    RelayBackward::new(Suite::Aes256Gcm, keys)
}

fn circ(n: u32) -> CircId {
    CircId::new(CircId::DIALLER_BIT | (n + 1)).unwrap()
}

/// A table with `circuits` circuits that pass cells back to `prev`.
fn table(circuits: u32, prev: &Arc<LinkQueue>) -> Table<AcceptNone> {
    let own = Arc::new(LinkQueue::new(1_024, &Budget::unlimited()));
    let mut table = Table::new(own, true, AcceptNone);
    for n in 0..circuits {
        table.on_command(TableCommand::Open {
            inbox: Arc::new(Inbox::new(64, &Budget::unlimited())),
            message: Box::new([0; CREATE_LEN]),
        });
        let mut created = created(circ(n), &[0; CREATED_LEN]).to_vec();
        table.on_cells(Instant::now(), &mut created).unwrap();
        table.on_command(TableCommand::PassInward {
            circ: circ(n),
            layer: Box::new(layer()),
            prev: prev.clone(),
            prev_circ: circ(n),
            extended: Box::new([0; CELL_LEN]),
        });
    }
    table
}

/// Reads `cells` cells, of each of `circuits` circuits in turn. The cells are wrapped, queued, and taken from the
/// queue.
fn table_read(times: u32, cells: u32, circuits: u32) {
    let prev = Arc::new(LinkQueue::new(1_024, &Budget::unlimited()));
    let (mut table, now) = (table(circuits, &prev), Instant::now());
    let (mut read, mut out) = (Vec::new(), Vec::new());
    prev.take_cells(Instant::now(), 1_024, &mut out);
    for _ in 0..times {
        read.resize(cells as usize * CELL_LEN, 7);
        for (n, cell) in (0..).zip(read.as_chunks_mut::<CELL_LEN>().0) {
            write_circuit_head(cell, circ(n % circuits), CircuitCommand::Relay);
        }
        table.on_cells(now, black_box(&mut read)).unwrap();
        out.clear();
        prev.take_cells(Instant::now(), cells as usize, black_box(&mut out));
    }
}

fn table_of_one(times: u32) {
    table_read(times, 8, 1);
}

fn table_of_many(times: u32) {
    table_read(times, 64, 64);
}

fn queue_of_many(times: u32) {
    let queue = LinkQueue::new(1_024, &Budget::unlimited());
    let (cell, mut out) = ([7; CELL_LEN], Vec::new());
    for _ in 0..times {
        for n in 0..64 {
            queue.push(circ(n), black_box(&cell)).unwrap();
        }
        out.clear();
        queue.take_cells(Instant::now(), 64, black_box(&mut out));
    }
}

fn inbox(times: u32) {
    let inbox = Inbox::new(64, &Budget::unlimited());
    for _ in 0..times {
        inbox.push(black_box(&[7; 8 * CELL_LEN])).unwrap();
        black_box(inbox.take().cells);
    }
}

fn mux<E: StreamEnd>() -> Mux<E> {
    Mux::new(MuxConfig {
        control: Box::new(FixedWindow(1_024)),
        mark_interval_cells: 32,
        stream_window_bytes: 1 << 20,
        budget: Budget::unlimited(),
    })
}

/// Moves 60,000 bytes of one stream: they are written at the relay's end, packed, unpacked, read, acknowledged, and
/// their credit is granted again.
fn mux_stream(times: u32) {
    let (mut client, mut relay) = (mux::<Opener>(), mux::<Acceptor>());
    let mut rng = StdRng::seed_from_u64(1);
    let (now, mut payload) = (Instant::now(), [0; PAYLOAD_LEN]);
    let mut cx = Context::from_waker(Waker::noop());
    let here = client.open(StreamTarget::name("example.org", 80).unwrap());
    let here = here.unwrap();
    assert!(client.fill(LegId::FIRST, now, &mut rng, &mut payload));
    let begun = relay.on_outward(LegId::FIRST, now, &payload).unwrap().pop();
    let Some(Request::Begin(there, _)) = begun else {
        unreachable!("BEGIN goes first");
    };
    relay.accept(there);
    let mut bytes = vec![7; 60_000];
    for _ in 0..times {
        assert!(
            relay
                .poll_write(there, &mut cx, Instant::now(), black_box(&bytes))
                .is_ready()
        );
        while relay.fill(LegId::FIRST, now, &mut rng, black_box(&mut payload)) {
            client.on_inward(LegId::FIRST, now, &payload).unwrap();
        }
        assert!(
            client
                .poll_read(here, &mut cx, Instant::now(), &mut bytes)
                .is_ready()
        );
        while client.fill(LegId::FIRST, now, &mut rng, black_box(&mut payload)) {
            relay.on_outward(LegId::FIRST, now, &payload).unwrap();
        }
    }
}

/// Sends 32 cells with a mark, and takes the acknowledgement.
fn window(times: u32) {
    let mut window = SendWindow::new(Box::new(Vegas::new(VegasParams::default())), 32);
    let mut now = Instant::now();
    for _ in 0..times {
        for _ in 0..32 {
            let mark = window.is_mark_due().then_some([7; 16]);
            window.on_sent(now, black_box(mark));
        }
        now += Duration::from_millis(20);
        window.on_ack(now, &[7; 16]).unwrap();
    }
}
