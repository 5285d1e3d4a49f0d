//! Questions to the name server of the namespace, on their way to the resolver of an exit and back.
//!
//! Programs ask by UDP, with ids that two of them may share. All questions go over one stream, with ids of our own, and
//! the answers come back by those. What an exit answers is the node's business to check; here the length alone counts.

use core::time::Duration;
use std::collections::BTreeMap;

use cepa_common::dns::{Answer, Heard, Query, ResponseCode, framed, read_query};

use super::packet::Pair;

/// Questions that wait for their answers at once; the node has as many for one stream.
const MOST_QUERIES: usize = 64;
/// A question is forgotten after this time: the node answers each within 20 s, or ends the stream.
const PATIENCE: Duration = Duration::from_secs(30);

/// The questions that wait.
#[derive(Debug, Default)]
pub(crate) struct Questions {
    waiting: BTreeMap<u16, Waiting>,
    /// The id that was given last.
    last: u16,
}

#[derive(Debug)]
struct Waiting {
    pair: Pair,
    id: [u8; 2],
    query: Query,
    until: Duration,
}

/// What becomes of a datagram to the name server.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// These bytes are for the stream.
    Out(Vec<u8>),
    /// This is the answer already.
    Answered(Vec<u8>),
    /// Nothing: it is no question, or too many wait.
    Dropped,
}

impl Questions {
    /// Takes a datagram that came at the time `now`.
    pub(crate) fn ask(&mut self, now: Duration, pair: Pair, datagram: &[u8]) -> Asked {
        self.waiting.retain(|_, waiting| waiting.until > now);
        let query = match read_query(datagram) {
            Ok(Heard::Query(query)) => query,
            Ok(Heard::Refused(answer)) => return Asked::Answered(answer),
            Err(_) => return Asked::Dropped,
        };
        if self.waiting.len() >= MOST_QUERIES {
            return Asked::Dropped;
        }
        let Some((&id, rest)) = datagram.split_first_chunk::<2>() else {
            return Asked::Dropped;
        };
        // Of 65,536 ids 64 are in use at most.
        self.last = loop {
            self.last = self.last.wrapping_add(1);
            if !self.waiting.contains_key(&self.last) {
                break self.last;
            }
        };
        let Some(out) = framed(&[&self.last.to_be_bytes(), rest].concat()) else {
            return Asked::Dropped;
        };
        let until = now + PATIENCE;
        let waiting = Waiting {
            pair,
            id,
            query,
            until,
        };
        self.waiting.insert(self.last, waiting);
        Asked::Out(out)
    }

    /// Takes an answer of the stream. Gives whose it is, and the datagram that says it: cut if the program takes no
    /// longer ones, so that it asks again by TCP. `None` if nobody waits for it.
    pub(crate) fn answered(&mut self, message: &[u8]) -> Option<(Pair, Vec<u8>)> {
        let (&id, rest) = message.split_first_chunk::<2>()?;
        let waiting = self.waiting.remove(&u16::from_be_bytes(id))?;
        let answer = if message.len() <= waiting.query.most_udp_bytes() {
            [&waiting.id[..], rest].concat()
        } else {
            // Nothing but the question fits.
            waiting.query.reply(&Answer::of(ResponseCode::NoError), 0)
        };
        Some((waiting.pair, answer))
    }

    /// Gives all that wait up: the stream has ended. Gives the datagrams that say so.
    pub(crate) fn lost(&mut self) -> Vec<(Pair, Vec<u8>)> {
        let failed = Answer::of(ResponseCode::ServFail);
        core::mem::take(&mut self.waiting)
            .into_values()
            .map(|waiting| {
                let most = waiting.query.most_udp_bytes();
                (waiting.pair, waiting.query.reply(&failed, most))
            })
            .collect()
    }

    /// Does anybody wait?
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}
