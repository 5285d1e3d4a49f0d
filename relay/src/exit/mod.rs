//! Streams to the outside: policy, names, TCP.

mod connect;
mod serve;

pub(crate) use connect::ExitConnector;
pub(crate) use serve::serve;
