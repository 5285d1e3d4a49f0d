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
use cepa_common::net::queue::{LinkQueue, TableCommand};
use tokio::time::timeout;

use super::end_hop::{End, EndHop, Extend};
use super::open_leg::OpenLeg;
use crate::admission::FarSide;

/// Why a circuit does not go on to the next relay.
enum NotReached {
    /// The circuit would go to a relay that it comes from.
    Loop,
    /// The next relay is unknown, can't be reached, refuses, answers wrongly or does not answer in time.
    Failed,
}

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
        let leg = match self.while_quiet(self.reach(relay, message)).await {
            Ok(Ok(leg)) => leg,
            Ok(Err(NotReached::Loop)) => return End::Here(DestroyReason::Protocol),
            Ok(Err(NotReached::Failed)) => return self.give_up(),
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
        let passage = memory.add_passing(self.far_side.party, (&link, circ), (&leg.link, leg.circ));
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

    /// Would a circuit that goes on to `relay` go to this relay again, or straight back? No client needs such a loop
    /// (protocol.md 7.4, S17).
    fn is_loop(&self, relay: RelayId) -> bool {
        let FarSide { party, link_key } = self.far_side;
        // A link that was accepted before a consensus listed its key is a client's for as long as it lives (1.3).
        let proven = link_key.and_then(|key| self.context.links.identity_of(&key));
        [Some(self.context.identity), party.relay(), proven].contains(&Some(relay))
    }

    /// Finds or dials a link to `relay`, opens a circuit there with the client's half of the handshake, and waits for
    /// the answer.
    ///
    /// # Errors
    /// [`NotReached`]: one of these may not be done, fails or takes too long.
    async fn reach(
        &self,
        relay: RelayId,
        message: Box<[u8; CREATE_LEN]>,
    ) -> Result<Leg, NotReached> {
        if self.is_loop(relay) {
            return Err(NotReached::Loop);
        }
        let patience = Duration::from_secs(self.context.params.get().extend_dial_seconds.into());
        let dial = self.context.links.link_to(relay, self.far_side.party);
        let link = match timeout(patience, dial).await {
            Ok(Ok(link)) => link,
            Ok(Err(error)) => {
                tracing::debug!(%error, "can't extend a circuit");
                return Err(NotReached::Failed);
            }
            Err(_) => return Err(NotReached::Failed),
        };
        // While this relay dialled, a consensus may have come that lists the far side of the client's link.
        if self.is_loop(relay) {
            return Err(NotReached::Loop);
        }
        let mut leg = OpenLeg::open(&self.context, self.far_side.party, link, message);
        let answered = timeout(patience, leg.answered()).await.ok().flatten();
        let reply = answered.ok_or(NotReached::Failed)?;
        let (link, circ) = leg.keep().ok_or(NotReached::Failed)?;
        Ok(Leg { link, circ, reply })
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
