//! Authorities as sources of the time, for a client that cannot get a consensus.

use std::time::Duration;

use cepa_common::net::directory::NetworkHandle;
use cepa_common::net::tls::Tls;
use cepa_common::world::Clock;
use tokio::sync::watch;

use crate::dir::BootstrapProgress;
use crate::events::{Reporter, Warning};
use cepa_common::net::skew::ClockSkew;

/// How often the authorities are asked.
const TIME_AGAIN: Duration = Duration::from_secs(60);

/// Asks authorities for the time while no consensus can be had. A wrong clock is the one cause that the documents alone
/// cannot tell from authorities that have been away.
pub(crate) struct TimeSources {
    pub(crate) network: NetworkHandle,
    pub(crate) tls: Tls,
    pub(crate) clock: Clock,
    pub(crate) skew: ClockSkew,
    pub(crate) reporter: Reporter,
}

impl TimeSources {
    /// Asks for as long as the client fails to get a consensus.
    pub(crate) async fn ask_while_failing(self, mut progress: watch::Receiver<BootstrapProgress>) {
        let failed = |step: &BootstrapProgress| matches!(step, BootstrapProgress::Failed { .. });
        while progress.wait_for(failed).await.is_ok() {
            self.ask().await;
            tokio::time::sleep(TIME_AGAIN).await;
        }
    }

    /// Says HELLO to some authorities, each of which proves its key and says what time it is (2.1).
    async fn ask(&self) {
        let Self {
            network,
            tls,
            clock,
            skew,
            ..
        } = self;
        skew.ask_authorities(network, None, tls, clock).await;
        if let Some(ahead_secs) = self.skew.wrong_by() {
            self.reporter.warn(Warning::ClockSkew { ahead_secs });
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use cepa_common::dir::AuthorityEntry;
    use cepa_common::net::establish;
    use tokio::net::TcpListener;

    use super::*;
    use cepa_common::testkit::{self, link_key, network_named};

    /// An authority that says HELLO to whoever connects.
    async fn authority(n: u8) -> (AuthorityEntry, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = AuthorityEntry {
            addresses: vec![listener.local_addr().unwrap()],
            ..testkit::authority(n)
        };
        (authority, listener)
    }

    #[tokio::test]
    async fn authorities_say_what_time_it_is_where_no_consensus_can_be_had() {
        let (mut authorities, mut listeners) = (Vec::new(), Vec::new());
        for n in 1..=3 {
            let (authority, listener) = authority(n).await;
            authorities.push(authority);
            listeners.push(listener);
        }
        let network = network_named("test", authorities, Default::default());
        let network = NetworkHandle::from(network);
        for (n, listener) in (1..).zip(listeners) {
            let (tls, id) = (Tls::relay(&link_key(n)).unwrap(), network.network_id());
            tokio::spawn(async move {
                while let Ok((tcp, _)) = listener.accept().await {
                    // The connection is a link, with which nothing is done.
                    let _ = establish::accept(tcp, &tls, id, Clock::system().now_secs()).await;
                }
            });
        }
        let reporter = Reporter::default();
        for (off, words) in [(0, None), (-7_200i64, Some("2 hours behind"))] {
            let clock = Clock::system();
            let wrong = move || clock.now_ms().saturating_add_signed(off * 1_000);
            let sources = TimeSources {
                network: network.clone(),
                tls: Tls::client(),
                clock: Clock::from_fn(wrong),
                skew: ClockSkew::default(),
                reporter: reporter.clone(),
            };
            sources.ask().await;
            let said = reporter.warnings().first().map(ToString::to_string);
            match words {
                Some(words) => assert!(said.unwrap().contains(words)),
                None => assert_eq!(said, None),
            }
        }
    }
}
