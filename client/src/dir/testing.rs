//! Networks, consensuses, and connections without sockets, for tests of the client.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use cepa_common::dir::{
    Authority, Consensus, ConsensusBody, Entry, ExitPolicy, Flags, Lifetime, NetworkDraft,
    NetworkFile, PolicySummary, RelayDescriptor, SignedConsensus, UnixSecs, diff,
};
use cepa_common::ids::RelayId;
use cepa_common::net::directory::{Dial, DialFuture, Stream};
use cepa_common::onion::Suite;
use cepa_common::world::Clock;
use ed25519_dalek::SigningKey;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{DirStreamFuture, DirStreams};

pub(crate) fn link_key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

pub(crate) fn signing_key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[100 + n; 32])
}

pub(crate) fn identity(n: u8) -> RelayId {
    RelayId(link_key(n).verifying_key().to_bytes())
}

pub(crate) fn address(n: u8) -> SocketAddr {
    ([127, 0, 0, 1], 5_000 + u16::from(n)).into()
}

pub(crate) fn network_with(authorities: u8, params: BTreeMap<String, u32>) -> NetworkFile {
    let list = (1..=authorities).map(|n| Authority {
        name: format!("authority {n}"),
        identity: identity(n),
        signing_key: signing_key(n).verifying_key().to_bytes(),
        addresses: vec![address(n)],
    });
    let mut draft = NetworkDraft::new("test", list.collect(), params);
    for n in 1..=authorities {
        draft.sign(&signing_key(n)).unwrap();
    }
    draft.finish().unwrap()
}

pub(crate) fn descriptor(n: u8) -> RelayDescriptor {
    RelayDescriptor {
        identity: identity(n),
        key_cert: None,
        onion_key: [n; 32],
        suite: Suite::ChaCha20Poly1305,
        addresses: vec![address(n)],
        published: 1_000,
        bandwidth: 1_000,
        offers: Flags::NONE,
        policy: web_policy(),
        family: None,
        nickname: format!("relay{n}"),
        version: "0.1.0".to_owned(),
    }
}

/// Lets out to ports 80 and 443 of IPv4 addresses. (Made once: a summary goes through all ports.)
fn web_policy() -> PolicySummary {
    use std::sync::LazyLock;
    static POLICY: LazyLock<PolicySummary> = LazyLock::new(|| {
        ExitPolicy::from_rules(["accept *4:80", "accept *4:443"])
            .unwrap()
            .summary()
    });
    POLICY.clone()
}

pub(crate) fn consensus_of(
    network: &NetworkFile,
    valid_after: UnixSecs,
    entries: Vec<Entry>,
) -> Arc<Consensus> {
    let all: Vec<_> = (1..=u8::try_from(network.authorities().len()).unwrap()).collect();
    consensus_signed(network, valid_after, entries, &all)
}

pub(crate) fn consensus_signed(
    network: &NetworkFile,
    valid_after: UnixSecs,
    mut entries: Vec<Entry>,
    signers: &[u8],
) -> Arc<Consensus> {
    entries.sort_by_key(|entry| entry.identity);
    let lifetime = Lifetime {
        valid_after,
        fresh_until: valid_after + 10,
        valid_until: valid_after + 60,
    };
    let body = ConsensusBody {
        lifetime,
        params: BTreeMap::new(),
        entries,
    };
    let id = network.network_id();
    let mut signed = SignedConsensus::unsigned(&body, &id).unwrap();
    for n in signers {
        signed.sign(&id, &signing_key(*n)).unwrap();
    }
    SignedConsensus::parse_and_verify(&signed.to_bytes().unwrap(), network).unwrap()
}

/// A clock that follows tokio's, which tests pause.
pub(crate) fn virtual_clock(start_ms: u64) -> Clock {
    let start = tokio::time::Instant::now();
    Clock::from_fn(move || start_ms + u64::try_from(start.elapsed().as_millis()).unwrap())
}

/// How a source behaves.
#[derive(Clone)]
pub(crate) enum Script {
    /// These bytes, whatever is asked.
    Whole(Vec<u8>),
    /// As a cache that holds these, the newest first: 304, 226 or 200.
    Cache(Vec<Arc<Consensus>>),
    /// These bytes instead of HTTP; the connection stays open afterwards or not.
    Raw(Vec<u8>, bool),
}

impl Script {
    /// A head of this status and length, and then so many bytes.
    pub(crate) fn cut(status: &str, announced: usize, sent: usize, stays: bool) -> Self {
        let mut bytes =
            format!("HTTP/1.1 {status}\r\ncontent-length: {announced}\r\n\r\n").into_bytes();
        bytes.extend(vec![b'x'; sent]);
        Self::Raw(bytes, stays)
    }

    /// A difference from what is held, as the given bytes.
    pub(crate) fn difference(held: &Consensus, difference: &[u8]) -> Self {
        let head = format!(
            "HTTP/1.1 226 IM Used\r\nim: cepa-diff\r\ndelta-base: \"{}\"\r\ncontent-length: {}\r\n\r\n",
            held.digest(),
            difference.len()
        );
        Self::Raw([head.as_bytes(), difference].concat(), false)
    }
}

type Shelf = HashMap<SocketAddr, (RelayId, Script)>;

/// What each source answers with; who is not in it does not exist.
#[derive(Clone, Default)]
pub(crate) struct Shelves {
    shelves: Arc<Mutex<Shelf>>,
    dialled: Arc<Mutex<Vec<SocketAddr>>>,
    answered: Arc<Mutex<Vec<u16>>>,
    told: Arc<tokio::sync::Notify>,
}

impl Shelves {
    pub(crate) fn put(&self, n: u8, bytes: &[u8]) {
        self.play(n, Script::Whole(bytes.to_vec()));
    }

    pub(crate) fn play(&self, n: u8, script: Script) {
        self.shelves
            .lock()
            .unwrap()
            .insert(address(n), (identity(n), script));
    }

    pub(crate) fn remove(&self, n: u8) {
        self.shelves.lock().unwrap().remove(&address(n));
    }

    pub(crate) fn dialled(&self) -> Vec<SocketAddr> {
        std::mem::take(&mut self.dialled.lock().unwrap())
    }

    /// Waits for so many dials, at most five minutes of virtual time.
    pub(crate) async fn until_dialled(&self, count: usize) {
        let wait = async {
            while self.dialled.lock().unwrap().len() < count {
                self.told.notified().await;
            }
        };
        let limit = std::time::Duration::from_secs(300);
        tokio::time::timeout(limit, wait)
            .await
            .expect("not dialled so often");
    }

    /// The statuses that caches have answered with.
    pub(crate) fn answered(&self) -> Vec<u16> {
        std::mem::take(&mut self.answered.lock().unwrap())
    }
}

/// The answer of an honest cache.
fn answer_as_cache(
    held: &[Arc<Consensus>],
    request: &Request<hyper::body::Incoming>,
) -> Response<Full<Bytes>> {
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

async fn play_raw(mut far: tokio::io::DuplexStream, bytes: Vec<u8>, stays: bool) {
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

/// Directory streams over circuits that end at these relays in turn; counts those opened.
pub(crate) struct ScriptedCircuits {
    pub(crate) shelves: Shelves,
    pub(crate) ends: Vec<u8>,
    pub(crate) opened: Arc<Mutex<Vec<RelayId>>>,
}

impl DirStreams for ScriptedCircuits {
    fn open(&self, avoid: &[RelayId]) -> DirStreamFuture {
        let mut opened = self.opened.lock().unwrap();
        let ends: Vec<_> = self
            .ends
            .iter()
            .filter(|n| !avoid.contains(&identity(**n)))
            .collect();
        let Some(n) = ends
            .get(opened.len().checked_rem(ends.len()).unwrap_or(0))
            .copied()
        else {
            return Box::pin(async { Err(io::ErrorKind::NotConnected.into()) });
        };
        opened.push(identity(*n));
        let who = identity(*n);
        let stream = self.shelves.dial(&[address(*n)], who.0);
        Box::pin(async move { Ok((who, stream.await?)) })
    }
}

impl Dial for Shelves {
    fn dial(&self, addresses: &[SocketAddr], link_key: [u8; 32]) -> DialFuture {
        self.dialled.lock().unwrap().extend(addresses);
        self.told.notify_one();
        let shelf = self.shelves.lock().unwrap().get(&addresses[0]).cloned();
        let answered = Arc::clone(&self.answered);
        Box::pin(async move {
            let Some((_, script)) = shelf.filter(|(identity, _)| identity.0 == link_key) else {
                return Err(io::ErrorKind::ConnectionRefused.into());
            };
            let (near, far) = tokio::io::duplex(16 * 1_024);
            if let Script::Raw(bytes, stays) = script {
                tokio::spawn(play_raw(far, bytes, stays));
                return Ok(Box::new(near) as Stream);
            }
            let service = service_fn(move |request: Request<_>| {
                let response = match &script {
                    Script::Cache(held) => answer_as_cache(held, &request),
                    Script::Whole(bytes) => Response::new(Full::new(bytes.clone().into())),
                    Script::Raw(..) => unreachable!(),
                };
                answered.lock().unwrap().push(response.status().as_u16());
                async move { Ok::<_, Infallible>(response) }
            });
            tokio::spawn(async move {
                let server = hyper::server::conn::http1::Builder::new();
                let _ = server.serve_connection(TokioIo::new(far), service).await;
            });
            Ok(Box::new(near) as Stream)
        })
    }
}
