//! What a pool does by itself: it keeps circuits ready ahead of need, retires old ones, and notices that the machine
//! slept.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cepa_common::dir::Entry;
use cepa_common::world::{World, random, steady};

use super::built::Circuit;
use super::pool::Pool;
use super::predict::Predictor;
use super::refill::{Refill, Refilling};
use crate::guard::Purpose;
use crate::path::ExitTarget;

/// Number of clean circuits kept ready for each port that was asked for lately.
const READY_EACH: usize = 2;
/// Number of clean circuits kept ready in all.
const READY_MOST: usize = 8;
/// Number of builds that must be free before a circuit is built ahead of need, because those who wait go first.
const FREE_BUILDS: usize = 24;
/// How often the pool looks after its circuits if nothing else wakes it.
pub(super) const UPKEEP: Duration = Duration::from_secs(5);
/// After the machine slept, each owner's circuits are asked after a time from this range (milliseconds).
const ASKED_AFTER: RangeInclusive<u64> = 0..=10_000;
/// If the wall clock is ahead of the steady one by this time, the machine slept or its clock was set. Either way,
/// finding out costs a question to each circuit.
const SLEPT: Duration = Duration::from_secs(20);

impl Pool {
    /// Keeps clean circuits ready and retires old ones, for as long as the client runs.
    pub(crate) async fn look_after(self: Arc<Self>) {
        let mut surroundings = Surroundings::now(self.maker.world(), self.some_relay());
        let mut news = self.maker.consensus_news();
        let mut refill = Refill::default();
        loop {
            self.retire();
            let has_circuit = self.counts().ready > 0;
            self.maker
                .announcer()
                .report(has_circuit, self.maker.skew());
            let now = Surroundings::now(self.maker.world(), self.some_relay());
            if surroundings.has_changed(&now) {
                tracing::info!(
                    "this machine slept, or its network changed; circuits are asked whether they are there"
                );
                self.doubt_all();
                self.guards().on_network_change();
                self.maker.forget_links();
            }
            surroundings = now;
            let may_build =
                self.maker.builds.available_permits() >= FREE_BUILDS && self.consensus().is_some();
            let missing = self.missing().filter(|_| may_build);
            let left = missing.map(|(_, left)| left);
            let refilling = refill.next(steady::now(), left, &mut random::rng());
            if let Some((target, _)) = missing
                && refilling == Refilling::Build
            {
                match self.maker.build(Purpose::Data, target, &|_| false).await {
                    Ok(circuit) => {
                        self.stock.shelf().hold(circuit, None);
                        continue;
                    }
                    Err(error) => {
                        tracing::debug!(%error, "no circuit could be built ahead");
                        self.on_unbuilt(target, &error);
                        self.maker.announcer().tell_of_no_circuit(error.to_string());
                    }
                }
            }
            let until = steady::now() + UPKEEP;
            let until = match refilling {
                Refilling::Wait(due) => until.min(due),
                Refilling::Nothing | Refilling::Build => until,
            };
            tokio::select! {
                () = self.stock.rung() => {}
                Ok(()) = news.changed() => {}
                () = tokio::time::sleep_until(until.into()) => {}
            }
        }
    }

    /// Closes the clean circuits, asks the others whether they are still there, and forgets what relays did: it was the
    /// network's doing. Each owner's circuits are asked at a time of their own, so that no exit learns from the times
    /// which owners are one client.
    fn doubt_all(&self) {
        self.maker.memory().health.forgive();
        let owners = {
            let mut shelf = self.stock.shelf();
            shelf.close_clean(&|_| true);
            shelf.owners()
        };
        for owner in owners {
            self.maker.doubt_later(owner, None, ASKED_AFTER);
        }
    }

    /// A port that was asked for lately and for which too few clean circuits are ready, with the number of these. A
    /// port for which none is ready comes first.
    fn missing(&self) -> Option<(ExitTarget, usize)> {
        let shelf = self.stock.shelf();
        let exits = shelf.clean().map(|circuit| circuit.exit());
        missing(exits, &self.predictor(), steady::now())
    }

    /// Lets go of circuits that are lost, and of idle ones that are old or begin at a guard that stood in for a better
    /// one.
    pub(super) fn retire(&self) {
        let (max_dirty, selector) = (self.max_dirty(), self.maker.selector().ok());
        let is_outdone = |circuit: &Circuit| self.maker.is_outdone(selector.as_deref(), circuit);
        let mut shelf = self.stock.shelf();
        shelf.retire(max_dirty, steady::now(), &is_outdone);
    }

    /// An address of the network, which shows by which way this machine would reach it.
    fn some_relay(&self) -> Option<SocketAddr> {
        let consensus = self.consensus()?;
        consensus.entries().first()?.addresses.first().copied()
    }
}

/// A port that was asked for lately and for which too few clean circuits are ready, by the `exits` of these, with the
/// number of those that serve it. A port for which none is ready comes first.
pub(super) fn missing<'a>(
    exits: impl Iterator<Item = &'a Entry>,
    predictor: &Predictor,
    now: Instant,
) -> Option<(ExitTarget, usize)> {
    let exits: Vec<_> = exits.collect();
    if exits.len() >= READY_MOST {
        return None;
    }
    let with_ready = predictor.expected(now).map(|target| {
        let serves = |exit: &&&Entry| target.is_allowed_by(exit);
        (target, exits.iter().filter(serves).count())
    });
    let missing = with_ready.filter(|(_, ready)| *ready < READY_EACH);
    missing.min_by_key(|(_, ready)| *ready)
}

/// Where this machine is, and the time.
struct Surroundings {
    steady: Instant,
    /// The time of day, milliseconds since 1970.
    wall_ms: u64,
    /// The address from which the machine would reach the network.
    address: Option<IpAddr>,
}

impl Surroundings {
    fn now(world: &World, relay: Option<SocketAddr>) -> Self {
        Self {
            steady: steady::now(),
            wall_ms: world.clock.now_ms(),
            address: relay.and_then(|relay| world.sockets.local_address(relay)),
        }
    }

    /// Did the machine sleep before `later`, or is it in another network then?
    fn has_changed(&self, later: &Self) -> bool {
        let steady = later.steady.saturating_duration_since(self.steady);
        let wall = Duration::from_millis(later.wall_ms.saturating_sub(self.wall_ms));
        let moved = match (self.address, later.address) {
            (Some(here), Some(there)) => here != there,
            _ => false,
        };
        wall.saturating_sub(steady) > SLEPT || steady > UPKEEP + SLEPT || moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64, slept: u64, address: Option<[u8; 4]>) -> Surroundings {
        let origin = Surroundings::now(&World::default(), None);
        Surroundings {
            steady: origin.steady + Duration::from_secs(seconds),
            wall_ms: origin.wall_ms + (seconds + slept) * 1_000,
            address: address.map(IpAddr::from),
        }
    }

    #[test]
    fn sleep_and_another_network_are_noticed_and_nothing_else() {
        let (home, away) = (Some([192, 168, 1, 7]), Some([10, 0, 0, 3]));
        let start = at(0, 0, home);
        assert!(!start.has_changed(&at(5, 0, home)));
        assert!(start.has_changed(&at(5, 3_600, home)));
        assert!(start.has_changed(&at(5, 0, away)));
        // The machine was away for a moment and is back in the same place: circuits notice that themselves.
        assert!(!start.has_changed(&at(5, 0, None)));
        // A wall clock that is set back does not mean that the machine slept.
        let later = Surroundings {
            wall_ms: start.wall_ms - 86_400_000,
            ..at(5, 0, home)
        };
        assert!(!start.has_changed(&later));
    }

    #[test]
    fn the_way_to_loopback_is_loopback() {
        let sockets = World::default().sockets;
        let address = sockets.local_address(([127, 0, 0, 1], 9).into());
        assert!(address.is_some_and(|ip| ip.is_loopback()));
    }
}
