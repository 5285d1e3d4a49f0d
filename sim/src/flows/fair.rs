//! Max-min fair rates: no flow can be made faster without making a slower one slower still.
//!
//! Each line has a share: what a flow gets there that nothing else holds back. A line's share follows from what its
//! flows can have elsewhere, so a change at one line spreads to the lines of its flows, and no further than it matters.
//! When nothing changes any more, each flow is held back by a line that is full and on which no flow is faster: that is
//! what max-min fair means. Nothing is computed anew but what changes, so a hundred thousand flows may come and go.

use std::collections::VecDeque;

/// A flow's place in [`Fair`].
pub type FlowId = usize;

struct Line {
    capacity: f64,
    /// The flows on the line.
    flows: Vec<FlowId>,
    /// What a flow gets that is held back nowhere else; endless while the line is not full.
    share: f64,
    is_waiting: bool,
}

#[derive(Default)]
struct Flow {
    lines: Vec<usize>,
    rate: f64,
}

/// Flows over lines.
pub struct Fair {
    lines: Vec<Line>,
    flows: Vec<Flow>,
    free: Vec<FlowId>,
    /// Lines whose share has to be computed.
    waiting: VecDeque<usize>,
    /// The flows whose rates have changed.
    changed: Vec<FlowId>,
    /// Changes of a share that are smaller than this part of it do not matter.
    tolerance: f64,
}

impl Fair {
    /// Lines of these capacities, which may be endless, without flows. Changes that are smaller than the part
    /// `tolerance` of a share spread no further.
    pub fn new(capacities: impl IntoIterator<Item = f64>, tolerance: f64) -> Self {
        let line = |capacity| Line {
            capacity,
            flows: Vec::new(),
            share: f64::INFINITY,
            is_waiting: false,
        };
        Self {
            lines: capacities.into_iter().map(line).collect(),
            flows: Vec::new(),
            free: Vec::new(),
            waiting: VecDeque::new(),
            changed: Vec::new(),
            tolerance,
        }
    }

    /// A flow begins, over these lines, each of which is named once.
    pub fn begin(&mut self, lines: Vec<usize>) -> FlowId {
        let flow = self.free.pop().unwrap_or_else(|| {
            self.flows.push(Flow::default());
            self.flows.len() - 1
        });
        for line in &lines {
            self.lines[*line].flows.push(flow);
            self.wait(*line);
        }
        self.flows[flow] = Flow { lines, rate: 0.0 };
        self.changed.push(flow);
        flow
    }

    /// A flow ends.
    pub fn end(&mut self, flow: FlowId) {
        let lines = std::mem::take(&mut self.flows[flow].lines);
        for line in lines {
            let flows = &mut self.lines[line].flows;
            if let Some(place) = flows.iter().position(|on| *on == flow) {
                flows.swap_remove(place);
            }
            self.wait(line);
        }
        self.flows[flow].rate = 0.0;
        self.free.push(flow);
    }

    /// The rate of a flow: right after [`Fair::settle`].
    pub fn rate(&self, flow: FlowId) -> f64 {
        self.flows[flow].rate
    }

    fn wait(&mut self, line: usize) {
        if !std::mem::replace(&mut self.lines[line].is_waiting, true) {
            self.waiting.push_back(line);
        }
    }

    /// Computes rates until nothing changes any more. Returns the flows that are there and whose rates have changed,
    /// each once.
    pub fn settle(&mut self) -> Vec<FlowId> {
        while let Some(line) = self.waiting.pop_front() {
            self.lines[line].is_waiting = false;
            self.share(line);
        }
        let mut changed = std::mem::take(&mut self.changed);
        changed.sort_unstable();
        changed.dedup();
        changed.retain(|flow| {
            let Flow { lines, rate } = &self.flows[*flow];
            let shares = lines.iter().map(|line| self.lines[*line].share);
            let now = shares.fold(f64::INFINITY, f64::min);
            let is_other = !lines.is_empty() && now != *rate;
            self.flows[*flow].rate = now;
            is_other
        });
        changed
    }

    /// What a flow of `line` can have elsewhere.
    fn elsewhere(&self, flow: FlowId, line: usize) -> f64 {
        let lines = self.flows[flow].lines.iter().filter(|on| **on != line);
        lines.fold(f64::INFINITY, |least, on| least.min(self.lines[*on].share))
    }

    fn share(&mut self, line: usize) {
        let Line {
            capacity,
            ref flows,
            share: before,
            ..
        } = self.lines[line];
        let limits: Vec<f64> = flows
            .iter()
            .map(|flow| self.elsewhere(*flow, line))
            .collect();
        let share = fill(capacity, &limits);
        let is_same = share == before
            || (share.is_finite()
                && before.is_finite()
                && (share - before).abs() <= self.tolerance * before);
        if is_same {
            return;
        }
        self.lines[line].share = share;
        let flows = self.lines[line].flows.clone();
        for (flow, limit) in flows.into_iter().zip(limits) {
            // Only a flow that was held back here, or is now, is any other than before.
            if limit <= share && limit <= before {
                continue;
            }
            self.changed.push(flow);
            for place in 0..self.flows[flow].lines.len() {
                let other = self.flows[flow].lines[place];
                if other != line {
                    self.wait(other);
                }
            }
        }
    }
}

/// The share of each flow that is not held back elsewhere, on a line of this capacity whose flows can have `limits`
/// elsewhere; endless if the line is not full.
fn fill(capacity: f64, limits: &[f64]) -> f64 {
    let mut share = capacity / limits.len().max(1) as f64;
    loop {
        let (mut left, mut count) = (capacity, 0usize);
        for limit in limits {
            if *limit < share {
                left -= limit;
            } else {
                count += 1;
            }
        }
        if count == 0 {
            return f64::INFINITY;
        }
        // What those who cannot use their share leave is the others'.
        let next = left / count as f64;
        if next <= share * (1.0 + 1e-12) {
            // On a line that is just full, whoever is fastest is held back here or elsewhere: it is the same.
            return next;
        }
        share = next;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const EXACT: f64 = 1e-9;

    #[derive(Clone, Debug)]
    enum Step {
        Begin(Vec<usize>),
        End(usize),
    }

    fn steps(lines: usize) -> impl Strategy<Value = Vec<Step>> {
        let begin = proptest::collection::btree_set(0..lines, 1..=lines.min(6));
        let begin = begin.prop_map(|lines| Step::Begin(lines.into_iter().collect()));
        let step = prop_oneof![3 => begin, 1 => (0..100usize).prop_map(Step::End)];
        proptest::collection::vec(step, 1..60)
    }

    /// The textbook's way: raise all rates together, and fix those of a line when it is full.
    fn by_the_book(
        capacities: &[f64],
        flows: &BTreeMap<FlowId, Vec<usize>>,
    ) -> BTreeMap<FlowId, f64> {
        let mut rates: BTreeMap<FlowId, f64> = BTreeMap::new();
        while rates.len() < flows.len() {
            let open = |line: usize| {
                let on = flows.iter().filter(|(_, lines)| lines.contains(&line));
                let (fixed, free): (Vec<_>, Vec<_>) =
                    on.partition(|(flow, _)| rates.contains_key(flow));
                let used: f64 = fixed.iter().map(|(flow, _)| rates[flow]).sum();
                (
                    free.len(),
                    (capacities[line] - used) / free.len().max(1) as f64,
                )
            };
            let lines = (0..capacities.len()).map(|line| (line, open(line)));
            let full = lines
                .filter(|(_, (free, _))| *free > 0)
                .min_by(|(_, one), (_, other)| one.1.total_cmp(&other.1));
            let Some((line, (_, share))) = full else {
                break;
            };
            let here: Vec<FlowId> = flows
                .iter()
                .filter(|(flow, lines)| lines.contains(&line) && !rates.contains_key(flow))
                .map(|(flow, _)| *flow)
                .collect();
            rates.extend(here.into_iter().map(|flow| (flow, share)));
        }
        rates
    }

    proptest! {
        #[test]
        fn rates_are_max_min_fair_whatever_comes_and_goes(
            capacities in proptest::collection::vec(1.0f64..1_000.0, 2..10),
            steps in steps(8),
        ) {
            let mut fair = Fair::new(capacities.iter().copied(), 1e-13);
            let mut flows: BTreeMap<FlowId, Vec<usize>> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Begin(mut lines) => {
                        lines.retain(|line| *line < capacities.len());
                        if !lines.is_empty() {
                            flows.insert(fair.begin(lines.clone()), lines);
                        }
                    }
                    Step::End(place) => {
                        let known: Vec<FlowId> = flows.keys().copied().collect();
                        if let Some(flow) = known.get(place % known.len().max(1)) {
                            fair.end(*flow);
                            flows.remove(flow);
                        }
                    }
                }
                fair.settle();
                let load = |line: usize| -> f64 {
                    let on = flows.iter().filter(|(_, lines)| lines.contains(&line));
                    on.map(|(flow, _)| fair.rate(*flow)).sum()
                };
                for (line, capacity) in capacities.iter().enumerate() {
                    prop_assert!(load(line) <= capacity * (1.0 + EXACT), "line {line}");
                }
                for (flow, lines) in &flows {
                    // A line that is full and on which nobody is faster: to raise this flow would lower one that is no
                    // faster.
                    let rate = fair.rate(*flow);
                    let holds = |line: &usize| {
                        let is_full = load(*line) >= capacities[*line] * (1.0 - EXACT);
                        let others = flows.iter().filter(|(_, lines)| lines.contains(line));
                        let mut others = others.map(|(other, _)| fair.rate(*other));
                        is_full && others.all(|other| other <= rate * (1.0 + EXACT))
                    };
                    prop_assert!(lines.iter().any(holds), "flow {flow} at {rate}");
                }
                for (flow, rate) in by_the_book(&capacities, &flows) {
                    let ours = fair.rate(flow);
                    prop_assert!((ours / rate - 1.0).abs() < 1e-6, "{ours} {rate}");
                }
            }
        }
    }

    #[test]
    fn endless_lines_hold_nobody_back() {
        let mut fair = Fair::new([f64::INFINITY, 10.0, f64::INFINITY], 1e-9);
        let one = fair.begin(vec![0, 1, 2]);
        let other = fair.begin(vec![0, 1]);
        assert_eq!(fair.settle(), [one, other]);
        assert_eq!((fair.rate(one), fair.rate(other)), (5.0, 5.0));
        fair.end(other);
        assert_eq!(fair.settle(), [one]);
        assert_eq!(fair.rate(one), 10.0);
    }
}
