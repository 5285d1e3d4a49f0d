//! `cepa status` of each kind of node, in a network of processes, and what others of this machine get from the socket.
#![allow(
    clippy::disallowed_methods,
    reason = "the test uses the real world: it stands outside of nodes"
)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;
use support::*;

/// A user that is neither root nor who runs the tests.
const NOBODY: &str = "65534";

/// The state directory of a node.
fn state(net: &Testnet, name: &str) -> PathBuf {
    let config = net.node(name)["config"].as_str().unwrap();
    let config: toml::Table = std::fs::read_to_string(config).unwrap().parse().unwrap();
    PathBuf::from(config["state"]["dir"].as_str().unwrap())
}

/// Runs `cepa status` with these arguments, where nodes say that they run in `running`.
fn status(running: &Path, args: &[&str]) -> Output {
    let mut command = cepa();
    command.arg("status").args(args);
    command.env("XDG_RUNTIME_DIR", running).env("HOME", running);
    command.env_remove("XDG_STATE_HOME").output().unwrap()
}

fn text(output: &Output) -> String {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let wide = text.lines().find(|line| line.chars().count() > 80);
    // A path is as long as it is.
    assert!(wide.is_none_or(|line| line.contains("--state")), "{text}");
    text
}

/// What the node says, as the command prints it, in words and in JSON.
fn both(net: &Testnet, name: &str) -> (String, Value) {
    let dir = state(net, name);
    let dir = dir.to_str().unwrap();
    let said = status(Path::new("/nonexistent"), &["--state", dir]);
    let json = status(Path::new("/nonexistent"), &["--state", dir, "--json"]);
    assert!(json.stderr.is_empty(), "{json:?}");
    (text(&said), serde_json::from_slice(&json.stdout).unwrap())
}

/// What the node answers to these bytes.
fn raw(dir: &Path, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(dir.join("control.sock")).unwrap();
    let patience = Some(Duration::from_secs(60));
    stream.set_read_timeout(patience).unwrap();
    stream.write_all(bytes).unwrap();
    let mut got = String::new();
    let _ = stream.read_to_string(&mut got);
    got
}

const ASK: &[u8] = b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

#[test]
fn every_kind_of_node_says_how_it_does() {
    let _alone = alone();
    let net = Testnet::start(&["--processes"]);
    let server = http_server();
    let url = format!("http://{server}/7/5000000");
    assert_eq!(net.curl("socks5h", &[&url]).stdout.len(), 5_000_000);

    let (said, client) = both(&net, "client");
    assert!(said.starts_with("client      ready (100 %)"), "{said}");
    assert_eq!(client["roles"], serde_json::json!(["client"]));
    assert_eq!(client["relay"], Value::Null);
    assert!(client["client"]["built"].as_u64().unwrap() > 0);

    // Some exit has carried it: five megabytes in and out, which are told in whole MiB.
    let exits = ["exit1", "exit2", "exit3"];
    until_ok("an exit tells of it", Duration::from_secs(60), || {
        exits.iter().any(|exit| {
            let (_, json) = both(&net, exit);
            let sent = json["relay"]["carried"]["sent_bytes"].as_u64().unwrap();
            assert_eq!(sent % (1 << 20), 0);
            sent >= 5_000_000 - (1 << 20)
        })
    });
    until_ok("the exit is listed", Duration::from_secs(60), || {
        both(&net, "exit1").1["relay"]["listing"]["state"] == "reachable"
    });
    let (said, exit) = both(&net, "exit1");
    assert!(
        said.starts_with("relay, exit exit1 listens on 127.0.0.1:"),
        "{said}"
    );
    assert!(
        said.contains("\nnetwork     listed, and most authorities reach it\n"),
        "{said}"
    );
    assert_eq!(exit["roles"], serde_json::json!(["relay", "exit"]));
    let relay = &exit["relay"];
    assert_eq!(relay["nickname"], "exit1");
    assert!(relay["links"]["relays"].is_u64() && relay["exit"]["streams"].is_u64());
    assert!(relay["keys"]["onion"][0]["made"].as_u64().unwrap() > 0);
    let flags = relay["listing"]["flags"].as_array().unwrap();
    assert!(flags.iter().any(|flag| flag == "Exit"), "{flags:?}");
    let limits = relay["limits"].as_array().unwrap();
    assert!(
        limits
            .iter()
            .any(|limit| limit["key"] == "limits.memory_mib")
    );

    until_ok("a consensus is served", Duration::from_secs(60), || {
        both(&net, "authority1").1["authority"]["newest"].is_object()
    });
    let (said, authority) = both(&net, "authority1");
    assert!(said.contains("\nauthority   authority1\n"), "{said}");
    assert_eq!(
        authority["roles"],
        serde_json::json!(["relay", "authority"])
    );
    assert_eq!(authority["authority"]["votes"]["authorities"], 3);
    assert_eq!(authority["authority"]["signatures"]["needed"], 2);
    let known = authority["authority"]["relays"]["known"].as_u64().unwrap();
    assert!(known >= 8, "{known}");

    // Nothing that was asked for, and nobody who asked, is in any of it.
    for name in ["exit1", "exit2", "exit3", "authority1", "client"] {
        let (said, json) = both(&net, name);
        let port = server.port().to_string();
        for told in [said, json.to_string()] {
            assert!(!told.contains(&port), "{name} tells of port {port}: {told}");
        }
    }
    // What the command prints is what the node answers.
    let dir = state(&net, "relay1");
    let answer = raw(&dir, ASK);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    let json: Value = serde_json::from_str(body).unwrap();
    let keys = |value: &Value| {
        value["relay"]
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(keys(&json), keys(&both(&net, "relay1").1));
    assert!(net.stop().success());
    assert!(!dir.join("control.sock").exists(), "left behind");
}

#[test]
fn of_several_nodes_each_is_shown_and_the_client_is_found() {
    let _alone = alone();
    let running = tempfile::tempdir().unwrap();
    let net = Testnet::start_with(&["--processes"], |command| {
        command.env("XDG_RUNTIME_DIR", running.path());
    });
    let links = || std::fs::read_dir(running.path().join("cepa")).map_or(0, |dir| dir.count());
    assert_eq!(links(), 12);
    let said = text(&status(running.path(), &[]));
    assert!(said.starts_with("12 nodes run here:\n"), "{said}");
    for name in ["relay1", "exit3", "authority2", "client"] {
        let flag = format!("    --state {}\n", state(&net, name).display());
        assert!(said.contains(&flag), "{said}");
    }
    let refused = status(running.path(), &["--json"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(refused.stdout.is_empty());
    let hint = String::from_utf8(refused.stderr).unwrap();
    assert!(
        hint.contains("12 nodes run here") && hint.contains("--state"),
        "{hint}"
    );
    // There is one client among them, which commands for clients find.
    let mut renew = cepa();
    renew.arg("new-identity");
    renew.env("XDG_RUNTIME_DIR", running.path());
    renew.env("HOME", running.path());
    let renewed = renew.output().unwrap();
    assert!(renewed.status.success(), "{renewed:?}");
    // A relay has no identity to renew.
    let relay = state(&net, "relay1");
    let refused = cepa()
        .args(["new-identity", "--state"])
        .arg(&relay)
        .output()
        .unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(said.contains("this node is no client"), "{said}");
    assert!(net.stop().success());
    assert_eq!(links(), 0);
}

#[test]
fn another_user_and_local_mischief_get_nothing() {
    let _alone = alone();
    let net = Testnet::start(&["--processes"]);
    let dir = state(&net, "relay1");
    let answers = || assert!(raw(&dir, ASK).starts_with("HTTP/1.1 200 OK"));
    // Connections that say nothing, half of something, and what a page would say.
    let silent: Vec<_> = (0..200)
        .map(|_| UnixStream::connect(dir.join("control.sock")).unwrap())
        .collect();
    answers();
    for field in ["Origin: http://localhost", "Sec-Fetch-Site: none"] {
        let ask = format!(
            "GET /v1/status HTTP/1.1\r\nHost: localhost\r\n{field}\r\nConnection: close\r\n\r\n"
        );
        let answer = raw(&dir, ask.as_bytes());
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
        assert!(!answer.contains("relay1"), "{answer}");
    }
    let rebound = b"GET /v1/status HTTP/1.1\r\nHost: rebound.example\r\nConnection: close\r\n\r\n";
    assert!(raw(&dir, rebound).starts_with("HTTP/1.1 403 "));
    drop(silent);
    answers();
    if !rustix::process::getuid().is_root() {
        eprintln!("not tried as another user, as this is not root");
        return;
    }
    // Not even where the file system lets everybody through.
    let socket = dir.join("control.sock");
    for open in [false, true] {
        if open {
            std::fs::set_permissions(&socket, PermissionsExt::from_mode(0o666)).unwrap();
            let mut above = dir.as_path();
            while above != Path::new("/tmp") && above != Path::new("/") {
                let mode = std::fs::metadata(above).unwrap().permissions().mode();
                std::fs::set_permissions(above, PermissionsExt::from_mode(mode | 0o055)).unwrap();
                above = above.parent().unwrap();
            }
        }
        let asked = Command::new("setpriv")
            .args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--"])
            .args([env!("CARGO_BIN_EXE_cepa"), "status", "--json", "--state"])
            .arg(&dir)
            .output()
            .expect("setpriv is installed");
        assert_eq!(asked.status.code(), Some(1), "{asked:?}");
        assert!(asked.stdout.is_empty(), "{asked:?}");
        let said = String::from_utf8(asked.stderr).unwrap();
        assert!(said.contains("is another user's"), "{said}");
        answers();
    }
    assert!(net.stop().success());
}
