//! How a node's authority learns of relays: downloads that measure them, the client library's work behind the relay's
//! trait.
//!
//! The node has a client of its own for this. The client joins the network at the first download that is wanted,
//! because an authority is asked for its first consensus before there is any. Until the client has joined, the answer
//! is "not ready".

use std::sync::{Arc, Mutex};
use std::time::Duration;

use cepa_client::circuit::Multipath;
use cepa_client::{ByHandError, Client, ClientOptions};
use cepa_common::dir::NetworkFile;
use cepa_common::net::directory::fetch_padding;
use cepa_common::stream::StreamTarget;
use cepa_common::sync::lock;
use cepa_relay::authority::{
    Carried, Download, Measure, MeasureError, MeasureFuture, MeasureOptions,
};

use crate::config;

/// The options of a client that measures: each of its downloads goes by one circuit.
fn measuring(network: NetworkFile) -> ClientOptions {
    ClientOptions {
        multipath: Multipath::Never,
        ..ClientOptions::new(network)
    }
}

/// Pause after a failed try to join the network.
const JOIN_AGAIN: Duration = Duration::from_secs(5);

#[derive(Default)]
enum Joined {
    /// Joining was not tried, or was tried in vain.
    #[default]
    No,
    Trying(tokio::task::JoinHandle<()>),
    Yes(Client),
    /// The measurer was told to stop.
    Stopped,
}

/// Measures relays of one network.
#[derive(Clone)]
pub(super) struct Measurer {
    network: Arc<NetworkFile>,
    joined: Arc<Mutex<Joined>>,
}

impl Measurer {
    /// A measurer that has not joined yet.
    fn new(network: NetworkFile) -> Self {
        Self {
            network: Arc::new(network),
            joined: Arc::default(),
        }
    }

    /// What measures for the node of `config`, if that is an authority. It joins the network when something is to be
    /// measured.
    pub(super) fn of(config: &config::Config, network: &NetworkFile) -> Option<Self> {
        config
            .authority
            .as_ref()
            .map(|_| Self::new(network.clone()))
    }

    /// The options for the relay, with a budget of MiB an hour.
    pub(super) fn options(&self, mib_per_hour: u32) -> MeasureOptions {
        MeasureOptions {
            with: Arc::new(self.clone()),
            mib_per_hour,
        }
    }

    fn with<T>(&self, work: impl FnOnce(&mut Joined) -> T) -> T {
        work(&mut lock(&self.joined))
    }

    /// Returns the client if there is one, and otherwise begins to make one.
    fn client(&self) -> Option<Client> {
        self.with(|joined| match joined {
            Joined::Yes(client) => Some(client.clone()),
            Joined::No => {
                *joined = Joined::Trying(tokio::spawn(self.clone().join()));
                None
            }
            Joined::Trying(_) | Joined::Stopped => None,
        })
    }

    async fn join(self) {
        let network = NetworkFile::clone(&self.network);
        let client = match Box::pin(Client::bootstrap(measuring(network))).await {
            Ok(client) => Some(client),
            Err(error) => {
                tracing::info!(%error, "relays are not measured yet");
                tokio::time::sleep(JOIN_AGAIN).await;
                None
            }
        };
        self.with(|joined| {
            if !matches!(joined, Joined::Stopped) {
                *joined = client.map_or(Joined::No, Joined::Yes);
            }
        });
    }

    /// Ends the client and all downloads.
    pub(super) async fn stop(&self) {
        match self.with(|joined| std::mem::replace(joined, Joined::Stopped)) {
            Joined::Yes(client) => client.shutdown().await,
            Joined::Trying(task) => task.abort(),
            Joined::No | Joined::Stopped => {}
        }
    }
}

impl Measure for Measurer {
    fn measure(&self, download: &Download) -> MeasureFuture {
        let (client, download) = (self.client(), download.clone());
        Box::pin(async move {
            let client = client.ok_or(MeasureError::NotReady)?;
            Box::pin(carried(&client, &download)).await
        })
    }
}

async fn carried(client: &Client, download: &Download) -> Result<Carried, MeasureError> {
    let circuit = match client.circuit(&download.path).await {
        Ok(circuit) => Closed(circuit),
        // This client's consensus is older than what the authority knows, which is nobody's fault.
        Err(ByHandError::NoConsensus | ByHandError::Unlisted(_)) => {
            return Err(MeasureError::NotReady);
        }
        Err(error) => return Err(failed(&error)),
    };
    let stream = circuit.0.open(StreamTarget::Directory);
    let stream = stream.ok_or(MeasureError::Failed)?;
    let (permit, bytes) = (download.permit.clone(), u64::from(download.bytes));
    let fetched = fetch_padding(stream, permit, bytes, download.deadline).await;
    match fetched {
        Ok((bytes, took)) => Ok(Carried { bytes, took }),
        Err(error) if error.is_busy() => Err(MeasureError::Busy),
        Err(error) => Err(failed(&error)),
    }
}

fn failed(error: &dyn std::fmt::Display) -> MeasureError {
    tracing::debug!(%error, "a measurement came to nothing");
    MeasureError::Failed
}

/// A circuit that ends with the download, however the download ends.
struct Closed(Arc<cepa_client::circuit::Circuit>);

impl Drop for Closed {
    fn drop(&mut self) {
        self.0.close();
    }
}
