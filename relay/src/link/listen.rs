//! Accepts connections and finds out what they are: links or directory requests.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use cepa_common::limits::ACCEPT_BACKOFF;
use cepa_common::net::establish::{self, Accepted};
use cepa_common::sync::lock;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::WeakCore;
use crate::directory::serve_connection_from;
use crate::start::Core;

/// Connections held, in all and from each address (S23).
#[derive(Clone)]
pub(crate) struct Admission {
    all: Arc<Semaphore>,
    by_address: Arc<Mutex<HashMap<IpAddr, u32>>>,
}

/// One connection's place; given back when dropped.
struct Place {
    _permit: OwnedSemaphorePermit,
    address: IpAddr,
    by_address: Arc<Mutex<HashMap<IpAddr, u32>>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = lock(&self.by_address);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

impl Admission {
    pub(crate) fn new(connections: u32) -> Self {
        let all = Arc::new(Semaphore::new(connections as usize));
        Self {
            all,
            by_address: Arc::default(),
        }
    }

    fn admit(&self, address: IpAddr, per_address: u32) -> Option<Place> {
        let permit = self.all.clone().try_acquire_owned().ok()?;
        let mut counts = lock(&self.by_address);
        let count = counts.entry(address).or_default();
        // Loopback is one's own machine, where a whole network has one address.
        if *count >= per_address && !address.is_loopback() {
            return None;
        }
        *count += 1;
        Some(Place {
            _permit: permit,
            address,
            by_address: self.by_address.clone(),
        })
    }
}

/// Accepts connections as long as the relay runs.
pub(crate) async fn listen(listener: TcpListener, core: WeakCore, admission: Admission) {
    loop {
        let (tcp, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors or memory: others may go, we stay (S39).
                tracing::warn!(%error, "can't accept a connection; trying again");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
                continue;
            }
        };
        let Some(core) = core.upgrade() else { return };
        let per_address = core.params().max_links_per_address;
        let Some(place) = admission.admit(peer.ip(), per_address) else {
            continue;
        };
        let Some(tasks) = core.tasks() else { return };
        tasks.spawn(connection(tcp, peer.ip(), core, place));
    }
}

async fn connection(tcp: TcpStream, peer: IpAddr, core: Arc<Core>, place: Place) {
    match establish::accept(tcp, &core.tls, core.network).await {
        Ok(Accepted::Link(link)) => {
            let peer = core.links.identity_of(&link);
            let queue = core.start_link(link, peer);
            drop(core);
            // The place is kept for as long as the link lives.
            if let Some(queue) = queue {
                queue.closed().await;
            }
        }
        Ok(Accepted::Http(io, _)) => {
            let directory = core.directory.clone();
            drop(core);
            serve_connection_from(io, directory, Some(peer)).await;
        }
        // The peer learns nothing (S5), and the log nothing of the peer (S34).
        Err(error) => tracing::debug!(%error, "a connection came to nothing"),
    }
    drop(place);
}
