//! The client's side of a circuit's layers (protocol.md 4.6 and 4.8).

use rand_core::CryptoRng;

use super::keys::HopKeys;
use super::layer::{HeaderStream, Layer, LayerBroken, REST_LEN, xor};
use super::suite::Suite;
use crate::cell::{Body, HEADER_LEN, MAX_HOPS, SLOT_LEN};
use crate::ids::HopIndex;

/// The circuit has as many hops as the header has slots for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a circuit has {MAX_HOPS} hops at most")]
pub struct TooManyHops;

/// No hop can have spoken the cell: the circuit must be destroyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenFailed {
    /// What `inner` sealed was changed before the hop towards the client,
    /// `outer`, sealed it again. No outer hop: on the way to the client itself.
    #[error("a cell was changed, repeated or lost behind {inner} on its way to the client")]
    Changed {
        /// The hop that received it already changed; `None` is the client.
        outer: Option<HopIndex>,
        /// The hop whose seal does not fit.
        inner: HopIndex,
    },
    /// All layers opened, but no hop owns the cell: the last hop broke the rules.
    #[error("a cell opened at every hop and none has spoken it")]
    NobodySpoke,
    /// The layers failed before, or there is no hop.
    #[error("the circuit's layers can't be used")]
    Unusable,
}

struct ClientHop {
    forward: Layer,
    backward: Layer,
}

/// All layers of a circuit, the first hop's outermost.
#[derive(Default)]
pub struct ClientLayers {
    hops: Vec<ClientHop>,
    broken: bool,
}

impl ClientLayers {
    /// A circuit without hops.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next hop.
    pub fn push(&mut self, suite: Suite, keys: HopKeys) -> Result<HopIndex, TooManyHops> {
        let index = self.hops.len();
        if index >= MAX_HOPS {
            return Err(TooManyHops);
        }
        self.hops.push(ClientHop {
            forward: Layer::new(suite, keys.forward),
            backward: Layer::new(suite, keys.backward),
        });
        Ok(HopIndex(index as u8))
    }

    /// Hops on the circuit.
    pub fn len(&self) -> usize {
        self.hops.len()
    }

    /// Has the circuit no hops?
    pub fn is_empty(&self) -> bool {
        self.hops.is_empty()
    }

    /// Seals the payload in `body` for `hop`, and writes the header.
    pub fn seal(
        &mut self,
        hop: HopIndex,
        body: &mut Body,
        rng: &mut impl CryptoRng,
    ) -> Result<(), LayerBroken> {
        let hops = self
            .hops
            .get_mut(..=usize::from(hop.0))
            .ok_or(LayerBroken)?;
        if self.broken {
            return Err(LayerBroken);
        }
        let (head, payload) = body.split_at_mut(HEADER_LEN);
        let mut streams = [[0; HEADER_LEN]; MAX_HOPS];
        for (stream, hop) in streams.iter_mut().zip(&*hops) {
            *stream = hop.forward.header_stream();
        }
        let streams = &streams[..hops.len()];
        aim(head, streams, rng);
        for (hop, stream) in hops.iter_mut().zip(streams).rev() {
            // rest = (H' ^ Z)[0..96]; H' = tag || rest.
            xor(&mut head[..REST_LEN], stream);
            head.copy_within(..REST_LEN, SLOT_LEN);
            let tag = hop.forward.seal(&head[SLOT_LEN..], payload);
            head[..SLOT_LEN].copy_from_slice(&tag);
            hop.forward.advance();
        }
        Ok(())
    }

    /// Opens a cell's body in place and says which hop spoke it.
    ///
    /// The last hop is tried first. No counter moves until one fits (S3).
    pub fn open(&mut self, body: &mut Body) -> Result<HopIndex, OpenFailed> {
        if self.broken || self.hops.is_empty() {
            return Err(OpenFailed::Unusable);
        }
        let mut streams = [[0; HEADER_LEN]; MAX_HOPS];
        for (stream, hop) in streams.iter_mut().zip(&self.hops) {
            *stream = hop.backward.header_stream();
        }
        let received = *body;
        // How many layers opened in the best attempt.
        let mut deepest = 0;
        for speaker in (0..self.hops.len()).rev() {
            match self.open_from(speaker, &streams, body) {
                Ok(()) => {
                    for hop in &mut self.hops[..=speaker] {
                        hop.backward.advance();
                    }
                    return Ok(HopIndex(speaker as u8));
                }
                Err(opened) => deepest = deepest.max(opened),
            }
            *body = received;
        }
        self.broken = true;
        if deepest >= self.hops.len() {
            return Err(OpenFailed::NobodySpoke);
        }
        let outer = deepest.checked_sub(1).map(|hop| HopIndex(hop as u8));
        Err(OpenFailed::Changed {
            outer,
            inner: HopIndex(deepest as u8),
        })
    }

    /// Opens `body` taking hop `speaker` to have spoken. Fails with the
    /// number of layers that opened.
    fn open_from(
        &self,
        speaker: usize,
        streams: &[HeaderStream; MAX_HOPS],
        body: &mut Body,
    ) -> Result<(), usize> {
        let lost = lost_slots(&streams[..=speaker]);
        let (head, payload) = body.split_at_mut(HEADER_LEN);
        for (index, hop) in self.hops[..=speaker].iter().enumerate() {
            let Some((tag, rest)) = head.split_first_chunk_mut::<SLOT_LEN>() else {
                return Err(index);
            };
            let fallen = REST_LEN - SLOT_LEN * index;
            rest[fallen..].copy_from_slice(&lost[index][fallen..]);
            hop.backward.open(tag, rest, payload).map_err(|_| index)?;
            // X = rest ^ Z, whose last slot fell off on the way.
            head.copy_within(SLOT_LEN.., 0);
            xor(&mut head[..REST_LEN], &streams[index]);
        }
        // Who speaks starts from zeros.
        if head[..REST_LEN] == [0; REST_LEN] {
            Ok(())
        } else {
            Err(speaker + 1)
        }
    }
}

/// The header of a cell for the last of `streams`' hops, before it is sealed:
/// a zero slot, random slots for hops that are not there, and the filler that
/// makes every hop's last slot come out as zeros.
fn aim(head: &mut [u8], streams: &[HeaderStream], rng: &mut impl CryptoRng) {
    let filler_from = HEADER_LEN - SLOT_LEN * streams.len();
    head[..SLOT_LEN].fill(0);
    // Not zeros: zeros would tell the hop its number.
    rng.fill_bytes(&mut head[SLOT_LEN..filler_from]);
    head[filler_from..].fill(0);
    for (index, stream) in streams.iter().enumerate() {
        // F_i = (F_(i-1) || 0^16) ^ (last 16 i bytes of Z_i)
        let len = SLOT_LEN * index;
        let from = HEADER_LEN - len;
        head.copy_within(from..HEADER_LEN, from - SLOT_LEN);
        head[HEADER_LEN - SLOT_LEN..].fill(0);
        xor(&mut head[from - SLOT_LEN..], &stream[from - SLOT_LEN..]);
    }
}

/// The rests of all hops up to the speaker, right wherever they depend on the
/// header streams alone: of hop k (from 1) the last 16 (k - 1) bytes.
fn lost_slots(streams: &[HeaderStream]) -> [[u8; REST_LEN]; MAX_HOPS] {
    let mut rests = [[0; REST_LEN]; MAX_HOPS];
    let mut header = [0; HEADER_LEN];
    for (rest, stream) in rests.iter_mut().zip(streams).rev() {
        xor(&mut header, stream);
        rest.copy_from_slice(&header[..REST_LEN]);
        // The next hop towards the client starts from tag || rest.
        header[..SLOT_LEN].fill(0);
        header[SLOT_LEN..].copy_from_slice(rest);
    }
    rests
}
