//! Senders, links and receivers on virtual time. The tests show how the controller behaves on paths that no test
//! machine has.
//!
//! A path is a row of links. Each link carries a number of bits a second, takes a time to cross, and has a queue before
//! it. The queue is one for all circuits, as in the kernel, or one for each circuit, served in turns, as at a relay. A
//! lost segment stalls a link, as it does with TCP, and what waited comes in a burst. Acknowledgements come back after
//! the delays of the links alone: they wait in no queue.

use core::cmp::Reverse;
use core::time::Duration;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Instant;

use super::vegas::{Vegas, VegasParams};
use super::window::SendWindow;
use crate::cell::CELL_LEN;
use crate::cell::message::MARK_LEN;

const MARK_INTERVAL: u32 = 32;

/// How a link's queue is served.
#[derive(Clone, Copy, PartialEq)]
enum Queueing {
    /// First come, first served.
    Fifo,
    /// Each circuit in its turn.
    Fair,
}

struct Link {
    bits_per_sec: u64,
    delay_ns: u64,
    queueing: Queueing,
    queues: Vec<VecDeque<Cell>>,
    /// Circuits in the order of their turns.
    order: VecDeque<usize>,
    next: usize,
    busy: bool,
    /// No cell leaves before this time, because a segment is being sent again.
    stalled_until: u64,
    /// One cell in this many is lost; with 0, no cell is lost.
    loss_one_in: u64,
    passed: u64,
    peak: usize,
}

#[derive(Clone, Copy)]
struct Cell {
    flow: usize,
    mark: Option<[u8; MARK_LEN]>,
}

struct Flow {
    window: SendWindow,
    delivered: u64,
    marks: u64,
}

enum Event {
    Start(usize),
    Depart(usize),
    Arrive(usize, Cell),
    Ack(usize, [u8; MARK_LEN]),
    Bandwidth(usize, u64),
}

pub(super) struct Sim {
    start: Instant,
    now: u64,
    links: Vec<Link>,
    flows: Vec<Flow>,
    events: BinaryHeap<Reverse<(u64, u64)>>,
    bodies: Vec<Option<Event>>,
}

impl Sim {
    fn new() -> Self {
        Self {
            start: Instant::now(),
            now: 0,
            links: Vec::new(),
            flows: Vec::new(),
            events: BinaryHeap::new(),
            bodies: Vec::new(),
        }
    }

    fn link(mut self, mbit: u64, delay: Duration, queueing: Queueing) -> Self {
        self.links.push(Link {
            bits_per_sec: mbit * 1_000_000,
            delay_ns: nanos(delay),
            queueing,
            queues: Vec::new(),
            order: VecDeque::new(),
            next: 0,
            busy: false,
            stalled_until: 0,
            loss_one_in: 0,
            passed: 0,
            peak: 0,
        });
        self
    }

    fn flow(&mut self, starts: Duration) -> usize {
        let control = Box::new(Vegas::new(VegasParams::default()));
        let id = self.flows.len();
        self.flows.push(Flow {
            window: SendWindow::new(control, MARK_INTERVAL),
            delivered: 0,
            marks: 0,
        });
        for link in &mut self.links {
            link.queues.push(VecDeque::new());
        }
        self.at(nanos(starts), Event::Start(id));
        id
    }

    fn at(&mut self, time: u64, event: Event) {
        let n = self.bodies.len() as u64;
        self.bodies.push(Some(event));
        self.events.push(Reverse((time, n)));
    }

    fn instant(&self) -> Instant {
        self.start + Duration::from_nanos(self.now)
    }

    /// Lets time pass until `end` after the start.
    fn run_until(&mut self, end: Duration) {
        let end = nanos(end);
        while let Some(Reverse((time, n))) = self.events.peek().copied() {
            if time > end {
                break;
            }
            self.events.pop();
            self.now = time;
            if let Some(event) = self.bodies[usize::try_from(n).unwrap()].take() {
                self.handle(event);
            }
        }
        self.now = end;
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Start(flow) => self.send(flow),
            Event::Bandwidth(link, bits) => self.links[link].bits_per_sec = bits,
            Event::Depart(link) => {
                self.links[link].busy = false;
                self.serve(link);
            }
            Event::Arrive(link, cell) if link < self.links.len() => {
                let waiting = &mut self.links[link];
                waiting.queues[cell.flow].push_back(cell);
                if waiting.queueing == Queueing::Fifo {
                    waiting.order.push_back(cell.flow);
                }
                let all = waiting.queues.iter().map(VecDeque::len).sum();
                waiting.peak = waiting.peak.max(all);
                self.serve(link);
            }
            Event::Arrive(_, cell) => {
                self.flows[cell.flow].delivered += 1;
                if let Some(mark) = cell.mark {
                    let back = self.links.iter().map(|link| link.delay_ns).sum::<u64>();
                    self.at(self.now + back, Event::Ack(cell.flow, mark));
                }
            }
            Event::Ack(flow, mark) => {
                let now = self.instant();
                self.flows[flow].window.on_ack(now, &mark).unwrap();
                self.send(flow);
            }
        }
    }

    fn send(&mut self, id: usize) {
        let now = self.instant();
        while self.flows[id].window.is_open() {
            let flow = &mut self.flows[id];
            let mark = flow.window.is_mark_due().then(|| {
                flow.marks += 1;
                let mut bytes = [0; MARK_LEN];
                bytes[..8].copy_from_slice(&flow.marks.to_be_bytes());
                bytes
            });
            flow.window.on_sent(now, mark);
            self.at(self.now, Event::Arrive(0, Cell { flow: id, mark }));
        }
    }

    fn serve(&mut self, n: usize) {
        let now = self.now;
        let link = &mut self.links[n];
        if link.busy {
            return;
        }
        if now < link.stalled_until {
            link.busy = true;
            let until = link.stalled_until;
            return self.at(until, Event::Depart(n));
        }
        let Some(cell) = link.pop() else { return };
        link.busy = true;
        link.passed += 1;
        if link.loss_one_in > 0 && link.passed.is_multiple_of(link.loss_one_in) {
            // The loss is found and the segment sent again after a round trip of this link. What follows waits behind
            // it.
            link.stalled_until = now + 2 * link.delay_ns + 1_000_000;
        }
        let takes = CELL_LEN as u64 * 8 * 1_000_000_000 / link.bits_per_sec;
        let arrives = now.max(link.stalled_until) + takes + link.delay_ns;
        self.at(now + takes, Event::Depart(n));
        self.at(arrives, Event::Arrive(n + 1, cell));
    }

    /// Number of cells delivered to each flow between two times after the start.
    fn delivered_between(&mut self, from: Duration, until: Duration) -> Vec<u64> {
        self.run_until(from);
        let before: Vec<u64> = self.flows.iter().map(|flow| flow.delivered).collect();
        for link in &mut self.links {
            link.peak = 0;
        }
        self.run_until(until);
        let flows = self.flows.iter().zip(before);
        flows
            .map(|(flow, before)| flow.delivered - before)
            .collect()
    }

    /// The share of the narrowest link's capacity that `cells` cells used in `time`.
    fn share(&self, cells: u64, time: Duration) -> f64 {
        let least = self.links.iter().map(|link| link.bits_per_sec).min();
        let bits = (cells * CELL_LEN as u64 * 8) as f64;
        bits / (least.unwrap() as f64 * time.as_secs_f64())
    }

    /// The bandwidth-delay product of the path in cells.
    fn product(&self) -> usize {
        let least = self
            .links
            .iter()
            .map(|link| link.bits_per_sec)
            .min()
            .unwrap();
        let rtt = 2 * self.links.iter().map(|link| link.delay_ns).sum::<u64>();
        let cells = u128::from(least) * u128::from(rtt) / (CELL_LEN as u128 * 8 * 1_000_000_000);
        usize::try_from(cells).unwrap()
    }
}

impl Link {
    fn pop(&mut self) -> Option<Cell> {
        let flows = self.queues.len();
        match self.queueing {
            Queueing::Fair => {
                let turn = (0..flows)
                    .map(|n| (self.next + n) % flows)
                    .find(|n| !self.queues[*n].is_empty())?;
                self.next = turn + 1;
                self.queues[turn].pop_front()
            }
            Queueing::Fifo => {
                let turn = self.order.pop_front()?;
                self.queues[turn].pop_front()
            }
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap()
}

/// Jain's index of fairness, which is 1 when all flows have the same.
fn jain(shares: &[u64]) -> f64 {
    let sum: f64 = shares.iter().map(|n| *n as f64).sum();
    let squares: f64 = shares.iter().map(|n| (*n as f64).powi(2)).sum();
    sum * sum / (shares.len() as f64 * squares)
}

const MS: Duration = Duration::from_millis(1);
const SEC: Duration = Duration::from_secs(1);

/// Runs one flow over four hops, of which the third is the narrowest. Returns the simulation, the share of the capacity
/// that each second used, and the longest queue.
fn one_flow(mbit: u64, hop: Duration, seconds: u32) -> (Sim, Vec<f64>, usize) {
    let mut sim = Sim::new()
        .link(mbit * 10, hop, Queueing::Fair)
        .link(mbit * 10, hop, Queueing::Fair)
        .link(mbit, hop, Queueing::Fair)
        .link(mbit * 10, hop, Queueing::Fair);
    sim.flow(Duration::ZERO);
    let mut peak = 0;
    let shares = (0..seconds).map(|s| {
        let cells = sim.delivered_between(SEC * s, SEC * (s + 1))[0];
        peak = peak.max(sim.links[2].peak);
        sim.share(cells, SEC)
    });
    let shares = shares.collect();
    (sim, shares, peak)
}

#[test]
fn a_long_fat_path_is_full_within_three_seconds_and_its_queue_stays_short() {
    let (sim, shares, peak) = one_flow(100, MS * 25, 20);
    assert_eq!(sim.product(), 1_220);
    assert!(shares[2] > 0.85 && shares[3] > 0.95, "{shares:?}");
    assert!(shares[3..].iter().all(|share| *share > 0.9), "{shares:?}");
    assert!(peak < sim.product(), "{peak} cells queued");
}

#[test]
fn short_and_thin_paths_are_filled_too() {
    for (mbit, hop, most) in [
        (100, MS, 130),
        (10, MS * 25, 150),
        (1, MS * 50, 130),
        (10, MS, 150),
    ] {
        let (_, shares, peak) = one_flow(mbit, hop, 20);
        let later = &shares[3..];
        let mean = later.iter().sum::<f64>() / later.len() as f64;
        // In a round in which the queues empty, the flow sends a little less.
        assert!(
            mean > 0.95 && later.iter().all(|share| *share > 0.8),
            "{mbit} {hop:?} {shares:?}"
        );
        assert!(peak < most, "{mbit} {hop:?} {peak}");
    }
}

/// Runs several flows over one narrow link; each flow starts `stagger` after the one before. Returns Jain's index and
/// the share of the link that the flows used.
fn shared(queueing: Queueing, flows: u32, stagger: Duration) -> (f64, f64) {
    let mut sim = Sim::new()
        .link(1_000, MS * 10, Queueing::Fair)
        .link(100, MS * 20, queueing)
        .link(1_000, MS * 20, Queueing::Fair);
    for n in 0..flows {
        sim.flow(stagger * n);
    }
    let from = stagger * flows + SEC * 10;
    let got = sim.delivered_between(from, from + SEC * 20);
    (jain(&got), sim.share(got.iter().sum(), SEC * 20))
}

#[test]
fn equals_share_a_relay_fairly() {
    for (flows, stagger) in [(2, 0), (2, 3), (5, 3), (10, 0), (10, 1), (50, 0)] {
        let (index, share) = shared(Queueing::Fair, flows, SEC * stagger);
        assert!(index > 0.99 && share > 0.97, "{flows}: {index} {share}");
    }
}

#[test]
fn equals_that_start_together_share_a_plain_queue() {
    for flows in [2, 5, 20] {
        let (index, share) = shared(Queueing::Fifo, flows, Duration::ZERO);
        assert!(index > 0.95 && share > 0.97, "{flows}: {index} {share}");
    }
    // A flow that starts later takes the queue of those before it for a part of the path, so fairness is tested for few
    // such flows only. No relay has a queue like this.
    for flows in [2, 5] {
        let (index, share) = shared(Queueing::Fifo, flows, SEC * 3);
        assert!(index > 0.95 && share > 0.97, "{flows}: {index} {share}");
    }
}

#[test]
fn the_window_follows_steps_of_the_bandwidth() {
    let (mut sim, _, _) = one_flow(100, MS * 10, 10);
    let at = nanos(SEC * 10);
    sim.at(at, Event::Bandwidth(2, 20_000_000));
    let _ = sim.delivered_between(SEC * 10, SEC * 13);
    let slow = sim.delivered_between(SEC * 13, SEC * 18)[0];
    assert!(sim.share(slow, SEC * 5) > 0.9);
    assert!(sim.links[2].peak < 200, "{}", sim.links[2].peak);
    let at = nanos(SEC * 18);
    sim.at(at, Event::Bandwidth(2, 100_000_000));
    let fast = sim.delivered_between(SEC * 21, SEC * 26)[0];
    assert!(
        sim.share(fast, SEC * 5) > 0.9,
        "{}",
        sim.share(fast, SEC * 5)
    );
}

#[test]
fn losses_on_a_link_do_not_collapse_the_window() {
    let (mut sim, _, _) = one_flow(50, MS * 10, 5);
    sim.links[2].loss_one_in = 500;
    let lossy = sim.delivered_between(SEC * 5, SEC * 25)[0];
    // The link itself stands still for a fifth of the time.
    assert!(
        sim.share(lossy, SEC * 20) > 0.6,
        "{}",
        sim.share(lossy, SEC * 20)
    );
}
