//! Tests of what a stream promises at its edges: who resolves names, how a stream ends, and that many of them do not
//! mix.
#![allow(
    clippy::disallowed_methods,
    reason = "the test uses the real world: it stands outside of nodes"
)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use cepa_common::dns::{Answer, Question, RecordType, framed};
use support::dns::{KNOWN, NAMED, UNKNOWN, dns_server};
use support::*;

#[test]
fn streams_keep_their_promises() {
    let _alone = alone();
    let resolver = dns_server().to_string();
    let net = Testnet::start(&["--resolver", &resolver]);
    names_are_resolved_at_the_exit(&net);
    exits_are_asked_for_names(&net);
    what_the_port_does_not_do_is_refused(&net);
    a_broken_stream_does_not_look_finished(&net);
    many_streams_do_not_mix(&net);
    garbage_harms_nobody(&net);
    assert!(net.stop().success());
}

/// Checks that names are resolved at the exit: only the exits' server knows the name, so whoever resolved it here would
/// fail.
fn names_are_resolved_at_the_exit(net: &Testnet) {
    let server = http_server();
    let url = |name: &str| format!("http://{name}:{}/1/5000", server.port());
    let known = url(KNOWN);
    let rows: [(&str, &[&str]); 3] = [
        ("socks5h", &[]),
        ("socks4a", &[]),
        ("http", &["--proxytunnel"]),
    ];
    for (scheme, more) in rows {
        let got = net.curl(scheme, &[more, &[&*known]].concat());
        let said = String::from_utf8_lossy(&got.stderr);
        assert!(got.status.success(), "{scheme}: {said}");
        assert!(got.stdout == content(1, 5000), "{scheme}");
    }
    // A refusal by a named host is reported as a refusal; a name without an address is reported otherwise.
    let closed = closed_port();
    let refused = socks5(net.socks(), &name(KNOWN), closed, None).1;
    assert_eq!(refused, 5, "refused, by name");
    let unknown = socks5(net.socks(), &name(UNKNOWN), closed, None).1;
    assert_eq!(unknown, 4, "no such name");
    for url in [url(UNKNOWN), format!("http://{KNOWN}:{closed}/")] {
        let tunnel = ["--proxytunnel", "--write-out", "%{http_connect}", &url];
        let got = net.curl("http", &tunnel);
        assert!(!got.status.success());
        assert_eq!(got.stdout, b"502", "{url}");
    }
}

/// Checks RESOLVE and RESOLVE_PTR, Tor's commands of SOCKS, and the program that speaks them if it is there.
fn exits_are_asked_for_names(net: &Testnet) {
    let ask = |command, host: &[u8]| {
        let (mut stream, code) = socks5_command(net.socks(), command, host, 0, None);
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        (code, rest)
    };
    // The reply to a look-up of an address is as long as the reply to CONNECT, which has been read.
    assert_eq!(ask(0xf0, &name(KNOWN)), (0, Vec::new()));
    assert_eq!(ask(0xf0, &name(UNKNOWN)).0, 4, "no such name");
    assert_eq!(ask(0xf0, &name("nas.local")).0, 2, "no name of the DNS");
    let address = |ip: [u8; 4]| [&[1][..], &ip].concat();
    let (code, rest) = ask(0xf1, &address(NAMED));
    // Ten bytes of the reply have been read: the head, the length of the name, and five bytes of that.
    assert_eq!((code, &rest[..rest.len() - 2]), (0, &KNOWN.as_bytes()[5..]));
    assert_eq!(
        ask(0xf1, &address([9, 9, 9, 9])).0,
        4,
        "an address without a name"
    );
    let (mut stream, code) = socks5(net.socks(), &name("resolver.cepa.alt"), 53, None);
    assert_eq!(code, 0);
    let question = Question::new(KNOWN, RecordType::A).unwrap();
    stream
        .write_all(&framed(&question.to_query(7).unwrap()).unwrap())
        .unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = Answer::read(&answer[2..], &question, true).unwrap();
    assert!(answer.addresses().eq([IpAddr::from([127, 0, 0, 1])]));
    let tor_resolve = |args: &[&str]| {
        let mut command = std::process::Command::new("tor-resolve");
        let output = command.args(args).arg(net.socks().to_string()).output();
        output.map(|output| String::from_utf8(output.stdout).unwrap())
    };
    let [a, b, c, d] = NAMED;
    match tor_resolve(&[KNOWN]) {
        Err(error) => eprintln!("without tor-resolve: {error}"),
        Ok(said) => {
            assert_eq!(said, "127.0.0.1\n");
            assert_eq!(tor_resolve(&["-4", KNOWN]).unwrap(), "127.0.0.1\n");
            let named = tor_resolve(&["-x", &format!("{a}.{b}.{c}.{d}")]).unwrap();
            assert_eq!(named, format!("{KNOWN}\n"));
            assert_eq!(tor_resolve(&[UNKNOWN]).unwrap(), "");
        }
    }
}

fn what_the_port_does_not_do_is_refused(net: &Testnet) {
    for (what, command) in [("BIND", 2), ("nothing known", 9)] {
        let (mut stream, code) = socks5_command(net.socks(), command, &LOOPBACK, 80, None);
        assert_eq!(code, 7, "{what}");
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "{what}: and then closed");
    }
}

/// Checks that a reset at the destination is an error here: half a file must not pass for a whole one.
fn a_broken_stream_does_not_look_finished(net: &Testnet) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"part").unwrap();
        // The kernel sends a reset because the socket is closed while bytes wait unread.
        stream.peek(&mut [0]).unwrap();
    });
    let (mut stream, code) = socks5(net.socks(), &LOOPBACK, port, None);
    assert_eq!(code, 0);
    let mut part = [0; 4];
    stream.read_exact(&mut part).unwrap();
    assert_eq!(&part, b"part");
    stream.write_all(b"unread").unwrap();
    server.join().unwrap();
    let end = stream.read(&mut part);
    assert!(end.is_err(), "the stream looks finished: {end:?}");
}

/// Runs a hundred streams, each with bytes of its own in both directions at once.
fn many_streams_do_not_mix(net: &Testnet) {
    let (proxy, echo) = (net.socks(), echo_server());
    let streams: Vec<_> = (0..100)
        .map(|seed| {
            std::thread::spawn(move || {
                let (mut stream, code) = socks5(proxy, &LOOPBACK, echo.port(), None);
                assert_eq!(code, 0, "stream {seed}");
                let said = content(seed, 60_000);
                let mut into = stream.try_clone().unwrap();
                let copy = said.clone();
                let speaker = std::thread::spawn(move || {
                    into.write_all(&copy).unwrap();
                    into.shutdown(Shutdown::Write).unwrap();
                });
                let mut heard = Vec::new();
                stream.read_to_end(&mut heard).unwrap();
                speaker.join().unwrap();
                assert!(heard == said, "stream {seed}");
            })
        })
        .collect();
    for stream in streams {
        stream.join().unwrap();
    }
}

/// Checks that bytes which are no request get little or no answer, and then the connection's end.
fn garbage_harms_nobody(net: &Testnet) {
    let rows: [&[u8]; 5] = [
        b"\x16\x03\x01\x02\x00\x01",
        &[0xff; 4096],
        b"\x05",
        b"\x04\x01",
        b"",
    ];
    for garbage in rows {
        let mut stream = TcpStream::connect(net.socks()).unwrap();
        // The garbage may be refused before all of it is read.
        let _ = stream.write_all(garbage);
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.len() < 2048, "{garbage:?}");
    }
    let server = http_server();
    let got = net.curl("socks5h", &[&format!("http://{server}/1/10")]);
    assert!(got.stdout == content(1, 10));
}

/// Checks that a first try works with what the network brings along, and that a network without a directory of its own
/// leaves no file and no process behind.
#[test]
fn the_page_is_fetched_the_client_is_found_and_nothing_is_left_of_a_network() {
    let _alone = alone();
    for processes in [false, true] {
        let temporary = tempfile::tempdir().unwrap();
        let mut command = cepa();
        command.args(["testnet", "--socks", "127.0.0.1:0"]);
        if processes {
            command.arg("--processes");
        }
        // The command sees the network's files, and names its processes.
        let script = "set -e; curl -sS \"$CEPA_PAGE\" | grep -q 'It works' && \"$CEPA\" status | grep -q '^  client: ready$'
            cat \"$TMPDIR\"/*/testnet.json; exit 3";
        let output = command
            .args(["--", "sh", "-c", script])
            .env("CEPA", env!("CARGO_BIN_EXE_cepa"))
            .env("TMPDIR", temporary.path())
            .env("XDG_RUNTIME_DIR", temporary.path())
            .env("XDG_STATE_HOME", temporary.path())
            .stderr(Stdio::null())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(3));
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let nodes = json["nodes"].as_array().unwrap();
        assert_eq!(nodes.len(), 12);
        for node in nodes {
            let pid = node["pid"].as_u64().unwrap();
            assert!(!is_cepa(pid), "{} is left", node["name"]);
        }
        let files: Vec<PathBuf> = std::fs::read_dir(temporary.path())
            .unwrap()
            .map(|file| file.unwrap().path())
            .collect();
        assert!(files.is_empty(), "{files:?} is left");
    }
}

/// Is `pid` a process of the program? The system uses the numbers of ended processes again.
fn is_cepa(pid: u64) -> bool {
    let program = std::fs::read_link(format!("/proc/{pid}/exe"));
    program.is_ok_and(|program| program == Path::new(env!("CARGO_BIN_EXE_cepa")))
}

/// A port of loopback on which nobody listens.
fn closed_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Starts a server that sends back what it gets until there is no more.
fn echo_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
        }
    });
    address
}
