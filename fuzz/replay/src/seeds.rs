//! The samples that the corpora start from: good ones for each parser, and broken ones. `cargo run -p cepa-fuzz-targets
//! --example seeds` writes them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use cepa_common::cell::PAYLOAD_LEN;
use cepa_common::cell::codec::{self, CREATE_LEN, CREATED_LEN, DestroyReason};
use cepa_common::cell::message::{
    EndReason, FlowMessage, Host, LegMessage, Packer, SECRET_LEN, StreamMessage,
};
use cepa_common::dir::{
    Authority, AuthorityCert, Consensus, ConsensusBody, Endorsement, Entry, EquivocationProof,
    ExitPolicy, FamilyFile, FamilyMembership, Flags, KeyCert, Lifetime, LinkCertificate,
    NetworkDraft, NetworkFile, RelayDescriptor, SignedConsensus, Signer, Vote, VoteEntry, diff,
    local_network_params,
};
use cepa_common::handshake::{ClientParams, RelayParams};
use cepa_common::ids::{CircId, NetworkId, RelayId, StreamId};
use cepa_common::link::Hello;
use cepa_common::onion::Suite;
use ed25519_dalek::SigningKey;

/// One sample: its target, its name, its bytes.
pub type Seed = (&'static str, &'static str, Vec<u8>);

/// The key that signs votes and consensuses of [`network`].
pub fn authority_key() -> SigningKey {
    SigningKey::from_bytes(&[101; 32])
}

/// The key of the only relay, whose public half is its identity. The relay is the authority's too.
pub fn relay_key() -> SigningKey {
    SigningKey::from_bytes(&[1; 32])
}

fn relay_id() -> RelayId {
    RelayId(relay_key().verifying_key().to_bytes())
}

/// The network that the documents belong to. It has one authority.
///
/// # Panics
/// If the rules for networks have changed, so that this network is no longer valid.
#[allow(clippy::expect_used)]
pub fn network() -> NetworkFile {
    let authority = Authority {
        name: "authority".to_owned(),
        identity: relay_id(),
        signing_key: authority_key().verifying_key().to_bytes(),
        addresses: vec![address()],
    };
    let mut draft = NetworkDraft::new("fuzz", vec![authority], local_network_params());
    draft.sign(&authority_key()).expect("a valid network");
    draft.finish().expect("a signed network")
}

fn address() -> SocketAddr {
    ([127, 0, 0, 1], 5001).into()
}

fn descriptor() -> RelayDescriptor {
    RelayDescriptor {
        identity: relay_id(),
        key_cert: None,
        onion_key: [1; 32],
        suite: Suite::ChaCha20Poly1305,
        addresses: vec![address()],
        published: 1_800_000_000,
        bandwidth: 1000,
        offers: Flags::GUARD,
        policy: ExitPolicy::from_rules(["accept *:*"])
            .unwrap_or_default()
            .summary(),
        family: None,
        nickname: "relay".to_owned(),
        version: "0.1.0".to_owned(),
    }
}

fn lifetime() -> Lifetime {
    Lifetime {
        valid_after: 1_800_000_000,
        fresh_until: 1_800_003_600,
        valid_until: 1_800_010_800,
    }
}

/// All samples.
pub fn all() -> Vec<Seed> {
    [
        front(),
        cells(),
        payloads(),
        documents(),
        key_files(),
        owner(),
    ]
    .concat()
}

fn front() -> Vec<Seed> {
    let samples: [(&'static str, &[u8]); 16] = [
        (
            "good_socks4",
            b"\xff\x04\x01\x00\x50\x08\x08\x08\x08me\x00early",
        ),
        ("socks4_bind", b"\xff\x04\x02\x00\x50\x08\x08\x08\x08\x00"),
        (
            "socks4_endless",
            b"\x01\x04\x01\x00\x50\x08\x08\x08\x08aaaaaaaaaaaaaaaaaaaa",
        ),
        (
            "good_socks4a",
            b"\x02\x04\x01\x00\x50\x00\x00\x00\x01\x00example.org\x00",
        ),
        (
            "good_socks5_ip4",
            b"\x03\x05\x01\x00\x05\x01\x00\x01\x08\x08\x08\x08\x00\x50",
        ),
        (
            "good_socks5_ip6",
            b"\x07\x05\x01\x00\x05\x01\x00\x04\x26\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x00\x50",
        ),
        (
            "good_socks5_name",
            b"\xff\x05\x02\x00\x02\x01\x03bob\x01x\x05\x01\x00\x03\x09a.example\x01\xbbearly",
        ),
        (
            "socks5_udp",
            b"\xff\x05\x01\x00\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00",
        ),
        (
            "socks5_private",
            b"\xff\x05\x01\x00\x05\x01\x00\x03\x07::ffff:\x00\x50",
        ),
        ("socks5_no_method", b"\xff\x05\x01\x01"),
        (
            "good_connect",
            b"\xffCONNECT a.example:443 HTTP/1.1\r\nHost: a\r\n\r\n\x16\x03\x01",
        ),
        (
            "good_connect_ip6",
            b"\x05CONNECT [2600::1]:443 HTTP/1.0\nProxy-Authorization: Basic Ym9iOng=\n\n",
        ),
        (
            "connect_torn",
            b"\x01CONNECT a.example:443 HTTP/1.1\r\n\r\t\r\n\r\n",
        ),
        ("get", b"\xffGET / HTTP/1.1\r\nHost: 127.0.0.1:9050\r\n\r\n"),
        ("get_proxy", b"\xffGET http://a.example/ HTTP/1.1\r\n\r\n"),
        ("tls", b"\xff\x16\x03\x01\x02\x00\x01"),
    ];
    samples
        .map(|(name, bytes)| ("front", name, bytes.to_vec()))
        .into()
}

/// Removes the zeros at the end, which the targets add.
fn trimmed(bytes: &[u8]) -> Vec<u8> {
    let len = bytes.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1);
    bytes[..len].to_vec()
}

fn cells() -> Vec<Seed> {
    let mut seeds = Vec::new();
    if let Some(circ) = CircId::new(CircId::DIALLER_BIT | 7) {
        seeds = vec![
            (
                "cell",
                "good_create",
                trimmed(&codec::create(circ, &[1; CREATE_LEN])),
            ),
            (
                "cell",
                "good_created",
                trimmed(&codec::created(circ, &[2; CREATED_LEN])),
            ),
            (
                "cell",
                "good_destroy",
                trimmed(&codec::destroy(circ, DestroyReason::Protocol)),
            ),
        ];
    }
    let mut reserved = vec![0, 0, 0, 7, 3, 0, 1];
    seeds.push(("cell", "reserved_byte", reserved.clone()));
    reserved[4] = 99;
    seeds.push(("cell", "unknown_command", reserved));
    seeds.push(("cell", "empty", Vec::new()));
    let hello = Hello::ours(NetworkId([7; 32]), Some(address()), 1_800_000_000).encode();
    seeds.push(("cell", "good_hello", trimmed(&hello)));
    seeds.push(("hello", "good_ours", trimmed(&hello)));
    let mut broken = trimmed(&hello);
    broken.truncate(20);
    seeds.push(("hello", "short", broken));
    seeds.push((
        "params",
        "good_client",
        ClientParams::default().encode().to_vec(),
    ));
    seeds.push((
        "params",
        "good_relay",
        RelayParams {
            version: 1,
            circuit_window_cells: 512,
            mark_interval_cells: 32,
            stream_window_bytes: 1 << 20,
        }
        .encode()
        .to_vec(),
    ));
    seeds.push(("params", "ones", vec![0xff; 16]));
    seeds
}

/// The payload that `write` packs, without its padding.
fn payload(write: impl FnOnce(&mut Packer<'_>) -> Option<()>) -> Vec<u8> {
    let mut bytes = [0; PAYLOAD_LEN];
    let mut packer = Packer::new(&mut bytes);
    let _ = write(&mut packer);
    packer.finish();
    trimmed(&bytes)
}

fn payloads() -> Vec<Seed> {
    let id = StreamId::new(1);
    let begin = payload(|p| {
        p.begin(id?, Host::Name("a.example"), 443).ok()?;
        p.stream(id?, StreamMessage::Data(b"early")).ok()
    });
    let addresses = payload(|p| {
        p.begin(id?, Host::V4([192, 0, 2, 1]), 80).ok()?;
        p.begin(StreamId::new(2)?, Host::V6([0x26; 16]), 80).ok()?;
        p.begin_dir(StreamId::new(3)?).ok()
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
        numbered(0, &|p| p.begin(id?, Host::Name("a.example"), 443).ok()),
    );
    let (ask, unlink) = (leg(LegMessage::Ask), leg(LegMessage::Unlink(1)));
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
        ("message", "good_link", link),
        ("message", "good_linked", linked),
        ("message", "good_numbered", early),
        ("message", "good_seen", seen),
        ("message", "good_unlink", unlink),
        ("message", "good_ask", ask),
        ("mux", "id_in_use", conversation(0, &[&begin, &addresses])),
        ("mux", "good_client", client),
        ("mux", "good_extend", conversation(0, &[&extend])),
        ("mux", "begin_twice", conversation(0, &[&begin, &begin])),
        ("message", "good_begin", begin),
        ("message", "good_addresses", addresses),
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

/// The next revision of the network.
fn revision() -> String {
    let mut draft = NetworkDraft::revise(&network(), 1_900_000_000);
    let signed = draft.sign(&authority_key());
    signed.and_then(|()| draft.to_toml()).unwrap_or_default()
}

/// The authority's signer with a key that the authority certified.
fn certified() -> Signer {
    let key = SigningKey::from_bytes(&[3; 32]);
    let public = key.verifying_key().to_bytes();
    let id = network().network_id();
    let cert = AuthorityCert::issue(&authority_key(), &id, public, u64::MAX);
    let signer = cert.and_then(|cert| Signer::certified(key, cert));
    signer.unwrap_or_else(|_| authority_key().into())
}

/// A signed consensus of `relays` relays, `later` seconds after the first.
pub fn consensus_of(network: &NetworkFile, later: u64, relays: u8) -> Option<Arc<Consensus>> {
    let first = lifetime();
    let entry = |n: u8| {
        let mut entry = Entry::new(
            &descriptor(),
            Flags::GUARD,
            5 + u32::from(n) * u32::from(relays),
        );
        entry.identity = RelayId([n; 32]);
        entry.version = format!("0.{}.{relays}", n / 2);
        entry
    };
    let body = ConsensusBody {
        lifetime: Lifetime {
            valid_after: first.valid_after + later,
            ..first
        },
        params: BTreeMap::from([
            (format!("of_{relays}"), u32::from(relays)),
            ("same".to_owned(), 1),
        ]),
        entries: (1..=relays).map(entry).collect(),
    };
    let mut signed = SignedConsensus::unsigned(&body, &network.network_id()).ok()?;
    signed.sign(&network.network_id(), &authority_key()).ok()?;
    SignedConsensus::parse_and_verify(&signed.to_bytes().ok()?, network).ok()
}

fn endorsements(network: &NetworkFile, vote: &Vote) -> Vec<Seed> {
    let mut other = vote.clone();
    other.entries.clear();
    let endorse = |vote: &Vote| {
        let vote = vote.sign(network, &authority_key()).ok()?;
        Endorsement::of_vote(&vote, network, &authority_key()).ok()
    };
    let (Some(one), Some(other)) = (endorse(vote), endorse(&other)) else {
        return Vec::new();
    };
    let bytes = one.to_bytes().unwrap_or_default();
    // The body stands behind the header of six bytes and before the only signature of 100 bytes.
    let end = bytes.len().saturating_sub(100);
    let body = bytes.get(6..end).unwrap_or_default().to_vec();
    let proof = EquivocationProof::new(&one, &other);
    let proof = EquivocationProof::to_bytes(&proof).unwrap_or_default();
    let half = proof.get(..proof.len() / 2).unwrap_or_default().to_vec();
    vec![
        (
            "endorsement",
            "short",
            body.get(..40).unwrap_or_default().to_vec(),
        ),
        ("endorsement", "good", body),
        ("proof", "half", half),
        ("proof", "good", proof),
    ]
}

fn documents() -> Vec<Seed> {
    let network = network();
    let text = network.to_toml().unwrap_or_default();
    let mut seeds = vec![
        (
            "network",
            "unsigned",
            text.replace("signature", "comment").into_bytes(),
        ),
        ("network", "good", text.into_bytes()),
        ("network", "good_revision", revision().into_bytes()),
        ("policy", "good_all", b"accept *:*".to_vec()),
        (
            "policy",
            "good_some",
            b"reject 10.0.0.0/8:*, accept *6:80-443\naccept *:22".to_vec(),
        ),
        ("policy", "broken", b"accept 1.2.3.4/33:0-99999".to_vec()),
    ];
    let descriptor = descriptor();
    let body = |bytes: Result<Vec<u8>, postcard::Error>| bytes.unwrap_or_default();
    let encoded = body(postcard::to_allocvec(&descriptor));
    seeds.push(("descriptor", "short", encoded[..40].to_vec()));
    seeds.push(("descriptor", "trailing", [&encoded[..], &[0]].concat()));
    seeds.push(("descriptor", "good", encoded));
    let params: BTreeMap<_, _> = local_network_params();
    if let Ok(signed) = descriptor.sign(&network.network_id(), &relay_key()) {
        let vote = Vote {
            authority: relay_id(),
            lifetime: lifetime(),
            params: params.clone(),
            entries: vec![VoteEntry {
                descriptor: signed.bytes().to_vec(),
                flags: Flags::GUARD,
                measured: Some(5),
            }],
        };
        seeds.push(("vote", "good", body(postcard::to_allocvec(&vote))));
        seeds.push(("envelope", "good_descriptor", signed.bytes().to_vec()));
        seeds.extend(endorsements(&network, &vote));
        if let Ok(vote) = vote.sign(&network, &authority_key()) {
            seeds.push(("envelope", "good_vote", vote.bytes().to_vec()));
        }
        if let Ok(vote) = vote.sign(&network, &certified()) {
            seeds.push(("envelope", "good_vote_certified", vote.bytes().to_vec()));
        }
    }
    let consensus = ConsensusBody {
        lifetime: lifetime(),
        params,
        entries: vec![Entry::new(&descriptor, Flags::GUARD, 5)],
    };
    seeds.push(("consensus", "good", body(postcard::to_allocvec(&consensus))));
    if let Ok(mut consensus) = SignedConsensus::unsigned(&consensus, &network.network_id()) {
        if let Ok(signature) = consensus.sign(&network.network_id(), &authority_key()) {
            let bytes = signature.bytes().to_vec();
            // The body stands behind the header of six bytes and before the only signature of 100 bytes.
            let end = bytes.len().saturating_sub(100);
            let inner = bytes.get(6..end).unwrap_or_default().to_vec();
            seeds.push(("consensus_signature", "good", inner));
            seeds.push(("envelope", "good_consensus_signature", bytes));
        }
        if let Ok(bytes) = consensus.to_bytes() {
            seeds.push(("envelope", "good_consensus", bytes));
        }
        if let Ok(signature) = consensus.sign(&network.network_id(), &certified()) {
            let bytes = signature.bytes().to_vec();
            // The body stands behind the header of six bytes and before the only signature of 204 bytes.
            let end = bytes.len().saturating_sub(204);
            let inner = bytes.get(6..end).unwrap_or_default().to_vec();
            seeds.push(("consensus_signature", "good_certified", inner));
            seeds.push(("envelope", "good_consensus_signature_certified", bytes));
        }
    }
    let other = |later, relays| consensus_of(&network, later, relays);
    if let (Some(old), Some(next), Some(less)) = (other(0, 2), other(1, 3), other(2, 1)) {
        for (name, newer) in [("good_more", next), ("good_less", less)] {
            let bytes = diff(&old, &newer).unwrap_or_default();
            let mut wrong = bytes.clone();
            // A bit of the lifetime is changed: the result decodes, and nobody signed it.
            if let Some(byte) = wrong.get_mut(38) {
                *byte ^= 1;
            }
            seeds.push(("difference", name, bytes));
            seeds.push(("difference", "wrong", wrong));
        }
    }
    seeds.push(("envelope", "endless", vec![2, 1, 0xff, 0xff, 0xff, 0xff, 0]));
    seeds
}

/// A certificate of the relay for another key, its membership in a family, and a descriptor that has both.
fn key_files() -> Vec<Seed> {
    let id = network().network_id();
    let (identity, family) = (authority_key(), SigningKey::from_bytes(&[9; 32]));
    let relay = RelayId(identity.verifying_key().to_bytes());
    let certificate = LinkCertificate {
        identity: relay,
        made: 1_800_000_000,
        cert: KeyCert::new(&identity, &id, relay_id().0, 1_807_776_000),
    };
    let membership = FamilyFile {
        identity: relay,
        membership: FamilyMembership::new(&family, &id, &relay),
    };
    let both = RelayDescriptor {
        identity: relay,
        key_cert: Some(certificate.cert.clone()),
        family: Some(membership.membership.clone()),
        ..descriptor()
    };
    let both = postcard::to_allocvec(&both).unwrap_or_default();
    vec![
        (
            "key_file",
            "good_certificate",
            certificate.to_toml(&id).into_bytes(),
        ),
        (
            "key_file",
            "good_membership",
            membership.to_toml(&id).into_bytes(),
        ),
        (
            "key_file",
            "of_another_network",
            certificate.to_toml(&NetworkId([1; 32])).into_bytes(),
        ),
        ("descriptor", "good_certified_in_a_family", both),
    ]
}

/// Samples of what the owner and the disk hand over.
fn owner() -> Vec<Seed> {
    let id = network().network_id();
    let key = SigningKey::from_bytes(&[3; 32]).verifying_key().to_bytes();
    let cert = AuthorityCert::issue(&authority_key(), &id, key, 1_900_000_000);
    let cert = cert.map(|cert| cert.to_text()).unwrap_or_default();
    let text = |name: &'static str, text: &str| ("peers", name, text.as_bytes().to_vec());
    let control = |name: &'static str, text: &str| ("control", name, text.as_bytes().to_vec());
    let countries = include_bytes!("../../../tests/reference/countries.mmdb");
    // The fields of `StoredGuard`: identity, when it was added, rank and date of its first use, when it was unlisted.
    let guard = |n: u8, rank: Option<(u16, u64)>| ([n; 32], 1_800_000_000u64, rank, None::<u64>);
    let guards =
        |guards: &[_]| postcard::to_allocvec(&(1u8, [7u8; 32], guards)).unwrap_or_default();
    let used = guards(&[guard(1, None), guard(2, Some((0, 1_800_000_100)))]);
    let gap = guards(&[guard(1, Some((1, 1_800_000_100)))]);
    let ledger =
        |ledger: &[([u8; 32], u32, u32)]| postcard::to_allocvec(&(1u8, ledger)).unwrap_or_default();
    vec![
        control("good_status", "{\"version\":1,\"command\":\"status\"}\n"),
        control(
            "good_spaces",
            " { \"command\" : \"new-identity\", \"version\" : 1 }\n",
        ),
        control("version_2", "{\"version\":2,\"command\":\"status\"}\n"),
        control("endless", "{\"version\":1,\"command\":\"status\"}"),
        control("deep", &"[".repeat(300)),
        ("guards", "good_none", guards(&[])),
        ("guards", "good_used", used.clone()),
        ("guards", "trailing", [&used[..], &[0]].concat()),
        ("guards", "gap", gap),
        (
            "bias",
            "good",
            ledger(&[([1; 32], 20, 19), ([2; 32], 1, 0)]),
        ),
        ("bias", "more_built", ledger(&[([1; 32], 1, 2)])),
        text("good_range", "192.0.2.0/24"),
        text("good_range6", "[2001:db8::]/32"),
        text("good_country", "country:de"),
        text("good_family", &format!("family:{}", "07".repeat(32))),
        text("good_destination", ".example.org:80-443"),
        text(
            "good_rule",
            ".example.com:443,*:22 only country:de country:ch avoid 192.0.2.0/24",
        ),
        text("torn_rule", "* only"),
        ("authority_cert", "torn", cert.replace("key", "keys").into()),
        ("authority_cert", "good", cert.into()),
        ("geoip", "good_countries", countries.to_vec()),
        ("geoip", "half", countries[..countries.len() / 2].to_vec()),
    ]
}
