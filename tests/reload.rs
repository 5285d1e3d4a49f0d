//! Tests of a network of processes, whose owner changes the configuration of a node that runs.
#![allow(
    clippy::disallowed_methods,
    reason = "the test uses the real world: it stands outside of nodes"
)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use support::*;

/// What a node does within some seconds takes no longer than this on a busy machine.
const SOON: Duration = Duration::from_secs(60);

/// A server that says everything back.
fn echo_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            std::thread::spawn(move || {
                let mut bytes = [0; 64];
                while let Ok(read @ 1..) = stream.read(&mut bytes) {
                    if stream.write_all(&bytes[..read]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// A stream to the server through the network.
fn reach(net: &Testnet, server: SocketAddr) -> TcpStream {
    let (stream, reply) = socks5(net.socks(), &LOOPBACK, server.port(), None);
    assert_eq!(reply, 0);
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream
}

/// Do bytes go to the server and back?
fn answers(stream: &mut TcpStream) -> bool {
    let mut answer = [0; 4];
    stream.write_all(b"ping").is_ok()
        && stream.read_exact(&mut answer).is_ok()
        && answer == *b"ping"
}

/// A node of a network of processes, with its file as it was at first.
struct Node<'a> {
    net: &'a Testnet,
    name: &'a str,
    file: PathBuf,
    text: String,
}

impl<'a> Node<'a> {
    fn of(net: &'a Testnet, name: &'a str) -> Self {
        let file = PathBuf::from(net.node(name)["config"].as_str().unwrap());
        let text = std::fs::read_to_string(&file).unwrap();
        Self {
            net,
            name,
            file,
            text,
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.net.node(self.name)["log"].as_str().unwrap()).unwrap()
    }

    /// Puts a file with other values of keys in place of the node's, at once and whole.
    fn write(&self, values: &[(&str, &str)]) {
        let mut text = self.text.clone();
        for (key, value) in values {
            let line = text
                .lines()
                .find(|line| line.starts_with(&format!("{key} = ")));
            let line = line
                .unwrap_or_else(|| panic!("{key} is in {text}"))
                .to_owned();
            text = text.replacen(&line, &format!("{key} = {value}"), 1);
        }
        self.write_text(&text);
    }

    fn write_text(&self, text: &str) {
        let new = self.file.with_extension("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, &self.file).unwrap();
    }

    fn hang_up(&self) {
        let pid = self.net.node(self.name)["pid"].as_u64().unwrap();
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    }

    /// Waits until the log has said this so often.
    fn until_said(&self, what: &str, times: usize) {
        until_ok(
            &format!("{} says {what:?} {times} times", self.name),
            SOON,
            || self.log().matches(what).count() >= times,
        );
    }
}

/// A small network with one exit, a process for each node.
fn processes() -> Testnet {
    let few = ["--authorities", "1", "--relays", "4", "--exits", "1"];
    Testnet::start(&[&["--processes"][..], &few].concat())
}

fn rejecting(port: u16) -> String {
    format!("[\"reject *:{port}\", \"accept *:*\"]")
}

#[test]
fn a_file_that_changes_changes_the_node_and_a_bad_one_nothing() {
    let _alone = alone();
    let net = processes();
    let exit = Node::of(&net, "exit1");
    let (kept, refused) = (echo_server(), echo_server());
    let mut going = reach(&net, kept);
    let mut ending = reach(&net, refused);
    assert!(answers(&mut going) && answers(&mut ending));

    // A signal has the file read at once.
    exit.write(&[
        ("policy", &rejecting(refused.port())),
        ("connections", "77"),
        ("threads", "2"),
    ]);
    exit.hang_up();
    exit.until_said("limits.connections has changed from 4096 to 77", 1);
    exit.until_said("exit.policy has changed", 1);
    exit.until_said("limits.threads changes from 1 to 2 with a restart only", 1);
    exit.until_said("the exit's policy has ended 1 stream", 1);
    assert!(!answers(&mut ending) && answers(&mut going));

    // A bad file changes nothing, and the report says which line. It is a whole file with one wrong value more.
    exit.write(&[
        ("policy", "[\"accept *:*\", \"rejct *:1\"]"),
        ("connections", "78"),
    ]);
    let state = exit.file.with_file_name("state");
    let mut reload = cepa();
    let refused_file = reload
        .args(["reload", "--json", "--state"])
        .arg(&state)
        .output()
        .unwrap();
    assert_eq!(refused_file.status.code(), Some(1), "{refused_file:?}");
    let report: serde_json::Value = serde_json::from_slice(&refused_file.stdout).unwrap();
    assert!(
        report["refused"]["what"]
            .as_str()
            .unwrap()
            .contains("rejct"),
        "{report}"
    );
    assert_eq!(report["changed"], serde_json::json!([]));
    exit.until_said("nothing has changed", 1);
    let log = exit.log();
    let said = log
        .lines()
        .find(|line| line.contains("nothing has changed"));
    let said = said.unwrap();
    assert!(
        said.contains("exit.policy (line ") && said.contains("rejct"),
        "{said}"
    );
    assert!(answers(&mut going) && !log.contains("to 78"));

    // What is looked at by itself is taken once it is whole: the half of a file, written in place, changes nothing
    // while it grows.
    let whole = exit
        .text
        .replacen("connections = 4096", "connections = 79", 1);
    std::fs::write(&exit.file, &whole).unwrap();
    exit.until_said("limits.connections has changed from 77 to 79", 1);
    exit.until_said("exit.policy has changed", 2);
    assert!(answers(&mut going));
    assert!(answers(&mut reach(&net, refused)), "it is allowed again");
    assert!(net.stop().success());
}

#[test]
fn a_signal_under_load_loses_no_stream_that_is_allowed() {
    let _alone = alone();
    let net = processes();
    let exit = Node::of(&net, "exit1");
    let client = Node::of(&net, "client");
    let server = http_server();
    const BYTES: usize = 4_000_000;
    let is_over = Arc::new(AtomicBool::new(false));
    // One download after the other, until all changes are made.
    let loads: Vec<_> = (0..3)
        .map(|seed| {
            let (proxy, is_over) = (net.socks(), is_over.clone());
            std::thread::spawn(move || {
                let url = format!("http://{server}/{seed}/{BYTES}");
                while !is_over.load(Ordering::Relaxed) {
                    let got = curl_by(proxy, "socks5h", &["--max-time", "300", &url]);
                    let is_whole = got.status.success() && got.stdout == content(seed, BYTES);
                    assert!(is_whole, "a download was broken off");
                }
            })
        })
        .collect();
    for round in 0..6 {
        let (kib, level) = match round % 2 {
            0 => ("3000", "\"debug\""),
            _ => ("0", "\"info\""),
        };
        let connections = (100 + round).to_string();
        exit.write(&[
            ("policy", &rejecting(round + 1)),
            ("udp_policy", &rejecting(round + 1)),
            ("udp", if round % 2 == 0 { "false" } else { "true" }),
            ("drain_seconds", &connections),
            ("nickname", &format!("\"exit{round}\"")),
            ("claim_kib", &connections),
            ("level", level),
            ("memory_mib", if round % 2 == 0 { "256" } else { "512" }),
            ("connections", &connections),
            ("bandwidth_kib", kib),
            ("udp_associations", &connections),
        ]);
        exit.hang_up();
        client.write(&[("client_memory_mib", &connections)]);
        client.hang_up();
        let before = if round == 0 { 4_096 } else { 99 + round };
        let said = format!("limits.connections has changed from {before} to {connections}");
        exit.until_said(&said, 1);
        let before = if round == 0 { 256 } else { 99 + round };
        let said = format!("limits.client_memory_mib has changed from {before} to {connections}");
        client.until_said(&said, 1);
    }
    is_over.store(true, Ordering::Relaxed);
    for load in loads {
        load.join().unwrap();
    }
    assert!(net.stop().success());
}
