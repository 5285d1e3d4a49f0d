//! The first word of an opener, by which the acceptor learns that the circuit is no replay (docs/protocol.md, 7.3).

use super::*;
use crate::cell::message::{Outward, messages};

/// What the client says next, by the first messages of the payload.
fn next(pair: &mut Pair) -> Option<Vec<String>> {
    let mut payload = [0; PAYLOAD_LEN];
    let now = pair.now;
    let client = &mut pair.client;
    if !client.wants(LegId::FIRST) {
        assert!(!client.fill(LegId::FIRST, now, &mut pair.rng, &mut payload));
        return None;
    }
    assert!(client.fill(LegId::FIRST, now, &mut pair.rng, &mut payload));
    let read = messages::<Outward<'_>>(&payload).map(|message| format!("{:?}", message.unwrap()));
    let read = read.collect();
    pair.relay
        .on_outward(LegId::FIRST, now, &payload)
        .expect("the relay may hear it");
    Some(read)
}

#[test]
fn who_has_nothing_to_say_says_padding_once() {
    let mut pair = Pair::new();
    assert_eq!(next(&mut pair), None);
    pair.client.confirm();
    assert_eq!(next(&mut pair), Some(vec!["Padding".to_owned()]));
    assert_eq!(next(&mut pair), None);
}

#[test]
fn who_opens_a_stream_says_no_padding() {
    let mut pair = Pair::new();
    pair.client.confirm();
    pair.client.open(StreamTarget::Directory).unwrap();
    let said = next(&mut pair).unwrap();
    assert!(said[0].starts_with("BeginDir"), "{said:?}");
    assert_eq!(next(&mut pair), None);
}

#[test]
fn padding_takes_its_place_in_the_window() {
    let mut pair = Pair::new();
    for place in 1..=32 {
        pair.client.confirm();
        let said = next(&mut pair).unwrap();
        assert_eq!(
            said.len(),
            1 + usize::from(place % 8 == 0),
            "a mark in each eighth"
        );
    }
    pair.client.confirm();
    assert_eq!(next(&mut pair), None, "the window is closed");
}
