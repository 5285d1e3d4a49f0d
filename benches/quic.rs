//! QUIC beside TCP through a network whose links take 30 ms, without loss and with 1 %: seconds for 10 MB.
//!
//!     cargo bench --bench quic
//!
//! Both fetch the same bytes by the same port of the same client, in turns. TCP is one HTTP/1.1 request by SOCKS CONNECT;
//! QUIC is one HTTP/3 request by quinn over SOCKS UDP ASSOCIATE. Loss is that of a link's TCP: what is behind a lost
//! segment waits a round trip. docs/udp.md has the figures.
#![allow(
    clippy::disallowed_methods,
    reason = "the bench uses the real world: it stands outside of nodes"
)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

#[path = "../tests/support/quic.rs"]
mod quic;
#[path = "../tests/support/mod.rs"]
mod support;

use std::time::Instant;

use quic::{Http3Server, Shim};
use support::*;

/// What is fetched.
const BYTES: usize = 10_000_000;
/// How often each way fetches it; the median counts.
const ROUNDS: usize = 5;

fn main() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    println!(
        "{:>6} {:>12} {:>12}   s for 10 MB, medians of {ROUNDS}",
        "loss", "TCP", "QUIC"
    );
    for loss in ["0%", "1%"] {
        let (tcp, quic) = runtime.block_on(compare(loss));
        println!("{loss:>6} {tcp:>12.2} {quic:>12.2}");
    }
}

async fn compare(loss: &str) -> (f64, f64) {
    let server = Http3Server::start(content(1, BYTES).into());
    let pages = http_server();
    let net = Testnet::start(&["--delay", "30ms", "--loss", loss]);
    let (mut by_tcp, mut by_quic) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let started = Instant::now();
        let got = net.curl("socks5h", &[&format!("http://{pages}/1/{BYTES}")]);
        assert_eq!(got.stdout.len(), BYTES, "{got:?}");
        by_tcp.push(started.elapsed().as_secs_f64());

        let shim = Shim::start(net.socks(), server.address).await;
        let started = Instant::now();
        assert_eq!(server.fetch_at(shim.address).await.len(), BYTES);
        by_quic.push(started.elapsed().as_secs_f64());
        shim.stop().await;
    }
    assert!(net.stop().success());
    (median(by_tcp), median(by_quic))
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}
