//! The threads that answer CREATE: a bounded pool with a queue for each link,
//! served in turns (protocol.md 7.2, S9, S10).

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use cepa_common::cell::codec::{CREATE_LEN, DestroyReason};
use cepa_common::handshake;
use cepa_common::ids::{CircId, RelayId};
use cepa_common::limits::CREATES_WAITING;
use cepa_common::net::inbox::Inbox;
use cepa_common::net::queue::{LinkQueue, TableCommand};
use cepa_common::net::switch::{AcceptCircuits, CreateRefusal};
use cepa_common::sync::{self, lock};
use cepa_common::world::{random, steady};
use tokio::runtime::Handle;

use super::end_hop::EndHop;
use crate::link::WeakCore;
use crate::start::Core;

/// Whose CREATEs stand in one queue.
type LinkSerial = usize;

struct Job {
    core: Arc<Core>,
    queue: Arc<LinkQueue>,
    peer: Option<RelayId>,
    circ: CircId,
    message: Box<[u8; CREATE_LEN]>,
    since: Instant,
}

#[derive(Default)]
struct Waiting {
    jobs: HashMap<LinkSerial, VecDeque<Job>>,
    /// Links with jobs waiting, in the order of their turns.
    turns: VecDeque<LinkSerial>,
    total: usize,
    stopped: bool,
}

#[derive(Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    some: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        lock(&self.waiting)
    }

    /// The next job in turn; `None` when the pool has stopped.
    fn next(&self) -> Option<Job> {
        let mut waiting = self.lock();
        loop {
            if waiting.stopped {
                return None;
            }
            if let Some(link) = waiting.turns.pop_front() {
                let jobs = waiting.jobs.get_mut(&link);
                let (job, more) =
                    jobs.map_or((None, false), |jobs| (jobs.pop_front(), !jobs.is_empty()));
                if more {
                    waiting.turns.push_back(link);
                } else {
                    waiting.jobs.remove(&link);
                }
                if let Some(job) = job {
                    waiting.total -= 1;
                    return Some(job);
                }
                continue;
            }
            waiting = sync::wait(&self.some, waiting);
        }
    }
}

/// The pool. Dropping it stops its threads.
pub(crate) struct HandshakePool(Arc<Shared>);

impl HandshakePool {
    /// Starts `threads` threads, at least one. Circuits run on the runtime of the caller.
    pub(crate) fn start(threads: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let pool = Self(shared.clone());
        let runtime = Handle::current();
        for _ in 0..threads.max(1) {
            let (shared, runtime) = (shared.clone(), runtime.clone());
            std::thread::Builder::new()
                .name("cepa-handshake".into())
                .spawn(move || {
                    while let Some(job) = shared.next() {
                        job.run(&runtime);
                    }
                })?;
        }
        Ok(pool)
    }

    /// Takes a job, unless its link or all links have too many waiting: that
    /// refusal costs no public-key work.
    fn submit(&self, job: Job) -> Result<(), DestroyReason> {
        let link = Arc::as_ptr(&job.queue).addr();
        let share = job.core.params().handshake_queue_per_link as usize;
        let mut guard = self.0.lock();
        let waiting = &mut *guard;
        let ahead = waiting.jobs.get(&link).map_or(0, VecDeque::len);
        if ahead >= share || waiting.total >= CREATES_WAITING {
            return Err(DestroyReason::Resource);
        }
        let jobs = waiting.jobs.entry(link).or_default();
        if jobs.is_empty() {
            waiting.turns.push_back(link);
        }
        jobs.push_back(job);
        waiting.total += 1;
        drop(guard);
        self.0.some.notify_one();
        Ok(())
    }
}

impl Drop for HandshakePool {
    fn drop(&mut self) {
        let mut waiting = self.0.lock();
        waiting.stopped = true;
        waiting.jobs.clear();
        waiting.turns.clear();
        drop(waiting);
        self.0.some.notify_all();
    }
}

impl Job {
    fn run(self, runtime: &Handle) {
        let circ = self.circ;
        let longest = Duration::from_millis(self.core.params().handshake_max_wait_ms.into());
        if self.since.elapsed() > longest {
            TableCommand::Close {
                circ,
                reason: DestroyReason::Resource,
            }
            .send(&self.queue);
            return;
        }
        let params = self.core.relay_params();
        // A snapshot: a rotation meanwhile takes nothing away from this handshake.
        let keys = self.core.onion_keys.borrow().clone();
        let answer = handshake::respond(
            &self.core.network,
            &self.core.identity,
            &keys,
            &self.message,
            params,
            &mut random::rng(),
        );
        let (suite, keys, reply, _) = match answer {
            Ok(answer) => answer,
            Err(error) => {
                // One reason for the peer, whatever it was (S12).
                tracing::debug!(%error, "a CREATE was refused");
                TableCommand::Close {
                    circ,
                    reason: DestroyReason::Protocol,
                }
                .send(&self.queue);
                return;
            }
        };
        let inbox = Arc::new(Inbox::new(self.core.queue_bound_cells(), &self.core.budget));
        let end = EndHop::new(
            self.core.clone(),
            self.queue.clone(),
            self.peer,
            circ,
            inbox.clone(),
            (suite, keys, params),
        );
        let accept = TableCommand::Accept {
            circ,
            inbox,
            reply: Box::new(reply),
        };
        if let Some(tasks) = self.core.tasks() {
            accept.send(&self.queue);
            let _in_runtime = runtime.enter();
            tasks.spawn(end.run());
        }
    }
}

/// Hands one link's CREATEs to the pool.
pub(crate) struct Acceptor {
    core: WeakCore,
    queue: Arc<LinkQueue>,
    peer: Option<RelayId>,
}

impl Acceptor {
    pub(crate) fn new(core: WeakCore, queue: Arc<LinkQueue>, peer: Option<RelayId>) -> Self {
        Self { core, queue, peer }
    }
}

impl AcceptCircuits for Acceptor {
    fn on_create(&mut self, circ: CircId, message: &[u8; CREATE_LEN]) -> Result<(), CreateRefusal> {
        let core = self
            .core
            .upgrade()
            .ok_or(CreateRefusal::Destroy(DestroyReason::Shutdown))?;
        let pool = core.clone();
        let job = Job {
            core,
            queue: self.queue.clone(),
            peer: self.peer,
            circ,
            message: Box::new(*message),
            since: steady::now(),
        };
        pool.pool.submit(job).map_err(CreateRefusal::Destroy)
    }
}
