//! How far this computer's clock is off, judged by signed documents, and why there is no consensus.

use core::fmt;
use core::time::Duration;

use cepa_common::dir::{CLOCK_SKEW_SECS, Lifetime, UnixSecs};
use cepa_common::words::{About, At};

/// By how much this computer's clock seems to be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WrongClock {
    /// The clock is behind by about this time: several sources have a signed consensus of a later time.
    Behind(Duration),
    /// The clock is ahead by about this time: by this clock, everything that several sources have has expired.
    /// Authorities that have made no consensus since look the same.
    Ahead(Duration),
}

impl WrongClock {
    /// A clock that is ahead by this many seconds, or behind if the number is negative.
    pub fn by(ahead_secs: i64) -> Self {
        let off = Duration::from_secs(ahead_secs.unsigned_abs());
        match ahead_secs {
            ..0 => Self::Behind(off),
            0.. => Self::Ahead(off),
        }
    }

    /// What a verified consensus that several sources serve as the newest says of a clock that shows `now`; `None` when
    /// the clock may be right.
    pub fn of(lifetime: Lifetime, now: UnixSecs) -> Option<Self> {
        let behind = lifetime.valid_after.saturating_sub(now);
        if behind > CLOCK_SKEW_SECS {
            return Some(Self::Behind(Duration::from_secs(behind)));
        }
        let is_over = now >= lifetime.valid_until;
        let ahead = now.saturating_sub(lifetime.fresh_until);
        is_over.then_some(Self::Ahead(Duration::from_secs(ahead)))
    }
}

impl fmt::Display for WrongClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Behind(by) => write!(
                f,
                "this computer's clock is behind by about {}; set it right and try again",
                About(*by)
            ),
            Self::Ahead(by) => write!(
                f,
                "this computer's clock is ahead by about {by}; set it right and try again, unless the network's \
                 authorities have been away for as long",
                by = About(*by)
            ),
        }
    }
}

/// Why there is no consensus that may be used, and what to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NoConsensus {
    /// Valid-until of the newest consensus that was seen, if any was.
    pub expired_at: Option<UnixSecs>,
    /// What signed documents say about this computer's clock.
    pub skew: Option<WrongClock>,
    /// What the last source said; empty before any was asked.
    pub reason: String,
    /// The time of the next consensus by network.toml's interval, if sources answer and have no consensus. A network's
    /// first hour looks like that, and so does one whose authorities are all busy.
    pub next_at: Option<UnixSecs>,
}

impl fmt::Display for NoConsensus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(skew @ WrongClock::Behind(_)) = self.skew {
            return write!(f, "no consensus may be used: {skew}");
        }
        if let Some(at) = self.expired_at {
            let at = At(at);
            return write!(
                f,
                "the newest consensus that could be had expired at {at}; the authorities do not answer, or this \
                 computer's clock is wrong{}",
                match self.skew {
                    Some(WrongClock::Ahead(by)) => format!(" (ahead by about {})", About(by)),
                    _ => String::new(),
                }
            );
        }
        if let Some(skew) = self.skew {
            return write!(f, "no consensus may be used: {skew}");
        }
        if let Some(next) = self.next_at {
            return write!(
                f,
                "the authorities answer and have no consensus to give: a new network has its first one to two \
                 intervals after more than half of its authorities run; the next is due at {}",
                At(next)
            );
        }
        if self.reason.is_empty() {
            return f.write_str("no consensus could be had yet");
        }
        write!(f, "no consensus could be had: {}", self.reason)
    }
}

impl NoConsensus {
    /// Do signed documents of a later time show that this computer's clock is behind? Then no wait helps.
    pub fn is_clock_behind(&self) -> bool {
        matches!(self.skew, Some(WrongClock::Behind(_)))
    }
}

impl core::error::Error for NoConsensus {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skew_in_words() {
        let day = 86_400;
        let lifetime = Lifetime {
            valid_after: 1_000 * day,
            fresh_until: 1_000 * day + 3_600,
            valid_until: 1_001 * day,
        };
        let say = |now| WrongClock::of(lifetime, now).map(|skew| skew.to_string());
        for right in [1_000 * day - 300, 1_000 * day, 1_001 * day - 1] {
            assert_eq!(say(right), None);
        }
        let behind = say(997 * day).unwrap_or_default();
        assert!(behind.contains("behind by about 3 days"), "{behind}");
        let ahead = say(1_003 * day).unwrap_or_default();
        assert!(ahead.contains("ahead by about 3 days"), "{ahead}");
        let behind = say(0).unwrap_or_default();
        assert!(behind.contains("about 3 years"), "{behind}");
        assert!(say(u64::MAX).is_some());
        assert_eq!(About(Duration::from_secs(61)).to_string(), "1 minute");
    }

    #[test]
    fn why_in_words() {
        let mut why = NoConsensus::default();
        assert_eq!(why.to_string(), "no consensus could be had yet");
        why.next_at = Some(1_900_000_000);
        let text = why.to_string();
        assert!(
            text.contains("no consensus to give") && text.ends_with("due at 2030-03-17T17:46:40Z"),
            "{text}"
        );
        why.expired_at = Some(1_900_000_000);
        let text = why.to_string();
        assert!(
            text.contains("expired at 2030-03-17T17:46:40Z; the authorities do not answer"),
            "{text}"
        );
        why.expired_at = Some(u64::MAX);
        assert!(why.to_string().contains("after the year 9999"));
        why.skew = Some(WrongClock::Behind(Duration::from_secs(7_200)));
        assert!(why.to_string().contains("behind by about 2 hours"));
    }
}
