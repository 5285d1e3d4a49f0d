//! Benchmarks of a link: TLS records, the walk through cells by the link's table, and the queues between links and
//! circuits.
//!
//! Throughput is in bytes of whole cells (2,048 each). A sample is one batch. The batch is made while the clock is
//! stopped, and its memory comes back to where it began, so that memory is warm and queues are empty, as on a link that
//! is never idle.
#![allow(clippy::disallowed_methods, reason = "a bench measures the real world")]
#![allow(missing_docs, clippy::unwrap_used)]

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Instant;

use cepa_common::budget::Budget;
use cepa_common::cell::CELL_LEN;
use cepa_common::cell::codec::{self, CREATE_LEN, CREATED_LEN, CircuitCommand};
use cepa_common::ids::{CircId, HopIndex};
use cepa_common::net::buffers;
use cepa_common::net::inbox::Inbox;
use cepa_common::net::passage::Passage;
use cepa_common::net::queue::{LinkQueue, TableCommand};
use cepa_common::net::switch::{AcceptCircuits, AcceptNone, CreateRefusal, Table};
use cepa_common::net::tls::Tls;
use cepa_common::net::tls_io::TlsIo;
use cepa_common::onion::{
    ClientLayers, DirectionKeys, HopKeys, RelayBackward, RelayForward, Suite,
};
use cepa_common::secret::Secret;
use divan::Bencher;
use divan::counter::BytesCount;
use ed25519_dalek::SigningKey;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

fn main() {
    divan::main();
}

/// Numbers of cells in a batch.
const CELLS: [usize; 3] = [1, 8, 64];
/// Numbers of circuits and of cells in a batch. The cells are all of one circuit, or of each circuit in turn.
const MIXES: [(usize, usize); 4] = [(1, 1), (1, 8), (1, 64), (64, 64)];
const SUITE: Suite = Suite::Aes256Gcm;
const BOUND_CELLS: usize = 1_024;

fn count<'a, 'b>(bencher: Bencher<'a, 'b>, cells: usize) -> Bencher<'a, 'b> {
    bencher.counter(BytesCount::new(cells * CELL_LEN))
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

fn circ(n: usize) -> CircId {
    CircId::new(CircId::DIALLER_BIT | (n as u32 + 1)).unwrap()
}

fn queue() -> Arc<LinkQueue> {
    Arc::new(LinkQueue::new(BOUND_CELLS, &Budget::unlimited()))
}

/// Takes every CREATE and leaves the answer to the benchmark.
struct AcceptAll;

impl AcceptCircuits for AcceptAll {
    fn on_create(&mut self, _: CircId, _: &[u8; CREATE_LEN]) -> Result<(), CreateRefusal> {
        Ok(())
    }
}

/// Adds `count` RELAY cells with a body of no meaning, of each of `circuits` circuits in turn.
fn add_cells(cells: &mut Vec<u8>, (circuits, count): (usize, usize)) {
    for n in 0..count {
        let mut cell = [7; CELL_LEN];
        codec::write_circuit_head(&mut cell, circ(n % circuits), CircuitCommand::Relay);
        cells.extend_from_slice(&cell);
    }
}

/// A read of cells on the client's side of a middle relay. Each cell is opened and goes to the next link.
#[divan::bench(args = MIXES, sample_size = 1, sample_count = 1_000)]
fn table_passes_outward(bencher: Bencher<'_, '_>, mix: (usize, usize)) {
    let (next, now, mut rng) = (queue(), Instant::now(), StdRng::seed_from_u64(1));
    let mut table = Table::new(queue(), false, AcceptAll);
    let mut clients: Vec<ClientLayers> = (0..mix.0)
        .map(|n| {
            let mut create = codec::create(circ(n), &[0; CREATE_LEN]).to_vec();
            table.on_cells(now, &mut create).unwrap();
            table.on_command(TableCommand::Accept {
                circ: circ(n),
                inbox: Arc::new(Inbox::new(BOUND_CELLS, &Budget::unlimited())),
                reply: Box::new([0; CREATED_LEN]),
            });
            table.on_command(TableCommand::PassOutward {
                circ: circ(n),
                layer: Box::new(RelayForward::new(SUITE, keys(0).forward)),
                next: next.clone(),
                next_circ: circ(n),
                passage: Passage::new(&Budget::unlimited(), now),
            });
            let mut client = ClientLayers::new();
            for hop in 0..3 {
                client.push(SUITE, keys(hop)).unwrap();
            }
            client
        })
        .collect();
    let sealed = || {
        let mut gone = buffers::take();
        next.take_cells(Instant::now(), BOUND_CELLS, &mut gone);
        gone.clear();
        add_cells(&mut gone, mix);
        for (n, cell) in gone.as_chunks_mut::<CELL_LEN>().0.iter_mut().enumerate() {
            let body = codec::body_mut(cell);
            clients[n % mix.0]
                .seal(HopIndex(2), body, &mut rng)
                .unwrap();
        }
        gone
    };
    count(bencher, mix.1)
        .with_inputs(sealed)
        .bench_local_refs(|cells| table.on_cells(now, cells).unwrap());
    assert!(!next.is_empty());
}

/// A read of cells on the exit's side of a middle relay. Each cell is wrapped and goes back towards the client.
#[divan::bench(args = MIXES, sample_size = 1, sample_count = 1_000)]
fn table_passes_inward(bencher: Bencher<'_, '_>, mix: (usize, usize)) {
    let (prev, now) = (queue(), Instant::now());
    let mut table = Table::new(queue(), true, AcceptNone);
    for n in 0..mix.0 {
        table.on_command(TableCommand::Open {
            inbox: Arc::new(Inbox::new(BOUND_CELLS, &Budget::unlimited())),
            message: Box::new([0; CREATE_LEN]),
        });
        let mut created = codec::created(circ(n), &[0; CREATED_LEN]).to_vec();
        table.on_cells(now, &mut created).unwrap();
        table.on_command(TableCommand::PassInward {
            circ: circ(n),
            layer: Box::new(RelayBackward::new(SUITE, keys(0).backward)),
            prev: prev.clone(),
            prev_circ: circ(n),
            extended: Box::new([0; CELL_LEN]),
        });
    }
    let read = || {
        let mut gone = buffers::take();
        prev.take_cells(Instant::now(), BOUND_CELLS, &mut gone);
        gone.clear();
        add_cells(&mut gone, mix);
        gone
    };
    count(bencher, mix.1)
        .with_inputs(read)
        .bench_local_refs(|cells| table.on_cells(now, cells).unwrap());
    assert!(!prev.is_empty());
}

/// Cells go into a link's queue, all those of one circuit by one move, and are taken out of the queue in turns.
#[divan::bench(args = MIXES, sample_size = 1, sample_count = 1_000)]
fn queue_push_take(bencher: Bencher<'_, '_>, (circuits, cells): (usize, usize)) {
    let (queue, out) = (queue(), RefCell::new(buffers::take()));
    let runs = || {
        out.borrow_mut().clear();
        let run = || vec![7; cells / circuits * CELL_LEN];
        (0..circuits).map(|_| run()).collect::<Vec<_>>()
    };
    count(bencher, cells)
        .with_inputs(runs)
        .bench_local_refs(|runs| {
            for (n, run) in runs.iter_mut().enumerate() {
                queue.push_all(circ(n), run).unwrap();
            }
            queue.take_cells(Instant::now(), cells, &mut out.borrow_mut());
        });
    assert!(queue.is_empty());
}

/// Cells go into the inbox of a circuit that ends here, and are taken out of the inbox.
#[divan::bench(args = CELLS, sample_size = 1, sample_count = 1_000)]
fn inbox_push_take(bencher: Bencher<'_, '_>, cells: usize) {
    let inbox = Inbox::new(BOUND_CELLS, &Budget::unlimited());
    let read = || {
        let mut read = buffers::take();
        read.resize(cells * CELL_LEN, 7);
        read
    };
    count(bencher, cells)
        .with_inputs(read)
        .bench_local_refs(|cells| {
            inbox.push_all(cells).unwrap();
            buffers::give_back(inbox.take().cells);
        });
}

/// Both ends of a link over loopback.
fn tls_pair(runtime: &Runtime) -> (TlsIo, TlsIo) {
    let key = SigningKey::from_bytes(&[1; 32]);
    let (tls, public) = (Tls::relay(&key).unwrap(), key.verifying_key().to_bytes());
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let dial = async {
            let tcp = TcpStream::connect(address).await.unwrap();
            TlsIo::dial(tcp, &tls, public).await.unwrap()
        };
        let accept = async {
            let (tcp, _) = listener.accept().await.unwrap();
            TlsIo::accept(tcp, &tls).await.unwrap()
        };
        tokio::join!(dial, accept)
    })
}

/// A batch goes into TLS records, through the kernel's loopback, and out again, with both ends on one core.
#[divan::bench(args = CELLS, sample_size = 1, sample_count = 1_000)]
fn tls_write_read(bencher: Bencher<'_, '_>, cells: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_all().build().unwrap();
    let (mut from, mut to) = tls_pair(&runtime);
    let (batch, mut read) = (vec![7; cells * CELL_LEN], buffers::take());
    count(bencher, cells).bench_local(|| {
        read.clear();
        runtime.block_on(async {
            from.write(&batch).unwrap();
            let take = async {
                while read.len() < batch.len() {
                    to.ready().await.unwrap();
                    assert_ne!(to.try_read(&mut read).unwrap(), Some(0));
                }
            };
            tokio::join!(from.flush(), take).0.unwrap();
        });
    });
}
