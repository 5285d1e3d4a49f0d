//! The two ends of a circuit as its streams see them: an [`Opener`] begins streams, an [`Acceptor`] answers them.
//!
//! A client opens and a relay accepts. A service would accept streams at the end of a circuit that the service has
//! built itself. So whether an end opens or accepts streams is independent of how that end's layers open and seal. What
//! both ends do is written once, in [`super::Mux`] over either of them; what only one end may do can be called on the
//! `Mux` of that end alone.

use core::task::Waker;

use super::names::LegId;
use super::target::StreamTarget;
use crate::cell::message::{LegMessage, NoRoom, Packer, SECRET_LEN};
use crate::ids::StreamId;

/// One of the two ends: [`Opener`] or [`Acceptor`], and no other.
pub trait StreamEnd: Default + Send + Sized + 'static {
    /// How far the opening of a stream has come, as this end sees it.
    type Opening: Opening;
    /// What this end still has to say about a leg.
    type Words: LegWords;
}

/// How far the opening of a stream has come.
pub trait Opening: Send {
    /// Is there something to say about the opening itself, before anything else of the stream?
    fn is_due(&self) -> bool;

    /// Says what is due, if there is room for it.
    fn pack(&mut self, id: StreamId, packer: &mut Packer<'_>) -> Result<(), NoRoom>;

    /// May the other end already send data, or complete its direction?
    fn may_receive(&self) -> bool;

    /// The stream is given up: the message that was due will not be sent. `true` if the other end has never heard of
    /// the stream.
    fn give_up(&mut self) -> bool;

    /// Wakes whoever waits for the stream to be open.
    fn wake(&mut self);
}

/// What an end still has to say about a leg.
pub trait LegWords: Default + Send {
    /// May a leg carry payloads as soon as this end has said LINK or LINKED on it, also a leg that is not the first?
    const LINKS_AT_ONCE: bool;

    /// Must LINK or LINKED be said, before anything else?
    fn is_link_due(&self) -> bool;

    /// Says LINK or LINKED, if there is room for it.
    fn pack_link(&mut self, leg: LegId, packer: &mut Packer<'_>) -> Result<(), NoRoom>;

    /// Must something be said, whatever it is?
    fn is_word_due(&self) -> bool;

    /// Something is being said.
    fn on_said(&mut self);

    /// Is there anything else to say that no window counts?
    fn has_uncounted(&self) -> bool;

    /// Must SEEN be said, even if it is no news? The question is asked once: the answer is then forgotten.
    fn take_asked(&mut self) -> bool;

    /// Says the other things that there are to say.
    fn pack_others(&mut self, packer: &mut Packer<'_>);

    /// Another leg is lost.
    fn on_other_lost(&mut self, lost: LegId);
}

/// The end that opens streams.
#[derive(Debug)]
pub struct Opener {
    pub(super) next_id: u16,
}

impl Default for Opener {
    fn default() -> Self {
        Self { next_id: 1 }
    }
}

/// The end that accepts streams.
#[derive(Debug, Default)]
pub struct Acceptor;

impl StreamEnd for Opener {
    type Opening = Beginning;
    type Words = OpenerWords;
}

impl StreamEnd for Acceptor {
    type Opening = Answering;
    type Words = AcceptorWords;
}

/// How far the opening of a stream has come that this end has begun.
#[derive(Debug)]
pub struct Beginning {
    pub(super) step: BeginStep,
    /// Whoever waits for the stream to be open.
    pub(super) waiter: Option<Waker>,
}

#[derive(Debug)]
pub(super) enum BeginStep {
    /// BEGIN has yet to be sent. The target is where the stream goes.
    Begin(StreamTarget),
    /// BEGIN has been sent, and CONNECTED has not come yet.
    Waiting,
    /// CONNECTED has come.
    Open,
}

impl Beginning {
    pub(super) fn new(target: StreamTarget) -> Self {
        Self {
            step: BeginStep::Begin(target),
            waiter: None,
        }
    }
}

impl Opening for Beginning {
    fn is_due(&self) -> bool {
        matches!(self.step, BeginStep::Begin(_))
    }

    fn pack(&mut self, id: StreamId, packer: &mut Packer<'_>) -> Result<(), NoRoom> {
        let BeginStep::Begin(target) = &self.step else {
            return Ok(());
        };
        match target {
            StreamTarget::Directory => packer.begin_dir(id)?,
            StreamTarget::Resolver => packer.begin_dns(id)?,
            StreamTarget::Host(host, port) => packer.begin(id, host.to_wire(), *port)?,
        }
        self.step = BeginStep::Waiting;
        Ok(())
    }

    fn may_receive(&self) -> bool {
        matches!(self.step, BeginStep::Open)
    }

    fn give_up(&mut self) -> bool {
        self.is_due()
    }

    fn wake(&mut self) {
        self.waiter.take().into_iter().for_each(Waker::wake);
    }
}

/// How far the opening of a stream has come that the other end has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answering {
    /// The destination has not answered.
    Waiting,
    /// CONNECTED has yet to be sent.
    Connected,
    /// CONNECTED has been sent.
    Open,
}

impl Opening for Answering {
    fn is_due(&self) -> bool {
        *self == Self::Connected
    }

    fn pack(&mut self, id: StreamId, packer: &mut Packer<'_>) -> Result<(), NoRoom> {
        if *self == Self::Connected {
            packer.connected(id)?;
            *self = Self::Open;
        }
        Ok(())
    }

    /// Data may come together with BEGIN.
    fn may_receive(&self) -> bool {
        true
    }

    fn give_up(&mut self) -> bool {
        if *self == Self::Connected {
            *self = Self::Waiting;
        }
        false
    }

    fn wake(&mut self) {}
}

/// What an opener still has to say about a leg.
#[derive(Default)]
pub struct OpenerWords {
    /// LINK, with the set's secret.
    pub(super) link: Option<[u8; SECRET_LEN]>,
    /// UNLINK: this other leg is lost.
    pub(super) unlink: Option<LegId>,
    /// ASK: what has the other end seen?
    pub(super) ask: bool,
    /// The other end must hear something, so that it knows that this end holds the keys.
    pub(super) confirm: bool,
}

impl LegWords for OpenerWords {
    /// A second leg may carry payloads only when the acceptor has said LINKED.
    const LINKS_AT_ONCE: bool = false;

    fn is_link_due(&self) -> bool {
        self.link.is_some()
    }

    fn pack_link(&mut self, leg: LegId, packer: &mut Packer<'_>) -> Result<(), NoRoom> {
        if let Some(secret) = &self.link {
            let leg = leg.0;
            packer.leg(&LegMessage::Link { secret, leg })?;
        }
        self.link = None;
        Ok(())
    }

    fn is_word_due(&self) -> bool {
        self.confirm
    }

    fn on_said(&mut self) {
        self.confirm = false;
    }

    fn has_uncounted(&self) -> bool {
        self.unlink.is_some() || self.ask
    }

    fn take_asked(&mut self) -> bool {
        false
    }

    fn pack_others(&mut self, packer: &mut Packer<'_>) {
        if let Some(lost) = self.unlink.take() {
            let _ = packer.leg(&LegMessage::Unlink(lost.0));
        }
        if core::mem::take(&mut self.ask) {
            let _ = packer.leg(&LegMessage::Ask);
        }
    }

    fn on_other_lost(&mut self, lost: LegId) {
        self.unlink = Some(lost);
    }
}

/// What an acceptor still has to say about a leg.
#[derive(Default)]
pub struct AcceptorWords {
    /// LINKED.
    pub(super) linked: bool,
    /// SEEN, because the opener has asked.
    pub(super) asked: bool,
}

impl LegWords for AcceptorWords {
    const LINKS_AT_ONCE: bool = true;

    fn is_link_due(&self) -> bool {
        self.linked
    }

    fn pack_link(&mut self, _: LegId, packer: &mut Packer<'_>) -> Result<(), NoRoom> {
        packer.leg(&LegMessage::Linked)?;
        self.linked = false;
        Ok(())
    }

    fn is_word_due(&self) -> bool {
        false
    }

    fn on_said(&mut self) {}

    fn has_uncounted(&self) -> bool {
        self.asked
    }

    fn take_asked(&mut self) -> bool {
        core::mem::take(&mut self.asked)
    }

    fn pack_others(&mut self, _: &mut Packer<'_>) {}

    fn on_other_lost(&mut self, _: LegId) {}
}
