//! DNS messages, as exits, clients and the listeners of clients read and write them (docs/protocol.md, 5.40 to 5.45).
//!
//! An exit answers queries in a stream ([`crate::stream::StreamTarget::Resolver`]); a client asks by it, and answers
//! its own programs. All three read queries by [`read_query`], write answers by [`Query::reply`], and let nothing of an
//! answer through but what [`Answer::cleaned`] leaves. hickory parses the messages themselves.
//!
//! The room is pure. Absent from it on purpose: sockets, and any server to ask.

mod answer;
mod frames;
mod query;
mod question;
mod reverse;

#[cfg(test)]
mod tests;

pub use answer::{Answer, BadAnswer, MOST_RECORDS, TTL_SECONDS};
pub use frames::{BadFrame, Frames, framed};
// What the functions of this room take and give.
pub use hickory_proto::op::ResponseCode;
pub use hickory_proto::rr::{Name, RData, Record, RecordType};
pub use query::{Heard, MOST_QUERY, NotAQuery, Query, read_query};
pub use question::{Question, Unasked, domain_of};
