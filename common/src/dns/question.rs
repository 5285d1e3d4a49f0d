//! What is asked for, and what nobody is asked for.

use std::net::IpAddr;

use hickory_proto::op::{Message, MessageType, OpCode, Query as Asked, ResponseCode};
use hickory_proto::rr::{Name, RecordType};

use super::reverse;
use crate::cell::message::{SpecialName, is_name};

/// What is asked for: a name and a type, of the class IN.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Question {
    /// In lower case, without a dot at its end.
    name: String,
    kind: RecordType,
}

/// Debug output hides the name, because logs never hold destinations.
impl core::fmt::Debug for Question {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Question({})", self.kind)
    }
}

/// The last two labels of a name: whoever has a host has all names below them, or nearly so. Who has many questions, or
/// many streams, takes turns by it with others.
pub fn domain_of(name: &str) -> &str {
    let name = name.strip_suffix('.').unwrap_or(name);
    let before = name.rmatch_indices('.').nth(1);
    let domain = before.and_then(|(dot, _)| name.get(dot + 1..));
    domain.unwrap_or(name)
}

/// Why a question is answered and nobody is asked (docs/protocol.md, 5.42).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unasked {
    /// The name is none of the DNS.
    Special(SpecialName),
    /// The name ends like an address, as old resolvers read it.
    Number,
    /// The name stands for an address that is not public.
    Private,
    /// The type is none of records, or asks for everything.
    Kind,
}

impl Unasked {
    /// What such a question is answered.
    pub fn code(self) -> ResponseCode {
        match self {
            Self::Special(_) | Self::Number => ResponseCode::NXDomain,
            Self::Private | Self::Kind => ResponseCode::Refused,
        }
    }
}

impl Question {
    /// A question for `name`, with or without a dot at its end and in any case. `None` if no BEGIN could carry the name.
    pub fn new(name: &str, kind: RecordType) -> Option<Self> {
        let name = name.strip_suffix('.').unwrap_or(name);
        is_name(name).then(|| Self {
            name: name.to_ascii_lowercase(),
            kind,
        })
    }

    /// The question for the name of an address.
    pub fn reverse(address: IpAddr) -> Self {
        Self {
            name: reverse::name_of(address),
            kind: RecordType::PTR,
        }
    }

    /// The name, in lower case and without a dot at its end.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The type of the records that are asked for.
    pub fn kind(&self) -> RecordType {
        self.kind
    }

    /// May a name server be asked this? `allow_private` says whether the network is one in which private addresses are
    /// told.
    ///
    /// # Errors
    /// Why it may not.
    pub fn judge(&self, allow_private: bool) -> Result<(), Unasked> {
        if let Some(special) = SpecialName::of(&self.name) {
            return Err(Unasked::Special(special));
        }
        if ends_in_number(&self.name) {
            return Err(Unasked::Number);
        }
        if !is_of_records(self.kind) {
            return Err(Unasked::Kind);
        }
        match !allow_private && reverse::is_private(&self.name) {
            true => Err(Unasked::Private),
            false => Ok(()),
        }
    }

    /// The name as messages have it, label by label and as it is: hickory's reading of text would refuse some names
    /// that servers know, such as those with a hyphen in front, and change others (IDNA).
    pub fn wire_name(&self) -> Option<Name> {
        let mut name = Name::from_labels(self.name.split('.').map(str::as_bytes)).ok()?;
        // Nothing is added to a complete name.
        name.set_fqdn(true);
        Some(name)
    }

    /// The query by which an exit is asked, without a word of the program that wants to know.
    pub fn to_query(&self, id: u16) -> Option<Vec<u8>> {
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Asked::query(self.wire_name()?, self.kind));
        message.to_vec().ok()
    }
}

/// Does a name end in a label that old resolvers read as a number (`127.1`, `0x7f000001`)? A resolver that takes it for
/// an address would be a way around the policy (S31).
fn ends_in_number(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or_default();
    match last.strip_prefix("0x") {
        Some(digits) => digits.bytes().all(|b| b.is_ascii_hexdigit()),
        None => last.bytes().all(|b| b.is_ascii_digit()),
    }
}

/// Is this the type of a record, and of one that stands in zones? Types from 128 to 255 are questions and what belongs
/// to the message itself (RFC 6895, section 3.1).
fn is_of_records(kind: RecordType) -> bool {
    !matches!(u16::from(kind), 0 | 128..=255 | u16::MAX)
        && !matches!(kind, RecordType::OPT | RecordType::SIG)
}

/// The labels of a name with dots between them. `None` if a label has a dot in it, or bytes that are no text.
pub(super) fn text_of(name: &Name) -> Option<String> {
    let labels: Option<Vec<_>> = name
        .iter()
        .map(|label| {
            let text = core::str::from_utf8(label).ok();
            text.filter(|text| !text.contains('.'))
        })
        .collect();
    Some(labels?.join("."))
}
