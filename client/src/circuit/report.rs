//! What a pool tells of its guards and circuits, for people to see.

use cepa_common::dir::Entry;
use cepa_common::ids::{HopIndex, RelayId};

use super::build::{BuildError, Builder};
use super::pool::Pool;
use crate::events::{BootstrapEvent, Warning};

impl Pool {
    /// The name of a relay for people, as the consensus has it; the beginning of its identity where it has none.
    pub fn nickname(&self, relay: &RelayId) -> String {
        let consensus = self.consensus();
        match consensus.as_deref().and_then(|c| c.relay(relay)) {
            Some(entry) => entry.nickname.clone(),
            None => relay.to_string().chars().take(8).collect(),
        }
    }

    /// Tells once which guards were chosen, while the client starts.
    pub(super) fn tell_guards(&self) {
        if !matches!(self.reporter.present(), BootstrapEvent::Consensus { .. }) {
            return;
        }
        if self.rules().hops == 1 {
            // The only hop is drawn anew for each circuit: there are no guards to tell of.
            return;
        }
        let guards = self.guards().report();
        let names = guards.iter().map(|guard| self.nickname(&guard.identity));
        self.reporter.stage(BootstrapEvent::Guards(names.collect()));
    }

    /// This guard answers: whatever was said of it, or of the network, is over.
    pub(super) fn guard_answers(&self, guard: &RelayId) {
        self.reporter.over(|warning| match warning {
            Warning::NetworkDown => true,
            Warning::GuardFailing { identity, .. } => identity == guard,
            _ => false,
        });
    }

    /// A guard did not answer: says so in words, or that it is the network.
    pub(super) fn tell_of_failure(&self, guard: &RelayId) {
        if self.guards().is_network_down() {
            self.reporter.warn(Warning::NetworkDown);
        } else if self.guards().is_primary(guard) {
            self.reporter.warn(Warning::GuardFailing {
                identity: *guard,
                nickname: self.nickname(guard),
            });
        }
    }

    /// A circuit that the guard had answered was built, or came to nothing (docs/protocol.md, 6.21.13).
    pub(super) fn count_circuit(&self, guard: &RelayId, is_built: bool) {
        let Some(suspicion) = self.guards().on_circuit(guard, is_built) else {
            return;
        };
        let (begun, built) = self.guards().circuits(guard);
        let warning = Warning::PathBias {
            identity: *guard,
            nickname: self.nickname(guard),
            suspicion,
            begun,
            built,
        };
        tracing::warn!("{warning}");
        self.reporter.warn(warning);
    }

    /// Says what has changed since the last look.
    pub(super) fn report(&self) {
        let has_circuit = || self.counts().ready > 0;
        if !self.reporter.is_ready() && self.consensus().is_some() && has_circuit() {
            self.reporter.stage(BootstrapEvent::Ready);
        }
        match self.skew().wrong_by() {
            Some(ahead_secs) => self.reporter.warn(Warning::ClockSkew { ahead_secs }),
            None => self
                .reporter
                .over(|warning| matches!(warning, Warning::ClockSkew { .. })),
        }
        // What has left the sample, or does well again, is nothing to tell of any more.
        self.reporter.over(|warning| match warning {
            Warning::PathBias { identity, .. } => !self.guards().is_suspected(identity),
            Warning::GuardFailing { identity, .. } => !self.guards().is_primary(identity),
            _ => false,
        });
    }

    /// Starts a circuit at a guard that no stream will use: the guards hear whether it answers, and no more.
    pub(crate) async fn begin_at_guard(&self, first: &Entry) -> Result<Builder, BuildError> {
        let guard = first.identity;
        self.guards().on_attempt(&guard);
        let attempt = Tried { pool: self, guard };
        let begun = self.begin(first).await;
        drop(attempt);
        match &begun {
            Ok(_) => {
                self.guards().on_answered(&guard);
                self.guard_answers(&guard);
            }
            Err(error) if error.suspect() == HopIndex(0) => {
                self.guards().on_failure(&guard);
                self.tell_of_failure(&guard);
            }
            Err(_) => {}
        }
        begun
    }
}

/// A guard that is being tried; given up, it is not waited for.
struct Tried<'a> {
    pool: &'a Pool,
    guard: RelayId,
}

impl Drop for Tried<'_> {
    fn drop(&mut self) {
        self.pool.guards().on_abandoned(&self.guard);
    }
}
