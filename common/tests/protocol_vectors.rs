//! The vectors that docs/protocol.md prints in its chapter 8, and that another program made
//! (tests/reference/document.py): what an implementation of the document can read, say and answer by them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../src/testkit/vectors.rs"]
#[allow(
    unreachable_pub,
    reason = "the kit for tests offers what this file takes"
)]
mod vectors;

use cepa_common::cell::message::{BeginHost, Inward, Outward, StreamMessage, messages};
use cepa_common::cell::{PAYLOAD_LEN, Payload, codec};
use cepa_common::dir::NetworkFile;
use cepa_common::ids::CircId;
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
    let values = vectors("cells");
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
