//! A client that joins a network for one question.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cepa_client as client;
use cepa_common::dir::{Consensus, NetworkFile};
use cepa_common::ids::RelayId;
use cepa_common::net::directory::RevisionStore;
use cepa_common::onion::Suite;
use cepa_common::world::Disk;
use tokio::sync::watch;

use super::client as clients;
use super::error::AppError;
use super::files::read_network;
use crate::terminal::Progress;

/// A client that is used for one question and serves nobody.
pub struct Visitor {
    client: client::Client,
}

/// A hop of a circuit, as its client measured it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Identity of the relay.
    pub identity: RelayId,
    /// Is this hop the guard at which the client's circuits begin?
    pub is_guard: bool,
    /// Nickname of the relay.
    pub nickname: String,
    /// Address at which the relay was reached, by the consensus.
    pub address: SocketAddr,
    /// Suite of the hop's layer.
    pub suite: Suite,
    /// The time from sending CREATE or EXTEND until the keys are there.
    pub handshake: Duration,
    /// The round trip from the client to this hop.
    pub round_trip: Duration,
}

impl Visitor {
    /// Joins the network of the file at `path` with nothing but that file.
    pub async fn join(path: &Path, progress: watch::Sender<Progress>) -> Result<Self, AppError> {
        let network = read_network(path)?;
        // A visit leaves nothing behind, and needs nothing that was there before.
        let options = client::ClientOptions::new(RevisionStore::open(&Disk::Real, None, network));
        let mut started = clients::start(options).await;
        started.ready(progress).await?;
        Ok(Self {
            client: started.client,
        })
    }

    /// Builds a circuit that could carry a stream to `target`, or to any target, and measures its hops.
    pub async fn trace(&self, target: Option<&str>) -> Result<Vec<Hop>, AppError> {
        let hops = self.client.trace(target).await;
        Ok(of_reports(
            hops.map_err(|e| AppError::Circuit(e.to_string()))?,
        ))
    }

    /// Builds a circuit through exactly the relays with these names, and measures its hops.
    pub async fn trace_path(&self, names: &[String]) -> Result<Vec<Hop>, AppError> {
        let relays = self.client.relays(names);
        let relays = relays.map_err(|error| AppError::Mismatch {
            what: error.to_string(),
            hint: "`cepa consensus` shows nicknames and identities",
        })?;
        let hops = self.client.trace_path(&relays).await;
        Ok(of_reports(
            hops.map_err(|e| AppError::Circuit(e.to_string()))?,
        ))
    }

    /// The consensus that the client believes, and the revision of the network's file that it was judged by.
    pub fn consensus(&self) -> Result<(Arc<NetworkFile>, Arc<Consensus>), AppError> {
        let consensus = self
            .client
            .consensus()
            .ok_or_else(|| AppError::Client("the consensus that it held has expired".to_owned()))?;
        let network = self.client.networks().at(consensus.lifetime().valid_after);
        Ok((network, consensus))
    }

    /// Leaves the network.
    pub async fn leave(self) {
        self.client.shutdown().await;
    }
}

fn of_reports(hops: Vec<client::HopReport>) -> Vec<Hop> {
    hops.into_iter()
        .map(|hop| Hop {
            identity: hop.identity,
            is_guard: hop.is_guard,
            nickname: hop.nickname,
            address: hop.address,
            suite: hop.suite,
            handshake: hop.handshake,
            round_trip: hop.rtt,
        })
        .collect()
}
