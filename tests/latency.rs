//! Tests of what a request costs in round trips, on links that take 30 ms each way.
#![allow(
    clippy::disallowed_methods,
    reason = "the test uses the real world: it stands outside of nodes"
)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use support::*;

/// The way through the three links of a circuit in one direction, with `--delay 30ms`.
const ONE_WAY: Duration = Duration::from_millis(90);
/// Number of tries. The quickest counts, so that a busy machine does no harm.
const TRIES: usize = 8;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";

/// Starts a server that answers as soon as it holds the whole request, and tells when that was.
fn prompt_server() -> (SocketAddr, Receiver<Instant>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = sync_channel(64);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, mut got) = (stream.unwrap(), Vec::new());
            while !got.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read(&mut byte).unwrap_or(0) == 0 {
                    break;
                }
                got.extend(byte);
            }
            let _ = tell.send(Instant::now());
            let _ = stream.write_all(ANSWER);
        }
    });
    (address, told)
}

/// Sends SOCKS and the request in one write. Returns how long the first byte of the answer took, and how long the
/// request took to arrive.
fn pipelined(
    socks: SocketAddr,
    server: SocketAddr,
    told: &Receiver<Instant>,
) -> (Duration, Duration) {
    let mut stream = TcpStream::connect(socks).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let mut flight = vec![5, 1, 0, 5, 1, 0, 1, 127, 0, 0, 1];
    flight.extend(server.port().to_be_bytes());
    flight.extend(REQUEST);
    let begun = Instant::now();
    stream.write_all(&flight).unwrap();
    let mut replies = [0; 12];
    stream.read_exact(&mut replies).unwrap();
    assert_eq!(replies[..4], [5, 0, 5, 0]);
    let mut first = [0];
    stream.read_exact(&mut first).unwrap();
    let took = begun.elapsed();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert_eq!([&first[..], &rest].concat(), ANSWER);
    let arrived = told.recv_timeout(Duration::from_secs(20)).unwrap();
    (took, arrived - begun)
}

/// The time that curl measures from its start to the first byte of the answer.
fn by_curl(proxy: SocketAddr, server: SocketAddr) -> Duration {
    let url = format!("http://{server}/");
    let got = curl_by(
        proxy,
        "socks5h",
        &[
            "--output",
            "/dev/null",
            "--write-out",
            "%{time_starttransfer}",
            &url,
        ],
    );
    assert!(
        got.status.success(),
        "{}",
        String::from_utf8_lossy(&got.stderr)
    );
    Duration::from_secs_f64(String::from_utf8(got.stdout).unwrap().parse().unwrap())
}

/// A client that the test starts beside the network's.
struct Proxy {
    child: Child,
    socks: SocketAddr,
    _state: tempfile::TempDir,
}

impl Proxy {
    fn start(net: &Testnet, more: &[&str]) -> Self {
        let state = tempfile::tempdir().unwrap();
        let mut child = cepa()
            .args([
                "proxy",
                "--allow-private",
                "--socks",
                "127.0.0.1:0",
                "--network",
            ])
            .arg(net.network_file())
            .arg("--state")
            .arg(state.path().join("client"))
            .args(more)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = lines.next().expect("a first line").unwrap();
        let socks = ready.rsplit('/').next().unwrap().parse().unwrap();
        Self {
            child,
            socks,
            _state: state,
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_request_on_a_ready_circuit_takes_one_round_trip() {
    let _alone = alone();
    let (server, told) = prompt_server();
    let net = Testnet::start(&[
        "--authorities",
        "1",
        "--relays",
        "3",
        "--exits",
        "1",
        "--delay",
        "30ms",
    ]);
    // The first request makes the circuit ready.
    pipelined(net.socks(), server, &told);
    let tries: Vec<_> = (0..TRIES)
        .map(|_| pipelined(net.socks(), server, &told))
        .collect();
    let answered = tries.iter().map(|t| t.0).min().unwrap();
    let arrived = tries.iter().map(|t| t.1).min().unwrap();
    assert!(
        tries.iter().all(|t| t.0 >= 2 * ONE_WAY),
        "the links are shorter than said: {tries:?}"
    );
    // The bound is halfway to the second round trip: that is enough for a slow machine, and too little for a second
    // one.
    assert!(
        answered < 3 * ONE_WAY,
        "{answered:?} is more than one round trip: {tries:?}"
    );
    // The request was in the first flight. Behind CONNECTED it would arrive after three ways.
    assert!(
        arrived >= ONE_WAY && arrived < 2 * ONE_WAY,
        "{arrived:?}: {tries:?}"
    );

    // curl sends its request after SOCKS has told it that the destination answered, which takes one round trip more.
    told.try_iter().for_each(drop);
    let by = |proxy| (0..TRIES).map(|_| by_curl(proxy, server)).min().unwrap();
    let curl = by(net.socks());
    assert!(curl >= 4 * ONE_WAY && curl < 5 * ONE_WAY, "{curl:?}");

    // If curl is answered at once, it sends its request at once.
    let early = Proxy::start(&net, &["--answer-early"]);
    let curl = by(early.socks);
    assert!(curl >= 2 * ONE_WAY && curl < 3 * ONE_WAY, "{curl:?}");
    drop(early);
    assert!(net.stop().success());
}
