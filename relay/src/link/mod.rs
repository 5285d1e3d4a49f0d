//! Links: accepted from anybody, dialled to other relays, and kept for as long as they live.

mod links;
mod listen;

pub(crate) use links::{Links, WeakCore};
pub(crate) use listen::{Admission, listen};
