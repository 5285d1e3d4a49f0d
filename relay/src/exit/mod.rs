//! Streams to the outside: policy, names, TCP.

mod serve;

pub(crate) use serve::serve;
