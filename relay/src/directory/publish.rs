//! Publishes a relay's descriptor at every authority: at the start, after a change, from time to time, and when it is
//! missing from a consensus.

use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::Arc;

use cepa_common::dir::{
    AuthorityEntry, CLOCK_SKEW_SECS, ConsensusStore, RelayDescriptor, SignedDescriptor, UnixSecs,
};
use cepa_common::ids::RelayId;
use cepa_common::net::directory::{Backoff, Dial, DirRequest, FetchError, NetworkHandle, upload};
use cepa_common::world::Clock;
use cepa_common::world::random;
use ed25519_dalek::SigningKey;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::authority::AuthorityHandle;
use crate::events::{DescriptorAnswer, RelayEvent, Reporter};

/// The longest time that the upload to one authority may take.
const UPLOAD_DEADLINE: Duration = Duration::from_secs(20);
/// First wait after a failure.
const RETRY_FIRST: Duration = Duration::from_millis(250);
/// Longest wait after failures.
const RETRY_CAP: Duration = Duration::from_secs(120);
/// A relay that a consensus does not list publishes again, but not more often than this.
const MISSED_AGAIN: Duration = Duration::from_secs(5);

/// The owner hears that authorities lack the descriptor if they do after this time. Who starts a network starts its
/// relays and authorities in the same minute.
const TELL_AFTER: Duration = Duration::from_secs(30);

/// Everything that [`publish`] needs.
pub struct Publisher {
    /// The network, as it is known now.
    pub network: NetworkHandle,
    /// The time.
    pub clock: Clock,
    /// Opens connections to authorities.
    pub dial: Arc<dyn Dial>,
    /// The link key, which signs descriptors.
    pub key: SigningKey,
    /// The descriptor to publish. `published` is set at each signing. A change is published at once.
    pub descriptor: watch::Receiver<RelayDescriptor>,
    /// The consensuses, which show whether the relay is listed.
    pub consensus: watch::Receiver<Arc<ConsensusStore>>,
    /// The authority in this process, which is reached without a connection.
    pub local: Option<(RelayId, AuthorityHandle)>,
    /// Hears what authorities answer.
    pub events: Reporter,
}

/// Publishes until the descriptor's sender is gone.
pub async fn publish(mut publisher: Publisher) {
    let answers = watch::Sender::new(Answers::new());
    let told = tell(answers.subscribe(), publisher.events.clone());
    let published = async {
        let mut last_published: UnixSecs = 0;
        loop {
            // Two descriptors of one second would count as one: an authority keeps the first.
            let published = next_published(publisher.clock.now_secs(), last_published);
            last_published = published;
            let uploads = publisher.start(published, &answers);
            if !publisher.until_due(published).await {
                return;
            }
            // Uploads that still wait for an authority would bring it an old descriptor.
            drop(uploads);
        }
    };
    tokio::select! {
        () = published => {}
        () = told => {}
    }
}

/// The time to sign with. This time is later than the last one, because a descriptor of the same second would not be
/// newer. There is one exception: if the last time is far ahead, the clock was wrong then, and no authority with a
/// right clock has taken that descriptor.
fn next_published(now: UnixSecs, last: UnixSecs) -> UnixSecs {
    let next = last.saturating_add(1);
    if next > now.saturating_add(CLOCK_SKEW_SECS) {
        return now;
    }
    now.max(next)
}

impl Publisher {
    /// Signs the descriptor and uploads it to every authority at the same time, until each has answered; the answers
    /// go to `answers`.
    fn start(&mut self, published: UnixSecs, answers: &watch::Sender<Answers>) -> JoinSet<()> {
        let mut uploads = JoinSet::new();
        let descriptor = RelayDescriptor {
            published,
            ..self.descriptor.borrow_and_update().clone()
        };
        if let Some(cert) = &descriptor.key_cert
            && cert.not_after <= published
        {
            // No authority would take the descriptor. The task that looks after the keys tells the owner.
            tracing::debug!("the link key's certificate has expired; not publishing");
            return uploads;
        }
        let signed = match descriptor.sign(&self.network.network_id(), &self.key) {
            Ok(signed) => signed,
            Err(error) => {
                let reason = error.to_string();
                self.events.report(RelayEvent::DescriptorInvalid { reason });
                return uploads;
            }
        };
        // The authorities of a revision that is about to count get the descriptor too: they list relays that they could
        // reach by then.
        let authorities = self.network.revisions().authorities(published);
        // An authority that has taken an older descriptor has not lost it.
        answers.send_modify(|answers| {
            answers.retain(|name, _| authorities.iter().any(|known| known.name == *name));
            for authority in &authorities {
                answers.entry(authority.name.clone()).or_default();
            }
        });
        for authority in authorities {
            let local = self
                .local
                .as_ref()
                .filter(|(identity, _)| *identity == authority.identity);
            let target = Target {
                authority: authority.clone(),
                dial: Arc::clone(&self.dial),
                local: local.map(|(_, handle)| handle.clone()),
                signed: signed.clone(),
                answers: answers.clone(),
                events: self.events.clone(),
            };
            uploads.spawn(target.upload_until_answered());
        }
        uploads
    }

    /// Waits for a reason to publish again. Returns `false` if there will be none.
    async fn until_due(&mut self, published: UnixSecs) -> bool {
        let network = self.network.newest();
        let mut revisions = self.network.subscribe();
        let interval = u64::from(network.params().descriptor_interval_seconds);
        let periodic = tokio::time::sleep(Duration::from_secs(interval));
        let not_before = tokio::time::Instant::now() + MISSED_AGAIN;
        tokio::pin!(periodic);
        loop {
            tokio::select! {
                () = &mut periodic => return true,
                changed = self.descriptor.changed() => return changed.is_ok(),
                Ok(()) = self.consensus.changed() => {}
                // There may be new authorities.
                Ok(()) = revisions.changed() => return true,
            }
            if self.is_missed(published) && tokio::time::Instant::now() >= not_before {
                tracing::debug!("not in the newest consensus; publishing again");
                return true;
            }
        }
    }

    /// Is the relay's present descriptor missing from a consensus that could list it?
    fn is_missed(&mut self, published: UnixSecs) -> bool {
        let store = Arc::clone(&self.consensus.borrow_and_update());
        let descriptor = self.descriptor.borrow();
        store.newest().is_some_and(|newest| {
            let listed = newest.relay(&descriptor.identity);
            newest.lifetime().valid_after > published
                && listed.is_none_or(|entry| entry.onion_key != descriptor.onion_key)
        })
    }
}

/// An authority that gets the descriptor.
struct Target {
    authority: AuthorityEntry,
    dial: Arc<dyn Dial>,
    local: Option<AuthorityHandle>,
    signed: SignedDescriptor,
    answers: watch::Sender<Answers>,
    events: Reporter,
}

/// The newest answer of each authority, by its name: `Ok` if it has taken the descriptor, else what went wrong; `None`
/// before it was asked.
type Answers = BTreeMap<String, Option<Result<(), String>>>;

/// Have more than half of the authorities taken the descriptor?
fn is_enough(answers: &Answers) -> bool {
    taken(answers) * 2 > answers.len()
}

fn taken(answers: &Answers) -> usize {
    let answers = answers.values().flatten();
    answers.filter(|answer| answer.is_ok()).count()
}

fn said(answers: &Answers) -> RelayEvent {
    let missing = answers.iter().filter_map(|(name, answer)| {
        let reason = answer.as_ref()?.as_ref().err()?;
        Some(format!("{name} ({reason})"))
    });
    RelayEvent::Published {
        taken: taken(answers),
        of: answers.len(),
        missing: missing.collect(),
    }
}

/// Tells the owner when half of the authorities or more have lacked the descriptor for some time, and when they no
/// longer do. Ends with the sender of the answers.
async fn tell(mut answers: watch::Receiver<Answers>, events: Reporter) {
    let lacks = |answers: &Answers| !answers.is_empty() && !is_enough(answers);
    while answers.wait_for(lacks).await.is_ok() {
        let is_soon = timeout(TELL_AFTER, answers.wait_for(is_enough))
            .await
            .is_ok();
        if is_soon {
            continue;
        }
        events.report(said(&answers.borrow()));
        if answers.wait_for(is_enough).await.is_err() {
            return;
        }
        events.report(said(&answers.borrow()));
    }
}

impl Target {
    fn report(&self, answer: DescriptorAnswer) {
        let said = match &answer {
            DescriptorAnswer::Taken => Ok(()),
            DescriptorAnswer::Refused { status, reason } => Err(format!("{status}, {reason}")),
            DescriptorAnswer::Unreachable { reason } => Err(reason.clone()),
        };
        self.answers.send_modify(|answers| {
            answers.insert(self.authority.name.clone(), Some(said));
        });
        self.events.report(RelayEvent::Descriptor {
            authority: self.authority.name.clone(),
            answer,
        });
    }

    async fn upload_until_answered(self) {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_CAP);
        loop {
            let attempt = timeout(UPLOAD_DEADLINE, Box::pin(self.upload())).await;
            match attempt.unwrap_or(Err(FetchError::Deadline)) {
                Ok(()) => return self.report(DescriptorAnswer::Taken),
                // The authority will not change its mind about these bytes. 429 says that it has not looked at them
                // yet.
                Err(FetchError::Refused {
                    status: status @ 400..=499,
                    text: reason,
                    ..
                }) if status != 429 => {
                    return self.report(DescriptorAnswer::Refused { status, reason });
                }
                Err(error) => self.report(DescriptorAnswer::Unreachable {
                    reason: error.to_string(),
                }),
            }
            let wait = backoff.next(&mut random::rng());
            tokio::time::sleep(wait).await;
        }
    }

    async fn upload(&self) -> Result<(), FetchError> {
        if let Some(local) = &self.local {
            let submitted = local.submit_descriptor(self.signed.clone()).await;
            return submitted.map_err(|error| FetchError::Dial(std::io::Error::other(error)));
        }
        let io = self
            .dial
            .dial(&self.authority.addresses, self.authority.identity.0)
            .await?;
        upload(
            io,
            DirRequest::publish_descriptor(self.signed.bytes().to_vec()),
            UPLOAD_DEADLINE,
        )
        .await
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use cepa_common::dir::KeyCert;
    use cepa_common::testkit::{Switchboard, descriptor_at, identity, link_key, network};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_expired_certificate_is_never_published() {
        let network = Arc::new(network(3));
        let link = link_key(1).verifying_key().to_bytes();
        let mut descriptor = descriptor_at(1, 0);
        descriptor.identity = identity(2);
        let cert = KeyCert::new(&link_key(2), &network.network_id(), link, 2_000);
        descriptor.key_cert = Some(cert);
        let (_keep, descriptor) = watch::channel(descriptor);
        let (_store, consensus) = watch::channel(Arc::new(ConsensusStore::new()));
        let mut publisher = Publisher {
            network: network.into(),
            clock: Clock::from_fn(|| 0),
            dial: Arc::new(Switchboard::default()),
            key: link_key(1),
            descriptor,
            consensus,
            local: None,
            events: Reporter::default(),
        };
        let answers = watch::Sender::new(Answers::new());
        assert_eq!(publisher.start(1_999, &answers).len(), 3);
        assert_eq!(publisher.start(2_000, &answers).len(), 0);
    }

    #[test]
    fn times_of_descriptors_grow_but_not_after_a_clock_that_was_wrong() {
        assert_eq!(next_published(1_000, 0), 1_000);
        assert_eq!(next_published(1_000, 1_000), 1_001);
        // The clock has made a small step back.
        assert_eq!(next_published(990, 1_000), 1_001);
        // The clock was a day ahead, or at its end, and is right again.
        assert_eq!(next_published(1_000, 87_400), 1_000);
        assert_eq!(next_published(1_000, u64::MAX), 1_000);
        assert_eq!(next_published(u64::MAX, u64::MAX), u64::MAX);
    }
}
