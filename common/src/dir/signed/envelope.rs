//! The envelope of every signed document: kind, version, body, signatures (docs/protocol.md, 6.1 and 6.2).

use super::digest::{Digest, Kind, digest};
use super::error::DocError;
use super::signer::{AsSigner, AuthoritySignature};
use super::time::UnixSecs;
use crate::ids::NetworkId;

/// Length of what stands before the body, in bytes: kind, version and the length of the body.
const HEADER_BYTES: usize = 6;
/// The most signatures of a document: twice as many as there are authorities, so that each can sign with two
/// algorithms.
const MAX_SIGNATURES: usize = 64;
/// Length of the longest signature of any algorithm, in bytes, with room for those that resist quantum computers.
const MAX_SIGNATURE_BYTES: usize = 8 * 1024;

/// A document that is taken apart. Nothing is verified, and the body is not decoded yet.
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
        if header[1] != kind.version() {
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

    /// Checks that more than half of `keys` signed; other signatures are not looked at (6.9.4). Returns who signed, for
    /// [`good_at`] once the body's time is known.
    pub(in crate::dir) fn verify_majority(
        &self,
        network: &NetworkId,
        keys: &[[u8; 32]],
    ) -> Result<Vec<([u8; 32], AuthoritySignature)>, DocError> {
        let known = |(signer, _): &&([u8; 32], AuthoritySignature)| keys.contains(signer);
        let known: Vec<_> = self.signatures.iter().filter(known).copied().collect();
        // Signatures are counted first: too few of them are not worth the verification.
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

/// The least number that is more than half of `n`.
pub(in crate::dir) fn majority(n: usize) -> usize {
    n / 2 + 1
}

/// The distinct signers of a list that is in order.
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

/// The signers whose key was good at `valid_after`. The signers must be more than half of the authorities. An expired
/// key's signature neither counts nor harms (6.1.10).
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

/// Assembles a document. `signatures` come in any order, one for each signer.
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
    bytes.extend_from_slice(&[kind as u8, kind.version()]);
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

/// The list of signatures of a well-formed document, as the document has it.
pub(in crate::dir) fn tail(bytes: &[u8]) -> Result<&[u8], DocError> {
    let mut rest = bytes;
    let header = take(&mut rest, HEADER_BYTES)?;
    let length = u32::from_be_bytes([header[2], header[3], header[4], header[5]]);
    take(&mut rest, usize::try_from(length).unwrap_or(usize::MAX))?;
    Ok(rest)
}

/// Assembles a document from a body and a list of signatures that stood in another document.
pub(in crate::dir) fn wrap(kind: Kind, body: &[u8], tail: &[u8]) -> Result<Vec<u8>, DocError> {
    let mut bytes = assemble::<AuthoritySignature>(kind, body, &[])?;
    // This removes the empty list of signatures.
    bytes.pop();
    bytes.extend_from_slice(tail);
    Ok(bytes)
}

/// Assembles a document with one signature.
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
#[path = "envelope_tests.rs"]
mod tests;
