//! The driver of an authority: it owns the machine, dials, sends, and hands consensuses to the directory server.

use core::pin::Pin;
use core::time::Duration;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use cepa_common::dir::{Consensus, Forward, Signer, StoreError};
use cepa_common::ids::RelayId;
use cepa_common::net::directory::{
    Dial, DirRequest, DirStream, FetchError, NetworkHandle, offer_vote, upload,
};
use cepa_common::world::Clock;
use cepa_common::world::{blocking, random};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::handle::{AuthorityQueue, Submission};
use super::knowledge::Learning;
use super::relays::MAX_PROBES;
use super::{
    Action, Authority, AuthorityConfig, AuthorityError, KnowledgeOptions, Probe, SigningRecord,
    Word,
};
use crate::events::{AuthorityEvent, AuthorityFailure, Reporter};

/// The longest time that a dial to one relay may take.
const PROBE_DEADLINE: Duration = Duration::from_secs(10);
/// The wait before a vote or signature is sent again.
const RESEND_AFTER: Duration = Duration::from_millis(100);

/// A look at a relay that is under way. The future yields `true` if the relay runs at every address.
pub type ProbeFuture = Pin<Box<dyn Future<Output = bool> + Send>>;

/// Finds out whether a relay runs: whether it takes a link by its link key at every address, and answers CREATE there
/// (protocol.md 6.13.2).
pub trait ReachabilityProbe: Send + Sync {
    /// Looks at the relay. The caller sets a deadline.
    fn probe(&self, probe: &Probe) -> ProbeFuture;
}

/// A [`Dial`] sees only whether a relay proves its link key at each address. This is for those who have no links, as in
/// tests of authorities whose relays are not there.
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

/// Takes the consensuses that an authority makes, and serves them.
pub trait Serve: Send + Sync {
    /// Takes a verified consensus.
    ///
    /// # Errors
    /// [`StoreError`] if the consensus is not taken.
    fn serve(&self, consensus: Arc<Consensus>) -> Result<(), StoreError>;

    /// The newest consensus that is served.
    fn newest(&self) -> Option<Arc<Consensus>>;
}

/// The seat of an authority in its relay: all that the authority knows of the relay's directory server. That server was
/// made with the handle of the queue that is given to [`run`], and it gives the seat.
#[derive(Clone)]
pub struct Seat {
    /// The network as it is known now.
    pub network: NetworkHandle,
    /// The time.
    pub clock: Clock,
    /// Hears what happens.
    pub events: Reporter,
    /// Serves consensuses.
    pub server: Arc<dyn Serve>,
}

/// Everything that [`run`] needs.
pub struct AuthorityTask {
    /// Identity of the authority.
    pub identity: RelayId,
    /// Key that signs the authority's votes and consensuses.
    pub signing_key: Signer,
    /// Yields the key that replaces the signing key, when there is one (a certified key is renewed).
    pub renewals: Option<watch::Receiver<Signer>>,
    /// Yields what the operator says of relays, beginning with what `knowledge` has of it.
    pub word: Option<watch::Receiver<Word>>,
    /// Parameters that the authority votes for, in place of those of `network.toml`.
    pub params: BTreeMap<String, u32>,
    /// Opens connections to the other authorities.
    pub dial: Arc<dyn Dial>,
    /// Dials relays before they are listed. Without it, every relay is listed.
    pub probe: Option<Arc<dyn ReachabilityProbe>>,
    /// Where the authority's consensuses go, and what it has in common with those who serve them.
    pub seat: Seat,
    /// The record of what was signed, on disk.
    pub record: Arc<dyn SigningRecord>,
    /// How the authority learns about relays.
    pub knowledge: KnowledgeOptions,
}

/// Runs an authority until its handles are gone. Dropping the future stops everything that it started.
///
/// # Errors
/// An error if the record cannot be read: without the record the authority might sign twice for one time.
pub async fn run(mut task: AuthorityTask, mut queue: AuthorityQueue) -> io::Result<()> {
    let mut word = task.word.take();
    let record = Arc::clone(&task.record);
    let last = blocking::run(move || record.last()).await;
    let config = AuthorityConfig {
        network: task.seat.network.at(task.clock().now_secs()),
        identity: task.identity,
        signing_key: task.signing_key.clone(),
        params: task.params.clone(),
        last_signed: last.map_err(io::Error::other)??,
        probes: task.probe.is_some(),
    };
    let authority = Authority::new(config, task.clock().now_ms());
    let authority = authority.with_cache(Arc::clone(&queue.cache));
    let events = task.events().clone();
    let network = task.seat.network.newest().network_id();
    let now_ms = task.clock().now_ms();
    let mut learning = Learning::begin(authority, &task.knowledge, events, network, now_ms).await;
    let mut probes: JoinSet<(Probe, bool)> = JoinSet::new();
    let mut sends: JoinSet<()> = JoinSet::new();
    let mut waiting: Vec<Probe> = Vec::new();
    loop {
        task.renew(&mut learning.authority);
        learning.authority.set_newest(task.seat.server.newest());
        let now_ms = task.clock().now_ms();
        let actions = learning.authority.poll(now_ms);
        for event in learning.authority.take_news() {
            task.events().report(event);
        }
        if !actions.is_empty() || !queue.is_shown(&learning.authority) {
            queue.show(&learning.authority, now_ms);
        }
        task.perform(actions, &mut learning.authority, &mut sends, &mut waiting)
            .await;
        while probes.len() < MAX_PROBES
            && let Some(probe) = waiting.pop()
        {
            task.start_probe(probe, &mut probes);
        }
        learning.work(task.clock().now_ms()).await;
        let now_ms = task.clock().now_ms();
        let wait = learning
            .authority
            .next_wake_ms(now_ms)
            .saturating_sub(now_ms)
            .min(learning.next_work_in_ms().unwrap_or(u64::MAX))
            // Histories must be advanced every minute.
            .clamp(1, 60_000);
        tokio::select! {
            submitted = queue.authorities.recv() => {
                let Some((submission, reply)) = submitted else { return Ok(()) };
                let answer = task.take(&mut learning.authority, submission);
                queue.show(&learning.authority, task.clock().now_ms());
                let _ = reply.send(answer);
            }
            // Who asks how the authority does may have gone meanwhile.
            Some(asked) = queue.asks.recv() => {
                let _ = asked.send(learning.authority.snapshot(task.clock().now_ms()));
            }
            Some((submission, reply)) = queue.descriptors.recv() => {
                let _ = reply.send(task.take(&mut learning.authority, submission));
            }
            Some(Ok((probe, reached))) = probes.join_next() => {
                learning.authority.on_probe(&probe, reached, task.clock().now_ms());
            }
            (job, results) = learning.measured() => {
                learning.authority.on_measured(&job, &results, task.clock().now_ms(), &mut random::rng());
            }
            Some(_) = sends.join_next() => {}
            Some(word) = said(&mut word) => {
                learning.authority.set_knowledge(word.rules, word.mib_per_hour);
            }
            () = tokio::time::sleep(Duration::from_millis(wait)) => {}
        }
    }
}

/// What the operator says when that has changed; `None` if nobody says anything any more.
async fn said(word: &mut Option<watch::Receiver<Word>>) -> Option<Word> {
    let receiver = word.as_mut()?;
    if receiver.changed().await.is_err() {
        *word = None;
        return None;
    }
    Some(receiver.borrow_and_update().clone())
}

impl AuthorityTask {
    /// Tells the machine what may have changed: the network's file and the signing key.
    fn renew(&self, authority: &mut Authority) {
        let now_ms = self.clock().now_ms();
        authority.set_revisions(self.seat.network.revisions(), now_ms);
        if let Some(renewals) = &self.renewals {
            authority.set_signing_key(renewals.borrow().clone());
        }
    }

    fn events(&self) -> &Reporter {
        &self.seat.events
    }

    fn clock(&self) -> &Clock {
        &self.seat.clock
    }

    fn take(
        &self,
        authority: &mut Authority,
        submission: Submission,
    ) -> Result<(), AuthorityError> {
        let now_ms = self.clock().now_ms();
        let result = match submission {
            Submission::Descriptor(signed) => authority.on_descriptor(*signed, now_ms),
            Submission::Endorsement(endorsement) => {
                authority.on_endorsement(*endorsement, now_ms).map(drop)
            }
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
                Action::Endorse { forward, until_ms } => self.endorse(sends, &forward, until_ms),
                Action::SendSignature(bytes) => self.send(sends, DirRequest::send_signature(bytes)),
                Action::RecordSigned {
                    valid_after,
                    what,
                    digest,
                } => {
                    let record = Arc::clone(&self.record);
                    let write = move || record.record(valid_after, what, digest);
                    let written = blocking::run(write).await;
                    let failure = match written {
                        Ok(Ok(())) => None,
                        Ok(Err(error)) => Some(error.to_string()),
                        Err(error) => Some(error.to_string()),
                    };
                    if let Some(reason) = failure {
                        // The signature is not on disk, so after a crash something else could be signed. The signature
                        // must not leave.
                        let failed = AuthorityFailure::RecordNotWritten.because(&reason);
                        self.events().report(failed);
                        authority.withdraw_signature();
                        return;
                    }
                }
                Action::Publish(consensus) => {
                    let published = AuthorityEvent::Published {
                        valid_after: consensus.lifetime().valid_after,
                        relays: consensus.entries().len(),
                    };
                    self.events()
                        .report(match self.seat.server.serve(consensus) {
                            Ok(()) => published,
                            Err(error) => AuthorityFailure::Consensus.because(&error),
                        });
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

    /// Sends a document to every other authority, each in a task of its own, so that a dead authority delays no other.
    fn send(&self, sends: &mut JoinSet<()>, request: DirRequest) {
        let network = self.seat.network.newest();
        // A document that takes longer than half an interval comes too late anyhow.
        let seconds = u64::from(network.params().vote_interval_seconds);
        let deadline = Duration::from_millis((seconds * 500).clamp(500, 60_000));
        // The authorities of a revision that is about to count get the document too. Such authorities refuse what is
        // not for them.
        let now = self.clock().now_secs();
        let peers = self.seat.network.revisions().authorities(now);
        for peer in peers.iter().filter(|a| a.identity != self.identity) {
            let request = request.clone();
            self.spawn_send(sends, peer, deadline, move |io| {
                let request = request.clone();
                Box::pin(upload(io, request, deadline))
            });
        }
    }

    /// Sends an endorsement to the authorities that may not have it, and the vote to those that want it.
    fn endorse(&self, sends: &mut JoinSet<()>, forward: &Forward, until_ms: u64) {
        let endorsement = match forward.endorsement.to_bytes() {
            Ok(bytes) => Bytes::from(bytes),
            Err(error) => {
                let failed = AuthorityFailure::Endorsement.because(&error);
                return self.events().report(failed);
            }
        };
        let digest = forward.endorsement.digest();
        let vote = forward.vote.as_ref().map(|vote| vote.shared_bytes());
        let left_ms = until_ms.saturating_sub(self.clock().now_ms());
        let deadline = Duration::from_millis(left_ms);
        let now = self.clock().now_secs();
        let authorities = self.seat.network.revisions().authorities(now);
        for peer in authorities
            .iter()
            .filter(|a| forward.to.contains(&a.identity))
        {
            let (endorsement, vote) = (endorsement.clone(), vote.clone());
            self.spawn_send(sends, peer, deadline, move |io| {
                let (endorsement, vote) = (endorsement.clone(), vote.clone());
                Box::pin(offer_vote(io, endorsement, digest, vote, deadline))
            });
        }
    }

    fn spawn_send(
        &self,
        sends: &mut JoinSet<()>,
        peer: &cepa_common::dir::AuthorityEntry,
        deadline: Duration,
        send: impl Fn(DirStream) -> SendFuture + Send + Sync + 'static,
    ) {
        let dial = Arc::clone(&self.dial);
        let (addresses, key) = (peer.addresses.clone(), peer.identity.0);
        let name = peer.name.clone();
        sends.spawn(async move {
            let send = send_until_answered(dial, &addresses, key, send);
            if tokio::time::timeout(deadline, send).await.is_err() {
                tracing::debug!(authority = name, "not reached in time");
            }
        });
    }
}

/// One attempt to send something over a connection.
type SendFuture = Pin<Box<dyn Future<Output = Result<(), FetchError>> + Send>>;

async fn send_until_answered(
    dial: Arc<dyn Dial>,
    addresses: &[std::net::SocketAddr],
    link_key: [u8; 32],
    send: impl Fn(DirStream) -> SendFuture,
) {
    loop {
        let attempt = async {
            let io = dial.dial(addresses, link_key).await?;
            send(io).await
        };
        match attempt.await {
            Ok(()) => return,
            // Every answer ends the attempts, except "busy".
            Err(FetchError::Refused { status, text, .. }) if !matches!(status, 429 | 503) => {
                tracing::debug!(status, text, "authority refused a document");
                return;
            }
            Err(_) => tokio::time::sleep(RESEND_AFTER).await,
        }
    }
}
