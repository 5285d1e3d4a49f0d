#![allow(clippy::unwrap_used, clippy::expect_used)]
//! What the tests of the front end share: real loopback sockets, and a connector whose answers the test gives.

use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use cepa_common::budget::Budget;
use cepa_common::dns::{self, Query, Question};
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;

pub(super) const REQUEST: &[u8] = b"\x04\x01\x00\x50\x08\x08\x08\x08\x00";
pub(super) const GRANTED: &[u8] = &[0, 90, 0, 0, 0, 0, 0, 0];
pub(super) const REJECTED: &[u8] = &[0, 91, 0, 0, 0, 0, 0, 0];

/// A stream that breaks when the test says so.
pub(super) struct Breakable {
    pub(super) inner: DuplexStream,
    pub(super) broken: Option<oneshot::Receiver<()>>,
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

pub(super) type Answer = oneshot::Sender<Result<Breakable, Failure>>;

/// Sends datagrams back to whoever has sent them, and keeps their bytes for the test.
struct Mirror {
    sent: Arc<Mutex<Vec<Vec<u8>>>>,
    back: mpsc::Sender<(SocketAddr, Vec<u8>)>,
    come: tokio::sync::Mutex<mpsc::Receiver<(SocketAddr, Vec<u8>)>>,
}

impl Datagrams for Mirror {
    fn send(&self, target: &FrontTarget, bytes: &[u8]) {
        self.sent.lock().unwrap().push(bytes.to_vec());
        if let Host::Ip4(ip) = target.host {
            let from = SocketAddr::from((ip, target.port));
            self.back.try_send((from, bytes.to_vec())).unwrap();
        }
    }

    fn receive(&self) -> Received<'_> {
        Box::pin(async { self.come.lock().await.recv().await })
    }
}

/// A connector that hands every request to the test, with the means to answer it.
pub(super) struct Asked {
    requests: mpsc::Sender<(ConnectRequest, Answer)>,
    identity: Arc<AtomicU64>,
    budget: Arc<Budget>,
    datagrams: Arc<Mutex<Vec<Vec<u8>>>>,
    /// Counts the queries that are being answered.
    answering: Arc<()>,
}

impl Connector for Asked {
    type Stream = Breakable;

    fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    fn identity(&self) -> u64 {
        self.identity.load(Ordering::Relaxed)
    }

    async fn connect(&self, request: ConnectRequest) -> Result<Breakable, Failure> {
        let (answer, result) = oneshot::channel();
        self.requests.try_send((request, answer)).unwrap();
        result.await.unwrap()
    }

    fn associate(&self, _: IsolationKey) -> Option<Box<dyn Datagrams>> {
        let (back, come) = mpsc::channel(64);
        Some(Box::new(Mirror {
            sent: self.datagrams.clone(),
            back,
            come: tokio::sync::Mutex::new(come),
        }))
    }

    /// Answers queries by texts if their name says so, else by NODATA.
    async fn answer(&self, query: Query, most: usize, _: IsolationKey) -> Vec<u8> {
        let _answering = self.answering.clone();
        let texts = match query.question.name() {
            "some.example" => 5,
            "many.example" => 15,
            "silent.example" => core::future::pending().await,
            _ => 0,
        };
        query.reply(&texts_of(&query.question, texts), most)
    }

    /// Knows what `known` says, whoever asks.
    async fn look_up(&self, asked: LookUp, _: IsolationKey) -> Result<Found, Failure> {
        known(&asked)
    }
}

/// An answer of so many texts, each of which begins with "said" and takes 143 bytes of a message.
fn texts_of(question: &Question, texts: u8) -> dns::Answer {
    let mut message = question.to_query(0).unwrap();
    message[2] |= 0x80;
    message[7] = texts;
    for n in 0..texts {
        let text = format!("said {n:0>125}");
        // The name of the question, TXT, IN, and how long the text lives.
        message.extend([0xc0, 12, 0, 16, 0, 1, 0, 0, 0, 60]);
        message.extend((text.len() as u16 + 1).to_be_bytes());
        message.push(text.len() as u8);
        message.extend(text.bytes());
    }
    dns::Answer::read(&message, question, false).unwrap()
}

pub(super) fn known(asked: &LookUp) -> Result<Found, Failure> {
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

pub(super) struct Front {
    pub(super) address: SocketAddr,
    pub(super) requests: mpsc::Receiver<(ConnectRequest, Answer)>,
    /// The identity that streams are opened under.
    pub(super) identity: Arc<AtomicU64>,
    /// What the front end holds is charged to this.
    pub(super) budget: Arc<Budget>,
    /// The datagrams that applications have sent.
    pub(super) datagrams: Arc<Mutex<Vec<Vec<u8>>>>,
    /// Held by each query that is being answered, by the connector and here.
    pub(super) answering: Arc<()>,
    pub(super) stop: oneshot::Sender<()>,
    pub(super) task: JoinHandle<()>,
}

pub(super) async fn front(options: FrontOptions) -> Front {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    Front {
        address,
        ..front_at(listener, options)
    }
}

pub(super) fn front_at(listener: impl Into<FrontListener>, options: FrontOptions) -> Front {
    let (sender, requests) = mpsc::channel(1024);
    let (stop, stopped) = oneshot::channel::<()>();
    let identity = Arc::<AtomicU64>::default();
    let budget = Budget::unlimited();
    let datagrams = Arc::<Mutex<Vec<Vec<u8>>>>::default();
    let answering = Arc::<()>::default();
    let connector = Asked {
        requests: sender,
        identity: identity.clone(),
        budget: budget.clone(),
        datagrams: datagrams.clone(),
        answering: answering.clone(),
    };
    let task = tokio::spawn(serve(
        listener.into(),
        7,
        Arc::new(connector),
        options,
        async move {
            let _ = stopped.await;
        },
    ));
    Front {
        address: ([127, 0, 0, 1], 0).into(),
        requests,
        identity,
        budget,
        datagrams,
        answering,
        stop,
        task,
    }
}

/// The application's side of a stream, the far side, and what breaks the stream between them.
pub(super) struct Open {
    pub(super) app: TcpStream,
    pub(super) far: DuplexStream,
    pub(super) breaker: oneshot::Sender<()>,
}

/// Bytes go both ways between a program and the far end, and each hears the other's end.
pub(super) async fn talks(
    mut app: impl AsyncRead + AsyncWrite + Unpin,
    mut far: impl AsyncRead + AsyncWrite + Unpin,
) {
    app.write_all(b"question").await.unwrap();
    app.shutdown().await.unwrap();
    assert_eq!(rest(&mut far).await.unwrap(), b"question");
    far.write_all(b"answer").await.unwrap();
    far.shutdown().await.unwrap();
    assert_eq!(rest(&mut app).await.unwrap(), b"answer");
}

impl Front {
    pub(super) async fn app(&self, first: &[u8]) -> TcpStream {
        let mut app = TcpStream::connect(self.address).await.unwrap();
        app.write_all(first).await.unwrap();
        app
    }

    pub(super) async fn next(&mut self) -> (ConnectRequest, Answer) {
        within(self.requests.recv()).await.unwrap()
    }

    pub(super) async fn open(&mut self) -> Open {
        let mut app = self.app(REQUEST).await;
        let (_, answer) = self.next().await;
        let (far, breaker) = grant(answer);
        expect(&mut app, GRANTED).await;
        Open { app, far, breaker }
    }
}

pub(super) fn grant(answer: Answer) -> (DuplexStream, oneshot::Sender<()>) {
    let (far, inner) = duplex(1 << 16);
    let (breaker, broken) = oneshot::channel();
    let broken = Some(broken);
    assert!(answer.send(Ok(Breakable { inner, broken })).is_ok());
    (far, breaker)
}

/// Fails the test after ten seconds, so that no test hangs.
pub(super) async fn within<F: Future>(future: F) -> F::Output {
    timeout(Duration::from_secs(10), future)
        .await
        .expect("in time")
}

pub(super) async fn expect(reader: &mut (impl AsyncRead + Unpin), bytes: &[u8]) {
    let mut got = vec![0; bytes.len()];
    within(reader.read_exact(&mut got)).await.unwrap();
    assert_eq!(got, bytes);
}

pub(super) async fn rest(reader: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut got = Vec::new();
    within(reader.read_to_end(&mut got)).await.map(|_| got)
}

/// Ends the connection with a reset.
pub(super) fn reset(app: TcpStream) {
    let linger = socket2::SockRef::from(&app).set_linger(Some(Duration::ZERO));
    linger.unwrap();
}
