//! Times, durations and numbers as people read them, the same wherever this program speaks.

use core::fmt;
use core::time::Duration;
use std::time::UNIX_EPOCH;

/// Seconds since the Unix epoch from which on a year has more than four digits, which RFC 3339 does not know.
const YEAR_10_000: u64 = 253_402_300_800;

/// A time (seconds since the Unix epoch) as RFC 3339 has it, in UTC and to the second.
///
/// ```
/// assert_eq!(cepa_common::words::At(1_900_000_000).to_string(), "2030-03-17T17:46:40Z");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct At(pub u64);

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = Some(self.0).filter(|at| *at < YEAR_10_000);
        match at.and_then(|at| UNIX_EPOCH.checked_add(Duration::from_secs(at))) {
            Some(at) => humantime::format_rfc3339_seconds(at).fmt(f),
            None => f.write_str("a time after the year 9999"),
        }
    }
}

/// A duration in its largest unit, rounded.
///
/// ```
/// use cepa_common::words::About;
///
/// assert_eq!(About(core::time::Duration::from_secs(5_500)).to_string(), "2 hours");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct About(pub Duration);

impl fmt::Display for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let units = [
            (365 * 86_400, "year"),
            (86_400, "day"),
            (3_600, "hour"),
            (60, "minute"),
        ];
        let fits = units.iter().find(|(length, _)| seconds >= *length);
        let (length, unit) = fits.copied().unwrap_or((1, "second"));
        Count(seconds.saturating_add(length / 2) / length, unit).fmt(f)
    }
}

/// A number of things, with the name of one of them.
///
/// ```
/// use cepa_common::words::Count;
///
/// assert_eq!(Count(1, "relay").to_string(), "1 relay");
/// assert_eq!(Count(0, "relay").to_string(), "0 relays");
/// assert_eq!(Count(2, "authority").to_string(), "2 authorities");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Count<N>(pub N, pub &'static str);

impl<N: fmt::Display + PartialEq + From<u8>> fmt::Display for Count<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(number, name) = self;
        if *number == N::from(1) {
            return write!(f, "{number} {name}");
        }
        match name.strip_suffix('y') {
            Some(stem) if !stem.ends_with(['a', 'e', 'o']) => write!(f, "{number} {stem}ies"),
            _ => write!(f, "{number} {name}s"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_time_is_out_of_range_and_no_plural_is_wrong() {
        assert_eq!(At(YEAR_10_000 - 1).to_string(), "9999-12-31T23:59:59Z");
        for at in [YEAR_10_000, u64::MAX] {
            assert_eq!(At(at).to_string(), "a time after the year 9999");
        }
        assert_eq!(About(Duration::from_secs(1)).to_string(), "1 second");
        assert_eq!(About(Duration::from_secs(89)).to_string(), "1 minute");
        assert!(About(Duration::MAX).to_string().ends_with("years"));
        assert_eq!(Count(1_u64, "key").to_string(), "1 key");
        assert_eq!(Count(3_usize, "key").to_string(), "3 keys");
    }
}
