//! Attacks on the directory of a running network, as strangers would make them (SECURITY.md).
#![allow(
    clippy::disallowed_methods,
    reason = "the test uses the real world: it stands outside of nodes"
)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use cepa_common::dir::{AuthorityEntry, Consensus};
use cepa_common::net::establish;
use cepa_common::net::tls::Tls;
use cepa_common::net::tls_io::TlsIo;
use support::own::OwnNetwork;
use support::{alone, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The longest time until something is seen. Intervals are two seconds.
const SOON: Duration = Duration::from_secs(90);

/// Runs one test at a time.
fn by_itself(test: impl Future<Output = ()>) {
    let _alone = alone();
    tokio::runtime::Runtime::new().unwrap().block_on(test);
}

/// A consensus that was made later than `than`.
async fn later(own: &OwnNetwork, than: u64) -> Arc<Consensus> {
    until("a later consensus", SOON, async || {
        let newest = own.consensus().await.ok_or("no consensus")?;
        let valid_after = newest.lifetime().valid_after;
        if valid_after > than {
            Ok(newest)
        } else {
            Err(format!("the one of {valid_after}"))
        }
    })
    .await
}

/// A connection that makes one tiny request and then stays open; `None` if the authority closes it.
async fn idle(authority: &AuthorityEntry) -> Option<TlsIo> {
    let tls = Tls::client();
    let dialled = establish::dial_http(&authority.addresses, authority.identity.0, &tls);
    let mut io = dialled.await.ok()?;
    let request = b"GET /cepa/1/nothing HTTP/1.1\r\nHost: cepa\r\n\r\n";
    io.write_all(request).await.ok()?;
    io.flush().await.ok()?;
    let mut answer = [0; 12];
    io.read_exact(&mut answer).await.ok()?;
    Some(io)
}

/// An upload that never becomes complete.
async fn half_sent(authority: &AuthorityEntry) -> Option<TlsIo> {
    let tls = Tls::client();
    let dialled = establish::dial_http(&authority.addresses, authority.identity.0, &tls);
    let mut io = dialled.await.ok()?;
    let head = b"POST /cepa/1/descriptor HTTP/1.1\r\nHost: cepa\r\nContent-Length: 900\r\n\r\nx";
    io.write_all(head).await.ok()?;
    io.flush().await.ok()?;
    Some(io)
}

#[test]
fn idle_connections_neither_halt_the_consensus_nor_keep_a_relay_out() {
    by_itself(async {
        let mut own =
            OwnNetwork::with_authorities(&["oak", "elm", "ash"], &["directory_connections=8"]);
        let first = later(&own, 0).await;
        // Far more connections than there are places for strangers, at every authority, all over again.
        let attack = {
            let authorities = own.file.authorities().to_vec();
            tokio::spawn(async move {
                loop {
                    let mut held = Vec::new();
                    for authority in &authorities {
                        for _ in 0..20 {
                            held.push(idle(authority).await);
                            held.push(half_sent(authority).await);
                        }
                    }
                    tokio::time::sleep(Duration::from_secs(2)).await;
                }
            })
        };
        let mut last = first.lifetime().valid_after;
        for _ in 0..4 {
            last = later(&own, last).await.lifetime().valid_after;
        }
        own.relay("newcomer", &[]);
        own.listed_as("newcomer").await;
        attack.abort();
    });
}

#[test]
fn an_authority_that_crashes_lists_at_once_what_the_last_consensus_listed() {
    by_itself(async {
        let mut own = OwnNetwork::start(&[]);
        for name in ["one", "two", "three"] {
            own.relay(name, &[]);
            own.listed_as(name).await;
        }
        // What is known of the last relay is on disk a quarter of an interval later, so one whole interval later at
        // most.
        let before = own.consensus().await.unwrap();
        let before = later(&own, before.lifetime().valid_after).await;
        assert_eq!(before.entries().len(), 4);
        for _ in 0..2 {
            own.crash("oak");
            own.authority("oak");
            let last = own.consensus().await.unwrap().lifetime().valid_after;
            let next = later(&own, last).await;
            assert_eq!(
                next.entries().len(),
                4,
                "in the first consensus after the restart"
            );
        }
    });
}
