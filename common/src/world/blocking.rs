//! Work that blocks its thread: the disk above all.

use tokio::task::JoinHandle;

/// Runs `work` on a thread where it may block.
pub fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    tokio::task::spawn_blocking(work)
}
