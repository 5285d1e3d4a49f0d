//! Which relays a client begins its circuits at, for months (docs/protocol.md, 6.21).
//!
//! A client that chose its first relay anew for every circuit would sooner or later begin at a hostile one. So it draws a
//! bounded sample once, tries few of them, and stays with those that have worked. [`GuardSet`] is that memory and its
//! rules: pure, on given time and randomness. [`Keeper`] owns one for the circuit pool: it feeds consensuses and results
//! in and writes the state to disk. Absent on purpose: path bias detection, and guards for onion services' inner hops.

mod keeper;
mod machine;
mod persist;
mod sample;
mod schedule;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod year_tests;

pub use keeper::Keeper;
pub use machine::{Filter, GuardChoice, GuardSet, Purpose, Usability, Verdict};
pub use persist::{GuardStateError, MAX_STATE_BYTES};
pub use schedule::{Limits, Now};
