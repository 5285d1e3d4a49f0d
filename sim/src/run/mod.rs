//! Runs a plan: starts the nodes, lets go wrong what should, and looks at what must hold.

mod faults;
mod look;
mod state;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use cepa_common::world::memory::MemoryNetwork;
use cepa_common::world::{NodeLife, Simulation};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Duration, Instant, sleep, sleep_until};

use crate::cities;
use crate::load::{JobKind, job};
use crate::node::{self, Orders};
use crate::plan::{FixedWays, NodePlan, Plan, Role};
use crate::sight::{Invariant, Sight};
use crate::site::Site;
use crate::user;
pub(crate) use state::BEGAN_UNIX_MS;
use state::{Director, Effect, GONE, Host, Life, STOPPED};

/// How often the director looks at what must hold.
const LOOK: Duration = Duration::from_secs(5);
/// After the last fault has healed, and two periods, everything works again within this time.
const HEALED: Duration = Duration::from_secs(120);
/// Each client has the last page within this time.
const LAST_PAGE: Duration = Duration::from_secs(300);
/// Jobs that a client may be told at once.
const JOBS: usize = 4;
/// The number of the first server, as a node of the run.
const FIRST_SERVER: u32 = 1 << 24;

/// A moment of the run.
enum Step {
    Start(u32),
    Begin(usize),
    End(usize),
}

/// Runs the plan to its end, or to the first thing that must not be.
///
/// # Errors
/// What is wrong with the plan's network.
pub(crate) async fn run(plan: Plan, sight: Sight) -> Result<(), String> {
    let network = network(&plan);
    let watch = sight.clone();
    network.watch(Box::new(move |event| watch.event(event)));
    for node in &plan.nodes {
        network.set_line(node.address, node.line);
    }
    for (number, (_, address)) in (FIRST_SERVER..).zip(&plan.servers) {
        let (world, address, sight) = (network.world(*address), *address, sight.clone());
        let life = NodeLife {
            node: number,
            incarnation: 0,
        };
        Simulation::in_node(life, || tokio::spawn(user::serve(world, address, sight)));
    }
    let site = Arc::new(Site {
        network: node::found(&plan)?,
        plan,
        sight,
    });
    let host = |node: &NodePlan| Host {
        plan: node.clone(),
        lives: 0,
        life: None,
        holds: 0,
        start_at: None,
        past: Vec::new(),
        beside: None,
    };
    let hosts = site
        .plan
        .nodes
        .iter()
        .map(|node| (node.number, host(node)))
        .collect();
    let mut director = Director {
        site,
        network,
        hosts,
        effects: BTreeMap::new(),
        partitions: BTreeMap::new(),
        is_calm: false,
        is_ending: false,
    };
    Box::pin(director.direct()).await;
    Ok(())
}

/// How long something takes from one host of a plan to another.
#[derive(Clone)]
pub(crate) struct Ways {
    /// Where hosts are, their last miles, and whether each is a server.
    places: BTreeMap<IpAddr, (cities::City, Duration, bool)>,
    fixed: Option<FixedWays>,
}

impl Ways {
    /// The ways of a plan.
    pub(crate) fn of(plan: &Plan) -> Self {
        let nodes = plan.nodes.iter();
        let nodes = nodes.map(|node| (node.address, (node.city, node.last_mile, false)));
        let servers = plan.servers.iter().zip(cities::CITIES);
        // Servers are well connected.
        let mile = Duration::from_millis(1);
        let servers = servers.map(|((_, address), city)| (*address, (city, mile, true)));
        Self {
            places: nodes.chain(servers).collect(),
            fixed: plan.ways,
        }
    }

    /// The time from one host to another.
    pub(crate) fn delay(&self, from: IpAddr, to: IpAddr) -> Duration {
        if self.fixed.is_some() && from == to {
            return Duration::ZERO;
        }
        let (Some(from), Some(to)) = (self.places.get(&from), self.places.get(&to)) else {
            // An address where nobody is.
            return Duration::from_millis(50);
        };
        match self.fixed {
            Some(fixed) if from.2 || to.2 => fixed.servers,
            Some(fixed) => fixed.nodes,
            None => cities::delay(&from.0, &to.0) + from.1 + to.1,
        }
    }
}

/// The network that carries the plan's bytes.
fn network(plan: &Plan) -> MemoryNetwork {
    let ways = Ways::of(plan);
    let delays = move |from: IpAddr, to: IpAddr| ways.delay(from, to);
    let names = plan.servers.iter().cloned().collect();
    MemoryNetwork::with_delays(BEGAN_UNIX_MS, plan.seed.0, Arc::new(delays), names)
}

impl Director {
    pub(super) fn sight(&self) -> &Sight {
        &self.site.sight
    }

    /// The steps of the run in their order.
    fn steps(&self) -> Vec<(Duration, Step)> {
        let plan = &self.site.plan;
        let starts = plan
            .nodes
            .iter()
            .map(|node| (node.starts, Step::Start(node.number)));
        let begins = plan
            .faults
            .iter()
            .enumerate()
            .map(|(place, fault)| (fault.begins, Step::Begin(place)));
        let ends = plan
            .faults
            .iter()
            .enumerate()
            .filter_map(|(place, fault)| Some((fault.ends?, Step::End(place))));
        let mut steps: Vec<_> = starts.chain(begins).chain(ends).collect();
        // Stable: what begins and ends at one moment does so in this order.
        steps.sort_by_key(|(at, _)| *at);
        steps
    }

    async fn direct(&mut self) {
        let began = Instant::now();
        for (at, step) in self.steps() {
            if !self.look_until(began + at).await {
                return;
            }
            match step {
                Step::Start(node) => self.want(node),
                Step::Begin(fault) => self.begin(fault),
                Step::End(fault) => self.end(fault),
            }
        }
        if !self.look_until(began + self.site.plan.lasts).await {
            return;
        }
        self.settle().await;
        if !self.sight().is_bad() {
            self.finish().await;
        }
    }

    /// Waits until `at`, and looks meanwhile at what must hold. Gives false as soon as something does not.
    async fn look_until(&mut self, at: Instant) -> bool {
        loop {
            let next = (Instant::now() + LOOK).min(at);
            sleep_until(next).await;
            self.look();
            if self.sight().is_bad() {
                return false;
            }
            if next == at {
                return true;
            }
        }
    }

    /// A node is wanted from now on.
    fn want(&mut self, number: u32) {
        let now = self.sight().now();
        let Some(host) = self.hosts.get_mut(&number) else {
            return;
        };
        host.start_at = Some(now);
        if host.holds == 0 && host.life.is_none() {
            self.start(number);
        }
    }

    pub(super) fn start(&mut self, number: u32) {
        let Some(host) = self.hosts.get_mut(&number) else {
            return;
        };
        let life = NodeLife {
            node: number,
            incarnation: host.lives,
        };
        host.lives += 1;
        let world = self.network.world(host.plan.address);
        let (stop, stopped) = oneshot::channel();
        let (jobs, told) = mpsc::channel(JOBS);
        let orders = Orders {
            stop: stopped,
            jobs: told,
        };
        tracing::debug!(target: "cepa_sim", name = host.plan.name, "starts");
        let (site, plan) = (self.site.clone(), host.plan.clone());
        let task = Simulation::in_node(life, || {
            tokio::spawn(async move {
                let lived = Box::pin(node::live(site, plan, world, orders)).await;
                if let Err(error) = &lived {
                    tracing::warn!(target: "cepa_sim", "did not start: {error}");
                }
                lived
            })
        });
        host.life = Some(Life {
            life,
            task,
            stop: Some(stop),
            jobs,
        });
        // What was beside an earlier life went with it.
        if self.effects.contains_key(&(number, Effect::Hostile)) {
            self.apply(number, Effect::Hostile);
        }
    }

    /// After the last fault everything works again.
    async fn settle(&mut self) {
        let plan = &self.site.plan;
        let (period, seed) = (plan.vote_interval(), plan.seed);
        let servers = u32::try_from(plan.servers.len()).unwrap_or(1);
        if !self.look_until(Instant::now() + period * 2 + HEALED).await {
            return;
        }
        self.is_calm = true;
        let excused = self.excused();
        let now = self.sight().now();
        let clients = self
            .hosts
            .values()
            .filter(|host| host.plan.role == Role::Client);
        let clients: Vec<(u32, Option<mpsc::Sender<_>>)> = clients
            .map(|host| {
                (
                    host.plan.number,
                    host.life.as_ref().map(|life| life.jobs.clone()),
                )
            })
            .collect();
        let mut waiting = BTreeSet::new();
        for (number, jobs) in clients {
            let mut dice = seed.dice("last page", &[u64::from(number)]);
            let last = job(JobKind::Last, now, servers, &mut dice);
            let told = jobs.is_some_and(|jobs| jobs.try_send(last).is_ok());
            if !told && !excused.contains(&number) {
                let what = "a client does not run long after the last fault".to_owned();
                self.sight()
                    .violation(Invariant::Liveness, vec![number], what);
            }
            waiting.insert(number);
        }
        let until = Instant::now() + LAST_PAGE;
        while !waiting.is_empty() && Instant::now() < until {
            if !self.look_until(Instant::now() + LOOK).await {
                return;
            }
            let seen = self.sight().seen();
            for end in seen
                .jobs
                .iter()
                .filter(|end| end.kind == JobKind::Last && end.is_done)
            {
                waiting.remove(&end.node);
            }
        }
        for number in waiting.difference(&excused).copied() {
            let what = "a client does not get a page long after the last fault".to_owned();
            self.sight()
                .violation(Invariant::Liveness, vec![number], what);
        }
        let listed = self.sight().seen().listed.clone();
        for host in self.hosts.values() {
            let is_relay = host.plan.role != Role::Client && !excused.contains(&host.plan.number);
            if is_relay && listed.get(&host.plan.name) != Some(&true) {
                let what = format!(
                    "{} is not listed as running long after the last fault",
                    host.plan.name
                );
                self.sight()
                    .violation(Invariant::Liveness, vec![host.plan.number], what);
            }
        }
    }

    /// The nodes that a fault holds for good. Of them nothing is expected.
    pub(super) fn excused(&self) -> BTreeSet<u32> {
        let faults = self.site.plan.faults.iter();
        let lasting = faults.filter(|fault| fault.ends.is_none());
        lasting.filter_map(|fault| fault.act.node()).collect()
    }

    /// Stops every node in good order, and looks that nothing is left.
    async fn finish(&mut self) {
        self.is_ending = true;
        for host in self.hosts.values_mut() {
            if let Some(beside) = host.beside.take() {
                beside.abort();
            }
        }
        for clients_first in [true, false] {
            let stops = |host: &&Host| (host.plan.role == Role::Client) == clients_first;
            let numbers: Vec<u32> = self
                .hosts
                .values()
                .filter(stops)
                .map(|host| host.plan.number)
                .collect();
            for number in numbers {
                self.stop(number);
            }
            sleep(Duration::from_secs(5)).await;
        }
        let now = Instant::now();
        self.look_until(now + GONE + STOPPED).await;
    }
}
