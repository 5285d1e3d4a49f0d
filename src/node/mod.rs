//! A node: its rooms in order, and what of it lies on disk.
//!
//! [`start`] starts and stops a node and is the only file that knows both halves of the network. [`client`] follows the
//! client half of one, [`measure`] lends an authority a client to measure with, [`identity`] finds out who a relay is by
//! its state directory, and [`found`] makes the keys of authorities and the network's file that they sign.

pub(crate) mod client;
pub(crate) mod found;
pub(crate) mod identity;
pub(crate) mod measure;
mod start;

pub(crate) use start::{
    AppError, Hop, IDENTITY_KEY, Node, PEERS_HINT, Progress, Visitor, new_relay, read_network,
};
