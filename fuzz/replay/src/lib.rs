//! One function for each parser that reads what a stranger or another program wrote. No function may panic, whatever
//! the bytes; most of them check more than that.
//!
//! `fuzz/fuzz_targets` gives the functions to libFuzzer. `fuzz/replay/tests/corpus.rs` runs them over `fuzz/corpus`
//! with every `cargo test`.
#![allow(
    clippy::disallowed_methods,
    reason = "targets are given bytes outside of nodes"
)]

mod cells;
mod dns;
mod documents;
mod front;
mod owner;
pub mod seeds;

/// A target: its name, which is also the name of its corpus's folder, and its function, which returns whether the
/// parser accepted the bytes.
pub type FuzzTarget = (&'static str, fn(&[u8]) -> bool);

/// All targets.
pub const TARGETS: [FuzzTarget; 26] = [
    ("front", front::front),
    ("socks_udp", front::socks_udp),
    ("cell", cells::cell),
    ("message", cells::message),
    ("hello", cells::hello),
    ("params", cells::params),
    ("mux", cells::mux),
    ("dns", dns::dns),
    ("packets", cepa_exec::fuzz_packets),
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
    ("permit", documents::permit),
    ("guards", owner::guards),
    ("bias", owner::bias),
    ("peers", owner::peers),
    ("authority_cert", owner::authority_cert),
    ("geoip", owner::geoip),
];

/// Runs the target with this name over `data`. Returns whether the parser accepted the bytes; `None` if there is no
/// such target.
pub fn run(target: &str, data: &[u8]) -> Option<bool> {
    let (_, function) = TARGETS.iter().find(|(name, _)| *name == target)?;
    Some(function(data))
}
