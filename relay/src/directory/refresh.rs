//! Keeps a relay's consensus up to date: from the authorities, or else from other relays, in the first tenth of each
//! interval.

use core::time::Duration;
use std::net::SocketAddr;
use std::sync::Arc;

use cepa_common::dir::{Consensus, Flags, Inserted};
use cepa_common::ids::RelayId;
use cepa_common::net::directory::{
    Backoff, Dial, FetchError, fetch_consensus, fetch_newer, random_below,
};
use cepa_common::world::random;
use rand::seq::{IndexedRandom, SliceRandom};

use super::DirectoryServer;
use crate::events::RelayEvent;

/// The longest time that a fetch from one authority may take.
const FETCH_DEADLINE: Duration = Duration::from_secs(30);
/// Number of relays asked if no authority answers.
const RELAYS: usize = 3;
/// First wait after a failure.
const RETRY_FIRST: Duration = Duration::from_millis(200);
/// Longest wait after failures.
const RETRY_CAP: Duration = Duration::from_secs(60);

/// Everything that [`refresh`] needs.
pub struct Refresher {
    /// The server that takes the consensuses.
    pub server: Arc<DirectoryServer>,
    /// Opens connections to authorities.
    pub dial: Arc<dyn Dial>,
    /// Identity of this relay, so that an authority does not ask itself.
    pub identity: RelayId,
}

/// Fetches for as long as it runs, and begins at once.
pub async fn refresh(refresher: Refresher) {
    // The cap is a quarter of an interval, so that what an authority makes after an absence is not missed for long.
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
    /// Asks the authorities in random order until one has something newer. If none answers at all, some relays are
    /// asked.
    async fn round(&self) -> bool {
        let now = self.server.clock().now_secs();
        let mut authorities = self.server.networks().revisions().authorities(now);
        authorities.retain(|authority| authority.identity != self.identity);
        authorities.shuffle(&mut random::rng());
        let mut answered = false;
        for authority in &authorities {
            match self.ask(&authority.addresses, authority.identity.0).await {
                Ok(true) => return true,
                Ok(false) => answered = true,
                Err(error) => {
                    tracing::debug!(authority = authority.name, %error, "no consensus");
                }
            }
        }
        !answered && self.ask_relays().await
    }

    async fn ask_relays(&self) -> bool {
        let Some(newest) = self.server.snapshot().newest().cloned() else {
            return false;
        };
        let others: Vec<_> = newest
            .entries()
            .iter()
            .filter(|e| e.flags.contains(Flags::RUNNING) && e.identity != self.identity)
            .collect();
        let chosen: Vec<_> = others.sample(&mut random::rng(), RELAYS).collect();
        for entry in chosen {
            match self.ask(&entry.addresses, entry.link_key()).await {
                Ok(true) => return true,
                Ok(false) => {}
                Err(error) => tracing::debug!(relay = %entry.identity, %error, "no consensus"),
            }
        }
        false
    }

    async fn ask(&self, addresses: &[SocketAddr], link_key: [u8; 32]) -> Result<bool, FetchError> {
        let held = self.server.snapshot().newest().cloned();
        let fetched = match self.fetch(addresses, link_key, held.as_deref()).await {
            // A wrong difference may be the fault of its maker. The whole consensus is asked for once; then another
            // source is asked.
            Err(FetchError::Difference(error)) => {
                let reason = error.to_string();
                let wrong = RelayEvent::WrongDifference { reason, times: 1 };
                self.server.events().report(wrong);
                self.fetch(addresses, link_key, None).await?
            }
            other => other?,
        };
        Ok(fetched.is_some_and(|consensus| self.server.offer(consensus) == Ok(Inserted::Newest)))
    }

    async fn fetch(
        &self,
        addresses: &[SocketAddr],
        link_key: [u8; 32],
        held: Option<&Consensus>,
    ) -> Result<Option<Arc<Consensus>>, FetchError> {
        let dial = self.dial.dial(addresses, link_key);
        let io = tokio::time::timeout(FETCH_DEADLINE, dial)
            .await
            .map_err(|_| FetchError::Deadline)??;
        let network = self.server.networks();
        match held {
            Some(held) => fetch_newer(io, network, Some(held), FETCH_DEADLINE).await,
            None => fetch_consensus(io, network, None, FETCH_DEADLINE).await,
        }
    }

    /// The time until the first tenth after fresh-until; if no consensus is fresh, the wait of the backoff.
    fn wait(&self, backoff: &mut Backoff) -> Duration {
        let mut rng = random::rng();
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
