//! Circuits that end at this relay.
//!
//! A circuit's `EndHop` is one task. The task opens what the client sends, runs the streams, and seals what goes back.
//! When the client says EXTEND, the task dials the next relay, passes the handshake on, hands the circuit's two layers
//! to the tables of the two links, and ends. From then on the circuit's cells pass between these tables, without a task
//! of the circuit's own.

mod context;
mod end_hop;
mod extend;
mod handshakes;
mod open_leg;
mod prober;
mod rest;
mod sets;

pub(crate) use context::EndContext;
pub use handshakes::Workers;
pub(crate) use handshakes::{HandshakePool, Responder};
pub(crate) use prober::{Prober, Reached};
pub(crate) use sets::Sets;
