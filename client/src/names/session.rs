//! One stream to the resolver of an exit, shared by all who ask for one isolation key.

use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::Arc;

use cepa_common::budget::{Budget, Charge};
use cepa_common::dns::{Answer, Frames, Question, framed};
use cepa_common::ids::RelayId;
use cepa_common::net::tasks::Tasks;
use cepa_common::world::random;
use rand::Rng;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

/// Queries that wait for their answers at once. An exit works on so many of a stream at a time; one that it does not read
/// could wait longer than this client does.
const MOST_QUERIES: usize = 32;
/// A session ends when nobody has asked for so long.
const IDLE: Duration = Duration::from_secs(60);
/// An exit answers each query within 15 s, and the way takes some. A session ends when it does not.
const PATIENCE: Duration = Duration::from_secs(20);
/// Bytes read at once.
const READ_BYTES: usize = 2_048;
/// What one query takes while it waits (bytes), with its question and whoever waits for it.
const QUERY_BYTES: usize = 1_024;

/// The session has ended before it had an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    /// The question was written, as far as anybody knows.
    Asked,
    /// The question was not written: the session has nothing to say about the exit.
    Unasked,
}

struct Ask {
    question: Question,
    answer: oneshot::Sender<Result<Answer, Lost>>,
}

/// Whoever waits for an answer.
pub(super) struct Answered(oneshot::Receiver<Result<Answer, Lost>>);

impl Answered {
    /// Waits for the exit's answer.
    pub(super) async fn answer(self) -> Result<Answer, Lost> {
        self.0.await.unwrap_or(Err(Lost::Asked))
    }
}

/// The first question of a session. It is written before the stream is open: its answer comes a round trip sooner.
pub(super) struct First {
    id: u16,
    ask: Ask,
    query: Vec<u8>,
}

impl First {
    /// The question, and whoever waits for its answer. `None` if it cannot be written.
    pub(super) fn new(question: Question) -> Option<(Self, Answered)> {
        let id = random_id();
        let query = framed(&question.to_query(id)?)?;
        let (answer, answered) = oneshot::channel();
        let ask = Ask { question, answer };
        Some((Self { id, ask, query }, Answered(answered)))
    }

    /// The query as it stands in a stream.
    pub(super) fn query(&self) -> &[u8] {
        &self.query
    }
}

fn random_id() -> u16 {
    (random::rng().next_u32() >> 16) as u16
}

/// A session, for whoever asks. It ends by itself when nobody has asked for a while, or with the last of these.
#[derive(Clone)]
pub(super) struct Session {
    /// Who answers.
    pub(super) exit: RelayId,
    asks: mpsc::Sender<Ask>,
}

impl Session {
    /// A session by `stream` with `exit`, on which the query of `first` has been written. It takes private addresses out
    /// of answers, unless `allow_private`. What it holds is charged to `budget`.
    pub(super) fn start(
        stream: impl AsyncRead + AsyncWrite + Send + 'static,
        exit: RelayId,
        first: First,
        allow_private: bool,
        tasks: &Tasks,
        budget: &Arc<Budget>,
    ) -> Self {
        let (asks, asked) = mpsc::channel(MOST_QUERIES);
        let talk = Talk {
            allow_private,
            waiting: BTreeMap::from([(first.id, Waiting::new(first.ask))]),
            frames: Frames::new(u16::MAX.into()),
            out: Vec::new(),
            charge: Charge::none(budget),
        };
        tasks.spawn(talk.run(stream, asked));
        Self { exit, asks }
    }

    /// Is nobody to be asked here any more?
    pub(super) fn is_over(&self) -> bool {
        self.asks.is_closed()
    }

    /// The exit's answer to a question.
    pub(super) async fn ask(&self, question: Question) -> Result<Answer, Lost> {
        let (answer, answered) = oneshot::channel();
        let ask = Ask { question, answer };
        self.asks.send(ask).await.map_err(|_| Lost::Unasked)?;
        Answered(answered).answer().await
    }
}

/// A query that waits for its answer. Whoever asked may have gone; the id is in use all the same.
struct Waiting {
    ask: Ask,
    until: Instant,
}

impl Waiting {
    fn new(ask: Ask) -> Self {
        let until = Instant::now() + PATIENCE;
        Self { ask, until }
    }
}

struct Talk {
    allow_private: bool,
    waiting: BTreeMap<u16, Waiting>,
    frames: Frames,
    /// Queries that have not been written yet.
    out: Vec<u8>,
    charge: Charge,
}

impl Talk {
    /// Asks and hears answers until the session ends. All who wait then hear that it has, and those hear so whose
    /// questions have not been written.
    async fn run(mut self, stream: impl AsyncRead + AsyncWrite, mut asked: mpsc::Receiver<Ask>) {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let is_orderly = self.talk(&mut reader, &mut writer, &mut asked).await;
        asked.close();
        while let Ok(ask) = asked.try_recv() {
            let _ = ask.answer.send(Err(Lost::Unasked));
        }
        self.waiting.clear();
        if is_orderly {
            // Nobody waits for what the exit says to it.
            let _ = writer.shutdown().await;
            let mut bytes = [0; READ_BYTES];
            let wait = async { while matches!(reader.read(&mut bytes).await, Ok(1..)) {} };
            let _ = tokio::time::timeout(PATIENCE, wait).await;
        }
    }

    /// Asks and hears answers as long as there is anything to ask. Says whether the session ends in good order.
    async fn talk(
        &mut self,
        reader: &mut (impl AsyncRead + Unpin),
        writer: &mut (impl AsyncWrite + Unpin),
        asked: &mut mpsc::Receiver<Ask>,
    ) -> bool {
        let mut bytes = [0; READ_BYTES];
        let mut idle = Instant::now() + IDLE;
        loop {
            let until = self.waiting.values().map(|query| query.until).min();
            let held = self.waiting.len() * QUERY_BYTES + self.frames.bytes();
            self.charge.set(READ_BYTES + held + self.out.capacity());
            tokio::select! {
                biased;
                wrote = writer.write(&self.out), if !self.out.is_empty() => match wrote {
                    Ok(wrote @ 1..) => drop(self.out.drain(..wrote)),
                    _ => return false,
                },
                read = reader.read(&mut bytes) => {
                    let Ok(read @ 1..) = read else { return false };
                    self.frames.push(&bytes[..read]);
                    if !self.hear() {
                        return false;
                    }
                    idle = Instant::now() + IDLE;
                }
                ask = asked.recv(), if self.waiting.len() < MOST_QUERIES => {
                    let Some(ask) = ask else {
                        // Nobody can ask any more; those who wait still do.
                        self.finish(reader, writer).await;
                        return true;
                    };
                    self.ask(ask);
                    idle = Instant::now() + IDLE;
                }
                () = sleep_until(until.unwrap_or(idle)) => return until.is_none(),
            }
        }
    }

    /// Takes the answers that are still to come when nobody asks any more.
    async fn finish(
        &mut self,
        reader: &mut (impl AsyncRead + Unpin),
        writer: &mut (impl AsyncWrite + Unpin),
    ) {
        let Some(until) = self.waiting.values().map(|query| query.until).max() else {
            return;
        };
        let rest = async {
            let out = core::mem::take(&mut self.out);
            if writer.write_all(&out).await.is_err() {
                return;
            }
            let mut bytes = [0; READ_BYTES];
            while !self.waiting.is_empty() {
                let Ok(read @ 1..) = reader.read(&mut bytes).await else {
                    return;
                };
                self.frames.push(&bytes[..read]);
                if !self.hear() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout_at(until, rest).await;
    }

    /// Writes a query in this client's own words.
    fn ask(&mut self, ask: Ask) {
        // Of 65,536 ids 64 are in use at most.
        let id = loop {
            let id = random_id();
            if !self.waiting.contains_key(&id) {
                break id;
            }
        };
        let query = ask.question.to_query(id);
        let Some(query) = query.as_deref().and_then(framed) else {
            return;
        };
        self.out.extend(query);
        self.waiting.insert(id, Waiting::new(ask));
    }

    /// Gives the answers that have come to those who wait for them. `false` if the exit does not speak as it should.
    fn hear(&mut self) -> bool {
        loop {
            let message = match self.frames.next_message() {
                Ok(Some(message)) => message,
                Ok(None) => return true,
                Err(_) => return false,
            };
            let waiting = Answer::id(&message).and_then(|id| self.waiting.remove(&id));
            let Some(Waiting { ask, .. }) = waiting else {
                return false;
            };
            let Ok(answer) = Answer::read(&message, &ask.question, self.allow_private) else {
                return false;
            };
            // Whoever asked may have gone.
            let _ = ask.answer.send(Ok(answer));
        }
    }
}
