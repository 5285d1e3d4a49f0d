//! The `dns` listener: a name server of this machine that asks the resolvers of exits.
//!
//! Queries come by UDP and, as `serve` accepts them, by TCP. Each goes on in the client's own words, and all programs of
//! the machine share what keeps streams apart: who asks, a datagram does not say.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use cepa_common::budget::Charge;
use cepa_common::dns::{Heard, MOST_QUERY, read_query};
use cepa_common::limits::ACCEPT_BACKOFF;
use cepa_common::log_pace::LogPace;
use cepa_common::world::datagrams::DatagramSocket;
use cepa_common::world::steady;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

use super::connector::{Connector, IsolationKey};

/// Queries by UDP that are at work at once. One more takes the place of the oldest: whoever asks by UDP has asked again
/// by then, or has given up, and names for which nobody answers must not keep others out.
const MOST_QUERIES: usize = 256;
/// What one of them takes (bytes): the query as it came, its question and its answer.
const QUERY_BYTES: usize = 4_096;

/// Answers the queries that come to `socket`, without end.
pub(super) async fn serve_datagrams<C: Connector>(
    socket: &DatagramSocket,
    connector: &Arc<C>,
    isolation: &IsolationKey,
) {
    // The set is dropped with this future, which aborts every task in it.
    let mut at_work: JoinSet<(SocketAddr, Vec<u8>)> = JoinSet::new();
    // Those at work, the oldest first.
    let mut order: VecDeque<AbortHandle> = VecDeque::new();
    let mut charge = Charge::none(connector.budget());
    let mut failed = LogPace::default();
    loop {
        order.retain(|query| !query.is_finished());
        charge.set(order.len() * QUERY_BYTES);
        let mut come: Vec<(SocketAddr, Vec<u8>)> = Vec::new();
        let take = |from, bytes: &[u8]| {
            if come.len() < MOST_QUERIES && bytes.len() <= MOST_QUERY {
                come.push((from, bytes.to_vec()));
            }
        };
        tokio::select! {
            received = socket.receive(take) => if let Err(error) = received {
                if let Some(times) = failed.count(1, steady::now()) {
                    tracing::warn!(%error, times, "the DNS port cannot receive for the moment");
                }
                sleep(ACCEPT_BACKOFF).await;
            },
            Some(answered) = at_work.join_next() => if let Ok((to, answer)) = answered {
                tell(socket, to, &answer);
            },
        }
        for (from, bytes) in come {
            match read_query(&bytes) {
                Ok(Heard::Query(query)) => {
                    let (connector, isolation) = (connector.clone(), isolation.clone());
                    if order.len() >= MOST_QUERIES
                        && let Some(oldest) = order.pop_front()
                    {
                        oldest.abort();
                    }
                    order.push_back(at_work.spawn(async move {
                        let most = query.most_udp_bytes();
                        (from, connector.answer(query, most, isolation).await)
                    }));
                }
                Ok(Heard::Refused(answer)) => tell(socket, from, &answer),
                // An answer, or no DNS: whoever sends it hears nothing, lest two servers talk for ever.
                Err(_) => {}
            }
        }
    }
}

/// Sends an answer. One that the kernel does not take is lost, as datagrams are.
fn tell(socket: &DatagramSocket, to: SocketAddr, answer: &[u8]) {
    let _ = socket.try_send_to(answer, to);
}
