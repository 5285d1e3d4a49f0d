//! Onion layers (docs/protocol.md, chapter 4). (being written)

mod suite;

pub use suite::Suite;
