//! What the network knows of a host.

use core::task::Waker;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use tokio::time::Instant;

use super::clock::HostClock;
use super::datagrams::{Datagram, Waiting};
use super::disk::MemoryDisk;
use super::pair::SideId;

/// The first port that is given out to whoever asks for port 0.
const FIRST_FREE_PORT: u16 = 32_768;

/// The rates of a host's line, in bytes a second. 0 is without limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// What the host can send.
    pub up: u64,
    /// What the host can receive.
    pub down: u64,
}

/// How a host is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kill {
    /// The process ends at once. The host's kernel resets its connections, and its disk keeps all that was written.
    Process,
    /// The power goes. Nobody is told, and the disk loses what was not synced.
    Power,
}

/// How the name servers of a host answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NamesFault {
    /// As they should.
    #[default]
    Well,
    /// Not at all.
    Silent,
    /// With this address, whatever the name is.
    Lying(IpAddr),
}

/// The hostile owner of a host, who changes what the host's nodes say before it is encrypted.
pub trait Forge: Send + Sync {
    /// What is said to `peer` on the connection with this number in place of `plain`; `None` leaves it as it is. On a
    /// link `plain` is whole cells.
    fn forge(&self, connection: u64, peer: IpAddr, plain: &[u8]) -> Option<Vec<u8>>;
}

/// What is open at a host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Open {
    /// Connections that have not been dropped, those that are being opened included.
    pub connections: usize,
    /// Ports that are listened at.
    pub ports: usize,
    /// Ports for datagrams.
    pub datagram_ports: usize,
}

/// A port that is listened at.
pub(super) struct Listener {
    pub(super) number: u64,
    /// Connections that wait to be accepted.
    pub(super) waiting: VecDeque<u64>,
    pub(super) acceptors: Vec<Waker>,
}

/// What waits for a turn of a host's uplink.
pub(super) enum Turn {
    /// A side that has something to send.
    Side(SideId),
    /// A datagram to another host.
    Datagram(Datagram),
}

/// One host.
pub(super) struct Host {
    pub(super) clock: Arc<HostClock>,
    pub(super) disk: MemoryDisk,
    pub(super) next_life: u64,
    /// The lives before this one were killed.
    pub(super) alive_from: u64,
    pub(super) has_power: bool,
    pub(super) is_silent: bool,
    pub(super) extra_delay: Duration,
    pub(super) loss_ppm: u32,
    pub(super) line: Line,
    /// Whether a turn of the uplink is under way.
    pub(super) is_sending: bool,
    /// What waits for a turn of the uplink.
    pub(super) turns: VecDeque<Turn>,
    /// Bytes of the datagrams that wait for a turn.
    pub(super) datagrams_held: usize,
    /// When the downlink has brought all that has come to it so far.
    pub(super) down_free: Instant,
    pub(super) most_connections: Option<usize>,
    pub(super) dribbles: bool,
    pub(super) names: NamesFault,
    pub(super) forger: Option<Arc<dyn Forge>>,
    pub(super) listeners: BTreeMap<u16, Listener>,
    /// Ports in use, each with the number of the connection or listener that uses it.
    pub(super) ports: BTreeSet<(u16, u64)>,
    next_port: u16,
    /// Ports for datagrams, with what waits at each.
    pub(super) datagram_ports: BTreeMap<u16, Waiting>,
    next_datagram_port: u16,
    /// What is open, by the life that opened it.
    open: BTreeMap<u64, Open>,
}

impl Host {
    pub(super) fn new(clock: Arc<HostClock>, now: Instant) -> Self {
        Self {
            disk: MemoryDisk::new(clock.clock()),
            clock,
            next_life: 0,
            alive_from: 0,
            has_power: true,
            is_silent: false,
            extra_delay: Duration::ZERO,
            loss_ppm: 0,
            line: Line::default(),
            is_sending: false,
            turns: VecDeque::new(),
            datagrams_held: 0,
            down_free: now,
            most_connections: None,
            dribbles: false,
            names: NamesFault::Well,
            forger: None,
            listeners: BTreeMap::new(),
            ports: BTreeSet::new(),
            next_port: FIRST_FREE_PORT,
            datagram_ports: BTreeMap::new(),
            next_datagram_port: FIRST_FREE_PORT,
            open: BTreeMap::new(),
        }
    }

    /// Whether a life goes on.
    pub(super) fn is_alive(&self, life: u64) -> bool {
        life >= self.alive_from
    }

    /// Whether one more connection or port for datagrams is more than the host may have.
    pub(super) fn is_full(&self) -> bool {
        let living = self.open.range(self.alive_from..);
        let open: usize = living
            .map(|(_, open)| open.connections + open.datagram_ports)
            .sum();
        self.most_connections.is_some_and(|most| open >= most)
    }

    /// What is open, that of earlier lives included.
    pub(super) fn open(&self) -> Open {
        let sum = |of: fn(&Open) -> usize| self.open.values().map(of).sum();
        Open {
            connections: sum(|open| open.connections),
            ports: sum(|open| open.ports),
            datagram_ports: sum(|open| open.datagram_ports),
        }
    }

    /// Changes the number of what one life has open.
    pub(super) fn count(&mut self, life: u64, change: impl FnOnce(&mut Open)) {
        let open = self.open.entry(life).or_default();
        change(open);
        if *open == Open::default() {
            self.open.remove(&life);
        }
    }

    /// A port for datagrams that nobody has; `None` if there is none.
    pub(super) fn free_datagram_port(&mut self) -> Option<u16> {
        for _ in FIRST_FREE_PORT..=u16::MAX {
            let port = self.next_datagram_port;
            self.next_datagram_port = port.checked_add(1).unwrap_or(FIRST_FREE_PORT);
            if !self.datagram_ports.contains_key(&port) {
                return Some(port);
            }
        }
        None
    }

    /// A port that nobody has; `None` if there is none.
    pub(super) fn free_port(&mut self) -> Option<u16> {
        for _ in FIRST_FREE_PORT..=u16::MAX {
            let port = self.next_port;
            self.next_port = port.checked_add(1).unwrap_or(FIRST_FREE_PORT);
            let mut users = self.ports.range((port, 0)..=(port, u64::MAX));
            if users.next().is_none() {
                return Some(port);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_free_port_is_nobodys_and_after_the_last_comes_the_first() {
        let now = Instant::now();
        let mut host = Host::new(HostClock::new(now, 0), now);
        let all = FIRST_FREE_PORT..=u16::MAX;
        let given: Vec<_> = all.clone().map_while(|_| host.free_port()).collect();
        assert_eq!(given, all.clone().collect::<Vec<_>>());
        host.ports.extend(all.clone().map(|port| (port, 7)));
        assert_eq!(host.free_port(), None);
        host.ports.remove(&(u16::MAX, 7));
        host.ports.remove(&(40_000, 7));
        let given = [host.free_port(), host.free_port(), host.free_port()];
        assert_eq!(given, [Some(40_000), Some(u16::MAX), Some(40_000)]);
    }
}
