//! The task of a circuit that ends here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cepa_common::cell::CELL_LEN;
use cepa_common::cell::codec::{self, Cell, DestroyReason};
use cepa_common::cell::message::SECRET_LEN;
use cepa_common::flow::vegas::Vegas;
use cepa_common::handshake::RelayParams;
use cepa_common::ids::{CircId, RelayId};
use cepa_common::net::buffers;
use cepa_common::net::circuit_io::{Streams, for_each_body};
use cepa_common::net::inbox::Inbox;
use cepa_common::net::queue::PushError;
use cepa_common::net::queue::{LinkQueue, TableCommand};
use cepa_common::onion::{HopKeys, Opened, RelayBackward, RelayForward, Suite};
use cepa_common::stream::{LegId, Mux, MuxConfig, Request, Side, Target};
use cepa_common::world::{random, steady};
use tokio::time::{Instant as Deadline, sleep_until};

use super::EndContext;
use super::sets::Entered;
use crate::directory::serve_connection;
use crate::exit;

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

const PROTOCOL: End = End::Here(DestroyReason::Protocol);

/// What a client asks of the circuit itself.
enum Asked {
    Extend(Extend),
    Link([u8; SECRET_LEN], LegId),
}

/// A circuit that ends at this relay.
pub(crate) struct EndHop {
    pub(super) context: Arc<EndContext>,
    /// The link to the client's side.
    pub(super) link: Arc<LinkQueue>,
    /// The relay at its far side, if it is one.
    pub(super) peer: Option<RelayId>,
    pub(super) circ: CircId,
    pub(super) inbox: Arc<Inbox>,
    pub(super) forward: Box<RelayForward>,
    pub(super) backward: Box<RelayBackward>,
    pub(super) streams: Arc<Streams>,
    /// Which of the streams' legs it is.
    leg: LegId,
    /// Has a cell opened? Until then the client has proven nothing.
    confirmed: bool,
}

impl EndHop {
    pub(crate) fn new(
        context: Arc<EndContext>,
        link: Arc<LinkQueue>,
        peer: Option<RelayId>,
        circ: CircId,
        inbox: Arc<Inbox>,
        (suite, keys, params): (Suite, HopKeys, RelayParams),
    ) -> Self {
        let mux = Mux::new(MuxConfig {
            side: Side::Relay,
            control: Box::new(Vegas::new(
                context
                    .params
                    .get()
                    .congestion_control(params.circuit_window_cells),
            )),
            mark_interval_cells: u32::from(params.mark_interval_cells),
            stream_window_bytes: params.stream_window_bytes,
            budget: context.memory.budget().clone(),
        });
        Self {
            context,
            link,
            peer,
            circ,
            inbox,
            forward: Box::new(RelayForward::new(suite, keys.forward)),
            backward: Box::new(RelayBackward::new(suite, keys.backward)),
            streams: Streams::new(mux),
            leg: LegId::FIRST,
            confirmed: false,
        }
    }

    /// Runs the circuit until it has ended here.
    pub(crate) async fn run(mut self) {
        let (circ, link) = (self.circ, self.link.clone());
        self.context.memory.add_circuit(&link, circ, &self.streams);
        let half_open = Duration::from_secs(self.context.params.get().half_open_seconds.into());
        let expires = Deadline::now() + half_open;
        let (end, streams, leg) = loop {
            match self.turn(expires).await {
                Ok(None) => {}
                Ok(Some(extend)) => {
                    let (streams, leg) = (self.streams.clone(), self.leg);
                    break (self.extend(extend).await, streams, leg);
                }
                Err(end) => break (end, self.streams.clone(), self.leg),
            }
        };
        streams.lose_leg(leg);
        if let End::Here(reason) = end {
            TableCommand::Close { circ, reason }.send(&link);
        }
    }

    /// Waits for work and does it. Returns an EXTEND if there was one.
    async fn turn(&mut self, expires: Deadline) -> Result<Option<Extend>, End> {
        tokio::select! {
            () = self.inbox.wait() => {}
            () = self.streams.wait(self.leg) => {}
            () = sleep_until(expires), if !self.confirmed => {
                return Err(End::Here(DestroyReason::Resource));
            }
        }
        if self.streams.mux().is_lost() {
            // Ended to save memory.
            return Err(End::Here(DestroyReason::Resource));
        }
        if !self.streams.mux().has_leg(self.leg) {
            // The client has given it up on the other leg.
            return Err(End::Here(DestroyReason::Finished));
        }
        let mut arrived = self.inbox.take();
        let extend = self.on_cells(&mut arrived.cells)?;
        if arrived.destroyed.is_some() {
            return Err(End::There);
        }
        buffers::give_back(arrived.cells);
        self.send()?;
        Ok(extend)
    }

    fn on_cells(&mut self, cells: &mut [u8]) -> Result<Option<Extend>, End> {
        let now = steady::now();
        // All are opened before the streams' lock is held.
        let cells = cells.as_chunks_mut::<CELL_LEN>().0;
        let mut open =
            |cell: &mut Cell| matches!(self.forward.open(codec::body_mut(cell)), Ok(Opened::Ours));
        let opened = cells
            .iter_mut()
            .map_while(|cell| open(cell).then_some(()))
            .count();
        self.confirmed |= opened > 0;
        let opened_all = opened == cells.len();
        let (mut read, mut extend) = (0, None);
        while read < opened {
            // While the circuit extends, nothing may be said to this hop.
            if extend.is_some() {
                return Err(PROTOCOL);
            }
            let (more, asked) = self.on_opened(now, &mut cells[read..opened])?;
            read += more;
            match asked {
                Some(Asked::Extend(asked)) => extend = Some(asked),
                Some(Asked::Link(secret, leg)) => self.link(&secret, leg)?,
                None => {}
            }
        }
        // There is no hop behind this one, or it did not open: one reason for both (S12).
        if !opened_all {
            return Err(PROTOCOL);
        }
        Ok(extend)
    }

    /// Reads opened cells, up to one that asks for something which concerns those after it. Gives how many it read.
    fn on_opened(
        &mut self,
        now: Instant,
        cells: &mut [Cell],
    ) -> Result<(usize, Option<Asked>), End> {
        let (mut begun, mut asked, mut read) = (Vec::new(), None, 0);
        let mut mux = self.streams.mux();
        for cell in cells {
            read += 1;
            let requests = mux.on_outward(self.leg, now, codec::payload(codec::body_mut(cell)));
            let requests = requests.map_err(|violation| {
                tracing::debug!(%violation, "a client broke the protocol");
                PROTOCOL
            })?;
            for request in requests {
                match request {
                    Request::Begin(key, target) => begun.push((key, target)),
                    Request::Extend { relay, message } => {
                        asked = Some(Asked::Extend(Extend { relay, message }));
                    }
                    Request::Link { secret, leg } => asked = Some(Asked::Link(secret, leg)),
                }
            }
            if asked.is_some() {
                break;
            }
        }
        drop(mux);
        for (key, target) in begun {
            self.begin(key, target);
        }
        Ok((read, asked))
    }

    /// The client makes the circuit a leg of a set.
    fn link(&mut self, secret: &[u8; SECRET_LEN], leg: LegId) -> Result<(), End> {
        match self.context.sets.enter(secret, leg, &self.streams) {
            None => Err(PROTOCOL),
            Some(Entered::First) => Ok(()),
            Some(Entered::Joined(set, leg)) => {
                self.context.memory.add_circuit(&self.link, self.circ, &set);
                (self.streams, self.leg) = (set, leg);
                Ok(())
            }
        }
    }

    fn begin(&self, key: cepa_common::stream::StreamKey, target: Target) {
        let EndContext {
            directory,
            exit,
            tasks,
            ..
        } = &*self.context;
        let stream = self.streams.hold(key);
        match target {
            Target::Directory => {
                stream.accept();
                tasks.spawn(serve_connection(stream, directory.clone()));
            }
            Target::Host(host, port) => {
                tasks.spawn(exit::serve(exit.clone(), stream, host, port));
            }
        }
    }

    /// Seals and sends what the streams have to say.
    pub(super) fn send(&mut self) -> Result<(), End> {
        let mut batch = buffers::take();
        loop {
            let streams = &self.streams;
            let more = streams.fill(
                self.leg,
                steady::now(),
                &mut random::rng(),
                self.circ,
                &mut batch,
            );
            if !batch.is_empty() {
                let backward = &mut self.backward;
                let sealed = for_each_body(&mut batch, |body| backward.speak(body));
                sealed.map_err(|_| End::Here(DestroyReason::Protocol))?;
                let pushed = self.link.push_all(self.circ, &mut batch);
                pushed.map_err(|error| match error {
                    PushError::Overrun => End::Here(DestroyReason::Resource),
                    PushError::Closed => End::There,
                })?;
            }
            if !more {
                buffers::give_back(batch);
                return Ok(());
            }
            buffers::prepare(&mut batch);
        }
    }

    /// Waits for `work` as long as the client's side keeps the circuit and
    /// says nothing on it.
    pub(super) async fn while_quiet<T>(&self, work: impl Future<Output = T>) -> Result<T, End> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                () = self.inbox.wait() => {
                    let arrived = self.inbox.take();
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
