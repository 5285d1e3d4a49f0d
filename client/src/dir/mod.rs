//! The client's directory: keeps one verified, usable consensus at hand (docs/protocol.md, 6.15).
//!
//! [`directory`] makes a [`DirectoryTask`] to run and a [`Directory`] to read. The task asks up to three sources that
//! it chose independently, verifies, takes the newest and never an older one than it holds, across restarts when it
//! has a place on disk. Once there are circuits ([`Directory::use_circuits`]) requests go over them. Directly only
//! those are asked that the network's file names, at the start and when circuits fail. A source that lies, stalls or
//! sends what it should not is not asked for a while. A client that nobody uses ([`Directory::use_now`]) asks seldom.

mod cache;
mod round;
mod skew;
mod sources;
mod task;

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod tests;

pub(crate) use skew::About;
pub use skew::{NoConsensus, WrongClock};
pub use sources::{DirStreamFuture, DirStreams};
pub use task::{
    BootstrapProgress, Directory, DirectoryConfig, DirectoryError, DirectoryTask, directory,
};
