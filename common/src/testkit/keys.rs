//! Keys, identities and addresses of relays and authorities by their numbers.

use std::net::SocketAddr;

use ed25519_dalek::SigningKey;

use crate::ids::RelayId;

/// The key by which authority `n` signs votes and consensuses; `n` is at most 155.
pub fn signing_key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[100 + n; 32])
}

/// The key that relay or authority `n` proves on links.
pub fn link_key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

/// The identity of relay or authority `n`: the public half of its link key.
pub fn identity(n: u8) -> RelayId {
    RelayId(link_key(n).verifying_key().to_bytes())
}

/// The address of relay or authority `n`: port 5000 + `n` of 127.0.0.1.
pub fn address(n: u8) -> SocketAddr {
    ([127, 0, 0, 1], 5_000 + u16::from(n)).into()
}
