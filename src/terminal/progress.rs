//! How far something that takes long has got.

/// How far a node is, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Percentage of the way until the client works.
    pub percent: u8,
    /// What happens now.
    pub what: String,
    /// Is this a step within a step, which does not belong into a log?
    pub is_detail: bool,
    /// A round of asking for a consensus has failed.
    pub has_waited: bool,
    /// What was found to be wrong, the first first.
    pub warnings: Vec<String>,
}
