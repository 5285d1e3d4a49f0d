//! A test of a network of one's own, from its founding through all changes of its authorities. The test takes the steps
//! of docs/own-network.md as its readers type them, while a client that holds the first file goes on.
#![allow(
    clippy::disallowed_methods,
    reason = "the test uses the real world: it stands outside of nodes"
)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use support::*;

/// The longest time to wait until a change is seen. Intervals are two seconds.
const SOON: Duration = Duration::from_secs(90);

/// Parameters that make intervals short and allow loopback addresses.
const PARAMS: [&str; 9] = [
    "vote_interval_seconds=2",
    "subnet_rule=0",
    "allow_private_addresses=1",
    "max_relays_per_address=100",
    "max_links_per_address=1000",
    "consensus_valid_seconds=600",
    "reachability_interval_seconds=4",
    "stable_min_age_seconds=0",
    "guard_min_age_seconds=0",
];

/// A port of this machine that is free.
fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

/// A process that ends when this value is dropped.
struct Process(Child);

impl Process {
    fn start(command: &mut Command, log: &Path) -> Self {
        let log = File::create(log).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        Self(child.unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A directory with everything that the operators have.
struct World {
    dir: tempfile::TempDir,
}

impl World {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs a command line, split into words. Words that begin with `@` are files of this directory.
    fn run(&self, line: &str) -> Output {
        let words = line
            .split_whitespace()
            .map(|word| match word.strip_prefix('@') {
                Some(name) => self.path(name).to_str().unwrap().to_owned(),
                None => word.to_owned(),
            });
        cepa().args(words).output().unwrap()
    }

    fn ok(&self, line: &str) -> String {
        let out = self.run(line);
        assert!(
            out.status.success(),
            "{line}: {}",
            String::from_utf8_lossy(&out.stderr)
        );
        String::from_utf8(out.stdout).unwrap()
    }

    fn refused(&self, line: &str) -> String {
        let out = self.run(line);
        assert_eq!(out.status.code(), Some(1), "{line}");
        String::from_utf8_lossy(&out.stderr).into_owned()
    }

    fn authority(&self, name: &str) -> Process {
        let config = self.path(name).join("node.toml");
        let log = self.path(&format!("{name}.log"));
        Process::start(cepa().arg("run").arg("--config").arg(config), &log)
    }

    fn relay(&self, name: &str) -> Process {
        let listen = free_port().to_string();
        let mut command = cepa();
        command.args(["relay", "--exit", "--allow-private", "--listen", &listen]);
        command.args(["--nickname", name, "--network"]);
        command.arg(self.path("network.toml"));
        command.arg("--state").arg(self.path(name));
        Process::start(&mut command, &self.path(&format!("{name}.log")))
    }

    fn install(&self, file: &str, authorities: &[&str]) {
        for name in authorities {
            // The file is replaced whole or not at all, as a careful operator does it.
            let new = self.path(name).join("new");
            std::fs::copy(self.path(file), &new).unwrap();
            std::fs::rename(new, self.path(name).join("network.toml")).unwrap();
        }
    }

    fn consensus(&self, network: &str) -> Option<Value> {
        let out = self.run(&format!(
            "consensus --json --network @{network} --out @consensus"
        ));
        serde_json::from_slice(&out.stdout).ok()
    }

    fn until(&self, what: &str, network: &str, holds: impl Fn(&Value) -> bool) {
        let mut last = None;
        let started = std::time::Instant::now();
        loop {
            if let Some(consensus) = self.consensus(network) {
                if holds(&consensus) {
                    return;
                }
                last = Some(consensus);
            }
            assert!(started.elapsed() < SOON, "{what}: {last:#?}");
        }
    }
}

fn names(value: &Value) -> Vec<&str> {
    let list = value.as_array().unwrap().iter();
    list.map(|name| name.as_str().unwrap()).collect()
}

#[test]
fn authorities_come_and_go_and_a_client_goes_on() {
    let _alone = alone();
    let world = World {
        dir: tempfile::tempdir().unwrap(),
    };

    // There are three authorities, whose long-term keys are off line.
    let mut init = "authority init --dir @. --name mynet --offline-keys @offline".to_owned();
    for name in ["oak", "elm", "ash"] {
        init += &format!(" --authority {name}={}", free_port());
    }
    for param in PARAMS {
        init += &format!(" --param {param}");
    }
    world.ok(&init);
    let mut nodes = ["oak", "elm", "ash"].map(|name| Some(world.authority(name)));
    let _relays = ["willow", "alder"].map(|name| world.relay(name));
    world.until("three sign", "network.toml", |consensus| {
        consensus["signatures"] == 3 && consensus["relays"].as_array().unwrap().len() == 5
    });

    // This client is never given another file.
    let (socks, server) = (free_port(), http_server());
    std::fs::copy(world.path("network.toml"), world.path("first.toml")).unwrap();
    let mut proxy = cepa();
    proxy.args(["proxy", "--allow-private", "--socks", &socks.to_string()]);
    proxy.arg("--network").arg(world.path("first.toml"));
    proxy.arg("--state").arg(world.path("client"));
    let client = Process::start(&mut proxy, &world.path("client.log"));
    let fetch = || {
        let url = format!("http://{server}/7/50000");
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--fail", "--max-time", "15", "--proxy"]);
        let got = curl.arg(format!("socks5h://{socks}")).arg(url).output();
        got.is_ok_and(|got| got.status.success() && got.stdout == content(7, 50_000))
    };
    until_ok("a first fetch", SOON, fetch);

    // A fourth authority is added. Signatures of two of three and two of four are too few.
    world.ok(&format!(
        "authority key --dir @. --name fir --address {}",
        free_port()
    ));
    world.ok("network draft --from @network.toml --add @fir/entry.toml --effective-in 12s --out @draft.toml");
    world.ok("network sign @draft.toml --key @fir/state/keys/authority");
    world.ok("network sign @draft.toml --key @offline/oak");
    let finish =
        "network finish @draft.toml @copy.toml --network @network.toml --out @network-1.toml";
    std::fs::copy(world.path("draft.toml"), world.path("copy.toml")).unwrap();
    let lack = world.refused(finish);
    assert!(
        lack.contains("its own authorities: 2 signed, 3 needed; missing: "),
        "{lack}"
    );
    assert!(
        lack.contains("the authorities before: 1 signed, 2 needed; missing: "),
        "{lack}"
    );
    world.ok("network sign @copy.toml --key @offline/elm");
    world.ok(finish);
    world.ok("network verify @network-1.toml --network @network.toml");
    world.install("network-1.toml", &["oak", "elm", "ash", "fir"]);
    let _fir = world.authority("fir");
    world.until("four sign", "network-1.toml", |consensus| {
        consensus["authorities"] == 4 && consensus["signatures"] == 4
    });
    assert!(
        fetch() || fetch(),
        "the client goes on with four authorities"
    );

    // An authority whose keys are lost is removed: the other three of four sign.
    nodes[2].take();
    world.ok(
        "network draft --from @network-1.toml --remove ash --effective-in 8s --out @draft-2.toml",
    );
    for key in ["offline/oak", "offline/elm", "fir/state/keys/authority"] {
        world.ok(&format!(
            "network sign @draft-2.toml --key @{key} --network @network-1.toml"
        ));
    }
    world.ok("network finish @draft-2.toml --network @network-1.toml --out @network-2.toml");
    world.install("network-2.toml", &["oak", "elm", "fir"]);
    world.until(
        "the three that are left sign",
        "network-2.toml",
        |consensus| consensus["authorities"] == 3 && consensus["signatures"] == 3,
    );
    let consensus = world.consensus("network-2.toml").unwrap();
    let mut signed = names(&consensus["signed_by"]);
    signed.sort_unstable();
    assert_eq!(signed, ["elm", "fir", "oak"]);

    // The signing key of one authority is rotated while it runs.
    let certified = || {
        let out = world.run("consensus verify @consensus --network @network-2.toml --json");
        let verdict: Value = serde_json::from_slice(&out.stdout).unwrap();
        let list = verdict["signatures"].as_array().unwrap().clone();
        let oak = list
            .iter()
            .find(|s| s["authority"] == "oak")
            .unwrap()
            .clone();
        assert_eq!(oak["verdict"], "good");
        oak["certified_until"].clone()
    };
    let before = certified();
    assert!(before.is_string());
    world.ok("authority certify --key @offline/oak --network @network-2.toml --days 30 --out @oak/state/keys");
    world.until("a renewed key signs", "network-2.toml", |_| {
        certified() != before
    });

    // The saved document verifies off line, for this network only, and at its time only.
    let verify = "consensus verify @consensus --network";
    assert!(
        world
            .ok(&format!("{verify} @network-2.toml"))
            .starts_with("good")
    );
    let late = world.run(&format!(
        "{verify} @network-2.toml --at 2100-01-01T00:00:00Z"
    ));
    assert_eq!(late.status.code(), Some(1));

    // The client with the first file has found its way to the last one by itself.
    until_ok("the client holds revision 2", SOON, || {
        let log = std::fs::read_to_string(world.path("client.log")).unwrap();
        log.contains("revision 2 of the network is in use")
    });
    assert!(
        fetch() || fetch(),
        "the client goes on with the newest authorities"
    );
    // The client keeps that revision across a restart.
    drop(client);
    let _client = Process::start(&mut proxy, &world.path("again.log"));
    until_ok("the restarted client begins with revision 2", SOON, || {
        let log = std::fs::read_to_string(world.path("again.log")).unwrap();
        log.contains("goes on with a later revision") && fetch()
    });
}

#[test]
fn three_operators_found_a_network_together() {
    let world = World {
        dir: tempfile::tempdir().unwrap(),
    };
    for name in ["oak", "elm", "ash"] {
        world.ok(&format!(
            "authority key --dir @. --name {name} --address {}",
            free_port()
        ));
        assert!(
            !world
                .run(&format!(
                    "authority key --dir @. --name {name} --address 127.0.0.1:1"
                ))
                .status
                .success()
        );
    }
    let adds = ["oak", "elm", "ash"].map(|name| format!(" --add @{name}/entry.toml"));
    world.ok(&format!(
        "network draft --name mynet{} --out @draft.toml",
        adds.concat()
    ));
    for name in ["oak", "elm"] {
        std::fs::copy(
            world.path("draft.toml"),
            world.path(&format!("{name}.toml")),
        )
        .unwrap();
        world.ok(&format!(
            "network sign @{name}.toml --key @{name}/state/keys/authority"
        ));
    }
    let few = world.refused("network finish @oak.toml --out @network.toml");
    assert!(
        few.contains("missing: ") && few.contains("elm") && few.contains("ash"),
        "{few}"
    );
    world.ok("network finish @oak.toml @elm.toml --out @network.toml");
    let shown = world.ok("network show @network.toml --json");
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["revision"], 0);
    assert_eq!(names(&shown["signed"]["missing"]), ["ash"]);
    world.ok("network verify @network.toml");
    // An edited file is not the network's any more.
    let text = std::fs::read_to_string(world.path("network.toml")).unwrap();
    std::fs::write(world.path("edited.toml"), text.replace("mynet", "yournet")).unwrap();
    assert_eq!(
        world.run("network verify @edited.toml").status.code(),
        Some(1)
    );
    // A stranger's key cannot sign.
    world.ok("authority key --dir @. --name fir --address 127.0.0.1:9");
    world.refused("network sign @draft.toml --key @fir/state/keys/authority");
}
