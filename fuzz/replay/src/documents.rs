//! Directory documents. A signature would keep a fuzzer out of everything behind it,
//! so the bodies are signed here, with keys that the network below knows.

use std::sync::OnceLock;

use cepa_common::dir::{
    Consensus, ConsensusSignature, Endorsement, EquivocationProof, ExitPolicy, FamilyFile, Kind,
    LinkCertificate, NetworkDraft, NetworkFile, Signature, SignedConsensus, SignedDescriptor,
    SignedVote, apply,
};
use ed25519_dalek::SigningKey;

use crate::seeds;

pub(crate) fn the_network() -> &'static NetworkFile {
    static NETWORK: OnceLock<NetworkFile> = OnceLock::new();
    NETWORK.get_or_init(seeds::network)
}

/// `body` as a document of `kind`, with the one signature of `key`.
fn signed(kind: Kind, body: &[u8], key: &SigningKey) -> Vec<u8> {
    let signature = Signature::sign(key, kind, &the_network().network_id(), body);
    // The algorithm's byte, then the signature.
    let signature = postcard::to_allocvec(&signature).unwrap_or_default();
    let len = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let mut document = vec![kind as u8, 1];
    document.extend(len.to_be_bytes());
    document.extend(body);
    document.push(1);
    document.extend(key.verifying_key().to_bytes());
    document.extend([1, 0, 64]);
    document.extend(signature.get(1..).unwrap_or_default());
    document
}

/// A whole document, as each kind; what passes holds the bytes that came.
pub(crate) fn envelope(data: &[u8]) -> bool {
    let network = the_network();
    let id = network.network_id();
    let same = |bytes: &[u8]| assert_eq!(bytes, data);
    let descriptor = SignedDescriptor::parse_and_verify(data, &id).map(|d| same(d.bytes()));
    let vote = SignedVote::parse_and_verify(data, network).map(|d| same(d.bytes()));
    let consensus = SignedConsensus::parse_and_verify(data, network).map(|d| same(d.bytes()));
    let signature = ConsensusSignature::parse_and_verify(data, network).map(|d| same(d.bytes()));
    descriptor.is_ok() || vote.is_ok() || consensus.is_ok() || signature.is_ok()
}

/// A descriptor's body; what passes is usable.
pub(crate) fn descriptor(data: &[u8]) -> bool {
    let document = signed(Kind::Descriptor, data, &seeds::relay_key());
    let id = the_network().network_id();
    let Ok(document) = SignedDescriptor::parse_and_verify(&document, &id) else {
        return false;
    };
    let descriptor = document.descriptor();
    assert!(!descriptor.addresses.is_empty());
    let _ = descriptor.policy.allows_port(443);
    true
}

/// A vote's body.
pub(crate) fn vote(data: &[u8]) -> bool {
    let document = signed(Kind::Vote, data, &seeds::authority_key());
    let document = SignedVote::parse_and_verify(&document, the_network());
    document.is_ok_and(|document| document.entries().count() == document.vote().entries.len())
}

/// A consensus's body; what passes is searched.
pub(crate) fn consensus(data: &[u8]) -> bool {
    let document = signed(Kind::Consensus, data, &seeds::authority_key());
    let Ok(consensus) = SignedConsensus::parse_and_verify(&document, the_network()) else {
        return false;
    };
    for entry in consensus.entries() {
        assert_eq!(consensus.relay(&entry.identity), Some(entry));
        assert!(consensus.by_link_key(&entry.link_key()).is_some());
    }
    true
}

/// The body of an authority's lone signature of a consensus.
pub(crate) fn consensus_signature(data: &[u8]) -> bool {
    let document = signed(Kind::ConsensusSignature, data, &seeds::authority_key());
    ConsensusSignature::parse_and_verify(&document, the_network()).is_ok()
}

/// An endorsement's body.
pub(crate) fn endorsement(data: &[u8]) -> bool {
    let document = signed(Kind::Endorsement, data, &seeds::authority_key());
    let Ok(endorsement) = Endorsement::parse_and_verify(&document, the_network()) else {
        return false;
    };
    assert_eq!(endorsement.to_bytes(), Ok(document));
    true
}

/// A list of proofs that authorities voted twice. What passes says the same when it is written again.
pub(crate) fn proof(data: &[u8]) -> bool {
    let Ok(proofs) = EquivocationProof::parse_and_verify(data, the_network()) else {
        return false;
    };
    assert_eq!(EquivocationProof::to_bytes(&proofs).as_deref(), Ok(data));
    !proofs.is_empty()
}

/// The text of a `network.toml`. What passes says the same when it is written again.
pub(crate) fn network(data: &[u8]) -> bool {
    let Ok(text) = core::str::from_utf8(data) else {
        return false;
    };
    let _ = NetworkDraft::parse(text);
    let Ok(network) = NetworkFile::parse(text) else {
        return false;
    };
    let again = network.to_toml().unwrap_or_default();
    assert_eq!(NetworkFile::parse(&again), Ok(network));
    true
}

/// The rules of an exit policy. What passes says the same when it is written again.
pub(crate) fn policy(data: &[u8]) -> bool {
    let Ok(text) = core::str::from_utf8(data) else {
        return false;
    };
    let Ok(policy) = text.parse::<ExitPolicy>() else {
        return false;
    };
    assert_eq!(policy.to_string().parse(), Ok(policy));
    true
}

/// A file that is carried to a relay: a certificate or a membership. What passes says the same when it is written again.
pub(crate) fn key_file(data: &[u8]) -> bool {
    let Ok(text) = core::str::from_utf8(data) else {
        return false;
    };
    let id = the_network().network_id();
    let certificate = LinkCertificate::parse(text, &id);
    if let Ok(certificate) = &certificate {
        let again = certificate.to_toml(&id);
        assert_eq!(
            LinkCertificate::parse(&again, &id).as_ref(),
            Ok(certificate)
        );
    }
    let family = FamilyFile::parse(text, &id);
    if let Ok(family) = &family {
        let again = family.to_toml(&id);
        assert_eq!(FamilyFile::parse(&again, &id).as_ref(), Ok(family));
    }
    certificate.is_ok() || family.is_ok()
}

/// A difference from a consensus held; what passes is a consensus of the network.
pub(crate) fn difference(data: &[u8]) -> bool {
    use std::sync::Arc;
    static HELD: OnceLock<Option<Arc<Consensus>>> = OnceLock::new();
    let held = HELD.get_or_init(|| seeds::consensus_of(the_network(), 0, 2));
    let Some(held) = held else { return false };
    let Ok(made) = apply(held, data, the_network()) else {
        return false;
    };
    assert!(SignedConsensus::parse_and_verify(made.bytes(), the_network()).is_ok());
    true
}
