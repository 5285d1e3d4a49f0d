//! Finds out whether the far end of a circuit is still there by asking it, long before TCP would give up.
//!
//! A relay that hangs keeps its links open, because the kernel goes on acknowledging for it. So a circuit is asked end
//! to end when nothing has come from it for a while though something is owed: a stream to the last hop's own directory
//! is opened, which every relay answers at once. If no answer comes to that either, the circuit is lost, and streams
//! that were to be opened on it can move to another.
//!
//! This file is pure: [`Liveness::next`] says what to do and when to ask again.

use core::time::Duration;
use std::time::Instant;

use cepa_common::stream::Owes;

/// While something is owed, silence of this time and two round trips is suspicious.
const OWED_SILENCE: Duration = Duration::from_millis(1_000);
/// On a circuit with open streams of which none is owed anything, silence of this time is suspicious. An application
/// may wait for hours, but not on a circuit that is gone.
const IDLE_SILENCE: Duration = Duration::from_secs(20);
/// An answer to the question takes at most three round trips and this time.
const ANSWER: Duration = Duration::from_millis(1_500);
/// No round trip is taken to be longer than this: a queue that long is as bad as a loss.
const LONGEST_RTT: Duration = Duration::from_secs(5);

/// What to do about a circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing is to be done before that time. The caller comes back then, if nothing was heard until then.
    Wait(Instant),
    /// Ask the far end, say so by [`Liveness::on_asked`], then come back.
    Ask,
    /// The far end has not answered: the circuit is gone.
    Lost,
}

/// What is known about one circuit's far end.
#[derive(Clone, Debug)]
pub(crate) struct Liveness {
    heard: Instant,
    rtt: Duration,
    /// Since when the client has waited for an answer.
    asked: Option<Instant>,
    /// Has somebody reason to doubt the circuit? Then it is asked without waiting for silence.
    doubted: bool,
}

impl Liveness {
    /// The state of a circuit that was built just now and whose last hop took `rtt` to answer.
    pub(crate) fn new(now: Instant, rtt: Duration) -> Self {
        Self {
            heard: now,
            rtt: rtt.min(LONGEST_RTT),
            asked: None,
            doubted: false,
        }
    }

    /// Notes that something came from the far end. Returns whether an answer had been awaited.
    pub(crate) fn on_heard(&mut self, now: Instant, rtt: Option<Duration>) -> bool {
        self.heard = now;
        self.doubted = false;
        if let Some(rtt) = rtt {
            self.rtt = rtt.min(LONGEST_RTT);
        }
        self.asked.take().is_some()
    }

    /// Notes that another circuit was lost, that the machine slept, or that its network changed.
    pub(crate) fn doubt(&mut self) {
        self.doubted = true;
    }

    /// What to do now.
    pub(crate) fn next(&mut self, now: Instant, owed: Owes) -> Step {
        if let Some(asked) = self.asked {
            let until = asked + ANSWER + self.rtt * 3;
            return if now < until {
                Step::Wait(until)
            } else {
                Step::Lost
            };
        }
        let patience = match owed {
            Owes::Nothing if !self.doubted => return Step::Wait(now + IDLE_SILENCE),
            _ if self.doubted => Duration::ZERO,
            Owes::Nothing | Owes::Idle => IDLE_SILENCE,
            Owes::Answer | Owes::Ack => OWED_SILENCE + self.rtt * 2,
        };
        let until = self.heard + patience;
        if !self.doubted && now < until {
            return Step::Wait(until);
        }
        // If an acknowledgement is owed, the mark was the question already.
        match owed {
            Owes::Ack => Step::Wait(self.on_asked(now)),
            _ => Step::Ask,
        }
    }

    /// Notes that the far end is being asked. Returns until when its answer is awaited. As long as nothing is asked,
    /// silence proves nothing.
    pub(crate) fn on_asked(&mut self, now: Instant) -> Instant {
        self.doubted = false;
        self.asked = Some(now);
        now + ANSWER + self.rtt * 3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(100);
    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_far_end_that_answers_is_asked_and_kept() {
        let start = Instant::now();
        let mut far = Liveness::new(start, RTT);
        let asks = start + OWED_SILENCE + RTT * 2;
        assert_eq!(far.next(start, Owes::Answer), Step::Wait(asks));
        assert_eq!(far.next(asks, Owes::Answer), Step::Ask);
        far.on_asked(asks);
        let until = asks + ANSWER + RTT * 3;
        assert_eq!(far.next(asks, Owes::Answer), Step::Wait(until));
        assert!(far.on_heard(asks + RTT, None));
        // The destination is slow: the circuit is asked again after an equal silence, and is never given up for that.
        let again = asks + RTT + OWED_SILENCE + RTT * 2;
        assert_eq!(
            far.next(until, Owes::Answer),
            Step::Wait(again).max_ask(until, again)
        );
    }

    impl Step {
        /// At `now`, the step is a wait until `at`, or the question if that time is over.
        fn max_ask(self, now: Instant, at: Instant) -> Self {
            if now < at { self } else { Self::Ask }
        }
    }

    #[test]
    fn a_black_hole_is_found_in_seconds() {
        for owed in [Owes::Answer, Owes::Ack] {
            let start = Instant::now();
            let mut far = Liveness::new(start, RTT);
            let mut now = start;
            let lost = loop {
                match far.next(now, owed) {
                    Step::Wait(until) => now = until,
                    Step::Ask => {
                        assert_eq!(owed, Owes::Answer);
                        far.on_asked(now);
                    }
                    Step::Lost => break now - start,
                }
            };
            assert_eq!(lost, OWED_SILENCE + ANSWER + RTT * 5);
        }
    }

    #[test]
    fn an_idle_circuit_is_asked_now_and_then_and_an_unused_one_never() {
        let start = Instant::now();
        let mut far = Liveness::new(start, RTT);
        assert_eq!(
            far.next(start, Owes::Idle),
            Step::Wait(start + IDLE_SILENCE)
        );
        let later = start + IDLE_SILENCE * 9;
        assert_eq!(
            far.next(later, Owes::Nothing),
            Step::Wait(later + IDLE_SILENCE)
        );
        assert_eq!(far.next(later, Owes::Idle), Step::Ask);
    }

    #[test]
    fn a_question_that_was_not_asked_is_owed_no_answer() {
        let start = Instant::now();
        let mut far = Liveness::new(start, RTT);
        for doubted in [false, true] {
            if doubted {
                far.doubt();
            }
            for n in 1..100 {
                let now = start + IDLE_SILENCE * n;
                assert_eq!(far.next(now, Owes::Idle), Step::Ask);
            }
        }
    }

    #[test]
    fn doubt_asks_at_once_and_hearing_ends_it() {
        let start = Instant::now();
        let mut far = Liveness::new(start, RTT);
        far.doubt();
        assert_eq!(far.next(start + MS, Owes::Nothing), Step::Ask);
        far.on_asked(start + MS);
        assert!(far.on_heard(start + MS * 50, Some(MS * 49)));
        assert!(!far.on_heard(start + MS * 51, None));
        assert!(matches!(
            far.next(start + MS * 60, Owes::Nothing),
            Step::Wait(_)
        ));
        far.doubt();
        assert!(!far.on_heard(start + MS * 61, None));
        assert!(matches!(
            far.next(start + MS * 62, Owes::Idle),
            Step::Wait(_)
        ));
    }

    #[test]
    fn absurd_round_trips_and_steps_of_time_do_no_harm() {
        let now = Instant::now() + IDLE_SILENCE;
        let mut far = Liveness::new(now, Duration::MAX);
        assert!(
            matches!(far.next(now, Owes::Ack), Step::Wait(until) if until <= now + LONGEST_RTT * 4)
        );
        assert!(matches!(
            far.next(now - IDLE_SILENCE, Owes::Ack),
            Step::Wait(_)
        ));
        far.on_heard(now - IDLE_SILENCE, Some(Duration::MAX));
        assert!(far.rtt <= LONGEST_RTT);
    }
}
