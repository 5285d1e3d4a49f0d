//! How the path of a circuit is chosen: by the selector's rules, with the guards' word for the first hop. Pure.
//!
//! [`super::maker`] says what relays have done and asks the guards; [`super::rehearsal`] does the same on paper. So
//! whoever rehearses a client chooses as the client does.

use core::cell::Cell;

use cepa_common::dir::Entry;
use cepa_common::ids::RelayId;
use rand::CryptoRng;

use crate::path::{ExitTarget, Path, PathError, PathRequest, PathSelector};

/// What a circuit is wanted for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// What the circuit's exit must let out to.
    pub target: ExitTarget,
    /// The owner's rule for the destination ([`crate::path::PeerRules::rule_for`]).
    pub rule: Option<usize>,
    /// The exit, if it is settled already.
    pub exit: Option<RelayId>,
}

impl From<ExitTarget> for Wanted {
    fn from(target: ExitTarget) -> Self {
        Self {
            target,
            rule: None,
            exit: None,
        }
    }
}

/// Which relays a path may begin at.
#[derive(Clone, Copy)]
pub(super) enum First<'a> {
    /// The guards decide.
    Any,
    /// This guard and no other.
    Only(&'a RelayId),
    /// No relay that the function names.
    Not(&'a dyn Fn(&RelayId) -> bool),
}

impl First<'_> {
    fn permits(&self, relay: &RelayId) -> bool {
        match self {
            Self::Any => true,
            Self::Only(guard) => *guard == relay,
            Self::Not(names) => !names(relay),
        }
    }
}

/// A function that names relays.
type Names<'a> = &'a dyn Fn(&RelayId) -> bool;

/// All that a path depends on.
pub(super) struct Choosing<'a> {
    pub(super) selector: &'a PathSelector,
    /// The owner's number of hops.
    pub(super) hops: u8,
    pub(super) first: First<'a>,
    pub(super) wanted: Wanted,
    /// Relays that the path must not have.
    pub(super) avoid: Names<'a>,
    /// Relays that failed lately. The path has none of them while there are others.
    pub(super) failed: Names<'a>,
    /// Asks the guards for one that the function permits.
    pub(super) pick: &'a dyn Fn(Names<'_>) -> Option<RelayId>,
}

impl Choosing<'_> {
    /// Chooses a path.
    ///
    /// # Errors
    /// [`PathError`] if no path fits.
    pub(super) fn path(&self, rng: &mut impl CryptoRng) -> Result<Path, PathError> {
        let (selector, wanted, first) = (self.selector, self.wanted, self.first);
        // Another exit is drawn in place of one near the guard, as another guard would see the client for it.
        let redraws = Cell::new(wanted.exit.is_none());
        let guard = |exit: &Entry| {
            let near = |guard: &RelayId| !selector.may_share_path(guard, &exit.identity);
            let best = (self.pick)(&|guard| first.permits(guard))?;
            if !near(&best) {
                return Some(best);
            }
            if redraws.get() && !selector.is_near_many(&best, wanted.target, wanted.rule) {
                return None;
            }
            (self.pick)(&|guard| first.permits(guard) && !near(guard))
        };
        // If a path has one hop, its exit is the first hop, and `first` holds for the exit.
        let alone = self.hops == 1;
        let avoid = |relay: &RelayId| (self.avoid)(relay) || (alone && !first.permits(relay));
        let careful = |relay: &RelayId| avoid(relay) || (self.failed)(relay);
        let mut request = PathRequest::new(wanted.target);
        request.rule = wanted.rule;
        request.last = wanted.exit;
        request.hops = usize::from(self.hops);
        request.guard = Some(&guard);
        request.exclude = &careful;
        if let Ok(path) = selector.choose(rng, &request) {
            return Ok(path);
        }
        request.exclude = &avoid;
        selector.choose(rng, &request).or_else(|_| {
            redraws.set(false);
            selector.choose(rng, &request)
        })
    }
}
