#![allow(clippy::unwrap_used)]
//! Tests of the race of addresses on a virtual clock, in a network whose addresses refuse, answer late, or are silent.

use core::task::{Context, Poll};
use core::time::Duration;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use cepa_common::budget::Budget;
use cepa_common::ids::CircId;
use cepa_common::stream::StreamHost;
use cepa_common::sync::lock;
use cepa_common::world::names::GivenNames;
use cepa_common::world::sockets::{Answer, GivenListener, GivenSockets, GivenStream, SocketStream};
use cepa_common::world::{Names, Sockets, World};
use tokio::time::Instant;

use super::attempts::Origin;
use super::connect::DEADLINE;
use super::race::{ATTEMPT_DELAY, Family, Fate, RESOLUTION_DELAY, Race, Step};
use super::{AddressPolicy, DestinationError, ExitConnector};
use crate::admission::Party;
use crate::events::Reporter;

const MS: Duration = Duration::from_millis(1);
/// How long an address takes to answer.
const ANSWER: Duration = Duration::from_millis(30);

fn address(ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), 80)
}

fn unknown<const N: usize>(ips: [&str; N]) -> impl Iterator<Item = (Fate, SocketAddr)> {
    ips.map(|ip| (Fate::Unknown, address(ip))).into_iter()
}

#[test]
fn families_take_turns_and_what_has_answered_goes_first() {
    let now = Instant::now();
    let mut race = Race::new(Family::V6);
    race.on_addresses(now, Family::V6, unknown(["::1", "::2", "::3"]));
    let fates = [
        (Fate::Silent, "1.1.1.1"),
        (Fate::Unknown, "1.1.1.2"),
        (Fate::Answered, "1.1.1.3"),
    ];
    let fates = fates.map(|(fate, ip)| (fate, address(ip)));
    race.on_addresses(now, Family::V4, fates.into_iter());
    let order = [(); 6].map(|()| race.take(now).unwrap().ip().to_string());
    let expected = ["1.1.1.3", "::1", "1.1.1.2", "::2", "::3", "1.1.1.1"];
    assert_eq!(order, expected);
}

#[test]
fn ipv4_waits_for_an_answer_with_ipv6_for_50_ms_and_a_failed_dial_starts_the_next() {
    let start = Instant::now();
    let mut race = Race::new(Family::V6);
    for family in Family::BOTH {
        race.on_asked(family);
    }
    assert_eq!(race.next(start), Step::Wait(None));
    race.on_addresses(start, Family::V4, unknown(["1.1.1.1", "1.1.1.2"]));
    let held = start + RESOLUTION_DELAY;
    assert_eq!(race.next(start), Step::Wait(Some(held)));
    assert_eq!(race.next(held), Step::Dial);
    assert_eq!(race.take(held), Some(address("1.1.1.1")));
    assert_eq!(race.next(held), Step::Wait(Some(held + ATTEMPT_DELAY)));
    // IPv6 comes late, and is next.
    race.on_addresses(held, Family::V6, unknown(["::1"]));
    race.on_failed(held + MS, DestinationError::Unreachable);
    assert_eq!(race.next(held + MS), Step::Dial);
    assert_eq!(race.take(held + MS), Some(address("::1")));
    race.on_failed(held + MS, DestinationError::Refused);
    assert_eq!(race.take(held + MS), Some(address("1.1.1.2")));
    assert_eq!(race.next(held + MS), Step::Wait(None));
    race.on_failed(held + MS, DestinationError::TimedOut);
    let refused = Step::Failed(DestinationError::Refused);
    assert_eq!(race.next(held + MS), refused);
}

#[test]
fn a_dial_that_fails_starts_the_next_while_others_are_under_way() {
    let start = Instant::now();
    let mut race = Race::new(Family::V4);
    race.on_addresses(
        start,
        Family::V4,
        unknown(["1.1.1.1", "1.1.1.2", "1.1.1.3"]),
    );
    race.take(start).unwrap();
    let second = start + ATTEMPT_DELAY;
    assert_eq!(race.next(start), Step::Wait(Some(second)));
    race.take(second).unwrap();
    assert_ne!(race.next(second + MS), Step::Dial);
    race.on_failed(second + MS, DestinationError::Refused);
    assert_eq!(race.next(second + MS), Step::Dial);
}

#[test]
fn an_answer_without_addresses_is_not_waited_for() {
    let now = Instant::now();
    let mut race = Race::new(Family::V6);
    for family in Family::BOTH {
        race.on_asked(family);
    }
    race.on_addresses(now, Family::V6, unknown([]));
    race.on_addresses(now, Family::V4, unknown(["1.1.1.1"]));
    assert_eq!(race.next(now), Step::Dial);
    let mut none = Race::new(Family::V6);
    none.on_addresses(now, Family::V6, unknown([]));
    let failed = Step::Failed(DestinationError::ResolveFailed);
    assert_eq!(none.next(now), failed);
}

/// What an address does when it is dialled. One that is not listed answers.
#[derive(Clone, Copy)]
enum Does {
    Refuse,
    Answer(Duration),
    Nothing,
}

#[derive(Default)]
struct Network {
    does: HashMap<IpAddr, Does>,
    names: HashMap<String, Vec<IpAddr>>,
    /// The dials so far.
    dialled: Mutex<Vec<IpAddr>>,
    /// How many dials are under way, and how many there were at most.
    under_way: Arc<Mutex<(usize, usize)>>,
}

/// A dial that is under way.
struct UnderWay(Arc<Mutex<(usize, usize)>>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        lock(&self.0).0 -= 1;
    }
}

/// A connection on which nothing is said.
struct Quiet(SocketAddr);

impl GivenStream for Quiet {
    fn try_read(&self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
    fn try_write(&self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
    fn poll_read_ready(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
    fn poll_write_ready(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
    fn shutdown_write(&self) -> io::Result<()> {
        Ok(())
    }
    fn reset_when_dropped(&self) {}
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.0)
    }
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.0)
    }
}

impl GivenSockets for Network {
    fn connect(&self, to: SocketAddr) -> Answer<'_, Box<dyn GivenStream>> {
        self.dialled.lock().unwrap().push(to.ip());
        {
            let mut under_way = self.under_way.lock().unwrap();
            under_way.0 += 1;
            under_way.1 = under_way.1.max(under_way.0);
        }
        let alive = UnderWay(self.under_way.clone());
        let does = self.does.get(&to.ip()).copied();
        Box::pin(async move {
            let _alive = alive;
            match does.unwrap_or(Does::Answer(ANSWER)) {
                Does::Refuse => Err(io::ErrorKind::ConnectionRefused.into()),
                Does::Nothing => core::future::pending().await,
                Does::Answer(after) => {
                    tokio::time::sleep(after).await;
                    Ok(Box::new(Quiet(to)) as Box<dyn GivenStream>)
                }
            }
        })
    }

    fn bind(&self, _: SocketAddr) -> io::Result<Box<dyn GivenListener>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn local_address(&self, _: SocketAddr) -> Option<IpAddr> {
        None
    }
}

impl GivenNames for Network {
    fn lookup<'a>(&'a self, name: &'a str) -> Answer<'a, Vec<IpAddr>> {
        let found = self.names.get(name).cloned();
        Box::pin(async move { found.ok_or(io::ErrorKind::NotFound.into()) })
    }
}

impl Network {
    /// A network in which each name has addresses, and some addresses do something else than answer.
    fn new(names: &[(&str, &str)], does: &[(&str, Does)]) -> Arc<Self> {
        let ips = |text: &str| text.split(' ').map(|ip| ip.parse().unwrap()).collect();
        Arc::new(Self {
            names: names
                .iter()
                .map(|(name, of)| ((*name).to_owned(), ips(of)))
                .collect(),
            does: does
                .iter()
                .map(|(ip, does)| (ip.parse().unwrap(), *does))
                .collect(),
            ..Self::default()
        })
    }

    fn exit(self: &Arc<Self>, policy: impl AddressPolicy) -> Arc<ExitConnector> {
        let world = World {
            sockets: Sockets::Given(self.clone()),
            names: Names::Given(self.clone()),
            ..World::default()
        };
        let budget = Budget::unlimited();
        let exit = ExitConnector::new(Arc::new(policy), None, &world, &budget, Reporter::default());
        Arc::new(exit.unwrap())
    }

    fn dialled(&self) -> Vec<String> {
        let mut dialled = self.dialled.lock().unwrap();
        dialled.drain(..).map(|ip| ip.to_string()).collect()
    }
}

fn anywhere(_: SocketAddr) -> bool {
    true
}

fn origin(circ: u32) -> Origin {
    Origin {
        party: Party::Link(1),
        link: 1,
        circ: CircId::new(circ).unwrap(),
    }
}

async fn connect(exit: &ExitConnector, name: &str) -> Result<SocketStream, DestinationError> {
    let host = match name.parse() {
        Ok(ip) => StreamHost::Ip(ip),
        Err(_) => StreamHost::Name(name.to_owned()),
    };
    exit.connect(&host, 80, origin(1)).await
}

/// How long it takes to connect to a name, and to what address.
async fn time(exit: &ExitConnector, name: &str) -> (Duration, String) {
    let start = Instant::now();
    let stream = connect(exit, name).await.unwrap();
    let to = stream.peer_addr().unwrap().ip().to_string();
    (start.elapsed(), to)
}

#[tokio::test(start_paused = true)]
async fn the_last_of_six_addresses_is_reached_in_time_and_at_once_the_next_time() {
    let six = "1.1.1.1 1.1.1.2 1.1.1.3 1.1.1.4 1.1.1.5 1.1.1.6";
    for does in [Does::Nothing, Does::Refuse] {
        let dead: Vec<_> = six.split(' ').take(5).map(|ip| (ip, does)).collect();
        let network = Network::new(&[("six.example", six)], &dead);
        let exit = network.exit(anywhere);
        let first = match does {
            Does::Nothing => ATTEMPT_DELAY * 5 + ANSWER,
            _ => ANSWER,
        };
        let last = "1.1.1.6".to_owned();
        assert_eq!(time(&exit, "six.example").await, (first, last.clone()));
        assert_eq!(network.dialled().join(" "), six);
        if let Does::Nothing = does {
            assert_eq!(time(&exit, "six.example").await, (ANSWER, last));
            assert_eq!(network.dialled(), ["1.1.1.6"]);
        }
        assert_eq!(network.under_way.lock().unwrap().0, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_family_that_leads_nowhere_costs_a_few_streams_a_quarter_of_a_second() {
    let names = ["a.example", "b.example", "c.example", "d.example"];
    let of = ["1.0.0.1 ::1", "1.0.0.2 ::2", "1.0.0.3 ::3", "1.0.0.4 ::4"];
    let dead = ["::1", "::2", "::3", "::4"].map(|ip| (ip, Does::Nothing));
    let listed: Vec<_> = names.into_iter().zip(of).collect();
    let exit = Network::new(&listed, &dead).exit(anywhere);
    for name in &names[..3] {
        assert_eq!(time(&exit, name).await.0, ATTEMPT_DELAY + ANSWER);
    }
    assert_eq!(time(&exit, names[3]).await, (ANSWER, "1.0.0.4".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn an_address_alone_has_all_the_time_there_is() {
    let late = Duration::from_secs(14);
    let dead = [("1.1.1.1", Does::Answer(late)), ("1.1.1.2", Does::Nothing)];
    let exit = Network::new(&[], &dead).exit(anywhere);
    assert_eq!(time(&exit, "1.1.1.1").await.0, late);
    let start = Instant::now();
    let error = connect(&exit, "1.1.1.2").await.unwrap_err();
    assert_eq!(error, DestinationError::TimedOut);
    assert_eq!(start.elapsed(), DEADLINE);
}

#[tokio::test(start_paused = true)]
async fn the_policy_is_asked_before_each_dial_and_what_it_denies_costs_nothing() {
    let names = [
        ("x.example", "1.1.1.1 ::1 1.1.1.2 ::2"),
        ("y.example", "::1 ::2"),
    ];
    let network = Network::new(&names, &[("1.1.1.1", Does::Refuse)]);
    let exit = network.exit(|address: SocketAddr| address.is_ipv4());
    let to = "1.1.1.2".to_owned();
    assert_eq!(time(&exit, "x.example").await, (ANSWER, to));
    assert_eq!(network.dialled(), ["1.1.1.1", "1.1.1.2"]);
    let error = connect(&exit, "y.example").await.unwrap_err();
    assert_eq!(error, DestinationError::Policy);
    assert!(network.dialled().is_empty());
}

/// S23: each of several dials of a stream has a place of its own, and what is given up dials no longer.
#[tokio::test(start_paused = true)]
async fn dials_that_race_are_counted_and_wait_for_no_place() {
    let of = |n: u8| -> Vec<_> { (1..=8).map(|k| format!("1.0.{n}.{k}")).collect() };
    let names: Vec<_> = (0..20)
        .map(|n| (format!("{n}.example"), of(n).join(" ")))
        .collect();
    let names: Vec<_> = names.iter().map(|(name, of)| (&**name, &**of)).collect();
    let dead: Vec<_> = (0..20).flat_map(of).collect();
    let dead: Vec<_> = dead.iter().map(|ip| (&**ip, Does::Nothing)).collect();
    let network = Network::new(&names, &dead);
    let exit = network.exit(anywhere);
    let streams: Vec<_> = (0..20)
        .map(|n| {
            let exit = exit.clone();
            let name = format!("{n}.example");
            tokio::spawn(async move { connect(&exit, &name).await.map(drop) })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(*network.under_way.lock().unwrap(), (32, 32), "of a circuit");
    // Those that have dialled for 5 s make room for what has not been tried.
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert!(network.dialled().len() > 32);
    assert_eq!(network.under_way.lock().unwrap().1, 32);
    for stream in &streams[..10] {
        stream.abort();
    }
    tokio::time::sleep(DEADLINE).await;
    assert_eq!(network.under_way.lock().unwrap().0, 0);
    for stream in streams {
        if let Ok(ended) = stream.await {
            assert_eq!(ended, Err(DestinationError::TimedOut));
        }
    }
    assert!(time(&exit, "1.2.3.4").await.0 == ANSWER);
}

/// 7.20: who begins many streams to where nobody answers, by whatever names, holds up no other stream of the circuit.
#[tokio::test(start_paused = true)]
async fn streams_to_a_silent_host_hold_up_no_other_of_their_circuit() {
    let silent = "1.1.1.1";
    let by_name: Vec<_> = (0..100).map(|_| "silent.example".to_owned()).collect();
    let by_names = (0..100).map(|n| format!("{n}.silent.example")).collect();
    let by_domains = (0..100).map(|n| format!("silent{n}.example")).collect();
    let by_address = vec![silent.to_owned(); 100];
    for flood in [by_name, by_names, by_domains, by_address] {
        let names = flood.iter().map(|name| (name.as_str(), silent));
        let quick = [("quick.test-example", "2.2.2.2"), ("b.other", "3.3.3.3")];
        let names: Vec<_> = names.chain(quick).collect();
        let dead: Vec<_> = (0..15).map(|n| format!("6.6.{n}.1")).collect();
        let dead = dead.iter().map(String::as_str).chain([silent]);
        let dead: Vec<_> = dead.map(|ip| (ip, Does::Nothing)).collect();
        let network = Network::new(&names, &dead);
        let exit = network.exit(anywhere);
        let streams = flood.iter().map(|name| {
            let (exit, name) = (exit.clone(), name.clone());
            tokio::spawn(async move { connect(&exit, &name).await.map(drop) })
        });
        let streams: Vec<_> = streams.collect();
        tokio::time::sleep(Duration::from_secs(1)).await;
        for (name, ip) in [("quick.test-example", "2.2.2.2"), ("4.4.4.4", "4.4.4.4")] {
            let took = time(&exit, name).await;
            assert_eq!(took, (ANSWER, ip.to_owned()), "{}", flood[1]);
        }
        let begun = network.dialled().len() - 2;
        assert_eq!(begun, 16, "{}: dials to one address", flood[1]);
        // The other half of the circuit's places is free, whoever waits: it serves silent hosts that are not this one.
        let others = (0..15).map(|n| {
            let exit = exit.clone();
            tokio::spawn(async move { connect(&exit, &format!("6.6.{n}.1")).await.map(drop) })
        });
        let others: Vec<_> = others.collect();
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(network.dialled().len(), 15, "{}", flood[1]);
        for stream in streams.into_iter().chain(others) {
            assert_eq!(stream.await.unwrap(), Err(DestinationError::TimedOut));
        }
        assert_eq!(time(&exit, "5.5.5.5").await.0, ANSWER);
        assert_eq!(network.under_way.lock().unwrap().0, 0);
    }
}

/// An address at which a stream has only waited for its turn is not known to be silent.
#[tokio::test(start_paused = true)]
async fn who_waits_for_a_turn_goes_elsewhere_meanwhile() {
    let names = [("both.example", "1.1.1.1 2.2.2.2")];
    let network = Network::new(&names, &[("1.1.1.1", Does::Nothing)]);
    let exit = network.exit(anywhere);
    let flood = (0..16).map(|_| {
        let exit = exit.clone();
        tokio::spawn(async move { connect(&exit, "1.1.1.1").await.map(drop) })
    });
    let flood: Vec<_> = flood.collect();
    tokio::time::sleep(Duration::from_millis(1)).await;
    // The first address has no turn for this stream, and the second is dialled a moment later.
    let took = time(&exit, "both.example").await;
    assert_eq!(took, (ATTEMPT_DELAY + ANSWER, "2.2.2.2".to_owned()));
    flood.iter().for_each(tokio::task::JoinHandle::abort);
    tokio::time::sleep(Duration::from_millis(1)).await;
    network.dialled();
    time(&exit, "both.example").await;
    assert_eq!(network.dialled()[0], "2.2.2.2", "it has answered");
}
