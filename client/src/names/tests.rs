#![allow(clippy::unwrap_used, clippy::expect_used)]
//! Clients of names, with exits that say what they like.

use core::time::Duration;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use cepa_common::dns::{Frames, Heard, Query, RData, Record, RecordType, framed, read_query};
use cepa_common::net::tasks::{Stopper, tasks};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;

/// What an exit does with a query: its answer, or nothing.
type Says = fn(&Query) -> Option<Vec<u8>>;

/// Exits that are opened in turn, each with its manners. The last stands for all that follow.
struct Manners {
    says: Vec<Says>,
    opened: AtomicUsize,
    asked: Arc<AtomicUsize>,
    avoided: Mutex<Vec<Option<RelayId>>>,
}

impl Manners {
    fn new(says: &[Says]) -> Self {
        Self {
            says: says.to_vec(),
            opened: AtomicUsize::new(0),
            asked: Arc::default(),
            avoided: Mutex::default(),
        }
    }
}

fn exit(number: usize) -> RelayId {
    RelayId([number as u8; 32])
}

impl Exits for Manners {
    type Stream = DuplexStream;
    type Error = ();

    async fn open(
        &self,
        _: &Isolation,
        avoid: Option<RelayId>,
        first: &[u8],
    ) -> Result<(DuplexStream, RelayId), ()> {
        let number = self.opened.fetch_add(1, Ordering::SeqCst);
        lock(&self.avoided).push(avoid);
        let says = self.says[number.min(self.says.len() - 1)];
        let (mut near, mut far) = duplex(4_096);
        near.write_all(first).await.unwrap();
        let asked = self.asked.clone();
        tokio::spawn(async move {
            let (mut frames, mut bytes) = (Frames::new(65_535), [0; 512]);
            while let Ok(read @ 1..) = far.read(&mut bytes).await {
                frames.push(&bytes[..read]);
                while let Some(message) = frames.next_message().unwrap() {
                    asked.fetch_add(1, Ordering::SeqCst);
                    let Heard::Query(query) = read_query(&message).unwrap() else {
                        panic!("a query is asked");
                    };
                    match says(&query) {
                        Some(answer) if answer.is_empty() => return,
                        Some(answer) => far.write_all(&framed(&answer).unwrap()).await.unwrap(),
                        None => {}
                    }
                }
            }
        });
        Ok((near, exit(number)))
    }
}

fn names() -> (Names, Stopper) {
    let (tasks, stopper) = tasks();
    (Names::new(false, tasks, &Budget::unlimited()), stopper)
}

fn question(name: &str) -> Question {
    Question::new(name, RecordType::A).unwrap()
}

fn with(query: &Query, addresses: &[[u8; 4]]) -> Vec<u8> {
    let name = query.question.wire_name().unwrap();
    let records = addresses.iter().map(|ip| {
        Record::from_rdata(
            name.clone(),
            9_999,
            RData::A(std::net::Ipv4Addr::from(*ip).into()),
        )
    });
    let answer = Answer::cleaned(&query.question, ResponseCode::NoError, records, true);
    query.reply(&answer, usize::MAX)
}

fn well(query: &Query) -> Option<Vec<u8>> {
    Some(with(query, &[[10, 0, 0, 1], [8, 8, 8, 8]]))
}

fn silent(_: &Query) -> Option<Vec<u8>> {
    None
}

fn gone(_: &Query) -> Option<Vec<u8>> {
    Some(Vec::new())
}

fn failing(query: &Query) -> Option<Vec<u8>> {
    Some(query.reply(&Answer::of(ResponseCode::ServFail), usize::MAX))
}

/// Answers another question than the one asked.
fn lying(query: &Query) -> Option<Vec<u8>> {
    let mut message = well(query)?;
    message[13] ^= 1;
    Some(message)
}

/// Answers with an id that nobody has used.
fn stray(query: &Query) -> Option<Vec<u8>> {
    let mut message = well(query)?;
    message[0] ^= 0x80;
    Some(message)
}

#[tokio::test]
async fn one_session_serves_a_key_and_two_keys_share_nothing() {
    let (names, _stopper) = names();
    let exits = Manners::new(&[well]);
    let (one, two) = (Isolation::session(1), Isolation::session(2));
    for _ in 0..2 {
        let answer = names
            .ask(&exits, &one, &question("a.example"))
            .await
            .unwrap();
        let told: Vec<IpAddr> = answer.addresses().collect();
        assert_eq!(
            told,
            [IpAddr::from([8, 8, 8, 8])],
            "no private address is told"
        );
    }
    let counts = || {
        (
            exits.opened.load(Ordering::SeqCst),
            exits.asked.load(Ordering::SeqCst),
        )
    };
    assert_eq!(counts(), (1, 1), "the second time nobody is asked");
    names
        .ask(&exits, &one, &question("b.example"))
        .await
        .unwrap();
    assert_eq!(counts(), (1, 2));
    names
        .ask(&exits, &two, &question("a.example"))
        .await
        .unwrap();
    assert_eq!(
        counts(),
        (2, 3),
        "another key has its own stream and knows nothing"
    );
    names
        .ask(&exits, &one.clone().of_identity(1), &question("a.example"))
        .await
        .unwrap();
    assert_eq!(counts(), (3, 4), "so has a new identity");
}

#[tokio::test]
async fn what_nobody_is_asked_opens_no_stream() {
    let (names, _stopper) = names();
    let exits = Manners::new(&[well]);
    for name in ["localhost", "x.cepa.alt", "127.1", "1.0.0.10.in-addr.arpa"] {
        let asked = names
            .ask(&exits, &Isolation::session(1), &question(name))
            .await;
        assert!(matches!(asked, Err(Unanswered::Unasked(_))), "{name}");
    }
    assert_eq!(exits.opened.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn a_query_that_comes_to_nothing_goes_to_another_exit_once() {
    for bad in [silent as Says, gone, failing, lying, stray] {
        let (names, _stopper) = names();
        let exits = Manners::new(&[bad, well]);
        let key = Isolation::session(1);
        let answer = names
            .ask(&exits, &key, &question("a.example"))
            .await
            .unwrap();
        assert_eq!(answer.code(), ResponseCode::NoError);
        assert_eq!(*lock(&exits.avoided), [None, Some(exit(0))]);

        let exits = Manners::new(&[bad]);
        let answer = names.ask(&exits, &key, &question("b.example")).await;
        assert!(exits.opened.load(Ordering::SeqCst) <= 2);
        let answer = answer.map(|answer| answer.code());
        assert!(!matches!(answer, Ok(ResponseCode::NXDomain)), "{answer:?}");
    }
    let (names, _stopper) = names();
    let exits = Manners::new(&[silent]);
    let asked = names
        .ask(&exits, &Isolation::session(1), &question("a.example"))
        .await;
    assert!(matches!(asked, Err(Unanswered::Silent)));
    assert_eq!(exits.opened.load(Ordering::SeqCst), 2);
    let exits = Manners::new(&[failing]);
    let asked = names
        .ask(&exits, &Isolation::session(2), &question("a.example"))
        .await;
    assert_eq!(asked.unwrap().code(), ResponseCode::ServFail);
}

#[tokio::test(start_paused = true)]
async fn a_session_rests_for_a_minute_and_its_stream_ends_in_order() {
    let (names, _stopper) = names();
    let exits = Manners::new(&[well]);
    let key = Isolation::session(1);
    let ask = async |name: &str| {
        names.ask(&exits, &key, &question(name)).await.unwrap();
        exits.opened.load(Ordering::SeqCst)
    };
    assert_eq!(ask("a.example").await, 1);
    tokio::time::sleep(Duration::from_secs(59)).await;
    assert_eq!(ask("b.example").await, 1);
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(ask("c.example").await, 2);
}

#[tokio::test]
async fn many_ask_at_once_and_share_a_session() {
    let (names, _stopper) = names();
    let (names, exits) = (Arc::new(names), Arc::new(Manners::new(&[well])));
    let mut all = tokio::task::JoinSet::new();
    for n in 0..300 {
        let (names, exits) = (names.clone(), exits.clone());
        all.spawn(async move {
            let question = question(&format!("{n}.example"));
            names.ask(&*exits, &Isolation::session(1), &question).await
        });
    }
    for answer in all.join_all().await {
        assert_eq!(answer.unwrap().addresses().count(), 1);
    }
    assert_eq!(exits.opened.load(Ordering::SeqCst), 1);
    assert_eq!(exits.asked.load(Ordering::SeqCst), 300);
}

#[tokio::test(start_paused = true)]
async fn equal_questions_at_once_are_asked_once_and_a_failure_is_nobody_elses() {
    let (names, _stopper) = names();
    let (names, exits) = (Arc::new(names), Arc::new(Manners::new(&[well])));
    let key = Isolation::session(1);
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let (names, exits, key) = (names.clone(), exits.clone(), key.clone());
        all.spawn(async move { names.ask(&*exits, &key, &question("a.example")).await });
    }
    for answer in all.join_all().await {
        assert_eq!(answer.unwrap().addresses().count(), 1);
    }
    assert_eq!(exits.asked.load(Ordering::SeqCst), 1);
    // Who asked first gives up; whoever waits with him has an answer all the same.
    let exits = Manners::new(&[silent, well]);
    let (key, question) = (Isolation::session(2), question("b.example"));
    let (first, second) = (
        names.ask(&exits, &key, &question),
        names.ask(&exits, &key, &question),
    );
    let (mut first, mut second) = (Box::pin(first), Box::pin(second));
    tokio::select! {
        biased;
        _ = &mut first => panic!("it is silent"),
        _ = &mut second => panic!("it waits for the first"),
        () = async { while exits.asked.load(Ordering::SeqCst) == 0 { tokio::task::yield_now().await } } => {}
    }
    drop(first);
    assert!(second.await.is_ok());
    assert!(lock(&names.in_flight).is_empty());
}

/// Answers for no name of one domain.
fn silent_for_one(query: &Query) -> Option<Vec<u8>> {
    match query.question.name().ends_with("evil.example") {
        true => None,
        false => well(query),
    }
}

/// A page can have a browser ask for names without number for which nobody answers.
#[tokio::test(start_paused = true)]
async fn a_domain_that_nobody_answers_for_holds_up_no_other() {
    let (names, _stopper) = names();
    let (names, exits) = (Arc::new(names), Arc::new(Manners::new(&[silent_for_one])));
    let key = Isolation::session(1);
    let mut all = tokio::task::JoinSet::new();
    for n in 0..500 {
        let (names, exits, key) = (names.clone(), exits.clone(), key.clone());
        all.spawn(async move {
            let question = question(&format!("{n}.evil.example"));
            names.ask(&*exits, &key, &question).await.map(drop)
        });
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(exits.asked.load(Ordering::SeqCst), OF_DOMAIN);
    let asked = tokio::time::Instant::now();
    let answer = names.ask(&*exits, &key, &question("b.example.org")).await;
    assert_eq!(answer.unwrap().addresses().count(), 1);
    assert!(asked.elapsed() < Duration::from_secs(1));
    // Another key does not wait for this one.
    let other = Isolation::session(2);
    let question = question("1.evil.example");
    let asking = names.ask(&*exits, &other, &question);
    let _ = tokio::time::timeout(Duration::from_secs(1), asking).await;
    assert_eq!(exits.asked.load(Ordering::SeqCst), OF_DOMAIN + 2);
    drop(all);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(lock(&names.domains).is_empty() && lock(&names.in_flight).is_empty());
}

/// A session may come to its rest just when somebody asks.
#[tokio::test(start_paused = true)]
async fn a_question_that_a_session_did_not_write_is_no_failure_of_its_exit() {
    let (names, _stopper) = names();
    let exits = Manners::new(&[well, failing, well]);
    let key = Isolation::session(1);
    names
        .ask(&exits, &key, &question("a.example"))
        .await
        .unwrap();
    let session = names.sessions_of(&key).lock().await[0].clone();
    // It is over, and nobody has noticed yet.
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert!(session.is_over());
    assert_eq!(session.ask(question("b.example")).await, Err(Lost::Unasked));
    let answer = names
        .ask(&exits, &key, &question("b.example"))
        .await
        .unwrap();
    assert_eq!(answer.code(), ResponseCode::NoError);
    assert_eq!(*lock(&exits.avoided), [None, None, Some(exit(1))]);
}

#[tokio::test]
async fn keys_with_sessions_are_bounded() {
    let (names, _stopper) = names();
    let exits = Manners::new(&[well]);
    for session in 0..2 * MOST_KEYS as u64 {
        let key = Isolation::session(session);
        names
            .ask(&exits, &key, &question("a.example"))
            .await
            .unwrap();
        assert!(lock(&names.sessions).len() <= MOST_KEYS);
    }
}
