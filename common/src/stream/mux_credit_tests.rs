//! Tests of the credit of streams.

use super::*;

#[test]
fn a_reader_that_stops_stops_its_own_stream_only() {
    let mut pair = Pair::new();
    let (_slow, slow_there) = pair.open();
    let (quick, quick_there) = pair.open();
    let mut sent = 0;
    while let Poll::Ready(Ok(n)) = write(&mut pair.relay, slow_there, &[1; 4096]) {
        sent += n;
        pair.settle();
    }
    assert_eq!(
        sent,
        WINDOW as usize + STREAM_SEND_BUFFER,
        "credit, then the buffer"
    );
    assert!(write(&mut pair.relay, quick_there, b"still here").is_ready());
    pair.settle();
    let mut got = Vec::new();
    assert!(read_all(&mut pair.client, quick, &mut got).is_pending());
    assert_eq!(got, b"still here");
}

#[test]
fn data_over_the_credit_is_a_violation() {
    let mut pair = Pair::new();
    let (_, there) = pair.open();
    // A cheating relay grants itself credit.
    pair.relay.streams.get_mut(&there).unwrap().send.credit = u32::MAX;
    let mut refused = None;
    for _ in 0..20 {
        let _ = write(&mut pair.relay, there, &[0; 4096]);
        let mut payload = [0; PAYLOAD_LEN];
        if pair
            .relay
            .fill(LegId::FIRST, pair.now, &mut pair.rng, &mut payload)
        {
            refused = refused.or(pair
                .client
                .on_inward(LegId::FIRST, pair.now, &payload)
                .err());
        }
    }
    assert_eq!(refused, Some(Violation::Credit));
}

/// Sends all that credit allows, and lets the other end read it if `reads`, in eight rounds. Gives the bytes of each
/// round.
fn rounds(pair: &mut Pair, [here, there]: [StreamKey; 2], reads: bool) -> Vec<usize> {
    let chunk = vec![9; 1 << 20];
    let rounds = (0..8).map(|_| {
        let before = pair.client.streams[&here].receive.buffer.len();
        // Bytes go one way only, as long as there is credit. Then the grants come.
        while write(&mut pair.relay, there, &chunk).is_ready() | pair.inward() {
            pair.outward();
        }
        let came = pair.client.streams[&here].receive.buffer.len() - before;
        if reads {
            assert!(read_all(&mut pair.client, here, &mut Vec::new()).is_pending());
        }
        while pair.outward() {}
        came
    });
    rounds.collect()
}

#[test]
fn credit_grows_where_it_holds_a_reader_back_and_not_without_end() {
    let mut pair = Pair::new();
    let (here, there) = pair.open();
    let carried = rounds(&mut pair, [here, there], true);
    let window = WINDOW as usize;
    assert_eq!(carried[..5], [1, 2, 4, 8, 8].map(|n| n * window));

    let mut pair = Pair::new();
    let (here, there) = pair.open();
    let carried = rounds(&mut pair, [here, there], false);
    assert_eq!(carried[1..], [0; 7], "who does not read is given no more");
}

#[test]
fn what_credits_grow_by_together_is_bounded_and_given_back() {
    let mut pair = Pair::new();
    pair.client.extra = 10 * WINDOW;
    let streams: Vec<_> = (0..3).map(|_| pair.open()).collect();
    for (here, there) in &streams {
        rounds(&mut pair, [*here, *there], true);
    }
    let windows: u32 = pair.client.streams.values().map(|s| s.receive.window).sum();
    assert_eq!((windows, pair.client.extra), (13 * WINDOW, 0));
    for (here, there) in streams {
        pair.client.release(here);
        pair.relay.release(there);
    }
    pair.settle();
    assert_eq!(pair.client.extra, 10 * WINDOW);
}

#[test]
fn who_is_blocked_says_so_once_to_a_grant() {
    let mut pair = Pair::new();
    let (here, _) = pair.open();
    let id = pair.client.streams[&here].id;
    let mut payload = [0; PAYLOAD_LEN];
    let mut packer = Packer::new(&mut payload);
    packer.stream(id, StreamMessage::Blocked).unwrap();
    packer.finish();
    assert!(
        pair.client
            .on_inward(LegId::FIRST, pair.now, &payload)
            .is_ok()
    );
    // Nothing was read and nothing is missing: the window has grown, and the growth is granted.
    assert!(pair.outward());
    let granted = pair.relay.streams.values().map(|s| s.send.credit).max();
    assert_eq!(granted, Some(2 * WINDOW));
    let now = pair.now;
    assert!(pair.client.on_inward(LegId::FIRST, now, &payload).is_ok());
    assert_eq!(
        pair.client.on_inward(LegId::FIRST, now, &payload),
        Err(Violation::OutOfOrder)
    );
}
