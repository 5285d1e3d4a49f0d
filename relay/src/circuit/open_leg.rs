//! A circuit that this relay opens to another: CREATE, and what answers it.

use std::sync::Arc;

use cepa_common::cell::codec::{CREATE_LEN, CREATED_LEN, DestroyReason};
use cepa_common::ids::CircId;
use cepa_common::net::inbox::Inbox;
use cepa_common::net::queue::{LinkQueue, TableCommand};

use super::EndContext;
use crate::admission::Party;

/// A circuit that this relay opens on a link to another relay. Dropping this value closes the circuit.
pub(super) struct OpenLeg {
    link: Arc<LinkQueue>,
    circ: Option<CircId>,
    inbox: Arc<Inbox>,
    /// What the next relay is told when the circuit is closed.
    reason: DestroyReason,
}

impl OpenLeg {
    /// Sends CREATE on `link` with a client's half of the handshake, for `party`.
    pub(super) fn open(
        context: &EndContext,
        party: Party,
        link: Arc<LinkQueue>,
        message: Box<[u8; CREATE_LEN]>,
    ) -> Self {
        let bound_cells = context.params.queue_bound_cells();
        let leg = Self {
            link,
            circ: None,
            inbox: Arc::new(Inbox::new(bound_cells, &context.memory.of(party))),
            reason: DestroyReason::Finished,
        };
        TableCommand::Open {
            inbox: leg.inbox.clone(),
            message,
        }
        .send(&leg.link);
        leg
    }

    /// Leaves the circuit open, for whoever passes its cells on. `None` if there is none.
    pub(super) fn keep(mut self) -> Option<(Arc<LinkQueue>, CircId)> {
        Some((self.link.clone(), self.circ.take()?))
    }

    /// Waits for CREATED. `None` if the next relay has ended the circuit instead, or has said more than CREATED: there
    /// is no layer yet that wraps what else it says (protocol.md 7.6).
    pub(super) async fn answered(&mut self) -> Option<Box<[u8; CREATED_LEN]>> {
        loop {
            self.inbox.wait().await;
            let arrived = self.inbox.take();
            self.circ = self.circ.or(arrived.opened);
            if arrived.destroyed.is_some() {
                self.circ = None;
                return None;
            }
            if !arrived.cells.is_empty() {
                self.reason = DestroyReason::Protocol;
                return None;
            }
            if arrived.created.is_some() {
                return arrived.created;
            }
        }
    }
}

impl Drop for OpenLeg {
    fn drop(&mut self) {
        let opened = self.inbox.abandon().or(self.circ);
        if let Some(circ) = opened {
            TableCommand::Close {
                circ,
                reason: self.reason,
            }
            .send(&self.link);
        }
    }
}
