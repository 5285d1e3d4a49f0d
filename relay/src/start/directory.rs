//! The third step: the directory, with the consensuses that an earlier run kept.

use std::sync::Arc;

use super::ground::Ground;
use crate::authority::{AuthorityHandle, AuthorityQueue, authority_queue};
use crate::directory::{ConsensusFiles, DirectoryServer};
use crate::options::RelayOptions;
use crate::params::ParamsInForce;

/// The directory, and the way from it to the authority if this relay is one.
pub(super) struct Directory {
    /// Holds and serves consensuses.
    pub(super) server: Arc<DirectoryServer>,
    /// The parameters that follow from the newest consensus.
    pub(super) params: ParamsInForce,
    /// Takes what is for the authority.
    pub(super) authority: Option<AuthorityHandle>,
    /// Brings to the authority's task what `authority` takes.
    pub(super) queue: Option<AuthorityQueue>,
    files: ConsensusFiles,
}

impl Directory {
    /// Reads the consensuses on disk.
    pub(super) async fn load(options: &RelayOptions, ground: &Ground) -> Self {
        let queue = options.authority.as_ref().map(|_| authority_queue());
        let (authority, queue) = queue.unzip();
        let server = DirectoryServer::of_relay(
            options.network.clone(),
            options.world.clock.clone(),
            authority.clone(),
            ground.events.clone(),
            ground.identity,
        );
        let files = ConsensusFiles::new(&ground.disk, &options.cache_dir, &server);
        files.load(&server).await;
        Self {
            params: ParamsInForce::new(server.clone()),
            server,
            authority,
            queue,
            files,
        }
    }

    /// Keeps the consensuses on disk for as long as the relay runs.
    pub(super) fn keep(&self, ground: &Ground) {
        let follow = self.files.clone().follow(self.server.clone());
        ground.work.tasks.spawn(follow);
    }
}
