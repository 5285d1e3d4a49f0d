//! A plan's network for clients on paper: its hosts, where they are, and the consensuses of a full run.

use core::time::Duration;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use cepa_client::circuit::Counts;
use cepa_client::circuit::isolation::Isolation;
use cepa_client::circuit::rehearsal::{Begun, Fetched, Opened, Rehearsal, Setting, Stage};
use cepa_client::guard::Purpose;
use cepa_client::path::{ExitTarget, Path, PathSelector};
use cepa_common::dir::{Consensus, DocError, NetworkFile};
use cepa_common::ids::RelayId;
use cepa_common::world::steady;

use crate::choices::stage::{Here, Notes, Theatre};
use crate::load::Job;
use crate::node::NodeKeys;
use crate::plan::{NodePlan, Plan, Role};
use crate::run::{BEGAN_UNIX_MS, Ways};
use crate::seed::Seed;

/// The time that a fetch from the directory takes: two round trips of a circuit.
const FETCH: Duration = Duration::from_millis(800);
/// Bytes a second of a stream, for the time that it stays open.
const RATE: f64 = 1_000_000.0;
/// A circuit's handshake takes a relay so long (seconds), and timers a little.
const HANDSHAKE: f64 = 0.002;

/// What a client's job got on paper.
pub struct Played<'a> {
    /// The client.
    pub node: &'a NodePlan,
    /// The job.
    pub job: &'a Job,
    /// The circuit of each stream: its relays' numbers, and how long the stream waited for it (seconds).
    pub streams: Vec<([u32; 3], f64)>,
}

/// A plan's clients on paper.
pub struct Cast<'a> {
    plan: &'a Plan,
    network: &'a NetworkFile,
    ways: Ways,
    numbers: BTreeMap<RelayId, u32>,
    addresses: BTreeMap<u32, IpAddr>,
}

/// A stage that knows how long circuits take.
struct Placed<'a, 'b> {
    here: Here<'a>,
    cast: &'b Cast<'b>,
    client: IpAddr,
}

impl Placed<'_, '_> {
    fn takes(&self, hops: [u32; 3], is_new: bool) -> f64 {
        let mut from = self.client;
        let (mut sum, mut whole) = (0.0, 0.0);
        for (place, hop) in hops.iter().enumerate() {
            let Some(to) = self.cast.addresses.get(hop) else {
                continue;
            };
            let way = self.cast.ways.delay(from, *to).as_secs_f64();
            sum += way;
            // A link that is not there is dialled: a round trip for TCP, one for TLS, one for HELLOs.
            if place == 0 && is_new {
                whole += 6.0 * way;
            }
            whole += 2.0 * sum + HANDSHAKE;
            from = *to;
        }
        whole
    }
}

impl Stage for Placed<'_, '_> {
    fn begin(&mut self, at: Instant, purpose: Purpose, path: &Path) -> Begun {
        let hops = self.here.theatre.numbers(path);
        let is_new = hops.is_some_and(|hops| !self.here.notes.has_link(hops[0]));
        match (self.here.begin(at, purpose, path), hops) {
            (Begun::Built { circuit, lost, .. }, Some(hops)) => Begun::Built {
                circuit,
                lost,
                takes: Some(Duration::from_secs_f64(self.takes(hops, is_new))),
            },
            (begun, _) => begun,
        }
    }

    fn end(&mut self, at: Instant, circuit: u64) {
        self.here.end(at, circuit);
    }

    fn newest(&mut self, at: Instant) -> Option<Arc<PathSelector>> {
        self.here.newest(at)
    }

    fn fetched(&mut self, fetched: Fetched<'_>) {
        self.here.fetched(fetched);
    }
}

impl<'a> Cast<'a> {
    /// The hosts of `plan` in its `network`.
    pub fn new(plan: &'a Plan, network: &'a NetworkFile) -> Self {
        let relays = plan.nodes.iter().filter(|node| node.role != Role::Client);
        let identity = |node: &NodePlan| {
            let keys = NodeKeys::of(plan.seed, node.number);
            (RelayId(keys.link.verifying_key().to_bytes()), node.number)
        };
        Self {
            plan,
            network,
            ways: Ways::of(plan),
            numbers: relays.map(identity).collect(),
            addresses: plan
                .nodes
                .iter()
                .map(|node| (node.number, node.address))
                .collect(),
        }
    }

    /// How long something takes from one host to another (seconds).
    pub fn way(&self, from: IpAddr, to: IpAddr) -> f64 {
        self.ways.delay(from, to).as_secs_f64()
    }

    /// The address of a node.
    pub fn address(&self, node: u32) -> Option<IpAddr> {
        self.addresses.get(&node).copied()
    }

    /// Has all clients of the plan live on paper, with these consensuses. What is counted is from `from` to the end of
    /// the load. Gives what was counted, and the guards of each client. `each` hears of each job.
    ///
    /// # Errors
    /// [`DocError`] if no difference can be made of the consensuses.
    pub(crate) fn play(
        &self,
        documents: &BTreeMap<u64, Arc<Consensus>>,
        seed: Seed,
        from: Duration,
        each: &mut dyn FnMut(Played<'_>),
    ) -> Result<(Theatre, Vec<usize>, Vec<Counts>), DocError> {
        let began = steady::now();
        let setting = Arc::new(Setting {
            began,
            began_unix_ms: BEGAN_UNIX_MS,
            build: Duration::from_millis(600),
            fetch: FETCH,
        });
        let most = self.plan.nodes.iter().map(|node| node.number).max();
        let mut theatre = Theatre::new(None, began, from);
        theatre.make_room(most.unwrap_or(0) as usize + 1);
        let mut clients: Vec<_> = self
            .plan
            .nodes
            .iter()
            .filter(|node| node.role == Role::Client)
            .map(|node| {
                let number = u64::from(node.number);
                (node, Notes::new(number, number), None::<Rehearsal>, 0usize)
            })
            .collect();
        let mut times: Vec<_> = documents
            .values()
            .map(|consensus| {
                let at_ms = consensus.lifetime().valid_after * 1_000;
                let at = Duration::from_millis(at_ms.saturating_sub(BEGAN_UNIX_MS));
                (at, consensus)
            })
            .collect();
        times.retain(|(at, _)| *at < self.plan.lasts);
        let mut shelves = Vec::new();
        for (place, (at, consensus)) in times.iter().enumerate() {
            let numbers = consensus.entries().iter();
            let numbers = numbers.map(|entry| self.numbers.get(&entry.identity).copied());
            let numbers = numbers.map(|number| number.unwrap_or_default()).collect();
            let selector = Arc::new(PathSelector::new((*consensus).clone()));
            let until = times.get(place + 1).map_or(self.plan.lasts, |next| next.0);
            theatre.publish(selector, numbers, *at, until - *at)?;
            for (node, notes, paper, done) in &mut clients {
                let here = Here {
                    theatre: &mut theatre,
                    notes,
                };
                self.live(node, here, paper, done, &setting, until, seed, each);
                if until >= from {
                    shelves.extend(paper.as_ref().map(Rehearsal::counts));
                }
            }
            theatre.end_hour();
        }
        let mut guards = Vec::new();
        for (_, mut notes, paper, _) in clients {
            guards.push(notes.seen.len());
            if let Some(paper) = paper {
                let mut here = Here {
                    theatre: &mut theatre,
                    notes: &mut notes,
                };
                paper.stop(began + self.plan.lasts, &mut here);
                here.close_links(self.plan.lasts.as_secs_f64());
            }
        }
        Ok((theatre, guards, shelves))
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of one client, held apart"
    )]
    fn live(
        &self,
        node: &NodePlan,
        here: Here<'_>,
        paper: &mut Option<Rehearsal>,
        done: &mut usize,
        setting: &Arc<Setting>,
        until: Duration,
        seed: Seed,
        each: &mut dyn FnMut(Played<'_>),
    ) {
        if node.starts >= until {
            return;
        }
        let Some(newest) = here.theatre.newest.clone() else {
            return;
        };
        let mut stage = Placed {
            here,
            cast: self,
            client: node.address,
        };
        let (began, end) = (setting.began, setting.began + until);
        let paper = paper.get_or_insert_with(|| {
            let seed = seed.key("paper", &[u64::from(node.number)]);
            let starts = began + node.starts;
            let setting = setting.clone();
            Rehearsal::new(self.network, newest, setting, seed, starts, &mut stage)
        });
        loop {
            let asks = node.jobs.get(*done).map_or(end, |job| began + job.at);
            let due = paper.due();
            if due.min(asks) >= end {
                return;
            }
            if due <= asks {
                paper.wake(due, &mut stage);
                continue;
            }
            let job = &node.jobs[*done];
            *done += 1;
            let bytes = (job.up + job.down) as f64 / RATE;
            let lasts = Duration::from_secs_f64(0.5 + bytes) * job.turns + job.pause * job.turns;
            let mut streams = Vec::new();
            for _ in 0..job.streams {
                let isolation = Isolation::session(0);
                let target = ExitTarget::Name(80);
                let opened = paper.stream(asks, &isolation, target, lasts, &mut stage);
                if let Some(Opened { path, at }) = opened
                    && let Some(hops) = stage.here.theatre.numbers(&path)
                {
                    streams.push((hops, at.saturating_duration_since(asks).as_secs_f64()));
                }
            }
            each(Played { node, job, streams });
        }
    }
}
