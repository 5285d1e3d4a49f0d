//! Builds a circuit hop by hop, each hop through those before it.

use std::sync::Arc;
use std::time::Duration;

use cepa_common::budget::Budget;
use cepa_common::cell::codec::{
    self, CREATED_LEN, Cell, CircuitCommand, DestroyReason, payload, payload_mut,
};
use cepa_common::cell::message::{MessageError, Packer, Telescope, messages};
use cepa_common::cell::{CELL_LEN, Payload};
use cepa_common::dir::{Entry, Params};
use cepa_common::flow::vegas::Vegas;
use cepa_common::handshake::{
    ClientHandshake, ClientParams, HandshakeContext, HandshakeError, OnionPublicKey, RelayParams,
};
use cepa_common::ids::{CircId, HopIndex, NetworkId, RelayId};
use cepa_common::net::establish::EstablishError;
use cepa_common::net::inbox::{Arrived, Inbox};
use cepa_common::net::queue::{LinkQueue, TableCommand};
use cepa_common::onion::{ClientLayers, OpenFailed, SealError, TooManyHops};
use cepa_common::stream::{LegId, Mux, MuxConfig, Opener, StreamTarget, Violation};
use cepa_common::world::{random, steady};

use super::health::Blame;

/// Why a circuit was not built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// There is no link to the first relay.
    #[error("no link to the first relay: {0}")]
    Link(#[from] EstablishError),
    /// The relay's half of the handshake is wrong: the relay does not hold the key that the consensus lists.
    #[error("{hop} failed the handshake: {error}")]
    Handshake {
        /// The hop whose relay has failed.
        hop: HopIndex,
        /// What was wrong with the relay's answer.
        error: HandshakeError,
    },
    /// The first relay ended the circuit.
    #[error("the first relay ended the circuit: {0:?}")]
    Destroyed(DestroyReason),
    /// A relay could not extend the circuit, or lost it.
    #[error("{hop} could not go on: {reason:?}")]
    Truncated {
        /// The hop that says so.
        hop: HopIndex,
        /// The reason that the hop gives.
        reason: DestroyReason,
    },
    /// A cell was changed on its way.
    #[error(transparent)]
    Tampered(#[from] OpenFailed),
    /// A hop said something that it may not.
    #[error("{hop} broke the protocol: {error}")]
    Violation {
        /// The hop that broke the protocol.
        hop: HopIndex,
        /// What the hop did.
        error: Violation,
    },
    /// The deadline has passed.
    #[error("{hop} did not answer in time")]
    TimedOut {
        /// The hop that was waited for.
        hop: HopIndex,
    },
    /// The circuit was built, but not at the guard to use: better guards have turned out to be worth a try.
    #[error("better guards are to be tried again")]
    BetterGuard,
    /// The path has no relay, or more than six.
    #[error("a circuit has one to six hops")]
    Length,
}

impl From<TooManyHops> for BuildError {
    fn from(_: TooManyHops) -> Self {
        Self::Length
    }
}

impl From<SealError> for BuildError {
    fn from(_: SealError) -> Self {
        Self::Tampered(OpenFailed::Broken)
    }
}

impl BuildError {
    /// The relay of `hops` that the error points at, and on whose word. Guards are judged by rules of their own
    /// ([`Self::guard_fault`]), so a first hop with others behind it is not named.
    pub fn blame(&self, hops: &[Entry]) -> Option<Blame> {
        let suspect = usize::from(self.suspect().0);
        let relay = hops.get(suspect)?.identity;
        let Some(before) = suspect.checked_sub(1) else {
            return (hops.len() == 1).then_some(Blame { relay, by: None });
        };
        // What a hop said is sealed by that hop. All else is the word of the hop before, or may be its silence.
        let by = match self {
            Self::Violation { .. } => None,
            _ => hops.get(before).map(|hop| hop.identity),
        };
        Some(Blame { relay, by })
    }

    /// The hop to suspect: a hop that did not answer, or one that the hop before it could not reach.
    pub fn suspect(&self) -> HopIndex {
        match self {
            Self::Link(_) | Self::Destroyed(_) | Self::Length | Self::BetterGuard => HopIndex(0),
            Self::Handshake { hop, .. } | Self::Violation { hop, .. } | Self::TimedOut { hop } => {
                *hop
            }
            Self::Truncated { hop, .. } => HopIndex(hop.0 + 1),
            Self::Tampered(OpenFailed::Changed { far, .. }) => *far,
            Self::Tampered(_) => HopIndex(0),
        }
    }

    /// What the error says about the guard that the circuit began at (6.21.9). `entered`: the guard had answered
    /// CREATE. A CREATE that is not answered is judged while it waits, and says no more when it is given up.
    pub(super) fn guard_fault(&self, entered: bool) -> Option<GuardFault> {
        let guard = HopIndex(0);
        match self {
            Self::Destroyed(_) if entered => None,
            Self::Destroyed(DestroyReason::Resource) => Some(GuardFault::Busy),
            Self::Link(_) | Self::Destroyed(_) => Some(GuardFault::Failed),
            Self::Handshake { hop, .. } | Self::Violation { hop, .. } if *hop == guard => {
                Some(GuardFault::Failed)
            }
            Self::Tampered(OpenFailed::Changed { far, .. }) if *far == guard => {
                Some(GuardFault::Failed)
            }
            _ => None,
        }
    }

    /// Has the first relay refused the circuit because it has too much to do? Then it is asked again after a pause.
    pub(super) fn is_busy(&self) -> bool {
        matches!(self, Self::Destroyed(DestroyReason::Resource))
    }

    /// Was the link lost under the circuit, or the circuit lost behind the first relay, or does the first relay stop?
    /// A relay that stopped may be there again already.
    pub(super) fn is_lost(&self) -> bool {
        use DestroyReason::{Shutdown, Unreachable};
        matches!(self, Self::Destroyed(Unreachable | Shutdown))
    }
}

/// What an error says about a guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GuardFault {
    /// The guard has failed.
    Failed,
    /// The guard is there and has no room now.
    Busy,
}

/// What a built circuit's task runs on.
pub(super) struct Parts {
    /// The link to the first relay.
    pub(super) link: Arc<LinkQueue>,
    /// Where the circuit's cells come in.
    pub(super) inbox: Arc<Inbox>,
    /// The circuit's id on the link.
    pub(super) circ: Option<CircId>,
    /// The layers of all hops.
    pub(super) layers: ClientLayers,
}

/// A circuit that is being built.
pub struct Builder {
    pub(super) link: Arc<LinkQueue>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) circ: Option<CircId>,
    pub(super) layers: ClientLayers,
    network: NetworkId,
    budget: Arc<Budget>,
    /// The network's parameters, for congestion control.
    pacing: Params,
    /// What the last hop has said about windows. `None` only until the first hop has answered.
    params: Option<RelayParams>,
    /// Cells that were received and have not been read yet.
    pending: Vec<u8>,
    /// Has the circuit been handed over to its task? Then dropping the builder closes nothing.
    handed_over: bool,
}

impl Builder {
    /// Starts a circuit at `first`, on a link to that relay.
    pub(crate) async fn first(
        link: Arc<LinkQueue>,
        budget: &Arc<Budget>,
        network: NetworkId,
        first: &Entry,
        pacing: Params,
    ) -> Result<Self, BuildError> {
        let window_cells = pacing.circuit_window_cells as usize;
        let bound = window_cells + cepa_common::limits::QUEUE_SLACK_CELLS;
        let mut builder = Self {
            link,
            inbox: Arc::new(Inbox::new(bound, budget)),
            circ: None,
            layers: ClientLayers::new(),
            network,
            budget: budget.clone(),
            pacing,
            params: None,
            pending: Vec::new(),
            handed_over: false,
        };
        let (handshake, message) = builder.start_handshake(first)?;
        let open = TableCommand::Open {
            inbox: builder.inbox.clone(),
            message: Box::new(message),
        };
        open.send(&builder.link);
        let created = loop {
            let arrived = builder.arrived().await?;
            builder.pending.extend(arrived.cells);
            if let Some(created) = arrived.created {
                break created;
            }
        };
        builder.finish_handshake(first, handshake, &created)?;
        Ok(builder)
    }

    /// Adds a hop behind the last.
    pub async fn extend(&mut self, next: &Entry) -> Result<(), BuildError> {
        self.check_silence().await?;
        let (handshake, message) = self.start_handshake(next)?;
        self.say_extend(&next.identity, &message)?;
        let body = self.hear().await?;
        let mut answers = messages::<Telescope<'_>>(&body);
        let answer = self.legal(answers.next().unwrap_or(Err(MessageError::Empty)))?;
        if answers.next().is_some() {
            return Err(self.violation(MessageError::PaddingNotZero));
        }
        match answer {
            Telescope::Extended(reply) => self.finish_handshake(next, handshake, reply),
            Telescope::Truncated(reason) => Err(BuildError::Truncated {
                hop: self.last_hop(),
                reason,
            }),
        }
    }

    /// Measures a round trip to the last hop: the time from a message to its answer. The message opens a stream to that
    /// hop's directory, and the stream is given up again.
    pub async fn round_trip(&mut self) -> Result<Duration, BuildError> {
        let mut mux = self.mux()?;
        let Some(key) = mux.open(StreamTarget::Directory) else {
            return Err(BuildError::Length);
        };
        let started = steady::now();
        self.say_all(&mut mux)?;
        self.hear_into(&mut mux).await?;
        let round_trip = steady::since(started);
        mux.release(key);
        self.say_all(&mut mux)?;
        while mux.open_streams() > 0 {
            self.hear_into(&mut mux).await?;
        }
        Ok(round_trip)
    }

    /// Number of hops so far.
    pub fn len(&self) -> usize {
        self.layers.len()
    }

    /// Has the circuit no hops?
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// The machine of the circuit's streams, with what was agreed with the last hop.
    pub(super) fn mux(&self) -> Result<Mux<Opener>, BuildError> {
        let params = self.params.ok_or(BuildError::Length)?;
        let mut mux = Mux::new(MuxConfig {
            control: Box::new(Vegas::new(
                self.pacing.congestion_control(params.circuit_window_cells),
            )),
            mark_interval_cells: u32::from(params.mark_interval_cells),
            stream_window_bytes: params.stream_window_bytes,
            budget: self.budget.clone(),
        });
        mux.confirm();
        Ok(mux)
    }

    pub(super) fn last_hop(&self) -> HopIndex {
        HopIndex(self.layers.len().saturating_sub(1) as u8)
    }

    /// Gives the parts to the circuit's task, which judges what has come behind the last answer. Dropping the builder
    /// closes nothing from now on.
    pub(super) fn hand_over(mut self) -> Parts {
        self.handed_over = true;
        self.inbox.put_back(core::mem::take(&mut self.pending));
        Parts {
            link: self.link.clone(),
            inbox: self.inbox.clone(),
            circ: self.circ,
            layers: core::mem::take(&mut self.layers),
        }
    }

    fn start_handshake(
        &self,
        relay: &Entry,
    ) -> Result<(ClientHandshake, [u8; codec::CREATE_LEN]), BuildError> {
        let context = HandshakeContext {
            network: self.network,
            relay: relay.identity,
            onion: OnionPublicKey {
                suite: relay.suite,
                key: relay.onion_key,
            },
        };
        let hop = HopIndex(self.layers.len() as u8);
        ClientHandshake::start(&context, ClientParams::default(), &mut random::rng())
            .map_err(|error| BuildError::Handshake { hop, error })
    }

    fn finish_handshake(
        &mut self,
        relay: &Entry,
        handshake: ClientHandshake,
        reply: &[u8; CREATED_LEN],
    ) -> Result<(), BuildError> {
        let hop = HopIndex(self.layers.len() as u8);
        let (keys, params) = handshake
            .finish(reply)
            .map_err(|error| BuildError::Handshake { hop, error })?;
        self.layers.push(relay.suite, keys)?;
        self.params = Some(params);
        Ok(())
    }

    fn violation(&self, error: impl Into<Violation>) -> BuildError {
        BuildError::Violation {
            hop: self.last_hop(),
            error: error.into(),
        }
    }

    fn legal<T>(&self, result: Result<T, impl Into<Violation>>) -> Result<T, BuildError> {
        result.map_err(|error| self.violation(error))
    }

    fn send(&mut self, mut cell: Cell) -> Result<(), BuildError> {
        let Some(circ) = self.circ else {
            return Err(BuildError::Length);
        };
        codec::write_circuit_head(&mut cell, circ, CircuitCommand::Relay);
        let hop = self.last_hop();
        self.layers
            .seal(hop, codec::body_mut(&mut cell), &mut random::rng())?;
        let pushed = self.link.push(circ, &cell);
        pushed.map_err(|_| BuildError::Destroyed(DestroyReason::Unreachable))
    }

    /// Asks the last hop to extend the circuit to `next`, with the first message of the handshake with it.
    fn say_extend(
        &mut self,
        next: &RelayId,
        message: &[u8; codec::CREATE_LEN],
    ) -> Result<(), BuildError> {
        let mut cell = [0; CELL_LEN];
        let mut packer = Packer::new(payload_mut(codec::body_mut(&mut cell)));
        packer
            .extend(next, message)
            .map_err(|_| BuildError::Length)?;
        packer.finish();
        self.send(cell)
    }

    fn say_all(&mut self, mux: &mut Mux<Opener>) -> Result<(), BuildError> {
        let mut cell = [0; CELL_LEN];
        while mux.fill(
            LegId::FIRST,
            steady::now(),
            &mut random::rng(),
            payload_mut(codec::body_mut(&mut cell)),
        ) {
            self.send(cell)?;
        }
        Ok(())
    }

    /// Fails if the last hop has said something behind its answer, before it was asked anything else. The last hop has
    /// nothing to say then, and what it says must not pass for the answer to the next question (protocol.md 5.2).
    async fn check_silence(&mut self) -> Result<(), BuildError> {
        if self.pending.is_empty() {
            self.pending = self.take_arrived()?.cells;
        }
        if self.pending.is_empty() {
            return Ok(());
        }
        self.hear().await?;
        Err(BuildError::Violation {
            hop: self.last_hop(),
            error: Violation::OutOfOrder,
        })
    }

    /// Waits for the next payload from the last hop.
    async fn hear(&mut self) -> Result<Payload, BuildError> {
        while self.pending.is_empty() {
            let arrived = self.arrived().await?;
            self.pending.extend(arrived.cells);
        }
        let cell: Option<Cell> = self.pending.first_chunk().copied();
        self.pending.drain(..CELL_LEN.min(self.pending.len()));
        let Some(mut cell) = cell else {
            return Err(BuildError::Length);
        };
        let body = codec::body_mut(&mut cell);
        let hop = self.layers.open(body)?;
        if hop == self.last_hop() {
            return Ok(*payload(body));
        }
        // A hop that is not the last may only say that it has lost the rest.
        match messages::<Telescope<'_>>(payload(body)).next() {
            Some(Ok(Telescope::Truncated(reason))) => Err(BuildError::Truncated { hop, reason }),
            _ => Err(BuildError::Violation {
                hop,
                error: Violation::OutOfOrder,
            }),
        }
    }

    async fn hear_into(&mut self, mux: &mut Mux<Opener>) -> Result<(), BuildError> {
        let payload = self.hear().await?;
        match self.legal(mux.on_inward(LegId::FIRST, steady::now(), &payload))? {
            Some(reason) => Err(BuildError::Truncated {
                hop: self.last_hop(),
                reason,
            }),
            None => Ok(()),
        }
    }

    async fn arrived(&mut self) -> Result<Arrived, BuildError> {
        self.inbox.wait().await;
        self.take_arrived()
    }

    fn take_arrived(&mut self) -> Result<Arrived, BuildError> {
        let arrived = self.inbox.take();
        self.circ = self.circ.or(arrived.opened);
        match arrived.destroyed {
            // The cells that came before the end may say why it came, so they are read first.
            Some(reason) if arrived.cells.is_empty() => {
                self.circ = None;
                Err(BuildError::Destroyed(reason))
            }
            Some(reason) => {
                self.inbox.update(|a| a.destroyed = Some(reason));
                Ok(arrived)
            }
            None => Ok(arrived),
        }
    }
}

impl Drop for Builder {
    fn drop(&mut self) {
        if self.handed_over {
            return;
        }
        if let Some(circ) = self.inbox.abandon().or(self.circ) {
            TableCommand::Close {
                circ,
                reason: DestroyReason::Finished,
            }
            .send(&self.link);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use cepa_common::dir::Flags;
    use cepa_common::handshake::{OnionKeypair, respond};
    use cepa_common::onion::{RelayBackward, Suite};
    use cepa_common::testkit::web_entry;

    use super::*;

    #[test]
    fn a_hop_is_blamed_on_the_word_of_the_one_before_it() {
        let hops: Vec<Entry> = (1..=3).map(|n| web_entry(n, Flags::NONE, 1)).collect();
        let id = |n: usize| hops[n].identity;
        let by_the_one_before = |n: usize| {
            Some(Blame {
                relay: id(n),
                by: Some(id(n - 1)),
            })
        };
        let reason = DestroyReason::Unreachable;
        for hop in [0, 1] {
            let truncated = BuildError::Truncated {
                hop: HopIndex(hop),
                reason,
            };
            let expected = by_the_one_before(usize::from(hop) + 1);
            assert_eq!(truncated.blame(&hops), expected);
        }
        let late = BuildError::TimedOut { hop: HopIndex(1) };
        assert_eq!(late.blame(&hops), by_the_one_before(1));
        let first = BuildError::TimedOut { hop: HopIndex(0) };
        assert_eq!(first.blame(&hops), None);
        let seen = |relay| Some(Blame { relay, by: None });
        assert_eq!(first.blame(&hops[..1]), seen(id(0)));
        let violation = BuildError::Violation {
            hop: HopIndex(2),
            error: Violation::OutOfOrder,
        };
        assert_eq!(violation.blame(&hops), seen(id(2)));
    }

    #[test]
    fn what_is_busy_or_behind_the_guard_is_no_failure_of_it() {
        use DestroyReason::{Protocol, Resource, Shutdown, Unreachable};
        let destroyed = BuildError::Destroyed;
        let busy = Some(GuardFault::Busy);
        assert_eq!(destroyed(Resource).guard_fault(false), busy);
        for reason in [Resource, Unreachable, Protocol, Shutdown] {
            assert_eq!(destroyed(reason).guard_fault(true), None, "{reason:?}");
        }
        let failed = Some(GuardFault::Failed);
        for reason in [Unreachable, Protocol, Shutdown] {
            assert_eq!(destroyed(reason).guard_fault(false), failed);
        }
        assert_eq!(
            BuildError::Link(EstablishError::TimedOut).guard_fault(false),
            failed
        );
        for (hop, expected) in [(0, failed), (1, None)] {
            let hop = HopIndex(hop);
            let error = Violation::OutOfOrder;
            assert_eq!(
                BuildError::Violation { hop, error }.guard_fault(true),
                expected
            );
        }
        let hop = HopIndex(0);
        let reason = Unreachable;
        let behind = [
            BuildError::Truncated { hop, reason },
            BuildError::TimedOut { hop },
            BuildError::Tampered(OpenFailed::NoMarker),
            BuildError::BetterGuard,
            BuildError::Length,
        ];
        assert!(behind.iter().all(|error| error.guard_fault(true).is_none()));
    }

    const NETWORK: NetworkId = NetworkId([7; 32]);

    /// A circuit of one hop that has just been answered, with so many cells of that hop behind its CREATED, and what is
    /// left of the relay's layers.
    async fn answered(early: usize) -> (Builder, Entry, RelayBackward) {
        let suite = Suite::Aes256Gcm;
        let onion = OnionKeypair::generate(suite, &mut random::rng()).unwrap();
        let mut entry = web_entry(1, Flags::NONE, 1);
        (entry.suite, entry.onion_key) = (suite, onion.public().key);
        let budget = Budget::unlimited();
        let link = Arc::new(LinkQueue::new(64, &budget));
        let builds = Builder::first(link.clone(), &budget, NETWORK, &entry, Params::default());
        let answers = async {
            let mut commands = Vec::new();
            while commands.is_empty() {
                link.take_commands(&mut commands);
                tokio::task::yield_now().await;
            }
            let Some(TableCommand::Open { inbox, message }) = commands.pop() else {
                panic!("the builder opens a circuit");
            };
            let params = RelayParams {
                version: 1,
                circuit_window_cells: 1_000,
                mark_interval_cells: 32,
                stream_window_bytes: 1 << 20,
            };
            let keys = [onion];
            let made = respond(
                &NETWORK,
                &entry.identity,
                &keys,
                &message,
                params,
                &mut random::rng(),
            );
            let (suite, keys, reply, _) = made.unwrap();
            let mut backward = RelayBackward::new(suite, keys.backward);
            let circ = CircId::new(CircId::DIALLER_BIT | 1).unwrap();
            let cells: Vec<u8> = (0..early).flat_map(|_| spoken(&mut backward)).collect();
            inbox.update(|arrived| {
                arrived.opened = Some(circ);
                arrived.created = Some(Box::new(reply));
                arrived.cells = cells;
            });
            backward
        };
        let (built, backward) = tokio::join!(builds, answers);
        (built.unwrap(), entry.clone(), backward)
    }

    /// A cell of a hop: its half of a handshake, which nobody has asked for.
    fn spoken(backward: &mut RelayBackward) -> Cell {
        let mut cell = [0; CELL_LEN];
        let mut packer = Packer::new(payload_mut(codec::body_mut(&mut cell)));
        packer.extended(&[7; CREATED_LEN]).unwrap();
        packer.finish();
        backward.speak(codec::body_mut(&mut cell)).unwrap();
        cell
    }

    /// protocol.md 5.2: what a hop says behind its answer is judged, and is no answer to the next question.
    #[tokio::test]
    async fn what_comes_with_an_answer_is_judged() {
        let (mut builder, entry, _) = answered(1).await;
        let next = web_entry(2, Flags::NONE, 1);
        let error = builder.extend(&next).await.unwrap_err();
        assert!(
            matches!(
                error,
                BuildError::Violation {
                    hop: HopIndex(0),
                    error: Violation::OutOfOrder
                }
            ),
            "{error}"
        );
        let alone = [entry];
        let relay = alone[0].identity;
        assert_eq!(error.blame(&alone), Some(Blame { relay, by: None }));

        // The same if it comes a moment later, and has not been read yet.
        let (mut builder, _, mut backward) = answered(0).await;
        builder.inbox.push(&spoken(&mut backward)).unwrap();
        let error = builder.extend(&next).await.unwrap_err();
        assert!(matches!(error, BuildError::Violation { .. }), "{error}");

        // The task of a circuit that is built reads it.
        let (builder, ..) = answered(2).await;
        let parts = builder.hand_over();
        parts.inbox.wait().await;
        assert_eq!(parts.inbox.take().cells.len(), 2 * CELL_LEN);
    }
}
