//! How wrong this computer's clock may be, judged by what relays and authorities say about the time
//! (docs/protocol.md, 2.6).

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::dir::{CLOCK_SKEW_SECS, UnixSecs};
use crate::ids::RelayId;
use crate::net::directory::NetworkHandle;
use crate::net::establish;
use crate::net::tls::Tls;
use crate::sync::lock;
use crate::words::About;
use crate::world::Clock;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Number of relays that must agree before they are believed, because one or two could lie.
const MIN_RELAYS: usize = 3;
/// Number of relays whose newest word is remembered.
const MAX_RELAYS: usize = 15;
/// Number of authorities that are asked for the time.
const TIME_SOURCES: usize = 5;
/// The longest time that asking one authority may take.
const TIME_TIMEOUT: Duration = Duration::from_secs(5);

/// An estimate from what relays have said. The estimate is right while fewer than half of the relays lie.
#[derive(Clone, Debug, Default)]
pub struct SkewEstimate {
    /// The clock's offset from each relay's (seconds, positive if this computer's clock is ahead), the oldest first.
    offsets: VecDeque<(RelayId, i64)>,
}

impl SkewEstimate {
    /// Takes the word of `relay`, whose link key was proven: its clock shows `theirs` when this computer's shows
    /// `ours`. A time of zero says nothing.
    pub fn observe(&mut self, relay: RelayId, ours: UnixSecs, theirs: UnixSecs) {
        if theirs == 0 {
            return;
        }
        let signed = |time: u64| i64::try_from(time).unwrap_or(i64::MAX);
        self.offsets.retain(|(known, _)| *known != relay);
        if self.offsets.len() >= MAX_RELAYS {
            self.offsets.pop_front();
        }
        let offset = signed(ours).saturating_sub(signed(theirs));
        self.offsets.push_back((relay, offset));
    }

    /// The median (seconds, positive if this computer's clock is ahead); `None` before three relays have spoken.
    ///
    /// Of an even number of offsets, the median is the one of the two in the middle that is closer to zero: half of the
    /// relays alone raise no alarm.
    pub fn median(&self) -> Option<i64> {
        if self.offsets.len() < MIN_RELAYS {
            return None;
        }
        let mut sorted: Vec<i64> = self.offsets.iter().map(|(_, offset)| *offset).collect();
        sorted.sort_unstable();
        let upper = sorted.get(sorted.len() / 2).copied()?;
        let lower = sorted.get((sorted.len() - 1) / 2).copied()?;
        // If the two are on different sides of zero, neither is a reason to doubt the clock.
        if (lower < 0) != (upper < 0) {
            return Some(0);
        }
        Some(if lower.unsigned_abs() < upper.unsigned_abs() {
            lower
        } else {
            upper
        })
    }
}

/// The client's estimate. Clones share one estimate.
#[derive(Clone, Debug, Default)]
pub struct ClockSkew(Arc<Mutex<SkewEstimate>>);

impl ClockSkew {
    /// Takes a relay's word as [`SkewEstimate::observe`] does.
    pub fn observe(&self, relay: RelayId, ours: UnixSecs, theirs: UnixSecs) {
        lock(&self.0).observe(relay, ours, theirs);
    }

    /// Says HELLO to some authorities of `network`, each of which proves its key and says what time it is, and takes
    /// their words beside what `clock` shows. A relay is `own`: it says its time too, and does not ask itself.
    pub async fn ask_authorities(
        &self,
        network: &NetworkHandle,
        own: Option<RelayId>,
        tls: &Tls,
        clock: &Clock,
    ) {
        let (newest, id) = (network.newest(), network.network_id());
        let others = newest.authorities().iter();
        let others = others.filter(|authority| Some(authority.identity) != own);
        // A client's HELLO has no time in it.
        let time = own.map_or(0, |_| clock.now_secs());
        let mut asked = JoinSet::new();
        for authority in others.take(TIME_SOURCES) {
            let (authority, tls) = (authority.clone(), tls.clone());
            asked.spawn(timeout(TIME_TIMEOUT, async move {
                let (addresses, key) = (&authority.addresses, authority.identity);
                let link = establish::dial_link(addresses, key.0, &tls, id, time).await;
                Some((key, link.ok()?.hello.time_unix_sec))
            }));
        }
        while let Some(told) = asked.join_next().await {
            if let Ok(Ok(Some((authority, time)))) = told {
                self.observe(authority, clock.now_secs(), time);
            }
        }
    }

    /// By how many seconds this computer's clock is ahead (positive) or behind (negative), as most relays say; `None`
    /// before three relays have spoken. Nobody has proven it: the number is good for advice, never for a decision.
    pub fn estimate(&self) -> Option<i64> {
        lock(&self.0).median()
    }

    /// By how many seconds the clock is ahead, or behind if the number is negative, if that is more than five minutes.
    pub fn wrong_by(&self) -> Option<i64> {
        self.estimate().filter(|median| is_wrong(*median))
    }
}

/// Is a clock wrong that is ahead by this many seconds, or behind if the number is negative?
pub fn is_wrong(median: i64) -> bool {
    median.unsigned_abs() > CLOCK_SKEW_SECS
}

/// What it means for people that the clock is ahead by this many seconds, or behind if the number is negative.
pub fn advice(median: i64) -> String {
    format!("{}; set it, best by NTP", off(median))
}

/// By how much the clock is wrong, in a sentence without its full stop.
pub fn off(median: i64) -> String {
    let direction = if median > 0 { "ahead" } else { "behind" };
    format!(
        "this computer's clock is about {} {direction}, as several others say",
        About(Duration::from_secs(median.unsigned_abs()))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(offsets: &[i64]) -> SkewEstimate {
        let mut estimate = SkewEstimate::default();
        for (n, offset) in (0u8..).zip(offsets) {
            let ours = 1_900_000_000u64;
            estimate.observe(RelayId([n; 32]), ours, ours.saturating_add_signed(-offset));
        }
        estimate
    }

    #[test]
    fn fewer_liars_than_half_change_little_and_two_relays_nothing() {
        assert_eq!(told(&[4_000, 4_000]).median(), None);
        assert_eq!(told(&[4_000, 4_001, -1_000_000]).median(), Some(4_000));
        assert_eq!(
            told(&[-3_600, -3_601, i64::MAX, -3_602, 9_000_000]).median(),
            Some(-3_600)
        );
        assert_eq!(told(&[0, 1, 900, 900]).median(), Some(1));
        assert_eq!(told(&[-900, -900, 900, 900]).median(), Some(0));
    }

    #[test]
    fn one_relay_has_one_word_and_no_time_can_overflow() {
        let mut estimate = SkewEstimate::default();
        for time in [1, 2, 3, u64::MAX, 7] {
            estimate.observe(RelayId([1; 32]), time, u64::MAX - time);
        }
        assert_eq!(estimate.median(), None);
        for n in 0..=255 {
            estimate.observe(RelayId([n; 32]), 0, u64::MAX);
            estimate.observe(RelayId([n; 32]), 5, 0);
        }
        assert_eq!(estimate.offsets.len(), MAX_RELAYS);
        assert_eq!(estimate.median(), Some(-i64::MAX));
    }

    #[test]
    fn advice_names_size_and_direction_and_ends_with_the_cause() {
        let skew = ClockSkew::default();
        let advised = || skew.wrong_by().map(advice);
        let say = |n, theirs| skew.observe(RelayId([n; 32]), 10_000, theirs);
        (1..=3).for_each(|n| say(n, 9_600));
        assert!(advised().is_some_and(|text| text.contains("7 minutes ahead")));
        (1..=3).for_each(|n| say(n, 10_700));
        assert!(advised().is_some_and(|text| text.contains("12 minutes behind")));
        (1..=3).for_each(|n| say(n, 10_300));
        assert_eq!(advised(), None);
    }
}
