//! Answers: what is let through of what a server or an exit has said.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::svcb::{SVCB, SvcParamKey, SvcParamValue};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::BinEncodable as _;

use super::question::{Question, text_of};
use crate::dir::is_dialable;

/// The time to live that records are told with, always the same, in seconds: what is left of a server's own would say
/// when others asked.
pub const TTL_SECONDS: u32 = 60;
/// Records of an answer that are told. The others are left out.
pub const MOST_RECORDS: usize = 256;
/// CNAMEs that may lead from the name that was asked for to another one.
const MOST_ALIASES: usize = 16;

/// An answer, clean: records of the type that was asked for and the CNAMEs on the way there, and no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    code: ResponseCode,
    records: Vec<Record>,
}

/// What came is no answer to the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no answer to the question")]
pub struct BadAnswer;

impl Answer {
    /// An answer without records.
    pub fn of(code: ResponseCode) -> Self {
        Self {
            code,
            records: Vec::new(),
        }
    }

    /// What may be told of `records`: those of the name that was asked for, or of one that CNAMEs lead to, which have
    /// the type asked for. Addresses that are not public are taken out, unless `allow_private`; those that nobody may
    /// dial always are.
    pub fn cleaned(
        question: &Question,
        code: ResponseCode,
        records: impl IntoIterator<Item = Record>,
        allow_private: bool,
    ) -> Self {
        let of_type = |record: &Record| {
            record.dns_class == DNSClass::IN
                && [question.kind(), RecordType::CNAME].contains(&record.record_type())
        };
        let mut records: Vec<_> = records.into_iter().filter(of_type).collect();
        let names = names(question, &records);
        records.retain_mut(|record| {
            record.ttl = TTL_SECONDS;
            names.contains(&record.name) && may_be_told(&mut record.data, allow_private)
        });
        records.truncate(MOST_RECORDS);
        records.shrink_to_fit();
        Self { code, records }
    }

    /// Reads the answer to `question` that an exit has given, and its id, which must be that of the query.
    ///
    /// # Errors
    /// [`BadAnswer`]: the exit does not speak as it should.
    pub fn read(
        message: &[u8],
        question: &Question,
        allow_private: bool,
    ) -> Result<Self, BadAnswer> {
        let read = Message::from_vec(message).map_err(|_| BadAnswer)?;
        let asked = match read.queries.as_slice() {
            [asked] => asked,
            _ => return Err(BadAnswer),
        };
        let is_answer = read.metadata.message_type == MessageType::Response
            && read.metadata.op_code == OpCode::Query
            && !read.metadata.truncation
            && asked.query_class() == DNSClass::IN
            && asked.query_type() == question.kind()
            && question.wire_name().as_ref() == Some(asked.name());
        if !is_answer {
            return Err(BadAnswer);
        }
        let code = read.metadata.response_code;
        Ok(Self::cleaned(question, code, read.answers, allow_private))
    }

    /// The id of a message; `None` if it has none, or is no answer with one question.
    pub fn id(message: &[u8]) -> Option<u16> {
        match message {
            // The library would make room for as many questions as the head says.
            [high, low, flags, _, 0, 1, ..] if flags & 0x80 != 0 => {
                Some(u16::from_be_bytes([*high, *low]))
            }
            _ => None,
        }
    }

    /// What the answer says of the question: that there are records, or why there are none.
    pub fn code(&self) -> ResponseCode {
        self.code
    }

    /// The records.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// The addresses that the answer has.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.records
            .iter()
            .filter_map(|record| address_of(&record.data))
    }

    /// The names that the answer has for an address, as text; those are left out that a BEGIN could not carry.
    pub fn names(&self) -> impl Iterator<Item = String> {
        self.records.iter().filter_map(|record| match &record.data {
            RData::PTR(name) => {
                let text = text_of(&name.0)?;
                Question::new(&text, RecordType::PTR).map(|name| name.name().to_owned())
            }
            _ => None,
        })
    }

    /// About how many bytes the answer takes in memory, and rather too many: what an exit says must not weigh more than
    /// it counts.
    pub fn bytes(&self) -> usize {
        let records = self.records.capacity() * size_of::<Record>();
        let held: usize = self.records.iter().map(heap_bytes).sum();
        size_of::<Self>() + records + held
    }
}

/// What a record takes in memory beside its own place, in bytes.
fn heap_bytes(record: &Record) -> usize {
    // What cannot be written has no more than a message.
    let written = |data: &RData| data.to_bytes().map_or(usize::from(u16::MAX), |it| it.len());
    let data = match &record.data {
        RData::A(_) | RData::AAAA(_) => 0,
        RData::TXT(text) => text.txt_data.iter().map(|part| part.len() + 16).sum(),
        RData::Unknown { rdata, .. } => rdata.anything.len(),
        // Each bit is an entry of a tree.
        data @ RData::CSYNC(_) => 96 * written(data),
        // Lists of short texts weigh most, and each parameter of a service has a place of its own.
        data => 256 + 24 * written(data),
    };
    // The labels of a name, and where they end.
    64 + 2 * record.name.len() + data
}

/// The name that was asked for, and those that CNAMEs lead to from there.
fn names(question: &Question, records: &[Record]) -> HashSet<Name> {
    let mut names: HashSet<Name> = question.wire_name().into_iter().collect();
    for _ in 0..MOST_ALIASES {
        let before = names.len();
        for record in records {
            if let RData::CNAME(to) = &record.data
                && names.contains(&record.name)
                && names.len() <= MOST_ALIASES
            {
                names.insert(to.0.clone());
            }
        }
        if names.len() == before {
            break;
        }
    }
    names
}

/// Takes the addresses out of a record that may not be told. Says whether anything is left of it.
fn may_be_told(data: &mut RData, allow_private: bool) -> bool {
    if let Some(address) = address_of(data) {
        return is_told(address, allow_private);
    }
    match data {
        RData::SVCB(service) => clean_service(service, allow_private),
        RData::HTTPS(service) => clean_service(&mut service.0, allow_private),
        _ => true,
    }
}

fn is_told(address: IpAddr, allow_private: bool) -> bool {
    // Any port but 0: the address alone is judged.
    is_dialable(SocketAddr::new(address, 1), allow_private)
}

/// Takes hints that may not be told out of the description of a service. One that says that its hints must be followed
/// is worth nothing without them.
fn clean_service(service: &mut SVCB, allow_private: bool) -> bool {
    let mut gone = Vec::new();
    service.svc_params.retain_mut(|(key, value)| {
        let is_empty = match value {
            SvcParamValue::Ipv4Hint(hint) => {
                hint.0.retain(|ip| is_told(ip.0.into(), allow_private));
                hint.0.is_empty()
            }
            SvcParamValue::Ipv6Hint(hint) => {
                hint.0.retain(|ip| is_told(ip.0.into(), allow_private));
                hint.0.is_empty()
            }
            _ => false,
        };
        if is_empty {
            gone.push(*key);
        }
        !is_empty
    });
    let needs = |value: &SvcParamValue| match value {
        SvcParamValue::Mandatory(keys) => keys.0.iter().any(|key| gone.contains(key)),
        _ => false,
    };
    let params = &service.svc_params;
    let is_needed = |(key, value): &(SvcParamKey, SvcParamValue)| {
        *key == SvcParamKey::Mandatory && needs(value)
    };
    !params.iter().any(is_needed)
}

/// An address that a record says of a name.
fn address_of(data: &RData) -> Option<IpAddr> {
    match data {
        RData::A(ip) => Some(IpAddr::V4(ip.0)),
        RData::AAAA(ip) => Some(IpAddr::V6(ip.0)),
        _ => None,
    }
}
