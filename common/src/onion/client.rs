//! A client's layers of one circuit: those of every hop, in both directions (docs/protocol.md, 4.10 to 4.17).

use rand_core::CryptoRng;

use super::cipher::{Direction, Slot, Stream};
use super::end_to_end::EndToEnd;
use super::error::{LayerBroken, OpenFailed, SealError, TooManyHops};
use super::header::{REST_LEN, Rest, first_slot, is_zero, parts, shorten, xor};
use super::keys::HopKeys;
use super::suite::Suite;
use crate::cell::{Body, HEADER_LEN, MAX_HOPS, SLOT_LEN};
use crate::ids::HopIndex;

/// Who sealed a cell that a client opened on a joined circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Speaker {
    /// A hop of this client's own circuit.
    Hop(HopIndex),
    /// The client at the far end of the splice.
    FarEnd,
}

struct Hop {
    forward: Direction,
    backward: Direction,
}

/// The layers of one circuit, at the client that built it.
#[derive(Default)]
pub struct ClientLayers {
    hops: Vec<Hop>,
    /// Has a layer failed? Then the hops' secrets are erased, and every call fails.
    broken: bool,
}

/// The header streams of the present cell, one for each hop.
type Streams = [Stream; MAX_HOPS];

impl ClientLayers {
    /// The layers of a circuit that has no hop yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a hop behind the present last one, with the keys of its handshake.
    ///
    /// # Errors
    /// [`TooManyHops`] if the circuit has [`MAX_HOPS`] already; the keys are then erased.
    pub fn push(&mut self, suite: Suite, keys: HopKeys) -> Result<HopIndex, TooManyHops> {
        self.push_starting_at(suite, keys, 0)
    }

    pub(crate) fn push_starting_at(
        &mut self,
        suite: Suite,
        keys: HopKeys,
        counter: u64,
    ) -> Result<HopIndex, TooManyHops> {
        if self.hops.len() >= MAX_HOPS {
            return Err(TooManyHops);
        }
        let index = HopIndex(u8::try_from(self.hops.len()).map_err(|_| TooManyHops)?);
        let forward = Direction::starting_at(suite, keys.forward, counter);
        let backward = Direction::starting_at(suite, keys.backward, counter);
        match (forward, backward) {
            (Ok(forward), Ok(backward)) => self.hops.push(Hop { forward, backward }),
            _ => self.destroy(),
        }
        Ok(index)
    }

    /// Number of hops; zero after a layer broke.
    pub fn len(&self) -> usize {
        self.hops.len()
    }

    /// Has the circuit no hop?
    pub fn is_empty(&self) -> bool {
        self.hops.is_empty()
    }

    /// Seals `body` for `hop`, in place. The caller has put the messages behind the header; the header is overwritten.
    ///
    /// # Errors
    /// [`SealError`] if there is no such hop, or if a layer broke before.
    pub fn seal(
        &mut self,
        hop: HopIndex,
        body: &mut Body,
        rng: &mut impl CryptoRng,
    ) -> Result<(), SealError> {
        self.seal_for(hop, &[0; SLOT_LEN], body, rng)
    }

    /// Seals `body` for the far end of the splice at this circuit's last hop (protocol.md 4.19).
    ///
    /// # Errors
    /// [`SealError`] if the circuit has no hop, or if a layer broke before.
    pub fn seal_joined(
        &mut self,
        end: &mut EndToEnd,
        body: &mut Body,
        rng: &mut impl CryptoRng,
    ) -> Result<(), SealError> {
        if self.broken {
            return Err(SealError::Broken);
        }
        let last = self.last().ok_or(SealError::NoSuchHop(HopIndex(0)))?;
        let (_, _, payload) = parts(body);
        let tag = end.seal(payload)?;
        self.seal_for(last, &tag, body, rng)
    }

    fn last(&self) -> Option<HopIndex> {
        self.hops
            .len()
            .checked_sub(1)
            .and_then(|last| u8::try_from(last).ok())
            .map(HopIndex)
    }

    /// Erases all secrets: nothing is sealed or opened after a failure (protocol.md 4.23).
    fn destroy(&mut self) {
        self.hops.clear();
        self.broken = true;
    }

    /// Seals as protocol.md 4.11 says, where `marker` is sixteen zeros or the far end's tag.
    fn seal_for(
        &mut self,
        hop: HopIndex,
        marker: &Slot,
        body: &mut Body,
        rng: &mut impl CryptoRng,
    ) -> Result<(), SealError> {
        if self.broken {
            return Err(SealError::Broken);
        }
        let hops = self
            .hops
            .get_mut(..=usize::from(hop.0))
            .ok_or(SealError::NoSuchHop(hop))?;
        let sealed = seal_through(hops, marker, body, rng);
        if sealed.is_err() {
            self.destroy();
        }
        Ok(sealed?)
    }

    /// Opens a cell that came towards the client, in place, and returns the hop that spoke it. The messages are behind
    /// the header.
    ///
    /// # Errors
    /// [`OpenFailed`] if no hop spoke the cell. Every layer is unusable from then on, and the caller destroys the
    /// circuit.
    pub fn open(&mut self, body: &mut Body) -> Result<HopIndex, OpenFailed> {
        let opened = self.open_any(None, body);
        match opened {
            Ok(Speaker::Hop(hop)) => Ok(hop),
            Ok(Speaker::FarEnd) => Err(OpenFailed::NoMarker),
            Err(failed) => Err(failed),
        }
    }

    /// Opens a cell like [`ClientLayers::open`], on a circuit that is joined to another one: the far end of the splice
    /// may have sealed the cell too (protocol.md 4.21).
    ///
    /// # Errors
    /// [`OpenFailed`] if neither a hop nor the far end spoke the cell. Every layer is unusable from then on.
    pub fn open_joined(
        &mut self,
        end: &mut EndToEnd,
        body: &mut Body,
    ) -> Result<Speaker, OpenFailed> {
        self.open_any(Some(end), body)
    }

    fn open_any(
        &mut self,
        end: Option<&mut EndToEnd>,
        body: &mut Body,
    ) -> Result<Speaker, OpenFailed> {
        if self.broken || self.hops.is_empty() {
            return Err(OpenFailed::Broken);
        }
        let opened = open_through(&mut self.hops, end, body);
        if opened.is_err() {
            self.destroy();
        }
        opened
    }
}

/// Seals for the last of `hops` and moves the counters of all of them.
fn seal_through(
    hops: &mut [Hop],
    marker: &Slot,
    body: &mut Body,
    rng: &mut impl CryptoRng,
) -> Result<(), LayerBroken> {
    let mut streams: Streams = [[0; HEADER_LEN]; MAX_HOPS];
    for (stream, hop) in streams.iter_mut().zip(&*hops) {
        *stream = hop.forward.stream();
    }
    let streams = &streams[..hops.len()];
    body[..SLOT_LEN].copy_from_slice(marker);
    // These slots are random: zeros would tell the last hop its number (protocol.md 4.11).
    rng.fill_bytes(&mut body[SLOT_LEN..HEADER_LEN - SLOT_LEN * hops.len()]);
    fill(streams, &mut body[..HEADER_LEN]);
    for (hop, z) in hops.iter().zip(streams).rev() {
        let shortened = shorten(&body[..HEADER_LEN], z);
        let (tag, rest, payload) = parts(body);
        rest.copy_from_slice(&shortened);
        tag.copy_from_slice(&hop.forward.seal(rest, payload)?);
    }
    hops.iter_mut().try_for_each(|hop| hop.forward.advance())
}

/// Writes the filler F(n) of protocol.md 4.10 at the end of `header`.
///
/// The filler is what the hops' streams will have made of the zeros that each of the hops shifts in. So every seal on
/// the way covers it already.
fn fill(streams: &[Stream], header: &mut [u8]) {
    for (before, z) in streams.iter().enumerate() {
        let old = HEADER_LEN - SLOT_LEN * before;
        let new = old - SLOT_LEN;
        header.copy_within(old.., new);
        header[REST_LEN..].fill(0);
        xor(&mut header[new..], &z[new..]);
    }
}

/// Finds who spoke, opens every layer up to there, and then moves the counters of those layers (protocol.md 4.13 to
/// 4.16).
fn open_through(
    hops: &mut [Hop],
    end: Option<&mut EndToEnd>,
    body: &mut Body,
) -> Result<Speaker, OpenFailed> {
    if end.as_ref().is_some_and(|end| !end.is_usable()) {
        return Err(OpenFailed::Broken);
    }
    let mut streams: Streams = [[0; HEADER_LEN]; MAX_HOPS];
    let spoke = find_marker(hops, body, &mut streams);
    let taken = match (spoke, &end) {
        (Some(spoke), _) => spoke,
        (None, Some(_)) => hops.len() - 1,
        // Nobody spoke. The cell is lost; the error only says where.
        (None, None) => return Err(blame(hops, body, &streams)),
    };
    let (marker, clean) = open_up_to(hops, taken, body, &streams).map_err(changed)?;
    if !clean {
        return Err(OpenFailed::NoMarker);
    }
    let speaker = match (spoke, end) {
        (None, Some(end)) => {
            let (_, _, payload) = parts(body);
            end.open(&marker, payload).map_err(|_| OpenFailed::FarEnd)?;
            Speaker::FarEnd
        }
        _ => Speaker::Hop(index(taken)),
    };
    for hop in &mut hops[..=taken] {
        hop.backward.advance().map_err(|_| OpenFailed::Broken)?;
    }
    Ok(speaker)
}

/// Finds the first hop whose own first slot is the marker (protocol.md 4.14).
///
/// The header alone tells, because a hop's first slot is never among those that fell off. Nothing is believed yet:
/// every seal up to that hop must still fit. Leaves the streams of all hops up to that hop in `streams`.
fn find_marker(hops: &[Hop], body: &Body, streams: &mut Streams) -> Option<usize> {
    let mut header = [0; HEADER_LEN];
    header.copy_from_slice(&body[..HEADER_LEN]);
    for (number, (hop, z)) in hops.iter().zip(streams).enumerate() {
        *z = hop.backward.stream();
        header.copy_within(SLOT_LEN.., 0);
        xor(&mut header, z);
        if is_zero(&header[..SLOT_LEN]) {
            return Some(number);
        }
    }
    None
}

/// Computes each hop's rest, which is correct in the slots that fell off on the way if hop number `spoke` (from 0)
/// spoke the cell (protocol.md 4.15).
fn lost_slots(streams: &Streams, spoke: usize) -> [Rest; MAX_HOPS] {
    let mut rests = [[0; REST_LEN]; MAX_HOPS];
    let mut x = [0; HEADER_LEN];
    for (rest, z) in rests.iter_mut().zip(streams).take(spoke + 1).rev() {
        *rest = shorten(&x, z);
        // Zeros stand where a tag would be, because tags never reach the slots that fall off.
        x[SLOT_LEN..].copy_from_slice(rest);
    }
    rests
}

/// Opens the layers of the hops up to number `spoke` (from 0) and moves no counter.
///
/// Returns the last hop's first slot, and whether everything behind the slot is zero. The error is the number of the
/// first hop whose seal does not fit.
fn open_up_to(
    hops: &[Hop],
    spoke: usize,
    body: &mut Body,
    streams: &Streams,
) -> Result<(Slot, bool), usize> {
    let lost = lost_slots(streams, spoke);
    let (tag, received, payload) = parts(body);
    let mut tag = first_slot(tag);
    let mut rest = [0; REST_LEN];
    rest.copy_from_slice(received);
    for (number, hop) in hops[..=spoke].iter().enumerate() {
        let kept = REST_LEN - SLOT_LEN * number;
        rest[kept..].copy_from_slice(&lost[number][kept..]);
        hop.backward
            .open(&tag, &rest, payload)
            .map_err(|_| number)?;
        xor(&mut rest, &streams[number]);
        tag = first_slot(&rest);
        rest.copy_within(SLOT_LEN.., 0);
    }
    Ok((tag, is_zero(&rest[..REST_LEN - SLOT_LEN])))
}

/// Says where a cell that nobody spoke went wrong: at the farthest hop that any guess of the speaker leads to. The last
/// hop is guessed first.
fn blame(hops: &[Hop], body: &Body, streams: &Streams) -> OpenFailed {
    let mut farthest = 0;
    for spoke in (0..hops.len()).rev() {
        let mut copy = *body;
        match open_up_to(hops, spoke, &mut copy, streams) {
            Err(number) => farthest = farthest.max(number),
            Ok(_) if spoke + 1 == hops.len() => return OpenFailed::NoMarker,
            Ok(_) => {}
        }
    }
    changed(farthest)
}

fn changed(number: usize) -> OpenFailed {
    OpenFailed::Changed {
        near: number.checked_sub(1).map(index),
        far: index(number),
    }
}

/// The hop with number `number` (from 0). There are at most [`MAX_HOPS`].
fn index(number: usize) -> HopIndex {
    HopIndex(u8::try_from(number).unwrap_or(u8::MAX))
}
