//! What stands between two links, and between a link and a circuit's end.
//!
//! A [`LinkQueue`] holds the cells that wait to be written to one link, in a
//! queue for each circuit, and the commands for the link's table. An [`Inbox`]
//! holds what a link has received for a circuit that ends here. Both are
//! bounded; a circuit that overruns its bound is destroyed by whoever pushed.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use super::buffers;
use crate::budget::{Budget, Charge};
use crate::cell::CELL_LEN;
use crate::cell::codec::{CREATED_LEN, Cell, DestroyReason};
use crate::ids::CircId;
use crate::limits::TURN_CELLS;

/// Locks, and goes on with what is there if a holder panicked: every change
/// under these locks is complete in itself.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A push that was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushError {
    /// The circuit has more waiting than its window can account for.
    Overrun,
    /// The link is gone.
    Closed,
}

/// Cells of one circuit, in order: whole cells in each chunk, so that what waits is never moved to make room.
#[derive(Default)]
struct CellRun {
    chunks: VecDeque<Vec<u8>>,
    /// Bytes of the first chunk that are gone already.
    from: usize,
    len: usize,
    /// Memory of the chunks (bytes): what is charged, as a chunk may be a large buffer with a few cells in it (S20).
    held: usize,
    /// When cells last came into the empty run, or left it.
    moved: Option<Instant>,
}

impl CellRun {
    fn add(&mut self, cells: &[u8]) {
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

    /// As [`CellRun::add`], leaving nothing in `cells`: many of them are not copied.
    fn add_all(&mut self, cells: &mut Vec<u8>) {
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
            self.moved = Some(Instant::now());
        }
    }

    /// Moves up to `most` bytes to the end of `out`; gives how many.
    fn take(&mut self, most: usize, out: &mut Vec<u8>) -> usize {
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
                // It can be handed over the next time.
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
        self.moved = Some(Instant::now());
        taken
    }

    fn give_back(self) {
        self.chunks.into_iter().for_each(buffers::give_back);
    }
}

struct Waiting<C> {
    circuits: HashMap<CircId, CellRun>,
    /// Circuits with cells waiting, in the order of their turns.
    turns: VecDeque<CircId>,
    commands: Vec<C>,
    charge: Charge,
    queued_bytes: usize,
    closed: bool,
}

impl<C> Waiting<C> {
    /// `bytes` more are queued, or fewer.
    fn account(&mut self, added: usize, taken: usize) {
        self.queued_bytes = self.queued_bytes + added - taken;
        self.charge.set(self.queued_bytes);
    }
}

/// Cells and commands for one link; shared by all who send to it.
pub struct LinkQueue<C> {
    waiting: Mutex<Waiting<C>>,
    notify: Notify,
    gone: tokio::sync::watch::Sender<bool>,
    bound_bytes: usize,
}

impl<C> LinkQueue<C> {
    /// A queue in which one circuit may have `bound_cells` waiting, charged to `budget`.
    pub fn new(bound_cells: usize, budget: &Arc<Budget>) -> Self {
        Self {
            waiting: Mutex::new(Waiting {
                circuits: HashMap::new(),
                turns: VecDeque::new(),
                commands: Vec::new(),
                charge: Charge::none(budget),
                queued_bytes: 0,
                closed: false,
            }),
            notify: Notify::new(),
            gone: tokio::sync::watch::Sender::new(false),
            bound_bytes: bound_cells * CELL_LEN,
        }
    }

    /// Adds whole cells of one circuit, heads included, behind those that wait.
    pub fn push(&self, circ: CircId, cells: &[u8]) -> Result<(), PushError> {
        self.push_with(circ, cells.len(), |run| run.add(cells))
    }

    /// As [`LinkQueue::push`]. Whatever comes of it, `cells` is empty then: its memory may have gone with the cells.
    pub fn push_all(&self, circ: CircId, cells: &mut Vec<u8>) -> Result<(), PushError> {
        let pushed = self.push_with(circ, cells.len(), |run| run.add_all(cells));
        cells.clear();
        pushed
    }

    fn push_with(
        &self,
        circ: CircId,
        len: usize,
        add: impl FnOnce(&mut CellRun),
    ) -> Result<(), PushError> {
        let mut guard = lock(&self.waiting);
        let waiting = &mut *guard;
        if waiting.closed {
            return Err(PushError::Closed);
        }
        let run = match waiting.circuits.get_mut(&circ) {
            Some(run) => run,
            None => {
                waiting.turns.push_back(circ);
                waiting.circuits.entry(circ).or_default()
            }
        };
        if run.len + len > self.bound_bytes {
            return Err(PushError::Overrun);
        }
        let before = run.held;
        add(run);
        let added = run.held - before;
        waiting.account(added, 0);
        drop(guard);
        self.notify.notify_one();
        Ok(())
    }

    /// Adds the last cell of a circuit, whatever waits.
    pub fn push_last(&self, circ: CircId, cell: &Cell) {
        let mut guard = lock(&self.waiting);
        let waiting = &mut *guard;
        if waiting.closed {
            return;
        }
        if !waiting.circuits.contains_key(&circ) {
            waiting.turns.push_back(circ);
        }
        let run = waiting.circuits.entry(circ).or_default();
        let before = run.held;
        run.add(cell);
        let added = run.held - before;
        waiting.account(added, 0);
        drop(guard);
        self.notify.notify_one();
    }

    /// Drops what waits for a circuit.
    pub fn purge(&self, circ: CircId) {
        let mut waiting = lock(&self.waiting);
        if let Some(run) = waiting.circuits.remove(&circ) {
            waiting.account(0, run.held);
            run.give_back();
            waiting.turns.retain(|c| *c != circ);
        }
    }

    /// The circuits whose cells wait, and since when none of them has moved.
    pub fn waiting(&self) -> Vec<(CircId, Instant)> {
        let waiting = lock(&self.waiting);
        let runs = waiting.circuits.iter();
        runs.filter_map(|(circ, run)| Some((*circ, run.moved?)))
            .collect()
    }

    /// Adds a command for the link's table. Commands are taken before cells,
    /// so what a command installs is there before a peer can answer any cell
    /// that was pushed after it. Returns the command if the link is gone.
    pub fn command(&self, command: C) -> Result<(), C> {
        let mut waiting = lock(&self.waiting);
        if waiting.closed {
            return Err(command);
        }
        waiting.commands.push(command);
        drop(waiting);
        self.notify.notify_one();
        Ok(())
    }

    /// Moves all commands to `commands`.
    pub fn take_commands(&self, commands: &mut Vec<C>) {
        commands.append(&mut lock(&self.waiting).commands);
    }

    /// Moves up to `most_cells` cells to `out`, each circuit in its turn.
    pub fn take_cells(&self, most_cells: usize, out: &mut Vec<u8>) {
        let mut guard = lock(&self.waiting);
        let waiting = &mut *guard;
        let (mut left, mut freed) = (most_cells * CELL_LEN, 0);
        while left > 0
            && let Some(circ) = waiting.turns.pop_front()
        {
            let Some(run) = waiting.circuits.get_mut(&circ) else {
                continue;
            };
            // A circuit that is alone need not take turns.
            let turn = if waiting.turns.is_empty() {
                left
            } else {
                TURN_CELLS * CELL_LEN
            };
            let before = run.held;
            let len = run.take(turn.min(left), out);
            left -= len;
            freed += before - run.held;
            if len == 0 {
                waiting.turns.push_front(circ);
                break;
            }
            if run.len > 0 {
                waiting.turns.push_back(circ);
            } else if let Some(run) = waiting.circuits.remove(&circ) {
                run.give_back();
            }
        }
        waiting.account(0, freed);
    }

    /// Is anything waiting?
    pub fn is_empty(&self) -> bool {
        let waiting = lock(&self.waiting);
        waiting.turns.is_empty() && waiting.commands.is_empty()
    }

    /// Takes nothing more. Returns the commands that nobody will carry out.
    pub fn close(&self) -> Vec<C> {
        let mut waiting = lock(&self.waiting);
        waiting.closed = true;
        waiting.circuits.clear();
        waiting.turns.clear();
        let queued = waiting.queued_bytes;
        waiting.account(0, queued);
        self.gone.send_replace(true);
        core::mem::take(&mut waiting.commands)
    }

    /// Waits until the link is gone.
    pub async fn closed(&self) {
        let _ = self.gone.subscribe().wait_for(|gone| *gone).await;
    }

    /// Is the link gone?
    pub fn is_closed(&self) -> bool {
        lock(&self.waiting).closed
    }

    /// Waits until something has been added since the last wait.
    pub async fn wait(&self) {
        self.notify.notified().await;
    }
}

/// What has come for a circuit's end.
#[derive(Default)]
pub struct Arrived {
    /// The id that the link gave the circuit, once it did.
    pub opened: Option<CircId>,
    /// The other end's half of the handshake.
    pub created: Option<Box<[u8; CREATED_LEN]>>,
    /// Whole cells, in order.
    pub cells: Vec<u8>,
    /// The circuit has ended on this link, after `cells`.
    pub destroyed: Option<DestroyReason>,
    /// Nobody waits for it any more.
    abandoned: bool,
}

/// Receives a circuit's cells from the link that they come in on.
pub struct Inbox {
    arrived: Mutex<(Arrived, Charge)>,
    notify: Notify,
    bound_bytes: usize,
}

impl Inbox {
    /// An inbox that holds up to `bound_cells` cells, charged to `budget`.
    pub fn new(bound_cells: usize, budget: &Arc<Budget>) -> Self {
        Self {
            arrived: Mutex::new((Arrived::default(), Charge::none(budget))),
            notify: Notify::new(),
            bound_bytes: bound_cells * CELL_LEN,
        }
    }

    /// Adds whole cells.
    pub fn push(&self, cells: &[u8]) -> Result<(), PushError> {
        self.push_with(cells.len(), |arrived| arrived.extend_from_slice(cells))
    }

    /// As [`Inbox::push`]. Whatever comes of it, `cells` is empty then: its memory may have gone with the cells.
    pub fn push_all(&self, cells: &mut Vec<u8>) -> Result<(), PushError> {
        let pushed = self.push_with(cells.len(), |arrived| {
            if arrived.is_empty() && buffers::is_worth_moving(cells) {
                buffers::give_back(core::mem::replace(arrived, core::mem::take(cells)));
            } else {
                arrived.extend_from_slice(cells);
            }
        });
        cells.clear();
        pushed
    }

    fn push_with(&self, len: usize, add: impl FnOnce(&mut Vec<u8>)) -> Result<(), PushError> {
        let mut guard = lock(&self.arrived);
        let (arrived, charge) = &mut *guard;
        if arrived.cells.len() + len > self.bound_bytes {
            return Err(PushError::Overrun);
        }
        add(&mut arrived.cells);
        charge.set(arrived.cells.capacity());
        drop(guard);
        self.notify.notify_one();
        Ok(())
    }

    /// The link gives the circuit this id. `false`: nobody waits for it any more.
    pub(super) fn open_as(&self, circ: CircId) -> bool {
        let mut guard = lock(&self.arrived);
        if guard.0.abandoned {
            return false;
        }
        guard.0.opened = Some(circ);
        drop(guard);
        self.notify.notify_one();
        true
    }

    /// Nobody waits for the circuit any more: it is not opened if it has not
    /// been. Gives its id if the link gave it one that has not been taken.
    pub fn abandon(&self) -> Option<CircId> {
        let mut guard = lock(&self.arrived);
        guard.0.abandoned = true;
        guard.0.opened.take()
    }

    /// Changes what has arrived, other than cells.
    pub fn update(&self, change: impl FnOnce(&mut Arrived)) {
        change(&mut lock(&self.arrived).0);
        self.notify.notify_one();
    }

    /// Takes what has arrived.
    pub fn take(&self) -> Arrived {
        let mut guard = lock(&self.arrived);
        guard.1.set(0);
        core::mem::take(&mut guard.0)
    }

    /// Waits until something has been added since the last wait.
    pub async fn wait(&self) {
        self.notify.notified().await;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn circ(n: u32) -> CircId {
        CircId::new(n).unwrap()
    }

    fn cells(mark: u8, count: usize) -> Vec<u8> {
        vec![mark; CELL_LEN * count]
    }

    fn marks(out: &[u8]) -> Vec<u8> {
        out.chunks(CELL_LEN).map(|cell| cell[0]).collect()
    }

    #[test]
    fn circuits_take_turns() {
        let queue = LinkQueue::<()>::new(100, &Budget::unlimited());
        queue.push(circ(1), &cells(1, 40)).unwrap();
        queue.push(circ(2), &cells(2, 1)).unwrap();
        queue.push(circ(3), &cells(3, 20)).unwrap();
        let mut out = Vec::new();
        queue.take_cells(17, &mut out);
        assert_eq!(marks(&out), [vec![1; 8], vec![2; 1], vec![3; 8]].concat());
        out.clear();
        queue.take_cells(1000, &mut out);
        assert_eq!(marks(&out).iter().filter(|m| **m == 1).count(), 32);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_circuit_over_its_bound_is_refused_and_others_are_not() {
        let queue = LinkQueue::<()>::new(4, &Budget::unlimited());
        queue.push(circ(1), &cells(1, 4)).unwrap();
        assert_eq!(queue.push(circ(1), &cells(1, 1)), Err(PushError::Overrun));
        queue.push(circ(2), &cells(2, 4)).unwrap();
        queue.push_last(circ(1), &[9; CELL_LEN]);
        let mut out = Vec::new();
        queue.take_cells(100, &mut out);
        assert_eq!(out.len(), 9 * CELL_LEN);
    }

    #[test]
    fn what_is_queued_is_charged_and_given_back() {
        let budget = Budget::new(usize::MAX);
        let queue = LinkQueue::<()>::new(8, &budget);
        queue.push(circ(1), &cells(1, 4)).unwrap();
        queue.push(circ(2), &cells(2, 4)).unwrap();
        queue.push_last(circ(1), &[0; CELL_LEN]);
        assert!((9 * CELL_LEN..16 * CELL_LEN).contains(&budget.used()));
        queue.purge(circ(2));
        queue.take_cells(3, &mut Vec::new());
        assert!((2 * CELL_LEN..10 * CELL_LEN).contains(&budget.used()));
        assert_eq!(queue.waiting()[0].0, circ(1));
        queue.take_cells(3, &mut Vec::new());
        assert_eq!((budget.used(), queue.waiting().len()), (0, 0));
        queue.push(circ(1), &cells(1, 4)).unwrap();
        queue.close();
        assert_eq!(budget.used(), 0);
    }

    /// S20: a large buffer with a few cells in it is charged for what it is.
    #[test]
    fn memory_is_charged_and_not_what_is_in_it() {
        let budget = Budget::new(usize::MAX);
        let queue = LinkQueue::<()>::new(64, &budget);
        let mut buffer = buffers::take();
        let capacity = buffer.capacity();
        buffer.extend_from_slice(&cells(1, 16));
        queue.push_all(circ(1), &mut buffer).unwrap();
        assert!(buffer.is_empty());
        assert_eq!(budget.used(), capacity);
        queue.push(circ(1), &cells(2, 1)).unwrap();
        assert_eq!(budget.used(), capacity);
        let mut out = Vec::new();
        queue.take_cells(10, &mut out);
        assert_eq!(budget.used(), capacity);
        queue.take_cells(10, &mut out);
        assert_eq!(marks(&out), [vec![1; 16], vec![2]].concat());
        assert_eq!(budget.used(), 0);

        let inbox = Inbox::new(64, &budget);
        let mut buffer = buffers::take();
        buffer.extend_from_slice(&cells(1, 16));
        inbox.push_all(&mut buffer).unwrap();
        assert_eq!(budget.used(), capacity);
        assert_eq!(inbox.take().cells.len(), 16 * CELL_LEN);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_closed_queue_hands_commands_back() {
        let queue = LinkQueue::new(4, &Budget::unlimited());
        queue.command("first").unwrap();
        assert_eq!(queue.close(), ["first"]);
        assert_eq!(queue.command("late"), Err("late"));
        assert_eq!(queue.push(circ(1), &cells(1, 1)), Err(PushError::Closed));
    }

    #[test]
    fn a_purged_circuit_leaves_no_turn() {
        let queue = LinkQueue::<()>::new(4, &Budget::unlimited());
        queue.push(circ(1), &cells(1, 4)).unwrap();
        queue.push(circ(2), &cells(2, 1)).unwrap();
        queue.purge(circ(1));
        queue.push(circ(1), &cells(3, 1)).unwrap();
        let mut out = Vec::new();
        queue.take_cells(100, &mut out);
        assert_eq!(marks(&out), [2, 3]);
    }
}
