//! A network in memory: hosts with addresses, disks and clocks, connections between them, and a log of what happened.
//!
//! The network models what a link's task and a stream can tell of TCP. All hosts live in one thread on one clock, so
//! that the order of events is the runtime's and the seed's alone.
//!
//! - **Connections** take a round trip to open, are refused where nobody listens, and have a bounded buffer in each
//!   direction, an end of file that follows the last byte, and a reset that overtakes nothing.
//! - **Lines** of hosts have a rate each way. Connections of a host take turns of 16 KiB at its uplink. A lost packet
//!   holds up what is behind it on its connection until it is sent again. How a sender learns what rate it may send at
//!   is not modelled.
//! - **Datagrams** take turns with connections at lines. One is lost whole if a packet of it is lost, where a way is
//!   blocked, and where a queue is full: an uplink's, a downlink's or a port's. Datagrams keep their order.
//! - **Ways** can be blocked, by a partition or a cable that is pulled. What is sent meanwhile is sent again, at longer
//!   and longer intervals, and after 15 minutes in vain its sender gets an error. A dial is tried for 127 s.
//! - **Hosts** have lives. [`MemoryNetwork::world`] begins one, and [`MemoryNetwork::kill`] ends all of a host: nothing
//!   that is left of them reaches the network or the host's disk, however late it is dropped.

mod clock;
mod connection;
mod datagrams;
mod disk;
mod host;
mod kill;
mod names;
mod pair;
mod sockets;
mod state;
mod watch;
mod way;

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

pub use disk::{Fault, MemoryDisk, Unsynced};
pub use host::{Forge, Kill, Line, NamesFault, Open};
use tokio::time::Instant;

use super::{Names, Sockets, World};
use names::HostNames;
use sockets::HostSockets;
use state::State;
use watch::Watcher;

/// How long it takes from one host to another, one way. The answer is always the same, and nothing else is asked of the
/// network meanwhile.
pub type Delays = Arc<dyn Fn(IpAddr, IpAddr) -> Duration + Send + Sync>;

/// What happened on a connection or at a port for datagrams.
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
    /// A datagram was taken to be sent.
    SendDatagram,
    /// A datagram was read.
    ReceiveDatagram,
}

/// One line of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Time since the network began.
    pub at: Duration,
    /// The address of the host that the event happened at.
    pub host: IpAddr,
    /// The other end of the connection or datagram; of a dial, the address that was asked for.
    pub peer: SocketAddr,
    /// What happened.
    pub kind: EventKind,
    /// How many bytes the event concerns.
    pub bytes: usize,
}

/// Hosts in memory. Clones are handles on one network, which ends with the last of them.
#[derive(Clone)]
pub struct MemoryNetwork(Arc<NetworkState>);

struct NetworkState {
    names: BTreeMap<String, IpAddr>,
    state: Mutex<State>,
    watcher: Mutex<Watcher>,
}

impl MemoryNetwork {
    /// A network without hosts, in which it is `unix_ms` (milliseconds since 1970) now, each way takes `delay`, and
    /// `names` are known. Call this within a runtime, whose clock is the network's.
    pub fn new(unix_ms: u64, delay: Duration, names: BTreeMap<String, IpAddr>) -> Self {
        Self::with_delays(unix_ms, 0, Arc::new(move |_, _| delay), names)
    }

    /// A network without hosts, in which it is `unix_ms` (milliseconds since 1970) now, `delays` says how long each way
    /// takes, and `names` are known. What is lost, and what a host that dribbles does, follow from `seed`. Call this
    /// within a runtime, whose clock is the network's.
    pub fn with_delays(
        unix_ms: u64,
        seed: u64,
        delays: Delays,
        names: BTreeMap<String, IpAddr>,
    ) -> Self {
        let state = State::new(Instant::now(), unix_ms, seed, delays);
        let network = Arc::new(NetworkState {
            names,
            state: Mutex::new(state),
            watcher: Mutex::default(),
        });
        tokio::spawn(NetworkState::drive(Arc::downgrade(&network)));
        Self(network)
    }

    /// Begins a life of the host with `address`: gives the world as that life sees it. A host that was killed is up
    /// again. Several lives can go on side by side, like processes of one machine.
    pub fn world(&self, address: IpAddr) -> World {
        let (life, clock, disk) = self.0.with(|state, _| {
            let life = state.begin_life(address);
            let host = state.host(address);
            (life, host.clock.clock(), host.disk.disk())
        });
        let network = self.clone();
        let sockets = HostSockets {
            network: network.clone(),
            address,
            life,
        };
        let names = HostNames {
            network,
            address,
            life,
        };
        World {
            sockets: Sockets::Given(Arc::new(sockets)),
            clock,
            names: Names::Given(Arc::new(names)),
            disk,
        }
    }

    /// The disk of the host with `address` now. It stays when the host's nodes end; after a kill it is another one.
    pub fn disk(&self, address: IpAddr) -> MemoryDisk {
        self.0.with(|state, _| state.host(address).disk.clone())
    }

    /// All that has happened so far; nothing once [`MemoryNetwork::watch`] was called.
    pub fn log(&self) -> Vec<Event> {
        self.0.with(|state, _| state.log.clone())
    }

    /// From now on each event goes to `each` and is not kept. What `each` itself has happen comes to it afterwards.
    pub fn watch(&self, each: Box<dyn FnMut(&Event) + Send>) {
        self.0.watch(each);
    }

    /// Sets the rates of a host's line. A turn that is under way ends at the rate that it began at.
    pub fn set_line(&self, host: IpAddr, line: Line) {
        self.0.with(|state, _| state.host(host).line = line);
    }

    /// From now on `per_million` of a million packets of 1,400 bytes are lost on the host's line, either way. What a
    /// connection loses is sent again; a datagram is lost with any packet of it.
    pub fn set_loss(&self, host: IpAddr, per_million: u32) {
        self.0
            .with(|state, _| state.host(host).loss_ppm = per_million);
    }

    /// From now on everything to the host and from it takes `extra` longer.
    pub fn set_extra_delay(&self, host: IpAddr, extra: Duration) {
        self.0.with(|state, _| state.host(host).extra_delay = extra);
    }

    /// From now on nothing gets from a host of `one` to a host of `other`, or back. Gives the partition's number.
    pub fn part(&self, one: &[IpAddr], other: &[IpAddr]) -> u64 {
        self.0.with(|state, _| {
            let sides = [one, other].map(|side| side.iter().copied().collect::<BTreeSet<_>>());
            let number = state.number();
            state.partitions.insert(number, sides);
            number
        })
    }

    /// Ends the partition of that number.
    pub fn join(&self, partition: u64) {
        self.0.with(|state, _| state.partitions.remove(&partition));
    }

    /// Pulls the host's cable, or puts it back. Within the host connections go on.
    pub fn silence(&self, host: IpAddr, is_silent: bool) {
        self.0
            .with(|state, _| state.host(host).is_silent = is_silent);
    }

    /// Ends all lives of the host at once. What is left of them fails from now on: reads, writes and dials give errors,
    /// nobody is accepted, and each step of the disk fails. The host's disk is what `how` leaves of it: after
    /// [`Kill::Power`], what [`MemoryDisk::crash`] says of `is_kept` and `unsynced`. Tasks are the caller's to end.
    pub fn kill(
        &self,
        host: IpAddr,
        how: Kill,
        is_kept: impl Fn(usize) -> bool,
        unsynced: Unsynced,
    ) {
        let left = kill::disk_after(&self.disk(host), how, is_kept, unsynced);
        self.0
            .with(|state, now| state.end_lives(host, how, left, now));
    }

    /// Moves the host's clock by `milliseconds`.
    pub fn step_clock(&self, host: IpAddr, milliseconds: i64) {
        self.0
            .with(|state, _| state.host(host).clock.step(milliseconds));
    }

    /// From now on the host's clock gains `parts_per_million` microseconds in each second.
    pub fn set_drift(&self, host: IpAddr, parts_per_million: i32) {
        self.0
            .with(|state, _| state.host(host).clock.drift(parts_per_million));
    }

    /// From now on the living processes of the host have at most `most` connections and ports for datagrams together.
    /// One more is the error EMFILE, of a dial, of an accept and of a port for datagrams.
    pub fn limit_connections(&self, host: IpAddr, most: Option<usize>) {
        self.0
            .with(|state, _| state.host(host).most_connections = most);
    }

    /// From now on, or no longer, some reads of the host give one byte, and some of its writes take a part.
    pub fn dribble(&self, host: IpAddr, on: bool) {
        self.0.with(|state, _| state.host(host).dribbles = on);
    }

    /// Sets how the host's name servers answer.
    pub fn set_names(&self, host: IpAddr, fault: NamesFault) {
        self.0.with(|state, _| state.host(host).names = fault);
    }

    /// From now on, or no longer, `forger` changes what the host's nodes say.
    pub fn set_forger(&self, host: IpAddr, forger: Option<Arc<dyn Forge>>) {
        self.0.with(|state, _| state.host(host).forger = forger);
    }

    /// What is open at the host now, that of earlier lives included.
    pub fn open(&self, host: IpAddr) -> Open {
        self.0.with(|state, _| state.host(host).open())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod datagram_tests;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod kill_tests;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod line_tests;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod storm_tests;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod way_tests;
