//! A network in memory: hosts with addresses and disks, connections with a delay, and a log of what happened.
//!
//! The network models what a link's task and a stream can tell of TCP: a round trip to open, refusal where nobody
//! listens, a bounded buffer in each direction, an end of file that follows the last byte, and a reset that overtakes
//! nothing. Bandwidth, loss and partitions are not modelled. All hosts live in one thread on one clock, so that the
//! order of events is the runtime's alone.

mod disk;

use core::task::{Context, Poll, Waker};
use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};

pub use disk::{Fault, MemoryDisk, Unsynced};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::names::{GivenNames, Names};
use super::sockets::{Answer, GivenListener, GivenSockets, GivenStream};
use super::{Clock, Sockets, World};
use crate::sync::lock;

/// Bytes that one direction of a connection holds, on their way or unread. TCP holds unsent bytes besides.
const BUFFER_BYTES: usize = 256 * 1024;
/// Connections that wait to be accepted.
const BACKLOG: usize = 128;
/// The first port that is given out to whoever asks for port 0.
const FIRST_FREE_PORT: u16 = 32_768;

/// What happened on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A connection was asked for.
    Dial,
    /// A connection was accepted.
    Accept,
    /// Bytes were taken to be sent.
    Send,
    /// Bytes were read.
    Receive,
    /// A direction was ended.
    End,
    /// A connection was dropped.
    Close,
}

/// One line of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Time since the network began.
    pub at: Duration,
    /// The address of the host that the event happened at.
    pub host: IpAddr,
    /// The connection's other end; of a dial, the address that was asked for.
    pub peer: SocketAddr,
    /// What happened.
    pub kind: EventKind,
    /// How many bytes the event concerns.
    pub bytes: usize,
}

/// Hosts in memory.
#[derive(Clone)]
pub struct MemoryNetwork(Arc<NetworkState>);

struct NetworkState {
    began: Instant,
    unix_ms: u64,
    delay: Duration,
    names: BTreeMap<String, IpAddr>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    listeners: BTreeMap<SocketAddr, mpsc::Sender<Connection>>,
    next_port: BTreeMap<IpAddr, u16>,
    disks: BTreeMap<IpAddr, MemoryDisk>,
    log: Vec<Event>,
}

impl MemoryNetwork {
    /// A network without hosts, in which it is `unix_ms` (milliseconds since 1970) now, each way takes `delay`, and
    /// `names` are known. Call this within a runtime, whose clock is the network's.
    pub fn new(unix_ms: u64, delay: Duration, names: BTreeMap<String, IpAddr>) -> Self {
        Self(Arc::new(NetworkState {
            began: Instant::now(),
            unix_ms,
            delay,
            names,
            state: Mutex::default(),
        }))
    }

    /// The world as the host with `address` sees it.
    pub fn world(&self, address: IpAddr) -> World {
        World {
            sockets: Sockets::Given(Arc::new(Host {
                network: self.clone(),
                address,
            })),
            clock: self.clock(),
            names: Names::Given(Arc::new(self.clone())),
            disk: self.disk(address).disk(),
        }
    }

    /// The disk of the host with `address`, which stays when the host's nodes end.
    pub fn disk(&self, address: IpAddr) -> MemoryDisk {
        let clock = self.clock();
        let mut state = self.state();
        let disk = state.disks.entry(address);
        disk.or_insert_with(|| MemoryDisk::new(clock)).clone()
    }

    fn clock(&self) -> Clock {
        let (began, unix_ms) = (self.0.began, self.0.unix_ms);
        let passed = move || u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        Clock::from_fn(move || unix_ms.saturating_add(passed()))
    }

    /// All that has happened so far.
    pub fn log(&self) -> Vec<Event> {
        self.state().log.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0.state)
    }

    fn note(&self, host: IpAddr, peer: SocketAddr, kind: EventKind, bytes: usize) {
        let at = self.0.began.elapsed();
        self.state().log.push(Event {
            at,
            host,
            peer,
            kind,
            bytes,
        });
    }

    /// A port of `address` that nobody has.
    fn free_port(&self, address: IpAddr) -> SocketAddr {
        let mut state = self.state();
        let port = state.next_port.entry(address).or_insert(FIRST_FREE_PORT);
        let free = *port;
        *port = port.checked_add(1).unwrap_or(FIRST_FREE_PORT);
        SocketAddr::new(address, free)
    }
}

impl GivenNames for MemoryNetwork {
    fn lookup<'a>(&'a self, name: &'a str) -> Answer<'a, Vec<IpAddr>> {
        Box::pin(async move {
            tokio::time::sleep(2 * self.0.delay).await;
            let found = self.0.names.get(name);
            found
                .map(|address| vec![*address])
                .ok_or_else(|| io::ErrorKind::NotFound.into())
        })
    }
}

/// One host.
struct Host {
    network: MemoryNetwork,
    address: IpAddr,
}

impl GivenSockets for Host {
    fn connect(&self, to: SocketAddr) -> Answer<'_, Box<dyn GivenStream>> {
        Box::pin(async move {
            let from = self.network.free_port(self.address);
            self.network.note(self.address, to, EventKind::Dial, 0);
            tokio::time::sleep(self.network.0.delay).await;
            let listener = self.network.state().listeners.get(&to).cloned();
            let (near, far) = Connection::pair(&self.network, from, to);
            let taken = listener.is_some_and(|listener| listener.try_send(far).is_ok());
            tokio::time::sleep(self.network.0.delay).await;
            match taken {
                true => Ok(Box::new(near) as Box<dyn GivenStream>),
                false => Err(io::ErrorKind::ConnectionRefused.into()),
            }
        })
    }

    fn bind(&self, address: SocketAddr) -> io::Result<Box<dyn GivenListener>> {
        if address.ip() != self.address && !address.ip().is_unspecified() {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        let address = match address.port() {
            0 => self.network.free_port(self.address),
            port => SocketAddr::new(self.address, port),
        };
        let (sender, waiting) = mpsc::channel(BACKLOG);
        let mut state = self.network.state();
        if state.listeners.contains_key(&address) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        state.listeners.insert(address, sender);
        drop(state);
        Ok(Box::new(Port {
            network: self.network.clone(),
            address,
            waiting: tokio::sync::Mutex::new(waiting),
        }))
    }

    fn local_address(&self, _: SocketAddr) -> Option<IpAddr> {
        Some(self.address)
    }
}

struct Port {
    network: MemoryNetwork,
    address: SocketAddr,
    waiting: tokio::sync::Mutex<mpsc::Receiver<Connection>>,
}

impl GivenListener for Port {
    fn accept(&self) -> Answer<'_, (Box<dyn GivenStream>, SocketAddr)> {
        Box::pin(async move {
            let accepted = self.waiting.lock().await.recv().await;
            let accepted = accepted.ok_or(io::ErrorKind::NotConnected)?;
            let peer = accepted.peer;
            self.network
                .note(self.address.ip(), peer, EventKind::Accept, 0);
            Ok((Box::new(accepted) as Box<dyn GivenStream>, peer))
        })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.network.state().listeners.remove(&self.address);
    }
}

/// One direction of a connection.
#[derive(Default)]
struct Lane {
    /// Bytes and when they arrive. The bytes are in order, because every byte takes equally long.
    parts: VecDeque<(Instant, Vec<u8>)>,
    /// Number of bytes of the first part that have been read.
    read: usize,
    bytes: usize,
    end: Option<(Instant, End)>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// How a direction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// With the last byte.
    Orderly,
    /// With an error.
    Reset,
}

impl Lane {
    /// When there will be something to read: bytes, an end or an error.
    fn readable_at(&self) -> Option<Instant> {
        let first = self.parts.front().map(|(at, _)| *at);
        first.or(self.end.map(|(at, _)| at))
    }
}

/// One side of a connection.
struct Connection {
    network: MemoryNetwork,
    local: SocketAddr,
    peer: SocketAddr,
    inward: Arc<Mutex<Lane>>,
    outward: Arc<Mutex<Lane>>,
    /// Wakes the reader when the bytes on their way arrive.
    timer: Mutex<Option<core::pin::Pin<Box<tokio::time::Sleep>>>>,
    resets: Mutex<bool>,
}

impl Connection {
    /// Both sides of a new connection.
    fn pair(network: &MemoryNetwork, from: SocketAddr, to: SocketAddr) -> (Self, Self) {
        let (there, back) = (Arc::<Mutex<Lane>>::default(), Arc::<Mutex<Lane>>::default());
        let side = |local, peer, inward: &Arc<_>, outward: &Arc<_>| Self {
            network: network.clone(),
            local,
            peer,
            inward: Arc::clone(inward),
            outward: Arc::clone(outward),
            timer: Mutex::default(),
            resets: Mutex::default(),
        };
        (side(from, to, &back, &there), side(to, from, &there, &back))
    }

    fn end(&self, how: End) {
        let mut way = lock(&self.outward);
        if way
            .end
            .is_some_and(|(_, end)| end == End::Reset || how == End::Orderly)
        {
            return;
        }
        way.end = Some((Instant::now() + self.network.0.delay, how));
        let woken = [way.reader.take(), way.writer.take()];
        drop(way);
        woken.into_iter().flatten().for_each(Waker::wake);
    }
}

impl GivenStream for Connection {
    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut way = lock(&self.inward);
        let now = Instant::now();
        let mut read = 0;
        while read < buffer.len()
            && let Some((at, part)) = way.parts.front()
            && *at <= now
        {
            let there = &part[way.read..];
            let taken = there.len().min(buffer.len() - read);
            buffer[read..read + taken].copy_from_slice(&there[..taken]);
            let is_over = taken == there.len();
            read += taken;
            way.read += taken;
            if is_over {
                way.read = 0;
                way.parts.pop_front();
            }
        }
        way.bytes -= read;
        let writer = if read > 0 { way.writer.take() } else { None };
        let end = way.end.filter(|(at, _)| *at <= now && way.parts.is_empty());
        drop(way);
        writer.into_iter().for_each(Waker::wake);
        if read > 0 {
            self.network
                .note(self.local.ip(), self.peer, EventKind::Receive, read);
            return Ok(read);
        }
        match end {
            Some((_, End::Orderly)) => Ok(0),
            Some((_, End::Reset)) => Err(io::ErrorKind::ConnectionReset.into()),
            None => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        if lock(&self.inward)
            .end
            .is_some_and(|(at, end)| end == End::Reset && at <= Instant::now())
        {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let mut way = lock(&self.outward);
        if way.end.is_some() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let taken = bytes.len().min(BUFFER_BYTES.saturating_sub(way.bytes));
        if taken == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let at = Instant::now() + self.network.0.delay;
        way.parts.push_back((at, bytes[..taken].to_vec()));
        way.bytes += taken;
        let reader = way.reader.take();
        drop(way);
        reader.into_iter().for_each(Waker::wake);
        self.network
            .note(self.local.ip(), self.peer, EventKind::Send, taken);
        Ok(taken)
    }

    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut way = lock(&self.inward);
        let Some(at) = way.readable_at() else {
            way.reader = Some(cx.waker().clone());
            return Poll::Pending;
        };
        drop(way);
        if at <= Instant::now() {
            return Poll::Ready(Ok(()));
        }
        let mut timer = lock(&self.timer);
        let sleep = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        if sleep.deadline() != at {
            sleep.as_mut().reset(at);
        }
        sleep.as_mut().poll(cx).map(Ok)
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut way = lock(&self.outward);
        if way.bytes < BUFFER_BYTES || way.end.is_some() {
            return Poll::Ready(Ok(()));
        }
        way.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    fn shutdown_write(&self) -> io::Result<()> {
        self.network
            .note(self.local.ip(), self.peer, EventKind::End, 0);
        self.end(End::Orderly);
        Ok(())
    }

    fn reset_when_dropped(&self) {
        *lock(&self.resets) = true;
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.peer)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.network
            .note(self.local.ip(), self.peer, EventKind::Close, 0);
        // TCP resets too if bytes were left unread, or if a reset was asked for.
        let unread = lock(&self.inward).bytes > 0;
        let how = if unread || *lock(&self.resets) {
            End::Reset
        } else {
            End::Orderly
        };
        self.end(how);
        // Nobody reads any more what the other side writes, so the other side's writes fail.
        let mut way = lock(&self.inward);
        way.end = Some((Instant::now(), End::Reset));
        let writer = way.writer.take();
        drop(way);
        writer.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const DELAY: Duration = Duration::from_millis(20);
    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(1, 0, 0, 1));
    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(2, 0, 0, 1));

    fn worlds() -> (World, World) {
        let names = BTreeMap::from([("there.example".to_owned(), THERE)]);
        let network = MemoryNetwork::new(1_900_000_000_000, DELAY, names);
        (network.world(HERE), network.world(THERE))
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_arrive_after_the_delay_and_then_the_end() {
        let (here, there) = worlds();
        let at = SocketAddr::new(THERE, 80);
        let began = Instant::now();
        assert!(here.sockets.connect(at).await.is_err());
        let listener = there.sockets.bind(at).await.unwrap();
        let mut near = here.sockets.connect(at).await.unwrap();
        assert_eq!(began.elapsed(), 4 * DELAY);
        let (mut far, peer) = listener.accept().await.unwrap();
        assert_eq!(
            (peer, near.peer_addr().unwrap()),
            (near.local_addr().unwrap(), at)
        );
        near.write_all(&[7; 1_000]).await.unwrap();
        near.shutdown().await.unwrap();
        let mut got = Vec::new();
        far.read_to_end(&mut got).await.unwrap();
        assert_eq!((got, began.elapsed()), (vec![7; 1_000], 5 * DELAY));
    }

    #[tokio::test(start_paused = true)]
    async fn a_reset_is_an_error_and_a_full_buffer_waits() {
        let (here, there) = worlds();
        let listener = there
            .sockets
            .bind(SocketAddr::new(THERE, 80))
            .await
            .unwrap();
        let near = here
            .sockets
            .connect(SocketAddr::new(THERE, 80))
            .await
            .unwrap();
        let (mut far, _) = listener.accept().await.unwrap();
        assert_eq!(
            near.try_write(&vec![0; 2 * BUFFER_BYTES]).unwrap(),
            BUFFER_BYTES
        );
        assert_eq!(
            near.try_write(&[0]).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        let mut half = vec![0; BUFFER_BYTES / 2];
        far.read_exact(&mut half).await.unwrap();
        near.writable().await.unwrap();
        assert_eq!(near.try_write(&[0]).unwrap(), 1);
        near.reset_when_dropped();
        drop(near);
        let mut rest = Vec::new();
        let error = far.read_to_end(&mut rest).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test(start_paused = true)]
    async fn names_and_the_time_of_day_are_the_networks() {
        let (here, _) = worlds();
        let Names::Given(names) = &here.names else {
            panic!()
        };
        assert_eq!(names.lookup("there.example").await.unwrap(), [THERE]);
        assert!(names.lookup("nowhere.example").await.is_err());
        assert_eq!(here.clock.now_ms(), 1_900_000_000_000 + 4 * 20);
    }
}
