//! The state of the whole network, and the events that are due in it.
//!
//! All of it is behind one lock, and everything that happens at a later time waits in one list, in order of time. Who
//! does anything in the network first has happen what is due by then, at its exact time; a timer of tokio's, which has
//! milliseconds, only makes sure that somebody does.

use core::task::{Poll, Waker, ready};
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};

use chacha20::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use tokio::time::Instant;

use super::clock::HostClock;
use super::datagrams::Datagram;
use super::host::Host;
use super::pair::{Pair, Part, SideId};
use super::{Delays, Event, EventKind, NetworkState};

/// What happens at some time.
pub(super) enum Due {
    /// A turn of the uplink of the side's host ends, and the part is on its way.
    Sent(SideId, Part, IpAddr),
    /// Something comes to the downlink of the host that it is sent to.
    Arrive(Packet),
    /// Something has come through the downlink.
    Deliver(Packet),
    /// What did not get through is tried again.
    Retry(SideId),
    /// A turn of the uplink ends, and the datagram is on its way.
    DatagramSent(Datagram),
    /// A datagram comes to the downlink of the host that it is sent to.
    DatagramArrives(Datagram),
    /// A datagram has come through the downlink.
    DatagramDelivered(Datagram),
}

/// What is on its way to a side.
pub(super) struct Packet {
    pub(super) to: SideId,
    pub(super) what: What,
}

/// What a packet says.
pub(super) enum What {
    /// Bytes, an end, or both.
    Part(Part),
    /// The connection is reset, because its owner has gone.
    Reset,
    /// The connection is reset, in answer to bytes that nobody wants. Bytes that are sent again are answered again, so
    /// an answer is tried until it gets through. This is how often it was tried.
    Answer(u32),
}

/// What has to be done once the lock is free.
#[derive(Default)]
pub(super) struct Effects {
    pub(super) woken: Vec<Waker>,
    /// Wakers that nobody needs any more. Dropping one may end a task.
    pub(super) dropped: Vec<Waker>,
    pub(super) events: Vec<Event>,
}

/// Hosts, connections and what is under way.
pub(super) struct State {
    began: Instant,
    unix_ms: u64,
    pub(super) delays: Delays,
    hosts: BTreeMap<IpAddr, Host>,
    pub(super) connections: BTreeMap<u64, Pair>,
    pub(super) partitions: BTreeMap<u64, [BTreeSet<IpAddr>; 2]>,
    due: BTreeMap<(Instant, u64), Due>,
    next_number: u64,
    rng: ChaCha20Rng,
    pub(super) log: Vec<Event>,
    pub(super) is_watched: bool,
    pub(super) effects: Effects,
    /// Wakes the task that waits for what is due next.
    driver: Option<Waker>,
    /// Until when that task sleeps.
    sleeps_until: Option<Instant>,
}

impl State {
    pub(super) fn new(began: Instant, unix_ms: u64, seed: u64, delays: Delays) -> Self {
        Self {
            began,
            unix_ms,
            delays,
            hosts: BTreeMap::new(),
            connections: BTreeMap::new(),
            partitions: BTreeMap::new(),
            due: BTreeMap::new(),
            next_number: 0,
            rng: ChaCha20Rng::seed_from_u64(seed),
            log: Vec::new(),
            is_watched: false,
            effects: Effects::default(),
            driver: None,
            sleeps_until: None,
        }
    }

    /// A number that nothing else has.
    pub(super) fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    /// The host with `address`, which comes into being when it is first spoken of.
    pub(super) fn host(&mut self, address: IpAddr) -> &mut Host {
        let (began, unix_ms) = (self.began, self.unix_ms);
        let host = self.hosts.entry(address);
        host.or_insert_with(|| Host::new(HostClock::new(began, unix_ms), began))
    }

    /// The host with `address`, if anybody has spoken of it.
    pub(super) fn known_host(&self, address: IpAddr) -> Option<&Host> {
        self.hosts.get(&address)
    }

    /// How long something takes from one host to another whose ways take `delay`.
    pub(super) fn delay(&self, from: IpAddr, to: IpAddr, delay: Duration) -> Duration {
        let extra = |host| {
            self.hosts
                .get(&host)
                .map_or(Duration::ZERO, |host| host.extra_delay)
        };
        match from == to {
            true => delay,
            false => delay + extra(from) + extra(to),
        }
    }

    /// Whether nothing gets from one host to the other, or back.
    pub(super) fn is_blocked(&self, one: IpAddr, other: IpAddr) -> bool {
        let is_off = |host| self.hosts.get(&host).is_some_and(|host| !host.has_power);
        let is_silent = |host| self.hosts.get(&host).is_some_and(|host| host.is_silent);
        if is_off(one) || is_off(other) {
            return true;
        }
        one != other
            && (is_silent(one)
                || is_silent(other)
                || self.partitions.values().any(|[these, those]| {
                    (these.contains(&one) && those.contains(&other))
                        || (these.contains(&other) && those.contains(&one))
                }))
    }

    /// True with a probability of `per_million` in a million.
    pub(super) fn chance(&mut self, per_million: u32) -> bool {
        per_million > 0 && self.below(1_000_000) < per_million
    }

    /// A number below `bound`.
    pub(super) fn below(&mut self, bound: u32) -> u32 {
        let drawn = u64::from(self.rng.next_u32()) * u64::from(bound);
        u32::try_from(drawn >> 32).unwrap_or(0)
    }

    pub(super) fn note(
        &mut self,
        at: Instant,
        host: IpAddr,
        peer: SocketAddr,
        kind: EventKind,
        bytes: usize,
    ) {
        let event = Event {
            at: at - self.began,
            host,
            peer,
            kind,
            bytes,
        };
        match self.is_watched {
            true => self.effects.events.push(event),
            false => self.log.push(event),
        }
    }

    /// Has something happen at `at`, after all that was told to happen at the same time before.
    pub(super) fn post(&mut self, at: Instant, due: Due) {
        let number = self.number();
        self.due.insert((at, number), due);
    }

    /// Has everything happen that is due by `now`.
    pub(super) fn advance(&mut self, now: Instant) {
        while let Some(next) = self.due.first_entry()
            && next.key().0 <= now
        {
            let ((at, _), due) = next.remove_entry();
            match due {
                Due::Sent(side, part, host) => self.on_sent(side, part, host, at),
                Due::Arrive(packet) => self.on_arrival(packet, at),
                Due::Deliver(packet) => self.on_delivery(packet, at),
                Due::Retry(side) => self.on_retry(side, at),
                Due::DatagramSent(datagram) => self.on_datagram_sent(datagram, at),
                Due::DatagramArrives(datagram) => self.on_datagram_arrival(datagram, at),
                Due::DatagramDelivered(datagram) => self.on_datagram_delivery(datagram),
            }
        }
    }

    /// Wakes the task that waits for what is due next, if it would sleep too long.
    fn rouse(&mut self) {
        let Some(((next, _), _)) = self.due.first_key_value() else {
            return;
        };
        if self.sleeps_until.is_none_or(|until| *next < until) {
            self.sleeps_until = Some(*next);
            self.effects.woken.extend(self.driver.take());
        }
    }

    /// Frees a connection that nobody can tell of any more.
    pub(super) fn forget_if_over(&mut self, connection: u64) {
        let pair = self.connections.get(&connection);
        if !pair.is_some_and(Pair::is_over) {
            return;
        }
        if let Some(pair) = self.connections.remove(&connection) {
            for side in pair.sides {
                let port = (side.local.port(), connection);
                self.host(side.local.ip()).ports.remove(&port);
            }
        }
    }
}

impl NetworkState {
    /// Does `work` at this moment, after all that was due before.
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut State, Instant) -> T) -> T {
        let now = Instant::now();
        let mut state = self.lock();
        state.advance(now);
        let done = work(&mut state, now);
        state.advance(now);
        state.rouse();
        let effects = core::mem::take(&mut state.effects);
        drop(state);
        effects.woken.into_iter().for_each(Waker::wake);
        drop(effects.dropped);
        if !effects.events.is_empty() {
            self.tell(effects.events);
        }
        done
    }

    /// The task that has happen what is due when nobody else does. The task ends with the network.
    pub(super) async fn drive(network: Weak<Self>) {
        let mut timer = Box::pin(tokio::time::sleep(Duration::ZERO));
        core::future::poll_fn(|cx| {
            loop {
                let Some(network) = network.upgrade() else {
                    return Poll::Ready(());
                };
                let next = network.with(|state, _| {
                    state.driver = Some(cx.waker().clone());
                    let next = state.due.first_key_value().map(|((at, _), _)| *at);
                    state.sleeps_until = next;
                    next
                });
                // If this is the last handle, the network ends here.
                drop::<Arc<Self>>(network);
                let Some(next) = next else {
                    return Poll::Pending;
                };
                if timer.deadline() != next {
                    timer.as_mut().reset(next);
                }
                ready!(timer.as_mut().poll(cx));
            }
        })
        .await;
    }
}

impl Drop for NetworkState {
    fn drop(&mut self) {
        let driver = crate::sync::get_mut(&mut self.state).driver.take();
        driver.into_iter().for_each(Waker::wake);
    }
}
