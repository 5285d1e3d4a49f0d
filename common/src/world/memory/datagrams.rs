//! Ports for datagrams, and how datagrams get from host to host.

use core::task::{Context, Poll, Waker};
use core::time::Duration;
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use bytes::Bytes;
use tokio::time::Instant;

use super::super::datagrams::GivenDatagrams;
use super::host::Turn;
use super::sockets::{HostSockets, TOO_MANY_FILES};
use super::state::{Due, State};
use super::way::{PACKET_BYTES, time_for};
use super::{EventKind, MemoryNetwork};
use crate::limits::DATAGRAM_BYTES;

/// Bytes of datagrams that wait for a host's uplink, or at a port, before one more is lost.
const QUEUE_BYTES: usize = 256 * 1024;
/// What one datagram takes of such a queue beside its bytes, so that empty ones do not go on for ever.
const OVERHEAD_BYTES: usize = 64;
/// What waits for a downlink takes no longer than this before one more datagram is lost.
const DOWNLINK_MOST: Duration = Duration::from_millis(500);

/// A datagram on its way.
pub(super) struct Datagram {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) bytes: Bytes,
}

/// A port, and what waits at it.
pub(super) struct Waiting {
    number: u64,
    datagrams: VecDeque<Datagram>,
    held: usize,
    pub(super) receiver: Option<Waker>,
}

impl State {
    /// Has a host send a datagram once it is its turn.
    fn send_datagram(&mut self, datagram: Datagram, at: Instant) {
        let (from, to) = (datagram.from.ip(), datagram.to.ip());
        if from == to {
            return self.launch(datagram, at);
        }
        let host = self.host(from);
        let held = host.datagrams_held + datagram.bytes.len();
        if held <= QUEUE_BYTES {
            host.datagrams_held = held;
            host.turns.push_back(Turn::Datagram(datagram));
            self.serve(from, at);
        }
    }

    /// A turn of the uplink is over.
    pub(super) fn on_datagram_sent(&mut self, datagram: Datagram, at: Instant) {
        let host = datagram.from.ip();
        self.host(host).is_sending = false;
        self.launch(datagram, at);
        self.serve(host, at);
    }

    /// Puts a datagram on its way, unless it is lost.
    pub(super) fn launch(&mut self, datagram: Datagram, at: Instant) {
        let (from, to) = (datagram.from.ip(), datagram.to.ip());
        if self.is_blocked(from, to) {
            return;
        }
        let loss = self.loss_between(from, to);
        let packets = datagram.bytes.len().div_ceil(PACKET_BYTES).max(1);
        if (0..packets).any(|_| self.chance(loss)) {
            return;
        }
        let delay = self.delay(from, to, (self.delays)(from, to));
        self.post(at + delay, Due::DatagramArrives(datagram));
    }

    /// A datagram comes to the line of the host that it is for.
    pub(super) fn on_datagram_arrival(&mut self, datagram: Datagram, at: Instant) {
        let (from, to) = (datagram.from.ip(), datagram.to.ip());
        if self.is_blocked(from, to) {
            return;
        }
        let host = self.host(to);
        let rate = host.line.down;
        if rate == 0 || from == to {
            return self.on_datagram_delivery(datagram);
        }
        let free = host.down_free.max(at);
        if free > at + DOWNLINK_MOST {
            return;
        }
        let delivered = free + time_for(datagram.bytes.len(), rate);
        host.down_free = delivered;
        self.post(delivered, Due::DatagramDelivered(datagram));
    }

    /// Gives a port what has come for it, if there is such a port, and room.
    pub(super) fn on_datagram_delivery(&mut self, datagram: Datagram) {
        let host = self.host(datagram.to.ip());
        let has_power = host.has_power;
        let port = host.datagram_ports.get_mut(&datagram.to.port());
        let Some(port) = port.filter(|_| has_power) else {
            return;
        };
        let held = port.held + datagram.bytes.len() + OVERHEAD_BYTES;
        if held <= QUEUE_BYTES {
            port.held = held;
            port.datagrams.push_back(datagram);
            let woken = port.receiver.take();
            self.effects.woken.extend(woken);
        }
    }
}

impl HostSockets {
    pub(super) fn open_datagram_port(&self, address: SocketAddr) -> io::Result<DatagramPort> {
        if address.ip() != self.address && !address.ip().is_unspecified() {
            return Err(ErrorKind::AddrNotAvailable.into());
        }
        self.network.0.with(|state, _| {
            let number = state.number();
            let host = self.living(state)?;
            if host.is_full() {
                return Err(io::Error::from_raw_os_error(TOO_MANY_FILES));
            }
            let port = match address.port() {
                0 => host.free_datagram_port().ok_or(ErrorKind::AddrInUse)?,
                port => port,
            };
            if host.datagram_ports.contains_key(&port) {
                return Err(ErrorKind::AddrInUse.into());
            }
            let waiting = Waiting {
                number,
                datagrams: VecDeque::new(),
                held: 0,
                receiver: None,
            };
            host.datagram_ports.insert(port, waiting);
            host.count(self.life, |open| open.datagram_ports += 1);
            Ok(DatagramPort {
                network: self.network.clone(),
                address: SocketAddr::new(self.address, port),
                life: self.life,
                number,
            })
        })
    }
}

/// A port for its owner.
pub(super) struct DatagramPort {
    network: MemoryNetwork,
    address: SocketAddr,
    life: u64,
    number: u64,
}

impl DatagramPort {
    /// What waits at the port, unless the life that opened it was killed.
    fn waiting<'a>(&self, state: &'a mut State) -> Option<&'a mut Waiting> {
        let ports = &mut state.host(self.address.ip()).datagram_ports;
        let found = ports.get_mut(&self.address.port());
        found.filter(|waiting| waiting.number == self.number)
    }
}

impl GivenDatagrams for DatagramPort {
    fn send_to(&self, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
        if bytes.len() > DATAGRAM_BYTES || to.port() == 0 {
            return Err(ErrorKind::InvalidInput.into());
        }
        if to.is_ipv4() != self.address.is_ipv4() {
            return Err(ErrorKind::NetworkUnreachable.into());
        }
        self.network.0.with(|state, now| {
            self.waiting(state).ok_or(ErrorKind::NetworkDown)?;
            let host = self.address.ip();
            state.note(now, host, to, EventKind::SendDatagram, bytes.len());
            let datagram = Datagram {
                from: self.address,
                to,
                bytes: Bytes::copy_from_slice(bytes),
            };
            state.send_datagram(datagram, now);
            Ok(())
        })
    }

    /// After its life was killed nothing comes to a port any more.
    fn poll_receive(
        &self,
        cx: &mut Context<'_>,
        each: &mut dyn FnMut(SocketAddr, &[u8]),
    ) -> Poll<io::Result<()>> {
        let taken = self.network.0.with(|state, now| {
            let waiting = self.waiting(state)?;
            if waiting.datagrams.is_empty() {
                let before = waiting.receiver.replace(cx.waker().clone());
                state.effects.dropped.extend(before);
                return None;
            }
            waiting.held = 0;
            let taken = core::mem::take(&mut waiting.datagrams);
            for datagram in &taken {
                let (host, bytes) = (self.address.ip(), datagram.bytes.len());
                state.note(now, host, datagram.from, EventKind::ReceiveDatagram, bytes);
            }
            Some(taken)
        });
        // The network is free again when `each` is called.
        let Some(taken) = taken else {
            return Poll::Pending;
        };
        for datagram in taken {
            each(datagram.from, &datagram.bytes);
        }
        Poll::Ready(Ok(()))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

impl Drop for DatagramPort {
    fn drop(&mut self) {
        self.network.0.with(|state, _| {
            let is_there = self.waiting(state).is_some();
            let host = state.host(self.address.ip());
            host.count(self.life, |open| {
                open.datagram_ports = open.datagram_ports.saturating_sub(1);
            });
            if is_there && let Some(waiting) = host.datagram_ports.remove(&self.address.port()) {
                state.effects.dropped.extend(waiting.receiver);
            }
        });
    }
}
