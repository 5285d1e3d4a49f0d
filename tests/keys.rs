//! Tests of relays' keys as their owners handle them: replaced in time, kept off line, put into families.
#![allow(
    clippy::disallowed_methods,
    reason = "the test uses the real world: it stands outside of nodes"
)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::large_futures)]

mod support;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use cepa_common::cell::CELL_LEN;
use cepa_common::cell::codec::{self, CircuitCommand, Head};
use cepa_common::dir::Entry;
use cepa_common::handshake::{ClientHandshake, ClientParams, HandshakeContext, OnionPublicKey};
use cepa_common::ids::{CircId, RelayId};
use cepa_common::net::establish;
use cepa_common::net::tls::Tls;
use support::own::OwnNetwork;
use support::*;

const NETWORK: &str = "net/network.toml";

/// Fetches through the proxy at `socks`. Returns whether the bytes are those of the server.
fn fetches(socks: SocketAddr, server: SocketAddr, seed: u64) -> bool {
    let (mut stream, code) = socks5(socks, &LOOPBACK, server.port(), None);
    let mut got = Vec::new();
    code == 0
        && write!(stream, "GET /{seed}/200000 HTTP/1.1\r\n\r\n").is_ok()
        && stream.read_to_end(&mut got).is_ok()
        && got.ends_with(&content(seed, 200_000))
}

/// The identities of the hops of a new circuit; `None` if it was not built.
fn trace(own: &OwnNetwork) -> Option<Vec<String>> {
    let done = own.cepa(&["trace", "--network", NETWORK]);
    let text = String::from_utf8(done.stdout).unwrap();
    // The output is a head, then a line for each hop with the identity in it.
    let hops = text.lines().skip(1);
    let identity = |word: &&str| word.len() == 64;
    let hops = hops.map(|line| line.split_whitespace().find(identity).map(str::to_owned));
    hops.collect::<Option<Vec<_>>>()
        .filter(|hops| hops.len() == 3)
}

#[test]
fn an_identity_stays_off_line_and_its_relay_carries_traffic() {
    let _alone = alone();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(Box::pin(off_line()));
}

async fn off_line() {
    let mut own = OwnNetwork::start(&[]);
    // An identity, a family, and what they sign are made off line.
    let identity = own.says(&["keys", "identity", "--out", "willow.identity"]);
    let link = own.says(&["keys", "link", "--state", "willow"]);
    let certify = [
        "keys",
        "certify",
        "--identity",
        "willow.identity",
        "--network",
        NETWORK,
    ];
    own.says(
        &[
            &certify[..],
            &["--link", &link, "--days", "30", "--out", "1.certificate"],
        ]
        .concat(),
    );
    let install = ["keys", "install", "--state", "willow", "--network", NETWORK];
    own.says(&[&install[..], &["1.certificate"]].concat());
    std::fs::rename(own.path("willow.identity"), own.path("away")).unwrap();

    // There are three relays, so every circuit goes through each of them.
    own.relay("willow", &[]);
    own.relay(
        "elm",
        &["--exit", "--allow-private", "--policy", "accept *:*"],
    );
    let willow = RelayId::from_hex(&identity).unwrap();
    let entry = own.listed(willow, |entry| entry.weight > 0).await;
    assert_eq!(RelayId(entry.link_key()).to_string(), link);
    assert!(!std::path::Path::new(&own.path("willow/keys/identity")).exists());
    let oak = own.file.authorities()[0].identity;
    own.listed(oak, |entry| entry.weight > 0).await;
    let socks = own.proxy();
    let server = http_server();
    until_ok("a fetch", Duration::from_secs(60), || {
        fetches(socks, server, 1)
    });
    let mut hops = None;
    until_ok("a circuit", Duration::from_secs(60), || {
        hops = trace(&own);
        hops.is_some()
    });
    assert!(
        hops.unwrap().contains(&identity),
        "a circuit of all three relays has it"
    );

    // A renewed certificate is used without a restart, and traffic goes on.
    std::fs::rename(own.path("away"), own.path("willow.identity")).unwrap();
    own.says(
        &[
            &certify[..],
            &[
                "--renew",
                "1.certificate",
                "--days",
                "60",
                "--out",
                "2.certificate",
            ],
        ]
        .concat(),
    );
    own.says(&[&install[..], &["2.certificate"]].concat());
    until("the certificate", Duration::from_secs(30), async || {
        let log = own.log("willow");
        let is_renewed = log.contains("a renewed certificate");
        is_renewed.then_some(()).ok_or(log)
    })
    .await;
    assert!(fetches(socks, server, 2));

    families(&mut own, willow, &install).await;
}

/// Checks that two relays that join a family while they run are never in one circuit.
async fn families(own: &mut OwnNetwork, willow: RelayId, install: &[&str]) {
    own.relay(
        "ash",
        &["--exit", "--allow-private", "--policy", "accept *:*"],
    );
    let shown = own.cepa(&["keys", "show", "--state", "ash", "--network", NETWORK]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    let ash = shown.split_whitespace().nth(1).unwrap().to_owned();
    let family = own.says(&["keys", "family", "--out", "my.family"]);
    for (state, relay) in [("willow", willow.to_string()), ("ash", ash.clone())] {
        let file = format!("{state}.family");
        let join = [
            "keys",
            "join",
            "--family",
            "my.family",
            "--network",
            NETWORK,
        ];
        own.says(&[&join[..], &["--relay", &relay, "--out", &file]].concat());
        let state = [
            "keys",
            "install",
            "--state",
            state,
            "--network",
            NETWORK,
            &file,
        ];
        own.says(&state);
    }
    // A membership for another relay is not installed.
    assert!(
        !own.cepa(&[install, &["ash.family"]].concat())
            .status
            .success()
    );
    let ours = |entry: &Entry| {
        entry
            .family
            .is_some_and(|key| RelayId(key).to_string() == family)
    };
    own.listed(willow, ours).await;
    own.listed(RelayId::from_hex(&ash).unwrap(), ours).await;
    let mut seen = BTreeSet::new();
    for _ in 0..6 {
        let hops = trace(own).expect("a circuit");
        let both = hops.contains(&willow.to_string()) && hops.contains(&ash);
        assert!(!both, "two of one family in {hops:?}");
        seen.extend(hops);
    }
    assert!(seen.len() >= 3);
}

/// Makes a circuit of one hop by hand, with the onion key of `entry`.
async fn circuit(own: &OwnNetwork, entry: &Entry) -> Result<(), String> {
    let network = own.file.network_id();
    let context = HandshakeContext {
        network,
        relay: entry.identity,
        onion: OnionPublicKey {
            suite: entry.suite,
            key: entry.onion_key,
        },
    };
    let (handshake, message) =
        ClientHandshake::start(&context, ClientParams::default(), &mut rand::rng()).unwrap();
    let tls = Tls::client();
    let link = establish::dial_link(&entry.addresses, entry.link_key(), &tls, network, 0).await;
    let mut io = link.map_err(|error| error.to_string())?.io;
    let circ = CircId::new(CircId::DIALLER_BIT | 7).unwrap();
    io.write(&codec::create(circ, &message))
        .map_err(|error| error.to_string())?;
    io.flush().await.map_err(|error| error.to_string())?;
    let mut plain = io.take_plain();
    while plain.len() < CELL_LEN {
        io.ready().await.map_err(|error| error.to_string())?;
        if io.try_read(&mut plain).map_err(|error| error.to_string())? == Some(0) {
            return Err("the link has ended".to_owned());
        }
    }
    let cell = plain.first_chunk().unwrap();
    if codec::head(cell) != Ok(Head::Circuit(circ, CircuitCommand::Created)) {
        return Err("no CREATED".to_owned());
    }
    let reply = codec::parse_created(codec::body(cell)).unwrap();
    handshake
        .finish(reply)
        .map(drop)
        .map_err(|error| error.to_string())
}

#[test]
fn no_circuit_fails_while_onion_keys_are_replaced() {
    let _alone = alone();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(Box::pin(rotation()));
}

async fn rotation() {
    // Consensuses are valid for ten minutes, so what the first one lists is accepted for the whole test.
    let mut own = OwnNetwork::start(&[
        "onion_key_rotation_seconds=10",
        "consensus_valid_seconds=600",
    ]);
    own.relay("willow", &[]);
    own.relay(
        "elm",
        &["--exit", "--allow-private", "--policy", "accept *:*"],
    );
    until_ok("a circuit", Duration::from_secs(60), || {
        trace(&own).is_some()
    });
    let shown = own.cepa(&["keys", "show", "--state", "willow", "--network", NETWORK]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    let willow = RelayId::from_hex(shown.split_whitespace().nth(1).unwrap()).unwrap();

    let mut seen: Vec<Entry> = Vec::new();
    let (mut circuits, mut traces) = (0_usize, 0_usize);
    let mut was_restarted = false;
    let started = Instant::now();
    let mut pace = tokio::time::interval(Duration::from_millis(100));
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // The test sees four keys of this relay and, halfway, a restart that must lose none of them.
    while seen.len() < 4 {
        assert!(
            started.elapsed() < Duration::from_secs(120),
            "{} keys",
            seen.len()
        );
        let entry = own.listed(willow, |_| true).await;
        if !seen.iter().any(|old| old.onion_key == entry.onion_key) {
            seen.push(entry);
        }
        let restarting = seen.len() == 3 && !was_restarted;
        if restarting {
            was_restarted = true;
            own.stop("willow");
            own.relay_at(seen[0].addresses[0], "willow", &[]);
        }
        for entry in &seen {
            let made = circuit(&own, entry).await;
            made.unwrap_or_else(|error| panic!("{error} with a listed key"));
            circuits += 1;
        }
        // A client takes seconds to start and to stop, so there is one for each key. A relay that has just been
        // restarted knows its own keys at once, and its neighbours only with its first consensus.
        if traces < seen.len() {
            let patience = Duration::from_secs(if restarting { 30 } else { 0 });
            until_ok("a circuit", patience, || trace(&own).is_some());
            traces += 1;
        }
        // The load is ten rounds of handshakes a second at most.
        pace.tick().await;
    }
    assert!(circuits >= 10, "{circuits} handshakes");
}
