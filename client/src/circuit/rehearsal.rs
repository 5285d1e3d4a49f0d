//! A client on paper: the choices of a client without its cells.
//!
//! A [`Rehearsal`] has the shelf, the predictor, the guards and the schedules of a client, and chooses paths as a
//! client does. It opens no link, sends no cell and reads no clock: a [`Stage`] says which relays answer, and the time
//! comes in. So a hundred thousand clients live for months in minutes, and what their choices do to a network can be
//! counted (`cepa simulate --choices`).
//!
//! Absent on purpose: second legs, blame of single relays, circuits that are given up, and sleep.

use core::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cepa_common::dir::{Consensus, Entry, NetworkFile};
use cepa_common::ids::RelayId;
use cepa_common::net::directory::random_below;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::choose::{Choosing, First, Wanted};
use super::isolation::Isolation;
use super::predict::Predictor;
use super::race::{ATTEMPTS, FIRST_PAUSE, MOST_LEFT_OUT, SIDE_BY_SIDE};
use super::refill::{Refill, Refilling};
use super::shelf::{Counts, ExitFit, Owner, Shelf, Shelved};
use super::timeout::BuildTimes;
use super::upkeep::{UPKEEP, missing};
use crate::dir::{SOURCES, pause_of, until_next};
use crate::guard::{GuardSet, Now, Purpose, Verdict};
use crate::path::{DEFAULT_HOPS, ExitTarget, Path, PathSelector};

/// A client that found no newer consensus asks again after this time: the longest wait of a client that has one.
const ASKS_AGAIN: Duration = Duration::from_secs(600);

/// What became of a circuit that was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begun {
    /// The circuit is built.
    Built {
        /// The stage's number of the circuit.
        circuit: u64,
        /// When a relay of the circuit goes away, if one does.
        lost: Option<Instant>,
        /// How long the circuit takes to be built, if the stage knows better than the setting.
        takes: Option<Duration>,
    },
    /// The relay at this place of the path, counted from 0, does not answer.
    Silent(usize),
}

/// A consensus that a client has fetched.
#[derive(Clone, Copy, Debug)]
pub struct Fetched<'a> {
    /// When the answer came.
    pub at: Instant,
    /// The way to the relay that answered; `None` for an authority that was dialled.
    pub path: Option<&'a Path>,
    /// What the client held before; `None` if it held nothing.
    pub held: Option<&'a Arc<Consensus>>,
}

/// What a client on paper meets: relays that answer, and their consensuses.
pub trait Stage {
    /// A circuit along `path` is begun.
    fn begin(&mut self, at: Instant, purpose: Purpose, path: &Path) -> Begun;

    /// A circuit that was built has ended.
    fn end(&mut self, at: Instant, circuit: u64);

    /// The newest consensus that relays have, ready for choices; `None` if they have none.
    fn newest(&mut self, at: Instant) -> Option<Arc<PathSelector>>;

    /// A client has asked for the newest consensus, and has the answer.
    fn fetched(&mut self, fetched: Fetched<'_>);
}

/// What a client on paper needs to know.
#[derive(Clone, Debug)]
pub struct Setting {
    /// When the rehearsal begins.
    pub began: Instant,
    /// The same moment (milliseconds since 1970).
    pub began_unix_ms: u64,
    /// How long a circuit takes to be built.
    pub build: Duration,
    /// How long a fetch from the directory takes once its circuit is built.
    pub fetch: Duration,
}

/// A stream that was opened.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The way of its circuit.
    pub path: Path,
    /// When the circuit was ready: now, or later if one had to be built.
    pub at: Instant,
}

/// A circuit on paper.
struct Paper {
    path: Path,
    number: u64,
    built: Instant,
    generation: u64,
    lost_at: Option<Instant>,
    /// From when the circuit's age counts, as the shelf counts it.
    since: Cell<Instant>,
    /// When the last of its streams ends.
    in_use_until: Cell<Instant>,
    open: Cell<usize>,
    /// Is the circuit in no list yet?
    is_new: Cell<bool>,
    is_lost: Cell<bool>,
    is_closed: Cell<bool>,
}

impl Paper {
    fn exit(&self) -> Option<&Entry> {
        self.path.hops().next_back()
    }

    fn guard(&self) -> Option<&Entry> {
        self.path.hops().next()
    }
}

impl Shelved for Paper {
    fn built(&self) -> Instant {
        self.built
    }

    fn generation(&self) -> u64 {
        self.generation
    }

    fn open_streams(&self) -> usize {
        self.open.get()
    }

    fn has_room(&self) -> bool {
        true
    }

    fn legs(&self) -> usize {
        1
    }

    fn is_lost(&self) -> bool {
        self.is_lost.get()
    }

    fn passes(&self, relays: &[RelayId]) -> bool {
        self.path.hops().any(|hop| relays.contains(&hop.identity))
    }

    fn doubt(&self) {}

    fn close(&self) {
        self.is_closed.set(true);
    }
}

/// One client on paper.
pub struct Rehearsal {
    setting: Arc<Setting>,
    rng: StdRng,
    /// The guards' own dice, as guards are asked while a path is drawn.
    dice: RefCell<StdRng>,
    guards: GuardSet,
    selector: Arc<PathSelector>,
    /// The consensus that the guards know.
    known: Option<Arc<Consensus>>,
    predictor: Predictor,
    shelf: Shelf<Paper>,
    refill: Refill,
    /// All circuits that have not ended.
    circuits: Vec<Arc<Paper>>,
    /// The ends of open streams.
    streams: Vec<(Instant, Arc<Paper>)>,
    /// The circuit that is being built ahead of need, and when it is built.
    coming: Option<(Instant, Arc<Paper>)>,
    /// Circuits of attempts that others were done before: each is clean when it is built.
    late: Vec<Arc<Paper>>,
    times: BuildTimes,
    look_at: Instant,
    fetch_at: Instant,
    pause: Duration,
}

impl Rehearsal {
    /// A client that begins now: it fetches its first consensus, that of `selector`, from authorities that it dials.
    pub fn new(
        network: &NetworkFile,
        selector: Arc<PathSelector>,
        setting: Arc<Setting>,
        seed: [u8; 32],
        now: Instant,
        stage: &mut impl Stage,
    ) -> Self {
        let mut rng = StdRng::from_seed(seed);
        let dice = StdRng::from_seed(rng.random());
        for _ in 0..SOURCES.min(network.authorities().len() + network.fallbacks().len()) {
            stage.fetched(Fetched {
                at: now,
                path: None,
                held: None,
            });
        }
        let mut rehearsal = Self {
            rng,
            dice: RefCell::new(dice),
            guards: GuardSet::new(network.network_id()),
            selector,
            known: None,
            predictor: Predictor::new(now),
            shelf: Shelf::new(),
            refill: Refill::default(),
            circuits: Vec::new(),
            streams: Vec::new(),
            coming: None,
            late: Vec::new(),
            times: BuildTimes::new(),
            look_at: now,
            fetch_at: now,
            pause: pause_of(network),
            setting,
        };
        rehearsal.plan_fetch(now);
        rehearsal
    }

    /// When the client does something by itself next.
    pub fn due(&self) -> Instant {
        let lost = self.circuits.iter().filter_map(|circuit| circuit.lost_at);
        let coming = self.coming.as_ref().map(|(at, _)| *at);
        let look = coming.unwrap_or(self.look_at);
        let late = self.late.iter().map(|late| late.built);
        lost.chain(late).fold(look.min(self.fetch_at), Instant::min)
    }

    /// Does what is due by `now`.
    pub fn wake(&mut self, now: Instant, stage: &mut impl Stage) {
        if self.settle(now, stage) && self.coming.is_none() {
            self.look_at = now;
        }
        for late in self.late.extract_if(.., |late| late.built <= now) {
            self.shelf.hold(late, None);
        }
        if let Some((_, circuit)) = self.coming.take_if(|(at, _)| *at <= now) {
            self.shelf.hold(circuit, None);
            self.look_at = now;
        }
        if self.coming.is_none() && self.look_at <= now {
            self.look(now, stage);
        }
        if self.fetch_at <= now {
            self.fetch(now, stage);
        }
    }

    /// An application asks for a stream that is open for the time `lasts`. `None` if no circuit can be built for it.
    pub fn stream(
        &mut self,
        now: Instant,
        isolation: &Isolation,
        target: ExitTarget,
        lasts: Duration,
        stage: &mut impl Stage,
    ) -> Option<Opened> {
        self.settle(now, stage);
        self.predictor.on_asked(target, now);
        let (guards, selector) = (&self.guards, &self.selector);
        let fit = |circuit: &Paper| match circuit.exit() {
            Some(exit) if target.is_allowed_by(exit) && !is_outdone(guards, selector, circuit) => {
                ExitFit::AsGood
            }
            _ => ExitFit::Unfit,
        };
        let max_dirty = max_dirty(selector);
        let found = self.shelf.find(isolation, max_dirty, now, &fit);
        let (circuit, opens) = match found {
            Some(found) => {
                if found.was_clean {
                    found.circuit.since.set(now);
                    self.look_at = now;
                }
                // Whoever asks while another stream's circuit is being built waits for it.
                let at = now.max(found.circuit.built);
                (found.circuit, at)
            }
            None => {
                let circuit = self.build(now, Purpose::Data, target, stage)?;
                let owner = Owner {
                    isolation: isolation.clone(),
                    since: circuit.built,
                };
                self.shelf.hold(circuit.clone(), Some(owner));
                let built = circuit.built;
                (circuit, built)
            }
        };
        let ends = opens + lasts;
        circuit.open.set(circuit.open.get() + 1);
        circuit
            .in_use_until
            .set(circuit.in_use_until.get().max(ends));
        let path = circuit.path.clone();
        self.streams.push((ends, circuit));
        self.plan_look(now);
        Some(Opened { path, at: opens })
    }

    /// How many circuits and streams there are.
    pub fn counts(&self) -> Counts {
        self.shelf.counts()
    }

    /// The client ends, and with it all its circuits.
    pub fn stop(mut self, now: Instant, stage: &mut impl Stage) {
        self.shelf.close();
        for circuit in self.circuits.drain(..) {
            stage.end(now, circuit.number);
        }
    }

    fn now(&self, at: Instant) -> Now {
        let mono = at.saturating_duration_since(self.setting.began);
        Now {
            wall: self.setting.began_unix_ms / 1_000 + mono.as_secs(),
            mono,
        }
    }

    /// Ends streams and circuits whose time has come. Returns whether a circuit was lost.
    fn settle(&mut self, now: Instant, stage: &mut impl Stage) -> bool {
        self.streams.retain(|(ends, circuit)| {
            let is_over = *ends <= now;
            if is_over {
                circuit.open.set(circuit.open.get().saturating_sub(1));
            }
            !is_over
        });
        self.late
            .retain(|circuit| circuit.lost_at.is_none_or(|at| at > now));
        let mut lost = false;
        self.circuits.retain(|circuit| {
            let goes = circuit.lost_at.filter(|at| *at <= now);
            if let Some(at) = goes {
                circuit.is_lost.set(true);
                stage.end(at, circuit.number);
                lost = true;
            }
            goes.is_none()
        });
        lost
    }

    /// Tells the stage of circuits that the shelf has closed.
    fn sweep(&mut self, now: Instant, stage: &mut impl Stage) {
        self.circuits.retain(|circuit| {
            if circuit.is_closed.get() {
                stage.end(now, circuit.number);
            }
            !circuit.is_closed.get()
        });
    }

    /// Looks after the circuits, as the pool does.
    fn look(&mut self, now: Instant, stage: &mut impl Stage) {
        let (guards, selector) = (&self.guards, &self.selector);
        let outdone = |circuit: &Paper| is_outdone(guards, selector, circuit);
        self.shelf.retire(max_dirty(selector), now, &outdone);
        self.sweep(now, stage);
        let exits = self.shelf.clean().filter_map(|circuit| circuit.exit());
        let missing = missing(exits, &self.predictor, now);
        let left = missing.map(|(_, left)| left);
        let refilling = self.refill.next(now, left, &mut self.rng);
        let built = match (missing, refilling) {
            (Some((target, _)), Refilling::Build) => self.build(now, Purpose::Data, target, stage),
            _ => None,
        };
        if let Some(circuit) = built {
            self.coming = Some((circuit.built, circuit));
            return;
        }
        self.look_at = now + UPKEEP;
        match refilling {
            Refilling::Wait(due) => self.look_at = self.look_at.min(due),
            Refilling::Nothing => self.plan_look(now),
            Refilling::Build => {}
        }
    }

    /// Skips the looks at which there would be nothing to do: the client looks at whole multiples of [`UPKEEP`] from
    /// now, first at the one after a circuit has become too old and its streams have ended.
    fn plan_look(&mut self, now: Instant) {
        if self.coming.is_some() || self.look_at < now + UPKEEP {
            return;
        }
        let max_dirty = max_dirty(&self.selector);
        let over = |circuit: &Arc<Paper>| {
            (circuit.since.get() + max_dirty).max(circuit.in_use_until.get())
        };
        let first = self.circuits.iter().map(over).min();
        // A client without circuits looks again when somebody asks for one, or when there is a new consensus.
        let first = first.unwrap_or(self.fetch_at).max(now);
        let looks = first.saturating_duration_since(now).as_secs() / UPKEEP.as_secs() + 1;
        self.look_at = now + UPKEEP * u32::try_from(looks).unwrap_or(u32::MAX);
    }

    /// Builds a circuit, by several attempts if relays do not answer, and with another attempt beside one that is slow.
    /// The circuits of attempts that are done later are clean ones, as in a client.
    fn build(
        &mut self,
        now: Instant,
        purpose: Purpose,
        target: ExitTarget,
        stage: &mut impl Stage,
    ) -> Option<Arc<Paper>> {
        let mut left_out: Vec<RelayId> = Vec::new();
        let mut first: Option<Arc<Paper>> = None;
        let (mut at, mut running) = (now, 0);
        for _ in 0..ATTEMPTS {
            let Some(path) = self.path(at, purpose, target, &left_out) else {
                break;
            };
            let guard = path.hops().next()?.identity;
            let (time, dice) = (self.now(at), self.dice.get_mut());
            self.guards.on_attempt(&guard, time, dice);
            match stage.begin(at, purpose, &path) {
                Begun::Silent(0) => self.guards.on_failure(&guard, time, dice),
                Begun::Silent(place) => {
                    self.guards.on_created(&guard);
                    self.guards.on_abandoned(&guard);
                    let silent = path.hops().nth(place).map(|hop| hop.identity);
                    left_out.extend(silent.filter(|_| left_out.len() < MOST_LEFT_OUT));
                }
                Begun::Built {
                    circuit,
                    lost,
                    takes,
                } => {
                    self.guards.on_created(&guard);
                    if self.guards.on_success(&guard, time, dice) != Verdict::Use {
                        stage.end(at, circuit);
                        at += FIRST_PAUSE;
                        continue;
                    }
                    let takes = takes.unwrap_or(self.setting.build);
                    let slow_after = self.times.slow_after();
                    self.times.on_built(takes);
                    let paper = self.paper(path, circuit, at + takes, lost);
                    first = Some(match first {
                        None => paper,
                        Some(other) if other.built <= paper.built => {
                            self.late.push(paper);
                            other
                        }
                        Some(other) => {
                            self.late.push(other);
                            paper
                        }
                    });
                    running += 1;
                    let done = first.as_ref().map_or(at, |first| first.built);
                    if running >= SIDE_BY_SIDE || done <= at + slow_after {
                        break;
                    }
                    at += slow_after;
                    continue;
                }
            }
            at += FIRST_PAUSE;
        }
        let first = first?;
        self.circuits
            .extend(self.late.iter().filter(|late| late.is_new.take()).cloned());
        if purpose == Purpose::Data {
            self.circuits.push(first.clone());
        }
        Some(first)
    }

    fn paper(
        &self,
        path: Path,
        number: u64,
        built: Instant,
        lost_at: Option<Instant>,
    ) -> Arc<Paper> {
        #[expect(
            clippy::arc_with_non_send_sync,
            reason = "the shelf holds circuits by Arc, and a rehearsal stays in one thread"
        )]
        Arc::new(Paper {
            path,
            number,
            built,
            generation: self.shelf.generation(),
            lost_at,
            since: Cell::new(built),
            in_use_until: Cell::new(built),
            open: Cell::new(0),
            is_new: Cell::new(true),
            is_lost: Cell::new(false),
            is_closed: Cell::new(false),
        })
    }

    fn path(
        &mut self,
        at: Instant,
        purpose: Purpose,
        target: ExitTarget,
        left_out: &[RelayId],
    ) -> Option<Path> {
        let now = self.now(at);
        let consensus = self.selector.consensus();
        let is_known = |known: &Arc<Consensus>| Arc::ptr_eq(known, consensus);
        if !self.known.as_ref().is_some_and(is_known) {
            let (weights, dice) = (*self.selector.weights(), self.dice.get_mut());
            self.guards
                .update_weighted(consensus, weights, &|_| true, &|_| false, now, dice);
            self.known = Some(consensus.clone());
        }
        self.guards.observe(now);
        let (guards, dice) = (&self.guards, &self.dice);
        let choosing = Choosing {
            selector: &self.selector,
            hops: u8::try_from(DEFAULT_HOPS).unwrap_or(3),
            first: First::Any,
            wanted: Wanted::from(target),
            avoid: &|_| false,
            failed: &|relay| left_out.contains(relay),
            pick: &|fits| {
                let choice = guards.pick(purpose, fits, now, &mut *dice.borrow_mut());
                choice.map(|choice| choice.identity)
            },
        };
        choosing.path(&mut self.rng).ok()
    }

    /// Asks several caches for the newest consensus, each over a circuit of its own.
    fn fetch(&mut self, now: Instant, stage: &mut impl Stage) {
        let held = self.selector.consensus().clone();
        let mut begins = now;
        let mut done = now;
        for place in 0..SOURCES {
            if place > 0 {
                begins += random_below(&mut self.rng, self.pause);
            }
            let Some(circuit) = self.build(begins, Purpose::Directory, ExitTarget::Any, stage)
            else {
                continue;
            };
            let at = circuit.built + self.setting.fetch;
            done = done.max(at);
            stage.fetched(Fetched {
                at,
                path: Some(&circuit.path),
                held: Some(&held),
            });
            stage.end(at, circuit.number);
        }
        let newest = stage.newest(done);
        if let Some(newest) = newest.filter(|newest| !Arc::ptr_eq(newest.consensus(), &held)) {
            self.selector = newest;
            // The pool looks at its circuits when there is another consensus.
            if self.coming.is_none() {
                self.look_at = self.look_at.min(done);
            }
        }
        self.plan_fetch(done);
    }

    fn plan_fetch(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.setting.began);
        let now_ms = self.setting.began_unix_ms + u64::try_from(since.as_millis()).unwrap_or(0);
        let lifetime = self.selector.consensus().lifetime();
        let wait = until_next(lifetime, now_ms, &mut self.rng);
        self.fetch_at = now + wait.unwrap_or(ASKS_AGAIN);
    }
}

/// How long an owner's circuit takes new streams.
fn max_dirty(selector: &PathSelector) -> Duration {
    let params = selector.consensus().params();
    Duration::from_secs(u64::from(params.circuit_max_dirty_seconds))
}

/// Does the circuit begin at a guard that has failed, or in whose place a better one answers (6.21.10)?
fn is_outdone(guards: &GuardSet, selector: &PathSelector, circuit: &Paper) -> bool {
    let (Some(guard), Some(exit)) = (circuit.guard(), circuit.exit()) else {
        return false;
    };
    let fits = |guard: &RelayId| selector.may_share_path(guard, &exit.identity);
    guards.answers(&guard.identity) == Some(false) || guards.is_outdone(&guard.identity, &fits)
}

#[cfg(test)]
#[path = "rehearsal_tests.rs"]
mod tests;
