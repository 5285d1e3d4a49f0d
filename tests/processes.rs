//! Tests of a network of processes, some of which are killed.
#![allow(
    clippy::disallowed_methods,
    reason = "the test uses the real world: it stands outside of nodes"
)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::Duration;

use support::*;

#[test]
fn the_rest_goes_on_when_nodes_are_killed() {
    let _alone = alone();
    let net = Testnet::start(&["--processes"]);
    let server = http_server();
    let fetch = || {
        let got = net.curl(
            "socks5h",
            &["--max-time", "15", &format!("http://{server}/7/100000")],
        );
        // A download that is broken off must be an error.
        assert!(!got.status.success() || got.stdout == content(7, 100_000));
        got.status.success()
    };
    assert!(fetch());
    for victim in ["relay1", "exit1", "authority1", "relay2"] {
        net.kill(victim);
        until_ok(victim, Duration::from_secs(60), fetch);
    }
    // The authorities that are left go on: they make a newer consensus than any before the kill.
    let consensus = || {
        let file = net.network_file();
        let out = cepa()
            .args(["consensus", "--json", "--network", &file])
            .output()
            .unwrap();
        serde_json::from_slice::<serde_json::Value>(&out.stdout).ok()
    };
    until_ok("two of three sign", Duration::from_secs(60), || {
        consensus().is_some_and(|consensus| consensus["signatures"] == 2)
    });
    let pids = net.pids();
    assert!(net.stop().success());
    for pid in pids {
        assert!(
            !std::path::Path::new(&format!("/proc/{pid}")).exists(),
            "{pid} is left"
        );
    }
}

#[test]
fn a_command_runs_inside_and_gives_its_status() {
    let _alone = alone();
    let server = http_server();
    let script = format!(
        "test \"$ALL_PROXY\" = \"$HTTPS_PROXY\" && curl -sf --max-time 60 http://{server}/4/1000 | cmp - \"$0\" \
         && exit 7"
    );
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, content(4, 1000)).unwrap();
    let status = cepa()
        .args([
            "testnet",
            "--socks",
            "127.0.0.1:0",
            "--",
            "sh",
            "-c",
            &script,
        ])
        .arg(&file)
        .stderr(std::process::Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(7));
}
