//! TOML to [`Config`], with errors that say which key and which line.

use std::borrow::Cow;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_ignored::Path as KeyPath;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer};

use super::{Config, keys};
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
    /// Keys that nobody knows.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Unknown(Vec<Problem>),
    /// A value that is well formed and cannot be meant.
    #[error("{0}")]
    Rule(Problem),
    /// Any of these, in a known file.
    #[error("in {}: {error}", path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        error: Box<ConfigError>,
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

    /// What to try.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => {
                "check the path; `cepa run --print-config` writes a file to start from"
            }
            Self::InFile { error, .. } => error.hint(),
            Self::Syntax(_) | Self::Unknown(_) | Self::Rule(_) => {
                "docs/config.md and `cepa run --print-config` explain every key"
            }
        }
    }
}

impl From<ConfigError> for CliError {
    fn from(error: ConfigError) -> Self {
        Self::usage(error.to_string(), error.hint())
    }
}

/// The configuration in `text`. Its rules are not checked yet.
pub(super) fn parse(text: &str) -> Result<Config, ConfigError> {
    let document = DeTable::parse(text).map_err(|error| syntax(text, None, &error))?;
    let mut unknown = Vec::new();
    let deserializer = Deserializer::parse(text).map_err(|error| syntax(text, None, &error))?;
    let config = serde_ignored::deserialize(deserializer, |path| unknown.push(dotted(&path)));
    // A mistyped key often leaves another one missing or wrong, so these come first.
    if !unknown.is_empty() {
        let problems = unknown
            .into_iter()
            .map(|key| unknown_key(text, &document, key))
            .collect();
        return Err(ConfigError::Unknown(problems));
    }
    config.map_err(|error| syntax(text, Some(document.get_ref()), &error))
}

fn unknown_key(text: &str, document: &Spanned<DeTable<'_>>, key: String) -> Problem {
    let line = span_of(document.get_ref(), &key).map(|span| line_at(text, span.start));
    let what = format!(
        "unknown key; the nearest that exists is {}",
        keys::nearest(&key)
    );
    Problem { key, line, what }
}

fn syntax(text: &str, document: Option<&DeTable<'_>>, error: &toml::de::Error) -> ConfigError {
    let key = error
        .span()
        .and_then(|span| document.and_then(|table| key_at(table, &span)))
        .unwrap_or_default();
    let line = error.span().map(|span| line_at(text, span.start));
    ConfigError::Syntax(Problem {
        key,
        line,
        what: error.message().trim().to_owned(),
    })
}

/// A path as people write it: `relay.listen`.
fn dotted(path: &KeyPath<'_>) -> String {
    let (parent, leaf): (_, Cow<'_, str>) = match path {
        KeyPath::Root => return String::new(),
        KeyPath::Map { parent, key } => (parent, Cow::Borrowed(key)),
        KeyPath::Seq { parent, index } => (parent, Cow::Owned(index.to_string())),
        // Wrappers of the type, which the file does not show.
        KeyPath::Some { parent }
        | KeyPath::NewtypeStruct { parent }
        | KeyPath::NewtypeVariant { parent } => return dotted(parent),
    };
    match dotted(parent) {
        above if above.is_empty() => leaf.into_owned(),
        above => format!("{above}.{leaf}"),
    }
}

/// Where the key with this dotted path stands.
fn span_of(table: &DeTable<'_>, key: &str) -> Option<Range<usize>> {
    let (first, rest) = key
        .split_once('.')
        .map_or((key, None), |(a, b)| (a, Some(b)));
    let (name, value) = table
        .iter()
        .find(|(name, _)| name.get_ref().as_ref() == first)?;
    match (rest, value.get_ref()) {
        (Some(rest), DeValue::Table(inner)) => span_of(inner, rest),
        _ => Some(name.span()),
    }
}

/// The dotted path of the innermost key whose value covers the beginning of `span`.
fn key_at(table: &DeTable<'_>, span: &Range<usize>) -> Option<String> {
    table.iter().find_map(|(name, value)| {
        let inner = match value.get_ref() {
            DeValue::Table(inner) => key_at(inner, span),
            _ => None,
        };
        match inner {
            Some(inner) => Some(format!("{}.{inner}", name.get_ref())),
            None => value
                .span()
                .contains(&span.start)
                .then(|| name.get_ref().to_string()),
        }
    })
}

/// The line of the byte at `offset`, counted from 1.
fn line_at(text: &str, offset: usize) -> usize {
    1 + text
        .bytes()
        .take(offset)
        .filter(|byte| *byte == b'\n')
        .count()
}
