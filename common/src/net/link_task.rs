//! The task of one link: reads, lets the table work, writes.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::establish::NewLink;
use super::switch::{AcceptCircuits, LinkError, Queue, Table};
use super::tls_io::TlsIo;
use crate::cell::CELL_LEN;
use crate::limits::{READ_BATCH_BYTES, WRITE_BATCH_CELLS};

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
    static PLAIN: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(READ_BATCH_BYTES));
    /// Cells of one write.
    static BATCH: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(WRITE_BATCH_CELLS * CELL_LEN));
}

/// Drives a link until it ends, and tells everyone who has a circuit on it.
/// Dropping the future ends the link too.
pub async fn run<A: AcceptCircuits>(link: NewLink, queue: Arc<Queue>, accept: A) -> LinkEnd {
    let table = Table::new(queue.clone(), link.dialled, accept);
    let mut driver = Driver {
        io: link.io,
        queue,
        table,
        partial: Vec::new(),
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
            self.write()?;
            tokio::select! {
                ready = self.io.ready() => ready?,
                () = self.queue.wait() => {}
            }
            self.read()?;
        }
    }

    /// Writes what is queued, as long as the kernel takes it: what it does not
    /// take stays in the queues, where circuits take turns.
    fn write(&mut self) -> Result<(), LinkEnd> {
        self.io.try_flush()?;
        BATCH.with_borrow_mut(|batch| {
            while !self.io.has_unsent() {
                batch.clear();
                self.queue.take_cells(WRITE_BATCH_CELLS, batch);
                if batch.is_empty() {
                    break;
                }
                self.io.write(batch)?;
            }
            Ok(())
        })
    }

    fn read(&mut self) -> Result<(), LinkEnd> {
        PLAIN.with_borrow_mut(|plain| {
            plain.clear();
            plain.append(&mut self.partial);
            let read = self.io.try_read(plain)?;
            self.on_plain(plain)?;
            if read == Some(0) {
                Err(LinkEnd::Closed)
            } else {
                Ok(())
            }
        })
    }

    fn on_plain(&mut self, plain: &mut [u8]) -> Result<(), LinkEnd> {
        let whole = plain.len() - plain.len() % CELL_LEN;
        let (cells, rest) = plain.split_at_mut(whole);
        self.partial.extend_from_slice(rest);
        if !cells.is_empty() {
            self.table.on_cells(Instant::now(), cells)?;
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
