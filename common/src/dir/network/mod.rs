//! `network.toml`: who the authorities are, and the figures that they may change (docs/protocol.md, 6.3 and 6.5).

mod body;
mod error;
mod file;
pub(super) mod params;
mod revisions;
mod signatories;
mod text;

pub use body::{Authority, Fallback};
pub use error::NetworkFileError;
pub use file::{MAX_NETWORK_FILE_BYTES, NetworkDraft, NetworkFile};
pub(super) use params::MAX_PARAMS;
pub use params::{Params, local_network_params};
pub use revisions::{KnownNetwork, MAX_REVISIONS, Revisions};
pub use signatories::Signatories;
