//! The one table of labels and key splits (protocol.md 3.4 and 3.5).

use chacha20poly1305::ChaCha20Poly1305;
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::hybrid::HandshakeContext;
use super::params::PARAMS_LEN;
use crate::onion::{DirectionKeys, HopKeys};
use crate::secret::Secret;

/// Length of sealed parameters.
pub(super) const SEALED_LEN: usize = PARAMS_LEN + 16;
const PROTOCOL: &[u8] = b"cepa-circ-1";

pub(super) type Digest32 = [u8; 32];

fn sha256(parts: &[&[u8]]) -> Digest32 {
    let mut hash = Sha256::new();
    parts.iter().for_each(|part| hash.update(part));
    hash.finalize().into()
}

/// A sealed message with its length in front, as transcripts take it.
fn with_len(sealed: &[u8; SEALED_LEN]) -> [u8; SEALED_LEN + 2] {
    let mut out = [0; SEALED_LEN + 2];
    out[..2].copy_from_slice(&(SEALED_LEN as u16).to_be_bytes());
    out[2..].copy_from_slice(sealed);
    out
}

/// `T1 = SHA-256(ctx || X || ek)`.
pub(super) fn t1(context: &HandshakeContext, x: &[u8; 32], ek: &[u8]) -> Digest32 {
    let suite = [context.onion.suite.code()];
    let ctx: [&[u8]; 5] = [
        PROTOCOL,
        &suite,
        &context.network.0,
        &context.relay.0,
        &context.onion.key,
    ];
    sha256(&[ctx[0], ctx[1], ctx[2], ctx[3], ctx[4], x, ek])
}

/// `T2 = SHA-256(T1 || len(C1) || C1 || Y || ct)`.
pub(super) fn t2(t1: &Digest32, c1: &[u8; SEALED_LEN], y: &[u8; 32], ct: &[u8]) -> Digest32 {
    sha256(&[t1, &with_len(c1), y, ct])
}

fn expand<const N: usize>(hkdf: &Hkdf<Sha256>, label: &[u8], transcript: &Digest32) -> Secret<N> {
    let mut out = Secret::zeroed();
    let expanded = hkdf.expand_multi_info(&[label, transcript], out.expose_mut());
    assert!(expanded.is_ok(), "HKDF-Expand gives up to 8,160 bytes");
    out
}

/// `k1`, which seals the client's parameters.
pub(super) fn k1(xb: &[u8; 32], t1: &Digest32) -> Secret<32> {
    expand(&Hkdf::new(Some(PROTOCOL), xb), b"client", t1)
}

/// What the handshake's secrets yield.
pub(super) struct Schedule {
    pub(super) k2: Secret<32>,
    pub(super) ka: Secret<32>,
    pub(super) keys: HopKeys,
}

/// `PRK = HKDF-Extract("cepa-circ-1", X·y || X·b || K)`, and its expansions.
pub(super) fn schedule(xy: &[u8; 32], xb: &[u8; 32], k: &[u8; 32], t2: &Digest32) -> Schedule {
    let mut ikm = Secret::<96>::zeroed();
    for (slot, part) in ikm.expose_mut().chunks_exact_mut(32).zip([xy, xb, k]) {
        slot.copy_from_slice(part);
    }
    let hkdf = Hkdf::new(Some(PROTOCOL), ikm.expose());
    Schedule {
        k2: expand(&hkdf, b"k2", t2),
        ka: expand(&hkdf, b"ka", t2),
        keys: HopKeys {
            forward: DirectionKeys::split(&expand(&hkdf, b"forward", t2)),
            backward: DirectionKeys::split(&expand(&hkdf, b"backward", t2)),
        },
    }
}

/// `seal` of the handshake: ChaCha20-Poly1305, nonce 0.
pub(super) fn seal(
    key: &Secret<32>,
    transcript: &Digest32,
    params: [u8; PARAMS_LEN],
) -> [u8; SEALED_LEN] {
    let mut out = [0; SEALED_LEN];
    out[..PARAMS_LEN].copy_from_slice(&params);
    let aead = ChaCha20Poly1305::new(key.expose().into());
    let (text, tag_slot) = out.split_at_mut(PARAMS_LEN);
    match aead.encrypt_inout_detached(&[0; 12].into(), transcript, text.into()) {
        Ok(tag) => tag_slot.copy_from_slice(&tag),
        Err(_) => unreachable!("16 bytes are far below the cipher's limit"),
    }
    out
}

/// Opens what [`seal`] sealed.
pub(super) fn open(
    key: &Secret<32>,
    transcript: &Digest32,
    sealed: &[u8; SEALED_LEN],
) -> Option<[u8; PARAMS_LEN]> {
    let (text, tag) = sealed.split_first_chunk::<PARAMS_LEN>()?;
    let tag: [u8; 16] = tag.try_into().ok()?;
    let mut text = *text;
    let aead = ChaCha20Poly1305::new(key.expose().into());
    let buffer = (&mut text[..]).into();
    aead.decrypt_inout_detached(&[0; 12].into(), transcript, buffer, &tag.into())
        .ok()?;
    Some(text)
}

fn mac(ka: &Secret<32>, t2: &Digest32, c2: &[u8; SEALED_LEN]) -> Digest32 {
    let mut mac = match Hmac::<Sha256>::new_from_slice(ka.expose()) {
        Ok(mac) => mac,
        Err(_) => unreachable!("HMAC takes keys of any length"),
    };
    mac.update(t2);
    mac.update(&with_len(c2));
    mac.finalize().into_bytes().into()
}

/// `AUTH = HMAC-SHA-256(ka, T2 || len(C2) || C2)`.
pub(super) fn auth(ka: &Secret<32>, t2: &Digest32, c2: &[u8; SEALED_LEN]) -> Digest32 {
    mac(ka, t2, c2)
}

/// Compares AUTH in constant time.
pub(super) fn auth_fits(
    ka: &Secret<32>,
    t2: &Digest32,
    c2: &[u8; SEALED_LEN],
    claimed: &Digest32,
) -> bool {
    mac(ka, t2, c2).ct_eq(claimed).into()
}
