//! The relay half of Cepa: links in, circuit switching, exits, directory cache, directory authority.

pub mod authority;
pub mod directory;
pub mod exit;
pub mod switch;
