//! QUIC by datagrams: HTTP/3 through a whole network, by SOCKS 5 UDP ASSOCIATE.
#![allow(
    clippy::disallowed_methods,
    reason = "the test uses the real world: it stands outside of nodes"
)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/quic.rs"]
mod quic;
mod support;

use quic::{Http3Server, Shim};
use support::*;

/// What is fetched.
const BYTES: usize = 10_000_000;

#[tokio::test]
async fn ten_megabytes_come_by_http3() {
    let body = content(1, BYTES);
    let server = Http3Server::start(body.clone().into());
    // The server and the client do as they should when nothing is between them.
    assert!(server.fetch_at(server.address).await == body);
    let net = Testnet::start(&[]);
    let shim = Shim::start(net.socks(), server.address).await;
    assert!(server.fetch_at(shim.address).await == body);
    shim.stop().await;
    assert!(net.stop().success());
}
