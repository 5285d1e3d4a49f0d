//! One circuit under the streams: its window, and how far it has come as a leg of a set.

use std::collections::VecDeque;
use std::time::Duration;

use crate::cell::message::{MARK_LEN, SECRET_LEN};
use crate::flow::window::{ReceiveWindow, SendWindow};

/// Circuits that carry one set of streams at once (5.20).
pub const MOST_LEGS: usize = 2;

/// Names a leg to the end that holds it; never used again by the same streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LegId(pub(super) u32);

impl LegId {
    /// The circuit that streams begin on.
    pub const FIRST: Self = Self(0);

    /// The leg that a LINK names.
    pub fn from_wire(number: u32) -> Self {
        Self(number)
    }

    /// A number for tables: of those that live at once, no two have the same modulo four.
    pub fn number(self) -> usize {
        self.0 as usize
    }
}

/// What is to be said of linking, before anything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Linking {
    /// LINK with this secret (at a client).
    Link([u8; SECRET_LEN]),
    /// LINKED (at a relay).
    Linked,
}

/// What the end of a circuit knows of it, beside its keys.
pub struct Leg {
    pub(super) id: LegId,
    pub(super) send: SendWindow,
    pub(super) receive: ReceiveWindow,
    /// Marks to be acknowledged.
    pub(super) acks: VecDeque<[u8; MARK_LEN]>,
    pub(super) say: Option<Linking>,
    /// The relay is to be told that this leg, another, is lost (at a client).
    pub(super) unlink: Option<LegId>,
    /// The relay is to be asked what it has seen (at a client).
    pub(super) ask: bool,
    /// The client has asked (at a relay).
    pub(super) asked: bool,
    /// It came to a set that there was: its way must have been measured before anything goes on it.
    pub(super) joined: bool,
    /// It may carry numbered payloads away from here.
    pub(super) linked: bool,
    /// The number that the next numbered payload on it has unless it says another, in each direction.
    pub(super) next_out: Option<u64>,
    pub(super) next_in: Option<u64>,
}

impl Leg {
    pub(super) fn new(id: LegId, send: SendWindow) -> Self {
        Self {
            id,
            send,
            receive: ReceiveWindow::default(),
            acks: VecDeque::new(),
            say: None,
            unlink: None,
            ask: false,
            asked: false,
            joined: false,
            linked: false,
            next_out: None,
            next_in: None,
        }
    }

    /// May numbered payloads be sent on it, as far as its window lets?
    pub(super) fn is_usable(&self) -> bool {
        self.linked && (!self.joined || self.send.smooth_rtt().is_some())
    }

    /// How long its way is, for comparing.
    pub(super) fn rtt(&self) -> Duration {
        self.send.smooth_rtt().unwrap_or_default()
    }

    /// Is there anything to be said on it that no window counts?
    pub(super) fn has_uncounted(&self) -> bool {
        !self.acks.is_empty() || self.unlink.is_some() || self.ask || self.asked
    }
}
