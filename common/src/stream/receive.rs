//! What the other end says: payloads read, in order, and what they do to streams.

use std::time::Instant;

use super::leg::{Leg, LegId};
use super::mux::{Mux, Request, Side};
use super::set::Arrival;
use super::state::{Lingering, Opening, Received, Sending, Stream};
use super::{StreamError, StreamKey, Target, Violation};
use crate::cell::Payload;
use crate::cell::codec::DestroyReason;
use crate::cell::message::{
    Decode, EndReason, FlowMessage, Inward, LegMessage, Outward, StreamMessage, messages,
};
use crate::ids::StreamId;
use crate::limits::{CREDIT_GROWTH, STREAMS_PER_CIRCUIT};

/// What a payload holds beside the messages of streams.
#[derive(Default)]
struct Aside {
    marks: usize,
    /// It makes the circuit a leg.
    links: bool,
    /// It holds a message of a stream.
    streams: bool,
    number: Option<u64>,
    requests: Vec<Request>,
    truncated: Option<DestroyReason>,
}

/// A message as numbering sees it.
enum Kind<'a> {
    Stream,
    Flow(FlowMessage),
    Leg(LegMessage<'a>),
    Truncated(DestroyReason),
    Extend,
}

trait Classify: Copy {
    fn kind(&self) -> Kind<'_>;
}

impl Classify for Inward<'_> {
    fn kind(&self) -> Kind<'_> {
        match *self {
            Self::Connected(_) | Self::Stream(..) => Kind::Stream,
            Self::Flow(message) => Kind::Flow(message),
            Self::Leg(message) => Kind::Leg(message),
            Self::Truncated(reason) => Kind::Truncated(reason),
        }
    }
}

impl Classify for Outward<'_> {
    fn kind(&self) -> Kind<'_> {
        match *self {
            Self::Begin { .. } | Self::BeginDir(_) | Self::Stream(..) => Kind::Stream,
            Self::Flow(message) => Kind::Flow(message),
            Self::Leg(message) => Kind::Leg(message),
            Self::Extend { .. } => Kind::Extend,
        }
    }
}

impl Mux {
    /// Reads a payload that a client received from the circuit's last hop, by a leg.
    /// TRUNCATED is the caller's to act on.
    ///
    /// # Errors
    /// The rule that the relay broke; no leg can be used any more.
    pub fn on_inward(
        &mut self,
        leg: LegId,
        now: Instant,
        payload: &Payload,
    ) -> Result<Option<DestroyReason>, Violation> {
        if !self.has_leg(leg) {
            // Given up, and not ended yet.
            return Ok(None);
        }
        self.moved += 1;
        let read = if self.numbers_in() {
            let read = self.on_numbered::<Inward<'_>>(leg, now, payload, Self::apply_inward);
            read.map(|aside| aside.truncated)
        } else {
            self.on_plain_inward(leg, now, payload)
        };
        self.end_on_violation(read)
    }

    /// Reads a payload that a relay received from the circuit's client, by a leg.
    ///
    /// # Errors
    /// The rule that the client broke; no leg can be used any more.
    pub fn on_outward(
        &mut self,
        leg: LegId,
        now: Instant,
        payload: &Payload,
    ) -> Result<Vec<Request>, Violation> {
        if !self.has_leg(leg) {
            return Ok(Vec::new());
        }
        self.moved += 1;
        let read = if self.numbers_in() {
            let read = self.on_numbered::<Outward<'_>>(leg, now, payload, Self::apply_outward);
            read.map(|aside| aside.requests)
        } else {
            self.on_plain_outward(leg, now, payload)
        };
        self.end_on_violation(read)
    }

    /// Both legs end at the one relay: what it does on one, it is not to be trusted with on the other.
    fn end_on_violation<T>(&mut self, read: Result<T, Violation>) -> Result<T, Violation> {
        if read.is_err() && self.set.is_some() {
            self.lose();
        }
        read
    }

    /// Do payloads from the other end have numbers?
    fn numbers_in(&self) -> bool {
        self.set.as_ref().is_some_and(|set| set.numbers_in)
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

    fn on_plain_outward(
        &mut self,
        leg: LegId,
        now: Instant,
        payload: &Payload,
    ) -> Result<Vec<Request>, Violation> {
        let (mut counted, mut marks, mut others) = (false, 0, false);
        let (mut requests, mut link) = (Vec::new(), None);
        for message in messages::<Outward<'_>>(payload) {
            match message? {
                Outward::Extend { relay, message } => {
                    counted = true;
                    if others || !requests.is_empty() || !self.ids.is_empty() {
                        return Err(Violation::Extend);
                    }
                    requests.push(Request::Extend {
                        relay,
                        message: Box::new(*message),
                    });
                    continue;
                }
                Outward::Begin { stream, host, port } => {
                    counted = true;
                    requests.extend(self.on_begin(stream, Target::from_wire(host, port))?);
                }
                Outward::BeginDir(stream) => {
                    counted = true;
                    requests.extend(self.on_begin(stream, Target::Directory)?);
                }
                Outward::Stream(id, message) => {
                    // A LINK stands alone, beside a grant too.
                    if link.is_some() {
                        return Err(Violation::Linking);
                    }
                    counted |= self.on_stream(now, id, message)?;
                }
                Outward::Flow(message) => marks += self.on_flow(leg, now, message)?,
                Outward::Leg(LegMessage::Link { secret, leg }) => {
                    if counted || link.is_some() || self.set.is_some() {
                        return Err(Violation::Linking);
                    }
                    link = Some((*secret, LegId::from_wire(leg)));
                    continue;
                }
                Outward::Leg(_) => return Err(Violation::Linking),
            }
            others = true;
            if matches!(requests.first(), Some(Request::Extend { .. })) {
                return Err(Violation::Extend);
            }
        }
        if let Some((secret, leg)) = link {
            if counted {
                return Err(Violation::Linking);
            }
            requests.push(Request::Link { secret, leg });
        }
        self.received(leg, counted || link.is_some(), marks)?;
        Ok(requests)
    }

    fn received(&mut self, leg: LegId, counted: bool, marks: usize) -> Result<(), Violation> {
        let leg = self.leg_mut(leg).ok_or(Violation::Linking)?;
        Ok(leg.receive.on_cell(counted, marks)?)
    }

    /// Reads a payload of a set: what concerns the leg at once, what concerns streams when it is its turn.
    fn on_numbered<'a, M: Decode<'a> + Classify>(
        &mut self,
        leg: LegId,
        now: Instant,
        payload: &'a Payload,
        apply: fn(&mut Self, Instant, &Payload, &mut Vec<Request>) -> Result<(), Violation>,
    ) -> Result<Aside, Violation> {
        let mut aside = Aside::default();
        for message in messages::<M>(payload) {
            match message?.kind() {
                Kind::Stream => aside.streams = true,
                Kind::Flow(message) => aside.marks += self.on_flow(leg, now, message)?,
                Kind::Truncated(reason) => aside.truncated = Some(reason),
                Kind::Extend => return Err(Violation::Extend),
                Kind::Leg(message) => self.on_leg_message(leg, now, message, &mut aside)?,
            }
        }
        if aside.number.is_some() && !aside.streams || aside.links && aside.streams {
            return Err(Violation::Linking);
        }
        self.received(leg, aside.streams || aside.links, aside.marks)?;
        if !aside.streams {
            return Ok(aside);
        }
        let one = self.leg_mut(leg).ok_or(Violation::Linking)?;
        let number = aside.number.or(one.next_in).ok_or(Violation::Numbers)?;
        one.next_in = number.checked_add(1);
        let set = self.set.as_mut().ok_or(Violation::Linking)?;
        if set.on_arrival(number, payload)? == Arrival::Now {
            apply(self, now, payload, &mut aside.requests)?;
            while let Some(early) = self.set.as_mut().and_then(|set| set.take_early()) {
                apply(self, now, &early, &mut aside.requests)?;
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
    ) -> Result<(), Violation> {
        match message {
            LegMessage::Switch(number) => {
                if aside.streams || aside.number.replace(number).is_some() {
                    return Err(Violation::Linking);
                }
            }
            LegMessage::Seen(number) => self.on_seen(now, number)?,
            LegMessage::Linked => {
                aside.links = true;
                self.on_linked(leg)?;
            }
            LegMessage::Unlink(lost) => {
                let lost = LegId::from_wire(lost);
                if lost == leg {
                    return Err(Violation::Linking);
                }
                self.lose_leg(lost);
            }
            LegMessage::Ask => {
                self.leg_mut(leg).ok_or(Violation::Linking)?.asked = true;
            }
            LegMessage::Link { .. } => return Err(Violation::Linking),
        }
        Ok(())
    }

    /// The relay has made the circuit a leg.
    fn on_linked(&mut self, id: LegId) -> Result<(), Violation> {
        let set = self.set.as_mut().filter(|set| set.numbers_out);
        let set = set.ok_or(Violation::Linking)?;
        let leg = self.legs.iter_mut().flatten().find(|leg| leg.id == id);
        let leg = leg.ok_or(Violation::Linking)?;
        // It answers a LINK, and one only.
        let waits = match leg.joined {
            true => leg.say.is_none() && !leg.linked,
            false => leg.linked && !set.numbers_in,
        };
        if !waits {
            return Err(Violation::Linking);
        }
        leg.linked = true;
        set.numbers_in = true;
        Ok(())
    }

    fn on_seen(&mut self, now: Instant, number: u64) -> Result<(), Violation> {
        let set = self.set.as_mut().ok_or(Violation::Linking)?;
        set.on_seen(now, number)?;
        self.forget_lingering();
        Ok(())
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

    fn apply_outward(
        &mut self,
        now: Instant,
        payload: &Payload,
        requests: &mut Vec<Request>,
    ) -> Result<(), Violation> {
        for message in messages::<Outward<'_>>(payload) {
            match message? {
                Outward::Begin { stream, host, port } => {
                    requests.extend(self.on_begin(stream, Target::from_wire(host, port))?);
                }
                Outward::BeginDir(stream) => {
                    requests.extend(self.on_begin(stream, Target::Directory)?);
                }
                Outward::Stream(id, message) => {
                    self.on_stream(now, id, message)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn stream_mut(&mut self, id: StreamId) -> Result<(StreamKey, &mut Stream), Violation> {
        let key = *self.ids.get(&id).ok_or(Violation::NoSuchStream)?;
        self.streams
            .get_mut(&key)
            .map(|s| (key, s))
            .ok_or(Violation::NoSuchStream)
    }

    fn on_begin(&mut self, id: StreamId, target: Target) -> Result<Option<Request>, Violation> {
        if self.ids.contains_key(&id) {
            return Err(Violation::OutOfOrder);
        }
        // Its grants came before, in order.
        self.lingering.remove(&id);
        let full = !self.has_room();
        if self.streams.len() >= 2 * STREAMS_PER_CIRCUIT {
            return Err(Violation::Credit);
        }
        let key = self.insert(id, target.clone(), Opening::Waiting);
        if full {
            self.refuse(key, EndReason::Resource);
            return Ok(None);
        }
        Ok(Some(Request::Begin(key, target)))
    }

    fn on_connected(&mut self, id: StreamId) -> Result<(), Violation> {
        let (_, stream) = self.stream_mut(id)?;
        if stream.opening != Opening::Waiting || stream.received != Received::Open {
            return Err(Violation::OutOfOrder);
        }
        stream.opening = Opening::Done;
        stream.wake();
        Ok(())
    }

    /// Returns whether the window counts the message.
    fn on_stream(
        &mut self,
        now: Instant,
        id: StreamId,
        message: StreamMessage<'_>,
    ) -> Result<bool, Violation> {
        if let Some(past) = self.lingering.get_mut(&id) {
            return on_lingering(past, message);
        }
        let (side, most) = (self.side, self.stream_window.saturating_mul(CREDIT_GROWTH));
        let (key, stream) = self.stream_mut(id)?;
        match (stream.received, message) {
            (Received::Open, _) | (Received::Complete, StreamMessage::Window(_)) => {}
            // Complete, and then given up: its application listens no more.
            (Received::Complete, StreamMessage::End(reason)) if reason != EndReason::Done => {}
            _ => return Err(Violation::OutOfOrder),
        }
        match message {
            StreamMessage::Data(data) => {
                // Only an exit takes data before the stream is open.
                if side == Side::Client && stream.opening != Opening::Done {
                    return Err(Violation::OutOfOrder);
                }
                let len = u32::try_from(data.len()).map_err(|_| Violation::Credit)?;
                stream.rx_credit = stream.rx_credit.checked_sub(len).ok_or(Violation::Credit)?;
                // What was on its way when this end gave up is dropped, and not granted again.
                if !stream.released && !stream.sending.is_given_up() {
                    stream.rx.push(now, data);
                }
                if let Some(waker) = stream.reader.take() {
                    waker.wake();
                }
                Ok(true)
            }
            StreamMessage::Window(bytes) => {
                let credit = stream.tx_credit.checked_add(bytes);
                stream.tx_credit = credit.filter(|c| *c <= most).ok_or(Violation::Credit)?;
                stream.said_blocked = false;
                self.enqueue(key);
                Ok(false)
            }
            StreamMessage::Blocked => {
                // Once to a grant, and once to the first credit.
                let left = stream.may_starve.checked_sub(1);
                stream.may_starve = left.ok_or(Violation::OutOfOrder)?;
                stream.starved = true;
                if stream.may_grant() && !stream.window_due {
                    stream.window_due = true;
                    self.windows_due.push_back(key);
                }
                Ok(true)
            }
            StreamMessage::End(reason) => {
                if reason == EndReason::Done {
                    if side == Side::Client && stream.opening != Opening::Done {
                        return Err(Violation::OutOfOrder);
                    }
                    stream.received = Received::Complete;
                } else {
                    stream.received = Received::Failed(StreamError::Ended(reason));
                    stream.abort(EndReason::Reset);
                }
                if stream.said_done && stream.sending.is_given_up() {
                    // Both ends have said END: nobody waits for another.
                    stream.sending = Sending::Ended;
                }
                stream.wake();
                self.enqueue(key);
                self.close_if_over(key);
                Ok(true)
            }
        }
    }

    /// Returns how many marks the message is.
    fn on_flow(
        &mut self,
        id: LegId,
        now: Instant,
        message: FlowMessage,
    ) -> Result<usize, Violation> {
        let leg: &mut Leg = self.leg_mut(id).ok_or(Violation::Linking)?;
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

    /// Up to which position (see [`Mux::position`]) the other end has read what this end said.
    pub(super) fn confirmed(&self) -> u64 {
        match self.set.as_ref().filter(|set| set.numbers_out) {
            Some(set) if set.seen() > 0 => set.before + set.seen(),
            Some(set) => self.acknowledged.min(set.before),
            None => self.acknowledged,
        }
    }

    fn forget_lingering(&mut self) {
        let confirmed = self.confirmed();
        self.lingering.retain(|_, past| past.until > confirmed);
    }

    pub(super) fn close_if_over(&mut self, key: StreamKey) {
        let Some(stream) = self.streams.get_mut(&key) else {
            return;
        };
        if !stream.closed && stream.is_over() {
            stream.closed = true;
            self.extra += stream.rx_window - self.stream_window;
            stream.rx_window = self.stream_window;
            let (id, released) = (stream.id, stream.released);
            let past = Lingering {
                room: self.stream_window.saturating_mul(CREDIT_GROWTH) - stream.tx_credit,
                until: stream.end_cell,
                given_up: matches!(stream.received, Received::Failed(_)),
            };
            self.ids.remove(&id);
            if past.until > self.confirmed() {
                self.lingering.insert(id, past);
            }
            if released {
                self.streams.remove(&key);
            }
        }
    }
}

/// A message on an id that this end has freed: what the other end said before
/// it read our END, and nothing else.
fn on_lingering(past: &mut Lingering, message: StreamMessage<'_>) -> Result<bool, Violation> {
    match message {
        StreamMessage::Window(bytes) => {
            past.room = past.room.checked_sub(bytes).ok_or(Violation::Credit)?;
            Ok(false)
        }
        StreamMessage::End(reason) if reason != EndReason::Done && !past.given_up => {
            past.given_up = true;
            past.room = 0;
            Ok(true)
        }
        StreamMessage::End(_) | StreamMessage::Data(_) | StreamMessage::Blocked => {
            Err(Violation::OutOfOrder)
        }
    }
}
