//! Tells whoever listens how things stand first, and then what happens.
//!
//! [`News`] holds the state of its owner and a bounded ring of events. Whoever reports changes the state and tells of
//! it in one step, so that a listener who comes meanwhile misses nothing and hears nothing twice. A listener who falls
//! behind the ring hears again how things stand. What the state is, which change is an event, and what goes into the
//! log is the owner's matter: the reporters of a relay and of a client are such owners.

use core::fmt;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, Weak};

use tokio::sync::broadcast;
use tracing::Level;

use crate::sync::lock;

/// Number of events that a listener may be behind before it skips ahead to how things stand.
pub const RING: usize = 64;

/// What stands behind [`News`]: a state that can be told as events.
pub trait Standing {
    /// What happens, or how one thing stands.
    type Event: Clone + fmt::Debug;

    /// The events that say how things stand now. The number of these events is bounded.
    fn present(&self) -> VecDeque<Self::Event>;
}

#[derive(Debug)]
struct NewsState<S: Standing> {
    state: Mutex<S>,
    events: broadcast::Sender<S::Event>,
}

/// How things stand, and a way to tell what happens. Clones share one state.
#[derive(Debug)]
pub struct News<S: Standing>(Arc<NewsState<S>>);

impl<S: Standing> Clone for News<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S: Standing> News<S> {
    /// News that begin with this state.
    pub fn new(state: S) -> Self {
        Self(Arc::new(NewsState {
            state: Mutex::new(state),
            events: broadcast::Sender::new(RING),
        }))
    }

    /// Changes the state. `change` gets the state and a function that tells an event to all who listen now.
    pub fn change<T>(&self, change: impl FnOnce(&mut S, &mut dyn FnMut(S::Event)) -> T) -> T {
        let mut state = lock(&self.0.state);
        // If nobody listens, the event is dropped. Whoever comes later hears how things stand.
        let mut tell = |event| drop(self.0.events.send(event));
        change(&mut state, &mut tell)
    }

    /// Looks at the state.
    pub fn look<T>(&self, look: impl FnOnce(&S) -> T) -> T {
        look(&lock(&self.0.state))
    }

    /// The events that say how things stand now.
    pub fn present(&self) -> VecDeque<S::Event> {
        self.look(S::present)
    }

    /// Begins to listen.
    pub fn subscribe(&self) -> Feed<S> {
        let state = lock(&self.0.state);
        Feed {
            present: state.present(),
            // Subscribing is done under the lock, so that nothing is missed between the state and the events.
            events: self.0.events.subscribe(),
            shared: Arc::downgrade(&self.0),
        }
    }
}

/// The events of a [`News`], one after the other.
#[derive(Debug)]
pub struct Feed<S: Standing> {
    present: VecDeque<S::Event>,
    events: broadcast::Receiver<S::Event>,
    shared: Weak<NewsState<S>>,
}

impl<S: Standing> Feed<S> {
    /// The next event: first how things stand, then what happens. `None` when all clones of the [`News`] are gone. A
    /// listener that is slow misses events, and hears again how things stand instead.
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<S::Event> {
        loop {
            if let Some(event) = self.present.pop_front() {
                return Some(event);
            }
            match self.events.recv().await {
                Ok(event) => return Some(event),
                Err(broadcast::error::RecvError::Closed) => return None,
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    *self = News(self.shared.upgrade()?).subscribe();
                }
            }
        }
    }
}

/// Writes a line to the log, as loudly as `level` says.
pub fn log(level: Level, line: &dyn fmt::Display) {
    match level {
        Level::ERROR => tracing::error!("{line}"),
        Level::WARN => tracing::warn!("{line}"),
        Level::INFO => tracing::info!("{line}"),
        Level::DEBUG => tracing::debug!("{line}"),
        Level::TRACE => tracing::trace!("{line}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A number that is told whenever it changes.
    #[derive(Debug)]
    struct Number(usize);

    impl Standing for Number {
        type Event = usize;

        fn present(&self) -> VecDeque<usize> {
            [self.0].into()
        }
    }

    fn set(news: &News<Number>, to: usize) {
        news.change(|number, tell| {
            number.0 = to;
            tell(to);
        });
    }

    #[tokio::test]
    async fn whoever_comes_late_hears_how_things_stand_and_then_what_happens() {
        let news = News::new(Number(1));
        let mut early = news.subscribe();
        set(&news, 2);
        let mut late = news.subscribe();
        set(&news, 3);
        assert_eq!([early.next().await, early.next().await], [Some(1), Some(2)]);
        assert_eq!(early.next().await, Some(3));
        assert_eq!([late.next().await, late.next().await], [Some(2), Some(3)]);
        assert_eq!(news.look(|number| number.0), 3);
        drop(news);
        assert_eq!(early.next().await, None);
    }

    #[tokio::test]
    async fn whoever_falls_behind_hears_again_how_things_stand() {
        let news = News::new(Number(0));
        let mut slow = news.subscribe();
        (1..=2 * RING).for_each(|n| set(&news, n));
        assert_eq!(slow.next().await, Some(0));
        assert_eq!(slow.next().await, Some(2 * RING));
        set(&news, 7);
        assert_eq!(slow.next().await, Some(7));
        (1..=2 * RING).for_each(|n| set(&news, n));
        drop(news);
        // What is left in the ring is lost, and the state that would have been told in its place is gone.
        assert_eq!(slow.next().await, None);
    }

    #[tokio::test]
    async fn a_wait_that_is_given_up_loses_nothing() {
        let news = News::new(Number(1));
        let mut feed = news.subscribe();
        assert_eq!(feed.next().await, Some(1));
        {
            let mut wait = std::pin::pin!(feed.next());
            let waker = std::task::Waker::noop();
            let mut context = std::task::Context::from_waker(waker);
            assert!(wait.as_mut().poll(&mut context).is_pending());
            set(&news, 2);
        }
        assert_eq!(feed.next().await, Some(2));
    }
}
