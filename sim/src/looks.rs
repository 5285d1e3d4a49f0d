//! What is looked at in a client again and again: its consensus, which never grows older, and its guards, which stay.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cepa_client::Client;
use cepa_client::guard::{GuardHealth, GuardSet, MAX_STATE_BYTES};
use cepa_common::dir::{Consensus, Flags};
use cepa_common::ids::RelayId;
use cepa_common::state::record;
use cepa_common::world::Disk;
use tokio::time::Instant;

use crate::plan::Act;
use crate::sight::{Invariant, KeptGuards};
use crate::site::Site;

/// Kind of the record that a client's guards are in.
const GUARDS: &str = "guards";

/// Circuits that a client may build and never use, in all and for each minute: faults end circuits that are ready, and
/// others take their places.
const WASTED: u64 = 12;
const WASTED_A_MINUTE: u64 = 2;

/// What was seen of one life of a client.
pub(crate) struct Looks {
    site: Arc<Site>,
    node: u32,
    began: Instant,
    disk: Disk,
    guards: PathBuf,
    /// The consensus of the last look.
    newest: u64,
    /// Guards that answered at the last look.
    answered: BTreeSet<RelayId>,
    /// Guards that are not listed, each with the valid-after of the first consensus that did not list it.
    unlisted: BTreeMap<RelayId, u64>,
}

impl Looks {
    /// Nothing has been seen of this life of client `node`, whose state is in `room` on `disk`.
    pub(crate) fn new(site: &Arc<Site>, node: u32, disk: &Disk, room: &Path) -> Self {
        Self {
            guards: room.join(format!("guards-{}", site.network.network_id())),
            site: site.clone(),
            node,
            began: Instant::now(),
            disk: disk.clone(),
            newest: 0,
            answered: BTreeSet::new(),
            unlisted: BTreeMap::new(),
        }
    }

    fn violation(&self, invariant: Invariant, what: String) {
        let sight = &self.site.sight;
        sight.violation(invariant, vec![self.node], what);
    }

    /// Looks at the client. What two looks in a row have seen is not just about to change.
    pub(crate) fn see(&mut self, client: &Client) {
        let consensus = client.consensus();
        if let Some(consensus) = &consensus {
            self.see_consensus(consensus);
        }
        self.see_guards(client, consensus.as_deref());
        self.see_circuits(client);
        let sight = &self.site.sight;
        let now = sight.now();
        if let Some(measured) = &mut sight.seen().measured {
            measured.shelves.push((now, client.circuits().counts()));
        }
    }

    /// Circuits that nobody uses cost the network handshakes, and show the client to relays.
    fn see_circuits(&self, client: &Client) {
        let faults = &self.site.plan.faults;
        if faults
            .iter()
            .any(|fault| matches!(fault.act, Act::Hostile(..)))
        {
            return;
        }
        let counts = client.circuits().counts();
        let kept = u64::try_from(counts.clean).unwrap_or(u64::MAX);
        let wasted = counts.built.saturating_sub(counts.used + kept);
        let minutes = self.began.elapsed().as_secs() / 60;
        if wasted > WASTED + WASTED_A_MINUTE * minutes {
            let what = format!(
                "of {} circuits that were built in {minutes} minutes, {wasted} ended without any use",
                counts.built
            );
            self.violation(Invariant::Waste, what);
        }
    }

    fn see_consensus(&mut self, consensus: &Arc<Consensus>) {
        let valid_after = consensus.lifetime().valid_after;
        if let Some(measured) = &mut self.site.sight.seen().measured {
            let documents = &mut measured.documents;
            documents
                .entry(valid_after)
                .or_insert_with(|| consensus.clone());
        }
        let used = self.site.sight.seen().used.get(&self.node).copied();
        let before = self.newest.max(used.unwrap_or(0));
        if valid_after < before {
            let what = format!("a consensus of {valid_after} is used after one of {before}");
            self.violation(Invariant::NoWayBack, what);
        }
        // A client on a full disk may forget a consensus when it is started again.
        if valid_after == self.newest && !self.was_full() {
            self.site.sight.seen().used.insert(self.node, valid_after);
        }
        self.newest = valid_after;
        let digest = consensus.digest().to_string();
        self.site.sight.consensus(self.node, valid_after, digest);
        let running = consensus
            .entries()
            .iter()
            .filter(|entry| entry.flags.contains(Flags::RUNNING));
        let running = running.count();
        tracing::trace!(target: "cepa_sim", running, valid_after, "consensus");
    }

    fn see_guards(&mut self, client: &Client, consensus: Option<&Consensus>) {
        let guards = client.circuits().guards();
        {
            let mut seen = self.site.sight.seen();
            let of = seen.guards.entry(self.node).or_default();
            of.extend(guards.iter().map(|guard| guard.identity.to_string()));
            if let Some(measured) = &mut seen.measured {
                let of = measured.guards.entry(self.node).or_default();
                let met = guards
                    .iter()
                    .filter(|guard| guard.health == GuardHealth::Answers);
                of.extend(met.map(|guard| guard.identity));
            }
        }
        // A client that rests takes a consensus into account when it next builds a circuit, which it does to fetch the
        // one after.
        if let Some(consensus) = consensus {
            let since = consensus.lifetime().valid_after;
            let gone = guards
                .iter()
                .map(|guard| guard.identity)
                .filter(|guard| !lists(consensus, guard));
            let before = std::mem::take(&mut self.unlisted);
            self.unlisted = gone
                .map(|guard| (guard, before.get(&guard).copied().unwrap_or(since)))
                .collect();
            let stale = self.unlisted.iter().find(|(_, first)| **first < since);
            if let Some((guard, _)) = stale {
                let what = format!("guard {guard} is used, and two consensuses do not list it");
                self.violation(Invariant::Guards, what);
            }
        }
        let answered = guards
            .iter()
            .filter(|guard| guard.health == GuardHealth::Answers);
        let answered: BTreeSet<RelayId> = answered.map(|guard| guard.identity).collect();
        let kept = self.kept();
        let forgotten = |guard: &&RelayId| !kept.sampled.contains(guard);
        if let Some(guard) = answered.intersection(&self.answered).find(forgotten)
            && !self.was_full()
        {
            let what = format!("guard {guard} is used, and is not on the disk");
            self.violation(Invariant::Guards, what);
        }
        self.answered = answered;
        let before = self
            .site
            .sight
            .seen()
            .kept_guards
            .insert(self.node, kept.clone());
        if let Some(lost) = before.and_then(|before| kept.lost_since(&before)) {
            self.violation(Invariant::Guards, lost);
        }
    }

    /// The guards on the disk; none if they cannot be read.
    fn kept(&self) -> KeptGuards {
        let network = self.site.network.network_id();
        let body = record::load(&self.disk, &self.guards, GUARDS, MAX_STATE_BYTES);
        let set = body.ok().flatten();
        let set = set.and_then(|(body, _)| GuardSet::from_state(&body, network).ok());
        set.map_or_else(KeptGuards::default, |set| KeptGuards {
            sampled: set.sampled().copied().collect(),
            confirmed: set.confirmed().to_vec(),
        })
    }

    /// Has the client's disk been full in this run?
    fn was_full(&self) -> bool {
        let now = self.site.sight.now();
        let faults = self.site.plan.faults.iter();
        let mut begun = faults.filter(|fault| fault.begins <= now);
        begun.any(|fault| matches!(fault.act, Act::FullDisk(node) if node == self.node))
    }
}

fn lists(consensus: &Consensus, guard: &RelayId) -> bool {
    let mut entries = consensus.entries().iter();
    entries.any(|entry| entry.identity == *guard)
}
