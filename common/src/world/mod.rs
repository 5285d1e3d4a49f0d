//! The seam to the world: whatever a node learns from its machine or asks of it passes through this room.
//!
//! A clock, a random number, a blocking call or a socket that is had anywhere else could not be replaced, and a run of a
//! whole network on virtual time would not repeat. So `clippy.toml` bans the bare calls by name, and everybody asks here:
//! [`steady`] has the time that only moves forward, for waits and round trips; [`Clock`] is the wall's; [`random`] has randomness; [`blocking`]
//! takes work that blocks its thread.

pub mod blocking;
mod clock;
pub mod random;
pub mod steady;

pub use clock::Clock;
