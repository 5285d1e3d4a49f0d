//! The rows, and how each is measured.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cepa_common::world::steady;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::datagrams::Datagrams;
use super::report::{Value, quantile, value};
use super::server::{CHUNK, Wish};
use super::usage::{self, Roles};
use super::way::Way;
use crate::testnet::Local;

/// Every row: its name for `--only`, its name for people, and what it measures.
pub(super) const ROWS: [(&str, &str, Kind); 27] = [
    ("memory-idle", "memory before the load", Kind::Memory),
    (
        "memory-circuit",
        "memory per circuit, with a stream",
        Kind::PerCircuit,
    ),
    (
        "plain-down-1",
        "plain chain: 1 download",
        Kind::Bulk(Bulk::new(false, 1).plain()),
    ),
    (
        "plain-down-10",
        "plain chain: 10 downloads",
        Kind::Bulk(Bulk::new(false, 10).plain()),
    ),
    (
        "plain-up-1",
        "plain chain: 1 upload",
        Kind::Bulk(Bulk::new(true, 1).plain()),
    ),
    (
        "plain-up-10",
        "plain chain: 10 uploads",
        Kind::Bulk(Bulk::new(true, 10).plain()),
    ),
    (
        "plain-first-byte",
        "plain chain: first byte",
        Kind::FirstByte(Of::Plain),
    ),
    ("down-1", "1 download", Kind::Bulk(Bulk::new(false, 1))),
    (
        "down-10",
        "10 downloads, one circuit",
        Kind::Bulk(Bulk::new(false, 10)),
    ),
    (
        "down-50",
        "50 downloads, one circuit",
        Kind::Bulk(Bulk::new(false, 50)),
    ),
    (
        "down-10-own",
        "10 downloads, own circuits",
        Kind::Bulk(Bulk::new(false, 10).own()),
    ),
    ("up-1", "1 upload", Kind::Bulk(Bulk::new(true, 1))),
    (
        "up-10",
        "10 uploads, one circuit",
        Kind::Bulk(Bulk::new(true, 10)),
    ),
    (
        "up-50",
        "50 uploads, one circuit",
        Kind::Bulk(Bulk::new(true, 50)),
    ),
    (
        "up-10-own",
        "10 uploads, own circuits",
        Kind::Bulk(Bulk::new(true, 10).own()),
    ),
    (
        "first-byte-ready",
        "first byte, ready circuit",
        Kind::FirstByte(Of::Ready),
    ),
    (
        "first-byte-new",
        "first byte, new circuit",
        Kind::FirstByte(Of::New),
    ),
    ("circuits", "circuits, 32 at once", Kind::Circuits),
    (
        "ping-loaded",
        "ping beside 10 downloads, same circuit",
        Kind::Ping,
    ),
    (
        "udp-echo",
        "datagram there and back, alone",
        Kind::UdpEcho(Beside::Nothing),
    ),
    (
        "udp-echo-loaded",
        "the same beside a download, same circuit",
        Kind::UdpEcho(Beside::SameCircuit),
    ),
    (
        "udp-echo-other",
        "the same beside a download, another circuit",
        Kind::UdpEcho(Beside::OtherCircuit),
    ),
    ("udp-bytes-64", "datagrams of 64 bytes", Kind::UdpBytes(64)),
    (
        "udp-bytes-1200",
        "datagrams of 1,200 bytes",
        Kind::UdpBytes(1_200),
    ),
    (
        "udp-bytes-1350",
        "datagrams of 1,350 bytes",
        Kind::UdpBytes(1_350),
    ),
    (
        "udp-bytes-9000",
        "datagrams of 9,000 bytes",
        Kind::UdpBytes(9_000),
    ),
    ("memory-after", "memory after the load", Kind::Memory),
];

/// Number of circuits that are asked for at once in the row `circuits`.
const AT_ONCE: usize = 32;
/// Number of circuits that are held to measure their memory.
const HELD: usize = 64;
/// Number of bulk streams beside which a ping runs.
const BESIDE: usize = 10;
/// Pause between two pings.
const PING_PAUSE: Duration = Duration::from_millis(20);
/// A datagram that has not come back after this time is lost: each end drops what has waited for a second.
const UDP_LOST: Duration = Duration::from_secs(2);
/// Links of a circuit.
const HOPS: usize = 3;
/// The most requests that a row of first bytes makes.
const MAX_REQUESTS: usize = 1000;
/// An answer that takes longer than this is an error.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);

/// What a row measures.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// Memory of each role.
    Memory,
    /// Memory that one circuit adds.
    PerCircuit,
    /// Throughput.
    Bulk(Bulk),
    /// Time from the first byte of a connection's request to the first byte of its answer.
    FirstByte(Of),
    /// Circuits a second.
    Circuits,
    /// Time of a byte there and back on one stream, beside others.
    Ping,
    /// Time of a small datagram there and back.
    UdpEcho(Beside),
    /// Bytes that links carry for each byte of a flow of datagrams of so many bytes, in a network that counts them.
    UdpBytes(usize),
}

/// What goes on beside datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beside {
    Nothing,
    /// A download on the circuit of the datagrams.
    SameCircuit,
    /// A download on a circuit of its own.
    OtherCircuit,
}

/// The way that a request takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    /// The way through the plain chain.
    Plain,
    /// The circuit of one user, which is ready.
    Ready,
    /// A circuit of a new user each time.
    New,
}

/// A load of bulk streams.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bulk {
    up: bool,
    streams: usize,
    own_circuits: bool,
    plain: bool,
}

impl Bulk {
    const fn new(up: bool, streams: usize) -> Self {
        Self {
            up,
            streams,
            own_circuits: false,
            plain: false,
        }
    }

    const fn plain(self) -> Self {
        Self {
            plain: true,
            ..self
        }
    }

    const fn own(self) -> Self {
        Self {
            own_circuits: true,
            ..self
        }
    }
}

/// What rows are measured with.
pub(super) struct Field {
    /// The way through the network.
    pub(super) network: Way,
    /// The way through the plain chain.
    pub(super) plain: Way,
    /// The network's processes.
    pub(super) roles: Roles,
    /// The plain chain's processes.
    pub(super) plain_roles: Roles,
    /// Number of bytes that the destination's sinks have read.
    pub(super) sunk: Arc<AtomicU64>,
    /// Number of datagrams that the destination has counted.
    pub(super) come: watch::Receiver<u64>,
    /// How long a row is measured.
    pub(super) duration: Duration,
    /// How long a load runs before it is measured.
    pub(super) warm_up: Duration,
}

impl Field {
    /// Measures `kind`. `counting` is a network that counts what its links carry, for [`Kind::UdpBytes`].
    pub(super) async fn measure(
        &self,
        kind: Kind,
        counting: Option<&Local>,
    ) -> io::Result<Vec<Value>> {
        match kind {
            Kind::Memory => Ok(self.memory()),
            Kind::PerCircuit => self.per_circuit().await,
            Kind::Bulk(bulk) => self.bulk(bulk).await,
            Kind::FirstByte(of) => self.first_bytes(of).await,
            Kind::Circuits => self.circuits().await,
            Kind::Ping => self.ping().await,
            Kind::UdpEcho(beside) => self.udp_echo(beside).await,
            Kind::UdpBytes(bytes) => match counting {
                Some(network) => self.udp_bytes(bytes, network).await,
                None => Err(io::Error::other("no network counts what links carry")),
            },
        }
    }

    fn memory(&self) -> Vec<Value> {
        let mut values = Vec::new();
        for (role, pids) in &self.roles {
            let of = usage::memory(pids);
            if of.is_empty() {
                continue;
            }
            let mean = |pick: fn(&usage::Memory) -> f64| {
                of.iter().map(pick).sum::<f64>() / of.len() as f64 / 1024.0
            };
            values.push(value(format!("{role}.rss"), mean(|m| m.rss), "MiB"));
            values.push(value(format!("{role}.pss"), mean(|m| m.pss), "MiB"));
            values.push(value(format!("{role}.peak"), mean(|m| m.peak), "MiB"));
        }
        values
    }

    async fn per_circuit(&self) -> io::Result<Vec<Value>> {
        let used = |pids: &Vec<u32>| usage::memory(pids).iter().map(|m| m.pss).sum::<f64>();
        // The first circuit also needs threads and caches, which must not be counted for the others.
        let _first = self.held(1).await?;
        let before: Vec<f64> = self.roles.values().map(used).collect();
        let _held = self.held(HELD).await?;
        let after = self.roles.iter().zip(before);
        let each = after.map(|((role, pids), before)| {
            value(role.clone(), (used(pids) - before) / HELD as f64, "KiB")
        });
        Ok(each.collect())
    }

    /// Opens `count` streams on circuits of their own. Each has carried a byte there and back.
    async fn held(&self, count: usize) -> io::Result<Vec<TcpStream>> {
        let mut opening = JoinSet::new();
        let mut held = Vec::new();
        for _ in 0..count {
            let way = self.network.with_new_user();
            opening.spawn(async move {
                let mut stream = way.open(Wish::Echo).await?;
                echo(&mut stream).await?;
                io::Result::Ok(stream)
            });
            // Only a few are opened at once, because this row measures memory and not speed.
            if opening.len() >= 8
                && let Some(stream) = opening.join_next().await
            {
                held.push(stream??);
            }
        }
        while let Some(stream) = opening.join_next().await {
            held.push(stream??);
        }
        Ok(held)
    }

    async fn bulk(&self, bulk: Bulk) -> io::Result<Vec<Value>> {
        let (way, roles) = if bulk.plain {
            (self.plain, &self.plain_roles)
        } else {
            (self.network.with_new_user(), &self.roles)
        };
        let load = Load::start(way, bulk, self.sunk.clone()).await?;
        sleep(self.warm_up).await;
        let (cpu, bytes, begun) = (usage::processor_seconds(roles), load.bytes(), steady::now());
        sleep(self.duration).await;
        let took = begun.elapsed().as_secs_f64();
        let moved = (load.bytes() - bytes) as f64;
        if moved == 0.0 {
            return Err(io::Error::other("nothing came through"));
        }
        let mut values = vec![value("rate", moved / 1e6 / took, "MB/s")];
        let mut all = 0.0;
        for (role, after) in usage::processor_seconds(roles) {
            let used = (after - cpu.get(&role).copied().unwrap_or(0.0)) / (moved / 1e9);
            all += used;
            values.push(value(format!("cpu.{role}"), used, "s/GB"));
        }
        // With one process the figures include the load, so they cannot be compared with the plain chain.
        if values.len() > 1 && !roles.contains_key("process") {
            values.push(value("cpu.all", all, "s/GB"));
        }
        Ok(values)
    }

    async fn first_bytes(&self, of: Of) -> io::Result<Vec<Value>> {
        let way = match of {
            Of::Plain => self.plain,
            Of::Ready | Of::New => self.network.with_new_user(),
        };
        if of != Of::New {
            first_byte(way).await?;
        }
        let (begun, mut took) = (steady::now(), Vec::new());
        while begun.elapsed() < self.duration && took.len() < MAX_REQUESTS {
            let way = if of == Of::New {
                way.with_new_user()
            } else {
                way
            };
            took.push(first_byte(way).await?);
        }
        Ok(times(took))
    }

    async fn circuits(&self) -> io::Result<Vec<Value>> {
        let cpu = usage::processor_seconds(&self.roles);
        let begun = steady::now();
        let mut workers = JoinSet::new();
        for _ in 0..AT_ONCE {
            let (way, duration) = (self.network, self.duration);
            workers.spawn(async move {
                let (mut done, mut failed) = (0_u32, 0_u32);
                while begun.elapsed() < duration {
                    match first_byte(way.with_new_user()).await {
                        Ok(_) => done += 1,
                        Err(_) => failed += 1,
                    }
                }
                (done, failed)
            });
        }
        let (mut done, mut failed) = (0, 0);
        while let Some(of_one) = workers.join_next().await {
            let of_one = of_one?;
            done += of_one.0;
            failed += of_one.1;
        }
        let took = begun.elapsed().as_secs_f64();
        if done == 0 {
            return Err(io::Error::other("no circuit was built"));
        }
        let mut values = vec![value("rate", f64::from(done) / took, "1/s")];
        values.push(value("failed", f64::from(failed), ""));
        for (role, after) in usage::processor_seconds(&self.roles) {
            let used = after - cpu.get(&role).copied().unwrap_or(0.0);
            values.push(value(
                format!("cpu.{role}"),
                used * 1e3 / f64::from(done),
                "ms each",
            ));
        }
        Ok(values)
    }

    async fn ping(&self) -> io::Result<Vec<Value>> {
        let way = self.network.with_new_user();
        let mut stream = way.open(Wish::Echo).await?;
        let _load = Load::start(way, Bulk::new(false, BESIDE), self.sunk.clone()).await?;
        sleep(self.warm_up).await;
        let (begun, mut took) = (steady::now(), Vec::new());
        while begun.elapsed() < self.duration {
            let sent = steady::now();
            echo(&mut stream).await?;
            took.push(sent.elapsed().as_secs_f64() * 1e3);
            sleep(PING_PAUSE).await;
        }
        Ok(times(took))
    }

    async fn udp_echo(&self, beside: Beside) -> io::Result<Vec<Value>> {
        let way = self.network.with_new_user();
        let mut datagrams = Datagrams::open(way).await?;
        datagrams.until_bound().await?;
        let download = match beside {
            Beside::Nothing => None,
            Beside::SameCircuit => Some(way),
            Beside::OtherCircuit => Some(way.with_new_user()),
        };
        let load = match download {
            Some(way) => Some(Load::start(way, Bulk::new(false, 1), self.sunk.clone()).await?),
            None => None,
        };
        sleep(self.warm_up).await;
        let (begun, before) = (steady::now(), load.as_ref().map(Load::bytes));
        let (mut took, mut lost) = (Vec::new(), 0_u32);
        while begun.elapsed() < self.duration {
            match datagrams.echo(UDP_LOST).await? {
                Some(time) => took.push(time.as_secs_f64() * 1e3),
                None => lost += 1,
            }
            sleep(PING_PAUSE).await;
        }
        let seconds = begun.elapsed().as_secs_f64();
        if took.is_empty() {
            return Err(io::Error::other("no datagram came back"));
        }
        let mut values = times(took);
        values.push(value("lost", f64::from(lost), ""));
        if let (Some(load), Some(before)) = (load, before) {
            // What the datagrams went beside, so that a quick echo beside no load is not taken for a good one.
            let moved = (load.bytes() - before) as f64;
            values.push(value("beside", moved / 1e6 / seconds, "MB/s"));
        }
        Ok(values)
    }

    async fn udp_bytes(&self, bytes: usize, network: &Local) -> io::Result<Vec<Value>> {
        let way = self.network.at(network.socks()).with_new_user();
        let mut datagrams = Datagrams::open(way).await?;
        datagrams.until_bound().await?;
        let mut come = self.come.clone();
        // The circuit's window opens, and the network falls silent again, before bytes are counted.
        datagrams.flow(bytes, self.warm_up, &mut come).await?;
        sleep(UDP_LOST).await;
        let (carried, before) = (network.carried(), *come.borrow());
        let sent = datagrams.flow(bytes, self.duration, &mut come).await?;
        let arrived = *come.borrow() - before;
        if arrived == 0 {
            return Err(io::Error::other("no datagram arrived"));
        }
        let carried = (network.carried() - carried) as f64;
        let payload = arrived as f64 * bytes as f64;
        Ok(vec![
            value("each_link", carried / payload / HOPS as f64, "x"),
            value("arrived", arrived as f64, ""),
            value("lost", sent.saturating_sub(arrived) as f64, ""),
        ])
    }
}

/// The quantiles of times in milliseconds.
fn times(mut took: Vec<f64>) -> Vec<Value> {
    took.sort_by(f64::total_cmp);
    vec![
        value("p50", quantile(&took, 0.5), "ms"),
        value("p99", quantile(&took, 0.99), "ms"),
        value("samples", took.len() as f64, ""),
    ]
}

/// The time from the start of the connection to the first byte of the answer (ms).
async fn first_byte(way: Way) -> io::Result<f64> {
    let begun = steady::now();
    let mut stream = way.open(Wish::Byte).await?;
    timeout(ANSWER_DEADLINE, stream.read_u8()).await??;
    Ok(begun.elapsed().as_secs_f64() * 1e3)
}

async fn echo(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_u8(b'.').await?;
    timeout(ANSWER_DEADLINE, stream.read_u8()).await??;
    Ok(())
}

/// Streams that move bytes until this value is dropped.
struct Load {
    counter: Arc<AtomicU64>,
    _streams: JoinSet<io::Result<()>>,
}

impl Load {
    async fn start(way: Way, bulk: Bulk, sunk: Arc<AtomicU64>) -> io::Result<Self> {
        let wish = if bulk.up { Wish::Sink } else { Wish::Source };
        // Uploads are counted where they arrive: bytes that wait on the way have not been carried.
        let counter = if bulk.up { sunk } else { Arc::default() };
        let mut streams = JoinSet::new();
        for _ in 0..bulk.streams {
            let way = if bulk.own_circuits {
                way.with_new_user()
            } else {
                way
            };
            let stream = way.open(wish).await?;
            if bulk.up {
                streams.spawn(write_on(stream));
            } else {
                streams.spawn(read_on(stream, counter.clone()));
            }
        }
        Ok(Self {
            counter,
            _streams: streams,
        })
    }

    fn bytes(&self) -> u64 {
        self.counter.load(Ordering::Relaxed)
    }
}

async fn write_on(mut stream: TcpStream) -> io::Result<()> {
    let chunk = vec![0; CHUNK];
    loop {
        stream.write_all(&chunk).await?;
    }
}

async fn read_on(mut stream: TcpStream, counter: Arc<AtomicU64>) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let len = stream.read(&mut chunk).await?;
        if len == 0 {
            return Ok(());
        }
        counter.fetch_add(len as u64, Ordering::Relaxed);
    }
}
