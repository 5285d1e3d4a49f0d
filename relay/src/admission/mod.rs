//! What this relay takes on, and what it gives up when that was too much.

mod directory;
mod memory;

pub(crate) use directory::Admission;
pub(crate) use memory::{Memory, keep_within_budget};
