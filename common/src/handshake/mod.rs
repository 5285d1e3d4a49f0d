//! How a client and one hop agree on the keys of a layer (docs/protocol.md, chapter 3).
//!
//! The handshake is X25519, ephemeral with static and ephemeral with ephemeral, together with an ephemeral ML-KEM-768.
//! One round trip is enough. The handshake authenticates the relay and not the client. A client's circuits call
//! [`ClientHandshake`]; a relay's pool for public-key work calls [`respond`]. This room does not decide whether work is
//! worth doing: the callers have the limits and the queues.
//!
//! The two messages are of fixed length. The messages stand alike in CREATE and CREATED cells and in EXTEND and
//! EXTENDED messages.

mod client;
mod error;
mod keys;
mod params;
mod relay;
mod schedule;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;
mod x25519;

use crate::cell::SLOT_LEN;

pub use client::{ClientHandshake, HandshakeContext};
pub use error::{HandshakeError, ParamsError};
pub use keys::{OnionKeypair, OnionPublicKey};
pub use params::{CIRCUIT_VERSION, ClientParams, RelayParams};
pub use relay::respond;

/// Length of an X25519 key or point, in bytes.
const POINT_LEN: usize = 32;
/// Length of an ML-KEM-768 encapsulation key, in bytes.
const EK_LEN: usize = 1184;
/// Length of an ML-KEM-768 ciphertext, in bytes.
const CT_LEN: usize = 1088;
/// Length of either side's encoded parameters, in bytes.
const PARAMS_LEN: usize = 16;
/// Length of sealed parameters, in bytes: the parameters and the AEAD's tag behind them.
const SEALED_LEN: usize = PARAMS_LEN + SLOT_LEN;
/// Length of AUTH, in bytes.
const AUTH_LEN: usize = 32;

/// Length of the client's message, in bytes: B, X, ek, C1 (protocol.md 3.4).
pub const CLIENT_MESSAGE_LEN: usize = 2 * POINT_LEN + EK_LEN + SEALED_LEN;
/// Length of the relay's reply, in bytes: Y, ct, C2, AUTH (protocol.md 3.4).
pub const REPLY_LEN: usize = POINT_LEN + CT_LEN + SEALED_LEN + AUTH_LEN;

const _: () = assert!(CLIENT_MESSAGE_LEN == 1280 && REPLY_LEN == 1184);
