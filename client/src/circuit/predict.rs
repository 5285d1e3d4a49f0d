//! Which ports circuits are kept ready for: those that were asked for lately.

use core::time::Duration;
use std::time::Instant;

use crate::path::ExitTarget;

/// How long a port that was asked for is expected again (Tor's path specification, section 2.1.1).
const MEMORY: Duration = Duration::from_secs(3_600);
/// The most ports remembered, because each may cost two circuits.
const MOST_PORTS: usize = 16;

/// What a client that has just started is expected to ask for.
const FIRST: ExitTarget = ExitTarget::Name(443);

/// The ports asked for lately.
#[derive(Clone, Debug)]
pub struct Predictor {
    /// The targets with the time when each was asked for. The last one asked for is at the end.
    asked: Vec<(ExitTarget, Instant)>,
}

impl Predictor {
    /// A predictor that expects the web until something else is asked for.
    pub fn new(now: Instant) -> Self {
        Self {
            asked: vec![(FIRST, now)],
        }
    }

    /// Notes that `target` was asked for.
    pub fn on_asked(&mut self, target: ExitTarget, now: Instant) {
        // Any exit has a resolver, so a circuit for any port serves.
        if matches!(target, ExitTarget::Resolver | ExitTarget::Any) {
            return;
        }
        self.asked.retain(|(held, _)| *held != target);
        if self.asked.len() == MOST_PORTS {
            self.asked.remove(0);
        }
        self.asked.push((target, now));
    }

    /// Notes that no exit lets out to `target`: no circuit can be ready for it. Otherwise every look for what is missing
    /// would find it first, and nothing else would be built.
    pub fn on_impossible(&mut self, target: ExitTarget) {
        self.asked.retain(|(held, _)| *held != target);
    }

    /// The targets to be ready for, the latest first. A client that has been idle for long expects nothing, so that it
    /// leaves no trace.
    pub fn expected(&self, now: Instant) -> impl Iterator<Item = ExitTarget> {
        let lately = move |at: &Instant| now.saturating_duration_since(*at) < MEMORY;
        self.asked
            .iter()
            .rev()
            .filter(move |(_, at)| lately(at))
            .map(|(target, _)| *target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(ports: &Predictor, now: Instant) -> Vec<ExitTarget> {
        ports.expected(now).collect()
    }

    #[test]
    fn what_was_asked_for_lately_is_expected() {
        let start = Instant::now();
        let at = |minutes: u64| start + Duration::from_secs(60 * minutes);
        let mut ports = Predictor::new(start);
        ports.on_asked(ExitTarget::V4(22), at(30));
        ports.on_asked(ExitTarget::Resolver, at(30));
        ports.on_asked(ExitTarget::Any, at(30));
        assert_eq!(expected(&ports, at(59)), [ExitTarget::V4(22), FIRST]);
        assert_eq!(expected(&ports, at(61)), [ExitTarget::V4(22)]);
        ports.on_asked(FIRST, at(62));
        assert_eq!(expected(&ports, at(62)), [FIRST, ExitTarget::V4(22)]);
        assert!(expected(&ports, at(200)).is_empty());
        // Time that steps back does not make the predictor forget.
        assert_eq!(expected(&ports, start), [FIRST, ExitTarget::V4(22)]);
    }

    #[test]
    fn datagrams_are_expected_like_streams_and_what_no_exit_allows_is_not() {
        let now = Instant::now();
        let mut ports = Predictor::new(now);
        let datagrams = |port| ExitTarget::Udp {
            version: None,
            port,
        };
        ports.on_asked(datagrams(443), now);
        ports.on_asked(datagrams(1_900), now);
        assert_eq!(
            expected(&ports, now),
            [datagrams(1_900), datagrams(443), FIRST]
        );
        ports.on_impossible(datagrams(1_900));
        assert_eq!(expected(&ports, now), [datagrams(443), FIRST]);
    }

    #[test]
    fn a_scan_of_ports_does_not_grow_it() {
        let now = Instant::now();
        let mut ports = Predictor::new(now);
        (1..=9_999).for_each(|port| ports.on_asked(ExitTarget::Name(port), now));
        let held = expected(&ports, now);
        assert_eq!((held.len(), held[0]), (MOST_PORTS, ExitTarget::Name(9_999)));
    }
}
