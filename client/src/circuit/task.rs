//! The task of a built circuit. The task owns the circuit's layers and moves the bytes of its streams.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cepa_common::cell::codec::{self, DestroyReason};
use cepa_common::cell::message::{Inward, messages};
use cepa_common::cell::{Body, Payload};
use cepa_common::flow::window::SendWindow;
use cepa_common::ids::HopIndex;
use cepa_common::net::buffers;
use cepa_common::net::circuit_end::{EndDriver, Layers};
use cepa_common::net::queue::{PushError, TableCommand};
use cepa_common::onion::{ClientLayers, OpenFailed};
use cepa_common::stream::{LegId, Mux, Opener, StreamKey, Violation};
use cepa_common::world::steady;
use rand::CryptoRng;
use tokio::time::Sleep;

use super::built::CircuitInner;
use super::liveness::{Liveness, Step};

/// Why a circuit has ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CircuitEnd {
    /// Nobody holds the circuit any more, or it was closed.
    #[error("the circuit is no longer needed")]
    Finished,
    /// The first relay or its link ended the circuit.
    #[error("the circuit was ended at its first hop: {0:?}")]
    Destroyed(DestroyReason),
    /// A hop has lost the rest of the circuit.
    #[error("{0} has lost the rest of the circuit")]
    Truncated(HopIndex),
    /// A cell was changed on its way.
    #[error(transparent)]
    Tampered(#[from] OpenFailed),
    /// A hop said something that it may not.
    #[error("a hop broke the protocol: {0}")]
    Violation(#[from] Violation),
    /// More was queued than the circuit's window can account for.
    #[error("the circuit's queue overran")]
    Overrun,
    /// Nothing comes from the far end any more.
    #[error("the circuit's far end does not answer any more")]
    Silent,
}

impl From<PushError> for CircuitEnd {
    fn from(error: PushError) -> Self {
        match error {
            PushError::Overrun => Self::Overrun,
            PushError::Closed | PushError::Ended => Self::Destroyed(DestroyReason::Unreachable),
        }
    }
}

/// A client's layers of a built circuit, whose streams end at its last hop.
pub(crate) struct LastHopLayers {
    layers: ClientLayers,
    last: HopIndex,
}

impl LastHopLayers {
    /// The layers of a circuit to which no hop is added any more; `None` if it has no hop.
    pub(crate) fn new(layers: ClientLayers) -> Option<Self> {
        let last = u8::try_from(layers.len().checked_sub(1)?).ok()?;
        Some(Self {
            layers,
            last: HopIndex(last),
        })
    }
}

impl Layers for LastHopLayers {
    type End = CircuitEnd;

    fn open(&mut self, body: &mut Body) -> Result<(), CircuitEnd> {
        let hop = self.layers.open(body)?;
        if hop == self.last {
            return Ok(());
        }
        Err(ended_by(hop, codec::payload(body)))
    }

    fn seal(&mut self, body: &mut Body, rng: &mut impl CryptoRng) -> Result<(), CircuitEnd> {
        let sealed = self.layers.seal(self.last, body, rng);
        sealed.map_err(|_| CircuitEnd::Tampered(OpenFailed::Broken))
    }
}

/// The task of one leg of a circuit.
pub(crate) struct CircuitTask {
    pub(crate) end: EndDriver<LastHopLayers, Opener>,
    /// The round trip to the last hop, when that hop was added.
    pub(crate) rtt: Duration,
    /// What this leg shares with the circuit's other legs.
    pub(crate) shared: Arc<CircuitInner>,
}

impl CircuitTask {
    /// Runs the circuit until it has ended.
    pub(crate) async fn run(self) -> CircuitEnd {
        let liveness = Liveness::new(steady::now(), self.rtt);
        let mut running = Running {
            task: self,
            liveness,
            question: None,
            alarm: Box::pin(tokio::time::sleep(Duration::ZERO)),
            watching: false,
            doubts: 0,
        };
        loop {
            if let Err(end) = running.turn().await {
                return end;
            }
        }
    }
}

impl Drop for CircuitTask {
    fn drop(&mut self) {
        let end = &self.end;
        end.streams.lose_leg(end.leg);
        TableCommand::Close {
            circ: end.circ,
            reason: DestroyReason::Finished,
        }
        .send(&end.link);
    }
}

struct Running {
    task: CircuitTask,
    liveness: Liveness,
    /// The stream to the last hop's directory by which that hop is asked whether it is there.
    question: Option<StreamKey>,
    /// When to look at the liveness again. The alarm is not set anew with every cell. When the alarm rings, the task
    /// looks whether anything was heard meanwhile.
    alarm: Pin<Box<Sleep>>,
    /// Are streams open? Then the alarm rings every [`WATCH`].
    watching: bool,
    /// Number of doubts that have been looked into.
    doubts: u32,
}

/// How often a circuit in use is looked at. What the far end owes changes too fast to set the alarm by it.
const WATCH: Duration = Duration::from_millis(500);

impl Running {
    async fn turn(&mut self) -> Result<(), CircuitEnd> {
        tokio::select! {
            () = self.task.end.wait() => {}
            () = self.alarm.as_mut() => {}
        }
        let mut arrived = self.task.end.inbox.take();
        self.on_cells(&mut arrived.cells)?;
        if let Some(reason) = arrived.destroyed {
            return Err(CircuitEnd::Destroyed(reason));
        }
        buffers::give_back(arrived.cells);
        if self.is_over() {
            return Err(CircuitEnd::Finished);
        }
        self.watch()?;
        self.task.end.send()
    }

    /// Is the circuit no longer of use to anybody?
    fn is_over(&self) -> bool {
        let streams = &self.task.end.streams;
        let mut mux = streams.mux();
        // The task of each leg holds the streams once.
        if Arc::strong_count(streams) <= mux.leg_ids().count() {
            mux.lose();
            drop(mux);
            streams.notify();
            return true;
        }
        mux.is_lost() || !mux.has_leg(self.task.end.leg)
    }

    /// Watches the far end: asks it when it has been silent, and gives the circuit up if it does not answer.
    fn watch(&mut self) -> Result<(), CircuitEnd> {
        let (shared, leg) = (&self.task.shared, self.task.end.leg);
        let doubted = shared.is_doubted(&mut self.doubts);
        if doubted {
            self.liveness.doubt();
        }
        let now = steady::now();
        let mut mux = self.task.end.streams.mux();
        let in_use = mux.in_use() > 0;
        if !self.watching && in_use {
            self.watching = true;
            self.alarm.as_mut().reset((now + WATCH).into());
        }
        if !doubted && !self.alarm.is_elapsed() {
            return Ok(());
        }
        // A leg that is alone looks for another leg.
        if let Some(grower) = &shared.grower
            && !mux.is_complete()
            && grower.is_due(
                now,
                mux.cells_moved(),
                shortest(&mux, leg, self.task.rtt),
                in_use,
            )
        {
            drop(mux);
            grower.begin(leg, &self.task.end.streams, shared);
            mux = self.task.end.streams.mux();
        }
        let owed = mux.owes(leg);
        let until = loop {
            match self.liveness.next(now, owed) {
                Step::Wait(until) => break until,
                Step::Ask => {
                    let is_asked = mux.ask(leg) || {
                        self.question = mux.open_question();
                        self.question.is_some()
                    };
                    if !is_asked {
                        // What could not be asked proves nothing, and is asked later.
                        break now + WATCH;
                    }
                    self.liveness.on_asked(now);
                }
                Step::Lost => return Err(CircuitEnd::Silent),
            }
        };
        self.watching = mux.in_use() > 0;
        drop(mux);
        let until = if self.watching {
            until.min(now + WATCH)
        } else {
            until
        };
        self.alarm.as_mut().reset(until.into());
        Ok(())
    }

    /// Notes that something came, which answers whatever was asked.
    fn heard(&mut self, now: Instant) {
        let mut mux = self.task.end.streams.mux();
        let window = mux.send_window(self.task.end.leg);
        let rtt = window.and_then(SendWindow::last_rtt);
        self.liveness.on_heard(now, rtt);
        if let Some(question) = self.question.take() {
            mux.release(question);
        }
    }

    fn on_cells(&mut self, cells: &mut [u8]) -> Result<(), CircuitEnd> {
        let now = steady::now();
        if !cells.is_empty() {
            self.heard(now);
        }
        let end = &mut self.task.end;
        let mut opened = end.open(cells);
        let leg = end.leg;
        let truncated = end.read(&mut opened, |mux, payload| mux.on_inward(leg, now, payload))?;
        if truncated.is_some() {
            return Err(CircuitEnd::Truncated(end.layers.last));
        }
        opened.finish()
    }
}

/// The shorter of two round trips: the one measured when the leg was built, and the last one.
fn shortest(mux: &Mux<Opener>, leg: LegId, built: Duration) -> Duration {
    let last = mux.send_window(leg).and_then(SendWindow::last_rtt);
    last.map_or(built, |last| last.min(built))
}

/// Why the circuit ends after a hop that is not the last has spoken. Such a hop may say only that it has lost the rest.
fn ended_by(hop: HopIndex, payload: &Payload) -> CircuitEnd {
    match messages::<Inward<'_>>(payload).next() {
        Some(Ok(Inward::Truncated(_))) => CircuitEnd::Truncated(hop),
        _ => CircuitEnd::Violation(Violation::OutOfOrder),
    }
}

#[cfg(test)]
#[path = "task_tests.rs"]
mod tests;
