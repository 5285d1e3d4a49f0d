//! Answers the queries that come by a stream of bytes: at an exit those of a client, at a client those of a program.
//!
//! Answers go out in the order in which they come about (RFC 7766, section 6.2.1.1). Queries are read only while there
//! is a place for one more, and while whoever asks takes the answers.

use core::future::{Future, poll_fn};
use core::pin::{Pin, pin};
use core::task::{Context, Poll};
use core::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep_until};

use crate::budget::Charge;
use crate::dns::{Frames, Heard, MOST_QUERY, Query, framed, read_query};

/// Bytes read at once.
const READ_BYTES: usize = 2_048;
/// While so many bytes of answers wait to be taken, no further query is read.
const MOST_WAITING: usize = 64 << 10;

/// What one stream may have.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Queries at work at once.
    pub at_once: usize,
    /// A stream that has nothing at work, and on which no query has come and no answer was taken for so long, ends.
    pub idle: Duration,
}

/// How a conversation has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Whoever asked has said that it asks no more, and has all answers.
    Done,
    /// Nothing has happened for the time allowed.
    Idle,
    /// What came was no query, or a longer one than anybody takes.
    NoQuery,
    /// The stream is broken.
    Broken,
}

/// A conversation: the queries that come by `S`, which `A` answers.
pub struct Conversation<'s, S, A, F> {
    stream: &'s mut S,
    answer: A,
    bounds: Bounds,
    charge: Charge,
    frames: Frames,
    at_work: Vec<Pin<Box<F>>>,
    /// Answers with their lengths, `sent` bytes of which are gone.
    out: Vec<u8>,
    sent: usize,
    has_read_all: bool,
    /// When something last happened.
    moved: Instant,
}

impl<'s, S, A, F> Conversation<'s, S, A, F>
where
    S: AsyncRead + AsyncWrite + Unpin,
    A: Fn(Query) -> F,
    F: Future<Output = Vec<u8>>,
{
    /// A conversation by `stream`. What is held of it is charged to `charge`; what a query at work holds is the matter
    /// of `answer`.
    pub fn new(stream: &'s mut S, answer: A, bounds: Bounds, charge: Charge) -> Self {
        Self {
            stream,
            answer,
            bounds,
            charge,
            frames: Frames::new(MOST_QUERY),
            at_work: Vec::new(),
            out: Vec::new(),
            sent: 0,
            has_read_all: false,
            moved: Instant::now(),
        }
    }

    /// Takes bytes that have been read of the stream already.
    #[must_use]
    pub fn begun_with(mut self, bytes: &[u8]) -> Self {
        self.frames.push(bytes);
        self
    }

    /// Answers until the conversation has ended. `is_over` ends it as broken.
    pub async fn run(mut self, is_over: impl Fn(&S, &mut Context<'_>) -> Poll<()>) -> Ended {
        let mut alarm = pin!(sleep_until(self.moved + self.bounds.idle));
        poll_fn(|cx| {
            if is_over(self.stream, cx).is_ready() {
                return Poll::Ready(Ended::Broken);
            }
            if let Poll::Ready(ended) = self.poll_answer(cx) {
                return Poll::Ready(ended);
            }
            loop {
                let until = self.moved + self.bounds.idle;
                if alarm.deadline() != until {
                    alarm.as_mut().reset(until);
                }
                if alarm.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                if self.at_work.is_empty() {
                    return Poll::Ready(Ended::Idle);
                }
                // What is at work ends by itself.
                self.moved = Instant::now();
            }
        })
        .await
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        loop {
            let answered = self.poll_at_work(cx);
            let Ok(wrote) = self.poll_write(cx) else {
                return Poll::Ready(Ended::Broken);
            };
            let Ok(began) = self.begin() else {
                return Poll::Ready(Ended::NoQuery);
            };
            if answered || wrote || began {
                self.moved = Instant::now();
            }
            let Ok(read) = self.poll_read(cx) else {
                return Poll::Ready(Ended::Broken);
            };
            let held = READ_BYTES + self.frames.bytes() + self.out.capacity();
            self.charge.set(held);
            if self.has_read_all && self.at_work.is_empty() && self.out.is_empty() {
                return Poll::Ready(match self.frames.is_empty() {
                    true => Ended::Done,
                    false => Ended::NoQuery,
                });
            }
            if !answered && !wrote && !began && !read {
                return Poll::Pending;
            }
        }
    }

    /// Takes the answers that have come about. Says whether there were any.
    fn poll_at_work(&mut self, cx: &mut Context<'_>) -> bool {
        let before = self.at_work.len();
        let mut place = 0;
        while let Some(work) = self.at_work.get_mut(place) {
            match work.as_mut().poll(cx) {
                Poll::Ready(answer) => {
                    self.at_work.swap_remove(place);
                    self.out.extend(framed(&answer).unwrap_or_default());
                }
                Poll::Pending => place += 1,
            }
        }
        self.at_work.len() < before
    }

    /// Writes what the stream takes of the answers. Says whether it took anything.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Result<bool, ()> {
        let before = self.sent;
        while self.sent < self.out.len() {
            match Pin::new(&mut *self.stream).poll_write(cx, &self.out[self.sent..]) {
                Poll::Ready(Ok(wrote @ 1..)) => self.sent += wrote,
                Poll::Ready(_) => return Err(()),
                Poll::Pending => return Ok(self.sent > before),
            }
        }
        let wrote = self.sent > before;
        if wrote {
            // At rest nothing is held.
            (self.out, self.sent) = (Vec::new(), 0);
            if let Poll::Ready(Err(_)) = Pin::new(&mut *self.stream).poll_flush(cx) {
                return Err(());
            }
        }
        Ok(wrote)
    }

    fn has_place(&self) -> bool {
        self.at_work.len() < self.bounds.at_once && self.out.len() - self.sent < MOST_WAITING
    }

    /// Begins to answer the queries that have come, as far as there are places. Says whether there were any.
    fn begin(&mut self) -> Result<bool, ()> {
        let mut began = false;
        while self.has_place() {
            let Some(message) = self.frames.next_message().map_err(|_| ())? else {
                break;
            };
            began = true;
            match read_query(&message).map_err(|_| ())? {
                Heard::Query(query) => self.at_work.push(Box::pin((self.answer)(query))),
                Heard::Refused(answer) => self.out.extend(framed(&answer).unwrap_or_default()),
            }
        }
        Ok(began)
    }

    /// Reads more, if there is a place for a query. Says whether anything came.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Result<bool, ()> {
        if !self.has_place() || self.has_read_all {
            return Ok(false);
        }
        let mut bytes = [0; READ_BYTES];
        let mut read = ReadBuf::new(&mut bytes);
        match Pin::new(&mut *self.stream).poll_read(cx, &mut read) {
            Poll::Pending => Ok(false),
            Poll::Ready(Err(_)) => Err(()),
            Poll::Ready(Ok(())) => {
                self.has_read_all = read.filled().is_empty();
                self.frames.push(read.filled());
                Ok(true)
            }
        }
    }
}
