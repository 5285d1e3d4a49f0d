//! Work that blocks its thread: the disk above all.

use tokio::task::JoinHandle;

use super::kind::{Kind, kind};

/// Runs `work` on a thread where it may block; in a simulated process in place, since there nothing really blocks and
/// another thread would end at a moment that no seed decides.
#[allow(clippy::disallowed_methods, reason = "this is the seam")]
pub fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    match kind() {
        Kind::Real => tokio::task::spawn_blocking(work),
        Kind::Simulated => {
            let done = work();
            tokio::spawn(async move { done })
        }
    }
}
