//! What stands between two links.
//!
//! A [`LinkQueue`] holds the cells that wait to be written to one link, in a queue for each circuit, and the
//! [`TableCommand`]s for the link's table. The cells of each circuit are bounded; a circuit that overruns its bound is
//! destroyed by whoever pushed.

use core::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::atomic::{self, AtomicU64};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::sync::Notify;

use super::cell_run::CellRun;
use super::inbox::Inbox;
pub use super::inbox::PushError;
use super::passage::Passage;
use crate::budget::{Budget, Charge};
use crate::cell::CELL_LEN;
use crate::cell::codec::{self, CREATE_LEN, CREATED_LEN, Cell, CircuitCommand, DestroyReason};
use crate::cell::message::Packer;
use crate::ids::CircId;
use crate::limits::{ENDED_CIRCUITS, ENDED_TIME, RECENT_HALF_LIFE, TURN_CELLS};
use crate::onion::{RelayBackward, RelayForward};
use crate::sync::lock;
use crate::world::steady;

/// After this many half-lives the counts are put on a new scale, long before a float loses anything.
const MOST_HALF_LIVES: f64 = 256.0;

/// A circuit with cells waiting.
struct Turn {
    recent: f64,
    /// The number of the turn: of two circuits that have sent equally little, the one that has waited longer goes
    /// first.
    since: u64,
    circ: CircId,
}

impl Ord for Turn {
    /// The greatest turn is next: that of the circuit that has sent least.
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

struct Queued {
    /// Circuits with cells waiting, and circuits that have sent enough of late for it to count.
    circuits: HashMap<CircId, CellRun>,
    /// Circuits with cells waiting: the one that has sent fewest of late goes first, so that a circuit with little to
    /// say waits for no bulk (Tang and Goldberg, "An Improved Algorithm for Tor Circuit Scheduling", CCS 2010).
    turns: BinaryHeap<Turn>,
    turns_given: u64,
    /// The time at which a cell that was sent weighed one.
    epoch: Instant,
    /// Quiet circuits are forgotten when this many circuits are in the table.
    forget_at: usize,
    /// Circuits whose last cell has been sent, and when. Cells that are pushed after that are not sent.
    ended: VecDeque<(Instant, CircId)>,
    /// Cells that answer the peer ([`LinkQueue::answers`]).
    answers: usize,
    commands: Vec<TableCommand>,
    charge: Charge,
    queued_bytes: usize,
    /// The link is to be closed, to save memory.
    is_to_end: bool,
    closed: bool,
}

/// A circuit whose cells wait for a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The circuit.
    pub circ: CircId,
    /// Since when none of its cells has moved.
    pub since: Instant,
    /// Bytes that the circuit's cells take.
    pub held: usize,
}

impl Queued {
    /// Notes that `added` bytes more are queued, and `taken` bytes less.
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
        // The numbers grow too large, so all get a new scale. The order of the numbers stays as it is.
        let scale = (-half_lives).exp2();
        #[expect(
            clippy::iter_over_hash_type,
            reason = "each is scaled alike, whatever the order"
        )]
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

    /// Puts a circuit with cells in the order of turns. Gives the number of its turn.
    fn enqueue(&mut self, circ: CircId, recent: f64) -> u64 {
        self.turns_given += 1;
        self.turns.push(Turn {
            recent,
            since: self.turns_given,
            circ,
        });
        self.turns_given
    }

    /// Drops turns that are out of date, if most of the turns are.
    fn clean_turns(&mut self) {
        if self.turns.len() > 2 * self.circuits.len() + 64 {
            let circuits = &self.circuits;
            self.turns.retain(|turn| {
                circuits
                    .get(&turn.circ)
                    .is_some_and(|run| run.turn == turn.since)
            });
        }
    }

    /// Remembers that a circuit's last cell has been sent, and forgets circuits that were remembered for long enough.
    fn remember_ended(&mut self, now: Instant, circ: CircId) {
        self.ended.push_back((now, circ));
        while let Some((since, circ)) = self.ended.front().copied()
            && (self.ended.len() > ENDED_CIRCUITS
                || now.saturating_duration_since(since) > ENDED_TIME)
        {
            self.ended.pop_front();
            if self
                .circuits
                .get(&circ)
                .is_some_and(|run| run.ended && run.len == 0)
            {
                self.circuits.remove(&circ);
            }
        }
    }

    /// The run of a circuit that is about to get more cells. If it has none, the circuit gets a turn.
    fn run(&mut self, circ: CircId) -> &mut CellRun {
        if self.circuits.len() >= self.forget_at && !self.circuits.contains_key(&circ) {
            let least = self.weight(steady::now());
            self.circuits
                .retain(|_, run| run.len > 0 || run.ended || run.recent >= least);
            self.forget_at = 2 * self.circuits.len() + 64;
        }
        let recent = match self.circuits.get(&circ) {
            Some(run) if run.len > 0 => None,
            Some(run) => Some(run.recent),
            None => Some(0.0),
        };
        let turn = recent.map(|recent| self.enqueue(circ, recent));
        let run = self.circuits.entry(circ).or_default();
        run.turn = turn.unwrap_or(run.turn);
        run
    }
}

/// Cells and commands for one link; shared by all who send to it.
pub struct LinkQueue {
    waiting: Mutex<Queued>,
    notify: Notify,
    gone: tokio::sync::watch::Sender<bool>,
    /// Number of times that cells have come in by the link.
    heard: AtomicU64,
    bound_bytes: usize,
    serial: u64,
}

/// The serial number of the queue that is made next.
static NEXT_SERIAL: AtomicU64 = AtomicU64::new(0);

impl LinkQueue {
    /// A queue in which one circuit may have `bound_cells` waiting, charged to `budget`.
    pub fn new(bound_cells: usize, budget: &Arc<Budget>) -> Self {
        Self::with_serial(Self::next_serial(), bound_cells, budget)
    }

    /// The serial number of a queue that is yet to be made ([`LinkQueue::with_serial`]).
    pub fn next_serial() -> u64 {
        NEXT_SERIAL.fetch_add(1, atomic::Ordering::Relaxed)
    }

    /// A queue like [`LinkQueue::new`], whose serial number was drawn before.
    pub fn with_serial(serial: u64, bound_cells: usize, budget: &Arc<Budget>) -> Self {
        Self {
            waiting: Mutex::new(Queued {
                circuits: HashMap::new(),
                turns: BinaryHeap::new(),
                turns_given: 0,
                epoch: steady::now(),
                forget_at: 64,
                ended: VecDeque::new(),
                answers: 0,
                commands: Vec::new(),
                charge: Charge::none(budget),
                queued_bytes: 0,
                is_to_end: false,
                closed: false,
            }),
            notify: Notify::new(),
            gone: tokio::sync::watch::Sender::new(false),
            heard: AtomicU64::new(0),
            bound_bytes: bound_cells * CELL_LEN,
            serial,
        }
    }

    /// A number that no other queue of this process has; of two queues the one made first has the lower.
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// How often cells have come in by the link. Two equal answers mean that the link was silent between them.
    pub fn heard(&self) -> u64 {
        self.heard.load(atomic::Ordering::Relaxed)
    }

    /// Notes that cells have come in by the link.
    pub(super) fn on_heard(&self) {
        self.heard.fetch_add(1, atomic::Ordering::Relaxed);
    }

    /// Adds whole cells of one circuit, heads included, behind those that wait.
    pub fn push(&self, circ: CircId, cells: &[u8]) -> Result<(), PushError> {
        self.push_with(circ, cells.len(), |run| run.add(cells))
    }

    /// Adds whole cells like [`LinkQueue::push`]. `cells` is empty afterwards, also after an error: its memory may have
    /// been moved with the cells.
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
        let (waits, ended) = waiting
            .circuits
            .get(&circ)
            .map_or((0, false), |run| (run.len, run.ended));
        if ended {
            return Err(PushError::Ended);
        }
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

    /// A circuit begins. Another circuit may have had its id before.
    pub(super) fn begin(&self, circ: CircId) {
        let mut waiting = lock(&self.waiting);
        let is_gone = |run: &CellRun| run.ended && run.len == 0;
        if waiting.circuits.get(&circ).is_some_and(is_gone) {
            waiting.circuits.remove(&circ);
        }
        if let Some(run) = waiting.circuits.get_mut(&circ) {
            // The last cell of the circuit that had the id before goes first.
            run.ended = false;
        }
    }

    /// Adds the last cell of a circuit, however much waits. Whatever is pushed for the circuit from now on is refused.
    pub fn push_last(&self, circ: CircId, cell: &Cell) {
        self.push_answer_with(circ, cell, true);
    }

    /// Adds a cell that answers the peer and that no window counts, however much waits.
    pub(super) fn push_answer(&self, circ: CircId, cell: &Cell) {
        self.push_answer_with(circ, cell, false);
    }

    fn push_answer_with(&self, circ: CircId, cell: &Cell, is_last: bool) {
        let mut guard = lock(&self.waiting);
        let waiting = &mut *guard;
        if waiting.closed {
            return;
        }
        let run = waiting.run(circ);
        run.ended |= is_last;
        run.answers += 1;
        let before = run.held;
        run.add(cell);
        let added = run.held - before;
        waiting.answers += 1;
        waiting.account(added, 0);
        drop(guard);
        self.notify.notify_one();
    }

    /// How many cells wait that answer the peer's CREATEs and DESTROYs. No window counts them: only their number shows
    /// that a peer asks for more than it reads.
    pub fn answers(&self) -> usize {
        lock(&self.waiting).answers
    }

    /// Drops the cells that wait for a circuit, but not its last cell.
    pub fn purge(&self, circ: CircId) {
        let mut guard = lock(&self.waiting);
        let waiting = &mut *guard;
        let Some(run) = waiting.circuits.get_mut(&circ) else {
            return;
        };
        let (held, answers) = (run.held, run.answers);
        if run.ended && run.len > 0 {
            run.keep_last();
            run.answers = 1;
            let (kept, answers) = (run.held, answers - run.answers);
            waiting.answers -= answers;
            waiting.account(kept, held);
        } else if !run.ended
            && let Some(run) = waiting.circuits.remove(&circ)
        {
            waiting.answers -= answers;
            waiting.account(0, held);
            run.give_back();
            waiting.clean_turns();
        }
    }

    /// Bytes that wait for the link.
    pub fn held_bytes(&self) -> usize {
        lock(&self.waiting).queued_bytes
    }

    /// Asks the link's task to close the link, to save memory. Cells that wait for the link are dropped at once.
    pub fn end(&self) {
        let mut guard = lock(&self.waiting);
        let waiting = &mut *guard;
        waiting.is_to_end = true;
        waiting.circuits.clear();
        waiting.turns.clear();
        waiting.answers = 0;
        let queued = waiting.queued_bytes;
        waiting.account(0, queued);
        drop(guard);
        self.notify.notify_one();
    }

    /// The circuits whose cells wait and that have not ended, in the order of their ids.
    pub fn waiting(&self) -> Vec<Waiting> {
        let waiting = lock(&self.waiting);
        let runs = waiting.circuits.iter();
        let runs = runs.filter(|(_, run)| run.len > 0 && !(run.ended && run.len == CELL_LEN));
        let circuits = runs.filter_map(|(circ, run)| {
            Some(Waiting {
                circ: *circ,
                since: run.moved?,
                held: run.held,
            })
        });
        let mut circuits: Vec<_> = circuits.collect();
        circuits.sort_unstable_by_key(|one| one.circ);
        circuits
    }

    /// Adds a command for the link's table. Commands are taken before cells, so what a command installs is there before
    /// a peer can answer any cell that was pushed after the command. Returns the command if the link is gone.
    pub fn command(&self, command: TableCommand) -> Result<(), TableCommand> {
        let mut waiting = lock(&self.waiting);
        if waiting.closed {
            return Err(command);
        }
        waiting.commands.push(command);
        drop(waiting);
        self.notify.notify_one();
        Ok(())
    }

    /// Moves all commands to `commands`. `false`: the link is to be closed ([`LinkQueue::end`]).
    pub fn take_commands(&self, commands: &mut Vec<TableCommand>) -> bool {
        let mut waiting = lock(&self.waiting);
        commands.append(&mut waiting.commands);
        !waiting.is_to_end
    }

    /// Moves up to `most_cells` cells to `out`. The circuit that has sent fewest of late goes first.
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
            let run = waiting.circuits.get_mut(&circ);
            let Some(run) = run.filter(|run| run.turn == turn.since) else {
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
                run.turn = waiting.turns_given + 1;
                waiting.enqueue(circ, recent);
                continue;
            }
            waiting.answers -= core::mem::take(&mut run.answers);
            if ended {
                waiting.remember_ended(now, circ);
            }
        }
        waiting.account(0, freed);
    }

    /// Is anything waiting?
    pub fn is_empty(&self) -> bool {
        let waiting = lock(&self.waiting);
        waiting.queued_bytes == 0 && waiting.commands.is_empty()
    }

    /// Takes nothing more. Returns the commands that nobody will carry out.
    pub fn close(&self) -> Vec<TableCommand> {
        let mut waiting = lock(&self.waiting);
        waiting.closed = true;
        waiting.circuits.clear();
        waiting.turns.clear();
        waiting.ended.clear();
        waiting.answers = 0;
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

/// What others ask of the table of a link's circuits ([`super::switch::Table`]).
pub enum TableCommand {
    /// Open a circuit to the peer. The inbox learns the circuit's id, then CREATED, then cells.
    Open {
        /// Receives what comes in on the circuit.
        inbox: Arc<Inbox>,
        /// The client's half of the handshake.
        message: Box<[u8; CREATE_LEN]>,
    },
    /// Answer the peer's CREATE: the circuit ends here, at `inbox`.
    Accept {
        /// The peer's circuit.
        circ: CircId,
        /// Receives what comes in on the circuit.
        inbox: Arc<Inbox>,
        /// Our half of the handshake.
        reply: Box<[u8; CREATED_LEN]>,
    },
    /// From now on open the peer's cells and pass them to another link.
    PassOutward {
        /// The peer's circuit, which ended here so far.
        circ: CircId,
        /// Opens what comes from the peer.
        layer: Box<RelayForward>,
        /// Where opened cells go.
        next: Arc<LinkQueue>,
        /// The circuit's id on that link.
        next_circ: CircId,
        /// What the circuit is charged, and when it was of use.
        passage: Arc<Passage>,
    },
    /// From now on wrap the peer's cells and pass them back to the link that asked for the circuit.
    PassInward {
        /// Our circuit to the peer, which ended here so far.
        circ: CircId,
        /// Wraps what comes from the peer.
        layer: Box<RelayBackward>,
        /// Where wrapped cells go.
        prev: Arc<LinkQueue>,
        /// The circuit's id on that link.
        prev_circ: CircId,
        /// The sealed EXTENDED, which goes back before anything that comes from the peer.
        extended: Box<Cell>,
    },
    /// End a circuit at once, both ways: what is queued for it is dropped.
    Destroy {
        /// The circuit.
        circ: CircId,
        /// What the peer is told.
        reason: DestroyReason,
    },
    /// End a circuit on this link, after what is queued for it.
    Close {
        /// The circuit.
        circ: CircId,
        /// What the peer is told.
        reason: DestroyReason,
    },
}

impl TableCommand {
    /// Sends the command to the table behind `queue`. If that link is gone, everyone who depends on the command is
    /// told.
    pub fn send(self, queue: &LinkQueue) {
        if let Err(command) = queue.command(self) {
            command.abandon();
        }
    }

    /// Tells those who depend on the command that its link is gone.
    pub fn abandon(self) {
        match self {
            Self::Open { inbox, .. } | Self::Accept { inbox, .. } => {
                inbox.update(|a| a.destroyed = Some(DestroyReason::Unreachable));
            }
            Self::PassOutward {
                next, next_circ, ..
            } => {
                close(&next, next_circ, DestroyReason::Finished);
            }
            Self::PassInward {
                mut layer,
                prev,
                prev_circ,
                ..
            } => {
                truncate(&mut layer, &prev, prev_circ);
            }
            Self::Close { .. } | Self::Destroy { .. } => {}
        }
    }
}

/// Asks a link's table to end a circuit, after what is queued for it.
pub(super) fn close(queue: &LinkQueue, circ: CircId, reason: DestroyReason) {
    // A link that is gone has closed all its circuits already.
    let _ = queue.command(TableCommand::Close { circ, reason });
}

/// Tells the client that the circuit is lost behind this hop, then ends it.
pub(super) fn truncate(layer: &mut RelayBackward, prev: &LinkQueue, prev_circ: CircId) {
    let mut cell = [0; CELL_LEN];
    codec::write_circuit_head(&mut cell, prev_circ, CircuitCommand::Relay);
    let body = codec::body_mut(&mut cell);
    let mut packer = Packer::new(codec::payload_mut(body));
    let packed = packer.truncated(DestroyReason::Unreachable).is_ok() && packer.finish();
    if packed && layer.speak(body).is_ok() {
        let _ = prev.push(prev_circ, &cell);
    }
    close(prev, prev_circ, DestroyReason::Unreachable);
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
