//! What a client tells people of its guards and circuits.

use std::sync::Arc;

use cepa_common::dir::Consensus;
use cepa_common::ids::RelayId;
use tokio::sync::watch;

use crate::events::{ClientEvent, Reporter, Warning};
use crate::guard::Keeper;
use cepa_common::net::skew::ClockSkew;

/// Tells people of guards and circuits, through the client's [`Reporter`].
pub(crate) struct Announcer {
    pub(crate) consensus: watch::Receiver<Option<Arc<Consensus>>>,
    pub(crate) guards: Arc<Keeper>,
    pub(crate) reporter: Reporter,
    /// Do circuits begin at guards? Circuits of one hop do not.
    pub(crate) has_guards: bool,
}

impl Announcer {
    /// The name of a relay for people, as the consensus has it; the beginning of its identity if it has no name.
    pub(super) fn nickname(&self, relay: &RelayId) -> String {
        let consensus = self.consensus.borrow().clone();
        match consensus.as_deref().and_then(|c| c.relay(relay)) {
            Some(entry) => entry.nickname.clone(),
            None => relay.to_string().chars().take(8).collect(),
        }
    }

    /// Reports once which guards were chosen while the client starts.
    pub(super) fn tell_guards(&self) {
        if !matches!(self.reporter.present(), ClientEvent::Consensus { .. }) {
            return;
        }
        if !self.has_guards {
            // The only hop is drawn anew for each circuit, so there are no guards to report.
            return;
        }
        let guards = self.guards.report();
        let names = guards.iter().map(|guard| self.nickname(&guard.identity));
        self.reporter.stage(ClientEvent::Guards(names.collect()));
    }

    /// Notes that this guard answers: warnings about it, or about the network, are over.
    pub(super) fn guard_answers(&self, guard: &RelayId) {
        self.reporter.over(|warning| match warning {
            Warning::NetworkDown => true,
            Warning::GuardFailing { identity, .. } => identity == guard,
            _ => false,
        });
    }

    /// Reports that a guard did not answer, or that the network is at fault.
    pub(super) fn tell_of_failure(&self, guard: &RelayId) {
        if self.guards.is_network_down() {
            self.reporter.warn(Warning::NetworkDown);
        } else if self.guards.is_primary(guard) {
            self.reporter.warn(Warning::GuardFailing {
                identity: *guard,
                nickname: self.nickname(guard),
            });
        }
    }

    /// Counts a circuit that the guard had answered, and that was then built or failed (docs/protocol.md, 6.21.13).
    pub(super) fn count_circuit(&self, guard: &RelayId, is_built: bool) {
        let Some(suspicion) = self.guards.on_circuit(guard, is_built) else {
            return;
        };
        let counts = self.guards.circuits(guard);
        let warning = Warning::PathBias {
            identity: *guard,
            nickname: self.nickname(guard),
            suspicion,
            begun: counts.begun,
            built: counts.built,
        };
        self.reporter.warn(warning);
    }

    /// A circuit that is being built has got so far.
    pub(super) fn tell_hop(&self, hop: usize, hops: usize) {
        self.reporter.stage(ClientEvent::Circuit { hop, hops });
    }

    /// No circuit can be built ahead of need, for this reason.
    pub(super) fn tell_of_no_circuit(&self, why: String) {
        self.reporter.stage(ClientEvent::NoCircuit(why));
    }

    /// Reports what has changed since the last look.
    pub(super) fn report(&self, has_circuit: bool, skew: &ClockSkew) {
        let has_consensus = self.consensus.borrow().is_some();
        if !self.reporter.is_ready() && has_consensus && has_circuit {
            self.reporter.stage(ClientEvent::Ready);
        }
        match skew.wrong_by() {
            Some(ahead_secs) => self.reporter.warn(Warning::ClockSkew { ahead_secs }),
            None => self
                .reporter
                .over(|warning| matches!(warning, Warning::ClockSkew { .. })),
        }
        // A guard that has left the sample, or works again, is no longer warned about.
        self.reporter.over(|warning| match warning {
            Warning::PathBias { identity, .. } => !self.guards.is_suspected(identity),
            Warning::GuardFailing { identity, .. } => !self.guards.is_primary(identity),
            _ => false,
        });
    }
}
