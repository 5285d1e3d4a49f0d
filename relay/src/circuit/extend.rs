//! EXTEND: from a circuit that ends here to one that passes.

use std::sync::Arc;
use std::time::Duration;

use cepa_common::cell::codec::{
    self, CREATE_LEN, CREATED_LEN, Cell, CircuitCommand, DestroyReason,
};
use cepa_common::cell::message::{NoRoom, Packer};
use cepa_common::cell::{CELL_LEN, HEADER_LEN};
use cepa_common::ids::{CircId, RelayId};
use cepa_common::net::circuit_end::EndDriver;
use cepa_common::net::inbox::Inbox;
use cepa_common::net::queue::{LinkQueue, TableCommand};
use tokio::time::timeout;

use super::end_hop::{End, EndHop, Extend};

/// The circuit as it goes on to the next relay: the link and the circuit id there, and the relay's answer to CREATE.
struct Leg {
    link: Arc<LinkQueue>,
    circ: CircId,
    reply: Box<[u8; CREATED_LEN]>,
}

impl EndHop {
    /// Extends the circuit to the relay that the client names. If that relay cannot be reached, TRUNCATED says so to
    /// the client, and the circuit ends.
    pub(super) async fn extend(mut self, extend: Extend) -> End {
        let Extend { relay, message } = extend;
        // A circuit that goes to this relay again, or straight back, is a loop that no client needs (S17).
        if relay == self.context.identity || Some(relay) == self.party.relay() {
            return End::Here(DestroyReason::Protocol);
        }
        let leg = match self.while_quiet(self.reach(relay, message)).await {
            Ok(Some(leg)) => leg,
            Ok(None) => return self.give_up(),
            Err(end) => return end,
        };
        // Both tables get their command before EXTENDED is on its way. A link's task takes commands before cells, so
        // the cells that the client sends after EXTENDED find the circuit passing.
        let Ok(extended) = self.sealed(|packer| packer.extended(&leg.reply)) else {
            return End::Here(DestroyReason::Protocol);
        };
        let EndDriver {
            link, circ, layers, ..
        } = self.end;
        let memory = &self.context.memory;
        let passage = memory.add_passing(self.party, (&link, circ), (&leg.link, leg.circ));
        drop(self.charge);
        TableCommand::PassOutward {
            circ,
            layer: layers.forward,
            next: leg.link.clone(),
            next_circ: leg.circ,
            passage,
        }
        .send(&link);
        TableCommand::PassInward {
            circ: leg.circ,
            layer: layers.backward,
            prev: link,
            prev_circ: circ,
            extended: Box::new(extended),
        }
        .send(&leg.link);
        End::Passed
    }

    /// Finds or dials a link to `relay`, opens a circuit there with the client's half of the handshake, and waits for
    /// the answer. `None` if one of these fails or takes too long.
    async fn reach(&self, relay: RelayId, message: Box<[u8; CREATE_LEN]>) -> Option<Leg> {
        let patience = Duration::from_secs(self.context.params.get().extend_dial_seconds.into());
        let dial = self.context.links.link_to(relay, self.party);
        let link = match timeout(patience, dial).await {
            Ok(Ok(link)) => link,
            Ok(Err(error)) => {
                tracing::debug!(%error, "can't extend a circuit");
                return None;
            }
            Err(_) => return None,
        };
        let bound_cells = self.context.params.queue_bound_cells();
        let inbox = Arc::new(Inbox::new(bound_cells, &self.context.memory.of(self.party)));
        let mut leg = OpenLeg {
            link,
            circ: None,
            inbox,
        };
        TableCommand::Open {
            inbox: leg.inbox.clone(),
            message,
        }
        .send(&leg.link);
        let reply = timeout(patience, leg.answered()).await.ok().flatten()?;
        let (link, circ) = (leg.link.clone(), leg.circ.take()?);
        Some(Leg { link, circ, reply })
    }

    /// A cell for the client with one message from this relay, sealed.
    fn sealed(
        &mut self,
        pack: impl FnOnce(&mut Packer<'_>) -> Result<(), NoRoom>,
    ) -> Result<Cell, NoRoom> {
        let mut cell = [0; CELL_LEN];
        codec::write_circuit_head(&mut cell, self.end.circ, CircuitCommand::Relay);
        let body = codec::body_mut(&mut cell);
        body[..HEADER_LEN].fill(0);
        let mut packer = Packer::new(codec::payload_mut(body));
        pack(&mut packer)?;
        packer.finish();
        self.end.layers.backward.speak(body).map_err(|_| NoRoom)?;
        Ok(cell)
    }

    /// Tells the client that the next relay was not reached.
    fn give_up(mut self) -> End {
        let reason = DestroyReason::Unreachable;
        if let Ok(truncated) = self.sealed(|packer| packer.truncated(reason)) {
            let _ = self.end.link.push(self.end.circ, &truncated);
        }
        End::Here(reason)
    }
}

/// A circuit that is being opened to the next relay. Dropping this value closes the circuit, unless `circ` was taken
/// out of it.
struct OpenLeg {
    link: Arc<LinkQueue>,
    circ: Option<CircId>,
    inbox: Arc<Inbox>,
}

impl OpenLeg {
    /// Waits for CREATED. `None` if the next relay has ended the circuit instead.
    async fn answered(&mut self) -> Option<Box<[u8; CREATED_LEN]>> {
        loop {
            self.inbox.wait().await;
            let arrived = self.inbox.take();
            self.circ = self.circ.or(arrived.opened);
            if arrived.destroyed.is_some() {
                self.circ = None;
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
                reason: DestroyReason::Finished,
            }
            .send(&self.link);
        }
    }
}
