//! The seam to the world: whatever a node learns from its machine or asks of it passes through this room.
//!
//! A clock, a random number, a blocking call or a socket that is had anywhere else could not be replaced, and a run of a
//! whole network on virtual time would not repeat. So `tests/layering` finds bare calls by name, and everybody asks here:
//! [`steady`] has the time that only moves forward, for waits and round trips; [`clock`] the time of day; [`random`] has
//! randomness; [`blocking`] takes work that blocks its thread; [`sockets`] has connections, [`names`] what an exit
//! asks for addresses. A [`World`] holds those that differ from node to node.
//!
//! A process is real or simulated from its first line to its last. [`simulate`] refuses once a real socket or the
//! system's randomness was used, and after it those refuse: no mistake gives a real node predictable keys.

pub mod blocking;
pub mod clock;
#[cfg(any(test, feature = "simulation"))]
pub mod memory;
pub mod names;
pub mod random;
pub mod simulation;
pub mod sockets;
pub mod steady;

use std::sync::atomic::{AtomicU8, Ordering};

pub use clock::Clock;
pub use names::Names;
pub use simulation::{NodeLife, Simulation};
pub use sockets::Sockets;

/// The world as one node sees it: an option of relays and clients. The default is the real one.
#[derive(Clone, Debug)]
pub struct World {
    /// How it reaches others.
    pub sockets: Sockets,
    /// What time of day it has.
    pub clock: Clock,
    /// How an exit finds addresses of names.
    pub names: Names,
}

impl Default for World {
    fn default() -> Self {
        Self {
            sockets: Sockets::Tcp,
            clock: Clock::system(),
            names: Names::Dns,
        }
    }
}

/// Nothing has asked yet.
const UNDECIDED: u8 = 0;
const REAL: u8 = 1;
const SIMULATED: u8 = 2;

/// What this process is. It changes once.
static KIND: AtomicU8 = AtomicU8::new(UNDECIDED);

/// What a process can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Real,
    Simulated,
}

/// What this process is; one that was undecided is real from now on.
#[inline]
pub(crate) fn kind() -> Kind {
    match KIND.load(Ordering::Relaxed) {
        REAL => Kind::Real,
        SIMULATED => Kind::Simulated,
        _ => decide(),
    }
}

#[cold]
fn decide() -> Kind {
    match KIND.compare_exchange(UNDECIDED, REAL, Ordering::Relaxed, Ordering::Relaxed) {
        Err(SIMULATED) => Kind::Simulated,
        _ => Kind::Real,
    }
}

/// Says that something of the real world is about to be used.
///
/// # Panics
/// In a simulated process: its keys are no secrets, so it must speak to nobody.
#[expect(
    clippy::panic,
    reason = "a node with predictable keys must never meet the real world"
)]
pub(crate) fn be_real() {
    if kind() == Kind::Simulated {
        panic!("a simulated process has no real sockets");
    }
}

/// This process has used the real world, or is simulated already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this process has used real sockets or randomness, or is simulated already")]
pub struct NotSimulated;

/// Makes this process a simulated one, for good.
///
/// # Errors
/// [`NotSimulated`] where it is real or simulated already.
pub fn simulate() -> Result<Simulation, NotSimulated> {
    KIND.compare_exchange(UNDECIDED, SIMULATED, Ordering::Relaxed, Ordering::Relaxed)
        .map(|_| Simulation(()))
        .map_err(|_| NotSimulated)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_real_is_never_simulated() {
        let _ = random::rng();
        assert_eq!(simulate().err(), Some(NotSimulated));
    }
}
