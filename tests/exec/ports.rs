//! The node's ports, which a command finds in its namespace too: connections, datagrams, Unix sockets, and what does not
//! get there.

use std::process::Command;

use cepa_common::sync::lock;

use super::space::Space;
use super::stub::{self, Udp};
use super::{Place, everybody, good, via};

/// A program that knows the port. Says what came of each thing.
const PROGRAM: &str = r#"
import socket, struct, sys, threading
PORT = ("127.0.0.1", int(sys.argv[1])) if sys.argv[1].isdigit() else sys.argv[1]
def connect():
    s = socket.socket(socket.AF_UNIX if isinstance(PORT, str) else socket.AF_INET)
    s.settimeout(30)
    s.connect(PORT)
    return s
def read(s, n):
    got = b""
    while len(got) < n:
        piece = s.recv(n - len(got))
        if not piece: raise EOFError(got)
        got += piece
    return got
def ask(command, address, user=None):
    s = connect()
    s.sendall(b"\5\1\0" if user is None else b"\5\2\0\2")
    method = read(s, 2)
    if user is not None:
        assert method == b"\5\2", method
        s.sendall(b"\1" + bytes([len(user)]) + user + b"\1x")
        assert read(s, 2) == b"\1\0"
    s.sendall(bytes([5, command, 0]) + address)
    reply = read(s, 10)
    return s, reply[1], (socket.inet_ntoa(reply[4:8]), *struct.unpack(">H", reply[8:]))
def v4(ip, port): return b"\1" + socket.inet_aton(ip) + struct.pack(">H", port)
NOWHERE = v4("0.0.0.0", 0)
"#;

/// Streams: bytes both ways with an end each, a user, everything said at once, refusals, a reset.
const STREAMS: &str = r#"
sent = bytes(range(256)) * 8000
for user in [None, b"somebody"]:
    s, code, _ = ask(1, v4("192.0.2.1", 7), user)
    assert code == 0, code
    def send(): s.sendall(sent); s.shutdown(socket.SHUT_WR)
    threading.Thread(target=send).start()
    got = b""
    while piece := s.recv(100000): got += piece
    print("echo", got == sent)
s = connect()
s.sendall(b"\5\1\0" + b"\5\1\0" + v4("192.0.2.1", 7) + b"early")
s.shutdown(socket.SHUT_WR)
got = b""
while piece := s.recv(1000): got += piece
print("at once", got[12:])
print("refused", ask(1, v4("192.0.2.1", 5))[1], ask(1, v4("192.0.2.1", 4))[1])
s, _, _ = ask(1, v4("192.0.2.1", 8))
print(read(s, 5))
s.sendall(b"x")
try: print("end", s.recv(5))
except OSError: print("reset")
"#;

#[test]
fn a_program_finds_the_port_that_it_knows() {
    for who in everybody() {
        let place = Place::new();
        let (port, asked) = stub::at_port(Udp::Refused);
        let script = format!("{PROGRAM}{STREAMS}");
        let number = port.port().to_string();
        let args = ["--", "python3", "-c", &script, &number];
        let output = place.exec_here(who, &port.to_string(), &args).output();
        assert_eq!(
            good(&output.unwrap()),
            "echo True\necho True\nat once b'early'\nrefused 5 4\nb'hello'\nreset\n"
        );
        let asked = lock(&asked).clone();
        let wanted = [
            "port",
            "192.0.2.1:7",
            "port",
            "user somebody",
            "192.0.2.1:7",
            "port",
            "192.0.2.1:7",
            "port",
            "192.0.2.1:5",
            "port",
            "192.0.2.1:4",
            "port",
            "192.0.2.1:8",
        ];
        assert_eq!(asked, wanted);
        // It can be left out: then the port is the command's own.
        let own = "import socket, sys\nat = ('127.0.0.1', int(sys.argv[1]))\n\
            try: socket.create_connection(at)\n\
            except ConnectionRefusedError: print('nobody')\n\
            s = socket.create_server(at); socket.create_connection(at); s.accept(); print('own')";
        let args = ["--no-ports", "--", "python3", "-c", own, &number];
        let output = place.exec_here(who, &port.to_string(), &args).output();
        assert_eq!(good(&output.unwrap()), "nobody\nown\n");
    }
}

/// Datagrams of all lengths by ports that are given and taken back, more often than there are sockets for them. A port
/// hears one port of the program, and lasts as long as its connection.
const DATAGRAMS: &str = r#"
head = b"\0\0\0" + v4("192.0.2.1", 443)
for n in range(ROUNDS):
    s, code, relay = ask(3, NOWHERE)
    assert code == 0 and relay[0] == "127.0.0.1" and relay[1] != 0, (n, code, relay)
    u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    u.bind(("127.0.0.1", 0))
    u.settimeout(30)
    u.connect(relay)
    for size in ([0, 1, 1472, 9000, 65000] if n == 0 else [n]):
        u.send(head + bytes([n]) * size)
        got = u.recv(65535)
        assert got == head + bytes([n]) * size, (n, size, len(got))
    stranger = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    stranger.settimeout(0.05 if n == 0 else 0)
    stranger.sendto(head + b"stranger", relay)
    u.send(b"\0\0\1" + head[3:] + b"a part")
    u.send(head + b"last")
    assert u.recv(100) == head + b"last"
    try: raise Exception(stranger.recv(100))
    except OSError: pass
    s.close()
held = [ask(3, NOWHERE) for _ in range(32)]
assert [code for _, code, _ in held] == [0] * 32
ports = {relay[1] for _, _, relay in held}
assert len(ports) == 32
s, code, _ = ask(3, NOWHERE)
assert code == 1 and s.recv(1) == b"", code
named = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
named.bind(("127.0.0.1", 0))
for s, _, _ in held: s.shutdown(socket.SHUT_WR); assert s.recv(1) == b""
s, code, relay = ask(3, v4(*named.getsockname()))
assert code == 0
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
u.sendto(head + b"not named", relay)
named.sendto(head + b"named", relay)
named.settimeout(30)
assert named.recv(100) == head + b"named"
print("all came back")
"#;

#[test]
fn a_program_has_a_port_for_datagrams_in_its_own_namespace() {
    for who in everybody() {
        let place = Place::new();
        let (port, asked) = stub::at_port(Udp::Echoed);
        let script = format!("{PROGRAM}ROUNDS = 80\n{DATAGRAMS}");
        let args = ["--", "python3", "-c", &script, &port.port().to_string()];
        let output = place.exec_here(who, &port.to_string(), &args).output();
        assert_eq!(good(&output.unwrap()), "all came back\n");
        let asked = lock(&asked).clone();
        assert!(
            asked
                .iter()
                .all(|asked| ["port", "datagrams"].contains(&asked.as_str()))
        );
        // A client that carries none says so.
        let (port, _) = stub::at_port(Udp::Refused);
        let script = format!("{PROGRAM}print(ask(3, NOWHERE)[1])");
        let args = ["--", "python3", "-c", &script, &port.port().to_string()];
        let output = place.exec_here(who, &port.to_string(), &args).output();
        assert_eq!(good(&output.unwrap()), "7\n");
    }
}

#[test]
fn a_unix_socket_of_the_node_is_there_and_is_not_the_one_outside() {
    let once = "s, code, _ = ask(1, v4('192.0.2.1', 7))\n\
        s.sendall(b'x'); print(code, read(s, 1), ask(3, NOWHERE)[1])";
    for who in everybody() {
        let place = Place::new();
        let dir = place.open_dir("sockets");
        let path = dir.join("port");
        let asked = stub::at_path(&path);
        let script = format!("{PROGRAM}{once}");
        // In a directory that the command sees, and in one that is hidden from it.
        let hidden = "/run/cepa-test/sockets";
        for at in [dir.display().to_string(), hidden.to_owned()] {
            let mut near = Command::new("unshare");
            let before = format!(
                "mount -t tmpfs x /run && mkdir -p {hidden} && mount --bind {} {hidden} && exec \"$@\"",
                dir.display()
            );
            near.args(["-m", "sh", "-c", &before, "sh"]);
            let at = format!("{at}/port");
            let via = format!("unix:{at}");
            let args = ["--via", &via, "--", "python3", "-c", &script, &at];
            let output = place.exec(near, who, &args).output().unwrap();
            assert_eq!(good(&output), "0 b'x' 7\n", "{at}");
            assert_eq!(
                lock(&asked).drain(..).collect::<Vec<_>>(),
                ["port", "192.0.2.1:7", "port"]
            );
        }
        // Left out, it is covered as all others are.
        let reach = ["python3", "-c", super::leaks::REACH, path.to_str().unwrap()];
        let args = [&["--no-ports", "--"][..], &reach].concat();
        let output = place.exec_here(who, &via(&path), &args).output().unwrap();
        assert_eq!(good(&output), "ECONNREFUSED\n");
    }
}

/// A stream and a datagram.
const FEW: &str = r#"
s, code, _ = ask(1, v4("192.0.2.1", 7))
s.sendall(b"x"); assert read(s, 1) == b"x"
s, code, relay = ask(3, NOWHERE)
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
u.settimeout(30)
datagram = b"\0\0\0" + v4("192.0.2.1", 443) + b"x"
u.sendto(datagram, relay)
assert u.recv(100) == datagram
print("all came back")
"#;

#[test]
fn nothing_leaves_by_the_port_but_to_the_node() {
    for who in everybody() {
        let (place, space) = (Place::new(), Space::new());
        let (port, asked) = stub::at(space.listen_near(), Udp::Echoed);
        let number = port.port().to_string();
        let capture = space.capture(true);
        let script = format!("{PROGRAM}{FEW}");
        let args = [
            "--via",
            &port.to_string(),
            "--",
            "python3",
            "-c",
            &script,
            &number,
        ];
        let output = place.exec(space.near("env"), who, &args).output().unwrap();
        assert_eq!(good(&output), "all came back\n");
        let seen = capture.end(&space);
        assert!(seen.len() > 20, "{} packets", seen.len());
        let is_of_node = |packet: &&String| packet.contains(&format!("127.0.0.1.{number}"));
        let others: Vec<_> = seen.iter().filter(|packet| !is_of_node(packet)).collect();
        assert_eq!(others, Vec::<&String>::new(), "{who:?}");
        assert_eq!(lock(&asked).len(), 4);
    }
}
