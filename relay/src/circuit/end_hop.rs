//! The task of a circuit that ends here.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cepa_common::budget::Charge;
use cepa_common::cell::Body;
use cepa_common::cell::codec::{self, DestroyReason};
use cepa_common::cell::message::{EndReason, SECRET_LEN};
use cepa_common::dir::Params;
use cepa_common::flow::vegas::Vegas;
use cepa_common::handshake::RelayParams;
use cepa_common::ids::{CircId, RelayId};
use cepa_common::net::buffers;
use cepa_common::net::circuit_end::{EndDriver, Layers, OpenedCells};
use cepa_common::net::circuit_io::Streams;
use cepa_common::net::dns_stream::Pace;
use cepa_common::net::inbox::Inbox;
use cepa_common::net::queue::{LinkQueue, PushError, TableCommand};
use cepa_common::onion::{HopKeys, Opened, RelayBackward, RelayForward, Suite};
use cepa_common::stream::{
    Acceptor, AssociationKey, LegId, Mux, MuxConfig, Request, StreamKey, StreamTarget, Violation,
};
use cepa_common::world::steady;
use rand::CryptoRng;
use tokio::time::{Instant as Deadline, Sleep, sleep};

use super::EndContext;
use super::rest::{self, Rest};
use super::sets::Entered;
use crate::admission::{Bucket, FarSide};
use crate::directory::serve_connection;
use crate::events::Refusal;
use crate::exit::{self, Origin};

/// What a client wants its circuit extended to.
pub(super) struct Extend {
    /// The next relay.
    pub(super) relay: RelayId,
    /// The client's half of the handshake with it.
    pub(super) message: Box<[u8; codec::CREATE_LEN]>,
}

/// Why a circuit has ended here.
pub(super) enum End {
    /// This relay ends the circuit, and tells the client's side why.
    Here(DestroyReason),
    /// The client's side has ended the circuit.
    There,
    /// The circuit is extended, and belongs to the tables of the links now.
    Passed,
}

impl From<PushError> for End {
    fn from(error: PushError) -> Self {
        match error {
            PushError::Overrun => Self::Here(DestroyReason::Resource),
            PushError::Closed | PushError::Ended => Self::There,
        }
    }
}

const PROTOCOL: End = End::Here(DestroyReason::Protocol);

/// What a client asks of the circuit itself.
enum Asked {
    Extend(Extend),
    Link([u8; SECRET_LEN], LegId),
}

/// The layers of a circuit at the relay where it ends.
pub(super) struct HopLayers {
    pub(super) forward: Box<RelayForward>,
    pub(super) backward: Box<RelayBackward>,
}

impl Layers for HopLayers {
    type End = End;

    fn open(&mut self, body: &mut Body) -> Result<(), End> {
        match self.forward.open(body) {
            Ok(Opened::Ours) => Ok(()),
            // There is no hop behind this one, or the cell did not open: one reason for both (S12).
            _ => Err(PROTOCOL),
        }
    }

    fn seal(&mut self, body: &mut Body, _: &mut impl CryptoRng) -> Result<(), End> {
        self.backward.speak(body).map_err(|_| PROTOCOL)
    }
}

/// What the handshake of a circuit has brought.
pub(crate) struct Agreed {
    /// The suite of the onion key that the client chose.
    pub(crate) suite: Suite,
    /// The keys of the layer between the client and this relay.
    pub(crate) keys: HopKeys,
    /// What this relay has told the client about pacing.
    pub(crate) params: RelayParams,
}

/// What a client may do on one circuit (S23). A page begins some dozens of streams. Each costs a name, a dial or a
/// request, so what bounds streams bounds those too.
struct Bounds {
    /// Streams that are begun at once, and the refusals after which the client loses the circuit.
    begins: u32,
    /// Queries that the exit's resolver is asked at once.
    queries: u32,
    /// Queries that it is asked in a second, in the long run.
    queries_per_second: u32,
}

impl Bounds {
    fn of(params: &Params) -> Self {
        Self {
            begins: params.circuit_begins_burst,
            queries: params.circuit_queries_burst,
            queries_per_second: params.circuit_queries_per_second,
        }
    }
}

/// A circuit that ends at this relay.
pub(crate) struct EndHop {
    pub(super) context: Arc<EndContext>,
    /// Receives and sends, by the link to the client's side.
    pub(super) end: EndDriver<HopLayers, Acceptor>,
    /// Who is at the other end of the link to the client's side.
    pub(super) far_side: FarSide,
    /// Has a cell opened? Until then the client has proven nothing.
    confirmed: bool,
    /// Has anything happened since the last look?
    was_used: bool,
    rest: Rest,
    /// What the network's parameters let a client do on the circuit. They are those in force when the circuit was made.
    bounds: Bounds,
    /// Bounds the streams that the client begins.
    begins: Bucket,
    /// Bounds the queries that the client asks of the exit's resolver; made when the first stream to it begins.
    queries: Option<Arc<Pace>>,
    /// What the circuit takes at rest.
    pub(super) charge: Charge,
}

impl EndHop {
    pub(crate) fn new(
        context: Arc<EndContext>,
        link: Arc<LinkQueue>,
        far_side: FarSide,
        circ: CircId,
        inbox: Arc<Inbox>,
        agreed: Agreed,
    ) -> Self {
        let Agreed {
            suite,
            keys,
            params,
        } = agreed;
        let in_force = context.params.get();
        let mut mux = Mux::new(MuxConfig {
            control: Box::new(Vegas::new(
                in_force.congestion_control(params.circuit_window_cells),
            )),
            mark_interval_cells: u32::from(params.mark_interval_cells),
            stream_window_bytes: params.stream_window_bytes,
            budget: context.memory.of(far_side.party),
        });
        mux.bound_streams(in_force.circuit_streams);
        if let Some(exit) = &context.exit {
            exit.bound_attempts(in_force.circuit_attempts);
        }
        let streams = Streams::new(mux);
        let charge = context
            .memory
            .add_circuit(far_side.party, &link, circ, &streams);
        Self {
            context,
            end: EndDriver {
                link,
                circ,
                inbox,
                streams,
                leg: LegId::FIRST,
                layers: HopLayers {
                    forward: Box::new(RelayForward::new(suite, keys.forward)),
                    backward: Box::new(RelayBackward::new(suite, keys.backward)),
                },
            },
            far_side,
            confirmed: false,
            was_used: false,
            rest: Rest::default(),
            begins: Bucket::new(
                in_force.circuit_begins_burst,
                in_force.circuit_begins_per_second,
                steady::now(),
            ),
            bounds: Bounds::of(&in_force),
            queries: None,
            charge,
        }
    }

    /// Runs the circuit until it has ended here.
    pub(crate) async fn run(mut self) {
        let (circ, link) = (self.end.circ, self.end.link.clone());
        let context = &self.context;
        let half_open = Duration::from_secs(context.params.get().half_open_seconds.into());
        let mut alarm = Box::pin(sleep(half_open));
        let (end, streams, leg) = loop {
            match self.turn(&mut alarm).await {
                Ok(None) => {}
                Ok(Some(extend)) => {
                    let (streams, leg) = (self.end.streams.clone(), self.end.leg);
                    // The future is in a box, because dialling takes much more memory than the long wait before and
                    // after it.
                    break (Box::pin(self.extend(extend)).await, streams, leg);
                }
                Err(end) => break (end, self.end.streams.clone(), self.end.leg),
            }
        };
        streams.lose_leg(leg);
        if let End::Here(reason) = end {
            TableCommand::Close { circ, reason }.send(&link);
        }
    }

    /// Waits for work and does it. Returns an EXTEND if there was one.
    async fn turn(&mut self, alarm: &mut Pin<Box<Sleep>>) -> Result<Option<Extend>, End> {
        tokio::select! {
            () = self.end.wait() => self.was_used = true,
            () = alarm.as_mut() => {
                self.look()?;
                alarm.as_mut().reset(Deadline::now() + rest::LOOK);
            }
        }
        if self.end.streams.mux().is_lost() {
            // The watch over memory has ended the circuit's streams.
            return Err(End::Here(DestroyReason::Resource));
        }
        if !self.end.streams.mux().has_leg(self.end.leg) {
            // The client has said on the other leg that it gives this leg up.
            return Err(End::Here(DestroyReason::Finished));
        }
        let mut arrived = self.end.inbox.take();
        let extend = self.on_cells(&mut arrived.cells)?;
        if arrived.destroyed.is_some() {
            return Err(End::There);
        }
        buffers::give_back(arrived.cells);
        self.end.send()?;
        Ok(extend)
    }

    /// Looks whether the circuit is of use to anybody. A stream that both ends hold is a use, however idle it is.
    fn look(&mut self) -> Result<(), End> {
        if !self.confirmed {
            return Err(End::Here(DestroyReason::Resource));
        }
        let was_used = core::mem::take(&mut self.was_used);
        let in_use = was_used || self.end.streams.mux().in_use() > 0;
        match self.rest.is_over(in_use) {
            true => Err(End::Here(DestroyReason::Finished)),
            false => Ok(()),
        }
    }

    fn on_cells(&mut self, cells: &mut [u8]) -> Result<Option<Extend>, End> {
        let now = steady::now();
        let mut opened = self.end.open(cells);
        self.confirmed |= !opened.is_empty();
        let mut extend = None;
        while !opened.is_empty() {
            // While the circuit extends, nothing may be said to this hop.
            if extend.is_some() {
                return Err(PROTOCOL);
            }
            match self.on_opened(now, &mut opened)? {
                Some(Asked::Extend(asked)) => extend = Some(asked),
                Some(Asked::Link(secret, leg)) => self.link(&secret, leg)?,
                None => {}
            }
        }
        opened.finish()?;
        Ok(extend)
    }

    /// Reads opened cells, up to and with the first that asks for EXTEND or LINK. The cells after it are read only when
    /// the circuit has done what that cell asks for.
    fn on_opened(
        &mut self,
        now: Instant,
        opened: &mut OpenedCells<'_, End>,
    ) -> Result<Option<Asked>, End> {
        let (mut begun, leg) = (Vec::new(), self.end.leg);
        let mut associations = Vec::new();
        let asked = self.end.read(opened, |mux, payload| {
            let mut asked = None;
            for request in mux.on_outward(leg, now, payload)? {
                match request {
                    Request::Begin(key, target) => begun.push((key, target)),
                    Request::Associate(key) => associations.push(key),
                    Request::Extend { relay, message } => {
                        asked = Some(Asked::Extend(Extend { relay, message }));
                    }
                    Request::Link { secret, leg } => asked = Some(Asked::Link(secret, leg)),
                }
            }
            Ok(asked)
        });
        let asked = asked.map_err(|violation: Violation| {
            tracing::debug!(%violation, "a client broke the protocol");
            PROTOCOL
        })?;
        // What there was no room for has been refused already. Whoever begins it has begun it all the same.
        let refused = self.end.streams.mux().take_refused();
        for _ in 0..refused {
            self.may_begin(now)?;
        }
        for (key, target) in begun {
            self.begin(now, key, target)?;
        }
        for key in associations {
            self.associate(now, key)?;
        }
        Ok(asked)
    }

    /// Makes the circuit a leg of a set, because the client has said LINK.
    fn link(&mut self, secret: &[u8; SECRET_LEN], leg: LegId) -> Result<(), End> {
        match self.context.sets.enter(secret, leg, &self.end.streams) {
            None => Err(PROTOCOL),
            Some(Entered::First) => Ok(()),
            Some(Entered::Joined(set, leg)) => {
                let memory = &self.context.memory;
                let (link, circ) = (&self.end.link, self.end.circ);
                self.charge = memory.add_circuit(self.far_side.party, link, circ, &set);
                (self.end.streams, self.end.leg) = (set, leg);
                Ok(())
            }
        }
    }

    /// May the client begin one more stream or association? A refusal that follows too many others ends the circuit.
    fn may_begin(&mut self, now: Instant) -> Result<bool, End> {
        if self.begins.take(now) {
            return Ok(true);
        }
        self.context.refusals.add(Refusal::BeginsTooFast, 1);
        // Whoever hears of so many refusals and goes on is no honest client.
        match self.begins.debt() > self.bounds.begins {
            true => Err(End::Here(DestroyReason::Resource)),
            false => Ok(false),
        }
    }

    /// Where what is begun on this circuit comes from.
    fn origin(&self) -> Origin {
        Origin {
            party: self.far_side.party,
            link: self.end.link.serial(),
            circ: self.end.circ,
        }
    }

    /// Serves an association, if the client does not begin more than it may.
    fn associate(&mut self, now: Instant, key: AssociationKey) -> Result<(), End> {
        let association = self.end.streams.hold_association(key);
        if !self.may_begin(now)? {
            association.unbind(EndReason::Resource);
            return Ok(());
        }
        let (exit, origin) = (self.context.exit.clone(), self.origin());
        let tasks = &self.context.tasks;
        tasks.spawn(exit::associate(exit, association, origin));
        Ok(())
    }

    /// Serves a stream, if the client has not given it up meanwhile and does not begin more than it may.
    fn begin(&mut self, now: Instant, key: StreamKey, target: StreamTarget) -> Result<(), End> {
        let stream = self.end.streams.hold(key);
        match self.may_begin(now) {
            Ok(true) => {}
            refused => {
                stream.abort(EndReason::Resource);
                return refused.map(drop);
            }
        }
        if self.end.streams.mux().is_given_up(key) {
            return Ok(());
        }
        let EndContext {
            directory,
            exit,
            tasks,
            ..
        } = &*self.context;
        let origin = self.origin();
        match target {
            StreamTarget::Directory => {
                stream.accept();
                tasks.spawn(serve_connection(stream, directory.clone()));
            }
            StreamTarget::Resolver => {
                let Bounds {
                    queries,
                    queries_per_second,
                    ..
                } = self.bounds;
                let pace = || Arc::new(Pace::new(queries, queries_per_second));
                let pace = self.queries.get_or_insert_with(pace);
                tasks.spawn(exit::answer(exit.clone(), stream, origin, pace.clone()));
            }
            StreamTarget::Host(host, port) => {
                tasks.spawn(exit::serve(exit.clone(), stream, host, port, origin));
            }
        }
        Ok(())
    }

    /// Waits for `work` as long as the client's side keeps the circuit and says nothing on it.
    pub(super) async fn while_quiet<T>(&self, work: impl Future<Output = T>) -> Result<T, End> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                () = self.end.inbox.wait() => {
                    let arrived = self.end.inbox.take();
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
