//! Lengths of time, rates and shares as people write them in a scenario, alone or as a range: `"30s"`, `"30s..10m"`.

use core::fmt;
use core::str::FromStr;
use core::time::Duration;

use serde::{Deserialize, Serialize};

use crate::seed::Dice;

/// A text is not the quantity that it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no {what}: write {example}")]
pub struct BadUnit {
    text: String,
    what: &'static str,
    example: &'static str,
}

/// Longer times than this are mistakes (ten years).
const MOST_TIME: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Reads a length of time.
///
/// # Errors
/// [`BadUnit`].
pub fn parse_time(text: &str) -> Result<Duration, BadUnit> {
    let time = humantime::parse_duration(text).ok();
    time.filter(|time| *time <= MOST_TIME).ok_or(BadUnit {
        text: text.to_owned(),
        what: "length of time",
        example: "for example 90s, 10m, 2h 30m or 3days",
    })
}

/// Splits a rate into its number, whatever that is, and its unit (bytes a second); `None` if there is no such unit.
pub fn split_rate(text: &str) -> Option<(&str, u64)> {
    const UNITS: [(&str, u64); 6] = [
        ("kbit", 125),
        ("mbit", 125_000),
        ("gbit", 125_000_000),
        ("kB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
    ];
    UNITS
        .iter()
        .find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?.trim(), *bytes)))
}

/// Reads a rate (bytes a second).
///
/// # Errors
/// [`BadUnit`].
pub fn parse_rate(text: &str) -> Result<u64, BadUnit> {
    let bytes = split_rate(text).and_then(|(number, bytes)| {
        let number: u64 = number.parse().ok()?;
        number.checked_mul(bytes).filter(|bytes| *bytes > 0)
    });
    bytes.ok_or(BadUnit {
        text: text.to_owned(),
        what: "rate",
        example: "a whole number and kbit, mbit, gbit, kB, MB or GB, for example 100mbit",
    })
}

/// Writes a rate as [`parse_rate`] reads it, in whole kilobits: what is left of one counts as one.
pub fn rate_text(bytes: u64) -> String {
    match bytes.is_multiple_of(125_000) {
        true => format!("{}mbit", bytes / 125_000),
        false => format!("{}kbit", bytes.div_ceil(125)),
    }
}

/// Reads a share as parts of a million.
///
/// # Errors
/// [`BadUnit`].
pub fn parse_share(text: &str) -> Result<u32, BadUnit> {
    let share = text.strip_suffix('%').and_then(|number| {
        let per_cent: f64 = number.trim().parse().ok()?;
        (0.0..=100.0)
            .contains(&per_cent)
            .then(|| (per_cent * 10_000.0).round() as u32)
    });
    share.ok_or(BadUnit {
        text: text.to_owned(),
        what: "share",
        example: "a number from 0 to 100 and %, for example 0.5%",
    })
}

/// Writes a share of parts of a million as [`parse_share`] reads it.
pub fn share_text(parts: u32) -> String {
    format!("{}%", f64::from(parts) / 10_000.0)
}

/// Reads a step of a clock (milliseconds), which may be backwards.
///
/// # Errors
/// [`BadUnit`].
pub fn parse_step(text: &str) -> Result<i64, BadUnit> {
    let (sign, rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let millis = parse_time(rest).map(|time| i64::try_from(time.as_millis()).unwrap_or(i64::MAX));
    millis.map(|millis| sign * millis).map_err(|_| BadUnit {
        text: text.to_owned(),
        what: "step of a clock",
        example: "for example +2h or -90s",
    })
}

/// Writes a step as [`parse_step`] reads it.
pub fn step_text(millis: i64) -> String {
    let sign = if millis < 0 { '-' } else { '+' };
    format!(
        "{sign}{}",
        time_text(Duration::from_millis(millis.unsigned_abs()))
    )
}

/// Writes a length of time as [`parse_time`] reads it.
pub fn time_text(time: Duration) -> String {
    humantime::format_duration(time).to_string()
}

/// A range of some quantity, from which each run draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Between<T> {
    /// The least that is drawn.
    pub least: T,
    /// The most that is drawn.
    pub most: T,
}

fn parse_range<T: Copy + PartialOrd>(
    text: &str,
    parse: impl Fn(&str) -> Result<T, BadUnit>,
) -> Result<Between<T>, BadUnit> {
    let (least, most) = text.split_once("..").unwrap_or((text, text));
    let (least, most) = (parse(least.trim())?, parse(most.trim())?);
    if most < least {
        return Err(BadUnit {
            text: text.to_owned(),
            what: "range",
            example: "the smaller end first, for example 30s..10m",
        });
    }
    Ok(Between { least, most })
}

/// A length of time, or a range of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(pub Between<Duration>);

impl Span {
    /// Exactly this long.
    pub fn exactly(time: Duration) -> Self {
        Self(Between {
            least: time,
            most: time,
        })
    }

    pub(crate) fn draw(self, dice: &mut Dice) -> Duration {
        dice.time(self.0.least, self.0.most)
    }
}

/// A rate (bytes a second), or a range of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rate(pub Between<u64>);

impl Rate {
    /// Slow rates are drawn as often, in proportion, as quick ones.
    pub(crate) fn draw(self, dice: &mut Dice) -> u64 {
        dice.size(self.0.least, self.0.most)
    }
}

/// Reads and writes a range by what reads and writes one of its ends.
macro_rules! range {
    ($kind:ty, $parse:path, $text:path) => {
        impl FromStr for $kind {
            type Err = BadUnit;

            fn from_str(text: &str) -> Result<Self, BadUnit> {
                parse_range(text, $parse).map(Self)
            }
        }

        impl fmt::Display for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let Between { least, most } = self.0;
                f.write_str(&$text(least))?;
                if most > least {
                    write!(f, "..{}", $text(most))?;
                }
                Ok(())
            }
        }

        impl TryFrom<String> for $kind {
            type Error = BadUnit;

            fn try_from(text: String) -> Result<Self, BadUnit> {
                text.parse()
            }
        }

        impl From<$kind> for String {
            fn from(quantity: $kind) -> Self {
                quantity.to_string()
            }
        }
    };
}

range!(Span, parse_time, time_text);
range!(Rate, parse_rate, rate_text);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_as_the_same(millis in 0..86_400_000_000u64, kbit in 1..1u64 << 30, parts in 0..=1_000_000u32) {
            let time = Duration::from_millis(millis);
            prop_assert_eq!(parse_time(&time_text(time)), Ok(time));
            prop_assert_eq!(parse_rate(&rate_text(kbit * 125)), Ok(kbit * 125));
            prop_assert_eq!(parse_share(&share_text(parts)), Ok(parts));
            for step in [millis as i64, -(millis as i64)] {
                prop_assert_eq!(parse_step(&step_text(step)), Ok(step));
            }
            let span = Span(Between { least: time, most: time * 2 });
            prop_assert_eq!(span.to_string().parse::<Span>(), Ok(span));
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_an_example() {
        let said = |error: BadUnit| error.to_string();
        assert!(said("10m..30s".parse::<Span>().unwrap_err()).contains("smaller end first"));
        assert!(said("soon".parse::<Span>().unwrap_err()).contains("90s"));
        assert!(said("100".parse::<Rate>().unwrap_err()).contains("100mbit"));
        assert!(said(parse_rate("0mbit").unwrap_err()).contains("100mbit"));
        assert!(said(parse_share("101%").unwrap_err()).contains("0.5%"));
        assert!(said(parse_step("--2h").unwrap_err()).contains("-90s"));
        assert!(said(parse_time("1000000years").unwrap_err()).contains("3days"));
    }
}
