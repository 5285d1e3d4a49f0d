//! Nothing leaves: a command that tries every way out, and a capture around it. The node's port is a stub that sends
//! nothing itself, so the capture must be empty.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use cepa_common::sync::lock;

use super::space::{Space, TARGET, TARGET6};
use super::{NOBODY, Place, Who, everybody, good, stub, text, via};

const ATTEMPTS: &str = include_str!("attempts.py");
const OUTSIDE: &str = include_str!("outside.py");

/// A program outside that sends a packet for whoever asks.
struct Outside {
    child: Child,
    pid: String,
}

impl Outside {
    fn start(space: &Space, place: &Place, dir: &Path, who: Who) -> Self {
        let mut command = space.near("setpriv");
        if who == Who::Nobody {
            // Of the same user, and it may write to /run, where only root's programs have sockets as a rule.
            command.args([
                "--reuid",
                NOBODY,
                "--regid",
                NOBODY,
                "--clear-groups",
                "--inh-caps=+dac_override",
            ]);
            command.arg("--ambient-caps=+dac_override");
        }
        command
            .args(["python3", "-u"])
            .arg(place.path("outside.py"))
            .arg(dir)
            .arg(TARGET);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut pid = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut pid)
            .unwrap();
        let pid = pid.trim().to_owned();
        assert!(!pid.is_empty(), "the program outside ended");
        Self { child, pid }
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// What became of each attempt.
fn outcomes(said: &str) -> BTreeMap<&str, &str> {
    said.lines()
        .filter_map(|line| line.split_once(' '))
        .collect()
}

/// Runs the attempts by `sh`, which has a directory open that leads to sockets.
fn attempts(place: &Place, outside: &Outside, dir: &Path, more: &str) -> String {
    format!(
        "exec python3 -u {} {} {} {TARGET} {TARGET6} {more}",
        place.path("attempts.py").display(),
        dir.display(),
        outside.pid
    )
}

#[test]
fn nothing_leaves_but_by_the_node() {
    for who in everybody() {
        let (place, space) = (Place::new(), Space::new());
        let dir = place.open_dir("home");
        std::fs::write(place.path("attempts.py"), ATTEMPTS).unwrap();
        std::fs::write(place.path("outside.py"), OUTSIDE).unwrap();
        let asked = stub::at_path(&place.path("port"));
        let port = via(&place.path("port"));
        let outside = Outside::start(&space, &place, &dir, who);

        // The attempts are good for something: outside many succeed, and are seen.
        let capture = space.capture(true);
        let script = attempts(&place, &outside, &dir, "outside");
        let said = good(
            &space
                .near("sh")
                .args(["-c", &format!("exec 9</run; {script}")])
                .output()
                .unwrap(),
        );
        let free = outcomes(&said);
        for name in [
            "udp",
            "udp6",
            "udp-by-device",
            "multicast",
            "broadcast",
            "raw",
            "raw6",
            "packet",
            "setns-other",
        ] {
            assert_eq!(free[name], "done", "{said}");
        }
        for name in [
            "home-stream",
            "home-datagram",
            "home-kept-under-another-name",
            "relative",
            "run",
            "tmp",
        ] {
            assert_eq!(free[name], "asked", "{said}");
        }
        for name in ["abstract", "inherited", "root-other"] {
            assert_eq!(free[name], "asked", "{said}");
        }
        let seen = capture.end(&space);
        assert!(seen.len() >= 14, "{seen:?}");

        let capture = space.capture(true);
        let script = attempts(&place, &outside, &dir, "");
        let mut command = space.near("sh");
        command.args(["-c", "exec 9</run; exec \"$@\"", "sh"]);
        let args = ["--via", &port, "--", "sh", "-c", &script];
        let output = place.exec(command, who, &args).output().unwrap();
        let said = good(&output);
        let caught = outcomes(&said);
        assert_eq!(
            caught.len(),
            free.len() + 6,
            "{said}{}",
            text(&output.stderr)
        );
        for (name, outcome) in &caught {
            let is_good = match *name {
                // The namespace takes them, and they end there.
                "udp" | "udp6" => ["done", "EHOSTUNREACH", "EACCES"].contains(outcome),
                "multicast" | "broadcast" => *outcome == "done" || outcome.starts_with('E'),
                "netlink-link" | "netlink-address" | "ping" | "ping6" => *outcome == "refused",
                "nested" | "remount" => *outcome == "hidden",
                "vsock" => *outcome == "EAFNOSUPPORT",
                "io_uring" | "request_key" => *outcome == "ENOSYS",
                "raw" | "raw6" | "packet" => *outcome == "EPERM",
                _ => outcome.starts_with('E'),
            };
            assert!(is_good, "{name}: {outcome}\n{said}");
        }
        programs(&place, &space, who, &port);
        let seen = capture.end(&space);
        assert_eq!(seen, Vec::<String>::new(), "{who:?}");
        let asked = lock(&asked).clone();
        for wanted in [
            "10.77.0.1:80",
            "fd77::1:80",
            "www.example.org",
            "10.77.0.9:80",
            "10.77.0.9:22",
            "10.77.0.9:9418",
        ] {
            assert!(
                asked.iter().any(|asked| asked == wanted),
                "{wanted}: {asked:?}"
            );
        }
    }
}

/// Programs that people have. What they do goes to the node, or nowhere.
fn programs(place: &Place, space: &Space, who: Who, port: &str) {
    let run = |script: &str| {
        let before = space.near("env");
        let args = ["--via", port, "--", "sh", "-c", script];
        place.exec(before, who, &args).output().unwrap()
    };
    for url in [
        format!("http://{TARGET}/"),
        format!("http://[{TARGET6}]/"),
        "http://www.example.org/".to_owned(),
    ] {
        // A proxy of the outside is not there.
        let script = format!("curl -sS --max-time 30 {url}");
        assert_eq!(good(&run(&script)), "page\n", "{url}");
    }
    let looked_up = good(&run("getent ahostsv4 www.example.org"));
    assert!(looked_up.contains("10.77.0.9"), "{looked_up}");
    for script in [
        "ssh -o BatchMode=yes -o ConnectTimeout=5 -o StrictHostKeyChecking=no x@www.example.org",
        "timeout 10 git ls-remote git://www.example.org/x",
    ] {
        assert!(!run(script).status.success(), "{script}");
    }
    if Command::new("dig").arg("-v").output().is_ok() {
        for (server, options, is_good) in [
            ("", "", true),
            ("", "+tcp", true),
            ("@fd00:ce9a::53", "", true),
            (&*format!("@{TARGET}"), "+time=2 +tries=1", false),
        ] {
            let script = format!("dig {server} {options} +short www.example.org");
            let found = text(&run(&script).stdout).contains("10.77.0.9");
            assert_eq!(found, is_good, "{script}");
        }
    }
    // What is left behind has no network.
    let late = place.path("late");
    let script = format!(
        "(sleep 1; curl -sS --max-time 5 http://{TARGET}/; echo $? > {0}.new; mv {0}.new {0}) >/dev/null 2>&1 &",
        late.display()
    );
    good(&run(&script));
    let status = loop {
        match std::fs::read_to_string(&late) {
            Ok(status) => break status,
            Err(_) => wait_a_moment(),
        }
    };
    std::fs::remove_file(late).unwrap();
    assert_eq!(status, "7\n", "curl could not connect");
}

/// Connects to sockets, and says of each what came of it.
pub(crate) const REACH: &str = "import errno, socket, sys\n\
    for path in sys.argv[1:]:\n\
    \x20   try: socket.socket(socket.AF_UNIX).connect(path); print('reached')\n\
    \x20   except OSError as error: print(errno.errorcode[error.errno])";

#[test]
fn a_socket_is_covered_wherever_its_file_system_is_seen() {
    for who in everybody() {
        let (place, space) = (Place::new(), Space::new());
        let (home, again) = (
            place.open_dir("home"),
            place.open_dir("a place with blanks"),
        );
        std::fs::write(place.path("outside.py"), OUTSIDE).unwrap();
        let _asked = stub::at_path(&place.path("port"));
        let port = via(&place.path("port"));
        let _outside = Outside::start(&space, &place, &home, who);
        let paths =
            [home.join("stream"), again.join("stream")].map(|path| path.display().to_string());
        let run = |inside: bool| {
            let mut command = space.near("unshare");
            let script = format!(
                "mount --bind '{}' '{}' && exec \"$@\"",
                home.display(),
                again.display()
            );
            command.args(["-m", "sh", "-c", &script, "sh"]);
            let reach = ["python3", "-c", REACH, &paths[0], &paths[1]];
            let mut command = match inside {
                true => place.exec(
                    command,
                    who,
                    &[&["--via", &port, "--"][..], &reach].concat(),
                ),
                false => {
                    command.args(reach);
                    command
                }
            };
            good(&command.output().unwrap())
        };
        assert_eq!(run(false), "reached\nreached\n");
        assert_eq!(run(true), "ECONNREFUSED\nECONNREFUSED\n");
    }
}

/// A node's port that another user takes. It answers one greeting, waits for a word, and says what the other user hears.
const TAKEN: &str = r#"
import os, socket, sys
s = socket.create_server(("127.0.0.1", 0))
port = s.getsockname()[1]
print(port, flush=True)
c, _ = s.accept()
c.recv(100)
c.sendall(bytes([5, 2, 1, 0]))
while c.recv(100): pass
c.close(); s.close()
sys.stdin.readline()
os.setresuid(65533, 65533, 65533)
s = socket.create_server(("127.0.0.1", port))
print("taken", flush=True)
c, _ = s.accept()
print(c.recv(100), flush=True)
"#;

#[test]
fn a_port_that_another_user_takes_meanwhile_hears_nothing() {
    for who in everybody() {
        let place = Place::new();
        let mut node = Command::new("python3");
        node.args(["-c", TAKEN]).env("PATH", super::PATH);
        let mut node = node
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut heard = BufReader::new(node.stdout.take().unwrap());
        let mut next = || {
            let mut line = String::new();
            heard.read_line(&mut line).unwrap();
            line.trim().to_owned()
        };
        let port = format!("127.0.0.1:{}", next());
        let script = "echo runs; read word; exec curl -sS --max-time 20 http://192.0.2.1/";
        let mut command = place.exec_here(who, &port, &["--", "sh", "-c", script]);
        let mut command = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut runs = String::new();
        let mut said = BufReader::new(command.stdout.take().unwrap());
        said.read_line(&mut runs).unwrap();
        assert_eq!(runs, "runs\n");
        node.stdin.take().unwrap().write_all(b"x\n").unwrap();
        assert_eq!(next(), "taken");
        command.stdin.take().unwrap().write_all(b"x\n").unwrap();
        let output = command.wait_with_output().unwrap();
        assert_eq!(next(), "b''", "another user hears");
        assert_eq!(output.status.code(), Some(7), "{output:?}");
        let told = text(&output.stderr);
        assert!(told.contains("another user has taken the port"), "{told}");
        node.wait().unwrap();
    }
}

/// Another process does something, which nobody can tell.
fn wait_a_moment() {
    let _ = Command::new("sleep").arg("0.1").status();
}
