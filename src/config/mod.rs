//! The settings of a node, from a file or from flags, checked in full before anything starts.
//!
//! [`settings`] defines every setting once: its type, its default, its bounds, its flag and what it means; [`section`]
//! is what such a definition is made of, [`value`] what its type can do. [`Config`] is all sections together.
//! [`source`] notices that a file is another one, and [`compare`] says what is different between two of them, and what of it a running node takes.
//! [`Config::load`] reads a file strictly: an unknown key or a wrong type names the key, the line and what was meant.
//! [`flags`] makes a section part of a command line. [`print`](mod@print) writes `cepa run --print-config` and the
//! tables of `docs/config.md`.
//! A section stands for a role: the file has `[client]`, `[relay]`, `[exit]` or `[authority]` if the node is to be one.
//! Nothing here opens what a setting names, but for the file of the configuration itself.

mod bounds;
mod check;
mod compare;
mod error;
mod flags;
pub mod keys;
mod kinds;
mod node;
mod peers;
mod print;
mod read;
mod section;
mod settings;
mod source;
#[cfg(test)]
mod tests;
mod value;

pub use compare::{Difference, is_at_once};
pub use error::ConfigError;
pub(crate) use flags::Flags;
pub use kinds::{
    DEFAULT_SOCKS, IsolateKind, ListenAddress, Listener, ListenerKind, MultipathKind, SocketMode,
    SuiteChoice,
};
pub use node::Config;
pub use peers::Peers;
pub use print::{print, update_reference};
pub use settings::{Authority, Client, Exit, Limits, Log, Network, Relay, State};
pub use source::{Settling, Source, Stamp};
