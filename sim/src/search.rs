//! Many seeds, on as many threads as are allowed, until one fails.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use cepa_common::sync::lock;
use cepa_common::world::{Simulation, steady};

use crate::outcome::{Outcome, RunError, Watch, run_plan, run_twice};
use crate::plan::Plan;
use crate::scenario::{BadScenario, Scenario};
use crate::seed::Seed;

/// Which seeds to run.
#[derive(Clone, Copy, Debug)]
pub struct Seeds {
    /// The first seed; the others follow it.
    pub first: Seed,
    /// Number of seeds.
    pub count: u64,
    /// Number of threads.
    pub jobs: usize,
    /// No seed is begun after this (real) time.
    pub limit: Option<Duration>,
    /// Is each seed run twice and compared?
    pub twice: bool,
}

/// What a search found.
#[derive(Debug)]
pub struct Found {
    /// Number of seeds that ran to their end.
    pub ran: u64,
    /// Virtual time of all runs together.
    pub lasted: Duration,
    /// Number of events of all runs together.
    pub events: u64,
    /// The failure with the lowest seed among those that were found.
    pub failed: Option<Outcome>,
}

/// Why there is no search.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SearchError {
    /// The scenario names what is not there.
    #[error(transparent)]
    Scenario(#[from] BadScenario),
    /// A run could not be made.
    #[error(transparent)]
    Run(#[from] RunError),
}

/// Runs the seeds until one fails. `each` hears of every run that has ended.
///
/// # Errors
/// [`SearchError`].
#[expect(
    clippy::disallowed_methods,
    reason = "threads of the simulator: each has runs of its own, and no node"
)]
pub fn search(
    simulation: &Simulation,
    scenario: &Scenario,
    seeds: Seeds,
    watch: Watch,
    each: &(dyn Fn(&Outcome) + Sync),
) -> Result<Found, SearchError> {
    let began = steady::now();
    let next = AtomicU64::new(0);
    let found = Mutex::new(Ok(Found {
        ran: 0,
        lasted: Duration::ZERO,
        events: 0,
        failed: None,
    }));
    let work = || {
        loop {
            let is_over = seeds.limit.is_some_and(|limit| began.elapsed() >= limit);
            let ended = lock(&found)
                .as_ref()
                .map_or(true, |found| found.failed.is_some());
            let number = next.fetch_add(1, Ordering::Relaxed);
            if is_over || ended || number >= seeds.count {
                return;
            }
            let seed = Seed(seeds.first.0.wrapping_add(number));
            let outcome = one(simulation, scenario, seed, seeds.twice, watch);
            if let Ok(outcome) = &outcome {
                each(outcome);
            }
            let mut found = lock(&found);
            match (outcome, found.as_mut()) {
                (Ok(outcome), Ok(found)) => found.take(outcome),
                (Err(error), Ok(_)) => *found = Err(error),
                (_, Err(_)) => {}
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..seeds.jobs.max(1) {
            scope.spawn(work);
        }
    });
    found
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Runs one seed of a scenario.
///
/// # Errors
/// [`SearchError`].
pub fn one(
    simulation: &Simulation,
    scenario: &Scenario,
    seed: Seed,
    twice: bool,
    watch: Watch,
) -> Result<Outcome, SearchError> {
    let plan = Plan::draw(scenario, seed)?;
    Ok(match twice {
        true => run_twice(simulation, &plan, watch)?,
        false => run_plan(simulation, &plan, watch)?,
    })
}

impl Found {
    fn take(&mut self, outcome: Outcome) {
        self.ran += 1;
        self.lasted += outcome.lasted;
        self.events += outcome.events;
        let is_lower = self
            .failed
            .as_ref()
            .is_none_or(|failed| outcome.seed < failed.seed);
        if outcome.failure().is_some() && is_lower {
            self.failed = Some(outcome);
        }
    }
}
