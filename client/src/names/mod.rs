//! What exits know of names: addresses, names of addresses, records of all types (docs/protocol.md, 5.40 to 5.45).
//!
//! [`Names`] answers a question from its cache or by a session, which is a stream to the resolver of an exit. Each
//! isolation key has sessions and answers of its own. The client (`client.rs`, `resolve.rs`) asks here for the programs
//! that embed it, and for those that come through the front.
//!
//! Absent from this room on purpose: any resolver of this machine.

mod cache;
mod session;
#[cfg(test)]
mod tests;

use core::future::Future;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use cepa_common::budget::Budget;
use cepa_common::dns::{Answer, Question, ResponseCode, Unasked};
use cepa_common::ids::RelayId;
use cepa_common::net::tasks::Tasks;
use cepa_common::sync::lock;
use cepa_common::world::steady;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::circuit::isolation::Isolation;
use cache::Cache;
use session::{Lost, Session};

/// Keys that have sessions at once. Beyond that, the sessions of the key that has rested longest end.
const MOST_KEYS: usize = 256;

/// Opens streams to the resolvers of exits.
pub(crate) trait Exits: Sync {
    /// The type of streams.
    type Stream: AsyncRead + AsyncWrite + Send + 'static;
    /// Why there is no stream.
    type Error: Send;

    /// Opens a stream for `isolation` at an exit, but not at `avoid`. Says which exit it is.
    fn open(
        &self,
        isolation: &Isolation,
        avoid: Option<RelayId>,
    ) -> impl Future<Output = Result<(Self::Stream, RelayId), Self::Error>> + Send;
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Unanswered<E> {
    /// Nobody may be asked this.
    Unasked(Unasked),
    /// No exit could be asked.
    Exit(E),
    /// Exits were asked, and none answered.
    Silent,
}

/// The sessions of a key. Whoever opens one holds the lock, so that the others share what it gets.
type Sessions = Arc<tokio::sync::Mutex<Vec<Session>>>;

/// What a client knows of names, and whom it asks.
pub(crate) struct Names {
    allow_private: bool,
    tasks: Tasks,
    budget: Arc<Budget>,
    cache: Mutex<Cache>,
    /// The sessions of each key, with the number of the last question of that key.
    sessions: Mutex<HashMap<Isolation, (u64, Sessions)>>,
}

impl Names {
    /// Knows nothing yet. `allow_private` says whether the network is one in which private addresses are told. Sessions
    /// run as `tasks`; what is held is charged to `budget`.
    pub(crate) fn new(allow_private: bool, tasks: Tasks, budget: &Arc<Budget>) -> Self {
        Self {
            allow_private,
            tasks,
            budget: budget.clone(),
            cache: Mutex::new(Cache::new(budget)),
            sessions: Mutex::default(),
        }
    }

    /// What answers are charged to.
    pub(crate) fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// The answer to a question of a key. One that fails, or comes to SERVFAIL, is asked once more, at another exit.
    pub(crate) async fn ask<E: Exits>(
        &self,
        exits: &E,
        isolation: &Isolation,
        question: &Question,
    ) -> Result<Answer, Unanswered<E::Error>> {
        let judged = question.judge(self.allow_private);
        judged.map_err(Unanswered::Unasked)?;
        let known = lock(&self.cache).get(isolation, question, steady::now());
        if let Some(answer) = known {
            return Ok(answer);
        }
        let (first_exit, first) = self.ask_exit(exits, isolation, question, None).await?;
        let answer = match first {
            Ok(answer) if answer.code() != ResponseCode::ServFail => answer,
            first => {
                let again = self.ask_exit(exits, isolation, question, Some(first_exit));
                match (again.await, first) {
                    (Ok((_, Ok(answer))), _) => answer,
                    (_, Ok(answer)) => answer,
                    (Ok((_, Err(Lost))), Err(Lost)) => return Err(Unanswered::Silent),
                    (Err(error), Err(Lost)) => return Err(error),
                }
            }
        };
        if [ResponseCode::NoError, ResponseCode::NXDomain].contains(&answer.code()) {
            let (key, question) = (isolation.clone(), question.clone());
            lock(&self.cache).add(key, question, answer.clone(), steady::now());
        }
        Ok(answer)
    }

    async fn ask_exit<E: Exits>(
        &self,
        exits: &E,
        isolation: &Isolation,
        question: &Question,
        avoid: Option<RelayId>,
    ) -> Result<(RelayId, Result<Answer, Lost>), Unanswered<E::Error>> {
        let sessions = self.sessions_of(isolation);
        let asked = {
            let mut sessions = sessions.lock().await;
            sessions.retain(|session| !session.is_over());
            let fit = sessions.iter().find(|session| Some(session.exit) != avoid);
            match fit {
                Some(session) => session.clone(),
                None => {
                    let opened = exits.open(isolation, avoid).await;
                    let (stream, exit) = opened.map_err(Unanswered::Exit)?;
                    let session =
                        Session::start(stream, exit, self.allow_private, &self.tasks, &self.budget);
                    sessions.push(session.clone());
                    session
                }
            }
        };
        Ok((asked.exit, asked.ask(question.clone()).await))
    }

    /// The sessions of a key, which counts as used last. Keys without sessions are forgotten.
    fn sessions_of(&self, isolation: &Isolation) -> Sessions {
        let mut all = lock(&self.sessions);
        let last = all.values().map(|(used, _)| *used).max().unwrap_or(0);
        if let Some((used, sessions)) = all.get_mut(isolation) {
            *used = last + 1;
            return sessions.clone();
        }
        all.retain(|_, (_, sessions)| {
            let is_over = |sessions: &Vec<Session>| sessions.iter().all(Session::is_over);
            // Whoever holds the lock, or waits for it, is about to ask.
            let is_wanted = Arc::strong_count(sessions) > 1;
            is_wanted || !sessions.try_lock().is_ok_and(|sessions| is_over(&sessions))
        });
        if all.len() >= MOST_KEYS {
            let oldest = all.iter().min_by_key(|(_, (used, _))| *used);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                all.remove(&oldest);
            }
        }
        let sessions = Sessions::default();
        all.insert(isolation.clone(), (last + 1, sessions.clone()));
        sessions
    }
}
