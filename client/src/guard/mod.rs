//! Guards: the relays that a client begins its circuits at, for weeks (docs/protocol.md, 6.21).
//!
//! A client that chose its first relay anew for every circuit would sooner or later begin at a hostile one. So a client
//! draws a bounded sample once, tries few relays of the sample, and stays with those that have worked. [`GuardSet`] is
//! that memory with its rules; it is pure and takes time and randomness as arguments. [`Keeper`] owns one set for the
//! circuit pool: it feeds consensuses and results in and writes the state to disk. [`BiasLedger`] notices guards that
//! let only some circuits be built. Guards for the inner hops of onion services are absent on purpose.

mod bias;
#[cfg(test)]
mod failing_tests;
mod keeper;
mod machine;
#[cfg(test)]
mod pair_tests;
mod persist;
mod sample;
mod schedule;
mod silence;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod year_tests;

pub use bias::{BiasLedger, CircuitCounts, Suspicion};
pub use keeper::{GuardHealth, GuardReport, Keeper};
pub use machine::{GuardChoice, GuardSet, Purpose, Usability, Verdict};
pub use persist::{GuardStateError, MAX_STATE_BYTES};
pub use sample::Filter;
pub use schedule::{GuardLimits, Now};
