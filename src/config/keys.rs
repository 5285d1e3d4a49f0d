//! The settings for people: `--print-config`, the tables of docs/config.md, and the nearest key to a mistyped one.

use toml::{Table, Value};

use super::settings::{SECTIONS, Section};
use super::{Authority, Client, Config, Exit, Relay};

/// Every key with its section: `relay.listen`.
pub fn paths() -> impl Iterator<Item = String> {
    SECTIONS.iter().flat_map(|section| {
        section
            .keys
            .iter()
            .map(|key| format!("{}.{}", section.name, key.name))
    })
}

/// The known key or section that `unknown` most resembles, by its full name or by its last part.
pub fn nearest(unknown: &str) -> String {
    let leaf = unknown.rsplit('.').next().unwrap_or(unknown);
    let score = |known: &str| {
        let known_leaf = known.rsplit('.').next().unwrap_or(known);
        let whole = strsim::normalized_damerau_levenshtein(unknown, known);
        // The right key in the wrong section is nearer than a stranger in the right one.
        whole.max(0.9 * strsim::normalized_damerau_levenshtein(leaf, known_leaf))
    };
    let sections = SECTIONS.iter().map(|section| section.name.to_owned());
    let nearest = paths()
        .chain(sections.filter(|_| !unknown.contains('.')))
        .max_by(|a, b| score(a).total_cmp(&score(b)))
        .unwrap_or_default();
    if nearest.contains('.') {
        nearest
    } else {
        format!("[{nearest}]")
    }
}

/// `config` as a file with comments: what is in effect stands there, what is not is commented out.
pub fn print(config: &Config) -> String {
    let effective = Table::try_from(config).unwrap_or_default();
    let defaults = Table::try_from(everything()).unwrap_or_default();
    let mut out = String::from("# Configuration of a Cepa node. docs/config.md explains more.\n");
    for section in &SECTIONS {
        let values = effective.get(section.name).and_then(Value::as_table);
        let off = if values.is_some() { "" } else { "# " };
        let defaults = defaults.get(section.name).and_then(Value::as_table);
        out.push_str(&format!("\n# {}\n{off}[{}]\n", section.doc, section.name));
        for key in section.keys {
            out.push_str(&comment(key.doc));
            let value = values.and_then(|table| table.get(key.name));
            let shown = value.or_else(|| defaults.and_then(|table| table.get(key.name)));
            let text = shown.map_or_else(|| key.example.to_owned(), ToString::to_string);
            let off = if value.is_some() { "" } else { "# " };
            out.push_str(&format!("{off}{} = {text}\n", key.name));
        }
    }
    out
}

/// The table of `section` in docs/config.md.
fn reference_table(section: &Section) -> String {
    let defaults = Table::try_from(everything()).unwrap_or_default();
    let defaults = defaults.get(section.name).and_then(Value::as_table);
    let mut out = String::from("| Key | Type | Default | Meaning |\n|---|---|---|---|\n");
    for key in section.keys {
        let default = defaults
            .and_then(|table| table.get(key.name))
            .map_or_else(|| key.unset.to_owned(), |value| format!("`{value}`"));
        out += &format!(
            "| `{}.{}` | {} | {default} | {} |\n",
            section.name, key.name, key.kind, key.meaning
        );
    }
    out
}

/// `reference`, which is docs/config.md, with the table of each section as the settings have it now. The text around the
/// tables stays.
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
        if line == "| Key | Type | Default | Meaning |" {
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

/// A configuration with every section at its defaults.
fn everything() -> Config {
    Config {
        client: Some(Client::default()),
        relay: Some(Relay::default()),
        exit: Some(Exit::default()),
        authority: Some(Authority::default()),
        ..Config::default()
    }
}

/// `text` as comment lines of at most about 96 columns.
fn comment(text: &str) -> String {
    let mut out = String::new();
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
