//! Links: accepted from anybody, dialled to other relays, and kept for as long as they live.
//!
//! [`listen`] accepts connections and finds out what they are; [`PeerLinks`] finds a link to another relay or dials it.
//! Both start links with one [`LinkContext`]. The link's own task handles whatever comes in on a link, except CREATEs:
//! these go to the queue of the workers that answer them ([`crate::admission::JobQueue`]).

mod listen;
mod peers;
mod start;

pub(crate) use listen::{Doors, LinkListener, listen};
pub(crate) use peers::PeerLinks;
pub(crate) use start::LinkContext;
