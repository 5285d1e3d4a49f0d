//! Circuits that end at this relay.
//!
//! A circuit's `EndHop` is one task: it opens what its client sends, runs
//! the streams, and seals what goes back. When it is told to extend, it dials,
//! passes the handshake on, hands its two layers to the tables of the links
//! and is gone: from then on the circuit's cells pass between these tables
//! without a task of their own.

mod context;
mod end_hop;
mod extend;
mod handshakes;
mod sets;

pub(crate) use context::EndContext;
pub use handshakes::Workers;
pub(crate) use handshakes::{HandshakePool, Responder};
pub(crate) use sets::Sets;
