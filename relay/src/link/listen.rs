//! Accepts connections and finds out what they are: links or directory requests.

use std::net::IpAddr;
use std::sync::Arc;

use cepa_common::limits::ACCEPT_BACKOFF;
use cepa_common::net::establish::Accepted;
use cepa_common::net::tasks::Tasks;
use cepa_common::world::sockets::{self, SocketStream};

use super::PeerLinks;
use crate::admission::{Asker, Comer, LinkAdmission, LinkPlace};
use crate::directory::{DirectoryServer, serve_connection_from};
use crate::events::{RelayEvent, Reporter};
use crate::params::ParamsInForce;

/// Everything that accepting connections needs.
pub(crate) struct LinkListener {
    /// Where connections come in.
    pub(crate) socket: sockets::SocketListener,
    /// Bounds the connections.
    pub(crate) admission: LinkAdmission,
    /// Says how many connections one address may have.
    pub(crate) params: ParamsInForce,
    /// What becomes of a connection.
    pub(crate) doors: Doors,
    /// Runs the connections.
    pub(crate) tasks: Tasks,
    /// Hears of connections that are not accepted.
    pub(crate) events: Reporter,
}

/// The rooms that a connection can lead to.
#[derive(Clone)]
pub(crate) struct Doors {
    /// Takes links.
    pub(crate) links: Arc<PeerLinks>,
    /// Answers directory requests.
    pub(crate) directory: Arc<DirectoryServer>,
}

/// Accepts connections as long as the relay runs.
pub(crate) async fn listen(listener: LinkListener) {
    loop {
        let (tcp, peer) = match listener.socket.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Descriptors or memory are used up. Connections may end and free some, so the listener goes on (S39).
                let reason = error.to_string();
                let failed = RelayEvent::AcceptFailed { reason, times: 1 };
                listener.events.report(failed);
                tokio::time::sleep(ACCEPT_BACKOFF).await;
                continue;
            }
        };
        let per_address = listener.params.get().max_links_per_address;
        let comer = if listener.doors.directory.knows(peer.ip()) {
            Comer::Known
        } else {
            Comer::Stranger
        };
        match listener.admission.admit(peer.ip(), per_address, comer) {
            Ok(place) => {
                let doors = listener.doors.clone();
                let connection = connection(tcp, peer.ip(), doors, place);
                listener.tasks.spawn(connection);
            }
            Err(bound) => {
                let full = RelayEvent::ConnectionsFull { bound, refused: 1 };
                listener.events.report(full);
            }
        }
    }
}

/// Runs one connection until it ends. The place is kept for as long.
async fn connection(tcp: SocketStream, peer: IpAddr, doors: Doors, place: LinkPlace) {
    let Doors { links, directory } = doors;
    let accepted = tokio::select! {
        accepted = links.accept(tcp) => accepted,
        // Whoever keeps this relay waiting gives way to a newcomer where places are few.
        () = place.evicted() => return,
    };
    match accepted {
        Ok(Accepted::Link(link)) => {
            let (queue, is_relay) = links.take(link);
            place.settle(if is_relay {
                Comer::Known
            } else {
                Comer::Stranger
            });
            drop((links, directory));
            queue.closed().await;
        }
        Ok(Accepted::Http(io, _)) => {
            drop(links);
            let asker = directory.asker(io.peer_key(), peer);
            place.settle(match asker {
                Asker::Authority(_) | Asker::Relay(_) => Comer::Known,
                Asker::Stranger(_) | Asker::Stream => Comer::Stranger,
            });
            serve_connection_from(io, directory, asker).await;
        }
        // The peer learns nothing (S5), and the log nothing of the peer (S34).
        Err(error) => tracing::debug!(%error, "a connection came to nothing"),
    }
    drop(place);
}
