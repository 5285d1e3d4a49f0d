//! What a relay tells of the files that it keeps for itself.

use core::fmt;

use tracing::Level;

/// What is wrong with a file that a relay keeps for itself, and how the relay goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DiskTrouble {
    /// A consensus cannot be read.
    ConsensusLost,
    /// A consensus can be read and is not valid.
    ConsensusInvalid,
    /// A consensus cannot be written.
    ConsensusNotWritten,
    /// An onion key is damaged; its file is put aside, and another key takes its place.
    OnionKeyDamaged,
    /// The newest record of the onion keys' times is damaged; the one before is used.
    OnionTimesDamaged,
    /// No record of the onion keys' times can be read.
    OnionTimesLost,
    /// The newest record of what an authority knows of relays is damaged; the one before is used.
    KnowledgeDamaged,
    /// No record of what an authority knows of relays can be read, or another version wrote it.
    KnowledgeLost,
    /// The record of what an authority knows of relays can be neither read nor written.
    KnowledgeUnusable,
    /// What an authority knows of relays cannot be written.
    KnowledgeNotWritten,
}

impl DiskTrouble {
    /// The level of the log line.
    pub fn level(self) -> Level {
        match self {
            Self::KnowledgeUnusable => Level::ERROR,
            _ => Level::WARN,
        }
    }
}

impl fmt::Display for DiskTrouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ConsensusLost => "a consensus on disk is lost, and will be fetched again",
            Self::ConsensusInvalid => "a consensus on disk is not valid, and is not used",
            Self::ConsensusNotWritten => {
                "a consensus cannot be written to disk; relaying goes on without"
            }
            Self::OnionKeyDamaged => {
                "an onion key is damaged and put aside; another takes its place, and clients use it with their next \
                 consensus"
            }
            Self::OnionTimesDamaged => {
                "the times of the onion keys are damaged; those saved before are taken"
            }
            Self::OnionTimesLost => {
                "the times of the onion keys are lost; each is taken to be as old as its file"
            }
            Self::KnowledgeDamaged => {
                "what was known of relays is damaged; what was saved before is taken"
            }
            Self::KnowledgeLost => "what was known of relays is lost; the authority starts afresh",
            Self::KnowledgeUnusable => "what is learnt of relays will not survive a restart",
            Self::KnowledgeNotWritten => "what is known of relays cannot be written to disk",
        })
    }
}
