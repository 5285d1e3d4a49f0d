//! Keys, networks, documents and connections for tests of all crates (feature `testkit`; never in a program).
//!
//! Everything is numbered, and the same number means the same thing everywhere: authority or relay `n` has the link key
//! [`link_key`]`(n)`, signs as an authority with [`signing_key`]`(n)`, and stands at [`address`]`(n)`. A [`network()`]
//! has the authorities 1 to `n`; a [`descriptor`] is of relay `n`; [`consensus_body`] and [`vote`] list relays by their
//! numbers. A test that needs another name, address or time takes the kit's value and changes that one field
//! (`AuthorityEntry { addresses, ..authority(1) }`).
//!
//! With the feature `net` there are connections without sockets too: a [`Switchboard`] is a [`Dial`] to whoever is
//! plugged in, [`Sources`] are directories that play a [`Script`], and [`virtual_clock`] follows tokio's clock, which
//! tests pause.
//!
//! Callers are tests, benches and fuzzers. The kit has whatever more than one of them needs; what only one needs stays
//! with that one. Absent: servers and clients, which the crates above this one have.
//!
//! [`Dial`]: crate::net::directory::Dial
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[cfg(feature = "net")]
mod clock;
mod documents;
mod keys;
mod networks;
mod relays;
#[cfg(feature = "net")]
mod sources;
mod streams;
#[cfg(feature = "net")]
mod switchboard;
#[cfg(test)]
mod tests;
mod vectors;

#[cfg(feature = "net")]
pub use clock::virtual_clock;
pub use documents::{
    body_of, consensus, consensus_body, consensus_bytes, consensus_of, consensus_signed, lifetime,
    lifetime_of, vote, vote_entry,
};
pub use keys::{address, identity, link_key, signing_key};
pub use networks::{
    authorities, authority, draft, network, network_named, network_with, params, sign_by_all,
};
pub use relays::{descriptor, descriptor_at, signed_descriptor, web_descriptor, web_entry};
#[cfg(feature = "net")]
pub use sources::{Script, Sources};
pub use streams::{exchange, mux};
#[cfg(feature = "net")]
pub use switchboard::Switchboard;
pub use vectors::{vector_text, vectors};
