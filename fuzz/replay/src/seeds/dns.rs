//! Samples of DNS messages: queries as programs write them, streams of these, and answers.

use cepa_common::dns::{
    Answer, Heard, Question, Record, RecordType, ResponseCode, framed, read_query,
};

use super::Seed;

/// A query for the records of a type of `a.example`.
fn query(kind: RecordType) -> Vec<u8> {
    let question = Question::new("a.example", kind);
    let query = question.and_then(|question| question.to_query(7));
    query.unwrap_or_default()
}

/// The answer to such a query, with these records as they stand in a message behind their owner.
fn answer(kind: RecordType, records: &[&[u8]]) -> Vec<u8> {
    let Ok(Heard::Query(query)) = read_query(&query(kind)) else {
        return Vec::new();
    };
    let none: [Record; 0] = [];
    let answer = Answer::cleaned(&query.question, ResponseCode::NoError, none, false);
    let mut message = query.reply(&answer, usize::MAX);
    message[7] = u8::try_from(records.len()).unwrap_or(0);
    for record in records {
        // The owner is that of the question, by pointer.
        message.extend([0xc0, 12]);
        message.extend_from_slice(record);
    }
    message
}

pub(super) fn dns() -> Vec<Seed> {
    let of = |first: u8, message: Vec<u8>| [vec![first], message].concat();
    let one = query(RecordType::A);
    let stream = [framed(&one), framed(&query(RecordType::MX))];
    let stream = stream.into_iter().flatten().flatten().collect();
    // With EDNS: 4,096 bytes, and a cookie.
    let mut edns = one.clone();
    edns[11] = 1;
    edns.extend([
        0, 0, 41, 16, 0, 0, 0, 0, 0, 0, 12, 0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8,
    ]);
    let addresses = answer(
        RecordType::A,
        &[
            &[0, 1, 0, 1, 0, 0, 2, 0, 0, 4, 8, 8, 8, 8],
            &[0, 1, 0, 1, 0, 0, 2, 0, 0, 4, 10, 0, 0, 1],
        ],
    );
    // An alias of a name that has an address in the same answer.
    let alias = answer(
        RecordType::AAAA,
        &[
            b"\0\x05\0\x01\0\0\0\x05\0\x04\x01b\xc0\x0e",
            &[&[0, 28, 0, 1, 0, 0, 0, 1, 0, 16, 0x26][..], &[0; 15]].concat(),
        ],
    );
    let hints = answer(
        RecordType::HTTPS,
        &[b"\0\x41\0\x01\0\0\0\x05\0\x0f\0\x01\0\0\x04\0\x08\x0a\0\0\x01\x08\x08\x08\x08"],
    );
    let text = answer(RecordType::TXT, &[b"\0\x10\0\x01\0\0\0\x05\0\x05\x04said"]);
    let circle = answer(RecordType::A, &[b"\0\x05\0\x01\0\0\0\x05\0\x02\xc0\x0c"]);
    let mut pointer = one.clone();
    pointer[12..14].copy_from_slice(&[0xc0, 12]);
    let mut questions = one.clone();
    questions[4..6].copy_from_slice(&[0xff, 0xff]);
    vec![
        ("dns", "good_query", of(0, one)),
        ("dns", "good_edns", of(0, edns)),
        ("dns", "good_stream", of(255, stream)),
        ("dns", "good_addresses", of(1, addresses)),
        ("dns", "good_nothing", of(2, answer(RecordType::NS, &[]))),
        ("dns", "good_alias", of(28, alias)),
        ("dns", "good_hints", of(65, hints)),
        ("dns", "good_text", of(16, text)),
        ("dns", "circle", of(5, circle)),
        ("dns", "pointer", of(0, pointer)),
        ("dns", "questions", of(0, questions)),
    ]
}
