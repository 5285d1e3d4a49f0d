//! The client's directory: keeps one verified, usable consensus at hand (docs/protocol.md, 6.15).
//!
//! [`directory`] makes a [`DirectoryTask`] to run and a [`Directory`] to read. The task asks up to three sources that
//! it chose independently, verifies their answers, and takes the newest, but never an older one than it holds (with a
//! place on disk, not even after a restart). As soon as there are circuits ([`Directory::use_circuits`]), requests go
//! over them. Directly the task asks only those that the network's file names, at the start and when circuits fail. A
//! source that lies, stalls or sends what it should not is not asked for a while. For a client that nobody uses
//! ([`Directory::use_now`]) the task asks seldom.

mod cache;
mod round;
mod schedule;
mod skew;
mod sources;
mod task;

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod tests;

pub(crate) use schedule::{pause_of, until_next};
pub use skew::{NoConsensus, WrongClock};
pub(crate) use sources::SOURCES;
pub use sources::{DirStreamFuture, DirStreams};
pub use task::{
    BootstrapProgress, Directory, DirectoryConfig, DirectoryError, DirectoryTask, directory,
};
