//! Tests that authorities measure what relays carry, whatever the relays claim.
#![allow(
    clippy::disallowed_methods,
    reason = "the test uses the real world: it stands outside of nodes"
)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::net::TcpListener;
use std::process::{Child, Stdio};
use std::time::Duration;

use support::*;

/// What the relay may carry, and what it claims (KiB a second).
const LIMIT_KIB: u64 = 1_000;
const CLAIM_KIB: u64 = 20_000;

/// A relay of the network in a process of its own. The process ends when its standard input is closed.
struct Boaster(Child);

impl Boaster {
    fn start(net: &Testnet) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let dir = net.dir.path();
        let config = dir.join("boaster.toml");
        let text = format!(
            "[network]\nfile = {network:?}\n\
             [state]\ndir = {state:?}\ncheck_permissions = false\n\
             [relay]\nlisten = \"{address}\"\nnickname = \"boaster\"\nclaim_kib = {CLAIM_KIB}\n\
             [limits]\nthreads = 1\nbandwidth_kib = {LIMIT_KIB}\n",
            network = net.network_file(),
            state = dir.join("boaster").display().to_string(),
        );
        std::fs::write(&config, text).unwrap();
        let child = cepa()
            .args(["run", "--exit-with-stdin", "--config"])
            .arg(&config)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }
}

impl Drop for Boaster {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// The relay's weight in the consensus.
fn weight(net: &Testnet, nickname: &str) -> Option<u64> {
    let file = net.network_file();
    let out = cepa()
        .args(["consensus", "--json", "--network", &file])
        .output()
        .unwrap();
    let json: serde_json::Value = serde_json::from_slice(&out.stdout).ok()?;
    let relays = json["relays"].as_array()?;
    let relay = relays.iter().find(|relay| relay["nickname"] == nickname)?;
    relay["weight"].as_u64()
}

#[test]
fn a_relay_that_boasts_comes_down_to_what_it_carries() {
    let _alone = alone();
    let net = Testnet::start(&["--measure", "--relays", "5", "--exits", "2"]);
    let boaster = Boaster::start(&net);
    let minute = Duration::from_secs(60);
    until_ok("it is listed with its claim", 2 * minute, || {
        weight(&net, "boaster") == Some(CLAIM_KIB)
    });
    // A relay of the test network claims 10,000 if nothing else is set.
    until_ok("the others are measured", 4 * minute, || {
        weight(&net, "exit1").is_some_and(|weight| weight != 10_000)
    });
    // While all authorities take the relay for fast and lead their downloads through it, each of them sees only a part
    // of what the relay carries.
    until_ok("the boaster is measured", 4 * minute, || {
        let about = LIMIT_KIB / 5..=LIMIT_KIB * 12 / 10;
        weight(&net, "boaster").is_some_and(|weight| about.contains(&weight))
    });
    drop(boaster);
    assert!(net.stop().success());
}
