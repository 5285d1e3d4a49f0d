//! The control API: how programs of its owner ask a running node, and have it do something (docs/control.md).
//!
//! HTTP/1.1 and JSON on a Unix socket in the node's state directory. Who may open the socket is decided by the file
//! system and, once more, by the identity that the system gives of the other side (S29, S33). Nothing in here waits for
//! ever or reads without a bound. Absent on purpose is all that could betray a user: destinations, and addresses of
//! clients.
//!
//! [`answer`] has a type for each answer, which [`client`] reads again; `guard` keeps requests of other sites out,
//! `router` has the paths, `sight` makes the answers of what the node's roles say, `serve` carries requests over the
//! socket, and [`running`] lets the owner find the nodes that run.

pub mod answer;
pub mod client;
mod guard;
mod refusal;
mod router;
mod running;
mod serve;
mod sight;
mod socket;

pub use answer::{ClientStatus, ListenerStatus, NewIdentity, Reached, Status};
pub use client::{AskError, ControlClient, is_there};
pub use serve::attend;

/// The state directories of this user's nodes that run, as far as they could say so.
pub fn running() -> Vec<std::path::PathBuf> {
    running::directory().map_or_else(Vec::new, |directory| running::state_dirs(&directory))
}
