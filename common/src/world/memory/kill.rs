//! Lives of hosts, and how they end.

use std::net::IpAddr;

use tokio::time::Instant;

use super::connection::close;
use super::disk::{Fault, MemoryDisk, Unsynced};
use super::host::Kill;
use super::pair::{Phase, SideId};
use super::state::State;

impl State {
    /// Begins a life of the host. Gives the life's number.
    pub(super) fn begin_life(&mut self, address: IpAddr) -> u64 {
        let host = self.host(address);
        host.has_power = true;
        let life = host.next_life;
        host.next_life += 1;
        life
    }

    /// Ends all lives of the host: its sockets are of no use from now on, and its disk is `disk`.
    pub(super) fn end_lives(&mut self, address: IpAddr, how: Kill, disk: MemoryDisk, now: Instant) {
        let host = self.host(address);
        host.alive_from = host.next_life;
        host.disk = disk;
        let listeners = std::mem::take(&mut host.listeners);
        if how == Kill::Power {
            host.has_power = false;
            host.turns.clear();
            host.datagrams_held = 0;
        }
        let datagram_ports = std::mem::take(&mut host.datagram_ports).into_values();
        let receivers = datagram_ports.filter_map(|waiting| waiting.receiver);
        self.effects.dropped.extend(receivers);
        for (port, listener) in listeners {
            self.host(address).ports.remove(&(port, listener.number));
            self.effects.dropped.extend(listener.acceptors);
        }
        // Connections that wait to be accepted are among them.
        for id in self.sides_of(address) {
            self.end_side(id, how, now);
        }
    }

    fn sides_of(&self, address: IpAddr) -> Vec<SideId> {
        let sides = self.connections.iter().flat_map(|(connection, pair)| {
            let connection = *connection;
            let sides = pair.sides.iter().enumerate();
            let here = sides.filter(|(_, side)| side.local.ip() == address);
            here.map(move |(side, _)| SideId { connection, side })
        });
        sides.collect()
    }

    fn end_side(&mut self, id: SideId, how: Kill, now: Instant) {
        let Some(pair) = self.connections.get_mut(&id.connection) else {
            return;
        };
        let side = &mut pair.sides[id.side];
        match (how, side.phase) {
            (Kill::Process, Phase::Open) => {
                let woken = [side.reader.take(), side.writer.take()];
                self.effects.woken.extend(woken.into_iter().flatten());
                side.resets = true;
                close(self, id, now);
            }
            // What a process said before it ended still goes out.
            (Kill::Process, Phase::Closed | Phase::Gone) => {}
            (Kill::Power, _) => {
                side.phase = Phase::Gone;
                self.fail(id, std::io::ErrorKind::ConnectionReset);
                self.forget_if_over(id.connection);
            }
        }
    }
}

/// The disk that is left after a kill. From now on nothing reaches it by way of `disk`.
pub(super) fn disk_after(
    disk: &MemoryDisk,
    how: Kill,
    is_kept: impl Fn(usize) -> bool,
    unsynced: Unsynced,
) -> MemoryDisk {
    let left = disk.copy();
    disk.fail_at(0, Fault::PowerCut);
    match how {
        Kill::Process => left.crash(|_| true, Unsynced::Kept),
        Kill::Power => left.crash(is_kept, unsynced),
    }
    left
}
