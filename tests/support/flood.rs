//! One peer that sends CREATEs faster than a relay answers them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cepa_common::cell::CELL_LEN;
use cepa_common::cell::codec::{self, CREATE_LEN, Cell, CircuitCommand, DestroyReason, Head};
use cepa_common::dir::Entry;
use cepa_common::ids::CircId;

use super::peer::{Net, Peer, ours};

/// CREATEs that the peer sends in one go.
const BATCH: usize = 64;
/// Of so many CREATEs one is garbage: it has the right length and is for no key.
const GARBAGE: usize = 8;

/// What a relay has said to the flood so far.
#[derive(Default)]
pub(crate) struct Told {
    /// CREATEs that have had their turn: CREATED, or DESTROY(Protocol) for garbage.
    answered: AtomicUsize,
    /// CREATEs that were refused before any work: DESTROY(Resource).
    refused: AtomicUsize,
}

impl Told {
    pub(crate) fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    pub(crate) fn refused(&self) -> usize {
        self.refused.load(Ordering::Relaxed)
    }
}

/// A link on which so many CREATEs are under way all the time. Each answer makes room for one more.
pub(crate) struct Flood {
    peer: Peer,
    /// A CREATE that the relay can answer, again and again.
    message: [u8; CREATE_LEN],
    /// CREATEs under way at most.
    most: usize,
    under_way: usize,
    ever: u32,
    told: Arc<Told>,
}

impl Flood {
    pub(crate) async fn new(net: &Net, relay: &Entry, most: usize) -> Self {
        let (_, message) = net.handshake(relay);
        Self {
            peer: net.peer(relay).await,
            message,
            most,
            under_way: 0,
            ever: 0,
            told: Arc::default(),
        }
    }

    pub(crate) fn told(&self) -> Arc<Told> {
        self.told.clone()
    }

    /// Floods until the task that does it is aborted. What the relay has answered is given up at once, as the rules
    /// want it, so that the link has no circuits but those that wait.
    pub(crate) async fn run(mut self) {
        let mut out = Vec::new();
        loop {
            if self.peer.io.has_unsent() {
                self.peer.io.try_flush().unwrap();
            } else {
                while out.len() < BATCH * CELL_LEN && self.under_way < self.most {
                    let create = self.create();
                    out.extend(create);
                }
                self.peer.io.write(&out).unwrap();
                out.clear();
            }
            self.peer.io.ready().await.unwrap();
            let read = self.peer.io.try_read(&mut self.peer.plain).unwrap();
            assert_ne!(read, Some(0), "the relay keeps the link");
            let whole = self.peer.plain.len() / CELL_LEN * CELL_LEN;
            let cells: Vec<u8> = self.peer.plain.drain(..whole).collect();
            for cell in cells.as_chunks::<CELL_LEN>().0 {
                out.extend(self.hear(cell).into_iter().flatten());
            }
        }
    }

    fn create(&mut self) -> Cell {
        self.ever += 1;
        self.under_way += 1;
        let garbage = [7; CREATE_LEN];
        let is_garbage = (self.ever as usize).is_multiple_of(GARBAGE);
        let message = if is_garbage { &garbage } else { &self.message };
        codec::create(ours(self.ever), message)
    }

    /// Takes what the relay says. Gives what to answer.
    fn hear(&mut self, cell: &Cell) -> Option<Cell> {
        let (circ, command): (CircId, _) = match codec::head(cell) {
            Ok(Head::Circuit(circ, command)) => (circ, command),
            other => panic!("{other:?}"),
        };
        let counted = match command {
            CircuitCommand::Created => &self.told.answered,
            CircuitCommand::Destroy => match codec::parse_destroy(codec::body(cell)).unwrap() {
                // The relay lets go of what was given up.
                DestroyReason::Finished => return None,
                DestroyReason::Resource => &self.told.refused,
                DestroyReason::Protocol => &self.told.answered,
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        };
        counted.fetch_add(1, Ordering::Relaxed);
        self.under_way -= 1;
        Some(codec::destroy(circ, DestroyReason::Finished))
    }
}
