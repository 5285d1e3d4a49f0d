//! The task that looks after a relay's keys while it runs.

use core::time::Duration;
use std::sync::Arc;

use cepa_common::dir::{ConsensusStore, Params, RelayDescriptor, UnixSecs};
use cepa_common::ids::NetworkId;
use cepa_common::world::Clock;
use cepa_common::world::{blocking, random};
use tokio::sync::watch;

use super::RelayIdentity;
use super::ring::{OnionKeys, OnionRing};
use super::schedule::Listing;

/// The time between two looks at the clock and at the owner's files.
const TICK: Duration = Duration::from_secs(5);
/// The time after which the owner is told the same again (seconds); on the last day of a certificate it is a quarter of
/// that.
const TELL_AGAIN_SECS: u64 = 86_400;

/// Everything that [`watch`] needs.
pub(crate) struct KeyWatch {
    pub(crate) network: NetworkId,
    pub(crate) clock: Clock,
    pub(crate) identity: RelayIdentity,
    pub(crate) ring: OnionRing,
    pub(crate) keys: watch::Sender<OnionKeys>,
    pub(crate) consensus: watch::Receiver<Arc<ConsensusStore>>,
    /// The parameters that hold if there is no consensus.
    pub(crate) params: Params,
    /// The descriptor, if the relay publishes one.
    pub(crate) descriptor: Option<watch::Sender<RelayDescriptor>>,
    pub(crate) told: Told,
}

/// What the owner has been told, so that the log does not repeat it.
#[derive(Default)]
pub(crate) struct Told {
    expiry: UnixSecs,
    file: Option<String>,
}

/// Looks after the keys until the relay stops.
pub(crate) async fn watch(mut keys: KeyWatch) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            changed = keys.consensus.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
        let store = keys.consensus.borrow_and_update().clone();
        // Key files are synced to the disk, which takes time.
        let round = blocking::run(move || {
            keys.round(&store);
            keys
        });
        keys = match round.await {
            Ok(keys) => keys,
            Err(_) => return,
        };
    }
}

/// What the consensuses held say about the relay, oldest first.
fn listings(store: &ConsensusStore, identity: &RelayIdentity, now: UnixSecs) -> Vec<Listing> {
    let mut listings: Vec<Listing> = store
        .valid(now)
        .map(|consensus| Listing {
            valid_after: consensus.lifetime().valid_after,
            fresh_until: consensus.lifetime().fresh_until,
            valid_until: consensus.lifetime().valid_until,
            onion_key: consensus
                .relay(&identity.identity())
                .map(|entry| entry.onion_key),
        })
        .collect();
    listings.reverse();
    listings
}

impl KeyWatch {
    /// Looks once at everything.
    fn round(&mut self, store: &ConsensusStore) {
        let now = self.clock.now_secs();
        self.turn_onion_keys(store, now);
        self.renew_certificate(now);
        self.publish();
    }

    fn turn_onion_keys(&mut self, store: &ConsensusStore, now: UnixSecs) {
        let params = store
            .newest()
            .map_or(&self.params, |newest| newest.params());
        let listings = listings(store, &self.identity, now);
        let observed = self.ring.observe(&listings, params);
        let turned = self.ring.turn(now, params, &mut random::rng());
        if let Err(error) = observed.and(turned.map(drop)) {
            tracing::error!(%error, hint = error.hint(), "onion keys cannot be kept in order; trying again");
        }
        // A new key is accepted before it is published. Only a pointer is swapped, so nobody who answers a handshake
        // waits for this task.
        let held = self.ring.snapshot();
        self.keys.send_if_modified(|keys| {
            let is_other = !keys
                .iter()
                .map(|key| key.public())
                .eq(held.iter().map(|key| key.public()));
            if is_other {
                tracing::info!(keys = held.len(), "the onion keys have changed");
                *keys = held;
            }
            is_other
        });
    }

    fn renew_certificate(&mut self, now: UnixSecs) {
        match self.identity.renew(&self.network) {
            Ok(true) => {
                tracing::info!("a renewed certificate of the link key is in use");
                self.told = Told::default();
            }
            Ok(false) => self.told.file = None,
            Err(error) => self.told.file(error.to_string()),
        }
        let Some(certificate) = self.identity.certificate() else {
            return;
        };
        let not_after = certificate.cert.not_after;
        let left = not_after.saturating_sub(now);
        let life = not_after.saturating_sub(certificate.made);
        if left <= life / 3 && self.told.is_due(now, left) {
            self.told.expiry = now;
            let hint = "make a new one with `cepa keys certify` where the identity is, and put it in with `cepa keys install`";
            if left == 0 {
                tracing::error!(
                    hint,
                    "the certificate of the link key has expired: this relay publishes nothing"
                );
            } else {
                tracing::warn!(
                    hint,
                    hours_left = left / 3_600,
                    "the certificate of the link key expires; the network lists a relay only while it is valid for longer than a consensus"
                );
            }
        }
    }

    /// Puts what has changed into the descriptor.
    fn publish(&mut self) {
        let Some(sender) = &self.descriptor else {
            return;
        };
        let family = match self.identity.family(&self.network) {
            Ok(family) => family,
            Err(error) => {
                // What was published stays: a file that is being replaced does not mean that the relay wants to leave
                // its family.
                self.told.file(error.to_string());
                sender.borrow().family.clone()
            }
        };
        let Some(onion) = self.keys.borrow().last().map(|key| key.public()) else {
            return;
        };
        let key_cert = self.identity.key_cert();
        sender.send_if_modified(|descriptor| {
            let next = RelayDescriptor {
                onion_key: onion.key,
                suite: onion.suite,
                key_cert,
                family,
                ..descriptor.clone()
            };
            let is_other = next != *descriptor;
            *descriptor = next;
            is_other
        });
    }
}

impl Told {
    fn is_due(&self, now: UnixSecs, left: u64) -> bool {
        let again = if left > TELL_AGAIN_SECS {
            TELL_AGAIN_SECS
        } else {
            TELL_AGAIN_SECS / 4
        };
        now.abs_diff(self.expiry) >= again
    }

    /// Logs once what is wrong with a file.
    fn file(&mut self, what: String) {
        if self.file.as_ref() != Some(&what) {
            tracing::warn!("{what}; going on with what was there before");
            self.file = Some(what);
        }
    }
}
