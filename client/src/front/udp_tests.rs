//! Datagrams of applications at the port that UDP ASSOCIATE gives: whose are heard.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::tests::{Front, front, within};
use super::udp::Heard;
use super::*;

/// What stands before a datagram to 8.8.8.8, port 53, and before its answer.
const HEAD: &[u8] = &[0, 0, 0, 1, 8, 8, 8, 8, 0, 53];
/// The number of a user that is not the superuser: nobody, where there is one.
const ANOTHER: &str = "65534";

async fn associate(front: &Front) -> (TcpStream, SocketAddr) {
    let mut stream = TcpStream::connect(front.address).await.unwrap();
    let request = [5, 1, 0, 5, 3, 0, 1, 0, 0, 0, 0, 0, 0];
    stream.write_all(&request).await.unwrap();
    let mut reply = [0; 12];
    stream.read_exact(&mut reply).await.unwrap();
    let [5, 0, 5, 0, 0, 1, a, b, c, d, high, low] = reply else {
        panic!("no port: {reply:?}");
    };
    let port = SocketAddr::from(([a, b, c, d], u16::from_be_bytes([high, low])));
    (stream, port)
}

/// Sends bytes there and back.
async fn echo(socket: &UdpSocket, port: SocketAddr, bytes: &[u8]) {
    socket.send_to(&[HEAD, bytes].concat(), port).await.unwrap();
    let mut buffer = [0; 100];
    let (len, from) = within(socket.recv_from(&mut buffer)).await.unwrap();
    assert_eq!((&buffer[..len], from), (&[HEAD, bytes].concat()[..], port));
}

/// A program of another user, which has sent a datagram, and has the port that it sent from until it is ended.
struct Stranger {
    child: Child,
    stdin: ChildStdin,
}

impl Stranger {
    /// Sends a datagram to `port`, and waits until it is sent. `None` where that cannot be.
    fn send(port: SocketAddr) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: it takes the superuser to be another user");
            return None;
        }
        let program = format!(
            "exec 3>/dev/udp/127.0.0.1/{} && \
             printf '\\0\\0\\0\\1\\10\\10\\10\\10\\0\\65stranger' >&3 && echo sent; read",
            port.port()
        );
        let user = [format!("--reuid={ANOTHER}"), format!("--regid={ANOTHER}")];
        let child = Command::new("setpriv")
            .args(user)
            .args(["--clear-groups", "bash", "-c", &program])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let Ok(mut child) = child else {
            eprintln!("skipped: there is no setpriv");
            return None;
        };
        let mut said = String::new();
        let stdout = child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut said).unwrap();
        let stdin = child.stdin.take().unwrap();
        let mut stranger = Self { child, stdin };
        if said == "sent\n" {
            return Some(stranger);
        }
        stranger.child.wait().unwrap();
        eprintln!("skipped: bash does not send datagrams as another user");
        None
    }

    fn end(mut self) {
        drop(self.stdin);
        self.child.wait().unwrap();
    }
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn another_user_does_not_become_the_application() {
    let front = front(FrontOptions::default()).await;
    let (_connection, port) = associate(&front).await;
    let Some(stranger) = Stranger::send(port) else {
        return;
    };
    // Who spoke first was nobody's application.
    let app = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    echo(&app, port, b"one").await;
    stranger.end();
    let sent = front.datagrams.lock().unwrap();
    assert_eq!(*sent, [b"one"]);
}

#[tokio::test]
async fn the_application_is_heard_from_whichever_socket_is_first() {
    let front = front(FrontOptions::default()).await;
    for any in ["127.0.0.1:0", "0.0.0.0:0", "127.0.0.1:0"] {
        let (_connection, port) = associate(&front).await;
        let app = UdpSocket::bind(any).await.unwrap();
        echo(&app, port, b"first").await;
        let second = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let other = [HEAD, b"second"].concat();
        second.send_to(&other, port).await.unwrap();
        echo(&app, port, b"third").await;
    }
    let sent = front.datagrams.lock().unwrap();
    assert_eq!(sent.len(), 6);
    assert!(sent.chunks(2).all(|two| two == [b"first", b"third"]));
}

/// Both have sent before the port is read.
#[tokio::test]
async fn of_two_sockets_at_once_the_first_is_the_application() {
    let front = front(FrontOptions::default()).await;
    let (_connection, port) = associate(&front).await;
    let [first, second] = [0, 1].map(|_| std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
    for (socket, bytes) in [(&first, b"one"), (&second, b"two"), (&first, b"six")] {
        socket.send_to(&[HEAD, bytes].concat(), port).unwrap();
    }
    first.set_nonblocking(true).unwrap();
    let first = UdpSocket::from_std(first).unwrap();
    let mut buffer = [0; 100];
    for _ in 0..2 {
        within(first.recv_from(&mut buffer)).await.unwrap();
    }
    assert_eq!(*front.datagrams.lock().unwrap(), [b"one", b"six"]);
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn an_answer_goes_to_the_owner_alone() {
    let app = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let at = app.local_addr().unwrap();
    let uid = rustix::process::geteuid().as_raw();
    let heard = |owner| Heard::new(Ipv4Addr::LOCALHOST.into(), Some(at.port()), owner);
    assert_eq!(heard(Some(uid)).place().await, Some(at));
    assert_eq!(heard(Some(uid + 1)).place().await, None);
    // Where the system does not tell, whoever is first is the application.
    assert_eq!(heard(None).place().await, Some(at));
    let mut own = heard(Some(uid));
    assert_eq!(own.place().await, Some(at));
    drop(app);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(own.place().await, None);
}
