//! The target for DNS messages: what an exit, and a listener of a client, reads of who asks, and what a client reads of
//! an exit.

use cepa_common::dns::{
    Answer, Frames, Heard, MOST_QUERY, Question, RecordType, ResponseCode, TTL_SECONDS, read_query,
};

/// Reads the bytes as what the first of them says: a query (0), a stream of queries (255), or an answer to the question
/// for the records of a type, by its number, of `a.example`.
pub(crate) fn dns(data: &[u8]) -> bool {
    match data.split_first() {
        None => false,
        Some((0, message)) => query(message),
        Some((255, stream)) => {
            let (mut frames, mut accepted) = (Frames::new(MOST_QUERY), false);
            frames.push(stream);
            while let Ok(Some(message)) = frames.next_message() {
                accepted |= query(&message);
            }
            accepted
        }
        Some((kind, message)) => {
            let question = Question::new("a.example", RecordType::from(u16::from(*kind)));
            question.is_some_and(|question| answer(message, &question))
        }
    }
}

/// What is heard as a query can be answered, and the answer is one to the question.
fn query(message: &[u8]) -> bool {
    let Ok(Heard::Query(query)) = read_query(message) else {
        return false;
    };
    let reply = query.reply(&Answer::of(ResponseCode::NXDomain), query.most_udp_bytes());
    assert!(reply.len() <= query.most_udp_bytes());
    assert!(Answer::read(&reply, &query.question, false).is_ok());
    let _ = query.question.judge(false);
    true
}

/// What is told of an answer holds no private address, and is the same when it is told on.
fn answer(message: &[u8], question: &Question) -> bool {
    let Ok(answer) = Answer::read(message, question, false) else {
        return false;
    };
    let is_public = |ip| cepa_common::dir::classify(ip) == cepa_common::dir::AddressClass::Public;
    assert!(answer.addresses().all(is_public));
    assert!(answer.records().iter().all(|it| it.ttl == TTL_SECONDS));
    let _ = (answer.names().count(), answer.bytes());
    let (code, records) = (answer.code(), answer.records().to_vec());
    assert_eq!(Answer::cleaned(question, code, records, false), answer);
    true
}
