//! Both sides of the handshake.

use aws_lc_rs::kem::{DecapsulationKey, EncapsulationKey, ML_KEM_768};
use rand_core::CryptoRng;
use x25519_dalek::{PublicKey, StaticSecret};

use super::kdf::{self, SEALED_LEN};
use super::params::{ClientParams, ParamsError, RelayParams};
use super::{CLIENT_MESSAGE_LEN, REPLY_LEN};
use crate::cell::wire::{Reader, UnexpectedEnd};
use crate::ids::{NetworkId, RelayId};
use crate::onion::{HopKeys, Suite};
use crate::secret::Secret;

const EK_LEN: usize = 1184;
const CT_LEN: usize = 1088;

/// Why a handshake failed. Relays answer each with DESTROY(Protocol) and say no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// The client aims at an onion key that this relay does not hold.
    #[error("the handshake is for an onion key that is not held here")]
    UnknownOnionKey,
    /// A public key is of small order, or no key at all.
    #[error("a public key in the handshake is not usable")]
    BadKey,
    /// The client's sealed parameters do not open: it aims at another relay, network or suite.
    #[error("the client's half of the handshake does not authenticate")]
    ClientNotAuthentic,
    /// AUTH is wrong: whoever answered does not hold the onion key, or the reply is to another CREATE.
    #[error("the relay's half of the handshake does not authenticate")]
    RelayNotAuthentic,
    /// The parameters break their bounds.
    #[error(transparent)]
    Params(#[from] ParamsError),
    /// The library refused to work: no randomness, or a bug.
    #[error("the cryptographic library failed")]
    Library,
}

impl From<UnexpectedEnd> for HandshakeError {
    fn from(_: UnexpectedEnd) -> Self {
        Self::BadKey
    }
}

/// A relay's onion key as descriptors and consensuses list it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnionPublicKey {
    /// The suite that layers made with this key use; it changes only with the key.
    pub suite: Suite,
    /// The X25519 public key B, which is its own key id.
    pub key: [u8; 32],
}

/// A relay's onion key.
pub struct OnionKeypair {
    secret: StaticSecret,
    public: OnionPublicKey,
}

impl OnionKeypair {
    /// A fresh key.
    pub fn generate(suite: Suite, rng: &mut impl CryptoRng) -> Self {
        let mut secret = Secret::<32>::zeroed();
        rng.fill_bytes(secret.expose_mut());
        Self::from_secret(suite, &secret)
    }

    /// The key with this secret.
    pub fn from_secret(suite: Suite, secret: &Secret<32>) -> Self {
        let secret = StaticSecret::from(*secret.expose());
        let key = PublicKey::from(&secret).to_bytes();
        Self {
            secret,
            public: OnionPublicKey { suite, key },
        }
    }

    /// Its public half.
    pub fn public(&self) -> OnionPublicKey {
        self.public
    }
}

/// Whom a handshake is with; all of it is bound into the keys.
#[derive(Clone, Copy, Debug)]
pub struct HandshakeContext {
    /// The network that both are in.
    pub network: NetworkId,
    /// The relay's identity.
    pub relay: RelayId,
    /// The relay's onion key.
    pub onion: OnionPublicKey,
}

/// `secret · point`, refusing points of small order: the result would be zero
/// and known to everyone.
fn agree(secret: &StaticSecret, point: &[u8; 32]) -> Result<Secret<32>, HandshakeError> {
    let shared = secret.diffie_hellman(&PublicKey::from(*point));
    if shared.was_contributory() {
        Ok(Secret::new(shared.to_bytes()))
    } else {
        Err(HandshakeError::BadKey)
    }
}

fn ephemeral(rng: &mut impl CryptoRng) -> StaticSecret {
    let mut bytes = Secret::<32>::zeroed();
    rng.fill_bytes(bytes.expose_mut());
    StaticSecret::from(*bytes.expose())
}

fn shared_secret(bytes: &[u8]) -> Result<Secret<32>, HandshakeError> {
    bytes
        .try_into()
        .map(Secret::new)
        .map_err(|_| HandshakeError::Library)
}

/// A client's handshake that waits for the relay's half. Its ephemeral keys
/// serve this one handshake.
pub struct ClientHandshake {
    x: StaticSecret,
    decapsulation: DecapsulationKey,
    onion: [u8; 32],
    t1: [u8; 32],
    c1: [u8; SEALED_LEN],
}

impl ClientHandshake {
    /// Starts a handshake; the message is for CREATE or EXTEND (protocol.md 3.2).
    ///
    /// ML-KEM's key comes from the library's own generator.
    pub fn start(
        context: &HandshakeContext,
        params: ClientParams,
        rng: &mut impl CryptoRng,
    ) -> Result<(Self, [u8; CLIENT_MESSAGE_LEN]), HandshakeError> {
        let x = ephemeral(rng);
        let decapsulation =
            DecapsulationKey::generate(&ML_KEM_768).map_err(|_| HandshakeError::Library)?;
        Self::start_with(context, params, x, decapsulation)
    }

    pub(super) fn start_with(
        context: &HandshakeContext,
        params: ClientParams,
        x: StaticSecret,
        decapsulation: DecapsulationKey,
    ) -> Result<(Self, [u8; CLIENT_MESSAGE_LEN]), HandshakeError> {
        let public = PublicKey::from(&x).to_bytes();
        let ek = decapsulation
            .encapsulation_key()
            .and_then(|key| key.key_bytes())
            .map_err(|_| HandshakeError::Library)?;
        let onion = context.onion.key;
        let t1 = kdf::t1(context, &public, ek.as_ref());
        let xb = agree(&x, &onion)?;
        let c1 = kdf::seal(&kdf::k1(xb.expose(), &t1), &t1, params.encode());
        let message = concat(&[&onion, &public, ek.as_ref(), &c1])?;
        Ok((
            Self {
                x,
                decapsulation,
                onion,
                t1,
                c1,
            },
            message,
        ))
    }

    /// Takes the relay's half (protocol.md 3.3). AUTH is checked before anything is opened.
    pub fn finish(self, reply: &[u8; REPLY_LEN]) -> Result<(HopKeys, RelayParams), HandshakeError> {
        let mut reader = Reader::new(reply);
        let y: &[u8; 32] = reader.array()?;
        let ct: &[u8; CT_LEN] = reader.array()?;
        let c2: &[u8; SEALED_LEN] = reader.array()?;
        let claimed: &[u8; 32] = reader.array()?;
        let xy = agree(&self.x, y)?;
        let xb = agree(&self.x, &self.onion)?;
        let k = self
            .decapsulation
            .decapsulate(ct.as_slice().into())
            .map_err(|_| HandshakeError::RelayNotAuthentic)?;
        let k = shared_secret(k.as_ref())?;
        let t2 = kdf::t2(&self.t1, &self.c1, y, ct);
        let schedule = kdf::schedule(xy.expose(), xb.expose(), k.expose(), &t2);
        if !kdf::auth_fits(&schedule.ka, &t2, c2, claimed) {
            return Err(HandshakeError::RelayNotAuthentic);
        }
        let params = kdf::open(&schedule.k2, &t2, c2).ok_or(HandshakeError::RelayNotAuthentic)?;
        Ok((schedule.keys, RelayParams::decode(&params)?))
    }
}

fn concat<const N: usize>(parts: &[&[u8]]) -> Result<[u8; N], HandshakeError> {
    let mut out = [0; N];
    let mut rest = &mut out[..];
    for part in parts {
        let (head, tail) = rest
            .split_at_mut_checked(part.len())
            .ok_or(HandshakeError::Library)?;
        head.copy_from_slice(part);
        rest = tail;
    }
    if rest.is_empty() {
        Ok(out)
    } else {
        Err(HandshakeError::Library)
    }
}

/// What a relay gets out of a CREATE.
pub struct Answer {
    /// The suite of the layer.
    pub suite: Suite,
    /// The keys of the layer.
    pub keys: HopKeys,
    /// The relay's half, for CREATED.
    pub reply: [u8; REPLY_LEN],
    /// What the client said.
    pub client: ClientParams,
}

/// Answers a client's half of a handshake (at a relay).
///
/// The cheap checks come first: the onion key, then `X·b` and C1, which only
/// someone who means this relay can have made; ML-KEM and the second
/// agreement follow.
pub fn respond(
    network: NetworkId,
    relay: RelayId,
    keys: &[OnionKeypair],
    message: &[u8; CLIENT_MESSAGE_LEN],
    params: RelayParams,
    rng: &mut impl CryptoRng,
) -> Result<Answer, HandshakeError> {
    let y = ephemeral(rng);
    respond_with(network, relay, keys, message, params, &y, |ek| {
        let key = EncapsulationKey::new(&ML_KEM_768, ek).map_err(|_| HandshakeError::BadKey)?;
        let (ct, k) = key.encapsulate().map_err(|_| HandshakeError::BadKey)?;
        let ct = ct
            .as_ref()
            .try_into()
            .map_err(|_| HandshakeError::Library)?;
        Ok((ct, shared_secret(k.as_ref())?))
    })
}

pub(super) fn respond_with(
    network: NetworkId,
    relay: RelayId,
    keys: &[OnionKeypair],
    message: &[u8; CLIENT_MESSAGE_LEN],
    params: RelayParams,
    y: &StaticSecret,
    encapsulate: impl FnOnce(&[u8; EK_LEN]) -> Result<([u8; CT_LEN], Secret<32>), HandshakeError>,
) -> Result<Answer, HandshakeError> {
    let mut reader = Reader::new(message);
    let b: &[u8; 32] = reader.array()?;
    let x: &[u8; 32] = reader.array()?;
    let ek: &[u8; EK_LEN] = reader.array()?;
    let c1: &[u8; SEALED_LEN] = reader.array()?;
    // Which key is meant is public; no secret depends on this comparison.
    let onion = keys
        .iter()
        .find(|key| key.public.key == *b)
        .ok_or(HandshakeError::UnknownOnionKey)?;
    let context = HandshakeContext {
        network,
        relay,
        onion: onion.public,
    };
    let t1 = kdf::t1(&context, x, ek);
    let xb = agree(&onion.secret, x)?;
    let said =
        kdf::open(&kdf::k1(xb.expose(), &t1), &t1, c1).ok_or(HandshakeError::ClientNotAuthentic)?;
    let client = ClientParams::decode(&said)?;
    let xy = agree(y, x)?;
    let (ct, k) = encapsulate(ek)?;
    let public = PublicKey::from(y).to_bytes();
    let t2 = kdf::t2(&t1, c1, &public, &ct);
    let schedule = kdf::schedule(xy.expose(), xb.expose(), k.expose(), &t2);
    let c2 = kdf::seal(&schedule.k2, &t2, params.encode());
    let auth = kdf::auth(&schedule.ka, &t2, &c2);
    let reply = concat(&[&public, &ct, &c2, &auth])?;
    Ok(Answer {
        suite: onion.public.suite,
        keys: schedule.keys,
        reply,
        client,
    })
}
