//! What the tasks of one `cepa exec` share: the stack, the time since it began, and the node.

use core::time::Duration;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use cepa_common::log_pace::LogPace;
use cepa_common::sync::lock;
use cepa_common::world::{random, steady};
use rand::Rng;
use tokio::sync::Notify;

use crate::socks::{self, Failed, Request, Stream};
use crate::stack::Stack;
use crate::via::Via;

/// What all tasks share.
pub(crate) struct Shared {
    stack: Mutex<Stack>,
    /// The stack has something to do.
    changed: Notify,
    begun: Instant,
    via: Via,
    user: [u8; 32],
    has_no_udp: AtomicBool,
    /// How often it is told that another user has taken the node's port.
    strangers: Mutex<LogPace>,
}

/// A name that nobody else has: the node keeps what this command does apart from all else.
pub(crate) fn new_user() -> [u8; 32] {
    let mut bytes = [0; 16];
    random::rng().fill_bytes(&mut bytes);
    let mut user = [0; 32];
    for (pair, byte) in user.chunks_exact_mut(2).zip(bytes) {
        let digit = |n: u8| if n < 10 { b'0' + n } else { b'a' + n - 10 };
        pair.copy_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
    }
    user
}

impl Shared {
    pub(crate) fn new(via: Via, user: [u8; 32]) -> Self {
        Self {
            stack: Mutex::new(Stack::new(random::rng().next_u64())),
            changed: Notify::new(),
            begun: steady::now(),
            via,
            user,
            has_no_udp: AtomicBool::new(false),
            strangers: Mutex::default(),
        }
    }

    /// Does something with the stack, and has it send what follows from that.
    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut Stack, Duration) -> T) -> T {
        let done = self.look(act);
        self.changed.notify_one();
        done
    }

    /// Does something with the stack; the caller polls it.
    pub(crate) fn look<T>(&self, act: impl FnOnce(&mut Stack, Duration) -> T) -> T {
        act(&mut lock(&self.stack), steady::since(self.begun))
    }

    /// The moment that is `after` the stack began.
    pub(crate) fn moment(&self, after: Duration) -> tokio::time::Instant {
        (self.begun + after).into()
    }

    /// Waits until the stack has something to do.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Asks the node.
    pub(crate) async fn open(&self, request: Request) -> Result<Stream, Failed> {
        self.open_at(&self.via, request).await
    }

    /// Asks the node at this port of it.
    pub(crate) async fn open_at(&self, via: &Via, request: Request) -> Result<Stream, Failed> {
        let opened = socks::open(via, &self.user, request).await;
        if let Err(Failed::Stranger(uid)) = opened {
            let due = lock(&self.strangers).count(1, steady::now());
            if let Some(times) = due {
                tracing::warn!(%via, uid, times, "another user has taken the port of the client; nothing is sent there");
            }
        }
        opened
    }

    /// The node carries no datagrams.
    pub(crate) fn note_no_udp(&self) {
        self.has_no_udp.store(true, Ordering::Relaxed);
    }

    /// Has the node said that it carries no datagrams?
    pub(crate) fn has_no_udp(&self) -> bool {
        self.has_no_udp.load(Ordering::Relaxed)
    }
}
