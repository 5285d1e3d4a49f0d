//! The datagrams of one association that wait in one direction (docs/protocol.md, 5.35): a bounded number, of which the
//! oldest goes when there is too much.

use std::collections::VecDeque;
use std::time::Instant;

use super::{StreamHost, Violation};
use crate::cell::message::read_datagram;
use crate::limits::{DATAGRAM_QUEUE_BYTES, DATAGRAMS_QUEUED};

/// What a datagram takes of a queue beside its bytes.
const OVERHEAD_BYTES: usize = 64;

/// A datagram that has come, with the host that it is for or from.
#[derive(Debug, PartialEq, Eq)]
pub struct HeldDatagram {
    /// At a relay the host that the datagram goes to, and at a client the one that it comes from.
    pub host: StreamHost,
    /// The UDP port there, not zero.
    pub port: u16,
    raw: Vec<u8>,
    begins: usize,
}

impl HeldDatagram {
    /// The datagram's bytes, 0 to 65,507.
    pub fn bytes(&self) -> &[u8] {
        self.raw.get(self.begins..).unwrap_or_default()
    }

    /// Reads what DATAGRAM has said, or PARTs and DATAGRAM together.
    pub(super) fn read(raw: Vec<u8>) -> Result<Self, Violation> {
        let datagram = read_datagram(&raw)?;
        let begins = raw.len() - datagram.bytes.len();
        let (host, port) = (StreamHost::from(datagram.host), datagram.port);
        Ok(Self {
            host,
            port,
            raw,
            begins,
        })
    }
}

/// What waits in one direction of an association.
#[derive(Debug)]
pub(super) struct Queue<T> {
    items: VecDeque<(Instant, T)>,
    bytes: usize,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            items: VecDeque::new(),
            bytes: 0,
        }
    }
}

/// What takes room in a queue.
pub(super) trait Weighs {
    /// Bytes.
    fn size(&self) -> usize;
}

impl Weighs for Vec<u8> {
    fn size(&self) -> usize {
        self.len() + OVERHEAD_BYTES
    }
}

impl Weighs for HeldDatagram {
    fn size(&self) -> usize {
        self.raw.len() + OVERHEAD_BYTES
    }
}

impl<T: Weighs> Queue<T> {
    /// Does nothing wait?
    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// What all that waits takes, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The oldest, and since when it waits.
    pub(super) fn first(&self) -> Option<(Instant, &T)> {
        let (since, item) = self.items.front()?;
        Some((*since, item))
    }

    /// Puts one in, as the newest.
    pub(super) fn push(&mut self, now: Instant, item: T) {
        self.bytes += item.size();
        self.items.push_back((now, item));
    }

    /// Takes the oldest.
    pub(super) fn pop(&mut self) -> Option<T> {
        let (_, item) = self.items.pop_front()?;
        self.bytes -= item.size();
        Some(item)
    }

    /// Drops the oldest that may be dropped: not the first, if that has been begun. Gives whether there was one.
    pub(super) fn drop_oldest(&mut self, is_begun: bool) -> bool {
        let Some((_, item)) = self.items.remove(usize::from(is_begun)) else {
            return false;
        };
        self.bytes -= item.size();
        true
    }

    /// Is there so much that the oldest must go?
    pub(super) fn is_over(&self) -> bool {
        self.items.len() > DATAGRAMS_QUEUED || self.bytes > DATAGRAM_QUEUE_BYTES
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A queue of so many datagrams of `len` bytes, each of which says its number.
    fn queue(number: u8, len: usize) -> Queue<Vec<u8>> {
        let mut queue = Queue::default();
        (0..number).for_each(|n| queue.push(Instant::now(), vec![n; len]));
        queue
    }

    fn numbers(queue: &mut Queue<Vec<u8>>) -> Vec<u8> {
        std::iter::from_fn(|| queue.pop().map(|datagram| datagram[0])).collect()
    }

    #[test]
    fn as_many_as_may_wait_are_not_too_many() {
        let most = u8::try_from(DATAGRAMS_QUEUED).unwrap();
        assert!(!queue(most, 1).is_over() && queue(most + 1, 1).is_over());
        let whole = DATAGRAM_QUEUE_BYTES / 4 - OVERHEAD_BYTES;
        assert!(!queue(4, whole).is_over() && queue(4, whole + 1).is_over());
    }

    #[test]
    fn the_oldest_goes_that_is_not_begun() {
        let mut all = queue(4, 10);
        assert!(all.drop_oldest(false) && all.drop_oldest(true));
        assert_eq!(all.bytes(), 2 * (10 + OVERHEAD_BYTES));
        assert_eq!(all.first().unwrap().1[0], 1);
        assert_eq!(numbers(&mut all), [1, 3]);
        assert!(all.is_empty() && all.bytes() == 0);
        let mut begun = queue(1, 10);
        assert!(!begun.drop_oldest(true) && begun.drop_oldest(false));
        assert!(!begun.drop_oldest(false));
    }
}
