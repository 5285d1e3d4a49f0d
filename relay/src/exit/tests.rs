#![allow(clippy::unwrap_used, clippy::expect_used)]
//! Tests of the exit with a small DNS server and real sockets.

use core::task::{Context, Poll, Waker};
use core::time::Duration;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use cepa_common::budget::Budget;
use cepa_common::cell::PAYLOAD_LEN;
use cepa_common::cell::message::EndReason;
use cepa_common::dir::ExitPolicy;
use cepa_common::ids::CircId;
use cepa_common::net::circuit_io::Streams;
use cepa_common::stream::{
    Acceptor, LegId, Mux, Opener, Request, StreamHost, StreamKey, StreamTarget,
};
use cepa_common::testkit;
use cepa_common::world::names::{GivenNames, Names};
use cepa_common::world::sockets::{Answer, GivenListener, GivenSockets, GivenStream, SocketStream};
use cepa_common::world::{Disk, Sockets, World};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::timeout;

use super::attempts::Origin;
use super::copy::copy;
use super::race::Family;
use super::resolve::{LookupError, Resolver};
use super::servers::{NameServers, READ_EVERY, SystemFile};
use super::*;
use crate::admission::Party;
use crate::events::{RelayEvent, Reporter};

/// Who asks. Attempts are few here.
pub(super) fn origin() -> Origin {
    Origin {
        party: Party::Link(1),
        link: 1,
        circ: CircId::new(1).unwrap(),
    }
}

/// What the DNS server answers.
enum Say {
    Address([u8; 4]),
    /// Several addresses.
    Addresses(u8),
    /// An address to whoever asks for IPv4; whoever asks for IPv6 hears nothing.
    OnlyV4([u8; 4]),
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
        "slow.example" => Say::Address([127, 0, 0, 1]),
        "six.example" => Say::Addresses(6),
        "mute.example" => Say::OnlyV4([127, 0, 0, 1]),
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
        Self::start_at("127.0.0.1:0".parse().unwrap()).await
    }

    async fn start_at(address: SocketAddr) -> Self {
        let socket = Arc::new(UdpSocket::bind(address).await.unwrap());
        let address = socket.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let notes = Arc::clone(&asked);
        tokio::spawn(async move {
            let mut query = [0; 1500];
            while let Ok((len, from)) = socket.recv_from(&mut query).await {
                let (name, end) = question(&query[..len]);
                notes.lock().unwrap().push(name.clone());
                if let Some(answer) = answer(&query[..end], &name) {
                    let socket = Arc::clone(&socket);
                    tokio::spawn(async move {
                        if name == "slow.example" {
                            tokio::time::sleep(Duration::from_secs(2)).await;
                        }
                        let _ = socket.send_to(&answer, from).await;
                    });
                }
            }
        });
        Self { address, asked }
    }

    fn exit(&self, policy: impl AddressPolicy) -> ExitConnector {
        ExitConnector::new(
            Arc::new(policy),
            Some(self.address),
            &World::default(),
            &Budget::unlimited(),
            Reporter::default(),
        )
        .unwrap()
    }
}

/// The name that a query asks for, and where the question ends.
pub(super) fn question(query: &[u8]) -> (String, usize) {
    let mut labels = Vec::new();
    let mut at = 12;
    while query[at] != 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..end]).to_lowercase());
        at = end;
    }
    (labels.join("."), at + 5)
}

pub(super) fn answer(query: &[u8], name: &str) -> Option<Vec<u8>> {
    let is_a = query[query.len() - 4..] == [0, 1, 0, 1];
    let (code, kind, all): (_, _, Vec<Vec<u8>>) = match say(name) {
        Say::Nothing => return None,
        Say::NoSuchName => (3, 0, vec![]),
        Say::Alias(to) => (0, 5, vec![encode(to)]),
        Say::Address(ip) | Say::OnlyV4(ip) if is_a => (0, 1, vec![ip.to_vec()]),
        Say::OnlyV4(_) => return None,
        // The last one is that of the others.
        Say::Addresses(n) if is_a => {
            let ips = (1..=n).rev().map(|last| vec![127, 0, 0, last]);
            (0, 1, ips.collect())
        }
        Say::Address(_) | Say::Addresses(_) => (0, 0, vec![]),
    };
    let records = all.len() as u8;
    let mut out = [
        &query[..2],
        &[0x81, 0x80 | code, 0, 1, 0, records, 0, 0, 0, 0],
    ]
    .concat();
    out.extend(&query[12..]);
    for data in all {
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

pub(super) fn name(name: &str) -> StreamHost {
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
        let stream = exit.connect(&host, port, origin()).await.unwrap();
        let SocketStream::Tcp(tcp) = stream else {
            panic!("this machine's TCP");
        };
        assert!(tcp.nodelay().unwrap());
        let socket = socket2::SockRef::from(&tcp);
        assert!(socket.keepalive().unwrap(), "a dead destination is noticed");
        assert_eq!(socket.tcp_keepalive_time().unwrap().as_secs(), 120);
        assert_eq!(socket.tcp_keepalive_interval().unwrap().as_secs(), 30);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 4);
        listener.accept().await.unwrap();
    }
}

#[tokio::test]
async fn a_name_without_address_is_unresolvable() {
    let dns = Dns::start().await;
    let exit = dns.exit(anywhere);
    let error = exit
        .connect(&name("nowhere.example"), 80, origin())
        .await
        .unwrap_err();
    assert_eq!(error, DestinationError::ResolveFailed);
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
        "printer.local",
        "wiki.internal",
        "nas.home.arpa",
        "x.cepa.alt",
        "a.test",
        "b.invalid",
        "x.cepa",
        "127.1",
        "not a name",
    ] {
        let error = exit
            .connect(&name(special), 80, origin())
            .await
            .unwrap_err();
        assert_eq!(error, DestinationError::ResolveFailed, "{special}");
    }
    assert_eq!(dns.asked.lock().unwrap().as_slice(), &[] as &[String]);
    let _ = exit.connect(&name("Plain"), 80, origin()).await;
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
        let error = exit.connect(&name(host), 80, origin()).await.unwrap_err();
        assert_eq!(error, DestinationError::Policy, "{host}");
    }
    for literal in ["127.0.0.1", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1"] {
        let host = StreamHost::Ip(literal.parse().unwrap());
        let error = exit.connect(&host, 80, origin()).await.unwrap_err();
        assert_eq!(error, DestinationError::Policy, "{literal}");
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
        let error = exit
            .connect(&name("good.example"), 7, origin())
            .await
            .unwrap_err();
        assert_eq!(error, DestinationError::Policy);
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
    let error = exit
        .connect(&name("good.example"), port, origin())
        .await
        .unwrap_err();
    assert_eq!(error, DestinationError::Refused);
}

#[tokio::test]
async fn a_silent_server_costs_six_seconds_and_holds_up_nobody() {
    let dns = Dns::start().await;
    let exit = Arc::new(dns.exit(anywhere));
    let silent = {
        let exit = Arc::clone(&exit);
        tokio::spawn(async move { exit.connect(&name("silent.example"), 80, origin()).await })
    };
    let nowhere = name("nowhere.example");
    let other = exit.connect(&nowhere, 80, origin());
    let other = timeout(Duration::from_secs(1), other).await;
    assert_eq!(other.unwrap().unwrap_err(), DestinationError::ResolveFailed);
    assert!(!silent.is_finished());
    let silent = timeout(Duration::from_millis(7500), silent).await;
    let error = silent.expect("in time").unwrap().unwrap_err();
    assert_eq!(error, DestinationError::TimedOut);
}

/// Lets the time pass after which the file of name servers is read again.
async fn wait_for_the_file() {
    tokio::time::pause();
    tokio::time::advance(READ_EVERY).await;
    tokio::time::resume();
}

#[tokio::test]
async fn name_servers_may_be_missing_at_the_start_and_change_at_any_time() {
    let first = Dns::start().await;
    let second = Dns::start_at(SocketAddr::from(([127, 0, 0, 2], first.address.port()))).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("resolv.conf");
    let file = SystemFile {
        disk: Disk::Real,
        path: path.clone(),
        port: first.address.port(),
    };
    let reporter = Reporter::default();
    let mut events = reporter.subscribe();
    let budget = Budget::unlimited();
    let servers = NameServers::of(Err(file), resolve::options, &budget, reporter).unwrap();
    assert_eq!(
        events.next().await,
        Some(RelayEvent::NameServers(Vec::new()))
    );
    let names = Resolver::Dns(servers);
    let lookup = async || names.lookup("good.example", Family::V4).await;
    let found = Ok(vec![IpAddr::from([127, 0, 0, 1])]);
    assert_eq!(lookup().await, Err(LookupError::NoServer));
    assert_eq!(
        DestinationError::from(LookupError::NoServer).end_reason(),
        EndReason::Resource,
        "another exit may have one"
    );

    std::fs::write(&path, "search inside.example\nnameserver 127.0.0.1\n").unwrap();
    assert_eq!(lookup().await, Err(LookupError::NoServer), "not yet read");
    wait_for_the_file().await;
    assert_eq!(lookup().await, found);
    let now = events.next().await;
    assert_eq!(now, Some(RelayEvent::NameServers(vec![first.address])));
    let asked = first.asked.lock().unwrap().clone();
    assert!(asked.iter().all(|name| name == "good.example"), "{asked:?}");

    std::fs::write(&path, "nameserver 127.0.0.2\n").unwrap();
    wait_for_the_file().await;
    assert!(second.asked.lock().unwrap().is_empty());
    assert_eq!(lookup().await, found);
    let is_asked = !second.asked.lock().unwrap().is_empty();
    assert!(is_asked, "what the former server said is not this one's");
    assert_eq!(first.asked.lock().unwrap().len(), asked.len());

    // A file that is written anew is empty for a moment.
    for away in [true, false] {
        if away {
            std::fs::remove_file(&path).unwrap();
        } else {
            std::fs::write(&path, "").unwrap();
        }
        wait_for_the_file().await;
        assert_eq!(lookup().await, found);
    }
}

/// RFC 8305, section 3: what no server answers is waited for 50 ms, not for as long as a question takes to fail, and
/// not again for the next stream.
#[tokio::test]
async fn a_server_that_drops_questions_for_ipv6_holds_up_no_stream() {
    let dns = Dns::start().await;
    let exit = dns.exit(anywhere);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let start = Instant::now();
    exit.connect(&name("mute.example"), port, origin())
        .await
        .unwrap();
    assert!(start.elapsed() < Duration::from_secs(2));
    let asked = dns.asked.lock().unwrap().len();
    for _ in 0..3 {
        exit.connect(&name("mute.example"), port, origin())
            .await
            .unwrap();
    }
    assert_eq!(dns.asked.lock().unwrap().len(), asked);
}

#[tokio::test]
async fn a_server_that_takes_two_seconds_is_waited_for() {
    let dns = Dns::start().await;
    let exit = dns.exit(anywhere);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    exit.connect(&name("slow.example"), port, origin())
        .await
        .unwrap();
}

/// Real addresses that refuse, of which the last one lives.
#[tokio::test]
async fn addresses_that_refuse_cost_no_try() {
    let dns = Dns::start().await;
    let exit = dns.exit(anywhere);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let stream = exit.connect(&name("six.example"), port, origin()).await;
    let connected = stream.unwrap().peer_addr().unwrap();
    assert_eq!(connected, listener.local_addr().unwrap());
}

#[tokio::test]
async fn a_chain_without_end_fails_after_a_few_questions() {
    let dns = Dns::start().await;
    let exit = dns.exit(anywhere);
    let error = exit
        .connect(&name("loop.example"), 80, origin())
        .await
        .unwrap_err();
    assert_eq!(error, DestinationError::ResolveFailed);
    let asked = dns.asked.lock().unwrap().len();
    assert!(asked <= 40, "{asked} questions");
}

/// A network in which no dial comes to an end. Counts those that are under way.
struct Nowhere(Arc<AtomicUsize>);

/// A dial that is under way.
struct Alive(Arc<AtomicUsize>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl GivenSockets for Nowhere {
    fn connect(&self, _: SocketAddr) -> Answer<'_, Box<dyn GivenStream>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        let alive = Alive(self.0.clone());
        Box::pin(async move {
            let _alive = alive;
            core::future::pending().await
        })
    }

    fn bind(&self, _: SocketAddr) -> io::Result<Box<dyn GivenListener>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn local_address(&self, _: SocketAddr) -> Option<IpAddr> {
        None
    }
}

/// The two ends of a circuit.
fn ends() -> (Mux<Opener>, Arc<Streams<Acceptor>>) {
    let unlimited = Budget::unlimited();
    (
        testkit::mux(&unlimited),
        Streams::new(testkit::mux(&unlimited)),
    )
}

/// Hands what the client has to say to the exit's end. Gives the streams that the client begins.
fn hear(client: &mut Mux<Opener>, streams: &Streams<Acceptor>) -> Vec<Request> {
    let (mut payload, now) = ([0; PAYLOAD_LEN], Instant::now());
    assert!(client.fill(LegId::FIRST, now, &mut rand::rng(), &mut payload));
    let heard = streams.mux().on_outward(LegId::FIRST, now, &payload);
    heard.unwrap()
}

/// Names that nobody answers.
struct Unanswered;

impl GivenNames for Unanswered {
    fn lookup<'a>(&'a self, _: &'a str) -> Answer<'a, Vec<IpAddr>> {
        Box::pin(core::future::pending())
    }
}

#[tokio::test]
async fn a_look_up_is_charged_while_it_is_under_way() {
    let world = World {
        names: Names::Given(Arc::new(Unanswered)),
        ..World::default()
    };
    let budget = Budget::new(1 << 20);
    let (policy, events) = (Arc::new(anywhere), Reporter::default());
    let exit = ExitConnector::new(policy, None, &world, &budget, events).unwrap();
    let before = budget.used();
    let name = StreamHost::Name("pages.example".into());
    {
        let mut connecting = core::pin::pin!(exit.connect(&name, 80, origin()));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(connecting.as_mut().poll(&mut cx).is_pending());
        assert_eq!(budget.used() - before, connect::LOOKUP_BYTES);
    }
    assert_eq!(budget.used(), before, "what is given up costs nothing");
}

/// S23: a stream that a client gives up, or leaves behind with its circuit, costs no dial and no place any more.
#[tokio::test]
async fn what_is_given_up_dials_no_longer() {
    let dials = Arc::new(AtomicUsize::new(0));
    let world = World {
        sockets: Sockets::Given(Arc::new(Nowhere(dials.clone()))),
        ..World::default()
    };
    let server = SocketAddr::from(([127, 0, 0, 1], 53));
    let exit = ExitConnector::new(
        Arc::new(anywhere),
        Some(server),
        &world,
        &Budget::unlimited(),
        Reporter::default(),
    );
    let exit = Arc::new(exit.unwrap());
    let are = async |number: usize| {
        for _ in 0..1_000 {
            if dials.load(Ordering::SeqCst) == number {
                return true;
            }
            tokio::task::yield_now().await;
        }
        false
    };

    let (mut client, streams) = ends();
    let to = |n| StreamTarget::Host(StreamHost::Ip([192, 0, n, 1].into()), 80);
    let keys: Vec<_> = (1..=40).map(|n| client.open(to(n)).unwrap()).collect();
    let mut begun = 0;
    while begun < keys.len() {
        for request in hear(&mut client, &streams) {
            let Request::Begin(key, StreamTarget::Host(host, port)) = request else {
                panic!("a stream is begun");
            };
            begun += 1;
            let stream = streams.hold(key);
            tokio::spawn(serve(Some(exit.clone()), stream, host, port, origin()));
        }
    }
    assert!(are(32).await, "one circuit dials 32 at once; the rest wait");
    for key in &keys[..20] {
        client.abort(*key, EndReason::Reset);
    }
    hear(&mut client, &streams);
    assert!(are(20).await);
    streams.lose_leg(LegId::FIRST);
    assert!(are(0).await);
}

/// Hands each end of a circuit what the other has to say, until neither has more.
fn converse(client: &mut Mux<Opener>, streams: &Streams<Acceptor>) {
    let (mut payload, now, mut rng) = ([0; PAYLOAD_LEN], Instant::now(), rand::rng());
    let mut relay = streams.mux();
    loop {
        if client.fill(LegId::FIRST, now, &mut rng, &mut payload) {
            let asked = relay.on_outward(LegId::FIRST, now, &payload).unwrap();
            assert!(asked.is_empty());
        } else if relay.fill(LegId::FIRST, now, &mut rng, &mut payload) {
            client.on_inward(LegId::FIRST, now, &payload).unwrap();
        } else {
            return;
        }
    }
}

/// A circuit with one stream that `copy` joins to a destination: its two ends, and the stream at the client.
fn joined(tcp: TcpStream) -> (Mux<Opener>, Arc<Streams<Acceptor>>, StreamKey, Copying) {
    let (mut client, streams) = ends();
    let key = client.open(StreamTarget::Directory).unwrap();
    let begun = hear(&mut client, &streams).pop();
    let Some(Request::Begin(held, _)) = begun else {
        panic!("a stream is begun");
    };
    let stream = streams.hold(held);
    stream.accept();
    let copying = tokio::spawn(async move {
        let mut tcp = SocketStream::from(tcp);
        copy(&stream, &mut tcp).await
    });
    (client, streams, key, copying)
}

type Copying = tokio::task::JoinHandle<io::Result<()>>;

async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dial = TcpStream::connect(listener.local_addr().unwrap());
    let (near, far) = tokio::join!(dial, listener.accept());
    (near.unwrap(), far.unwrap().0)
}

#[tokio::test]
async fn bytes_pass_both_ways_and_each_end_is_told() {
    let (near, mut far) = tcp_pair().await;
    let (mut client, streams, key, copying) = joined(near);
    let echo = tokio::spawn(async move {
        let mut heard = Vec::new();
        far.read_to_end(&mut heard).await.unwrap();
        far.write_all(&heard).await.unwrap();
    });
    let data: Vec<u8> = (0..700_000u32).map(|n| (n / 7) as u8).collect();
    let (mut said, mut heard, mut some) = (0, Vec::new(), vec![0; 10_000]);
    let mut cx = Context::from_waker(Waker::noop());
    let now = Instant::now();
    'all: loop {
        if said < data.len() {
            let wrote = client.poll_write(key, &mut cx, now, &data[said..]);
            if let Poll::Ready(wrote) = wrote {
                said += wrote.unwrap();
            }
            if said == data.len() {
                client.shutdown(key);
            }
        }
        converse(&mut client, &streams);
        while let Poll::Ready(read) = client.poll_read(key, &mut cx, now, &mut some) {
            match read.unwrap() {
                0 => break 'all,
                read => heard.extend_from_slice(&some[..read]),
            }
        }
        tokio::task::yield_now().await;
    }
    assert!(heard == data);
    echo.await.unwrap();
    assert!(copying.await.unwrap().is_ok());
}

/// A destination that reads nothing does not hold a stream that its client has given up.
#[tokio::test]
async fn a_stream_that_is_given_up_waits_for_no_destination() {
    let (near, _far) = tcp_pair().await;
    let (mut client, streams, key, copying) = joined(near);
    let (mut cx, now) = (Context::from_waker(Waker::noop()), Instant::now());
    let bytes = vec![7; 100_000];
    let mut stalled = 0;
    // The destination's kernel takes some bytes, and then the stream takes no more.
    while stalled < 100 {
        let wrote = client.poll_write(key, &mut cx, now, &bytes);
        stalled = if wrote.is_ready() { 0 } else { stalled + 1 };
        converse(&mut client, &streams);
        tokio::task::yield_now().await;
    }
    client.abort(key, EndReason::Reset);
    converse(&mut client, &streams);
    assert!(copying.await.unwrap().is_err());
}
