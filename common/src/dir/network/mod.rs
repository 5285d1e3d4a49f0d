//! `network.toml`: who the authorities are, and the figures that they may change (docs/protocol.md, 6.3 and 6.5).
//!
//! The text of a file becomes a [`NetworkDraft`], which may lack signatures; `finish` makes a [`NetworkFile`] of it
//! once more than half of its authorities have signed. [`Signatories`] says who has. A later revision is signed by
//! authorities of the one before; [`Revisions`] holds those of one network and says which of them decides about a
//! document. [`Params`] are the parameters with their defaults and bounds: the file sets some, a consensus may set
//! others.
//!
//! Callers are all who verify a document, and the commands that found a network. Absent: the search for later revisions
//! and their copy on disk (`net::directory`).

mod body;
mod error;
mod file;
pub(super) mod params;
mod revisions;
mod signatories;
mod text;

pub(super) use body::MAX_AUTHORITIES;
pub use body::{AuthorityEntry, Fallback};
pub use error::NetworkFileError;
pub use file::{MAX_NETWORK_FILE_BYTES, NetworkDraft, NetworkFile};
pub(super) use params::{MAX_PARAMS, NETWORK_REVISION};
pub use params::{Params, WITHOUT_AGES, local_network_params};
pub use revisions::{KnownNetwork, MAX_REVISIONS, Revisions};
pub use signatories::Signatories;
