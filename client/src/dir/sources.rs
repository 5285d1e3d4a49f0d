//! Which sources to ask, and which are not asked for a while.

use core::pin::Pin;
use core::time::Duration;
use std::io;
use std::net::SocketAddr;

use cepa_common::dir::NetworkFile;
use cepa_common::ids::RelayId;
use cepa_common::net::directory::{DirStream, random_below};
use rand::Rng;
use rand::seq::SliceRandom;
use tokio::time::Instant;

use crate::events::DirectorySource;

/// Number of sources asked at once: a source that holds news back is outvoted by two others.
pub(crate) const SOURCES: usize = 3;
/// After so many failed rounds over circuits there is one that asks authorities and fallbacks directly.
const ROUNDS_OVER_CIRCUITS: u32 = 3;
/// The most sources remembered as bad. Beyond this number, the source that is forgiven soonest is forgotten.
const MAX_DISTRUSTED: usize = 128;
/// How long a source is not asked after it misbehaved once. The time doubles with each further time.
const DISTRUST_FIRST: Duration = Duration::from_secs(600);
/// The longest time for which a source is not asked.
const DISTRUST_CAP: Duration = Duration::from_secs(86_400);
/// A source that says that it is busy is left alone for at most this time, whatever it says (S22).
const BUSY_CAP: Duration = Duration::from_secs(600);

/// A directory stream that is being opened, with the relay that it leads to.
pub type DirStreamFuture = Pin<Box<dyn Future<Output = io::Result<(RelayId, DirStream)>> + Send>>;

/// Opens directory streams over circuits that no other stream shares.
pub trait DirStreams: Send + Sync {
    /// Opens a stream to the directory of a relay that is chosen by weight and is none of `avoid`.
    ///
    /// The future has no deadline beyond those of circuits. Callers set one.
    fn open(&self, avoid: &[RelayId]) -> DirStreamFuture;
}

/// A source of the consensus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The last relay of a circuit.
    Circuit,
    /// An authority or a fallback that is dialled directly, and sees this computer's address.
    Direct {
        /// Identity of the relay.
        identity: RelayId,
        /// Name of the source for people.
        name: DirectorySource,
        /// Addresses of the source.
        addresses: Vec<SocketAddr>,
        /// The key that the source proves.
        link_key: [u8; 32],
    },
}

/// What the choice of sources depends on.
pub(super) struct Choice<'a> {
    pub(super) network: &'a NetworkFile,
    /// Is there a consensus that may be used?
    pub(super) is_usable: bool,
    /// Are there circuits?
    pub(super) has_circuits: bool,
    /// Rounds that failed in a row.
    pub(super) failed_rounds: u32,
}

impl Choice<'_> {
    /// The sources to ask: circuits where they can be had, and at times, when they bring nothing, the authorities and
    /// fallbacks of the network's file. No other relay is ever dialled for a document: it would see who asks.
    ///
    /// A source that is busy is not asked. The list is empty if all sources are busy.
    pub(super) fn sources(&self, distrust: &mut Distrust, rng: &mut impl Rng) -> Vec<Source> {
        let is_over_circuits =
            self.failed_rounds % (ROUNDS_OVER_CIRCUITS + 1) < ROUNDS_OVER_CIRCUITS;
        if self.is_usable && self.has_circuits && is_over_circuits {
            return vec![Source::Circuit; SOURCES];
        }
        self.authorities(distrust, rng)
    }

    fn authorities(&self, distrust: &mut Distrust, rng: &mut impl Rng) -> Vec<Source> {
        let authorities = self.network.authorities().iter();
        let authorities = authorities.map(|a| {
            let name = DirectorySource::Authority(a.name.clone());
            (a.identity, name, &a.addresses)
        });
        let fallbacks = self.network.fallbacks().iter();
        let mut all: Vec<_> = authorities
            .chain(fallbacks.map(|f| {
                let name = DirectorySource::Fallback(f.identity);
                (f.identity, name, &f.addresses)
            }))
            .filter(|(identity, _, _)| !distrust.is_busy(identity))
            .collect();
        all.shuffle(rng);
        // Sources that misbehaved come last. Such sources are not left out, because there may be no others.
        all.sort_by_key(|(identity, _, _)| distrust.contains(identity));
        all.truncate(SOURCES);
        let source = |(identity, name, addresses): (_, _, &Vec<SocketAddr>)| Source::Direct {
            identity,
            name,
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

/// The sources that misbehaved lately: a bounded number, each forgiven with time.
#[derive(Default)]
pub(super) struct Distrust {
    bad: Vec<Distrusted>,
    /// The sources that want to be left alone, and until when.
    busy: Vec<(RelayId, Instant)>,
}

impl Distrust {
    /// Remembers that a source lied, stalled, or sent an answer of a wrong size.
    pub(super) fn blame(&mut self, who: RelayId) {
        let now = Instant::now();
        let index = self.bad.iter().position(|held| held.who == who);
        let strikes = index.map_or(0, |n| self.bad.swap_remove(n).strikes);
        let length = DISTRUST_FIRST.saturating_mul(1 << strikes.min(16));
        if self.bad.len() >= MAX_DISTRUSTED {
            let soonest =
                (0..self.bad.len()).min_by_key(|n| self.bad.get(*n).map(|held| held.until));
            if let Some(n) = soonest {
                self.bad.swap_remove(n);
            }
        }
        self.bad.push(Distrusted {
            who,
            strikes: strikes.saturating_add(1),
            until: now + length.min(DISTRUST_CAP),
        });
    }

    /// Must this source not be asked now, because it misbehaved? Forgets sources whose last fault is long past.
    pub(super) fn contains(&mut self, who: &RelayId) -> bool {
        let now = Instant::now();
        self.bad.retain(|held| now < held.until + DISTRUST_CAP);
        self.bad
            .iter()
            .any(|held| held.who == *who && now < held.until)
    }

    /// All sources that must not be asked now, because they misbehaved or are busy.
    pub(super) fn list(&self) -> Vec<RelayId> {
        let now = Instant::now();
        let bad = self.bad.iter().filter(|held| now < held.until);
        let busy = self.busy.iter().filter(|(_, until)| now < *until);
        bad.map(|held| held.who)
            .chain(busy.map(|(who, _)| *who))
            .collect()
    }

    /// Remembers that a source is busy and wants to be left alone for this time. That is no fault, but a reason not to
    /// come back sooner. A random part is added to the time, so that clients which were sent away do not return
    /// together (S22).
    pub(super) fn leave_alone(&mut self, who: RelayId, wanted: Duration, rng: &mut impl Rng) {
        let now = Instant::now();
        self.busy
            .retain(|(held, until)| *held != who && now < *until);
        if self.busy.len() < MAX_DISTRUSTED {
            let wait = wanted.min(BUSY_CAP);
            self.busy
                .push((who, now + wait + random_below(rng, wait / 4)));
        }
    }

    /// Is the source busy, so that it wants to be left alone?
    pub(super) fn is_busy(&self, who: &RelayId) -> bool {
        let now = Instant::now();
        self.busy
            .iter()
            .any(|(held, until)| held == who && now < *until)
    }

    /// The time until the first of the busy sources may be asked again.
    pub(super) fn until_free(&self) -> Option<Duration> {
        let now = Instant::now();
        let left = self
            .busy
            .iter()
            .map(|(_, until)| until.saturating_duration_since(now));
        left.filter(|left| !left.is_zero()).min()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::{BTreeMap, HashSet};

    use cepa_common::testkit::network_with;

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
        assert!(!distrust.contains(&who(1)) && distrust.bad.is_empty());
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

    #[tokio::test(start_paused = true)]
    async fn who_is_busy_is_left_alone_for_as_long_as_it_wants_and_no_longer_than_sense() {
        let (mut distrust, rng) = (Distrust::default(), &mut rand::rng());
        let (who, minute) = (|n: u8| RelayId([n; 32]), Duration::from_secs(60));
        assert_eq!(distrust.until_free(), None);
        distrust.leave_alone(who(1), minute, rng);
        distrust.leave_alone(who(2), Duration::MAX, rng);
        assert!(distrust.is_busy(&who(1)) && !distrust.contains(&who(1)));
        assert_eq!(distrust.list(), [who(1), who(2)]);
        let left = distrust.until_free().unwrap();
        assert!(left >= minute && left <= minute * 5 / 4, "{left:?}");
        tokio::time::advance(left).await;
        assert!(!distrust.is_busy(&who(1)) && distrust.is_busy(&who(2)));
        tokio::time::advance(BUSY_CAP * 5 / 4).await;
        assert!(!distrust.is_busy(&who(2)));
        // When a source says again that it is busy, its time begins anew, and the list does not grow.
        (0..=255).for_each(|n| distrust.leave_alone(who(n), minute, rng));
        (0..=255).for_each(|n| distrust.leave_alone(who(n), minute, rng));
        assert_eq!(distrust.busy.len(), MAX_DISTRUSTED);
    }

    /// Whoever is asked without a circuit sees who asks.
    #[test]
    fn nobody_is_asked_directly_but_those_that_the_networks_file_names() {
        let network = network_with(3, BTreeMap::new());
        let named: HashSet<_> = network.authorities().iter().map(|a| a.identity).collect();
        let mut rounds_over_circuits = 0;
        for (is_usable, has_circuits) in
            [(false, false), (false, true), (true, false), (true, true)]
        {
            for failed_rounds in 0..8 {
                let choice = Choice {
                    network: &network,
                    is_usable,
                    has_circuits,
                    failed_rounds,
                };
                let sources = choice.sources(&mut Distrust::default(), &mut rand::rng());
                assert_eq!(sources.len(), SOURCES);
                rounds_over_circuits += u32::from(sources[0] == Source::Circuit);
                for source in sources {
                    match source {
                        Source::Direct { identity, .. } => assert!(named.contains(&identity)),
                        Source::Circuit => assert!(is_usable && has_circuits),
                    }
                }
            }
        }
        assert_eq!(rounds_over_circuits, 6);
    }
}
