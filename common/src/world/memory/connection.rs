//! A side of a connection for its owner.

use core::task::{Context, Poll, Waker};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use tokio::time::Instant;

use super::super::sockets::GivenStream;
use super::pair::{BUFFER_BYTES, End, Inbox, Outgoing, Phase, Side, SideId};
use super::state::{State, What};
use super::{EventKind, MemoryNetwork};

/// In one of so many cases a read or a write of a host that dribbles is short.
const SHORT_ONE_IN: u32 = 3;

/// One side of a connection. The state of the network has all that changes.
pub(super) struct Connection {
    pub(super) network: MemoryNetwork,
    pub(super) id: SideId,
    pub(super) life: u64,
    pub(super) local: SocketAddr,
    pub(super) peer: SocketAddr,
}

impl Connection {
    fn note(&self, state: &mut State, now: Instant, kind: EventKind, bytes: usize) {
        state.note(now, self.local.ip(), self.peer, kind, bytes);
    }

    /// Whether a read or write of this host is to be short this time.
    fn dribbles(&self, state: &mut State) -> bool {
        let host = state.known_host(self.local.ip());
        host.is_some_and(|host| host.dribbles) && state.below(SHORT_ONE_IN) == 0
    }

    /// What is there to be read now.
    fn read(&self, state: &mut State, now: Instant, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = match buffer.len() > 1 && self.dribbles(state) {
            true => 1,
            false => buffer.len(),
        };
        let side = side(state, self.id).ok_or(ErrorKind::ConnectionReset)?;
        let read = side.inbox.read(&mut buffer[..wanted]);
        if read == 0 {
            // An error that comes after the end takes nothing back.
            return match (side.inbox.is_ended, side.fault) {
                (true, _) => Ok(0),
                (false, Some(fault)) => Err(fault.into()),
                (false, None) => Err(ErrorKind::WouldBlock.into()),
            };
        }
        self.note(state, now, EventKind::Receive, read);
        if let Some(pair) = state.connections.get_mut(&self.id.connection) {
            let writer = &mut pair.sides[self.id.peer().side];
            writer.outgoing.held = writer.outgoing.held.saturating_sub(read);
            let woken = writer.writer.take();
            state.effects.woken.extend(woken);
        }
        Ok(read)
    }

    fn write(&self, state: &mut State, now: Instant, bytes: &[u8]) -> io::Result<usize> {
        let found = side(state, self.id).ok_or(ErrorKind::BrokenPipe)?;
        let room = bytes
            .len()
            .min(BUFFER_BYTES.saturating_sub(found.outgoing.held));
        match (found.fault, found.outgoing.end) {
            (Some(ErrorKind::TimedOut), _) => return Err(ErrorKind::TimedOut.into()),
            (Some(_), _) | (None, End::Asked | End::Sent) => {
                return Err(ErrorKind::BrokenPipe.into());
            }
            (None, End::No) if room == 0 => return Err(ErrorKind::WouldBlock.into()),
            (None, End::No) => {}
        }
        let taken = match room > 1 && self.dribbles(state) {
            true => 1 + state.below(u32::try_from(room - 1).unwrap_or(u32::MAX)) as usize,
            false => room,
        };
        if let Some(side) = side(state, self.id) {
            side.outgoing.unsent.extend_from_slice(&bytes[..taken]);
            side.outgoing.held += taken;
        }
        self.note(state, now, EventKind::Send, taken);
        state.push(self.id, now);
        Ok(taken)
    }
}

/// The side, as long as the host knows of it.
fn side(state: &mut State, id: SideId) -> Option<&mut Side> {
    let pair = state.connections.get_mut(&id.connection)?;
    Some(&mut pair.sides[id.side]).filter(|side| side.phase == Phase::Open)
}

/// Has `waiter` be the one who is woken. Gives who was before.
fn wait(waiter: &mut Option<Waker>, cx: &Context<'_>) -> Option<Waker> {
    match waiter {
        Some(before) if before.will_wake(cx.waker()) => None,
        _ => waiter.replace(cx.waker().clone()),
    }
}

impl GivenStream for Connection {
    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let network = &self.network.0;
        network.with(|state, now| self.read(state, now, buffer))
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let network = &self.network.0;
        network.with(|state, now| self.write(state, now, bytes))
    }

    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.network.0.with(|state, _| {
            let Some(side) = side(state, self.id) else {
                return Poll::Ready(Ok(()));
            };
            if side.inbox.has_bytes() || side.inbox.is_ended || side.fault.is_some() {
                return Poll::Ready(Ok(()));
            }
            let before = wait(&mut side.reader, cx);
            state.effects.dropped.extend(before);
            Poll::Pending
        })
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.network.0.with(|state, _| {
            let Some(side) = side(state, self.id) else {
                return Poll::Ready(Ok(()));
            };
            let outgoing = &side.outgoing;
            let is_full = outgoing.held >= BUFFER_BYTES && outgoing.end == End::No;
            if !is_full || side.fault.is_some() {
                return Poll::Ready(Ok(()));
            }
            let before = wait(&mut side.writer, cx);
            state.effects.dropped.extend(before);
            Poll::Pending
        })
    }

    fn shutdown_write(&self) -> io::Result<()> {
        self.network.0.with(|state, now| {
            let Some(side) = side(state, self.id) else {
                return Err(ErrorKind::NotConnected.into());
            };
            if side.outgoing.end == End::No && side.fault.is_none() {
                side.outgoing.end = End::Asked;
                let woken = side.writer.take();
                state.effects.woken.extend(woken);
            }
            self.note(state, now, EventKind::End, 0);
            state.push(self.id, now);
            Ok(())
        })
    }

    fn reset_when_dropped(&self) {
        self.network.0.with(|state, _| {
            if let Some(side) = side(state, self.id) {
                side.resets = true;
            }
        });
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.peer)
    }

    fn forged(&self, plain: &[u8]) -> Option<Vec<u8>> {
        // The forger is asked when the network is free again.
        let forger = self.network.0.with(|state, _| {
            let host = state.known_host(self.local.ip())?;
            host.forger.clone()
        })?;
        forger.forge(self.id.connection, self.peer.ip(), plain)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.network.0.with(|state, now| {
            let host = state.host(self.local.ip());
            host.count(self.life, |open| {
                open.connections = open.connections.saturating_sub(1);
            });
            // What a killed life had is gone without a word.
            if side(state, self.id).is_some() {
                self.note(state, now, EventKind::Close, 0);
                close(state, self.id, now);
            }
        });
    }
}

/// Closes a side, as the kernel does when its owner has gone.
pub(super) fn close(state: &mut State, id: SideId, now: Instant) {
    let Some(side) = side(state, id) else {
        return;
    };
    let wakers = [side.reader.take(), side.writer.take()];
    // TCP resets too if bytes were left unread, or if a reset was asked for.
    let resets = side.resets || side.inbox.has_bytes();
    let has_failed = side.fault.is_some();
    side.inbox = Inbox::default();
    if resets || has_failed {
        side.phase = Phase::Gone;
        // What is not sent yet is forgotten, as TCP does.
        side.outgoing = Outgoing::default();
    } else {
        side.phase = Phase::Closed;
        if side.outgoing.end == End::No {
            side.outgoing.end = End::Asked;
        }
    }
    state.effects.dropped.extend(wakers.into_iter().flatten());
    match (has_failed, resets) {
        (true, _) => {}
        (false, true) => state.reset(id, What::Reset, now),
        (false, false) => state.push(id, now),
    }
    state.forget_if_over(id.connection);
}
