//! The relay half of Cepa: links in, circuit switching, exits, directory cache, directory authority.
//!
//! The rooms, in the order in which a cell meets them: `admission` says how much this relay takes on; `link` accepts
//! connections and keeps the links to other relays; `circuit` answers CREATE with the onion keys that [`keys`] looks
//! after, and holds the circuits that end here; [`exit`] connects streams; [`directory`] and [`authority`] serve and
//! make the consensus. A cell that only passes never leaves the tables of the two links that it passes between
//! (`cepa_common::net::switch`).
//!
//! Rooms report what happens to a [`Reporter`]; [`RelayHandle::events`] follows it.
//!
//! [`Relay::start`] starts all rooms and [`RelayHandle::shutdown`] stops them, sources of work first.

#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        reason = "unit tests use the real world beside the simulated one"
    )
)]

mod admission;
pub mod authority;
mod circuit;
mod descriptor;
pub mod directory;
mod events;
pub mod exit;
pub mod keys;
mod link;
mod options;
mod params;
mod start;

pub use admission::Limits;
pub use circuit::Workers;
pub use events::{
    AuthorityEvent, AuthorityFailure, ConnectionBound, DescriptorAnswer, DiskTrouble, Listing,
    Refusal, Refusals, RelayEvent, RelayEvents, Reporter,
};
pub use options::{AuthorityOptions, ExitOptions, RelayOptions, Settings};
pub use start::{
    ConsensusSays, Ended, ExitSnapshot, MissingFlag, OwnEntry, Owner, Relay, RelayError,
    RelayHandle, RelayLoad, RelaySnapshot, RelayView, WhyMissing,
};
