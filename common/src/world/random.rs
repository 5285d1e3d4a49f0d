//! Randomness for keys, paths, delays and all else that nobody may foresee.

use rand::rngs::ThreadRng;

/// The source of randomness: the system's.
pub fn rng() -> ThreadRng {
    rand::rng()
}
