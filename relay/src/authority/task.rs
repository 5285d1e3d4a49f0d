//! The driver of an authority: owns the machine, dials, sends, and hands consensuses to the directory server.

use core::pin::Pin;
use core::time::Duration;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use cepa_common::dir::{
    Clock, ConsensusSignature, Dial, DirRequest, FetchError, SignedDescriptor, SignedVote, Signer,
    upload,
};
use cepa_common::ids::RelayId;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::knowledge::Learning;
use super::{
    Action, Authority, AuthorityConfig, AuthorityError, KnowledgeOptions, Probe, SigningRecord,
};
use crate::directory::DirectoryServer;

/// Descriptors waiting for the machine; the next uploader is told to come again.
const DESCRIPTOR_QUEUE: usize = 64;
/// Votes and signatures waiting for the machine: only authorities' own get here, so that no flood of descriptors can
/// keep a vote out. A vote is up to 16 MiB.
const AUTHORITY_QUEUE: usize = 16;
/// Dials to relays at once.
const MAX_PROBES: usize = 64;
/// Longest dial to one relay.
const PROBE_DEADLINE: Duration = Duration::from_secs(10);
/// Wait before a vote or signature is sent again.
const RESEND_AFTER: Duration = Duration::from_millis(100);

/// A dial that is under way; `true` when the relay proved its key at every address.
pub type ProbeFuture = Pin<Box<dyn Future<Output = bool> + Send>>;

/// Finds out whether a relay answers, with its link key, at every address.
pub trait ReachabilityProbe: Send + Sync {
    /// Dials the relay. The caller sets a deadline.
    fn probe(&self, probe: &Probe) -> ProbeFuture;
}

/// A [`Dial`] probes address by address.
impl<D: Dial + ?Sized> ReachabilityProbe for Arc<D> {
    fn probe(&self, probe: &Probe) -> ProbeFuture {
        let dials: Vec<_> = probe
            .addresses
            .iter()
            .map(|address| self.dial(&[*address], probe.link_key))
            .collect();
        Box::pin(async move {
            for dial in dials {
                if dial.await.is_err() {
                    return false;
                }
            }
            true
        })
    }
}

/// Why an upload came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// The authority refused it.
    #[error(transparent)]
    Refused(#[from] AuthorityError),
    /// The authority has more to do than it can hold; try later.
    #[error("authority is busy")]
    Busy,
    /// The authority has stopped.
    #[error("authority has stopped")]
    Stopped,
}

/// What is submitted, its signatures verified: that is the connection's work and not the machine's.
#[derive(Debug)]
pub(crate) enum Submission {
    Descriptor(Box<SignedDescriptor>),
    Vote(Box<SignedVote>),
    Signature(Box<ConsensusSignature>),
}

type Reply = oneshot::Sender<Result<(), AuthorityError>>;

/// Gives documents to a running authority.
#[derive(Clone, Debug)]
pub struct AuthorityHandle {
    descriptors: mpsc::Sender<(Submission, Reply)>,
    authorities: mpsc::Sender<(Submission, Reply)>,
}

/// The other end of an [`AuthorityHandle`], for [`run`].
#[derive(Debug)]
pub struct AuthorityQueue {
    descriptors: mpsc::Receiver<(Submission, Reply)>,
    authorities: mpsc::Receiver<(Submission, Reply)>,
}

/// A handle and its queue.
pub fn authority_queue() -> (AuthorityHandle, AuthorityQueue) {
    let (descriptors, descriptors_out) = mpsc::channel(DESCRIPTOR_QUEUE);
    let (authorities, authorities_out) = mpsc::channel(AUTHORITY_QUEUE);
    let queue = AuthorityQueue {
        descriptors: descriptors_out,
        authorities: authorities_out,
    };
    (
        AuthorityHandle {
            descriptors,
            authorities,
        },
        queue,
    )
}

impl AuthorityHandle {
    /// Publishes a descriptor at this authority without a connection: for the relay in the same process.
    ///
    /// # Errors
    /// [`SubmitError`].
    pub async fn submit_descriptor(&self, signed: SignedDescriptor) -> Result<(), SubmitError> {
        self.submit(Submission::Descriptor(Box::new(signed))).await
    }

    pub(crate) async fn submit(&self, submission: Submission) -> Result<(), SubmitError> {
        let (reply, answer) = oneshot::channel();
        let queue = match submission {
            Submission::Descriptor(_) => &self.descriptors,
            Submission::Vote(_) | Submission::Signature(_) => &self.authorities,
        };
        queue
            .try_send((submission, reply))
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => SubmitError::Busy,
                mpsc::error::TrySendError::Closed(_) => SubmitError::Stopped,
            })?;
        Ok(answer.await.map_err(|_| SubmitError::Stopped)??)
    }
}

/// All that [`run`] needs.
pub struct AuthorityTask {
    /// Who this authority is.
    pub identity: RelayId,
    /// Signs its votes and consensuses.
    pub signing_key: Signer,
    /// Gives the key that takes its place, when there is one (a certified key is renewed).
    pub renewals: Option<watch::Receiver<Signer>>,
    /// Parameters that it votes for, over those of `network.toml`.
    pub params: BTreeMap<String, u32>,
    /// Opens connections to the other authorities.
    pub dial: Arc<dyn Dial>,
    /// Dials relays before they are listed; without it every relay is.
    pub probe: Option<Arc<dyn ReachabilityProbe>>,
    /// Where consensuses are served; made with the handle of the queue given to [`run`].
    pub directory: Arc<DirectoryServer>,
    /// What was signed, on disk.
    pub record: Arc<dyn SigningRecord>,
    /// How it learns of relays.
    pub knowledge: KnowledgeOptions,
}

/// Runs an authority until its handles are gone. Dropping the future stops all that it started.
///
/// # Errors
/// When the record cannot be read: without it the authority might sign twice for one time.
pub async fn run(task: AuthorityTask, mut queue: AuthorityQueue) -> io::Result<()> {
    let record = Arc::clone(&task.record);
    let last = tokio::task::spawn_blocking(move || record.last()).await;
    let config = AuthorityConfig {
        network: task.directory.networks().at(task.clock().now_secs()),
        identity: task.identity,
        signing_key: task.signing_key.clone(),
        params: task.params.clone(),
        last_signed: last.map_err(io::Error::other)??,
        probes: task.probe.is_some(),
    };
    let authority = Authority::new(config, task.clock().now_ms());
    let mut authority = Learning::begin(authority, &task.knowledge).await;
    let mut probes: JoinSet<(Probe, bool)> = JoinSet::new();
    let mut sends: JoinSet<()> = JoinSet::new();
    let mut waiting: Vec<Probe> = Vec::new();
    loop {
        task.renew(&mut authority);
        let now_ms = task.clock().now_ms();
        let actions = authority.poll(now_ms);
        task.perform(actions, &mut authority, &mut sends, &mut waiting)
            .await;
        while probes.len() < MAX_PROBES
            && let Some(probe) = waiting.pop()
        {
            task.start_probe(probe, &mut probes);
        }
        authority.work(task.clock().now_ms()).await;
        let now_ms = task.clock().now_ms();
        let wait = authority
            .next_wake_ms(now_ms)
            .saturating_sub(now_ms)
            .min(authority.next_work_in_ms().unwrap_or(u64::MAX))
            // Histories want to be looked at every minute.
            .clamp(1, 60_000);
        tokio::select! {
            submitted = queue.authorities.recv() => {
                let Some((submission, reply)) = submitted else { return Ok(()) };
                let _ = reply.send(task.take(&mut authority, submission));
            }
            Some((submission, reply)) = queue.descriptors.recv() => {
                let _ = reply.send(task.take(&mut authority, submission));
            }
            Some(Ok((probe, reached))) = probes.join_next() => {
                authority.on_probe(&probe, reached, task.clock().now_ms());
            }
            (job, results) = authority.measured() => {
                authority.on_measured(&job, &results, task.clock().now_ms(), &mut rand::rng());
            }
            Some(_) = sends.join_next() => {}
            () = tokio::time::sleep(Duration::from_millis(wait)) => {}
        }
    }
}

impl AuthorityTask {
    /// Gives the machine what may have changed: the network's file and the signing key.
    fn renew(&self, authority: &mut Authority) {
        authority.set_revisions(self.directory.networks().revisions());
        if let Some(renewals) = &self.renewals {
            authority.set_signing_key(renewals.borrow().clone());
        }
    }

    fn clock(&self) -> &Clock {
        self.directory.clock()
    }

    fn take(
        &self,
        authority: &mut Authority,
        submission: Submission,
    ) -> Result<(), AuthorityError> {
        let now_ms = self.clock().now_ms();
        let result = match submission {
            Submission::Descriptor(signed) => authority.on_descriptor(*signed, now_ms),
            Submission::Vote(signed) => authority.on_vote(*signed, now_ms),
            Submission::Signature(signed) => authority.on_signature(*signed, now_ms),
        };
        if let Err(error) = &result {
            tracing::debug!(%error, "submission refused");
        }
        result
    }

    async fn perform(
        &self,
        actions: Vec<Action>,
        authority: &mut Authority,
        sends: &mut JoinSet<()>,
        waiting: &mut Vec<Probe>,
    ) {
        for action in actions {
            match action {
                Action::Probe(probe) => waiting.push(probe),
                Action::SendVote(bytes) => self.send(sends, DirRequest::send_vote(bytes)),
                Action::SendSignature(bytes) => self.send(sends, DirRequest::send_signature(bytes)),
                Action::RecordSigned {
                    valid_after,
                    digest,
                } => {
                    let record = Arc::clone(&self.record);
                    let write = move || record.record(valid_after, digest);
                    let written = tokio::task::spawn_blocking(write).await;
                    if !matches!(written, Ok(Ok(()))) {
                        // Not on disk, so after a crash it could be signed otherwise: it must not leave.
                        tracing::error!("signing record not written; this consensus goes unsigned");
                        authority.withdraw_signature();
                        return;
                    }
                }
                Action::Publish(consensus) => {
                    let entries = consensus.entries().len();
                    match self.directory.offer(consensus) {
                        Ok(_) => tracing::info!(entries, "consensus published"),
                        Err(error) => tracing::error!(%error, "own consensus refused"),
                    }
                }
            }
        }
    }

    fn start_probe(&self, probe: Probe, probes: &mut JoinSet<(Probe, bool)>) {
        let Some(prober) = &self.probe else { return };
        let dial = prober.probe(&probe);
        probes.spawn(async move {
            let reached = tokio::time::timeout(PROBE_DEADLINE, dial)
                .await
                .unwrap_or(false);
            (probe, reached)
        });
    }

    /// Sends a document to every other authority, each in its own task: a dead one holds up none.
    fn send(&self, sends: &mut JoinSet<()>, request: DirRequest) {
        let network = self.directory.network();
        // What takes longer than half an interval comes too late anyhow.
        let seconds = u64::from(network.params().vote_interval_seconds);
        let deadline = Duration::from_millis((seconds * 500).clamp(500, 60_000));
        // Those of a revision that is about to count too; they refuse what is not for them.
        let now = self.clock().now_secs();
        let peers = self.directory.networks().revisions().authorities(now);
        for peer in peers.iter().filter(|a| a.identity != self.identity) {
            let (dial, request) = (Arc::clone(&self.dial), request.clone());
            let (addresses, key) = (peer.addresses.clone(), peer.identity.0);
            let name = peer.name.clone();
            sends.spawn(async move {
                let send = send_until_answered(dial, &addresses, key, request, deadline);
                if tokio::time::timeout(deadline, send).await.is_err() {
                    tracing::debug!(authority = name, "not reached in time");
                }
            });
        }
    }
}

async fn send_until_answered(
    dial: Arc<dyn Dial>,
    addresses: &[std::net::SocketAddr],
    link_key: [u8; 32],
    request: DirRequest,
    deadline: Duration,
) {
    loop {
        let attempt = async {
            let io = dial.dial(addresses, link_key).await?;
            upload(io, request.clone(), deadline).await
        };
        match attempt.await {
            Ok(()) => return,
            // An answer is an answer, but for "busy".
            Err(FetchError::Refused { status, text }) if status != 503 => {
                tracing::debug!(status, text, "authority refused a document");
                return;
            }
            Err(_) => tokio::time::sleep(RESEND_AFTER).await,
        }
    }
}
