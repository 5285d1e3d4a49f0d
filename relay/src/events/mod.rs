//! What a relay tells of itself while it runs: typed events, for a program to show and for the log.
//!
//! Rooms report to a [`Reporter`], which writes the line of the log that follows from the event and passes the event
//! on. Whoever subscribes hears first how things stand and then what changes. No event names a client, an address of
//! one, or what anybody does (S34).

mod authority;
mod clock;
mod disk;
mod refusals;
mod reporter;

use core::fmt;
use std::net::SocketAddr;

use cepa_common::dir::{ConsensusConflict, UnixSecs, WeightLoss};
use cepa_common::net::directory::RevisionNews;
use cepa_common::net::skew;
use cepa_common::words::{At, Count};
use tracing::Level;

pub use authority::{AuthorityEvent, AuthorityFailure};
pub(crate) use clock::ClockWatch;
pub use disk::DiskTrouble;
pub use refusals::{Refusal, Refusals};
pub(crate) use reporter::follow_consensus;
pub use reporter::{RelayEvents, Reporter};

/// What an authority has answered to this relay's descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DescriptorAnswer {
    /// The authority has taken the descriptor.
    Taken,
    /// The authority does not take these bytes.
    Refused {
        /// The status of the answer.
        status: u16,
        /// What the authority said.
        reason: String,
    },
    /// The authority could not be asked; it is asked again.
    Unreachable {
        /// What went wrong.
        reason: String,
    },
}

/// What the newest consensus says of this relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Listing {
    /// The consensus does not list the relay: most authorities have not heard of it, or have not reached it.
    Absent,
    /// The consensus lists the relay, but as one that most authorities cannot reach now.
    Unreachable,
    /// The consensus lists the relay, and most authorities have reached it.
    Reachable,
}

/// A bound on the connections that a relay accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConnectionBound {
    /// There are as many connections as the relay's owner allows at once.
    All,
    /// There are as many connections as the network allows one address at once.
    Address,
}

/// A class of events that a peer, or a full table or disk, can cause again and again. Within ten seconds one event of a
/// class is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Class {
    Memory,
    Share,
    Connections(ConnectionBound),
    Accept,
    Handshake,
    Difference,
    Disk(DiskTrouble),
}

/// What has happened at a relay, or how things stand there. `to_string` gives a line for people.
///
/// ```
/// use cepa_relay::{DescriptorAnswer, RelayEvent};
///
/// let event = RelayEvent::Descriptor {
///     authority: "oak".to_owned(),
///     answer: DescriptorAnswer::Refused { status: 403, reason: "not wanted".to_owned() },
/// };
/// assert_eq!(event.to_string(), "authority oak refused the descriptor (403): not wanted");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RelayEvent {
    /// The relay accepts connections at this address.
    Listening(SocketAddr),
    /// There is a new onion key.
    OnionKeyMade,
    /// The oldest onion key is erased.
    OnionKeyRetired,
    /// The onion keys could not be read, made or erased. The relay tries again.
    OnionKeysStuck {
        /// What failed.
        reason: String,
        /// What the owner can do.
        hint: String,
    },
    /// A renewed certificate of the link key is in use.
    CertificateRenewed,
    /// The certificate of the link key ends soon.
    CertificateEnding {
        /// Whole hours until then.
        hours_left: u64,
    },
    /// The certificate of the link key has ended: the relay publishes nothing.
    CertificateEnded,
    /// The relay is in another family from now on, or in none.
    Family {
        /// Whether the relay is in one.
        is_member: bool,
    },
    /// These servers are asked for the names of destinations from now on. If there are none, the exit connects to
    /// addresses alone until the system's file has one.
    NameServers(Vec<SocketAddr>),
    /// A file of the owner cannot be used; what the relay had before stays in use.
    OwnersFile {
        /// Which file cannot be used, and what is wrong.
        reason: String,
    },
    /// An authority has answered to the relay's descriptor, or could not be asked.
    Descriptor {
        /// The authority's name.
        authority: String,
        /// What the authority has answered.
        answer: DescriptorAnswer,
    },
    /// Half of the authorities or more lack the relay's descriptor, or no longer do.
    Published {
        /// Authorities that have taken the descriptor.
        taken: usize,
        /// All authorities.
        of: usize,
        /// The authorities that have answered or failed otherwise, each with what went wrong.
        missing: Vec<String>,
    },
    /// There is a newer consensus.
    Consensus {
        /// Number of relays in the consensus.
        relays: usize,
        /// The time from which the consensus is valid.
        valid_after: UnixSecs,
        /// The time until which the consensus is valid.
        valid_until: UnixSecs,
    },
    /// No newer consensus has come for at least one interval more than usual.
    ConsensusMissed {
        /// The time from which the newest is valid; `None` if there has been none since the relay started.
        valid_after: Option<UnixSecs>,
        /// Can clients still use the newest?
        is_usable: bool,
    },
    /// What the newest consensus says of this relay has changed.
    Listing(Listing),
    /// Two valid consensuses for one time (S25).
    TwoConsensuses(ConsensusConflict),
    /// This computer's clock is wrong, or right again, as several authorities say.
    Clock {
        /// By how many seconds the clock is ahead, or behind if the number is negative; `None` if it is right.
        wrong_by: Option<i64>,
    },
    /// The newest consensus has lost more than a third of its weight at once.
    WeightLost(WeightLoss),
    /// More was held than the memory limit allows, and circuits were ended.
    MemoryExceeded {
        /// Bytes that were held.
        used: usize,
        /// Circuits that were ended since this was last told.
        ended: u64,
    },
    /// A peer that is no relay held more than a quarter of the memory limit, and circuits of its own were ended.
    ShareExceeded {
        /// Circuits that were ended since this was last told.
        ended: u64,
    },
    /// Connections were not accepted, as there are as many as may be.
    ConnectionsFull {
        /// Which bound was reached.
        bound: ConnectionBound,
        /// Connections turned away since this was last told.
        refused: u64,
    },
    /// The system did not hand over a connection. The relay tries again.
    AcceptFailed {
        /// What the system said the last time.
        reason: String,
        /// How often this has happened since it was last told.
        times: u64,
    },
    /// An answer to a CREATE ended in a fault of this program. The circuit is closed, and the thread goes on.
    HandshakePanicked {
        /// How often this has happened since it was last told.
        times: u64,
    },
    /// A source's difference between two consensuses was wrong; the whole consensus is asked for instead.
    WrongDifference {
        /// What was wrong the last time.
        reason: String,
        /// How often this has happened since it was last told.
        times: u64,
    },
    /// Something is wrong with a file that the relay keeps for itself.
    Disk {
        /// What is wrong, and how the relay goes on.
        trouble: DiskTrouble,
        /// What the system said the last time.
        reason: String,
        /// How often this has happened since it was last told.
        times: u64,
    },
    /// The relay's own descriptor is not valid, and is not published.
    DescriptorInvalid {
        /// What is wrong with the descriptor.
        reason: String,
    },
    /// What has become of a later revision of the network's file.
    Revision(RevisionNews),
    /// What happened to the relay as a directory authority.
    Authority(AuthorityEvent),
}

impl RelayEvent {
    /// Whether the event says how things stand, so that it holds until another of the same matter comes.
    pub fn is_state(&self) -> bool {
        matches!(
            self,
            Self::Listening(_)
                | Self::Descriptor { .. }
                | Self::Consensus { .. }
                | Self::Listing(_)
                | Self::Family { .. }
                | Self::NameServers(_)
                | Self::TwoConsensuses(_)
                | Self::Clock { .. }
        )
    }

    /// The class of an event that can come again and again, and the count in it that is summed up while events of the
    /// class are left out.
    fn class(&mut self) -> Option<(Class, &mut u64)> {
        Some(match self {
            Self::MemoryExceeded { ended, .. } => (Class::Memory, ended),
            Self::ShareExceeded { ended } => (Class::Share, ended),
            Self::ConnectionsFull { bound, refused } => (Class::Connections(*bound), refused),
            Self::AcceptFailed { times, .. } => (Class::Accept, times),
            Self::HandshakePanicked { times } => (Class::Handshake, times),
            Self::WrongDifference { times, .. } => (Class::Difference, times),
            Self::Disk { trouble, times, .. } => (Class::Disk(*trouble), times),
            _ => return None,
        })
    }

    /// What the event says was refused, and how often.
    fn refusal(&self) -> Option<(Refusal, u64)> {
        match self {
            Self::ConnectionsFull { bound, refused } => Some(match bound {
                ConnectionBound::All => (Refusal::ConnectionsFull, *refused),
                ConnectionBound::Address => (Refusal::AddressFull, *refused),
            }),
            Self::AcceptFailed { times, .. } => Some((Refusal::AcceptFailed, *times)),
            Self::MemoryExceeded { ended, .. } => Some((Refusal::MemoryFull, *ended)),
            Self::ShareExceeded { ended } => Some((Refusal::ShareFull, *ended)),
            _ => None,
        }
    }

    /// Do both events say how one thing stands, whatever they say of it?
    fn is_same_matter(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Descriptor { authority, .. },
                Self::Descriptor {
                    authority: other, ..
                },
            ) => authority == other,
            _ => core::mem::discriminant(self) == core::mem::discriminant(other),
        }
    }

    /// The level of the log line.
    pub fn level(&self) -> Level {
        match self {
            Self::Listening(_)
            | Self::Consensus { .. }
            | Self::Listing(_)
            | Self::Family { .. }
            | Self::ShareExceeded { .. } => Level::DEBUG,
            Self::NameServers(servers) if servers.is_empty() => Level::WARN,
            Self::NameServers(_) => Level::DEBUG,
            Self::OnionKeyMade
            | Self::OnionKeyRetired
            | Self::CertificateRenewed
            | Self::Clock { wrong_by: None } => Level::INFO,
            Self::Descriptor { answer, .. } => match answer {
                DescriptorAnswer::Refused { .. } => Level::WARN,
                DescriptorAnswer::Taken | DescriptorAnswer::Unreachable { .. } => Level::DEBUG,
            },
            Self::Published { taken, of, .. } => match taken * 2 > *of {
                true => Level::INFO,
                false => Level::WARN,
            },
            Self::ConnectionsFull { bound, .. } => match bound {
                ConnectionBound::All => Level::WARN,
                ConnectionBound::Address => Level::DEBUG,
            },
            Self::CertificateEnding { .. }
            | Self::ConsensusMissed {
                is_usable: true, ..
            }
            | Self::ConsensusMissed {
                valid_after: None, ..
            }
            | Self::Clock { wrong_by: Some(_) }
            | Self::OwnersFile { .. }
            | Self::MemoryExceeded { .. }
            | Self::AcceptFailed { .. }
            | Self::WrongDifference { .. } => Level::WARN,
            Self::OnionKeysStuck { .. }
            | Self::ConsensusMissed { .. }
            | Self::CertificateEnded
            | Self::TwoConsensuses(_)
            | Self::WeightLost(_)
            | Self::HandshakePanicked { .. }
            | Self::DescriptorInvalid { .. } => Level::ERROR,
            Self::Disk { trouble, .. } => trouble.level(),
            Self::Revision(news) => news.level(),
            Self::Authority(event) => event.level(),
        }
    }
}

/// How often something has happened since it was last told, if that was more than once.
struct Times(u64);

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 | 1 => Ok(()),
            times => write!(f, " ({times} times since this was last said)"),
        }
    }
}

impl RelayEvent {
    /// The event of one more trouble with a file that the relay keeps for itself.
    pub(crate) fn disk(trouble: DiskTrouble, reason: &dyn fmt::Display) -> Self {
        Self::Disk {
            trouble,
            reason: reason.to_string(),
            times: 1,
        }
    }
}

impl From<AuthorityEvent> for RelayEvent {
    fn from(event: AuthorityEvent) -> Self {
        Self::Authority(event)
    }
}

impl fmt::Display for RelayEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// How an owner renews the certificate of the link key.
        const RENEW: &str = "make a new one with `cepa keys certify` where the identity is, and put it in with `cepa \
                             keys install`";
        match self {
            Self::Listening(address) => write!(f, "listening at {address}"),
            Self::OnionKeyMade => f.write_str("a new onion key is in use"),
            Self::OnionKeyRetired => f.write_str("the oldest onion key is erased"),
            Self::OnionKeysStuck { reason, hint } => {
                write!(
                    f,
                    "onion keys cannot be kept in order; trying again: {reason} ({hint})"
                )
            }
            Self::CertificateRenewed => {
                f.write_str("a renewed certificate of the link key is in use")
            }
            Self::CertificateEnding { hours_left } => write!(
                f,
                "the certificate of the link key ends in {}; the network lists a relay only while it is valid for \
                 longer than a consensus: {RENEW}",
                Count(*hours_left, "hour")
            ),
            Self::CertificateEnded => write!(
                f,
                "the certificate of the link key has ended, and this relay publishes nothing: {RENEW}"
            ),
            Self::Family { is_member: true } => f.write_str("this relay is in a family"),
            Self::Family { is_member: false } => f.write_str("this relay is in no family"),
            Self::NameServers(servers) if servers.is_empty() => f.write_str(
                "no name server is known, and this exit connects to no names: put one into /etc/resolv.conf, which is \
                 read again, or set the key `exit.resolver`",
            ),
            Self::NameServers(servers) => {
                f.write_str("names are asked of")?;
                servers.iter().try_for_each(|server| write!(f, " {server}"))
            }
            Self::OwnersFile { reason } => {
                write!(f, "{reason}; going on with what was there before")
            }
            Self::Descriptor { authority, answer } => match answer {
                DescriptorAnswer::Taken => {
                    write!(f, "authority {authority} has taken the descriptor")
                }
                DescriptorAnswer::Refused { status, reason } => {
                    write!(
                        f,
                        "authority {authority} refused the descriptor ({status}): {reason}"
                    )
                }
                DescriptorAnswer::Unreachable { reason } => {
                    write!(
                        f,
                        "the descriptor has not reached authority {authority}: {reason}"
                    )
                }
            },
            Self::Published { taken, of, missing } => {
                write!(f, "{taken} of {} took this relay's descriptor", Count(*of, "authority"))?;
                if taken * 2 <= *of {
                    f.write_str(", and more than half are needed")?;
                }
                match missing.is_empty() {
                    true => Ok(()),
                    false => write!(f, ": {}", missing.join("; ")),
                }
            }
            Self::Consensus {
                relays,
                valid_after,
                valid_until,
            } => write!(
                f,
                "consensus of {}, valid from {} until {}",
                Count(*relays, "relay"),
                At(*valid_after),
                At(*valid_until)
            ),
            Self::ConsensusMissed {
                valid_after: None, ..
            } => f.write_str(
                "no consensus could be had since this relay started: nobody finds the relay before the authorities \
                 have made one, and this machine can reach them",
            ),
            Self::ConsensusMissed {
                valid_after: Some(at),
                is_usable: true,
            } => write!(
                f,
                "no newer consensus than that of {} could be had: the authorities make none, or this machine cannot \
                 reach them; clients can still use the old one",
                At(*at)
            ),
            Self::ConsensusMissed {
                valid_after: Some(at),
                is_usable: false,
            } => write!(
                f,
                "the newest consensus, that of {}, has expired: nobody finds this relay until the authorities make a \
                 new one, and this machine can reach them",
                At(*at)
            ),
            Self::Listing(Listing::Absent) => {
                f.write_str(
                    "the newest consensus does not list this relay: most authorities have not taken its descriptor, or \
                     have not reached it",
                )
            }
            Self::Listing(Listing::Unreachable) => f.write_str(
                "the newest consensus lists this relay, but as one that most authorities cannot reach: see that the \
                 addresses of relay.advertise are this machine's, and that firewall and router let them in",
            ),
            Self::Listing(Listing::Reachable) => {
                f.write_str("the newest consensus lists this relay, and authorities reach it")
            }
            Self::TwoConsensuses(conflict) => write!(
                f,
                "two consensuses for one time ({}), {} and {}: the authorities that signed both are broken or hostile: {}",
                At(conflict.valid_after),
                conflict.held,
                conflict.offered,
                conflict.signed_both.join(", ")
            ),
            Self::Clock { wrong_by: None } => f.write_str("this computer's clock is right again"),
            Self::Clock {
                wrong_by: Some(ahead),
            } => f.write_str(&skew::advice(*ahead)),
            Self::WeightLost(loss) => loss.fmt(f),
            Self::MemoryExceeded { used, ended } => write!(
                f,
                "more is held than limits.memory_mib allows ({used} bytes); {} ended, those first that nobody reads",
                Count(*ended, "circuit")
            ),
            Self::ShareExceeded { ended } => write!(
                f,
                "a peer that is no relay held more than a quarter of limits.memory_mib; {} of it ended",
                Count(*ended, "circuit")
            ),
            Self::ConnectionsFull { bound, refused } => {
                let whose = match bound {
                    ConnectionBound::All => "this relay",
                    ConnectionBound::Address => "one address",
                };
                let raise = match bound {
                    ConnectionBound::All => " (limits.connections bounds them, and may be raised while it runs)",
                    ConnectionBound::Address => "",
                };
                write!(
                    f,
                    "{whose} has as many connections as may be; {refused} not accepted{raise}"
                )
            }
            Self::AcceptFailed { reason, times } => write!(
                f,
                "cannot accept a connection; trying again: {reason}{}",
                Times(*times)
            ),
            Self::HandshakePanicked { times } => write!(
                f,
                "the answer to a CREATE ended in a fault of this program; its circuit is closed{}",
                Times(*times)
            ),
            Self::WrongDifference { reason, times } => write!(
                f,
                "a difference of consensuses was wrong; the whole is asked for: {reason}{}",
                Times(*times)
            ),
            Self::Disk {
                trouble,
                reason,
                times,
            } => write!(f, "{trouble}: {reason}{}", Times(*times)),
            Self::DescriptorInvalid { reason } => write!(
                f,
                "this relay's own descriptor is not valid, and is not published: {reason}"
            ),
            Self::Revision(news) => news.fmt(f),
            Self::Authority(event) => event.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests;
