//! Every message in every state of a stream, at both ends, against the table that docs/protocol.md prints in 5.8.

use super::*;
use crate::cell::Payload;

const PROTOCOL: &str = include_str!("../../../docs/protocol.md");
const HEAD: &str = "| said | heard | CONNECTED ";

/// The document's rows: what was said, what was heard, and what each message then does.
fn printed() -> Vec<[&'static str; 8]> {
    let (_, behind) = PROTOCOL.split_once(HEAD).unwrap();
    let rows = behind
        .lines()
        .skip(2)
        .take_while(|row| row.starts_with('|'));
    let cells = |row: &'static str| {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        cells.try_into().unwrap()
    };
    rows.map(cells).collect()
}

/// The messages of the table's columns.
fn say(column: usize, packer: &mut Packer<'_>, id: StreamId) {
    let message = match column {
        0 => return packer.connected(id).unwrap(),
        1 => StreamMessage::Data(b"x"),
        2 => StreamMessage::End(EndReason::Done),
        3 => StreamMessage::End(EndReason::Reset),
        4 => StreamMessage::Window(1),
        _ => StreamMessage::Blocked,
    };
    packer.stream(id, message).unwrap();
}

fn payload(column: usize, id: StreamId) -> Payload {
    let mut payload = [0; PAYLOAD_LEN];
    let mut packer = Packer::new(&mut payload);
    say(column, &mut packer, id);
    packer.finish();
    payload
}

/// One end, which tests bring into a state by its own calls and by crafted payloads.
trait Side {
    fn hear(&mut self, payload: &Payload) -> Result<(), Violation>;
    fn speak(&mut self, payload: &mut Payload) -> bool;
}

impl Side for Mux<Opener> {
    fn hear(&mut self, payload: &Payload) -> Result<(), Violation> {
        self.on_inward(LegId::FIRST, Instant::now(), payload)
            .map(drop)
    }

    fn speak(&mut self, payload: &mut Payload) -> bool {
        let mut rng = StdRng::seed_from_u64(1);
        self.fill(LegId::FIRST, Instant::now(), &mut rng, payload)
    }
}

impl Side for Mux<Acceptor> {
    fn hear(&mut self, payload: &Payload) -> Result<(), Violation> {
        self.on_outward(LegId::FIRST, Instant::now(), payload)
            .map(drop)
    }

    fn speak(&mut self, payload: &mut Payload) -> bool {
        let mut rng = StdRng::seed_from_u64(1);
        self.fill(LegId::FIRST, Instant::now(), &mut rng, payload)
    }
}

/// Says and hears until the end has said and heard this.
fn reach<E: StreamEnd>(mux: &mut Mux<E>, key: StreamKey, said: &str, heard: &str)
where
    Mux<E>: Side,
{
    let stream = mux.streams.get_mut(&key).unwrap();
    // There is room for a WINDOW, and a BLOCKED may come.
    stream.send.credit -= 1;
    let id = stream.id;
    match said {
        "Done" => mux.shutdown(key),
        "gave up" => mux.abort(key, EndReason::Reset),
        _ => {}
    }
    let mut out = [0; PAYLOAD_LEN];
    assert_eq!(mux.speak(&mut out), said != "nothing");
    match heard {
        "Done" => mux.hear(&payload(2, id)).unwrap(),
        "gave up" => mux.hear(&payload(3, id)).unwrap(),
        _ => {}
    }
}

fn check<E: StreamEnd>(make: impl Fn() -> (Mux<E>, StreamKey), columns: core::ops::Range<usize>)
where
    Mux<E>: Side,
{
    for [said, heard, effects @ ..] in printed() {
        for column in columns.clone() {
            let what = format!("column {column} when {said} was said and {heard} heard");
            let (mut mux, key) = make();
            let id = mux.streams[&key].id;
            reach(&mut mux, key, said, heard);
            let effect = effects[column];
            let read = mux.hear(&payload(column, id));
            assert_eq!(read.is_ok(), effect != "destroy", "{what}: {read:?}");
            if effect == "pass" {
                let stream = &mux.streams[&key];
                assert!(
                    stream.receive.buffer.is_empty() && !stream.receive.starved,
                    "{what}"
                );
            }
            if effect == "linger" {
                let (mut mux, key) = make();
                reach(&mut mux, key, said, heard);
                // The END is acknowledged: nothing of old can come any more.
                mux.acknowledged = u64::MAX;
                mux.forget_lingering();
                assert!(mux.hear(&payload(column, id)).is_err(), "{what}");
            }
        }
    }
}

#[test]
fn the_opener_keeps_to_the_documents_table() {
    assert_eq!(printed().len(), 9);
    let open = || {
        let mut pair = Pair::new();
        let (here, _) = pair.open();
        (pair.client, here)
    };
    check(open, 1..6);
    let waiting = || {
        let mut pair = Pair::new();
        let key = pair.client.open(StreamTarget::Directory).unwrap();
        pair.settle();
        (pair.client, key)
    };
    // Before CONNECTED the relay completes nothing, so "Done" is never heard there.
    for [said, heard, connected, ..] in printed() {
        if heard != "Done" {
            let (mut mux, key) = waiting();
            let id = mux.streams[&key].id;
            reach(&mut mux, key, said, heard);
            let read = mux.hear(&payload(0, id));
            assert_eq!(read.is_ok(), connected != "destroy", "{said}, {heard}");
        }
    }
    for column in [1, 2, 5] {
        let (mut mux, key) = waiting();
        let id = mux.streams[&key].id;
        assert_eq!(mux.hear(&payload(column, id)), Err(Violation::OutOfOrder));
    }
}

#[test]
fn the_acceptor_keeps_to_the_documents_table() {
    let open = || {
        let mut pair = Pair::new();
        let (_, there) = pair.open();
        (pair.relay, there)
    };
    check(open, 1..6);
}

/// Bytes that come after this end gave the stream up are no news, and are never granted again.
#[test]
fn who_gave_up_grants_nothing() {
    let mut pair = Pair::new();
    let (here, there) = pair.open();
    let most = vec![1; WINDOW as usize];
    assert!(write(&mut pair.relay, there, &most).is_ready());
    // All that the credit allows: enough for a grant once it is read.
    while pair.inward() {}
    pair.client.abort(here, EndReason::Reset);
    assert!(pair.outward());
    // What came before is still read, and END is the last word.
    let mut got = Vec::new();
    while let Poll::Ready(Ok(n)) = read(&mut pair.client, here) {
        if n == 0 {
            break;
        }
        got.push(n);
    }
    assert!(!got.is_empty());
    let mut out = [0; PAYLOAD_LEN];
    assert!(!pair.client.speak(&mut out), "no WINDOW follows");
}
