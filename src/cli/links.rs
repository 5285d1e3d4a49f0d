//! `--delay`, `--bandwidth`, `--loss`: what the links of a local network are like.

use std::time::Duration;

use cepa_common::net::emulate::Conditions;
use cepa_sim::units::split_rate;
use clap::Args;

/// Conditions of every link, emulated in this process.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(crate) struct LinkArgs {
    /// Delay every link by this much each way, for example 30ms.
    #[arg(long, value_name = "TIME", value_parser = parse_delay, default_value = "0ms", hide_default_value = true)]
    delay: Duration,
    /// Bound every link each way, for example 100mbit (a second), 2gbit or 12MB.
    #[arg(long, value_name = "RATE", value_parser = parse_bandwidth)]
    bandwidth: Option<u64>,
    /// Lose this share of every link's segments, for example 0.1%; each costs what is behind it a round trip,
    /// as with TCP.
    #[arg(long, value_name = "SHARE", value_parser = parse_loss, default_value = "0", hide_default_value = true)]
    loss: f64,
}

impl LinkArgs {
    /// The conditions that were asked for.
    pub(crate) fn conditions(&self) -> Conditions {
        Conditions {
            delay: self.delay,
            bandwidth: self.bandwidth,
            loss: self.loss,
        }
    }
}

/// Longer delays than this let every handshake time out.
const MAX_DELAY: Duration = Duration::from_secs(2);
/// If more segments than this share are lost, TCP itself stands still.
const MAX_LOSS: f64 = 0.5;
/// With less bandwidth than this (bytes a second), not even the directory comes through in time.
const LEAST_BANDWIDTH: u64 = 10_000;

fn parse_delay(text: &str) -> Result<Duration, String> {
    let delay = humantime::parse_duration(text).map_err(|error| format!("{error}; try 30ms"))?;
    if delay > MAX_DELAY {
        return Err("a link is delayed by two seconds at most".to_owned());
    }
    Ok(delay)
}

/// Reads a bandwidth in bytes a second.
fn parse_bandwidth(text: &str) -> Result<u64, String> {
    let said = "write a number and kbit, mbit, gbit, kB, MB or GB, for example 100mbit";
    let (number, bytes) = split_rate(text).ok_or(said)?;
    let number: f64 = number.parse().map_err(|_| said)?;
    let rate = number * bytes as f64;
    // A text that is no number, and the infinite, fail here too.
    if !(rate >= LEAST_BANDWIDTH as f64 && rate <= 1e12) {
        return Err("a link has from 80kbit to 8000gbit".to_owned());
    }
    Ok(rate as u64)
}

/// Reads a share from 0 to a half.
fn parse_loss(text: &str) -> Result<f64, String> {
    let (number, whole) = match text.strip_suffix('%') {
        Some(number) => (number, 100.0),
        None => (text, 1.0),
    };
    let number: f64 = number
        .trim()
        .parse()
        .map_err(|_| "write a share, for example 0.1% or 0.001")?;
    let share = number / whole;
    if !(0.0..=MAX_LOSS).contains(&share) {
        return Err("from 0% to 50% of the segments are lost".to_owned());
    }
    Ok(share)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_read_as_people_write_them() {
        assert_eq!(parse_delay("30ms").unwrap(), Duration::from_millis(30));
        assert_eq!(parse_bandwidth("100mbit").unwrap(), 12_500_000);
        assert_eq!(parse_bandwidth("12MB").unwrap(), 12_000_000);
        assert_eq!(parse_loss("0.1%").unwrap(), 0.001);
        assert_eq!(parse_loss("0.02").unwrap(), 0.02);
        for wrong in ["", "fast", "-1mbit", "NaNmbit", "infMB", "1kbit"] {
            assert!(parse_bandwidth(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "NaN", "-1%", "60%", "2"] {
            assert!(parse_loss(wrong).is_err(), "{wrong}");
        }
        assert!(parse_delay("3s").is_err());
    }
}
