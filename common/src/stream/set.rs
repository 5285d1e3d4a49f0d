//! What two legs carry together: payloads with numbers, which are kept until they have been seen, and are read in order
//! (5.22 to 5.26).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use super::Violation;
use super::names::LegId;
use crate::budget::{Budget, Charge};
use crate::cell::Payload;
use crate::cell::message::NUMBER_MESSAGE_LEN;

/// Numbered payloads that may be unseen at once: what a receiver may have to hold out of order (4 MiB).
pub(super) const UNSEEN_PAYLOADS: u64 = 2_048;
/// Memory of used copies that is kept for the next ones.
const SPARE_COPIES: usize = 64;

/// A payload that has been sent and may have to be sent again.
struct Kept {
    leg: LegId,
    messages: Vec<u8>,
}

/// What becomes of a numbered payload that has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// The payload's turn has come.
    Now,
    /// The payload waits for those before it.
    Early,
    /// The payload has arrived before.
    Known,
}

/// The state of a set of legs: the numbers of payloads in both directions.
pub(super) struct Set {
    /// The payloads that this end says have numbers.
    pub(super) numbers_out: bool,
    /// The payloads that the other end says have numbers.
    pub(super) numbers_in: bool,
    /// Counted cells that this end had sent on its first leg when its payloads began to have numbers.
    pub(super) before: u64,
    next_out: u64,
    /// Copies of the payloads from `seen` on.
    kept: VecDeque<Kept>,
    seen: u64,
    /// Numbers of payloads to be sent again, because their leg was lost.
    again: BTreeSet<u64>,
    spare: Vec<Vec<u8>>,
    next_in: u64,
    /// The last `next_in` that the other end was told.
    told: u64,
    early: BTreeMap<u64, Box<Payload>>,
    /// Since when the payloads in `early` wait, or when the last of them was read.
    early_since: Option<Instant>,
    /// How many payloads may still come a second time, because a lost leg had them on its way.
    may_repeat: u64,
    /// How often the other end may still say SEEN.
    may_see: u64,
    charge: Charge,
    /// When the oldest copy became the oldest.
    moved: Option<Instant>,
}

impl Set {
    pub(super) fn new(budget: &Arc<Budget>) -> Self {
        Self {
            numbers_out: false,
            numbers_in: false,
            before: 0,
            next_out: 0,
            kept: VecDeque::new(),
            seen: 0,
            again: BTreeSet::new(),
            spare: Vec::new(),
            next_in: 0,
            told: 0,
            early: BTreeMap::new(),
            early_since: None,
            may_repeat: UNSEEN_PAYLOADS,
            may_see: 0,
            charge: Charge::none(budget),
            moved: None,
        }
    }

    // ---- away -----------------------------------------------------------------

    /// May one more new payload be sent before the other end has seen more?
    pub(super) fn has_room(&self) -> bool {
        (self.kept.len() as u64) < UNSEEN_PAYLOADS
    }

    /// The number of the next new payload.
    pub(super) fn next_out(&self) -> u64 {
        self.next_out
    }

    /// All payloads below this number have been read at the other end.
    pub(super) fn seen(&self) -> u64 {
        self.seen
    }

    /// The lowest number that has to be sent again.
    pub(super) fn first_again(&self) -> Option<u64> {
        self.again.first().copied()
    }

    /// The messages of a payload that has to be sent again, this time on `leg`. `None` if the messages and the
    /// payload's number need more than `space` bytes.
    pub(super) fn take_again(&mut self, number: u64, leg: LegId, space: usize) -> Option<&[u8]> {
        let kept = self.kept.get_mut((number - self.seen) as usize)?;
        if kept.messages.len() + NUMBER_MESSAGE_LEN > space {
            return None;
        }
        self.again.remove(&number);
        kept.leg = leg;
        Some(&kept.messages)
    }

    /// Keeps a copy of a new payload that goes out on `leg`.
    pub(super) fn keep(&mut self, now: Instant, leg: LegId, messages: &[u8]) {
        let mut copy = self.spare.pop().unwrap_or_default();
        copy.clear();
        copy.extend_from_slice(messages);
        self.moved.get_or_insert(now);
        self.kept.push_back(Kept {
            leg,
            messages: copy,
        });
        self.next_out += 1;
        self.may_see += 1;
        self.account();
    }

    /// Notes that the other end is asked what it has seen: it may say SEEN once more, even if that is no news.
    pub(super) fn on_asked(&mut self) {
        self.may_see += 1;
    }

    /// Notes that one more leg has joined. If the leg is lost, its payloads come again by the other leg, and this end
    /// may read those before it hears of the loss.
    pub(super) fn on_joined(&mut self) {
        self.may_repeat += UNSEEN_PAYLOADS;
    }

    /// Takes a SEEN: the other end has read all payloads below `number`. SEEN comes by both legs, so an old one may
    /// come late.
    pub(super) fn on_seen(&mut self, now: Instant, number: u64) -> Result<(), Violation> {
        if number > self.next_out || !self.numbers_out {
            return Err(Violation::Numbers);
        }
        // The other end says SEEN once for each payload that it reads, at most, and once for each ASK.
        self.may_see = self.may_see.checked_sub(1).ok_or(Violation::Numbers)?;
        while self.seen < number {
            self.seen += 1;
            if let Some(Kept { messages, .. }) = self.kept.pop_front()
                && self.spare.len() < SPARE_COPIES
            {
                self.spare.push(messages);
            }
            self.moved = Some(now);
        }
        self.again = self.again.split_off(&self.seen);
        if self.kept.is_empty() {
            self.moved = None;
            // Nothing is on its way, and a set at rest holds no memory.
            self.spare = Vec::new();
        }
        self.account();
        Ok(())
    }

    /// Marks all that went by `leg` and was not seen to be sent again.
    pub(super) fn on_lost(&mut self, leg: LegId) {
        let lost = (self.seen..).zip(&self.kept);
        self.again
            .extend(lost.filter(|(_, kept)| kept.leg == leg).map(|(n, _)| n));
    }

    /// Was anything sent by `leg` that the other end has not yet said SEEN to?
    pub(super) fn is_unseen(&self, leg: LegId) -> bool {
        self.kept.iter().rev().any(|kept| kept.leg == leg)
    }

    // ---- here -----------------------------------------------------------------

    /// Takes note of a payload with this number that has arrived, and says what becomes of it.
    pub(super) fn on_arrival(
        &mut self,
        now: Instant,
        number: u64,
        payload: &Payload,
    ) -> Result<Arrival, Violation> {
        if number < self.next_in || self.early.contains_key(&number) {
            self.may_repeat = self.may_repeat.checked_sub(1).ok_or(Violation::Numbers)?;
            return Ok(Arrival::Known);
        }
        if number - self.next_in >= UNSEEN_PAYLOADS {
            return Err(Violation::Numbers);
        }
        if number == self.next_in {
            self.next_in += 1;
            return Ok(Arrival::Now);
        }
        self.early.insert(number, Box::new(*payload));
        self.early_since.get_or_insert(now);
        self.account();
        Ok(Arrival::Early)
    }

    /// The next payload in order, if it came early.
    pub(super) fn take_early(&mut self, now: Instant) -> Option<Box<Payload>> {
        let payload = self.early.remove(&self.next_in)?;
        self.next_in += 1;
        self.early_since = (!self.early.is_empty()).then_some(now);
        self.account();
        Some(payload)
    }

    /// Do payloads wait for earlier ones that another leg should have brought?
    pub(super) fn has_gap(&self) -> bool {
        !self.early.is_empty()
    }

    /// Up to which payload this end has read, for the other end to hear, and whether that is news.
    pub(super) fn read(&self) -> (u64, bool) {
        (self.next_in, self.next_in != self.told)
    }

    /// All payloads that the other end can have said by now have a lower number than this: it sends no further one while
    /// it holds copies of [`UNSEEN_PAYLOADS`] that it was not told of (5.24).
    pub(super) fn bound_in(&self) -> u64 {
        self.told.saturating_add(UNSEEN_PAYLOADS)
    }

    /// Notes that the other end is being told what [`Self::read`] returns.
    pub(super) fn on_told(&mut self) {
        self.told = self.next_in;
    }

    /// Since when the oldest copy waits to be seen, or the early payloads wait for others; the longer of the two.
    pub(super) fn waiting_since(&self) -> Option<Instant> {
        self.moved.into_iter().chain(self.early_since).min()
    }

    /// Bytes that the copies and the early payloads take.
    pub(super) fn held_bytes(&self) -> usize {
        let payloads = self.kept.len() + self.early.len() + self.spare.len();
        payloads * size_of::<Payload>()
    }

    /// Drops everything: nothing will be sent or read any more.
    pub(super) fn clear(&mut self) {
        self.kept.clear();
        self.again.clear();
        self.spare.clear();
        self.early.clear();
        (self.moved, self.early_since) = (None, None);
        self.account();
    }

    fn account(&mut self) {
        self.charge.set(self.held_bytes());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cell::PAYLOAD_LEN;

    const A: LegId = LegId(0);
    const B: LegId = LegId(1);

    fn set(budget: &Arc<Budget>) -> Set {
        let mut set = Set::new(budget);
        set.numbers_out = true;
        set
    }

    #[test]
    fn copies_are_kept_until_seen_and_charged() {
        let budget = Budget::unlimited();
        let (mut set, now) = (set(&budget), Instant::now());
        for leg in [A, B, A, B] {
            set.keep(now, leg, &[leg.0 as u8]);
        }
        assert_eq!(budget.used(), 4 * PAYLOAD_LEN);
        set.on_seen(now, 1).unwrap();
        set.on_seen(now, 0).unwrap();
        assert_eq!(
            set.seen(),
            1,
            "an old word that comes late takes nothing back"
        );
        set.on_lost(B);
        assert_eq!(set.first_again(), Some(1));
        assert_eq!(set.take_again(1, A, NUMBER_MESSAGE_LEN), None, "no room");
        assert_eq!(set.take_again(1, A, 100), Some(&[1][..]));
        assert_eq!(set.first_again(), Some(3));
        set.on_seen(now, 4).unwrap();
        assert_eq!((set.first_again(), budget.used()), (None, 0));
        assert!(set.waiting_since().is_none());
        assert_eq!(set.on_seen(now, 5), Err(Violation::Numbers));
    }

    /// S14: SEEN is said only if it is news, or if it was asked for.
    #[test]
    fn seen_is_not_said_for_ever() {
        let (mut set, now) = (set(&Budget::unlimited()), Instant::now());
        set.keep(now, A, &[1]);
        set.keep(now, A, &[2]);
        set.on_asked();
        for number in [1, 2, 2] {
            set.on_seen(now, number).unwrap();
        }
        assert_eq!(set.on_seen(now, 2), Err(Violation::Numbers));
    }

    /// S14: payloads come again only when a leg was lost, and no more legs can be lost than have joined.
    #[test]
    fn payloads_do_not_come_again_for_ever() {
        let (mut set, now) = (set(&Budget::unlimited()), Instant::now());
        let payload = [7; PAYLOAD_LEN];
        set.on_arrival(now, 0, &payload).unwrap();
        set.on_joined();
        for _ in 0..2 * UNSEEN_PAYLOADS {
            assert_eq!(set.on_arrival(now, 0, &payload), Ok(Arrival::Known));
        }
        assert_eq!(set.on_arrival(now, 0, &payload), Err(Violation::Numbers));
    }

    /// S20: payloads that wait for others which never come have an age, so that their circuit can be found.
    #[test]
    fn what_came_early_is_dated() {
        let (mut set, began) = (set(&Budget::unlimited()), Instant::now());
        let (payload, later) = ([7; PAYLOAD_LEN], began + Duration::from_secs(1));
        set.on_arrival(began, 1, &payload).unwrap();
        set.on_arrival(later, 3, &payload).unwrap();
        assert_eq!(set.waiting_since(), Some(began));
        assert_eq!(set.held_bytes(), 2 * PAYLOAD_LEN);
        set.on_arrival(later, 0, &payload).unwrap();
        assert!(set.take_early(later).is_some());
        assert_eq!(set.waiting_since(), Some(later));
        set.on_arrival(later, 2, &payload).unwrap();
        assert!(set.take_early(later).is_some());
        assert_eq!(set.waiting_since(), None);
    }

    #[test]
    fn payloads_are_read_in_order_and_once() {
        let budget = Budget::unlimited();
        let (mut set, now) = (set(&budget), Instant::now());
        let payload = [7; PAYLOAD_LEN];
        assert_eq!(set.on_arrival(now, 1, &payload), Ok(Arrival::Early));
        assert_eq!(set.on_arrival(now, 1, &payload), Ok(Arrival::Known));
        assert!(set.has_gap() && set.take_early(now).is_none());
        assert_eq!(set.on_arrival(now, 0, &payload), Ok(Arrival::Now));
        assert!(set.take_early(now).is_some() && set.take_early(now).is_none());
        assert_eq!((set.read(), budget.used()), ((2, true), 0));
        assert_eq!(set.on_arrival(now, 0, &payload), Ok(Arrival::Known));
        let last = UNSEEN_PAYLOADS + 1;
        assert_eq!(set.on_arrival(now, last, &payload), Ok(Arrival::Early));
        assert_eq!(
            set.on_arrival(now, last + 1, &payload),
            Err(Violation::Numbers),
            "memory for what is out of order is bounded (S20)"
        );
    }
}
