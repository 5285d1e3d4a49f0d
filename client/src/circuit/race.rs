//! Builds a circuit in time: a second attempt begins beside a slow one, and the first to be done is taken.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cepa_common::dir::Entry;
use cepa_common::ids::RelayId;
use cepa_common::world::{random, steady};
use rand::RngExt;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, mpsc};

use super::build::BuildError;
use super::built::Circuit;
use super::choose::{First, Wanted};
use super::growth::Multipath;
use super::health::Blame;
use super::legs::Growing;
use super::maker::{CircuitError, Maker, Raised};
use crate::guard::Purpose;
use crate::path::Path;

/// The most attempts side by side for one circuit.
pub(super) const SIDE_BY_SIDE: usize = 3;
/// The most attempts for one circuit in all.
pub(super) const ATTEMPTS: u32 = 12;
/// The most relays that the attempts for one circuit leave out because attempts before have failed there. With so few,
/// a guard that fails circuits cannot steer where the next one goes.
pub(super) const MOST_LEFT_OUT: usize = 3;
/// The pause after the first failure. The pause doubles with each further failure. A relay that has just started, or a
/// network that has just come back, can be reached a moment later.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(25);
/// A relay that has no room for a circuit is asked again after the pause that so many failures make (0.4 to 0.8 s), or
/// a longer one.
const BUSY_FAILURES: u32 = 6;
/// The longest pause between attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How long to wait after this many failures in a row, with jitter (S22).
fn pause_after(failures: u32) -> Duration {
    let longest = FIRST_PAUSE
        .saturating_mul(1 << failures.saturating_sub(1).min(16))
        .min(LONGEST_PAUSE);
    longest.mul_f64(random::rng().random_range(0.5..=1.0))
}

/// What came of an attempt: a circuit, or an error and the relay that it points at.
type Outcome = Result<Arc<Circuit>, (BuildError, Option<Blame>)>;

impl Maker {
    /// Builds a new circuit to `target` that is in no pool: only the caller's streams are on it.
    pub(crate) async fn build(
        self: &Arc<Self>,
        purpose: Purpose,
        wanted: impl Into<Wanted>,
        avoid: &(dyn Fn(&RelayId) -> bool + Sync),
    ) -> Result<Arc<Circuit>, CircuitError> {
        let wanted = wanted.into();
        // There is room for every attempt's outcome, so that none waits to be heard.
        let (outcomes, mut done) = mpsc::channel::<Outcome>(ATTEMPTS as usize);
        let (mut begun, mut running, mut failures) = (0, 0, 0);
        let mut last = CircuitError::NoConsensus;
        let (mut entries, mut left_out) = (Vec::<RelayId>::new(), Vec::<RelayId>::new());
        let mut next_at = steady::now();
        loop {
            if self.stock.shelf().is_closed() {
                return Err(CircuitError::Stopping);
            }
            let may_begin = begun < ATTEMPTS && running < SIDE_BY_SIDE;
            if running == 0 && !may_begin {
                return Err(last);
            }
            tokio::select! {
                Some(outcome) = done.recv(), if running > 0 => {
                    running -= 1;
                    match outcome {
                        Ok(circuit) => return Ok(circuit),
                        Err((error, blame)) => {
                            let news = blame.map(|blame| blame.relay);
                            let news = news.filter(|relay| !left_out.contains(relay));
                            left_out.extend(news.filter(|_| left_out.len() < MOST_LEFT_OUT));
                            tracing::debug!(%error, "a circuit was not built; trying another path");
                            failures += 1;
                            let long = if error.is_busy() { BUSY_FAILURES } else { 0 };
                            next_at = steady::now() + pause_after(failures.max(long));
                            last = error.into();
                        }
                    }
                }
                permit = self.permit_at(next_at), if may_begin => {
                    let permit = permit.map_err(|_| CircuitError::Stopping)?;
                    let careful = |relay: &RelayId| avoid(relay) || left_out.contains(relay);
                    let beside = running > 0;
                    let path = self
                        .next_path(purpose, wanted, &careful, &entries, beside)
                        .or_else(|_| self.next_path(purpose, wanted, avoid, &entries, beside));
                    let hops: Vec<Entry> = match path {
                        Ok(path) => path.hops().cloned().collect(),
                        Err(error) if running == 0 => return Err(error),
                        Err(_) => Vec::new(),
                    };
                    next_at = steady::now() + self.slow_after();
                    let Some(first) = hops.first() else { continue };
                    entries.push(first.identity);
                    (begun, running) = (begun + 1, running + 1);
                    let (maker, outcomes) = (Arc::clone(self), outcomes.clone());
                    self.tasks.spawn(async move { maker.attempt(hops, wanted.rule, permit, outcomes).await });
                }
            }
        }
    }

    /// The path of the next attempt of a race whose attempts have begun at `entries`. `beside`: some of them still run.
    ///
    /// All attempts begin at one guard for as long as that guard has not failed by the guards' own rules. Otherwise
    /// whoever can slow a link would choose when data goes by another guard (7.14).
    fn next_path(
        &self,
        purpose: Purpose,
        wanted: Wanted,
        avoid: &(dyn Fn(&RelayId) -> bool + Sync),
        entries: &[RelayId],
        beside: bool,
    ) -> Result<Path, CircuitError> {
        let any = || self.choose_from(First::Any, purpose, wanted, avoid);
        if self.rules().hops == 1 {
            // The only hop is no guard. Beside one that hangs, another is chosen.
            let hangs = |relay: &RelayId| beside && entries.contains(relay);
            let other = self.choose_from(First::Not(&hangs), purpose, wanted, avoid);
            return other.or_else(|_| any());
        }
        let has_failed = |guard: &&RelayId| self.guards().answers(guard) == Some(false);
        let Some(guard) = entries.last().filter(|guard| !has_failed(guard)) else {
            return any();
        };
        let same = self.choose_from(First::Only(guard), purpose, wanted, avoid);
        same.or_else(|error| if beside { Err(error) } else { any() })
    }

    /// A permit to build, at this time, or later when one is free. While all permits are taken, the caller hears of
    /// attempts that end.
    async fn permit_at(&self, when: Instant) -> Result<OwnedSemaphorePermit, AcquireError> {
        tokio::time::sleep_until(when.into()).await;
        self.builds.clone().acquire_owned().await
    }

    /// Builds a circuit along `hops`, learns from the result, and gives the circuit to whoever waits, or else to the
    /// pool.
    async fn attempt(
        self: Arc<Self>,
        hops: Vec<Entry>,
        rule: Option<usize>,
        permit: OwnedSemaphorePermit,
        outcomes: mpsc::Sender<Outcome>,
    ) {
        let began = steady::now();
        let built = self.build_at_guard(&hops, rule).await;
        drop(permit);
        let built = built.and_then(|circuit| circuit.ok_or(BuildError::BetterGuard));
        let outcome = built.map_err(|error| {
            let blame = error.blame(&hops);
            (error, blame)
        });
        {
            let (mut memory, now) = (self.memory(), steady::now());
            match &outcome {
                Ok(circuit) => {
                    memory.times.on_built(steady::since(began));
                    memory.health.on_built(circuit.hops(), now);
                }
                Err((error, blame)) => {
                    if matches!(error, BuildError::TimedOut { .. }) {
                        memory.times.on_given_up(steady::since(began));
                    }
                    if let Some(blame) = blame {
                        memory.health.on_failed(*blame, now);
                    }
                }
            }
        }
        if let Err(mpsc::error::TrySendError::Closed(Ok(late))) = outcomes.try_send(outcome) {
            // Another attempt was done first. This circuit is clean, and somebody will want it.
            self.stock.shelf().hold(late, None);
        }
    }

    /// Builds a circuit whose first hop is a guard, and gives the circuit its task. `None` when better guards have
    /// turned out to be worth a try, so that the circuit is not wanted.
    async fn build_at_guard(
        self: &Arc<Self>,
        hops: &[Entry],
        rule: Option<usize>,
    ) -> Result<Option<Arc<Circuit>>, BuildError> {
        let raised = self.raise_at_guard(hops, self.lost_after()).await?;
        let finish = |raised: Raised| {
            // A second leg has a guard of its own, so an owner who wants only one guard gets no second leg.
            let may_grow = raised.hops.len() > 1
                && self.multipath() != Multipath::Never
                && self.rules().guards != Some(1);
            let growing = match may_grow {
                true => Growing::Allowed { rule },
                false => Growing::Never,
            };
            self.finish(raised, growing)
        };
        raised.map(finish).transpose()
    }
}
