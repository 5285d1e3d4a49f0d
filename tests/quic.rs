//! QUIC by datagrams: HTTP/3 through a whole network, by SOCKS 5 UDP ASSOCIATE.
#![allow(
    clippy::disallowed_methods,
    reason = "the test uses the real world: it stands outside of nodes"
)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/quic.rs"]
mod quic;
mod support;

use std::time::Duration;

use cepa_common::world::owners::{self, Transport};
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

/// The exit of the association is killed in the middle of a transfer, and its circuit with it. The program's datagrams
/// begin another association at another exit, the server sees the connection come from another address, and the
/// transfer goes on.
#[tokio::test]
async fn a_transfer_goes_on_when_its_circuit_is_killed() {
    let body = content(2, BYTES);
    let server = Http3Server::start(body.clone().into());
    let net = Testnet::start(&["--processes", "--relays", "5", "--exits", "2"]);
    let shim = Shim::start(net.socks(), server.address).await;
    let mut before = None;
    let got = server.fetch_watched(shim.address, |len| {
        if len > BYTES / 10 && before.is_none() {
            let seen = server.client();
            net.kill(&exit_with(&net, seen.port()));
            before = Some(seen);
        }
    });
    let got = tokio::time::timeout(Duration::from_secs(120), got).await;
    assert!(got.expect("the transfer goes on") == body);
    assert_ne!(Some(server.client()), before);
    shim.stop().await;
}

/// The exit that has this port for datagrams.
fn exit_with(net: &Testnet, port: u16) -> String {
    let mut sockets = owners::sockets(Transport::Udp).unwrap();
    let socket = sockets.find(|socket| socket.local.port() == port).unwrap();
    let link = format!("socket:[{}]", socket.inode);
    let has_it = |name: &str| {
        let dir = format!("/proc/{}/fd", net.node(name)["pid"]);
        let files = std::fs::read_dir(dir).unwrap().flatten();
        let mut targets = files.filter_map(|file| std::fs::read_link(file.path()).ok());
        targets.any(|target| target.as_os_str() == link.as_str())
    };
    let names = ["exit1", "exit2"];
    let exit = names.into_iter().find(|name| has_it(name));
    exit.expect("an exit has it").to_owned()
}
