//! A window that follows the round-trip time, in the manner of TCP Vegas and of Tor's proposal 324 (docs/protocol.md,
//! 5.14 to 5.19).
//!
//! The controller takes the shortest round trip that it has seen (`base`) for that of the path without queues. Of a
//! window of `w` cells, `w - w * base / now` cells then wait in queues on the way, where `now` is the present round
//! trip. The controller grows the window while that is little and shrinks it while it is much. The controller trusts
//! nothing but the clock: a peer cannot acknowledge what it has not received, and a peer that acknowledges late only
//! slows itself down.

use core::time::Duration;
use std::time::Instant;

use super::{Ack, CongestionControl};

/// A round trip of more than this many times the base comes from a suspended machine, not from a queue (proposal 324,
/// section 2.1.1).
const ABSURD_RTT_FACTOR: u32 = 5_000;
/// The base is forgotten after this time unless another round trip was as short: the path may have become a longer one.
const BASE_LIFE: Duration = Duration::from_secs(30);
/// After this many rounds at the least window with a queue still in sight, the base is taken to be wrong (protocol.md
/// 5.18).
const ROUNDS_AT_MINIMUM: u32 = 4;
/// One step of growth may add one part in this many of the window.
const MOST_GROWTH: u32 = 4;

/// Figures of the controller, in cells where nothing else is said. Network parameters set them (docs/protocol.md, 6.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VegasParams {
    /// Window of a new circuit.
    pub initial: u32,
    /// Least window.
    pub min: u32,
    /// Largest window.
    pub max: u32,
    /// The window grows with fewer cells queued than this.
    pub alpha: u32,
    /// The window shrinks with more cells queued than this.
    pub beta: u32,
    /// Slow start ends with more cells queued than this.
    pub gamma: u32,
    /// Cells that pass within this time (microseconds) do not count as queued. Machines work in batches, and on a fast
    /// path the batch that is being worked on is no congestion.
    pub slack_us: u32,
}

impl Default for VegasParams {
    fn default() -> Self {
        Self {
            initial: 64,
            min: 32,
            max: 4_096,
            alpha: 32,
            beta: 64,
            gamma: 48,
            slack_us: 2_000,
        }
    }
}

/// How the window moves at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The window grows by a third with every full round, until more cells under way are not delivered faster
    /// (protocol.md 5.16).
    SlowStart {
        /// Nanoseconds that each cell took in the round before; 0 if there was none.
        cell_ns: u64,
        /// Cells acknowledged in the round before.
        acked: u32,
    },
    /// The controller makes one decision with every round (protocol.md 5.17).
    Steady {
        /// Number of rounds in a row that found too few cells queued. Each of them doubles the step.
        hungry: u32,
    },
    /// For one round the window is less than the path holds. Queues empty, and everybody on the path sees the path's
    /// true round-trip time.
    Drain {
        /// Window after this round.
        after: u32,
    },
}

/// One round. The round ends when something is acknowledged that was sent after the round began.
#[derive(Clone, Copy, Debug)]
struct Round {
    /// When the round began; `None` for the first, which ends with the first acknowledgement.
    began: Option<Instant>,
    acked: u32,
    /// The shortest round trip in the round. A longer one may come from the machine's own delay or from a burst; a
    /// standing queue delays all of them.
    rtt: Option<Duration>,
    /// Did the window hold the sender back during the whole round?
    was_full: bool,
}

impl Round {
    fn new(began: Option<Instant>) -> Self {
        Self {
            began,
            acked: 0,
            rtt: None,
            was_full: true,
        }
    }

    /// Nanoseconds that each cell of the round took.
    fn cell_ns(&self, now: Instant) -> Option<u64> {
        let took = now.saturating_duration_since(self.began?);
        let each = took.as_nanos() / u128::from(self.acked.max(1));
        u64::try_from(each).ok()
    }
}

/// The shortest round trip of late, at most twice [`BASE_LIFE`] old. The round trip is kept in two halves, each of them
/// for [`BASE_LIFE`], so that old round trips can be forgotten.
#[derive(Clone, Copy, Debug)]
struct Base {
    former: Duration,
    current: Duration,
    since: Instant,
}

impl Base {
    fn new(now: Instant, rtt: Duration) -> Self {
        Self {
            former: rtt,
            current: rtt,
            since: now,
        }
    }

    fn add(&mut self, now: Instant, rtt: Duration) {
        if now.saturating_duration_since(self.since) >= BASE_LIFE {
            self.former = self.current;
            self.current = rtt;
            self.since = now;
        }
        self.current = self.current.min(rtt);
    }

    fn get(&self) -> Duration {
        self.former.min(self.current)
    }
}

/// The controller of one direction of one circuit.
#[derive(Clone, Debug)]
pub struct Vegas {
    params: VegasParams,
    window: u32,
    phase: Phase,
    base: Option<Base>,
    round: Round,
    rounds_at_min: u32,
}

impl Vegas {
    /// A controller at its start. Figures that contradict each other are put in order, so that no parameter can stop a
    /// circuit.
    pub fn new(params: VegasParams) -> Self {
        let min = params.min.max(1);
        let max = params.max.max(min);
        let beta = params.beta.max(params.alpha);
        let params = VegasParams {
            min,
            max,
            beta,
            initial: params.initial.clamp(min, max),
            ..params
        };
        Self {
            params,
            window: params.initial,
            phase: Phase::SlowStart {
                cell_ns: 0,
                acked: 0,
            },
            base: None,
            round: Round::new(None),
            rounds_at_min: 0,
        }
    }

    /// Is the controller still in slow start, looking for the path's capacity?
    pub fn is_in_slow_start(&self) -> bool {
        matches!(self.phase, Phase::SlowStart { .. })
    }

    /// Number of cells of the window that wait in queues if a round trip takes `rtt` (protocol.md 5.15).
    fn queued(&self, rtt: Duration) -> u32 {
        let slack = u128::from(self.window) * u128::from(self.params.slack_us) * 1_000;
        let slack = slack / rtt.as_nanos().max(1);
        let slack = u32::try_from(slack).unwrap_or(u32::MAX);
        (self.window - self.in_motion(rtt)).saturating_sub(slack)
    }

    /// Number of cells of the window that are on their way and wait in no queue: the bandwidth-delay product.
    fn in_motion(&self, rtt: Duration) -> u32 {
        let base = self.base.map_or(rtt, |base| base.get());
        let (base, rtt) = (base.as_nanos().max(1), rtt.as_nanos().max(1));
        let cells = u128::from(self.window) * base / rtt;
        u32::try_from(cells).unwrap_or(u32::MAX).min(self.window)
    }

    fn set_window(&mut self, cells: u32) {
        self.window = cells.clamp(self.params.min, self.params.max);
    }

    /// Ends a round of slow start and returns the next phase.
    ///
    /// Bursts make single round trips long, well before a path is full. The rate of delivery says whether the path is
    /// full: if it is, a third more cells under way do not come in the same time. That news is one round old, and in
    /// that round the window has grown once more. So each round grows the window by a third and does not double it: the
    /// window then exceeds the path's capacity by less than one bandwidth-delay product.
    fn slow_start(&mut self, round: &Round, end: &Ack, before_ns: u64, before: u32) -> Phase {
        // The MARK that ends the round was sent at the round's very beginning, before the burst of the round's growth.
        // The queue that the MARK waited in stood there before.
        let rtt = end.rtt;
        let (Some(cell_ns), true) = (round.cell_ns(end.now), round.was_full) else {
            self.grow_in_slow_start(round.was_full);
            return Phase::SlowStart {
                cell_ns: before_ns,
                acked: before,
            };
        };
        let were_more = before > 0 && u64::from(round.acked) * 8 >= u64::from(before) * 9;
        let were_faster = cell_ns.saturating_mul(10) <= before_ns.saturating_mul(9);
        if self.queued(rtt) > self.params.gamma || were_more && !were_faster {
            let base = self.base.map_or(rtt, |base| base.get());
            let held = base.as_nanos() / u128::from(cell_ns.max(1));
            let held = u32::try_from(held).unwrap_or(u32::MAX).min(self.window);
            self.set_window(held.saturating_add(self.params.alpha));
            return Phase::Steady { hungry: 0 };
        }
        self.grow_in_slow_start(true);
        if self.window == self.params.max {
            return Phase::Steady { hungry: 0 };
        }
        Phase::SlowStart {
            cell_ns,
            acked: round.acked,
        }
    }

    fn grow_in_slow_start(&mut self, was_full: bool) {
        if was_full {
            self.set_window(self.window.saturating_add(self.window / 3));
        }
    }

    /// Ends a round of the steady phase and returns the next phase.
    fn steady(&mut self, round: &Round, hungry: u32) -> Phase {
        let Some(rtt) = round.rtt else {
            return Phase::Steady { hungry };
        };
        let VegasParams { alpha, beta, .. } = self.params;
        let queued = self.queued(rtt);
        self.watch_minimum(queued > beta);
        if queued > beta {
            let held = self.in_motion(rtt);
            let after = held.saturating_add(alpha / 2);
            // On a short path the queue is most of the window, and it is enough to shrink the window.
            let dip = if held > beta { held / 8 } else { 0 };
            self.set_window(held.saturating_sub(dip).max(after.saturating_sub(held)));
            return Phase::Drain { after };
        }
        if queued >= alpha || !round.was_full {
            let step = u32::from(round.was_full);
            self.set_window(self.window.saturating_add(step));
            return Phase::Steady { hungry: 0 };
        }
        let step = (1u32 << hungry.saturating_sub(1).min(16)).saturating_mul(alpha - queued) / 8;
        let most = self.window / MOST_GROWTH;
        self.set_window(self.window.saturating_add(step.clamp(1, most.max(1))));
        Phase::Steady {
            hungry: hungry.saturating_add(1),
        }
    }

    /// Forgets the base when the window cannot shrink and there still seems to be a queue: the path has become a longer
    /// one.
    fn watch_minimum(&mut self, congested: bool) {
        if !congested || self.window > self.params.min {
            self.rounds_at_min = 0;
            return;
        }
        self.rounds_at_min += 1;
        if self.rounds_at_min >= ROUNDS_AT_MINIMUM {
            self.rounds_at_min = 0;
            self.base = None;
        }
    }
}

impl CongestionControl for Vegas {
    fn window_cells(&self) -> u32 {
        self.window
    }

    fn on_ack(&mut self, ack: Ack) {
        // Sending and acknowledgement may have happened in one tick of the clock. A round trip is never taken to be
        // zero.
        let rtt = ack.rtt.max(Duration::from_micros(1));
        let ack = Ack { rtt, ..ack };
        if let Some(base) = &self.base
            && rtt > base.get().saturating_mul(ABSURD_RTT_FACTOR)
        {
            return;
        }
        match &mut self.base {
            Some(base) => base.add(ack.now, rtt),
            none => *none = Some(Base::new(ack.now, rtt)),
        }
        let round = &mut self.round;
        round.rtt = Some(round.rtt.map_or(rtt, |least| least.min(rtt)));
        round.was_full &= ack.was_full;
        round.acked = round.acked.saturating_add(ack.cells);
        let is_over = |began| ack.now.checked_sub(rtt).is_none_or(|sent| sent >= began);
        if !round.began.is_none_or(is_over) {
            return;
        }
        let round = *round;
        self.phase = match self.phase {
            Phase::SlowStart { cell_ns, acked } => self.slow_start(&round, &ack, cell_ns, acked),
            Phase::Steady { hungry } => self.steady(&round, hungry),
            Phase::Drain { after } => {
                self.set_window(after);
                Phase::Steady { hungry: 0 }
            }
        };
        self.round = Round::new(Some(ack.now));
    }
}
