//! The table of one link's circuits: what becomes of each cell (docs/protocol.md, chapter 2).
//!
//! The link's task owns its [`Table`], and with it every layer that opens or wraps what comes in on the link: the
//! forward layer of a circuit that the peer created, the backward layer of a circuit that this side created. A cell is
//! changed in place and goes to the queue of the next link, or to the inbox of the circuit's end. Tables never touch
//! each other; they send [`TableCommand`]s.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::inbox::Inbox;
use super::passage::Passage;
use super::queue::{LinkQueue, PushError, TableCommand, close, truncate};
use crate::cell::codec::{
    self, CREATE_LEN, CREATED_LEN, Cell, CellError, CircuitCommand, DestroyReason, Head,
    LinkCommand,
};
use crate::cell::{CELL_LEN, CLEAR_LEN};
use crate::ids::CircId;
use crate::limits::{
    CIRCUITS_PER_LINK, PADDING_CELLS, PADDING_TIME, UNKNOWN_CIRCUIT_CELLS_PER_SECOND,
};
use crate::onion::{Opened, RelayBackward, RelayForward};

/// Why a CREATE is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateRefusal {
    /// The circuit is refused; the link goes on.
    Destroy(DestroyReason),
    /// This peer accepts no circuits: the link closes.
    NotARelay,
}

/// Takes the peer's CREATEs: at a relay, the pool of handshake workers.
pub trait AcceptCircuits: Send {
    /// A CREATE has come; [`TableCommand::Accept`] or [`TableCommand::Close`] is to follow.
    fn on_create(&mut self, circ: CircId, message: &[u8; CREATE_LEN]) -> Result<(), CreateRefusal>;

    /// The reason in the DESTROYs that this side sends when it stops (protocol.md 2.13).
    fn on_stop(&self) -> DestroyReason {
        DestroyReason::Shutdown
    }
}

/// Accepts no circuits: a client's side of its links.
pub struct AcceptNone;

impl AcceptCircuits for AcceptNone {
    fn on_create(&mut self, _: CircId, _: &[u8; CREATE_LEN]) -> Result<(), CreateRefusal> {
        Err(CreateRefusal::NotARelay)
    }

    fn on_stop(&self) -> DestroyReason {
        // A client says nothing else, whatever happened (protocol.md 7.10).
        DestroyReason::Finished
    }
}

/// Why a link is closed. The peer learns none of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The bytes are not a cell.
    #[error(transparent)]
    Cell(#[from] CellError),
    /// A second HELLO.
    #[error("HELLO after the first cell")]
    LateHello,
    /// A CREATE in this side's half of the ids, or on an id in use (S8).
    #[error("CREATE on a circuit id that is not free for the peer")]
    BadCreateId,
    /// A CREATE to a client.
    #[error("CREATE sent to a peer that is no relay")]
    NotARelay,
    /// A CREATED that nothing asked for.
    #[error("CREATED without a CREATE")]
    UnaskedCreated,
    /// More circuits than the peer may make on one link.
    #[error("too many circuits")]
    TooManyCircuits,
    /// A RELAY cell before CREATED.
    #[error("RELAY before the circuit was created")]
    EarlyRelay,
    /// More PADDING than anybody has asked for.
    #[error("too many PADDING cells")]
    Padding,
    /// Too many cells for circuits that do not exist (S7).
    #[error("too many cells for unknown circuits")]
    UnknownCircuits,
}

enum Entry {
    /// The peer's circuit, whose handshake is being answered.
    Answering,
    /// This side's circuit: CREATE was sent.
    Creating(Arc<Inbox>),
    /// The circuit ends here.
    End(Arc<Inbox>),
    /// The peer's circuit; its cells are opened and passed on.
    Outward {
        layer: Box<RelayForward>,
        next: Arc<LinkQueue>,
        next_circ: CircId,
        passage: Arc<Passage>,
    },
    /// This side's circuit; its cells are wrapped and passed back.
    Inward {
        layer: Box<RelayBackward>,
        prev: Arc<LinkQueue>,
        prev_circ: CircId,
    },
    /// DESTROY was sent; the id is free when the peer's DESTROY has come.
    Closing,
}

/// Cells to be sent on.
enum Cells<'a> {
    /// All cells in this buffer, which may be handed over with them.
    All(&'a mut Vec<u8>),
    /// Some cells of a buffer.
    Some(&'a [u8]),
}

/// Bytes of the cells at the beginning of `cells` whose heads are like that of the first: of one circuit and command.
fn same_heads(cells: &[u8]) -> usize {
    let chunks = cells.as_chunks::<CELL_LEN>().0;
    let Some(first) = chunks.first() else {
        return 0;
    };
    let head = &first[..CLEAR_LEN];
    let same = chunks.iter().take_while(|cell| &cell[..CLEAR_LEN] == head);
    same.count() * CELL_LEN
}

/// The circuits of one link.
pub struct Table<A> {
    entries: HashMap<CircId, Entry>,
    own: Arc<LinkQueue>,
    dialled: bool,
    /// Circuits that the peer has made and whose ids are not free.
    from_peer: usize,
    next_id: u32,
    /// Number of circuits that there have been.
    ever: u64,
    accept: A,
    /// Cells for circuits that do not exist.
    unknown: Recurring,
    padding: Recurring,
}

/// Counts what may come a number of times within some time.
#[derive(Default)]
struct Recurring {
    count: u32,
    since: Option<Instant>,
}

impl Recurring {
    /// Notes that what is counted has come once more. Gives how often it has come within `time`.
    fn count(&mut self, now: Instant, time: Duration) -> u32 {
        let since = *self.since.get_or_insert(now);
        if now.saturating_duration_since(since) > time {
            (self.since, self.count) = (Some(now), 0);
        }
        self.count += 1;
        self.count
    }
}

impl<A: AcceptCircuits> Table<A> {
    /// An empty table. `own` is the queue of this very link; `dialled` says which half of the ids this side has.
    pub fn new(own: Arc<LinkQueue>, dialled: bool, accept: A) -> Self {
        let entries = HashMap::new();
        Self {
            entries,
            own,
            dialled,
            from_peer: 0,
            next_id: 0,
            ever: 0,
            accept,
            unknown: Recurring::default(),
            padding: Recurring::default(),
        }
    }

    /// Circuits on the link, those included that wait for their last DESTROY.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Circuits that there have been since the beginning.
    pub fn ever(&self) -> u64 {
        self.ever
    }

    /// Has the link no circuits?
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Works on whole cells that came in, in place, and sends them on. `cells` is empty afterwards: its memory may have
    /// gone with the cells.
    pub fn on_cells(&mut self, now: Instant, cells: &mut Vec<u8>) -> Result<(), LinkError> {
        let mut at = 0;
        while let Some(cell) = cells[at..].first_chunk() {
            match codec::head(cell)? {
                Head::Circuit(circ, CircuitCommand::Relay) => {
                    // All cells of one circuit that come in a row take one look into the table, and one move.
                    let end = at + same_heads(&cells[at..]);
                    let (done, end_with) = self.on_relay(now, circ, &mut cells[at..end])?;
                    if done == cells.len() {
                        self.send_on(circ, Cells::All(cells));
                    } else if done > 0 {
                        self.send_on(circ, Cells::Some(&cells[at..at + done]));
                    }
                    if let Some(reason) = end_with {
                        self.destroy(circ, reason);
                    }
                    at = end.min(cells.len());
                }
                head => {
                    self.on_other(now, head, cell)?;
                    at += CELL_LEN;
                }
            }
        }
        cells.clear();
        Ok(())
    }

    /// Works on RELAY cells of one circuit. Gives how many bytes of them are to be sent on, and with what reason the
    /// circuit then ends, if it does.
    fn on_relay(
        &mut self,
        now: Instant,
        circ: CircId,
        cells: &mut [u8],
    ) -> Result<(usize, Option<DestroyReason>), LinkError> {
        let all = cells.len();
        let cells = cells.as_chunks_mut::<CELL_LEN>().0.iter_mut();
        let relay = CircuitCommand::Relay;
        let mut done = 0;
        match self.entries.get_mut(&circ) {
            Some(Entry::End(_)) => done = all,
            Some(Entry::Outward {
                layer,
                next_circ,
                passage,
                ..
            }) => {
                passage.on_used(now);
                for cell in cells {
                    // Nothing may be said to a hop after its circuit was extended (S14).
                    let Ok(Opened::Onward) = layer.open(codec::body_mut(cell)) else {
                        return Ok((done, Some(DestroyReason::Protocol)));
                    };
                    codec::write_circuit_head(cell, *next_circ, relay);
                    done += CELL_LEN;
                }
            }
            Some(Entry::Inward {
                layer, prev_circ, ..
            }) => {
                for cell in cells {
                    if layer.wrap(codec::body_mut(cell)).is_err() {
                        return Ok((done, Some(DestroyReason::Protocol)));
                    }
                    codec::write_circuit_head(cell, *prev_circ, relay);
                    done += CELL_LEN;
                }
            }
            Some(Entry::Closing) => {}
            Some(Entry::Answering | Entry::Creating(_)) => return Err(LinkError::EarlyRelay),
            None => {
                for _ in cells {
                    self.count_unknown(now)?;
                }
            }
        }
        Ok((done, None))
    }

    /// Sends cells to where the circuit's cells go, and destroys the circuit if too many wait there.
    fn send_on(&mut self, circ: CircId, cells: Cells<'_>) {
        let sent = match self.entries.get(&circ) {
            Some(Entry::End(inbox)) => match cells {
                Cells::All(cells) => inbox.push_all(cells),
                Cells::Some(cells) => inbox.push(cells),
            },
            Some(Entry::Outward {
                next: to,
                next_circ: circ,
                ..
            })
            | Some(Entry::Inward {
                prev: to,
                prev_circ: circ,
                ..
            }) => match cells {
                Cells::All(cells) => to.push_all(*circ, cells),
                Cells::Some(cells) => to.push(*circ, cells),
            },
            _ => Ok(()),
        };
        // A link that is gone has closed the circuit already, and so has a link that has ended it.
        if sent == Err(PushError::Overrun) {
            self.destroy(circ, DestroyReason::Resource);
        }
    }

    fn on_other(&mut self, now: Instant, head: Head, cell: &Cell) -> Result<(), LinkError> {
        let body = codec::body(cell);
        match head {
            Head::Link(LinkCommand::Hello) => Err(LinkError::LateHello),
            Head::Link(LinkCommand::Padding) => {
                let came = self.padding.count(now, PADDING_TIME);
                let may = came <= PADDING_CELLS;
                may.then_some(()).ok_or(LinkError::Padding)
            }
            Head::Circuit(circ, CircuitCommand::Create) => {
                self.on_create(circ, codec::parse_create(body)?)
            }
            Head::Circuit(circ, CircuitCommand::Created) => {
                self.on_created(circ, codec::parse_created(body)?)
            }
            Head::Circuit(circ, CircuitCommand::Destroy) => {
                self.on_destroy(now, circ, codec::parse_destroy(body)?)
            }
            Head::Circuit(_, CircuitCommand::Relay) => Ok(()),
        }
    }

    fn on_create(&mut self, circ: CircId, message: &[u8; CREATE_LEN]) -> Result<(), LinkError> {
        if !self.is_from_peer(circ) || self.entries.contains_key(&circ) {
            return Err(LinkError::BadCreateId);
        }
        if self.from_peer >= CIRCUITS_PER_LINK {
            return Err(LinkError::TooManyCircuits);
        }
        let refused = match self.accept.on_create(circ, message) {
            Ok(()) => None,
            Err(CreateRefusal::Destroy(reason)) => Some(reason),
            Err(CreateRefusal::NotARelay) => return Err(LinkError::NotARelay),
        };
        self.ever += 1;
        self.from_peer += 1;
        self.own.begin(circ);
        if let Some(reason) = refused {
            self.own.push_last(circ, &codec::destroy(circ, reason));
        }
        let entry = refused.map_or(Entry::Answering, |_| Entry::Closing);
        self.entries.insert(circ, entry);
        Ok(())
    }

    fn is_from_peer(&self, circ: CircId) -> bool {
        circ.is_from_dialler() != self.dialled
    }

    fn on_created(&mut self, circ: CircId, reply: &[u8; CREATED_LEN]) -> Result<(), LinkError> {
        match self.entries.get_mut(&circ) {
            Some(entry @ Entry::Creating(_)) => {
                if let Entry::Creating(inbox) = core::mem::replace(entry, Entry::Closing) {
                    inbox.update(|a| a.created = Some(Box::new(*reply)));
                    *entry = Entry::End(inbox);
                }
                Ok(())
            }
            // CREATED and this side's DESTROY crossed.
            Some(Entry::Closing) => Ok(()),
            _ => Err(LinkError::UnaskedCreated),
        }
    }

    fn on_destroy(
        &mut self,
        now: Instant,
        circ: CircId,
        reason: DestroyReason,
    ) -> Result<(), LinkError> {
        let Some(entry) = self.entries.remove(&circ) else {
            return self.count_unknown(now);
        };
        if self.is_from_peer(circ) {
            self.from_peer -= 1;
        }
        if !matches!(entry, Entry::Closing) {
            self.own.purge(circ);
            let answer = codec::destroy(circ, DestroyReason::Finished);
            self.own.push_last(circ, &answer);
            tell(entry, reason);
        }
        Ok(())
    }

    /// Ends a circuit at once, both ways.
    fn destroy(&mut self, circ: CircId, reason: DestroyReason) {
        let Some(entry) = self.entries.insert(circ, Entry::Closing) else {
            return;
        };
        self.own.purge(circ);
        self.own.push_last(circ, &codec::destroy(circ, reason));
        tell(entry, reason);
    }

    fn count_unknown(&mut self, now: Instant) -> Result<(), LinkError> {
        let came = self.unknown.count(now, Duration::from_secs(1));
        let may = came <= UNKNOWN_CIRCUIT_CELLS_PER_SECOND;
        may.then_some(()).ok_or(LinkError::UnknownCircuits)
    }

    /// Carries a command out.
    pub fn on_command(&mut self, command: TableCommand) {
        match command {
            TableCommand::Open { inbox, message } => self.open(inbox, &message),
            TableCommand::Accept { circ, inbox, reply } => {
                match self.entries.get_mut(&circ) {
                    Some(entry @ Entry::Answering) => {
                        *entry = Entry::End(inbox);
                        self.own.push_answer(circ, &codec::created(circ, &reply));
                    }
                    // The peer has changed its mind meanwhile.
                    _ => TableCommand::Accept { circ, inbox, reply }.abandon(),
                }
            }
            TableCommand::PassOutward {
                circ,
                layer,
                next,
                next_circ,
                passage,
            } => {
                match self.entries.get_mut(&circ) {
                    Some(entry @ Entry::End(_)) => {
                        let early = matches!(
                            core::mem::replace(entry, Entry::Outward { layer, next, next_circ, passage }),
                            Entry::End(inbox) if !inbox.take().cells.is_empty()
                        );
                        if early {
                            // The client has sent cells for a hop that was not there yet.
                            self.destroy(circ, DestroyReason::Protocol);
                        }
                    }
                    _ => TableCommand::PassOutward {
                        circ,
                        layer,
                        next,
                        next_circ,
                        passage,
                    }
                    .abandon(),
                }
            }
            TableCommand::PassInward {
                circ,
                layer,
                prev,
                prev_circ,
                extended,
            } => {
                match self.entries.get_mut(&circ) {
                    Some(entry @ Entry::End(_)) => {
                        // EXTENDED goes first, because what the peer has said already, and what the loss of its link
                        // makes this layer say, is sealed after it.
                        let _ = prev.push(prev_circ, &extended[..]);
                        let early = matches!(
                            core::mem::replace(entry, Entry::Inward { layer, prev, prev_circ }),
                            Entry::End(inbox) if !inbox.take().cells.is_empty()
                        );
                        if early {
                            self.destroy(circ, DestroyReason::Protocol);
                        }
                    }
                    _ => {
                        let _ = prev.push(prev_circ, &extended[..]);
                        TableCommand::PassInward {
                            circ,
                            layer,
                            prev,
                            prev_circ,
                            extended,
                        }
                        .abandon();
                    }
                }
            }
            TableCommand::Destroy { circ, reason } => {
                if !matches!(self.entries.get(&circ), None | Some(Entry::Closing)) {
                    self.destroy(circ, reason);
                }
            }
            TableCommand::Close { circ, reason } => {
                if let Some(entry) = self.entries.get_mut(&circ)
                    && !matches!(entry, Entry::Closing)
                {
                    *entry = Entry::Closing;
                    self.own.push_last(circ, &codec::destroy(circ, reason));
                }
            }
        }
    }

    fn open(&mut self, inbox: Arc<Inbox>, message: &[u8; CREATE_LEN]) {
        let half = if self.dialled { CircId::DIALLER_BIT } else { 0 };
        let free = (0..=CIRCUITS_PER_LINK).find_map(|_| {
            self.next_id = self.next_id.wrapping_add(1) & !CircId::DIALLER_BIT;
            CircId::new(half | self.next_id)
                .filter(|c| self.next_id != 0 && !self.entries.contains_key(c))
        });
        let own = self.entries.len() - self.from_peer;
        let Some(circ) = free.filter(|_| own < CIRCUITS_PER_LINK) else {
            inbox.update(|a| a.destroyed = Some(DestroyReason::Resource));
            return;
        };
        if !inbox.open_as(circ) {
            return;
        }
        self.ever += 1;
        self.own.begin(circ);
        self.entries.insert(circ, Entry::Creating(inbox));
        let _ = self.own.push(circ, &codec::create(circ, message));
    }

    /// This side stops: queues DESTROY for each circuit, in place of what waits for it. [`Table::on_link_lost`] is to
    /// follow.
    pub fn take_leave(&mut self) {
        let reason = self.accept.on_stop();
        let mut circuits: Vec<_> = self.entries.iter().collect();
        circuits.retain(|(_, entry)| !matches!(entry, Entry::Closing));
        circuits.sort_unstable_by_key(|(circ, _)| **circ);
        for (circ, _) in circuits {
            self.own.purge(*circ);
            self.own.push_last(*circ, &codec::destroy(*circ, reason));
        }
    }

    /// The link is gone: tells everyone who has a circuit on it.
    pub fn on_link_lost(&mut self) {
        // The entries go in the order of their ids, so that a run can be repeated.
        let mut entries: Vec<_> = self.entries.drain().collect();
        entries.sort_unstable_by_key(|(circ, _)| *circ);
        for (_, entry) in entries {
            tell(entry, DestroyReason::Unreachable);
        }
        self.own.close().into_iter().for_each(TableCommand::abandon);
    }
}

/// Tells the other side of a circuit that the circuit has ended on this link. The reason goes to this program's own
/// circuits only (S19).
fn tell(entry: Entry, reason: DestroyReason) {
    match entry {
        Entry::Creating(inbox) | Entry::End(inbox) => {
            inbox.update(|a| a.destroyed = Some(reason));
        }
        Entry::Outward {
            next, next_circ, ..
        } => close(&next, next_circ, DestroyReason::Finished),
        Entry::Inward {
            mut layer,
            prev,
            prev_circ,
        } => truncate(&mut layer, &prev, prev_circ),
        Entry::Answering | Entry::Closing => {}
    }
}

#[cfg(test)]
#[path = "switch_tests.rs"]
mod tests;
