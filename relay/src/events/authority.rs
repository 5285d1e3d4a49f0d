//! What a directory authority tells of its periods and its key.

use core::fmt;

use cepa_common::dir::UnixSecs;
use cepa_common::words::{At, Count};
use tracing::Level;

/// What an authority failed at. Each is a fault of the authority itself or of its machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AuthorityFailure {
    /// The authority's own vote is not valid.
    Vote,
    /// The authority's own endorsement is not valid.
    Endorsement,
    /// The votes make no consensus.
    Count,
    /// The authority's own consensus does not verify, or its own directory does not take it.
    Consensus,
    /// The record of what the authority signed was not written, so the authority does not sign this consensus.
    RecordNotWritten,
    /// The record of what the authority signed cannot be read, so the authority votes no more.
    RecordLost,
    /// A measurement of relays has ended in a fault of the program.
    Measurement,
}

/// What has happened at an authority. `to_string` gives a line for people.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AuthorityEvent {
    /// This authority has made its vote.
    VoteMade {
        /// The time that the vote is for.
        valid_after: UnixSecs,
    },
    /// An authority has signed two votes for one time, which is proof against it.
    VotedTwice {
        /// Name of the authority that did so.
        authority: String,
        /// The time.
        valid_after: UnixSecs,
        /// The digests of the two votes.
        votes: [String; 2],
    },
    /// Too few votes were agreed on to count them.
    NoQuorum {
        /// The time that the votes are for.
        valid_after: UnixSecs,
        /// How many there are.
        votes: usize,
        /// How many are needed.
        needed: usize,
        /// Names of the authorities without a vote.
        silent: Vec<String>,
        /// How many periods have been so in a row, this one included.
        in_a_row: u64,
    },
    /// This authority was not there for all rounds of the vote, and signs nothing.
    Absent {
        /// The time that the vote is for.
        valid_after: UnixSecs,
    },
    /// The authorities agree which votes there are.
    Agreed {
        /// The time that the votes are for.
        valid_after: UnixSecs,
        /// How many votes.
        votes: usize,
    },
    /// More than half of the authorities agree on no relay: there is nothing to sign.
    NoRelays {
        /// The time that the votes are for.
        valid_after: UnixSecs,
    },
    /// This authority has signed the consensus that follows from the votes.
    Signed {
        /// The time from which the consensus is valid.
        valid_after: UnixSecs,
        /// Number of relays in the consensus.
        relays: usize,
    },
    /// More than half of the authorities have signed a consensus, or some more than before.
    Complete {
        /// The time from which the consensus is valid.
        valid_after: UnixSecs,
        /// Votes that were counted.
        votes: usize,
        /// Number of signatures of the consensus.
        signatures: usize,
        /// Names of the authorities without a vote.
        silent: Vec<String>,
        /// Names of the authorities that voted twice.
        convicted: Vec<String>,
        /// Names of the authorities that have not signed.
        unsigned: Vec<String>,
    },
    /// This authority serves this consensus from now on.
    Published {
        /// The time from which the consensus is valid.
        valid_after: UnixSecs,
        /// Number of relays in the consensus.
        relays: usize,
    },
    /// A renewed key signs from now on.
    KeyRenewed {
        /// The time until which the key may sign; `None` for a key that needs no certificate.
        until: Option<UnixSecs>,
    },
    /// The certified signing key ends soon.
    KeyEnding {
        /// Whole hours until then.
        hours_left: u64,
    },
    /// The certified signing key has ended: this authority's votes count no more.
    KeyEnded,
    /// The signing key on disk cannot be used; the key held stays.
    KeyFile {
        /// What is wrong.
        reason: String,
    },
    /// Something that should not fail has failed.
    Failed {
        /// What has failed.
        what: AuthorityFailure,
        /// Why it has failed.
        reason: String,
    },
}

impl AuthorityEvent {
    /// The level of the log line.
    pub fn level(&self) -> Level {
        match self {
            // The first period of a new network is often so. Later the same is told more and more rarely.
            Self::NoQuorum { in_a_row, .. } if *in_a_row > 1 && in_a_row.is_power_of_two() => {
                Level::WARN
            }
            Self::VoteMade { .. }
            | Self::NoQuorum { .. }
            | Self::Agreed { .. }
            | Self::Signed { .. } => Level::DEBUG,
            Self::Complete { .. } | Self::Published { .. } | Self::KeyRenewed { .. } => Level::INFO,
            Self::VotedTwice { .. }
            | Self::Absent { .. }
            | Self::NoRelays { .. }
            | Self::KeyEnding { .. } => Level::WARN,
            Self::KeyEnded | Self::KeyFile { .. } | Self::Failed { .. } => Level::ERROR,
        }
    }
}

impl AuthorityFailure {
    /// The event of this failure.
    pub(crate) fn because(self, reason: &dyn fmt::Display) -> AuthorityEvent {
        AuthorityEvent::Failed {
            what: self,
            reason: reason.to_string(),
        }
    }
}

impl fmt::Display for AuthorityFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vote => "own vote is not valid",
            Self::Endorsement => "own endorsement is not valid",
            Self::Count => "votes make no consensus",
            Self::Consensus => "own consensus is not taken",
            Self::RecordNotWritten => "signing record not written; this consensus goes unsigned",
            Self::RecordLost => {
                "this authority votes no more: its record of what it signed can't be used"
            }
            Self::Measurement => "a measurement of relays ended in a fault of this program",
        })
    }
}

impl fmt::Display for AuthorityEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// How an owner renews the signing key.
        const RENEW: &str = "`cepa authority certify` makes a new one";
        match self {
            Self::VoteMade { valid_after } => write!(f, "vote made for {}", At(*valid_after)),
            Self::VotedTwice {
                authority,
                valid_after,
                votes: [first, second],
            } => write!(
                f,
                "authority {authority} signed two votes for one time ({}): {first} and {second}",
                At(*valid_after)
            ),
            Self::NoQuorum {
                valid_after,
                votes,
                needed,
                silent,
                in_a_row,
            } => {
                write!(
                    f,
                    "too few votes to count for {}: {votes} of {needed} that are needed",
                    At(*valid_after)
                )?;
                if !silent.is_empty() {
                    write!(f, "; no vote of {}", silent.join(", "))?;
                }
                if *in_a_row > 1 {
                    write!(
                        f,
                        "; so for {in_a_row} periods in a row: without a new consensus the network ends"
                    )?;
                }
                Ok(())
            }
            Self::Absent { valid_after } => write!(
                f,
                "this authority was not there for all rounds of the vote for {}; it signs nothing",
                At(*valid_after)
            ),
            Self::Agreed { valid_after, votes } => {
                write!(
                    f,
                    "{} agreed on for {}",
                    Count(*votes, "vote"),
                    At(*valid_after)
                )
            }
            Self::NoRelays { valid_after } => write!(
                f,
                "more than half of the authorities agree on no relay for {}; nothing to sign",
                At(*valid_after)
            ),
            Self::Signed {
                valid_after,
                relays,
            } => write!(
                f,
                "consensus of {} signed, valid from {}",
                Count(*relays, "relay"),
                At(*valid_after)
            ),
            Self::Complete {
                valid_after,
                votes,
                signatures,
                silent,
                convicted,
                unsigned,
            } => {
                write!(
                    f,
                    "consensus complete, valid from {}: {}, {}",
                    At(*valid_after),
                    Count(*votes, "vote"),
                    Count(*signatures, "signature")
                )?;
                let lists = [
                    ("no vote of", silent),
                    ("voted twice", convicted),
                    ("not signed by", unsigned),
                ];
                for (what, names) in lists {
                    if !names.is_empty() {
                        write!(f, "; {what} {}", names.join(", "))?;
                    }
                }
                Ok(())
            }
            Self::Published {
                valid_after,
                relays,
            } => write!(
                f,
                "consensus of {} published, valid from {}",
                Count(*relays, "relay"),
                At(*valid_after)
            ),
            Self::KeyRenewed { until: Some(until) } => {
                write!(
                    f,
                    "signing with a renewed key from now on, until {}",
                    At(*until)
                )
            }
            Self::KeyRenewed { until: None } => {
                f.write_str("signing with a renewed key from now on")
            }
            Self::KeyEnding { hours_left } => write!(
                f,
                "the certified signing key ends in {}; {RENEW}",
                Count(*hours_left, "hour")
            ),
            Self::KeyEnded => write!(
                f,
                "the certified signing key has ended: this authority's votes count no more; {RENEW}"
            ),
            Self::KeyFile { reason } => write!(
                f,
                "the signing key on disk cannot be used; the one held stays: {reason}"
            ),
            Self::Failed { what, reason } => write!(f, "{what}: {reason}"),
        }
    }
}
