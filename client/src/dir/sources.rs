//! Whom to ask, and who is not asked for a while.

use core::pin::Pin;
use core::time::Duration;
use std::io;
use std::net::SocketAddr;

use cepa_common::dir::{Consensus, Flags, NetworkFile, Stream};
use cepa_common::ids::RelayId;
use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use tokio::time::Instant;

/// Sources asked at once: one that keeps news back is outvoted by two.
pub(super) const SOURCES: usize = 3;
/// Sources remembered as bad; beyond it the one that is forgiven soonest goes.
const MAX_DISTRUSTED: usize = 128;
/// A source that misbehaved once is not asked for so long; twice as long each time after.
const DISTRUST_FIRST: Duration = Duration::from_secs(600);
/// Longest distrust.
const DISTRUST_CAP: Duration = Duration::from_secs(86_400);

/// A directory stream that is being opened, and whose it is.
pub type DirStreamFuture = Pin<Box<dyn Future<Output = io::Result<(RelayId, Stream)>> + Send>>;

/// Opens directory streams over circuits that no other stream shares.
pub trait DirStreams: Send + Sync {
    /// A stream to the directory of a relay chosen by weight, none of `avoid`.
    ///
    /// The future has no deadline of its own beyond those of circuits; callers set one.
    fn open(&self, avoid: &[RelayId]) -> DirStreamFuture;
}

/// Where to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Over a circuit, at its last relay.
    Circuit,
    /// Over a link of our own: it sees our address.
    Direct {
        /// Who it is.
        identity: RelayId,
        /// Where it is.
        addresses: Vec<SocketAddr>,
        /// The key that it proves.
        link_key: [u8; 32],
    },
}

/// What the choice of sources depends on.
pub(super) struct Choice<'a> {
    pub(super) network: &'a NetworkFile,
    /// The newest consensus held, usable or not.
    pub(super) held: Option<&'a Consensus>,
    /// May `held` be used?
    pub(super) is_usable: bool,
    /// Are there circuits?
    pub(super) has_circuits: bool,
    /// Rounds that failed in a row.
    pub(super) failed_rounds: u32,
}

impl Choice<'_> {
    /// With a usable consensus: circuits twice, then its relays directly, then authorities and fallbacks, and again.
    /// Without: authorities and fallbacks, and every other time the relays of an old consensus.
    pub(super) fn sources(&self, distrust: &mut Distrust, rng: &mut impl Rng) -> Vec<Source> {
        let step = self.failed_rounds % 4;
        let mut found = match (self.is_usable, self.has_circuits) {
            (true, true) if step < 2 => return vec![Source::Circuit; SOURCES],
            (true, _) if step < 3 && step != 1 => self.relays(distrust, rng),
            (false, _) if step % 2 == 1 => self.relays(distrust, rng),
            _ => Vec::new(),
        };
        if found.is_empty() {
            found = self.authorities(distrust, rng);
        }
        found
    }

    fn relays(&self, distrust: &mut Distrust, rng: &mut impl Rng) -> Vec<Source> {
        let entries = self.held.map_or(&[][..], |held| held.entries());
        let running: Vec<_> = entries
            .iter()
            .filter(|e| e.flags.contains(Flags::RUNNING) && !distrust.contains(&e.identity))
            .collect();
        let chosen = running.sample(rng, SOURCES);
        let source = |e: &&cepa_common::dir::Entry| Source::Direct {
            identity: e.identity,
            addresses: e.addresses.clone(),
            link_key: e.link_key(),
        };
        chosen.map(source).collect()
    }

    fn authorities(&self, distrust: &mut Distrust, rng: &mut impl Rng) -> Vec<Source> {
        let authorities = self.network.authorities().iter();
        let authorities = authorities.map(|a| (a.identity, &a.addresses));
        let fallbacks = self.network.fallbacks().iter();
        let mut all: Vec<_> = authorities
            .chain(fallbacks.map(|f| (f.identity, &f.addresses)))
            .collect();
        all.shuffle(rng);
        // Those who misbehaved come last, not never: there may be no others.
        all.sort_by_key(|(identity, _)| distrust.contains(identity));
        all.truncate(SOURCES);
        let source = |(identity, addresses): (RelayId, &Vec<SocketAddr>)| Source::Direct {
            identity,
            addresses: addresses.clone(),
            link_key: identity.0,
        };
        all.into_iter().map(source).collect()
    }
}

struct Distrusted {
    who: RelayId,
    strikes: u32,
    until: Instant,
}

/// Who misbehaved lately: bounded, and forgiven with time.
#[derive(Default)]
pub(super) struct Distrust(Vec<Distrusted>);

impl Distrust {
    /// Remembers a lie, a stall, or an answer of a wrong size.
    pub(super) fn blame(&mut self, who: RelayId) {
        let now = Instant::now();
        let index = self.0.iter().position(|held| held.who == who);
        let strikes = index.map_or(0, |n| self.0.swap_remove(n).strikes);
        let length = DISTRUST_FIRST.saturating_mul(1 << strikes.min(16));
        if self.0.len() >= MAX_DISTRUSTED {
            let soonest = (0..self.0.len()).min_by_key(|n| self.0.get(*n).map(|held| held.until));
            if let Some(n) = soonest {
                self.0.swap_remove(n);
            }
        }
        self.0.push(Distrusted {
            who,
            strikes: strikes.saturating_add(1),
            until: now + length.min(DISTRUST_CAP),
        });
    }

    /// Is this one not to be asked now? Forgets those whose last fault is long past.
    pub(super) fn contains(&mut self, who: &RelayId) -> bool {
        let now = Instant::now();
        self.0.retain(|held| now < held.until + DISTRUST_CAP);
        self.0
            .iter()
            .any(|held| held.who == *who && now < held.until)
    }

    /// All that are not to be asked now.
    pub(super) fn list(&self) -> Vec<RelayId> {
        let now = Instant::now();
        let bad = self.0.iter().filter(|held| now < held.until);
        bad.map(|held| held.who).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn distrust_grows_decays_and_is_bounded() {
        let mut distrust = Distrust::default();
        let who = |n: u8| RelayId([n; 32]);
        distrust.blame(who(1));
        assert!(distrust.contains(&who(1)) && !distrust.contains(&who(2)));
        tokio::time::advance(DISTRUST_FIRST).await;
        assert!(!distrust.contains(&who(1)));
        distrust.blame(who(1));
        tokio::time::advance(DISTRUST_FIRST).await;
        assert!(distrust.contains(&who(1)));
        tokio::time::advance(DISTRUST_FIRST + DISTRUST_CAP).await;
        assert!(!distrust.contains(&who(1)) && distrust.0.is_empty());
        for n in 0..=255 {
            distrust.blame(who(n));
        }
        assert_eq!(distrust.list().len(), MAX_DISTRUSTED);
        for _ in 0..100 {
            distrust.blame(who(255));
        }
        tokio::time::advance(DISTRUST_CAP).await;
        assert!(!distrust.contains(&who(255)));
    }
}
