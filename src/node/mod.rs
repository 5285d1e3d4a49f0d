//! A node: its rooms in order, and what of it lies on disk.
//!
//! [`start`] starts the rooms of a node and stops them. [`relay`] and [`client`] are the two halves of a node, and say
//! what the configuration means in each library's words; [`start`] and [`reload`], which changes settings of a node that
//! runs, know both. [`measure`] lends an authority a client to measure with, [`roles`] is what a node's owner may see and
//! do while it runs, [`visitor`] is a client for one question, [`news`] is what a node tells its owner, [`out`] writes
//! files of results. [`files`] and [`identity`] know what lies in a state directory, [`found`] makes the keys of
//! authorities and the network's file that they sign. [`exit`] judges a destination as the exit of a configuration would.

pub mod client;
mod error;
mod exit;
mod files;
pub mod found;
pub mod identity;
mod listen;
mod measure;
mod news;
mod out;
mod relay;
mod reload;
mod roles;
mod start;
mod visitor;

pub use error::AppError;
pub use exit::{ExitRules, Verdict};
pub use files::{IDENTITY_KEY, new_relay, read_network};
pub use news::News;
pub use out::write_out;
pub use reload::{Refusal, Reload, Report};
pub use roles::{
    Action, ActionError, Actions, Attend, ClientRole, Done, RelayRole, Roles, take_actions,
};
pub use start::Node;
pub use visitor::{Hop, Visitor};
