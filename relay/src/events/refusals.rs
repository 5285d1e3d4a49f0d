//! What a relay has refused since its start, by reason (S35).

use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

/// Why a relay has refused something, or has ended what it had taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// A connection: there are as many as the owner allows (`limits.connections`).
    ConnectionsFull,
    /// A connection: its address has as many as the network allows one address.
    AddressFull,
    /// A connection that the system did not hand over, for want of descriptors or memory.
    AcceptFailed,
    /// A CREATE: too many waited for an answer.
    CreatesWaiting,
    /// A CREATE: it had waited for too long.
    CreateLate,
    /// A CREATE: it was not valid.
    CreateInvalid,
    /// A circuit that was ended: more memory was held than the owner allows (`limits.memory_mib`).
    MemoryFull,
    /// A circuit that was ended: its party held more than its share of the memory.
    ShareFull,
    /// A stream or an association: its circuit began too many in a short time.
    BeginsTooFast,
    /// A stream: the exit's policy does not allow its destination.
    Policy,
    /// A stream: the exit stops, or this machine has no sockets, ports or memory left.
    ExitFull,
}

impl Refusal {
    /// All reasons, in the order of a connection's life.
    pub const ALL: [Self; 11] = [
        Self::ConnectionsFull,
        Self::AddressFull,
        Self::AcceptFailed,
        Self::CreatesWaiting,
        Self::CreateLate,
        Self::CreateInvalid,
        Self::MemoryFull,
        Self::ShareFull,
        Self::BeginsTooFast,
        Self::Policy,
        Self::ExitFull,
    ];

    /// The reason's name, for programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::ConnectionsFull => "connections-full",
            Self::AddressFull => "address-full",
            Self::AcceptFailed => "accept-failed",
            Self::CreatesWaiting => "creates-waiting",
            Self::CreateLate => "create-late",
            Self::CreateInvalid => "create-invalid",
            Self::MemoryFull => "memory-full",
            Self::ShareFull => "share-full",
            Self::BeginsTooFast => "begins-too-fast",
            Self::Policy => "policy",
            Self::ExitFull => "exit-full",
        }
    }
}

/// Counts refusals. Clones share the counts.
#[derive(Clone, Debug, Default)]
pub struct Refusals(Arc<[AtomicU64; Refusal::ALL.len()]>);

impl Refusals {
    /// Counts `times` more.
    pub(crate) fn add(&self, refusal: Refusal, times: u64) {
        self.0[refusal as usize].fetch_add(times, Ordering::Relaxed);
    }

    /// How many there were since the start.
    pub fn count(&self, refusal: Refusal) -> u64 {
        self.0[refusal as usize].load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_reason_has_a_name_and_a_count_of_its_own() {
        let refusals = Refusals::default();
        for (times, refusal) in (1..).zip(Refusal::ALL) {
            refusals.add(refusal, times);
        }
        let names: BTreeSet<_> = Refusal::ALL.map(Refusal::name).into_iter().collect();
        assert_eq!(names.len(), Refusal::ALL.len());
        for (times, refusal) in (1..).zip(Refusal::ALL) {
            assert_eq!(refusals.count(refusal), times, "{refusal:?}");
        }
    }
}
