//! One run from a seed, and what it came to.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Once};
use std::thread;
use std::time::Duration;

use cepa_common::world::Simulation;
use cepa_common::world::memory::Event;
use tracing::Level;

use crate::log::{Line, Log};
use crate::plan::Plan;
use crate::run;
use crate::scenario::Hostility;
use crate::seed::Seed;
use crate::sight::{Compare, Invariant, JobEnd, Measured, Sight, Violation};

/// Lines of the story of a failure.
const STORY: usize = 40;
/// Of these, events of the network.
const NET: usize = 15;

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The seed.
    pub seed: Seed,
    /// Virtual time from the beginning to the end.
    pub lasted: Duration,
    /// Number of events of the network.
    pub events: u64,
    /// Running hash of all events (time, host, peer, kind, length).
    pub hash: u64,
    /// What must not be, in its order: a run ends soon after the first.
    pub violations: Vec<Violation>,
    /// The last lines of the nodes that the first violation concerns.
    pub story: Vec<String>,
    /// All jobs that ended.
    pub jobs: Vec<JobEnd>,
    /// Number of faults.
    pub faults: usize,
    /// Number of consensuses that clients have used.
    pub consensuses: usize,
    /// Number of guards that each client has had, by the client's number.
    pub guards: Vec<(u32, usize)>,
    /// What hostile nodes have done, and how often: cells changed or kept back, and cells, connections and votes sent
    /// that no honest node sends.
    pub misdeeds: BTreeMap<Hostility, u64>,
    /// What models are compared with, if that was asked for.
    pub measured: Option<Measured>,
}

impl Outcome {
    /// The first thing that must not be.
    pub fn failure(&self) -> Option<&Violation> {
        self.violations.first()
    }
}

/// How a run is watched.
#[derive(Clone, Copy, Debug, Default)]
pub struct Watch {
    /// The least important lines that are kept for the story of a failure; none says debug.
    pub level: Option<Level>,
    /// Is called with each line.
    pub echo: Option<fn(&Line)>,
    /// Is what models are compared with kept?
    pub measures: bool,
}

/// What makes a run impossible, other than what nodes do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// The plan's network cannot be founded.
    #[error("the network of this scenario is wrong: {0}")]
    Network(String),
    /// The system gave no runtime.
    #[error("no runtime can be made: {0}")]
    Runtime(String),
}

thread_local! {
    /// The panics of this thread's run; `None` while nothing runs.
    static PANICS: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

static HOOK: Once = Once::new();

/// Lets panics within a run be counted, with their places, and not be printed.
fn catch_panics() {
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let of =
                Simulation::current().map_or(String::new(), |life| format!("node {}: ", life.node));
            let is_run = PANICS.with_borrow_mut(|panics| {
                panics
                    .as_mut()
                    .map(|panics| panics.push(format!("{of}{info}")))
                    .is_some()
            });
            if !is_run {
                before(info);
            }
        }));
    });
}

/// Runs a plan.
///
/// # Errors
/// [`RunError`] if there is no run. What goes wrong in the run is part of the outcome.
pub fn run_plan(simulation: &Simulation, plan: &Plan, watch: Watch) -> Result<Outcome, RunError> {
    observe(simulation, plan, watch, Compare::No).map(|(outcome, _)| outcome)
}

/// Runs a plan twice. The outcome is that of the second run, which ends when an event differs.
///
/// # Errors
/// [`RunError`] if there is no run.
pub fn run_twice(simulation: &Simulation, plan: &Plan, watch: Watch) -> Result<Outcome, RunError> {
    let (_, events) = observe(simulation, plan, watch, Compare::Keep(Vec::new()))?;
    observe(simulation, plan, watch, Compare::With(Arc::new(events))).map(|(outcome, _)| outcome)
}

/// Runs the plan on a thread of its own: buffers that a thread keeps for the next use are of whatever size a run before
/// has left, and how much is read or sent at once follows from their size.
#[expect(
    clippy::disallowed_methods,
    reason = "a thread of the simulator, which is waited for: it has one run, and no node"
)]
fn observe(
    simulation: &Simulation,
    plan: &Plan,
    watch: Watch,
    compare: Compare,
) -> Result<(Outcome, Vec<Event>), RunError> {
    catch_panics();
    let run = || observe_here(simulation, plan, watch, compare);
    let ended = thread::scope(|scope| scope.spawn(run).join());
    ended.unwrap_or_else(|_| Err(RunError::Runtime("the run's thread panicked".to_owned())))
}

fn observe_here(
    simulation: &Simulation,
    plan: &Plan,
    watch: Watch,
    compare: Compare,
) -> Result<(Outcome, Vec<Event>), RunError> {
    // What a program asks for is seen by nobody but the exit; the hosts' names and addresses stand for that.
    let secrets = plan
        .servers
        .iter()
        .flat_map(|(name, address)| [name.clone(), address.to_string()]);
    let secrets = secrets.collect();
    let log = Log::new(watch.level.unwrap_or(Level::DEBUG), watch.echo, secrets);
    let kept: Arc<std::sync::Mutex<Option<Sight>>> = Arc::default();
    PANICS.set(Some(Vec::new()));
    let ran = panic::catch_unwind(AssertUnwindSafe(|| {
        tracing::subscriber::with_default(log.clone(), || {
            let (plan, log, kept) = (plan.clone(), log.clone(), kept.clone());
            simulation.run(plan.seed.0, async move {
                let sight = Sight::new(log, compare, watch.measures);
                *cepa_common::sync::lock(&kept) = Some(sight.clone());
                let ran = Box::pin(run::run(plan, sight.clone())).await;
                sight.end();
                ran
            })
        })
    }));
    let panics = PANICS.take().unwrap_or_default();
    match ran {
        Ok(Ok(Ok(()))) | Err(_) => {}
        Ok(Ok(Err(problem))) => return Err(RunError::Network(problem)),
        Ok(Err(error)) => return Err(RunError::Runtime(error.to_string())),
    }
    let sight = cepa_common::sync::lock(&kept).take();
    let Some(sight) = sight else {
        return Err(RunError::Runtime(panics.join("; ")));
    };
    Ok(outcome(plan, &sight, panics))
}

fn outcome(plan: &Plan, sight: &Sight, panics: Vec<String>) -> (Outcome, Vec<Event>) {
    let seen = std::mem::take(&mut *sight.seen());
    let last = seen.last.back().map(|event| event.at).unwrap_or_default();
    let lasted = seen.lasted.unwrap_or(last);
    let mut violations: Vec<Violation> = panics
        .into_iter()
        .map(|what| Violation {
            at: lasted,
            invariant: match what.contains("the run stands still") {
                true => Invariant::Progress,
                false => Invariant::Panics,
            },
            what,
            nodes: Vec::new(),
        })
        .collect();
    violations.extend(seen.violations);
    let story = violations.first().map(|first| {
        let concerned = |node: u32| first.nodes.is_empty() || first.nodes.contains(&node);
        let name = |node: Option<u32>| {
            let found = node.and_then(|node| plan.node(node));
            found.map_or("-".to_owned(), |node| node.name.clone())
        };
        let lines = sight
            .log
            .last(STORY - NET, first.at, concerned)
            .into_iter()
            .map(|line| {
                let text = format!("{:<5} {:<12} {}", line.level, name(line.node), line.text);
                (line.at, text)
            });
        let host = |address| plan.nodes.iter().find(|node| node.address == address);
        let concerns = |event: &&Event| {
            event.at <= first.at && host(event.host).is_some_and(|node| concerned(node.number))
        };
        let mut events: Vec<(Duration, String)> = seen
            .last
            .iter()
            .rev()
            .filter(concerns)
            .take(NET)
            .map(|event| {
                let node = host(event.host).map_or("-", |node| node.name.as_str());
                let to =
                    host(event.peer.ip()).map_or(event.peer.to_string(), |node| node.name.clone());
                (
                    event.at,
                    format!(
                        "NET   {node:<12} {:?} {to} {} bytes",
                        event.kind, event.bytes
                    ),
                )
            })
            .collect();
        events.reverse();
        let mut all: Vec<(Duration, String)> = lines.chain(events).collect();
        all.sort_by_key(|(at, _)| *at);
        all.into_iter()
            .map(|(at, text)| format!("{:>12.6} {text}", at.as_secs_f64()))
            .collect()
    });
    let events = match seen.compare {
        Compare::Keep(events) => events,
        Compare::No | Compare::With(_) => Vec::new(),
    };
    let outcome = Outcome {
        seed: plan.seed,
        lasted,
        events: seen.events,
        hash: seen.hash,
        violations,
        story: story.unwrap_or_default(),
        jobs: seen.jobs,
        faults: plan.faults.len(),
        consensuses: seen.consensuses.len(),
        misdeeds: seen.misdeeds,
        measured: seen.measured,
        guards: seen
            .guards
            .iter()
            .map(|(node, guards)| (*node, guards.len()))
            .collect(),
    };
    (outcome, events)
}
