//! What the streams of a circuit have to say, packed into payloads.

use std::time::Instant;

use rand_core::CryptoRng;

use super::end::{LegWords, Opening, StreamEnd};
use super::leg::Leg;
use super::mux::Mux;
use super::names::LegId;
use super::state::{Sending, Stream};
use super::table::Word;
use crate::cell::Payload;
use crate::cell::message::{
    EndReason, FlowMessage, LegMessage, MARK_LEN, MARK_MESSAGE_LEN, MESSAGE_HEAD_LEN,
    NUMBER_MESSAGE_LEN, Packer, StreamMessage,
};
use crate::limits::CREDIT_GROWTH;

/// Acknowledgements and grants may take this many bytes of a payload. The rest is always enough for a MARK and the
/// longest BEGIN.
const UNCOUNTED_ROOM: usize = 1024;
/// A DATA that would be shorter than this waits for the next cell.
const MIN_DATA_LEN: usize = 64;

/// A payload that has less room than this left behind its datagrams has no messages of streams: it could not hold a
/// number, a mark and the longest BEGIN.
const STREAM_ROOM: usize = 512;
/// What SEEN, UNLINK and ASK take, which stand behind datagrams.
const OTHERS_ROOM: usize = NUMBER_MESSAGE_LEN + (MESSAGE_HEAD_LEN + 4) + MESSAGE_HEAD_LEN;

/// What SWITCH and MARK take. A payload with a number leaves this room free, so that it can be sent again on another
/// leg.
const AGAIN_ROOM: usize = NUMBER_MESSAGE_LEN + MARK_MESSAGE_LEN;

impl<E: StreamEnd> Mux<E> {
    /// Packs the next payload for a leg, if there is anything to say on it that may be said now.
    pub fn fill(
        &mut self,
        leg: LegId,
        now: Instant,
        rng: &mut impl CryptoRng,
        payload: &mut Payload,
    ) -> bool {
        if self.lost {
            return false;
        }
        let mut places = self.legs.iter_mut();
        let Some(place) = places.find(|one| one.as_ref().is_some_and(|one| one.id == leg)) else {
            return false;
        };
        // The leg is taken out while its payload is filled, and put back then: streams and the other leg are looked at
        // meanwhile.
        let Some(mut one) = place.take() else {
            return false;
        };
        let mut packer = Packer::new(payload);
        pack_acks(&mut packer, &mut one);
        if one.words.is_link_due() && one.send.is_open() {
            self.pack_linking(&mut packer, &mut one, now, rng);
        } else if self.set.as_ref().is_some_and(|set| set.numbers_out) {
            self.pack_numbered(&mut packer, &mut one, now, rng);
        } else {
            self.pack_plain(&mut packer, &mut one, now, rng);
        }
        if let Some(place) = self.legs.iter_mut().find(|place| place.is_none()) {
            *place = Some(one);
        }
        let filled = packer.finish();
        self.moved += u64::from(filled);
        filled
    }

    /// Is there anything that [`Mux::fill`] would pack for this leg now?
    pub fn wants(&mut self, leg: LegId) -> bool {
        self.drop_idle();
        self.drop_idle_windows();
        if let Some(datagrams) = self.leg_mut(leg).and_then(|leg| leg.datagrams.as_mut()) {
            datagrams.drop_idle(None);
        }
        let Some(one) = self.leg(leg).filter(|_| !self.lost) else {
            return false;
        };
        let says = one.words.is_link_due() || one.has_datagrams();
        one.has_uncounted() || says && one.send.is_open() || self.may_say(one)
    }

    /// Is there a payload to be said, and should this leg carry it?
    fn may_say(&self, leg: &Leg<E>) -> bool {
        let fresh = !(self.ready.is_empty() && self.windows_due.is_empty());
        let Some(set) = self.set.as_ref().filter(|set| set.numbers_out) else {
            let says = fresh || leg.words.is_word_due();
            return !self.windows_due.is_empty() || says && leg.send.is_open();
        };
        let any = set.first_again().is_some() || fresh && set.has_room();
        let is_open = |leg: &Leg<E>| leg.is_usable() && leg.send.is_open();
        let mut others = self.legs().filter(|other| other.id != leg.id);
        // The leg with the shorter round trip goes first, as long as its window lets (as in Tor's proposal 329).
        any && is_open(leg) && !others.any(|other| is_open(other) && other.rtt() < leg.rtt())
    }

    /// The position of the next payload on this leg among all that this end says; see [`Mux::confirmed`].
    fn position(&self, leg: &Leg<E>) -> u64 {
        match self.set.as_ref().filter(|set| set.numbers_out) {
            Some(set) => set.before + set.next_out() + 1,
            None => leg.send.sent() + 1,
        }
    }

    fn pack_plain(
        &mut self,
        packer: &mut Packer<'_>,
        leg: &mut Leg<E>,
        now: Instant,
        rng: &mut impl CryptoRng,
    ) {
        self.pack_windows(packer);
        self.drop_idle();
        let first = datagrams_first(leg, now, self.ready.len());
        let idle = self.ready.is_empty() && !leg.has_datagrams();
        let pads = idle && leg.words.is_word_due();
        if (pads || !idle) && leg.send.is_open() {
            let mark = leg.send.is_mark_due().then(|| pack_mark(packer, rng));
            if pads {
                let _ = packer.padding();
            }
            if let Some(only_light) = first {
                pack_datagrams(packer, leg, now, only_light);
            }
            let is_begun = first.is_some_and(|_| packer.space() < STREAM_ROOM);
            if !is_begun {
                self.pack_streams(packer, leg, now, leg.send.sent() + 1);
            }
            if first.is_none() {
                pack_datagrams(packer, leg, now, false);
            }
            leg.send.on_sent(now, mark);
            leg.words.on_said();
        }
    }

    /// Packs LINK or LINKED alone: what comes after it on the first leg has a number.
    fn pack_linking(
        &mut self,
        packer: &mut Packer<'_>,
        leg: &mut Leg<E>,
        now: Instant,
        rng: &mut impl CryptoRng,
    ) {
        let Some(set) = &mut self.set else { return };
        if leg.words.pack_link(leg.id, packer).is_err() {
            // Acknowledgements fill this payload; the next one has room.
            return;
        }
        // The mark measures the round trip of the leg; on the first leg other marks may do so.
        let mark = leg.send.may_mark().then(|| pack_mark(packer, rng));
        leg.send.on_sent(now, mark);
        leg.linked = !leg.joined || E::Words::LINKS_AT_ONCE;
        leg.words.on_said();
        if !set.numbers_out {
            set.numbers_out = true;
            set.before = leg.send.sent();
        }
    }

    fn pack_numbered(
        &mut self,
        packer: &mut Packer<'_>,
        leg: &mut Leg<E>,
        now: Instant,
        rng: &mut impl CryptoRng,
    ) {
        self.drop_idle();
        self.drop_idle_windows();
        let may_say = self.may_say(leg);
        let speakers = if may_say { self.ready.len().max(1) } else { 0 };
        let first = datagrams_first(leg, now, speakers).filter(|_| leg.send.is_open());
        let mut mark = None;
        if let Some(only_light) = first {
            mark = is_mark_due(leg).then(|| pack_mark(packer, rng));
            packer.leave(OTHERS_ROOM);
            pack_datagrams(packer, leg, now, only_light);
            packer.leave(0);
        }
        let says = self.pack_payload(packer, leg, now, rng, &mut mark, may_say);
        if says || first.is_some() {
            leg.send.on_sent(now, mark);
        }
    }

    /// Packs what is about legs and, where this leg is to carry it, the next payload of streams. Gives whether it has
    /// packed one.
    fn pack_payload(
        &mut self,
        packer: &mut Packer<'_>,
        leg: &mut Leg<E>,
        now: Instant,
        rng: &mut impl CryptoRng,
        mark: &mut Option<[u8; MARK_LEN]>,
        may_say: bool,
    ) -> bool {
        let may_say = may_say && packer.space() >= STREAM_ROOM;
        let Some(set) = &mut self.set else {
            return false;
        };
        let (read, news) = set.read();
        if leg.words.take_asked() || news && (may_say || !packer.is_empty()) {
            let _ = packer.leg(&LegMessage::Seen(read));
            set.on_told();
        }
        leg.words.pack_others(packer);
        if !may_say {
            return false;
        }
        let again = set.first_again();
        let number = again.unwrap_or(set.next_out());
        let messages = again.and_then(|number| set.take_again(number, leg.id, packer.space()));
        if again.is_some() && messages.is_none() {
            // The payload has no room for these messages, but the next payload has.
            return false;
        }
        if leg.next_out != Some(number) {
            let _ = packer.leg(&LegMessage::Switch(number));
        }
        leg.next_out = Some(number + 1);
        let is_due = mark.is_none() && is_mark_due(leg);
        if let Some(messages) = messages {
            let has_room = packer.space() >= MARK_MESSAGE_LEN + messages.len();
            if is_due && has_room {
                *mark = Some(pack_mark(packer, rng));
            }
            let _ = packer.again(messages);
            return true;
        }
        if is_due {
            *mark = Some(pack_mark(packer, rng));
        }
        let from = packer.used();
        packer.leave(AGAIN_ROOM.saturating_sub(from));
        let position = self.position(leg);
        self.pack_windows(packer);
        self.pack_streams(packer, leg, now, position);
        if let Some(set) = &mut self.set {
            set.keep(now, leg.id, packer.packed_from(from));
        }
        true
    }

    fn pack_windows(&mut self, packer: &mut Packer<'_>) {
        while packer.room().is_some_and(|room| room >= UNCOUNTED_ROOM)
            && let Some(key) = self.windows_due.pop_front()
        {
            let Some(stream) = self.streams.get_mut(&key) else {
                continue;
            };
            stream.receive.is_window_due = false;
            if stream.may_grant() {
                let most = self.stream_window.saturating_mul(CREDIT_GROWTH);
                let grant = core::mem::take(&mut stream.receive.drained)
                    + stream.receive.grow_window(most, &mut self.extra);
                if grant == 0 {
                    continue;
                }
                stream.receive.credit += grant;
                stream.receive.may_starve = stream.receive.may_starve.saturating_add(1);
                let _ = packer.stream(stream.id, StreamMessage::Window(grant));
            }
        }
    }

    /// Takes streams that have no credit to grant any more off the front of the queue of grants.
    fn drop_idle_windows(&mut self) {
        while let Some(key) = self.windows_due.front() {
            match self.streams.get_mut(key) {
                Some(stream) if stream.may_grant() => return,
                Some(stream) => stream.receive.is_window_due = false,
                None => {}
            }
            self.windows_due.pop_front();
        }
    }

    /// Takes streams that have nothing to pack any more off the front of their queue.
    fn drop_idle(&mut self) {
        while let Some(key) = self.ready.front() {
            match self.streams.get_mut(&key) {
                Some(stream) if !stream.closed && stream.has_work() => return,
                Some(stream) => stream.send.is_queued = false,
                None => {}
            }
            self.ready.take();
        }
    }

    /// Gives each stream its turn until the payload, which stands at `position`, is full.
    fn pack_streams(
        &mut self,
        packer: &mut Packer<'_>,
        leg: &mut Leg<E>,
        now: Instant,
        position: u64,
    ) {
        let (before, speakers) = (packer.used(), self.ready.len());
        self.pack_turns(packer, now, position);
        if let Some(datagrams) = &mut leg.datagrams {
            datagrams
                .shares
                .on_streams(packer.used() - before, speakers);
        }
    }

    fn pack_turns(&mut self, packer: &mut Packer<'_>, now: Instant, position: u64) {
        let send_buffer = self.send_buffer();
        for _ in 0..self.ready.len() {
            let Some(key) = self.ready.take() else {
                return;
            };
            let Some(stream) = self.streams.get_mut(&key) else {
                continue;
            };
            stream.send.is_queued = false;
            let before = packer.used();
            let full = pack_stream(packer, now, stream);
            let said = packer.used() - before;
            self.ready.on_said(&mut stream.send.recent, said);
            if stream.send.state == Sending::Ended {
                stream.send.end_cell = position;
            }
            if stream.send.buffer.len() <= send_buffer / 2
                && let Some(writer) = stream.send.writer.take()
            {
                writer.wake();
            }
            if full {
                if stream.has_work() && !stream.closed {
                    stream.send.is_queued = true;
                    self.ready.go_on(key);
                }
                // The stream's END may be what filled the payload.
                self.close_if_over(key);
                return;
            }
            self.enqueue(key);
            self.close_if_over(key);
        }
    }
}

/// Packs the acknowledgements that a leg owes.
fn pack_acks<E: StreamEnd>(packer: &mut Packer<'_>, leg: &mut Leg<E>) {
    while let Some(bytes) = leg.acks.front()
        && packer.room().is_some_and(|room| room >= UNCOUNTED_ROOM)
        && packer.flow(&FlowMessage::Ack(*bytes)).is_ok()
    {
        leg.acks.pop_front();
    }
}

/// Should a leg's next counted payload have a mark? If the round trip of the leg has not been measured yet, a mark
/// measures it as soon as one may be sent.
fn is_mark_due<E: StreamEnd>(leg: &Leg<E>) -> bool {
    let unknown = leg.send.smooth_rtt().is_none() && !leg.send.awaits_ack();
    leg.send.is_mark_due() || unknown && leg.send.may_mark()
}

/// Should the leg's datagrams go first, while `streams` streams have something to say? If so, gives whether only those
/// should of associations that have said little of late.
fn datagrams_first<E: StreamEnd>(leg: &mut Leg<E>, now: Instant, streams: usize) -> Option<bool> {
    let datagrams = leg.datagrams.as_mut()?;
    datagrams.drop_idle(Some(now));
    if !datagrams.has_work() {
        datagrams.shares.on_none();
        return None;
    }
    if datagrams.shares.is_for_associations(streams) {
        return Some(false);
    }
    datagrams.is_light_next().then_some(true)
}

/// Packs datagrams.
fn pack_datagrams<E: StreamEnd>(
    packer: &mut Packer<'_>,
    leg: &mut Leg<E>,
    now: Instant,
    only_light: bool,
) {
    if let Some(datagrams) = &mut leg.datagrams {
        let (before, speakers) = (packer.used(), datagrams.speakers());
        datagrams.pack(packer, now, only_light);
        let said = packer.used() - before;
        datagrams.shares.on_associations(said, speakers);
    }
}

/// Packs a MARK. Gives the mark's bytes.
fn pack_mark(packer: &mut Packer<'_>, rng: &mut impl CryptoRng) -> [u8; MARK_LEN] {
    let mut bytes = [0; MARK_LEN];
    rng.fill_bytes(&mut bytes);
    let _ = packer.flow(&FlowMessage::Mark(bytes));
    bytes
}

/// Packs what a stream has to say. Returns whether the payload is full.
fn pack_stream<O: Opening>(packer: &mut Packer<'_>, now: Instant, stream: &mut Stream<O>) -> bool {
    if stream.opening.pack(stream.id, packer).is_err() {
        return true;
    }
    while !stream.send.buffer.is_empty() && stream.send.credit > 0 {
        let want = stream.send.buffer.len().min(stream.send.credit as usize);
        let room = packer.room().unwrap_or(0);
        if room < want.min(MIN_DATA_LEN) {
            return true;
        }
        let wrote = packer.data_in_place(stream.id, want, |slot| stream.send.buffer.pop(now, slot));
        stream.send.credit -= wrote as u32;
    }
    if stream.send.is_blocked() {
        if packer.stream(stream.id, StreamMessage::Blocked).is_err() {
            return true;
        }
        stream.send.said_blocked = true;
    }
    if let (Sending::Ending(reason), true) = (stream.send.state, stream.send.buffer.is_empty()) {
        if packer
            .stream(stream.id, StreamMessage::End(reason))
            .is_err()
        {
            return true;
        }
        stream.send.state = Sending::Ended;
        stream.send.said = match reason {
            EndReason::Done => Word::Done,
            _ => Word::GaveUp,
        };
    }
    packer.room().is_none_or(|room| room < MESSAGE_HEAD_LEN)
}
