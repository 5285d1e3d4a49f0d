//! The streams of one circuit, as one end of it sees them (docs/protocol.md, chapter 5).
//!
//! A [`Mux`] is the whole conversation of two ends of a circuit: it packs payloads and reads them, and holds every
//! stream's buffers and credit, and the circuit's window. Client and exit run the same machine. The machine's driver
//! seals what [`Mux::fill`] packed and hands in what was opened; the sockets on the other side go through the `poll_*`
//! calls. The machine knows no socket, no key and no clock.
//!
//! Each end ends its own direction of a stream. `END(Done)` says "I have sent all" and leaves the other direction open.
//! Any other reason gives the stream up (after `END(Done)` too), and is answered by an END if none was sent yet. When
//! both ends have said END, the id is free.
//!
//! A second circuit to the same relay can carry the streams together with the first. Each circuit is then a [`Leg`]
//! with a window of its own, payloads have numbers, and what a lost leg had not delivered goes by the other leg (5.20
//! to 5.28).
//!
//! Beside its streams each circuit has associations, which carry datagrams (`datagrams`, `one_association`, 5.30 to
//! 5.36).

mod acceptor;
mod association;
mod buffer;
mod datagram_queue;
mod datagrams;
mod end;
mod leg;
mod mux;
mod names;
mod one_association;
mod opener;
mod pack;
mod receive;
mod recent;
mod request;
mod set;
mod shares;
mod shed;
mod state;
mod table;
mod target;
mod turns;

pub use datagram_queue::HeldDatagram;
pub use end::{Acceptor, Opener, StreamEnd};
pub use leg::{Leg, MOST_LEGS};
pub use mux::{Mux, MuxConfig};
pub use names::{AssociationKey, LegId, StreamKey};
pub use opener::Owes;
pub use request::Request;
pub use shed::StreamHolds;
pub use state::StreamError;
pub use target::{StreamHost, StreamTarget};

/// A peer breaks the rules of streams or windows. That destroys the circuit (S14).
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
    /// A message of an association whose number is not in use.
    #[error("message of an association that is not there")]
    NoAssociation,
    /// Parts that are no datagram together, or are not where they belong.
    #[error("parts of a datagram that do not belong together")]
    Cut,
    /// A message that the state of its stream or association does not allow.
    #[error("message out of order on a stream or association")]
    OutOfOrder,
    /// More data than was granted, or more granted than the window allows.
    #[error("stream credit exceeded")]
    Credit,
    /// A message about legs that the circuit's state does not allow.
    #[error("message about legs out of order")]
    Linking,
    /// A number of a payload that can't be: none, far ahead, or the number of a payload that was never sent.
    #[error("a payload's number is out of bounds")]
    Numbers,
    /// EXTEND with streams open, or together with other messages.
    #[error("EXTEND with streams open or beside other messages")]
    Extend,
}
