//! Networks, consensuses, and connections without sockets, for tests of the client.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use cepa_common::dir::{
    Authority, Clock, Consensus, ConsensusBody, Dial, DialFuture, Entry, ExitPolicy, Flags,
    Lifetime, NetworkDraft, NetworkFile, PolicySummary, RelayDescriptor, SignedConsensus, Stream,
    UnixSecs,
};
use cepa_common::ids::RelayId;
use cepa_common::onion::Suite;
use ed25519_dalek::SigningKey;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;

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
    mut entries: Vec<Entry>,
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
    for n in 1..=u8::try_from(network.authorities().len()).unwrap() {
        signed.sign(&id, &signing_key(n)).unwrap();
    }
    SignedConsensus::parse_and_verify(&signed.to_bytes().unwrap(), network).unwrap()
}

/// A clock that follows tokio's, which tests pause.
pub(crate) fn virtual_clock(start_ms: u64) -> Clock {
    let start = tokio::time::Instant::now();
    Clock::from_fn(move || start_ms + u64::try_from(start.elapsed().as_millis()).unwrap())
}

type Shelf = HashMap<SocketAddr, (RelayId, Vec<u8>)>;

/// What each source answers with, whatever is asked; who is not in it does not exist.
#[derive(Clone, Default)]
pub(crate) struct Shelves {
    shelves: Arc<Mutex<Shelf>>,
    dialled: Arc<Mutex<Vec<SocketAddr>>>,
}

impl Shelves {
    pub(crate) fn put(&self, n: u8, bytes: &[u8]) {
        self.shelves
            .lock()
            .unwrap()
            .insert(address(n), (identity(n), bytes.to_vec()));
    }

    pub(crate) fn remove(&self, n: u8) {
        self.shelves.lock().unwrap().remove(&address(n));
    }

    pub(crate) fn dialled(&self) -> Vec<SocketAddr> {
        std::mem::take(&mut self.dialled.lock().unwrap())
    }
}

impl Dial for Shelves {
    fn dial(&self, addresses: &[SocketAddr], link_key: [u8; 32]) -> DialFuture {
        self.dialled.lock().unwrap().extend(addresses);
        let shelf = self.shelves.lock().unwrap().get(&addresses[0]).cloned();
        Box::pin(async move {
            let Some((_, bytes)) = shelf.filter(|(identity, _)| identity.0 == link_key) else {
                return Err(io::ErrorKind::ConnectionRefused.into());
            };
            let (near, far) = tokio::io::duplex(16 * 1_024);
            let service = service_fn(move |_: Request<_>| {
                let body = Full::new(Bytes::from(bytes.clone()));
                async move { Ok::<_, Infallible>(Response::new(body)) }
            });
            tokio::spawn(async move {
                let server = hyper::server::conn::http1::Builder::new();
                let _ = server.serve_connection(TokioIo::new(far), service).await;
            });
            Ok(Box::new(near) as Stream)
        })
    }
}
