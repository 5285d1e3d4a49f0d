//! Which flags a relay lacks in a consensus, and why, as far as the relay can tell from outside of the authorities
//! (docs/protocol.md, 6.17).

use core::fmt;

use cepa_common::dir::{Consensus, Entry, Flags};
use cepa_common::ids::RelayId;
use cepa_common::words::About;
use core::time::Duration;

use crate::authority::weight_bars;

/// What of a relay decides which flags it can have.
pub(super) struct Own {
    pub(super) identity: RelayId,
    /// Flags that the relay is willing to have.
    pub(super) offers: Flags,
    /// Does its policy let any stream out?
    pub(super) exits: bool,
}

/// A flag that a relay lacks and could have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissingFlag {
    /// The flag.
    pub flag: Flags,
    /// Why the relay lacks it.
    pub why: WhyMissing,
}

/// Why a relay lacks a flag. `to_string` gives a sentence without its full stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhyMissing {
    /// Most authorities have not reached the relay.
    Unreached,
    /// The relay carries less than is needed (KiB a second both).
    Weight {
        /// What the relay carries, by the consensus.
        has: u32,
        /// What is needed in this network now.
        needs: u32,
    },
    /// The relay has not been up for long enough without a break (seconds).
    Breaks {
        /// So much between two failures is enough.
        enough: u32,
    },
    /// The relay has not been known for long enough, or was away too often.
    Age {
        /// So long is enough (seconds).
        enough: u32,
        /// Being up for so much of the time is enough (thousandths).
        uptime: u32,
    },
    /// The relay has not been up for so long (seconds).
    Uptime {
        /// So long is enough.
        enough: u32,
    },
    /// The relay lacks another flag that this one needs.
    Needs(Flags),
    /// The authorities do not say why. They may allow the relay in the middle of paths only, or have not counted it yet.
    Untold,
}

/// The flags that the relay `own` lacks in `consensus`, where `entry` is its entry.
pub(super) fn of(entry: &Entry, consensus: &Consensus, own: &Own) -> Vec<MissingFlag> {
    let params = consensus.params();
    let running = consensus.entries().iter();
    let running = running.filter(|entry| entry.flags.contains(Flags::RUNNING));
    let (fast, guard) = weight_bars(running.map(|entry| entry.weight), params);
    let weight = |needs| {
        let has = entry.weight;
        (has < needs).then_some(WhyMissing::Weight { has, needs })
    };
    let needs = |flags: [Flags; 2]| {
        let mut lacks = flags
            .into_iter()
            .filter(|flag| !entry.flags.contains(*flag));
        lacks.next().map(WhyMissing::Needs)
    };
    let is_wanted = |flag| match flag {
        Flags::EXIT => own.exits,
        Flags::GUARD | Flags::HSDIR | Flags::MEET => own.offers.contains(flag),
        Flags::AUTHORITY => false,
        _ => true,
    };
    let is_running = entry.flags.contains(Flags::RUNNING);
    let lacks = Flags::all().filter(|flag| !entry.flags.contains(*flag) && is_wanted(*flag));
    lacks
        .map(|flag| {
            let why = match flag {
                Flags::RUNNING => WhyMissing::Unreached,
                _ if !is_running => WhyMissing::Needs(Flags::RUNNING),
                Flags::FAST => weight(fast).unwrap_or(WhyMissing::Untold),
                Flags::STABLE => WhyMissing::Breaks {
                    enough: params.stable_mtbf_seconds,
                },
                Flags::GUARD => needs([Flags::FAST, Flags::STABLE])
                    .or_else(|| weight(guard))
                    .unwrap_or(WhyMissing::Age {
                        enough: params.guard_min_age_seconds,
                        uptime: params.guard_uptime_permille,
                    }),
                Flags::HSDIR => WhyMissing::Uptime {
                    enough: params.hsdir_min_uptime_seconds,
                },
                Flags::MEET => needs([Flags::FAST, Flags::STABLE]).unwrap_or(WhyMissing::Untold),
                _ => WhyMissing::Untold,
            };
            MissingFlag { flag, why }
        })
        .collect()
}

impl fmt::Display for WhyMissing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let about = |seconds: u32| About(Duration::from_secs(seconds.into()));
        match *self {
            Self::Unreached => {
                f.write_str("most authorities did not reach it when they last tried")
            }
            Self::Weight { has, needs } => {
                write!(f, "it carries {has} KiB/s, and {needs} are needed now")
            }
            Self::Breaks { enough } => write!(
                f,
                "it has had breaks: {} between two are enough, or as much as half of the relays have",
                about(enough)
            ),
            Self::Age { enough, uptime } => write!(
                f,
                "known for too short a time or away too often: {} and {} % are enough",
                about(enough),
                uptime / 10
            ),
            Self::Uptime { enough } => write!(f, "it has not been up for {} yet", about(enough)),
            Self::Needs(flag) => write!(f, "it needs {flag}"),
            Self::Untold => f.write_str("the authorities do not say why"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use cepa_common::testkit::{consensus_of, identity, network_with, web_entry};

    use super::*;

    /// Why the first of eight relays lacks flags, if it has these flags and this weight and the others have more.
    fn why(flags: Flags, weight: u32, exits: bool) -> Vec<(Flags, WhyMissing)> {
        let all = Flags::VALID | Flags::RUNNING | Flags::FAST | Flags::STABLE | Flags::GUARD;
        let own = web_entry(1, flags, weight);
        let others = (2..=8).map(|n| web_entry(n, all, 5_000));
        let entries = std::iter::once(own.clone()).chain(others).collect();
        let consensus = consensus_of(&network_with(3, BTreeMap::new()), 1_900_000_000, entries);
        let missing = of(
            &own,
            &consensus,
            &Own {
                identity: identity(1),
                offers: Flags::GUARD | Flags::HSDIR,
                exits,
            },
        );
        let missing = missing.into_iter();
        missing.map(|missing| (missing.flag, missing.why)).collect()
    }

    #[test]
    fn each_flag_that_could_be_there_is_explained() {
        let base = Flags::VALID | Flags::RUNNING;
        let breaks = WhyMissing::Breaks { enough: 604_800 };
        let uptime = WhyMissing::Uptime { enough: 345_600 };
        // A relay that carries little: what is needed is what seven of eight relays have, or 100 if that is less.
        let weight = WhyMissing::Weight { has: 7, needs: 100 };
        let expected = [
            (Flags::STABLE, breaks),
            (Flags::FAST, weight),
            (Flags::GUARD, WhyMissing::Needs(Flags::FAST)),
            (Flags::HSDIR, uptime),
        ];
        assert_eq!(why(base, 7, false), expected);
        // Where the weight is enough, the authorities' own reasons are what is left.
        let fast = base | Flags::FAST | Flags::STABLE | Flags::HSDIR;
        let weight = WhyMissing::Weight {
            has: 1_999,
            needs: 2_000,
        };
        assert_eq!(why(fast, 1_999, false), [(Flags::GUARD, weight)]);
        let age = WhyMissing::Age {
            enough: 691_200,
            uptime: 980,
        };
        let expected = [(Flags::GUARD, age), (Flags::EXIT, WhyMissing::Untold)];
        assert_eq!(why(fast, 2_000, true), expected);
        assert_eq!(why(fast | Flags::GUARD | Flags::EXIT, 1, true), []);
        // Who is not reached lacks everything for that alone.
        let unreached = why(Flags::VALID, 7, false);
        assert_eq!(unreached[0], (Flags::RUNNING, WhyMissing::Unreached));
        let needs = WhyMissing::Needs(Flags::RUNNING);
        assert!(unreached[1..].iter().all(|(_, why)| *why == needs));
    }

    #[test]
    fn reasons_are_sentences() {
        let reasons = [
            WhyMissing::Unreached,
            WhyMissing::Weight { has: 5, needs: 100 },
            WhyMissing::Breaks { enough: 7 * 86_400 },
            WhyMissing::Age {
                enough: 8 * 86_400,
                uptime: 980,
            },
            WhyMissing::Uptime { enough: 345_600 },
            WhyMissing::Needs(Flags::FAST),
            WhyMissing::Untold,
        ];
        let said = reasons.map(|reason| reason.to_string());
        assert!(said[1].contains("5 KiB/s, and 100"), "{}", said[1]);
        assert!(said[2].contains("7 days"), "{}", said[2]);
        assert!(said[3].contains("8 days and 98 %"), "{}", said[3]);
        assert!(said[4].contains("4 days"), "{}", said[4]);
        assert_eq!(said[5], "it needs Fast");
        assert!(said.iter().all(|said| !said.ends_with('.')));
    }
}
