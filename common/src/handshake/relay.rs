//! The relay's side of the handshake: one message in, one reply and the keys out, in one step.

use core::borrow::Borrow;

use aws_lc_rs::kem::{EncapsulationKey, ML_KEM_768};
use rand_core::CryptoRng;

use super::error::HandshakeError;
use super::keys::OnionKeypair;
use super::params::{ClientParams, RelayParams};
use super::schedule::{self, Schedule, Sealed};
use super::x25519::SecretKey;
use super::{CLIENT_MESSAGE_LEN, CT_LEN, EK_LEN, POINT_LEN, REPLY_LEN};
use crate::ids::{NetworkId, RelayId};
use crate::onion::{HopKeys, Suite};
use crate::secret::Secret;

/// Answers a client. Returns the suite and the keys of the new layer, the reply to send, and the client's parameters.
///
/// `keys` are all onion keys that some valid consensus still lists. X·b and C1 are checked before any other public-key
/// work. ML-KEM's randomness comes from the cryptographic library; Y is drawn from `rng`.
///
/// # Errors
/// [`HandshakeError`] if the message is not good; the caller then refuses the CREATE or EXTEND. Nothing else changed.
pub fn respond(
    network: &NetworkId,
    relay: &RelayId,
    keys: &[impl Borrow<OnionKeypair>],
    message: &[u8; CLIENT_MESSAGE_LEN],
    reply: RelayParams,
    rng: &mut impl CryptoRng,
) -> Result<(Suite, HopKeys, [u8; REPLY_LEN], ClientParams), HandshakeError> {
    let ephemeral = || SecretKey::draw(rng);
    respond_with(network, relay, keys, message, reply, ephemeral, encapsulate)
}

/// A ciphertext of ML-KEM-768 and the shared secret that belongs to it.
pub(super) type Encapsulated = ([u8; CT_LEN], Secret<32>);

fn encapsulate(ek: &[u8; EK_LEN]) -> Result<Encapsulated, HandshakeError> {
    let key = EncapsulationKey::new(&ML_KEM_768, ek).map_err(|_| HandshakeError::BadKem)?;
    let (ct, shared) = key.encapsulate().map_err(|_| HandshakeError::BadKem)?;
    let ct = ct
        .as_ref()
        .try_into()
        .map_err(|_| HandshakeError::Library)?;
    let shared = <&[u8; 32]>::try_from(shared.as_ref()).map_err(|_| HandshakeError::Library)?;
    let mut secret = Secret::zeroed();
    secret.expose_mut().copy_from_slice(shared);
    Ok((ct, secret))
}

/// Answers a client like [`respond`], but with an ephemeral key and an encapsulation that the caller gives.
pub(super) fn respond_with(
    network: &NetworkId,
    relay: &RelayId,
    keys: &[impl Borrow<OnionKeypair>],
    message: &[u8; CLIENT_MESSAGE_LEN],
    reply: RelayParams,
    ephemeral: impl FnOnce() -> Result<SecretKey, HandshakeError>,
    encapsulate: impl FnOnce(&[u8; EK_LEN]) -> Result<Encapsulated, HandshakeError>,
) -> Result<(Suite, HopKeys, [u8; REPLY_LEN], ClientParams), HandshakeError> {
    reply.check()?;
    let Message { b, x, ek, c1 } = Message::split(message).ok_or(HandshakeError::Library)?;
    let onion = keys
        .iter()
        .map(Borrow::borrow)
        .find(|key| key.public().key == *b)
        .ok_or(HandshakeError::UnknownOnionKey)?;

    // Only one multiplication comes before the check of the client's seal. The costly rest comes behind both (S9).
    let fixed = onion.secret().agree(x)?;
    let t1 = schedule::client_transcript(network, relay, &onion.public(), x, ek);
    let params = schedule::open(&schedule::client_key(&fixed, &t1)?, &t1, c1)
        .ok_or(HandshakeError::WrongKey)?;
    let params = ClientParams::decode(&params)?;
    if !params.speaks(reply.version) {
        return Err(HandshakeError::NoCommonVersion);
    }

    let (ct, kem) = encapsulate(ek)?;
    let secret = ephemeral()?;
    let y = secret.point();
    let shared = secret.agree(x)?;
    let t2 = schedule::full_transcript(&t1, c1, y, &ct);
    let schedule = Schedule::new(&shared, &fixed, &kem, &t2)?;
    let (c2, auth) = schedule.seal_reply(&t2, &reply.encode())?;

    let mut bytes = [0; REPLY_LEN];
    let mut rest = &mut bytes[..];
    for part in [&y[..], &ct, &c2, &auth] {
        let (place, behind) = rest.split_at_mut(part.len());
        place.copy_from_slice(part);
        rest = behind;
    }
    Ok((onion.public().suite, schedule.into_keys(), bytes, params))
}

/// The parts of a client's message (protocol.md 3.4), borrowed from it.
struct Message<'a> {
    b: &'a [u8; POINT_LEN],
    x: &'a [u8; POINT_LEN],
    ek: &'a [u8; EK_LEN],
    c1: &'a Sealed,
}

impl<'a> Message<'a> {
    /// Splits a message into its parts. The result is never `None`, because the lengths add up to the length of the
    /// array.
    fn split(message: &'a [u8; CLIENT_MESSAGE_LEN]) -> Option<Self> {
        let (b, rest) = message.split_first_chunk()?;
        let (x, rest) = rest.split_first_chunk()?;
        let (ek, rest) = rest.split_first_chunk()?;
        let c1 = rest.first_chunk()?;
        Some(Self { b, x, ek, c1 })
    }
}
