//! What the end that accepts is asked for.

use super::names::{LegId, StreamKey};
use super::target::StreamTarget;
use crate::cell::codec::CREATE_LEN;
use crate::cell::message::SECRET_LEN;
use crate::ids::RelayId;

/// What an opener asks of the end that accepts.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    /// Extend the circuit: the only message of its payload, with no stream open.
    Extend {
        /// Identity of the next relay.
        relay: RelayId,
        /// The opener's half of the handshake with it.
        message: Box<[u8; CREATE_LEN]>,
    },
    /// Connect a stream, then [`super::Mux::accept`] or [`super::Mux::refuse`] it.
    Begin(StreamKey, StreamTarget),
    /// Make the circuit a leg of the set with this secret: [`super::Mux::begin_set`] if there is none, else
    /// [`super::Mux::take_leg`] here and [`super::Mux::join`] there.
    Link {
        /// The set's.
        secret: [u8; SECRET_LEN],
        /// The opener's name for the leg.
        leg: LegId,
    },
}
