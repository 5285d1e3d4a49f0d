//! The whole way: programs by `cepa exec`, a client, three relays, an exit, and servers on an Internet of the test's own.

use std::io::Read;
use std::process::{Command, Stdio};

use super::space::{Space, TARGET};
use super::support::{content, sha256};
use super::{Place, Who, everybody, quic, text};

/// Servers of the Internet: a repository and pages by HTTP, and a name server that knows one name.
const SERVERS: &str = r#"
import functools, http.server, socket, struct, sys, threading
def names():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind((sys.argv[1], 53))
    while True:
        query, who = s.recvfrom(2000)
        end = 12
        while query[end]: end += query[end] + 1
        known = query[12:end] == b"\x03www\x07example\x03org" and query[end + 1:end + 3] == b"\0\x01"
        answer = query[:2] + b"\x81\x80\0\x01\0" + bytes([known]) + b"\0\0\0\0" + query[12:end + 5]
        if known: answer += b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04" + socket.inet_aton(sys.argv[1])
        s.sendto(answer, who)
threading.Thread(target=names, daemon=True).start()
def echo():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind((sys.argv[1], 7))
    while True: s.sendto(*s.recvfrom(2000))
threading.Thread(target=echo, daemon=True).start()
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=sys.argv[2])
server = http.server.ThreadingHTTPServer((sys.argv[1], 80), handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
print("ready", flush=True)
sys.stdin.read()
"#;

/// Sends datagrams until one comes back, and says so. Datagrams may be lost.
const DATAGRAM: &str = r#"
import errno, socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect((sys.argv[1], 7))
s.settimeout(2)
for n in range(30):
    try:
        s.send(b"datagram")
        assert s.recv(100) == b"datagram"
        print("a datagram came back")
        break
    except TimeoutError: pass
    except OSError as error:
        print("no datagrams:", errno.errorcode[error.errno])
        break
"#;

/// What comes by HTTP/3.
const BODY: usize = 10_000_000;
/// Variables that tell the program of HTTP/3 where the server is, what certificate it has, and what it sends.
const HTTP3: [&str; 3] = ["CEPA_TEST_AT", "CEPA_TEST_CERTIFICATE", "CEPA_TEST_SHA256"];

/// Names the client's port, if datagrams are to be led there.
const PORT: &str = "CEPA_TEST_PORT";

/// A program that fetches by HTTP/3. It knows nothing of Cepa, or its datagrams go by the client's port.
#[test]
#[ignore = "is run in `cepa exec` by programs_go_through_a_whole_network"]
fn fetches_by_http3() {
    let [at, certificate, wanted] = HTTP3.map(|name| std::env::var(name).unwrap());
    let certificate = hex::decode(certificate).unwrap().into();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let at = at.parse().unwrap();
    let body = runtime.block_on(async {
        let Ok(port) = std::env::var(PORT) else {
            return quic::fetch(certificate, at, |_| {}).await;
        };
        let shim = quic::Shim::start(port.parse().unwrap(), at).await;
        let body = quic::fetch(certificate, shim.address, |_| {}).await;
        shim.stop().await;
        body
    });
    assert_eq!((body.len(), sha256(&body)), (BODY, wanted));
}

fn git(args: &[&str]) {
    let done = Command::new("git")
        .args(["-c", "user.name=x", "-c", "user.email=x@example.org"])
        .args(args)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .output()
        .unwrap();
    assert!(done.status.success(), "{args:?}: {done:?}");
}

#[test]
fn programs_go_through_a_whole_network() {
    let everybody = everybody();
    if !everybody.contains(&Who::Root) {
        return;
    }
    let (place, space) = (Place::new(), Space::new());
    let work = place.open_dir("work");
    let at = |name: &str| work.join(name).to_str().unwrap().to_owned();
    std::fs::write(work.join("page"), vec![b'p'; 1_000_000]).unwrap();
    git(&["init", "--quiet", &at("source")]);
    std::fs::write(work.join("source/file"), "text").unwrap();
    git(&["-C", &at("source"), "add", "file"]);
    git(&[
        "-C",
        &at("source"),
        "commit",
        "--quiet",
        "--message",
        "first",
    ]);
    git(&[
        "clone",
        "--quiet",
        "--bare",
        &at("source"),
        &at("served.git"),
    ]);
    git(&["-C", &at("served.git"), "update-server-info"]);

    let mut servers = space.far("python3");
    servers
        .args(["-c", SERVERS, TARGET])
        .arg(&work)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut servers = servers.stderr(Stdio::null()).spawn().unwrap();
    let mut ready = [0; 6];
    servers
        .stdout
        .take()
        .unwrap()
        .read_exact(&mut ready)
        .unwrap();

    let body = content(1, BODY);
    let wanted = sha256(&body);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let entered = runtime.enter();
    let http3 = quic::Http3Server::start_at(space.hear_far(), body.into());
    drop(entered);
    let values = [
        http3.address.to_string(),
        hex::encode(&http3.certificate),
        wanted,
    ];
    let program = std::env::current_exe().unwrap();

    let capture = space.capture(false);
    // The command finds the client by itself. Its proxy settings are those of the network around it.
    let script = format!(
        "set -e\n\
         run() {{ {cepa} exec -- \"$@\"; }}\n\
         run curl -sS --max-time 60 http://www.example.org/page | cmp - {page}\n\
         run curl -sS --max-time 60 http://{TARGET}/page | cmp - {page}\n\
         run git clone --quiet http://www.example.org/served.git {clone}\n\
         cmp {clone}/file {source}/file\n\
         run getent ahostsv4 www.example.org | grep -q {TARGET}\n\
         ! run getent ahostsv4 nobody.example.org\n\
         ! run curl -sS --max-time 60 http://{TARGET}:81/\n\
         ! run ping -c 1 -W 2 {TARGET}\n\
         run python3 -c \"$DATAGRAM\" {TARGET}\n\
         by_http3() {{ {cepa} exec --share {program} -- {program} --exact network::fetches_by_http3 --ignored >&2; }}\n\
         by_http3\n\
         {PORT}=${{ALL_PROXY#socks5h://}} by_http3\n\
         echo all is well\n",
        cepa = place.path("cepa").display(),
        page = at("page"),
        clone = at("clone"),
        program = program.display(),
        source = at("source"),
    );
    let mut network = space.near("env");
    network
        .arg(place.path("cepa"))
        .args([
            "testnet",
            "--socks",
            "127.0.0.1:0",
            "--resolver",
            &format!("{TARGET}:53"),
            "--",
            "sh",
            "-c",
            &script,
        ])
        .env("DATAGRAM", DATAGRAM)
        .envs(HTTP3.into_iter().zip(values))
        .env("XDG_RUNTIME_DIR", place.open_dir("runtime"))
        .env("HOME", place.open_dir("home"))
        .current_dir("/")
        .stdin(Stdio::null());
    let output = network.output().unwrap();
    assert!(
        text(&output.stdout).ends_with("all is well\n"),
        "{output:?}"
    );
    assert!(
        text(&output.stdout).contains("a datagram came back"),
        "{output:?}"
    );
    let seen = capture.end(&space);
    drop(servers.stdin.take());
    servers.wait().unwrap();
    assert!(seen.len() > 20, "{seen:?}");
    let quic = http3.address.port().to_string();
    let lengths = (seen.iter())
        .filter(|packet| packet.contains(&format!("{TARGET}.{quic} > ")))
        .filter_map(|packet| packet.rsplit(' ').next()?.parse::<usize>().ok());
    assert!(lengths.sum::<usize>() > 2 * BODY);
    // The exits' links: to the servers that were asked for, and to the name server of the exits.
    for packet in &seen {
        let is_of = |port: &str| {
            packet.contains(&format!("{TARGET}.{port}:"))
                || packet.contains(&format!("{TARGET}.{port} "))
        };
        assert!(
            is_of("80") || is_of("81") || is_of("53") || is_of("7") || is_of(&quic),
            "{packet}"
        );
        assert!(packet.contains(" 10.77.0.2."), "{packet}");
    }
}
