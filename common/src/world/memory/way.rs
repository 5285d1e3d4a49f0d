//! How bytes get from host to host: lines, delays, losses, and ways that are blocked.

use core::time::Duration;
use std::io::ErrorKind;
use std::net::IpAddr;

use tokio::time::Instant;

use super::host::Turn;
use super::pair::{BUFFER_BYTES, Pair, Part, Phase, SideId, Stall};
use super::state::{Due, Packet, State, What};

/// What a connection may send at most before it is the next one's turn.
const TURN_BYTES: usize = 16 * 1024;
/// A turn takes no longer than this, or than one packet, on a line of any rate. It is the step of tokio's timers.
const TURN_TIME: Duration = Duration::from_millis(1);
/// Bytes of a packet. A loss takes one.
pub(super) const PACKET_BYTES: usize = 1_400;
/// After this time, and a round trip if one is known, a packet counts as lost.
const RETRY_AFTER: Duration = Duration::from_millis(200);
/// The longest time between two tries.
const RETRY_MOST: Duration = Duration::from_secs(60);
/// For so long it is tried to get bytes through.
const GIVE_UP_AFTER: Duration = Duration::from_secs(15 * 60);
/// How often an answer is tried, which takes about [`GIVE_UP_AFTER`].
const ANSWERS_MOST: u32 = 22;
/// How often one packet is lost at most.
const LOSSES_MOST: u32 = 20;

/// The wait before try `tries + 1`, if the first wait is `first`.
pub(super) fn backoff(first: Duration, tries: u32) -> Duration {
    let factor = 1u32.checked_shl(tries).unwrap_or(u32::MAX);
    first.saturating_mul(factor).min(RETRY_MOST)
}

/// How long a line of `rate` bytes a second, which is not 0, takes for `bytes`.
pub(super) fn time_for(bytes: usize, rate: u64) -> Duration {
    let nanos = (bytes as u64).saturating_mul(1_000_000_000) / rate;
    Duration::from_nanos(nanos)
}

/// What a connection may send over a line of `rate` bytes a second before it is the next one's turn. All bytes of a turn
/// arrive together. If a turn took long, that would be a delay which grows with what is sent, as a queue's does, and
/// the congestion control of circuits would take it for one.
fn turn_bytes(rate: u64) -> usize {
    let in_time = u128::from(rate) * TURN_TIME.as_micros() / 1_000_000;
    usize::try_from(in_time).map_or(TURN_BYTES, |bytes| bytes.clamp(PACKET_BYTES, TURN_BYTES))
}

impl State {
    fn pair(&self, side: SideId) -> Option<&Pair> {
        self.connections.get(&side.connection)
    }

    fn pair_mut(&mut self, side: SideId) -> Option<&mut Pair> {
        self.connections.get_mut(&side.connection)
    }

    /// The host of the side, and the host of the other side.
    fn hosts_of(&self, side: SideId) -> Option<(IpAddr, IpAddr)> {
        let sides = &self.pair(side)?.sides;
        let address = |side: usize| sides[side].local.ip();
        Some((address(side.side), address(1 - side.side)))
    }

    /// How long something takes from the side to the other one.
    fn delay_from(&self, side: SideId) -> Option<Duration> {
        let (from, to) = self.hosts_of(side)?;
        Some(self.delay(from, to, self.pair(side)?.delay))
    }

    /// Whether the host of the side has no power.
    fn is_off(&self, side: SideId) -> bool {
        let host = self.hosts_of(side);
        let host = host.and_then(|(address, _)| self.known_host(address));
        host.is_some_and(|host| !host.has_power)
    }

    /// Has the side send what it has to send, once it is its turn.
    pub(super) fn push(&mut self, id: SideId, at: Instant) {
        let Some(pair) = self.pair_mut(id) else {
            return;
        };
        let is_local = pair.is_local();
        let side = &mut pair.sides[id.side];
        if side.outgoing.waits || !side.outgoing.wants_turn() {
            return;
        }
        let host = side.local.ip();
        if is_local {
            self.send_all(id, at);
            return;
        }
        side.outgoing.waits = true;
        self.host(host).turns.push_back(Turn::Side(id));
        self.serve(host, at);
    }

    /// Sends everything that the side has to send, at once.
    fn send_all(&mut self, id: SideId, at: Instant) {
        while let Some(pair) = self.pair_mut(id)
            && let outgoing = &mut pair.sides[id.side].outgoing
            && outgoing.wants_turn()
            && let Some(part) = outgoing.take(BUFFER_BYTES)
        {
            self.transmit(id, part, at);
        }
    }

    /// Gives turns of the host's uplink to those that wait, until one takes time.
    pub(super) fn serve(&mut self, address: IpAddr, at: Instant) {
        loop {
            let host = self.host(address);
            if host.is_sending {
                return;
            }
            let rate = host.line.up;
            let id = match host.turns.pop_front() {
                None => return,
                Some(Turn::Side(id)) => id,
                Some(Turn::Datagram(datagram)) => {
                    let bytes = datagram.bytes.len();
                    host.datagrams_held -= bytes;
                    if rate == 0 {
                        self.launch(datagram, at);
                        continue;
                    }
                    host.is_sending = true;
                    self.post(at + time_for(bytes, rate), Due::DatagramSent(datagram));
                    return;
                }
            };
            let Some(pair) = self.pair_mut(id) else {
                continue;
            };
            let outgoing = &mut pair.sides[id.side].outgoing;
            outgoing.waits = false;
            if rate == 0 {
                self.send_all(id, at);
                continue;
            }
            if !outgoing.wants_turn() {
                continue;
            }
            let Some(part) = outgoing.take(turn_bytes(rate)) else {
                continue;
            };
            outgoing.waits = outgoing.wants_turn();
            let waits = outgoing.waits;
            let host = self.host(address);
            if waits {
                host.turns.push_back(Turn::Side(id));
            }
            host.is_sending = true;
            let sent = at + time_for(part.bytes.len(), rate);
            self.post(sent, Due::Sent(id, part, address));
        }
    }

    /// A turn of the uplink of `host` is over.
    pub(super) fn on_sent(&mut self, id: SideId, part: Part, host: IpAddr, at: Instant) {
        self.host(host).is_sending = false;
        self.transmit(id, part, at);
        self.serve(host, at);
    }

    /// Puts a part on its way, which is `id`'s to the other side.
    fn transmit(&mut self, id: SideId, part: Part, at: Instant) {
        let (Some((from, to)), Some(delay)) = (self.hosts_of(id), self.delay_from(id)) else {
            return;
        };
        if self
            .pair(id)
            .is_none_or(|pair| pair.sides[id.side].phase == Phase::Gone)
        {
            return;
        }
        if self.is_blocked(from, to) {
            self.stall(id, part, at);
            return;
        }
        let loss = self.loss_between(from, to);
        let arrives = at + delay;
        let send = |state: &mut Self, at, part| {
            let (to, what) = (id.peer(), What::Part(part));
            state.post(at, Due::Arrive(Packet { to, what }));
        };
        if loss == 0 {
            send(self, arrives, part);
            return;
        }
        let len = part.bytes.len();
        let mut well_from = 0;
        for begins in (0..len.max(1)).step_by(PACKET_BYTES) {
            let late = self.lateness(loss, RETRY_AFTER + 2 * delay);
            if late.is_zero() {
                continue;
            }
            if begins > well_from {
                send(self, arrives, part.piece(well_from, begins));
            }
            well_from = len.min(begins + PACKET_BYTES);
            send(self, arrives + late, part.piece(begins, well_from));
            if well_from == len {
                return;
            }
        }
        send(self, arrives, part.piece(well_from, len));
    }

    /// How much later a packet comes because it is lost, maybe again and again.
    fn lateness(&mut self, loss_ppm: u32, first: Duration) -> Duration {
        let mut late = Duration::ZERO;
        for tries in 0..LOSSES_MOST {
            if !self.chance(loss_ppm) {
                break;
            }
            late += backoff(first, tries);
        }
        late
    }

    /// How many packets in a million are lost between two hosts.
    pub(super) fn loss_between(&self, one: IpAddr, other: IpAddr) -> u32 {
        let of = |host| self.known_host(host).map_or(0, |host| host.loss_ppm);
        match one == other {
            true => 0,
            false => of(one).saturating_add(of(other)),
        }
    }

    /// Keeps a part that did not get through, to try it again.
    fn stall(&mut self, id: SideId, part: Part, at: Instant) {
        let Some(pair) = self.pair_mut(id) else {
            return;
        };
        let side = &mut pair.sides[id.side];
        if side.phase == Phase::Gone || side.fault.is_some() {
            return;
        }
        side.outgoing.again.insert(part.begins, part);
        if side.outgoing.stall.is_none() {
            let stall = Stall {
                since: at,
                tries: 0,
            };
            side.outgoing.stall = Some(stall);
            self.post(at + RETRY_AFTER, Due::Retry(id));
        }
    }

    /// Tries again what did not get through.
    pub(super) fn on_retry(&mut self, id: SideId, at: Instant) {
        let Some((from, to)) = self.hosts_of(id) else {
            return;
        };
        let is_blocked = self.is_blocked(from, to);
        let Some(pair) = self.pair_mut(id) else {
            return;
        };
        let side = &mut pair.sides[id.side];
        let Some(stall) = &mut side.outgoing.stall else {
            return;
        };
        if !is_blocked {
            side.outgoing.stall = None;
            self.push(id, at);
            return;
        }
        stall.tries += 1;
        let gives_up = stall.since + GIVE_UP_AFTER;
        if at >= gives_up {
            self.fail(id, ErrorKind::TimedOut);
            return;
        }
        let next = (at + backoff(RETRY_AFTER, stall.tries)).min(gives_up);
        self.post(next, Due::Retry(id));
    }

    /// Something comes to the host of the side that it is for.
    pub(super) fn on_arrival(&mut self, packet: Packet, at: Instant) {
        let Some((to, from)) = self.hosts_of(packet.to) else {
            return;
        };
        if self.is_blocked(from, to) {
            match packet.what {
                What::Part(part) => self.stall(packet.to.peer(), part, at),
                What::Reset => {}
                What::Answer(tries) if tries == ANSWERS_MOST => {
                    self.fail(packet.to, ErrorKind::TimedOut);
                }
                What::Answer(tries) => {
                    let what = What::Answer(tries + 1);
                    let again = at + backoff(RETRY_AFTER, tries);
                    self.post(again, Due::Arrive(Packet { what, ..packet }));
                }
            }
            return;
        }
        let host = self.host(to);
        let rate = host.line.down;
        if rate == 0 || from == to {
            self.on_delivery(packet, at);
            return;
        }
        let mut free = host.down_free.max(at);
        let mut pieces = Vec::new();
        match packet.what {
            What::Part(part) => {
                let (len, step) = (part.bytes.len(), turn_bytes(rate));
                for begins in (0..len.max(1)).step_by(step) {
                    let piece = part.piece(begins, len.min(begins + step));
                    free += time_for(piece.bytes.len(), rate);
                    pieces.push((free, What::Part(piece)));
                }
            }
            what => pieces.push((free, what)),
        }
        host.down_free = free;
        for (at, what) in pieces {
            let to = packet.to;
            self.post(at, Due::Deliver(Packet { to, what }));
        }
    }

    /// Gives a side what has come for it.
    pub(super) fn on_delivery(&mut self, packet: Packet, at: Instant) {
        let is_off = self.is_off(packet.to);
        let Some(pair) = self.pair_mut(packet.to) else {
            return;
        };
        let side = &mut pair.sides[packet.to.side];
        match packet.what {
            What::Part(part) if side.is_there() => {
                if side.inbox.take(part) {
                    let reader = side.reader.take();
                    self.effects.woken.extend(reader);
                }
            }
            // A side that its owner has closed still hears that the other side ends too.
            What::Part(part) if side.phase == Phase::Closed && part.bytes.is_empty() => {}
            // The host lost its power while the bytes came in.
            What::Part(part) if is_off => self.stall(packet.to.peer(), part, at),
            What::Part(_) => {
                self.reset(packet.to, What::Answer(0), at);
                self.forget(packet.to);
            }
            What::Reset | What::Answer(_) => match side.phase {
                Phase::Open => self.fail(packet.to, ErrorKind::ConnectionReset),
                Phase::Closed | Phase::Gone => self.forget(packet.to),
            },
        }
    }

    /// Ends a side by an error, which nobody else is told of.
    pub(super) fn fail(&mut self, id: SideId, fault: ErrorKind) {
        let Some(pair) = self.connections.get_mut(&id.connection) else {
            return;
        };
        let woken = pair.sides[id.side].fail(fault);
        self.effects.woken.extend(woken);
    }

    /// Has the host of a side that its owner has closed forget what it still had to say.
    fn forget(&mut self, id: SideId) {
        if let Some(pair) = self.pair_mut(id)
            && pair.sides[id.side].phase == Phase::Closed
        {
            pair.sides[id.side].phase = Phase::Gone;
            self.fail(id, ErrorKind::ConnectionReset);
        }
    }

    /// Has the host of a side reset the connection at the other side.
    pub(super) fn reset(&mut self, id: SideId, what: What, at: Instant) {
        if let (Some(delay), Some((from, to))) = (self.delay_from(id), self.hosts_of(id))
            && (!self.is_blocked(from, to) || matches!(what, What::Answer(_)))
        {
            let to = id.peer();
            self.post(at + delay, Due::Arrive(Packet { to, what }));
        }
    }
}
