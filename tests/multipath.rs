//! Tests of two circuits to one exit that carry the same streams: one is lost, and no byte with it.
#![allow(
    clippy::disallowed_methods,
    reason = "the test uses the real world: it stands outside of nodes"
)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use cepa_client::circuit::Circuit;
use cepa_client::circuit::Multipath;
use cepa_client::circuit::isolation::Isolation;
use cepa_client::guard::GuardReport;
use cepa_client::path::ExitTarget;
use cepa_client::{Client, ClientOptions, NetworkFile, RelayId, StreamIo, StreamTarget};
use rustix::process::{Pid, Signal, kill_process};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// The longest time that anything may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Size of a download in bytes. On links of 2 MB a second it takes longer than the time until another leg is tried
/// twice.
const PAGE: usize = 60_000_000;
/// Number of bytes that both legs carry together first.
const TOGETHER: usize = 1_500_000;

struct Download {
    stream: StreamIo,
    seed: u64,
    got: Vec<u8>,
}

impl Download {
    async fn start(circuit: &Circuit, server: SocketAddr, seed: u64) -> Self {
        let target = StreamTarget::address(server).unwrap();
        let mut stream = circuit.open(target).unwrap();
        let request = format!("GET /{seed}/{PAGE} HTTP/1.1\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        Self {
            stream,
            seed,
            got: Vec::with_capacity(2 * PAGE),
        }
    }

    /// Reads more bytes. Returns `false` at the end.
    async fn read(&mut self) -> bool {
        let read = timeout(PATIENCE, self.stream.read_buf(&mut self.got)).await;
        read.expect("the download goes on")
            .expect("nothing is lost")
            > 0
    }

    async fn read_until(&mut self, done: impl Fn(&[u8]) -> bool) {
        while !done(&self.got) {
            assert!(self.read().await, "over after {} bytes", self.got.len());
        }
    }

    async fn finish(mut self) {
        while self.read().await {}
        let head = self.got.windows(4).position(|four| four == b"\r\n\r\n");
        let body = &self.got[head.unwrap() + 4..];
        assert_eq!(body.len(), PAGE);
        assert_eq!(sha256(body), sha256(&content(self.seed, PAGE)));
    }
}

fn signal(net: &Testnet, relay: &RelayId, signal: Signal) {
    let nodes = net.json["nodes"].as_array().unwrap();
    let node = nodes
        .iter()
        .find(|node| node["identity"] == relay.to_string());
    let pid = node.expect("the relay is a node of the network")["pid"]
        .as_u64()
        .unwrap();
    kill_process(Pid::from_raw(pid as i32).unwrap(), signal).unwrap();
}

async fn circuit(client: &Client, server: SocketAddr, session: u64) -> std::sync::Arc<Circuit> {
    let isolation = Isolation::session(session);
    let target = ExitTarget::from(server);
    let circuit = client
        .circuits()
        .circuit_for(&isolation, target, &|_| false);
    circuit.await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leg_that_is_killed_or_hangs_costs_no_byte() {
    let net = Testnet::start(&[
        "--processes",
        "--relays",
        "12",
        "--exits",
        "3",
        "--bandwidth",
        "16mbit",
    ]);
    let server = http_server();
    let network = NetworkFile::parse(&std::fs::read_to_string(net.network_file()).unwrap());
    let client = Client::bootstrap(ClientOptions {
        multipath: Multipath::Always,
        ..ClientOptions::new(network.unwrap())
    });
    let client = client.await.unwrap();

    for (session, end) in [(1, Signal::STOP), (100, Signal::KILL)] {
        // A second leg needs the second guard, so the relay that stops must be no guard of this client.
        let mut tries = session..session + 50;
        let circuit = loop {
            let session = tries
                .next()
                .expect("few circuits have a guard in the middle");
            let circuit = circuit(&client, server, session).await;
            let is_middle = |guard: &GuardReport| guard.identity == circuit.hops()[1];
            if !client.circuits().guards().iter().any(is_middle) {
                break circuit;
            }
        };
        let mut download = Download::start(&circuit, server, session).await;
        download.read_until(|_| circuit.legs() == 2).await;
        let so_far = download.got.len();
        download
            .read_until(|got| got.len() > so_far + TOGETHER)
            .await;
        let victim = circuit.hops()[usize::from(end == Signal::STOP)];
        signal(&net, &victim, end);
        download.read_until(|_| circuit.legs() == 1).await;
        if end == Signal::STOP {
            // The second leg is the only one now, and gets another leg beside it, by another middle. Without its guard
            // it would get none.
            download.read_until(|_| circuit.legs() == 2).await;
        }
        assert!(!circuit.passes(&[victim]));
        download.finish().await;
        if end == Signal::STOP {
            signal(&net, &victim, Signal::CONT);
        }
    }
    client.shutdown().await;
}
