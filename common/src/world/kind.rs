//! What this process is: real or simulated, from its first line to its last.

use std::sync::atomic::{AtomicU8, Ordering};

use super::simulation::Simulation;

/// Nothing has asked yet.
const UNDECIDED: u8 = 0;
const REAL: u8 = 1;
const SIMULATED: u8 = 2;

/// What this process is. The value changes once.
static KIND: AtomicU8 = AtomicU8::new(UNDECIDED);

/// What a process can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Real,
    Simulated,
}

/// What this process is. A process that was undecided is real from now on.
#[inline]
pub(super) fn kind() -> Kind {
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

/// Says that something of the real world is about to be used, which a panic calls `what`.
///
/// # Panics
/// In a simulated process, whose keys are no secrets, so that it must speak to nobody.
#[expect(
    clippy::panic,
    reason = "a node with predictable keys must never meet the real world"
)]
pub(super) fn be_real(what: &str) {
    if kind() == Kind::Simulated {
        panic!("a simulated process has no real {what}");
    }
}

/// This process has used the real world, or is simulated already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this process has used real sockets, its disk or randomness, or is simulated already")]
pub struct NotSimulated;

/// Makes this process a simulated one, for good.
///
/// # Errors
/// [`NotSimulated`] if the process is real or simulated already.
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
        let _ = super::super::random::rng();
        assert_eq!(simulate().err(), Some(NotSimulated));
    }
}
