//! One function for each parser that reads what a stranger wrote. None may panic,
//! whatever the bytes; most check more than that.
//!
//! `fuzz/fuzz_targets` gives them to libFuzzer; `tests/corpus_replay.rs` runs
//! them over `fuzz/corpus` with every `cargo test`.

mod cells;
mod documents;
mod front;
pub mod seeds;

/// A target: its name, which is also its corpus's folder, and its function, which says
/// whether the parser took the bytes for good.
pub type Target = (&'static str, fn(&[u8]) -> bool);

/// All of them.
pub const TARGETS: [Target; 17] = [
    ("front", front::front),
    ("cell", cells::cell),
    ("message", cells::message),
    ("hello", cells::hello),
    ("params", cells::params),
    ("mux", cells::mux),
    ("network", documents::network),
    ("policy", documents::policy),
    ("descriptor", documents::descriptor),
    ("vote", documents::vote),
    ("consensus", documents::consensus),
    ("consensus_signature", documents::consensus_signature),
    ("envelope", documents::envelope),
    ("key_file", documents::key_file),
    ("difference", documents::difference),
    ("endorsement", documents::endorsement),
    ("proof", documents::proof),
];

/// Runs the target of that name over `data`: did it take them for good? `None` if there
/// is no such target.
pub fn run(target: &str, data: &[u8]) -> Option<bool> {
    let (_, function) = TARGETS.iter().find(|(name, _)| *name == target)?;
    Some(function(data))
}
