//! Directories that play a script: honest caches, liars and those that break off.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::switchboard::Switchboard;
use crate::dir::{Consensus, diff};
use crate::net::directory::{Dial, DialFuture};
use crate::sync::lock;

/// How a source behaves.
#[derive(Clone)]
pub enum Script {
    /// Answers with these bytes, whatever is asked.
    Whole(Vec<u8>),
    /// Answers as a cache that holds these consensuses, the newest first: 304, 226 or 200.
    Cache(Vec<Arc<Consensus>>),
    /// Answers with these bytes, which need not be HTTP. If the flag is true, the connection stays open afterwards.
    Raw(Vec<u8>, bool),
}

impl Script {
    /// Answers with a head of this status and length, and then sends this many bytes.
    pub fn cut(status: &str, announced: usize, sent: usize, stays: bool) -> Self {
        let mut bytes =
            format!("HTTP/1.1 {status}\r\ncontent-length: {announced}\r\n\r\n").into_bytes();
        bytes.extend(vec![b'x'; sent]);
        Self::Raw(bytes, stays)
    }

    /// Answers with the given bytes as the difference from the consensus held.
    pub fn difference(held: &Consensus, difference: &[u8]) -> Self {
        let head = format!(
            "HTTP/1.1 226 IM Used\r\nim: cepa-diff\r\ndelta-base: \"{}\"\r\ncontent-length: {}\r\n\r\n",
            held.digest(),
            difference.len()
        );
        Self::Raw([head.as_bytes(), difference].concat(), false)
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        match self {
            Self::Cache(held) => answer_as_cache(held, request),
            Self::Whole(bytes) => Response::new(Full::new(bytes.clone().into())),
            // This script is played without HTTP.
            Self::Raw(..) => Response::default(),
        }
    }
}

/// What each source answers with; a source without a script does not exist. Clones share the scripts.
#[derive(Clone, Default)]
pub struct Sources {
    board: Switchboard,
    answered: Arc<Mutex<Vec<u16>>>,
}

impl Sources {
    /// Makes `n` answer everything with these bytes.
    pub fn put(&self, n: u8, bytes: &[u8]) {
        self.play(n, Script::Whole(bytes.to_vec()));
    }

    /// Makes `n` play this script.
    pub fn play(&self, n: u8, script: Script) {
        let answered = Arc::clone(&self.answered);
        self.board.plug(n, move |far| {
            let (script, answered) = (script.clone(), Arc::clone(&answered));
            match script {
                Script::Raw(bytes, stays) => tokio::spawn(play_raw(far, bytes, stays)),
                script => tokio::spawn(play_http(far, script, answered)),
            };
        });
    }

    /// Takes `n` away.
    pub fn remove(&self, n: u8) {
        self.board.unplug(n);
    }

    /// The addresses dialled since the last call, in order.
    pub fn dialled(&self) -> Vec<SocketAddr> {
        self.board.dialled()
    }

    /// Waits for this many dials, at most five minutes of virtual time.
    pub async fn until_dialled(&self, count: usize) {
        self.board.until_dialled(count).await;
    }

    /// The statuses that caches have answered with since the last call.
    pub fn answered(&self) -> Vec<u16> {
        std::mem::take(&mut lock(&self.answered))
    }
}

impl Dial for Sources {
    fn dial(&self, addresses: &[SocketAddr], link_key: [u8; 32]) -> DialFuture {
        self.board.dial(addresses, link_key)
    }
}

/// The answer of an honest cache.
fn answer_as_cache(held: &[Arc<Consensus>], request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let tag = |consensus: &Consensus| format!("\"{}\"", consensus.digest());
    let offered = request.headers().get("if-none-match");
    let offered = offered.map_or("", |value| value.to_str().unwrap());
    let base = held.iter().find(|consensus| tag(consensus) == offered);
    let newest = &held[0];
    let response = Response::builder();
    match base {
        Some(base) if base.digest() == newest.digest() => {
            response.status(304).body(Full::default())
        }
        Some(base) if request.headers().contains_key("a-im") => response
            .status(226)
            .header("delta-base", tag(base))
            .body(Full::new(diff(base, newest).unwrap().into())),
        _ => response.body(Full::new(newest.shared_bytes())),
    }
    .unwrap()
}

async fn play_http(far: DuplexStream, script: Script, answered: Arc<Mutex<Vec<u16>>>) {
    let service = service_fn(move |request| {
        let response = script.answer(&request);
        lock(&answered).push(response.status().as_u16());
        async move { Ok::<_, Infallible>(response) }
    });
    let server = hyper::server::conn::http1::Builder::new();
    let _ = server.serve_connection(TokioIo::new(far), service).await;
}

async fn play_raw(mut far: DuplexStream, bytes: Vec<u8>, stays: bool) {
    let mut head = [0; 1_024];
    let mut read = 0;
    while !head[..read].ends_with(b"\r\n\r\n") {
        match far.read(&mut head[read..]).await {
            Ok(n) if n > 0 => read += n,
            _ => return,
        }
    }
    let _ = far.write_all(&bytes).await;
    if stays {
        std::future::pending::<()>().await;
    }
}
