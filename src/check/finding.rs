//! What a check found: how it came out, in a sentence, with what to do.

use serde::Serialize;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// It is as it should be.
    Ok,
    /// It works, and something goes beside Cepa or is open to others.
    Warn,
    /// It does not work.
    Fail,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// What was looked at.
    pub(crate) check: String,
    /// How it came out.
    pub(crate) result: Verdict,
    /// What was found, in a sentence without its full stop.
    pub(crate) says: String,
    /// What to do; empty where nothing is to be done.
    #[serde(rename = "try", skip_serializing_if = "String::is_empty")]
    pub(crate) hint: String,
}

impl Finding {
    fn new(check: &str, result: Verdict, says: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            check: check.to_owned(),
            result,
            says: says.into(),
            hint: hint.into(),
        }
    }

    /// It is as it should be.
    pub(super) fn ok(check: &str, says: impl Into<String>) -> Self {
        Self::new(check, Verdict::Ok, says, "")
    }

    /// It works, and leaves something open.
    pub(super) fn warn(check: &str, says: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(check, Verdict::Warn, says, hint)
    }

    /// It does not work.
    pub(super) fn fail(check: &str, says: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(check, Verdict::Fail, says, hint)
    }
}
