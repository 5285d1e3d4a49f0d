//! The relay half of Cepa: links in, circuit switching, exits, directory cache, directory authority.
//!
//! The rooms, in the order in which a cell meets them: [`listen`] accepts a
//! connection; [`links`] keeps the links to other relays; [`handshake_pool`]
//! answers CREATE with the onion keys that [`keys`] looks after; [`switch`] holds the circuits that end here; [`exit`]
//! connects streams; [`directory`] and [`authority`] serve and make the
//! consensus. A cell that only passes never leaves the tables of the two links
//! that it passes between (`cepa_common::net::switch`).
//!
//! [`Relay::start`] starts all rooms and [`RelayHandle::shutdown`] stops them,
//! sources of work first.

pub mod authority;
pub mod directory;
pub mod exit;
mod handshake_pool;
pub mod keys;
mod links;
mod listen;
mod memory;
mod start;
pub mod switch;

pub use start::{
    AuthorityOptions, ExitOptions, Limits, Relay, RelayError, RelayHandle, RelayOptions,
};
