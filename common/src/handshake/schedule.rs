//! Transcripts, labels and keys of the handshake (docs/protocol.md, 3.4 to 3.10). Both sides call this file, and it has
//! the only table of labels.

use chacha20poly1305::ChaCha20Poly1305;
use chacha20poly1305::aead::inout::InOutBuf;
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

use super::error::HandshakeError;
use super::keys::OnionPublicKey;
use super::{AUTH_LEN, CT_LEN, EK_LEN, PARAMS_LEN, POINT_LEN, SEALED_LEN};
use crate::ids::{NetworkId, RelayId};
use crate::onion::{DirectionKeys, HopKeys};
use crate::secret::Secret;

/// Name and version of the handshake. This text stands in the context and is the salt of both extractions.
const PROTOCOL: &[u8] = b"cepa-circ-1";

const CLIENT: &[u8] = b"client";
const RELAY_PARAMS: &[u8] = b"relay params";
const RELAY_AUTH: &[u8] = b"relay auth";
const FORWARD: [&[u8]; 3] = [b"forward aead", b"forward header", b"forward chain"];
const BACKWARD: [&[u8]; 3] = [b"backward aead", b"backward header", b"backward chain"];

/// A transcript: SHA-256 of everything that was said so far.
pub(super) type Transcript = [u8; 32];
/// One side's parameters, sealed.
pub(super) type Sealed = [u8; SEALED_LEN];

/// Computes T1 (protocol.md 3.5).
pub(super) fn client_transcript(
    network: &NetworkId,
    relay: &RelayId,
    onion: &OnionPublicKey,
    x: &[u8; POINT_LEN],
    ek: &[u8; EK_LEN],
) -> Transcript {
    let mut hash = Sha256::new();
    hash.update(PROTOCOL);
    hash.update([onion.suite.code()]);
    hash.update(network.0);
    hash.update(relay.0);
    hash.update(onion.key);
    hash.update(x);
    hash.update(ek);
    hash.finalize().into()
}

/// Computes T2 (protocol.md 3.7).
pub(super) fn full_transcript(
    t1: &Transcript,
    c1: &Sealed,
    y: &[u8; POINT_LEN],
    ct: &[u8; CT_LEN],
) -> Transcript {
    let mut hash = Sha256::new();
    hash.update(t1);
    hash.update(length(c1));
    hash.update(c1);
    hash.update(y);
    hash.update(ct);
    hash.finalize().into()
}

fn length(sealed: &Sealed) -> [u8; 2] {
    const { assert!(SEALED_LEN <= u16::MAX as usize) };
    (sealed.len() as u16).to_be_bytes()
}

/// Computes k1, the key of the client's parameters (protocol.md 3.6).
pub(super) fn client_key(
    static_secret: &Secret<32>,
    t1: &Transcript,
) -> Result<Secret<32>, HandshakeError> {
    expand(
        &Hkdf::new(Some(PROTOCOL), static_secret.expose()),
        CLIENT,
        t1,
    )
}

/// All secrets that follow from the full exchange (protocol.md 3.8 and 3.9).
pub(super) struct Schedule {
    params: Secret<32>,
    auth: Secret<32>,
    keys: HopKeys,
}

impl Schedule {
    /// Derives the secrets from X·y (`ephemeral`), X·b (`fixed`) and ML-KEM's secret, in this order.
    pub(super) fn new(
        ephemeral: &Secret<32>,
        fixed: &Secret<32>,
        kem: &Secret<32>,
        t2: &Transcript,
    ) -> Result<Self, HandshakeError> {
        let mut input = Secret::<96>::zeroed();
        for (part, secret) in input
            .expose_mut()
            .chunks_exact_mut(32)
            .zip([ephemeral, fixed, kem])
        {
            part.copy_from_slice(secret.expose());
        }
        let prk = Hkdf::new(Some(PROTOCOL), input.expose());
        Ok(Self {
            params: expand(&prk, RELAY_PARAMS, t2)?,
            auth: expand(&prk, RELAY_AUTH, t2)?,
            keys: HopKeys {
                forward: direction(&prk, FORWARD, t2)?,
                backward: direction(&prk, BACKWARD, t2)?,
            },
        })
    }

    /// Computes C2 and AUTH (protocol.md 3.8).
    pub(super) fn seal_reply(
        &self,
        t2: &Transcript,
        params: &[u8; PARAMS_LEN],
    ) -> Result<(Sealed, [u8; AUTH_LEN]), HandshakeError> {
        let c2 = seal(&self.params, t2, params)?;
        Ok((c2, self.auth(t2, &c2)?))
    }

    /// Checks AUTH in constant time, and opens C2 only if AUTH fits (protocol.md 3.14).
    pub(super) fn open_reply(
        &self,
        t2: &Transcript,
        c2: &Sealed,
        auth: &[u8; AUTH_LEN],
    ) -> Result<[u8; PARAMS_LEN], HandshakeError> {
        let mut expected = self.auth(t2, c2)?;
        let fits: bool = expected.ct_eq(auth).into();
        expected.zeroize();
        if !fits {
            return Err(HandshakeError::BadAuth);
        }
        open(&self.params, t2, c2).ok_or(HandshakeError::BadAuth)
    }

    fn auth(&self, t2: &Transcript, c2: &Sealed) -> Result<[u8; AUTH_LEN], HandshakeError> {
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(self.auth.expose())
            .map_err(|_| HandshakeError::Library)?;
        mac.update(t2);
        mac.update(&length(c2));
        mac.update(c2);
        Ok(mac.finalize().into_bytes().into())
    }

    /// The keys of the layer. All other secrets are erased.
    pub(super) fn into_keys(self) -> HopKeys {
        self.keys
    }
}

/// Computes HKDF-Expand(prk, label || transcript, 32 bytes).
fn expand(
    prk: &Hkdf<Sha256>,
    label: &[u8],
    transcript: &Transcript,
) -> Result<Secret<32>, HandshakeError> {
    let mut out = Secret::zeroed();
    prk.expand_multi_info(&[label, transcript], out.expose_mut())
        .map_err(|_| HandshakeError::Library)?;
    Ok(out)
}

fn direction(
    prk: &Hkdf<Sha256>,
    [aead, header, chain]: [&[u8]; 3],
    t2: &Transcript,
) -> Result<DirectionKeys, HandshakeError> {
    Ok(DirectionKeys {
        aead: expand(prk, aead, t2)?,
        header: expand(prk, header, t2)?,
        chain: expand(prk, chain, t2)?,
    })
}

/// Seals parameters by ChaCha20-Poly1305 with nonce 0, whatever the suite. Each key seals once (protocol.md 3.10).
pub(super) fn seal(
    key: &Secret<32>,
    transcript: &Transcript,
    params: &[u8; PARAMS_LEN],
) -> Result<Sealed, HandshakeError> {
    let mut sealed = [0; SEALED_LEN];
    let (text, room) = sealed.split_at_mut(PARAMS_LEN);
    text.copy_from_slice(params);
    let tag = ChaCha20Poly1305::new(key.expose().into())
        .encrypt_inout_detached(&[0; 12].into(), transcript, InOutBuf::from(text))
        .map_err(|_| HandshakeError::Library)?;
    room.copy_from_slice(&tag);
    Ok(sealed)
}

/// Opens sealed parameters; `None` if the seal does not fit.
pub(super) fn open(
    key: &Secret<32>,
    transcript: &Transcript,
    sealed: &Sealed,
) -> Option<[u8; PARAMS_LEN]> {
    let (text, tag) = sealed.split_first_chunk::<PARAMS_LEN>()?;
    let mut params = *text;
    ChaCha20Poly1305::new(key.expose().into())
        .decrypt_inout_detached(
            &[0; 12].into(),
            transcript,
            InOutBuf::from(&mut params[..]),
            tag.try_into().ok()?,
        )
        .ok()?;
    Some(params)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key schedule hashes secrets, and the states of HMAC and HKDF are states of the hash. What a state has read
    /// must not outlive it. Features of the crates decide this, so a feature that is lost is noticed here: the test
    /// does not compile then.
    #[test]
    fn hashes_erase_what_they_have_read() {
        fn erases<T: zeroize::ZeroizeOnDrop>() -> usize {
            size_of::<T>()
        }
        assert!(erases::<Sha256>() > 0);
    }
}
