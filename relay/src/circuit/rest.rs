//! How long a circuit may end here without being of use to anybody (docs/protocol.md, 7.3).

use std::time::Duration;

/// The time from one look at a circuit to the next.
pub(super) const LOOK: Duration = Duration::from_secs(30 * 60);
/// Looks in a row that find no use, after which the circuit ends. A client keeps circuits ready for an hour.
const LOOKS: u32 = 3;

/// What the looks so far have found.
#[derive(Default)]
pub(super) struct Rest(u32);

impl Rest {
    /// Takes what a look has found, a circuit in use or not: has the circuit rested for too long?
    pub(super) fn is_over(&mut self, in_use: bool) -> bool {
        self.0 = if in_use { 0 } else { self.0 + 1 };
        self.0 > LOOKS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_circuit_without_use_ends_and_one_in_use_never() {
        let mut rest = Rest::default();
        for n in 0..1_000 {
            assert!(!rest.is_over(n % 4 == 0), "used every two hours");
        }
        let looks = (0..).take_while(|_| !rest.is_over(false)).count();
        assert!(LOOK * looks as u32 <= Duration::from_secs(90 * 60));
    }
}
