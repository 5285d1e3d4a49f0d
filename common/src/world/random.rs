//! Randomness for keys, paths, delays and all else that nobody may foresee.

use core::convert::Infallible;

use chacha20::ChaCha20Rng;
use rand::rngs::ThreadRng;
use rand_core::{Rng, TryCryptoRng, TryRng};

use super::kind::{Kind, kind};
use super::simulation;

/// The source of randomness: the system's, or in a simulated process the one that follows from the seed.
///
/// # Panics
/// In a simulated process outside [`super::Simulation::run`], where no seed is known.
pub fn rng() -> WorldRng {
    match kind() {
        Kind::Real => WorldRng(Source::Real(real())),
        Kind::Simulated => WorldRng(Source::Simulated),
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the seam")]
fn real() -> ThreadRng {
    rand::rng()
}

/// Randomness of the world that this process lives in.
pub struct WorldRng(Source);

enum Source {
    Real(ThreadRng),
    /// What the running simulation of this thread gives next.
    Simulated,
}

impl WorldRng {
    fn with<T>(
        &mut self,
        real: impl Fn(&mut ThreadRng) -> T,
        simulated: impl Fn(&mut ChaCha20Rng) -> T,
    ) -> T {
        match &mut self.0 {
            Source::Real(rng) => real(rng),
            Source::Simulated => simulation::with_rng(simulated),
        }
    }
}

impl TryRng for WorldRng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.with(Rng::next_u32, Rng::next_u32))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.with(Rng::next_u64, Rng::next_u64))
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        match &mut self.0 {
            Source::Real(rng) => rng.fill_bytes(out),
            Source::Simulated => simulation::with_rng(|rng| rng.fill_bytes(out)),
        }
        Ok(())
    }
}

/// The system's generator is fit for keys, and a simulated process has no secrets.
impl TryCryptoRng for WorldRng {}
