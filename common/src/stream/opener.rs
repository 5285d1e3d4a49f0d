//! What only the end that opens streams does.

use core::task::{Context, Poll};
use std::time::Instant;

use super::end::{BeginStep, Beginning, Opener, Opening};
use super::leg::Leg;
use super::mux::Mux;
use super::names::LegId;
use super::receive::Reading;
use super::request::Request;
use super::set::Set;
use super::state::Received;
use super::table::{Effect, Kind, effect};
use super::{StreamError, StreamKey, StreamTarget, Violation};
use crate::cell::Payload;
use crate::cell::codec::DestroyReason;
use crate::cell::message::{Inward, LegMessage, SECRET_LEN, messages};
use crate::ids::StreamId;
use crate::limits::{QUESTIONS_PER_CIRCUIT, STREAMS_PER_CIRCUIT};

/// What the far end of a leg owes the opener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owes {
    /// No stream is open, and no association: nobody would miss the leg.
    Nothing,
    /// Streams or associations are open, and everything sent has been acknowledged or seen.
    Idle,
    /// An answer about a stream or an association that is being opened, or about what was sent. The destination may be slow, or the leg
    /// may be gone.
    Answer,
    /// An acknowledgement, which the far end sends at once whatever its application does.
    Ack,
}

impl Mux<Opener> {
    // ---- streams ----------------------------------------------------------------

    /// Opens a stream. Data may be written at once: it travels
    /// with the BEGIN. `None` when the circuit is gone or full.
    pub fn open(&mut self, target: StreamTarget) -> Option<StreamKey> {
        if !self.has_room() {
            return None;
        }
        self.begin(target)
    }

    /// Opens the stream by which the far end is asked whether it is there (7.15): one to its directory. The stream needs
    /// no place among those of applications, because the refusal of one more is an answer too. `None` when the circuit
    /// is gone, or when [`QUESTIONS_PER_CIRCUIT`] of these streams have not ended.
    pub fn open_question(&mut self) -> Option<StreamKey> {
        if self.lost || self.streams.len() >= STREAMS_PER_CIRCUIT + QUESTIONS_PER_CIRCUIT {
            return None;
        }
        self.begin(StreamTarget::Directory)
    }

    fn begin(&mut self, target: StreamTarget) -> Option<StreamKey> {
        let id = self.free_id()?;
        let key = self.insert(id, Beginning::new(target));
        self.enqueue(key);
        Some(key)
    }

    /// Waits until the stream is open at the exit.
    pub fn poll_open(
        &mut self,
        key: StreamKey,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), StreamError>> {
        let Some(stream) = self.streams.get_mut(&key) else {
            return Poll::Ready(Err(StreamError::CircuitLost));
        };
        if stream.shed {
            return Poll::Ready(Err(StreamError::Memory));
        }
        match (&stream.opening.step, stream.receive.state) {
            (BeginStep::Open, _) => Poll::Ready(Ok(())),
            (_, Received::Failed(error)) => Poll::Ready(Err(error)),
            _ => {
                stream.opening.waiter = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Is a stream being opened that the other end has not answered yet?
    pub fn is_opening(&self) -> bool {
        let mut streams = self.streams.values();
        streams.any(|stream| !stream.closed && !stream.opening.may_receive())
    }

    /// The next payload is due at once, whatever is in it: until the other end has opened one, it takes the circuit for
    /// half-open and soon ends it (7.3).
    pub fn confirm(&mut self) {
        if let Some(leg) = self.leg_mut(LegId::FIRST) {
            leg.words.confirm = true;
        }
    }

    // ---- legs -------------------------------------------------------------------

    /// Makes the circuit the first leg of a set with this secret. `false` when it is one already, or gone.
    pub fn link(&mut self, secret: [u8; SECRET_LEN]) -> bool {
        let is_first = self.set.is_none() && !self.lost;
        if is_first && let Some(leg) = self.leg_mut(LegId::FIRST) {
            leg.words.link = Some(secret);
            self.set = Some(Box::new(Set::new(&self.budget)));
            return true;
        }
        false
    }

    /// Adds a second leg, and says LINK on it with the set's secret. `None` when there is no room for it.
    pub fn join(&mut self, mut leg: Box<Leg<Opener>>, secret: [u8; SECRET_LEN]) -> Option<LegId> {
        leg.id = LegId(self.next_leg);
        leg.words.link = Some(secret);
        self.place(leg)
    }

    /// What does the far end of a leg still owe this end?
    pub fn owes(&self, id: LegId) -> Owes {
        let Some(leg) = self.leg(id) else {
            return Owes::Nothing;
        };
        let unseen = |set: &Set| set.has_gap() || set.is_unseen(id);
        let is_opening = leg.datagrams.as_ref().is_some_and(|one| one.is_opening());
        let in_use = self.open_streams() + leg.associations();
        if leg.send.awaits_ack() {
            Owes::Ack
        } else if leg.words.link.is_some() || leg.joined && !leg.linked {
            Owes::Answer
        } else if let Some(set) = self.set.as_ref().filter(|set| set.numbers_out) {
            match (unseen(set) || is_opening, in_use) {
                (true, _) => Owes::Answer,
                (false, 0) => Owes::Nothing,
                (false, _) => Owes::Idle,
            }
        } else if is_opening || self.is_opening() {
            Owes::Answer
        } else if in_use > 0 {
            Owes::Idle
        } else {
            Owes::Nothing
        }
    }

    /// Asks the far end of a leg whether it is there, if it is a leg of a set. If `false`, the caller asks by
    /// [`Self::open_question`].
    pub fn ask(&mut self, id: LegId) -> bool {
        let is_set = self.set.as_ref().is_some_and(|set| set.numbers_out);
        let Some(leg) = self.leg_mut(id).filter(|leg| is_set && leg.linked) else {
            return false;
        };
        leg.words.ask = true;
        self.set.as_mut().into_iter().for_each(|set| set.on_asked());
        true
    }

    // ---- what the other end says --------------------------------------------------

    /// Reads a payload from the circuit's far end that came by a leg. The caller acts on a TRUNCATED.
    ///
    /// # Errors
    /// The rule that the far end broke; no leg can be used any more.
    pub fn on_inward(
        &mut self,
        leg: LegId,
        now: Instant,
        payload: &Payload,
    ) -> Result<Option<DestroyReason>, Violation> {
        if !self.has_leg(leg) {
            // This end has given the leg up, and the leg's circuit has not ended yet.
            return Ok(None);
        }
        self.moved += 1;
        let read = if self.numbers_in() {
            let reading = Reading {
                apply: Self::apply_inward,
                on_leg: Self::on_leg_inward,
                on_association: Self::on_association_inward,
            };
            let read = self.on_numbered::<Inward<'_>>(leg, now, payload, &reading);
            read.map(|aside| aside.truncated)
        } else {
            self.on_plain_inward(leg, now, payload)
        };
        self.end_on_violation(read)
    }

    fn on_plain_inward(
        &mut self,
        leg: LegId,
        now: Instant,
        payload: &Payload,
    ) -> Result<Option<DestroyReason>, Violation> {
        let (mut counted, mut marks, mut truncated) = (false, 0, None);
        let (mut others, mut linked) = (false, false);
        for message in messages::<Inward<'_>>(payload) {
            match message? {
                Inward::Connected(id) => {
                    counted = true;
                    self.on_connected(id)?;
                }
                Inward::Stream(id, message) => {
                    others = true;
                    counted |= self.on_stream(now, id, message)?;
                }
                Inward::Association(id, message) => {
                    counted = true;
                    self.on_association_inward(leg, now, id, message)?;
                }
                Inward::Flow(message) => marks += self.on_flow(leg, now, message)?,
                Inward::Truncated(reason) => truncated = Some(reason),
                Inward::Leg(LegMessage::Linked) if !linked => {
                    linked = true;
                    self.on_linked(leg)?;
                }
                Inward::Leg(LegMessage::Seen(number)) => self.on_seen(now, number)?,
                Inward::Leg(_) => return Err(Violation::Linking),
            }
        }
        if linked && (counted || others) {
            return Err(Violation::Linking);
        }
        self.received(leg, counted || linked, marks)?;
        Ok(truncated)
    }

    fn on_leg_inward(&mut self, leg: LegId, message: LegMessage<'_>) -> Result<bool, Violation> {
        match message {
            LegMessage::Linked => self.on_linked(leg).map(|()| true),
            _ => Err(Violation::Linking),
        }
    }

    fn apply_inward(
        &mut self,
        now: Instant,
        payload: &Payload,
        _: &mut Vec<Request>,
    ) -> Result<(), Violation> {
        for message in messages::<Inward<'_>>(payload) {
            match message? {
                Inward::Connected(id) => self.on_connected(id)?,
                Inward::Stream(id, message) => {
                    self.on_stream(now, id, message)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn on_connected(&mut self, id: StreamId) -> Result<(), Violation> {
        let (_, stream) = self.stream_mut(id)?;
        let effect = effect(
            stream.send.said,
            stream.receive.state.word(),
            Kind::Connected,
        );
        let waits = matches!(stream.opening.step, BeginStep::Waiting);
        if !waits || !matches!(effect, Effect::Take | Effect::Pass) {
            return Err(Violation::OutOfOrder);
        }
        stream.opening.step = BeginStep::Open;
        stream.wake();
        Ok(())
    }

    /// The other end has made the circuit a leg.
    fn on_linked(&mut self, id: LegId) -> Result<(), Violation> {
        let set = self.set.as_mut().filter(|set| set.numbers_out);
        let set = set.ok_or(Violation::Linking)?;
        let leg = self.legs.iter_mut().flatten().find(|leg| leg.id == id);
        let leg = leg.ok_or(Violation::Linking)?;
        // LINKED answers a LINK, and only once.
        let waits = match leg.joined {
            true => leg.words.link.is_none() && !leg.linked,
            false => leg.linked && !set.numbers_in,
        };
        if !waits {
            return Err(Violation::Linking);
        }
        leg.linked = true;
        set.numbers_in = true;
        Ok(())
    }

    fn free_id(&mut self) -> Option<StreamId> {
        (0..=u16::MAX).find_map(|_| {
            let id = StreamId::new(self.end.next_id);
            self.end.next_id = self.end.next_id.wrapping_add(1);
            id.filter(|id| !self.ids.contains_key(id) && !self.lingering.contains_key(id))
        })
    }
}
