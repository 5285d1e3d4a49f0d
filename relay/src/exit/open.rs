//! The streams that an exit carries, so that it can stop without cutting them off, and ask its policy about them again.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use cepa_common::sync::lock;
use tokio::sync::{oneshot, watch};

use super::udp::Bounds;

/// Counts the streams of an exit from their beginning to their end, and lets no more in once the exit closes.
pub(crate) struct OpenStreams(watch::Sender<State>, Mutex<Led>);

/// Where the streams lead that are connected.
#[derive(Default)]
struct Led {
    /// How often the policy has become another one.
    changes: u64,
    next: u64,
    streams: HashMap<u64, (SocketAddr, oneshot::Sender<()>)>,
}

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
pub(crate) struct OpenStream {
    streams: Arc<OpenStreams>,
    /// How often the policy had become another one when the stream began.
    began: u64,
}

/// A stream that is connected to its destination.
pub(crate) struct LedStream {
    streams: Arc<OpenStreams>,
    number: u64,
    refused: oneshot::Receiver<()>,
}

impl OpenStreams {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(watch::Sender::default(), Mutex::default()))
    }

    /// Counts one more stream in; `None` if the exit closes.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<OpenStream> {
        let is_in = self.0.send_if_modified(|state| {
            state.streams += usize::from(!state.is_closing);
            !state.is_closing
        });
        is_in.then(|| OpenStream {
            streams: self.clone(),
            began: lock(&self.1).changes,
        })
    }

    /// How many streams there are.
    pub(crate) fn count(&self) -> usize {
        self.0.borrow().streams
    }

    /// The policy is another one: ends the streams whose destination `allows` refuses now. Returns how many.
    pub(crate) fn ask_again(&self, allows: impl Fn(SocketAddr) -> bool) -> usize {
        let all: Vec<_> = {
            let mut led = lock(&self.1);
            led.changes += 1;
            let streams = led.streams.iter();
            streams.map(|(number, (to, _))| (*number, *to)).collect()
        };
        // The policy may look up relays and addresses of the machine. Streams begin and end meanwhile.
        let refused = all.into_iter().filter(|(_, to)| !allows(*to));
        let refused: Vec<_> = refused.collect();
        let mut led = lock(&self.1);
        let ended = refused
            .iter()
            .filter_map(|(number, _)| led.streams.remove(number));
        ended.filter_map(|(_, end)| end.send(()).ok()).count()
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
        self.streams.0.send_modify(|state| state.streams -= 1);
    }
}

impl OpenStream {
    /// The stream is connected to `to`. Says as well whether the policy has become another one since the stream began,
    /// and is to be asked about it again.
    pub(crate) fn leads_to(&self, to: SocketAddr) -> (LedStream, bool) {
        let (end, refused) = oneshot::channel();
        let mut led = lock(&self.streams.1);
        let number = led.next;
        led.next += 1;
        led.streams.insert(number, (to, end));
        let is_other = led.changes != self.began;
        let streams = self.streams.clone();
        (
            LedStream {
                streams,
                number,
                refused,
            },
            is_other,
        )
    }
}

impl LedStream {
    /// Waits until another policy refuses where the stream leads.
    pub(crate) async fn refused(&mut self) {
        if (&mut self.refused).await.is_err() {
            // Nobody is left who could refuse.
            core::future::pending().await
        }
    }
}

impl Drop for LedStream {
    fn drop(&mut self) {
        lock(&self.streams.1).streams.remove(&self.number);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use core::pin::pin;
    use core::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn another_policy_ends_what_it_refuses_and_nothing_else() {
        let streams = OpenStreams::new();
        let to = |port| SocketAddr::from(([192, 0, 2, 1], port));
        let (one, other) = (streams.enter().unwrap(), streams.enter().unwrap());
        let dials = streams.enter().unwrap();
        let (mut one, is_other) = one.leads_to(to(80));
        assert!(!is_other);
        let (mut other, _) = other.leads_to(to(443));
        assert_eq!(streams.ask_again(|to| to.port() == 443), 1);
        one.refused().await;
        let waits = tokio::select! {
            biased;
            () = other.refused() => false,
            () = core::future::ready(()) => true,
        };
        assert!(waits, "what is allowed goes on");
        let (_led, is_other) = dials.leads_to(to(80));
        assert!(is_other, "who connects meanwhile asks again");
        drop((one, other));
        assert_eq!(lock(&streams.1).streams.len(), 1);
    }

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
