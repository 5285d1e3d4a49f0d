//! Which address of a destination is dialled when: the race of RFC 8305 ("Happy Eyeballs"), without I/O.
//!
//! The addresses of the two families come in two answers. What is known to answer goes first, IPv6 before IPv4, then
//! the families in turn (section 4). One dial after the other begins, 250 ms apart (section 5), and the first that is
//! answered wins. A dial that fails starts the next at once.
//!
//! The caller asks [`Race::next`] what to do, does it, and says what has happened.

use core::time::Duration;
use std::net::{IpAddr, SocketAddr};

use tokio::time::Instant;

use super::error::DestinationError;

/// Between the beginnings of two dials (RFC 8305, section 5: the connection attempt delay).
pub(super) const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// For this time addresses of one family wait for those of the family that goes first (RFC 8305, section 3: the
/// resolution delay).
pub(super) const RESOLUTION_DELAY: Duration = Duration::from_millis(50);

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Family {
    /// IPv4, names' A records.
    V4,
    /// IPv6, names' AAAA records.
    V6,
}

impl Family {
    /// Both.
    pub(super) const BOTH: [Self; 2] = [Self::V6, Self::V4];

    /// The family of an address.
    pub(super) fn of(address: IpAddr) -> Self {
        if address.is_ipv4() {
            Self::V4
        } else {
            Self::V6
        }
    }

    /// The other family.
    pub(super) fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }

    /// The family's place in a table of both.
    pub(super) fn index(self) -> usize {
        usize::from(self == Self::V6)
    }
}

/// What was learnt of an address, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fate {
    /// The address has answered.
    Answered,
    /// Nothing is known.
    Unknown,
    /// The address was silent.
    Silent,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Call [`Race::take`] and dial the address.
    Dial,
    /// Nothing is to be done until that time, or until something happens.
    Wait(Option<Instant>),
    /// Nothing is left to be dialled or waited for.
    Failed(DestinationError),
}

/// The addresses of one family.
#[derive(Default)]
struct Queue {
    /// The family's answer has yet to come.
    awaited: bool,
    /// What is still to be dialled, the last first.
    addresses: Vec<(Fate, SocketAddr)>,
}

/// A race of dials.
pub(super) struct Race {
    queues: [Queue; 2],
    /// The family that goes first; after each dial the other one.
    turn: Family,
    /// Since when addresses wait for those of the family that goes first.
    held_until: Option<Instant>,
    next_dial: Option<Instant>,
    under_way: usize,
    error: Option<DestinationError>,
}

impl Race {
    /// A race without addresses, in which addresses of `first` go first.
    pub(super) fn new(first: Family) -> Self {
        Self {
            queues: Default::default(),
            turn: first,
            held_until: None,
            next_dial: None,
            under_way: 0,
            error: None,
        }
    }

    fn queue(&mut self, family: Family) -> &mut Queue {
        &mut self.queues[family.index()]
    }

    /// Notes that the addresses of a family are being asked for.
    pub(super) fn on_asked(&mut self, family: Family) {
        self.queue(family).awaited = true;
    }

    /// Takes the addresses of a family, with what is known of each. There may be none.
    pub(super) fn on_addresses(
        &mut self,
        now: Instant,
        family: Family,
        addresses: impl Iterator<Item = (Fate, SocketAddr)>,
    ) {
        let queue = self.queue(family);
        queue.awaited = false;
        queue.addresses.extend(addresses);
        // The sort is stable: a server's order counts among equals.
        queue.addresses.sort_by_key(|(fate, _)| *fate);
        queue.addresses.reverse();
        self.held_until.get_or_insert(now + RESOLUTION_DELAY);
    }

    /// Notes that the addresses of a family could not be had.
    pub(super) fn on_no_answer(&mut self, family: Family, error: DestinationError) {
        self.queue(family).awaited = false;
        self.note(error);
    }

    /// Notes that a dial has failed, or was not allowed. The next begins at once.
    pub(super) fn on_failed(&mut self, now: Instant, error: DestinationError) {
        self.under_way = self.under_way.saturating_sub(1);
        self.next_dial = Some(now);
        self.note(error);
    }

    /// Notes that no dial can begin now for want of a place.
    pub(super) fn on_no_place(&mut self, now: Instant) {
        self.next_dial = Some(now + ATTEMPT_DELAY);
    }

    /// What the stream is told: that the destination has refused, if it has, else the first thing that went wrong, and
    /// that of a dial rather than that of a look-up or of the policy.
    fn note(&mut self, error: DestinationError) {
        use DestinationError as E;
        let rank = |error: E| match error {
            E::Refused => 0,
            E::TimedOut | E::Unreachable | E::Resource | E::Internal => 1,
            E::ResolveFailed => 2,
            E::Policy => 3,
        };
        if self.error.is_none_or(|first| rank(error) < rank(first)) {
            self.error = Some(error);
        }
    }

    /// The family whose address is to be dialled next.
    fn choice(&self) -> Option<Family> {
        let best = |family: Family| {
            let queue = &self.queues[family.index()];
            queue.addresses.last().map(|(fate, _)| *fate)
        };
        let (turn, other) = (self.turn, self.turn.other());
        match (best(turn), best(other)) {
            (None, None) => None,
            (Some(_), None) => Some(turn),
            (None, Some(_)) => Some(other),
            (Some(one), Some(two)) => Some(if two < one { other } else { turn }),
        }
    }

    /// What to do now.
    pub(super) fn next(&mut self, now: Instant) -> Step {
        let awaits = self.queues.iter().any(|queue| queue.awaited);
        let Some(family) = self.choice() else {
            return if awaits || self.under_way > 0 {
                Step::Wait(None)
            } else {
                Step::Failed(self.error.unwrap_or(DestinationError::ResolveFailed))
            };
        };
        // Only the first dial waits for the family that goes first.
        if self.next_dial.is_none()
            && family != self.turn
            && self.queues[self.turn.index()].awaited
            && let Some(until) = self.held_until.filter(|until| now < *until)
        {
            return Step::Wait(Some(until));
        }
        match self.next_dial {
            Some(next) if self.under_way > 0 && now < next => Step::Wait(Some(next)),
            _ => Step::Dial,
        }
    }

    /// The address that [`Race::take`] would take.
    pub(super) fn peek(&self) -> Option<SocketAddr> {
        let queue = &self.queues[self.choice()?.index()];
        queue.addresses.last().map(|(_, address)| *address)
    }

    /// Takes the address to be dialled, whose dial begins now.
    pub(super) fn take(&mut self, now: Instant) -> Option<SocketAddr> {
        let family = self.choice()?;
        let (_, address) = self.queue(family).addresses.pop()?;
        self.turn = family.other();
        self.under_way += 1;
        self.next_dial = Some(now + ATTEMPT_DELAY);
        Some(address)
    }
}
