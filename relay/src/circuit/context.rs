//! What the circuits that end at a relay share.

use std::sync::Arc;

use cepa_common::ids::RelayId;
use cepa_common::net::tasks::Tasks;

use super::Sets;
use crate::admission::Memory;
use crate::directory::DirectoryServer;
use crate::events::Refusals;
use crate::exit::ExitConnector;
use crate::link::PeerLinks;
use crate::params::ParamsInForce;

/// Everything that the end of a circuit reaches.
pub(crate) struct EndContext {
    /// Who this relay is.
    pub(crate) identity: RelayId,
    /// The network's parameters.
    pub(crate) params: ParamsInForce,
    /// Counts what circuits hold.
    pub(crate) memory: Arc<Memory>,
    /// Answers BEGIN_DIR.
    pub(crate) directory: Arc<DirectoryServer>,
    /// Answers BEGIN, if this relay is an exit.
    pub(crate) exit: Option<Arc<ExitConnector>>,
    /// Finds the next relay for EXTEND.
    pub(crate) links: Arc<PeerLinks>,
    /// Counts what is refused.
    pub(crate) refusals: Refusals,
    /// Circuits that carry streams together.
    pub(crate) sets: Sets,
    /// Runs circuits and streams.
    pub(crate) tasks: Tasks,
}
