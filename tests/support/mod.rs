//! A network of the shipped program, servers to reach through it, and SOCKS written by hand.
#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod dns;
pub(crate) mod flood;
pub(crate) mod own;
pub(crate) mod peer;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use cepa_common::sync::lock;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// The program under test.
pub(crate) fn cepa() -> Command {
    Command::new(env!("CARGO_BIN_EXE_cepa"))
}

/// A running `cepa testnet`, from its line `ready` to SIGTERM.
pub(crate) struct Testnet {
    child: Child,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) json: Value,
}

impl Testnet {
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::start_with(args, |_| {})
    }

    /// The same, with what `prepare` does to the command.
    pub(crate) fn start_with(args: &[&str], prepare: impl FnOnce(&mut Command)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut command = cepa();
        prepare(&mut command);
        let mut child = command
            .args(["testnet", "--socks", "127.0.0.1:0", "--dir"])
            .arg(dir.path())
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = lines.next().expect("a first line").unwrap();
        assert!(ready.starts_with("ready"), "{ready}");
        // The rest of the output is read too, so that the program never blocks on it.
        std::thread::spawn(move || lines.for_each(drop));
        let json = std::fs::read(dir.path().join("testnet.json")).unwrap();
        Self {
            child,
            json: serde_json::from_slice(&json).unwrap(),
            dir,
        }
    }

    pub(crate) fn socks(&self) -> SocketAddr {
        self.json["socks"].as_str().unwrap().parse().unwrap()
    }

    pub(crate) fn network_file(&self) -> String {
        self.json["network_file"].as_str().unwrap().to_owned()
    }

    pub(crate) fn node(&self, name: &str) -> &Value {
        let nodes = self.json["nodes"].as_array().unwrap();
        nodes.iter().find(|node| node["name"] == name).unwrap()
    }

    pub(crate) fn kill(&self, name: &str) {
        send(
            self.node(name)["pid"].as_u64().unwrap() as u32,
            Signal::KILL,
        );
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        let nodes = self.json["nodes"].as_array().unwrap();
        nodes
            .iter()
            .map(|node| node["pid"].as_u64().unwrap() as u32)
            .collect()
    }

    /// Runs curl through the network.
    pub(crate) fn curl(&self, scheme: &str, args: &[&str]) -> Output {
        curl_by(self.socks(), scheme, args)
    }

    /// Stops the network as a user would.
    pub(crate) fn stop(mut self) -> std::process::ExitStatus {
        send(self.child.id(), Signal::TERM);
        self.child.wait().unwrap()
    }
}

/// Is this program here? Says so if it is not.
pub(crate) fn is_here(program: &str) -> bool {
    let is_there = is_on_path(program);
    if !is_there {
        eprintln!("{program} is not installed; what it would do is not tested");
    }
    is_there
}

/// Is there a program of this name, or at this path?
pub(crate) fn is_on_path(program: &str) -> bool {
    quiet(Command::new("sh").args(["-c", "command -v \"$0\"", program]))
}

/// Does a command succeed, whatever it says?
pub(crate) fn quiet(command: &mut Command) -> bool {
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// Runs what must succeed.
pub(crate) fn succeed(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    output
}

/// curl through the proxy at this URL.
pub(crate) fn curl_through(proxy: String) -> Command {
    let mut command = Command::new("curl");
    command
        .args([
            "--silent",
            "--show-error",
            "--fail",
            "--max-time",
            "60",
            "--proxy",
        ])
        .arg(proxy);
    command
}

/// Runs curl through a proxy.
pub(crate) fn curl_by(proxy: SocketAddr, scheme: &str, args: &[&str]) -> Output {
    curl_through(format!("{scheme}://{proxy}"))
        .args(args)
        .output()
        .expect("curl is installed")
}

impl Drop for Testnet {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            send(self.child.id(), Signal::TERM);
            let _ = self.child.wait();
        }
    }
}

fn send(pid: u32, signal: Signal) {
    let _ = kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal);
}

/// Makes `len` bytes that are the same for the same seed and do not repeat.
pub(crate) fn content(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut step = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| step()).collect();
    bytes.truncate(len);
    bytes
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Starts an HTTP server on loopback. `GET /SEED/LEN` returns [`content`]; `PUT /` returns the SHA-256 of what it got.
pub(crate) fn http_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || answer(stream));
        }
    });
    address
}

fn answer(mut stream: TcpStream) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let (mut head, mut length) = (String::new(), 0);
    reader.read_line(&mut head).ok()?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let line = line.trim().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if line == "expect: 100-continue" {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").ok()?;
        }
    }
    let body = if head.starts_with("PUT") {
        let mut got = vec![0; length];
        reader.read_exact(&mut got).ok()?;
        sha256(&got).into_bytes()
    } else {
        let mut parts = head
            .split_whitespace()
            .nth(1)?
            .trim_start_matches('/')
            .split('/');
        content(parts.next()?.parse().ok()?, parts.next()?.parse().ok()?)
    };
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(&body).ok()
}

/// Asks the proxy for a connection to `host` by SOCKS 5. Returns the connection and the reply code.
pub(crate) fn socks5(
    proxy: SocketAddr,
    host: &[u8],
    port: u16,
    user: Option<&str>,
) -> (TcpStream, u8) {
    socks5_command(proxy, 1, host, port, user)
}

/// Sends a command of SOCKS 5 to the proxy: 1 is CONNECT, 2 BIND, 3 UDP ASSOCIATE.
pub(crate) fn socks5_command(
    proxy: SocketAddr,
    command: u8,
    host: &[u8],
    port: u16,
    user: Option<&str>,
) -> (TcpStream, u8) {
    let mut stream = TcpStream::connect(proxy).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let mut chosen = [0; 2];
    match user {
        None => {
            stream.write_all(&[5, 1, 0]).unwrap();
            stream.read_exact(&mut chosen).unwrap();
        }
        Some(user) => {
            stream.write_all(&[5, 1, 2]).unwrap();
            stream.read_exact(&mut chosen).unwrap();
            let mut login = vec![1, user.len() as u8];
            login.extend(user.as_bytes());
            login.extend([1, b'x']);
            stream.write_all(&login).unwrap();
            stream.read_exact(&mut [0; 2]).unwrap();
        }
    }
    let mut request = vec![5, command, 0];
    request.extend(host);
    request.extend(port.to_be_bytes());
    stream.write_all(&request).unwrap();
    let mut reply = [0; 10];
    stream.read_exact(&mut reply).unwrap();
    (stream, reply[1])
}

/// The address 127.0.0.1 as SOCKS 5 writes it.
pub(crate) const LOOPBACK: [u8; 5] = [1, 127, 0, 0, 1];

/// A name as SOCKS 5 writes it.
pub(crate) fn name(name: &str) -> Vec<u8> {
    [&[3, name.len() as u8], name.as_bytes()].concat()
}

/// Tries until it works, as a user does who presses reload. Fails the test if nothing worked `within` this time.
pub(crate) fn until_ok(what: &str, within: Duration, mut attempt: impl FnMut() -> bool) {
    let started = Instant::now();
    while !attempt() {
        assert!(started.elapsed() < within, "{what}: not within {within:?}");
    }
}

/// Looks every 100 ms until `look` finds what the test waits for. This is for what nobody can tell the test: the state
/// of another process, or of the kernel. Fails the test with what `look` saw last if it found nothing `within` this
/// time.
pub(crate) async fn until<T>(
    what: &str,
    within: Duration,
    mut look: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let mut pace = tokio::time::interval(Duration::from_millis(100));
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut seen = String::new();
    let looking = async {
        loop {
            pace.tick().await;
            match look().await {
                Ok(found) => return found,
                Err(instead) => seen = instead,
            }
        }
    };
    let found = tokio::time::timeout(within, looking).await;
    found.unwrap_or_else(|_| panic!("{what}: not within {within:?}: {seen}"))
}

/// Lets a test program run one network at a time: two that start at once may choose the same ports.
pub(crate) fn alone() -> std::sync::MutexGuard<'static, ()> {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    lock(&ALONE)
}
