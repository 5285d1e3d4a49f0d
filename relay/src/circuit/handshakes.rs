//! The threads that answer CREATE, so that public-key work keeps no cell waiting (protocol.md 7.2, S9, S10).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use cepa_common::cell::codec::DestroyReason;
use cepa_common::handshake;
use cepa_common::ids::NetworkId;
use cepa_common::net::inbox::Inbox;
use cepa_common::net::queue::TableCommand;
use cepa_common::world::{blocking, random, steady};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::EndContext;
use super::end_hop::{Agreed, EndHop};
use crate::admission::{Job, JobQueue};
use crate::events::{Refusal, RelayEvent, Reporter};
use crate::keys::ring::OnionKeys;

/// Answers CREATEs with this relay's onion keys.
#[derive(Clone)]
pub(crate) struct Responder {
    /// The network, which handshakes are bound to.
    pub(crate) network: NetworkId,
    /// The onion keys accepted now. Reading takes a lock that is held only to copy or to swap a pointer.
    pub(crate) onion_keys: watch::Receiver<OnionKeys>,
    /// What every circuit that begins reaches.
    pub(crate) ends: Arc<EndContext>,
}

/// What does the public-key work of a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workers {
    /// So many threads, so that the work holds up no cell.
    Threads(usize),
    /// Tasks of the runtime, for a simulated world: another thread would end at a moment that no seed decides.
    Tasks {
        /// How many there are.
        number: usize,
        /// How long one handshake takes.
        each: Duration,
    },
}

/// The workers. Dropping the pool stops the workers and the queue that they serve.
pub(crate) struct HandshakePool(Arc<JobQueue>);

impl HandshakePool {
    /// Starts the workers, at least one, which answer CREATEs as `responder` does. Circuits run on the runtime of the
    /// caller.
    ///
    /// # Errors
    /// The system gave no thread.
    pub(crate) fn start(
        workers: Workers,
        jobs: Arc<JobQueue>,
        responder: &Responder,
        events: &Reporter,
    ) -> std::io::Result<Self> {
        let pool = Self(jobs.clone());
        match workers {
            Workers::Threads(threads) => {
                for _ in 0..threads.max(1) {
                    let responder = responder.clone();
                    start_thread(jobs.clone(), events.clone(), move |job| {
                        responder.answer(job);
                    })?;
                }
            }
            Workers::Tasks { number, each } => {
                for _ in 0..number.max(1) {
                    let (jobs, responder) = (jobs.clone(), responder.clone());
                    responder.ends.tasks.clone().spawn(async move {
                        while let Some(job) = jobs.next().await {
                            tokio::time::sleep(each).await;
                            responder.answer(job);
                        }
                    });
                }
            }
        }
        Ok(pool)
    }
}

/// Starts a thread that answers CREATEs until the queue stops. An answer that panics costs its own circuit and nothing
/// else: the thread goes on with the next job, as a new one would.
fn start_thread(
    jobs: Arc<JobQueue>,
    events: Reporter,
    answer: impl Fn(Job) + Send + 'static,
) -> std::io::Result<JoinHandle<()>> {
    let runtime = Handle::current();
    let work = move || {
        let _in_runtime = runtime.enter();
        while let Some(job) = runtime.block_on(jobs.next()) {
            let (link, circ) = (job.link.clone(), job.circ);
            // Nothing that the answer may have left half done is looked at afterwards, but for locks, whose poisoning
            // `cepa_common::sync` handles.
            if catch_unwind(AssertUnwindSafe(|| answer(job))).is_err() {
                let reason = DestroyReason::Resource;
                TableCommand::Close { circ, reason }.send(&link);
                events.report(RelayEvent::HandshakePanicked { times: 1 });
            }
        }
    };
    blocking::thread("cepa-handshake", work)
}

impl Drop for HandshakePool {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl Responder {
    /// Answers one CREATE, and starts the circuit that it makes.
    fn answer(&self, job: Job) {
        let Job {
            link,
            far_side,
            circ,
            message,
            since,
        } = job;
        let params = &self.ends.params;
        let longest = Duration::from_millis(params.get().handshake_max_wait_ms.into());
        if steady::now().saturating_duration_since(since) > longest {
            self.ends.refusals.add(Refusal::CreateLate, 1);
            let reason = DestroyReason::Resource;
            return TableCommand::Close { circ, reason }.send(&link);
        }
        let for_clients = params.for_clients();
        // The handshake works on a copy of the keys, so that a rotation meanwhile takes none away from it.
        let keys = self.onion_keys.borrow().clone();
        let answer = handshake::respond(
            &self.network,
            &self.ends.identity,
            &keys,
            &message,
            for_clients,
            &mut random::rng(),
        );
        let (suite, keys, reply, _) = match answer {
            Ok(answer) => answer,
            Err(error) => {
                // Whatever the error was, the peer hears one and the same reason (S12).
                tracing::debug!(%error, "a CREATE was refused");
                self.ends.refusals.add(Refusal::CreateInvalid, 1);
                let reason = DestroyReason::Protocol;
                return TableCommand::Close { circ, reason }.send(&link);
            }
        };
        let bound_cells = params.queue_bound_cells();
        let inbox = Arc::new(Inbox::new(
            bound_cells,
            &self.ends.memory.of(far_side.party),
        ));
        let end = EndHop::new(
            self.ends.clone(),
            link.clone(),
            far_side,
            circ,
            inbox.clone(),
            Agreed {
                suite,
                keys,
                params: for_clients,
            },
        );
        let reply = Box::new(reply);
        TableCommand::Accept { circ, inbox, reply }.send(&link);
        self.ends.tasks.spawn(end.run());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use cepa_common::budget::Budget;
    use cepa_common::cell::codec::CREATE_LEN;
    use cepa_common::ids::CircId;
    use cepa_common::net::queue::LinkQueue;

    use super::*;
    use crate::admission::{FarSide, Party};

    #[tokio::test]
    async fn a_thread_whose_answer_panics_goes_on_with_the_next_and_says_so() {
        let (jobs, events) = (Arc::new(JobQueue::default()), Reporter::default());
        let mut told = events.subscribe();
        let (answered, mut answers) = tokio::sync::mpsc::channel(2);
        let thread = start_thread(jobs.clone(), events, move |job| {
            assert_ne!(job.circ.get(), 1, "this panic is the test's");
            answered.try_send(job.circ.get()).unwrap();
        });
        let link = Arc::new(LinkQueue::new(8, &Budget::unlimited()));
        for circ in [1, 2] {
            let job = Job {
                link: link.clone(),
                far_side: FarSide {
                    party: Party::Link(link.serial()),
                    link_key: None,
                },
                circ: CircId::new(circ).unwrap(),
                message: Box::new([0; CREATE_LEN]),
                since: steady::now(),
            };
            jobs.submit(job, 8).unwrap();
        }
        assert_eq!(answers.recv().await, Some(2));
        let panicked = RelayEvent::HandshakePanicked { times: 1 };
        assert_eq!(told.next().await, Some(panicked));
        let mut commands = Vec::new();
        link.take_commands(&mut commands);
        let [TableCommand::Close { circ, .. }] = &commands[..] else {
            panic!("the circuit of the job that panicked is closed");
        };
        assert_eq!(circ.get(), 1);
        jobs.stop();
        thread.unwrap().join().unwrap();
    }
}
