//! Tests of what keeps streams on different circuits, from the configuration file to the circuits in use: each kind of
//! isolation separates what it names, and nothing else.
#![allow(
    clippy::disallowed_methods,
    reason = "the test uses the real world: it stands outside of nodes"
)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use support::*;

/// The kinds of isolation. For each there is a stream that differs in that kind only.
const KINDS: [&str; 7] = [
    "credentials",
    "listener",
    "client",
    "protocol",
    "destination",
    "port",
    "stream",
];

/// A client with its own configuration.
struct Client {
    child: Child,
    dir: PathBuf,
    ports: [SocketAddr; 2],
}

impl Client {
    fn start(net: &Testnet, dir: &Path, isolate: &str) -> Self {
        let free = || TcpListener::bind("127.0.0.1:0").unwrap();
        let ports = [free(), free()].map(|port| port.local_addr().unwrap());
        let text = format!(
            "[network]\nfile = {:?}\n[state]\ndir = {:?}\ncheck_permissions = false\n\
             [client]\nsocks = \"{}\"\nallow_private = true\nisolate = [{isolate}]\n\
             [[client.listeners]]\naddress = \"{}\"\n[log]\nlevel = \"warn\"\n",
            net.network_file(),
            dir.join("state"),
            ports[0],
            ports[1],
        );
        std::fs::create_dir_all(dir).unwrap();
        let config = dir.join("node.toml");
        std::fs::write(&config, text).unwrap();
        let mut child = cepa()
            .args(["run", "--exit-with-stdin", "--config"])
            .arg(&config)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut ready)
            .unwrap();
        let both = ports.map(|port| ready.contains(&port.to_string()));
        assert_eq!(both, [true, true], "{ready}");
        let dir = dir.join("state");
        Self { child, dir, ports }
    }

    /// Number of circuits that carry streams.
    fn in_use(&self) -> u64 {
        let got = cepa()
            .args(["status", "--json", "--state"])
            .arg(&self.dir)
            .output()
            .unwrap();
        let status: serde_json::Value = serde_json::from_slice(&got.stdout).unwrap();
        let count = |key: &str| status["client"][key].as_u64().unwrap();
        count("circuits") - count("clean")
    }

    /// Opens a stream that differs from the plain one in `kind` only.
    fn open(&self, kind: &str, servers: [u16; 2]) -> TcpStream {
        let user = (kind == "credentials").then_some("anna");
        let proxy = self.ports[usize::from(kind == "listener")];
        let port = servers[usize::from(kind == "port")];
        let host = match kind {
            "destination" => Ipv4Addr::new(127, 0, 0, 2),
            _ => Ipv4Addr::LOCALHOST,
        };
        if kind == "protocol" {
            return socks4(proxy, host, port);
        }
        if kind == "client" {
            return from_elsewhere(proxy, host, port);
        }
        let address = [&[1][..], &host.octets()].concat();
        let (stream, code) = socks5(proxy, &address, port, user);
        assert_eq!(code, 0, "{kind}");
        stream
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // The client ends when its standard input is closed.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

fn socks4(proxy: SocketAddr, host: Ipv4Addr, port: u16) -> TcpStream {
    let mut stream = TcpStream::connect(proxy).unwrap();
    let request = [&[4, 1][..], &port.to_be_bytes(), &host.octets(), &[0]].concat();
    stream.write_all(&request).unwrap();
    let mut reply = [0; 8];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(reply[1], 90);
    stream
}

/// Opens a stream by SOCKS 5 from another address of this machine.
fn from_elsewhere(proxy: SocketAddr, host: Ipv4Addr, port: u16) -> TcpStream {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let stream = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        let other = IpAddr::from([127, 0, 0, 3]);
        socket.bind((other, 0).into()).unwrap();
        socket.connect(proxy).await.unwrap().into_std().unwrap()
    });
    let mut stream: TcpStream = stream;
    stream.set_nonblocking(false).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let begin = [
        &[5, 1, 0, 5, 1, 0, 1][..],
        &host.octets(),
        &port.to_be_bytes(),
    ]
    .concat();
    stream.write_all(&begin).unwrap();
    let mut reply = [0; 12];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(reply[3], 0);
    stream
}

/// Starts a server that accepts connections at every address of this machine and keeps them open. Returns its port.
fn server() -> u16 {
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let held: Vec<_> = listener.incoming().collect();
        drop(held);
    });
    port
}

#[test]
fn each_kind_separates_what_it_names_and_nothing_else() {
    let _alone = alone();
    let net = Testnet::start(&[]);
    let servers = [server(), server()];
    let all: Vec<_> = KINDS.map(|kind| format!("{kind:?}")).into();
    for isolate in all.iter().map(String::as_str).chain([""]) {
        let dir = net
            .dir
            .path()
            .join(format!("client-{}", isolate.trim_matches('"')));
        let client = Client::start(&net, &dir, isolate);
        let mut open = vec![client.open("plain", servers)];
        assert_eq!(client.in_use(), 1, "{isolate}");
        let mut apart = 1;
        for other in KINDS {
            open.push(client.open(other, servers));
            let is_named = isolate.trim_matches('"') == other;
            apart = match isolate {
                "\"stream\"" => open.len() as u64,
                _ => apart + u64::from(is_named),
            };
            assert_eq!(client.in_use(), apart, "[{isolate}], {other}");
        }
    }
    assert!(net.stop().success());
}
