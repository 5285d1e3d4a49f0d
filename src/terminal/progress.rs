//! How far something that takes long has got.

/// How far a node is, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Percentage of the way until the client works.
    pub percent: u8,
    /// What happens now.
    pub what: String,
    /// Is this a step within a step, which does not belong in a log?
    pub is_detail: bool,
    /// Why the last round of asking for a consensus failed; empty if none has.
    pub waits_for: String,
    /// What was found to be wrong, the earliest first.
    pub warnings: Vec<String>,
}
