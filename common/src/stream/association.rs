//! Associations, for those who hold them: what [`Mux`] offers beside streams.

use core::task::{Context, Poll};
use std::time::Instant;

use super::datagram_queue::HeldDatagram;
use super::datagrams::Datagrams;
use super::end::{Acceptor, Opener, StreamEnd};
use super::mux::Mux;
use super::names::{AssociationKey, LegId};
use super::request::Request;
use super::{StreamError, StreamHost, Violation};
use crate::cell::message::{AssociationMessage, EndReason};
use crate::ids::AssociationId;

impl<E: StreamEnd> Mux<E> {
    /// Number of associations in use, on all legs.
    pub fn open_associations(&self) -> usize {
        self.legs().map(|leg| leg.associations()).sum()
    }

    fn datagrams(&mut self, leg: LegId) -> Option<&mut Datagrams> {
        self.leg_mut(leg)?.datagrams.as_deref_mut()
    }

    fn datagrams_or_new(&mut self, leg: LegId) -> Option<&mut Datagrams> {
        let budget = self.budget.clone();
        let leg = self.leg_mut(leg)?;
        let datagrams = &mut leg.datagrams;
        Some(datagrams.get_or_insert_with(|| Box::new(Datagrams::new(&budget))))
    }

    /// Queues a datagram to a host, or at a relay from one. If there is too much, the oldest is dropped. `bytes` has at
    /// most 65,507.
    ///
    /// # Errors
    /// The association has ended, or its circuit has.
    pub fn send_datagram(
        &mut self,
        key: AssociationKey,
        now: Instant,
        host: &StreamHost,
        port: u16,
        bytes: &[u8],
    ) -> Result<(), StreamError> {
        let datagrams = self.datagrams(key.leg).ok_or(StreamError::CircuitLost)?;
        datagrams.send(key.key, now, host.to_wire(), port, bytes)
    }

    /// Takes the oldest datagram that has come, or waits for one.
    pub fn poll_datagram(
        &mut self,
        key: AssociationKey,
        cx: &mut Context<'_>,
    ) -> Poll<Result<HeldDatagram, StreamError>> {
        match self.datagrams(key.leg) {
            Some(datagrams) => datagrams.poll_receive(key.key, cx),
            None => Poll::Ready(Err(StreamError::CircuitLost)),
        }
    }

    /// Ends the association, once what waits to be said is. What comes is dropped.
    pub fn unbind(&mut self, key: AssociationKey, reason: EndReason) {
        if let Some(datagrams) = self.datagrams(key.leg) {
            datagrams.unbind(key.key, reason);
        }
    }

    /// Whoever held the association has let go. If it has not ended, it ends.
    pub fn release_association(&mut self, key: AssociationKey) {
        if let Some(datagrams) = self.datagrams(key.leg) {
            datagrams.release(key.key);
        }
    }

    /// Takes a message of an association that has begun.
    pub(super) fn on_association(
        &mut self,
        leg: LegId,
        now: Instant,
        id: AssociationId,
        message: AssociationMessage<'_>,
    ) -> Result<(), Violation> {
        let datagrams = self.datagrams(leg).ok_or(Violation::NoAssociation)?;
        datagrams.hear(now, id, message)
    }
}

impl Mux<Opener> {
    /// Begins an association on the leg with the shorter round trip. `None` if the circuit is gone, or has as many as
    /// it may have.
    pub fn associate(&mut self) -> Option<AssociationKey> {
        if self.lost {
            return None;
        }
        let is_alone = self.set.is_none();
        let usable = self.legs().filter(|leg| is_alone || leg.is_usable());
        let best = usable.min_by_key(|leg| leg.rtt()).map(|leg| leg.id);
        let leg = best.or_else(|| self.legs().next().map(|leg| leg.id))?;
        let key = self.datagrams_or_new(leg)?.begin()?;
        Some(AssociationKey { leg, key })
    }

    /// Waits until the relay has said BOUND.
    pub fn poll_bound(
        &mut self,
        key: AssociationKey,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), StreamError>> {
        match self.datagrams(key.leg) {
            Some(datagrams) => datagrams.poll_bound(key.key, cx),
            None => Poll::Ready(Err(StreamError::CircuitLost)),
        }
    }

    /// Takes a message of an association, from a relay.
    pub(super) fn on_association_inward(
        &mut self,
        leg: LegId,
        now: Instant,
        id: AssociationId,
        message: AssociationMessage<'_>,
    ) -> Result<Option<Request>, Violation> {
        self.on_association(leg, now, id, message).map(|()| None)
    }
}

impl Mux<Acceptor> {
    /// Says BOUND: the association has its port.
    pub fn bind(&mut self, key: AssociationKey) {
        if let Some(datagrams) = self.datagrams(key.leg) {
            datagrams.bind(key.key);
        }
    }

    /// Takes a message of an association, from an opener. Gives the association that begins.
    pub(super) fn on_association_outward(
        &mut self,
        leg: LegId,
        now: Instant,
        id: AssociationId,
        message: AssociationMessage<'_>,
    ) -> Result<Option<Request>, Violation> {
        if message != AssociationMessage::Begin {
            self.on_association(leg, now, id, message)?;
            return Ok(None);
        }
        let datagrams = self.datagrams_or_new(leg).ok_or(Violation::Linking)?;
        let key = datagrams.on_begin(id)?;
        self.refused += u32::from(key.is_none());
        Ok(key.map(|key| Request::Associate(AssociationKey { leg, key })))
    }
}
