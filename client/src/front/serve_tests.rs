#![allow(clippy::unwrap_used, clippy::expect_used)]
//! Tests of the front end over real loopback sockets, with a connector whose answers the test gives.

use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use cepa_common::dns::{self, Frames, Query, Question, RecordType, framed};
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex,
};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;

#[path = "forward_tests.rs"]
mod forward;

const REQUEST: &[u8] = b"\x04\x01\x00\x50\x08\x08\x08\x08\x00";
const GRANTED: &[u8] = &[0, 90, 0, 0, 0, 0, 0, 0];
const REJECTED: &[u8] = &[0, 91, 0, 0, 0, 0, 0, 0];

/// A stream that breaks when the test says so.
struct Breakable {
    inner: DuplexStream,
    broken: Option<oneshot::Receiver<()>>,
}

impl AsyncRead for Breakable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(broken) = &mut self.broken
            && let Poll::Ready(told) = Pin::new(broken).poll(cx)
        {
            self.broken = None;
            if told.is_ok() {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
        }
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Breakable {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

type Answer = oneshot::Sender<Result<Breakable, Failure>>;

/// A connector that hands every request to the test, with the means to answer it.
struct Asked(mpsc::Sender<(ConnectRequest, Answer)>);

impl Connector for Asked {
    type Stream = Breakable;

    async fn connect(&self, request: ConnectRequest) -> Result<Breakable, Failure> {
        let (answer, result) = oneshot::channel();
        self.0.try_send((request, answer)).unwrap();
        result.await.unwrap()
    }

    /// Answers every query by NODATA.
    async fn answer(&self, query: Query, _: IsolationKey) -> Vec<u8> {
        query.reply(&dns::Answer::of(dns::ResponseCode::NoError), usize::MAX)
    }

    /// Knows what `known` says, whoever asks.
    async fn look_up(&self, asked: LookUp, _: IsolationKey) -> Result<Found, Failure> {
        known(&asked)
    }
}

fn known(asked: &LookUp) -> Result<Found, Failure> {
    let address = |ip: &str| Ok(Found::Address(ip.parse().unwrap()));
    match asked {
        LookUp::Address(Host::Name(name)) if name == "four.example" => address("8.8.4.4"),
        LookUp::Address(Host::Name(name)) if name == "six.example" => address("2600::1"),
        LookUp::Name(Address(ip)) if ip.to_string() == "8.8.4.4" => {
            Ok(Found::Name("four.example".to_owned()))
        }
        _ => Err(Failure::Unresolvable),
    }
}

/// What a port says to what an application says first.
async fn told(first: &[u8]) -> Vec<u8> {
    let front = front(FrontOptions::default()).await;
    let mut app = front.app(first).await;
    let mut all = Vec::new();
    app.read_to_end(&mut all).await.unwrap();
    all
}

#[tokio::test]
async fn the_resolver_of_an_exit_is_reached_by_its_name() {
    let question = Question::new("a.example", RecordType::MX).unwrap();
    let query = |id| framed(&question.to_query(id).unwrap()).unwrap();
    let queries = [query(7), query(8)].concat();
    for (head, reply) in [
        (
            &b"\x04\x01\x00\x35\x00\x00\x00\x01\x00Resolver.cepa.alt\x00"[..],
            GRANTED,
        ),
        (
            b"CONNECT resolver.cepa.alt:53 HTTP/1.1\r\n\r\n",
            b"HTTP/1.1 200 Connection established\r\n\r\n",
        ),
    ] {
        // The second query comes in two parts, and then the application says that there are no more.
        let front = front(FrontOptions::default()).await;
        let cut = queries.len() - 3;
        let mut app = front.app(&[head, &queries[..cut]].concat()).await;
        expect(&mut app, reply).await;
        app.write_all(&queries[cut..]).await.unwrap();
        app.shutdown().await.unwrap();
        let mut frames = Frames::new(512);
        frames.push(&rest(&mut app).await.unwrap());
        let mut ids = Vec::new();
        while let Some(message) = frames.next_message().unwrap() {
            assert!(dns::Answer::read(&message, &question, false).is_ok());
            ids.extend(dns::Answer::id(&message));
        }
        ids.sort_unstable();
        assert_eq!(ids, [7, 8]);
        // What is no query is a reset.
        let mut app = front.app(&[head, &[0, 1]].concat()).await;
        expect(&mut app, reply).await;
        assert!(rest(&mut app).await.is_err());
    }
    // By another port the name is what it was.
    let other = told(b"\x04\x01\x00\x50\x00\x00\x00\x01\x00resolver.cepa.alt\x00").await;
    assert_eq!(other, REJECTED);
}

#[tokio::test]
async fn names_and_addresses_are_looked_up_for_socks() {
    let socks5 = async |command: u8, kind: u8, host: &[u8]| {
        let request = [&[5, 1, 0, 5, command, 0, kind][..], host, &[0, 0]].concat();
        let all = told(&request).await;
        all.strip_prefix(&[5, 0]).unwrap().to_vec()
    };
    let name = |name: &[u8]| [&[name.len() as u8][..], name].concat();
    let six = [&[0x26][..], &[0; 14], &[1]].concat();
    for (command, kind, host, reply) in [
        (
            0xf0,
            3,
            name(b"four.example"),
            vec![5, 0, 0, 1, 8, 8, 4, 4, 0, 0],
        ),
        (
            0xf0,
            3,
            name(b"six.example"),
            [&[5, 0, 0, 4][..], &six, &[0, 0]].concat(),
        ),
        // An address is its own.
        (
            0xf0,
            1,
            vec![9, 9, 9, 9],
            vec![5, 0, 0, 1, 9, 9, 9, 9, 0, 0],
        ),
        (
            0xf0,
            3,
            name(b"none.example"),
            vec![5, 4, 0, 1, 0, 0, 0, 0, 0, 0],
        ),
        (
            0xf1,
            1,
            vec![8, 8, 4, 4],
            [&[5, 0, 0, 3][..], &name(b"four.example"), &[0, 0]].concat(),
        ),
        (0xf1, 4, six.clone(), vec![5, 4, 0, 1, 0, 0, 0, 0, 0, 0]),
        (
            0xf0,
            3,
            name(b"x.onion"),
            vec![5, 2, 0, 1, 0, 0, 0, 0, 0, 0],
        ),
    ] {
        assert_eq!(
            socks5(command, kind, &host).await,
            reply,
            "{command:x} {host:?}"
        );
    }
    let socks4a =
        async |name: &[u8]| told(&[&[4, 0xf0, 0, 0, 0, 0, 0, 1, 0][..], name, &[0]].concat()).await;
    assert_eq!(socks4a(b"four.example").await, [0, 90, 0, 0, 8, 8, 4, 4]);
    // SOCKS 4 has no word for it.
    assert_eq!(socks4a(b"six.example").await, [0, 91, 0, 0, 0, 0, 0, 0]);
}

struct Front {
    address: SocketAddr,
    requests: mpsc::Receiver<(ConnectRequest, Answer)>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

async fn front(options: FrontOptions) -> Front {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    Front {
        address,
        ..front_at(listener, options)
    }
}

fn front_at(listener: impl Into<FrontListener>, options: FrontOptions) -> Front {
    let (sender, requests) = mpsc::channel(1024);
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(serve(
        listener.into(),
        7,
        Arc::new(Asked(sender)),
        options,
        async move {
            let _ = stopped.await;
        },
    ));
    Front {
        address: ([127, 0, 0, 1], 0).into(),
        requests,
        stop,
        task,
    }
}

/// The application's side of a stream, the far side, and what breaks the stream between them.
struct Open {
    app: TcpStream,
    far: DuplexStream,
    breaker: oneshot::Sender<()>,
}

impl Front {
    async fn app(&self, first: &[u8]) -> TcpStream {
        let mut app = TcpStream::connect(self.address).await.unwrap();
        app.write_all(first).await.unwrap();
        app
    }

    async fn next(&mut self) -> (ConnectRequest, Answer) {
        within(self.requests.recv()).await.unwrap()
    }

    async fn open(&mut self) -> Open {
        let mut app = self.app(REQUEST).await;
        let (_, answer) = self.next().await;
        let (far, breaker) = grant(answer);
        expect(&mut app, GRANTED).await;
        Open { app, far, breaker }
    }
}

fn grant(answer: Answer) -> (DuplexStream, oneshot::Sender<()>) {
    let (far, inner) = duplex(1 << 16);
    let (breaker, broken) = oneshot::channel();
    let broken = Some(broken);
    assert!(answer.send(Ok(Breakable { inner, broken })).is_ok());
    (far, breaker)
}

/// Fails the test after ten seconds, so that no test hangs.
async fn within<F: Future>(future: F) -> F::Output {
    timeout(Duration::from_secs(10), future)
        .await
        .expect("in time")
}

async fn expect(reader: &mut (impl AsyncRead + Unpin), bytes: &[u8]) {
    let mut got = vec![0; bytes.len()];
    within(reader.read_exact(&mut got)).await.unwrap();
    assert_eq!(got, bytes);
}

async fn rest(reader: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut got = Vec::new();
    within(reader.read_to_end(&mut got)).await.map(|_| got)
}

#[tokio::test]
async fn a_stream_carries_both_ways_and_early_data_goes_first() {
    let mut front = front(FrontOptions::default()).await;
    let mut app = front.app(&[REQUEST, b"early"].concat()).await;
    let (request, answer) = front.next().await;
    assert_eq!(request.early, b"early");
    assert_eq!(request.target.port, 80);
    assert_eq!(request.isolation.protocol, Protocol::Socks4);
    assert_eq!(request.isolation.listener, 7);
    let this_machine = Origin::Ip([127, 0, 0, 1].into());
    assert_eq!(request.isolation.client, this_machine);
    app.write_all(b" ahead").await.unwrap();
    let (mut far, _breaker) = grant(answer);
    expect(&mut app, GRANTED).await;
    expect(&mut far, b" ahead").await;
    far.write_all(b"answer").await.unwrap();
    expect(&mut app, b"answer").await;
}

#[tokio::test]
async fn who_is_answered_early_sends_his_first_words_with_the_request() {
    let options = FrontOptions {
        answer_early: true,
        ..FrontOptions::default()
    };
    let mut front = front(options).await;
    let mut app = front.app(REQUEST).await;
    expect(&mut app, GRANTED).await;
    app.write_all(b"question").await.unwrap();
    let (request, answer) = front.next().await;
    // On a slow machine the question may arrive after the answer to the request.
    let later = if request.early.is_empty() {
        &b"question"[..]
    } else {
        b""
    };
    assert!(later.len() + request.early.len() == b"question".len());
    let (mut far, _breaker) = grant(answer);
    expect(&mut far, later).await;
    far.write_all(b"answer").await.unwrap();
    expect(&mut app, b"answer").await;

    // An application that waits for the other side to begin is not kept waiting.
    let mut app = front.app(REQUEST).await;
    expect(&mut app, GRANTED).await;
    let (request, answer) = front.next().await;
    assert_eq!(request.early, b"");
    let (mut far, _breaker) = grant(answer);
    far.write_all(b"hello").await.unwrap();
    expect(&mut app, b"hello").await;

    // The application sees a failure as a reset, never as an end of file.
    let mut app = front.app(&[REQUEST, b"question"].concat()).await;
    expect(&mut app, GRANTED).await;
    let (_, answer) = front.next().await;
    answer.send(Err(Failure::Refused)).ok().unwrap();
    let error = rest(&mut app).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn each_direction_ends_by_itself() {
    let mut front = front(FrontOptions::default()).await;
    let Open {
        mut app,
        mut far,
        breaker: _breaker,
    } = front.open().await;
    app.write_all(b"question").await.unwrap();
    app.shutdown().await.unwrap();
    assert_eq!(rest(&mut far).await.unwrap(), b"question");
    far.write_all(b"long answer").await.unwrap();
    far.shutdown().await.unwrap();
    assert_eq!(rest(&mut app).await.unwrap(), b"long answer");

    let Open {
        mut app,
        mut far,
        breaker: _breaker,
    } = front.open().await;
    far.write_all(b"all that there is").await.unwrap();
    far.shutdown().await.unwrap();
    assert_eq!(rest(&mut app).await.unwrap(), b"all that there is");
    app.write_all(b"thanks").await.unwrap();
    app.shutdown().await.unwrap();
    assert_eq!(rest(&mut far).await.unwrap(), b"thanks");
}

#[tokio::test]
async fn a_broken_stream_is_a_reset_and_no_end() {
    let mut front = front(FrontOptions::default()).await;
    let Open {
        mut app,
        mut far,
        breaker,
    } = front.open().await;
    far.write_all(b"half").await.unwrap();
    expect(&mut app, b"half").await;
    breaker.send(()).unwrap();
    let error = rest(&mut app).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn an_end_after_a_half_close_can_still_be_a_reset() {
    let mut front = front(FrontOptions::default()).await;
    let Open {
        mut app,
        mut far,
        breaker,
    } = front.open().await;
    app.shutdown().await.unwrap();
    assert_eq!(rest(&mut far).await.unwrap(), b"");
    breaker.send(()).unwrap();
    let error = rest(&mut app).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn an_application_that_resets_drops_the_stream() {
    let mut front = front(FrontOptions::default()).await;
    let Open {
        app,
        mut far,
        breaker: _breaker,
    } = front.open().await;
    reset(app);
    assert_eq!(rest(&mut far).await.unwrap(), b"");
    // The whole stream is gone, not only one direction.
    assert!(far.write_all(b"x").await.is_err());
}

fn reset(app: TcpStream) {
    let linger = socket2::SockRef::from(&app).set_linger(Some(Duration::ZERO));
    linger.unwrap();
}

#[tokio::test]
async fn an_application_that_resets_gives_its_request_up() {
    let mut front = front(FrontOptions::default()).await;
    for ahead in [b"".as_slice(), b"ahead"] {
        let mut app = front.app(REQUEST).await;
        let (_, mut answer) = front.next().await;
        app.write_all(ahead).await.unwrap();
        reset(app);
        within(answer.closed()).await;
    }
}

#[tokio::test]
async fn an_end_of_sending_before_the_reply_is_passed_on() {
    for answer_early in [false, true] {
        let mut front = front(FrontOptions {
            answer_early,
            ..FrontOptions::default()
        })
        .await;
        for (with, ahead) in [(b"".as_slice(), b"".as_slice()), (b"ques", b"tion")] {
            let mut app = front.app(&[REQUEST, with].concat()).await;
            app.write_all(ahead).await.unwrap();
            app.shutdown().await.unwrap();
            let (request, answer) = front.next().await;
            let (mut far, _breaker) = grant(answer);
            let said = [request.early, rest(&mut far).await.unwrap()].concat();
            assert_eq!(said, [with, ahead].concat());
            far.write_all(b"answer").await.unwrap();
            far.shutdown().await.unwrap();
            let told = rest(&mut app).await.unwrap();
            assert_eq!(told, [GRANTED, b"answer"].concat());
        }
    }
}

#[tokio::test]
async fn a_failure_is_told() {
    let mut front = front(FrontOptions::default()).await;
    let mut app = front.app(REQUEST).await;
    let (_, answer) = front.next().await;
    assert!(answer.send(Err(Failure::Refused)).is_ok());
    assert_eq!(rest(&mut app).await.unwrap(), REJECTED);

    let mut app = front.app(b"CONNECT a.example:1 HTTP/1.1\r\n\r\n").await;
    let (_, answer) = front.next().await;
    assert!(answer.send(Err(Failure::TimedOut)).is_ok());
    let told = rest(&mut app).await.unwrap();
    assert!(told.starts_with(b"HTTP/1.1 504 "));
}

#[tokio::test]
async fn a_unix_socket_is_a_port_too_and_says_who_comes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("port.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let mut front = front_at(listener, FrontOptions::default());
    let mut app = UnixStream::connect(&path).await.unwrap();
    app.write_all(REQUEST).await.unwrap();
    let (request, answer) = front.next().await;
    let uid = rustix::process::getuid().as_raw();
    assert_eq!(request.isolation.client, Origin::Uid(uid));
    let (mut far, _breaker) = grant(answer);
    expect(&mut app, GRANTED).await;
    app.write_all(b"question").await.unwrap();
    app.shutdown().await.unwrap();
    assert_eq!(rest(&mut far).await.unwrap(), b"question");
    far.write_all(b"answer").await.unwrap();
    far.shutdown().await.unwrap();
    assert_eq!(rest(&mut app).await.unwrap(), b"answer");
}

/// The beginnings of requests that are refused, and what the refusal begins with.
const HOPELESS: [(&[u8], &[u8]); 3] = [
    (b"POST / HTTP/1.1\r\n\r\n", b"HTTP/1.1 501 "),
    (b"CONNECT ", b"HTTP/1.1 431 "),
    (b"\x04\x01\x00\x50\x08\x08\x08\x08", REJECTED),
];

#[tokio::test]
async fn a_refusal_is_read_in_spite_of_unread_bytes() {
    let mut front = front(FrontOptions::default()).await;
    for (begin, refusal) in HOPELESS {
        let mut app = front.app(&[begin, &[b'x'; 900_000]].concat()).await;
        let told = rest(&mut app).await.unwrap();
        assert!(told.starts_with(refusal), "{told:?}");
    }
    assert!(front.requests.try_recv().is_err(), "zero side effects");
}

#[tokio::test]
async fn who_is_refused_and_sends_on_and_on_is_cut_off() {
    // What the kernels of both sides hold comes to what is read.
    const MOST: usize = 32 << 20;
    let front = front(FrontOptions::default()).await;
    let junk = vec![b'x'; 1 << 16];
    for (begin, _) in HOPELESS {
        let mut app = front.app(begin).await;
        let mut sent = 0;
        while sent <= MOST && within(app.write_all(&junk)).await.is_ok() {
            sent += junk.len();
        }
        assert!(sent <= MOST, "the front read on");
    }
}

#[tokio::test]
async fn socks5_credentials_isolate() {
    let mut front = front(FrontOptions::default()).await;
    let mut app = front.app(b"\x05\x02\x00\x02").await;
    expect(&mut app, &[5, 2]).await;
    app.write_all(b"\x01\x03bob\x01x").await.unwrap();
    expect(&mut app, &[1, 0]).await;
    app.write_all(b"\x05\x01\x00\x03\x09a.example\x00\x50")
        .await
        .unwrap();
    let (request, answer) = front.next().await;
    assert_eq!(request.isolation.marks.credentials.unwrap().user, b"bob");
    assert_eq!(request.target.host, Host::Name("a.example".into()));
    let (_far, _breaker) = grant(answer);
    expect(&mut app, &connected(Protocol::Socks5)).await;
}

#[tokio::test]
async fn an_incomplete_request_is_reset_after_its_deadline() {
    let front = front(FrontOptions {
        head_timeout: Duration::from_millis(1),
        ..FrontOptions::default()
    })
    .await;
    let mut app = front.app(&[]).await;
    let error = rest(&mut app).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn connections_over_the_limit_wait() {
    let mut front = front(FrontOptions {
        max_connections: 1,
        ..FrontOptions::default()
    })
    .await;
    let first = front.open().await;
    let mut second = front.app(REQUEST).await;
    // The only permit is taken, so the connector cannot have been asked for the second stream.
    assert!(front.requests.try_recv().is_err());
    drop(first);
    let (_, answer) = front.next().await;
    let (_far, _breaker) = grant(answer);
    expect(&mut second, GRANTED).await;
}

#[tokio::test]
async fn who_gets_no_place_is_told_and_not_left_to_hang() {
    let mut front = front(FrontOptions {
        max_connections: 1,
        patience: Duration::ZERO,
        ..FrontOptions::default()
    })
    .await;
    let _first = front.open().await;
    let mut second = front.app(REQUEST).await;
    let told = rest(&mut second).await.unwrap();
    assert_eq!(told, REJECTED);
    assert!(front.requests.try_recv().is_err());
}

#[tokio::test]
async fn shutdown_resets_what_is_open() {
    let mut front = front(FrontOptions::default()).await;
    let mut open = front.open().await;
    front.stop.send(()).unwrap();
    within(front.task).await.unwrap();
    let error = rest(&mut open.app).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_guarded_port_takes_its_users_alone() {
    let gate = Arc::new(Gate::parse("bob:correct horse\n").unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut front = Front {
        address,
        ..front_at(
            FrontListener::from(listener).behind(gate),
            FrontOptions::default(),
        )
    };
    // Base64 of "bob:correct horse", "bob+x:correct horse" and "bob:wrong".
    let (right, more, wrong) = (
        "Proxy-Authorization: Basic Ym9iOmNvcnJlY3QgaG9yc2U=\r\n",
        "Proxy-Authorization: Basic Ym9iK3g6Y29ycmVjdCBob3JzZQ==\r\n",
        "Proxy-Authorization: Basic Ym9iOndyb25n\r\n",
    );
    for ask in ["CONNECT a.example:80", "GET http://a.example/"] {
        for field in [right, more] {
            let _app = front
                .app(format!("{ask} HTTP/1.1\r\n{field}\r\n").as_bytes())
                .await;
            front.next().await;
        }
        for field in ["", wrong] {
            let mut app = front
                .app(format!("{ask} HTTP/1.1\r\n{field}\r\n").as_bytes())
                .await;
            let told = String::from_utf8(rest(&mut app).await.unwrap()).unwrap();
            assert!(told.starts_with("HTTP/1.1 407 "), "{told}");
            assert!(told.contains("Proxy-Authenticate: Basic "), "{told}");
        }
    }
    let mut app = front.app(REQUEST).await;
    assert_eq!(rest(&mut app).await.unwrap(), REJECTED);
    let mut app = front.app(b"\x05\x01\x00").await;
    assert_eq!(rest(&mut app).await.unwrap(), [5, 0xff]);
    let login = [&b"\x05\x01\x02\x01\x03bob\x05"[..], b"wrong"].concat();
    let mut app = front.app(&login).await;
    assert_eq!(rest(&mut app).await.unwrap(), [5, 2, 1, 1]);
    assert!(front.requests.try_recv().is_err());
}
