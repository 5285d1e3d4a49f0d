//! Tests of a whole network in one process, used by curl and by hand.
#![allow(
    clippy::disallowed_methods,
    reason = "the test uses the real world: it stands outside of nodes"
)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};

use support::*;

#[test]
fn a_network_carries_what_programs_send() {
    let net = Testnet::start(&[]);
    let server = http_server();
    let url = |path: &str| format!("http://{server}/{path}");

    // The loop uses every protocol that the port speaks.
    for (scheme, args) in [
        ("socks5h", &[][..]),
        ("socks5", &[]),
        ("socks4", &[]),
        ("socks4a", &[]),
        ("http", &["--proxytunnel"]),
        ("http", &[]),
    ] {
        let got = net.curl(scheme, &[args, &[&url("1/5000")]].concat());
        assert!(
            got.status.success(),
            "{scheme}: {}",
            String::from_utf8_lossy(&got.stderr)
        );
        assert!(got.stdout == content(1, 5000), "{scheme}: other bytes");
    }

    // A large download and a large upload.
    let got = net.curl("socks5h", &[&url("2/40000000")]);
    assert_eq!(sha256(&got.stdout), sha256(&content(2, 40_000_000)));
    let upload = net.dir.path().join("upload");
    std::fs::write(&upload, content(3, 20_000_000)).unwrap();
    let got = net.curl(
        "socks5h",
        &["--upload-file", upload.to_str().unwrap(), &url("")],
    );
    assert_eq!(
        String::from_utf8_lossy(&got.stdout),
        sha256(&content(3, 20_000_000))
    );

    // This fetches a hundred files at once.
    let files = net.dir.path().join("files");
    std::fs::create_dir(&files).unwrap();
    let out = files.join("#1");
    let all = format!("http://{server}/[1-100]/30000");
    let parallel = [
        "--parallel",
        "--parallel-max",
        "100",
        "--output",
        out.to_str().unwrap(),
        &all,
    ];
    assert!(net.curl("socks5h", &parallel).status.success());
    for n in 1..=100 {
        let got = std::fs::read(files.join(n.to_string())).unwrap();
        assert!(got == content(n, 30_000), "file {n}");
    }

    half_close(&net);
    replies(&net);
    the_port_explains_itself(&net);
    circuits_can_be_traced(&net);
    assert!(net.stop().success());
}

/// Checks that either side may end its direction and still receive.
fn half_close(net: &Testnet) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        stream.write_all(&got).unwrap();
        drop(stream);
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"all that I have").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        got
    });
    let (mut stream, code) = socks5(net.socks(), &LOOPBACK, port, None);
    assert_eq!(code, 0);
    let data = content(9, 300_000);
    stream.write_all(&data).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    assert!(got == data, "the client ended first");
    let (mut stream, _) = socks5(net.socks(), &LOOPBACK, port, None);
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    assert_eq!(got, b"all that I have");
    stream.write_all(b"and I say more").unwrap();
    drop(stream);
    assert_eq!(server.join().unwrap(), b"and I say more");
}

fn replies(net: &Testnet) {
    // Nobody listens on this port.
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    assert_eq!(socks5(net.socks(), &LOOPBACK, free, None).1, 5, "refused");
    // No server knows this name.
    let reply = socks5(net.socks(), &name("no-such-host.cepa-test"), 80, None).1;
    assert_eq!(reply, 4, "unresolvable");
    // This is a relay's own port: exits do not dial relays.
    let relay = net.node("relay1")["address"].as_str().unwrap().to_owned();
    let port = relay.rsplit(':').next().unwrap().parse().unwrap();
    assert_eq!(
        socks5(net.socks(), &LOOPBACK, port, None).1,
        2,
        "not allowed"
    );
    // Credentials keep streams apart, and streams with credentials work.
    let server = http_server();
    for user in ["alice", "bob"] {
        let (mut stream, code) = socks5(net.socks(), &LOOPBACK, server.port(), Some(user));
        assert_eq!(code, 0);
        stream.write_all(b"GET /5/10 HTTP/1.1\r\n\r\n").unwrap();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        assert!(got.ends_with(&content(5, 10)));
    }
}

fn the_port_explains_itself(net: &Testnet) {
    let mut stream = std::net::TcpStream::connect(net.socks()).unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    assert!(page.starts_with("HTTP/1.1 501"), "{page}");
    assert!(page.contains("SOCKS"), "{page}");
}

fn circuits_can_be_traced(net: &Testnet) {
    let file = net.network_file();
    let trace = cepa().args(["trace", "--network", &file]).output().unwrap();
    assert!(trace.status.success());
    let text = String::from_utf8(trace.stdout).unwrap();
    assert_eq!(text.lines().count(), 4, "a head and three hops: {text}");
    let json = cepa()
        .args(["consensus", "--json", "--network", &file])
        .output()
        .unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["relays"].as_array().unwrap().len(), 8);
}
