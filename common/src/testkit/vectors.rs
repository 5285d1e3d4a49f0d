//! The vectors that docs/protocol.md prints in its chapter 8, for the tests of every room that has a part in them.

use std::collections::BTreeMap;

const PROTOCOL: &str = include_str!("../../../docs/protocol.md");

/// The text of the document's block with this name, without the fences.
///
/// # Panics
///
/// When the document has no such block, or more than one.
#[must_use]
pub fn vector_text(name: &str) -> &'static str {
    let fence = format!("\n```text {name}\n");
    let mut found = PROTOCOL.split(fence.as_str()).skip(1);
    let (Some(block), None) = (found.next(), found.next()) else {
        panic!("docs/protocol.md has not one block of the name {name}");
    };
    block.split("\n```").next().unwrap_or_default()
}

/// The values of the document's block with this name. A line begins with a value's name and has hexadecimal digits
/// behind it; a line that begins with a space goes on with the value before.
///
/// # Panics
///
/// When the block is not of this form, or has a name twice.
#[must_use]
pub fn vectors(name: &str) -> BTreeMap<&'static str, Vec<u8>> {
    let mut values: Vec<(&str, String)> = Vec::new();
    for line in vector_text(name).lines() {
        let (of, digits) = line.split_once(' ').unwrap_or_else(|| panic!("{line}"));
        match values.last_mut() {
            Some((_, last)) if of.is_empty() => last.push_str(digits.trim()),
            _ => values.push((of, digits.trim().to_owned())),
        }
    }
    let mut read = BTreeMap::new();
    for (of, digits) in values {
        let bytes = hex::decode(digits).unwrap_or_else(|error| panic!("{name}, {of}: {error}"));
        assert!(read.insert(of, bytes).is_none(), "{name} has {of} twice");
    }
    read
}
