//! A simulated world: one thread, virtual time, and randomness from a seed.
//!
//! What a task draws depends on the seed, on the node that the task belongs to and on how often that node was started,
//! and on nothing else: what one node draws moves no other node's randomness. A task belongs to the node whose task
//! spawned it, which the runtime's hooks follow; so do tasks of libraries.

use core::cell::RefCell;
use std::collections::{BTreeMap, HashMap};

use chacha20::ChaCha20Rng;
use rand_core::SeedableRng;
use sha2::{Digest, Sha256};
use tokio::runtime::{Builder, Runtime};

/// One life of one node. Two lives of a node draw different numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeLife {
    /// The node's number in its network.
    pub node: u32,
    /// How often the node has been started before.
    pub incarnation: u32,
}

/// Stands for the simulator itself, for the work that belongs to no node.
const NOBODY: NodeLife = NodeLife {
    node: u32::MAX,
    incarnation: 0,
};

/// Number of polls of tasks without any time passing after which a run is taken to stand still.
const MOST_POLLS: u32 = 1_000_000;

struct State {
    seed: u64,
    current: NodeLife,
    rngs: BTreeMap<NodeLife, ChaCha20Rng>,
    /// To which life each living task belongs. The table is never walked, so its order does not matter.
    tasks: HashMap<tokio::task::Id, NodeLife>,
    /// How many tasks each life has; a life without tasks is not in the table.
    counts: BTreeMap<NodeLife, usize>,
    /// The moment of the last poll, and the number of polls at that moment.
    polls: (Option<tokio::time::Instant>, u32),
}

impl State {
    fn begin_task(&mut self, task: tokio::task::Id) {
        self.tasks.insert(task, self.current);
        *self.counts.entry(self.current).or_default() += 1;
    }

    fn end_task(&mut self, task: tokio::task::Id) {
        let Some(life) = self.tasks.remove(&task) else {
            return;
        };
        if let Some(count) = self.counts.get_mut(&life) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&life);
            }
        }
    }

    /// Counts a poll. Gives false if the run stands still.
    fn count_poll(&mut self) -> bool {
        let now = Some(tokio::time::Instant::now());
        let (at, polls) = &mut self.polls;
        if *at != now {
            (*at, *polls) = (now, 0);
        }
        *polls += 1;
        *polls < MOST_POLLS
    }
}

thread_local! {
    static STATE: RefCell<Option<State>> = const { RefCell::new(None) };
}

/// The right to simulate in this process, which can then have no real node: see [`super::simulate`].
#[derive(Debug)]
pub struct Simulation(pub(super) ());

impl Simulation {
    /// Runs `work` and all that it spawns in this thread, with randomness from `seed` and on virtual time, which jumps
    /// to the next timer when nothing is left to do. The runtime has no I/O: a real socket panics and names its place.
    ///
    /// # Errors
    /// The system's error, if no runtime can be made.
    ///
    /// # Panics
    /// If tasks are polled a million times without any time passing: the run would never end.
    pub fn run<F: Future>(&self, seed: u64, work: F) -> std::io::Result<F::Output> {
        let _over = Over::begin(seed);
        let runtime = runtime(seed)?;
        let done = runtime.block_on(work);
        // Tasks that are left draw from the same seed while they end.
        drop(runtime);
        Ok(done)
    }

    /// The life whose work is done now; `None` for work that belongs to no node.
    pub fn current() -> Option<NodeLife> {
        let current = with_state(|state| state.current);
        current.filter(|life| *life != NOBODY)
    }

    /// How many tasks this life of a node has now. Without the unstable interface of tokio this is always 0.
    pub fn tasks_of(life: NodeLife) -> usize {
        with_state(|state| state.counts.get(&life).copied())
            .flatten()
            .unwrap_or(0)
    }

    /// Calls `begin`, which spawns the tasks of one life of a node. These tasks, and all that they spawn, belong to
    /// that life.
    pub fn in_node<T>(life: NodeLife, begin: impl FnOnce() -> T) -> T {
        let before = enter(life);
        let begun = begin();
        enter(before);
        begun
    }
}

/// Ends the thread's simulation, however its work ends.
struct Over;

impl Over {
    fn begin(seed: u64) -> Self {
        let state = State {
            seed,
            current: NOBODY,
            rngs: BTreeMap::new(),
            tasks: HashMap::new(),
            counts: BTreeMap::new(),
            polls: (None, 0),
        };
        STATE.set(Some(state));
        Self
    }
}

impl Drop for Over {
    fn drop(&mut self) {
        STATE.set(None);
    }
}

#[cfg(tokio_unstable)]
fn runtime(seed: u64) -> std::io::Result<Runtime> {
    Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .rng_seed(tokio::runtime::RngSeed::from_bytes(&seed.to_be_bytes()))
        .on_task_spawn(|task| {
            with_state(|state| state.begin_task(task.id()));
        })
        .on_before_task_poll(|task| {
            let moves = with_state(|state| {
                state.current = state.tasks.get(&task.id()).copied().unwrap_or(NOBODY);
                state.count_poll()
            });
            if moves == Some(false) {
                stand_still();
            }
        })
        .on_after_task_poll(|_| {
            with_state(|state| state.current = NOBODY);
        })
        .on_task_terminate(|task| {
            with_state(|state| state.end_task(task.id()));
        })
        .build()
}

/// Ends a run whose tasks wake one another for ever without any time passing.
#[cold]
#[cfg(tokio_unstable)]
#[expect(
    clippy::panic,
    reason = "nothing else ends a runtime that never waits; who runs simulations catches it"
)]
fn stand_still() {
    let life = Simulation::current();
    panic!("the run stands still: {MOST_POLLS} polls at one moment, the last by {life:?}");
}

/// Without the unstable interface of tokio everything works but exact repetition: tokio's own dice have no seed, and
/// all nodes draw from one source.
#[cfg(not(tokio_unstable))]
fn runtime(_: u64) -> std::io::Result<Runtime> {
    Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
}

fn with_state<T>(work: impl FnOnce(&mut State) -> T) -> Option<T> {
    STATE.with_borrow_mut(|state| state.as_mut().map(work))
}

/// Makes `life` the life whose work is done now. Gives the life before.
fn enter(life: NodeLife) -> NodeLife {
    with_state(|state| core::mem::replace(&mut state.current, life)).unwrap_or(NOBODY)
}

/// Calls `draw` with the randomness of the node whose work is done now.
#[expect(clippy::panic, reason = "keys without randomness must never be made")]
pub(super) fn with_rng<T>(draw: impl FnOnce(&mut ChaCha20Rng) -> T) -> T {
    let drawn = with_state(|state| {
        let (seed, life) = (state.seed, state.current);
        let rng = state.rngs.entry(life);
        draw(rng.or_insert_with(|| ChaCha20Rng::from_seed(key(seed, life))))
    });
    match drawn {
        Some(drawn) => drawn,
        None => panic!("a simulated process has randomness only within Simulation::run"),
    }
}

/// The key from which one life of a node draws.
fn key(seed: u64, life: NodeLife) -> [u8; 32] {
    Sha256::new()
        .chain_update(b"cepa simulation")
        .chain_update(seed.to_be_bytes())
        .chain_update(life.node.to_be_bytes())
        .chain_update(life.incarnation.to_be_bytes())
        .finalize()
        .into()
}
