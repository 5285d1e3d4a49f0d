//! One direction of one layer: the suite's two algorithms, the counter and the ratchet.
//!
//! Work on a cell has three steps, so that a client can open several layers before it moves any counter: `stream` and
//! `seal` or `open` use the present counter; `advance` moves it.

use aes::Aes256Enc;
use aes::cipher::{Block, BlockCipherEncrypt};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, UnboundKey};
use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit, StreamCipher};
use chacha20poly1305::ChaCha20Poly1305;
use chacha20poly1305::aead::inout::InOutBuf;
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use hkdf::Hkdf;
use sha2::Sha256;

use super::error::LayerBroken;
use super::keys::{DirectionKeys, EndKeys};
use super::suite::Suite;
use crate::cell::{HEADER_LEN, SLOT_LEN};
use crate::secret::Secret;

/// Number of cells between two ratchets (docs/protocol.md, 4.5).
pub(crate) const RATCHET_CELLS: u64 = 1 << 16;
/// The `info` of the ratchet's HKDF-Expand.
const RATCHET_LABEL: &[u8] = b"cepa ratchet";

/// One slot: a tag or a marker.
pub(crate) type Slot = [u8; SLOT_LEN];
/// The header stream of one cell (Z in docs/protocol.md).
pub(crate) type Stream = [u8; HEADER_LEN];

/// The nonce of the AEAD and of the ChaCha header stream: four zero bytes and the counter (protocol.md 4.3).
fn nonce(counter: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_be_bytes());
    nonce
}

/// A suite's AEAD under one key.
enum Aead {
    ChaCha(ChaCha20Poly1305),
    // The AES key is boxed: its key schedule is large, and a circuit of the other suite should not take that much
    // memory.
    Aes(Box<LessSafeKey>),
}

impl Aead {
    fn new(suite: Suite, key: &Secret<32>) -> Result<Self, LayerBroken> {
        match suite {
            Suite::ChaCha20Poly1305 => Ok(Self::ChaCha(ChaCha20Poly1305::new(key.expose().into()))),
            Suite::Aes256Gcm => {
                let key = UnboundKey::new(&AES_256_GCM, key.expose()).map_err(|_| LayerBroken)?;
                Ok(Self::Aes(Box::new(LessSafeKey::new(key))))
            }
        }
    }

    fn seal(&self, counter: u64, ad: &[u8], payload: &mut [u8]) -> Result<Slot, LayerBroken> {
        match self {
            Self::ChaCha(aead) => aead
                .encrypt_inout_detached(&nonce(counter).into(), ad, InOutBuf::from(payload))
                .map(Into::into)
                .map_err(|_| LayerBroken),
            Self::Aes(aead) => {
                let nonce = aws_lc_rs::aead::Nonce::assume_unique_for_key(nonce(counter));
                let tag = aead
                    .seal_in_place_separate_tag(nonce, Aad::from(ad), payload)
                    .map_err(|_| LayerBroken)?;
                tag.as_ref().try_into().map_err(|_| LayerBroken)
            }
        }
    }

    fn open(
        &self,
        counter: u64,
        tag: &Slot,
        ad: &[u8],
        payload: &mut [u8],
    ) -> Result<(), LayerBroken> {
        match self {
            Self::ChaCha(aead) => aead
                .decrypt_inout_detached(
                    &nonce(counter).into(),
                    ad,
                    InOutBuf::from(payload),
                    tag.into(),
                )
                .map_err(|_| LayerBroken),
            Self::Aes(aead) => {
                let nonce = aws_lc_rs::aead::Nonce::assume_unique_for_key(nonce(counter));
                aead.open_in_place_separate_tag(nonce, Aad::from(ad), tag, payload)
                    .map(|_| ())
                    .map_err(|_| LayerBroken)
            }
        }
    }
}

/// A suite's header stream under one key.
enum HeaderStream {
    ChaCha(Secret<32>),
    Aes(Box<Aes256Enc>),
}

impl HeaderStream {
    fn new(suite: Suite, key: Secret<32>) -> Self {
        match suite {
            Suite::ChaCha20Poly1305 => Self::ChaCha(key),
            Suite::Aes256Gcm => Self::Aes(Box::new(Aes256Enc::new(key.expose().into()))),
        }
    }

    /// The first 112 bytes of the header stream for the cell with this counter (protocol.md 4.4).
    fn stream(&self, counter: u64) -> Stream {
        let mut stream = [0; HEADER_LEN];
        match self {
            Self::ChaCha(key) => {
                ChaCha20::new(key.expose().into(), &nonce(counter).into())
                    .write_keystream(&mut stream);
            }
            Self::Aes(key) => {
                // Counter mode is written out here, so that the expanded key can be kept. Eight blocks go through the
                // processor's pipeline together, where seven would go one by one; the eighth is not used.
                let mut blocks = [Block::<Aes256Enc>::default(); 8];
                for (number, block) in (0u64..).zip(&mut blocks) {
                    block[..8].copy_from_slice(&counter.to_be_bytes());
                    block[8..].copy_from_slice(&number.to_be_bytes());
                }
                key.encrypt_blocks(&mut blocks);
                for (slot, block) in stream.chunks_exact_mut(SLOT_LEN).zip(&blocks) {
                    slot.copy_from_slice(block);
                }
            }
        }
        stream
    }
}

/// Computes HKDF-Expand(chain, "cepa ratchet", 32 * N bytes) and cuts the result into `N` secrets (protocol.md 4.5).
fn ratchet<const N: usize>(chain: &Secret<32>) -> Result<[Secret<32>; N], LayerBroken> {
    let mut wide = Secret::<96>::zeroed();
    let expander = Hkdf::<Sha256>::from_prk(chain.expose()).map_err(|_| LayerBroken)?;
    expander
        .expand(RATCHET_LABEL, &mut wide.expose_mut()[..32 * N])
        .map_err(|_| LayerBroken)?;
    let mut parts: [Secret<32>; N] = core::array::from_fn(|_| Secret::zeroed());
    for (part, bytes) in parts.iter_mut().zip(wide.expose().chunks_exact(32)) {
        part.expose_mut().copy_from_slice(bytes);
    }
    Ok(parts)
}

/// One direction of one hop's layer. The type is neither `Clone` nor `Debug`, and one task owns it.
pub(crate) struct Direction {
    suite: Suite,
    aead: Aead,
    header: HeaderStream,
    chain: Secret<32>,
    counter: u64,
}

impl Direction {
    /// A direction whose first cell is still to come.
    pub(crate) fn new(suite: Suite, keys: DirectionKeys) -> Result<Self, LayerBroken> {
        Self::starting_at(suite, keys, 0)
    }

    /// A direction whose next cell has the number `counter`. `keys` are those of the ratchet period that `counter` is
    /// in.
    pub(crate) fn starting_at(
        suite: Suite,
        keys: DirectionKeys,
        counter: u64,
    ) -> Result<Self, LayerBroken> {
        Ok(Self {
            suite,
            aead: Aead::new(suite, &keys.aead)?,
            header: HeaderStream::new(suite, keys.header),
            chain: keys.chain,
            counter,
        })
    }

    /// The header stream of the present cell.
    pub(crate) fn stream(&self) -> Stream {
        self.header.stream(self.counter)
    }

    /// Seals the present cell's payload in place.
    pub(crate) fn seal(&self, ad: &[u8], payload: &mut [u8]) -> Result<Slot, LayerBroken> {
        self.aead.seal(self.counter, ad, payload)
    }

    /// Opens the present cell's payload in place. After a failure the content of `payload` is undefined.
    pub(crate) fn open(
        &self,
        tag: &Slot,
        ad: &[u8],
        payload: &mut [u8],
    ) -> Result<(), LayerBroken> {
        self.aead.open(self.counter, tag, ad, payload)
    }

    /// Counts the present cell, and replaces the keys after each 2^16 cells (protocol.md 4.5).
    pub(crate) fn advance(&mut self) -> Result<(), LayerBroken> {
        self.counter = self.counter.checked_add(1).ok_or(LayerBroken)?;
        if self.counter.is_multiple_of(RATCHET_CELLS) {
            let [aead, header, chain] = ratchet(&self.chain)?;
            self.aead = Aead::new(self.suite, &aead)?;
            self.header = HeaderStream::new(self.suite, header);
            self.chain = chain;
        }
        Ok(())
    }
}

/// One direction between the two ends of a splice. A splice has an AEAD and no header stream (protocol.md 4.18).
pub(crate) struct EndDirection {
    suite: Suite,
    aead: Aead,
    chain: Secret<32>,
    counter: u64,
}

impl EndDirection {
    pub(crate) fn starting_at(
        suite: Suite,
        keys: EndKeys,
        counter: u64,
    ) -> Result<Self, LayerBroken> {
        let aead = Aead::new(suite, &keys.aead)?;
        Ok(Self {
            suite,
            aead,
            chain: keys.chain,
            counter,
        })
    }

    pub(crate) fn seal(&mut self, payload: &mut [u8]) -> Result<Slot, LayerBroken> {
        let tag = self.aead.seal(self.counter, &[], payload)?;
        self.advance()?;
        Ok(tag)
    }

    pub(crate) fn open(&mut self, tag: &Slot, payload: &mut [u8]) -> Result<(), LayerBroken> {
        self.aead.open(self.counter, tag, &[], payload)?;
        self.advance()
    }

    fn advance(&mut self) -> Result<(), LayerBroken> {
        self.counter = self.counter.checked_add(1).ok_or(LayerBroken)?;
        if self.counter.is_multiple_of(RATCHET_CELLS) {
            let [aead, chain] = ratchet(&self.chain)?;
            self.aead = Aead::new(self.suite, &aead)?;
            self.chain = chain;
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use aws_lc_rs::aead::{CHACHA20_POLY1305, Nonce};
    use ctr::Ctr128BE;

    use super::super::HopKeys;
    use super::super::tests::{keys, said};
    use super::*;

    #[test]
    fn the_last_counter_ends_the_layer() {
        let HopKeys { forward, .. } = keys(1);
        let mut direction =
            Direction::starting_at(Suite::Aes256Gcm, forward, u64::MAX - 1).unwrap();
        assert!(direction.advance().is_ok());
        assert_eq!(direction.advance(), Err(LayerBroken));
    }

    /// Compares the AEAD that layers use with a second implementation, over every alignment of lengths.
    #[test]
    fn chacha20_poly1305_is_what_another_library_makes_of_it() {
        let DirectionKeys {
            aead,
            header,
            chain,
        } = keys(5).forward;
        let key = UnboundKey::new(&CHACHA20_POLY1305, aead.expose()).unwrap();
        let key = LessSafeKey::new(key);
        let mut direction = Direction::new(
            Suite::ChaCha20Poly1305,
            DirectionKeys {
                aead,
                header,
                chain,
            },
        )
        .unwrap();
        for length in (0..=130).chain([1927, 1928]) {
            let (mut ours, mut theirs) = (said(9)[..length].to_vec(), said(9)[..length].to_vec());
            let ad = &said(8)[..length.min(96)];
            let nonce = || {
                let mut nonce = [0; 12];
                nonce[4..].copy_from_slice(&(direction.counter).to_be_bytes());
                Nonce::assume_unique_for_key(nonce)
            };
            let tag = direction.seal(ad, &mut ours).unwrap();
            let other = key
                .seal_in_place_separate_tag(nonce(), Aad::from(ad), &mut theirs)
                .unwrap();
            assert_eq!(
                (&ours, &tag[..]),
                (&theirs, other.as_ref()),
                "length {length}"
            );
            key.open_in_place_separate_tag(nonce(), Aad::from(ad), &tag, &mut ours)
                .unwrap();
            direction.open(&tag, ad, &mut theirs).unwrap();
            assert_eq!(ours, theirs);
            direction.advance().unwrap();
        }
    }

    /// Compares the counter mode that is written out here with that of the crate `ctr`.
    #[test]
    fn the_aes_header_stream_is_counter_mode() {
        for counter in [0, 1, 65_535, 1 << 40, u64::MAX - 1] {
            let DirectionKeys {
                aead,
                header,
                chain,
            } = keys(5).forward;
            let key = *header.expose();
            let keys = DirectionKeys {
                aead,
                header,
                chain,
            };
            let direction = Direction::starting_at(Suite::Aes256Gcm, keys, counter).unwrap();
            let mut start = [0; 16];
            start[..8].copy_from_slice(&counter.to_be_bytes());
            let mut expected = [0; HEADER_LEN];
            Ctr128BE::<aes::Aes256>::new(&key.into(), &start.into()).apply_keystream(&mut expected);
            assert_eq!(direction.stream(), expected);
        }
    }
}
