//! Answers the queries that come by a stream of bytes: at an exit those of a client, at a client those of a program.
//!
//! Answers go out in the order in which they come about (RFC 7766, section 6.2.1.1). Queries are read only while there
//! is a place for one more, while whoever asks takes the answers, and as fast as a [`Pace`] lets them begin.

use core::future::{Future, poll_fn};
use core::pin::{Pin, pin};
use core::task::{Context, Poll};
use core::time::Duration;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::budget::Charge;
use crate::dns::{Frames, Heard, MOST_QUERY, Query, framed, read_query};
use crate::sync::lock;

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

/// How often queries may begin: a number of them at once, and a number a second in the long run. Conversations that
/// share a pace take turns by it: each has its next query's time before it asks for another.
#[derive(Debug)]
pub struct Pace {
    step: Duration,
    burst: Duration,
    /// When all that has begun will have been made up for.
    even: Mutex<Option<Instant>>,
}

impl Pace {
    /// `burst` queries at once, and `per_second` in the long run; both are 1 at least.
    pub fn new(burst: u32, per_second: u32) -> Self {
        let step = Duration::from_secs(1) / per_second.max(1);
        Self {
            step,
            burst: step * burst.max(1),
            even: Mutex::new(None),
        }
    }

    /// Counts one more query, and says when it may begin: at `now`, or later.
    pub fn next(&self, now: Instant) -> Instant {
        let mut even = lock(&self.even);
        let next = even.map_or(now, |even| even.max(now)) + self.step;
        *even = Some(next);
        // Nothing is due before the clock's own beginning.
        next.checked_sub(self.burst).map_or(now, |due| due.max(now))
    }
}

/// A query that has been read and waits for the time at which it may begin.
struct Next {
    message: Vec<u8>,
    due: Option<Pin<Box<Sleep>>>,
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
    /// The stream is broken, or its answers wait untaken while memory is short.
    Broken,
}

/// A conversation: the queries that come by `S`, which `A` answers.
pub struct Conversation<'s, S, A, F> {
    stream: &'s mut S,
    answer: A,
    bounds: Bounds,
    charge: Charge,
    pace: Option<Arc<Pace>>,
    frames: Frames,
    next: Option<Next>,
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
            pace: None,
            frames: Frames::new(MOST_QUERY),
            next: None,
            at_work: Vec::new(),
            out: Vec::new(),
            sent: 0,
            has_read_all: false,
            moved: Instant::now(),
        }
    }

    /// Begins queries no faster than `pace` lets them. Those that come faster wait, and what is behind them is not read.
    #[must_use]
    pub fn paced(mut self, pace: Arc<Pace>) -> Self {
        self.pace = Some(pace);
        self
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
                if self.at_work.is_empty() && self.next.is_none() {
                    return Poll::Ready(Ended::Idle);
                }
                // What is at work ends by itself, and what waits for its time has one.
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
            let Ok(began) = self.begin(cx) else {
                return Poll::Ready(Ended::NoQuery);
            };
            if answered || wrote || began {
                self.moved = Instant::now();
            }
            let Ok(read) = self.poll_read(cx) else {
                return Poll::Ready(Ended::Broken);
            };
            let next = self.next.as_ref().map_or(0, |next| next.message.len());
            let held = READ_BYTES + self.frames.bytes() + next + self.out.capacity();
            self.charge.set(held);
            // Whoever has asked for much and does not take it goes first, and everybody else keeps his place.
            if self.waiting() > MOST_WAITING && self.charge.budget().is_exceeded() {
                return Poll::Ready(Ended::Broken);
            }
            let has_begun_all = self.has_read_all && self.next.is_none();
            if has_begun_all && self.at_work.is_empty() && self.out.is_empty() {
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
                Poll::Pending => {
                    let wrote = self.sent > before;
                    // Whoever always leaves something untaken must not have all that is gone held. Less is not worth
                    // a move of what waits.
                    if self.sent >= MOST_WAITING {
                        self.out.drain(..self.sent);
                        self.sent = 0;
                    }
                    return Ok(wrote);
                }
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

    /// Bytes of answers that wait to be taken.
    fn waiting(&self) -> usize {
        self.out.len() - self.sent
    }

    fn has_place(&self) -> bool {
        self.at_work.len() < self.bounds.at_once && self.waiting() < MOST_WAITING
    }

    /// Is there a query whose time to begin has come? Takes the next one, if it has all come.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Result<Option<Vec<u8>>, ()> {
        if self.next.is_none() {
            let Some(message) = self.frames.next_message().map_err(|_| ())? else {
                return Ok(None);
            };
            let now = Instant::now();
            let due = self.pace.as_ref().map(|pace| pace.next(now));
            let due = due.filter(|due| *due > now);
            let due = due.map(|due| Box::pin(sleep_until(due)));
            self.next = Some(Next { message, due });
        }
        let due = self.next.as_mut().and_then(|next| next.due.as_mut());
        match due.map(|due| due.as_mut().poll(cx)) {
            Some(Poll::Pending) => Ok(None),
            _ => Ok(self.next.take().map(|next| next.message)),
        }
    }

    /// Begins to answer the queries that have come, as far as there are places. Says whether there were any. An answer
    /// that is known at once counts among those that wait before the next query is begun.
    fn begin(&mut self, cx: &mut Context<'_>) -> Result<bool, ()> {
        let mut began = false;
        while self.has_place() {
            let Some(message) = self.poll_next(cx)? else {
                break;
            };
            began = true;
            match read_query(&message).map_err(|_| ())? {
                Heard::Query(query) => {
                    let mut work = Box::pin((self.answer)(query));
                    match work.as_mut().poll(cx) {
                        Poll::Ready(answer) => self.out.extend(framed(&answer).unwrap_or_default()),
                        Poll::Pending => self.at_work.push(work),
                    }
                }
                Heard::Refused(answer) => self.out.extend(framed(&answer).unwrap_or_default()),
            }
        }
        Ok(began)
    }

    /// Reads more, if there is a place for a query. Says whether anything came.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Result<bool, ()> {
        if !self.has_place() || self.next.is_some() || self.has_read_all {
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;
    use crate::budget::Budget;
    use crate::dns::{Question, RecordType};

    const BOUNDS: Bounds = Bounds {
        at_once: 64,
        idle: Duration::from_secs(30),
    };
    const LONG: usize = 60_000;

    fn query() -> Vec<u8> {
        let question = Question::new("a.example", RecordType::TXT).unwrap();
        framed(&question.to_query(7).unwrap()).unwrap()
    }

    /// What is held while many queries, whose long answers are known at once, have come and `take` bytes of the answers
    /// are taken.
    async fn held(queries: usize, take: usize) -> usize {
        let budget = Budget::unlimited();
        let (mut near, mut far) = duplex(8_192);
        let charge = Charge::none(&budget);
        let talk = tokio::spawn(async move {
            let answer = |_| async { vec![0; LONG] };
            let talk = Conversation::new(&mut near, answer, BOUNDS, charge);
            talk.run(|_, _| Poll::Pending).await
        });
        let (mut reader, mut writer) = tokio::io::split(&mut far);
        let ask = async {
            for _ in 0..queries {
                writer.write_all(&query()).await.unwrap();
            }
        };
        let most = most_used(&budget, take, &mut reader);
        let (most, ()) = tokio::join!(most, ask);
        talk.abort();
        most
    }

    /// The most that is held while `take` bytes are taken, a few at a time.
    async fn most_used(
        budget: &Arc<Budget>,
        take: usize,
        reader: &mut (impl AsyncRead + Unpin),
    ) -> usize {
        let (mut bytes, mut most, mut taken) = ([0; 1_000], 0, 0);
        while taken < take {
            taken += reader.read(&mut bytes).await.unwrap();
            most = most.max(budget.used());
        }
        most
    }

    #[test]
    fn a_pace_lets_so_many_begin_at_once_and_then_one_after_the_other() {
        let (pace, start) = (Pace::new(4, 2), Instant::now() + Duration::from_secs(3_600));
        let dues: Vec<_> = (0..7).map(|_| pace.next(start) - start).collect();
        let half = Duration::from_millis(500);
        assert_eq!(dues, [0, 0, 0, 0, 1, 2, 3].map(|steps| half * steps));
        // The wait is made up for, and a long rest saves up no more than the burst.
        assert_eq!(pace.next(start + 4 * half), start + 4 * half);
        let later = start + Duration::from_secs(60);
        let free = (0..9).filter(|_| pace.next(later) == later).count();
        assert_eq!(free, 4);
        // A clock that goes back is no reason to panic, and brings no gain.
        assert!(pace.next(start) > later);
    }

    /// Two conversations ask `queries` each. Gives how long it takes until all is answered.
    async fn time_of(queries: usize, pace: Option<&Arc<Pace>>) -> Duration {
        let begun = Instant::now();
        let talks = (0..2).map(|_| {
            let pace = pace.cloned();
            let (mut near, mut far) = duplex(1 << 20);
            tokio::spawn(async move {
                for _ in 0..queries {
                    far.write_all(&query()).await.unwrap();
                }
                far.shutdown().await.unwrap();
                let answer = |_| async { vec![7; 20] };
                let charge = Charge::none(&Budget::unlimited());
                let talk = Conversation::new(&mut near, answer, BOUNDS, charge);
                let talk = match pace {
                    Some(pace) => talk.paced(pace),
                    None => talk,
                };
                assert_eq!(talk.run(|_, _| Poll::Pending).await, Ended::Done);
                drop(near);
                let mut all = Vec::new();
                far.read_to_end(&mut all).await.unwrap();
                assert_eq!(all.len(), queries * 22, "each has its answer");
            })
        });
        for talk in talks.collect::<Vec<_>>() {
            talk.await.unwrap();
        }
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn queries_that_come_too_fast_wait_for_their_time_and_none_is_lost() {
        assert_eq!(time_of(600, None).await, Duration::ZERO);
        let pace = Arc::new(Pace::new(200, 10));
        // Of 1,200 together 200 are free.
        let took = time_of(600, Some(&pace)).await;
        let (least, most) = (Duration::from_secs(100), Duration::from_secs(101));
        assert!(least <= took && took < most, "{took:?}");
    }

    #[tokio::test]
    async fn answers_that_nobody_takes_end_the_conversation_when_memory_is_short() {
        for (limit, is_short) in [(usize::MAX, false), (LONG, true)] {
            let budget = Budget::new(limit);
            let (mut near, mut far) = duplex(8_192);
            for _ in 0..8 {
                far.write_all(&query()).await.unwrap();
            }
            let charge = Charge::none(&budget);
            // All are at work before the first answer is there.
            let answer = |_| async {
                tokio::task::yield_now().await;
                vec![0; LONG]
            };
            let talk = Conversation::new(&mut near, answer, BOUNDS, charge);
            let talk = talk.run(|_, _| Poll::Pending);
            let ended = tokio::time::timeout(Duration::from_millis(100), talk).await;
            assert_eq!(ended.ok(), is_short.then_some(Ended::Broken));
            assert_eq!(budget.used(), 0);
        }
    }

    #[tokio::test]
    async fn answers_that_are_known_at_once_wait_within_the_bound() {
        let bound = 3 * (MOST_WAITING + LONG);
        let held = held(64, LONG / 2).await;
        assert!(held < bound, "{held} bytes");
    }

    #[tokio::test]
    async fn who_never_takes_all_has_nothing_held_that_is_gone() {
        let bound = 4 * (MOST_WAITING + LONG);
        let held = held(400, 300 * LONG).await;
        assert!(held < bound, "{held} bytes");
    }
}
