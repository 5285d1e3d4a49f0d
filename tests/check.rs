//! `cepa check` against real clients: one that works, one that is not there, ports that are somebody else's, a clock that
//! is wrong.
#![allow(
    clippy::disallowed_methods,
    reason = "the test uses the real world: it stands outside of nodes"
)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use cepa::node::Roles;
use cepa_client::{Client, ClientOptions, NetworkFile};
use cepa_common::world::{Clock, World};
use serde_json::Value;
use support::*;
use tokio::sync::watch;

/// Variables that the environment of whoever runs the tests may have.
const PROXIES: [&str; 8] = [
    "http_proxy",
    "HTTP_PROXY",
    "https_proxy",
    "HTTPS_PROXY",
    "all_proxy",
    "ALL_PROXY",
    "no_proxy",
    "NO_PROXY",
];

fn check(arguments: &[&str], vars: &[(&str, &str)]) -> Output {
    let mut command = cepa();
    command.arg("check").args(arguments);
    for name in PROXIES {
        command.env_remove(name);
    }
    command.envs(vars.iter().copied());
    command.output().unwrap()
}

/// What `cepa check --json` says, and its exit code.
fn checked(arguments: &[&str], vars: &[(&str, &str)]) -> (Value, i32) {
    let output = check(&[arguments, &["--json"]].concat(), vars);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    let json = serde_json::from_slice(&output.stdout);
    (json.expect(&error), output.status.code().unwrap())
}

/// The finding of a check: how it came out, and what it says.
fn finding<'a>(report: &'a Value, check: &str) -> (&'a str, &'a str) {
    let checks = report["checks"].as_array().unwrap();
    let found = checks.iter().find(|found| found["check"] == check);
    let found = found.unwrap_or_else(|| panic!("no check {check}: {report:#}"));
    let has_hint = found.get("try").is_some();
    assert_eq!(has_hint, found["result"] != "ok", "{found}");
    (
        found["result"].as_str().unwrap(),
        found["says"].as_str().unwrap(),
    )
}

/// A configuration of a client with two ports, a Unix socket and one that asks for users, in `dir`.
fn configure(net: &Testnet, dir: &Path, socks: &str) -> String {
    let users = dir.join("users");
    std::fs::write(&users, "anna:correct horse battery\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&users, mode).unwrap();
    let text = format!(
        "[network]\nfile = {:?}\n[state]\ndir = {:?}\n[client]\nsocks = \"{socks}\"\nallow_private = true\n\
         [[client.listeners]]\naddress = \"unix:{}\"\n\
         [[client.listeners]]\naddress = \"127.0.0.1:0\"\ncredentials = {users:?}\n[log]\nlevel = \"warn\"\n",
        net.network_file(),
        dir.join("state"),
        dir.join("port").display(),
    );
    let config = dir.join("node.toml");
    std::fs::write(&config, text).unwrap();
    config.to_str().unwrap().to_owned()
}

#[test]
fn a_client_that_works_is_found_to_work() {
    let net = Testnet::start(&[]);
    let dir = tempfile::tempdir().unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let socks = free.local_addr().unwrap();
    drop(free);
    let config = configure(&net, dir.path(), &socks.to_string());
    let mut node = cepa()
        .args(["run", "--exit-with-stdin", "--config", &config])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut ready = String::new();
    let mut out = BufReader::new(node.stdout.take().unwrap());
    out.read_line(&mut ready).unwrap();
    assert!(ready.starts_with("ready"), "{ready}");

    let server = http_server().to_string();
    let proxy = format!("socks5h://{socks}");
    let vars = [("all_proxy", proxy.as_str())];
    let (report, code) = checked(&["--config", &config, "--to", &server], &vars);
    assert_eq!(
        (report["ok"].as_bool(), code),
        (Some(true), 0),
        "{report:#}"
    );
    let (result, says) = finding(&report, "client");
    assert_eq!(result, "ok");
    assert!(
        says.contains(&format!("process {}", node.id())) && says.contains("ready since 2"),
        "{says}"
    );
    let unix = format!("port unix:{}", dir.path().join("port").display());
    for port in [format!("port {socks}"), unix] {
        let (result, says) = finding(&report, &port);
        assert!(
            result == "ok" && says.contains("reached an exit"),
            "{port}: {says}"
        );
    }
    let checks = report["checks"].as_array().unwrap();
    assert!(checks.iter().any(|check| {
        check["says"]
            .as_str()
            .unwrap()
            .contains("a user and a password")
    }));
    assert_eq!(finding(&report, &format!("to {server}")).0, "ok");
    for ok in ["clock", "programs", "files"] {
        assert_eq!(finding(&report, ok).0, "ok", "{report:#}");
    }
    assert_ne!(finding(&report, "names").0, "fail");
    assert_ne!(finding(&report, "datagrams").0, "fail");
    // The exit is one of the network's.
    let (result, says) = finding(&report, "exit");
    assert!(
        result == "ok" && says.starts_with("a stream passed 3 relays and came out at exit"),
        "{says}"
    );
    let exit = &report["exit"];
    assert_eq!(exit["hops"], 3);
    let nickname = exit["nickname"].as_str().unwrap();
    assert_eq!(exit["identity"], net.node(nickname)["identity"], "{exit}");

    // For people: the lines say the same, and what goes beside the client is said with what to do.
    let lines = check(
        &["--config", &config],
        &[("https_proxy", "http://127.0.0.1:1")],
    );
    assert_eq!(lines.status.code(), Some(0));
    let lines = String::from_utf8(lines.stdout).unwrap();
    assert!(lines.contains("ok    exit "), "{lines}");
    let warned = lines
        .lines()
        .find(|line| line.starts_with("warn  programs "))
        .unwrap();
    assert!(
        warned.contains("https_proxy is http://127.0.0.1:1"),
        "{lines}"
    );
    assert!(
        lines.contains(&format!("try: set it to socks5h://{socks}")),
        "{lines}"
    );

    // A destination that nobody serves is the destination's failure, and not the port's.
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = free.local_addr().unwrap().to_string();
    drop(free);
    let (report, code) = checked(&["--config", &config, "--to", &nobody], &vars);
    assert_eq!(code, 1);
    let (result, says) = finding(&report, &format!("to {nobody}"));
    assert!(
        result == "fail" && says.contains("refused the connection"),
        "{says}"
    );
    assert_eq!(finding(&report, &format!("port {socks}")).0, "ok");
    drop(node.stdin.take());
    assert!(node.wait().unwrap().success());

    // The client is gone, and its directory is there.
    let (report, code) = checked(&["--config", &config], &[]);
    assert_eq!((report["ok"].as_bool(), code), (Some(false), 1));
    let (result, says) = finding(&report, "client");
    assert!(
        result == "fail" && says.starts_with("no node runs"),
        "{says}"
    );
    let (result, says) = finding(&report, &format!("port {socks}"));
    assert_eq!((result, says), ("fail", "nobody listens there"));
    assert_eq!(finding(&report, "files").0, "ok");
    assert!(net.stop().success());
}

#[test]
fn whoever_has_the_port_instead_is_named() {
    let net = Testnet::start(&[]);
    let dir = tempfile::tempdir().unwrap();
    // Something that is no proxy.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in taken.incoming().flatten() {
            let _ = stream.read(&mut [0; 64]);
            let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let config = configure(&net, dir.path(), &address.to_string());
    let (report, code) = checked(&["--config", &config], &[]);
    assert_eq!(code, 1);
    let (result, says) = finding(&report, &format!("port {address}"));
    let this = format!("(process {})", std::process::id());
    assert!(
        result == "fail" && says.starts_with("what answers there is not Cepa but "),
        "{says}"
    );
    assert!(says.ends_with(&this), "{says}");
    // The port of another client.
    let config = configure(&net, dir.path(), &net.socks().to_string());
    let (report, code) = checked(&["--config", &config], &[]);
    assert_eq!(code, 1);
    let (result, says) = finding(&report, &format!("port {}", net.socks()));
    assert!(
        result == "fail" && says.starts_with("another Cepa client answers there"),
        "{says}"
    );
    assert!(net.stop().success());
}

/// A client that hangs is not called gone, and what listens and is silent not an answer; nor is a port fine of which
/// nobody can say anything.
#[test]
fn a_client_that_hangs_is_said_to_hang() {
    let net = Testnet::start(&[]);
    let dir = tempfile::tempdir().unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let transparent = other.local_addr().unwrap();
    let config = configure(&net, dir.path(), &address.to_string());
    let more = format!(
        "[[client.listeners]]\naddress = \"{transparent}\"\nkind = \"transparent\"\n[log]\n"
    );
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("[log]\n", &more)).unwrap();
    std::fs::create_dir(dir.path().join("state")).unwrap();
    let _control = UnixListener::bind(dir.path().join("state/control.sock")).unwrap();
    let (report, code) = checked(&["--config", &config], &[]);
    assert_eq!(code, 1);
    let (result, says) = finding(&report, "client");
    assert!(
        result == "fail" && says.ends_with("and gave no answer in time"),
        "{says}"
    );
    let hint = report["checks"][0]["try"].as_str().unwrap();
    assert!(hint.contains("end it and start it anew"), "{hint}");
    let (result, says) = finding(&report, &format!("port {address}"));
    assert!(
        result == "fail" && says.ends_with("listens there and gives no answer"),
        "{says}"
    );
    let (result, says) = finding(&report, &format!("port {transparent}"));
    assert!(
        result == "warn" && says.contains("no client answers"),
        "{says}"
    );
    assert!(net.stop().success());
}

/// A client whose clock is two hours behind, in this process.
#[test]
fn a_wrong_clock_is_said_with_what_to_do() {
    let net = Testnet::start(&[]);
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let network =
        NetworkFile::parse(&std::fs::read_to_string(net.network_file()).unwrap()).unwrap();
    let right = Clock::system();
    let clock = Clock::from_fn(move || right.now_ms() - 7_200_000);
    let options = ClientOptions {
        world: World {
            clock,
            ..World::default()
        },
        ..ClientOptions::new(network)
    };
    let (client, attendants) = runtime.block_on(async {
        let (client, _events) = Box::pin(Client::start(options)).await;
        let state = dir.path().to_owned();
        let (roles, taking) = Roles::of_client(state, client.clone(), Vec::new());
        let mut attendants = cepa::control::attend(roles, &watch::Sender::default());
        attendants.spawn(taking);
        (client, attendants)
    });
    let state = dir.path().to_str().unwrap();
    let mut last = Value::Null;
    until_ok(
        "the clock is found to be wrong",
        Duration::from_secs(60),
        || {
            let (report, code) = checked(&["--state", state], &[]);
            assert_eq!(code, 1);
            last = report;
            finding(&last, "clock").0 == "fail"
        },
    );
    let says = finding(&last, "clock").1;
    assert!(
        says.starts_with("this computer's clock is about 2 hours behind"),
        "{says}"
    );
    let hint = last["checks"]
        .as_array()
        .unwrap()
        .iter()
        .find(|check| check["check"] == "clock");
    assert!(hint.unwrap()["try"].as_str().unwrap().contains("NTP"));
    // The client says what it waits for, and the clock is told of once.
    let (result, says) = finding(&last, "client");
    assert!(result == "fail" && says.contains("is not ready"), "{says}");
    let checks = last["checks"].as_array().unwrap();
    assert!(
        !checks.iter().any(|check| check["check"] == "warning"),
        "{last:#}"
    );
    runtime.block_on(async {
        drop(attendants);
        client.shutdown().await;
    });
    assert!(net.stop().success());
}

#[test]
fn nothing_at_all_is_said_to_be_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let (report, code) = checked(&["--state", state.to_str().unwrap()], &[]);
    assert_eq!((report["ok"].as_bool(), code), (Some(false), 1));
    assert_eq!(finding(&report, "client").0, "fail");
    assert_eq!(finding(&report, "clock").0, "warn");
    assert!(
        finding(&report, "files")
            .1
            .starts_with("there is no state directory")
    );
    assert_eq!(report.get("exit"), None);
}

/// A client on `net` with its state in `state`, at `socks`, or at any port.
fn proxy(net: &Testnet, state: &Path, socks: &str) -> Command {
    let mut command = cepa();
    command
        .args(["proxy", "--log", "off", "--allow-private", "--network"])
        .arg(net.network_file())
        .arg("--state")
        .arg(state)
        .args(["--socks", socks])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Two clients of one user work side by side; a third that takes what is theirs is told what, by whom, and what to do.
#[test]
fn several_clients_on_one_machine_each_need_a_port_and_a_state_directory() {
    let net = Testnet::start(&[]);
    let dir = tempfile::tempdir().unwrap();
    let states = ["one", "two", "three"].map(|name| dir.path().join(name));
    let mut clients = Vec::new();
    let mut ports = Vec::new();
    for state in &states[..2] {
        let mut client = proxy(&net, state, "127.0.0.1:0").spawn().unwrap();
        let mut ready = String::new();
        let mut out = BufReader::new(client.stdout.take().unwrap());
        out.read_line(&mut ready).unwrap();
        ports.push(
            ready
                .trim()
                .rsplit_once("socks5h://")
                .expect(&ready)
                .1
                .to_owned(),
        );
        clients.push(client);
    }
    for state in &states[..2] {
        let (report, code) = checked(&["--state", state.to_str().unwrap()], &[]);
        assert_eq!(code, 0, "{report:#}");
    }
    let refused = |state: &Path, socks: &str| {
        let output = proxy(&net, state, socks).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let said = refused(&states[0], "127.0.0.1:0");
    let holder = format!("is in use by another process (process {})", clients[0].id());
    assert!(
        said.contains(&holder) && said.contains("a state directory of its own"),
        "{said}"
    );
    let said = refused(&states[2], &ports[1]);
    assert!(
        said.contains(&format!("cannot listen on {}", ports[1])),
        "{said}"
    );
    assert!(said.contains("`cepa check` says which"), "{said}");
    for mut client in clients {
        let pid = rustix::process::Pid::from_raw(client.id().cast_signed()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(client.wait().unwrap().success());
    }
    assert!(net.stop().success());
}
