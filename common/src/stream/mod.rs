//! The streams of one circuit, as one end of it sees them (docs/protocol.md, chapter 5).
//!
//! A [`Mux`] is the whole conversation of two ends of a circuit: it packs
//! payloads and reads them, holds every stream's buffers and credit, and the
//! circuit's window. Client and exit run the same machine. Whoever drives it
//! seals what [`Mux::fill`] packed and hands in what was opened; the sockets on
//! the other side go through the `poll_*` calls. It knows no socket, no key and
//! no clock.
//!
//! Each end ends a stream. `END(Done)` says "I have sent
//! all" and leaves the other direction open; any other reason gives the stream
//! up (after `END(Done)` too), and is answered by an END if none was sent yet. When both have been said
//! the id is free.

mod buffer;
mod mux;
mod pack;
mod state;

pub use mux::{Mux, MuxConfig, Request, Side};
pub use state::{StreamError, StreamKey, Target, TargetHost};

/// A peer that breaks the rules of streams or windows; destroys the circuit (S14).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// The payload is not a run of legal messages.
    #[error(transparent)]
    Message(#[from] crate::cell::message::MessageError),
    /// Marks or acknowledgements are wrong.
    #[error(transparent)]
    Flow(#[from] crate::flow::window::FlowError),
    /// A message for a stream that is not open, or an id that is in use.
    #[error("message for a stream that is not open")]
    NoSuchStream,
    /// A message that the stream's state does not allow.
    #[error("message out of order on a stream")]
    OutOfOrder,
    /// More data than was granted, or more granted than the window allows.
    #[error("stream credit exceeded")]
    Credit,
    /// EXTEND with streams open, or together with other messages.
    #[error("EXTEND with streams open or beside other messages")]
    Extend,
}
