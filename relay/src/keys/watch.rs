//! The task that looks after a relay's keys while it runs.

use core::time::Duration;
use std::sync::Arc;

use cepa_common::dir::{ConsensusStore, Params, RelayDescriptor, UnixSecs};
use cepa_common::handshake::OnionPublicKey;
use cepa_common::ids::NetworkId;
use cepa_common::world::Clock;
use cepa_common::world::{blocking, random};
use tokio::sync::watch;

use super::RelayIdentity;
use super::ring::{OnionKeys, OnionRing};
use super::schedule::{KeyListing, Timing};
use crate::events::{RelayEvent, Reporter};

/// The time between two looks at the clock and at the owner's files.
const TICK: Duration = Duration::from_secs(5);
/// The time after which the owner is told the same again (seconds); on the last day of a certificate it is a quarter of
/// that.
const TELL_AGAIN_SECS: u64 = 86_400;

/// The keys that a relay has, and how long each is used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeysHeld {
    /// Until when the link key is certified (seconds since 1970); `None` for a relay whose link key is its identity.
    pub certificate_until: Option<UnixSecs>,
    /// The onion keys, the newest last.
    pub onion: Vec<OnionKeyHeld>,
}

/// An onion key, without what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnionKeyHeld {
    /// When it was made (seconds since 1970).
    pub made: UnixSecs,
    /// When it is replaced, or was (seconds since 1970).
    pub replaced: UnixSecs,
    /// From when on nobody needs it any more (seconds since 1970); `None` while no newer one has taken its place.
    pub until: Option<UnixSecs>,
}

/// Everything that [`watch`] needs.
pub(crate) struct KeyWatch {
    pub(crate) network: NetworkId,
    pub(crate) clock: Clock,
    pub(crate) identity: RelayIdentity,
    pub(crate) ring: OnionRing,
    pub(crate) keys: watch::Sender<OnionKeys>,
    /// What the owner is shown of the keys.
    pub(crate) held: watch::Sender<KeysHeld>,
    pub(crate) consensus: watch::Receiver<Arc<ConsensusStore>>,
    /// The parameters that hold if there is no consensus.
    pub(crate) params: Params,
    /// The descriptor, if the relay publishes one.
    pub(crate) descriptor: Option<watch::Sender<RelayDescriptor>>,
    /// Hears what becomes of the keys.
    pub(crate) events: Reporter,
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
        let events = keys.events.clone();
        // Key files are synced to the disk, which takes time.
        let round = blocking::run(move || {
            keys.round(&store);
            keys
        });
        keys = match round.await {
            Ok(keys) => keys,
            Err(error) => {
                return events.report(RelayEvent::OnionKeysStuck {
                    reason: error.to_string(),
                    hint: "this is a fault of the program; restart the relay".to_owned(),
                });
            }
        };
    }
}

/// What the consensuses held say about the relay, oldest first.
fn listings(store: &ConsensusStore, identity: &RelayIdentity, now: UnixSecs) -> Vec<KeyListing> {
    let mut listings: Vec<KeyListing> = store
        .valid(now)
        .map(|consensus| KeyListing {
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
        self.show(store);
        self.publish();
    }

    /// Shows the owner what there is.
    fn show(&self, store: &ConsensusStore) {
        let params = store
            .newest()
            .map_or(&self.params, |newest| newest.params());
        let timing = Timing::new(params);
        let onion = self.ring.schedule().keys().iter().map(|key| OnionKeyHeld {
            made: key.born,
            replaced: key
                .replaced
                .unwrap_or(key.born.saturating_add(timing.rotation_secs())),
            until: key.end(&timing),
        });
        let certificate = self.identity.certificate();
        self.held.send_replace(KeysHeld {
            certificate_until: certificate.map(|certificate| certificate.cert.not_after),
            onion: onion.collect(),
        });
    }

    fn turn_onion_keys(&mut self, store: &ConsensusStore, now: UnixSecs) {
        let params = store
            .newest()
            .map_or(&self.params, |newest| newest.params());
        let listings = listings(store, &self.identity, now);
        let observed = self.ring.observe(&listings, params);
        let turned = self.ring.turn(now, params, &mut random::rng());
        if let Err(error) = observed.and(turned.map(drop)) {
            self.events.report(RelayEvent::OnionKeysStuck {
                reason: error.to_string(),
                hint: error.hint().to_string(),
            });
        }
        // A new key is accepted before it is published. Only a pointer is swapped, so nobody who answers a handshake
        // waits for this task.
        let held = self.ring.snapshot();
        let has = |keys: &OnionKeys, key: &OnionPublicKey| keys.iter().any(|k| k.public() == *key);
        let mut news = Vec::new();
        self.keys.send_if_modified(|keys| {
            let (made, retired) = (
                held.iter().any(|key| !has(keys, &key.public())),
                keys.iter().any(|key| !has(&held, &key.public())),
            );
            news.extend(made.then_some(RelayEvent::OnionKeyMade));
            news.extend(retired.then_some(RelayEvent::OnionKeyRetired));
            let is_other = made || retired;
            if is_other {
                *keys = held;
            }
            is_other
        });
        news.into_iter().for_each(|event| self.events.report(event));
    }

    fn renew_certificate(&mut self, now: UnixSecs) {
        match self.identity.renew(&self.network) {
            Ok(true) => {
                self.events.report(RelayEvent::CertificateRenewed);
                self.told = Told::default();
            }
            Ok(false) => self.told.file = None,
            Err(error) => self.told.file(error.to_string(), &self.events),
        }
        let Some(certificate) = self.identity.certificate() else {
            return;
        };
        let not_after = certificate.cert.not_after;
        let left = not_after.saturating_sub(now);
        let life = not_after.saturating_sub(certificate.made);
        if left <= life / 3 && self.told.is_due(now, left) {
            self.told.expiry = now;
            self.events.report(match left {
                0 => RelayEvent::CertificateEnded,
                left => RelayEvent::CertificateEnding {
                    hours_left: left / 3_600,
                },
            });
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
                self.told.file(error.to_string(), &self.events);
                sender.borrow().family.clone()
            }
        };
        let Some(onion) = self.keys.borrow().last().map(|key| key.public()) else {
            return;
        };
        let key_cert = self.identity.key_cert();
        let is_member = family.is_some();
        let mut has_family_changed = false;
        sender.send_if_modified(|descriptor| {
            has_family_changed = family != descriptor.family;
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
        if has_family_changed {
            self.events.report(RelayEvent::Family { is_member });
        }
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

    /// Tells the owner once what is wrong with a file.
    fn file(&mut self, what: String, events: &Reporter) {
        if self.file.as_ref() != Some(&what) {
            let reason = what.clone();
            events.report(RelayEvent::OwnersFile { reason });
            self.file = Some(what);
        }
    }
}
