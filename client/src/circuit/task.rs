//! The task of a built circuit: owns its layers, moves its streams' bytes.

use std::sync::Arc;
use std::time::Instant;

use cepa_common::cell::CELL_LEN;
use cepa_common::cell::codec::{self, DestroyReason};
use cepa_common::cell::message::{Inward, messages};
use cepa_common::ids::{CircId, HopIndex};
use cepa_common::net::circuit_io::{Streams, for_each_body};
use cepa_common::net::queue::{Inbox, PushError};
use cepa_common::net::switch::{Command, Queue, payload};
use cepa_common::onion::{ClientLayers, OpenFailed};
use cepa_common::stream::Violation;

/// Why a circuit has ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CircuitEnd {
    /// Nobody holds it any more, or it was closed.
    #[error("the circuit is no longer needed")]
    Finished,
    /// The first relay or its link ended it.
    #[error("the circuit was ended at its first hop: {0:?}")]
    Destroyed(DestroyReason),
    /// A hop has lost the rest of it.
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
}

pub(crate) struct CircuitTask {
    pub(crate) link: Arc<Queue>,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) circ: CircId,
    pub(crate) layers: ClientLayers,
    pub(crate) streams: Arc<Streams>,
}

impl CircuitTask {
    /// Runs the circuit until it has ended.
    pub(crate) async fn run(self) -> CircuitEnd {
        let mut running = Running {
            task: self,
            spare: Vec::new(),
            batch: Vec::new(),
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
        self.streams.mux().lose();
        Command::Close {
            circ: self.circ,
            reason: DestroyReason::Finished,
        }
        .send(&self.link);
    }
}

struct Running {
    task: CircuitTask,
    /// Buffers that are used again and again.
    spare: Vec<u8>,
    batch: Vec<u8>,
}

impl Running {
    async fn turn(&mut self) -> Result<(), CircuitEnd> {
        tokio::select! {
            () = self.task.inbox.wait() => {}
            () = self.task.streams.wait() => {}
        }
        let mut arrived = self.task.inbox.take(core::mem::take(&mut self.spare));
        self.on_cells(&mut arrived.cells)?;
        if let Some(reason) = arrived.destroyed {
            return Err(CircuitEnd::Destroyed(reason));
        }
        arrived.cells.clear();
        self.spare = arrived.cells;
        if self.task.streams.mux().is_lost() || Arc::strong_count(&self.task.streams) == 1 {
            return Err(CircuitEnd::Finished);
        }
        self.send()
    }

    fn on_cells(&mut self, cells: &mut [u8]) -> Result<(), CircuitEnd> {
        let now = Instant::now();
        let last = HopIndex((self.task.layers.len() - 1) as u8);
        for cell in cells.as_chunks_mut::<CELL_LEN>().0 {
            let body = codec::body_mut(cell);
            let hop = self.task.layers.open(body)?;
            if hop == last {
                if self
                    .task
                    .streams
                    .mux()
                    .on_inward(now, payload(body))?
                    .is_some()
                {
                    return Err(CircuitEnd::Truncated(hop));
                }
                continue;
            }
            // A hop that is not the last may say only that it has lost the rest.
            return Err(match messages::<Inward<'_>>(payload(body)).next() {
                Some(Ok(Inward::Truncated(_))) => CircuitEnd::Truncated(hop),
                _ => CircuitEnd::Violation(Violation::OutOfOrder),
            });
        }
        Ok(())
    }

    fn send(&mut self) -> Result<(), CircuitEnd> {
        let task = &mut self.task;
        let last = HopIndex((task.layers.len() - 1) as u8);
        let mut rng = rand::rng();
        loop {
            self.batch.clear();
            let more = task
                .streams
                .fill(Instant::now(), &mut rng, task.circ, &mut self.batch);
            if !self.batch.is_empty() {
                let layers = &mut task.layers;
                for_each_body(&mut self.batch, |body| layers.seal(last, body, &mut rng))
                    .map_err(|_| CircuitEnd::Tampered(OpenFailed::Broken))?;
                task.link
                    .push(task.circ, &self.batch)
                    .map_err(|error| match error {
                        PushError::Overrun => CircuitEnd::Overrun,
                        PushError::Closed => CircuitEnd::Destroyed(DestroyReason::Unreachable),
                    })?;
            }
            if !more {
                return Ok(());
            }
        }
    }
}
