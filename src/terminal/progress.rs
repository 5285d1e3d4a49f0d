//! How far something that takes long has got.

/// How far a node is, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Per cent of the way to being of use.
    pub percent: u8,
    /// What happens now.
    pub what: String,
    /// It is a step within a step: nothing for a log.
    pub is_detail: bool,
    /// A round of asking for a consensus has failed.
    pub has_waited: bool,
    /// What was found to be wrong, the first first.
    pub warnings: Vec<String>,
}
