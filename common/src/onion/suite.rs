//! The two suites of AEAD and stream cipher that a layer can be made of.

use serde::{Deserialize, Serialize};

/// An AEAD and a stream cipher for headers (protocol.md 4.1). The suite is a property of a relay's onion key. Every
/// client follows the key, so that the suite tells nothing about a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Suite {
    /// ChaCha20-Poly1305 and ChaCha20. Every peer has this suite. The suite's number on the wire is 1.
    ChaCha20Poly1305,
    /// AES-256-GCM and AES-256-CTR, for processors with AES instructions. The suite's number on the wire is 2.
    Aes256Gcm,
}

impl Suite {
    /// The suite's number on the wire.
    pub fn code(self) -> u8 {
        match self {
            Self::ChaCha20Poly1305 => 1,
            Self::Aes256Gcm => 2,
        }
    }

    /// The suite with this number on the wire, if there is one.
    pub fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::ChaCha20Poly1305),
            2 => Some(Self::Aes256Gcm),
            _ => None,
        }
    }

    /// The suite's name in configuration files and in documents for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::ChaCha20Poly1305 => "chacha20-poly1305",
            Self::Aes256Gcm => "aes-256-gcm",
        }
    }
}
