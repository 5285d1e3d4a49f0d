//! The client half of Cepa: directory client, paths, circuits, streams, front ends.

pub mod circuit;
pub mod dir;
pub mod front;
pub mod path;
