//! What only the end that accepts streams does.

use std::time::Instant;

use super::end::{Acceptor, Answering};
use super::leg::Leg;
use super::mux::Mux;
use super::names::LegId;
use super::receive::Reading;
use super::request::Request;
use super::set::Set;
use super::{StreamKey, StreamTarget, Violation};
use crate::cell::Payload;
use crate::cell::message::{EndReason, LegMessage, Outward, messages};
use crate::ids::StreamId;
use crate::limits::STREAMS_PER_CIRCUIT;

impl Mux<Acceptor> {
    // ---- streams ----------------------------------------------------------------

    /// The destination of a stream has answered.
    pub fn accept(&mut self, key: StreamKey) {
        if let Some(stream) = self.streams.get_mut(&key)
            && stream.opening == Answering::Waiting
            && !stream.closed
        {
            stream.opening = Answering::Connected;
            self.enqueue(key);
        }
    }

    /// The destination of a stream can't be reached, or the stream is no longer wanted. The stream is released too.
    pub fn refuse(&mut self, key: StreamKey, reason: EndReason) {
        self.abort(key, reason);
        self.release(key);
    }

    /// How many streams and associations have been refused for want of room since this was last asked.
    pub fn take_refused(&mut self) -> u32 {
        core::mem::take(&mut self.refused)
    }

    // ---- legs -------------------------------------------------------------------

    /// The opener has made the circuit the first leg of a set.
    pub fn begin_set(&mut self) {
        let mut set = Box::new(Set::new(&self.budget));
        set.numbers_in = true;
        self.set = Some(set);
        if let Some(leg) = self.leg_mut(LegId::FIRST) {
            leg.words.linked = true;
        }
    }

    /// Adds a second leg, which the opener has given this name, and answers LINKED on it. `None` when there is no room
    /// for the leg, or when another leg has had the name.
    pub fn join(&mut self, mut leg: Box<Leg<Acceptor>>, id: LegId) -> Option<LegId> {
        if id.0 < self.next_leg {
            return None;
        }
        leg.id = id;
        leg.words.linked = true;
        self.place(leg)
    }

    // ---- what the other end says --------------------------------------------------

    /// Reads a payload from the opener that came by a leg. Gives what the opener asks for.
    ///
    /// # Errors
    /// The rule that the opener broke; no leg can be used any more.
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
            let reading = Reading {
                apply: Self::apply_outward,
                on_leg: Self::on_leg_outward,
                on_association: Self::on_association_outward,
            };
            let read = self.on_numbered::<Outward<'_>>(leg, now, payload, &reading);
            read.map(|aside| aside.requests)
        } else {
            self.on_plain_outward(leg, now, payload)
        };
        self.end_on_violation(read)
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
                    if others || !requests.is_empty() || self.in_use() > 0 {
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
                    requests.extend(self.on_begin(stream, StreamTarget::from_wire(host, port))?);
                }
                Outward::BeginDir(stream) => {
                    counted = true;
                    requests.extend(self.on_begin(stream, StreamTarget::Directory)?);
                }
                Outward::BeginDns(stream) => {
                    counted = true;
                    requests.extend(self.on_begin(stream, StreamTarget::Resolver)?);
                }
                Outward::Stream(id, message) => {
                    // A LINK stands alone in its payload: not even a grant of credit stands beside it.
                    if link.is_some() {
                        return Err(Violation::Linking);
                    }
                    counted |= self.on_stream(now, id, message)?;
                }
                Outward::Association(id, message) => {
                    if link.is_some() {
                        return Err(Violation::Linking);
                    }
                    counted = true;
                    requests.extend(self.on_association_outward(leg, now, id, message)?);
                }
                Outward::Flow(message) => marks += self.on_flow(leg, now, message)?,
                // The circuit was confirmed when the cell opened.
                Outward::Padding => counted = true,
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

    fn on_leg_outward(&mut self, leg: LegId, message: LegMessage<'_>) -> Result<bool, Violation> {
        match message {
            LegMessage::Unlink(lost) if LegId::from_wire(lost) != leg => {
                self.lose_leg(LegId::from_wire(lost));
            }
            LegMessage::Ask => {
                self.leg_mut(leg).ok_or(Violation::Linking)?.words.asked = true;
            }
            _ => return Err(Violation::Linking),
        }
        Ok(false)
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
                    requests.extend(self.on_begin(stream, StreamTarget::from_wire(host, port))?);
                }
                Outward::BeginDir(stream) => {
                    requests.extend(self.on_begin(stream, StreamTarget::Directory)?);
                }
                Outward::BeginDns(stream) => {
                    requests.extend(self.on_begin(stream, StreamTarget::Resolver)?);
                }
                Outward::Stream(id, message) => {
                    self.on_stream(now, id, message)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn on_begin(
        &mut self,
        id: StreamId,
        target: StreamTarget,
    ) -> Result<Option<Request>, Violation> {
        if self.ids.contains_key(&id) {
            return Err(Violation::OutOfOrder);
        }
        // Grants for the stream that had this id came before, in order, so the id need not linger.
        self.lingering.remove(&id);
        let full = !self.has_room();
        if self.streams.len() >= 2 * STREAMS_PER_CIRCUIT {
            return Err(Violation::Credit);
        }
        let key = self.insert(id, Answering::Waiting);
        if full {
            self.refused += 1;
            self.refuse(key, EndReason::Resource);
            return Ok(None);
        }
        Ok(Some(Request::Begin(key, target)))
    }
}
