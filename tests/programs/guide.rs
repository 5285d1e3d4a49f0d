//! Reads docs/clients.md: its sections, and the blocks that are to be run.

use std::path::Path;

/// What the guide says of one program.
#[derive(Debug)]
pub(crate) struct Section {
    pub(crate) title: String,
    pub(crate) blocks: Vec<Block>,
}

/// A fenced block. Of `sh` each command is a block of its own.
#[derive(Debug)]
pub(crate) enum Block {
    /// A file, whose path stands in code in the line before, which ends in a colon.
    File {
        path: String,
        text: String,
    },
    Shell(String),
    Python(String),
    JavaScript(String),
}

/// Reads the sections in their order, without what stands before the first of them.
pub(crate) fn read() -> Vec<Section> {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/clients.md");
    let text = std::fs::read_to_string(guide).unwrap();
    let mut sections: Vec<Section> = Vec::new();
    let mut before = "";
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(title) = line.strip_prefix("## ") {
            let title = title.to_owned();
            sections.push(Section {
                title,
                blocks: Vec::new(),
            });
        } else if let Some(kind) = line.strip_prefix("```") {
            let inner: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            if let Some(section) = sections.last_mut() {
                section
                    .blocks
                    .extend(blocks(kind, &inner.join("\n"), before));
            }
        } else if !line.is_empty() {
            before = line;
        }
    }
    assert!(
        sections.len() > 20,
        "docs/clients.md has {} programs",
        sections.len()
    );
    sections
}

fn blocks(kind: &str, text: &str, before: &str) -> Vec<Block> {
    match kind {
        "sh" => text
            .replace("\\\n", " ")
            .lines()
            .map(|line| Block::Shell(line.to_owned()))
            .collect(),
        "python" => vec![Block::Python(text.to_owned())],
        "js" => vec![Block::JavaScript(text.to_owned())],
        "" => {
            let path = before
                .strip_suffix("`:")
                .and_then(|rest| rest.rsplit('`').next());
            let path = path
                .unwrap_or_else(|| panic!("no path before the block {text:?}"))
                .to_owned();
            vec![Block::File {
                path,
                text: format!("{text}\n"),
            }]
        }
        other => panic!("docs/clients.md: what is {other:?}?"),
    }
}
