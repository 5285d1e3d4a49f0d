#![allow(clippy::unwrap_used)]

use super::*;
use crate::budget::Budget;

/// Takes or refuses every CREATE.
struct Answer(Result<(), CreateRefusal>);

impl AcceptCircuits for Answer {
    fn on_create(&mut self, _: CircId, _: &[u8; CREATE_LEN]) -> Result<(), CreateRefusal> {
        self.0
    }
}

const REFUSED: Answer = Answer(Err(CreateRefusal::Destroy(DestroyReason::Resource)));

fn theirs(n: usize) -> CircId {
    CircId::new(CircId::DIALLER_BIT | (n as u32 + 1)).unwrap()
}

fn table<A: AcceptCircuits>(accept: A) -> (Table<A>, Arc<LinkQueue>) {
    let own = Arc::new(LinkQueue::new(64, &Budget::unlimited()));
    (Table::new(own.clone(), false, accept), own)
}

fn come<A: AcceptCircuits>(table: &mut Table<A>, cell: &Cell) -> Result<(), LinkError> {
    table.on_cells(Instant::now(), &mut cell.to_vec())
}

fn create<A: AcceptCircuits>(table: &mut Table<A>, n: usize) -> Result<(), LinkError> {
    come(table, &codec::create(theirs(n), &[0; CREATE_LEN]))
}

/// The heads of all that waits for a link.
fn sent(queue: &LinkQueue) -> Vec<Head> {
    let mut out = Vec::new();
    while !queue.is_empty() {
        queue.take_cells(Instant::now(), 128, &mut out);
    }
    let cells = out.as_chunks::<CELL_LEN>().0.iter();
    cells.map(|cell| codec::head(cell).unwrap()).collect()
}

/// docs/protocol.md, 7.2: refused circuits count until their ids are free, and one circuit too many closes the link.
#[test]
fn who_makes_more_circuits_than_may_be_loses_the_link() {
    let (mut table, own) = table(REFUSED);
    // Circuits of this side take nobody else's place.
    for _ in 0..8 {
        let inbox = Arc::new(Inbox::new(8, &Budget::unlimited()));
        let message = Box::new([0; CREATE_LEN]);
        table.on_command(TableCommand::Open { inbox, message });
    }
    for n in 0..CIRCUITS_PER_LINK {
        create(&mut table, n).unwrap();
    }
    let destroy = codec::destroy(theirs(7), DestroyReason::Finished);
    come(&mut table, &destroy).unwrap();
    create(&mut table, CIRCUITS_PER_LINK).unwrap();
    assert_eq!(
        create(&mut table, CIRCUITS_PER_LINK + 1),
        Err(LinkError::TooManyCircuits)
    );
    assert_eq!(table.len(), CIRCUITS_PER_LINK + 8);
    assert_eq!(own.answers(), CIRCUITS_PER_LINK + 1);
}

/// protocol.md 2.7: nothing follows DESTROY. More than a hundred cells that followed one would cost the link (S7), with
/// every circuit on it.
#[test]
fn what_a_circuit_s_end_says_late_is_not_sent_after_destroy() {
    let (mut table, own) = table(Answer(Ok(())));
    create(&mut table, 1).unwrap();
    let circ = theirs(1);
    let inbox = Arc::new(Inbox::new(64, &Budget::unlimited()));
    let accepted = inbox.clone();
    table.on_command(TableCommand::Accept {
        circ,
        inbox: accepted,
        reply: Box::new([0; CREATED_LEN]),
    });
    sent(&own);
    let reason = DestroyReason::Resource;
    table.on_command(TableCommand::Destroy { circ, reason });
    // The task of the circuit's end has not looked into its inbox yet.
    assert_eq!(own.push(circ, &[7; 8 * CELL_LEN]), Err(PushError::Ended));
    let only = vec![Head::Circuit(circ, CircuitCommand::Destroy)];
    assert_eq!(sent(&own), only);
    assert_eq!(own.push(circ, &[7; CELL_LEN]), Err(PushError::Ended));
    assert_eq!(sent(&own), []);
    assert_eq!(inbox.take().destroyed, Some(reason));

    // The id is free again when the peer has answered.
    come(&mut table, &codec::destroy(circ, DestroyReason::Finished)).unwrap();
    create(&mut table, 1).unwrap();
    assert_eq!(own.push(circ, &[7; CELL_LEN]), Ok(()));
}

/// The same for a circuit that passes: a table that passes cells on hears a moment late that the circuit is lost behind
/// it.
#[test]
fn what_passes_late_is_not_sent_after_destroy() {
    let (mut behind, next) = table(Answer(Ok(())));
    create(&mut behind, 1).unwrap();
    come(
        &mut behind,
        &codec::destroy(theirs(1), DestroyReason::Finished),
    )
    .unwrap();
    assert_eq!(next.push(theirs(1), &[7; CELL_LEN]), Err(PushError::Ended));
    let only = vec![Head::Circuit(theirs(1), CircuitCommand::Destroy)];
    assert_eq!(sent(&next), only);
}

/// docs/protocol.md, 2.9: nobody has asked for PADDING yet, and a little does no harm.
#[test]
fn padding_that_nobody_asked_for_costs_the_link() {
    let (mut table, _) = table(REFUSED);
    let mut padding = [7; CELL_LEN];
    codec::write_link_head(&mut padding, LinkCommand::Padding);
    let began = Instant::now();
    let mut pad = |now| table.on_cells(now, &mut padding.to_vec());
    for _ in 0..PADDING_CELLS {
        pad(began).unwrap();
    }
    let later = began + PADDING_TIME + Duration::from_millis(1);
    for _ in 0..PADDING_CELLS {
        pad(later).unwrap();
    }
    assert_eq!(pad(later), Err(LinkError::Padding));
}
