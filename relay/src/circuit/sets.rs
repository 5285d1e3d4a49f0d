//! Which circuits that end here carry streams together (docs/protocol.md, 5.20 and 5.21).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use cepa_common::cell::message::SECRET_LEN;
use cepa_common::net::circuit_io::Streams;
use cepa_common::stream::{Acceptor, LegId};
use cepa_common::sync::lock;
use sha2::{Digest, Sha256};

/// The sets of circuits, by the hash of their secret. With the hash as the key, the time that a look takes tells
/// nothing about a secret, and no secret stays in memory.
#[derive(Default)]
pub(crate) struct Sets(Mutex<Table>);

#[derive(Default)]
struct Table {
    sets: HashMap<[u8; 32], Weak<Streams<Acceptor>>>,
    /// Number of sets at which those that are over are dropped from the table: twice as many as were left the last
    /// time, and some more.
    clean_at: usize,
}

/// What LINK has made of a circuit.
pub(super) enum Entered {
    /// The first leg of a set.
    First,
    /// The second leg of these streams.
    Joined(Arc<Streams<Acceptor>>, LegId),
}

impl Sets {
    /// Does what a client's LINK on the circuit of `streams` asks for. `None` if the client may not say LINK.
    pub(super) fn enter(
        &self,
        secret: &[u8; SECRET_LEN],
        leg: LegId,
        streams: &Arc<Streams<Acceptor>>,
    ) -> Option<Entered> {
        let name: [u8; 32] = Sha256::digest(secret).into();
        let mut table = lock(&self.0);
        let set = table.sets.get(&name).and_then(Weak::upgrade);
        match set.filter(|set| !set.mux().is_lost()) {
            None if leg == LegId::FIRST => {
                table.add(name, streams);
                drop(table);
                streams.mux().begin_set();
                Some(Entered::First)
            }
            // There is no such set. If there was one, the client hears that it has ended.
            None => None,
            Some(set) => {
                drop(table);
                let circuit = streams.mux().take_leg()?;
                let leg = set.join(circuit, leg)?;
                Some(Entered::Joined(set, leg))
            }
        }
    }
}

impl Table {
    fn add(&mut self, name: [u8; 32], streams: &Arc<Streams<Acceptor>>) {
        if self.sets.len() >= self.clean_at {
            self.sets.retain(|_, set| set.strong_count() > 0);
            self.clean_at = 2 * self.sets.len() + 64;
        }
        self.sets.insert(name, Arc::downgrade(streams));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use cepa_common::budget::Budget;
    use cepa_common::flow::FixedWindow;
    use cepa_common::stream::{Mux, MuxConfig};

    use super::*;

    fn circuit() -> Arc<Streams<Acceptor>> {
        Streams::new(Mux::new(MuxConfig {
            control: Box::new(FixedWindow(64)),
            mark_interval_cells: 8,
            stream_window_bytes: 1 << 16,
            budget: Budget::unlimited(),
        }))
    }

    fn second(
        sets: &Sets,
        secret: u8,
        leg: u32,
        circuit: &Arc<Streams<Acceptor>>,
    ) -> Option<Arc<Streams<Acceptor>>> {
        match sets.enter(&[secret; SECRET_LEN], LegId::from_wire(leg), circuit)? {
            Entered::First => None,
            Entered::Joined(set, _) => Some(set),
        }
    }

    #[test]
    fn the_secret_joins_and_nothing_else_does() {
        let sets = Sets::default();
        let first = circuit();
        assert!(
            second(&sets, 1, 1, &first).is_none(),
            "there is no such set"
        );
        let entered = sets.enter(&[1; SECRET_LEN], LegId::FIRST, &first);
        assert!(matches!(entered, Some(Entered::First)));
        assert!(second(&sets, 2, 1, &circuit()).is_none());
        let joined = second(&sets, 1, 1, &circuit()).unwrap();
        assert!(Arc::ptr_eq(&joined, &first));
        assert!(
            second(&sets, 1, 2, &circuit()).is_none(),
            "two legs are all"
        );
        first.lose_leg(LegId::from_wire(1));
        assert!(
            second(&sets, 1, 1, &circuit()).is_none(),
            "each leg has a name of its own"
        );
    }

    #[test]
    fn a_set_that_is_over_takes_nobody_and_no_memory() {
        let sets = Sets::default();
        for secret in 0..200 {
            let first = circuit();
            let entered = sets.enter(&[secret; SECRET_LEN], LegId::FIRST, &first);
            assert!(matches!(entered, Some(Entered::First)));
            first.mux().lose();
            assert!(second(&sets, secret, 1, &circuit()).is_none());
        }
        assert!(sets.0.lock().unwrap().sets.len() <= 65);
    }
}
