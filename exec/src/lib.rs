//! `cepa exec`: runs a program in a network namespace whose only way out is Cepa (Linux).
//!
//! Two processes: the one that stays outside ([`run`]) has a connection to a node and the other end of the namespace's
//! only interface; the other one ([`become_command`]) enters the namespace, gives its rights up and becomes the command.
//! A node is used as any program uses it, by SOCKS 5: there is no second client, and what fails here fails alone.
//!
//! `stack` is pure: packets in, connections and datagrams out. `shared`, `flows`, `names`, `datagrams` and `drive` carry
//! those on by streams of the node, with `socks`. `ports` are the node's own, which programs find in the namespace too. `tun`, `mounts` and `confine` make the namespace what it is.
#![cfg(target_os = "linux")]
#![expect(
    clippy::disallowed_methods,
    reason = "sets up a real process for its owner, beside the node and not in it"
)]

mod child;
mod confine;
mod datagrams;
mod drive;
mod error;
mod flows;
mod inner;
mod mounts;
mod names;
mod outer;
mod ports;
mod shared;
mod socks;
mod stack;
mod tun;
mod via;

/// Runs the stack over packets that a fuzzer made. Says whether any packet asked for something.
#[doc(hidden)]
pub fn fuzz_packets(data: &[u8]) -> bool {
    stack::fuzzed::packets(data)
}

pub use child::{pass_on, told_status};
pub use error::{ExecError, FAILED, NOT_FOUND, NOT_RUN};
pub use inner::{INNER, become_command};
pub use mounts::Shares;
pub use outer::{Options, run};
pub use stack::NAME_SERVERS;
pub use via::{NotAPort, Via};
