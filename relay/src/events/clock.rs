//! Watches this computer's clock.

use core::time::Duration;

use cepa_common::dir::CLOCK_SKEW_SECS;
use cepa_common::ids::RelayId;
use cepa_common::net::directory::NetworkHandle;
use cepa_common::net::skew::ClockSkew;
use cepa_common::net::tls::Tls;
use cepa_common::world::Clock;

use super::{RelayEvent, Reporter};

/// How long after the start authorities are asked for the time first: those of a new network start in the same moment.
const FIRST: Duration = Duration::from_secs(20);
/// How often authorities are asked while too few have answered, and while the clock is wrong.
const SOON: Duration = Duration::from_secs(60);
/// How often authorities are asked otherwise.
const LATER: Duration = Duration::from_secs(3_600);

/// Compares this computer's clock with those of authorities.
pub(crate) struct ClockWatch {
    /// The network, whose authorities are asked.
    pub(crate) network: NetworkHandle,
    /// Who this relay is.
    pub(crate) own: RelayId,
    /// How authorities are reached.
    pub(crate) tls: Tls,
    /// The clock that is watched.
    pub(crate) clock: Clock,
    /// Hears when the clock is found to be wrong, and when it is right again.
    pub(crate) events: Reporter,
}

impl ClockWatch {
    /// Asks again and again.
    pub(crate) async fn run(self) {
        let mut told = None;
        let mut wait = FIRST;
        loop {
            tokio::time::sleep(wait).await;
            // The clock may have been set since the last answers.
            let skew = ClockSkew::default();
            skew.ask_authorities(&self.network, Some(self.own), &self.tls, &self.clock)
                .await;
            wait = match skew.estimate() {
                None => SOON,
                Some(_) => {
                    let wrong_by = skew.wrong_by();
                    if is_news(told, wrong_by) {
                        told = wrong_by;
                        self.events.report(RelayEvent::Clock { wrong_by });
                    }
                    wrong_by.map_or(LATER, |_| SOON)
                }
            };
        }
    }
}

/// Is it news that the clock is wrong by `now` (seconds; `None` for a right clock), after the owner was told `before`?
fn is_news(before: Option<i64>, now: Option<i64>) -> bool {
    match (before, now) {
        (None, None) => false,
        (Some(before), Some(now)) => before.abs_diff(now) > CLOCK_SKEW_SECS,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_wrong_clock_is_told_once() {
        assert!(!is_news(None, None));
        assert!(is_news(None, Some(-7_200)));
        assert!(!is_news(Some(-7_200), Some(-7_210)));
        assert!(is_news(Some(-7_200), Some(-3_600)));
        assert!(is_news(Some(-3_600), None));
    }
}
