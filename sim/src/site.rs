//! What all nodes of a run, and their users, share.

use cepa_common::dir::NetworkFile;

use crate::plan::Plan;
use crate::sight::Sight;

/// What all nodes of a run share.
pub(crate) struct Site {
    /// The run before it began.
    pub(crate) plan: Plan,
    /// The network that the nodes are part of.
    pub(crate) network: NetworkFile,
    /// What is seen of the run.
    pub(crate) sight: Sight,
}
