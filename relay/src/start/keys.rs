//! The second step: the onion keys.

use cepa_common::dir::RelayDescriptor;
use cepa_common::handshake::OnionPublicKey;
use cepa_common::world::random;
use tokio::sync::watch;

use super::directory::Directory;
use super::error::RelayError;
use super::ground::Ground;
use crate::keys::ring::{OnionKeys, OnionRing};
use crate::keys::watch::{KeyWatch, KeysHeld, watch as watch_keys};
use crate::options::RelayOptions;

/// The onion keys, and whoever follows them.
pub(super) struct Keys {
    ring: OnionRing,
    sender: watch::Sender<OnionKeys>,
    held: watch::Sender<KeysHeld>,
}

impl Keys {
    /// Reads the onion keys, makes one if one is due, and erases those that are too old. No consensus is held yet, so
    /// that the parameters are those of the network's file.
    ///
    /// # Errors
    /// A key cannot be read or made.
    pub(super) fn load(options: &RelayOptions, ground: &Ground) -> Result<Self, RelayError> {
        let now = options.world.clock.now_secs();
        let mut ring = OnionRing::load(&ground.disk, options.onion_keys.clone(), now)?;
        for trouble in ring.take_troubles() {
            ground.events.report(trouble);
        }
        let params = options.network.newest().params();
        ring.turn(now, &params, &mut random::rng())?;
        let sender = watch::Sender::new(ring.snapshot());
        Ok(Self {
            ring,
            sender,
            held: watch::Sender::default(),
        })
    }

    /// Follows the keys that are accepted.
    pub(super) fn follow(&self) -> watch::Receiver<OnionKeys> {
        self.sender.subscribe()
    }

    /// What the owner is shown of the keys.
    pub(super) fn shown(&self) -> watch::Receiver<KeysHeld> {
        self.held.subscribe()
    }

    /// The key that a descriptor names.
    pub(super) fn newest(&self) -> Option<OnionPublicKey> {
        self.sender.borrow().last().map(|newest| newest.public())
    }

    /// Looks after the keys for as long as the relay runs, and keeps `descriptor` up to date with them.
    pub(super) fn look_after(
        self,
        options: RelayOptions,
        ground: &Ground,
        directory: &Directory,
        descriptor: Option<watch::Sender<RelayDescriptor>>,
    ) {
        ground.sources.tasks.spawn(watch_keys(KeyWatch {
            network: options.network.network_id(),
            params: options.network.newest().params(),
            clock: options.world.clock,
            identity: options.identity,
            ring: self.ring,
            keys: self.sender,
            held: self.held,
            consensus: directory.server.subscribe(),
            descriptor,
            events: ground.events.clone(),
            told: Default::default(),
        }));
    }
}
