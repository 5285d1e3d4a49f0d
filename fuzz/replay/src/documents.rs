//! Targets for directory documents. A signature would keep a fuzzer away from everything behind it, so the bodies are
//! signed here, with keys that the network below knows.

use std::sync::OnceLock;

use cepa_common::dir::{
    Consensus, ConsensusSignature, Endorsement, EquivocationProof, ExitPolicy, FamilyFile, Kind,
    LinkCertificate, NetworkDraft, NetworkFile, Permit, Signature, SignedConsensus,
    SignedDescriptor, SignedVote, apply,
};
use ed25519_dalek::SigningKey;

use crate::seeds;

pub(crate) fn the_network() -> &'static NetworkFile {
    static NETWORK: OnceLock<NetworkFile> = OnceLock::new();
    NETWORK.get_or_init(seeds::network)
}

/// Makes a document of `kind` from `body`, with one signature by `key`.
fn signed(kind: Kind, body: &[u8], key: &SigningKey) -> Vec<u8> {
    let signature = Signature::sign(key, kind, &the_network().network_id(), body);
    // A signature is the algorithm's byte, then the signature's bytes.
    let signature = postcard::to_allocvec(&signature).unwrap_or_default();
    let len = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let mut document = vec![kind as u8, kind.version()];
    document.extend(len.to_be_bytes());
    document.extend(body);
    document.push(1);
    document.extend(key.verifying_key().to_bytes());
    document.extend([1, 0, 64]);
    document.extend(signature.get(1..).unwrap_or_default());
    document
}

/// Reads a whole document as each kind. A document that is accepted must hold the bytes that came.
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

/// Reads a descriptor's body. A descriptor that is accepted must be usable.
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

/// Reads a vote's body.
pub(crate) fn vote(data: &[u8]) -> bool {
    let document = signed(Kind::Vote, data, &seeds::authority_key());
    let document = SignedVote::parse_and_verify(&document, the_network());
    document.is_ok_and(|document| document.entries().count() == document.vote().entries.len())
}

/// Reads a consensus's body. A consensus that is accepted is searched.
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

/// Reads the body of a single signature of a consensus by an authority.
pub(crate) fn consensus_signature(data: &[u8]) -> bool {
    let document = signed(Kind::ConsensusSignature, data, &seeds::authority_key());
    ConsensusSignature::parse_and_verify(&document, the_network()).is_ok()
}

/// Reads an endorsement's body.
pub(crate) fn endorsement(data: &[u8]) -> bool {
    let document = signed(Kind::Endorsement, data, &seeds::authority_key());
    let Ok(endorsement) = Endorsement::parse_and_verify(&document, the_network()) else {
        return false;
    };
    assert_eq!(endorsement.to_bytes(), Ok(document));
    true
}

/// Reads the body of a permit. A permit that is accepted has one encoding.
pub(crate) fn permit(data: &[u8]) -> bool {
    let key = seeds::authority_key();
    let document = signed(Kind::Permit, data, &key);
    let Ok((permit, _)) = Permit::parse_and_verify(&document, the_network()) else {
        return false;
    };
    let again = permit.sign(&the_network().network_id(), &key);
    assert_eq!(again, Ok(document));
    true
}

/// Reads a list of proofs that authorities voted twice. A list that is accepted must be the same when it is written
/// again.
pub(crate) fn proof(data: &[u8]) -> bool {
    let Ok(proofs) = EquivocationProof::parse_and_verify(data, the_network()) else {
        return false;
    };
    assert_eq!(EquivocationProof::to_bytes(&proofs).as_deref(), Ok(data));
    !proofs.is_empty()
}

/// Reads the text of a `network.toml`. A text that is accepted must mean the same when it is written again.
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

/// Reads the rules of an exit policy. Rules that are accepted must mean the same when they are written again.
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

/// Reads a file that is carried to a relay: a certificate or a membership. A file that is accepted must mean the same
/// when it is written again.
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

/// Applies a difference to a consensus held. What is accepted must be a consensus of the network.
pub(crate) fn difference(data: &[u8]) -> bool {
    use std::sync::Arc;
    static HELD: OnceLock<Arc<Consensus>> = OnceLock::new();
    let held = HELD.get_or_init(|| seeds::consensus_of(the_network(), 0, 2));
    let Ok(made) = apply(held, data, the_network()) else {
        return false;
    };
    assert!(SignedConsensus::parse_and_verify(made.bytes(), the_network()).is_ok());
    true
}
