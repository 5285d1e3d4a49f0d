//! The envelope of every signed document: kind, version, body, signatures (docs/protocol.md, 6.1 and 6.2).

use core::fmt;

use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use super::error::DocError;
use super::signer::{ALGORITHM_ED25519, AsSigner, AuthoritySignature};
use super::time::UnixSecs;
use crate::ids::NetworkId;

/// The version byte of every kind so far.
pub(in crate::dir) const VERSION: u8 = 1;
/// Kind, version and the length of the body.
const HEADER_BYTES: usize = 6;
/// Signatures that a document can carry; twice as many as authorities, so that each can sign with two algorithms.
const MAX_SIGNATURES: usize = 64;
/// Longest signature of any algorithm: room for those that resist quantum computers.
const MAX_SIGNATURE_BYTES: usize = 8 * 1024;

/// What a document, or a signature inside one, is; its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The signed part of `network.toml`.
    Network = 1,
    /// A relay's description of itself.
    Descriptor = 2,
    /// An authority's vote.
    Vote = 3,
    /// What the authorities agreed on.
    Consensus = 4,
    /// One authority's signature of a consensus, on its own.
    ConsensusSignature = 5,
    /// A relay identity's certificate of its link key.
    KeyCert = 6,
    /// A family key's word that a relay belongs to the family.
    Family = 7,
    /// Authorities' word that they hold a vote.
    Endorsement = 8,
    /// What makes a newer consensus of an older one.
    Difference = 9,
    /// An authority's certificate of a key that signs for it.
    AuthorityKeyCert = 10,
}

/// SHA-256 of what is signed: prefix, kind, version, network id and body (32 bytes).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Parses the 64 hexadecimal digits that [`fmt::Display`] writes.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        Some(Self(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({}…)", hex::encode(&self.0[..4]))
    }
}

/// An Ed25519 signature where it stands inside a body: algorithm byte 1 and 64 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub(in crate::dir) [u8; 64]);

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({}…)", hex::encode(&self.0[..4]))
    }
}

impl Serialize for Signature {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (low, high) = self.0.split_at(32);
        (ALGORITHM_ED25519, Half::of(low), Half::of(high)).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (algorithm, low, high) = <(u8, Half, Half)>::deserialize(deserializer)?;
        if algorithm != ALGORITHM_ED25519 {
            return Err(serde::de::Error::custom("unknown signature algorithm"));
        }
        Ok(Self::of(&low, &high))
    }
}

/// Half a signature: serde knows arrays of up to 32 elements.
#[derive(Serialize, Deserialize)]
pub(in crate::dir) struct Half([u8; 32]);

impl Half {
    fn of(slice: &[u8]) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(slice);
        Self(bytes)
    }
}

impl Signature {
    pub(in crate::dir) fn of(low: &Half, high: &Half) -> Self {
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&low.0);
        bytes[32..].copy_from_slice(&high.0);
        Self(bytes)
    }

    /// Signs `body` as a thing of `kind` in `network`.
    pub fn sign(key: &SigningKey, kind: Kind, network: &NetworkId, body: &[u8]) -> Self {
        Self(key.sign(&signed_bytes(kind, network, body)).to_bytes())
    }

    /// Checks the signature by `signer` of `body` as a thing of `kind` in `network`.
    ///
    /// # Errors
    /// [`DocError::BadSignature`], also for a `signer` that is no key or a weak one.
    pub fn verify(
        &self,
        signer: &[u8; 32],
        kind: Kind,
        network: &NetworkId,
        body: &[u8],
    ) -> Result<(), DocError> {
        let message = signed_bytes(kind, network, body);
        let key = VerifyingKey::from_bytes(signer).map_err(|_| DocError::BadSignature)?;
        let signature = ed25519_dalek::Signature::from_bytes(&self.0);
        // Strict: a weak key would make one signature fit many documents.
        key.verify_strict(&message, &signature)
            .map_err(|_| DocError::BadSignature)
    }
}

/// What a signature covers and a digest hashes (6.2): 5 + 1 + 1 + 32 bytes before the body.
fn signed_bytes(kind: Kind, network: &NetworkId, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(39 + body.len());
    bytes.extend_from_slice(b"cepa ");
    bytes.push(kind as u8);
    bytes.push(VERSION);
    bytes.extend_from_slice(&network.0);
    bytes.extend_from_slice(body);
    bytes
}

/// The digest of a document of `kind` with this body (6.2). Signatures are no part of it.
pub(in crate::dir) fn digest(kind: Kind, network: &NetworkId, body: &[u8]) -> Digest {
    Digest(Sha256::digest(signed_bytes(kind, network, body)).into())
}

/// Encodes a value as postcard.
///
/// # Errors
/// [`DocError::Malformed`]: no value of our types is known to cause it.
pub(in crate::dir) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, DocError> {
    postcard::to_allocvec(value).map_err(|_| DocError::Malformed)
}

/// Decodes a body and insists on its one canonical encoding (S2; postcard itself takes overlong numbers).
pub(in crate::dir) fn decode<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<T, DocError> {
    let (value, rest) = postcard::take_from_bytes::<T>(bytes).map_err(|_| DocError::Malformed)?;
    if !rest.is_empty() {
        return Err(DocError::Trailing);
    }
    if encode(&value)? != bytes {
        return Err(DocError::NotCanonical);
    }
    Ok(value)
}

/// A document taken apart, nothing verified and the body not yet decoded.
#[derive(Debug)]
pub(in crate::dir) struct Envelope<'a> {
    kind: Kind,
    pub(in crate::dir) body: &'a [u8],
    pub(in crate::dir) signatures: Vec<([u8; 32], AuthoritySignature)>,
}

impl<'a> Envelope<'a> {
    /// Takes a document of `kind` and at most `cap` bytes apart (6.1).
    pub(in crate::dir) fn parse(bytes: &'a [u8], kind: Kind, cap: usize) -> Result<Self, DocError> {
        if bytes.len() > cap {
            return Err(DocError::TooLarge {
                size: bytes.len(),
                cap,
            });
        }
        let mut rest = bytes;
        let header = take(&mut rest, HEADER_BYTES)?;
        if header[0] != kind as u8 {
            return Err(DocError::WrongKind {
                expected: kind as u8,
                found: header[0],
            });
        }
        if header[1] != VERSION {
            return Err(DocError::UnknownVersion(header[1]));
        }
        let length = u32::from_be_bytes([header[2], header[3], header[4], header[5]]);
        let body = take(&mut rest, usize::try_from(length).unwrap_or(usize::MAX))?;
        let signatures = parse_signatures(&mut rest, kind)?;
        if !rest.is_empty() {
            return Err(DocError::Trailing);
        }
        Ok(Self {
            kind,
            body,
            signatures,
        })
    }

    /// Checks that exactly one key signed, and returns it.
    pub(in crate::dir) fn verify_single(&self, network: &NetworkId) -> Result<[u8; 32], DocError> {
        let [(signer, signature)] = self.signatures.as_slice() else {
            return Err(DocError::TooFewSignatures {
                have: self.signatures.len(),
                need: 1,
            });
        };
        signature.verify(signer, self.kind, network, self.body)?;
        Ok(*signer)
    }

    /// Checks that every key that signed was good at this valid-after, which the body holds.
    pub(in crate::dir) fn require_good_at(&self, valid_after: UnixSecs) -> Result<(), DocError> {
        let is_good =
            |(_, signature): &([u8; 32], AuthoritySignature)| signature.is_good_at(valid_after);
        if self.signatures.iter().all(is_good) {
            Ok(())
        } else {
            Err(DocError::KeyExpired)
        }
    }

    /// Checks that more than half of `keys` signed; the others of the list are not looked at (6.9.4). The result says
    /// who signed, for [`good_at`] once the body's time is known.
    pub(in crate::dir) fn verify_majority(
        &self,
        network: &NetworkId,
        keys: &[[u8; 32]],
    ) -> Result<Vec<([u8; 32], AuthoritySignature)>, DocError> {
        let known = |(signer, _): &&([u8; 32], AuthoritySignature)| keys.contains(signer);
        let known: Vec<_> = self.signatures.iter().filter(known).copied().collect();
        // Count first: signatures that cannot suffice are not worth the arithmetic.
        require_majority(&signers(&known), keys.len())?;
        for (signer, signature) in &known {
            signature.verify(signer, self.kind, network, self.body)?;
        }
        Ok(known)
    }

    /// Digest of the document.
    pub(in crate::dir) fn digest(&self, network: &NetworkId) -> Digest {
        digest(self.kind, network, self.body)
    }
}

/// How many are more than half of `n`.
pub(in crate::dir) fn majority(n: usize) -> usize {
    n / 2 + 1
}

/// The distinct signers of a list that stands in order.
fn signers(signatures: &[([u8; 32], AuthoritySignature)]) -> Vec<[u8; 32]> {
    let mut signers: Vec<_> = signatures.iter().map(|(signer, _)| *signer).collect();
    signers.dedup();
    signers
}

fn require_majority(signers: &[[u8; 32]], authorities: usize) -> Result<(), DocError> {
    let (have, need) = (signers.len(), majority(authorities));
    if have < need {
        return Err(DocError::TooFewSignatures { have, need });
    }
    Ok(())
}

/// Who of those that signed did so with a key that was good at `valid_after`; more than half of the authorities must
/// have. An expired key's signature neither counts nor harms (6.1.10).
pub(in crate::dir) fn good_at(
    verified: &[([u8; 32], AuthoritySignature)],
    valid_after: UnixSecs,
    authorities: usize,
) -> Result<Vec<[u8; 32]>, DocError> {
    let good = |(_, signature): &&([u8; 32], AuthoritySignature)| signature.is_good_at(valid_after);
    let good: Vec<_> = verified.iter().filter(good).copied().collect();
    let signers = signers(&good);
    require_majority(&signers, authorities)?;
    Ok(signers)
}

fn take<'a>(rest: &mut &'a [u8], n: usize) -> Result<&'a [u8], DocError> {
    let (head, tail) = rest.split_at_checked(n).ok_or(DocError::Truncated)?;
    *rest = tail;
    Ok(head)
}

/// Reads the list of signatures; those of unknown algorithms are passed over (6.1.5).
fn parse_signatures(
    rest: &mut &[u8],
    kind: Kind,
) -> Result<Vec<([u8; 32], AuthoritySignature)>, DocError> {
    let count = usize::from(take(rest, 1)?[0]);
    if count > MAX_SIGNATURES {
        return Err(DocError::SignatureList);
    }
    let mut known = Vec::new();
    let mut last: Option<([u8; 32], u8)> = None;
    for _ in 0..count {
        let head = take(rest, 35)?;
        let mut signer = [0; 32];
        signer.copy_from_slice(&head[..32]);
        let algorithm = head[32];
        let length = usize::from(u16::from_be_bytes([head[33], head[34]]));
        if last >= Some((signer, algorithm)) || length > MAX_SIGNATURE_BYTES {
            return Err(DocError::SignatureList);
        }
        last = Some((signer, algorithm));
        let bytes = take(rest, length)?;
        if let Some(signature) = AuthoritySignature::from_blob(kind, algorithm, bytes)? {
            known.push((signer, signature));
        }
    }
    Ok(known)
}

/// Puts a document together; `signatures` come in any order, one to a signer.
pub(in crate::dir) fn assemble<S: Into<AuthoritySignature> + Copy>(
    kind: Kind,
    body: &[u8],
    signatures: &[([u8; 32], S)],
) -> Result<Vec<u8>, DocError> {
    let too_large = DocError::TooLarge {
        size: body.len(),
        cap: u32::MAX as usize,
    };
    let length = u32::try_from(body.len()).map_err(|_| too_large)?;
    let mut sorted: Vec<_> = signatures.to_vec();
    sorted.sort_by_key(|(signer, _)| *signer);
    sorted.dedup_by_key(|(signer, _)| *signer);
    let count = u8::try_from(sorted.len()).map_err(|_| DocError::SignatureList)?;
    let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len() + 1 + 99 * sorted.len());
    bytes.extend_from_slice(&[kind as u8, VERSION]);
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(body);
    bytes.push(count);
    for (signer, signature) in &sorted {
        let (algorithm, blob) = (*signature).into().to_blob();
        let length = u16::try_from(blob.len()).map_err(|_| DocError::SignatureList)?;
        bytes.extend_from_slice(signer);
        bytes.push(algorithm);
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(&blob);
    }
    Ok(bytes)
}

/// The list of signatures of a well-formed document, as it stands there.
pub(in crate::dir) fn tail(bytes: &[u8]) -> Result<&[u8], DocError> {
    let mut rest = bytes;
    let header = take(&mut rest, HEADER_BYTES)?;
    let length = u32::from_be_bytes([header[2], header[3], header[4], header[5]]);
    take(&mut rest, usize::try_from(length).unwrap_or(usize::MAX))?;
    Ok(rest)
}

/// Puts a document together of a body and a list of signatures that stood in another.
pub(in crate::dir) fn wrap(kind: Kind, body: &[u8], tail: &[u8]) -> Result<Vec<u8>, DocError> {
    let mut bytes = assemble::<AuthoritySignature>(kind, body, &[])?;
    // The empty list of signatures.
    bytes.pop();
    bytes.extend_from_slice(tail);
    Ok(bytes)
}

/// Puts a document with one signature together.
pub(in crate::dir) fn sign_single(
    kind: Kind,
    network: &NetworkId,
    body: &[u8],
    signer: &impl AsSigner,
) -> Result<Vec<u8>, DocError> {
    let signer = signer.as_signer();
    let signature = signer.sign(kind, network, body);
    assemble(kind, body, &[(signer.authority(), signature)])
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NETWORK: NetworkId = NetworkId([7; 32]);

    fn key(n: u8) -> SigningKey {
        SigningKey::from_bytes(&[n; 32])
    }

    fn document() -> Vec<u8> {
        sign_single(Kind::Vote, &NETWORK, b"body", &key(1)).unwrap()
    }

    fn parse(bytes: &[u8]) -> Result<Envelope<'_>, DocError> {
        Envelope::parse(bytes, Kind::Vote, 1000)
    }

    #[test]
    fn layout_is_exact() {
        let bytes = document();
        assert_eq!(&bytes[..6], &[3, 1, 0, 0, 0, 4]);
        assert_eq!(&bytes[6..11], b"body\x01");
        assert_eq!(&bytes[43..46], &[1, 0, 64]);
        assert_eq!(bytes.len(), 6 + 4 + 1 + 99);
        let envelope = parse(&bytes).unwrap();
        assert_eq!(
            envelope.verify_single(&NETWORK),
            Ok(key(1).verifying_key().to_bytes())
        );
    }

    #[test]
    fn every_refusal_of_the_envelope() {
        let good = document();
        let edit = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            parse(&bytes).map(drop)
        };
        assert_eq!(
            edit(0, 4),
            Err(DocError::WrongKind {
                expected: 3,
                found: 4
            })
        );
        assert_eq!(edit(1, 2), Err(DocError::UnknownVersion(2)));
        assert_eq!(edit(2, 255), Err(DocError::Truncated));
        assert_eq!(edit(10, 255), Err(DocError::SignatureList));
        assert_eq!(edit(10, 2), Err(DocError::Truncated));
        assert_eq!(edit(10, 0), Err(DocError::Trailing));
        assert_eq!(edit(45, 65), Err(DocError::Truncated));
        assert_eq!(edit(44, 255), Err(DocError::SignatureList));
        let mut long = good.clone();
        long.push(0);
        assert_eq!(parse(&long).map(drop), Err(DocError::Trailing));
        let capped = Envelope::parse(&good, Kind::Vote, 10).map(drop);
        assert_eq!(
            capped,
            Err(DocError::TooLarge {
                size: good.len(),
                cap: 10
            })
        );
        for end in 0..good.len() {
            assert_eq!(parse(&good[..end]).map(drop), Err(DocError::Truncated));
        }
    }

    #[test]
    fn signatures_of_unknown_algorithms_are_passed_over() {
        let mut bytes = document();
        bytes[10] = 2;
        let signer: [u8; 32] = bytes[11..43].try_into().unwrap();
        bytes.extend_from_slice(&signer);
        bytes.extend_from_slice(&[3, 0, 3, 9, 9, 9]);
        let envelope = parse(&bytes).unwrap();
        assert!(envelope.verify_single(&NETWORK).is_ok());
        let only_unknown = [&bytes[..10], &[1], &signer, &[3, 0, 0]].concat();
        let envelope = parse(&only_unknown).unwrap();
        let none = DocError::TooFewSignatures { have: 0, need: 1 };
        assert_eq!(envelope.verify_single(&NETWORK), Err(none));
    }

    #[test]
    fn a_majority_is_strict_and_strangers_neither_count_nor_harm() {
        let keys: Vec<_> = (1..=4).map(|n| key(n).verifying_key().to_bytes()).collect();
        let signed_by = |signers: &[u8]| {
            let signatures: Vec<_> = signers
                .iter()
                .map(|n| {
                    let signature = Signature::sign(&key(*n), Kind::Vote, &NETWORK, b"body");
                    (key(*n).verifying_key().to_bytes(), signature)
                })
                .collect();
            let bytes = assemble(Kind::Vote, b"body", &signatures).unwrap();
            let verified = parse(&bytes).unwrap().verify_majority(&NETWORK, &keys);
            verified.map(drop)
        };
        assert_eq!(signed_by(&[3, 1, 2]), Ok(()));
        assert_eq!(
            signed_by(&[1, 2]),
            Err(DocError::TooFewSignatures { have: 2, need: 3 })
        );
        let doubled = DocError::TooFewSignatures { have: 2, need: 3 };
        assert_eq!(signed_by(&[1, 2, 2]), Err(doubled));
        let stranger = DocError::TooFewSignatures { have: 2, need: 3 };
        assert_eq!(signed_by(&[1, 2, 9, 10]), Err(stranger));
        assert_eq!(signed_by(&[1, 2, 3, 9]), Ok(()));
    }

    #[test]
    fn repeated_and_unordered_signers_are_refused() {
        let one = document();
        let twice = [&one[..10], &[2], &one[11..], &one[11..]].concat();
        assert_eq!(parse(&twice).map(drop), Err(DocError::SignatureList));
    }

    #[test]
    fn a_signature_is_bound_to_kind_network_and_signer() {
        let signature = Signature::sign(&key(1), Kind::Vote, &NETWORK, b"body");
        let signer = key(1).verifying_key().to_bytes();
        let bad = Err(DocError::BadSignature);
        assert_eq!(
            signature.verify(&signer, Kind::Vote, &NETWORK, b"body"),
            Ok(())
        );
        assert_eq!(
            signature.verify(&signer, Kind::Consensus, &NETWORK, b"body"),
            bad
        );
        assert_eq!(
            signature.verify(&signer, Kind::Vote, &NetworkId([8; 32]), b"body"),
            bad
        );
        assert_eq!(
            signature.verify(&signer, Kind::Vote, &NETWORK, b"bodz"),
            bad
        );
        let other = key(2).verifying_key().to_bytes();
        assert_eq!(signature.verify(&other, Kind::Vote, &NETWORK, b"body"), bad);
        assert_eq!(
            signature.verify(&[0; 32], Kind::Vote, &NETWORK, b"body"),
            bad
        );
    }

    #[test]
    fn overlong_numbers_and_trailing_bytes_are_refused() {
        assert_eq!(decode::<u32>(&[5]), Ok(5));
        assert_eq!(decode::<u32>(&[0x85, 0x00]), Err(DocError::NotCanonical));
        assert_eq!(decode::<u32>(&[5, 0]), Err(DocError::Trailing));
        assert_eq!(decode::<u32>(&[]), Err(DocError::Malformed));
    }

    proptest! {
        #[test]
        fn any_change_is_noticed(at in 0usize..110, bit in 0u8..8) {
            let mut bytes = document();
            bytes[at] ^= 1 << bit;
            let verified = parse(&bytes).and_then(|envelope| envelope.verify_single(&NETWORK));
            prop_assert!(verified.is_err());
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
            let mut framed = vec![3, 1, 0, 0, 0, 0];
            framed.extend_from_slice(&bytes);
            let _ = parse(&framed);
        }
    }
}
