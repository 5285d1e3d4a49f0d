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
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex};

use cepa_common::budget::Budget;
use cepa_common::dns::{Answer, Question, ResponseCode, Unasked, domain_of};
use cepa_common::ids::RelayId;
use cepa_common::net::tasks::Tasks;
use cepa_common::sync::lock;
use cepa_common::world::steady;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, watch};

use crate::circuit::isolation::Isolation;
use cache::Cache;
use session::{First, Lost, Session};

/// Keys that have sessions at once. Beyond that, the sessions of the key that has rested longest end.
const MOST_KEYS: usize = 256;

/// Questions about one domain that a key asks at once. Others wait: a page can name hosts without number that nobody
/// answers for, and what the key asks beside that must not wait behind them.
const OF_DOMAIN: usize = 8;

/// Sessions by which a question is asked of one exit, where they end before they have written it.
const SESSIONS: usize = 3;

/// Opens streams to the resolvers of exits.
pub(crate) trait Exits: Sync {
    /// The type of streams.
    type Stream: AsyncRead + AsyncWrite + Send + 'static;
    /// Why there is no stream.
    type Error: Send;

    /// Opens a stream for `isolation` at an exit, but not at `avoid`, and has `first` said there without a wait for the
    /// exit's word. Says which exit it is.
    fn open(
        &self,
        isolation: &Isolation,
        avoid: Option<RelayId>,
        first: &[u8],
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

/// A question of a key, and where its answer will be told.
type Questions = HashMap<(Isolation, Question), watch::Receiver<Option<Answer>>>;

/// The places of the domains about which a key asks.
type Domains = HashMap<(Isolation, String), Arc<Semaphore>>;

/// The places of a domain, for one who asks about it. They are forgotten with the last who does.
struct OfDomain<'a> {
    domains: &'a Mutex<Domains>,
    key: (Isolation, String),
    places: Arc<Semaphore>,
}

impl Drop for OfDomain<'_> {
    fn drop(&mut self) {
        let mut domains = lock(self.domains);
        // The table holds the places once, and so does each who asks.
        if Arc::strong_count(&self.places) <= 2 {
            domains.remove(&self.key);
        }
    }
}

/// A question that is being asked. Dropping this value says that it is no more.
struct InFlight<'a> {
    questions: &'a Mutex<Questions>,
    key: (Isolation, Question),
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        lock(self.questions).remove(&self.key);
    }
}

/// What a client knows of names, and whom it asks.
pub(crate) struct Names {
    allow_private: bool,
    tasks: Tasks,
    budget: Arc<Budget>,
    cache: Mutex<Cache>,
    /// The sessions of each key, with the number of the last question of that key.
    sessions: Mutex<HashMap<Isolation, (u64, Sessions)>>,
    /// What is being asked, as far as several may wait for one answer.
    in_flight: Mutex<Questions>,
    domains: Mutex<Domains>,
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
            in_flight: Mutex::default(),
            domains: Mutex::default(),
        }
    }

    /// Is the network one in which private addresses are told?
    pub(crate) fn allows_private(&self) -> bool {
        self.allow_private
    }

    /// What sessions run as.
    pub(crate) fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// What answers are charged to.
    pub(crate) fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// The answer to a question of a key. One that fails, or comes to SERVFAIL, is asked once more, at another exit. Whoever
    /// asks what is being asked already waits for the same answer.
    pub(crate) async fn ask<E: Exits>(
        &self,
        exits: &E,
        isolation: &Isolation,
        question: &Question,
    ) -> Result<Answer, Unanswered<E::Error>> {
        let judged = question.judge(self.allow_private);
        judged.map_err(Unanswered::Unasked)?;
        let key = (isolation.clone(), question.clone());
        if let Some(answer) = lock(&self.cache).get(&key.0, &key.1, steady::now()) {
            return Ok(answer);
        }
        let (tell, hear) = watch::channel(None);
        let others = match lock(&self.in_flight).entry(key.clone()) {
            Entry::Occupied(asked) => Some(asked.get().clone()),
            Entry::Vacant(place) => {
                place.insert(hear);
                None
            }
        };
        if let Some(mut others) = others {
            // Who asked first may have given up, or fails: then everybody asks for himself.
            if let Ok(answer) = others.wait_for(Option::is_some).await
                && let Some(answer) = answer.clone()
            {
                return Ok(answer);
            }
            return self.ask_exits(exits, isolation, question).await;
        }
        let _over = InFlight {
            questions: &self.in_flight,
            key,
        };
        let answer = self.ask_exits(exits, isolation, question).await?;
        tell.send_replace(Some(answer.clone()));
        Ok(answer)
    }

    async fn ask_exits<E: Exits>(
        &self,
        exits: &E,
        isolation: &Isolation,
        question: &Question,
    ) -> Result<Answer, Unanswered<E::Error>> {
        let domain = self.domain_of(isolation, question);
        // The turn is over before the places may be forgotten.
        let _turn = domain.places.acquire().await;
        let (first_exit, first) = self.ask_exit(exits, isolation, question, None).await?;
        let answer = match first {
            Ok(answer) if answer.code() != ResponseCode::ServFail => answer,
            first => {
                let again = self.ask_exit(exits, isolation, question, Some(first_exit));
                match (again.await, first) {
                    (Ok((_, Ok(answer))), _) => answer,
                    (_, Ok(answer)) => answer,
                    (Ok((_, Err(_))), Err(_)) => return Err(Unanswered::Silent),
                    (Err(error), Err(_)) => return Err(error),
                }
            }
        };
        if [ResponseCode::NoError, ResponseCode::NXDomain].contains(&answer.code()) {
            let (key, question) = (isolation.clone(), question.clone());
            lock(&self.cache).add(key, question, answer.clone(), steady::now());
        }
        Ok(answer)
    }

    /// The places of the domain that a question of a key is about.
    fn domain_of(&self, isolation: &Isolation, question: &Question) -> OfDomain<'_> {
        let key = (isolation.clone(), domain_of(question.name()).to_owned());
        let places = lock(&self.domains)
            .entry(key.clone())
            .or_insert_with(|| Arc::new(Semaphore::new(OF_DOMAIN)))
            .clone();
        OfDomain {
            domains: &self.domains,
            key,
            places,
        }
    }

    /// Asks one exit. A session that ends before it has written the question says nothing of its exit, and another one
    /// is asked by.
    async fn ask_exit<E: Exits>(
        &self,
        exits: &E,
        isolation: &Isolation,
        question: &Question,
        avoid: Option<RelayId>,
    ) -> Result<(RelayId, Result<Answer, Lost>), Unanswered<E::Error>> {
        let mut tries = 1..=SESSIONS;
        loop {
            let (exit, answer) = self
                .ask_session(exits, isolation, question, avoid)
                .await
                .map_err(Unanswered::Exit)?;
            let has_more = tries.next().is_some();
            if !has_more || answer != Err(Lost::Unasked) {
                return Ok((exit, answer));
            }
        }
    }

    async fn ask_session<E: Exits>(
        &self,
        exits: &E,
        isolation: &Isolation,
        question: &Question,
        avoid: Option<RelayId>,
    ) -> Result<(RelayId, Result<Answer, Lost>), E::Error> {
        let sessions = self.sessions_of(isolation);
        let mut held = sessions.lock().await;
        held.retain(|session| !session.is_over());
        let fit = held.iter().find(|session| Some(session.exit) != avoid);
        if let Some(session) = fit.cloned() {
            drop(held);
            return Ok((session.exit, session.ask(question.clone()).await));
        }
        // Every name that may be asked for can be written.
        let Some((first, answered)) = First::new(question.clone()) else {
            return Ok((RelayId([0; 32]), Err(Lost::Asked)));
        };
        let (stream, exit) = exits.open(isolation, avoid, first.query()).await?;
        let (tasks, budget) = (&self.tasks, &self.budget);
        let session = Session::start(stream, exit, first, self.allow_private, tasks, budget);
        held.push(session);
        drop(held);
        Ok((exit, answered.answer().await))
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
