//! Which relays a circuit goes through (docs/protocol.md, chapter 7 for circuits, 6.9 for what a consensus says).
//!
//! Pure: a consensus, a request and randomness in, a [`Path`] or the rule that left no relay out. The circuit pool
//! calls it, with a new [`PathSelector`] for each consensus. Persistent guards are absent so far; a caller that keeps
//! one names it in [`PathRequest::first`].

mod select;

pub use select::{
    DEFAULT_HOPS, Path, PathError, PathRequest, PathSelector, Position, Rule, Target,
};
