//! Connections without sockets: a dial is a pipe to whoever is plugged in at the address.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::DuplexStream;
use tokio::sync::Notify;

use super::keys::{address, identity};
use crate::ids::RelayId;
use crate::net::directory::{Dial, DialFuture, DirStream};
use crate::sync::lock;

/// Bytes that a pipe holds in either direction.
const PIPE_BYTES: usize = 16 * 1_024;

/// Who is at an address, and what becomes of a connection to that address.
type Plug = (RelayId, Arc<dyn Fn(DuplexStream) + Send + Sync>);

/// Who is at which address. Clones share this. A dial tries the addresses in turn; it is refused at an address where
/// nobody is, or somebody with another key than the one asked for.
#[derive(Clone, Default)]
pub struct Switchboard {
    plugs: Arc<Mutex<HashMap<SocketAddr, Plug>>>,
    dialled: Arc<Mutex<Vec<SocketAddr>>>,
    told: Arc<Notify>,
}

impl Switchboard {
    /// Puts `n` at its address: `serve` gets the far end of each connection, and spawns what answers.
    pub fn plug(&self, n: u8, serve: impl Fn(DuplexStream) + Send + Sync + 'static) {
        lock(&self.plugs).insert(address(n), (identity(n), Arc::new(serve)));
    }

    /// Takes `n` away: dials to it are refused.
    pub fn unplug(&self, n: u8) {
        lock(&self.plugs).remove(&address(n));
    }

    /// The addresses dialled since the last call, in order.
    pub fn dialled(&self) -> Vec<SocketAddr> {
        std::mem::take(&mut lock(&self.dialled))
    }

    /// Waits for this many dials, at most five minutes of virtual time.
    pub async fn until_dialled(&self, count: usize) {
        let wait = async {
            while lock(&self.dialled).len() < count {
                self.told.notified().await;
            }
        };
        let limit = core::time::Duration::from_secs(300);
        tokio::time::timeout(limit, wait)
            .await
            .expect("not dialled so often");
    }
}

impl Dial for Switchboard {
    fn dial(&self, addresses: &[SocketAddr], link_key: [u8; 32]) -> DialFuture {
        lock(&self.dialled).extend(addresses);
        self.told.notify_one();
        let plugs = lock(&self.plugs);
        let plug = addresses.iter().find_map(|address| plugs.get(address));
        let plug = plug.filter(|(identity, _)| identity.0 == link_key).cloned();
        Box::pin(async move {
            let Some((_, serve)) = plug else {
                return Err(io::ErrorKind::ConnectionRefused.into());
            };
            let (near, far) = tokio::io::duplex(PIPE_BYTES);
            serve(far);
            Ok(Box::new(near) as DirStream)
        })
    }
}
