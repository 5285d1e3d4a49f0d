//! Tests of the client inside another program: its examples, two networks at once, and nothing left behind.
#![allow(
    clippy::disallowed_methods,
    reason = "the test uses the real world: it stands outside of nodes"
)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use cepa_client::{Client, ClientEvent, ClientOptions, NetworkFile};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The path of an example of the client library. The example is built beside the program if it is not there yet.
fn example(name: &str) -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_cepa"));
    let profile = program.parent().unwrap();
    let path = profile.join("examples").join(name);
    if !path.exists() {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--offline", "-p", "cepa-client", "--example", name]);
        build.arg("--target-dir").arg(profile.parent().unwrap());
        if profile.ends_with("release") {
            build.arg("--release");
        }
        assert!(build.status().unwrap().success());
    }
    path
}

fn run(name: &str, arguments: &[&str]) -> Output {
    let output = Command::new(example(name))
        .args(arguments)
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {error}");
    output
}

#[test]
fn the_examples_work() {
    let _alone = alone();
    let net = Testnet::start(&[]);
    let (file, server) = (net.network_file(), http_server());
    let url = format!("http://{server}/6/300000");

    let fetched = run("hyper_fetch", &[&file, &url]);
    assert!(fetched.stdout == content(6, 300_000));
    let told = String::from_utf8(fetched.stderr).unwrap();
    let steps = [
        "connecting to authority",
        "consensus of 8 relays verified",
        "guards chosen: ",
        "first circuit: hop 3 of 3",
        "200 OK",
    ];
    let places: Vec<_> = steps.map(|step| told.find(step).expect(step)).into();
    assert!(places.is_sorted(), "{told}");

    let said = String::from_utf8(run("isolated_pair", &[&file, &url]).stdout).unwrap();
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].starts_with("anna got 3"), "{said}");
    assert_eq!(lines[1], "2 circuits in use", "{said}");
    assert_eq!(lines[3], "1 circuits in use", "{said}");

    let said = run("custom_path", &[&file, &url, "relay2", "relay1", "exit1"]);
    let said = String::from_utf8(said.stdout).unwrap();
    let identity = |name: &str| net.node(name)["identity"].as_str().unwrap().to_owned();
    let hops: Vec<_> = ["relay2", "relay1", "exit1"].map(identity).into();
    assert_eq!(said.lines().take(3).collect::<Vec<_>>(), hops);
    run("custom_path", &[&file, &url]);
    assert!(net.stop().success());
}

async fn fetch(client: &Client, server: SocketAddr, seed: u64) {
    let mut stream = client.connect(&server.to_string()).await.unwrap();
    let request = format!("GET /{seed}/70000 HTTP/1.1\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut page = Vec::new();
    stream.read_to_end(&mut page).await.unwrap();
    assert!(page.ends_with(&content(seed, 70_000)));
}

/// Number of open sockets of this process.
fn sockets() -> usize {
    let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let targets = open.filter_map(|fd| std::fs::read_link(fd.path()).ok());
    targets
        .filter(|target| target.to_string_lossy().starts_with("socket:"))
        .count()
}

#[test]
fn clients_of_two_networks_live_in_one_thread_and_leave_nothing_behind() {
    let _alone = alone();
    let (one, two) = (Testnet::start(&[]), Testnet::start(&[]));
    let server = http_server();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let read = |net: &Testnet| {
        let text = std::fs::read_to_string(net.network_file()).unwrap();
        NetworkFile::parse(&text).unwrap()
    };
    runtime.block_on(async {
        let handle = tokio::runtime::Handle::current();
        let tasks = || handle.metrics().num_alive_tasks();
        assert_eq!(tasks(), 0);
        // The signals and timers of the runtime have sockets of their own.
        let before = sockets();
        let (first, mut events) = Client::start(ClientOptions::new(read(&one))).await;
        let second = Client::bootstrap(ClientOptions::new(read(&two))).await;
        let second = second.unwrap();
        first.ready().await.unwrap();
        assert_ne!(
            first.network().network_id(),
            second.network().network_id(),
            "two networks"
        );
        // Whoever subscribed at the start hears all events; whoever comes late hears the present state.
        let mut heard = Vec::new();
        while heard.last() != Some(&ClientEvent::Ready) {
            heard.push(events.next().await.unwrap());
        }
        assert_eq!(heard.first(), Some(&ClientEvent::Starting));
        let mut late = second.events();
        assert_eq!(late.next().await, Some(ClientEvent::Ready));

        tokio::join!(fetch(&first, server, 1), fetch(&second, server, 2));
        // Each client is unaffected by what the other does.
        assert!(first.new_identity() > 0);
        let circuits = second.circuits().counts().ready;
        assert!(circuits > 0);
        fetch(&second, server, 3).await;
        fetch(&first, server, 4).await;

        // A clone keeps a client alive. When the last clone is dropped, everything ends without a word.
        assert!(tasks() > 0 && sockets() > before);
        let clone = first.clone();
        drop(first);
        fetch(&clone.isolated(), server, 5).await;
        drop((clone, second));
        until("nothing left", Duration::from_secs(10), async || {
            match (tasks(), sockets().saturating_sub(before)) {
                (0, 0) => Ok(()),
                (tasks, sockets) => Err(format!("{tasks} tasks and {sockets} sockets are left")),
            }
        })
        .await;
        // A busy machine may have had a warning to say before; nothing but the end may be waited for.
        for mut ended in [events, late] {
            while ended.next().await.is_some() {}
        }
    });
    assert!(one.stop().success() && two.stop().success());
}

/// Runs `cepa` to ask the client of `net` something.
fn ask(net: &Testnet, arguments: &[&str]) -> Output {
    let config = net.node("client")["config"].as_str().unwrap();
    let mut command = cepa();
    command.args(arguments).args(["--config", config]);
    command.output().unwrap()
}

#[test]
fn a_running_client_can_be_asked() {
    let _alone = alone();
    let net = Testnet::start(&["--processes"]);
    let status = || -> serde_json::Value {
        let got = ask(&net, &["status", "--json"]);
        assert!(got.status.success());
        let status: serde_json::Value = serde_json::from_slice(&got.stdout).unwrap();
        status["client"].clone()
    };
    // This stream is open while everything else changes.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (near, code) = socks5(net.socks(), &LOOPBACK, port, None);
    assert_eq!(code, 0);
    let (far, _) = listener.accept().unwrap();
    let now = status();
    assert_eq!((&now["percent"], &now["streams"]), (&100.into(), &1.into()));
    // There are at least enough relays for a path. The first consensus need not list all eight yet.
    let relays = now["relays"].as_u64().unwrap();
    assert!((3..=8).contains(&relays), "{relays}");
    assert_eq!(now["guards"][0]["health"], "answers");

    let first = ask(&net, &["new-identity"]);
    assert!(first.status.success());
    let said = String::from_utf8(first.stdout).unwrap();
    assert!(said.contains("retired") && !said.starts_with('0'), "{said}");
    // A second new identity is refused so soon, and the answer says how long to wait.
    let second = ask(&net, &["new-identity"]);
    let said = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(said.contains("ask again in "), "{said}");

    // The open stream goes on, and new ones work.
    for (mut from, mut to) in [(&near, &far), (&far, &near)] {
        from.write_all(b"still here").unwrap();
        let mut got = [0; 10];
        to.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"still here");
    }
    let server = http_server();
    let got = net.curl("socks5h", &[&format!("http://{server}/8/1000")]);
    assert!(got.stdout == content(8, 1000));

    // Only the owner has access to the socket.
    let config = Path::new(net.node("client")["config"].as_str().unwrap());
    let config = std::fs::read_to_string(config).unwrap();
    let config: toml::Table = config.parse().unwrap();
    let dir = PathBuf::from(config["state"]["dir"].as_str().unwrap());
    let socket = dir.join("control.sock");
    let mode = std::os::unix::fs::PermissionsExt::mode(&socket.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    // If no client runs, the command says so.
    let kept = tempfile::tempdir().unwrap();
    let nobody = cepa()
        .args(["status", "--state"])
        .arg(kept.path())
        .output()
        .unwrap();
    let said = String::from_utf8(nobody.stderr).unwrap();
    assert!(said.contains("no node runs"), "{said}");
}

#[test]
fn troubles_are_said_where_people_look_and_not_in_the_log_alone() {
    let _alone = alone();
    let net = Testnet::start(&["--processes"]);
    let state = net.dir.path().join("proxy");
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap();
    drop(free);
    let mut proxy = cepa()
        .args(["proxy", "--log", "off", "--allow-private", "--network"])
        .arg(net.network_file())
        .arg("--state")
        .arg(&state)
        .args(["--socks", &port.to_string()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = String::new();
    let mut out = BufReader::new(proxy.stdout.take().unwrap());
    out.read_line(&mut ready).unwrap();
    assert!(
        ready.starts_with("ready: applications connect to"),
        "{ready}"
    );
    let ask = |command: &[&str]| {
        let mut status = cepa();
        status.args(command).arg("--state").arg(&state);
        status.output().unwrap()
    };
    let status: serde_json::Value =
        serde_json::from_slice(&ask(&["status", "--json"]).stdout).unwrap();
    let guard = status["client"]["guards"][0]["nickname"]
        .as_str()
        .unwrap()
        .to_owned();
    net.kill(&guard);
    let server = http_server();
    let lines = BufReader::new(proxy.stderr.take().unwrap()).lines();
    let mut said = lines.map(|line| line.unwrap());
    // The steps of the start come first, then the trouble, as soon as a circuit meets it.
    assert!(said.any(|line| line == "100 % ready"));
    let fetching = std::thread::spawn(move || {
        for user in 0..20 {
            let user = format!("u{user}");
            let (mut stream, code) = socks5(port, &LOOPBACK, server.port(), Some(&user));
            if code == 0 && stream.write_all(b"GET /5/10 HTTP/1.1\r\n\r\n").is_ok() {
                let _ = stream.read_to_end(&mut Vec::new());
            }
        }
    });
    let warning = said.next().unwrap();
    assert_eq!(
        warning,
        format!(
            "warning: the guard {guard} does not answer; another is used, and it is tried again from time to time"
        )
    );
    let status = ask(&["status"]);
    assert!(status.status.success());
    let status = String::from_utf8(status.stdout).unwrap();
    assert!(
        status.contains(&format!("warning     the guard {guard}")),
        "{status}"
    );
    fetching.join().unwrap();
    let pid = rustix::process::Pid::from_raw(proxy.id().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(proxy.wait().unwrap().success());
    assert!(!state.join("control.sock").exists());
}
