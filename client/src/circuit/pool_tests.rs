//! Tests of which circuits a pool gives to whom, and of what a new identity does to them, without any network.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, HashSet};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use cepa_common::budget::Budget;
use cepa_common::dir::{Consensus, Entry, Flags, Params};
use cepa_common::flow::FixedWindow;
use cepa_common::ids::{NetworkId, RelayId};
use cepa_common::net::circuit_io::{StreamIo, Streams};
use cepa_common::net::tasks::{Stopper, tasks};
use cepa_common::net::tls::Tls;
use cepa_common::stream::{LegId, Mux, MuxConfig, Opener, StreamTarget};
use cepa_common::testkit::{consensus_of, network_with, params, web_descriptor, web_entry};
use cepa_common::world::{Clock, World, steady};
use tokio::sync::watch;

use super::begins::Begins;
use super::built::CircuitInner;
use super::choose::Wanted;
use super::isolation::Isolation;
use super::links::GuardLinks;
use super::maker::{CircuitError, HOP_TIMEOUT, MOST_BUILDS, MakerConfig};
use super::memory::MemoryLimit;
use super::pool::Pool;
use super::report::Announcer;
use super::shelf::Owner;
use super::{Circuit, Multipath};
use crate::events::Warning;
use crate::guard::{GuardHealth, Keeper, Purpose};
use crate::path::{ExitTarget, PeerRules};

const WEB: ExitTarget = ExitTarget::V4(80);

fn pool() -> (Arc<Pool>, Stopper) {
    pool_of(None, PeerRules::default())
}

fn pool_of(consensus: Option<Arc<Consensus>>, rules: PeerRules) -> (Arc<Pool>, Stopper) {
    let (tasks, stopper) = tasks();
    let network = NetworkId([7; 32]);
    let (tls, world) = (Tls::client(), World::default());
    let links = GuardLinks::new(
        network,
        tls,
        world,
        tasks.clone(),
        MemoryLimit::new(1 << 20),
    );
    let guards = Arc::new(Keeper::load(network, None, &World::default()));
    let (_, consensus) = watch::channel(consensus);
    let pool = Pool::new(MakerConfig {
        network,
        links,
        tasks,
        announcer: Announcer {
            consensus: consensus.clone(),
            guards: guards.clone(),
            reporter: Default::default(),
            has_guards: rules.hops > 1,
        },
        consensus,
        guards,
        rules: Arc::new(rules),
        multipath: Multipath::default(),
    });
    (pool, stopper)
}

fn circuit(generation: u64) -> Arc<Circuit> {
    let exit = web_entry(3, Flags::EXIT, 10);
    circuit_through(generation, vec![exit.identity], exit)
}

fn circuit_through(generation: u64, hops: Vec<RelayId>, exit: Entry) -> Arc<Circuit> {
    let mux = Mux::new(MuxConfig {
        control: Box::new(FixedWindow(512)),
        mark_interval_cells: 32,
        stream_window_bytes: 1 << 16,
        budget: Budget::unlimited(),
    });
    Arc::new(Circuit {
        streams: Streams::new(mux),
        hops,
        exit,
        built: steady::now(),
        generation,
        shared: CircuitInner::new(None),
        begins: Begins::new(&Params::default()),
    })
}

/// The numbers of circuits that may take streams, of unused ones among them, and of open streams.
fn counts(pool: &Pool) -> (usize, usize, usize) {
    let counts = pool.counts();
    (counts.ready, counts.clean, counts.streams)
}

fn owned_by(session: u64) -> Owner {
    Owner {
        isolation: Isolation::session(session),
        since: steady::now(),
    }
}

/// Adds a new circuit of the present identity, owned or clean.
fn held(pool: &Arc<Pool>, owner: Option<u64>) -> Arc<Circuit> {
    let circuit = circuit(pool.identity());
    let owner = owner.map(owned_by);
    pool.stock.shelf().hold(circuit.clone(), owner);
    circuit
}

fn find(pool: &Pool, session: u64) -> Option<Arc<Circuit>> {
    pool.find(&Isolation::session(session), WEB.into(), &|_| false)
}

fn stream(circuit: &Circuit) -> StreamIo<Opener> {
    let web = StreamTarget::address("192.0.2.1:80".parse().unwrap());
    circuit.open(web.unwrap()).unwrap()
}

#[tokio::test]
async fn equal_keys_share_and_others_take_what_is_clean() {
    let (pool, _stopper) = pool();
    let (anna, clean) = (held(&pool, Some(1)), held(&pool, None));
    assert!(Arc::ptr_eq(&find(&pool, 1).unwrap(), &anna));
    assert!(Arc::ptr_eq(&find(&pool, 2).unwrap(), &clean));
    // The clean circuit is Bert's now, and none is left for a third owner.
    assert!(Arc::ptr_eq(&find(&pool, 2).unwrap(), &clean));
    assert!(find(&pool, 3).is_none());
    assert!(Arc::ptr_eq(&find(&pool, 1).unwrap(), &anna));
}

#[tokio::test]
async fn a_new_identity_retires_all_and_lets_open_streams_end() {
    let (pool, _stopper) = pool();
    let (busy, idle, clean) = (
        held(&pool, Some(1)),
        held(&pool, Some(2)),
        held(&pool, None),
    );
    let open = stream(&busy);
    assert_eq!(counts(&pool), (3, 1, 1));
    assert_eq!(pool.new_identity(), 3);
    assert!(idle.is_lost() && clean.is_lost() && !busy.is_lost());
    assert_eq!(counts(&pool), (0, 0, 1));
    assert!((1..=3).all(|session| find(&pool, session).is_none()));
    pool.retire();
    assert!(!busy.is_lost(), "the stream on it goes on");
    // A retired circuit is not retired again.
    let fresh = held(&pool, Some(1));
    assert_eq!(pool.new_identity(), 1);
    assert!(fresh.is_lost());
    drop(open);
    busy.close();
    pool.retire();
    assert_eq!(counts(&pool), (0, 0, 0));
}

#[tokio::test]
async fn what_was_being_built_at_the_change_belongs_to_before() {
    let (pool, _stopper) = pool();
    let (late_clean, late_owned) = (circuit(0), circuit(0));
    assert_eq!(pool.new_identity(), 0);
    pool.stock.shelf().hold(late_clean.clone(), None);
    assert!(
        late_clean.is_lost(),
        "a circuit of an earlier identity that nobody waits for"
    );
    // The stream that waits for the circuit gets it, and no other stream does.
    let owner = Some(owned_by(1));
    pool.stock.shelf().hold(late_owned.clone(), owner);
    let open = stream(&late_owned);
    assert!(find(&pool, 1).is_none());
    pool.retire();
    assert!(!late_owned.is_lost());
    assert_eq!(counts(&pool), (0, 0, 1));
    drop(open);
}

#[tokio::test]
async fn who_asked_before_a_new_identity_shares_nothing_with_who_asks_after() {
    let (pool, _stopper) = pool();
    let key = || Isolation::session(1).of_identity(pool.identity());
    let before = key();
    pool.new_identity();
    // The first stream was slow to open and takes a circuit that was built since.
    let clean = held(&pool, None);
    let taken = pool.find(&before, WEB.into(), &|_| false).unwrap();
    assert!(Arc::ptr_eq(&taken, &clean));
    assert!(pool.find(&key(), WEB.into(), &|_| false).is_none());
    assert!(pool.find(&before, WEB.into(), &|_| false).is_some());
}

#[tokio::test]
async fn what_was_asked_for_before_predicts_nothing_after() {
    let (pool, _stopper) = pool();
    let ssh = ExitTarget::V4(22);
    let expects_ssh = || {
        let predictor = pool.predictor();
        let mut expected = predictor.expected(steady::now());
        expected.any(|target| target == ssh)
    };
    pool.predictor().on_asked(ssh, steady::now());
    assert!(expects_ssh());
    pool.new_identity();
    assert!(!expects_ssh());
}

#[tokio::test]
async fn a_port_that_no_exit_lets_out_to_is_kept_ready_by_nobody() {
    let (pool, _guard, _stopper) = with_guard().await;
    let expected = || pool.predictor().expected(steady::now()).collect::<Vec<_>>();
    let before = expected();
    let (owner, version, port) = (Isolation::session(1), None, 1_900);
    for target in [ExitTarget::Name(25), ExitTarget::Udp { version, port }] {
        let built = pool.circuit_for(&owner, target, &|_| false).await;
        assert!(matches!(built, Err(CircuitError::Path(_))));
        assert_eq!(expected(), before);
    }
    // A circuit that could have been, and was not built, is expected.
    assert!(pool.circuit_for(&owner, WEB, &|_| false).await.is_err());
    assert_eq!(expected()[0], WEB);
}

#[tokio::test]
async fn a_stop_ends_streams_too() {
    let (pool, _stopper) = pool();
    let busy = held(&pool, Some(1));
    let _open = stream(&busy);
    pool.stop();
    assert!(busy.is_lost());
    assert!(held(&pool, None).is_lost(), "too late");
}

/// A pool with a consensus of one guard, at an address where nobody listens.
async fn with_guard() -> (Arc<Pool>, Entry, Stopper) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    with_relay(address, PeerRules::default())
}

/// A pool with a consensus of one relay, which may be guard and exit.
fn with_relay(address: SocketAddr, rules: PeerRules) -> (Arc<Pool>, Entry, Stopper) {
    let mut nobody = web_descriptor(5);
    nobody.addresses = vec![address];
    let flags = Flags::RUNNING | Flags::VALID | Flags::GUARD | Flags::EXIT;
    let guard = Entry::new(&nobody, flags, 10);
    let network = network_with(1, Default::default());
    let now = Clock::system().now_secs();
    let consensus = consensus_of(&network, now, vec![guard.clone()]);
    let (pool, stopper) = pool_of(Some(consensus.clone()), rules);
    pool.guards().update(&consensus);
    (pool, guard, stopper)
}

/// A pool with a consensus of four guards, and of relays that are none behind them. Nobody accepts at the guards'
/// ports. Gives the listeners by identity.
fn with_silent_guards() -> (Arc<Pool>, BTreeMap<RelayId, TcpListener>, Stopper) {
    let (mut entries, mut listeners) = (Vec::new(), BTreeMap::new());
    for n in 1..=8 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let mut relay = web_descriptor(n);
        relay.addresses = vec![listener.local_addr().unwrap()];
        let end = if n <= 4 { Flags::GUARD } else { Flags::EXIT };
        entries.push(Entry::new(&relay, Flags::RUNNING | Flags::VALID | end, 10));
        listeners.insert(relay.identity, listener);
    }
    let network = network_with(1, params(&[("subnet_rule", 0)]));
    let consensus = consensus_of(&network, Clock::system().now_secs(), entries);
    let (pool, stopper) = pool_of(Some(consensus.clone()), PeerRules::default());
    pool.guards().update(&consensus);
    (pool, listeners, stopper)
}

/// A pool with a consensus of four guards, each with one exit in its /16, and of other exits up to this number.
fn with_exits_near_guards(exits: u8) -> (Arc<Pool>, Stopper) {
    let entry = |n: u8, net: u8, end: Flags| {
        let mut relay = web_descriptor(n);
        relay.addresses = vec![([20, net, 1, n], 9_000).into()];
        Entry::new(&relay, Flags::RUNNING | Flags::VALID | end, 10)
    };
    let guards = (1..=4).map(|n| entry(n, n, Flags::GUARD));
    let exits = (1..=exits).map(|n| entry(100 + n, n, Flags::EXIT));
    let entries = guards.chain(exits).collect();
    let network = network_with(1, params(&[("subnet_rule", 1)]));
    let consensus = consensus_of(&network, Clock::system().now_secs(), entries);
    let (pool, stopper) = pool_of(Some(consensus.clone()), PeerRules::default());
    pool.guards().update(&consensus);
    (pool, stopper)
}

#[tokio::test]
async fn an_exit_near_the_guard_is_drawn_anew_and_brings_in_no_other_guard() {
    let first_hops = |pool: &Pool| -> HashSet<RelayId> {
        let path = |_| pool.maker.choose(WEB, &|_| false).unwrap();
        let paths = (0..300).map(path);
        paths
            .map(|path| path.hops().next().unwrap().identity)
            .collect()
    };
    // One exit of 40 is near the guard.
    let (pool, _stopper) = with_exits_near_guards(40);
    let guard = pool.guards().report()[0].identity;
    assert_eq!(first_hops(&pool), HashSet::from([guard]));
    // Where it is one of six, exits would be drawn unevenly: another guard serves for it.
    let (pool, _stopper) = with_exits_near_guards(6);
    assert_eq!(first_hops(&pool).len(), 2);
    // An exit that is settled is not drawn anew.
    let (pool, _stopper) = with_exits_near_guards(40);
    let guard = pool.guards().report()[0].identity;
    let consensus = pool.consensus().unwrap();
    let entry = consensus.relay(&guard).unwrap();
    let is_near = |other: &&Entry| {
        other.identity != guard && crate::path::nets(other).eq(crate::path::nets(entry))
    };
    let near = consensus.entries().iter().find(is_near).unwrap();
    let wanted = Wanted {
        exit: Some(near.identity),
        ..WEB.into()
    };
    let path = pool.maker.choose(wanted, &|_| false).unwrap();
    assert_ne!(path.hops().next().unwrap().identity, guard);
}

#[tokio::test]
async fn attempts_beside_a_slow_one_begin_at_the_same_guard() {
    let (pool, listeners, _stopper) = with_silent_guards();
    let guard = pool.guards().report()[0].identity;
    tokio::time::pause();
    let maker = pool.maker.clone();
    let race = tokio::spawn(async move { maker.build(Purpose::Data, WEB, &|_| false).await });
    // Another attempt is begun beside the first, and the guard has not failed yet.
    tokio::time::sleep(pool.maker.slow_after() * 7 / 4).await;
    assert_eq!(pool.guards().answers(&guard), None);
    for (relay, listener) in &listeners {
        assert_eq!(listener.accept().is_ok(), *relay == guard);
    }
    pool.stop();
    race.abort();
}

#[tokio::test]
async fn a_guard_whose_link_is_slow_to_come_up_has_not_failed_until_the_dial_has() {
    let (pool, _listeners, _stopper) = with_silent_guards();
    let guard = pool.guards().report()[0].identity;
    tokio::time::pause();
    let maker = pool.maker.clone();
    let race = tokio::spawn(async move { maker.build(Purpose::Data, WEB, &|_| false).await });
    tokio::time::sleep(HOP_TIMEOUT - Duration::from_secs(1)).await;
    assert_eq!(pool.guards().answers(&guard), None);
    // A link that cannot be had is a failure, and then there is another guard.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(pool.guards().answers(&guard), Some(false));
    pool.stop();
    race.abort();
}

#[tokio::test]
async fn a_circuit_at_a_guard_that_stood_in_is_given_to_nobody_once_the_better_one_answers() {
    let (pool, _, _stopper) = with_silent_guards();
    let [one, two] = [0, 1].map(|n| pool.guards().report()[n].identity);
    let consensus = pool.consensus().unwrap();
    let is_exit = |entry: &&Entry| entry.flags.contains(Flags::EXIT);
    let exit = consensus.entries().iter().find(is_exit).unwrap();
    let circuit = circuit_through(0, vec![two, exit.identity], exit.clone());
    circuit.shared.on_begun(LegId::FIRST, circuit.hops.clone());
    pool.stock.shelf().hold(circuit.clone(), Some(owned_by(1)));
    pool.guards().on_success(&one);
    pool.guards().on_failure(&one);
    pool.guards().on_success(&two);
    assert!(find(&pool, 1).is_some());
    pool.guards().on_success(&one);
    assert!(find(&pool, 1).is_none());
    pool.retire();
    assert!(circuit.is_lost());
}

#[tokio::test]
async fn a_trace_tells_the_guards_what_it_saw() {
    let (pool, guard, _stopper) = with_guard().await;
    assert_eq!(pool.guards().report()[0].health, GuardHealth::Untried);
    assert!(pool.maker.begin_at_guard(&guard).await.is_err());
    assert_eq!(pool.guards().report()[0].health, GuardHealth::Failing);
    let [Warning::GuardFailing { nickname, .. }] = &pool.maker.announcer().reporter.warnings()[..]
    else {
        panic!("{:?}", pool.maker.announcer().reporter.warnings());
    };
    assert_eq!(*nickname, guard.nickname);
    // The guard answers a circuit, so nothing is wrong any more.
    pool.guards().on_answered(&guard.identity);
    pool.maker.announcer().guard_answers(&guard.identity);
    assert_eq!(pool.guards().report()[0].health, GuardHealth::Answers);
    assert_eq!(pool.maker.announcer().reporter.warnings(), []);
}

#[tokio::test]
async fn a_guard_that_fails_most_circuits_is_told_of() {
    let (pool, guard, _stopper) = with_guard().await;
    for n in 0..150 {
        pool.maker
            .announcer()
            .count_circuit(&guard.identity, n % 10 == 0);
    }
    assert_eq!(pool.guards().report()[0].health, GuardHealth::Dropped);
    let warnings = pool.maker.announcer().reporter.warnings();
    assert!(warnings[0].is_alarm());
    let said = warnings[0].to_string();
    assert!(
        said.contains("of 150 circuits") && said.contains("only 15"),
        "{said}"
    );
    // There is no other guard, so it is used nevertheless.
    let picked = pool.guards().pick(Purpose::Data, &|_| true);
    assert_eq!(picked.map(|choice| choice.identity), Some(guard.identity));
}

#[tokio::test]
async fn who_stops_waiting_for_a_circuit_leaves_nothing_behind() {
    let (pool, _stopper) = pool();
    // While no build may begin, everybody waits.
    let all = pool
        .maker
        .builds
        .clone()
        .acquire_many_owned(MOST_BUILDS as u32);
    let _all = all.await.unwrap();
    let waiting: Vec<_> = (0..100)
        .map(|session| {
            let pool = pool.clone();
            tokio::spawn(async move {
                // Two of each owner: one that builds, and one that waits for what the first gets.
                let isolation = Isolation::session(session / 2);
                pool.circuit_for(&isolation, WEB, &|_| false).await
            })
        })
        .collect();
    // On one thread every task has run up to its wait before this one goes on.
    while pool.owners_waiting() < 50 {
        tokio::task::yield_now().await;
    }
    // One task of each two leaves. The entry stays with the other task, or else a third would build beside that one.
    let (mut leave, mut stay) = (Vec::new(), Vec::new());
    for (n, task) in waiting.into_iter().enumerate() {
        if n % 2 == 0 { &mut leave } else { &mut stay }.push(task);
    }
    for (tasks, left) in [(leave, 50), (stay, 0)] {
        for task in tasks {
            task.abort();
            assert!(task.await.is_err_and(|error| error.is_cancelled()));
        }
        assert_eq!(pool.owners_waiting(), left);
    }
}

#[tokio::test]
async fn an_attempt_that_ends_is_heard_while_all_permits_are_taken() {
    // A relay that takes the connection and says nothing, until it hangs up.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let rules = PeerRules {
        hops: 1,
        ..PeerRules::default()
    };
    let (pool, _, _stopper) = with_relay(listener.local_addr().unwrap(), rules);
    let maker = pool.maker.clone();
    let any = ExitTarget::Any;
    let race = tokio::spawn(async move { maker.build(Purpose::Data, any, &|_| false).await });
    let (connection, _) = listener.accept().await.unwrap();
    // Other builds have all permits, and take the one that the attempt gives back as well.
    let rest = pool.maker.builds.clone();
    let rest = rest.acquire_many_owned(MOST_BUILDS as u32 - 1);
    let _rest = rest.await.unwrap();
    let others = pool.maker.builds.clone();
    let _others = tokio::spawn(async move {
        let permit = others.acquire_owned().await;
        permit.unwrap().forget();
    });
    tokio::task::yield_now().await;
    // It is time for an attempt beside the slow one, for which there is no permit.
    tokio::time::pause();
    tokio::time::sleep(pool.maker.slow_after() * 2).await;
    tokio::time::resume();
    pool.stop();
    drop((connection, listener));
    let heard = tokio::time::timeout(Duration::from_secs(20), race).await;
    let built = heard.expect("the race hears of the attempt").unwrap();
    assert!(matches!(built, Err(CircuitError::Stopping)));
}
