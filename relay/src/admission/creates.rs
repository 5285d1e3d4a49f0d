//! The CREATEs that wait for an answer: bounded queues, served in turns (protocol.md 7.2, S9, S10).
//!
//! Whoever floods may wait for its own flood. Relays and strangers take turns, of each the parties do, and of a party
//! its links. Where too many wait in all, it is the longest queue that loses, so that a link with nothing in the queue
//! always has room for one.
//!
//! The queue is also where a recursion ends: a CREATE makes a circuit, whose EXTEND makes a link, on which CREATEs
//! come. Links only fill the queue and circuits only empty it, so neither room has to call the other.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use cepa_common::cell::codec::{CREATE_LEN, DestroyReason};
use cepa_common::ids::CircId;
use cepa_common::limits::CREATES_WAITING;
use cepa_common::net::queue::{LinkQueue, TableCommand};
use cepa_common::sync::lock;
use tokio::sync::Notify;

use super::party::{FarSide, Party};

/// Of so many turns strangers have one while relays wait too. A circuit of three hops has one CREATE that a client
/// sends, and two that come by relays.
const TURNS_OF_BOTH: u32 = 3;

/// A CREATE that waits for an answer.
pub(crate) struct Job {
    /// The link that the CREATE came in on, where the answer goes.
    pub(crate) link: Arc<LinkQueue>,
    /// Who is at the other end of that link.
    pub(crate) far_side: FarSide,
    /// The peer's circuit.
    pub(crate) circ: CircId,
    /// The client's half of the handshake.
    pub(crate) message: Box<[u8; CREATE_LEN]>,
    /// When the CREATE came.
    pub(crate) since: Instant,
}

/// The jobs of one party. None of its queues is empty.
#[derive(Default)]
struct OfParty {
    /// Jobs by the serial number of their link.
    jobs: HashMap<u64, VecDeque<Job>>,
    /// Links with jobs waiting, in the order of their turns.
    turns: VecDeque<u64>,
    /// The lengths of the queues, with their links.
    lengths: BTreeSet<(usize, u64)>,
    total: usize,
}

impl OfParty {
    fn push(&mut self, job: Job) {
        let link = job.link.serial();
        let jobs = self.jobs.entry(link).or_default();
        if jobs.is_empty() {
            self.turns.push_back(link);
        }
        self.lengths.remove(&(jobs.len(), link));
        jobs.push_back(job);
        self.lengths.insert((jobs.len(), link));
        self.total += 1;
    }

    /// Takes a job out of a link's queue. The last one is taken in the link's turn alone, which ends the turns.
    fn remove(&mut self, link: u64, which: fn(&mut VecDeque<Job>) -> Option<Job>) -> Option<Job> {
        let jobs = self.jobs.get_mut(&link)?;
        self.lengths.remove(&(jobs.len(), link));
        let job = which(jobs);
        if jobs.is_empty() {
            self.jobs.remove(&link);
        } else {
            self.lengths.insert((jobs.len(), link));
        }
        self.total -= usize::from(job.is_some());
        job
    }

    /// Takes the oldest job of the link whose turn it is.
    fn take(&mut self) -> Option<Job> {
        let link = self.turns.pop_front()?;
        let job = self.remove(link, VecDeque::pop_front);
        if self.jobs.contains_key(&link) {
            self.turns.push_back(link);
        }
        job
    }
}

/// The jobs of all relays, or of all others.
#[derive(Default)]
struct OfClass {
    parties: HashMap<Party, OfParty>,
    /// Parties with jobs waiting, in the order of their turns.
    turns: VecDeque<Party>,
    /// How many jobs each party has waiting.
    totals: BTreeSet<(usize, Party)>,
    total: usize,
}

impl OfClass {
    /// Changes the jobs of one party, and keeps count.
    fn with<T>(&mut self, party: Party, change: impl FnOnce(&mut OfParty) -> T) -> T {
        let of_party = self.parties.entry(party).or_default();
        let before = of_party.total;
        let done = change(of_party);
        let after = of_party.total;
        self.total = self.total + after - before;
        self.totals.remove(&(before, party));
        if after == 0 {
            self.parties.remove(&party);
        } else {
            self.totals.insert((after, party));
            if before == 0 {
                self.turns.push_back(party);
            }
        }
        done
    }

    /// Takes a job of the party whose turn it is.
    fn take(&mut self) -> Option<Job> {
        let party = self.turns.pop_front()?;
        let job = self.with(party, OfParty::take);
        if self.parties.contains_key(&party) {
            self.turns.push_back(party);
        }
        job
    }

    /// Takes the newest job of the longest queue of the party that has most waiting, unless each of its links has one
    /// alone.
    ///
    /// It is the newest that loses: whoever sent that one hears at once and can go elsewhere, and nobody has waited in
    /// vain. If the oldest lost, a flood that comes through a relay's link would push out whoever came by that link
    /// before.
    fn take_of_longest(&mut self) -> Option<Job> {
        let (_, party) = *self.totals.last()?;
        let (length, link) = *self.parties.get(&party)?.lengths.last()?;
        if length < 2 {
            return None;
        }
        self.with(party, |of_party| of_party.remove(link, VecDeque::pop_back))
    }
}

#[derive(Default)]
struct Waiting {
    relays: OfClass,
    strangers: OfClass,
    /// Counts the turns.
    turn: u32,
    is_stopped: bool,
}

impl Waiting {
    fn class(&mut self, party: Party) -> &mut OfClass {
        match party {
            Party::Relay(_) => &mut self.relays,
            Party::Site(_) | Party::Link(_) => &mut self.strangers,
        }
    }

    fn total(&self) -> usize {
        self.relays.total + self.strangers.total
    }

    /// How many jobs of this link wait.
    fn of_link(&mut self, party: Party, link: u64) -> usize {
        let of_party = self.class(party).parties.get(&party);
        let jobs = of_party.and_then(|of_party| of_party.jobs.get(&link));
        jobs.map_or(0, VecDeque::len)
    }

    /// Takes the job whose turn it is.
    fn take(&mut self) -> Option<Job> {
        self.turn = (self.turn + 1) % TURNS_OF_BOTH;
        let (first, second) = match self.turn {
            0 => (&mut self.strangers, &mut self.relays),
            _ => (&mut self.relays, &mut self.strangers),
        };
        first.take().or_else(|| second.take())
    }

    /// Takes the job that makes room, of the class that has more waiting.
    fn take_of_longest(&mut self) -> Option<Job> {
        match self.relays.total > self.strangers.total {
            true => self.relays.take_of_longest(),
            false => self.strangers.take_of_longest(),
        }
    }
}

/// The CREATEs that wait for an answer. Links fill the queue, and workers take from it.
#[derive(Default)]
pub(crate) struct JobQueue {
    waiting: Mutex<Waiting>,
    /// Wakes a worker for each job.
    more: Notify,
    /// Jobs that were not taken, or that made room for others.
    refused: AtomicU64,
}

impl JobQueue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        lock(&self.waiting)
    }

    /// How many jobs wait.
    pub(crate) fn waiting(&self) -> usize {
        self.lock().total()
    }

    /// How many jobs were refused, or lost their place, since the start.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Takes a job. `share` is how many jobs of one link may wait. Where too many wait in all, the longest queue loses
    /// its newest job, whose circuit is closed; a job of a link that has none waiting is taken in any case.
    ///
    /// # Errors
    /// The link has too many waiting, or all have and no queue is longer than this link's: the reason for the peer. The
    /// refusal costs no public-key work. After [`JobQueue::stop`] every job is refused.
    pub(crate) fn submit(&self, job: Job, share: usize) -> Result<(), DestroyReason> {
        let (party, link, circ) = (job.far_side.party, job.link.serial(), job.circ);
        let mut guard = self.lock();
        let waiting = &mut *guard;
        if waiting.is_stopped {
            return Err(DestroyReason::Shutdown);
        }
        let ahead = waiting.of_link(party, link);
        if ahead >= share {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(DestroyReason::Resource);
        }
        waiting.class(party).with(party, |jobs| jobs.push(job));
        let mut loser = None;
        if waiting.total() > CREATES_WAITING {
            loser = waiting.take_of_longest();
            if loser.is_none() && ahead > 0 {
                let newest = |jobs: &mut OfParty| jobs.remove(link, VecDeque::pop_back);
                loser = waiting.class(party).with(party, newest);
            }
        }
        drop(guard);
        if loser.is_some() {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        match loser {
            Some(loser) if (loser.link.serial(), loser.circ) == (link, circ) => {
                return Err(DestroyReason::Resource);
            }
            Some(Job { link, circ, .. }) => {
                let reason = DestroyReason::Resource;
                TableCommand::Close { circ, reason }.send(&link);
            }
            None => self.more.notify_one(),
        }
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
    use cepa_common::ids::RelayId;
    use cepa_common::world::steady;

    use super::*;

    fn link() -> Arc<LinkQueue> {
        Arc::new(LinkQueue::new(8, &Budget::unlimited()))
    }

    fn site(n: u8) -> Party {
        Party::of(None, [192, 0, 2, n].into(), 0)
    }

    fn job_of(party: Party, link: &Arc<LinkQueue>, circ: u32) -> Job {
        Job {
            link: link.clone(),
            far_side: FarSide {
                party,
                link_key: None,
            },
            circ: CircId::new(circ).unwrap(),
            message: Box::new([0; CREATE_LEN]),
            since: steady::now(),
        }
    }

    /// A job of a link whose party is the link alone.
    fn job(link: &Arc<LinkQueue>, circ: u32) -> Job {
        job_of(Party::Link(link.serial()), link, circ)
    }

    async fn next(jobs: &JobQueue) -> u32 {
        jobs.next().await.unwrap().circ.get()
    }

    fn closed(link: &LinkQueue) -> Vec<u32> {
        let mut commands = Vec::new();
        link.take_commands(&mut commands);
        let circ = |command| match command {
            TableCommand::Close { circ, reason } => {
                assert_eq!(reason, DestroyReason::Resource);
                circ.get()
            }
            _ => panic!("only refusals are told"),
        };
        commands.into_iter().map(circ).collect()
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
            order.push(next(&jobs).await);
        }
        assert_eq!(order, [1, 9, 2, 3]);
    }

    #[tokio::test]
    async fn who_floods_from_200_links_of_one_address_holds_up_itself_alone() {
        let jobs = JobQueue::default();
        let flood: Vec<_> = (0..200).map(|_| link()).collect();
        let replay = || {
            for link in &flood {
                for circ in 1..=64 {
                    let _ = jobs.submit(job_of(site(1), link, circ), 64);
                }
            }
        };
        replay();
        assert_eq!(jobs.lock().total(), CREATES_WAITING);
        flood.iter().map(|link| closed(link)).for_each(drop);
        let honest: Vec<_> = (0..40).map(|_| link()).collect();
        for (n, link) in (2..).zip(&honest) {
            assert_eq!(jobs.submit(job_of(site(n), link, 1_000), 64), Ok(()));
        }
        assert_eq!(jobs.lock().total(), CREATES_WAITING);
        let lost: Vec<_> = flood.iter().flat_map(|link| closed(link)).collect();
        assert_eq!(lost.len(), honest.len());
        assert!(lost.iter().all(|circ| *circ > 32), "the newest lose");
        // Among the first 41 answers are those of all honest links, whatever comes meanwhile.
        let mut answered = 0;
        for _ in 0..=honest.len() {
            replay();
            answered += usize::from(next(&jobs).await == 1_000);
        }
        assert_eq!(answered, honest.len());
        assert!(honest.iter().all(|link| closed(link).is_empty()));
    }

    #[tokio::test]
    async fn strangers_of_a_thousand_addresses_leave_relays_most_of_the_turns() {
        let jobs = JobQueue::default();
        for n in 0..5_000u16 {
            let [high, low] = n.to_be_bytes();
            let party = Party::of(None, [198, 51, high, low].into(), 0);
            let link = link();
            for circ in 1..=3 {
                let _ = jobs.submit(job_of(party, &link, circ), 64);
            }
        }
        let (party, relay) = (Party::Relay(RelayId([1; 32])), link());
        for circ in 1_001..=1_064 {
            assert_eq!(jobs.submit(job_of(party, &relay, circ), 64), Ok(()));
        }
        let mut answered = 0;
        for _ in 0..96 {
            answered += u32::from(next(&jobs).await > 1_000);
        }
        assert_eq!(answered, 64);
        assert!(closed(&relay).is_empty());
    }

    #[tokio::test]
    async fn each_link_and_all_links_are_bounded() {
        let (jobs, first) = (JobQueue::default(), link());
        for circ in 1..=4 {
            jobs.submit(job(&first, circ), 4).unwrap();
        }
        let refused = Err(DestroyReason::Resource);
        assert_eq!(jobs.submit(job(&first, 5), 4), refused);
        let mut links = vec![first.clone()];
        while jobs.lock().total() < CREATES_WAITING {
            let more = link();
            jobs.submit(job(&more, 1), 4).unwrap();
            links.push(more);
        }
        // One for each link is taken in any case, and a second is not while nobody has more.
        let last = link();
        assert_eq!(jobs.submit(job(&last, 1), 4), Ok(()));
        assert_eq!(closed(&first), [4]);
        for circ in [3, 2] {
            assert_eq!(jobs.submit(job(&link(), 1), 4), Ok(()));
            assert_eq!(closed(&first), [circ]);
        }
        assert_eq!(jobs.submit(job(&link(), 1), 4), Ok(()));
        assert_eq!(jobs.submit(job(&last, 2), 4), refused);
        assert_eq!(jobs.lock().total(), CREATES_WAITING + 1);
        for _ in 0..=CREATES_WAITING {
            jobs.next().await.unwrap();
        }
        let waiting = jobs.lock();
        assert!(waiting.strangers.parties.is_empty() && waiting.strangers.turns.is_empty());
        assert!(waiting.strangers.totals.is_empty() && waiting.total() == 0);
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
