//! How a client and a hop agree on the keys of a layer (docs/protocol.md, chapter 3).
//!
//! X25519 and ML-KEM-768 together, in the manner of ntor v3 (Tor proposals 332
//! and 355): a recorded handshake stays closed unless both are broken. The
//! relay proves that it holds its onion key; the client proves nothing.

mod hybrid;
mod kdf;
mod params;

pub use hybrid::{
    Answer, ClientHandshake, HandshakeContext, HandshakeError, OnionKeypair, OnionPublicKey,
    respond,
};
pub use params::{ClientParams, ParamsError, RelayParams};

pub use crate::cell::codec::{CREATE_LEN as CLIENT_MESSAGE_LEN, CREATED_LEN as REPLY_LEN};

#[cfg(test)]
mod tests;
