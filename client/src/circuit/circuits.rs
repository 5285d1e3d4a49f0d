//! What a program that embeds a client sees of the client's circuits.

use std::sync::Arc;

use cepa_common::ids::RelayId;

use super::built::Circuit;
use super::choose::Wanted;
use super::isolation::Isolation;
use super::maker::CircuitError;
use super::pool::Pool;
use super::shelf::Counts;
use crate::guard::GuardReport;

/// The circuits of a client, for a program that embeds it: to count, to name, and to have one for streams of its own.
#[derive(Clone)]
pub struct Circuits(Arc<Pool>);

impl Circuits {
    pub(crate) fn new(pool: Arc<Pool>) -> Self {
        Self(pool)
    }

    /// How many circuits and streams there are.
    pub fn counts(&self) -> Counts {
        self.0.counts()
    }

    /// The guards that circuits begin at, and how each does.
    pub fn guards(&self) -> Vec<GuardReport> {
        // The only relay of a path is no guard: it is drawn anew for each circuit.
        match self.0.rules().hops {
            1 => Vec::new(),
            _ => self.0.guards().report(),
        }
    }

    /// The name of a relay for people, as the consensus has it. A relay without a name is called by the first eight
    /// digits of its identity.
    pub fn nickname(&self, relay: &RelayId) -> String {
        self.0.maker().announcer().nickname(relay)
    }

    /// A circuit for a stream of `isolation` to what is wanted, with an exit that `avoid` does not name: a circuit in
    /// use by the same owner, a clean one, or a new one.
    ///
    /// # Errors
    /// [`CircuitError`] when no path fits, or no path that was tried could be built.
    pub async fn circuit_for(
        &self,
        isolation: &Isolation,
        wanted: impl Into<Wanted>,
        avoid: &(dyn Fn(&RelayId) -> bool + Sync),
    ) -> Result<Arc<Circuit>, CircuitError> {
        self.0.circuit_for(isolation, wanted, avoid).await
    }
}
