//! What the end that accepts is asked for.

use super::names::{AssociationKey, LegId, StreamKey};
use super::target::StreamTarget;
use crate::cell::codec::CREATE_LEN;
use crate::cell::message::SECRET_LEN;
use crate::ids::RelayId;

/// What an opener asks of the end that accepts.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    /// Extend the circuit. EXTEND is the only message of its payload, and no stream is open.
    Extend {
        /// Identity of the next relay.
        relay: RelayId,
        /// The opener's half of the handshake with that relay.
        message: Box<[u8; CREATE_LEN]>,
    },
    /// Connect a stream, then [`super::Mux::accept`] or [`super::Mux::refuse`] it.
    Begin(StreamKey, StreamTarget),
    /// Open a port for datagrams, then [`super::Mux::bind`] the association, or [`super::Mux::unbind`] it.
    Associate(AssociationKey),
    /// Make the circuit a leg of the set with this secret: by [`super::Mux::begin_set`] if there is no such set, else
    /// by [`super::Mux::take_leg`] here and [`super::Mux::join`] at the streams of the set.
    Link {
        /// The secret of the set.
        secret: [u8; SECRET_LEN],
        /// The opener's name for the leg.
        leg: LegId,
    },
}
