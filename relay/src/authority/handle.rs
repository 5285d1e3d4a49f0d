//! How others reach a running authority: a bounded queue of documents for its task, and a snapshot of the present vote.

use std::sync::Arc;
use std::time::Duration;

use cepa_common::dir::{
    ConsensusSignature, DescriptorCache, Endorsement, SignedDescriptor, SignedVote,
};
use cepa_common::ids::RelayId;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use super::error::AuthorityError;
use super::period::Authority;
use super::slots::{Slot, VoteSlots};
use super::snapshot::AuthoritySnapshot;
use super::view::VotingView;

/// Number of descriptors that may wait for the machine. The next uploader is told to come again.
const DESCRIPTOR_QUEUE: usize = 64;
/// Number of endorsements, votes and signatures that may wait for the machine. Only those of authorities get into this
/// queue, so that no flood of descriptors can keep a vote out. A vote has up to 16 MiB.
const AUTHORITY_QUEUE: usize = 64;
/// Why an upload failed.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// The authority refused the document.
    #[error(transparent)]
    Refused(#[from] AuthorityError),
    /// The authority has as much to do as it can hold. The uploader may try again later.
    #[error("authority is busy")]
    Busy,
    /// The authority has stopped.
    #[error("authority has stopped")]
    Stopped,
}

/// A document for the machine. The document's signatures are verified: that is the work of the connection, not of the
/// machine.
#[derive(Debug)]
pub(crate) enum Submission {
    Descriptor(Box<SignedDescriptor>),
    Endorsement(Box<Endorsement>),
    Vote(Box<SignedVote>),
    Signature(Box<ConsensusSignature>),
}

/// Snapshots that may be waited for.
const ASKS: usize = 4;
/// A snapshot is there within this time, or the authority has too much to do.
const ASKED_FOR: Duration = Duration::from_secs(2);

/// Asks a running authority how it does. It keeps no authority running.
#[derive(Clone, Debug)]
pub(crate) struct AuthorityAsks(mpsc::Sender<oneshot::Sender<AuthoritySnapshot>>);

impl AuthorityAsks {
    /// How the authority does; `None` if it has ended, or gives no answer within two seconds.
    pub(crate) async fn snapshot(&self) -> Option<AuthoritySnapshot> {
        let (answer, answered) = oneshot::channel();
        self.0.try_send(answer).ok()?;
        timeout(ASKED_FOR, answered).await.ok()?.ok()
    }
}

type Reply = oneshot::Sender<Result<(), AuthorityError>>;

/// Gives documents to a running authority.
#[derive(Clone, Debug)]
pub struct AuthorityHandle {
    descriptors: mpsc::Sender<(Submission, Reply)>,
    authorities: mpsc::Sender<(Submission, Reply)>,
    view: watch::Receiver<Arc<VotingView>>,
    cache: Arc<DescriptorCache>,
    slots: Arc<VoteSlots>,
    asks: AuthorityAsks,
}

/// The other end of an [`AuthorityHandle`], for [`run`](super::run).
#[derive(Debug)]
pub struct AuthorityQueue {
    pub(super) descriptors: mpsc::Receiver<(Submission, Reply)>,
    pub(super) authorities: mpsc::Receiver<(Submission, Reply)>,
    view: watch::Sender<Arc<VotingView>>,
    pub(super) cache: Arc<DescriptorCache>,
    /// Who wants to know how the authority does.
    pub(super) asks: mpsc::Receiver<oneshot::Sender<AuthoritySnapshot>>,
}

/// Makes a handle and its queue.
pub fn authority_queue() -> (AuthorityHandle, AuthorityQueue) {
    let (descriptors, descriptors_out) = mpsc::channel(DESCRIPTOR_QUEUE);
    let (authorities, authorities_out) = mpsc::channel(AUTHORITY_QUEUE);
    let (asks, asks_out) = mpsc::channel(ASKS);
    let (view, view_out) = watch::channel(Arc::default());
    let cache: Arc<DescriptorCache> = Arc::default();
    let queue = AuthorityQueue {
        descriptors: descriptors_out,
        authorities: authorities_out,
        view,
        cache: Arc::clone(&cache),
        asks: asks_out,
    };
    (
        AuthorityHandle {
            descriptors,
            authorities,
            view: view_out,
            cache,
            slots: Arc::default(),
            asks: AuthorityAsks(asks),
        },
        queue,
    )
}

impl AuthorityHandle {
    /// Publishes a descriptor at this authority without a connection. This is for the relay in the same process.
    ///
    /// # Errors
    /// [`SubmitError`] if the authority does not take the descriptor.
    pub async fn submit_descriptor(&self, signed: SignedDescriptor) -> Result<(), SubmitError> {
        self.submit(Submission::Descriptor(Box::new(signed))).await
    }

    pub(crate) async fn submit(&self, submission: Submission) -> Result<(), SubmitError> {
        let (reply, answer) = oneshot::channel();
        let queue = match submission {
            Submission::Descriptor(_) => &self.descriptors,
            Submission::Endorsement(_) | Submission::Vote(_) | Submission::Signature(_) => {
                &self.authorities
            }
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

impl AuthorityHandle {
    /// What asks the authority how it does.
    pub(crate) fn asks(&self) -> AuthorityAsks {
        self.asks.clone()
    }

    /// The present state of the vote.
    pub(crate) fn view(&self) -> Arc<VotingView> {
        Arc::clone(&self.view.borrow())
    }

    /// Descriptors that have been verified before.
    pub(crate) fn descriptor_cache(&self) -> Arc<DescriptorCache> {
        Arc::clone(&self.cache)
    }

    /// Takes a place in which a vote of this author is received.
    pub(crate) fn vote_slot(&self, author: RelayId) -> Slot {
        self.slots.take(author)
    }
}

impl AuthorityQueue {
    /// Shows the connections the present state of the vote. The driver does so before each answer that
    /// the connections act on.
    pub(super) fn show(&self, authority: &Authority, now_ms: u64) {
        self.view
            .send_replace(Arc::new(VotingView::new(authority, now_ms)));
    }

    pub(super) fn is_shown(&self, authority: &Authority) -> bool {
        self.view.borrow().is_of(authority)
    }
}
