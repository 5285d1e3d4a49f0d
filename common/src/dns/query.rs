//! Queries, as they are read, and the answers that are written to them.

use hickory_proto::op::{Edns, Message, OpCode, Query as Asked, ResponseCode};
use hickory_proto::rr::DNSClass;

use super::answer::Answer;
use super::question::{Question, text_of};

/// The longest query that anybody takes, in bytes (docs/protocol.md, 5.41). One with a name of 253 has 271.
pub const MOST_QUERY: usize = 4_096;
/// The most bytes of an answer that this program takes by UDP, which it tells whoever asks with EDNS: an answer of that
/// length is not cut into fragments (RFC 9715).
const UDP_BYTES: u16 = 1_232;

/// Bits of the head of a message (RFC 1035, section 4.1.1).
const IS_ANSWER: u8 = 0x80;
const OPCODE: u8 = 0x78;

/// A query as it was read.
#[derive(Clone, Debug)]
pub struct Query {
    /// What is asked.
    pub question: Question,
    head: Head,
}

/// What the answer to a query repeats of it, and what it must keep to.
#[derive(Clone, Debug)]
struct Head {
    id: u16,
    recursion_desired: bool,
    checking_disabled: bool,
    /// The question as it was written.
    asked: Asked,
    /// The bytes that whoever asks takes by UDP, if it has said so by EDNS.
    udp_bytes: Option<u16>,
}

/// What a message was that asks for something.
#[derive(Debug)]
pub enum Heard {
    /// A query that can be judged.
    Query(Query),
    /// What is no such query. This is the answer to it.
    Refused(Vec<u8>),
}

/// The message is an answer, or shorter than any message. Whoever sends it speaks no DNS, or speaks to somebody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no query")]
pub struct NotAQuery;

/// Reads a query (docs/protocol.md, 5.41).
///
/// # Errors
/// [`NotAQuery`], to which there is no answer.
pub fn read_query(message: &[u8]) -> Result<Heard, NotAQuery> {
    let Some((&[id_high, id_low, flags, _, count_high, count_low, ..], _)) =
        message.split_first_chunk::<12>()
    else {
        return Err(NotAQuery);
    };
    if flags & IS_ANSWER != 0 {
        return Err(NotAQuery);
    }
    let id = u16::from_be_bytes([id_high, id_low]);
    let op_code = OpCode::from_u8((flags & OPCODE) >> 3);
    let refused = |code| {
        let mut answer = Message::error_msg(id, op_code, code);
        answer.metadata.recursion_available = true;
        // A head alone always fits.
        Ok(Heard::Refused(answer.to_vec().unwrap_or_default()))
    };
    if op_code != OpCode::Query {
        return refused(ResponseCode::NotImp);
    }
    // The library would make room for as many questions as the head says.
    if [count_high, count_low] != [0, 1] {
        return refused(ResponseCode::FormErr);
    }
    let Ok(read) = Message::from_vec(message) else {
        return refused(ResponseCode::FormErr);
    };
    let asked = match read.queries.first() {
        Some(asked) if read.answers.is_empty() && read.authorities.is_empty() => asked,
        _ => return refused(ResponseCode::FormErr),
    };
    let head = Head {
        id,
        recursion_desired: read.metadata.recursion_desired,
        checking_disabled: read.metadata.checking_disabled,
        asked: asked.clone(),
        udp_bytes: read.edns.as_ref().map(Edns::max_payload),
    };
    let refused = |code| {
        let refused = head.reply(&Answer::of(code), usize::from(u16::MAX));
        Ok(Heard::Refused(refused))
    };
    if read.edns.is_some_and(|edns| edns.version() != 0) {
        return refused(ResponseCode::BADVERS);
    }
    if asked.query_class() != DNSClass::IN {
        return refused(ResponseCode::Refused);
    }
    let question = text_of(asked.name()).and_then(|name| Question::new(&name, asked.query_type()));
    match question {
        Some(question) => Ok(Heard::Query(Query { question, head })),
        None => refused(ResponseCode::Refused),
    }
}

impl Query {
    /// The most bytes of an answer by UDP: 512, or what whoever asks takes, and 1,232 at most.
    pub fn most_udp_bytes(&self) -> usize {
        usize::from(self.head.udp_bytes.unwrap_or(512).clamp(512, UDP_BYTES))
    }

    /// Writes the answer to this query. If it has more than `most` bytes, it says no more than that it was too long
    /// (TC).
    pub fn reply(&self, answer: &Answer, most: usize) -> Vec<u8> {
        self.head.reply(answer, most)
    }
}

impl Head {
    fn reply(&self, answer: &Answer, most: usize) -> Vec<u8> {
        let mut message = Message::response(self.id, OpCode::Query);
        message.metadata.recursion_desired = self.recursion_desired;
        message.metadata.checking_disabled = self.checking_disabled;
        message.metadata.recursion_available = true;
        message.metadata.response_code = answer.code();
        message.add_query(self.asked.clone());
        message.edns = self.udp_bytes.map(|_| {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_BYTES);
            edns
        });
        for record in answer.records() {
            let mut record = record.clone();
            if record.name == *self.asked.name() {
                // Some programs mix cases in what they ask, and look for the same in the answer.
                record.name.clone_from(self.asked.name());
            }
            message.add_answer(record);
        }
        let fits = |bytes: &Vec<u8>| bytes.len() <= most;
        let written = message.to_vec().ok().filter(fits);
        written.unwrap_or_else(|| {
            message.answers.clear();
            message.metadata.truncation = true;
            // A question alone always fits: it came in a message.
            message.to_vec().unwrap_or_default()
        })
    }
}
