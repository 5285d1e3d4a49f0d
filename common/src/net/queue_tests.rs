#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use core::time::Duration;

use super::super::buffers;
use super::*;

fn circ(n: u32) -> CircId {
    CircId::new(n).unwrap()
}

fn cells(mark: u8, count: usize) -> Vec<u8> {
    vec![mark; CELL_LEN * count]
}

fn marks(out: &[u8]) -> Vec<u8> {
    out.chunks(CELL_LEN).map(|cell| cell[0]).collect()
}

#[test]
fn circuits_take_turns() {
    let queue = LinkQueue::new(100, &Budget::unlimited());
    queue.push(circ(1), &cells(1, 40)).unwrap();
    queue.push(circ(2), &cells(2, 1)).unwrap();
    queue.push(circ(3), &cells(3, 20)).unwrap();
    let mut out = Vec::new();
    queue.take_cells(Instant::now(), 17, &mut out);
    assert_eq!(marks(&out), [vec![1; 8], vec![2; 1], vec![3; 8]].concat());
    out.clear();
    queue.take_cells(Instant::now(), 1000, &mut out);
    assert_eq!(marks(&out).iter().filter(|m| **m == 1).count(), 32);
    assert!(queue.is_empty());
}

#[test]
fn a_circuit_over_its_bound_is_refused_and_others_are_not() {
    let queue = LinkQueue::new(4, &Budget::unlimited());
    queue.push(circ(1), &cells(1, 4)).unwrap();
    assert_eq!(queue.push(circ(1), &cells(1, 1)), Err(PushError::Overrun));
    queue.push(circ(2), &cells(2, 4)).unwrap();
    queue.push_last(circ(1), &[9; CELL_LEN]);
    let mut out = Vec::new();
    queue.take_cells(Instant::now(), 100, &mut out);
    assert_eq!(out.len(), 9 * CELL_LEN);
}

#[test]
fn what_is_queued_is_charged_and_given_back() {
    let budget = Budget::new(usize::MAX);
    let queue = LinkQueue::new(8, &budget);
    queue.push(circ(1), &cells(1, 4)).unwrap();
    queue.push(circ(2), &cells(2, 4)).unwrap();
    queue.push_last(circ(1), &[0; CELL_LEN]);
    assert!((9 * CELL_LEN..16 * CELL_LEN).contains(&budget.used()));
    queue.purge(circ(2));
    queue.take_cells(Instant::now(), 3, &mut Vec::new());
    assert!((2 * CELL_LEN..10 * CELL_LEN).contains(&budget.used()));
    assert_eq!(queue.waiting()[0].circ, circ(1));
    queue.take_cells(Instant::now(), 3, &mut Vec::new());
    assert_eq!((budget.used(), queue.waiting().len()), (0, 0));
    queue.push(circ(3), &cells(1, 4)).unwrap();
    queue.close();
    assert_eq!(budget.used(), 0);
}

/// S20: a large buffer with a few cells in it is charged at its full size.
#[test]
fn memory_is_charged_and_not_what_is_in_it() {
    let budget = Budget::new(usize::MAX);
    let queue = LinkQueue::new(64, &budget);
    let mut buffer = buffers::take();
    let capacity = buffer.capacity();
    buffer.extend_from_slice(&cells(1, 16));
    queue.push_all(circ(1), &mut buffer).unwrap();
    assert!(buffer.is_empty());
    assert_eq!(budget.used(), capacity);
    queue.push(circ(1), &cells(2, 1)).unwrap();
    assert_eq!(budget.used(), capacity);
    let mut out = Vec::new();
    queue.take_cells(Instant::now(), 10, &mut out);
    assert_eq!(budget.used(), capacity);
    queue.take_cells(Instant::now(), 10, &mut out);
    assert_eq!(marks(&out), [vec![1; 16], vec![2]].concat());
    assert_eq!(budget.used(), 0);
}

#[test]
fn a_closed_queue_hands_commands_back() {
    let queue = LinkQueue::new(4, &Budget::unlimited());
    let close = |n| TableCommand::Close {
        circ: circ(n),
        reason: DestroyReason::Finished,
    };
    let is = |command: &TableCommand, n| matches!(command, TableCommand::Close { circ: of, .. } if *of == circ(n));
    assert!(queue.command(close(1)).is_ok());
    let left = queue.close();
    assert!(left.len() == 1 && is(&left[0], 1));
    assert!(queue.command(close(2)).is_err_and(|late| is(&late, 2)));
    assert_eq!(queue.push(circ(1), &cells(1, 1)), Err(PushError::Closed));
}

#[test]
fn a_purged_circuit_leaves_no_turn() {
    let queue = LinkQueue::new(4, &Budget::unlimited());
    queue.push(circ(1), &cells(1, 4)).unwrap();
    queue.push(circ(2), &cells(2, 1)).unwrap();
    queue.purge(circ(1));
    queue.push(circ(1), &cells(3, 1)).unwrap();
    let mut out = Vec::new();
    queue.take_cells(Instant::now(), 100, &mut out);
    assert_eq!(marks(&out), [2, 3]);
}

/// What the next `n` cells are, a millisecond after the last.
fn next(queue: &LinkQueue, now: &mut Instant, n: usize) -> Vec<u8> {
    *now += Duration::from_millis(1);
    let mut out = Vec::new();
    queue.take_cells(*now, n, &mut out);
    marks(&out)
}

#[test]
fn who_has_little_to_say_waits_for_no_bulk() {
    let (queue, mut now) = (LinkQueue::new(4_000, &Budget::unlimited()), Instant::now());
    for bulk in 1..=10 {
        queue.push(circ(bulk), &cells(bulk as u8, 1_000)).unwrap();
    }
    next(&queue, &mut now, 128);
    for _ in 0..60 {
        // Beside ten circuits of bulk come a ping and the first cell of a new circuit.
        queue.push(circ(99), &cells(99, 1)).unwrap();
        queue.push_last(
            circ(now.elapsed().as_nanos() as u32 | 1 << 20),
            &[77; CELL_LEN],
        );
        let sent = next(&queue, &mut now, 16);
        let place = |mark| sent.iter().position(|m| *m == mark).unwrap();
        assert!(place(99) < 2 && place(77) < 2, "{sent:?}");
    }
    // The ten circuits of bulk get equal parts.
    let sent: Vec<u8> = (0..50).flat_map(|_| next(&queue, &mut now, 128)).collect();
    let parts: Vec<_> = (1..=10)
        .map(|bulk| sent.iter().filter(|m| **m == bulk).count())
        .collect();
    assert!(
        parts.iter().all(|part| (632..=648).contains(part)),
        "{parts:?}"
    );
}

#[test]
fn bulk_that_pauses_comes_back_as_bulk_and_is_forgiven_in_time() {
    let (queue, mut now) = (LinkQueue::new(4_000, &Budget::unlimited()), Instant::now());
    queue.push(circ(1), &cells(1, 500)).unwrap();
    queue.push(circ(2), &cells(2, 100)).unwrap();
    assert_eq!(next(&queue, &mut now, 1_000).len(), 600);
    // The queue of circuit 1 was empty for a moment, but circuit 2 has sent less.
    queue.push(circ(1), &cells(1, 100)).unwrap();
    queue.push(circ(2), &cells(2, 100)).unwrap();
    assert_eq!(next(&queue, &mut now, 100), [2; 100]);
    assert_eq!(next(&queue, &mut now, 100), [1; 100]);
    // After a long rest both are new: the circuit that has waited longer goes first, and they share.
    now += RECENT_HALF_LIFE * 40;
    queue.push(circ(1), &cells(1, 100)).unwrap();
    queue.push(circ(2), &cells(2, 100)).unwrap();
    let sent = next(&queue, &mut now, 100);
    let ones = sent.iter().filter(|m| **m == 1).count();
    assert!((44..=56).contains(&ones), "{ones}");
}

#[test]
fn nobody_starves() {
    let (queue, mut now) = (LinkQueue::new(40_000, &Budget::unlimited()), Instant::now());
    queue.push(circ(1), &cells(1, 30_000)).unwrap();
    next(&queue, &mut now, 3_000);
    // Eight other circuits have more to say than the link carries, and have sent nothing before.
    let rounds = 2_000;
    let of_bulk: usize = (0..rounds)
        .map(|_| {
            for other in 2..=9 {
                queue.push(circ(other), &cells(other as u8, 10)).unwrap();
            }
            let sent = next(&queue, &mut now, 72);
            sent.iter().filter(|m| **m == 1).count()
        })
        .sum();
    // When each of the eight has sent as much as the first circuit had, that circuit is one of nine.
    assert!(
        (11_000..=16_000).contains(&of_bulk),
        "{of_bulk} of {}",
        rounds * 72
    );
}

#[test]
fn years_pass_and_counts_stay_numbers() {
    let (queue, mut now) = (LinkQueue::new(400, &Budget::unlimited()), Instant::now());
    for _ in 0..300 {
        now += RECENT_HALF_LIFE * 100;
        queue.push(circ(1), &cells(1, 100)).unwrap();
        queue.push(circ(2), &cells(2, 20)).unwrap();
        assert_eq!(next(&queue, &mut now, 200).len(), 120);
    }
    let waiting = lock(&queue.waiting);
    let one = &waiting.circuits[&circ(1)];
    assert!(one.recent.is_finite() && one.recent > waiting.circuits[&circ(2)].recent);
}

#[test]
fn circuits_that_are_over_or_long_quiet_take_no_memory() {
    let queue = LinkQueue::new(400, &Budget::unlimited());
    for n in 1..10_000 {
        queue.push(circ(n), &cells(1, 1)).unwrap();
        if n % 2 == 0 {
            queue.push_last(circ(n), &[0; CELL_LEN]);
        }
        // Far more is sent than this, long before a half-life is over.
        queue.take_cells(Instant::now(), 10, &mut Vec::new());
    }
    assert!(queue.is_empty());
    // Each circuit has sent one cell, which counts for a half-life. Until then, only the number of circuits is a bound.
    assert!(lock(&queue.waiting).circuits.len() <= 5_000 + ENDED_CIRCUITS);
    lock(&queue.waiting).epoch -= RECENT_HALF_LIFE * 9;
    for n in 10_000..16_000 {
        queue.push_last(circ(n), &[0; CELL_LEN]);
        queue.take_cells(Instant::now(), 10, &mut Vec::new());
    }
    assert!(lock(&queue.waiting).circuits.len() < 200 + 2 * ENDED_CIRCUITS);
}

proptest! {
    #[test]
    fn each_circuit_keeps_its_order_and_every_cell(
        steps in prop::collection::vec((1..6u32, 1..40usize, 0..60usize, any::<bool>()), 1..60)
    ) {
        let budget = Budget::unlimited();
        let queue = LinkQueue::new(100_000, &budget);
        let mut now = Instant::now();
        let mut sent: HashMap<u8, u32> = HashMap::new();
        let mut got: HashMap<u8, u32> = HashMap::new();
        let mut read = |out: &[u8]| {
            for cell in out.chunks(CELL_LEN) {
                let number = u32::from_be_bytes([cell[1], cell[2], cell[3], cell[4]]);
                let last = got.entry(cell[0]).or_default();
                assert_eq!(number, *last, "circuit {}", cell[0]);
                *last += 1;
            }
        };
        for (circuit, count, take, whole) in steps {
            let mut cells = cells(circuit as u8, count);
            for cell in cells.chunks_mut(CELL_LEN) {
                let number = sent.entry(circuit as u8).or_default();
                cell[1..5].copy_from_slice(&number.to_be_bytes());
                *number += 1;
            }
            if whole {
                queue.push_all(circ(circuit), &mut cells).unwrap();
            } else {
                queue.push(circ(circuit), &cells).unwrap();
            }
            now += Duration::from_millis(7);
            let mut out = Vec::new();
            queue.take_cells(now, take, &mut out);
            prop_assert!(out.len() <= take * CELL_LEN);
            read(&out);
        }
        while !queue.is_empty() {
            let mut out = Vec::new();
            queue.take_cells(now, 50, &mut out);
            read(&out);
        }
        prop_assert_eq!(sent, got);
        prop_assert_eq!(budget.used(), 0);
    }
}

#[test]
fn what_is_purged_costs_no_look_at_what_is_not() {
    const CIRCUITS: u32 = 40_000;
    let queue = LinkQueue::new(4, &Budget::unlimited());
    let cell = cells(1, 1);
    let begun = Instant::now();
    for n in 1..=CIRCUITS {
        queue.push(circ(n), &cell).unwrap();
    }
    let pushing = begun.elapsed();
    let begun = Instant::now();
    for n in 1..=CIRCUITS {
        queue.purge(circ(n));
    }
    let purging = begun.elapsed();
    assert!(purging < 10 * pushing, "{purging:?} after {pushing:?}");
    assert!(queue.is_empty());
}

#[test]
fn a_purge_leaves_the_last_cell_and_counts_right() {
    let budget = Budget::new(usize::MAX);
    let queue = LinkQueue::new(100, &budget);
    queue.push_answer(circ(1), &[5; CELL_LEN]);
    queue.push(circ(1), &cells(1, 40)).unwrap();
    queue.push_last(circ(1), &[9; CELL_LEN]);
    assert_eq!((queue.answers(), queue.waiting().len()), (2, 1));
    queue.purge(circ(1));
    assert_eq!((queue.answers(), queue.waiting().len()), (1, 0));
    assert_eq!(budget.used(), CELL_LEN);
    let mut out = Vec::new();
    queue.take_cells(Instant::now(), 100, &mut out);
    assert_eq!((marks(&out), queue.answers()), (vec![9], 0));
    assert_eq!(budget.used(), 0);
}

#[test]
fn ended_circuits_are_remembered_for_a_while_and_not_all_of_them() {
    let (queue, mut now) = (LinkQueue::new(4, &Budget::unlimited()), Instant::now());
    let ended = |n| queue.push(circ(n), &cells(1, 1)) == Err(PushError::Ended);
    for n in 1..=ENDED_CIRCUITS as u32 + 1 {
        queue.push_last(circ(n), &[9; CELL_LEN]);
        next(&queue, &mut now, 1);
    }
    assert!(!ended(1) && ended(2));
    now += ENDED_TIME;
    queue.push_last(circ(9_999), &[9; CELL_LEN]);
    // Circuit 1 has a cell of its own by now.
    next(&queue, &mut now, 2);
    assert!(ended(9_999) && !ended(2));
    let remembered = lock(&queue.waiting).ended.len();
    assert_eq!(remembered, 1);
}
