//! Samples of payloads, and of whole conversations on a circuit or on a set of legs.

use cepa_common::cell::PAYLOAD_LEN;
use cepa_common::cell::codec::{CREATE_LEN, CREATED_LEN, DestroyReason};
use cepa_common::cell::message::{
    AssociationMessage, BeginHost, EndReason, FlowMessage, LegMessage, Packer, SECRET_LEN,
    StreamMessage,
};
use cepa_common::ids::{AssociationId, RelayId, StreamId};

use super::{Seed, trimmed};

/// The payload that `write` packs, without its padding.
fn payload(write: impl FnOnce(&mut Packer<'_>) -> Option<()>) -> Vec<u8> {
    let mut bytes = [0; PAYLOAD_LEN];
    let mut packer = Packer::new(&mut bytes);
    let _ = write(&mut packer);
    packer.finish();
    trimmed(&bytes)
}

/// Payloads of associations.
pub(super) fn datagrams() -> Vec<Seed> {
    use AssociationMessage::{Begin, Bound, Datagram, Part, Unbind};
    const PEER: &[u8] = &[0, 53, 4, 192, 0, 2, 1, 7, 7];
    let said = |messages: &[(u16, AssociationMessage<'_>)]| {
        payload(|p| {
            for (id, message) in messages {
                p.association(AssociationId::new(*id)?, *message).ok()?;
            }
            Some(())
        })
    };
    let done = Unbind(EndReason::Done);
    let begin = said(&[
        (1, Begin),
        (1, Datagram(b"\0\x35\x01\x09a.example!")),
        (
            1,
            Datagram(&[1, 187, 6, 0x26, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
        ),
    ]);
    let (first, rest) = PEER.split_at(4);
    let cut = said(&[
        (1, Begin),
        (1, Part(first)),
        (2, Begin),
        (1, Datagram(rest)),
        (1, done),
    ]);
    let crossed = said(&[
        (1, Begin),
        (2, Begin),
        (1, Part(first)),
        (2, Datagram(PEER)),
    ]);
    let again = said(&[(1, Begin), (1, done), (1, Begin)]);
    let open = said(&[(1, Begin), (1, Part(&[7; 1_900]))]);
    let more = said(&[(1, Part(&[7; 1_900]))]);
    let bound = said(&[(1, Bound), (1, Datagram(PEER))]);
    let end = said(&[(1, Part(first)), (1, Unbind(EndReason::Timeout))]);
    let early = said(&[(1, Datagram(PEER))]);
    let endless = [&[&open][..], &[&more; 36]].concat();
    vec![
        ("mux", "good_datagrams", conversation(0, &[&begin, &early])),
        ("mux", "good_cut", conversation(0, &[&cut])),
        ("mux", "crossed_cuts", conversation(0, &[&crossed])),
        ("mux", "endless_cut", conversation(0, &endless)),
        ("mux", "number_in_use", conversation(0, &[&again])),
        ("mux", "good_bound", conversation(1, &[&bound, &end])),
        ("mux", "datagram_before_bound", conversation(1, &[&early])),
        ("message", "good_datagrams", begin),
        ("message", "good_cut", cut),
        ("message", "good_bound", bound),
        ("message", "good_unbind", end),
    ]
}

pub(super) fn payloads() -> Vec<Seed> {
    let id = StreamId::new(1);
    let begin = payload(|p| {
        p.begin(id?, BeginHost::Name("a.example"), 443).ok()?;
        p.stream(id?, StreamMessage::Data(b"early")).ok()
    });
    let addresses = payload(|p| {
        p.begin(id?, BeginHost::V4([192, 0, 2, 1]), 80).ok()?;
        p.begin(StreamId::new(2)?, BeginHost::V6([0x26; 16]), 80)
            .ok()?;
        p.begin_dir(StreamId::new(3)?).ok()
    });
    let resolver = payload(|p| {
        p.begin_dns(id?).ok()?;
        p.stream(id?, StreamMessage::Data(&[0, 12])).ok()
    });
    let flow = payload(|p| {
        p.flow(&FlowMessage::Mark([3; 16])).ok()?;
        p.stream(id?, StreamMessage::Window(1000)).ok()?;
        p.stream(id?, StreamMessage::End(EndReason::Done)).ok()
    });
    let connected = payload(|p| {
        p.connected(id?).ok()?;
        p.stream(id?, StreamMessage::Data(b"answer")).ok()
    });
    let extend = payload(|p| p.extend(&RelayId([9; 32]), &[1; CREATE_LEN]).ok());
    let extended = payload(|p| p.extended(&[2; CREATED_LEN]).ok());
    let truncated = payload(|p| p.truncated(DestroyReason::Protocol).ok());
    let data = payload(|p| p.stream(id?, StreamMessage::Data(b"more")).ok());
    let end = payload(|p| {
        p.stream(id?, StreamMessage::End(EndReason::Done)).ok()?;
        p.flow(&FlowMessage::Mark([3; 16])).ok()
    });
    let marked = payload(|p| {
        p.stream(id?, StreamMessage::Data(b"more")).ok()?;
        p.flow(&FlowMessage::Mark([4; 16])).ok()
    });
    let leg = |message: LegMessage<'_>| payload(|p| p.leg(&message).ok());
    let link = leg(LegMessage::Link {
        secret: &[6; SECRET_LEN],
        leg: 0,
    });
    let numbered = |number: u64, say: &dyn Fn(&mut Packer<'_>) -> Option<()>| {
        payload(|p| {
            p.leg(&LegMessage::Switch(number)).ok()?;
            say(p)
        })
    };
    let more = |p: &mut Packer<'_>| p.stream(id?, StreamMessage::Data(b"more")).ok();
    let (early, late) = (
        numbered(1, &more),
        numbered(0, &|p| p.begin(id?, BeginHost::Name("a.example"), 443).ok()),
    );
    let (ask, unlink) = (leg(LegMessage::Ask), leg(LegMessage::Unlink(1)));
    let padding = payload(|p| p.padding().ok());
    let (linked, seen) = (leg(LegMessage::Linked), leg(LegMessage::Seen(0)));
    // Payload 1, by the second leg, comes before payload 0, by the first leg.
    let legs = [(0, &link), (1, &early), (0, &late), (1, &ask), (0, &unlink)];
    let legs_relay = by_legs(2, &legs);
    let answer = numbered(0, &|p| p.connected(id?).ok());
    let legs = [
        (0, &linked),
        (1, &linked),
        (1, &early),
        (0, &answer),
        (1, &seen),
    ];
    let legs_client = by_legs(3, &legs);
    let far = numbered(1 << 60, &more);
    // A mark may come with the eighth cell and not before.
    let relay = [&[&begin][..], &[&data; 6], &[&end]].concat();
    let relay = conversation(0, &relay);
    let client = conversation(1, &[&connected, &data]);
    vec![
        ("mux", "good_relay", relay),
        ("mux", "good_addresses", conversation(0, &[&addresses])),
        ("mux", "good_legs_relay", legs_relay),
        ("mux", "good_legs_client", legs_client),
        ("mux", "far_number", by_legs(2, &[(0, &link), (1, &far)])),
        (
            "mux",
            "early_mark",
            conversation(0, &[&begin, &marked, &marked]),
        ),
        (
            "mux",
            "padding_on_a_leg",
            by_legs(2, &[(0, &link), (0, &padding)]),
        ),
        ("message", "good_link", link),
        ("message", "good_linked", linked),
        ("message", "good_numbered", early),
        ("message", "good_seen", seen),
        ("message", "good_unlink", unlink),
        ("message", "good_ask", ask),
        (
            "mux",
            "good_padding",
            conversation(0, &[&padding, &padding]),
        ),
        ("message", "good_padding", padding),
        ("mux", "id_in_use", conversation(0, &[&begin, &addresses])),
        ("mux", "good_client", client),
        ("mux", "good_extend", conversation(0, &[&extend])),
        ("mux", "begin_twice", conversation(0, &[&begin, &begin])),
        ("message", "good_begin", begin),
        ("message", "good_addresses", addresses),
        ("mux", "good_resolver", conversation(0, &[&resolver])),
        ("message", "good_resolver", resolver),
        ("message", "good_flow", flow),
        ("message", "good_connected", connected),
        ("message", "good_extend", extend),
        ("message", "good_extended", extended),
        ("message", "good_truncated", truncated),
        ("message", "overlong", vec![5, 0, 1, 0xff, 0xff, 1, 2, 3]),
        ("message", "zero_then_more", vec![0, 0, 0, 0, 1]),
    ]
}

fn conversation(side: u8, payloads: &[&Vec<u8>]) -> Vec<u8> {
    let payloads: Vec<_> = payloads.iter().map(|payload| (0, *payload)).collect();
    by_legs(side, &payloads)
}

/// A conversation in which each payload goes by the first leg or by the second.
fn by_legs(side: u8, payloads: &[(u16, &Vec<u8>)]) -> Vec<u8> {
    let mut bytes = vec![side];
    for (leg, payload) in payloads {
        let len = u16::try_from(payload.len()).unwrap_or(0) | leg << 15;
        bytes.extend(len.to_be_bytes());
        bytes.extend(payload.iter());
    }
    bytes
}
