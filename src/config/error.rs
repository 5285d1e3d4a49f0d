//! Why a configuration cannot be used: which key, which line, what is wrong, what to try.

use std::io;
use std::path::{Path, PathBuf};

use super::keys;
use crate::terminal::CliError;

/// A configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The text is not TOML, or a value has the wrong type.
    #[error("{0}")]
    Syntax(Problem),
    /// The file has keys that this program does not know.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Unknown(Vec<Problem>),
    /// A value is well formed and makes no sense.
    #[error("{0}")]
    Rule(Problem),
    /// Any of these errors, in a known file.
    #[error("in {}: {error}", path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        error: Box<ConfigError>,
    },
    /// What flags ask for makes no sense.
    #[error("{what}")]
    Flags {
        /// What is wrong, in words of flags.
        what: String,
    },
}

/// One thing that is wrong, and where.
#[derive(Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key, as in `relay.listen`; empty if none is to blame.
    pub key: String,
    /// The line, counted from 1, if it is known.
    pub line: Option<usize>,
    /// What is wrong.
    pub what: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.key)?;
        match (self.line, self.key.is_empty()) {
            (Some(line), true) => write!(f, "line {line}: ")?,
            (Some(line), false) => write!(f, " (line {line}): ")?,
            (None, true) => {}
            (None, false) => f.write_str(": ")?,
        }
        f.write_str(&self.what)
    }
}

impl ConfigError {
    /// The value of `key` breaks a rule.
    pub fn rule(key: &str, what: impl Into<String>) -> Self {
        Self::Rule(Problem {
            key: key.to_owned(),
            line: None,
            what: what.into(),
        })
    }

    /// Adds to the error that it is in the file at `path`.
    pub(super) fn in_file(self, path: &Path) -> Self {
        Self::InFile {
            path: path.to_owned(),
            error: Box::new(self),
        }
    }

    /// The error of a configuration that flags made: it names flags in place of keys.
    pub fn of_flags(self) -> Self {
        Self::Flags {
            what: keys::in_flags(&self.to_string()),
        }
    }

    /// What to try.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => {
                "check the path; `cepa run --print-config` writes a file to start from"
            }
            Self::InFile { error, .. } => error.hint(),
            Self::Syntax(_) | Self::Unknown(_) | Self::Rule(_) => {
                "docs/config.md and `cepa run --print-config` explain every key; a key that is left out has its default"
            }
            Self::Flags { .. } => {
                "the command's --help explains every flag; one that is left out has its default"
            }
        }
    }
}

impl From<ConfigError> for CliError {
    fn from(error: ConfigError) -> Self {
        Self::usage(error.to_string(), error.hint())
    }
}
