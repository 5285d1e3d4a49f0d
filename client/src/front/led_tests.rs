#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]
//! Connections that a packet filter leads to the front end: the recipe of docs/front.md, in a network namespace of its own.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;

use cepa_common::dns::{Answer, Question, RecordType, framed};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::dns_tests::dns_at;
use super::tests::*;
use super::*;

/// Says to the test that it runs in a namespace of its own.
const INSIDE: &str = "CEPA_TEST_IN_NAMESPACE";
/// A machine with one way out, which leads nowhere.
const MACHINE: &str = "ip link set lo up && ip link add out type veth peer name nowhere && ip link set nowhere up && \
    ip address add 10.9.9.1/24 dev out && ip address add fd00:9::1/64 dev out nodad && ip link set out up && \
    ip route add default via 10.9.9.2 && ip -6 route add default via fd00:9::2";

/// The rules that the page tells people to load, for a user that each machine has.
fn recipe() -> String {
    let page = include_str!("../../../docs/front.md");
    let begin = page.find("    table inet cepa {").unwrap();
    let rules = page.get(begin..).unwrap().lines();
    let rules = rules.take_while(|line| line.starts_with("    ") || line.is_empty());
    let rules = rules.collect::<Vec<_>>().join("\n");
    assert!(rules.contains("skuid \"cepa\""), "{rules}");
    rules.replace("skuid \"cepa\"", "skuid 65534")
}

#[test]
fn what_a_packet_filter_leads_here_goes_where_it_was_for() {
    if std::env::var_os(INSIDE).is_some() {
        return tokio::runtime::Runtime::new().unwrap().block_on(inside());
    }
    let unshared = |program: &str, args: &[&str]| {
        let mut command = Command::new("unshare");
        command.arg("--net").arg(program).args(args);
        command.stdin(Stdio::null()).env(INSIDE, "1").output()
    };
    let can = unshared("sh", &["-c", &format!("{MACHINE} && nft list ruleset")]);
    if !can.is_ok_and(|can| can.status.success()) {
        eprintln!(
            "transparent listeners are not tested: it takes root, unshare, ip (iproute2) and nft (nftables)"
        );
        return;
    }
    let this = std::env::current_exe().unwrap();
    let name = "front::led_tests::what_a_packet_filter_leads_here_goes_where_it_was_for";
    let ran = unshared(this.to_str().unwrap(), &["--exact", name, "--nocapture"]).unwrap();
    let said = [ran.stdout, ran.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
    assert!(ran.status.success(), "{}\n{}", said[0], said[1]);
    assert!(said[0].contains("1 passed"), "{}", said[0]);
}

async fn connect(to: &str) -> io::Result<TcpStream> {
    within(TcpStream::connect(to)).await
}

/// Waits for the reset of a connection, which may come before anybody has looked at it.
async fn is_reset(app: io::Result<TcpStream>) {
    let error = match app {
        Ok(mut app) => rest(&mut app).await.unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

/// Resets a connection that was led here at each moment of its life. What it stood for is given up, and others go on.
async fn resets(front: &mut Front, to: &SocketAddr) {
    let (ip, to) = (&to.ip(), to.to_string());
    let mut kept = connect(&to).await.unwrap();
    let (_, answer) = front.next().await;
    let (mut kept_far, _breaker) = grant(answer);
    // Before anybody has looked at it.
    for _ in 0..50 {
        reset(connect(&to).await.unwrap());
    }
    for (port, is_open, has_said) in [
        (444, false, false),
        (445, false, true),
        (446, true, false),
        (447, true, true),
    ] {
        let marked = SocketAddr::new(*ip, port).to_string();
        let mut app = connect(&marked).await.unwrap();
        if has_said {
            app.write_all(b"question").await.unwrap();
        }
        let mut answer = loop {
            let (request, mut answer) = front.next().await;
            if request.target.port == port {
                break answer;
            }
            // One that was reset before is given up.
            within(answer.closed()).await;
        };
        if is_open {
            let (mut far, _breaker) = grant(answer);
            if has_said {
                expect(&mut far, b"question").await;
            }
            far.write_all(&[7; 1_000]).await.unwrap();
            app.read_u8().await.unwrap();
            reset(app);
            // The whole stream is gone, not only one direction.
            let gone = async { while far.write_all(&[7; 1_000]).await.is_ok() {} };
            within(gone).await;
        } else {
            reset(app);
            within(answer.closed()).await;
        }
    }
    kept_far.write_all(b"still here").await.unwrap();
    expect(&mut kept, b"still here").await;
}

async fn inside() {
    let set_up = |program: &str, args: &[&str], input: &str| {
        let mut command = Command::new(program);
        let mut child = command.args(args).stdin(Stdio::piped()).spawn().unwrap();
        io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "{input}");
    };
    set_up("sh", &["-c", MACHINE], "");
    set_up("nft", &["-f", "-"], &recipe());
    for (own, to) in [("127.0.0.1", "9.9.9.9"), ("[::1]", "[2600::1]")] {
        let listener = TcpListener::bind(format!("{own}:9352")).await.unwrap();
        let listener = FrontListener::transparent(listener);
        let mut front = front_at(listener, FrontOptions::default());
        let mut app = connect(&format!("{to}:443")).await.unwrap();
        let (request, answer) = front.next().await;
        let target: SocketAddr = format!("{to}:443").parse().unwrap();
        assert_eq!(request.target.host, Host::from(target.ip()));
        assert_eq!(request.target.port, 443);
        assert_eq!(request.isolation.protocol, Protocol::Transparent);
        // Programs speak before they are answered, and some end their sending.
        app.write_all(b"question").await.unwrap();
        app.shutdown().await.unwrap();
        let (mut far, _breaker) = grant(answer);
        assert_eq!(rest(&mut far).await.unwrap(), b"question");
        far.write_all(b"answer").await.unwrap();
        far.shutdown().await.unwrap();
        assert_eq!(rest(&mut app).await.unwrap(), b"answer");
        // What fails is a reset, and never an end.
        let app = connect(&format!("{to}:80")).await;
        let (_, answer) = front.next().await;
        assert!(answer.send(Err(Failure::Refused)).is_ok());
        is_reset(app).await;
        resets(&mut front, &target).await;
        // A port that lets private addresses in is no way to itself.
        let listener = TcpListener::bind(format!("{own}:9354")).await.unwrap();
        let options = FrontOptions {
            allow_private: true,
            ..FrontOptions::default()
        };
        let mut lax = front_at(FrontListener::transparent(listener), options);
        is_reset(connect(&format!("{own}:9354")).await).await;
        assert!(lax.requests.try_recv().is_err());
        // Whoever was not led here, and who is for a private address, is let go no further.
        is_reset(connect(&format!("{own}:9352")).await).await;
        let private = if own.starts_with('[') {
            "[fd00::7]:80"
        } else {
            "10.1.2.3:80"
        };
        is_reset(connect(private).await).await;
        assert!(front.requests.try_recv().is_err());

        // Names are asked of this machine, whomever the program asks.
        let _dns = dns_at(format!("{own}:9353").parse().unwrap()).await;
        let asked = Question::new("a.example", RecordType::A).unwrap();
        let query = asked.to_query(7).unwrap();
        let any = if own.starts_with('[') {
            "[::]:0"
        } else {
            "0.0.0.0:0"
        };
        let socket = UdpSocket::bind(any).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let server: SocketAddr = format!("{to}:53").parse().unwrap();
        socket.send_to(&query, server).unwrap();
        let heard = tokio::task::spawn_blocking(move || {
            let mut bytes = [0; 512];
            let (len, from) = socket.recv_from(&mut bytes).unwrap();
            (bytes[..len].to_vec(), from)
        });
        let (answer, from) = heard.await.unwrap();
        assert_eq!(from, server);
        assert!(Answer::read(&answer, &asked, false).is_ok());
        let mut app = connect(&server.to_string()).await.unwrap();
        app.write_all(&framed(&query).unwrap()).await.unwrap();
        let mut answer = vec![0; usize::from(app.read_u16().await.unwrap())];
        app.read_exact(&mut answer).await.unwrap();
        assert!(Answer::read(&answer, &asked, false).is_ok());
        // Nothing else leaves.
        let socket = UdpSocket::bind(any).unwrap();
        let error = socket.send_to(b"x", target).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    }
}
