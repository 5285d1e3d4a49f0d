//! Work that blocks its thread, the disk above all, and work that has a thread of its own.

use std::{io, thread};

use tokio::task::JoinHandle;

use super::kind::{Kind, kind};

/// Runs `work` on a thread where it may block. A simulated process runs it in place: nothing really blocks there, and
/// another thread would end at a moment that no seed decides.
#[expect(clippy::disallowed_methods, reason = "this is the seam")]
pub fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    match kind() {
        Kind::Real => tokio::task::spawn_blocking(work),
        Kind::Simulated => {
            let done = work();
            tokio::spawn(async move { done })
        }
    }
}

/// A simulated process has asked for a thread, which would run at moments that no seed decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a simulated process has one thread")]
pub struct OneThread;

/// Starts a thread of its own for `work` that computes for as long as the node lives.
///
/// # Errors
/// The system's error; [`OneThread`] in a simulated process.
#[expect(clippy::disallowed_methods, reason = "this is the seam")]
pub fn thread(
    name: &str,
    work: impl FnOnce() + Send + 'static,
) -> io::Result<thread::JoinHandle<()>> {
    match kind() {
        Kind::Real => {
            let builder = thread::Builder::new().name(name.to_owned());
            builder.spawn(work)
        }
        Kind::Simulated => Err(io::Error::other(OneThread)),
    }
}
