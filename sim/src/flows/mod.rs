//! Kind 3 of simulation: flows of bytes that share lines fairly. No cells.
//!
//! A flow ([`Transfer`]) has a size and the lines that it goes over. Rates are max-min fair ([`fair`]), and are computed
//! anew where a flow begins or ends. What a full run takes beside that is in [`calibration`].

pub mod calibration;
pub mod fair;

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use self::fair::{Fair, FlowId};

/// A flow that is to be.
#[derive(Clone, Debug)]
pub struct Transfer {
    /// When its bytes begin to flow (seconds).
    pub begins: f64,
    /// Number of bytes.
    pub bytes: f64,
    /// The lines that it goes over.
    pub lines: Vec<usize>,
}

/// Time in whole nanoseconds, which has an order.
fn nanos(seconds: f64) -> u64 {
    (seconds.max(0.0) * 1e9) as u64
}

struct Going {
    transfer: usize,
    left: f64,
    rate: f64,
    since: f64,
    /// Counts the changes of the rate: an end that was planned before is none.
    version: u32,
}

/// When each of `transfers` ends (seconds), if they share lines of these capacities (bytes a second) max-min fairly.
/// `None` for one that is not done by `until`. `tolerance` is the part of a rate by which it may be wrong.
pub fn ends(
    capacities: &[f64],
    transfers: &[Transfer],
    until: f64,
    tolerance: f64,
) -> Vec<Option<f64>> {
    let mut ends = vec![None; transfers.len()];
    let mut fair = Fair::new(capacities.iter().copied(), tolerance);
    let mut begins: Vec<usize> = (0..transfers.len()).collect();
    begins.sort_by(|one, other| transfers[*one].begins.total_cmp(&transfers[*other].begins));
    let mut begins = begins.into_iter().peekable();
    let mut going: Vec<Option<Going>> = Vec::new();
    let mut due: BinaryHeap<Reverse<(u64, FlowId, u32)>> = BinaryHeap::new();
    loop {
        let next_begin = begins.peek().map(|place| transfers[*place].begins);
        let next_end = due.peek().map(|Reverse((at, ..))| *at as f64 / 1e9);
        let now = match (next_begin, next_end) {
            (None, None) => return ends,
            (Some(begin), Some(end)) => begin.min(end),
            (Some(at), None) | (None, Some(at)) => at,
        };
        if now > until {
            return ends;
        }
        if next_begin.is_some_and(|begin| begin <= now) {
            let Some(place) = begins.next() else {
                return ends;
            };
            let transfer = &transfers[place];
            let flow = fair.begin(transfer.lines.clone());
            if going.len() <= flow {
                going.resize_with(flow + 1, || None);
            }
            going[flow] = Some(Going {
                transfer: place,
                left: transfer.bytes,
                rate: 0.0,
                since: now,
                version: 0,
            });
        } else if let Some(Reverse((_, flow, version))) = due.pop() {
            let is_over = |going: &Going| going.version == version;
            let Some(over) = going[flow].take_if(|going| is_over(going)) else {
                continue;
            };
            ends[over.transfer] = Some(now);
            fair.end(flow);
        }
        for flow in fair.settle() {
            let Some(going) = going.get_mut(flow).and_then(Option::as_mut) else {
                continue;
            };
            going.left = (going.left - going.rate * (now - going.since)).max(0.0);
            going.since = now;
            going.rate = fair.rate(flow);
            going.version += 1;
            let ends = now + going.left / going.rate.max(1e-9);
            due.push(Reverse((nanos(ends), flow, going.version)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transfer(begins: f64, bytes: f64, lines: &[usize]) -> Transfer {
        Transfer {
            begins,
            bytes,
            lines: lines.to_vec(),
        }
    }

    #[test]
    fn two_flows_share_a_line_and_who_is_alone_has_it() {
        // The first has the line for a second, then half of it until the second has had its 50 bytes.
        let transfers = [transfer(0.0, 200.0, &[0]), transfer(1.0, 50.0, &[0, 1])];
        let ends = ends(&[100.0, 1e9], &transfers, 1e3, 1e-9);
        let ends: Vec<f64> = ends.into_iter().flatten().collect();
        assert!(
            (ends[1] - 2.0).abs() < 1e-6 && (ends[0] - 2.5).abs() < 1e-6,
            "{ends:?}"
        );
    }

    #[test]
    fn what_is_not_done_has_no_end() {
        let transfers = [transfer(0.0, 1e6, &[0]), transfer(5.0, 10.0, &[1])];
        let ends = ends(&[1.0, 10.0], &transfers, 100.0, 1e-9);
        assert!(ends[0].is_none() && ends[1].is_some_and(|at| (at - 6.0).abs() < 1e-6));
    }
}
