//! The task of one link: reads, lets the table work, writes.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use tokio::time::Sleep;

use super::buffers;
use super::establish::NewLink;
use super::limit::{Direction, Traffic};
use super::queue::{LinkQueue, TableCommand};
use super::switch::{AcceptCircuits, LinkError, Table};
use super::tls_io::TlsIo;
use crate::cell::CELL_LEN;
use crate::limits::{
    ANSWERS_PER_LINK, ANSWERS_TIMEOUT, LINK_REST_ACCEPTED, LINK_REST_DIALLED, LINK_REST_SPREAD,
    WRITE_BATCH_CELLS,
};
use crate::world::{random, steady};

/// Why a link has ended.
#[derive(Debug, thiserror::Error)]
pub enum LinkEnd {
    /// The peer closed the link.
    #[error("the peer closed the link")]
    Closed,
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    /// The peer broke a rule.
    #[error("the peer misbehaved: {0}")]
    Misbehaved(#[from] LinkError),
    /// The link has carried no circuit for a long time.
    #[error("no circuit needed the link any more")]
    Idle,
    /// The link held too much memory.
    #[error("the link held too much memory")]
    Memory,
    /// The peer asks and does not read the answers.
    #[error("the peer has not read what it asked for")]
    Unread,
}

/// How often a link looks whether anything needs it.
const REST_LOOK: Duration = Duration::from_secs(30);

/// Watches for how long no circuit has been on a link.
struct Rest {
    /// The link is closed after this time without circuits. The side that dialled closes first, and each link draws its
    /// own time.
    patience: Duration,
    /// When the link was last seen to be needed, and how many circuits it had ever had by then.
    needed: (tokio::time::Instant, u64),
    /// The alarm is not set anew when circuits come and go. When the alarm rings, [`Rest::is_over`] looks whether the
    /// link was needed meanwhile.
    alarm: Pin<Box<Sleep>>,
}

impl Rest {
    fn new(dialled: bool) -> Self {
        let least = if dialled {
            LINK_REST_DIALLED
        } else {
            LINK_REST_ACCEPTED
        };
        Self {
            patience: least.mul_f64(random::rng().random_range(1.0..LINK_REST_SPREAD)),
            needed: (tokio::time::Instant::now(), 0),
            alarm: Box::pin(tokio::time::sleep(REST_LOOK)),
        }
    }

    /// Has the link rested for long enough, with this many circuits now and this many since it began?
    fn is_over(&mut self, circuits: usize, ever: u64) -> bool {
        if !self.alarm.is_elapsed() {
            return false;
        }
        let now = tokio::time::Instant::now();
        self.alarm.as_mut().reset(now + REST_LOOK);
        let (since, before) = self.needed;
        if circuits > 0 || ever != before {
            self.needed = (now, ever);
            return false;
        }
        now.saturating_duration_since(since) >= self.patience
    }
}

/// How fast a link may move bytes, and who counts them. A link without a limit never asks for the time.
struct Pace(Option<Arc<Traffic>>);

impl Pace {
    fn is_limited(&self) -> bool {
        self.0.as_ref().is_some_and(|traffic| traffic.is_limited())
    }

    /// When bytes may move in this direction again; `None` if they may move now.
    fn wait_for(&self, way: Direction) -> Option<tokio::time::Instant> {
        let traffic = self.0.as_ref()?;
        traffic.wait_for(way, tokio::time::Instant::now)
    }

    /// Notes that this many bytes have moved in this direction.
    fn moved(&self, way: Direction, bytes: usize) {
        if let Some(traffic) = &self.0 {
            traffic.moved(way, bytes, tokio::time::Instant::now);
        }
    }
}

/// Waits until this time; for ever if there is none.
async fn sleep_until(until: Option<tokio::time::Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}

thread_local! {
    /// Decrypted cells of one read. No task holds it across an await.
    static PLAIN: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    /// Cells of one write.
    static BATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Drives a link until it ends, and tells everyone who has a circuit on it. If there is `traffic`, which links may
/// share, what the link moves is counted there, and the link moves no more than it allows. Dropping the future ends the link too, with a DESTROY for each
/// circuit.
pub async fn run<A: AcceptCircuits>(
    link: NewLink,
    queue: Arc<LinkQueue>,
    accept: A,
    traffic: Option<Arc<Traffic>>,
) -> LinkEnd {
    let table = Table::new(queue.clone(), link.dialled, accept);
    let mut driver = Driver {
        rest: Rest::new(link.dialled),
        io: link.io,
        queue,
        table,
        partial: Vec::new(),
        pace: Pace(traffic),
        unread: None,
        ended: false,
    };
    match driver.run().await {
        Ok(never) => match never {},
        Err(end) => {
            driver.ended = true;
            end
        }
    }
}

struct Driver<A: AcceptCircuits> {
    io: TlsIo,
    queue: Arc<LinkQueue>,
    table: Table<A>,
    /// The beginning of a cell whose rest has not come yet.
    partial: Vec<u8>,
    pace: Pace,
    rest: Rest,
    /// Since when the peer takes no byte while too many answers wait ([`ANSWERS_PER_LINK`]), and how many bytes were
    /// unsent then.
    unread: Option<(tokio::time::Instant, usize)>,
    /// Has the link ended by itself? A link that is dropped before is one that this side stops.
    ended: bool,
}

impl<A: AcceptCircuits> Driver<A> {
    async fn run(&mut self) -> Result<core::convert::Infallible, LinkEnd> {
        let mut early = self.io.take_plain();
        self.on_plain(&mut early)?;
        drop(early);
        let mut commands = Vec::new();
        loop {
            self.turn(&mut commands).await?;
            if self.rest.is_over(self.table.len(), self.table.ever()) {
                return Err(LinkEnd::Idle);
            }
        }
    }

    /// One turn: writes what may be written, waits for more to do, carries commands out, and reads what may be read. A
    /// link without a limit may always read and write.
    ///
    /// Commands come after writing and before reading. What a peer says can be the answer to a cell that this turn has
    /// written, and the command that prepares the table for that answer was queued before the cell (protocol.md 7.6).
    async fn turn(&mut self, commands: &mut Vec<TableCommand>) -> Result<(), LinkEnd> {
        let writes_at = self.pace.wait_for(Direction::Write);
        let written = if writes_at.is_none() {
            self.write()?
        } else {
            self.io.try_flush()?;
            0
        };
        self.pace.moved(Direction::Write, written);
        // With a limit, only one batch was written. More cells may wait, and the queue has woken this task for them
        // already.
        let is_rest_queued = self.pace.is_limited() && written > 0;
        let reads_at = self.pace.wait_for(Direction::Read);
        let gives_up_at = self.wait_for_reader(written > 0 || writes_at.is_some())?;
        // While the task may not read, it must not wait for the socket to be readable: that may be so at once, again
        // and again.
        let may_read = reads_at.is_none() && gives_up_at.is_none();
        let until = [reads_at, writes_at, gives_up_at]
            .into_iter()
            .flatten()
            .min();
        tokio::select! {
            () = std::future::ready(()), if is_rest_queued => {}
            ready = self.io.ready(), if may_read => ready?,
            ready = self.io.writable(), if !may_read && self.io.has_unsent() => ready?,
            () = self.queue.wait() => {}
            () = sleep_until(until), if until.is_some() => {}
            () = self.rest.alarm.as_mut() => {}
        }
        if !self.queue.take_commands(commands) {
            commands.drain(..).for_each(TableCommand::abandon);
            return Err(LinkEnd::Memory);
        }
        for command in commands.drain(..) {
            self.table.on_command(command);
        }
        if may_read {
            let read = self.read()?;
            self.pace.moved(Direction::Read, read);
        }
        Ok(())
    }

    /// A peer that does not read its answers is not read from: while too many of them wait, the link does not read.
    /// Gives the time at which the patience with the peer ends, or `None` if the link may read. `moves` says that
    /// something was written just now, or that nothing may be written now.
    ///
    /// Only answers count, not cells of circuits: two relays that wait for each other to read such cells would wait for
    /// ever.
    fn wait_for_reader(&mut self, moves: bool) -> Result<Option<tokio::time::Instant>, LinkEnd> {
        if self.queue.answers() <= ANSWERS_PER_LINK {
            self.unread = None;
            return Ok(None);
        }
        let (now, unsent) = (tokio::time::Instant::now(), self.io.unsent_len());
        let since = match self.unread {
            Some((since, before)) if !moves && before == unsent => since,
            _ => now,
        };
        self.unread = Some((since, unsent));
        let until = since + ANSWERS_TIMEOUT;
        if now >= until {
            return Err(LinkEnd::Unread);
        }
        Ok(Some(until))
    }

    /// Writes what is queued, as long as the kernel takes it. What the kernel does not take stays in the queues, where
    /// circuits take turns.
    fn write(&mut self) -> Result<usize, LinkEnd> {
        self.io.try_flush()?;
        let mut written = 0;
        BATCH.with_borrow_mut(|batch| {
            while !self.io.has_unsent() {
                batch.clear();
                buffers::prepare(batch);
                self.queue
                    .take_cells(steady::now(), WRITE_BATCH_CELLS, batch);
                if batch.is_empty() {
                    break;
                }
                self.io.write(batch)?;
                written += batch.len();
                if self.pace.is_limited() {
                    break;
                }
            }
            Ok(written)
        })
    }

    fn read(&mut self) -> Result<usize, LinkEnd> {
        PLAIN.with_borrow_mut(|plain| {
            plain.clear();
            // The buffer of the last read may have gone on with its cells.
            buffers::prepare(plain);
            plain.append(&mut self.partial);
            let read = self.io.try_read(plain)?;
            self.on_plain(plain)?;
            if read == Some(0) {
                Err(LinkEnd::Closed)
            } else {
                Ok(read.unwrap_or(0))
            }
        })
    }

    fn on_plain(&mut self, plain: &mut Vec<u8>) -> Result<(), LinkEnd> {
        let whole = plain.len() - plain.len() % CELL_LEN;
        self.partial.extend_from_slice(&plain[whole..]);
        plain.truncate(whole);
        if !plain.is_empty() {
            self.queue.on_heard();
            self.table.on_cells(steady::now(), plain)?;
        }
        Ok(())
    }
}

impl<A: AcceptCircuits> Driver<A> {
    /// Says DESTROY for each circuit because this side stops, as far as the kernel takes it (protocol.md 2.13). A limit
    /// of bandwidth does not hold this up.
    fn take_leave(&mut self) {
        self.table.take_leave();
        while let Ok(1..) = self.write() {}
    }
}

impl<A: AcceptCircuits> Drop for Driver<A> {
    fn drop(&mut self) {
        if !self.ended {
            self.take_leave();
        }
        self.table.on_link_lost();
        self.io.say_close();
    }
}

#[cfg(test)]
#[path = "link_task_tests.rs"]
mod tests;
