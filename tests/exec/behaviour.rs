//! What a command and its user see: connections as they are, statuses, signals, and errors that say what to do.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use cepa_common::sync::lock;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::stub::{self, Udp};
use super::{Place, Who, everybody, good, text, via};

/// Connects, and says what came of it.
const CONNECTIONS: &str = r#"
import errno, socket, threading
def connect(ip, port, tries=None):
    s = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET)
    if tries: s.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, tries)
    try: s.connect((ip, port))
    except OSError as error: print(ip, port, errno.errorcode[error.errno]); return None
    return s
for ip in ["192.0.2.1", "2001:db8::1"]:
    for port in [2, 3, 4, 5]: connect(ip, port)
connect("192.0.2.1", 6, 1)
s = connect("192.0.2.1", 7)
sent = bytes(range(256)) * 20000
def send(): s.sendall(sent); s.shutdown(socket.SHUT_WR)
threading.Thread(target=send).start()
got = b""
while True:
    piece = s.recv(100000)
    if not piece: break
    got += piece
print("echo", got == sent)
s = connect("192.0.2.1", 8)
print("hello", s.recv(5))
s.sendall(b"x")
try: print("end", s.recv(5))
except OSError as error: print("reset", errno.errorcode[error.errno])
"#;

#[test]
fn connections_end_as_they_do_without_cepa() {
    for who in everybody() {
        let place = Place::new();
        let (port, _) = stub::at_port(Udp::Refused);
        let args = ["--", "python3", "-c", CONNECTIONS];
        let said = good(
            &place
                .exec_here(who, &port.to_string(), &args)
                .output()
                .unwrap(),
        );
        let lines: Vec<_> = said.lines().collect();
        assert_eq!(
            lines,
            [
                "192.0.2.1 2 EHOSTUNREACH",
                "192.0.2.1 3 ENETUNREACH",
                "192.0.2.1 4 EHOSTUNREACH",
                "192.0.2.1 5 ECONNREFUSED",
                "2001:db8::1 2 EACCES",
                "2001:db8::1 3 ENETUNREACH",
                "2001:db8::1 4 EHOSTUNREACH",
                "2001:db8::1 5 ECONNREFUSED",
                "192.0.2.1 6 ETIMEDOUT",
                "echo True",
                "hello b'hello'",
                "reset ECONNRESET",
            ]
        );
    }
}

#[test]
fn statuses_are_the_commands_or_say_what_failed() {
    for who in everybody() {
        let place = Place::new();
        let (port, _) = stub::at_port(Udp::Refused);
        let port = port.to_string();
        let run = |args: &[&str]| place.exec_here(who, &port, args).output().unwrap();
        for (script, code) in [
            ("exit 0", 0),
            ("exit 7", 7),
            ("kill -KILL $$", 137),
            ("kill -TERM $$", 143),
        ] {
            let output = run(&["--", "sh", "-c", script]);
            assert_eq!(output.status.code(), Some(code), "{script} {output:?}");
        }
        for (command, code, words) in [
            ("/nonexistent", 127, "cannot run /nonexistent"),
            ("/etc/passwd", 126, "Permission denied"),
        ] {
            let output = run(&["--", command]);
            assert_eq!(output.status.code(), Some(code), "{output:?}");
            let said = text(&output.stderr);
            assert!(said.contains(words) && said.contains("hint: "), "{said}");
        }
        for args in [
            &["--share", "/nonexistent", "--", "true"][..],
            &["--nonsense", "--", "true"],
            &[],
        ] {
            let output = run(args);
            assert_eq!(output.status.code(), Some(125), "{output:?}");
        }
        let mut nobody_there = place.exec_here(who, "127.0.0.1:1", &["--", "true"]);
        let output = nobody_there.output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{output:?}");
        assert!(text(&output.stderr).contains("`cepa proxy`"), "{output:?}");
    }
}

#[test]
fn what_is_missing_is_said_with_what_to_do() {
    let everybody = everybody();
    if everybody.is_empty() {
        return;
    }
    let place = Place::new();
    let (port, _) = stub::at_port(Udp::Refused);
    let port = port.to_string();
    let run = |who, before: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(before);
        let args = ["--via", &port, "--", "true"];
        let output = place.exec(command, who, &args).output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{output:?}");
        text(&output.stderr)
    };
    let closed = "mount -t tmpfs x /dev/net && exec \"$@\"";
    let said = run(Who::Root, &["-m", "sh", "-c", closed, "sh"]);
    assert!(
        said.contains("/dev/net/tun") && said.contains("modprobe tun"),
        "{said}"
    );
    let closed = "mount -t tmpfs x /etc && exec \"$@\"";
    let said = run(Who::Root, &["-m", "sh", "-c", closed, "sh"]);
    assert!(said.contains("sudo touch /etc/resolv.conf"), "{said}");
    if everybody.contains(&Who::Nobody) {
        let off = "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$@\"";
        let said = run(Who::Root, &["-U", "-r", "sh", "-c", off, "sh"]);
        assert!(
            said.contains("sudo sysctl user.max_user_namespaces"),
            "{said}"
        );
    }
    // A port that another user listens at is not his to trust.
    if everybody.contains(&Who::Nobody) {
        let path = place.open_dir("another's").join("port");
        let script = "import socket, sys\ns = socket.create_server(('127.0.0.1', 0))\n\
            u = socket.socket(socket.AF_UNIX); u.bind(sys.argv[1]); u.listen()\n\
            import os; os.chmod(sys.argv[1], 0o777)\n\
            print(s.getsockname()[1], flush=True)\nsys.stdin.read()";
        let mut other = Command::new("setpriv")
            .env("PATH", super::PATH)
            .args([
                "--reuid",
                "65533",
                "--clear-groups",
                "python3",
                "-c",
                script,
            ])
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut other_port = String::new();
        BufReader::new(other.stdout.take().unwrap())
            .read_line(&mut other_port)
            .unwrap();
        let other_port = format!("127.0.0.1:{}", other_port.trim());
        for (who, port) in everybody
            .into_iter()
            .flat_map(|who| [(who, other_port.clone()), (who, via(&path))])
        {
            let output = place
                .exec_here(who, &port, &["--", "true"])
                .output()
                .unwrap();
            assert_eq!(output.status.code(), Some(125), "{output:?}");
            let said = text(&output.stderr);
            assert!(said.contains("another user (uid 65533)"), "{said}");
            assert!(said.contains("the user `cepa` are trusted"), "{said}");
        }
        drop(other.stdin.take());
        other.wait().unwrap();
    }
}

#[test]
fn directories_are_hidden_and_can_be_let_in() {
    for who in everybody() {
        let place = Place::new();
        let (port, _) = stub::at_port(Udp::Refused);
        let port = port.to_string();
        let hidden = tempfile::Builder::new()
            .prefix("cepa-hidden-")
            .tempdir_in("/tmp")
            .unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(hidden.path(), mode).unwrap();
        std::fs::write(hidden.path().join("file"), "content").unwrap();
        let dir = hidden.path().to_str().unwrap();
        let file = format!("{dir}/file");
        let run = |args: &[&str]| place.exec_here(who, &port, args).output().unwrap();
        assert!(!run(&["--", "cat", &file]).status.success());
        for args in [
            &["--share-tmp", "--", "cat", &file][..],
            &["--share", dir, "--", "cat", &file],
            &["--share", &file, "--", "cat", &file],
        ] {
            assert_eq!(good(&run(args)), "content", "{args:?}");
        }
        let mut inside = place.exec_here(who, &port, &["--", "pwd"]);
        let output = inside.current_dir(hidden.path()).output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{output:?}");
        assert!(
            text(&output.stderr).contains(&format!("--share {dir}")),
            "{output:?}"
        );
        let mut inside = place.exec_here(who, &port, &["--share", dir, "--", "cat", "file"]);
        assert_eq!(
            good(&inside.current_dir(hidden.path()).output().unwrap()),
            "content"
        );
        // Input that is a directory would lead around.
        let mut from_dir = place.exec_here(who, &port, &["--", "true"]);
        let output = from_dir
            .stdin(std::fs::File::open("/run").unwrap())
            .output()
            .unwrap();
        assert!(
            text(&output.stderr).contains("standard input is a directory"),
            "{output:?}"
        );
        let proxies = "env | grep -ci proxy; cat /etc/resolv.conf; grep ^hosts /etc/nsswitch.conf";
        let mut command = place.exec_here(who, &port, &["--", "sh", "-c", proxies]);
        let said = text(
            &command
                .env("http_proxy", "x")
                .env("ALL_PROXY", "x")
                .output()
                .unwrap()
                .stdout,
        );
        assert!(
            said.starts_with("0\n") && said.contains("nameserver 198.18.0.53"),
            "{said}"
        );
        assert!(
            !said.contains("hosts") || said.contains("hosts: files dns\n"),
            "{said}"
        );
    }
}

#[test]
fn a_directory_that_is_let_in_whole_stays_as_it_is_outside() {
    for who in everybody() {
        let place = Place::new();
        let (port, _) = stub::at_port(Udp::Refused);
        let mut command = Command::new("unshare");
        // Without a directory of ours, and with one that is not ours to write.
        for before in ["true", "mkdir -m 777 /run/cepa"] {
            let script =
                format!("mount -t tmpfs x /run && {before} && \"$@\" && find /run -type f | wc -l");
            let mut command = std::mem::replace(&mut command, Command::new("unshare"));
            command.args(["-m", "sh", "-c", &script, "sh"]);
            let args = ["--via", &port.to_string(), "--share", "/run", "--"];
            let args = [
                &args[..],
                &["grep", "-c", "198.18.0.53", "/etc/resolv.conf"],
            ]
            .concat();
            let output = place.exec(command, who, &args).output().unwrap();
            assert_eq!(good(&output), "1\n0\n", "{before}");
        }
    }
}

#[test]
fn a_datagram_that_nobody_carries_is_told_so() {
    for who in everybody() {
        let place = Place::new();
        let (port, asked) = stub::at_port(Udp::Refused);
        let script = "import errno, socket\n\
            for ip in ['192.0.2.1', '2001:db8::1']:\n\
            \x20   s = socket.socket(socket.AF_INET6 if ':' in ip else socket.AF_INET, socket.SOCK_DGRAM)\n\
            \x20   s.settimeout(20); s.connect((ip, 443)); s.send(b'x')\n\
            \x20   try: s.recv(10)\n\
            \x20   except OSError as error: print(errno.errorcode[error.errno])";
        let args = ["--", "python3", "-c", script];
        let said = good(
            &place
                .exec_here(who, &port.to_string(), &args)
                .output()
                .unwrap(),
        );
        assert_eq!(said, "EHOSTUNREACH\nEACCES\n");
        assert_eq!(*lock(&asked), Vec::<String>::new());
    }
}

/// Sends datagrams of all lengths that a packet has from two ports to two hosts each, and has each back from where it
/// went.
const DATAGRAMS: &str = r#"
import socket
for ips in [["192.0.2.1", "192.0.2.2"], ["2001:db8::1", "2001:db8::2"]]:
    kind = socket.AF_INET6 if ":" in ips[0] else socket.AF_INET
    for s in [socket.socket(kind, socket.SOCK_DGRAM) for _ in range(2)]:
        s.settimeout(30)
        for ip in ips:
            for size in [0, 1, 53, 1200, 1452]:
                data = bytes([size % 251]) * size
                s.sendto(data, (ip, 443))
                got, whence = s.recvfrom(2000)
                assert (got, whence[0], whence[1]) == (data, ip, 443), (size, len(got), whence)
print("all came back")
"#;

#[test]
fn datagrams_go_by_an_association_for_each_port() {
    for who in everybody() {
        let place = Place::new();
        let (port, asked) = stub::at_port(Udp::Echoed);
        let args = ["--", "python3", "-c", DATAGRAMS];
        let output = place.exec_here(who, &port.to_string(), &args).output();
        assert_eq!(good(&output.unwrap()), "all came back\n");
        assert_eq!(*lock(&asked), ["datagrams"; 4]);
    }
}

/// Sends until there is an answer, thrice: what is sent while nobody has noticed that an association is lost is lost too.
const AGAIN: &str = r#"
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(1)
for n in range(3):
    for _ in range(60):
        s.sendto(bytes([n]), ("192.0.2.1", 443))
        try: got = s.recv(10)
        except TimeoutError: continue
        if got == bytes([n]): break
    else: raise SystemExit("no answer")
print("answered")
"#;

#[test]
fn a_lost_association_is_followed_by_another() {
    for who in everybody() {
        let place = Place::new();
        let (port, asked) = stub::at_port(Udp::Lost);
        let args = ["--", "python3", "-c", AGAIN];
        let output = place.exec_here(who, &port.to_string(), &args).output();
        assert_eq!(good(&output.unwrap()), "answered\n");
        let asked = lock(&asked).clone();
        assert!(asked.len() >= 3 && asked.iter().all(|what| what == "datagrams"));
    }
}

/// Ends one connection by a reset, and another in order.
const ENDS: &str = r#"
import socket, struct, sys
for is_reset in [True, False]:
    s = socket.create_connection(("192.0.2.1", 9))
    assert s.recv(5) == b"hello"
    if is_reset: s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    else:
        s.shutdown(socket.SHUT_WR)
        assert s.recv(5) == b""
    s.close()
sys.stdin.read()
"#;

#[test]
fn a_reset_by_the_command_is_a_reset_outside() {
    for who in everybody() {
        let place = Place::new();
        let (port, asked) = stub::at_port(Udp::Refused);
        let args = ["--", "python3", "-c", ENDS];
        let mut command = place.exec_here(who, &port.to_string(), &args);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        // The end of the command would reset what is open, so it waits.
        until("both have ended", || lock(&asked).len() == 4);
        drop(child.stdin.take());
        child.wait().unwrap();
        let mut asked = lock(&asked).clone();
        asked.retain(|what| what != "192.0.2.1:9");
        asked.sort();
        assert_eq!(asked, ["ConnectionReset", "end"]);
    }
}

/// Waits for signals, and ends with 42 by SIGINT and with 43 by SIGUSR1 if it has an argument.
const WAITS: &str = "import os, signal, sys\n\
    signal.signal(signal.SIGINT, (lambda *_: os._exit(42)) if sys.argv[1:] else signal.SIG_DFL)\n\
    if sys.argv[1:]: signal.signal(signal.SIGUSR1, lambda *_: os._exit(43))\n\
    print(os.getpid(), flush=True)\n\
    while True: signal.pause()";

/// A command in a process group of its own, from its first line on.
fn start(
    place: &Place,
    who: Who,
    port: &str,
    args: &[&str],
) -> (Child, BufReader<std::process::ChildStdout>, Pid) {
    let args = [&["--", "python3", "-c", WAITS], args].concat();
    let mut command = place.exec_here(who, port, &args);
    let mut child = command
        .process_group(0)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    let command = line.trim().parse().ok().and_then(Pid::from_raw);
    (child, out, command.expect("the command's process"))
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed()).unwrap()
}

/// The state of a process, by the kernel's letter; `None` if it is gone.
fn state(pid: Pid) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    stat.rsplit(") ").next()?.chars().next()
}

fn until(what: &str, mut look: impl FnMut() -> bool) {
    for _ in 0..300 {
        if look() {
            return;
        }
        let _ = Command::new("sleep").arg("0.1").status();
    }
    panic!("{what}: not within 30 s");
}

#[test]
fn signals_reach_the_command() {
    for who in everybody() {
        let place = Place::new();
        let (port, _) = stub::at_port(Udp::Refused);
        let port = port.to_string();
        // Ctrl-C: both are in the foreground; the command decides what it means.
        let (mut child, _, _) = start(&place, who, &port, &["handles"]);
        kill_process_group(pid(&child), Signal::INT).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(42));
        let (mut child, _, _) = start(&place, who, &port, &[]);
        kill_process_group(pid(&child), Signal::INT).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130));
        // Ctrl-Z: both stop, and both go on.
        let (mut child, _, command) = start(&place, who, &port, &["handles"]);
        let group = pid(&child);
        kill_process_group(group, Signal::TSTP).unwrap();
        until("both stop", || {
            state(group) == Some('T') && state(command) == Some('T')
        });
        kill_process_group(group, Signal::CONT).unwrap();
        until("both go on", || {
            state(group) != Some('T') && state(command) != Some('T')
        });
        // Others are passed on.
        kill_process(group, Signal::USR1).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(43));
        let (mut child, _, _) = start(&place, who, &port, &[]);
        kill_process(pid(&child), Signal::TERM).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(143));
        // A command does not outlive the process that has its network.
        let (mut child, mut out, command) = start(&place, who, &port, &[]);
        kill_process(pid(&child), Signal::KILL).unwrap();
        child.wait().unwrap();
        until("the command ends", || {
            state(command).is_none_or(|state| state == 'Z')
        });
        out.read_to_string(&mut String::new()).unwrap();
    }
}
