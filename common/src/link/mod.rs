//! HELLO, the first cell between two peers (docs/protocol.md, 2.6).
//!
//! Each side sends one HELLO as its first cell and expects one as the other's first. TLS has proven the keys before.
//! HELLO settles the version of the link protocol and that both peers are in the same network.

mod hello;

pub use hello::{Hello, HelloError, LINK_VERSIONS, negotiate};
