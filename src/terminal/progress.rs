//! How far something that takes long has got.

/// How far a node is, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Per cent of the way to being of use.
    pub(crate) percent: u8,
    /// What happens now.
    pub(crate) what: String,
    /// It is a step within a step: nothing for a log.
    pub(crate) is_detail: bool,
    /// A round of asking for a consensus has failed.
    pub(crate) has_waited: bool,
    /// What was found to be wrong, the first first.
    pub(crate) warnings: Vec<String>,
}
