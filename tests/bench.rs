//! Tests of `cepa bench` from outside: its rows, its ratios, its page.
#![allow(
    clippy::disallowed_methods,
    reason = "the test uses the real world: it stands outside of nodes"
)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use serde_json::Value;
use support::*;

#[test]
fn a_short_run_gives_rows_with_ratios_and_a_page() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let page = dir.path().join("bench.html");
    let got = cepa()
        .args([
            "bench",
            "--duration",
            "200ms",
            "--json",
            "-",
            "--relays",
            "3",
        ])
        .args([
            "--only",
            "memory-idle,plain-down-1,down-1,up-1,first-byte-ready,udp-echo,udp-echo-loaded,udp-echo-other,\
             udp-bytes-64,udp-bytes-9000",
        ])
        .arg("--html")
        .arg(&page)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&got.stderr);
    assert!(got.status.success(), "{said}");
    let report: Value = serde_json::from_slice(&got.stdout).unwrap();
    assert_eq!(report["format"], 1);
    assert_eq!(report["complete"], true);
    let rows = report["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 10);
    let value = |id: &str, name: &str| {
        let row = rows.iter().find(|row| row["id"] == id).unwrap();
        let values = row["values"].as_array().unwrap();
        let value = values.iter().find(|value| value["name"] == name);
        value.unwrap_or_else(|| panic!("{id} has no {name}: {row}"))["value"]
            .as_f64()
            .unwrap()
    };
    for (id, name) in [
        ("memory-idle", "relay.rss"),
        ("memory-idle", "client.pss"),
        ("plain-down-1", "rate"),
        ("down-1", "rate"),
        ("down-1", "rate.of_plain"),
        ("up-1", "rate"),
        ("first-byte-ready", "p50"),
        ("udp-echo", "p50"),
        ("udp-echo-loaded", "p99"),
        ("udp-echo-loaded", "beside"),
        ("udp-echo-other", "beside"),
        ("udp-bytes-9000", "arrived"),
    ] {
        assert!(value(id, name) > 0.0, "{id} {name}");
    }
    // Cells cost more than the datagrams in them, small ones most, and no link carries everything twice.
    let (small, large) = (
        value("udp-bytes-64", "each_link"),
        value("udp-bytes-9000", "each_link"),
    );
    assert!((1.06..1.5).contains(&large), "{large}");
    assert!(small > large, "{small}, {large}");
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains("<dt>1 download<dd>") && page.contains("</dl>"));
}

#[test]
fn rows_that_are_not_there_are_refused_with_the_list() {
    let got = cepa().args(["bench", "--only", "down-7"]).output().unwrap();
    assert_eq!(got.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&got.stderr).contains("down-50"));
}
