//! The client's side of the handshake: one message out, one reply in, then keys. Each step consumes the one before.

use aws_lc_rs::kem::{Ciphertext, DecapsulationKey, ML_KEM_768};
use rand_core::CryptoRng;

use super::error::HandshakeError;
use super::keys::OnionPublicKey;
use super::params::{ClientParams, RelayParams};
use super::schedule::{self, Schedule, Sealed, Transcript};
use super::x25519::SecretKey;
use super::{AUTH_LEN, CLIENT_MESSAGE_LEN, CT_LEN, EK_LEN, POINT_LEN, REPLY_LEN};
use crate::ids::{NetworkId, RelayId};
use crate::onion::HopKeys;
use crate::secret::Secret;

/// The network, relay and onion key that a client means to reach. All three are bound into every key of the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandshakeContext {
    /// The network that the client is in.
    pub network: NetworkId,
    /// The relay's identity.
    pub relay: RelayId,
    /// The onion key that a valid consensus lists for the relay.
    pub onion: OnionPublicKey,
}

/// A handshake that waits for the relay's reply. Each serves once and is erased when it is dropped.
pub struct ClientHandshake {
    offered: ClientParams,
    x: SecretKey,
    /// The secret X·b, between the client's ephemeral key and the relay's onion key.
    fixed: Secret<32>,
    kem: DecapsulationKey,
    t1: Transcript,
    c1: Sealed,
}

impl ClientHandshake {
    /// Starts a handshake and returns it with the message to send.
    ///
    /// ML-KEM's key comes from the cryptographic library's own generator, because the library takes no other. All else
    /// is drawn from `rng`.
    ///
    /// # Errors
    /// [`HandshakeError::BadPoint`] for an onion key of small order, [`HandshakeError::BadParams`] for an empty range
    /// of versions, [`HandshakeError::Library`] if the cryptographic library fails.
    pub fn start(
        ctx: &HandshakeContext,
        params: ClientParams,
        rng: &mut impl CryptoRng,
    ) -> Result<(Self, [u8; CLIENT_MESSAGE_LEN]), HandshakeError> {
        let kem = DecapsulationKey::generate(&ML_KEM_768).map_err(|_| HandshakeError::Library)?;
        let ek: [u8; EK_LEN] = kem
            .encapsulation_key()
            .and_then(|key| key.key_bytes())
            .ok()
            .and_then(|bytes| bytes.as_ref().try_into().ok())
            .ok_or(HandshakeError::Library)?;
        Self::start_with(ctx, params, SecretKey::draw(rng)?, kem, &ek)
    }

    /// Starts a handshake like [`ClientHandshake::start`], but with ephemeral keys that the caller gives.
    pub(super) fn start_with(
        ctx: &HandshakeContext,
        params: ClientParams,
        x: SecretKey,
        kem: DecapsulationKey,
        ek: &[u8; EK_LEN],
    ) -> Result<(Self, [u8; CLIENT_MESSAGE_LEN]), HandshakeError> {
        params.check()?;
        let fixed = x.agree(&ctx.onion.key)?;
        let t1 = schedule::client_transcript(&ctx.network, &ctx.relay, &ctx.onion, x.point(), ek);
        let c1 = schedule::seal(&schedule::client_key(&fixed, &t1)?, &t1, &params.encode())?;

        let mut message = [0; CLIENT_MESSAGE_LEN];
        let mut rest = &mut message[..];
        for part in [&ctx.onion.key[..], x.point(), ek, &c1] {
            let (place, behind) = rest.split_at_mut(part.len());
            place.copy_from_slice(part);
            rest = behind;
        }
        Ok((
            Self {
                offered: params,
                x,
                fixed,
                kem,
                t1,
                c1,
            },
            message,
        ))
    }

    /// Takes the relay's reply and returns the keys of the relay's layer and its parameters.
    ///
    /// # Errors
    /// [`HandshakeError`] if the reply is not good; the caller then destroys the circuit (protocol.md 3.14).
    pub fn finish(self, reply: &[u8; REPLY_LEN]) -> Result<(HopKeys, RelayParams), HandshakeError> {
        let Reply { y, ct, c2, auth } = Reply::split(reply).ok_or(HandshakeError::Library)?;
        let ephemeral = self.x.agree(y)?;
        let shared = self
            .kem
            .decapsulate(Ciphertext::from(&ct[..]))
            .map_err(|_| HandshakeError::BadKem)?;
        let mut kem = Secret::zeroed();
        let shared = <&[u8; 32]>::try_from(shared.as_ref()).map_err(|_| HandshakeError::Library)?;
        kem.expose_mut().copy_from_slice(shared);

        let t2 = schedule::full_transcript(&self.t1, &self.c1, y, ct);
        let schedule = Schedule::new(&ephemeral, &self.fixed, &kem, &t2)?;
        let params = RelayParams::decode(&schedule.open_reply(&t2, c2, auth)?)?;
        if !self.offered.speaks(params.version) {
            return Err(HandshakeError::NoCommonVersion);
        }
        Ok((schedule.into_keys(), params))
    }
}

/// The parts of a reply (protocol.md 3.4), borrowed from it.
struct Reply<'a> {
    y: &'a [u8; POINT_LEN],
    ct: &'a [u8; CT_LEN],
    c2: &'a Sealed,
    auth: &'a [u8; AUTH_LEN],
}

impl<'a> Reply<'a> {
    /// Splits a reply into its parts. The result is never `None`, because the lengths add up to the length of the
    /// array.
    fn split(reply: &'a [u8; REPLY_LEN]) -> Option<Self> {
        let (y, rest) = reply.split_first_chunk()?;
        let (ct, rest) = rest.split_first_chunk()?;
        let (c2, rest) = rest.split_first_chunk()?;
        let auth = rest.first_chunk()?;
        Some(Self { y, ct, c2, auth })
    }
}
