//! The associations of one circuit: datagrams that wait, are cut and put together (docs/protocol.md, 5.30 to 5.36).
//!
//! The machine is pure: [`super::Mux`] drives it beside the streams. An association belongs to one leg, and nothing of
//! it is numbered, kept or sent again. Each queue is bounded, and what is too much takes the oldest away.

use core::task::{Context, Poll};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::datagram_queue::{HeldDatagram, Queue};
use super::one_association::{Association, BINDER, RECEIVER, Step};
use super::shares::Shares;
use super::turns::Turns;
use super::{StreamError, StreamHost, Violation};
use crate::budget::{Budget, Charge};
use crate::cell::message::{
    AssociationMessage, BeginHost, CUT_DATAGRAM_LEN, EndReason, Packer, write_datagram_head,
};
use crate::ids::AssociationId;
use crate::limits::{
    ASSOCIATION_BYTES, ASSOCIATIONS_PER_CIRCUIT, DATAGRAM_BYTES, DATAGRAM_QUEUES_BYTES,
};

/// A datagram of which parts have come.
struct Cut {
    key: u64,
    bytes: Vec<u8>,
    since: Instant,
}

/// The associations of one circuit, as one end of it sees them.
pub(super) struct Datagrams {
    ids: BTreeMap<AssociationId, u64>,
    table: BTreeMap<u64, Association>,
    ready: Turns<u64>,
    /// The association whose first datagram has been begun. It is not among those that are ready.
    cut_out: Option<u64>,
    cut_in: Option<Cut>,
    next_key: u64,
    next_id: u16,
    pub(super) shares: Shares,
    charge: Charge,
}

impl Datagrams {
    pub(super) fn new(budget: &Arc<Budget>) -> Self {
        Self {
            ids: BTreeMap::new(),
            table: BTreeMap::new(),
            ready: Turns::default(),
            cut_out: None,
            cut_in: None,
            next_key: 0,
            next_id: 1,
            shares: Shares::default(),
            charge: Charge::none(budget),
        }
    }

    // ---- beginning and ending ----------------------------------------------------

    /// Associations whose number is in use.
    pub(super) fn in_use(&self) -> usize {
        self.ids.len()
    }

    /// Has an association been begun that the other end has not answered?
    pub(super) fn is_opening(&self) -> bool {
        let opening = |one: &Association| matches!(one.step, Step::Begin | Step::Waiting);
        let mut all = self.table.values();
        all.any(|one| !one.closed && one.is_opener && opening(one))
    }

    fn insert(&mut self, id: AssociationId, is_opener: bool) -> u64 {
        let key = self.next_key;
        self.next_key += 1;
        self.ids.insert(id, key);
        let one = Association::new(id, is_opener);
        self.table.insert(key, one);
        self.account();
        key
    }

    /// Begins an association; `None` if as many as may be are in use.
    pub(super) fn begin(&mut self) -> Option<u64> {
        if self.ids.len() >= ASSOCIATIONS_PER_CIRCUIT {
            return None;
        }
        let id = (0..=u16::MAX).find_map(|_| {
            let id = AssociationId::new(self.next_id);
            self.next_id = self.next_id.wrapping_add(1);
            id.filter(|id| !self.ids.contains_key(id))
        })?;
        let key = self.insert(id, true);
        self.enqueue(key);
        Some(key)
    }

    /// Takes BEGIN_UDP. Gives the association, unless it was refused.
    pub(super) fn on_begin(&mut self, id: AssociationId) -> Result<Option<u64>, Violation> {
        if self.ids.contains_key(&id) {
            return Err(Violation::OutOfOrder);
        }
        if self.ids.len() >= 2 * ASSOCIATIONS_PER_CIRCUIT {
            return Err(Violation::Credit);
        }
        let is_full = self.ids.len() >= ASSOCIATIONS_PER_CIRCUIT;
        let key = self.insert(id, false);
        if is_full {
            self.unbind(key, EndReason::Resource);
            self.release(key);
            return Ok(None);
        }
        Ok(Some(key))
    }

    /// Has BOUND said.
    pub(super) fn bind(&mut self, key: u64) {
        if let Some(one) = self.table.get_mut(&key)
            && one.step == Step::Waiting
            && !one.is_opener
            && one.ending.is_none()
        {
            one.step = Step::Answer;
            self.enqueue(key);
        }
    }

    /// Has UNBIND said, once what waits to be said is.
    pub(super) fn unbind(&mut self, key: u64, reason: EndReason) {
        let Some(one) = self.table.get_mut(&key) else {
            return;
        };
        if one.closed || one.ending.is_some() {
            return;
        }
        if one.step == Step::Begin && one.out.is_empty() {
            // The other end has never heard of the association.
            one.said = true;
            one.heard = Some(reason);
            one.wake();
            return self.close_if_over(key);
        }
        one.ending = Some(reason);
        if !one.is_opener && one.step == Step::Waiting {
            one.drop_out();
        }
        self.enqueue(key);
    }

    /// The application lets go: nobody will read or write any more.
    pub(super) fn release(&mut self, key: u64) {
        let Some(one) = self.table.get_mut(&key) else {
            return;
        };
        one.released = true;
        one.come = Queue::default();
        one.waiters = [None, None];
        if one.closed {
            self.table.remove(&key);
        } else {
            self.unbind(key, EndReason::Done);
        }
        self.account();
    }

    fn close_if_over(&mut self, key: u64) {
        let Some(one) = self.table.get_mut(&key) else {
            return;
        };
        if !one.closed && one.said && one.heard.is_some() {
            one.closed = true;
            one.drop_out();
            self.ids.remove(&one.id);
            if one.released {
                self.table.remove(&key);
            }
        }
        self.account();
    }

    /// The circuit is gone.
    pub(super) fn lose(&mut self) {
        let mut table = core::mem::take(&mut self.table);
        table.values_mut().for_each(Association::wake);
        self.ids.clear();
        self.ready.clear();
        (self.cut_in, self.cut_out) = (None, None);
        self.account();
    }

    // ---- the application's side ----------------------------------------------------

    /// Waits until the acceptor has said BOUND.
    pub(super) fn poll_bound(
        &mut self,
        key: u64,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), StreamError>> {
        let Some(one) = self.table.get_mut(&key) else {
            return Poll::Ready(Err(StreamError::CircuitLost));
        };
        match (one.step, one.heard) {
            (Step::Open, _) => Poll::Ready(Ok(())),
            (_, Some(reason)) => Poll::Ready(Err(StreamError::Ended(reason))),
            _ => {
                one.waiters[BINDER] = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Queues a datagram. What is too much takes the oldest away, and one that is too long is dropped itself.
    pub(super) fn send(
        &mut self,
        key: u64,
        now: Instant,
        host: BeginHost<'_>,
        port: u16,
        bytes: &[u8],
    ) -> Result<(), StreamError> {
        let one = self.table.get_mut(&key).ok_or(StreamError::CircuitLost)?;
        if let Some(reason) = one.heard.or(one.ending) {
            return Err(StreamError::Ended(reason));
        }
        // An IPv6 packet has room for twenty bytes more than a datagram may have (5.32). Said, it would end the circuit.
        if bytes.len() > DATAGRAM_BYTES {
            return Ok(());
        }
        let mut raw = Vec::with_capacity(bytes.len() + 32);
        write_datagram_head(&mut raw, host, port);
        raw.extend_from_slice(bytes);
        one.out.push(now, raw);
        while one.out.is_over() && one.out.drop_oldest(one.offset > 0) {}
        while self
            .table
            .values()
            .map(|one| one.out.bytes())
            .sum::<usize>()
            > DATAGRAM_QUEUES_BYTES
        {
            let most = self.table.values_mut().max_by_key(|one| one.out.bytes());
            if !most.is_some_and(|one| one.out.drop_oldest(one.offset > 0)) {
                break;
            }
        }
        self.account();
        self.enqueue(key);
        Ok(())
    }

    /// Takes the oldest datagram that has come.
    pub(super) fn poll_receive(
        &mut self,
        key: u64,
        cx: &mut Context<'_>,
    ) -> Poll<Result<HeldDatagram, StreamError>> {
        let Some(one) = self.table.get_mut(&key) else {
            return Poll::Ready(Err(StreamError::CircuitLost));
        };
        if let Some(datagram) = one.come.pop() {
            self.account();
            return Poll::Ready(Ok(datagram));
        }
        if let Some(reason) = one.heard {
            return Poll::Ready(Err(StreamError::Ended(reason)));
        }
        one.waiters[RECEIVER] = Some(cx.waker().clone());
        Poll::Pending
    }

    // ---- what the other end says -----------------------------------------------------

    /// Takes a message of an association that has begun.
    pub(super) fn hear(
        &mut self,
        now: Instant,
        id: AssociationId,
        message: AssociationMessage<'_>,
    ) -> Result<(), Violation> {
        let key = *self.ids.get(&id).ok_or(Violation::NoAssociation)?;
        let one = self.table.get_mut(&key).ok_or(Violation::NoAssociation)?;
        if one.heard.is_some() || one.step == Step::Begin {
            return Err(Violation::OutOfOrder);
        }
        match message {
            AssociationMessage::Begin => return Err(Violation::OutOfOrder),
            AssociationMessage::Bound => {
                if !one.is_opener || one.step != Step::Waiting {
                    return Err(Violation::OutOfOrder);
                }
                one.step = Step::Open;
                one.wake();
            }
            AssociationMessage::Part(_) | AssociationMessage::Datagram(_)
                if one.is_opener && one.step != Step::Open =>
            {
                return Err(Violation::OutOfOrder);
            }
            AssociationMessage::Part(bytes) => self.on_part(now, key, bytes)?,
            AssociationMessage::Datagram(bytes) => self.on_last(now, key, bytes)?,
            AssociationMessage::Unbind(reason) => {
                one.heard = Some(reason);
                one.ending.get_or_insert(EndReason::Done);
                one.drop_out();
                if one.step == Step::Answer {
                    one.step = Step::Waiting;
                }
                one.wake();
                if self.cut_out == Some(key) {
                    self.cut_out = None;
                    one.is_queued = false;
                }
                self.cut_in.take_if(|cut| cut.key == key);
                self.enqueue(key);
                self.close_if_over(key);
            }
        }
        Ok(())
    }

    fn on_part(&mut self, now: Instant, key: u64, bytes: &[u8]) -> Result<(), Violation> {
        let cut = self.cut_in.get_or_insert_with(|| Cut {
            key,
            bytes: Vec::new(),
            since: now,
        });
        if cut.key != key || cut.bytes.len() + bytes.len() > CUT_DATAGRAM_LEN {
            return Err(Violation::Cut);
        }
        cut.bytes.extend_from_slice(bytes);
        self.account();
        Ok(())
    }

    fn on_last(&mut self, now: Instant, key: u64, bytes: &[u8]) -> Result<(), Violation> {
        let raw = match self.cut_in {
            Some(_) => {
                self.on_part(now, key, bytes)?;
                self.cut_in.take().map(|cut| cut.bytes).unwrap_or_default()
            }
            None => bytes.to_vec(),
        };
        let datagram = HeldDatagram::read(raw)?;
        let one = self.table.get_mut(&key).ok_or(Violation::NoAssociation)?;
        if one.is_opener && matches!(datagram.host, StreamHost::Name(_)) {
            return Err(Violation::Cut);
        }
        if !one.released && one.ending.is_none() && !one.said {
            one.come.push(now, datagram);
            while one.come.is_over() && one.come.drop_oldest(false) {}
            if let Some(waiter) = one.waiters[RECEIVER].take() {
                waiter.wake();
            }
            while self
                .table
                .values()
                .map(|one| one.come.bytes())
                .sum::<usize>()
                > DATAGRAM_QUEUES_BYTES
            {
                let most = self.table.values_mut().max_by_key(|one| one.come.bytes());
                if !most.is_some_and(|one| one.come.drop_oldest(false)) {
                    break;
                }
            }
        }
        self.account();
        Ok(())
    }

    // ---- what there is to say ---------------------------------------------------------

    fn enqueue(&mut self, key: u64) {
        if let Some(one) = self.table.get_mut(&key)
            && !one.is_queued
            && one.has_work()
        {
            one.is_queued = true;
            self.ready.add(key, &mut one.recent);
        }
    }

    /// Is there something to say?
    pub(super) fn has_work(&self) -> bool {
        self.cut_out.is_some() || !self.ready.is_empty()
    }

    /// Takes those that have nothing to say any more, and datagrams that have waited too long, off the front of the
    /// queue.
    pub(super) fn drop_idle(&mut self, now: Option<Instant>) {
        while self.cut_out.is_none()
            && let Some(key) = self.ready.front()
        {
            if let Some(one) = self.table.get_mut(&key) {
                if let Some(now) = now {
                    one.next_out(now);
                }
                if one.has_work() {
                    break;
                }
                one.is_queued = false;
            }
            self.ready.take();
        }
        if now.is_some() {
            self.account();
        }
    }

    /// Those with something to say.
    pub(super) fn speakers(&self) -> usize {
        self.ready.len() + usize::from(self.cut_out.is_some())
    }

    /// Is it the turn of one that has said little of late?
    pub(super) fn is_light_next(&self) -> bool {
        self.cut_out.is_none() && self.ready.is_light_next()
    }

    /// Gives each its turn until the payload is full, or, with `only_light`, as long as it is the turn of one that has
    /// said little of late.
    pub(super) fn pack(&mut self, packer: &mut Packer<'_>, now: Instant, only_light: bool) {
        for _ in 0..self.speakers() {
            if only_light && !self.is_light_next() {
                break;
            }
            let Some(key) = self.cut_out.take().or_else(|| self.ready.take()) else {
                break;
            };
            let Some(one) = self.table.get_mut(&key) else {
                continue;
            };
            one.is_queued = false;
            let before = packer.used();
            let is_full = one.pack(packer, now);
            self.ready.on_said(&mut one.recent, packer.used() - before);
            if one.offset > 0 {
                one.is_queued = true;
                self.cut_out = Some(key);
                self.ready.on_filled();
                break;
            }
            if is_full {
                if one.has_work() {
                    one.is_queued = true;
                    self.ready.go_on(key);
                }
                self.close_if_over(key);
                break;
            }
            self.enqueue(key);
            self.close_if_over(key);
        }
        self.account();
    }

    // ---- memory -------------------------------------------------------------------------

    /// Bytes that the associations take.
    pub(super) fn held_bytes(&self) -> usize {
        let queues = self
            .table
            .values()
            .map(|one| one.out.bytes() + one.come.bytes());
        let cut = self.cut_in.as_ref().map_or(0, |cut| cut.bytes.capacity());
        queues.sum::<usize>() + cut + self.table.len() * ASSOCIATION_BYTES
    }

    /// Since when a datagram waits for the rest of it.
    pub(super) fn waiting_since(&self) -> Option<Instant> {
        self.cut_in.as_ref().map(|cut| cut.since)
    }

    fn account(&mut self) {
        let held = self.held_bytes();
        self.charge.set(held);
    }
}

#[cfg(test)]
#[path = "datagrams_tests.rs"]
mod tests;
