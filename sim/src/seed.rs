//! The seed of a run, and what is drawn from it before the run begins.

use core::fmt;
use core::str::FromStr;
use core::time::Duration;

use chacha20::ChaCha20Rng;
use rand::RngExt;
use rand_core::SeedableRng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// What decides all that happens in a run. People read and write it as a hexadecimal number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Seed(pub u64);

/// A text is no seed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no seed: write up to 16 hexadecimal digits, for example 7f3a")]
pub struct NoSeed(String);

impl FromStr for Seed {
    type Err = NoSeed;

    fn from_str(text: &str) -> Result<Self, NoSeed> {
        let is_hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u64::from_str_radix(text, 16).ok().filter(|_| is_hex);
        number.map(Self).ok_or_else(|| NoSeed(text.to_owned()))
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}", self.0)
    }
}

impl TryFrom<String> for Seed {
    type Error = NoSeed;

    fn try_from(text: String) -> Result<Self, NoSeed> {
        text.parse()
    }
}

impl From<Seed> for String {
    fn from(seed: Seed) -> Self {
        seed.to_string()
    }
}

impl Seed {
    /// The dice for one thing that is drawn before the run: what is drawn for one thing moves nothing else.
    pub(crate) fn dice(self, what: &str, numbers: &[u64]) -> Dice {
        Dice(ChaCha20Rng::from_seed(self.key(what, numbers)))
    }

    /// A secret key for one thing.
    pub(crate) fn key(self, what: &str, numbers: &[u64]) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(b"cepa simulate");
        hash.update(self.0.to_be_bytes());
        for number in numbers {
            hash.update(number.to_be_bytes());
        }
        hash.update(what.as_bytes());
        hash.finalize().into()
    }
}

/// Whole milliseconds of a time.
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A source of drawn values.
pub(crate) struct Dice(ChaCha20Rng);

impl Dice {
    /// A number from `least` to `most`, both included.
    pub(crate) fn number(&mut self, least: u64, most: u64) -> u64 {
        self.0.random_range(least..=most.max(least))
    }

    /// A length of time from `least` to `most`, in whole milliseconds.
    pub(crate) fn time(&mut self, least: Duration, most: Duration) -> Duration {
        Duration::from_millis(self.number(millis(least), millis(most)))
    }

    /// One of the things; `None` if there is none.
    pub(crate) fn one_of<'a, T>(&mut self, things: &'a [T]) -> Option<&'a T> {
        let last = things.len().checked_sub(1)?;
        let place = self.number(0, u64::try_from(last).unwrap_or(u64::MAX));
        things.get(usize::try_from(place).unwrap_or(usize::MAX))
    }

    /// A length of time whose average is `mean` and that has no memory (exponential), at most 20 times the average.
    pub(crate) fn wait(&mut self, mean: Duration) -> Duration {
        let drawn: f64 = self.0.random_range(0.0..1.0);
        mean.mul_f64((-(1.0 - drawn).ln()).min(20.0))
    }

    /// A size (bytes) between `least` and `most`, of which small ones are as frequent in proportion as large ones.
    pub(crate) fn size(&mut self, least: u64, most: u64) -> u64 {
        let (low, high) = ((least.max(1)) as f64, (most.max(1)) as f64);
        let drawn: f64 = self.0.random_range(0.0..1.0);
        (low * (high / low).powf(drawn)) as u64
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_reads_as_it_is_written() {
        for number in [0, 1, 0x7f3a, u64::MAX] {
            let seed = Seed(number);
            assert_eq!(seed.to_string().parse::<Seed>(), Ok(seed));
        }
        for text in ["", "+7", "xyz", "10000000000000000", " 7"] {
            let error = text.parse::<Seed>().unwrap_err().to_string();
            assert!(error.contains("for example 7f3a"), "{error}");
        }
    }

    #[test]
    fn what_is_drawn_depends_on_seed_thing_and_numbers_alone() {
        let draw = |seed, what, number| Seed(seed).dice(what, &[number]).number(0, u64::MAX);
        assert_eq!(draw(1, "line", 2), draw(1, "line", 2));
        assert_ne!(draw(1, "line", 2), draw(2, "line", 2));
        assert_ne!(draw(1, "line", 2), draw(1, "city", 2));
        assert_ne!(draw(1, "line", 2), draw(1, "line", 3));
    }
}
