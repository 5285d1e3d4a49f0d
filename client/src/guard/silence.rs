//! When a guard that does not answer CREATE has failed (docs/protocol.md, 6.21.9). Pure: times go in.

use std::time::Duration;

/// Number of CREATEs without an answer, on a link that was silent meanwhile, after which a guard has failed.
const MOST_SILENT: usize = 3;
/// The time within which these count.
const SILENT_TIME: Duration = Duration::from_secs(30);
/// A guard that answers no CREATE by CREATED for this time has failed, whatever else comes from it.
const LONGEST: Duration = Duration::from_secs(60);
/// Number of CREATEs that this takes.
const MOST_UNANSWERED: u32 = 6;

/// The CREATEs that a guard has left without CREATED since its last CREATED.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Silence {
    /// When CREATEs had waited for too long while nothing at all came from the guard.
    silent: Vec<Duration>,
    /// The first and the last CREATE of those without CREATED, and their number.
    unanswered: Option<(Duration, Duration, u32)>,
}

impl Silence {
    /// A CREATE was refused by a guard that has no room, or has waited for too long. `is_silent`: nothing has come from
    /// the guard meanwhile. Returns whether the guard has failed.
    pub(super) fn on_unanswered(&mut self, now: Duration, is_silent: bool) -> bool {
        if is_silent {
            self.silent
                .retain(|at| now.saturating_sub(*at) < SILENT_TIME);
            self.silent.push(now);
        }
        let (first, number) = match self.unanswered {
            Some((first, last, number)) if now.saturating_sub(last) < LONGEST => (first, number),
            _ => (now, 0),
        };
        let number = number.saturating_add(1);
        self.unanswered = Some((first, now, number));
        let is_long = now.saturating_sub(first) >= LONGEST && number >= MOST_UNANSWERED;
        self.silent.len() >= MOST_SILENT || is_long
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// When a guard has failed, by CREATEs at these times (seconds), silent or not.
    fn failed(creates: impl IntoIterator<Item = (u32, bool)>) -> Option<u32> {
        let mut silence = Silence::default();
        let mut creates = creates.into_iter();
        creates.find_map(|(at, is_silent)| {
            let failed = silence.on_unanswered(SECOND * at, is_silent);
            failed.then_some(at)
        })
    }

    #[test]
    fn three_on_a_silent_link_in_half_a_minute_are_a_failure_and_fewer_are_none() {
        assert_eq!(failed([(3, true), (5, true), (6, true)]), Some(6));
        assert_eq!(failed([(3, true), (5, false), (6, true), (7, false)]), None);
        assert_eq!(failed((0..5).map(|n| (n * 16, true))), None);
    }

    #[test]
    fn a_busy_guard_has_a_minute_and_not_for_ever() {
        assert_eq!(failed((0..300).map(|n| (n, false))), Some(60));
        assert_eq!(failed((0..5).map(|n| (n * 20, false))), None);
        // A CREATE now and then that finds the guard busy says nothing.
        assert_eq!(failed((0..99).map(|n| (n * 61, false))), None);
    }
}
