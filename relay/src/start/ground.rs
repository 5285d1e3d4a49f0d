//! The first step: what every room of a relay stands on.

use std::net::SocketAddr;

use cepa_common::ids::RelayId;
use cepa_common::net::tasks::{Stopper, Tasks, tasks};
use cepa_common::net::tls::Tls;
use cepa_common::world::{Disk, sockets};

use super::error::RelayError;
use crate::events::Reporter;
use crate::options::RelayOptions;

/// Tasks that stop together.
pub(super) struct Group {
    /// Starts tasks of the group.
    pub(super) tasks: Tasks,
    /// Stops the tasks of the group.
    pub(super) stop: Stopper,
}

impl Group {
    fn new() -> Self {
        let (tasks, stop) = tasks();
        Self { tasks, stop }
    }
}

/// The port, TLS, the reporter, and the two groups of tasks.
pub(super) struct Ground {
    /// Who the relay is.
    pub(super) identity: RelayId,
    /// Where connections come in.
    pub(super) socket: sockets::SocketListener,
    /// The address of `socket`.
    pub(super) local_addr: SocketAddr,
    /// Dials and accepts with the relay's link key.
    pub(super) tls: Tls,
    /// Where the relay keeps its state.
    pub(super) disk: Disk,
    /// Where all rooms report to.
    pub(super) events: Reporter,
    /// What brings work in: the listener and all that speaks to authorities.
    pub(super) sources: Group,
    /// Links, circuits and streams.
    pub(super) work: Group,
}

impl Ground {
    /// Binds the port and sets up TLS. Nothing is accepted yet.
    ///
    /// # Errors
    /// The relay cannot listen on its port, or the link key cannot be used.
    pub(super) async fn prepare(options: &RelayOptions) -> Result<Self, RelayError> {
        let address = options.listen;
        let socket = options.world.sockets.bind(address).await;
        let socket = socket.map_err(|source| RelayError::Listen { address, source })?;
        let local_addr = socket.local_addr().map_err(|source| RelayError::Io {
            what: "the port has no address",
            source,
        })?;
        Ok(Self {
            identity: options.identity.identity(),
            socket,
            local_addr,
            tls: Tls::relay(options.identity.link_key())?.over(options.world.sockets.clone()),
            disk: options.world.disk.clone(),
            events: Reporter::default(),
            sources: Group::new(),
            work: Group::new(),
        })
    }
}
