//! Keeps a relay's consensus new: from the authorities, in the first tenth of each interval.

use core::time::Duration;
use std::sync::Arc;

use cepa_common::dir::{
    Authority, Backoff, Dial, FetchError, Inserted, fetch_consensus, random_below,
};
use cepa_common::ids::RelayId;
use rand::seq::SliceRandom;

use super::DirectoryServer;

/// Longest fetch from one authority.
const FETCH_DEADLINE: Duration = Duration::from_secs(30);
/// First wait after a failure.
const RETRY_FIRST: Duration = Duration::from_millis(200);
/// Longest wait after failures.
const RETRY_CAP: Duration = Duration::from_secs(60);

/// All that [`refresh`] needs.
pub struct Refresher {
    /// Where consensuses go.
    pub server: Arc<DirectoryServer>,
    /// Opens connections to authorities.
    pub dial: Arc<dyn Dial>,
    /// Who this relay is, so that an authority does not ask itself.
    pub identity: RelayId,
}

/// Fetches for as long as it runs; begins at once.
pub async fn refresh(refresher: Refresher) {
    // A quarter of an interval at most: what an authority that was away makes next is not missed for long.
    let interval = refresher.server.network().params().vote_interval_seconds;
    let cap = RETRY_CAP.min(Duration::from_secs(u64::from(interval)) / 4);
    let mut backoff = Backoff::new(RETRY_FIRST, cap);
    loop {
        if refresher.round().await {
            backoff.reset();
        }
        let wait = refresher.wait(&mut backoff);
        refresher.server.clock().sleep(wait).await;
    }
}

impl Refresher {
    /// Asks the authorities in random order until one has something newer.
    async fn round(&self) -> bool {
        let now = self.server.clock().now_secs();
        let mut authorities = self.server.networks().revisions().authorities(now);
        authorities.retain(|authority| authority.identity != self.identity);
        authorities.shuffle(&mut rand::rng());
        for authority in &authorities {
            match self.ask(authority).await {
                Ok(true) => return true,
                Ok(false) => {}
                Err(error) => {
                    tracing::debug!(authority = authority.name, %error, "no consensus");
                }
            }
        }
        false
    }

    async fn ask(&self, authority: &Authority) -> Result<bool, FetchError> {
        let held = self
            .server
            .snapshot()
            .newest()
            .map(|newest| newest.digest());
        let dial = self.dial.dial(&authority.addresses, authority.identity.0);
        let io = tokio::time::timeout(FETCH_DEADLINE, dial)
            .await
            .map_err(|_| FetchError::Deadline)??;
        let fetched = fetch_consensus(io, self.server.networks(), held, FETCH_DEADLINE).await?;
        Ok(fetched.is_some_and(|consensus| self.server.offer(consensus) == Ok(Inserted::Newest)))
    }

    /// Until the first tenth after fresh-until; with none that is fresh, the backoff.
    fn wait(&self, backoff: &mut Backoff) -> Duration {
        let mut rng = rand::rng();
        let now_ms = self.server.clock().now_ms();
        let store = self.server.snapshot();
        let Some(newest) = store.usable(now_ms / 1_000) else {
            return backoff.next(&mut rng);
        };
        let lifetime = newest.lifetime();
        let interval = lifetime.fresh_until.saturating_sub(lifetime.valid_after);
        let fresh_until_ms = lifetime.fresh_until.saturating_mul(1_000);
        match fresh_until_ms.checked_sub(now_ms) {
            Some(left_ms) => {
                let spread = random_below(&mut rng, Duration::from_secs(interval) / 10);
                Duration::from_millis(left_ms) + spread
            }
            None => backoff.next(&mut rng),
        }
    }
}
