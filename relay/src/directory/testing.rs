//! Networks, relays, and connections without sockets, for tests.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use cepa_common::dir::{
    Authority, ExitPolicy, Flags, NetworkDraft, NetworkFile, RelayDescriptor, UnixSecs,
    local_network_params,
};
use cepa_common::ids::RelayId;
use cepa_common::net::directory::{Dial, DialFuture, Stream};
use cepa_common::onion::Suite;
use cepa_common::world::Clock;
use ed25519_dalek::SigningKey;

use super::{DirectoryServer, serve_connection};

pub(crate) fn signing_key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[100 + n; 32])
}

pub(crate) fn link_key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

pub(crate) fn identity(n: u8) -> RelayId {
    RelayId(link_key(n).verifying_key().to_bytes())
}

pub(crate) fn address(n: u8) -> SocketAddr {
    ([127, 0, 0, 1], 5_000 + u16::from(n)).into()
}

pub(crate) fn network(authorities: u8) -> NetworkFile {
    let list = (1..=authorities).map(|n| Authority {
        name: format!("authority {n}"),
        identity: identity(n),
        signing_key: signing_key(n).verifying_key().to_bytes(),
        addresses: vec![address(n)],
    });
    let params: BTreeMap<_, _> = local_network_params();
    let mut draft = NetworkDraft::new("test", list.collect(), params);
    for n in 1..=authorities {
        draft.sign(&signing_key(n)).unwrap();
    }
    draft.finish().unwrap()
}

pub(crate) fn descriptor(n: u8, published: UnixSecs) -> RelayDescriptor {
    RelayDescriptor {
        identity: identity(n),
        key_cert: None,
        onion_key: [n; 32],
        suite: Suite::ChaCha20Poly1305,
        addresses: vec![address(n)],
        published,
        bandwidth: 1_000,
        offers: Flags::GUARD,
        policy: ExitPolicy::from_rules(["accept *:*"]).unwrap().summary(),
        family: None,
        nickname: format!("relay{n}"),
        version: "0.1.0".to_owned(),
    }
}

/// A clock that follows tokio's, which tests pause: time passes when everyone waits.
pub(crate) fn virtual_clock(start_ms: u64) -> Clock {
    let start = tokio::time::Instant::now();
    Clock::from_fn(move || start_ms + u64::try_from(start.elapsed().as_millis()).unwrap())
}

/// Who is where; a dial is a pipe to the directory server at that address.
#[derive(Clone, Default)]
pub(crate) struct Switchboard(Arc<Mutex<HashMap<SocketAddr, Plug>>>);

type Plug = (RelayId, Arc<DirectoryServer>);

impl Switchboard {
    pub(crate) fn plug(&self, n: u8, server: &Arc<DirectoryServer>) {
        self.0
            .lock()
            .unwrap()
            .insert(address(n), (identity(n), Arc::clone(server)));
    }

    pub(crate) fn unplug(&self, n: u8) {
        self.0.lock().unwrap().remove(&address(n));
    }
}

impl Dial for Switchboard {
    fn dial(&self, addresses: &[SocketAddr], link_key: [u8; 32]) -> DialFuture {
        let plugged = self.0.lock().unwrap();
        let server = addresses
            .iter()
            .find_map(|address| plugged.get(address))
            .cloned();
        Box::pin(async move {
            match server {
                Some((identity, server)) if identity.0 == link_key => {
                    let (near, far) = tokio::io::duplex(16 * 1024);
                    tokio::spawn(serve_connection(far, server));
                    Ok(Box::new(near) as Stream)
                }
                _ => Err(io::ErrorKind::ConnectionRefused.into()),
            }
        })
    }
}
