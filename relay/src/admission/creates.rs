//! The CREATEs that wait for an answer: a bounded queue for each link, served in turns (protocol.md 7.2, S9, S10).
//!
//! The queue is also where a recursion ends: a CREATE makes a circuit, whose EXTEND makes a link, on which CREATEs
//! come. Links only fill the queue and circuits only empty it, so neither room has to call the other.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use cepa_common::cell::codec::{CREATE_LEN, DestroyReason};
use cepa_common::ids::{CircId, RelayId};
use cepa_common::limits::CREATES_WAITING;
use cepa_common::net::queue::LinkQueue;
use cepa_common::sync::lock;
use tokio::sync::Notify;

/// A CREATE that waits for an answer.
pub(crate) struct Job {
    /// The link that the CREATE came in on, where the answer goes.
    pub(crate) link: Arc<LinkQueue>,
    /// The relay at the link's far side, if a relay is there.
    pub(crate) peer: Option<RelayId>,
    /// The peer's circuit.
    pub(crate) circ: CircId,
    /// The client's half of the handshake.
    pub(crate) message: Box<[u8; CREATE_LEN]>,
    /// When the CREATE came.
    pub(crate) since: Instant,
}

#[derive(Default)]
struct Waiting {
    /// Jobs by the serial number of their link.
    jobs: HashMap<u64, VecDeque<Job>>,
    /// Links with jobs waiting, in the order of their turns.
    turns: VecDeque<u64>,
    total: usize,
    is_stopped: bool,
}

impl Waiting {
    /// Takes a job of the link whose turn it is.
    fn take(&mut self) -> Option<Job> {
        let link = self.turns.pop_front()?;
        let jobs = self.jobs.get_mut(&link)?;
        let job = jobs.pop_front();
        if jobs.is_empty() {
            self.jobs.remove(&link);
        } else {
            self.turns.push_back(link);
        }
        self.total -= usize::from(job.is_some());
        job
    }
}

/// The CREATEs that wait for an answer. Links fill the queue, and workers take from it.
#[derive(Default)]
pub(crate) struct JobQueue {
    waiting: Mutex<Waiting>,
    /// Wakes a worker for each job.
    more: Notify,
}

impl JobQueue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        lock(&self.waiting)
    }

    /// Takes a job. `share` is how many jobs of one link may wait.
    ///
    /// # Errors
    /// The reason to tell the peer, if the link or all links together have too many jobs waiting. The refusal costs no
    /// public-key work. After [`JobQueue::stop`] every job is refused.
    pub(crate) fn submit(&self, job: Job, share: usize) -> Result<(), DestroyReason> {
        let link = job.link.serial();
        let mut guard = self.lock();
        let waiting = &mut *guard;
        if waiting.is_stopped {
            return Err(DestroyReason::Shutdown);
        }
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
        self.more.notify_one();
        Ok(())
    }

    /// Waits for the job whose turn it is. `None` when the queue has stopped. A worker that is a thread blocks on this
    /// future.
    pub(crate) async fn next(&self) -> Option<Job> {
        loop {
            let mut more = std::pin::pin!(self.more.notified());
            // The worker begins to wait before it looks, so that a job which comes between the two wakes this worker
            // and no other.
            more.as_mut().enable();
            {
                let mut waiting = self.lock();
                if waiting.is_stopped {
                    return None;
                }
                if let Some(job) = waiting.take() {
                    return Some(job);
                }
            }
            more.await;
        }
    }

    /// Drops the jobs that wait, refuses all further ones, and ends the wait of every worker.
    pub(crate) fn stop(&self) {
        let mut waiting = self.lock();
        *waiting = Waiting {
            is_stopped: true,
            ..Waiting::default()
        };
        drop(waiting);
        self.more.notify_waiters();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use cepa_common::budget::Budget;
    use cepa_common::world::steady;

    use super::*;

    fn link() -> Arc<LinkQueue> {
        Arc::new(LinkQueue::new(8, &Budget::unlimited()))
    }

    fn job(link: &Arc<LinkQueue>, circ: u32) -> Job {
        Job {
            link: link.clone(),
            peer: None,
            circ: CircId::new(circ).unwrap(),
            message: Box::new([0; CREATE_LEN]),
            since: steady::now(),
        }
    }

    #[tokio::test]
    async fn links_take_turns_however_many_creates_one_sends() {
        let (jobs, flood, quiet) = (JobQueue::default(), link(), link());
        for circ in 1..=3 {
            jobs.submit(job(&flood, circ), 8).unwrap();
        }
        jobs.submit(job(&quiet, 9), 8).unwrap();
        let mut order = Vec::new();
        for _ in 0..4 {
            order.push(jobs.next().await.unwrap().circ.get());
        }
        assert_eq!(order, [1, 9, 2, 3]);
    }

    #[tokio::test]
    async fn each_link_and_all_links_are_bounded() {
        let (jobs, first) = (JobQueue::default(), link());
        for circ in 1..=4 {
            jobs.submit(job(&first, circ), 4).unwrap();
        }
        let refused = Err(DestroyReason::Resource);
        assert_eq!(jobs.submit(job(&first, 5), 4), refused);
        let mut held = 4;
        while held < CREATES_WAITING {
            jobs.submit(job(&link(), 1), 4).unwrap();
            held += 1;
        }
        assert_eq!(jobs.submit(job(&link(), 1), 4), refused);
        jobs.next().await.unwrap();
        assert_eq!(jobs.submit(job(&link(), 1), 4), Ok(()));
    }

    #[tokio::test]
    async fn each_of_several_waiting_workers_gets_a_job() {
        let (jobs, first) = (Arc::new(JobQueue::default()), link());
        let waiting = [(); 3].map(|()| {
            let jobs = jobs.clone();
            tokio::spawn(async move { jobs.next().await.is_some() })
        });
        tokio::task::yield_now().await;
        for circ in 1..=3 {
            jobs.submit(job(&first, circ), 8).unwrap();
        }
        for worker in waiting {
            assert!(worker.await.unwrap());
        }
    }

    #[tokio::test]
    async fn a_stop_ends_every_wait_and_takes_nothing_more() {
        let jobs = Arc::new(JobQueue::default());
        let (waiting, runtime) = (jobs.clone(), tokio::runtime::Handle::current());
        let thread = std::thread::spawn(move || runtime.block_on(waiting.next()).is_none());
        let waiting = jobs.clone();
        let task = tokio::spawn(async move { waiting.next().await.is_none() });
        tokio::task::yield_now().await;
        jobs.stop();
        assert!(thread.join().unwrap() && task.await.unwrap());
        let refused = Err(DestroyReason::Shutdown);
        assert_eq!(jobs.submit(job(&link(), 1), 4), refused);
        assert!(jobs.next().await.is_none());
    }
}
