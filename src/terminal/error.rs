//! A command's failure, with what to try and the program's exit code.

use super::logging::LogError;

/// A command failed. The fields say what failed and what to try.
#[derive(Debug)]
pub struct CliError {
    /// What failed, in a sentence without its full stop.
    pub what: String,
    /// What to try.
    pub hint: String,
    /// The program's exit code.
    pub code: u8,
}

/// Exit code: something failed at work.
pub const FAILED: u8 = 1;
/// Exit code: wrong arguments or configuration. Clap uses this code too.
pub const USAGE: u8 = 2;
/// Exit code: the network could not be reached.
pub const NETWORK: u8 = 3;

impl CliError {
    /// A failure at work.
    pub fn failed(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            hint: hint.into(),
            code: FAILED,
        }
    }

    /// An error of arguments that make no sense.
    pub fn usage(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            hint: hint.into(),
            code: USAGE,
        }
    }
}

impl From<LogError> for CliError {
    fn from(error: LogError) -> Self {
        let hint = match error {
            LogError::Filter { .. } => "try --log info, or --log info,cepa_relay=debug",
            LogError::File { .. } => "check that the directory exists and is writable",
            LogError::Twice => "report this: it is a bug",
        };
        Self::usage(error.to_string(), hint)
    }
}
