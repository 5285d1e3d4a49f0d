//! One direction at one hop: the AEAD, the header stream, the counter, the ratchet.

use aes::Aes256;
use aes::cipher::{BlockCipherEncrypt, KeyInit};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit, StreamCipher};
use chacha20poly1305::ChaCha20Poly1305;
use chacha20poly1305::aead::AeadInOut;

use super::keys::DirectionKeys;
use super::suite::Suite;
use crate::cell::{HEADER_LEN, SLOT_LEN};
use crate::secret::Secret;

/// Length of the associated data: the header behind its first slot.
pub(super) const REST_LEN: usize = HEADER_LEN - SLOT_LEN;
/// Secrets are replaced after so many cells.
pub(super) const RATCHET_CELLS: u64 = 1 << 16;

pub(super) type Tag = [u8; SLOT_LEN];
pub(super) type HeaderStream = [u8; HEADER_LEN];

/// A layer that has failed to open a cell, or one that failed before. There is
/// one reason only (S12).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a cell did not open")]
pub struct LayerBroken;

/// The AEAD and the header stream under their keys.
enum Keyed {
    Chacha {
        aead: Box<ChaCha20Poly1305>,
        header: Secret<32>,
    },
    Aes {
        aead: Box<LessSafeKey>,
        header: Box<Aes256>,
    },
}

impl Keyed {
    fn new(suite: Suite, keys: &DirectionKeys) -> Self {
        match suite {
            Suite::ChaCha20Poly1305 => Self::Chacha {
                aead: Box::new(ChaCha20Poly1305::new(keys.aead.expose().into())),
                header: Secret::new(*keys.header.expose()),
            },
            Suite::Aes256Gcm => {
                let Ok(key) = UnboundKey::new(&AES_256_GCM, keys.aead.expose()) else {
                    unreachable!("AES-256-GCM takes every key of 32 bytes")
                };
                Self::Aes {
                    aead: Box::new(LessSafeKey::new(key)),
                    header: Box::new(Aes256::new(keys.header.expose().into())),
                }
            }
        }
    }
}

/// Secrets and position of one direction at one hop.
pub(super) struct Layer {
    suite: Suite,
    keyed: Keyed,
    chain: Secret<32>,
    counter: u64,
}

fn nonce(counter: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_be_bytes());
    nonce
}

impl Layer {
    pub(super) fn new(suite: Suite, keys: DirectionKeys) -> Self {
        Self {
            suite,
            keyed: Keyed::new(suite, &keys),
            chain: keys.chain,
            counter: 0,
        }
    }

    /// The header stream Z of the current cell (protocol.md 4.2).
    pub(super) fn header_stream(&self) -> HeaderStream {
        let mut stream = [0; HEADER_LEN];
        match &self.keyed {
            Keyed::Chacha { header, .. } => {
                let nonce = nonce(self.counter);
                ChaCha20::new(header.expose().into(), &nonce.into()).apply_keystream(&mut stream);
            }
            Keyed::Aes { header, .. } => {
                let (blocks, _) = stream.as_chunks_mut::<16>();
                for (index, block) in (0u64..).zip(blocks.iter_mut()) {
                    block[..8].copy_from_slice(&self.counter.to_be_bytes());
                    block[8..].copy_from_slice(&index.to_be_bytes());
                }
                let mut wide: [aes::Block; HEADER_LEN / 16] =
                    core::array::from_fn(|i| blocks[i].into());
                header.encrypt_blocks(&mut wide);
                for (block, out) in blocks.iter_mut().zip(wide) {
                    *block = out.into();
                }
            }
        }
        stream
    }

    /// Seals `payload` in place for the current cell.
    pub(super) fn seal(&self, rest: &[u8], payload: &mut [u8]) -> Tag {
        let nonce = nonce(self.counter);
        match &self.keyed {
            Keyed::Chacha { aead, .. } => {
                match aead.encrypt_inout_detached(&nonce.into(), rest, payload.into()) {
                    Ok(tag) => tag.into(),
                    Err(_) => unreachable!("a payload is far below the cipher's limit"),
                }
            }
            Keyed::Aes { aead, .. } => {
                let nonce = Nonce::assume_unique_for_key(nonce);
                let tag = aead
                    .seal_in_place_separate_tag(nonce, Aad::from(rest), payload)
                    .ok()
                    .and_then(|tag| tag.as_ref().try_into().ok());
                match tag {
                    Some(tag) => tag,
                    None => unreachable!("a payload is far below the cipher's limit"),
                }
            }
        }
    }

    /// Opens `payload` in place as the current cell. On failure it is garbage.
    pub(super) fn open(
        &self,
        tag: &Tag,
        rest: &[u8],
        payload: &mut [u8],
    ) -> Result<(), LayerBroken> {
        let nonce = nonce(self.counter);
        match &self.keyed {
            Keyed::Chacha { aead, .. } => aead
                .decrypt_inout_detached(&nonce.into(), rest, payload.into(), &(*tag).into())
                .map_err(|_| LayerBroken),
            Keyed::Aes { aead, .. } => {
                let nonce = Nonce::assume_unique_for_key(nonce);
                aead.open_in_place_separate_tag(nonce, Aad::from(rest), tag, payload)
                    .map(drop)
                    .map_err(|_| LayerBroken)
            }
        }
    }

    /// Counts the current cell, and replaces the secrets when their time has come.
    pub(super) fn advance(&mut self) {
        // 2^64 cells are 2^75 bytes: no circuit lives that long.
        self.counter += 1;
        if self.counter.is_multiple_of(RATCHET_CELLS) {
            let next = DirectionKeys::ratchet(&self.chain);
            self.keyed = Keyed::new(self.suite, &next);
            self.chain = next.chain;
        }
    }

    #[cfg(test)]
    pub(super) fn counter(&self) -> u64 {
        self.counter
    }
}

/// `a ^= b`, as far as both go.
pub(super) fn xor(a: &mut [u8], b: &[u8]) {
    for (a, b) in a.iter_mut().zip(b) {
        *a ^= b;
    }
}
