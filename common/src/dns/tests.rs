#![allow(clippy::unwrap_used)]

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query as Asked};
use hickory_proto::rr::rdata::svcb::{
    IpHint, Mandatory, SVCB, SvcParamKey, SvcParamValue, Unknown,
};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, CSYNC, HTTPS, MX, NULL, OPENPGPKEY, PTR, TXT};
use hickory_proto::rr::{DNSClass, RData, Record, RecordType};
use proptest::prelude::*;

use super::*;
use crate::cell::message::SpecialName;

fn question(name: &str, kind: RecordType) -> Question {
    Question::new(name, kind).unwrap()
}

fn name(text: &str) -> Name {
    question(text, RecordType::A).wire_name().unwrap()
}

fn record(of: &str, data: RData) -> Record {
    Record::from_rdata(name(of), 7_000, data)
}

fn a(of: &str, ip: &str) -> Record {
    let data = match ip.parse().unwrap() {
        IpAddr::V4(ip) => RData::A(A(ip)),
        IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
    };
    record(of, data)
}

fn alias(of: &str, to: &str) -> Record {
    record(of, RData::CNAME(CNAME(name(to))))
}

/// A query as programs write them, changed by `change`.
fn query(change: impl FnOnce(&mut Message)) -> Vec<u8> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    let mut asked = Asked::query(Name::from_ascii("wWw.Example.org.").unwrap(), RecordType::A);
    asked.set_query_class(DNSClass::IN);
    message.add_query(asked);
    change(&mut message);
    message.to_vec().unwrap()
}

fn heard(message: &[u8]) -> Query {
    match read_query(message).unwrap() {
        Heard::Query(query) => query,
        Heard::Refused(answer) => panic!("{:?}", Message::from_vec(&answer)),
    }
}

fn refusal(message: &[u8]) -> Message {
    match read_query(message).unwrap() {
        Heard::Query(query) => panic!("{query:?}"),
        Heard::Refused(answer) => Message::from_vec(&answer).unwrap(),
    }
}

#[test]
fn a_query_is_read_and_its_answer_repeats_what_it_must() {
    let query = heard(&query(|message| {
        message.metadata.checking_disabled = true;
        message.metadata.authentic_data = true;
    }));
    assert_eq!(query.question, question("www.example.org", RecordType::A));
    assert_eq!(query.most_udp_bytes(), 512);
    let records = [a("www.example.org", "8.8.8.8")];
    let answer = Answer::cleaned(&query.question, ResponseCode::NoError, records, false);
    let reply = Message::from_vec(&query.reply(&answer, 512)).unwrap();
    let head = reply.metadata;
    assert_eq!((head.id, head.message_type), (7, MessageType::Response));
    assert!(head.recursion_desired && head.recursion_available && head.checking_disabled);
    assert!(!head.authentic_data && !head.authoritative && !head.truncation);
    assert!(reply.edns.is_none() && reply.authorities.is_empty());
    // The spelling of the question is that of whoever asks, in the records too.
    let spelling = "wWw.Example.org.";
    assert_eq!(reply.queries[0].name().to_ascii(), spelling);
    assert_eq!(reply.answers[0].name.to_ascii(), spelling);
    assert_eq!(reply.answers[0].ttl, TTL_SECONDS);
}

#[test]
fn what_is_no_query_is_told_why_or_nothing() {
    use ResponseCode::*;
    let code = |message: &[u8]| refusal(message).metadata.response_code;
    let with_kind = |kind| {
        query(|message| {
            message.queries[0].set_query_type(kind);
        })
    };
    let status = query(|message| message.metadata.op_code = OpCode::Status);
    assert_eq!(code(&status), NotImp);
    assert_eq!(refusal(&status).metadata.op_code, OpCode::Status);
    let two = query(|message| {
        let asked = message.queries[0].clone();
        message.add_query(asked);
    });
    assert_eq!(code(&two), FormErr);
    assert_eq!(code(&query(|message| message.queries.clear())), FormErr);
    let with_answer = query(|message| {
        message.add_answer(a("a.example", "8.8.8.8"));
    });
    assert_eq!(code(&with_answer), FormErr);
    let whole = with_kind(RecordType::A);
    assert_eq!(code(&whole[..whole.len() - 1]), FormErr);
    // A count of questions alone makes nobody make room for them.
    let mut many = whole.clone();
    many[4..6].copy_from_slice(&[0xff, 0xff]);
    assert_eq!(code(&many), FormErr);
    let chaos = query(|message| {
        message.queries[0].set_query_class(DNSClass::CH);
    });
    assert_eq!(code(&chaos), Refused);
    let root = query(|message| {
        message.queries[0].set_name(Name::root());
    });
    assert_eq!(code(&root), Refused);
    let blank = Name::from_labels([b"a b".as_slice(), b"example"]).unwrap();
    let blank = query(|message| {
        message.queries[0].set_name(blank);
    });
    assert_eq!(code(&blank), Refused);
    let dotted = Name::from_labels([b"a.b".as_slice(), b"example"]).unwrap();
    let dotted = query(|message| {
        message.queries[0].set_name(dotted);
    });
    assert_eq!(code(&dotted), Refused);
    let later = query(|message| {
        let mut edns = Edns::new();
        edns.set_version(1);
        message.set_edns(edns);
    });
    // BADSIG has the same number.
    assert_eq!(u16::from(code(&later)), u16::from(BADVERS));
    // To these there is no answer.
    let answer = query(|message| message.metadata.message_type = MessageType::Response);
    assert!(read_query(&answer).is_err());
    assert!(read_query(&whole[..11]).is_err() && read_query(&[]).is_err());
}

#[test]
fn questions_that_nobody_is_asked() {
    let judge = |name, kind| question(name, kind).judge(false);
    let special = |name| judge(name, RecordType::A);
    for (name, kind) in [
        ("localhost", SpecialName::Localhost),
        ("a.LOCALHOST.", SpecialName::Localhost),
        ("resolver.cepa.alt", SpecialName::Alt),
        ("x.cepa", SpecialName::Cepa),
        ("nas.home.arpa", SpecialName::Home),
        ("a.test", SpecialName::Test),
        ("a.invalid", SpecialName::Invalid),
    ] {
        assert_eq!(special(name), Err(Unasked::Special(kind)), "{name}");
    }
    for name in ["127.1", "2130706433", "0x7f000001", "a.0x1", "1.2.3.4"] {
        assert_eq!(special(name), Err(Unasked::Number), "{name}");
    }
    for kind in [
        RecordType::ANY,
        RecordType::AXFR,
        RecordType::IXFR,
        RecordType::OPT,
        RecordType::SIG,
        RecordType::TSIG,
        RecordType::ZERO,
        RecordType::Unknown(200),
        RecordType::Unknown(u16::MAX),
    ] {
        assert_eq!(judge("a.example", kind), Err(Unasked::Kind), "{kind}");
    }
    for kind in [
        RecordType::AAAA,
        RecordType::HTTPS,
        RecordType::CAA,
        RecordType::DNSKEY,
        RecordType::Unknown(65_280),
    ] {
        assert_eq!(judge("a.example", kind), Ok(()), "{kind}");
    }
    assert_eq!(Unasked::Number.code(), ResponseCode::NXDomain);
    assert_eq!(Unasked::Private.code(), ResponseCode::Refused);
}

#[test]
fn names_of_private_addresses_are_not_asked_for() {
    let reverse = |text: &str| Question::reverse(text.parse().unwrap());
    assert_eq!(reverse("8.8.4.4").name(), "4.4.8.8.in-addr.arpa");
    let v6 = reverse("2001:4860:4860::8844");
    assert_eq!(
        v6.name(),
        "4.4.8.8.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.8.4.0.6.8.4.1.0.0.2.ip6.arpa"
    );
    assert_eq!((v6.kind(), v6.judge(false)), (RecordType::PTR, Ok(())));
    for address in [
        "10.0.0.1",
        "127.0.0.1",
        "192.168.7.7",
        "fe80::1",
        "::1",
        "fd00::7",
    ] {
        assert_eq!(
            reverse(address).judge(false),
            Err(Unasked::Private),
            "{address}"
        );
        assert_eq!(reverse(address).judge(true), Ok(()), "{address}");
    }
    let judge = |name| question(name, RecordType::PTR).judge(false);
    for name in [
        "10.in-addr.arpa",
        "168.192.in-addr.arpa",
        "b._dns-sd._udp.0.168.192.in-addr.arpa",
        "d.f.ip6.arpa",
        "0.8.e.f.ip6.arpa",
        "8.b.d.0.1.0.0.2.ip6.arpa",
    ] {
        assert_eq!(judge(name), Err(Unasked::Private), "{name}");
    }
    for name in [
        "8.in-addr.arpa",
        "2.ip6.arpa",
        "0.0.2.ip6.arpa",
        "in-addr.arpa",
        "a.ip6.arpa.example",
    ] {
        assert_eq!(judge(name), Ok(()), "{name}");
    }
}

#[test]
fn of_an_answer_is_told_what_was_asked_for_and_no_private_address() {
    let asked = question("www.example", RecordType::A);
    let records = || {
        [
            alias("www.example", "b.example"),
            a("c.example", "8.8.8.8"),
            alias("b.example", "c.example"),
            a("c.example", "10.0.0.1"),
            a("c.example", "2600::1"),
            a("d.example", "9.9.9.9"),
            record("c.example", RData::TXT(TXT::new(vec!["text".to_owned()]))),
            a("c.example", "127.0.0.1"),
            a("c.example", "0.0.0.0"),
        ]
    };
    let told = Answer::cleaned(&asked, ResponseCode::NoError, records(), false);
    let kinds: Vec<_> = told.records().iter().map(Record::record_type).collect();
    assert_eq!(kinds, [RecordType::CNAME, RecordType::A, RecordType::CNAME]);
    assert!(told.records().iter().all(|record| record.ttl == 60));
    let addresses =
        |answer: &Answer| -> Vec<String> { answer.addresses().map(|ip| ip.to_string()).collect() };
    assert_eq!(addresses(&told), ["8.8.8.8"]);
    let told = Answer::cleaned(&asked, ResponseCode::NoError, records(), true);
    assert_eq!(addresses(&told), ["8.8.8.8", "10.0.0.1", "127.0.0.1"]);
    let mut other = a("www.example", "8.8.8.8");
    other.dns_class = DNSClass::CH;
    let told = Answer::cleaned(&asked, ResponseCode::NoError, [other], true);
    assert_eq!(told.records(), []);
    let many = (0..1_000).map(|n: u32| a("www.example", &format!("8.8.{}.{}", n >> 8, n & 255)));
    let told = Answer::cleaned(&asked, ResponseCode::NoError, many, false);
    assert_eq!(told.records().len(), MOST_RECORDS);
}

/// CNAMEs in a circle, and more of them than anybody follows, end.
#[test]
fn aliases_lead_only_so_far() {
    let asked = question("0.example", RecordType::A);
    let circle = [
        alias("0.example", "1.example"),
        alias("1.example", "0.example"),
    ];
    let told = Answer::cleaned(&asked, ResponseCode::NoError, circle, false);
    assert_eq!(told.records().len(), 2);
    // The last stands first, so that each pass finds one more.
    let chain = (0..100)
        .rev()
        .map(|n| alias(&format!("{n}.example"), &format!("{}.example", n + 1)));
    let told = Answer::cleaned(&asked, ResponseCode::NoError, chain, false);
    assert_eq!(told.records().len(), 17);
}

#[test]
fn hints_of_services_are_addresses_too() {
    let asked = question("a.example", RecordType::HTTPS);
    let service = |mandatory: &[SvcParamKey], v4: &[[u8; 4]]| {
        let mut params = Vec::new();
        if !mandatory.is_empty() {
            let keys = Mandatory(mandatory.to_vec());
            params.push((SvcParamKey::Mandatory, SvcParamValue::Mandatory(keys)));
        }
        params.push((SvcParamKey::Port, SvcParamValue::Port(443)));
        let hint = IpHint(v4.iter().map(|ip| A((*ip).into())).collect());
        params.push((SvcParamKey::Ipv4Hint, SvcParamValue::Ipv4Hint(hint)));
        let hint = IpHint(vec![AAAA("fd00::1".parse().unwrap())]);
        params.push((SvcParamKey::Ipv6Hint, SvcParamValue::Ipv6Hint(hint)));
        record(
            "a.example",
            RData::HTTPS(HTTPS(SVCB::new(1, name("b.example"), params))),
        )
    };
    let told = |record: Record, allow_private| {
        let told = Answer::cleaned(&asked, ResponseCode::NoError, [record], allow_private);
        told.records().first().map(|record| match &record.data {
            RData::HTTPS(service) => service.svc_params.clone(),
            other => panic!("{other:?}"),
        })
    };
    let both = [[10, 0, 0, 1], [8, 8, 8, 8]];
    let left = told(service(&[], &both), false).unwrap();
    let hint = SvcParamValue::Ipv4Hint(IpHint(vec![A([8, 8, 8, 8].into())]));
    assert_eq!(left[1..], [(SvcParamKey::Ipv4Hint, hint)]);
    assert_eq!(told(service(&[], &both), true).unwrap().len(), 3);
    let needs = [SvcParamKey::Ipv6Hint];
    assert_eq!(told(service(&needs, &both), false), None);
    assert_eq!(
        told(service(&[SvcParamKey::Port], &both), false)
            .unwrap()
            .len(),
        3
    );
}

#[test]
fn an_answer_is_read_only_if_it_answers_the_question() {
    let asked = question("a.example", RecordType::PTR);
    let message = asked.to_query(9).unwrap();
    let query = heard(&message);
    assert_eq!(query.question, asked);
    let records = [record("a.example", RData::PTR(PTR(name("host.example"))))];
    let answer = Answer::cleaned(&asked, ResponseCode::NoError, records, false);
    let reply = query.reply(&answer, usize::MAX);
    assert_eq!(Answer::id(&reply), Some(9));
    assert_eq!(Answer::read(&reply, &asked, false).unwrap(), answer);
    assert_eq!(answer.names().collect::<Vec<_>>(), ["host.example"]);
    let changed = |change: &dyn Fn(&mut Message)| {
        let mut message = Message::from_vec(&reply).unwrap();
        change(&mut message);
        Answer::read(&message.to_vec().unwrap(), &asked, false)
    };
    assert!(changed(&|_| ()).is_ok());
    let changes: [&dyn Fn(&mut Message); 7] = [
        &|message| message.metadata.message_type = MessageType::Query,
        &|message| message.metadata.op_code = OpCode::Notify,
        &|message| message.metadata.truncation = true,
        &|message| message.queries.clear(),
        &|message| {
            message.queries[0].set_name(name("b.example"));
        },
        &|message| {
            message.queries[0].set_query_type(RecordType::A);
        },
        &|message| {
            message.queries[0].set_query_class(DNSClass::CH);
        },
    ];
    for (number, change) in changes.iter().enumerate() {
        assert!(changed(change).is_err(), "{number}");
    }
    assert!(Answer::read(&reply[..reply.len() - 1], &asked, false).is_err());
    // A query has an id, but is no answer.
    assert_eq!(Answer::id(&message), None);
}

#[test]
fn what_is_too_long_for_udp_says_so() {
    let asked = |edns: Option<u16>| {
        heard(&query(|message| {
            message.edns = edns.map(|bytes| {
                let mut edns = Edns::new();
                edns.set_max_payload(bytes);
                edns
            });
        }))
    };
    for (said, most) in [
        (None, 512),
        (Some(100), 512),
        (Some(800), 800),
        (Some(4_096), 1_232),
    ] {
        let query = asked(said);
        assert_eq!(query.most_udp_bytes(), most);
        let mail = |n: u16| {
            record(
                "www.example.org",
                RData::MX(MX::new(n, name(&format!("{n}.mail.example")))),
            )
        };
        let mails = question("www.example.org", RecordType::MX);
        let answer = Answer::cleaned(&mails, ResponseCode::NoError, (0..200).map(mail), false);
        let bytes = query.reply(&answer, most);
        assert!(bytes.len() <= most);
        let reply = Message::from_vec(&bytes).unwrap();
        assert!(reply.metadata.truncation && reply.answers.is_empty());
        assert_eq!(reply.edns.is_some(), said.is_some());
        let bytes = query.reply(&answer, usize::MAX);
        let reply = Message::from_vec(&bytes).unwrap();
        assert!(!reply.metadata.truncation);
        assert_eq!(reply.answers.len(), 200);
    }
}

#[test]
fn messages_come_out_of_any_pieces_of_a_stream() {
    let messages: Vec<Vec<u8>> = [12usize, 13, 4_096]
        .iter()
        .map(|len| vec![7; *len])
        .collect();
    let stream: Vec<u8> = messages.iter().flat_map(|it| framed(it).unwrap()).collect();
    for size in [1, 2, 3, 14, 1_000, stream.len()] {
        let (mut frames, mut got) = (Frames::new(MOST_QUERY), Vec::new());
        for piece in stream.chunks(size) {
            frames.push(piece);
            while let Some(message) = frames.next_message().unwrap() {
                got.push(message);
            }
        }
        assert_eq!(got, messages, "pieces of {size}");
        assert!(frames.is_empty() && frames.bytes() == 0);
    }
    for len in [0u16, 11, 4_097, u16::MAX] {
        let mut frames = Frames::new(MOST_QUERY);
        frames.push(&len.to_be_bytes());
        assert_eq!(frames.next_message(), Err(BadFrame(len.into())));
    }
    assert!(framed(&vec![0; 65_536]).is_none());
}

/// An exit that fills records of whatever type must not have more remembered than is counted.
#[test]
fn answers_count_for_what_they_hold() {
    const LONG: usize = 50_000;
    let service = |key| {
        let value = SvcParamValue::Unknown(Unknown(vec![7; LONG]));
        SVCB::new(1, name("b.example"), vec![(key, value)])
    };
    let long = [
        RData::SVCB(service(SvcParamKey::Unknown(700))),
        RData::HTTPS(HTTPS(service(SvcParamKey::Unknown(700)))),
        RData::OPENPGPKEY(OPENPGPKEY::new(vec![7; LONG])),
        RData::NULL(NULL::with(vec![7; LONG])),
        RData::TXT(TXT::from_bytes(vec![&[7; 250]; LONG / 250])),
    ];
    for data in long {
        let record = record("a.example", data);
        let asked = question("a.example", record.record_type());
        let answer = Answer::cleaned(&asked, ResponseCode::NoError, [record], false);
        assert!(answer.bytes() >= LONG, "{}", asked.kind());
        assert_eq!(answer.records().len(), 1);
    }
    let types = (0..LONG as u16).map(RecordType::from);
    let data = RData::CSYNC(CSYNC::new(1, false, false, types));
    let asked = question("a.example", RecordType::CSYNC);
    let records = [record("a.example", data)];
    let answer = Answer::cleaned(&asked, ResponseCode::NoError, records, false);
    assert!(answer.bytes() >= LONG * 8);
    let long_name = ["a".repeat(60).as_str(); 4].join(".");
    let asked = question(&long_name, RecordType::A);
    let records = vec![a(&long_name, "8.8.8.8"); 100];
    let answer = Answer::cleaned(&asked, ResponseCode::NoError, records, false);
    assert!(answer.bytes() >= 100 * (size_of::<Record>() + long_name.len()));
}

proptest! {
    #[test]
    fn bytes_make_no_panic_and_what_is_heard_can_be_answered(
        bytes in proptest::collection::vec(any::<u8>(), 0..80), at in 0..30usize,
    ) {
        let mut message = query(|_| ());
        let end = (at + bytes.len()).min(message.len());
        message.splice(at..end, bytes);
        let asked = question("a.example", RecordType::A);
        let _ = Answer::read(&message, &asked, false);
        match read_query(&message) {
            Ok(Heard::Query(query)) => {
                let reply = query.reply(&Answer::of(ResponseCode::NoError), 512);
                prop_assert!(Answer::read(&reply, &query.question, false).is_ok());
            }
            Ok(Heard::Refused(answer)) => prop_assert!(answer.len() >= 12),
            Err(NotAQuery) => {}
        }
    }
}
