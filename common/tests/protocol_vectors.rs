//! The vectors that docs/protocol.md prints in its chapter 8, and that another program made
//! (tests/reference/document.py): what an implementation of the document can read, say and answer by them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../src/testkit/vectors.rs"]
#[allow(
    unreachable_pub,
    reason = "the kit for tests offers what this file takes"
)]
mod vectors;

use cepa_common::cell::message::{
    AssociationMessage, BeginHost, EndReason, Inward, Outward, Packer, StreamMessage, messages,
    read_datagram, write_datagram_head,
};
use cepa_common::cell::{PAYLOAD_LEN, Payload, codec};
use cepa_common::dir::NetworkFile;
use cepa_common::ids::{AssociationId, CircId};
use ed25519_dalek::{Signer, SigningKey};
use sha2::{Digest, Sha256};
use vectors::{vector_text, vectors};

#[test]
fn the_documents_network_has_the_id_that_the_document_prints() {
    let (text, values) = (vector_text("network.toml"), vectors("network"));
    let network = NetworkFile::parse(text).unwrap();
    assert_eq!(
        network.network_id().to_string(),
        hex::encode(&values["network_id"])
    );
    let head: &[u8] = b"cepa network\x01\x01";
    let id = Sha256::digest([head, &values["signed_part"]].concat());
    assert_eq!(id.to_vec(), values["network_id"]);
}

#[test]
fn the_documents_signatures_are_those_of_its_secrets() {
    let (text, values) = (vector_text("network.toml"), vectors("network"));
    let head: &[u8] = b"cepa \x01\x01";
    let signed = [head, &values["network_id"], &values["signed_part"]].concat();
    for name in ["signing_secret_one", "signing_secret_two"] {
        let key = SigningKey::from_bytes(values[name].as_slice().try_into().unwrap());
        assert!(text.contains(&hex::encode(key.verifying_key().as_bytes())));
        let signature = hex::encode(key.sign(&signed).to_bytes());
        let (first, second) = signature.split_at(64);
        assert!(text.contains(first) && text.contains(second), "{name}");
    }
}

#[test]
fn the_documents_messages_of_the_handshake_fill_its_cells() {
    let values = vectors("handshake");
    let id = CircId::new(0x8000_0001).unwrap();
    let create = codec::create(id, values["message"].as_slice().try_into().unwrap());
    let created = codec::created(id, values["reply"].as_slice().try_into().unwrap());
    for (cell, name) in [
        (create, "create_cell_sha256"),
        (created, "created_cell_sha256"),
    ] {
        assert_eq!(Sha256::digest(cell).to_vec(), values[name], "{name}");
    }
}

fn padded(name: &str) -> Payload {
    padded_of("cells", name)
}

fn padded_of(block: &str, name: &str) -> Payload {
    let values = vectors(block);
    let mut payload = [0; PAYLOAD_LEN];
    payload[..values[name].len()].copy_from_slice(&values[name]);
    payload
}

#[test]
fn the_documents_payloads_hold_the_messages_that_it_names() {
    let payload = padded("forward_payload");
    let said: Vec<_> = messages::<Outward<'_>>(&payload)
        .map(Result::unwrap)
        .collect();
    let [
        Outward::Begin { stream, host, port },
        Outward::Stream(of, StreamMessage::Data(data)),
    ] = &said[..]
    else {
        panic!("{said:?}");
    };
    assert_eq!((stream, stream.get(), *port), (of, 1, 80));
    assert_eq!(*host, BeginHost::Name("example.com"));
    assert_eq!(*data, b"GET / HTTP/1.0\r\n\r\n");
    let payload = padded("backward_payload");
    let said: Vec<_> = messages::<Inward<'_>>(&payload)
        .map(Result::unwrap)
        .collect();
    let [
        Inward::Connected(stream),
        Inward::Stream(of, StreamMessage::Data(data)),
    ] = &said[..]
    else {
        panic!("{said:?}");
    };
    assert_eq!((stream, stream.get()), (of, 1));
    assert_eq!(*data, b"HTTP/1.0 204 No Content\r\n\r\n");
}

#[test]
fn the_documents_datagrams_are_those_that_it_names() {
    let one = AssociationId::new(1).unwrap();
    let payload = padded_of("datagrams", "forward_payload");
    let said: Vec<_> = messages::<Outward<'_>>(&payload)
        .map(Result::unwrap)
        .collect();
    let [
        Outward::Association(id, AssociationMessage::Begin),
        Outward::Association(of, AssociationMessage::Datagram(data)),
    ] = &said[..]
    else {
        panic!("{said:?}");
    };
    assert_eq!((*id, *of), (one, one));
    let datagram = read_datagram(data).unwrap();
    assert_eq!(datagram.host, BeginHost::Name("example.com"));
    assert_eq!((datagram.port, datagram.bytes), (53, &[0x12, 0x34][..]));
    let payload = padded_of("datagrams", "backward_payload");
    let said: Vec<_> = messages::<Inward<'_>>(&payload)
        .map(Result::unwrap)
        .collect();
    let [
        Inward::Association(_, AssociationMessage::Bound),
        Inward::Association(_, AssociationMessage::Datagram(data)),
    ] = &said[..]
    else {
        panic!("{said:?}");
    };
    let datagram = read_datagram(data).unwrap();
    let mut from = [0; 16];
    from[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
    from[15] = 1;
    assert_eq!(datagram.host, BeginHost::V6(from));
    assert_eq!((datagram.port, datagram.bytes), (443, &[][..]));
}

#[test]
fn the_documents_cut_datagram_fills_the_payloads_that_it_hashes() {
    let (values, one) = (vectors("datagrams"), AssociationId::new(1).unwrap());
    let mut datagram = Vec::new();
    write_datagram_head(&mut datagram, BeginHost::V4([192, 0, 2, 7]), 4_500);
    datagram.extend((0..3_000u32).map(|place| (place % 251) as u8));
    let (part, rest) = datagram.split_at(PAYLOAD_LEN - 5);
    for (name, said) in [
        ("cut_first_sha256", &[AssociationMessage::Part(part)][..]),
        (
            "cut_second_sha256",
            &[
                AssociationMessage::Datagram(rest),
                AssociationMessage::Unbind(EndReason::Done),
            ],
        ),
    ] {
        let mut payload = [1; PAYLOAD_LEN];
        let mut packer = Packer::new(&mut payload);
        for message in said {
            packer.association(one, *message).unwrap();
        }
        packer.finish();
        assert_eq!(Sha256::digest(payload).to_vec(), values[name], "{name}");
    }
}
