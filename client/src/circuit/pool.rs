//! The pool: gives each stream a circuit, from the shelf or a new one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use cepa_common::dir::{Consensus, Entry};
use cepa_common::ids::RelayId;
use cepa_common::sync::lock;
use cepa_common::world::steady;

use super::build::BuildError;
use super::built::Circuit;
use super::choose::Wanted;
use super::isolation::Isolation;
use super::legs::Growing;
use super::maker::{CircuitError, Maker, MakerConfig};
use super::predict::Predictor;
use super::shelf::{Counts, ExitFit, Owner};
use super::stock::Stock;
use crate::circuit::Multipath;
use crate::guard::{Keeper, Purpose};
use crate::path::{ExitTarget, PathError, PeerRules, Position, Rule, RuleError};

/// Time for which an owner's circuit takes new streams, while no consensus says otherwise.
const MAX_DIRTY_SECONDS: u32 = 600;

type Turns = HashMap<Isolation, Arc<tokio::sync::Mutex<()>>>;

/// A client's circuits.
pub(crate) struct Pool {
    pub(super) maker: Arc<Maker>,
    pub(super) stock: Arc<Stock>,
    predictor: Mutex<Predictor>,
    /// The owners for whom circuits are being built.
    turns: Mutex<Turns>,
}

/// An owner's turn to build. All who ask for one owner build one after the other, so that those who wait share what the
/// first gets. The owner's entry goes with the last of them, also when they stop waiting.
struct Turn<'a> {
    pool: &'a Pool,
    isolation: &'a Isolation,
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl<'a> Turn<'a> {
    fn new(pool: &'a Pool, isolation: &'a Isolation) -> Self {
        let turn = lock(&pool.turns)
            .entry(isolation.clone())
            .or_default()
            .clone();
        Self {
            pool,
            isolation,
            turn,
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut turns = lock(&self.pool.turns);
        // The table holds the lock once, and so does each turn of this owner.
        if Arc::strong_count(&self.turn) <= 2 {
            turns.remove(self.isolation);
        }
    }
}

impl Pool {
    pub(crate) fn new(config: MakerConfig) -> Arc<Self> {
        let stock = Arc::new(Stock::new());
        Arc::new(Self {
            maker: Arc::new(Maker::new(config, stock.clone())),
            stock,
            predictor: Mutex::new(Predictor::new(steady::now())),
            turns: Mutex::default(),
        })
    }

    /// What builds the pool's circuits.
    pub(crate) fn maker(&self) -> &Arc<Maker> {
        &self.maker
    }

    pub(super) fn predictor(&self) -> MutexGuard<'_, Predictor> {
        lock(&self.predictor)
    }

    /// The newest consensus, while it may be used.
    pub(crate) fn consensus(&self) -> Option<Arc<Consensus>> {
        self.maker.consensus()
    }

    /// The owner's rules.
    pub(crate) fn rules(&self) -> Arc<PeerRules> {
        self.maker.rules()
    }

    /// Do the owner's lists leave something to choose? Says nothing while no consensus is held.
    pub(crate) fn check_rules(&self) -> Result<(), RuleError> {
        self.maker.check_rules()
    }

    /// Would these rules leave something to choose?
    pub(crate) fn check_other(&self, rules: Arc<PeerRules>) -> Result<(), RuleError> {
        self.maker.check_other(rules)
    }

    /// Circuits get a second leg at another time from now on.
    pub(crate) fn set_multipath(&self, multipath: Multipath) {
        self.maker.set_multipath(multipath);
    }

    /// Paths are chosen by other rules from now on, whose hops, guards and destinations are the same as before. All
    /// circuits are retired, as by a new identity: also one that is being built was chosen by the rules before.
    ///
    /// Returns how many circuits were retired.
    pub(crate) fn set_rules(&self, rules: Arc<PeerRules>) -> usize {
        self.maker.set_rules(rules);
        self.new_identity()
    }

    /// The guards that circuits begin at.
    pub(crate) fn guards(&self) -> &Arc<Keeper> {
        self.maker.guards()
    }

    pub(super) fn max_dirty(&self) -> Duration {
        let consensus = self.consensus();
        let seconds = consensus.map_or(MAX_DIRTY_SECONDS, |c| c.params().circuit_max_dirty_seconds);
        Duration::from_secs(u64::from(seconds))
    }

    /// How many new identities there were. Streams say by [`Isolation::of_identity`] under which identity they were
    /// asked for.
    pub(crate) fn identity(&self) -> u64 {
        self.stock.shelf().generation()
    }

    /// Retires all circuits at once: no stream that is opened from now on shares a circuit with those before, not even
    /// one that is being built. Open streams go on; a circuit ends with its last stream, or now if it has none. The
    /// guards stay, because a client that changes them often meets a hostile one sooner. What was asked for lately is
    /// forgotten.
    ///
    /// Returns how many circuits were retired.
    pub(crate) fn new_identity(&self) -> usize {
        *self.predictor() = Predictor::new(steady::now());
        let retired = self.stock.shelf().new_identity();
        self.stock.ring();
        retired
    }

    /// Ends all circuits, and every stream on them.
    pub(crate) fn stop(&self) {
        self.stock.shelf().close();
        self.stock.ring();
    }

    /// How many circuits and streams there are.
    pub(crate) fn counts(&self) -> Counts {
        self.stock.shelf().counts()
    }

    /// A circuit for a stream of `isolation` to what is wanted, with an exit that `avoid` does not name: a circuit in
    /// use by the same owner, a clean one, or a new one.
    pub(crate) async fn circuit_for(
        &self,
        isolation: &Isolation,
        wanted: impl Into<Wanted>,
        avoid: &(dyn Fn(&RelayId) -> bool + Sync),
    ) -> Result<Arc<Circuit>, CircuitError> {
        let wanted = wanted.into();
        self.predictor().on_asked(wanted.target, steady::now());
        if let Some(circuit) = self.find(isolation, wanted, avoid) {
            return Ok(circuit);
        }
        let turn = Turn::new(self, isolation);
        let _alone = turn.turn.lock().await;
        if let Some(circuit) = self.find(isolation, wanted, avoid) {
            return Ok(circuit);
        }
        let built = self.maker.build(Purpose::Data, wanted, avoid).await;
        let circuit = built.inspect_err(|error| self.on_unbuilt(wanted.target, error))?;
        let owner = Owner {
            isolation: isolation.clone(),
            since: steady::now(),
        };
        self.stock.shelf().hold(circuit.clone(), Some(owner));
        Ok(circuit)
    }

    /// No circuit for this target was built. If no exit lets out to it, none is kept ready either.
    pub(super) fn on_unbuilt(&self, target: ExitTarget, error: &CircuitError) {
        let policy = PathError::NoRelay {
            position: Position::Exit,
            rule: Rule::Policy,
        };
        if matches!(error, CircuitError::Path(why) if *why == policy) {
            self.predictor().on_impossible(target);
        }
    }

    /// A circuit that is there already. If it was clean, it is the owner's from now on.
    pub(super) fn find(
        &self,
        isolation: &Isolation,
        wanted: Wanted,
        avoid: &dyn Fn(&RelayId) -> bool,
    ) -> Option<Arc<Circuit>> {
        let (max_dirty, selector) = (self.max_dirty(), self.maker.selector().ok());
        let fit = |circuit: &Circuit| {
            let exit = circuit.exit();
            let may_not =
                avoid(&exit.identity) || self.maker.is_outdone(selector.as_deref(), circuit);
            match may_not {
                true => ExitFit::Unfit,
                false => self.maker.exit_fit(wanted, exit),
            }
        };
        let found = self
            .stock
            .shelf()
            .find(isolation, max_dirty, steady::now(), &fit)?;
        if found.was_clean {
            self.stock.ring();
        }
        Some(found.circuit)
    }

    /// Builds a circuit through exactly these relays, with ten seconds for each. No stream of the pool gets on it.
    pub(crate) async fn build_path(&self, hops: &[Entry]) -> Result<Arc<Circuit>, BuildError> {
        let raised = self
            .maker
            .raise(hops, false, Duration::MAX, &|_| {})
            .await?;
        // The circuit uses these relays and no others, so it gets no second leg.
        self.maker.finish(raised, Growing::Never)
    }

    /// How many owners circuits are being built for.
    #[cfg(test)]
    pub(super) fn owners_waiting(&self) -> usize {
        lock(&self.turns).len()
    }
}
