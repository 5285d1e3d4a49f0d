//! The client's directory: keeps one verified, usable consensus at hand (docs/protocol.md, 6.15).
//!
//! [`directory`] makes a [`DirectoryTask`] to run and a [`Directory`] to read. The task asks up to three sources that
//! it chose independently, verifies, takes the newest and never an older one than it holds, across restarts when it
//! has a place on disk. Requests go directly over links so far, not yet over circuits.

mod cache;
mod task;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use task::{
    BootstrapProgress, Directory, DirectoryConfig, DirectoryError, DirectoryTask, directory,
};
