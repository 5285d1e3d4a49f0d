#![allow(clippy::unwrap_used, clippy::expect_used)]
//! Tests of the exit with a small DNS server and real sockets.

use core::time::Duration;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use cepa_common::cell::message::EndReason;
use cepa_common::dir::ExitPolicy;
use cepa_common::stream::StreamHost;
use cepa_common::world::World;
use cepa_common::world::sockets::Stream;
use tokio::net::{TcpListener, UdpSocket};
use tokio::time::timeout;

use super::*;

/// What the DNS server answers.
enum Say {
    Address([u8; 4]),
    Alias(&'static str),
    NoSuchName,
    Nothing,
}

fn say(name: &str) -> Say {
    match name {
        "good.example" | "localhost.example" => Say::Address([127, 0, 0, 1]),
        "rebind.example" => Say::Address([10, 0, 0, 1]),
        "alias.example" => Say::Alias("good.example"),
        "loop.example" => Say::Alias("pool.example"),
        "pool.example" => Say::Alias("loop.example"),
        "silent.example" => Say::Nothing,
        _ => Say::NoSuchName,
    }
}

/// A DNS server that knows a few names and notes what it is asked for.
struct Dns {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Dns {
    async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let notes = Arc::clone(&asked);
        tokio::spawn(async move {
            let mut query = [0; 1500];
            while let Ok((len, from)) = socket.recv_from(&mut query).await {
                let (name, end) = question(&query[..len]);
                notes.lock().unwrap().push(name.clone());
                if let Some(answer) = answer(&query[..end], &name) {
                    socket.send_to(&answer, from).await.unwrap();
                }
            }
        });
        Self { address, asked }
    }

    fn exit(&self, policy: impl AddressPolicy) -> ExitConnector {
        ExitConnector::new(Arc::new(policy), Some(self.address), &World::default()).unwrap()
    }
}

/// The name that a query asks for, and where the question ends.
fn question(query: &[u8]) -> (String, usize) {
    let mut labels = Vec::new();
    let mut at = 12;
    while query[at] != 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..end]).to_lowercase());
        at = end;
    }
    (labels.join("."), at + 5)
}

fn answer(query: &[u8], name: &str) -> Option<Vec<u8>> {
    let is_a = query[query.len() - 4..] == [0, 1, 0, 1];
    let (code, kind, data) = match say(name) {
        Say::Nothing => return None,
        Say::NoSuchName => (3, 0, vec![]),
        Say::Alias(to) => (0, 5, encode(to)),
        Say::Address(ip) if is_a => (0, 1, ip.to_vec()),
        Say::Address(_) => (0, 0, vec![]),
    };
    let records = u8::from(kind != 0);
    let mut out = [
        &query[..2],
        &[0x81, 0x80 | code, 0, 1, 0, records, 0, 0, 0, 0],
    ]
    .concat();
    out.extend(&query[12..]);
    if kind != 0 {
        // The owner of the record is the question's name, by pointer. The time to live is 0.
        out.extend([0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 0, 0, data.len() as u8]);
        out.extend(data);
    }
    Some(out)
}

fn encode(name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for label in name.split('.') {
        out.push(label.len() as u8);
        out.extend(label.as_bytes());
    }
    out.push(0);
    out
}

fn name(name: &str) -> StreamHost {
    StreamHost::Name(name.to_owned())
}

fn anywhere(_: SocketAddr) -> bool {
    true
}

#[tokio::test]
async fn names_and_addresses_are_reached() {
    let dns = Dns::start().await;
    let exit = dns.exit(anywhere);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let literal = StreamHost::Ip(Ipv4Addr::LOCALHOST.into());
    for host in [
        literal,
        name("good.example"),
        name("GOOD.example."),
        name("alias.example"),
    ] {
        let stream = exit.connect(&host, port).await.unwrap();
        assert!(matches!(stream, Stream::Tcp(tcp) if tcp.nodelay().unwrap()));
        listener.accept().await.unwrap();
    }
}

#[tokio::test]
async fn a_name_without_address_is_unresolvable() {
    let dns = Dns::start().await;
    let exit = dns.exit(anywhere);
    let error = exit
        .connect(&name("nowhere.example"), 80)
        .await
        .unwrap_err();
    assert_eq!(error, ConnectError::ResolveFailed);
    assert_eq!(error.end_reason(), EndReason::Unresolvable);
}

#[tokio::test]
async fn names_are_asked_for_as_they_are_and_special_ones_never() {
    let dns = Dns::start().await;
    let exit = dns.exit(anywhere);
    for special in [
        "localhost",
        "a.localhost",
        "abc.onion",
        "127.1",
        "not a name",
    ] {
        let error = exit.connect(&name(special), 80).await.unwrap_err();
        assert_eq!(error, ConnectError::ResolveFailed, "{special}");
    }
    assert_eq!(dns.asked.lock().unwrap().as_slice(), &[] as &[String]);
    let _ = exit.connect(&name("Plain"), 80).await;
    let asked = dns.asked.lock().unwrap();
    assert!(
        !asked.is_empty() && asked.iter().all(|a| a == "plain"),
        "{asked:?}"
    );
}

#[tokio::test]
async fn a_name_that_leads_inside_is_refused_each_time() {
    let dns = Dns::start().await;
    let exit = dns.exit(ExitPolicy::from_rules(["accept *:*"]).unwrap());
    // Names are asked for twice, because the second answer comes from the cache.
    for host in [
        "good.example",
        "rebind.example",
        "alias.example",
        "rebind.example",
    ] {
        let error = exit.connect(&name(host), 80).await.unwrap_err();
        assert_eq!(error, ConnectError::Policy, "{host}");
    }
    for literal in ["127.0.0.1", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1"] {
        let host = StreamHost::Ip(literal.parse().unwrap());
        let error = exit.connect(&host, 80).await.unwrap_err();
        assert_eq!(error, ConnectError::Policy, "{literal}");
    }
}

#[tokio::test]
async fn the_policy_is_asked_about_the_address_dialled() {
    let dns = Dns::start().await;
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let exit = dns.exit(move |address: SocketAddr| {
        assert_eq!(address, SocketAddr::from(([127, 0, 0, 1], 7)));
        count.fetch_add(1, Ordering::SeqCst);
        false
    });
    for times in 1..=3 {
        let error = exit.connect(&name("good.example"), 7).await.unwrap_err();
        assert_eq!(error, ConnectError::Policy);
        assert_eq!(asked.load(Ordering::SeqCst), times);
    }
}

#[tokio::test]
async fn a_closed_port_is_refused() {
    let dns = Dns::start().await;
    let exit = dns.exit(anywhere);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let error = exit.connect(&name("good.example"), port).await.unwrap_err();
    assert_eq!(error, ConnectError::Refused);
}

#[tokio::test]
async fn a_silent_server_costs_three_seconds_and_holds_up_nobody() {
    let dns = Dns::start().await;
    let exit = Arc::new(dns.exit(anywhere));
    let silent = {
        let exit = Arc::clone(&exit);
        tokio::spawn(async move { exit.connect(&name("silent.example"), 80).await })
    };
    let nowhere = name("nowhere.example");
    let other = exit.connect(&nowhere, 80);
    let other = timeout(Duration::from_secs(1), other).await;
    assert_eq!(other.unwrap().unwrap_err(), ConnectError::ResolveFailed);
    assert!(!silent.is_finished());
    let silent = timeout(Duration::from_millis(3500), silent).await;
    let error = silent.expect("in time").unwrap().unwrap_err();
    assert_eq!(error, ConnectError::TimedOut);
}

#[tokio::test]
async fn a_chain_without_end_fails_after_a_few_questions() {
    let dns = Dns::start().await;
    let exit = dns.exit(anywhere);
    let error = exit.connect(&name("loop.example"), 80).await.unwrap_err();
    assert_eq!(error, ConnectError::ResolveFailed);
    let asked = dns.asked.lock().unwrap().len();
    assert!(asked <= 40, "{asked} questions");
}
