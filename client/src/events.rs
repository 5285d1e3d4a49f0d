//! Typed events about a client's start and its troubles, for a program to show.
//!
//! Rooms report to a [`Reporter`]. Whoever subscribes hears the present state first and then what changes. Nothing
//! grows without bound: there are one stage, a bounded list of warnings, and a ring of events in which a slow listener
//! skips ahead to the present state.

use core::fmt;
use std::collections::VecDeque;

use cepa_common::dir::{ConsensusConflict, UnixSecs, WeightLoss};
use cepa_common::ids::RelayId;
use cepa_common::log_pace::LogPace;
use cepa_common::net::directory::RevisionNews;
use cepa_common::net::news::{self, Feed, News, Standing};
use cepa_common::net::skew;
use cepa_common::words::{At, Count};
use cepa_common::world::steady;
use tracing::Level;

use crate::dir::NoConsensus;
use crate::guard::Suspicion;

/// The most warnings at a time. A further warning is reported only after one of them is over.
const MOST_WARNINGS: usize = 16;
/// Number of bytes between two reports of a download.
const REPORT_EVERY: usize = 64 * 1024;
/// Length of the longest reason in an event, in characters. Part of a reason may come from outside.
const MAX_REASON_CHARS: usize = 200;

/// The source that is asked for a consensus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DirectorySource {
    /// The authority of this name.
    Authority(String),
    /// A fallback cache of the network's file.
    Fallback(RelayId),
    /// The relay at the end of a circuit.
    Circuit,
}

impl fmt::Display for DirectorySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Authority(name) => write!(f, "authority {name}"),
            Self::Fallback(identity) => {
                let hex = identity.to_string();
                write!(f, "fallback cache {}", hex.get(..8).unwrap_or(&hex))
            }
            Self::Circuit => f.write_str("a relay at the end of a circuit"),
        }
    }
}

/// How far the client has come, and what troubles it. `to_string` gives a line for people.
///
/// ```
/// use cepa_client::{ClientEvent, DirectorySource, Warning};
///
/// let event = ClientEvent::Receiving {
///     from: DirectorySource::Authority("oak".to_owned()),
///     bytes: 40_960,
///     of: Some(81_920),
/// };
/// assert_eq!(event.to_string(), "consensus from authority oak: 40 of 80 KiB");
/// assert_eq!(event.percent(), Some(35));
/// // What is no stage of the start has no place on the way.
/// assert_eq!(ClientEvent::Warning(Warning::NetworkDown).percent(), None);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientEvent {
    /// Nothing has been done yet.
    Starting,
    /// The client connects to a source of the consensus.
    Connecting(DirectorySource),
    /// A consensus is coming in.
    Receiving {
        /// The source.
        from: DirectorySource,
        /// Number of bytes so far.
        bytes: usize,
        /// Number of bytes in all, if the source has announced it.
        of: Option<usize>,
    },
    /// No source had a consensus that may be used. The client asks again after a while.
    Waiting {
        /// Number of rounds that failed in a row.
        rounds: u32,
        /// What is wrong and what to do.
        why: NoConsensus,
    },
    /// A consensus is verified and may be used.
    Consensus {
        /// Number of relays in the consensus.
        relays: usize,
        /// Until when the consensus is valid.
        valid_until: UnixSecs,
    },
    /// The first hops are chosen.
    Guards(
        /// Names of the primary guards, best first.
        Vec<String>,
    ),
    /// This hop of the first circuit has answered.
    Circuit {
        /// Number of the hop, from 1 on.
        hop: usize,
        /// Number of hops that the circuit will have.
        hops: usize,
    },
    /// No circuit could be built. The client goes on trying.
    NoCircuit(String),
    /// A circuit is built: streams can be opened.
    Ready,
    /// The consensus may not be used any more, and there is no newer one: no stream is opened.
    Lost(NoConsensus),
    /// Something is wrong, from now on.
    Warning(Warning),
    /// What the warning said is over.
    Over(Warning),
    /// A directory cache has sent what it may not, and is not asked for a while.
    CacheMisbehaved {
        /// The cache.
        cache: RelayId,
        /// How many answers of this kind there were since this was last told.
        times: u64,
    },
    /// More was held than the client's memory limit allows, and streams were ended.
    MemoryExceeded {
        /// Bytes that were held.
        used: usize,
        /// Streams that were ended since this was last told.
        ended: u64,
    },
    /// What has become of a later revision of the network's file.
    Revision(RevisionNews),
}

impl ClientEvent {
    /// How much of the way to [`ClientEvent::Ready`] is done, in per cent; `None` for an event that is no stage of the
    /// way.
    pub fn percent(&self) -> Option<u8> {
        let share = |part: usize, whole: usize, percent: usize| {
            u8::try_from(part.saturating_mul(percent) / whole.max(1)).unwrap_or(100)
        };
        Some(match self {
            Self::Starting => 0,
            Self::Connecting(_) | Self::Waiting { .. } | Self::Lost(_) => 5,
            Self::Receiving { bytes, of, .. } => {
                10 + of.map_or(0, |of| share(*bytes.min(&of), of, 50))
            }
            Self::Consensus { .. } => 65,
            Self::Guards(_) | Self::NoCircuit(_) => 70,
            Self::Circuit { hop, hops } => 70 + share(*hop.min(hops), *hops, 29),
            Self::Ready => 100,
            Self::Warning(_)
            | Self::Over(_)
            | Self::CacheMisbehaved { .. }
            | Self::MemoryExceeded { .. }
            | Self::Revision(_) => {
                return None;
            }
        })
    }

    /// The level of the log line.
    pub fn level(&self) -> Level {
        match self {
            Self::Lost(_) | Self::Warning(Warning::TwoConsensuses(_) | Warning::WeightLost(_)) => {
                Level::ERROR
            }
            Self::Warning(Warning::ClockSkew { .. } | Warning::PathBias { .. })
            | Self::CacheMisbehaved { .. }
            | Self::MemoryExceeded { .. } => Level::WARN,
            Self::Revision(news) => news.level(),
            _ => Level::DEBUG,
        }
    }
}

impl fmt::Display for ClientEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting => f.write_str("starting"),
            Self::Connecting(to) => write!(f, "connecting to {to}"),
            Self::Receiving { from, bytes, of } => {
                let kib = |bytes: usize| bytes.div_ceil(1_024);
                match of {
                    Some(of) => {
                        write!(
                            f,
                            "consensus from {from}: {} of {} KiB",
                            kib(*bytes),
                            kib(*of)
                        )
                    }
                    None => write!(f, "consensus from {from}: {} KiB", kib(*bytes)),
                }
            }
            Self::Waiting { rounds, why } => write!(f, "no consensus yet (round {rounds}): {why}"),
            Self::Consensus {
                relays,
                valid_until,
            } => write!(
                f,
                "consensus of {} verified, valid until {}",
                Count(*relays, "relay"),
                At(*valid_until)
            ),
            Self::Guards(names) if names.is_empty() => f.write_str("no guard can be chosen"),
            Self::Guards(names) => write!(f, "guards chosen: {}", names.join(", ")),
            Self::Circuit { hop, hops } => write!(f, "first circuit: hop {hop} of {hops}"),
            Self::NoCircuit(reason) => write!(f, "no circuit yet: {reason}"),
            Self::Ready => f.write_str("ready"),
            Self::Lost(why) => write!(f, "cut off: {why}"),
            Self::Warning(warning) if warning.is_alarm() => write!(f, "ALARM: {warning}"),
            Self::Warning(warning) => write!(f, "warning: {warning}"),
            Self::Over(warning) => match warning {
                Warning::Unreachable { source, .. } => write!(f, "no matter any more: {source}"),
                Warning::ClockSkew { .. } => {
                    f.write_str("this computer's clock agrees with that of the relays again")
                }
                Warning::GuardFailing { nickname, .. } => {
                    write!(f, "the guard {nickname} answers again, or is none any more")
                }
                Warning::NetworkDown => f.write_str("a guard answers again: the network is back"),
                Warning::PathBias { nickname, .. } => {
                    write!(
                        f,
                        "most circuits through the guard {nickname} are built again"
                    )
                }
                Warning::TwoConsensuses(_) => f.write_str("the two consensuses are of the past"),
                Warning::WeightLost(_) => {
                    f.write_str("the network's weight is back, or has been lower for a day")
                }
            },
            Self::CacheMisbehaved { cache, times } => {
                write!(
                    f,
                    "the directory cache {cache} misbehaved and is not asked for a while"
                )?;
                match times {
                    0 | 1 => Ok(()),
                    times => write!(f, " ({times} such answers since this was last said)"),
                }
            }
            Self::MemoryExceeded { used, ended } => write!(
                f,
                "streams hold more than the client's memory limit allows ({} MiB); {} ended, those first that hold most. \
                 If applications are to read so slowly, raise `limits.client_memory_mib`",
                used >> 20,
                Count(*ended, "stream")
            ),
            Self::Revision(news) => news.fmt(f),
        }
    }
}

/// A trouble that the client's owner should know about. `to_string` tells people of it, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// A source of the consensus cannot be reached.
    Unreachable {
        /// The source that cannot be reached.
        source: DirectorySource,
        /// The system's error.
        reason: String,
    },
    /// This computer's clock is wrong, as most relays say.
    ClockSkew {
        /// By how many seconds the clock is ahead; negative if it is behind.
        ahead_secs: i64,
    },
    /// A primary guard does not answer.
    GuardFailing {
        /// Identity of the relay.
        identity: RelayId,
        /// Nickname of the relay.
        nickname: String,
    },
    /// No guard answers, so the network is at fault, most likely that of this computer.
    NetworkDown,
    /// A guard lets too few circuits be built.
    PathBias {
        /// Identity of the relay.
        identity: RelayId,
        /// Nickname of the relay.
        nickname: String,
        /// How strong the suspicion is.
        suspicion: Suspicion,
        /// Number of circuits that the guard had answered.
        begun: u32,
        /// Number of those circuits that were built.
        built: u32,
    },
    /// Two valid consensuses for one time (S25).
    TwoConsensuses(ConsensusConflict),
    /// The newest consensus has lost more than a third of its weight at once. It is in use.
    WeightLost(WeightLoss),
}

impl Warning {
    /// Are both warnings about the same matter, whatever they say about it?
    pub fn is_same_matter(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Unreachable { source, .. }, Self::Unreachable { source: theirs, .. }) => {
                source == theirs
            }
            (
                Self::GuardFailing { identity, .. },
                Self::GuardFailing {
                    identity: theirs, ..
                },
            )
            | (
                Self::PathBias { identity, .. },
                Self::PathBias {
                    identity: theirs, ..
                },
            ) => identity == theirs,
            _ => core::mem::discriminant(self) == core::mem::discriminant(other),
        }
    }

    /// Does the warning need somebody's attention, because the trouble does not mend itself?
    pub fn is_alarm(&self) -> bool {
        match self {
            Self::TwoConsensuses(_) | Self::WeightLost(_) => true,
            Self::PathBias { suspicion, .. } => *suspicion >= Suspicion::Warn,
            _ => false,
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable { source, reason } => write!(
                f,
                "{source} cannot be reached ({reason}); others are asked. If none answers, check this computer's network"
            ),
            Self::ClockSkew { ahead_secs } => f.write_str(&skew::advice(*ahead_secs)),
            Self::GuardFailing { nickname, .. } => write!(
                f,
                "the guard {nickname} does not answer; another is used, and it is tried again from time to time"
            ),
            Self::NetworkDown => f.write_str(
                "no guard answers: this computer's network seems to be down, or something keeps it from the relays",
            ),
            Self::PathBias {
                nickname,
                suspicion,
                begun,
                built,
                ..
            } => {
                write!(
                    f,
                    "the guard {nickname} let only {built} of {} be built; ",
                    Count(*begun, "circuit")
                )?;
                f.write_str(match suspicion {
                    Suspicion::Extreme => {
                        "it may let only some through, and is not used while there is another"
                    }
                    _ => "it may be overloaded, or choose which to let through",
                })
            }
            Self::TwoConsensuses(conflict) => write!(
                f,
                "two consensuses for one time ({}) are validly signed: {} and {}. Broken or hostile are the authorities \
                 that signed both: {}. The one held stays; tell whoever runs the network",
                At(conflict.valid_after),
                conflict.held,
                conflict.offered,
                if conflict.signed_both.is_empty() {
                    "none is known".to_owned()
                } else {
                    conflict.signed_both.join(", ")
                }
            ),
            Self::WeightLost(loss) => write!(
                f,
                "{loss}. Circuits go through those that are left; tell whoever runs the network"
            ),
        }
    }
}

#[derive(Debug)]
struct State {
    stage: ClientEvent,
    warnings: Vec<Warning>,
    has_joined: bool,
    /// Paces the events about caches that misbehave.
    misbehaved: LogPace,
    /// Paces the events about memory.
    memory: LogPace,
}

impl Standing for State {
    type Event = ClientEvent;

    fn present(&self) -> VecDeque<ClientEvent> {
        let warnings = self.warnings.iter().cloned();
        let stage = core::iter::once(self.stage.clone());
        stage.chain(warnings.map(ClientEvent::Warning)).collect()
    }
}

impl State {
    fn set(&mut self, stage: ClientEvent, tell: &mut dyn FnMut(ClientEvent)) {
        self.stage = stage.clone();
        tell(stage);
    }
}

/// Where the rooms of a client report to. Clones share it.
#[derive(Clone, Debug)]
pub struct Reporter(News<State>);

impl Default for Reporter {
    fn default() -> Self {
        Self(News::new(State {
            stage: ClientEvent::Starting,
            warnings: Vec::new(),
            has_joined: false,
            misbehaved: LogPace::default(),
            memory: LogPace::default(),
        }))
    }
}

impl Reporter {
    /// Changes the state, and tells events. This is the only place where a client's events become lines of the log.
    fn change(&self, change: impl FnOnce(&mut State, &mut dyn FnMut(ClientEvent))) {
        self.0.change(|state, tell| {
            let mut tell = |event: ClientEvent| {
                news::log(event.level(), &event);
                tell(event);
            };
            change(state, &mut tell);
        });
    }

    /// Reports the stage that the client has come to. A stage counts only before the client is ready, and after the
    /// client was cut off.
    pub(crate) fn stage(&self, stage: ClientEvent) {
        self.change(|state, tell| {
            let is_news = match (&state.stage, &stage) {
                (ClientEvent::Ready, ClientEvent::Lost(_)) => true,
                (ClientEvent::Ready, _) => false,
                (held, new) => held != new,
            };
            state.has_joined |= matches!(stage, ClientEvent::Consensus { .. });
            if is_news {
                state.set(stage, tell);
            }
        });
    }

    /// Reports that a consensus is coming in. The event is sent when another piece has come, from whichever source is
    /// ahead.
    pub(crate) fn receiving(&self, from: &DirectorySource, bytes: usize, of: Option<usize>) {
        self.change(|state, tell| {
            let is_news = match &state.stage {
                ClientEvent::Ready => false,
                ClientEvent::Receiving { bytes: before, .. } => {
                    bytes >= before.saturating_add(REPORT_EVERY)
                        || (Some(bytes) == of && bytes > *before)
                }
                _ => true,
            };
            if is_news {
                let from = from.clone();
                state.set(ClientEvent::Receiving { from, bytes, of }, tell);
            }
        });
    }

    /// Reports that something is wrong. The warning is sent once, and again only if its words change.
    pub(crate) fn warn(&self, warning: Warning) {
        let warning = match warning {
            Warning::Unreachable { source, reason } => Warning::Unreachable {
                source,
                reason: reason.chars().take(MAX_REASON_CHARS).collect(),
            },
            other => other,
        };
        self.change(|state, tell| {
            let warnings = &mut state.warnings;
            let same = warnings
                .iter()
                .position(|held| held.is_same_matter(&warning));
            match same {
                Some(at) => {
                    let held = core::mem::replace(&mut warnings[at], warning.clone());
                    // A clock that is wrong by a second more is no news.
                    if held.to_string() == warning.to_string() {
                        return;
                    }
                }
                None if warnings.len() >= MOST_WARNINGS => return,
                None => warnings.push(warning.clone()),
            }
            tell(ClientEvent::Warning(warning));
        });
    }

    /// Reports that the warnings which `is_over` names are over.
    pub(crate) fn over(&self, is_over: impl Fn(&Warning) -> bool) {
        self.change(|state, tell| {
            let over = state.warnings.extract_if(.., |held| is_over(held));
            over.map(ClientEvent::Over).for_each(tell);
        });
    }

    /// Reports that a directory cache has misbehaved. Within ten seconds one event tells of all.
    pub(crate) fn misbehaved(&self, cache: RelayId) {
        self.change(|state, tell| {
            if let Some(times) = state.misbehaved.count(1, steady::now()) {
                tell(ClientEvent::CacheMisbehaved { cache, times });
            }
        });
    }

    /// Reports that `ended` streams were ended, as `used` bytes were held. Within ten seconds one event tells of all.
    pub(crate) fn memory_exceeded(&self, used: usize, ended: u64) {
        self.change(|state, tell| {
            if let Some(ended) = state.memory.count(ended, steady::now()) {
                tell(ClientEvent::MemoryExceeded { used, ended });
            }
        });
    }

    /// Reports what has become of a later revision of the network's file.
    pub(crate) fn revision(&self, news: RevisionNews) {
        self.change(|_, tell| tell(ClientEvent::Revision(news)));
    }

    /// Can streams be opened?
    pub fn is_ready(&self) -> bool {
        self.0.look(|state| state.stage == ClientEvent::Ready)
    }

    /// Was there ever a consensus?
    pub(crate) fn has_joined(&self) -> bool {
        self.0.look(|state| state.has_joined)
    }

    /// The present stage.
    pub fn present(&self) -> ClientEvent {
        self.0.look(|state| state.stage.clone())
    }

    /// The warnings that are in force.
    pub fn warnings(&self) -> Vec<Warning> {
        self.0.look(|state| state.warnings.clone())
    }

    /// Subscribes to events. The present state comes first.
    pub fn subscribe(&self) -> ClientEvents {
        ClientEvents(self.0.subscribe())
    }
}

/// A client's events, one after the other.
#[derive(Debug)]
pub struct ClientEvents(Feed<State>);

impl ClientEvents {
    /// The next event: first the stage that the client is at and the warnings that hold, then what happens. `None`
    /// when the client is gone. Whoever is slow misses events, and hears the present state again instead.
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<ClientEvent> {
        self.0.next().await
    }
}

#[cfg(test)]
#[path = "events_tests.rs"]
mod tests;
