//! Associations for applications and exits: datagrams on a circuit (docs/protocol.md, 5.30 to 5.36).

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::circuit_io::Streams;
use crate::cell::message::EndReason;
use crate::stream::{
    Acceptor, AssociationKey, HeldDatagram, Opener, StreamEnd, StreamError, StreamHost,
};
use crate::world::steady;

/// One association, for whoever sends and receives its datagrams. Dropping it ends the association, once what waits to
/// be said is.
pub struct AssociationIo<E: StreamEnd> {
    streams: Arc<Streams<E>>,
    key: AssociationKey,
}

impl Streams<Opener> {
    /// Begins an association. The first datagrams travel with BEGIN_UDP. `None` when the circuit is gone, or has as
    /// many associations as it may have.
    pub fn associate(self: &Arc<Self>) -> Option<AssociationIo<Opener>> {
        let key = self.mux().associate()?;
        Some(AssociationIo {
            streams: self.clone(),
            key,
        })
    }
}

impl Streams<Acceptor> {
    /// Takes hold of an association that the opener has begun.
    pub fn hold_association(self: &Arc<Self>, key: AssociationKey) -> AssociationIo<Acceptor> {
        AssociationIo {
            streams: self.clone(),
            key,
        }
    }
}

impl AssociationIo<Opener> {
    /// Waits until the exit has opened a port.
    ///
    /// # Errors
    /// The exit has refused, or the circuit is gone.
    pub async fn bound(&self) -> Result<(), StreamError> {
        self.streams.notify();
        poll_fn(|cx| self.streams.mux().poll_bound(self.key, cx)).await
    }
}

impl AssociationIo<Acceptor> {
    /// Tells the opener that there is a port.
    pub fn bind(&self) {
        self.streams.mux().bind(self.key);
        self.streams.wake();
    }
}

impl<E: StreamEnd> AssociationIo<E> {
    /// Sends a datagram of at most 65,507 bytes: to a host, or at an exit to the client, as one that came from the
    /// host. If too much waits, the oldest is dropped.
    ///
    /// # Errors
    /// The association has ended, or the circuit is gone.
    pub fn send(&self, host: &StreamHost, port: u16, bytes: &[u8]) -> Result<(), StreamError> {
        let now = steady::now();
        let sent = self
            .streams
            .mux()
            .send_datagram(self.key, now, host, port, bytes);
        self.streams.notify();
        sent
    }

    /// Takes the oldest datagram that has come, or waits for one.
    pub fn poll_receive(&self, cx: &mut Context<'_>) -> Poll<Result<HeldDatagram, StreamError>> {
        self.streams.mux().poll_datagram(self.key, cx)
    }

    /// Waits for a datagram.
    ///
    /// # Errors
    /// The association has ended, or the circuit is gone.
    pub async fn receive(&self) -> Result<HeldDatagram, StreamError> {
        poll_fn(|cx| self.poll_receive(cx)).await
    }

    /// Ends the association for this reason, once what waits to be said is.
    pub fn unbind(self, reason: EndReason) {
        self.streams.mux().unbind(self.key, reason);
    }
}

impl<E: StreamEnd> Drop for AssociationIo<E> {
    fn drop(&mut self) {
        self.streams.mux().release_association(self.key);
        self.streams.notify();
    }
}
