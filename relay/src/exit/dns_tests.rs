#![allow(clippy::unwrap_used, clippy::expect_used)]
//! Streams to the resolver of an exit, with a small name server and a client's end that says what it likes.

use core::task::{Context, Poll, Waker};
use core::time::Duration;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use cepa_common::budget::Budget;
use cepa_common::cell::PAYLOAD_LEN;
use cepa_common::cell::message::EndReason;
use cepa_common::dir::{ExitPolicy, Params};
use cepa_common::dns::{Answer, Frames, Question, framed};
use cepa_common::ids::CircId;
use cepa_common::net::circuit_io::Streams;
use cepa_common::net::dns_stream::Pace;
use cepa_common::stream::{
    Acceptor, LegId, Mux, Opener, Request, StreamError, StreamKey, StreamTarget,
};
use cepa_common::testkit;
use cepa_common::world::World;
use hickory_resolver::proto::op::{Message, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, CNAME, MX, PTR, SRV, TXT};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tokio::net::UdpSocket;

use super::attempts::Origin;
use super::*;
use crate::admission::Party;
use crate::events::Reporter;

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

/// What the name server knows. Its times to live are of all lengths.
fn records(asked: &str, kind: RecordType) -> Option<Vec<Record>> {
    let a = |of: &str, ttl, ip: [u8; 4]| Record::from_rdata(name(of), ttl, RData::A(A(ip.into())));
    let one = |data| Some(vec![Record::from_rdata(name(asked), 7_000, data)]);
    match (asked, kind) {
        ("a.example.", RecordType::A) => Some(vec![a(asked, 0, [8, 8, 8, 8])]),
        ("a.example.", RecordType::AAAA) => one(RData::AAAA(AAAA("2600::1".parse().unwrap()))),
        ("inside.example.", RecordType::A) => Some(vec![
            a(asked, 5, [10, 0, 0, 1]),
            a(asked, 5, [9, 9, 9, 9]),
            a(asked, 5, [127, 0, 0, 1]),
        ]),
        ("alias.example.", RecordType::A) => Some(vec![
            Record::from_rdata(name(asked), 90, RData::CNAME(CNAME(name("a.example.")))),
            a("a.example.", 3, [8, 8, 8, 8]),
        ]),
        ("a.example.", RecordType::TXT) => one(RData::TXT(TXT::new(vec!["said".to_owned(); 300]))),
        ("a.example.", RecordType::MX) => one(RData::MX(MX::new(5, name("mail.example.")))),
        ("_sip._tcp.a.example.", RecordType::SRV) => {
            one(RData::SRV(SRV::new(1, 2, 3, name("a.example."))))
        }
        ("8.8.8.8.in-addr.arpa.", RecordType::PTR) => one(RData::PTR(PTR(name("dns.example.")))),
        ("two.example.", RecordType::A) => Some(vec![
            a(asked, 60, [127, 0, 0, 1]),
            a(asked, 60, [127, 0, 0, 2]),
        ]),
        (of, RecordType::A) if of.ends_with(".near.example.") => {
            Some(vec![a(asked, 60, [127, 0, 0, 1])])
        }
        ("a.example." | "two.example.", _) => Some(Vec::new()),
        (of, _) if of.ends_with(".near.example.") => Some(Vec::new()),
        _ => None,
    }
}

/// A name server that notes what it is asked for.
pub(super) async fn name_server() -> (SocketAddr, Arc<Mutex<Vec<Message>>>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let notes = asked.clone();
    tokio::spawn(async move {
        let mut bytes = [0; 1_500];
        while let Ok((len, from)) = socket.recv_from(&mut bytes).await {
            let query = Message::from_vec(&bytes[..len]).unwrap();
            let asked = query.queries[0].clone();
            let text = asked.name().to_lowercase().to_ascii();
            let mut answer = Message::response(query.metadata.id, OpCode::Query);
            notes.lock().unwrap().push(query);
            answer.add_query(asked.clone());
            match records(&text, asked.query_type()) {
                _ if text == "silent.example." => continue,
                _ if text == "broken.example." => {
                    answer.metadata.response_code = ResponseCode::ServFail;
                }
                Some(records) => answer.insert_answers(records),
                None => answer.metadata.response_code = ResponseCode::NXDomain,
            }
            let mut bytes = answer.to_vec().unwrap();
            if bytes.len() > 1_232 {
                // Whoever asks comes again by TCP, where nobody listens: it is told that there is more.
                answer.answers.clear();
                answer.metadata.truncation = true;
                bytes = answer.to_vec().unwrap();
            }
            let _ = socket.send_to(&bytes, from).await;
        }
    });
    (address, asked)
}

fn exit(server: SocketAddr, policy: impl AddressPolicy, budget: &Arc<Budget>) -> ExitConnector {
    let (policy, world) = (Arc::new(policy), World::default());
    ExitConnector::new(policy, Some(server), &world, budget, Reporter::default()).unwrap()
}

fn public() -> ExitPolicy {
    ExitPolicy::from_rules(["accept *:*"]).unwrap()
}

/// The pace of a circuit, as the network's parameters are if nobody votes for others.
fn pace() -> Pace {
    let params = Params::default();
    Pace::new(
        params.circuit_queries_burst,
        params.circuit_queries_per_second,
    )
}

/// A circuit with one stream to a resolver.
struct Circuit {
    client: Mux<Opener>,
    relay: Arc<Streams<Acceptor>>,
    key: StreamKey,
    frames: Frames,
    answering: tokio::task::JoinHandle<()>,
}

impl Circuit {
    fn new(exit: Option<Arc<ExitConnector>>) -> Self {
        let budget = Budget::unlimited();
        let mut client = testkit::mux::<Opener>(&budget);
        let relay = Streams::new(testkit::mux::<Acceptor>(&budget));
        let key = client.open(StreamTarget::Resolver).unwrap();
        let (mut payload, now) = ([0; PAYLOAD_LEN], Instant::now());
        assert!(client.fill(LegId::FIRST, now, &mut rand::rng(), &mut payload));
        let begun = relay.mux().on_outward(LegId::FIRST, now, &payload).unwrap();
        let [Request::Begin(held, StreamTarget::Resolver)] = begun[..] else {
            panic!("{begun:?}");
        };
        let origin = Origin {
            party: Party::Link(1),
            link: 1,
            circ: CircId::new(1).unwrap(),
        };
        let answering = tokio::spawn(answer(exit, relay.hold(held), origin, Arc::new(pace())));
        Self {
            client,
            relay,
            key,
            frames: Frames::new(65_535),
            answering,
        }
    }

    /// Hands each end what the other has to say, and lets the exit work.
    async fn turn(&mut self) {
        let (now, rng) = (Instant::now(), &mut rand::rng());
        testkit::exchange(&mut self.client, &mut self.relay.mux(), now, rng).unwrap();
        tokio::task::yield_now().await;
    }

    async fn say(&mut self, bytes: &[u8]) {
        let mut said = 0;
        while said < bytes.len() {
            let mut cx = Context::from_waker(Waker::noop());
            let wrote = self
                .client
                .poll_write(self.key, &mut cx, Instant::now(), &bytes[said..]);
            if let Poll::Ready(wrote) = wrote {
                said += wrote.unwrap();
            }
            self.turn().await;
        }
    }

    /// The next answer; an error if the stream has ended.
    async fn hear(&mut self) -> Result<Option<Vec<u8>>, StreamError> {
        loop {
            if let Some(message) = self.frames.next_message().unwrap() {
                return Ok(Some(message));
            }
            let mut cx = Context::from_waker(Waker::noop());
            let mut bytes = [0; 4_096];
            let read = self
                .client
                .poll_read(self.key, &mut cx, Instant::now(), &mut bytes);
            match read {
                Poll::Ready(Ok(0)) => return Ok(None),
                Poll::Ready(Ok(read)) => self.frames.push(&bytes[..read]),
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => self.turn().await,
            }
        }
    }

    async fn ask(&mut self, of: &str, kind: RecordType) -> Answer {
        let question = Question::new(of, kind).unwrap();
        let query = question.to_query(77).unwrap();
        self.say(&framed(&query).unwrap()).await;
        let message = self.hear().await.unwrap().unwrap();
        assert_eq!(Answer::id(&message), Some(77));
        let raw = Message::from_vec(&message).unwrap();
        assert!(raw.answers.iter().all(|record| record.ttl == 60));
        assert!(!raw.metadata.authentic_data && raw.authorities.is_empty() && raw.edns.is_none());
        Answer::read(&message, &question, true).unwrap()
    }
}

fn text(answer: &Answer) -> Vec<String> {
    let records = answer.records().iter();
    records.map(|record| record.data.to_string()).collect()
}

#[tokio::test]
async fn all_types_are_answered_and_no_private_address_is_told() {
    let (server, asked) = name_server().await;
    let mut circuit = Circuit::new(Some(Arc::new(exit(server, public(), &Budget::unlimited()))));
    for (of, kind, told) in [
        ("a.example", RecordType::A, vec!["8.8.8.8"]),
        ("A.exAMPLE", RecordType::AAAA, vec!["2600::1"]),
        ("inside.example", RecordType::A, vec!["9.9.9.9"]),
        (
            "alias.example",
            RecordType::A,
            vec!["a.example.", "8.8.8.8"],
        ),
        ("a.example", RecordType::MX, vec!["5 mail.example."]),
        (
            "_sip._tcp.a.example",
            RecordType::SRV,
            vec!["1 2 3 a.example."],
        ),
        (
            "8.8.8.8.in-addr.arpa",
            RecordType::PTR,
            vec!["dns.example."],
        ),
        // There is the name, and nothing of this type.
        ("a.example", RecordType::CAA, vec![]),
    ] {
        let answer = circuit.ask(of, kind).await;
        assert_eq!(
            (answer.code(), text(&answer)),
            (
                ResponseCode::NoError,
                told.iter().map(ToString::to_string).collect()
            ),
            "{of} {kind}"
        );
    }
    for (of, kind, code) in [
        ("nobody.example", RecordType::A, ResponseCode::NXDomain),
        ("broken.example", RecordType::A, ResponseCode::ServFail),
    ] {
        assert_eq!(circuit.ask(of, kind).await.code(), code, "{of}");
    }
    let before = asked.lock().unwrap().len();
    for (of, kind, code) in [
        ("localhost", RecordType::A, ResponseCode::NXDomain),
        ("x.cepa.alt", RecordType::TXT, ResponseCode::NXDomain),
        ("127.1", RecordType::A, ResponseCode::NXDomain),
        (
            "1.0.0.127.in-addr.arpa",
            RecordType::PTR,
            ResponseCode::Refused,
        ),
        (
            "1.0.0.10.in-addr.arpa",
            RecordType::PTR,
            ResponseCode::Refused,
        ),
        ("a.example", RecordType::ANY, ResponseCode::Refused),
    ] {
        assert_eq!(circuit.ask(of, kind).await.code(), code, "{of}");
    }
    let asked = asked.lock().unwrap();
    assert_eq!(asked.len(), before, "nobody was asked");
    // The server is asked in the exit's own words.
    assert!(
        asked
            .iter()
            .all(|query| query.metadata.id != 77 || query.queries.len() == 1)
    );
}

#[tokio::test]
async fn where_private_addresses_are_dialled_they_are_told() {
    let (server, _) = name_server().await;
    let policy = public().allow_private();
    let mut circuit = Circuit::new(Some(Arc::new(exit(server, policy, &Budget::unlimited()))));
    let answer = circuit.ask("inside.example", RecordType::A).await;
    assert_eq!(text(&answer), ["10.0.0.1", "9.9.9.9", "127.0.0.1"]);
}

#[tokio::test]
async fn many_queries_at_once_are_answered_and_a_silent_one_holds_up_nobody() {
    let (server, _) = name_server().await;
    let budget = Budget::unlimited();
    let exit = Arc::new(exit(server, public(), &budget));
    let at_rest = budget.used();
    let mut circuit = Circuit::new(Some(exit.clone()));
    let kinds = [RecordType::A, RecordType::AAAA];
    let mut all = Vec::new();
    let silent = Question::new("silent.example", RecordType::A).unwrap();
    all.extend(framed(&silent.to_query(999).unwrap()).unwrap());
    for id in 0..64 {
        let question = Question::new("a.example", kinds[usize::from(id % 2)]).unwrap();
        all.extend(framed(&question.to_query(id).unwrap()).unwrap());
    }
    circuit.say(&all).await;
    let mut ids = Vec::new();
    for _ in 0..64 {
        ids.push(Answer::id(&circuit.hear().await.unwrap().unwrap()).unwrap());
    }
    ids.sort_unstable();
    assert_eq!(ids, (0..64).collect::<Vec<u16>>());
    assert!(budget.used() > at_rest, "what is at work is charged");
    assert_eq!(
        exit.open_streams().count(),
        1,
        "the silent one is waited for"
    );
    let last = circuit.hear().await.unwrap().unwrap();
    let code = Answer::read(&last, &silent, false).unwrap().code();
    assert_eq!(
        (Answer::id(&last), code),
        (Some(999), ResponseCode::ServFail)
    );
    circuit.client.shutdown(circuit.key);
    assert_eq!(circuit.hear().await, Ok(None));
    circuit.answering.await.unwrap();
    assert_eq!((budget.used(), exit.open_streams().count()), (at_rest, 0));
}

/// However few name servers a query needs, a circuit has no more of them than of streams.
#[tokio::test]
async fn a_circuit_asks_no_faster_than_it_may_and_has_every_answer() {
    const FREE: u16 = 1_024;
    const MORE: u16 = 32;
    let (server, _) = name_server().await;
    let mut circuit = Circuit::new(Some(Arc::new(exit(server, public(), &Budget::unlimited()))));
    let asked = Question::new("localhost", RecordType::A).unwrap();
    let queries = (0..FREE + MORE).map(|id| framed(&asked.to_query(id).unwrap()).unwrap());
    let begun = Instant::now();
    circuit.say(&queries.collect::<Vec<_>>().concat()).await;
    for id in 0..FREE + MORE {
        let answer = circuit.hear().await.unwrap().unwrap();
        assert_eq!(Answer::id(&answer), Some(id));
    }
    // 64 a second; that it is half a second and not less is all that a slow machine lets be said.
    assert!(begun.elapsed() >= Duration::from_millis(1_000 * u64::from(MORE) / 64));
}

#[tokio::test]
async fn what_is_no_query_ends_the_stream() {
    let (server, _) = name_server().await;
    let exit = Arc::new(exit(server, public(), &Budget::unlimited()));
    let question = Question::new("a.example", RecordType::A).unwrap();
    let mut response = question.to_query(1).unwrap();
    response[2] |= 0x80;
    for bytes in [vec![0, 11], vec![0x10, 1], framed(&response).unwrap()] {
        let mut circuit = Circuit::new(Some(exit.clone()));
        circuit.say(&bytes).await;
        assert_eq!(
            circuit.hear().await,
            Err(StreamError::Ended(EndReason::Reset))
        );
    }
    // A message that is cut off is no query either.
    let mut circuit = Circuit::new(Some(exit.clone()));
    circuit.say(&[0, 12, 1]).await;
    circuit.client.shutdown(circuit.key);
    assert_eq!(
        circuit.hear().await,
        Err(StreamError::Ended(EndReason::Reset))
    );
    let mut circuit = Circuit::new(None);
    assert_eq!(
        circuit.hear().await,
        Err(StreamError::Ended(EndReason::Policy))
    );
}

#[tokio::test]
async fn a_stream_at_rest_and_one_that_is_given_up_end() {
    let (server, _) = name_server().await;
    let budget = Budget::unlimited();
    let exit = Arc::new(exit(server, public(), &budget));
    let at_rest = budget.used();
    let mut idle = Circuit::new(Some(exit.clone()));
    assert_eq!(
        idle.ask("a.example", RecordType::A).await.code(),
        ResponseCode::NoError
    );
    // A part of a query is none.
    idle.say(&[0]).await;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(119)).await;
    idle.turn().await;
    assert!(!idle.answering.is_finished());
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(
        idle.hear().await,
        Err(StreamError::Ended(EndReason::Timeout))
    );
    tokio::time::resume();

    let mut circuit = Circuit::new(Some(exit.clone()));
    let silent = Question::new("silent.example", RecordType::A).unwrap();
    circuit
        .say(&framed(&silent.to_query(1).unwrap()).unwrap())
        .await;
    while exit.open_streams().count() == 0 {
        circuit.turn().await;
    }
    circuit.client.abort(circuit.key, EndReason::Reset);
    while !circuit.answering.is_finished() {
        circuit.turn().await;
    }
    assert_eq!((budget.used(), exit.open_streams().count()), (at_rest, 0));
}

/// An exit that stops lets the queries that it has be answered, and sends the client to another exit with more.
#[tokio::test]
async fn an_exit_that_stops_takes_no_more_queries() {
    let (server, _) = name_server().await;
    let exit = Arc::new(exit(server, public(), &Budget::unlimited()));
    let mut circuit = Circuit::new(Some(exit.clone()));
    exit.open_streams().drain().await;
    let answer = circuit.ask("a.example", RecordType::A).await;
    assert_eq!(answer.code(), ResponseCode::ServFail);
}
