//! Which stream of a circuit may speak next.
//!
//! A stream that has said little of late goes first, so that a key press, or the first bytes of a page, need not wait
//! for a download on the same circuit. The others have turns of several cells, so that an application gets more than
//! one cell at once: each portion costs the application a wake-up and a write. (The idea is that of sparse flows in
//! FQ-CoDel, RFC 8290.)

use std::collections::VecDeque;

use super::recent::Recent;

/// Number of payloads that a stream with much to say fills before the next stream has its turn.
const TURN_CELLS: u32 = 16;
/// After all streams together have said this many bytes (2^20), what each has said counts half.
const HALF_AFTER_BITS: u32 = 20;
/// A stream that has said less than this of late (bytes) goes first. That is about one part in a hundred, too little to
/// hold up the others.
const LITTLE: u32 = 16 * 1024;

/// Streams with something to say, in the order of their turns.
#[derive(Debug)]
pub(super) struct Turns<K> {
    /// The stream whose turn it is, if the turn goes on.
    present: Option<K>,
    /// Number of payloads that this stream has filled in its turn.
    cells: u32,
    light: VecDeque<K>,
    heavy: VecDeque<K>,
    /// Bytes that all streams have said.
    said: u64,
}

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Self {
            present: None,
            cells: 0,
            light: VecDeque::new(),
            heavy: VecDeque::new(),
            said: 0,
        }
    }
}

impl<K: Copy> Turns<K> {
    fn epoch(&self) -> u64 {
        self.said >> HALF_AFTER_BITS
    }

    pub(super) fn is_empty(&self) -> bool {
        self.front().is_none()
    }

    pub(super) fn len(&self) -> usize {
        usize::from(self.present.is_some()) + self.light.len() + self.heavy.len()
    }

    /// Is the next turn that of somebody who has said little of late?
    pub(super) fn is_light_next(&self) -> bool {
        self.present.is_none() && !self.light.is_empty()
    }

    /// Counts a payload that was filled by whoever was taken last, who waits elsewhere to go on.
    pub(super) fn on_filled(&mut self) {
        self.cells += 1;
    }

    pub(super) fn clear(&mut self) {
        self.present = None;
        self.light.clear();
        self.heavy.clear();
    }

    /// Adds a stream that had nothing to say and now has something.
    pub(super) fn add(&mut self, key: K, recent: &mut Recent) {
        if *recent.at(self.epoch()) < LITTLE {
            self.light.push_back(key);
        } else {
            self.heavy.push_back(key);
        }
    }

    /// The stream whose turn is next.
    pub(super) fn front(&self) -> Option<K> {
        let waiting = || self.light.front().or(self.heavy.front()).copied();
        self.present.or_else(waiting)
    }

    /// Takes out the stream whose turn is next.
    pub(super) fn take(&mut self) -> Option<K> {
        self.present.take().or_else(|| {
            self.cells = 0;
            self.light.pop_front().or_else(|| self.heavy.pop_front())
        })
    }

    /// Counts this many bytes that a stream has said.
    pub(super) fn on_said(&mut self, recent: &mut Recent, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.said += u64::from(bytes);
        let of_late = recent.at(self.epoch());
        *of_late = of_late.saturating_add(bytes);
    }

    /// The stream that was taken last has filled a payload and has more to say: its turn goes on, or it waits for its
    /// next one.
    pub(super) fn go_on(&mut self, key: K) {
        self.cells += 1;
        if self.cells < TURN_CELLS {
            self.present = Some(key);
        } else {
            self.heavy.push_back(key);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::stream::StreamKey;

    const CELL: usize = 1_900;

    struct World {
        turns: Turns<StreamKey>,
        recent: HashMap<StreamKey, Recent>,
    }

    impl World {
        fn new(heavy: u64) -> Self {
            let mut world = Self {
                turns: Turns::default(),
                recent: HashMap::new(),
            };
            (0..heavy).for_each(|n| world.add(StreamKey(n)));
            world
        }

        fn add(&mut self, key: StreamKey) {
            self.turns.add(key, self.recent.entry(key).or_default());
        }

        /// The next payload, filled by a stream that always has more.
        fn fill(&mut self) -> StreamKey {
            let key = self.turns.take().unwrap();
            let recent = self.recent.get_mut(&key).unwrap();
            self.turns.on_said(recent, CELL);
            self.turns.go_on(key);
            key
        }

        fn fill_many(&mut self, payloads: usize) {
            for _ in 0..payloads {
                self.fill();
            }
        }
    }

    #[test]
    fn streams_with_much_to_say_share_alike_in_long_turns() {
        let mut world = World::new(5);
        let mut cells = HashMap::<_, u32>::new();
        let (mut changes, mut last) = (0, None);
        for _ in 0..5 * TURN_CELLS * 20 {
            let key = world.fill();
            *cells.entry(key).or_default() += 1;
            changes += u32::from(last.replace(key) != Some(key));
        }
        assert!(cells.values().all(|n| *n == TURN_CELLS * 20), "{cells:?}");
        assert_eq!(changes, 5 * 20);
    }

    #[test]
    fn who_says_little_waits_for_nobody_s_next_turn() {
        let mut world = World::new(50);
        world.fill_many(2_000);
        let key = StreamKey(99);
        for _ in 0..200 {
            world.add(key);
            // The stream whose turn it is finishes the turn.
            let before =
                (0..).take_while(|_| world.turns.front() != Some(key) && world.fill() != key);
            assert!(before.count() < TURN_CELLS as usize);
            assert_eq!(world.turns.take(), Some(key));
            let recent = world.recent.get_mut(&key).unwrap();
            world.turns.on_said(recent, 100);
            world.fill_many(40);
        }
    }

    #[test]
    fn who_says_a_little_all_the_time_is_not_one_who_says_little() {
        let mut world = World::new(1);
        world.fill_many(2_000);
        let (bulk, chatter) = (StreamKey(0), StreamKey(1));
        let mut bytes = HashMap::<_, usize>::new();
        world.add(chatter);
        for _ in 0..4_000 {
            let key = world.turns.take().unwrap();
            let said = if key == bulk { CELL } else { CELL / 2 };
            *bytes.entry(key).or_default() += said;
            let recent = world.recent.get_mut(&key).unwrap();
            world.turns.on_said(recent, said);
            match key == bulk {
                true => world.turns.go_on(key),
                false => world.add(key),
            }
        }
        assert!(bytes[&bulk] > 10 * bytes[&chatter], "{bytes:?}");
    }

    #[test]
    fn what_was_said_long_ago_counts_no_more() {
        let mut world = World::new(1);
        world.fill_many(50);
        let mut recent = world.recent[&StreamKey(0)];
        assert!(*recent.at(world.turns.epoch()) >= LITTLE);
        world.turns.said += 100 << HALF_AFTER_BITS;
        assert_eq!(*recent.at(world.turns.epoch()), 0);
    }
}
