//! A relay's keys while it runs: onion keys that are replaced in time, the certificate of a link key whose identity is
//! kept off line, and the family that the relay belongs to (docs/protocol.md, 6.20).
//!
//! [`schedule`] is pure and says when a key is made and when it is erased. [`ring`] makes and erases keys on disk, and
//! hands out snapshots to those who answer handshakes. `watch` runs both, rereads the files that the owner renews, and
//! changes the descriptor. Secrets of identities are absent on purpose: a relay needs the secret of its identity only
//! if its owner chose to keep it on this machine.

mod identity;
pub mod ring;
pub mod schedule;
pub(crate) mod watch;

#[cfg(test)]
mod simulation;

pub use identity::{RelayIdentity, RelayIdentityError};
pub use watch::{KeysHeld, OnionKeyHeld};
