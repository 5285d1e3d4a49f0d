//! One association, as one end of it sees it: how far it is, and what it says next (docs/protocol.md, 5.30 to 5.36).

use core::task::Waker;
use std::time::Instant;

use super::datagram_queue::{HeldDatagram, Queue};
use super::recent::Recent;
use crate::cell::message::{AssociationMessage, EndReason, MESSAGE_HEAD_LEN, NoRoom, Packer};
use crate::ids::AssociationId;
use crate::limits::DATAGRAM_AGE;

/// A PART that would be shorter than this waits for the next cell.
const MIN_PART_LEN: usize = 64;

/// How far the beginning of an association has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The opener has yet to say BEGIN_UDP.
    Begin,
    /// The acceptor has not answered.
    Waiting,
    /// The acceptor has yet to say BOUND.
    Answer,
    /// BOUND was said.
    Open,
}

/// One association.
pub(super) struct Association {
    pub(super) id: AssociationId,
    /// Has this end begun it?
    pub(super) is_opener: bool,
    pub(super) step: Step,
    /// Datagrams to be said, with their addresses.
    pub(super) out: Queue<Vec<u8>>,
    /// Bytes of the first of these that PARTs have said.
    pub(super) offset: usize,
    /// What has come.
    pub(super) come: Queue<HeldDatagram>,
    /// UNBIND is to be said once `out` is empty.
    pub(super) ending: Option<EndReason>,
    /// UNBIND was said.
    pub(super) said: bool,
    /// The UNBIND that was heard.
    pub(super) heard: Option<EndReason>,
    /// The application has let go.
    pub(super) released: bool,
    /// The number is free.
    pub(super) closed: bool,
    /// Whoever waits for datagrams, or for BOUND.
    pub(super) waiters: [Option<Waker>; 2],
    pub(super) recent: Recent,
    pub(super) is_queued: bool,
}

/// Places in [`Association::waiters`].
pub(super) const RECEIVER: usize = 0;
pub(super) const BINDER: usize = 1;

impl Association {
    /// One that has just begun.
    pub(super) fn new(id: AssociationId, is_opener: bool) -> Self {
        Self {
            id,
            is_opener,
            step: match is_opener {
                true => Step::Begin,
                false => Step::Waiting,
            },
            out: Queue::default(),
            offset: 0,
            come: Queue::default(),
            ending: None,
            said: false,
            heard: None,
            released: false,
            closed: false,
            waiters: [None, None],
            recent: Recent::default(),
            is_queued: false,
        }
    }

    fn may_say_datagrams(&self) -> bool {
        match self.is_opener {
            true => true,
            false => self.step == Step::Open,
        }
    }

    /// Is there something to say?
    pub(super) fn has_work(&self) -> bool {
        let speaks = !self.said && !self.closed;
        let datagrams = self.may_say_datagrams() && !self.out.is_empty();
        let ends = self.ending.is_some() && !datagrams;
        speaks && (matches!(self.step, Step::Begin | Step::Answer) || datagrams || ends)
    }

    /// Drops what waits to be said.
    pub(super) fn drop_out(&mut self) {
        self.out = Queue::default();
        self.offset = 0;
    }

    /// Wakes whoever waits.
    pub(super) fn wake(&mut self) {
        let waiters = self.waiters.iter_mut();
        waiters.filter_map(Option::take).for_each(Waker::wake);
    }

    /// Packs what there is to say. Gives whether the payload is full.
    pub(super) fn pack(&mut self, packer: &mut Packer<'_>, now: Instant) -> bool {
        self.pack_all(packer, now).is_err()
            || packer.room().is_none_or(|room| room < MESSAGE_HEAD_LEN)
    }

    fn pack_all(&mut self, packer: &mut Packer<'_>, now: Instant) -> Result<(), NoRoom> {
        match self.step {
            Step::Begin => {
                packer.association(self.id, AssociationMessage::Begin)?;
                self.step = Step::Waiting;
            }
            Step::Answer => {
                packer.association(self.id, AssociationMessage::Bound)?;
                self.step = Step::Open;
            }
            Step::Waiting | Step::Open => {}
        }
        while self.may_say_datagrams() && self.next_out(now) {
            self.pack_datagram(packer)?;
        }
        if let Some(reason) = self.ending.filter(|_| !self.said) {
            packer.association(self.id, AssociationMessage::Unbind(reason))?;
            self.said = true;
        }
        Ok(())
    }

    /// Drops what has waited too long. Gives whether there is a datagram to be said.
    pub(super) fn next_out(&mut self, now: Instant) -> bool {
        while let Some((since, _)) = self.out.first() {
            let is_old = now.saturating_duration_since(since) > DATAGRAM_AGE;
            if self.offset > 0 || !is_old {
                return true;
            }
            self.out.pop();
        }
        false
    }

    /// Packs the first datagram, or as much of it as there is room for.
    fn pack_datagram(&mut self, packer: &mut Packer<'_>) -> Result<(), NoRoom> {
        let Some((_, first)) = self.out.first() else {
            return Ok(());
        };
        let left = first.get(self.offset..).unwrap_or_default();
        let room = packer.room().ok_or(NoRoom)?;
        if left.len() > room {
            let part = left.get(..room).filter(|part| part.len() >= MIN_PART_LEN);
            let part = part.ok_or(NoRoom)?;
            packer.association(self.id, AssociationMessage::Part(part))?;
            self.offset += room;
            return Err(NoRoom);
        }
        packer.association(self.id, AssociationMessage::Datagram(left))?;
        self.offset = 0;
        self.out.pop();
        Ok(())
    }
}
