//! What is rehearsed.

use core::time::Duration;

use crate::seed::Seed;

/// When every rehearsal begins, on an hour: 2030-03-17, 18:00:00 UTC (seconds since 1970).
pub const BEGAN: u64 = 1_900_000_800;
/// Authorities of a rehearsed network.
pub(super) const AUTHORITIES: u8 = 9;
/// The median time that a circuit takes to be built, as in the scenario `city`.
pub(super) const BUILD: Duration = Duration::from_millis(600);
/// What is rehearsed.
#[derive(Clone, Debug)]
pub struct Options {
    /// Number of relays.
    pub relays: usize,
    /// Number of clients that are rehearsed, each as one of `users`.
    pub clients: usize,
    /// Number of clients that the network has: figures of relays are for so many.
    pub users: f64,
    /// How long.
    pub days: u64,
    /// How long each user is there a day (hours).
    pub hours_a_day: f64,
    /// Number of programs of a user, whose streams share no circuits.
    pub programs: u64,
    /// What is drawn follows from this.
    pub seed: Seed,
}
