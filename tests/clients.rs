//! Tests of programs that people have, each through a whole network with traffic that is natural to it. A program that is
//! not installed is passed over with a message.
#![allow(
    clippy::disallowed_methods,
    reason = "the test uses the real world: it stands outside of nodes"
)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use support::dns::{KNOWN, NAMED, UNKNOWN, dns_server};
use support::*;

#[test]
fn programs_carry_what_is_natural_to_them() {
    let resolver = dns_server().to_string();
    let net = Testnet::start(&["--resolver", &resolver]);
    let server = http_server();
    curl(&net, server);
    wget(&net, server);
    netcat(&net);
    python(&net, server);
    git(&net);
    unix_socket(&net, server);
    assert!(net.stop().success());
}

/// Several files in one run, which share a connection, and an upload, all by `http://` requests.
fn curl(net: &Testnet, server: SocketAddr) {
    let url = format!("http://{server}/[1-5]/30000");
    let out = net.dir.path().join("curl-#1");
    let got = net.curl("http", &["--output", out.to_str().unwrap(), &url]);
    assert!(got.status.success(), "{got:?}");
    for n in 1..=5 {
        let file = net.dir.path().join(format!("curl-{n}"));
        assert!(std::fs::read(file).unwrap() == content(n, 30_000), "{n}");
    }
    // More than a MiB makes curl wait for "100 Continue".
    let data = content(6, 3_000_000);
    let file = net.dir.path().join("upload");
    std::fs::write(&file, &data).unwrap();
    let url = format!("http://{server}/");
    let got = net.curl("http", &["--upload-file", file.to_str().unwrap(), &url]);
    assert_eq!(
        String::from_utf8_lossy(&got.stdout),
        sha256(&data),
        "{got:?}"
    );
    // Nobody listens there.
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let args = ["--include", "--no-fail", &format!("http://{free}/")];
    let told = String::from_utf8(net.curl("http", &args).stdout).unwrap();
    assert!(told.starts_with("HTTP/1.1 502 "), "{told}");
    assert!(told.contains("Cepa-Failed: exit/refused\r\n"), "{told}");
}

fn wget(net: &Testnet, server: SocketAddr) {
    if !is_here("wget") {
        return;
    }
    let mut command = Command::new("wget");
    command
        .args([
            "--no-verbose",
            "--no-config",
            "--tries=1",
            "--output-document=-",
        ])
        .args([7, 8].map(|n| format!("http://{server}/{n}/40000")))
        .env("http_proxy", format!("http://{}", net.socks()))
        .env_remove("no_proxy");
    let both = [content(7, 40_000), content(8, 40_000)].concat();
    assert!(succeed(&mut command).stdout == both);
}

/// Ends its sending with its input, before the proxy has answered, and reads the answer.
fn netcat(net: &Testnet) {
    if !is_here("nc") {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = listener.local_addr().unwrap();
    let echo = std::thread::spawn(move || {
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().unwrap();
            let mut got = Vec::new();
            stream.read_to_end(&mut got).unwrap();
            stream.write_all(&got).unwrap();
        }
    });
    let proxy = net.socks();
    // By its own SOCKS, and with a request that is written by hand and ends at once.
    let request = format!("CONNECT {server} HTTP/1.1\r\n\r\n");
    let by_hand = [
        "-N".to_owned(),
        proxy.ip().to_string(),
        proxy.port().to_string(),
    ];
    let by_socks = ["-N", "-X", "5", "-x", &proxy.to_string()].map(str::to_owned);
    let to = [server.ip().to_string(), server.port().to_string()];
    for (args, ahead, reply) in [
        ([&by_socks[..], &to].concat(), "", ""),
        (
            by_hand.to_vec(),
            request.as_str(),
            "HTTP/1.1 200 Connection established\r\n\r\n",
        ),
    ] {
        let mut child = Command::new("nc")
            .args(&args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        write!(input, "{ahead}question").unwrap();
        drop(input);
        let output = child.wait_with_output().unwrap();
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            format!("{reply}question")
        );
    }
    echo.join().unwrap();
}

/// The library that comes with Python, which pip and many programs ask by.
fn python(net: &Testnet, server: SocketAddr) {
    if !is_here("python3") {
        return;
    }
    let script = "import sys, urllib.request\n\
         for n in (3, 4): sys.stdout.buffer.write(urllib.request.urlopen(f'{sys.argv[1]}{n}/20000', timeout=60).read())";
    let mut command = Command::new("python3");
    command
        .args(["-c", script, &format!("http://{server}/")])
        .env("http_proxy", format!("http://{}", net.socks()))
        .env_remove("no_proxy");
    let both = [content(3, 20_000), content(4, 20_000)].concat();
    assert!(succeed(&mut command).stdout == both);
}

/// Clones a repository by HTTP, through each kind of proxy that git knows.
fn git(net: &Testnet) {
    if !is_here("git") || !is_here("python3") {
        return;
    }
    let dir = net.dir.path();
    let git = |at: &Path| {
        let mut git = Command::new("git");
        git.current_dir(at)
            .args(["-c", "user.name=x", "-c", "user.email=x@example.org"])
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env_remove("no_proxy");
        git
    };
    succeed(git(dir).args(["init", "--quiet", "work"]));
    let work = dir.join("work");
    std::fs::write(work.join("file"), content(9, 100_000)).unwrap();
    succeed(git(&work).args(["add", "file"]));
    succeed(git(&work).args(["commit", "--quiet", "--message", "first"]));
    succeed(git(dir).args(["clone", "--quiet", "--bare", "work", "served.git"]));
    succeed(git(&dir.join("served.git")).arg("update-server-info"));
    let mut server = Command::new("python3")
        .args([
            "-u",
            "-m",
            "http.server",
            "0",
            "--bind",
            "127.0.0.1",
            "--directory",
        ])
        .arg(dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut said = Vec::new();
    let mut out = server.stdout.take().unwrap();
    while !said.ends_with(b"\n") {
        let mut byte = [0];
        out.read_exact(&mut byte).unwrap();
        said.push(byte[0]);
    }
    let said = String::from_utf8(said).unwrap();
    let port = said
        .split("port ")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap();
    for scheme in ["http", "socks5h", "socks4a"] {
        let proxy = format!("http.proxy={scheme}://{}", net.socks());
        let url = format!("http://127.0.0.1:{port}/served.git");
        succeed(git(dir).args(["-c", &proxy, "clone", "--quiet", &url, scheme]));
        let file = std::fs::read(dir.join(scheme).join("file")).unwrap();
        assert!(file == content(9, 100_000), "{scheme}");
    }
    server.kill().unwrap();
    server.wait().unwrap();
}

/// A client of the network that listens at a Unix socket too.
struct Unix {
    child: Child,
    socket: PathBuf,
}

impl Unix {
    /// Starts the client. Gives the line that it prints when it is ready, or what it says instead.
    fn start(net: &Testnet, name: &str, socket: &Path) -> (Self, String) {
        let dir = net.dir.path().join(name);
        std::fs::create_dir(&dir).unwrap();
        let text = format!(
            "[network]\nfile = {:?}\n[state]\ndir = {:?}\ncheck_permissions = false\n\
             [client]\nsocks = \"127.0.0.1:0\"\nallow_private = true\n\
             [[client.listeners]]\naddress = \"unix:{}\"\nmode = \"0620\"\n\
             [[client.listeners]]\naddress = \"127.0.0.1:0\"\nkind = \"dns\"\n\
             [[client.listeners]]\naddress = \"127.0.0.1:0\"\ncredentials = \"users\"\n\
             [log]\nlevel = \"warn\"\n",
            net.network_file(),
            dir.join("state"),
            socket.display(),
        );
        std::fs::write(dir.join("users"), "anna:correct horse\n").unwrap();
        std::fs::write(dir.join("node.toml"), text).unwrap();
        let mut child = cepa()
            .args(["run", "--exit-with-stdin", "--config"])
            .arg(dir.join("node.toml"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        if lines.read_line(&mut said).unwrap() == 0 {
            let mut errors = child.stderr.take().unwrap();
            errors.read_to_string(&mut said).unwrap();
        }
        let socket = socket.to_owned();
        (Self { child, socket }, said)
    }

    fn fetches(&self, server: SocketAddr) {
        let mut command = curl_through(format!("socks5h://localhost{}", self.socket.display()));
        command.arg(format!("http://{server}/1/5000"));
        assert!(succeed(&mut command).stdout == content(1, 5_000));
    }

    fn stop(mut self) {
        // The client ends when its standard input is closed.
        drop(self.child.stdin.take());
        self.child.wait().unwrap();
    }
}

/// Asks for names by UDP and by TCP.
fn dig(port: &str) {
    if Command::new("dig").arg("-v").output().is_err() {
        return eprintln!("dig is not installed; what it would do is not tested");
    }
    let [a, b, c, d] = NAMED;
    let address = format!("{a}.{b}.{c}.{d}");
    for by in ["+notcp", "+tcp"] {
        for (asked, status, told) in [
            (&["A", KNOWN][..], "NOERROR", "127.0.0.1\n"),
            (&["AAAA", KNOWN], "NOERROR", ""),
            (&["-x", &address], "NOERROR", KNOWN),
            (&["A", UNKNOWN], "NXDOMAIN", ""),
            (&["A", "localhost"], "NXDOMAIN", ""),
            (&["TXT", "nas.local"], "NXDOMAIN", ""),
            (&["ANY", KNOWN], "REFUSED", ""),
        ] {
            let mut command = Command::new("dig");
            let options = [by, "+time=30", "+tries=1", "+ignore"];
            command.args(["@127.0.0.1", "-p", port]).args(options);
            let said = succeed(command.args(asked)).stdout;
            let said = String::from_utf8(said).unwrap();
            assert!(said.contains(&format!("status: {status},")), "{said}");
            let answer = said.split("ANSWER SECTION:\n").nth(1).unwrap_or_default();
            let line = answer.lines().next().unwrap_or_default();
            assert_eq!(line.is_empty(), told.is_empty(), "{said}");
            assert!(line.contains(told.trim()), "{said}");
            if !line.is_empty() {
                assert_eq!(line.split_whitespace().nth(1), Some("60"), "{said}");
            }
        }
    }
}

fn unix_socket(net: &Testnet, server: SocketAddr) {
    let path = net.dir.path().join("port");
    let (mut first, ready) = Unix::start(net, "first", &path);
    assert!(
        ready.contains(&format!(" unix:{}", path.display())),
        "{ready}"
    );
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o620);
    first.fetches(server);

    // Its third port is for DNS.
    let (before, _) = ready.split_once(" for DNS").unwrap();
    dig(before.rsplit(':').next().unwrap());

    // Its fourth port asks for a password.
    let guarded = ready.trim().rsplit("socks5h://").next().unwrap();
    for scheme in ["socks5h", "http"] {
        for (user, is_right) in [
            ("anna:correct%20horse@", true),
            ("anna+web:correct%20horse@", true),
            ("anna:wrong%20horse@", false),
            ("", false),
        ] {
            let got = Command::new("curl")
                .args(["--silent", "--fail", "--max-time", "60", "--proxy"])
                .arg(format!("{scheme}://{user}{guarded}"))
                .arg(format!("http://{server}/1/5000"))
                .output()
                .unwrap();
            let has_it = got.stdout == content(1, 5_000);
            assert_eq!(
                (got.status.success(), has_it),
                (is_right, is_right),
                "{scheme} {user}"
            );
        }
    }

    // Another client does not take the socket away from it, and one that comes after its death does.
    let (second, said) = Unix::start(net, "second", &path);
    assert!(said.contains("another program listens there"), "{said}");
    second.stop();
    first.fetches(server);
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    assert!(path.exists(), "it was killed");
    let (third, _) = Unix::start(net, "third", &path);
    third.fetches(server);
    third.stop();
    assert!(!path.exists(), "a client that stops removes its socket");

    // What is no socket is left alone.
    std::fs::write(&path, "precious").unwrap();
    let (fourth, said) = Unix::start(net, "fourth", &path);
    assert!(said.contains("no socket"), "{said}");
    fourth.stop();
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
}
