//! One circuit under the streams: its window, and its state as a leg of a set.

use std::collections::VecDeque;
use std::time::Duration;

use super::datagrams::Datagrams;
use super::end::{LegWords, StreamEnd};
use super::names::LegId;
use crate::cell::message::MARK_LEN;
use crate::flow::window::{ReceiveWindow, SendWindow};

/// Circuits that carry one set of streams at once (5.20).
pub const MOST_LEGS: usize = 2;

/// What the end of a circuit knows of the circuit, beside its keys.
pub struct Leg<E: StreamEnd> {
    pub(super) id: LegId,
    pub(super) send: SendWindow,
    pub(super) receive: ReceiveWindow,
    /// Marks to be acknowledged.
    pub(super) acks: VecDeque<[u8; MARK_LEN]>,
    /// What this end still has to say about the leg.
    pub(super) words: E::Words,
    /// The leg joined a set that existed: its round trip must be measured before any payload goes on it.
    pub(super) joined: bool,
    /// The leg may carry numbered payloads away from this end.
    pub(super) linked: bool,
    /// In each direction, the number of the next numbered payload on the leg, unless that payload says another number.
    pub(super) next_out: Option<u64>,
    pub(super) next_in: Option<u64>,
    /// The associations of the circuit, as soon as there is one. That there was one stays known.
    pub(super) datagrams: Option<Box<Datagrams>>,
}

impl<E: StreamEnd> Leg<E> {
    pub(super) fn new(id: LegId, send: SendWindow) -> Self {
        Self {
            id,
            send,
            receive: ReceiveWindow::default(),
            acks: VecDeque::new(),
            words: E::Words::default(),
            joined: false,
            linked: false,
            next_out: None,
            next_in: None,
            datagrams: None,
        }
    }

    /// May numbered payloads be sent on the leg, as far as its window lets?
    pub(super) fn is_usable(&self) -> bool {
        self.linked && (!self.joined || self.send.smooth_rtt().is_some())
    }

    /// The round-trip time of the leg, for comparing.
    pub(super) fn rtt(&self) -> Duration {
        self.send.smooth_rtt().unwrap_or_default()
    }

    /// Has an association something to say?
    pub(super) fn has_datagrams(&self) -> bool {
        self.datagrams.as_ref().is_some_and(|one| one.has_work())
    }

    /// Associations whose number is in use.
    pub(super) fn associations(&self) -> usize {
        self.datagrams.as_ref().map_or(0, |one| one.in_use())
    }

    /// The circuit is gone, and its associations with it.
    pub(super) fn lose_datagrams(&mut self) {
        if let Some(datagrams) = &mut self.datagrams {
            datagrams.lose();
        }
    }

    /// Is there anything to be said on the leg that no window counts?
    pub(super) fn has_uncounted(&self) -> bool {
        !self.acks.is_empty() || self.words.has_uncounted()
    }
}
