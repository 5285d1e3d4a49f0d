//! What the repository cites stands in it: rules of docs/protocol.md, requirements, chapters of docs/design.md, files
//! and tests that documents name.
//!
//! The checks read text alone. Each collects everything that it objects to and fails with the whole list.
#![allow(clippy::disallowed_methods, reason = "the test reads the sources")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Directories that hold nothing written by people, or nothing of this repository.
const PASSED_OVER: [&str; 3] = [".git", "target", "corpus"];
/// Longest line of a document, in characters; tables and code are excepted.
const COLUMNS: usize = 120;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below `dir`, as a path from the root.
fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if !PASSED_OVER.contains(&name.as_str()) {
                files(&path, found);
            }
        } else {
            found.push(path.strip_prefix(root()).unwrap().to_owned());
        }
    }
}

fn all_files() -> Vec<PathBuf> {
    let mut found = Vec::new();
    files(root(), &mut found);
    found.sort();
    found
}

/// The files of these kinds with their text, without this file, whose examples cite what is not there.
fn with_extension(wanted: &[&str]) -> Vec<(PathBuf, String)> {
    let of_kind = |path: &PathBuf| {
        path.extension()
            .is_some_and(|ext| wanted.iter().any(|wanted| ext == *wanted))
    };
    let text = |path: PathBuf| {
        let text = fs::read_to_string(root().join(&path)).unwrap();
        (path, text)
    };
    let files = all_files().into_iter();
    files
        .filter(of_kind)
        .filter(|path| path != Path::new("tests/citations.rs"))
        .map(text)
        .collect()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// The prose of a file with the line where each piece begins: comments of a source file, joined over consecutive lines,
/// and paragraphs of a document.
fn prose(path: &Path, text: &str) -> Vec<(usize, String)> {
    let source = path.extension().is_some_and(|ext| ext == "rs");
    let mut pieces: Vec<(usize, String)> = Vec::new();
    let mut open = false;
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        let words = if !source {
            line.trim_start_matches('#').trim()
        } else if let Some(comment) = line.strip_prefix("//") {
            comment.trim_start_matches(['/', '!']).trim()
        } else if let Some((_, comment)) = line.split_once(" // ") {
            open = false;
            comment
        } else {
            ""
        };
        if words.is_empty() {
            open = false;
        } else if open {
            let (_, piece) = pieces.last_mut().unwrap();
            piece.push(' ');
            piece.push_str(words);
        } else {
            pieces.push((at + 1, words.to_owned()));
            open = true;
        }
    }
    pieces
}

/// The words of a text, each with the text before and after it.
fn words(text: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    let is_part =
        |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '_' || c == '/' || c == '-';
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at + text.get(at..)?.find(is_part)?;
        let rest = text.get(start..)?;
        let end = start + rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        at = end;
        let before = text.get(..start)?;
        let word = text.get(start..end)?;
        Some((before, word, text.get(end..)?))
    })
    .map(|(before, word, after)| (before, word.trim_end_matches(['.', '-', '/']), after))
}

/// The parts of the number of a rule, such as `5.28` or `6.3.6`; `None` if the word is no such number.
fn rule(word: &str) -> Option<Vec<u16>> {
    let parts: Vec<u16> = word
        .split('.')
        .map(|part| part.parse().ok().filter(|_| !part.starts_with('0')))
        .collect::<Option<_>>()?;
    let chapter = *parts.first()?;
    ((2..=3).contains(&parts.len()) && (1..=7).contains(&chapter)).then_some(parts)
}

/// Do these words continue a list of numbers, as in `6.9 and 6.10`?
fn joins(between: &str) -> bool {
    matches!(
        between.trim(),
        "" | "," | ";" | "and" | ", and" | "or" | "to"
    )
}

/// The rules of docs/protocol.md that a piece of prose cites.
///
/// A number with two dots, or one of chapter 6, is a citation unless it stands behind a word that says of what else it
/// is. Other numbers may be anything, and are citations behind "protocol.md", alone in parentheses, or in a list with a
/// citation.
fn rules_cited(text: &str) -> Vec<&str> {
    let mut cited = Vec::new();
    let mut last: Option<usize> = None;
    for (before, word, after) in words(text) {
        let Some(parts) = rule(word) else { continue };
        let lead = before.trim_end_matches([' ', ',', '(', '`']);
        let elsewhere = [
            "RFC", "section", "sections", "TLS", "HTTP", "version", "FIPS", "Rust",
        ];
        let lead_word = lead.rsplit([' ', '(', '/']).next().unwrap_or_default();
        let behind_number = lead_word.chars().all(|c| c.is_ascii_digit()) && !lead_word.is_empty();
        let of_others = elsewhere.contains(&lead_word)
            || behind_number && rule(lead_word).is_none()
            || text
                .get(..before.len())
                .is_some_and(|text| text.ends_with(['%', '*', '<', '>']));
        let unit = [
            "s", "ms", "us", "MiB", "GiB", "KiB", "MB", "TB", "Mbit", "%", "million", "seconds",
        ];
        let after_word = after
            .trim_start()
            .split([' ', ',', '.', ')', ';', '/'])
            .next()
            .unwrap_or_default();
        let in_list = last.is_some_and(|end| before.get(end..).is_some_and(joins));
        let parenthesised = before.ends_with('(') && after.starts_with([')', ',', ';'])
            || before.ends_with('(') && after.starts_with(" to ")
            || before.ends_with('(') && after.starts_with(" and ");
        let named = lead_word.ends_with("protocol.md") || lead_word.ends_with("protocol.md`");
        let sure =
            named || in_list || parenthesised || parts.len() == 3 || parts.first() == Some(&6);
        if sure && !of_others && !unit.contains(&after_word) {
            cited.push(word);
            last = Some(before.len() + word.len());
        }
    }
    cited
}

/// The requirements that a text cites: `S`, then one or two digits.
fn requirements_cited(text: &str) -> Vec<&str> {
    words(text)
        .map(|(_, word, _)| word)
        .filter(|word| is_requirement(word))
        .collect()
}

fn is_requirement(word: &str) -> bool {
    word.strip_prefix('S').is_some_and(|digits| {
        (1..=2).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit())
    })
}

/// The numbers that lines of a document begin with, as rules or headings.
fn defined(text: &str, is_number: impl Fn(&str) -> bool) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    for line in text.lines() {
        let line = line.trim_start_matches('#').trim_start();
        let first = line.split(' ').next().unwrap_or_default();
        if is_number(first) {
            *found.entry(first.to_owned()).or_insert(0) += 1;
        }
    }
    found
}

/// The pieces of text that stand in backticks outside of blocks of code, each with its line.
fn code_spans(text: &str) -> Vec<(usize, &str)> {
    let mut fenced = false;
    let mut spans = Vec::new();
    for (at, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced && !line.starts_with("    ") {
            spans.extend(
                line.split('`')
                    .skip(1)
                    .step_by(2)
                    .map(|span| (at + 1, span)),
            );
        }
    }
    spans
}

fn fail_with(objections: &[String]) {
    assert!(objections.is_empty(), "\n{}", objections.join("\n"));
}

#[test]
fn every_rule_that_is_cited_exists() {
    let rules = defined(&read("docs/protocol.md"), |word| rule(word).is_some());
    assert!(rules.len() > 250, "{} rules were read", rules.len());
    let twice = rules.iter().filter(|(_, times)| **times > 1);
    let mut objections: Vec<_> = twice
        .map(|(rule, _)| format!("{rule} stands twice"))
        .collect();
    let mut cited = 0;
    for (path, text) in with_extension(&["rs", "md"]) {
        let of_others = path.starts_with("CHANGELOG.md");
        for (line, piece) in prose(&path, &text).into_iter().filter(|_| !of_others) {
            for rule in rules_cited(&piece) {
                cited += 1;
                if !rules.contains_key(rule) {
                    objections.push(format!("{}:{line}: no rule {rule}", path.display()));
                }
            }
        }
    }
    assert!(cited > 500, "{cited} citations were found");
    fail_with(&objections);
}

#[test]
fn every_requirement_that_is_cited_exists() {
    let requirements = defined(&read("docs/requirements.md"), is_requirement);
    let mut objections = Vec::new();
    for n in 1..=requirements.len() {
        if requirements.get(&format!("S{n}")) != Some(&1) {
            objections.push(format!(
                "docs/requirements.md: S{n} does not stand there once"
            ));
        }
    }
    let mut cited = 0;
    for (path, text) in with_extension(&["rs", "md", "toml"]) {
        for (at, line) in text.lines().enumerate() {
            for requirement in requirements_cited(line) {
                cited += 1;
                if !requirements.contains_key(requirement) {
                    objections.push(format!("{}:{}: no {requirement}", path.display(), at + 1));
                }
            }
        }
    }
    assert!(cited > 100, "{cited} citations were found");
    fail_with(&objections);
}

/// Sections of docs/design.md are cited as `docs/design.md, 5`.
#[test]
fn every_chapter_that_is_cited_exists() {
    let chapters = |name: &str| {
        let is_chapter = |word: &str| {
            word.strip_suffix('.')
                .is_some_and(|n| n.parse::<u8>().is_ok())
        };
        defined(&read(name), is_chapter)
    };
    let (design, protocol) = (chapters("docs/design.md"), chapters("docs/protocol.md"));
    let mut objections = Vec::new();
    let mut cited = 0;
    for (path, text) in with_extension(&["rs", "md", "toml"]) {
        for (line, piece) in prose(&path, &text) {
            for (name, known) in [
                ("design.md, ", &design),
                ("protocol.md, chapter ", &protocol),
            ] {
                for rest in piece.split(name).skip(1) {
                    let digits = rest
                        .find(|c: char| !c.is_ascii_digit())
                        .unwrap_or(rest.len());
                    let (number, _) = rest.split_at(digits);
                    cited += 1;
                    if !known.contains_key(&format!("{number}.")) {
                        objections.push(format!("{}:{line}: no {name}{number}", path.display()));
                    }
                }
            }
        }
    }
    assert!(cited > 5, "{cited} citations were found");
    fail_with(&objections);
}

/// A path in backticks is the path of a file or directory, whole or only its end; a link leads to a file.
#[test]
fn every_file_that_is_named_exists() {
    let files: Vec<String> = all_files()
        .iter()
        .map(|path| format!("/{}", path.display()))
        .collect();
    let exists = |named: &str| {
        let named = named.trim_start_matches("../").trim_end_matches('/');
        let (whole, directory) = (format!("/{named}"), format!("/{named}/"));
        files
            .iter()
            .any(|file| file.ends_with(&whole) || file.contains(&directory))
    };
    let tops = [
        "common/", "relay/", "client/", "src/", "tests/", "docs/", "fuzz/", ".ci/",
    ];
    let mut objections = Vec::new();
    let mut named = 0;
    for (path, text) in with_extension(&["md"]) {
        let from_root = path.parent().unwrap();
        for (line, span) in code_spans(&text) {
            let is_path = span
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c));
            let is_source = span.ends_with(".rs") || span.ends_with(".md");
            if is_path && (is_source || tops.iter().any(|top| span.starts_with(top))) {
                named += 1;
                if !exists(span) {
                    objections.push(format!("{}:{line}: no file {span}", path.display()));
                }
            }
        }
        for (at, line) in text.lines().enumerate() {
            let links = line
                .split("](")
                .skip(1)
                .filter_map(|rest| rest.split(')').next());
            for link in links.filter(|link| !link.contains("://") && !link.starts_with('#')) {
                named += 1;
                if !root().join(from_root).join(link).exists() {
                    objections.push(format!("{}:{}: no file {link}", path.display(), at + 1));
                }
            }
        }
    }
    for (path, text) in with_extension(&["rs", "toml"]) {
        for (_, word, _) in words(&text).filter(|(_, word, _)| word.ends_with(".md")) {
            named += 1;
            if !exists(word) {
                objections.push(format!("{}: no document {word}", path.display()));
            }
        }
    }
    assert!(named > 100, "{named} names were found");
    fail_with(&objections);
}

/// Each name that docs/requirements.md has in backticks is that of a test, a parameter of the network, or a file.
#[test]
fn every_test_that_is_named_exists() {
    let text = read("docs/requirements.md");
    let sources: String = with_extension(&["rs"])
        .into_iter()
        .map(|(_, text)| text)
        .collect();
    let functions: BTreeSet<&str> = sources
        .split("fn ")
        .filter_map(|rest| rest.split_once('(').map(|(name, _)| name))
        .collect();
    let parameters = read("docs/protocol.md");
    let is_name = |span: &&str| {
        span.contains('_')
            && span
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    let named: Vec<&str> = code_spans(&text)
        .into_iter()
        .map(|(_, span)| span)
        .filter(is_name)
        .collect();
    assert!(named.len() > 70, "{} names were found", named.len());
    let is_known =
        |name: &str| functions.contains(name) || parameters.contains(&format!("| `{name}` |"));
    let objections: Vec<String> = named
        .into_iter()
        .filter(|name| !is_known(name))
        .map(|name| format!("docs/requirements.md: no test {name}"))
        .collect();
    fail_with(&objections);
}

/// The first lines of docs/requirements.md list what is open. The lines must name the same requirements as the entries.
#[test]
fn what_is_open_is_listed() {
    let text = read("docs/requirements.md");
    let (top, entries) = text.split_once("\n## ").unwrap();
    let top = top.split_whitespace().collect::<Vec<_>>().join(" ");
    let listed = |lead: &str| -> BTreeSet<String> {
        let (_, list) = top.split_once(lead).unwrap();
        let list = list.split('.').next().unwrap();
        requirements_cited(list)
            .into_iter()
            .map(str::to_owned)
            .collect()
    };
    let (mut wholly, mut partly) = (BTreeSet::new(), BTreeSet::new());
    let mut current = ("", false);
    for line in entries.lines() {
        let first = line.split(' ').next().unwrap_or_default();
        if is_requirement(first) {
            current = (first, false);
        } else if line.starts_with("- Fulfilled:") {
            current.1 = true;
        } else if line.starts_with("- Open:") {
            let open = if current.1 { &mut partly } else { &mut wholly };
            open.insert(current.0.to_owned());
        }
    }
    assert_eq!(listed("Wholly open are "), wholly);
    assert_eq!(listed("Partly open are "), partly);
}

#[test]
fn documents_are_wrapped() {
    let mut objections = Vec::new();
    for (path, text) in with_extension(&["md"]) {
        let mut fenced = false;
        for (at, line) in text.lines().enumerate() {
            fenced ^= line.trim_start().starts_with("```");
            let excepted = fenced || line.starts_with('|') || line.starts_with("    ");
            let columns = line.chars().count();
            if !excepted && columns > COLUMNS {
                objections.push(format!("{}:{}: {columns} columns", path.display(), at + 1));
            }
        }
    }
    fail_with(&objections);
}

#[test]
fn citations_are_told_from_other_numbers() {
    let cited = |text| rules_cited(text);
    assert_eq!(cited("(docs/protocol.md, 5.20 to 5.28)"), ["5.20", "5.28"]);
    assert_eq!(cited("as protocol.md 2.11 wants, S20"), ["2.11"]);
    assert_eq!(
        cited("shown (4.9), (5.10, 5.11) and 6.16.1."),
        ["4.9", "5.10", "5.11", "6.16.1"]
    );
    assert_eq!(
        cited("what 6.1, 6.2 and 6.22.1 do not allow"),
        ["6.1", "6.2", "6.22.1"]
    );
    assert_eq!(
        cited("TLS 1.3, RFC 8446, 4.2.1, HTTP/1.1, 1.5 s, section 2.1.1, 192.0.2.1, 6.5 ms"),
        [""; 0]
    );
    assert_eq!(requirements_cited("(S3, S12) SOCKS5 S"), ["S3", "S12"]);
    let comments = "let a = 1; // 6.2.1\n\n/// protocol.md\n/// 4.10: b\n\nx(\"6.9.9\")";
    let found = prose(Path::new("a.rs"), comments);
    assert_eq!(
        found,
        [
            (1, "6.2.1".to_owned()),
            (3, "protocol.md 4.10: b".to_owned())
        ]
    );
}
