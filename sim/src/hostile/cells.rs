//! A hostile relay's owner, who changes the cells that the relay says.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use cepa_common::cell::codec::{self, Cell, CircuitCommand, DestroyReason, Head};
use cepa_common::cell::{CELL_LEN, CLEAR_LEN};
use cepa_common::ids::CircId;
use cepa_common::sync::lock;
use cepa_common::world::memory::Forge;
use tokio::time::Duration;

use crate::scenario::Hostility;
use crate::seed::{Dice, millis};
use crate::sight::Invariant;
use crate::site::Site;

/// Of so many cells of a circuit one is changed, on average.
const ONE_IN: u64 = 20;
/// A circuit of which a cell was changed has ended after this time, as both its neighbours see at once.
const ENDED: Duration = Duration::from_secs(20);

/// A circuit on a connection.
type Circuit = (u64, CircId);

/// What a circuit has suffered.
#[derive(Clone, Copy)]
enum Harm {
    /// A cell is missing: the next one must not open.
    Missing,
    /// A cell that must not open was sent at this time.
    Shown(Duration),
    /// The far side was told that the circuit has ended.
    Ended,
}

struct Held {
    dice: Dice,
    harmed: BTreeMap<Circuit, Harm>,
}

/// Changes what one relay says.
pub(crate) struct CellForger {
    site: Arc<Site>,
    node: u32,
    how: Hostility,
    /// The addresses of relays that are not hostile.
    honest: BTreeSet<IpAddr>,
    held: Mutex<Held>,
}

impl CellForger {
    /// The owner of relay `node`, by fault number `fault` of the plan.
    pub(crate) fn new(site: &Arc<Site>, node: u32, fault: usize, how: Hostility) -> Self {
        let numbers = [u64::from(node), u64::try_from(fault).unwrap_or(u64::MAX)];
        Self {
            honest: site.plan.honest_relays().map(|node| node.address).collect(),
            site: site.clone(),
            node,
            how,
            held: Mutex::new(Held {
                dice: site.plan.seed.dice("forger", &numbers),
                harmed: BTreeMap::new(),
            }),
        }
    }

    /// A circuit that suffered and goes on is what must not be, unless the network hid from one end what was done.
    fn goes_on(&self, since: Duration, now: Duration) {
        let hides = |ends: Option<Duration>| ends.is_none_or(|ends| ends >= since);
        let mut faults = self.site.plan.faults.iter();
        let is_hidden =
            faults.any(|fault| fault.begins <= now && hides(fault.ends) && fault.act.hides());
        if !is_hidden {
            let what = format!(
                "a circuit goes on {} ms after a cell of it was changed ({})",
                millis(now - since),
                self.how.name()
            );
            let sight = &self.site.sight;
            sight.violation(Invariant::Cells, vec![self.node], what);
        }
    }

    fn say(
        &self,
        held: &mut Held,
        circuit: Circuit,
        peer: IpAddr,
        cell: Cell,
        out: &mut Vec<Cell>,
    ) {
        let Ok(Head::Circuit(_, command)) = codec::head(&cell) else {
            return out.push(cell);
        };
        let (circ, harm) = (circuit.1, held.harmed.get(&circuit).copied());
        match command {
            CircuitCommand::Destroy => {
                held.harmed.remove(&circuit);
                if !matches!(harm, Some(Harm::Ended)) {
                    out.push(cell);
                }
            }
            CircuitCommand::Create | CircuitCommand::Created
                if self.how == Hostility::Fail && self.honest.contains(&peer) =>
            {
                self.site.sight.misdeeds(self.how, 1);
                if command == CircuitCommand::Created && held.dice.number(0, 1) == 0 {
                    held.harmed.insert(circuit, Harm::Ended);
                    out.push(codec::destroy(circ, DestroyReason::Resource));
                }
                // Else nothing is said, for as long as the far side has patience.
            }
            CircuitCommand::Create | CircuitCommand::Created => {
                held.harmed.remove(&circuit);
                out.push(cell);
            }
            CircuitCommand::Relay => self.relay(held, circuit, harm, cell, out),
        }
    }

    fn relay(
        &self,
        held: &mut Held,
        circuit: Circuit,
        harm: Option<Harm>,
        mut cell: Cell,
        out: &mut Vec<Cell>,
    ) {
        let now = self.site.sight.now();
        match harm {
            Some(Harm::Ended) => return,
            Some(Harm::Shown(since)) => {
                if now > since + ENDED {
                    self.goes_on(since, now);
                }
                return out.push(cell);
            }
            Some(Harm::Missing) => {
                held.harmed.insert(circuit, Harm::Shown(now));
                return out.push(cell);
            }
            // Whoever changes the order has done so, see `swap`.
            None if self.how == Hostility::Swap => return out.push(cell),
            None if held.dice.number(1, ONE_IN) > 1 => return out.push(cell),
            None => {}
        }
        let (harm, count) = match self.how {
            Hostility::Tag => {
                let most = u64::try_from(CELL_LEN - 1).unwrap_or(0);
                let least = u64::try_from(CLEAR_LEN).unwrap_or(0);
                let place = usize::try_from(held.dice.number(least, most)).unwrap_or(CLEAR_LEN);
                if let Some(byte) = cell.get_mut(place) {
                    *byte ^= 1 << held.dice.number(0, 7);
                }
                (Harm::Shown(now), 1)
            }
            Hostility::Drop => (Harm::Missing, 0),
            Hostility::Repeat => (Harm::Shown(now), 2),
            Hostility::Cut => {
                out.push(codec::destroy(circuit.1, DestroyReason::Unreachable));
                (Harm::Ended, 0)
            }
            _ => return out.push(cell),
        };
        self.site.sight.misdeeds(self.how, 1);
        held.harmed.insert(circuit, harm);
        out.extend(std::iter::repeat_n(cell, count));
    }

    /// Changes the order of two cells of one circuit in a batch, if there are two.
    fn swap(&self, held: &mut Held, connection: u64, cells: &mut [Cell]) {
        let relay = |cell: &Cell| match codec::head(cell) {
            Ok(Head::Circuit(circ, CircuitCommand::Relay)) => Some(circ),
            _ => None,
        };
        let now = self.site.sight.now();
        for first in 0..cells.len() {
            let Some(circ) = relay(&cells[first]) else {
                continue;
            };
            let next = (first + 1..cells.len()).find(|other| relay(&cells[*other]) == Some(circ));
            let circuit = (connection, circ);
            if let Some(second) = next
                && !held.harmed.contains_key(&circuit)
                && held.dice.number(1, ONE_IN) == 1
            {
                cells.swap(first, second);
                self.site.sight.misdeeds(self.how, 1);
                held.harmed.insert(circuit, Harm::Shown(now));
            }
        }
    }
}

impl Forge for CellForger {
    fn forge(&self, connection: u64, peer: IpAddr, plain: &[u8]) -> Option<Vec<u8>> {
        let (cells, rest) = plain.as_chunks::<CELL_LEN>();
        // Whatever else is said over TLS, documents above all, is no whole cells.
        if !rest.is_empty() || cells.iter().any(|cell| codec::head(cell).is_err()) {
            return None;
        }
        let held = &mut *lock(&self.held);
        let mut cells = cells.to_vec();
        if self.how == Hostility::Swap {
            self.swap(held, connection, &mut cells);
        }
        let mut out = Vec::with_capacity(cells.len());
        for cell in cells {
            match codec::head(&cell) {
                Ok(Head::Circuit(circ, _)) => {
                    self.say(held, (connection, circ), peer, cell, &mut out);
                }
                _ => out.push(cell),
            }
        }
        Some(out.concat())
    }
}
