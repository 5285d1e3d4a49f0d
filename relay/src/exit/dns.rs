//! Answers the queries of a client by the exit's name servers (docs/protocol.md, 5.40 to 5.44).
//!
//! A query is not passed on. Its name and type are, if they may be asked for, in a query that this exit writes: so the
//! servers see neither the client's options nor any other word of it. The answer is cleaned before the client gets it.

use core::time::Duration;
use std::sync::Arc;

use cepa_common::budget::Charge;
use cepa_common::cell::message::EndReason;
use cepa_common::dns::{Answer, Query, ResponseCode};
use cepa_common::net::circuit_io::StreamIo;
use cepa_common::net::dns_stream::{Bounds, Conversation, Ended, Pace};
use cepa_common::stream::Acceptor;
use tokio::time::{Instant, timeout_at};

use super::ExitConnector;
use super::attempts::{Aim, Origin};
use super::connect::{DEADLINE, LOOKUP_BYTES};
use super::resolve::LookupError;

/// What one stream may have. Its queries wait for places among the attempts of the circuit like streams that connect,
/// so more at once would only wait.
const BOUNDS: Bounds = Bounds {
    at_once: AT_ONCE,
    idle: IDLE,
};
const AT_ONCE: usize = 32;
/// A client ends a stream after half of that.
const IDLE: Duration = Duration::from_secs(120);

/// Answers the queries of a stream that a client has begun, until the client ends it or says what is no query. A relay
/// that is no exit has no `exit`, and refuses. `origin` says who has begun the stream, `pace` how fast all streams of
/// its circuit together are answered.
pub(crate) async fn answer(
    exit: Option<Arc<ExitConnector>>,
    mut stream: StreamIo<Acceptor>,
    origin: Origin,
    pace: Arc<Pace>,
) {
    let Some(exit) = exit else {
        return stream.abort(EndReason::Policy);
    };
    stream.accept();
    let charge = Charge::none(&exit.budget);
    let answer = |query: Query| exit.answer(query, origin);
    let conversation = Conversation::new(&mut stream, answer, BOUNDS, charge);
    // A stream that the client gives up ends its look-ups and their places at once.
    let ended = conversation
        .paced(pace)
        .run(|stream, cx| stream.poll_given_up(cx))
        .await;
    match ended {
        Ended::Done => stream.finish(),
        Ended::Idle => stream.abort(EndReason::Timeout),
        Ended::NoQuery => stream.abort(EndReason::Reset),
        Ended::Broken => {}
    }
}

impl ExitConnector {
    /// The answer to a query, within 15 s.
    async fn answer(&self, query: Query, origin: Origin) -> Vec<u8> {
        let answer = self.find(&query, origin).await;
        query.reply(&answer, usize::from(u16::MAX))
    }

    async fn find(&self, query: &Query, origin: Origin) -> Answer {
        let allow_private = self.policy.tells_private();
        if let Err(unasked) = query.question.judge(allow_private) {
            return Answer::of(unasked.code());
        }
        // An exit that stops waits for the queries that it has, and takes no more. Another exit answers those.
        let Some(_counted) = self.open_streams().enter() else {
            return Answer::of(ResponseCode::ServFail);
        };
        let deadline = Instant::now() + DEADLINE;
        let aim = Aim::of_name(query.question.name());
        let found = async {
            let _turn = self.attempts.turn(origin, aim).await;
            let mut charge = Charge::none(&self.budget);
            charge.set(LOOKUP_BYTES);
            self.names.answer(&query.question, allow_private).await
        };
        let found = timeout_at(deadline, found).await;
        // The client must not learn what is wrong with this machine or with the way to its servers.
        let found = found.unwrap_or(Err(LookupError::TimedOut));
        found.unwrap_or_else(|_| Answer::of(ResponseCode::ServFail))
    }
}
