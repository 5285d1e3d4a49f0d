//! The streams that an exit carries, so that it can stop without cutting them off.

use std::sync::Arc;

use tokio::sync::watch;

use super::udp::Bounds;

/// Counts the streams of an exit from their beginning to their end, and lets no more in once the exit closes.
pub(crate) struct OpenStreams(watch::Sender<State>);

#[derive(Default)]
struct State {
    streams: usize,
    is_closing: bool,
}

/// Shows how much an exit has open.
#[derive(Clone)]
pub(crate) struct ExitLoad {
    pub(super) open: Arc<OpenStreams>,
    pub(super) datagrams: Arc<Bounds>,
}

impl ExitLoad {
    /// Streams that leave the network here now.
    pub(crate) fn streams(&self) -> usize {
        self.open.count()
    }

    /// Associations for datagrams.
    pub(crate) fn associations(&self) -> usize {
        self.datagrams.count()
    }
}

/// A stream that is counted. Dropping this value counts the stream out.
pub(crate) struct OpenStream(Arc<OpenStreams>);

impl OpenStreams {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(watch::Sender::default()))
    }

    /// Counts one more stream in; `None` if the exit closes.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<OpenStream> {
        let is_in = self.0.send_if_modified(|state| {
            state.streams += usize::from(!state.is_closing);
            !state.is_closing
        });
        is_in.then(|| OpenStream(self.clone()))
    }

    /// How many streams there are.
    pub(crate) fn count(&self) -> usize {
        self.0.borrow().streams
    }

    /// Lets no more streams in, and waits until there are none.
    pub(crate) async fn drain(&self) {
        self.0.send_modify(|state| state.is_closing = true);
        // An error would mean that the sender is gone, which is `self`.
        let _ = self
            .0
            .subscribe()
            .wait_for(|state| state.streams == 0)
            .await;
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.0.send_modify(|state| state.streams -= 1);
    }
}

#[cfg(test)]
mod tests {
    use core::pin::pin;
    use core::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_open_ends_by_itself_and_nothing_more_begins() {
        let streams = OpenStreams::new();
        let (first, second) = (streams.enter(), streams.enter());
        assert_eq!(streams.count(), 2);
        let mut drained = pin!(streams.drain());
        let hour = Duration::from_secs(3_600);
        assert!(timeout(hour, &mut drained).await.is_err());
        assert!(streams.enter().is_none(), "the exit closes");
        drop(first);
        assert!(timeout(hour, &mut drained).await.is_err());
        drop(second);
        drained.await;
        assert_eq!(streams.count(), 0);
    }
}
