//! The task of a circuit that ends here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cepa_common::cell::CELL_LEN;
use cepa_common::cell::codec::{self, DestroyReason};
use cepa_common::flow::vegas::Vegas;
use cepa_common::handshake::RelayParams;
use cepa_common::ids::{CircId, RelayId};
use cepa_common::net::circuit_io::{Streams, for_each_body};
use cepa_common::net::queue::Inbox;
use cepa_common::net::switch::{Command, Queue, payload};
use cepa_common::onion::{HopKeys, Opened, RelayBackward, RelayForward, Suite};
use cepa_common::stream::{Mux, MuxConfig, Request, Side, Target};
use tokio::time::{Instant as Deadline, sleep_until};

use crate::directory::serve_connection;
use crate::exit;
use crate::start::Core;

/// What a client wants its circuit extended to.
pub(super) struct Extend {
    /// The next relay.
    pub(super) relay: RelayId,
    /// The client's half of the handshake with it.
    pub(super) message: Box<[u8; codec::CREATE_LEN]>,
}

/// Why a circuit has ended here.
pub(super) enum End {
    /// This relay ends it, and tells the client's side why.
    Here(DestroyReason),
    /// The client's side has ended it.
    There,
    /// It is extended, and belongs to the tables of the links now.
    Passed,
}

/// A circuit that ends at this relay.
pub(crate) struct EndHop {
    pub(super) core: Arc<Core>,
    /// The link to the client's side.
    pub(super) link: Arc<Queue>,
    /// The relay at its far side, if it is one.
    pub(super) peer: Option<RelayId>,
    pub(super) circ: CircId,
    pub(super) inbox: Arc<Inbox>,
    pub(super) forward: Box<RelayForward>,
    pub(super) backward: Box<RelayBackward>,
    pub(super) streams: Arc<Streams>,
    /// Has a cell opened? Until then the client has proven nothing.
    confirmed: bool,
    /// Buffers that are used again and again.
    spare: Vec<u8>,
    batch: Vec<u8>,
}

impl EndHop {
    pub(crate) fn new(
        core: Arc<Core>,
        link: Arc<Queue>,
        peer: Option<RelayId>,
        circ: CircId,
        inbox: Arc<Inbox>,
        (suite, keys, params): (Suite, HopKeys, RelayParams),
    ) -> Self {
        let mux = Mux::new(MuxConfig {
            side: Side::Relay,
            control: Box::new(Vegas::new(
                core.params()
                    .congestion_control(params.circuit_window_cells),
            )),
            mark_interval_cells: u32::from(params.mark_interval_cells),
            stream_window_bytes: params.stream_window_bytes,
            budget: core.budget.clone(),
        });
        Self {
            core,
            link,
            peer,
            circ,
            inbox,
            forward: Box::new(RelayForward::new(suite, keys.forward)),
            backward: Box::new(RelayBackward::new(suite, keys.backward)),
            streams: Streams::new(mux),
            confirmed: false,
            spare: Vec::new(),
            batch: Vec::new(),
        }
    }

    /// Runs the circuit until it has ended here.
    pub(crate) async fn run(mut self) {
        let (circ, link, streams) = (self.circ, self.link.clone(), self.streams.clone());
        self.core.memory.add_circuit(&link, circ, &streams);
        let half_open = Duration::from_secs(self.core.params().half_open_seconds.into());
        let expires = Deadline::now() + half_open;
        let end = loop {
            match self.turn(expires).await {
                Ok(None) => {}
                Ok(Some(extend)) => break self.extend(extend).await,
                Err(end) => break end,
            }
        };
        streams.mux().lose();
        if let End::Here(reason) = end {
            Command::Close { circ, reason }.send(&link);
        }
    }

    /// Waits for work and does it. Returns an EXTEND if there was one.
    async fn turn(&mut self, expires: Deadline) -> Result<Option<Extend>, End> {
        tokio::select! {
            () = self.inbox.wait() => {}
            () = self.streams.wait() => {}
            () = sleep_until(expires), if !self.confirmed => {
                return Err(End::Here(DestroyReason::Resource));
            }
        }
        if self.streams.mux().is_lost() {
            // Ended to save memory.
            return Err(End::Here(DestroyReason::Resource));
        }
        let mut arrived = self.inbox.take(core::mem::take(&mut self.spare));
        let extend = self.on_cells(&mut arrived.cells)?;
        if arrived.destroyed.is_some() {
            return Err(End::There);
        }
        arrived.cells.clear();
        self.spare = arrived.cells;
        self.send()?;
        Ok(extend)
    }

    fn on_cells(&mut self, cells: &mut [u8]) -> Result<Option<Extend>, End> {
        const PROTOCOL: End = End::Here(DestroyReason::Protocol);
        let now = Instant::now();
        let mut extend = None;
        for cell in cells.as_chunks_mut::<CELL_LEN>().0 {
            // While the circuit extends, nothing may be said to this hop.
            if extend.is_some() {
                return Err(PROTOCOL);
            }
            let body = codec::body_mut(cell);
            match self.forward.open(body) {
                Ok(Opened::Ours) => {}
                // There is no hop behind this one, or it did not open: one reason for both (S12).
                Ok(Opened::Onward) | Err(_) => return Err(PROTOCOL),
            }
            self.confirmed = true;
            let requests = self.streams.mux().on_outward(now, payload(body));
            let requests = requests.map_err(|violation| {
                tracing::debug!(%violation, "a client broke the protocol");
                PROTOCOL
            })?;
            for request in requests {
                match request {
                    Request::Extend { relay, message } => extend = Some(Extend { relay, message }),
                    Request::Begin(key, target) => self.begin(key, target),
                }
            }
        }
        Ok(extend)
    }

    fn begin(&self, key: cepa_common::stream::StreamKey, target: Target) {
        let Some(tasks) = self.core.tasks() else {
            return;
        };
        let stream = self.streams.hold(key);
        match target {
            Target::Directory => {
                stream.accept();
                tasks.spawn(serve_connection(stream, self.core.directory.clone()));
            }
            Target::Host(host, port) => {
                tasks.spawn(exit::serve(self.core.clone(), stream, host, port));
            }
        }
    }

    /// Seals and sends what the streams have to say.
    pub(super) fn send(&mut self) -> Result<(), End> {
        loop {
            self.batch.clear();
            let more =
                self.streams
                    .fill(Instant::now(), &mut rand::rng(), self.circ, &mut self.batch);
            if !self.batch.is_empty() {
                let backward = &mut self.backward;
                let sealed = for_each_body(&mut self.batch, |body| backward.speak(body));
                sealed.map_err(|_| End::Here(DestroyReason::Protocol))?;
                self.push()?;
            }
            if !more {
                return Ok(());
            }
        }
    }

    fn push(&self) -> Result<(), End> {
        use cepa_common::net::queue::PushError;
        self.link
            .push(self.circ, &self.batch)
            .map_err(|error| match error {
                PushError::Overrun => End::Here(DestroyReason::Resource),
                PushError::Closed => End::There,
            })
    }

    /// Waits for `work` as long as the client's side keeps the circuit and
    /// says nothing on it.
    pub(super) async fn while_quiet<T>(&self, work: impl Future<Output = T>) -> Result<T, End> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                () = self.inbox.wait() => {
                    let arrived = self.inbox.take(Vec::new());
                    if arrived.destroyed.is_some() {
                        return Err(End::There);
                    }
                    if !arrived.cells.is_empty() {
                        return Err(End::Here(DestroyReason::Protocol));
                    }
                }
            }
        }
    }
}
