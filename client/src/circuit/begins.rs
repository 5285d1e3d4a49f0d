//! When the next stream of a circuit may begin (docs/protocol.md, 7.20).
//!
//! An exit refuses what a client begins too fast on a circuit, and ends the circuit in the end. So the client waits
//! instead, at the circuit that it has: else a page in a browser that opens streams fast enough would have it choose one
//! exit after the other. Hosts take turns: a page that opens a thousand streams to one holds up no other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use cepa_common::dir::Params;
use cepa_common::net::dns_stream::Pace;
use cepa_common::stream::{StreamHost, StreamTarget};
use cepa_common::sync::lock;
use tokio::time::{Instant, sleep_until};

/// Where a stream goes, as far as turns go by it. `None` is the exit itself.
type Host = Option<StreamHost>;
type Turns = HashMap<Host, Arc<tokio::sync::Mutex<()>>>;

/// The pace of a circuit.
pub(super) struct Begins {
    pace: Pace,
    /// The hosts for which a stream waits.
    turns: Mutex<Turns>,
}

/// A host's turn. Its entry goes with the last who has it.
struct Turn<'a> {
    begins: &'a Begins,
    host: Host,
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut turns = lock(&self.begins.turns);
        // The table holds the lock once, and so does each who waits.
        if Arc::strong_count(&self.turn) <= 2 {
            turns.remove(&self.host);
        }
    }
}

impl Begins {
    /// The pace of a circuit that is made while `params` are in force. An eighth of what may begin at once is kept back:
    /// on the way, what was said in a while may come together.
    pub(super) fn new(params: &Params) -> Self {
        let burst = params.circuit_begins_burst;
        Self {
            pace: Pace::new(burst - burst / 8, params.circuit_begins_per_second),
            turns: Mutex::default(),
        }
    }

    /// Counts one more, which does not wait.
    pub(super) fn count(&self) {
        self.pace.next(Instant::now());
    }

    /// Waits until one more stream to `target` may begin.
    pub(super) async fn turn(&self, target: &StreamTarget) {
        let host = match target {
            StreamTarget::Host(host, _) => Some(host.clone()),
            StreamTarget::Directory | StreamTarget::Resolver => None,
        };
        let turn = Turn {
            begins: self,
            turn: lock(&self.turns).entry(host.clone()).or_default().clone(),
            host,
        };
        // Of one host one stream at a time has its time in the pace, so each time comes after few others.
        let _alone = turn.turn.lock().await;
        let now = Instant::now();
        let due = self.pace.next(now);
        if due > now {
            sleep_until(due).await;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use core::time::Duration;

    use super::*;

    fn to(host: &str) -> StreamTarget {
        StreamTarget::name(host, 443).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_circuit_begins_what_its_exit_takes_and_hosts_take_turns() {
        let params = Params {
            circuit_begins_burst: 80,
            circuit_begins_per_second: 10,
            ..Params::default()
        };
        let begins = Arc::new(Begins::new(&params));
        let start = Instant::now();
        let flood = (0..270).map(|_| {
            let begins = begins.clone();
            tokio::spawn(async move {
                begins.turn(&to("flood.example")).await;
                Instant::now()
            })
        });
        let flood: Vec<_> = flood.collect();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(lock(&begins.turns).len(), 1);
        for host in ["quiet.example", "other.example"] {
            let asked = Instant::now();
            begins.turn(&to(host)).await;
            // One of the flood has its time already, and another gets it meanwhile.
            assert!(asked.elapsed() <= Duration::from_millis(300), "{host}");
        }
        // Who gives up waiting has none wait for it longer than its turn.
        flood[200..].iter().for_each(tokio::task::JoinHandle::abort);
        let mut began = Vec::new();
        for one in flood {
            began.extend(one.await.ok());
        }
        began.sort();
        let at_once = began.iter().filter(|at| **at == start).count();
        assert_eq!(at_once, 70, "an eighth is kept back");
        for (n, at) in began.iter().enumerate() {
            let may = 70.0 + 10.0 * (*at - start).as_secs_f64();
            assert!(n as f64 <= may, "{n} had begun after {:?}", *at - start);
        }
        assert!(began.len() >= 200 && lock(&begins.turns).is_empty());
    }
}
