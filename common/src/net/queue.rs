//! What stands between two links.
//!
//! A [`LinkQueue`] holds the cells that wait to be written to one link, in a
//! queue for each circuit, and the commands for the link's table. It is
//! bounded; a circuit that overruns its bound is destroyed by whoever pushed.

use core::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::sync::Notify;

use super::cell_run::CellRun;
use crate::budget::{Budget, Charge};
use crate::cell::CELL_LEN;
use crate::cell::codec::Cell;
use crate::ids::CircId;
use crate::limits::{RECENT_HALF_LIFE, TURN_CELLS};
use crate::sync::lock;
use crate::world::steady;

/// Half-lives after which counts are put on a new scale; far from where a float loses anything.
const MOST_HALF_LIVES: f64 = 256.0;

/// A push that was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushError {
    /// The circuit has more waiting than its window can account for.
    Overrun,
    /// The link is gone.
    Closed,
}

/// A circuit with cells waiting.
struct Turn {
    recent: f64,
    /// Counts turns: of two that have sent as little, the one that has waited longer goes first.
    since: u64,
    circ: CircId,
}

impl Ord for Turn {
    /// The greatest goes next: the one that has sent least.
    fn cmp(&self, other: &Self) -> Ordering {
        let by_recent = other.recent.total_cmp(&self.recent);
        by_recent.then_with(|| other.since.cmp(&self.since))
    }
}

impl PartialOrd for Turn {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Turn {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Turn {}

struct Waiting<C> {
    /// Those with cells waiting, and those that have sent enough of late for it to count.
    circuits: HashMap<CircId, CellRun>,
    /// Circuits with cells waiting: the one that has sent fewest of late goes first, so that a circuit with little to say
    /// waits for no bulk (Tang and Goldberg, "An Improved Algorithm for Tor Circuit Scheduling", CCS 2010).
    turns: BinaryHeap<Turn>,
    turns_given: u64,
    /// When a cell sent weighed one.
    epoch: Instant,
    /// Quiet circuits are forgotten when there are so many of all.
    forget_at: usize,
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

    /// What a cell sent now weighs: twice as much with every [`RECENT_HALF_LIFE`], which is as good as halving what was
    /// sent before.
    fn weight(&mut self, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(self.epoch);
        let half_lives = passed.as_secs_f64() / RECENT_HALF_LIFE.as_secs_f64();
        if half_lives < MOST_HALF_LIVES {
            return half_lives.exp2();
        }
        // The numbers grow too large: all on a new scale. Order stays as it is.
        let scale = (-half_lives).exp2();
        for run in self.circuits.values_mut() {
            run.recent *= scale;
        }
        let turns = core::mem::take(&mut self.turns).into_iter();
        self.turns = turns
            .map(|turn| Turn {
                recent: turn.recent * scale,
                ..turn
            })
            .collect();
        self.epoch = now;
        1.0
    }

    /// Puts a circuit with cells in the order of turns.
    fn enqueue(&mut self, circ: CircId, recent: f64) {
        self.turns_given += 1;
        self.turns.push(Turn {
            recent,
            since: self.turns_given,
            circ,
        });
    }

    /// The run of a circuit that is about to have more cells: it has its turn.
    fn run(&mut self, circ: CircId) -> &mut CellRun {
        if self.circuits.len() >= self.forget_at && !self.circuits.contains_key(&circ) {
            let least = self.weight(steady::now());
            self.circuits
                .retain(|_, run| run.len > 0 || run.recent >= least);
            self.forget_at = 2 * self.circuits.len() + 64;
        }
        let recent = match self.circuits.get(&circ) {
            Some(run) if run.len > 0 => None,
            Some(run) => Some(run.recent),
            None => Some(0.0),
        };
        if let Some(recent) = recent {
            self.enqueue(circ, recent);
        }
        self.circuits.entry(circ).or_default()
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
                turns: BinaryHeap::new(),
                turns_given: 0,
                epoch: steady::now(),
                forget_at: 64,
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
        let waits = waiting.circuits.get(&circ).map_or(0, |run| run.len);
        if waits + len > self.bound_bytes {
            return Err(PushError::Overrun);
        }
        let run = waiting.run(circ);
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
        let run = waiting.run(circ);
        run.ended = true;
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
            waiting.turns.retain(|turn| turn.circ != circ);
        }
    }

    /// The circuits whose cells wait, and since when none of them has moved.
    pub fn waiting(&self) -> Vec<(CircId, Instant)> {
        let waiting = lock(&self.waiting);
        let runs = waiting.circuits.iter().filter(|(_, run)| run.len > 0);
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

    /// Moves up to `most_cells` cells to `out`, those of the circuit first that has sent fewest of late.
    pub fn take_cells(&self, now: Instant, most_cells: usize, out: &mut Vec<u8>) {
        let mut guard = lock(&self.waiting);
        let waiting = &mut *guard;
        if waiting.turns.is_empty() {
            return;
        }
        let weight = waiting.weight(now) / CELL_LEN as f64;
        let (mut left, mut freed) = (most_cells * CELL_LEN, 0);
        while left > 0
            && let Some(turn) = waiting.turns.pop()
        {
            let circ = turn.circ;
            let Some(run) = waiting.circuits.get_mut(&circ) else {
                continue;
            };
            // A circuit that is alone need not take turns.
            let most = if waiting.turns.is_empty() {
                left
            } else {
                TURN_CELLS * CELL_LEN
            };
            let before = run.held;
            let len = run.take(most.min(left), out);
            left -= len;
            freed += before - run.held;
            if len == 0 {
                waiting.turns.push(turn);
                break;
            }
            run.recent += len as f64 * weight;
            let (recent, ended) = (run.recent, run.ended);
            if run.len > 0 {
                waiting.enqueue(circ, recent);
            } else if ended {
                waiting.circuits.remove(&circ);
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

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
