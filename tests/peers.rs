//! Tests of the owner's choice of peers, on a whole network in one process.
#![allow(
    clippy::disallowed_methods,
    reason = "the test uses the real world: it stands outside of nodes"
)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::process::Output;

use cepa_client::path::{GeoIp, PeerLists, PeerRules, PeerSet};
use cepa_client::{Client, ClientError, ClientOptions};
use cepa_common::dir::NetworkFile;
use cepa_common::ids::RelayId;
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn client(net: &Testnet, peers: PeerRules) -> Result<Client, ClientError> {
    let text = std::fs::read_to_string(net.network_file()).unwrap();
    let mut options = ClientOptions::new(NetworkFile::parse(&text).unwrap());
    options.peers = peers;
    Client::bootstrap(options).await
}

async fn refused(net: &Testnet, peers: PeerRules) -> String {
    match client(net, peers).await {
        Err(error) => error.to_string(),
        Ok(_) => panic!("a client that has nothing to choose from started"),
    }
}

/// Traces a path. A trace tries one path once and fails if a relay does not know the newest relays yet, so this
/// function tries again.
async fn traced(client: &Client, target: Option<&str>) -> Vec<RelayId> {
    let mut tried = client.trace(target).await;
    for _ in 0..8 {
        if tried.is_ok() {
            break;
        }
        tried = client.trace(target).await;
    }
    let hops = tried.unwrap();
    hops.into_iter().map(|hop| hop.identity).collect()
}

/// Downloads `len` bytes through the network.
async fn fetch(client: &Client, target: &str, seed: u64, len: usize) -> Vec<u8> {
    let mut stream = client.connect(target).await.unwrap();
    let request = format!("GET /{seed}/{len} HTTP/1.1\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut got = Vec::new();
    stream.read_to_end(&mut got).await.unwrap();
    let head = got.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
    got.split_off(head + 4)
}

fn only(set: PeerSet) -> PeerLists {
    PeerLists {
        only: vec![set],
        ..Default::default()
    }
}

fn avoid(set: PeerSet) -> PeerLists {
    PeerLists {
        avoid: vec![set],
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_s_lists_hold() {
    let net = Testnet::start(&[]);
    let server = http_server().to_string();
    let plain = client(&net, PeerRules::default()).await.unwrap();
    let exit = *traced(&plain, Some(&server)).await.last().unwrap();
    plain.shutdown().await;

    // These rules keep the exit out of every position.
    let out = || avoid(PeerSet::Identity(exit));
    let rules = PeerRules {
        entry: out(),
        middle: out(),
        exit: out(),
        ..Default::default()
    };
    let without = client(&net, rules).await.unwrap();
    for _ in 0..12 {
        let hops = traced(&without, Some(&server)).await;
        assert!(!hops.contains(&exit), "{hops:?}");
    }
    without.shutdown().await;

    // These rules send one destination through one exit, leave the others as they are, and choose guards by another
    // list.
    let rule = format!("{server} only {exit}");
    let rules = PeerRules {
        entry: out(),
        destinations: vec![rule.parse().unwrap()],
        ..Default::default()
    };
    let special = client(&net, rules).await.unwrap();
    let mut others = Vec::new();
    for _ in 0..8 {
        assert_eq!(traced(&special, Some(&server)).await.last(), Some(&exit));
        others.extend(traced(&special, Some("127.0.0.1:9")).await.pop());
    }
    assert!(others.iter().any(|other| *other != exit));
    assert_eq!(fetch(&special, &server, 4, 1_000).await, content(4, 1_000));
    special.shutdown().await;

    // Lists that leave no relay are reported.
    let set: PeerSet = "192.0.2.1".parse().unwrap();
    let rules = PeerRules {
        exit: only(set),
        ..Default::default()
    };
    let text = refused(&net, rules).await;
    assert!(
        text.starts_with("client.exit_only = [192.0.2.1] leaves none of the ")
            && text.ends_with(" exits"),
        "{text}"
    );
    let geoip = GeoIp::open(
        &cepa_common::world::Disk::Real,
        "tests/reference/countries.mmdb".as_ref(),
    )
    .unwrap();
    let rules = PeerRules {
        entry: avoid("country:xx".parse().unwrap()),
        geoip: Some(geoip),
        ..Default::default()
    };
    let text = refused(&net, rules).await;
    assert!(
        text.starts_with("client.entry_avoid = [country:xx] leaves none of the "),
        "{text}"
    );

    // Paths have as many hops as the owner wants.
    for hops in [1, 2, 5] {
        let rules = PeerRules {
            hops,
            ..Default::default()
        };
        let client = client(&net, rules).await.unwrap();
        assert_eq!(
            traced(&client, Some(&server)).await.len(),
            usize::from(hops)
        );
        assert_eq!(
            fetch(&client, &server, 1, 200_000).await,
            content(1, 200_000),
            "{hops} hops"
        );
        client.shutdown().await;
    }

    paths_by_hand(&net);
    the_configuration_says_what_is_empty(&net);
    assert!(net.stop().success());
}

fn trace(net: &Testnet, path: &str) -> Output {
    cepa()
        .args(["trace", "--network", &net.network_file(), "--path", path])
        .output()
        .unwrap()
}

fn paths_by_hand(net: &Testnet) {
    let json = cepa()
        .args(["consensus", "--json", "--network", &net.network_file()])
        .output()
        .unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    let relays = json["relays"].as_array().unwrap();
    let text = |n: usize, key: &str| relays[n][key].as_str().unwrap().to_owned();
    // Relays are named by nickname or by the first digits, and used in the order that was asked for.
    let asked = [
        text(3, "nickname"),
        text(0, "identity").chars().take(16).collect(),
        text(5, "identity"),
        text(1, "nickname"),
        text(2, "nickname"),
    ];
    let expected: Vec<String> = [3, 0, 5, 1, 2].map(|n| text(n, "identity")).to_vec();
    for hops in [1, 3, 5] {
        let done = trace(net, &asked[..hops].join(","));
        let said = String::from_utf8(done.stdout).unwrap();
        let lines: Vec<&str> = said.lines().skip(1).collect();
        assert_eq!(
            lines.len(),
            hops,
            "{said}{}",
            String::from_utf8_lossy(&done.stderr)
        );
        for (line, identity) in lines.iter().zip(&expected) {
            assert!(line.contains(identity) && !line.contains("guard"), "{said}");
        }
    }
    for (path, expected) in [
        (format!("{},nobody", asked[0]), "\"nobody\""),
        (format!("{},", asked[0]), "\"\""),
        ([asked[0].as_str(); 6].join(","), "1 to 5 relays, not 6"),
    ] {
        let done = trace(net, &path);
        let said = String::from_utf8(done.stderr).unwrap();
        assert!(!done.status.success() && said.contains(expected), "{said}");
    }
}

fn the_configuration_says_what_is_empty(net: &Testnet) {
    let file = net.dir.path().join("client.toml");
    let fixture = std::fs::canonicalize("tests/reference/countries.mmdb").unwrap();
    for (line, expected) in [
        (
            "exit_only = [\"192.0.2.1\"]".to_owned(),
            "client.exit_only = [192.0.2.1] leaves none of the",
        ),
        (
            format!("middle_avoid = [\"country:xx\"]\ngeoip = {fixture:?}"),
            "client.middle_avoid = [country:xx] leaves none of the",
        ),
        ("geoip = \"missing.mmdb\"".to_owned(), "missing.mmdb"),
        (
            "exit_avoid = [\"country:xx\"]".to_owned(),
            "there is no client.geoip",
        ),
    ] {
        let network = net.network_file();
        let text = format!(
            "[network]\nfile = {network:?}\n[state]\ndir = \"lists\"\ncheck_permissions = false\n\
             [client]\nsocks = \"127.0.0.1:0\"\n{line}\n"
        );
        std::fs::write(&file, text).unwrap();
        let done = cepa()
            .args(["run", "--config"])
            .arg(&file)
            .output()
            .unwrap();
        let said = String::from_utf8(done.stderr).unwrap();
        assert!(!done.status.success() && said.contains(expected), "{said}");
    }
}
