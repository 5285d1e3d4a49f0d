//! What a link has received for a circuit that ends here.

use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use super::buffers;
use crate::budget::{Budget, Charge};
use crate::cell::CELL_LEN;
use crate::cell::codec::{CREATED_LEN, DestroyReason};
use crate::ids::CircId;
use crate::sync::lock;

/// A push that was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushError {
    /// The circuit has more waiting than its window can account for.
    Overrun,
    /// The link is gone.
    Closed,
    /// The circuit's last cell is queued or sent already. Whoever has ended the circuit has told its other side.
    Ended,
}

/// What has come for a circuit's end.
#[derive(Default)]
pub struct Arrived {
    /// The id that the link gave the circuit, as soon as it has given one.
    pub opened: Option<CircId>,
    /// The other end's half of the handshake.
    pub created: Option<Box<[u8; CREATED_LEN]>>,
    /// Whole cells, in order.
    pub cells: Vec<u8>,
    /// The circuit has ended on this link, after `cells`.
    pub destroyed: Option<DestroyReason>,
    /// Nobody waits for the circuit any more.
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

    /// Adds whole cells like [`Inbox::push`]. `cells` is empty afterwards, also after an error: its memory may have
    /// been moved with the cells.
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

    /// Puts cells that were taken back in front of those that have come since.
    pub fn put_back(&self, mut cells: Vec<u8>) {
        if cells.is_empty() {
            return;
        }
        let mut guard = lock(&self.arrived);
        let (arrived, charge) = &mut *guard;
        cells.append(&mut arrived.cells);
        arrived.cells = cells;
        charge.set(arrived.cells.capacity());
        drop(guard);
        self.notify.notify_one();
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

    /// The link gives the circuit this id. `false` if nobody waits for the circuit any more.
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

    /// Nobody waits for the circuit any more: if it is not open yet, it will not be opened. Gives the circuit's id if
    /// the link gave one that has not been taken.
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

    /// S20: a large buffer with a few cells in it is charged at its full size.
    #[test]
    fn memory_is_charged_and_not_what_is_in_it() {
        let budget = Budget::new(usize::MAX);
        let inbox = Inbox::new(64, &budget);
        let mut buffer = buffers::take();
        let capacity = buffer.capacity();
        buffer.extend_from_slice(&[1; 16 * CELL_LEN]);
        inbox.push_all(&mut buffer).unwrap();
        assert_eq!(budget.used(), capacity);
        assert_eq!(inbox.take().cells.len(), 16 * CELL_LEN);
        assert_eq!(budget.used(), 0);
    }
}
