//! What the other end says: payloads read, in order, and what they do to streams.

use std::time::Instant;

use super::end::{Opening, StreamEnd};
use super::mux::Mux;
use super::names::LegId;
use super::request::Request;
use super::set::Arrival;
use super::state::{Lingering, Received, Sending, Stream};
use super::table::{self, Effect, Word, effect};
use super::{StreamError, StreamKey, Violation};
use crate::cell::Payload;
use crate::cell::codec::DestroyReason;
use crate::cell::message::{
    AssociationMessage, Decode, EndReason, FlowMessage, Inward, LegMessage, Outward, StreamMessage,
    messages,
};
use crate::ids::{AssociationId, StreamId};
use crate::limits::CREDIT_GROWTH;

/// After this many payloads of a set, ids that lingered are looked for that may be forgotten: each look goes over all of
/// them.
const FORGET_INTERVAL: u64 = 64;

/// What a payload says besides messages of streams.
#[derive(Default)]
pub(super) struct Aside {
    marks: usize,
    /// The payload makes the circuit a leg.
    pub(super) links: bool,
    /// The payload holds a message of a stream.
    streams: bool,
    /// The payload holds a message of an association.
    datagrams: bool,
    number: Option<u64>,
    pub(super) requests: Vec<Request>,
    pub(super) truncated: Option<DestroyReason>,
}

/// Reads a message about a leg that only one end may receive. Gives whether the message makes the circuit a leg.
type OnLeg<E> = fn(&mut Mux<E>, LegId, LegMessage<'_>) -> Result<bool, Violation>;

/// Does what the messages of streams in a payload say, whose turn has come.
type Apply<E> = fn(&mut Mux<E>, Instant, &Payload, &mut Vec<Request>) -> Result<(), Violation>;

/// Takes a message of an association. Gives what it asks for.
type OnAssociation<E> = fn(
    &mut Mux<E>,
    LegId,
    Instant,
    AssociationId,
    AssociationMessage<'_>,
) -> Result<Option<Request>, Violation>;

/// What only one end of a set does with what it reads.
pub(super) struct Reading<E: StreamEnd> {
    pub(super) apply: Apply<E>,
    pub(super) on_leg: OnLeg<E>,
    pub(super) on_association: OnAssociation<E>,
}

/// A message, as far as the numbering of payloads cares.
pub(super) enum Kind<'a> {
    Stream,
    Association(AssociationId, AssociationMessage<'a>),
    Flow(FlowMessage),
    Leg(LegMessage<'a>),
    Truncated(DestroyReason),
    Extend,
    Padding,
}

pub(super) trait Classify: Copy {
    fn kind(&self) -> Kind<'_>;
}

impl Classify for Inward<'_> {
    fn kind(&self) -> Kind<'_> {
        match *self {
            Self::Connected(_) | Self::Stream(..) => Kind::Stream,
            Self::Association(id, message) => Kind::Association(id, message),
            Self::Flow(message) => Kind::Flow(message),
            Self::Leg(message) => Kind::Leg(message),
            Self::Truncated(reason) => Kind::Truncated(reason),
        }
    }
}

impl Classify for Outward<'_> {
    fn kind(&self) -> Kind<'_> {
        match *self {
            Self::Begin { .. } | Self::BeginDir(_) | Self::BeginDns(_) | Self::Stream(..) => {
                Kind::Stream
            }
            Self::Association(id, message) => Kind::Association(id, message),
            Self::Flow(message) => Kind::Flow(message),
            Self::Leg(message) => Kind::Leg(message),
            Self::Extend { .. } => Kind::Extend,
            Self::Padding => Kind::Padding,
        }
    }
}

impl<E: StreamEnd> Mux<E> {
    /// Ends all legs if the other end broke a rule: both legs end at the one relay, which is then not to be trusted on
    /// either.
    pub(super) fn end_on_violation<T>(
        &mut self,
        read: Result<T, Violation>,
    ) -> Result<T, Violation> {
        if read.is_err() && self.set.is_some() {
            self.lose();
        }
        read
    }

    /// Do payloads from the other end have numbers?
    pub(super) fn numbers_in(&self) -> bool {
        self.set.as_ref().is_some_and(|set| set.numbers_in)
    }

    pub(super) fn received(
        &mut self,
        leg: LegId,
        counted: bool,
        marks: usize,
    ) -> Result<(), Violation> {
        let leg = self.leg_mut(leg).ok_or(Violation::Linking)?;
        Ok(leg.receive.on_cell(counted, marks)?)
    }

    /// Reads a payload of a set. Messages about the leg are read at once, and messages of streams when the payload's
    /// turn has come.
    pub(super) fn on_numbered<'a, M: Decode<'a> + Classify>(
        &mut self,
        leg: LegId,
        now: Instant,
        payload: &'a Payload,
        reading: &Reading<E>,
    ) -> Result<Aside, Violation> {
        let (apply, on_leg) = (reading.apply, reading.on_leg);
        let mut aside = Aside::default();
        for message in messages::<M>(payload) {
            match message?.kind() {
                Kind::Stream => aside.streams = true,
                Kind::Association(id, message) => {
                    aside.datagrams = true;
                    let asked = (reading.on_association)(self, leg, now, id, message)?;
                    aside.requests.extend(asked);
                }
                Kind::Flow(message) => aside.marks += self.on_flow(leg, now, message)?,
                Kind::Truncated(reason) => aside.truncated = Some(reason),
                Kind::Extend => return Err(Violation::Extend),
                Kind::Padding => return Err(Violation::Linking),
                Kind::Leg(message) => self.on_leg_message(leg, now, message, &mut aside, on_leg)?,
            }
        }
        if aside.number.is_some() && !aside.streams
            || aside.links && (aside.streams || aside.datagrams)
        {
            return Err(Violation::Linking);
        }
        let is_counted = aside.streams || aside.links || aside.datagrams;
        self.received(leg, is_counted, aside.marks)?;
        if !aside.streams {
            return Ok(aside);
        }
        let one = self.leg_mut(leg).ok_or(Violation::Linking)?;
        let number = aside.number.or(one.next_in).ok_or(Violation::Numbers)?;
        one.next_in = number.checked_add(1);
        let set = self.set.as_mut().ok_or(Violation::Linking)?;
        if set.on_arrival(now, number, payload)? == Arrival::Now {
            let before = number / FORGET_INTERVAL;
            apply(self, now, payload, &mut aside.requests)?;
            while let Some(early) = self.set.as_mut().and_then(|set| set.take_early(now)) {
                apply(self, now, &early, &mut aside.requests)?;
            }
            let read = self.set.as_ref().map_or(0, |set| set.read().0);
            if read / FORGET_INTERVAL != before {
                self.forget_lingering();
            }
        }
        Ok(aside)
    }

    fn on_leg_message(
        &mut self,
        leg: LegId,
        now: Instant,
        message: LegMessage<'_>,
        aside: &mut Aside,
        on_leg: OnLeg<E>,
    ) -> Result<(), Violation> {
        match message {
            LegMessage::Switch(number) => {
                if aside.streams || aside.number.replace(number).is_some() {
                    return Err(Violation::Linking);
                }
            }
            LegMessage::Seen(number) => self.on_seen(now, number)?,
            message => aside.links |= on_leg(self, leg, message)?,
        }
        Ok(())
    }

    pub(super) fn on_seen(&mut self, now: Instant, number: u64) -> Result<(), Violation> {
        let set = self.set.as_mut().ok_or(Violation::Linking)?;
        set.on_seen(now, number)?;
        self.forget_lingering();
        Ok(())
    }

    pub(super) fn stream_mut(
        &mut self,
        id: StreamId,
    ) -> Result<(StreamKey, &mut Stream<E::Opening>), Violation> {
        let key = *self.ids.get(&id).ok_or(Violation::NoSuchStream)?;
        self.streams
            .get_mut(&key)
            .map(|s| (key, s))
            .ok_or(Violation::NoSuchStream)
    }

    /// Takes a message about a stream. Returns whether the window counts the message.
    pub(super) fn on_stream(
        &mut self,
        now: Instant,
        id: StreamId,
        message: StreamMessage<'_>,
    ) -> Result<bool, Violation> {
        if let Some(past) = self.lingering.get_mut(&id) {
            return on_lingering(past, message);
        }
        let most = self.stream_window.saturating_mul(CREDIT_GROWTH);
        let (key, stream) = self.stream_mut(id)?;
        let kind = table::Kind::of(&message);
        let effect = effect(stream.send.said, stream.receive.state.word(), kind);
        // What lingers stands in no stream's state: a stream that both ends have ended is closed.
        if matches!(effect, Effect::Linger | Effect::Destroy) {
            return Err(Violation::OutOfOrder);
        }
        let begins = matches!(
            kind,
            table::Kind::Data | table::Kind::Done | table::Kind::Blocked
        );
        if begins && !stream.opening.may_receive() {
            return Err(Violation::OutOfOrder);
        }
        match message {
            StreamMessage::Data(data) => {
                let len = u32::try_from(data.len()).map_err(|_| Violation::Credit)?;
                stream.receive.credit = stream
                    .receive
                    .credit
                    .checked_sub(len)
                    .ok_or(Violation::Credit)?;
                // Bytes that were on their way when this end gave the stream up are dropped, and their credit is not
                // granted again. The same goes for a stream whose END is still to be said.
                let gives_up = stream.released || stream.shed || stream.send.state.is_given_up();
                if effect == Effect::Take && !gives_up {
                    stream.receive.buffer.push(now, data);
                }
                if let Some(waker) = stream.receive.reader.take() {
                    waker.wake();
                }
                Ok(true)
            }
            StreamMessage::Window(bytes) => {
                let credit = stream.send.credit.checked_add(bytes);
                stream.send.credit = credit.filter(|c| *c <= most).ok_or(Violation::Credit)?;
                stream.send.said_blocked = false;
                self.enqueue(key);
                Ok(false)
            }
            StreamMessage::Blocked => {
                // BLOCKED may be said once for each grant, and once for the credit that the stream begins with.
                let left = stream.receive.may_starve.checked_sub(1);
                stream.receive.may_starve = left.ok_or(Violation::OutOfOrder)?;
                stream.receive.starved = effect == Effect::Take;
                if stream.may_grant() && !stream.receive.is_window_due {
                    stream.receive.is_window_due = true;
                    self.windows_due.push_back(key);
                }
                Ok(true)
            }
            StreamMessage::End(reason) => {
                if reason == EndReason::Done {
                    stream.receive.state = Received::Complete;
                } else {
                    stream.receive.state = Received::Failed(StreamError::Ended(reason));
                    stream.abort(EndReason::Reset);
                }
                if stream.send.said == Word::Done && stream.send.state.is_given_up() {
                    // Both ends have said END, so neither waits for another END.
                    stream.send.state = Sending::Ended;
                }
                stream.wake();
                self.enqueue(key);
                self.close_if_over(key);
                Ok(true)
            }
        }
    }

    /// Takes a mark or an acknowledgement. Returns how many marks the message is.
    pub(super) fn on_flow(
        &mut self,
        id: LegId,
        now: Instant,
        message: FlowMessage,
    ) -> Result<usize, Violation> {
        let leg = self.leg_mut(id).ok_or(Violation::Linking)?;
        match message {
            FlowMessage::Mark(bytes) => {
                leg.acks.push_back(bytes);
                Ok(1)
            }
            FlowMessage::Ack(bytes) => {
                leg.send.on_ack(now, &bytes)?;
                if id == LegId::FIRST {
                    self.acknowledged = leg.send.acknowledged();
                    self.forget_lingering();
                }
                Ok(0)
            }
        }
    }

    /// The position up to which the other end has read what this end said; see [`Mux::position`].
    pub(super) fn confirmed(&self) -> u64 {
        match self.set.as_ref().filter(|set| set.numbers_out) {
            Some(set) if set.seen() > 0 => set.before + set.seen(),
            Some(set) => self.acknowledged.min(set.before),
            None => self.acknowledged,
        }
    }

    /// Forgets the ids on which nothing of old can come any more.
    pub(super) fn forget_lingering(&mut self) {
        if self.lingering.is_empty() {
            return;
        }
        let confirmed = self.confirmed();
        let numbered = self.set.as_ref().filter(|set| set.numbers_in);
        let numbered = numbered.map(|set| (set.read().0, set.bound_in()));
        self.lingering.retain(|_, past| {
            past.until > confirmed
                || numbered.is_some_and(|(read, bound)| read < *past.last.get_or_insert(bound))
        });
        self.account();
    }

    pub(super) fn close_if_over(&mut self, key: StreamKey) {
        let Some(stream) = self.streams.get_mut(&key) else {
            return;
        };
        if !stream.closed && stream.is_over() {
            stream.closed = true;
            self.extra += stream.receive.window - self.stream_window;
            stream.receive.window = self.stream_window;
            let (id, released) = (stream.id, stream.released);
            let past = Lingering {
                room: self.stream_window.saturating_mul(CREDIT_GROWTH) - stream.send.credit,
                said: stream.send.said,
                heard: stream.receive.state.word(),
                until: stream.send.end_cell,
                last: None,
            };
            self.ids.remove(&id);
            // The acknowledgement of an END comes ahead of older words if these go by a slower leg.
            if past.until > self.confirmed() || self.numbers_in() {
                self.lingering.insert(id, past);
            }
            if released {
                self.streams.remove(&key);
            }
            self.account();
        }
    }
}

/// Takes a message on an id that this end has freed. Only what the other end may have said before it read this end's
/// END is legal. Returns whether the window counts the message.
fn on_lingering(past: &mut Lingering, message: StreamMessage<'_>) -> Result<bool, Violation> {
    if effect(past.said, past.heard, table::Kind::of(&message)) != Effect::Linger {
        return Err(Violation::OutOfOrder);
    }
    if let StreamMessage::Window(bytes) = message {
        past.room = past.room.checked_sub(bytes).ok_or(Violation::Credit)?;
        return Ok(false);
    }
    past.heard = Word::GaveUp;
    Ok(true)
}
