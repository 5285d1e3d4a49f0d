//! Two network namespaces: one for nodes and programs, and one that stands for the Internet. What goes from one to the
//! other is captured.

use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The Internet's addresses. Exits of a local network reach private ones.
pub(crate) const TARGET: &str = "10.77.0.1";
pub(crate) const TARGET6: &str = "fd77::1";

/// A packet of a test's own, by which it knows that it has seen all before it.
const MARKER_PORT: u16 = 40_099;

fn ip(args: &[&str]) {
    let done = Command::new("ip").args(args).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "ip {args:?}: {said}");
}

/// The namespaces; they go with this value.
pub(crate) struct Space {
    near: String,
    far: String,
}

impl Space {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = |side| format!("cepa-{}-{number}{side}", std::process::id());
        let (near, far) = (name("n"), name("f"));
        let space = Self { near, far };
        for side in [&space.near, &space.far] {
            ip(&["netns", "add", side]);
            ip(&["-n", side, "link", "set", "lo", "up"]);
        }
        ip(&[
            "-n",
            &space.near,
            "link",
            "add",
            "out",
            "type",
            "veth",
            "peer",
            "name",
            "in",
            "netns",
            &space.far,
        ]);
        for (side, link, v4, v6) in [
            (&space.near, "out", "10.77.0.2/16", "fd77::2/64"),
            (&space.far, "in", "10.77.0.1/16", "fd77::1/64"),
        ] {
            ip(&["-n", side, "addr", "add", v4, "dev", link]);
            ip(&["-n", side, "addr", "add", v6, "dev", link, "nodad"]);
            ip(&["-n", side, "link", "set", link, "up"]);
        }
        ip(&["-n", &space.near, "route", "add", "default", "via", TARGET]);
        ip(&[
            "-n",
            &space.near,
            "-6",
            "route",
            "add",
            "default",
            "via",
            TARGET6,
        ]);
        // Packets of IPv6 wait for a while after an interface began; none of them is to be taken for another's.
        for target in [TARGET, TARGET6] {
            let mut ping = space.near("ping");
            ping.args(["-c1", "-w20", target]).stdout(Stdio::null());
            assert!(ping.status().unwrap().success(), "{target} does not answer");
        }
        space
    }

    /// A command among nodes and programs.
    pub(crate) fn near(&self, program: &str) -> Command {
        within(&self.near, program)
    }

    /// A command on the Internet.
    pub(crate) fn far(&self, program: &str) -> Command {
        within(&self.far, program)
    }

    /// A port of loopback among nodes and programs, at which this process listens.
    pub(crate) fn listen_near(&self) -> TcpListener {
        open_in(&self.near, || TcpListener::bind("127.0.0.1:0").unwrap())
    }

    /// A port for datagrams on the Internet, at which this process hears.
    pub(crate) fn hear_far(&self) -> UdpSocket {
        open_in(&self.far, || UdpSocket::bind((TARGET, 0)).unwrap())
    }

    /// Begins to capture what the near side sends and gets, loopback too if `all`.
    pub(crate) fn capture(&self, all: bool) -> Capture {
        let interface = if all { "any" } else { "out" };
        // Neighbours are looked for when there is something to send, and routers when an interface begins.
        let noise = "not arp and not dst host ff02::16 and not (icmp6 and ip6[40] >= 130 and ip6[40] <= 143)";
        let mut tcpdump = self.near("tcpdump");
        let begins = ["-i", interface, "-n", "-l", "-q", "--immediate-mode"];
        // Of each packet its beginning, so that there is room for many.
        let room = ["--snapshot-length", "128", "--buffer-size", "16384"];
        tcpdump.args(begins).args(room).arg(noise);
        let mut child = tcpdump
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("listening on") {
            line.clear();
            assert_ne!(said.read_line(&mut line).unwrap(), 0, "tcpdump ended");
        }
        // It is never held up by what it says.
        std::thread::spawn(move || said.read_to_string(&mut String::new()));
        // What it has seen is taken from it at once: it loses packets when nobody does.
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (says, packets) = channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let _ = says.send(line);
            }
        });
        Capture { child, packets }
    }
}

/// What is opened in a namespace stays there: a thread enters it, and is gone with it.
fn open_in<T: Send>(namespace: &str, open: impl FnOnce() -> T + Send) -> T {
    let namespace = std::fs::File::open(format!("/run/netns/{namespace}")).unwrap();
    std::thread::scope(|scope| {
        let opening = scope.spawn(|| {
            let kind = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(namespace.as_fd(), kind).unwrap();
            open()
        });
        opening.join().unwrap()
    })
}

fn within(namespace: &str, program: &str) -> Command {
    let mut command = Command::new("ip");
    command.env("PATH", super::PATH);
    command.args(["netns", "exec", namespace, program]);
    command
}

impl Drop for Space {
    fn drop(&mut self) {
        for side in [&self.near, &self.far] {
            let _ = Command::new("ip").args(["netns", "del", side]).status();
        }
    }
}

/// A capture that runs.
pub(crate) struct Capture {
    child: Child,
    packets: Receiver<String>,
}

impl Capture {
    /// Ends the capture. Gives the packets, a line each.
    pub(crate) fn end(self, space: &Space) -> Vec<String> {
        let script = "import socket, sys\n\
            s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
            s.sendto(b'marker', (sys.argv[1], int(sys.argv[2])))";
        let mut marker = space.near("python3");
        let port = MARKER_PORT.to_string();
        assert!(
            marker
                .args(["-c", script, TARGET, &port])
                .status()
                .unwrap()
                .success()
        );
        let until = Instant::now() + Duration::from_secs(30);
        let mut seen = Vec::new();
        let marker = format!("{TARGET}.{MARKER_PORT}");
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let line = self.packets.recv_timeout(left);
            let line = line.expect("the marker was not seen");
            if line.contains(&marker) {
                break;
            }
            seen.push(line.trim().to_owned());
        }
        seen
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
