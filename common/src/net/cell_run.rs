//! Cells of one circuit that wait for their link.

use std::collections::VecDeque;
use std::time::Instant;

use crate::world::steady;

use super::buffers;
use crate::cell::CELL_LEN;

/// Cells of one circuit, in order. Each chunk holds whole cells, so that waiting cells are never moved to make room.
#[derive(Default)]
pub(super) struct CellRun {
    chunks: VecDeque<Vec<u8>>,
    /// Bytes of the first chunk that are gone already.
    from: usize,
    pub(super) len: usize,
    /// Memory of the chunks (bytes). This is what is charged, because a chunk may be a large buffer with few cells
    /// (S20).
    pub(super) held: usize,
    /// When cells last came into the empty run, or left the run.
    pub(super) moved: Option<Instant>,
    /// What the circuit has sent of late, with the weights of [`super::queue`].
    pub(super) recent: f64,
    /// The circuit's last cell is among these cells, or was.
    pub(super) ended: bool,
    /// Cells among these that answer the peer, and that no window counts.
    pub(super) answers: usize,
    /// The number of the turn that the circuit waits for. A turn with another number is out of date.
    pub(super) turn: u64,
}

impl CellRun {
    pub(super) fn add(&mut self, cells: &[u8]) {
        self.touch_empty();
        self.len += cells.len();
        if let Some(last) = self.chunks.back_mut()
            && buffers::has_room(last, cells.len())
        {
            let before = last.capacity();
            last.extend_from_slice(cells);
            self.held += last.capacity() - before;
            return;
        }
        let mut chunk = if self.chunks.is_empty() && !buffers::is_worth_moving(cells) {
            Vec::with_capacity(cells.len())
        } else {
            buffers::take()
        };
        chunk.extend_from_slice(cells);
        self.held += chunk.capacity();
        self.chunks.push_back(chunk);
    }

    /// Adds cells like [`CellRun::add`], and leaves `cells` empty. If there are many cells, they are moved and not
    /// copied.
    pub(super) fn add_all(&mut self, cells: &mut Vec<u8>) {
        if !buffers::is_worth_moving(cells) {
            self.add(cells);
            return cells.clear();
        }
        self.touch_empty();
        self.len += cells.len();
        self.held += cells.capacity();
        self.chunks.push_back(core::mem::take(cells));
    }

    fn touch_empty(&mut self) {
        if self.len == 0 {
            self.moved = Some(steady::now());
        }
    }

    /// Moves up to `most` bytes to the end of `out`. Gives how many it has moved.
    pub(super) fn take(&mut self, most: usize, out: &mut Vec<u8>) -> usize {
        let mut taken = 0;
        while taken < most
            && let Some(first) = self.chunks.front_mut()
        {
            let there = first.len() - self.from;
            let now = there.min(most - taken);
            let is_whole = self.from == 0 && now == there;
            let held = first.capacity();
            if is_whole && out.is_empty() && buffers::is_worth_moving(first) {
                // Buffers change hands, bytes stay where they are.
                core::mem::swap(out, first);
            } else if is_whole && buffers::is_worth_moving(first) && buffers::is_worth_moving(out) {
                // The chunk can be handed over whole the next time.
                break;
            } else {
                out.extend_from_slice(&first[self.from..self.from + now]);
            }
            taken += now;
            if now < there {
                self.from += now;
            } else {
                self.from = 0;
                self.held -= held;
                self.chunks
                    .pop_front()
                    .into_iter()
                    .for_each(buffers::give_back);
            }
        }
        self.len -= taken;
        self.moved = Some(steady::now());
        if self.len == 0 {
            // The run is remembered for what the circuit has sent, and takes no memory for cells that may come.
            self.chunks = VecDeque::new();
        }
        taken
    }

    /// Drops all cells but the last.
    pub(super) fn keep_last(&mut self) {
        let Some(last) = self
            .chunks
            .back()
            .and_then(|chunk| chunk.last_chunk::<CELL_LEN>())
        else {
            return;
        };
        let last = last.to_vec();
        self.chunks.drain(..).for_each(buffers::give_back);
        (self.from, self.len, self.held) = (0, last.len(), last.capacity());
        self.chunks.push_back(last);
    }

    pub(super) fn give_back(self) {
        self.chunks.into_iter().for_each(buffers::give_back);
    }
}
