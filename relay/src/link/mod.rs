//! Links: accepted from anybody, dialled to other relays, and kept for as long as they live.
//!
//! [`listen`] accepts connections and finds out what they are; [`PeerLinks`] finds a link to another relay or dials it.
//! Both start links with the same [`LinkContext`]. What comes in on a link stays with the link's own task, but for
//! CREATEs: these go to the queue of those who answer them ([`crate::admission::JobQueue`]).

mod listen;
mod peers;
mod start;

pub(crate) use listen::{Doors, Listener, listen};
pub(crate) use peers::PeerLinks;
pub(crate) use start::LinkContext;
