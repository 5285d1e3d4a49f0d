//! The shelf: which circuits a client holds, and who owns each.
//!
//! The shelf is pure. The shelf reads no clock (the time comes in as `now`), takes no lock, waits for nothing and
//! builds nothing. The shelf knows circuits only as [`Shelved`] things. [`super::stock`] shares the shelf between
//! tasks, [`super::maker`] builds what the shelf lacks.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cepa_common::ids::RelayId;

use super::isolation::Isolation;

/// The most circuits held. Beyond this number, each circuit that comes closes one that carries no stream.
pub(super) const MOST_CIRCUITS: usize = 512;

/// What the shelf knows of a circuit, and does to it.
pub(super) trait Shelved {
    /// When the circuit was built.
    fn built(&self) -> Instant;

    /// The client's identity that the circuit was built for.
    fn generation(&self) -> u64;

    /// Number of streams on the circuit.
    fn open_streams(&self) -> usize;

    /// Can the circuit take one more stream?
    fn has_room(&self) -> bool;

    /// Number of circuits that carry the streams.
    fn legs(&self) -> usize;

    /// Is the circuit gone?
    fn is_lost(&self) -> bool;

    /// Does one of these relays carry the circuit's streams?
    fn passes(&self, relays: &[RelayId]) -> bool;

    /// Makes the circuit ask its far end whether it is still there.
    fn doubt(&self);

    /// Ends the circuit and every stream on it.
    fn close(&self);
}

/// How many circuits and streams a client has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Number of circuits that may take streams.
    pub ready: usize,
    /// The circuits among `ready` that have carried no stream yet.
    pub clean: usize,
    /// Number of circuits whose streams have a second leg, retired ones included.
    pub paired: usize,
    /// Number of open streams, those of retired circuits included.
    pub streams: usize,
    /// Number of circuits that were built since the client started.
    pub built: u64,
    /// The circuits among `built` that a stream has taken.
    pub used: u64,
}

/// Who may use a circuit.
pub(super) struct Owner {
    pub(super) isolation: Isolation,
    /// When the circuit was given to this owner.
    pub(super) since: Instant,
}

/// How well a circuit's exit fits what a stream wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExitFit {
    /// The circuit may not serve the stream.
    Unfit,
    /// The exit may serve the stream, but a new circuit would get one that the owner prefers.
    Serves,
    /// A new circuit would have no better exit.
    AsGood,
}

/// A circuit that the shelf gives out.
pub(super) struct Found<C> {
    pub(super) circuit: Arc<C>,
    /// The circuit was clean until now, so that there is one clean circuit fewer.
    pub(super) was_clean: bool,
}

struct Held<C> {
    circuit: Arc<C>,
    /// `None` while the circuit is clean: it has no owner yet.
    owner: Option<Owner>,
}

/// The circuits of a client.
pub(super) struct Shelf<C> {
    circuits: Vec<Held<C>>,
    /// How many new identities there were. A circuit of an earlier identity takes no new stream.
    generation: u64,
    /// Number of circuits that were taken in.
    built: u64,
    /// Number of circuits that a stream has taken.
    used: u64,
    closed: bool,
}

impl<C: Shelved> Shelf<C> {
    pub(super) fn new() -> Self {
        Self {
            circuits: Vec::new(),
            generation: 0,
            built: 0,
            used: 0,
            closed: false,
        }
    }

    /// How many new identities there were.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Is the client stopping? Then the shelf takes no circuit.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Takes a built circuit in, for its owner or as a clean one. Closes it instead if the shelf is closed, or if it is
    /// clean and of an earlier identity, as nobody could ever use it.
    pub(super) fn hold(&mut self, circuit: Arc<C>, owner: Option<Owner>) {
        // A circuit for a stream that is about to be opened is held even if it takes no other stream, because it must
        // be looked after.
        self.built += 1;
        self.used += u64::from(owner.is_some());
        let is_stale = circuit.generation() != self.generation && owner.is_none();
        if self.closed || is_stale {
            circuit.close();
            return;
        }
        if self.circuits.len() >= MOST_CIRCUITS {
            let idle = |held: &Held<C>| held.circuit.open_streams() == 0;
            if let Some(idle) = self.circuits.iter().position(idle) {
                self.circuits.remove(idle).circuit.close();
            }
        }
        self.circuits.push(Held { circuit, owner });
    }

    /// Finds a circuit for a stream of `isolation`: one that this owner has had for less than `max_dirty`, or else a
    /// clean one, which is the owner's from now on. `fit` judges circuits.
    pub(super) fn find(
        &mut self,
        isolation: &Isolation,
        max_dirty: Duration,
        now: Instant,
        fit: &dyn Fn(&C) -> ExitFit,
    ) -> Option<Found<C>> {
        self.circuits.retain(|held| !held.circuit.is_lost());
        let generation = self.generation;
        let usable =
            |held: &Held<C>| held.circuit.generation() == generation && held.circuit.has_room();
        let owned = self.circuits.iter().find(|held| {
            let is_ours = held.owner.as_ref().is_some_and(|owner| {
                let age = now.saturating_duration_since(owner.since);
                owner.isolation == *isolation && age < max_dirty
            });
            is_ours && usable(held) && fit(&held.circuit) != ExitFit::Unfit
        });
        if let Some(held) = owned {
            return Some(Found {
                circuit: held.circuit.clone(),
                was_clean: false,
            });
        }
        let clean = self.circuits.iter_mut().find(|held| {
            let is_clean = held.owner.is_none();
            is_clean && usable(held) && fit(&held.circuit) == ExitFit::AsGood
        })?;
        clean.owner = Some(Owner {
            isolation: isolation.clone(),
            since: now,
        });
        self.used += 1;
        Some(Found {
            circuit: clean.circuit.clone(),
            was_clean: true,
        })
    }

    /// Lets go of circuits that are lost. Closes those that carry no stream and are of an earlier identity, of no more
    /// use by what `is_outdone` says, or older than `max_dirty`: an owned circuit's age counts from when it got its
    /// owner, a clean one's from when it was built.
    pub(super) fn retire(
        &mut self,
        max_dirty: Duration,
        now: Instant,
        is_outdone: &dyn Fn(&C) -> bool,
    ) {
        let generation = self.generation;
        self.circuits.retain(|held| {
            let since = match &held.owner {
                Some(owner) => owner.since,
                None => held.circuit.built(),
            };
            let is_old = now.saturating_duration_since(since) > max_dirty;
            let is_over = is_old || held.circuit.generation() != generation;
            let retired =
                held.circuit.open_streams() == 0 && (is_over || is_outdone(&held.circuit));
            if retired {
                held.circuit.close();
            }
            !retired && !held.circuit.is_lost()
        });
    }

    /// Begins a new identity. Closes all circuits that carry no stream; the others take no new one.
    ///
    /// Returns how many circuits of the identity before there were.
    pub(super) fn new_identity(&mut self) -> usize {
        let of_before = self.generation;
        self.generation += 1;
        let is_live =
            |held: &&Held<C>| !held.circuit.is_lost() && held.circuit.generation() == of_before;
        let retired = self.circuits.iter().filter(is_live).count();
        self.circuits.retain(|held| {
            let in_use = held.circuit.open_streams() > 0;
            if !in_use {
                held.circuit.close();
            }
            in_use
        });
        retired
    }

    /// Closes the shelf: ends all circuits, and every stream on them.
    pub(super) fn close(&mut self) {
        self.closed = true;
        for held in self.circuits.drain(..) {
            held.circuit.close();
        }
    }

    /// How many circuits and streams there are.
    pub(super) fn counts(&self) -> Counts {
        let mut counts = Counts {
            built: self.built,
            used: self.used,
            ..Counts::default()
        };
        for held in self.circuits.iter().filter(|held| !held.circuit.is_lost()) {
            counts.streams += held.circuit.open_streams();
            counts.paired += usize::from(held.circuit.legs() > 1);
            if held.circuit.generation() == self.generation {
                counts.ready += 1;
                counts.clean += usize::from(held.owner.is_none());
            }
        }
        counts
    }

    /// The circuits that have no owner yet.
    pub(super) fn clean(&self) -> impl Iterator<Item = &Arc<C>> {
        let is_clean = |held: &&Held<C>| held.owner.is_none() && !held.circuit.is_lost();
        self.circuits
            .iter()
            .filter(is_clean)
            .map(|held| &held.circuit)
    }

    /// Closes the clean circuits that `which` names.
    pub(super) fn close_clean(&mut self, which: &dyn Fn(&C) -> bool) {
        self.circuits.retain(|held| {
            let closes = held.owner.is_none() && which(&held.circuit);
            if closes {
                held.circuit.close();
            }
            !closes
        });
    }

    /// Whose the circuit is that `which` names. `None` if there is none, or if it is nobody's.
    pub(super) fn owner_of(&self, which: &dyn Fn(&C) -> bool) -> Option<Isolation> {
        let mut owned = self.circuits.iter().filter(|held| which(&held.circuit));
        let owner = owned.next()?.owner.as_ref()?;
        Some(owner.isolation.clone())
    }

    /// All owners of circuits, each once.
    pub(super) fn owners(&self) -> Vec<Isolation> {
        let mut owners: Vec<&Isolation> = Vec::new();
        for owner in self.circuits.iter().filter_map(|held| held.owner.as_ref()) {
            if !owners.contains(&&owner.isolation) {
                owners.push(&owner.isolation);
            }
        }
        owners.into_iter().cloned().collect()
    }

    /// Asks an owner's circuits whether they are still there; with `relays`, those that pass one of these.
    pub(super) fn doubt(&self, isolation: &Isolation, relays: Option<&[RelayId]>) {
        let is_theirs = |held: &&Held<C>| {
            let owner = held.owner.as_ref();
            owner.is_some_and(|owner| owner.isolation == *isolation)
                && relays.is_none_or(|relays| held.circuit.passes(relays))
        };
        let theirs = self.circuits.iter().filter(is_theirs);
        theirs.for_each(|held| held.circuit.doubt());
    }
}

#[cfg(test)]
#[path = "shelf_tests.rs"]
mod tests;
