//! The settings for people: `--print-config` and the tables of docs/config.md.

use toml::{Table as Toml, Value};

use super::node::Config;
use super::section::{Changes, Key, Table};
use super::settings::SECTIONS;

/// `config` as a file with comments. Settings in effect stand there as they are, all others are commented out.
pub fn print(config: &Config) -> String {
    let effective = Toml::try_from(config).unwrap_or_default();
    let mut out = String::from("# Configuration of a Cepa node. docs/config.md explains more.\n");
    for section in &SECTIONS {
        let values = effective.get(section.name).and_then(Value::as_table);
        let off = if values.is_some() { "" } else { "# " };
        let defaults = (section.defaults)();
        out.push_str(&comment("\n", section.doc));
        out.push_str(&format!("{off}[{}]\n", section.name));
        for key in section.keys() {
            out.push_str(&comment("", &commented(key)));
            let value = values.and_then(|table| table.get(key.name()));
            let shown = value.or_else(|| defaults.get(key.name()));
            let text = shown.map_or_else(|| key.example.to_owned(), ToString::to_string);
            let off = if value.is_some() { "" } else { "# " };
            out.push_str(&format!("{off}{} = {text}\n", key.name()));
        }
    }
    out
}

/// What the comment above a key says.
fn commented(key: &Key) -> String {
    let mut text = key.says.to_owned();
    if let Some(bounds) = &key.bounds {
        text += &format!(" Bounds: {bounds}.");
    }
    if !key.unset.is_empty() {
        text += &format!(" Default: {}.", key.unset);
    }
    text += match key.changes {
        Changes::AtOnce => " Changes at once.",
        Changes::Restart(_) => " Changes with a restart.",
    };
    text
}

/// The head of each table in docs/config.md.
const HEAD: &str = "| Key | Type | Default | Changes | Meaning |";

/// The table of `section` in docs/config.md.
fn reference_table(section: &Table) -> String {
    let defaults = (section.defaults)();
    let mut out = format!("{HEAD}\n|---|---|---|---|---|\n");
    for key in section.keys() {
        let default = defaults
            .get(key.name())
            .map_or_else(|| key.unset.to_owned(), |value| format!("`{value}`"));
        let kind = match &key.bounds {
            Some(bounds) => format!("{}: {bounds}", key.kind),
            None => key.kind.to_owned(),
        };
        let between = if key.docs.is_empty() { "" } else { " " };
        let meaning = format!("{}{between}{}", key.says, key.docs).replace('|', "\\|");
        let changes = key.changes.word();
        out += &format!(
            "| `{}` | {kind} | {default} | {changes} | {meaning} |\n",
            key.path
        );
    }
    out
}

/// `reference`, which is docs/config.md, with the table of each section as the settings have it now. The text around
/// the tables stays.
pub fn update_reference(reference: &str) -> String {
    let mut out = String::new();
    let mut section = None;
    let mut is_in_table = false;
    for line in reference.lines() {
        if let Some(heading) = line.strip_prefix("## `[") {
            section = SECTIONS
                .iter()
                .find(|section| heading.starts_with(&format!("{}]", section.name)));
        }
        if line == HEAD {
            out += &section.map(reference_table).unwrap_or_default();
            is_in_table = true;
        }
        is_in_table &= line.starts_with('|');
        if !is_in_table {
            out += line;
            out.push('\n');
        }
    }
    out
}

/// `text` as comment lines of at most about 96 columns, behind `before`.
fn comment(before: &str, text: &str) -> String {
    let mut out = before.to_owned();
    let mut line = String::from("#");
    for word in text.split_whitespace() {
        if line.len() + 1 + word.len() > COMMENT_COLUMNS {
            out.push_str(&line);
            out.push('\n');
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    out.push_str(&line);
    out.push('\n');
    out
}

const COMMENT_COLUMNS: usize = 96;
