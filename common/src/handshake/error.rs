//! Why a handshake failed. The other side learns only that it did.

/// Parameters that the protocol does not allow. If they came from the other side, the mistake is its own; if they are
/// about to be sent, it is the configuration's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParamsError {
    /// Bytes that must be zero are not.
    #[error("reserved bytes of the parameters are not zero")]
    Reserved,
    /// The lowest version is zero or above the highest.
    #[error("the range of versions is empty or starts at zero")]
    Versions,
    /// A circuit's window, in cells, is outside 64 to 16,384.
    #[error("a circuit window of {0} cells is out of range")]
    CircuitWindow(u16),
    /// The interval of MARKs, in cells, is under 8 or over half the window.
    #[error("a MARK interval of {0} cells is out of range")]
    MarkInterval(u16),
    /// A stream's window, in bytes, is outside 16 KiB to 16 MiB.
    #[error("a stream window of {0} bytes is out of range")]
    StreamWindow(u32),
}

/// Why a circuit handshake failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// The client aims at an onion key that this relay never had or has erased.
    #[error("no such onion key here")]
    UnknownOnionKey,
    /// A point has small order: the shared secret would be zero (protocol.md 3.3).
    #[error("a point of small order")]
    BadPoint,
    /// The client's sealed parameters do not open. The message was made for another relay, key, suite or network, or it
    /// was changed on the way.
    #[error("the client's message does not fit this onion key")]
    WrongKey,
    /// The ML-KEM key or ciphertext is malformed.
    #[error("a malformed ML-KEM key or ciphertext")]
    BadKem,
    /// The reply does not come from the holder of the onion key, or it was changed on the way.
    #[error("the reply does not prove the relay")]
    BadAuth,
    /// The parameters are out of bounds.
    #[error(transparent)]
    BadParams(#[from] ParamsError),
    /// The two sides have no version of circuits in common.
    #[error("no version of circuits in common")]
    NoCommonVersion,
    /// The cryptographic library failed. This is a local fault.
    #[error("the cryptographic library failed")]
    Library,
}
