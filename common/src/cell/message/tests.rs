#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::cell::codec::{CREATE_LEN, CREATED_LEN};
use crate::cell::{PAYLOAD_LEN, Payload};
use crate::ids::StreamId;

fn stream() -> impl Strategy<Value = StreamId> {
    (1u16..).prop_map(|n| StreamId::new(n).unwrap())
}

fn pack(pack: impl FnOnce(&mut Packer<'_>)) -> Payload {
    let mut payload = [0xaa; PAYLOAD_LEN];
    let mut packer = Packer::new(&mut payload);
    pack(&mut packer);
    packer.finish();
    payload
}

fn raw(kind: u8, stream: u16, data: &[u8]) -> Payload {
    let mut payload = [0; PAYLOAD_LEN];
    payload[0] = kind;
    payload[1..3].copy_from_slice(&stream.to_be_bytes());
    payload[3..5].copy_from_slice(&(data.len() as u16).to_be_bytes());
    payload[5..5 + data.len()].copy_from_slice(data);
    payload
}

fn one<'a, M: Decode<'a>>(payload: &'a Payload) -> Result<M, MessageError> {
    messages(payload).next().unwrap()
}

#[test]
fn each_party_decodes_only_what_it_may_receive() {
    // Each row is a type, a stream id and a valid body; then who may receive the message: a relay, a client, a client
    // that extends.
    let table: [(u8, u16, &[u8], [bool; 3]); 25] = [
        (1, 0, &[7; 32 + CREATE_LEN], [true, false, false]),
        (2, 0, &[7; CREATED_LEN], [false, false, true]),
        (3, 9, &[0, 80, 4, 192, 0, 2, 1], [true, false, false]),
        (4, 9, &[], [true, false, false]),
        (5, 9, &[], [true, false, false]),
        (6, 9, &[], [false, true, false]),
        (7, 9, b"x", [true, true, false]),
        (8, 9, b"x", [true, true, false]),
        (9, 9, &[1], [true, true, false]),
        (10, 9, &[0, 0, 0, 1], [true, true, false]),
        (11, 0, &[5; 16], [true, true, false]),
        (12, 0, &[5; 16], [true, true, false]),
        (13, 9, &[], [true, false, false]),
        (15, 0, &[4], [false, true, true]),
        (16, 0, &[], [true, false, false]),
        (17, 0, &[5; 36], [true, false, false]),
        (18, 0, &[], [false, true, false]),
        (19, 0, &[0; 8], [true, true, false]),
        (20, 0, &[0; 8], [true, true, false]),
        (21, 0, &[0; 4], [true, false, false]),
        (22, 0, &[], [true, false, false]),
        (23, 9, &[], [true, true, false]),
        (24, 9, b"x", [true, true, false]),
        (25, 9, &[], [false, true, false]),
        (26, 9, &[1], [true, true, false]),
    ];
    for kind in 1..=255u8 {
        let row = table.iter().find(|row| row.0 == kind);
        let (id, body, legal) = row.map_or((0, &[][..], [false; 3]), |r| (r.1, r.2, r.3));
        let payload = raw(kind, id, body);
        assert_eq!(
            one::<Outward<'_>>(&payload).is_ok(),
            legal[0],
            "relay, type {kind}"
        );
        assert_eq!(
            one::<Inward<'_>>(&payload).is_ok(),
            legal[1],
            "client, type {kind}"
        );
        assert_eq!(
            one::<Telescope<'_>>(&payload).is_ok(),
            legal[2],
            "extending, type {kind}"
        );
        if row.is_none() {
            continue;
        }
        // The stream id must fit. The length must fit too: one byte less and one byte more are refused.
        let wrong = raw(kind, if id == 0 { 1 } else { 0 }, body);
        assert!(one::<Outward<'_>>(&wrong).is_err() && one::<Inward<'_>>(&wrong).is_err());
        assert!(one::<Telescope<'_>>(&wrong).is_err());
        let mut longer = body.to_vec();
        longer.push(0);
        let mut off = vec![longer];
        off.extend(body.split_last().map(|(_, rest)| rest.to_vec()));
        for body in off {
            if matches!(kind, 7 | 8 | 24) && !body.is_empty() {
                continue;
            }
            let payload = raw(kind, id, &body);
            assert!(
                one::<Outward<'_>>(&payload).is_err(),
                "type {kind}, {} bytes",
                body.len()
            );
            assert!(
                one::<Inward<'_>>(&payload).is_err(),
                "type {kind}, {} bytes",
                body.len()
            );
            assert!(
                one::<Telescope<'_>>(&payload).is_err(),
                "type {kind}, {} bytes",
                body.len()
            );
        }
    }
}

#[test]
fn begin_refuses_what_is_not_an_address() {
    let long = [b'a'; 254];
    let with_name = |name: &[u8]| [&[0, 80, 1][..], name].concat();
    let bad: [Vec<u8>; 10] = [
        vec![],
        vec![0, 80],
        vec![0, 80, 4],
        vec![0, 0, 4, 1, 2, 3, 4],
        vec![0, 80, 9, 1],
        with_name(b""),
        with_name(b"a..b"),
        with_name(b"a b"),
        with_name(&long),
        with_name("\u{e9}.example".as_bytes()),
    ];
    for body in bad {
        assert!(one::<Outward<'_>>(&raw(3, 1, &body)).is_err(), "{body:?}");
    }
    assert!(one::<Outward<'_>>(&raw(3, 1, &with_name(b"xn--bcher-kva.example"))).is_ok());
}

#[test]
fn a_payload_needs_a_message_and_zeros_after_it() {
    let empty = [0; PAYLOAD_LEN];
    assert_eq!(one::<Inward<'_>>(&empty), Err(MessageError::Empty));
    for at in 5 + 16..PAYLOAD_LEN {
        let mut payload = raw(12, 0, &[1; 16]);
        payload[at] = 1;
        let last = messages::<Inward<'_>>(&payload).last().unwrap();
        assert!(last.is_err(), "byte {at}");
    }
}

#[test]
fn begin_and_data_travel_together() {
    let id = StreamId::new(5).unwrap();
    let payload = pack(|p| {
        p.begin(id, BeginHost::Name("example.org"), 443).unwrap();
        p.stream(id, StreamMessage::Data(b"hello")).unwrap();
        p.stream(id, StreamMessage::End(EndReason::Done)).unwrap();
    });
    let read: Vec<_> = messages::<Outward<'_>>(&payload)
        .collect::<Result<_, _>>()
        .unwrap();
    assert_eq!(
        read,
        [
            Outward::Begin {
                stream: id,
                host: BeginHost::Name("example.org"),
                port: 443
            },
            Outward::Stream(id, StreamMessage::Data(b"hello")),
            Outward::Stream(id, StreamMessage::End(EndReason::Done)),
        ]
    );
}

proptest! {
    #[test]
    fn any_payload_is_read_without_panic_and_only_in_one_way(
        bytes in proptest::collection::vec(any::<u8>(), 0..64), at in 0..PAYLOAD_LEN - 64,
    ) {
        let mut payload = [0; PAYLOAD_LEN];
        payload[at..at + bytes.len()].copy_from_slice(&bytes);
        let _ = messages::<Inward<'_>>(&payload).count();
        let _ = messages::<Telescope<'_>>(&payload).count();
        let Ok(read) = messages::<Outward<'_>>(&payload).collect::<Result<Vec<_>, _>>() else {
            return Ok(());
        };
        let again = pack(|p| for message in &read { match message {
            Outward::Extend { relay, message } => p.extend(relay, message).unwrap(),
            Outward::Begin { stream, host, port } => p.begin(*stream, *host, *port).unwrap(),
            Outward::BeginDir(id) => p.begin_dir(*id).unwrap(),
            Outward::BeginDns(id) => p.begin_dns(*id).unwrap(),
            Outward::Stream(id, message) => p.stream(*id, *message).unwrap(),
            Outward::Association(id, message) => p.association(*id, *message).unwrap(),
            Outward::Flow(message) => p.flow(message).unwrap(),
            Outward::Padding => p.padding().unwrap(),
            Outward::Leg(message) => p.leg(message).unwrap(),
        }});
        prop_assert_eq!(payload, again);
    }

    #[test]
    fn data_fills_what_room_there_is(id in stream(), first in 0..MAX_DATA_LEN, want in 1..4000usize) {
        let mut payload = [0; PAYLOAD_LEN];
        let mut packer = Packer::new(&mut payload);
        let data = vec![1; first];
        if first > 0 {
            packer.stream(id, StreamMessage::Data(&data)).unwrap();
        }
        let room = packer.room();
        let wrote = packer.data_in_place(id, want, |slot| { slot.fill(2); slot.len() });
        prop_assert_eq!(wrote, room.unwrap_or(0).min(want));
        packer.finish();
        let read: Vec<u8> = messages::<Outward<'_>>(&payload)
            .flat_map(|m| match m.unwrap() {
                Outward::Stream(_, StreamMessage::Data(d)) => d.to_vec(),
                other => panic!("{other:?}"),
            })
            .collect();
        prop_assert_eq!(read.len(), first + wrote);
    }
}
