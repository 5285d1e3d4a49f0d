//! Circuits at a client.
//!
//! A [`build::Builder`] telescopes a circuit hop by hop. When the circuit is built, one task owns its layers and moves
//! the bytes of its streams; the rest of the client knows it as a [`Circuit`]. The [`pool::Pool`] chooses a circuit for
//! each stream, builds circuits that are missing, and keeps some ready.

mod begins;
pub mod build;
mod built;
mod choose;
mod circuits;
pub(crate) mod dir_streams;
mod growth;
pub mod health;
pub mod isolation;
mod legs;
pub(crate) mod links;
mod liveness;
pub(crate) mod maker;
pub(crate) mod memory;
pub(crate) mod pool;
#[cfg(test)]
mod pool_tests;
pub mod predict;
mod race;
mod refill;
pub mod rehearsal;
pub(crate) mod report;
mod shelf;
mod stock;
pub(crate) mod task;
pub mod timeout;
mod upkeep;

pub use self::built::Circuit;
pub use self::choose::Wanted;
pub use self::circuits::Circuits;
pub use self::growth::Multipath;
pub use self::maker::CircuitError;
pub use self::shelf::Counts;
