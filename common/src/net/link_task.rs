//! The task of one link: reads, lets the table work, writes.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::buffers;
use super::establish::NewLink;
use super::limit::{RateLimit, Way};
use super::switch::{AcceptCircuits, LinkError, Queue, Table};
use super::tls_io::TlsIo;
use crate::cell::CELL_LEN;
use crate::limits::WRITE_BATCH_CELLS;

/// Why a link has ended.
#[derive(Debug, thiserror::Error)]
pub enum LinkEnd {
    /// The peer closed it.
    #[error("the peer closed the link")]
    Closed,
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    /// The peer broke a rule.
    #[error("the peer misbehaved: {0}")]
    Misbehaved(#[from] LinkError),
}

thread_local! {
    /// Decrypted cells of one read. No task holds it across an await.
    static PLAIN: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    /// Cells of one write.
    static BATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Drives a link until it ends, and tells everyone who has a circuit on it.
/// Dropping the future ends the link too.
pub async fn run<A: AcceptCircuits>(link: NewLink, queue: Arc<Queue>, accept: A) -> LinkEnd {
    run_limited(link, queue, accept, None).await
}

/// As [`run`], moving no more than `limit`, which other links share.
pub async fn run_limited<A: AcceptCircuits>(
    link: NewLink,
    queue: Arc<Queue>,
    accept: A,
    limit: Option<Arc<RateLimit>>,
) -> LinkEnd {
    let table = Table::new(queue.clone(), link.dialled, accept);
    let mut driver = Driver {
        io: link.io,
        queue,
        table,
        partial: Vec::new(),
        limit,
    };
    match driver.run().await {
        Ok(never) => match never {},
        Err(end) => end,
    }
}

struct Driver<A: AcceptCircuits> {
    io: TlsIo,
    queue: Arc<Queue>,
    table: Table<A>,
    /// The beginning of a cell whose rest has not come yet.
    partial: Vec<u8>,
    limit: Option<Arc<RateLimit>>,
}

impl<A: AcceptCircuits> Driver<A> {
    async fn run(&mut self) -> Result<core::convert::Infallible, LinkEnd> {
        let mut early = self.io.take_plain();
        self.on_plain(&mut early)?;
        drop(early);
        let mut commands = Vec::new();
        loop {
            self.queue.take_commands(&mut commands);
            for command in commands.drain(..) {
                self.table.on_command(command);
            }
            let Some(limit) = self.limit.clone() else {
                self.write()?;
                tokio::select! {
                    ready = self.io.ready() => ready?,
                    () = self.queue.wait() => {}
                }
                self.read()?;
                continue;
            };
            self.turn(&limit).await?;
        }
    }

    /// One turn of a link whose node may not move all that it could.
    async fn turn(&mut self, limit: &RateLimit) -> Result<(), LinkEnd> {
        let now = tokio::time::Instant::now();
        let writes_at = limit.wait_for(Way::Write, now);
        let written = if writes_at.is_none() {
            self.write()?
        } else {
            self.io.try_flush()?;
            0
        };
        limit.moved(Way::Write, written, now);
        let reads_at = limit.wait_for(Way::Read, now);
        // Whoever may not read must not ask whether it could: the answer would be yes at once.
        let until = [reads_at, writes_at].into_iter().flatten().min();
        tokio::select! {
            // One batch was written; there may be more, of which the queue has told already.
            () = std::future::ready(()), if written > 0 => {}
            ready = self.io.ready(), if reads_at.is_none() => ready?,
            ready = self.io.writable(), if reads_at.is_some() && self.io.has_unsent() => ready?,
            () = self.queue.wait() => {}
            () = tokio::time::sleep_until(until.unwrap_or(now)), if until.is_some() => {}
        }
        if reads_at.is_none() {
            let read = self.read()?;
            limit.moved(Way::Read, read, tokio::time::Instant::now());
        }
        Ok(())
    }

    /// Writes what is queued, as long as the kernel takes it: what it does not
    /// take stays in the queues, where circuits take turns.
    fn write(&mut self) -> Result<usize, LinkEnd> {
        self.io.try_flush()?;
        let mut written = 0;
        BATCH.with_borrow_mut(|batch| {
            while !self.io.has_unsent() {
                batch.clear();
                buffers::prepare(batch);
                self.queue
                    .take_cells(Instant::now(), WRITE_BATCH_CELLS, batch);
                if batch.is_empty() {
                    break;
                }
                self.io.write(batch)?;
                written += batch.len();
                if self.limit.is_some() {
                    break;
                }
            }
            Ok(written)
        })
    }

    fn read(&mut self) -> Result<usize, LinkEnd> {
        PLAIN.with_borrow_mut(|plain| {
            plain.clear();
            // The last one may have gone on with its cells.
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
            self.table.on_cells(Instant::now(), plain)?;
        }
        Ok(())
    }
}

impl<A: AcceptCircuits> Drop for Driver<A> {
    fn drop(&mut self) {
        self.table.on_link_lost();
        self.io.say_close();
    }
}
