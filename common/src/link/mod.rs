//! The first words between two peers: HELLO (docs/protocol.md, chapter 2).
//!
//! Each side sends one HELLO as its first cell and expects one as the other's.
//! TLS has proven the keys before; HELLO settles the version and that both
//! mean the same network.

mod hello;

pub use hello::{Hello, HelloError, LINK_VERSIONS, negotiate};
