//! TOML to [`Config`], with errors that say which key and which line.

use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;

use serde_ignored::Path as KeyPath;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer};

use super::error::{ConfigError, Problem};
use super::keys;
use super::node::Config;

impl Config {
    /// Reads the file at `path`, with relative paths in it taken from the file's directory, and checks it.
    ///
    /// # Errors
    /// The error says what is wrong, with its key and line.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        let mut config = checked(&text).map_err(|error| error.in_file(path))?;
        config.resolve_paths(path.parent().unwrap_or(Path::new("")));
        Ok(config)
    }
}

/// The configuration in `text`, checked.
pub(super) fn checked(text: &str) -> Result<Config, ConfigError> {
    let config = parse(text)?;
    config.check().map_err(|error| match error {
        ConfigError::Rule(problem) => ConfigError::Rule(located(text, problem)),
        error => error,
    })?;
    Ok(config)
}

/// Adds to a problem the line of its key.
fn located(text: &str, mut problem: Problem) -> Problem {
    let document = DeTable::parse(text).ok();
    let span = document.and_then(|document| span_of(document.get_ref(), &problem.key));
    problem.line = span.map(|span| line_at(text, span.start));
    problem
}

/// The configuration in `text`. The configuration's rules are not checked yet.
pub(super) fn parse(text: &str) -> Result<Config, ConfigError> {
    let document = DeTable::parse(text).map_err(|error| syntax(text, None, &error))?;
    let mut unknown = Vec::new();
    let deserializer = Deserializer::parse(text).map_err(|error| syntax(text, None, &error))?;
    let config = serde_ignored::deserialize(deserializer, |path| unknown.push(dotted(&path)));
    // A mistyped key often leaves another one missing or wrong, so unknown keys are reported first.
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
    let key = without_numbers(&key);
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
    let value = error.span().and_then(|span| text.get(span));
    let what = out_of_type(&key, value.unwrap_or_default())
        .unwrap_or_else(|| in_words(error.message().trim()));
    ConfigError::Syntax(Problem { key, line, what })
}

/// What to say of `value` if `key` takes a number with bounds.
fn out_of_type(key: &str, value: &str) -> Option<String> {
    let key = keys::find(key).filter(|key| key.is_number)?;
    let bounds = key.bounds.as_ref()?.complaint();
    let digits = value.trim_start_matches(['-', '+']);
    let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit() || b == b'_');
    Some(if is_number {
        format!("{value} is out of bounds: {bounds}")
    } else {
        format!("{value} is no whole number: {bounds}")
    })
}

/// What the reader of TOML says, in words of who wrote the file.
fn in_words(said: &str) -> String {
    if said.starts_with("unexpected leading zero") {
        return "a number has no leading zero; a mode stands in quotes, as in \"0660\"".to_owned();
    }
    said.to_owned()
}

/// A path without the places in lists, as the line says which is meant: `client.listeners.mode`.
fn without_numbers(path: &str) -> String {
    let is_number = |part: &&str| part.bytes().all(|b| b.is_ascii_digit());
    let names: Vec<_> = path.split('.').filter(|part| !is_number(part)).collect();
    names.join(".")
}

/// A path: `relay.listen`, `client.listeners.0.mode`.
fn dotted(path: &KeyPath<'_>) -> String {
    let (parent, leaf): (_, Cow<'_, str>) = match path {
        KeyPath::Root => return String::new(),
        KeyPath::Map { parent, key } => (parent, Cow::Borrowed(key)),
        KeyPath::Seq { parent, index } => (parent, Cow::Owned(index.to_string())),
        // These are wrappers of the type, which the file does not show.
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
    let inner = match (rest, value.get_ref()) {
        (Some(rest), DeValue::Table(inner)) => return span_of(inner, rest),
        (Some(rest), DeValue::Array(items)) => rest.split_once('.').and_then(|(index, rest)| {
            match items.get(index.parse::<usize>().ok()?)?.get_ref() {
                DeValue::Table(inner) => span_of(inner, rest),
                _ => None,
            }
        }),
        _ => None,
    };
    Some(inner.unwrap_or_else(|| name.span()))
}

/// The dotted path of the innermost key whose value covers the beginning of `span`.
fn key_at(table: &DeTable<'_>, span: &Range<usize>) -> Option<String> {
    table.iter().find_map(|(name, value)| {
        let inner = match value.get_ref() {
            DeValue::Table(inner) => key_at(inner, span),
            DeValue::Array(items) => items.iter().find_map(|item| match item.get_ref() {
                DeValue::Table(inner) => key_at(inner, span),
                _ => None,
            }),
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
