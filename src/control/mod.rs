//! The control socket: how other programs of its owner ask a running client for something.
//!
//! A Unix socket in the state directory takes one line of JSON and gives one back, then the connection ends
//! (docs/control.md). The protocol is small on purpose and may grow by commands: a request names the version that it is
//! meant for.
//! Who may open the socket is decided by the file system and, once more, by the identity that the system gives of the
//! other side (S29, S33). Nothing in here waits for ever or reads without a bound.
//!
//! [`request`] and [`answer`] are the text of both, [`socket`] carries them, [`client`] is what a client answers, and
//! [`running`] lets the owner find the clients that run.

mod answer;
mod client;
pub mod request;
mod running;
mod socket;

pub use answer::{Answer, GuardStatus, ListenerStatus, NewIdentity, Reached, Status};
pub use client::attend;
pub use request::ControlRequest;
pub use socket::{AskError, ask, is_there};

/// The state directories of this user's clients that run, as far as they could say so.
pub fn running() -> Vec<std::path::PathBuf> {
    running::directory().map_or_else(Vec::new, |directory| running::state_dirs(&directory))
}
